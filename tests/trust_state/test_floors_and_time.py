"""Counters, floors and clocks: what rises, what is refused, and that an epoch or a right clock brings a device back."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from edgeguard.errors import EdgeGuardError, ProvisioningError, TrustError
from edgeguard.trust.dates import ns_to_date
from edgeguard.trust.floors import MAX_COUNTER_JUMP, require_counter
from edgeguard.trust.signed_time import effective_ns
from edgeguard.trust.strict_json import canonical

NOW_NS = 1_790_000_000_000_000_000
DAY_NS = 86_400 * 10**9
YEAR_2106_NS = 4_294_967_295 * 10**9
MODEL_ID = "road-objects"


def new_policy(device, wall_ns: int = NOW_NS, **fields: object) -> None:
    """The offline keys sign the next targets with another policy; the device is brought the folder."""
    folder = device.fleet.trust_folder
    policy = json.loads((folder / "policy.json").read_bytes()) | {"issued": ns_to_date(wall_ns)} | fields
    raw = canonical(policy)
    metadata = Metadata.from_bytes((folder / "targets.json").read_bytes())
    metadata.signed.version += 1
    metadata.signed.targets["policy.json"].length = len(raw)
    metadata.signed.targets["policy.json"].hashes = {"sha256": hashlib.sha256(raw).hexdigest()}
    metadata.signatures.clear()
    metadata.sign(CryptoSigner(device.fleet.signers("targets", 1)[0].private_key))
    (folder / "policy.json").write_bytes(raw)
    (folder / "targets.json").write_bytes(metadata.to_bytes())
    device.bring_trust()


def counter(epoch: int, number: int) -> dict[str, str]:
    return {"epoch": str(epoch), "number": str(number)}


def test_the_floor_rises_on_commit_and_not_on_opening(device):
    """A release that does not work can be left again; one that was said to work cannot be undercut."""
    older, newer = device.pack("1", counter=(0, 1)), device.pack("2", counter=(0, 2))
    device.install(older)
    statement = device.open(newer)
    assert device.state.floor(MODEL_ID) == (0, 1)
    device.open(older)
    device.state.commit(statement)
    assert device.state.floor(MODEL_ID) == (0, 2)
    device.refused("EG-T015", older)


def test_a_floor_of_one_model_is_no_floor_of_another(device):
    """Floors are per model; the other model's slot does not accept this one either."""
    detector = device.pack("9", counter=(0, 9))
    lanes = device.pack("1", model_id="lanes", counter=(0, 1))
    device.install(detector)
    device.open(lanes, model_id="lanes")
    assert device.state.floor("lanes") == (0, 0)
    device.refused("EG-T011", lanes)
    device.refused("EG-T011", detector, model_id="lanes")


def test_one_key_in_two_fleets_keeps_two_states(device, device_maker, tmp_path):
    """The same device key, two fleets: neither floors nor states mix."""
    (tmp_path / "far").mkdir()
    far = device_maker(tmp_path / "far", "cam-1")
    bundle = device.install(device.pack("9", counter=(0, 9)))
    with pytest.raises(TrustError) as error:
        far.state.commit(bundle)
    assert error.value.code == "EG-T010"
    device.refused("EG-T010", device.root / f"{MODEL_ID}-9.bundle", trust=far.trust)
    assert far.state.floor(MODEL_ID) == (0, 0)


@pytest.mark.parametrize("number", [2**63, 10**18])
def test_a_counter_beyond_the_format_cannot_even_be_signed_here(device, number):
    """2^63 does not fit the schema that every reader holds."""
    with pytest.raises(ProvisioningError):
        device.pack("big", counter=(0, number))


def test_one_release_moves_the_counter_by_one_bounded_step(device, monkeypatch):
    """The step itself is allowed; one more is refused by the packing host and by the device."""
    import firmware_tools.pack

    new_policy(device, floors={MODEL_ID: counter(0, 5)})
    running = device.pack("1", counter=(0, 5))
    device.install(running)
    device.open(device.pack("2", counter=(0, 5 + MAX_COUNTER_JUMP)))
    release = firmware_tools.pack.Release(MODEL_ID, "3", counter=(0, 5 + MAX_COUNTER_JUMP + 1))
    out = device.root / "3.bundle"
    with pytest.raises(TrustError) as error:
        firmware_tools.pack.pack_model(device.fleet, device.root / "m.onnx", out, release=release, wall_ns=NOW_NS)
    assert error.value.code == "EG-T018"
    monkeypatch.setattr(firmware_tools.pack, "_prove", lambda *_: None)
    firmware_tools.pack.pack_model(device.fleet, device.root / "m.onnx", out, release=release, wall_ns=NOW_NS)
    device.refused("EG-T018", out)
    device.open(running)


def test_the_largest_counter_a_thief_can_sign_bricks_nothing_and_the_next_epoch_recovers(device, monkeypatch):
    """10^18 - 1 is refused by the device; even where it had been committed, epoch 1 begins above it."""
    import firmware_tools.pack

    running = device.pack("1", counter=(0, 1))
    device.install(running)
    # The thief's own tool does not check itself.
    monkeypatch.setattr(firmware_tools.pack, "_prove", lambda *_: None)
    from firmware_tools.pack import Release, pack_model

    huge = device.root / "huge.bundle"
    release = Release(MODEL_ID, "666", counter=(0, 10**18 - 1))
    pack_model(device.fleet, device.root / "m.onnx", huge, release=release, wall_ns=NOW_NS)
    device.refused("EG-T018", huge)
    higher = device.root / "epoch.bundle"
    pack_model(device.fleet, device.root / "m.onnx", higher, release=Release(MODEL_ID, "7", counter=(1, 0)),
               wall_ns=NOW_NS)  # fmt: skip
    device.refused("EG-T018", higher)  # release keys do not begin epochs
    new_policy(device, floors={MODEL_ID: counter(1, 0)})
    device.refused("EG-T015", running)
    recovered = device.pack("8", counter=(1, 1))
    device.install(recovered)
    assert device.state.floor(MODEL_ID) == (1, 1)


def test_a_policy_floor_acts_at_once_and_is_remembered(device):
    """Urgent floors wait for no health check, and going back to the older folder is noticed."""
    older = device.pack("1", counter=(0, 1))
    device.install(older)
    before = device.trust
    new_policy(device, floors={MODEL_ID: counter(0, 2)})
    device.refused("EG-T015", older)
    assert device.state.floor(MODEL_ID) == (0, 2)
    assert device.refused("EG-T032", older, trust=before).hint


def test_equal_counter_with_other_content_is_an_install_and_keeps_the_floor(device):
    """Several releases share a counter; a policy may make a committed counter final."""
    first, second = device.pack("1", counter=(0, 3)), device.pack("2", counter=(0, 3))
    device.install(first)
    device.install(second)
    assert device.state.floor(MODEL_ID) == (0, 3)
    device.open(first)
    new_policy(device, equal_counter="refuse")
    device.refused("EG-T019", first)
    device.open(second)
    device.install(device.pack("3", counter=(0, 4)))


def test_trust_of_the_same_version_with_other_content_is_refused(device):
    """Two targets under one version: offline keys that sign twice, or an attacker who has them."""
    bundle = device.pack()
    device.open(bundle)
    path = device.trust_folder / "targets.json"
    metadata = Metadata.from_bytes(path.read_bytes())
    metadata.signed.expires = datetime(2030, 1, 1, tzinfo=UTC)
    metadata.signatures.clear()
    metadata.sign(CryptoSigner(device.fleet.signers("targets", 1)[0].private_key))
    path.write_bytes(metadata.to_bytes())
    device.refused("EG-T032", bundle)


@given(st.tuples(st.integers(0, 3), st.integers(0, 10**18 - 1)), st.tuples(st.integers(0, 3), st.integers(0, 10**18)))
def test_an_accepted_counter_is_at_the_floor_in_its_epoch_and_near(counter, floor):
    """The rule, by its definition."""
    try:
        require_counter(counter, floor=floor, offline_epoch=floor[0])
    except EdgeGuardError:
        assert counter < floor or counter[0] != floor[0] or counter[1] > floor[1] + MAX_COUNTER_JUMP
    else:
        assert counter[0] == floor[0]
        assert floor[1] <= counter[1] <= floor[1] + MAX_COUNTER_JUMP


@given(st.integers(-(2**62), 2**62), st.lists(st.integers(0, 2**62)))
def test_effective_time_is_never_before_a_signed_time_nor_before_the_clock(clock_ns, signed):
    """And it is one of them."""
    assert effective_ns(clock_ns, *signed) == max([clock_ns, *signed])


@pytest.mark.parametrize("wall_ns", [0, -(10**18), NOW_NS - 20 * 365 * DAY_NS])
def test_a_clock_in_the_past_does_not_revive_what_has_expired(device, wall_ns):
    """A list signed later has told the device the date; an expired model stays expired in 1970, over a restart."""
    bundle = device.pack(expires_ns=NOW_NS + 10 * DAY_NS)
    device.open(bundle, wall_ns=wall_ns)
    device.revoke(wall_ns=NOW_NS + 10 * DAY_NS)
    device.bring_trust()
    device.refused("EG-T014", bundle, wall_ns=wall_ns)
    assert device.state.time_floor_ns == NOW_NS + 10 * DAY_NS
    # The newer list deleted from the trust folder: the state remembers the date all the same.
    for name in ("revocation.json", "revocation-list.json"):
        (device.trust_folder / name).unlink()
    device.refused("EG-T014", bundle, wall_ns=wall_ns)


def test_a_spoofed_future_stops_the_device_and_is_never_remembered(device):
    """2106, then the right date again: the state has not moved, the model opens."""
    bundle = device.pack()
    device.open(bundle)
    floor_ns = device.state.time_floor_ns
    device.refused("EG-T004", bundle, wall_ns=YEAR_2106_NS)
    assert device.state.time_floor_ns == floor_ns
    device.open(bundle)


@pytest.mark.parametrize(("offset_s", "code"), [(-1, ""), (0, "EG-T014"), (1, "EG-T014")])
def test_a_model_expires_to_the_second_by_effective_time(device, offset_s, code):
    """Valid before the moment it names, not at it."""
    bundle = device.pack(expires_ns=NOW_NS + 10 * DAY_NS)
    moment = NOW_NS + 10 * DAY_NS + offset_s * 10**9
    if code:
        device.refused(code, bundle, wall_ns=moment)
    else:
        device.open(bundle, wall_ns=moment)


def test_a_list_cannot_move_time_past_what_would_expire_the_fleet(device):
    """A thief of the revocation keys who signs 2106 makes no list, here and on the device."""
    with pytest.raises((ProvisioningError, TrustError)):
        device.revoke(wall_ns=YEAR_2106_NS)


def test_a_required_state_cannot_be_waived_and_an_optional_one_still_counts(device, device_maker, tmp_path):
    """Signed policy decides; a device that has a state is judged by it either way."""
    bundle = device.pack()
    assert "--state" in device.refused("EG-T031", bundle, state=None).hint
    (tmp_path / "lax").mkdir()
    lax = device_maker(tmp_path / "lax", "cam-1", device_state="optional")
    older, newer = lax.pack("1", counter=(0, 1)), lax.pack("2", counter=(0, 2))
    lax.open(older, state=None)
    lax.install(newer)
    lax.open(older, state=None)
    lax.refused("EG-T015", older)


def test_a_signed_floor_below_the_device_s_own_lowers_nothing(device):
    """Policy and list say 2 where the device has committed 5: it stays 5, in the state and for what opens."""
    older = device.pack("3", counter=(0, 3))
    device.install(device.pack("5", counter=(0, 5)))
    new_policy(device, floors={MODEL_ID: counter(0, 2)})
    device.revoke(floors={MODEL_ID: (0, 1)})
    device.bring_trust()
    device.refused("EG-T015", older)
    assert device.state.floor(MODEL_ID) == (0, 5)


def test_a_commit_that_comes_too_late_is_refused(device):
    """Opened before a newer one was committed: by then it is below the floor, and nothing changes."""
    older, newer = device.pack("1", counter=(0, 1)), device.pack("2", counter=(0, 2))
    slow, state = device.open(older), device.state
    device.install(newer)
    with pytest.raises(TrustError) as error:
        state.commit(slow)
    assert error.value.code == "EG-T015"
    assert device.state.floor(MODEL_ID) == (0, 2)


def test_only_what_came_out_of_the_verifier_is_committed(device):
    """A statement made by hand is a programming error."""
    with pytest.raises(TypeError):
        device.state.commit(object())
