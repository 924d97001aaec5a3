"""The list in force on a device: newest wins, missing is not empty, withheld is remembered, age has two limits."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from edgeguard.errors import ProvisioningError, TrustError
from edgeguard.trust.revocation import LIST_FILE, METADATA_FILE, verified_list
from edgeguard.trust.store import TrustStore
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model
from firmware_tools.resign import resign
from firmware_tools.revocation_list import Entries, list_bytes
from firmware_tools.revoke import identity_of, put_list_into
from firmware_tools.trust_metadata import signed_metadata

NOW_NS = 1_790_000_000_000_000_000
DAY_NS = 86_400 * 10**9
MODEL_ID = "road-objects"
BOTH = (METADATA_FILE, LIST_FILE)


def sign_as(
    device, role: str, place=(0, 2), issued_ns: int = NOW_NS, metadata_version: int = 0, **entries: object
) -> tuple[bytes, bytes]:
    """Return metadata and list signed by the keys of any role."""
    content = list_bytes(device.fleet.fleet_id, place, issued_ns, Entries(**entries))
    import hashlib

    target = TargetFile(len(content), {"sha256": hashlib.sha256(content).hexdigest()}, "revocation/list.json")
    signed = Targets(
        version=metadata_version or place[1], expires=datetime(2031, 1, 1, tzinfo=UTC), targets={target.path: target}
    )
    return signed_metadata(signed, device.fleet.signers(role, 1)), content


def put(folder: Path, metadata: bytes, content: bytes) -> None:
    (folder / METADATA_FILE).write_bytes(metadata)
    (folder / LIST_FILE).write_bytes(content)


def test_a_revoked_bundle_is_refused_and_the_others_are_not(device):
    """By identity; the list comes with the trust folder."""
    bad, good = device.pack("1"), device.pack("2")
    device.install(bad)
    device.revoke(bundles=frozenset({identity_of(bad)}))
    device.open(bad)  # the list has not arrived yet
    device.bring_trust()
    device.refused("EG-T023", bad)
    device.open(good)


def test_a_list_that_was_once_seen_cannot_be_withheld_or_replaced_by_an_older_one(device):
    """Deleted, rolled back, or both: the state remembers."""
    bundle = device.pack()
    older = shutil.copytree(device.trust_folder, device.root / "older")
    device.revoke(bundles=frozenset({identity_of(bundle)}))
    device.bring_trust()
    device.refused("EG-T023", bundle)
    for name in BOTH:
        (device.trust_folder / name).unlink()
        device.refused("EG-T023", bundle)
    shutil.rmtree(device.trust_folder)
    shutil.copytree(older, device.trust_folder)
    device.refused("EG-T023", bundle)
    put_list_into(older, bundle)
    device.refused("EG-T023", bundle)
    assert device.state.revocation.place == (0, 2)


def test_a_newer_list_that_travels_in_a_bundle_is_taken_over_before_the_bundle_is_judged(device):
    """Also when it is that very bundle which it revokes; one stick is enough for a device without a network."""
    first, second = device.pack("1"), device.pack("2")
    device.install(first)
    device.revoke(bundles=frozenset({identity_of(first), identity_of(second)}))
    put_list_into(device.fleet.trust_folder, second)
    device.refused("EG-T023", second)
    assert device.state.revocation.place == (0, 2)
    device.refused("EG-T023", first)


def test_missing_is_not_empty(device, device_maker, tmp_path):
    """A device that never had a list opens nothing, unless the signed policy says that none is needed."""
    bundle = device.pack()
    for name in BOTH:
        (device.trust_folder / name).unlink()
        (bundle / "signatures" / name).unlink()
    from edgeguard.trust.state import DeviceState

    shutil.rmtree(device.state_folder)
    DeviceState.create(device.state_folder, key=device.key, trust=device.trust)
    assert device.state.revocation is None
    device.refused("EG-T020", bundle)
    (device.trust_folder / LIST_FILE).write_bytes(b"{}")
    device.refused("EG-T021", bundle)


@pytest.mark.parametrize("role", ["root", "targets", "release", "enrol", "attest", "snapshot", "timestamp"])
def test_no_other_role_signs_the_list(device, role):
    """Neither in the trust folder nor in a bundle; what was known stays in force."""
    bundle = device.pack()
    forged = sign_as(device, role, bundles=frozenset({identity_of(bundle)}))
    with pytest.raises(TrustError) as error:
        verified_list(device.trust, *forged)
    assert error.value.code == "EG-T021"
    put(device.trust_folder, *forged)
    put(bundle / "signatures", *forged)
    assert device.trust.revocation is None
    device.open(bundle)  # by the empty list that the state holds
    assert device.state.revocation.place == (0, 1)


def test_what_the_revocation_key_signs_is_accepted_by_the_same_road(device):
    """So that the matrix above cannot pass for another reason."""
    bundle = device.pack()
    put(device.trust_folder, *sign_as(device, "revocation", bundles=frozenset({identity_of(bundle)})))
    device.refused("EG-T023", bundle)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ((0, 2), {"floors": {"m": (0, 2**20 + 1)}}),
        ((0, 2), {"floors": {"m": (1, 0)}}),
        ((1, 2), {}),
        ((0, 2), {"issued_ns": 5_000_000_000 * 10**9}),
        ((0, 2), {"metadata_version": 3}),
    ],
    ids=["floor-jump", "floor-epoch", "list-epoch", "issued-2128", "two-versions"],
)
def test_what_the_revocation_role_may_not_say_makes_no_list(device, place, change):
    """Its keys are online: no epochs, no jumps, no far future."""
    with pytest.raises(TrustError) as error:
        verified_list(device.trust, *sign_as(device, "revocation", place, **change))
    assert error.value.code == "EG-T021"


def test_a_floor_of_one_full_step_is_accepted(device):
    """The limit itself."""
    listed = verified_list(device.trust, *sign_as(device, "revocation", floors={"m": (0, 2**20)}))
    assert listed.floor("m") == (0, 2**20)


def test_two_lists_under_one_version_are_refused(device):
    """Whoever signs them shows different devices different things."""
    bundle = device.pack()
    put(device.trust_folder, *sign_as(device, "revocation", devices=frozenset({"ab" * 16})))
    device.open(bundle)
    put(device.trust_folder, *sign_as(device, "revocation", devices=frozenset({"cd" * 16})))
    device.refused("EG-T022", bundle)


def test_the_largest_version_a_thief_can_sign_is_taken_back_by_the_next_epoch(device):
    """10^18 - 1 outlives every honest list of its epoch; offline keys begin the next."""
    bundle = device.pack()
    put(device.trust_folder, *sign_as(device, "revocation", (0, 10**15), bundles=frozenset({identity_of(bundle)})))
    device.refused("EG-T023", bundle)
    policy = json.loads((device.fleet.trust_folder / "policy.json").read_bytes())
    set_policy(device, revocation=policy["revocation"] | {"epoch": "1"})
    assert device.refused("EG-T021", bundle).message.endswith("its epoch is not the fleet policy's")
    assert device.revoke().place == (1, 1)
    device.bring_trust()
    device.open(bundle)
    assert device.state.revocation.place == (1, 1)


def set_policy(device, **fields: object) -> None:
    """The offline keys sign the next targets with another policy; the device is brought the folder."""
    import hashlib

    from securesystemslib.signer import CryptoSigner

    from edgeguard.trust.strict_json import canonical

    folder = device.fleet.trust_folder
    raw = canonical(json.loads((folder / "policy.json").read_bytes()) | fields)
    metadata = Metadata.from_bytes((folder / "targets.json").read_bytes())
    metadata.signed.version += 1
    metadata.signed.targets["policy.json"].length = len(raw)
    metadata.signed.targets["policy.json"].hashes = {"sha256": hashlib.sha256(raw).hexdigest()}
    metadata.signatures.clear()
    metadata.sign(CryptoSigner(device.fleet.signers("targets", 1)[0].private_key))
    (folder / "policy.json").write_bytes(raw)
    (folder / "targets.json").write_bytes(metadata.to_bytes())
    device.bring_trust()


@pytest.mark.parametrize(("offset_s", "accepted"), [(-1, True), (0, True), (1, False)])
def test_the_install_age_is_held_to_the_second_and_what_is_installed_runs_on(device, offset_s, accepted):
    """Install freshness: only new bundles are refused."""
    installed, fresh = device.pack("1"), device.pack("2")
    device.install(installed)
    limit_s = 30 * 86_400
    set_policy(device, revocation={"epoch": "0", "required": True, "install_max_age_s": str(limit_s),
                                   "run_max_age_s": None})  # fmt: skip
    moment = device.trust.revocation.issued_ns + (limit_s + offset_s) * 10**9
    if accepted:
        device.open(fresh, wall_ns=moment)
    else:
        device.refused("EG-T026", fresh, wall_ns=moment)
    device.open(installed, wall_ns=moment)


@pytest.mark.parametrize(("offset_s", "accepted"), [(-1, True), (0, True), (1, False)])
def test_the_run_age_is_held_to_the_second_for_everything(device, offset_s, accepted):
    """Run validity: what is installed stops as well; a renewed list brings it back."""
    installed = device.pack("1")
    device.install(installed)
    limit_s = 30 * 86_400
    set_policy(device, revocation={"epoch": "0", "required": True, "install_max_age_s": None,
                                   "run_max_age_s": str(limit_s)})  # fmt: skip
    moment = device.trust.revocation.issued_ns + (limit_s + offset_s) * 10**9
    if accepted:
        device.open(installed, wall_ns=moment)
        return
    device.refused("EG-T027", installed, wall_ns=moment)
    device.revoke(wall_ns=moment)
    device.bring_trust()
    device.open(installed, wall_ns=moment)


@pytest.mark.parametrize(("offset_s", "accepted"), [(-1, True), (0, False), (1, False)])
def test_an_expired_list_admits_nothing_new_and_stops_nothing(device, offset_s, accepted):
    """The metadata's own expiry is an install limit."""
    installed, fresh = device.pack("1"), device.pack("2")
    device.install(installed)
    from firmware_tools.revoke import revoke

    revoke(device.fleet, Entries(), wall_ns=NOW_NS, valid_days=10)
    device.bring_trust()
    moment = NOW_NS + 10 * DAY_NS + offset_s * 10**9
    if accepted:
        device.open(fresh, wall_ns=moment)
    else:
        device.refused("EG-T026", fresh, wall_ns=moment)
    device.open(installed, wall_ns=moment)


def test_a_bundle_names_the_oldest_list_it_may_run_under(device):
    """A device that was never shown the newer list refuses, and learns it from the stick that brings both."""
    device.revoke()
    bundle = device.pack(min_revocation_version=(0, 2))
    stripped = Path(shutil.copytree(bundle, device.root / "stripped"))
    for name in BOTH:
        (stripped / "signatures" / name).unlink()
    device.refused("EG-T016", stripped)
    device.open(bundle)
    device.open(stripped)


def test_a_revoked_device_opens_nothing_and_is_granted_nothing(device):
    """The wrap it already has does not help it where the list arrives."""
    bundle = device.pack()
    device.revoke(devices=frozenset({device.key.kid}))
    with pytest.raises(ProvisioningError) as error:
        grant(device.fleet, bundle, device.key.kid, wall_ns=NOW_NS)
    assert error.value.code == "EG-P022"
    device.bring_trust()
    device.refused("EG-T025", bundle)


def test_a_floor_of_the_list_acts_at_once_on_what_runs(device):
    """Without waiting for a newer release to be committed."""
    bundle = device.pack(counter=(0, 1))
    device.install(bundle)
    device.revoke(floors={MODEL_ID: (0, 2)})
    device.bring_trust()
    device.refused("EG-T015", bundle)
    assert device.state.floor(MODEL_ID) == (0, 2)


def test_a_revoked_signer_counts_no_longer_whatever_the_statement_claims(device):
    """Old and new bundles alike: an offline signature carries no time to believe; exceptions are by identity."""
    vouched, backdated = device.pack("1"), device.pack("2", valid_from_ns=NOW_NS - 1000 * DAY_NS)
    keyid = device.fleet.signers("release", 1)[0].public_key().keyid
    device.revoke(signers={keyid: frozenset({identity_of(vouched)})})
    device.bring_trust()
    device.open(vouched)
    device.refused("EG-T024", backdated)


def test_of_two_signers_the_one_left_must_still_meet_the_threshold(device, device_maker, tmp_path):
    """k = 1 of 2: another key's signature over the same bytes saves the bundle, the revoked one alone does not."""
    (tmp_path / "two").mkdir()
    two = device_maker(tmp_path / "two", "cam-1", release_keys=2)
    bundle = two.pack()
    first, second = two.fleet.signers("release", 2)
    two.revoke(signers={first.public_key().keyid: frozenset()})
    two.bring_trust()
    two.refused("EG-T024", bundle)
    from edgeguard.bundle.dsse import STATEMENT_TYPE, pae
    from edgeguard.bundle.signature import encode_signed, parse_signed

    payload = parse_signed((bundle / "model.sig").read_bytes(), STATEMENT_TYPE, what="model.sig").payload
    keyid = second.public_key().keyid
    signature = second.sign(pae(STATEMENT_TYPE, payload))
    (bundle / "signatures" / f"{keyid}.sig").write_bytes(encode_signed(payload, STATEMENT_TYPE, keyid, signature))
    two.open(bundle)


def test_nothing_is_ever_taken_off_a_list(device):
    """Each list holds what the one before held, over an epoch too."""
    device.revoke(bundles=frozenset({"ab" * 32}), floors={"m": (0, 5)})
    device.revoke(devices=frozenset({"cd" * 16}), floors={"m": (0, 3)})
    set_policy(device, revocation={"epoch": "3", "required": True, "install_max_age_s": None, "run_max_age_s": None})
    made = device.revoke(bundles=frozenset({"ef" * 32}))
    assert made.place == (3, 1)
    assert made.entries.bundles == {"ab" * 32, "ef" * 32}
    assert made.entries.devices == {"cd" * 16}
    assert made.entries.floors == {"m": (0, 5)}


def test_a_debug_release_does_not_run_on_a_production_fleet(device, monkeypatch):
    """The host refuses to make it; one made all the same is refused by the device."""
    import firmware_tools.pack

    out = device.root / "debug.bundle"
    release = Release(MODEL_ID, "dbg", channel="debug")
    with pytest.raises(TrustError) as error:
        pack_model(device.fleet, device.root / "m.onnx", out, release=release, wall_ns=NOW_NS)
    assert error.value.code == "EG-T012"
    monkeypatch.setattr(firmware_tools.pack, "_prove", lambda *_: None)
    pack_model(device.fleet, device.root / "m.onnx", out, release=release, wall_ns=NOW_NS)
    device.refused("EG-T012", out)


def test_resign_signs_nothing_that_this_folder_did_not_pack(device, device_maker, tmp_path):
    """A thief's statement under a stolen key is not laundered by the drill."""
    (tmp_path / "far").mkdir()
    far = device_maker(tmp_path / "far", "cam-1")
    with pytest.raises(ProvisioningError) as error:
        resign(device.fleet, far.pack(), wall_ns=NOW_NS)
    assert error.value.code == "EG-P051"
    own = device.pack()
    (device.fleet.cek_wrap(bytes.fromhex(identity_of(own)))).unlink()
    with pytest.raises(ProvisioningError) as error:
        resign(device.fleet, own, wall_ns=NOW_NS)
    assert error.value.code == "EG-P051"


def test_a_list_of_another_fleet_is_no_list_here(device, device_maker, tmp_path):
    """Same shape, other root."""
    (tmp_path / "far").mkdir()
    far = device_maker(tmp_path / "far", "cam-1")
    for name in BOTH:
        shutil.copy(far.trust_folder / name, device.trust_folder / name)
    trust = TrustStore.load(device.trust_folder, NOW_NS)
    assert trust.revocation is None
    assert trust.revocation_refusal


def test_a_time_floor_that_a_thief_has_pushed_is_lived_with_after_the_next_epoch(device):
    """A list dated years ahead: honest lists look old until they carry that date, and the fleet goes on."""
    far_ns = NOW_NS + 1500 * DAY_NS
    installed, fresh = device.pack("1"), device.pack("2")
    device.install(installed)
    put(device.trust_folder, *sign_as(device, "revocation", (0, 10**15), issued_ns=far_ns))
    device.open(installed)
    assert device.state.time_floor_ns == far_ns
    policy = json.loads((device.fleet.trust_folder / "policy.json").read_bytes())
    set_policy(device, revocation=policy["revocation"] | {"epoch": "1"})
    device.revoke()
    device.bring_trust()
    device.refused("EG-T026", fresh)
    device.open(installed)
    device.revoke(wall_ns=far_ns)
    device.bring_trust()
    device.open(fresh)


def test_in_a_hybrid_fleet_a_list_needs_both_families(device_maker, tmp_path):
    """Stripped of its post-quantum signatures, or of its classical ones, it is no list."""
    hybrid = device_maker(tmp_path, "cam-1", signatures="hybrid-required")
    bundle = hybrid.pack()
    hybrid.revoke(bundles=frozenset({identity_of(bundle)}))
    metadata = Metadata.from_bytes((hybrid.fleet.trust_folder / METADATA_FILE).read_bytes())
    content = (hybrid.fleet.trust_folder / LIST_FILE).read_bytes()
    assert len(metadata.signatures) == 2
    for keyid in list(metadata.signatures):
        stripped = Metadata.from_bytes(metadata.to_bytes())
        del stripped.signatures[keyid]
        with pytest.raises(TrustError) as error:
            verified_list(hybrid.trust, stripped.to_bytes(), content)
        assert error.value.code == "EG-T021"
    hybrid.open(bundle)
    hybrid.bring_trust()
    hybrid.refused("EG-T023", bundle)


def test_another_list_of_the_same_length_under_genuine_metadata_is_no_list(device):
    """The metadata names the list by digest; one revoked device exchanged for another."""
    metadata, content = sign_as(device, "revocation", devices=frozenset({"ab" * 16}))
    verified_list(device.trust, metadata, content)
    with pytest.raises(TrustError) as error:
        verified_list(device.trust, metadata, content.replace(b"ab" * 16, b"cd" * 16))
    assert error.value.code == "EG-T021"


def test_a_list_for_another_fleet_under_this_fleet_s_keys_is_refused(device):
    """One key in two fleets: what it says about one is nothing about the other."""
    import hashlib

    content = list_bytes("ab" * 32, (0, 2), NOW_NS, Entries())
    target = TargetFile(len(content), {"sha256": hashlib.sha256(content).hexdigest()}, "revocation/list.json")
    signed = Targets(version=2, expires=datetime(2031, 1, 1, tzinfo=UTC), targets={target.path: target})
    with pytest.raises(TrustError) as error:
        verified_list(device.trust, signed_metadata(signed, device.fleet.signers("revocation", 1)), content)
    assert error.value.code == "EG-T010"


def test_without_a_state_the_list_s_floor_and_entries_act_all_the_same(device_maker, tmp_path):
    """Where the policy lets a device do without one, what lies in the trust folder is obeyed."""
    lax = device_maker(tmp_path, "cam-1", device_state="optional")
    bundle = lax.pack(counter=(0, 1))
    lax.open(bundle, state=None)
    lax.revoke(floors={MODEL_ID: (0, 2)})
    lax.bring_trust()
    lax.refused("EG-T015", bundle, state=None)
