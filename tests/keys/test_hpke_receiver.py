"""HPKE with the private key elsewhere: the published vectors, the library as oracle, and hostile points."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import DecryptionError, KeyUnavailableError
from edgeguard.harden.memory import SecretBuffer
from edgeguard.keys import hpke
from edgeguard.keys.context import SUITE_HYBRID, SUITE_P256, SUITE_X25519, wrap_info
from edgeguard.keys.dh import DhKeyProvider
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.hpke_provider import DECRYPTION_FAILED
from edgeguard.keys.provider import PROVEN, VerifiedStatement
from edgeguard.keys.public_key import of_hybrid, of_p256, of_x25519, parse_public_key

VECTORS = json.loads((Path(__file__).parent / "vectors" / "hpke_base.json").read_text())
KEMS = {0x0010: hpke.P256, 0x0020: hpke.X25519}
AEADS = {1: hpke.AES_128_GCM, 2: hpke.AES_256_GCM}
CEK = b"\x07" * 32

# Points of order 1, 2, 4 and 8 on Curve25519 and its twist, canonical and not (cr.yp.to/ecdh.html).
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
P256_PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1


@dataclass
class ChipKey:
    """A private key that does one Diffie-Hellman, as a TPM or token does; it counts how often it is asked."""

    private: X25519PrivateKey | EllipticCurvePrivateKey
    key_class: str = "hardware"
    asked: int = 0

    def public_key(self) -> bytes:
        if isinstance(self.private, X25519PrivateKey):
            return of_x25519(self.private.public_key()).der
        return of_p256(self.private.public_key()).der

    def ecdh(self, point: bytes) -> bytes:
        self.asked += 1
        if isinstance(self.private, X25519PrivateKey):
            return self.private.exchange(X25519PublicKey.from_public_bytes(point))
        return self.private.exchange(ECDH(), EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point))

    def derive_secret(self, label: str) -> SecretBuffer:
        return SecretBuffer.copy_of(hashlib.sha256(label.encode()).digest())


def chip(suite: str) -> ChipKey:
    return ChipKey(X25519PrivateKey.generate() if suite == SUITE_X25519 else generate_private_key(SECP256R1()))


def statement(**changes) -> VerifiedStatement:
    facts = {
        "identity": b"\x11" * 32,
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


def wrap_for(provider, cek: bytes = CEK) -> bytes:
    info = wrap_info(identity=b"\x11" * 32, fleet_id="ab" * 32, model_id="m", kid=provider.kid, suite=provider.suite)
    return parse_public_key(provider.public_key()).seal(cek, info)


@pytest.mark.parametrize("vector", VECTORS["dhkem"], ids=lambda v: f"kem{v['kem_id']}-aead{v['aead_id']}")
def test_the_receiver_computes_what_rfc_9180_says(vector):
    """Shared secret, key, nonce, and the first message of each vector, from the Diffie-Hellman value alone."""
    kem, aead = KEMS[vector["kem_id"]], AEADS[vector["aead_id"]]
    enc, public, private = (bytes.fromhex(vector[name]) for name in ("enc", "pkRm", "skRm"))
    if kem is hpke.X25519:
        dh = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(enc))
    else:
        key = derive_private_key(int.from_bytes(private, "big"), SECP256R1())
        dh = key.exchange(ECDH(), EllipticCurvePublicKey.from_encoded_point(SECP256R1(), enc))
    secret = hpke.extract_and_expand(kem, dh, enc + public)
    assert secret.hex() == vector["shared_secret"]
    aead_key, nonce = hpke.key_schedule(kem, aead, secret, bytes.fromhex(vector["info"]))
    assert (aead_key.hex(), nonce.hex()) == (vector["key"], vector["base_nonce"])
    first = {name: bytes.fromhex(text) for name, text in vector["first"].items()}
    assert AESGCM(aead_key).decrypt(nonce, first["ct"], first["aad"]) == first["pt"]


def test_the_hybrid_suite_is_x_wing():
    """A published vector, and a wrap of ours taken apart with SHA3-256 and the X-Wing label by hand."""
    vector = VECTORS["xwing"]
    expanded = hashlib.shake_256(bytes.fromhex(vector["skRm"])).digest(96)
    mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
    public = of_hybrid(mlkem.public_key(), x25519.public_key())
    assert public.der.endswith(bytes.fromhex(vector["pkRm"]))

    def decap(enc: bytes) -> bytes:
        ct_m, ct_x = enc[:1088], enc[1088:]
        ss_x = x25519.exchange(X25519PublicKey.from_public_bytes(ct_x))
        return hashlib.sha3_256(mlkem.decapsulate(ct_m) + ss_x + ct_x + public.point + rb"\.//^\ ".strip()).digest()

    assert decap(bytes.fromhex(vector["enc"])).hex() == vector["shared_secret"]
    sealed = public.seal(CEK, b"info")
    assert len(sealed) == 1168
    secret = decap(sealed[:1120])
    key, nonce = hpke.key_schedule(hpke.Kem(0x647A, 1120), hpke.AES_256_GCM, secret, b"info")
    assert AESGCM(key).decrypt(nonce, sealed[1120:], None) == CEK


@pytest.mark.parametrize("suite", [SUITE_X25519, SUITE_P256])
@given(message=st.binary(max_size=64), info=st.binary(max_size=64))
def test_what_the_library_seals_the_receiver_opens(suite, message, info):
    """Any message and info; and with another info it does not."""
    key = chip(suite)
    public = parse_public_key(key.public_key())
    kem, name = (hpke.X25519, KEM.X25519) if suite == SUITE_X25519 else (hpke.P256, KEM.P256)
    sealed = Suite(name, KDF.HKDF_SHA256, AEAD.AES_256_GCM).encrypt(message, public.key, info=info)  # type: ignore[arg-type]
    enc = sealed[: kem.point_bytes]
    facts = {"dh": key.ecdh(enc), "enc": enc, "public_point": public.point, "sealed": sealed[len(enc) :]}
    assert hpke.open_base(kem, hpke.AES_256_GCM, info=info, **facts) == message
    with pytest.raises(InvalidTag):
        hpke.open_base(kem, hpke.AES_256_GCM, info=info + b"x", **facts)


@pytest.mark.parametrize("suite", [SUITE_X25519, SUITE_P256])
def test_a_chip_opens_its_wrap_and_proves_itself_like_a_file(suite, tmp_path):
    """A backend that only computes Diffie-Hellman is a whole key provider."""
    provider = DhKeyProvider(chip(suite))
    with provider.open_wrap(statement(), wrap_for(provider)) as cek:
        assert bytes(cek.view) == CEK
    fleet = FileKeyProvider.generate(tmp_path / "fleet.pem", suite=suite)
    points = {who: parse_public_key(key.public_key()).point for who, key in (("fleet", fleet), ("chip", provider))}
    assert provider.prove_possession(points["fleet"], b"request") == fleet.prove_possession(points["chip"], b"request")
    assert provider.open_wrap(statement(min_key_class="hardware"), wrap_for(provider)) is not None


@pytest.mark.parametrize("point", LOW_ORDER)
@pytest.mark.parametrize("backend", ["chip", "file"])
def test_low_order_points_give_the_one_decryption_error(backend, point, tmp_path):
    """Everybody knows the shared value that they lead to: zero."""
    provider = DhKeyProvider(chip(SUITE_X25519)) if backend == "chip" else FileKeyProvider.generate(tmp_path / "k.pem")
    raw = bytes.fromhex(point)
    info = wrap_info(identity=b"\x11" * 32, fleet_id="ab" * 32, model_id="m", kid=provider.kid, suite=SUITE_X25519)
    own = parse_public_key(provider.public_key()).point
    secret = hpke.extract_and_expand(hpke.X25519, bytes(32), raw + own)
    key, nonce = hpke.key_schedule(hpke.X25519, hpke.AES_256_GCM, secret, info)
    forged = raw + AESGCM(key).encrypt(nonce, CEK, None)
    with pytest.raises(DecryptionError, match=DECRYPTION_FAILED):
        provider.open_wrap(statement(), forged)
    with pytest.raises(KeyUnavailableError):
        provider.prove_possession(raw, b"request")


def hostile_p256_points() -> dict[str, bytes]:
    good = of_p256(generate_private_key(SECP256R1()).public_key()).point
    other_y = (int.from_bytes(good[33:], "big") + 1) % P256_PRIME
    return {
        "off-curve": good[:33] + other_y.to_bytes(32, "big"),
        "infinity": b"\x00" + bytes(64),
        "zero": b"\x04" + bytes(64),
        "x-too-large": b"\x04" + b"\xff" * 32 + good[33:],
        "hybrid-form": bytes([6 + good[-1] % 2]) + good[1:],
        "compressed-padded": bytes([2 + good[-1] % 2]) + good[1:33] + bytes(32),
    }


@pytest.mark.parametrize("backend", ["chip", "file"])
@pytest.mark.parametrize("name", hostile_p256_points())
def test_a_p256_point_that_is_none_never_reaches_the_private_key(backend, name, tmp_path):
    """Off the curve, infinity, out of range, other encodings: one error, and the chip was not asked."""
    key = chip(SUITE_P256)
    provider = (
        DhKeyProvider(key) if backend == "chip" else FileKeyProvider.generate(tmp_path / "k.pem", suite=SUITE_P256)
    )
    point = hostile_p256_points()[name]
    with pytest.raises(DecryptionError, match=DECRYPTION_FAILED):
        provider.open_wrap(statement(), point + wrap_for(provider)[65:])
    assert key.asked == 0


@pytest.mark.parametrize("suite", [SUITE_X25519, SUITE_P256])
@given(data=st.data())
def test_no_wrap_makes_a_chip_raise_anything_else(suite, data):
    """Any bytes of any length, and the right length with a broken tag."""
    provider = DhKeyProvider(chip(suite))
    wrap = wrap_for(provider)
    hostile = data.draw(st.binary(max_size=120) | st.binary(min_size=len(wrap), max_size=len(wrap)))
    at = data.draw(st.integers(0, len(wrap) - 1))
    for sealed in (hostile, wrap[:at] + bytes([wrap[at] ^ 1]) + wrap[at + 1 :], wrap[:-1], wrap + b"\0"):
        with pytest.raises(DecryptionError, match=DECRYPTION_FAILED):
            provider.open_wrap(statement(), sealed)


@pytest.mark.parametrize("answer", [b"", bytes(32), b"\x01" * 31, b"\x01" * 33])
def test_a_chip_that_answers_nonsense_opens_nothing(answer):
    """Thirty-two bytes that are not zero, or nothing."""
    key = chip(SUITE_P256)
    provider = DhKeyProvider(key)
    wrap = wrap_for(provider)
    key.ecdh = lambda point: answer  # type: ignore[method-assign]
    with pytest.raises(DecryptionError):
        provider.open_wrap(statement(), wrap)


def test_a_chip_cannot_pretend_to_a_hybrid_key(tmp_path):
    """A Diffie-Hellman chip has no ML-KEM."""
    hybrid = FileKeyProvider.generate(tmp_path / "k.pem", suite=SUITE_HYBRID)

    class Pretender(ChipKey):
        def public_key(self) -> bytes:
            return hybrid.public_key()

    with pytest.raises(KeyUnavailableError):
        DhKeyProvider(Pretender(X25519PrivateKey.generate()))
