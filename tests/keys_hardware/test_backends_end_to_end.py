"""Every way to keep a key, from keygen to an opened model, and what somebody without the secret can do: nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from edgeguard.bundle.model import open_model
from edgeguard.errors import DecryptionError, EdgeGuardError, KeyUnavailableError, ProvisioningError, TrustError
from edgeguard.keys.context import SUITE_P256, SUITE_X25519
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.hpke_provider import DECRYPTION_FAILED
from edgeguard.keys.public_key import of_p256
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import TrustStore
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model

NOW_NS = 1_790_000_000_000_000_000  # 2026-09-21
P256_PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1


def enrolled(site: Path, key, name: str = "cam-1") -> Fleet:
    fleet = Fleet.open(site / "fleet")
    request = site / f"{name}.request"
    request.write_bytes(make_request(key, fleet.trust(NOW_NS), device_name=name, board="rpi5"))
    record = enroll(fleet, request, confirm=lambda pending: pending.key_class == key.key_class, wall_ns=NOW_NS)
    assert (record.key_class, record.suite, record.kid) == (key.key_class, key.suite, key.kid)
    return fleet


def packed(site: Path, fleet: Fleet, **facts) -> Path:
    out = site / "m.bundle"
    release = Release("detector", "1", **facts)
    pack_model(fleet, site / "m.onnx", out, release=release, wall_ns=NOW_NS)
    return out


def test_a_key_made_there_is_enrolled_opens_its_model_and_keeps_its_state(backend, site: Path):
    """keygen, request with proof, enrol, pack, grant, open, commit; then once more with a provider opened anew."""
    made = backend.generate()
    assert (made.key_class, made.suite) == (backend.key_class, backend.suite)
    fleet = enrolled(site, made)
    bundle = packed(site, fleet)
    grant(fleet, bundle, "cam-1", wall_ns=NOW_NS)
    trust = TrustStore.load(site / "fleet" / "trust", NOW_NS)
    DeviceState.create(site / "state", key=made, trust=trust)
    for generation in (0, 1):
        key = backend.reopen()
        assert key.kid == made.kid
        state = DeviceState.open(site / "state", key=key, fleet_id=fleet.fleet_id)
        with open_model(
            bundle, trust=trust, key=key, expect_model="detector", wall_ns=NOW_NS, state=state, deep=True
        ) as model:
            assert model.statement.model_id == "detector"
            state.commit(model.statement)
        assert generation < 2
    assert DeviceState.open(site / "state", key=made, fleet_id=fleet.fleet_id).installed("detector")[0]


def test_a_state_made_with_another_secret_is_refused(backend, site: Path):
    """Attack 1: all files and the public key in hand, a state is authenticated with everything but the secret."""
    key = backend.generate()
    fleet = enrolled(site, key)
    trust = TrustStore.load(site / "fleet" / "trust", NOW_NS)
    DeviceState.create(site / "state", key=key, trust=trust)
    forger = _KnowsEverythingPublic(key)
    for secret in (b"", key.public_key(), key.kid.encode()):
        forger.secret = secret
        shutil.rmtree(site / "state")
        DeviceState.create(site / "state", key=forger, trust=trust)
        with pytest.raises(TrustError) as error:
            DeviceState.open(site / "state", key=backend.reopen(), fleet_id=fleet.fleet_id)
        assert error.value.code.startswith("EG-T03")


class _KnowsEverythingPublic:
    """Somebody who has the public key and derives what can be derived from it."""

    def __init__(self, key) -> None:
        self.kid, self.suite, self.key_class = key.kid, key.suite, key.key_class
        self._public = key.public_key()
        self.secret = b""

    def public_key(self) -> bytes:
        return self._public

    def derive_secret(self, label: str):
        from edgeguard.harden.memory import SecretBuffer
        from edgeguard.keys.context import derive_message, hkdf_sha256

        return SecretBuffer.copy_of(hkdf_sha256(self.secret, derive_message(label)))


def test_secrets_are_stable_and_one_for_each_label(backend):
    """The same after opening again, different for each label, 32 bytes, not the public key's hash."""
    key = backend.generate()
    again = backend.reopen()
    first, same, other = (
        bytes(k.derive_secret(label).view) for k, label in ((key, "state"), (again, "state"), (key, "audit-log"))
    )
    assert first == same != other
    assert len(first) == 32
    for hostile in ("", "State", "a" * 65, "state\n", "a\0b"):
        with pytest.raises(ValueError, match="label"):
            key.derive_secret(hostile)


def test_what_is_not_a_verified_statement_is_a_type_error(backend, statement, wrap_for):
    """The key is no oracle: it decides itself what it opens."""
    key = backend.generate()
    wrap = wrap_for(key)
    with key.open_wrap(statement(), wrap) as cek:
        assert bytes(cek.view) == b"\x07" * 32
    for unverified in (None, b"\x11" * 32, {"identity": b"\x11" * 32}, object()):
        with pytest.raises(TypeError):
            key.open_wrap(unverified, wrap)


def test_hostile_points_and_wraps_give_the_one_decryption_error(backend, statement, wrap_for):
    """Off the curve, infinity, zero, other encodings, low order, truncated, for another device, one bit off."""
    key = backend.generate()
    wrap = wrap_for(key)
    for hostile in (*_hostile_encs(key.suite, wrap), wrap[:-1], wrap + b"\0", b"", wrap[:-1] + bytes([wrap[-1] ^ 1])):
        with pytest.raises(DecryptionError, match=DECRYPTION_FAILED):
            key.open_wrap(statement(), hostile)
    with key.open_wrap(statement(), wrap) as cek:  # nothing stays loaded, no lock-out
        assert len(cek) == 32


def _hostile_encs(suite: str, wrap: bytes) -> list[bytes]:
    if suite == SUITE_X25519:
        return [bytes(32) + wrap[32:], b"\x01" + bytes(31) + wrap[32:]]
    good = of_p256(generate_private_key(SECP256R1()).public_key()).point
    wrong_y = ((int.from_bytes(good[33:], "big") + 1) % P256_PRIME).to_bytes(32, "big")
    points = [
        good[:33] + wrong_y, b"\x00" + bytes(64), b"\x04" + bytes(64), b"\x04" + b"\xff" * 32 + good[33:],
        bytes([6 + good[-1] % 2]) + good[1:], good,
    ]  # fmt: skip
    return [point + wrap[65:] for point in points]


def test_a_model_that_asks_for_hardware_goes_to_hardware_alone(backend, site: Path, statement, wrap_for):
    """The host does not grant, and the key itself refuses a wrap that somebody made all the same."""
    key = backend.generate()
    fleet = enrolled(site, key)
    bundle = packed(site, fleet, min_key_class="hardware")
    if backend.key_class == "hardware":
        assert grant(fleet, bundle, "cam-1", wall_ns=NOW_NS).exists()
        key.open_wrap(statement(min_key_class="hardware"), wrap_for(key)).close()
        return
    with pytest.raises(ProvisioningError) as refused:
        grant(fleet, bundle, "cam-1", wall_ns=NOW_NS)
    assert refused.value.code == "EG-P022"
    with pytest.raises(KeyUnavailableError) as error:
        key.open_wrap(statement(min_key_class="hardware"), wrap_for(key))
    assert error.value.code == "EG-K005"


def test_a_chip_that_has_no_post_quantum_half_refuses_what_asks_for_one(backend, statement, wrap_for):
    """Secrecy equals the weakest wrap, so the device looks too."""
    key = backend.generate()
    wrap = wrap_for(key)
    with pytest.raises(KeyUnavailableError) as error:
        key.open_wrap(statement(confidentiality="pq-required"), wrap)
    assert error.value.code == "EG-K004"


def test_a_request_made_with_another_key_is_not_proven(backend, site: Path, tmp_path: Path):
    """Attack 7: the device's public key in a request that somebody else proved with theirs."""
    import json

    fleet = Fleet.open(site / "fleet")
    device = backend.generate()
    suite = SUITE_P256 if backend.suite == SUITE_P256 else SUITE_X25519
    thief = FileKeyProvider.generate(tmp_path / "thief.pem", suite=suite)
    trust = fleet.trust(NOW_NS)
    honest = json.loads(make_request(device, trust, device_name="cam-1", board="b"))
    stolen = json.loads(make_request(thief, trust, device_name="cam-1", board="b"))
    honest["proof"] = stolen["proof"]
    (site / "r").write_bytes(json.dumps(honest, separators=(",", ":"), sort_keys=True).encode())
    with pytest.raises(ProvisioningError) as error:
        enroll(fleet, site / "r", confirm=lambda _: True, wall_ns=NOW_NS)
    assert error.value.code == "EG-P010"


def test_a_second_key_never_overwrites_the_first(backend):
    """keygen twice at one address is an error, and the first key still works."""
    key = backend.generate()
    with pytest.raises(EdgeGuardError) as error:
        backend.generate()
    assert error.value.code == "EG-K001"
    assert backend.reopen().kid == key.kid


def test_a_provider_shows_and_copies_nothing(backend):
    """repr has no secret; copy and pickle are refused."""
    import copy

    key = backend.generate()
    assert key.kid in repr(key)
    assert str(backend.folder) not in repr(key)
    for thief in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            thief(key)
