"""A lost state is cured by a signed token and by nothing else; the token is for one device, one time, one trust."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import Metadata

from edgeguard.cli.main import run
from edgeguard.errors import EdgeGuardError, ProvisioningError, TrustError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.state import DeviceState
from edgeguard.trust.state_token import verified_token
from edgeguard.trust.store import TrustStore
from firmware_tools.cli import cli
from firmware_tools.fleet import Fleet
from firmware_tools.state_token import state_token

NOW_NS = 1_790_000_000_000_000_000
DAY_NS = 86_400 * 10**9
MODEL_ID = "road-objects"


@dataclass
class Counter:
    value: int = 7

    def read(self) -> int:
        return self.value

    def increment(self) -> int:
        self.value += 1
        return self.value


def recover(device, token: bytes, **how: object) -> DeviceState:
    arguments = {"key": device.key, "trust": device.trust, "token": token, "clock_ns": NOW_NS} | how
    return DeviceState.recover(device.state_folder, **arguments)  # type: ignore[arg-type]


def refused(device, token: bytes, **how: object) -> None:
    before = {p.name: p.read_bytes() for p in device.state_folder.glob("*")}
    with pytest.raises(TrustError) as error:
        recover(device, token, **how)
    assert error.value.code == "EG-T037"
    assert before == {p.name: p.read_bytes() for p in device.state_folder.glob("*")}


@pytest.mark.parametrize("loss", ["deleted", "junk", "list"])
def test_a_lost_state_is_made_again_with_the_floors_of_the_token(device, loss):
    """What the fleet knows was installed stays the floor; list and time come from what is signed."""
    older = device.pack("1", counter=(0, 1))
    device.install(device.pack("2", counter=(0, 2)))
    if loss == "deleted":
        shutil.rmtree(device.state_folder)
    elif loss == "junk":
        (device.state_folder / "device.state").write_bytes(b"junk")
    else:
        next(device.state_folder.glob("revocation-*")).unlink()
    with pytest.raises(TrustError):
        _ = device.state
    recover(device, state_token(device.fleet, "cam-1", wall_ns=NOW_NS, floors={MODEL_ID: (0, 2)}))
    assert device.state.floor(MODEL_ID) == (0, 2)
    assert device.state.time_floor_ns == NOW_NS
    device.refused("EG-T015", older)


def test_a_token_is_for_one_device(device, device_maker):
    """A neighbour's does not fit."""
    device_maker(device.root, "cam-2", device.fleet)
    refused(device, state_token(device.fleet, "cam-2", wall_ns=NOW_NS))


@pytest.mark.parametrize("role", ["root", "targets", "release", "revocation", "attest", "snapshot", "timestamp"])
def test_no_other_role_signs_a_token(device, role):
    """The same bytes by any other key; by the enrol key they are accepted."""
    from securesystemslib.signer import CryptoSigner

    metadata = Metadata.from_bytes(state_token(device.fleet, "cam-1", wall_ns=NOW_NS))
    genuine = metadata.to_bytes()
    metadata.signatures.clear()
    metadata.sign(CryptoSigner(device.fleet.signers(role, 1)[0].private_key))
    refused(device, metadata.to_bytes())
    recover(device, genuine)


@pytest.mark.parametrize(("offset_s", "accepted"), [(-1, True), (0, False), (1, False)])
def test_a_token_expires_to_the_second(device, offset_s, accepted):
    """Also by the signed time that the trust folder carries."""
    token = state_token(device.fleet, "cam-1", wall_ns=NOW_NS, valid_days=3)
    moment = NOW_NS + 3 * DAY_NS + offset_s * 10**9
    if accepted:
        recover(device, token, clock_ns=moment)
    else:
        refused(device, token, clock_ns=moment)
    device.revoke(wall_ns=NOW_NS + 3 * DAY_NS)
    device.bring_trust()
    refused(device, token, clock_ns=0)


def test_with_a_counter_a_token_works_once_and_kills_every_older_state(device):
    """It names the counter's value, and using it moves the counter."""
    counter = Counter()
    token = state_token(device.fleet, "cam-1", wall_ns=NOW_NS, counter=7)
    refused(device, token)
    assert recover(device, token, counter=counter).generation == counter.value == 8
    refused(device, token, counter=counter)
    refused(device, state_token(device.fleet, "cam-1", wall_ns=NOW_NS), counter=counter)


def test_an_older_trust_folder_cannot_be_used_to_recover(device):
    """The token asks for the list that was in force when it was signed."""
    device.revoke()
    token = state_token(device.fleet, "cam-1", wall_ns=NOW_NS)
    refused(device, token)
    device.bring_trust()
    recover(device, token)


def test_a_revoked_device_gets_no_token(device):
    """Nor one that the fleet does not know."""
    device.revoke(devices=frozenset({device.key.kid}))
    for name, code in (("cam-1", "EG-P052"), ("nobody", "EG-P013")):
        with pytest.raises(ProvisioningError) as error:
            state_token(device.fleet, name, wall_ns=NOW_NS)
        assert error.value.code == code


@pytest.fixture(scope="module")
def genuine_token(template) -> bytes:
    return state_token(Fleet.open(template / "fleet"), "cam-1", wall_ns=NOW_NS, floors={MODEL_ID: (0, 2)})


@given(data=st.data())
def test_an_edited_token_is_refused_or_says_the_same(template, genuine_token, data):
    """Flip, cut, insert; never a foreign error."""
    trust, kid = TrustStore.load(template / "cam-1.trust", 0), FileKeyProvider(template / "cam-1.pem").kid
    raw = genuine_token
    genuine = verified_token(trust, raw, kid=kid, counter=None, clock_ns=NOW_NS)
    start = data.draw(st.integers(0, len(raw)))
    edited = raw[:start] + data.draw(st.binary(max_size=5)) + raw[start + data.draw(st.integers(0, 5)) :]
    code = ""
    try:
        assert verified_token(trust, edited, kid=kid, counter=None, clock_ns=NOW_NS) == genuine
    except EdgeGuardError as error:
        code = error.code
    assert code in ("", "EG-T037")


def test_the_two_commands(device, capsys, monkeypatch):
    """Host, stick, device."""
    monkeypatch.setattr("edgeguard.clock.SystemClock.wall_ns", lambda self: NOW_NS)
    shutil.rmtree(device.state_folder)
    token = device.root / "token.json"
    host = ["state-token", device.fleet.folder, "cam-1", "--out", token, "--floor", f"{MODEL_ID}=4"]
    there = ["recover-state", token, "--trust", device.trust_folder, "--key", device.root / "cam-1.pem",
             "--state", device.state_folder]  # fmt: skip
    for words in (host, there):
        assert run(cli, "edgeguard-provision", [str(word) for word in words]) == 0, capsys.readouterr().err
    assert device.state.floor(MODEL_ID) == (0, 4)
    token.write_bytes(b"{}")
    assert run(cli, "edgeguard-provision", [str(word) for word in there]) == 4
    assert "EG-T037" in capsys.readouterr().err
