"""The three kinds of device key: sizes, files, encodings, and what each is refused."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import DecryptionError, KeyUnavailableError
from edgeguard.keys.context import SUITE_HYBRID, SUITE_P256, SUITE_X25519, SUITES, WRAP_BYTES, wrap_info
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.provider import PROVEN, VerifiedStatement
from edgeguard.keys.public_key import XWING_HEADER, parse_public_key

CEK = b"\x07" * 32
IDENTITY = b"\x11" * 32


def statement(**changes) -> VerifiedStatement:
    facts = {
        "identity": IDENTITY,
        "bundle_id": "00" * 16,
        "fleet_id": "ab" * 32,
        "model_id": "m",
        "release": "1",
        "channel": "production",
        "boards": (),
        "counter": (0, 1),
        "min_revocation_version": (0, 0),
        "confidentiality": "classical",
        "min_key_class": "file",
        "valid_from_ns": 0,
        "expires_ns": 1,
        "signers": (),
        "proof": PROVEN,
    }
    return VerifiedStatement(**(facts | changes))


def wrap_for(provider, cek: bytes = CEK, **changes) -> bytes:
    facts = {"identity": IDENTITY, "fleet_id": "ab" * 32, "model_id": "m", "kid": provider.kid}
    info = wrap_info(**(facts | {"suite": provider.suite} | changes))
    return parse_public_key(provider.public_key()).seal(cek, info)


@pytest.fixture(params=SUITES, ids=lambda s: s.split("/")[1])
def key(request, tmp_path) -> FileKeyProvider:
    return FileKeyProvider.generate(tmp_path / "device.pem", suite=request.param)


def test_a_wrap_has_the_one_size_of_its_suite_and_opens(key):
    """80 bytes for X25519, 113 for P-256, 1168 with ML-KEM; one byte more or less is refused."""
    wrap = wrap_for(key)
    assert {SUITE_X25519: 80, SUITE_P256: 113, SUITE_HYBRID: 1168}[key.suite] == len(wrap) == WRAP_BYTES[key.suite]
    with key.open_wrap(statement(), wrap) as cek:
        assert bytes(cek.view) == CEK
    for damaged in (wrap[:-1], wrap + b"\0", b"", wrap[1:] + b"\0"):
        with pytest.raises(DecryptionError):
            key.open_wrap(statement(), damaged)


def test_the_key_survives_its_file_with_and_without_a_passphrase(key, tmp_path):
    """The same key id, derived secrets and wraps; the encrypted file shows no key."""
    path = tmp_path / "device.pem"
    again = FileKeyProvider(path, b"a passphrase that is not needed")
    assert again.kid == key.kid
    locked = FileKeyProvider.generate(tmp_path / "locked.pem", b"correct horse", suite=key.suite)
    assert re.findall(rb"BEGIN ([A-Z ]+)-", (tmp_path / "locked.pem").read_bytes()) == [b"ENCRYPTED PRIVATE KEY"] * (
        2 if key.suite == SUITE_HYBRID else 1
    )
    reopened = FileKeyProvider(tmp_path / "locked.pem", b"correct horse")
    with locked.derive_secret("state") as one, reopened.derive_secret("state") as two:
        assert bytes(one.view) == bytes(two.view)
    for wrong in (None, b"wrong", b""):
        with pytest.raises(KeyUnavailableError) as error:
            FileKeyProvider(tmp_path / "locked.pem", wrong)
        assert error.value.code == "EG-K001"


def test_a_hybrid_file_is_two_standard_blocks_in_one_order(tmp_path):
    """Any tool reads the halves; halves alone, swapped or doubled are no hybrid key."""
    path = tmp_path / "k.pem"
    key = FileKeyProvider.generate(path, suite=SUITE_HYBRID)
    mlkem, x25519 = (m[0] + b"\n" for m in re.finditer(rb"-----BEGIN.*?-----END [A-Z ]+-----", path.read_bytes(), re.S))
    assert isinstance(load_pem_private_key(mlkem, None), MLKEM768PrivateKey)
    half = tmp_path / "half.pem"
    half.write_bytes(x25519)
    half.chmod(0o600)
    assert FileKeyProvider(half).suite == SUITE_X25519
    with pytest.raises(DecryptionError):
        FileKeyProvider(half).open_wrap(statement(), wrap_for(key)[:80])
    for content in (mlkem, x25519 + mlkem, mlkem + mlkem, mlkem + x25519 + x25519):
        half.write_bytes(content)
        with pytest.raises(KeyUnavailableError):
            FileKeyProvider(half)


@pytest.mark.parametrize("suite", SUITES)
def test_whoever_has_all_files_but_the_private_key_derives_no_secret(suite, tmp_path):
    """What authenticates local state is no function of what everybody knows: public key, wraps, labels, statements."""
    key = FileKeyProvider.generate(tmp_path / "device.pem", suite=suite)
    attacker = FileKeyProvider.generate(tmp_path / "attacker.pem", suite=suite)
    public = parse_public_key(key.public_key())
    with key.derive_secret("device-state/v1") as secret, attacker.derive_secret("device-state/v1") as other:
        real = bytes(secret.view)
        assert real != bytes(other.view)
        for chosen in (CEK, real):
            wrap = wrap_for(key, chosen)
            with key.open_wrap(statement(), wrap) as cek:
                assert bytes(cek.view) == chosen
        assert attacker.prove_possession(public.point, b"device-state/v1") != real
    with key.derive_secret("device-state/v1") as secret:
        assert bytes(secret.view) == real


@pytest.mark.parametrize("suite", [SUITE_X25519, SUITE_P256])
def test_a_classical_key_does_not_open_a_model_that_asks_for_post_quantum(suite, tmp_path):
    """Also when somebody who knows the content key has made a perfect wrap for it."""
    key = FileKeyProvider.generate(tmp_path / "k.pem", suite=suite)
    with pytest.raises(KeyUnavailableError) as error:
        key.open_wrap(statement(confidentiality="pq-required"), wrap_for(key))
    assert error.value.code == "EG-K004"
    hybrid = FileKeyProvider.generate(tmp_path / "h.pem", suite=SUITE_HYBRID)
    with hybrid.open_wrap(statement(confidentiality="pq-required"), wrap_for(hybrid)) as cek:
        assert bytes(cek.view) == CEK


@pytest.mark.parametrize("asked", ["device-bound", "hardware"])
def test_a_key_in_a_file_does_not_open_a_model_for_better_kept_keys(key, asked):
    """The device obeys the class that was signed, not only `grant`."""
    with pytest.raises(KeyUnavailableError) as error:
        key.open_wrap(statement(min_key_class=asked), wrap_for(key))
    assert error.value.code == "EG-K005"


def test_a_wrap_bound_to_another_suite_does_not_open(key):
    """The suite's name is in the info."""
    for suite in set(SUITES) - {key.suite}:
        with pytest.raises(DecryptionError):
            key.open_wrap(statement(), wrap_for(key, suite=suite))


def test_a_challenge_is_no_wrap_and_a_wrap_no_challenge(key):
    """Nobody can have a content key opened by calling it a challenge."""
    with pytest.raises(DecryptionError):
        key.answer_challenge("ab" * 32, IDENTITY, wrap_for(key))


@given(data=st.data())
def test_public_keys_have_one_spelling_and_hostile_ones_one_error(tmp_path_factory, data):
    """Any bytes, and any key with one byte changed: the same key in the same bytes, or EG-K006."""
    suite = data.draw(st.sampled_from(SUITES))
    der = FileKeyProvider.generate(tmp_path_factory.mktemp("k") / "k.pem", suite=suite).public_key()
    at = data.draw(st.integers(0, min(len(der) - 1, 90)))
    changed = der[:at] + bytes([der[at] ^ data.draw(st.integers(1, 255))]) + der[at + 1 :]
    for raw in (changed, data.draw(st.binary(max_size=100)), der + b"\0", der[:-1]):
        with suppress(KeyUnavailableError):
            assert parse_public_key(raw).der == raw
    assert parse_public_key(der).der == der


def test_a_compressed_point_is_not_a_second_name_for_a_key(tmp_path):
    """Otherwise one device could be enrolled twice, and revoked once."""
    der = FileKeyProvider.generate(tmp_path / "k.pem", suite=SUITE_P256).public_key()
    key = load_der_public_key(der)
    assert isinstance(key, EllipticCurvePublicKey)
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    assert load_der_public_key(compressed) == key
    with pytest.raises(KeyUnavailableError) as error:
        parse_public_key(compressed)
    assert error.value.code == "EG-K006"


def test_an_ml_kem_key_with_values_out_of_range_is_refused(tmp_path):
    """FIPS 203 section 7.2: each coefficient is below q; a library that skips the check would accept 0xfff."""
    der = bytearray(FileKeyProvider.generate(tmp_path / "k.pem", suite=SUITE_HYBRID).public_key())
    start = len(XWING_HEADER)
    der[start : start + 3] = b"\xff\xff\xff"
    with pytest.raises(KeyUnavailableError) as error:
        parse_public_key(bytes(der))
    assert error.value.code == "EG-K006"
