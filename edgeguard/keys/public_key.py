"""Public keys of devices: three kinds, one encoding each. docs/formats/fleet.md section 1."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PublicKey, Suite

from edgeguard.errors import KeyUnavailableError
from edgeguard.keys.context import SUITE_HYBRID, SUITE_P256, SUITE_X25519, SUITES, kid_of

_KEMS = MappingProxyType({
    SUITE_X25519: KEM.X25519,
    SUITE_P256: KEM.P256,
    SUITE_HYBRID: KEM.MLKEM768_X25519,
})  # fmt: skip

MLKEM768_BYTES = 1184
X25519_BYTES = 32
# SubjectPublicKeyInfo of an X-Wing key (OID 1.3.6.1.4.1.62253.25722, draft-connolly-cfrg-xwing-kem), up to the raw key
# `ML-KEM-768 || X25519`. Its length is fixed, so its header is a constant.
XWING_HEADER = bytes.fromhex("308204d4300d060b2b0601040183e62d81c87a038204c100")

_Key = X25519PublicKey | EllipticCurvePublicKey | MLKEM768X25519PublicKey


@dataclass(frozen=True, slots=True)
class DevicePublicKey:
    """A device's public key. der: its one encoding; point: its Diffie-Hellman part (32 bytes, or 65 for P-256)."""

    suite: str
    der: bytes
    point: bytes
    key: _Key

    @property
    def kid(self) -> str:
        """Name of the key inside bundles."""
        return kid_of(self.der)

    def seal(self, secret: bytes | memoryview, info: bytes) -> bytes:
        """Return `enc || ciphertext` of HPKE base mode."""
        return hpke_suite(self.suite).encrypt(secret, self.key, info=info)


@lru_cache(maxsize=len(SUITES))
def hpke_suite(name: str) -> Suite:
    """Return the library's HPKE for a suite; made when asked for, because not every build has ML-KEM."""
    return Suite(_KEMS[name], KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def of_x25519(key: X25519PublicKey) -> DevicePublicKey:
    """Return the value for an X25519 key."""
    return DevicePublicKey(SUITE_X25519, _spki(key), key.public_bytes_raw(), key)


def of_p256(key: EllipticCurvePublicKey) -> DevicePublicKey:
    """Return the value for a P-256 key."""
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return DevicePublicKey(SUITE_P256, _spki(key), point, key)


def of_hybrid(mlkem: MLKEM768PublicKey, x25519: X25519PublicKey) -> DevicePublicKey:
    """Return the value for an ML-KEM-768 and an X25519 key used together."""
    point = x25519.public_bytes_raw()
    der = XWING_HEADER + mlkem.public_bytes_raw() + point
    return DevicePublicKey(SUITE_HYBRID, der, point, MLKEM768X25519PublicKey(mlkem, x25519))


def parse_public_key(der: bytes) -> DevicePublicKey:
    """Return the key of a SubjectPublicKeyInfo.

    Raises:
        KeyUnavailableError: EG-K006, no key of a known suite, an invalid point, or not the one encoding of the key.
    """
    found: DevicePublicKey | None = None
    with suppress(Exception):  # hostile DER: whatever the library raises is one refusal
        found = _parse_hybrid(der) if der.startswith(XWING_HEADER) else _parse_curve(der)
    if found is None or found.der != der:
        raise KeyUnavailableError("the public key is not one that this format knows", code="EG-K006")
    return found


def _parse_hybrid(der: bytes) -> DevicePublicKey:
    raw = der[len(XWING_HEADER) :]
    if len(raw) != MLKEM768_BYTES + X25519_BYTES:
        raise ValueError("wrong length")
    mlkem = MLKEM768PublicKey.from_public_bytes(raw[:MLKEM768_BYTES])
    return of_hybrid(mlkem, X25519PublicKey.from_public_bytes(raw[MLKEM768_BYTES:]))


def _parse_curve(der: bytes) -> DevicePublicKey | None:
    key = serialization.load_der_public_key(der)
    if isinstance(key, X25519PublicKey):
        return of_x25519(key)
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return of_p256(key)
    return None


def _spki(key: X25519PublicKey | EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
