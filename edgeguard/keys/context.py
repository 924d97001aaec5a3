"""Byte strings that bind a key to its use. docs/formats/bundle.md sections 1, 5 and 6."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SUITE_X25519 = "hpke-base/x25519/hkdf-sha256/aes-256-gcm"
WRAP_BYTES = 80  # enc 32, CEK 32, tag 16
CEK_BYTES = 32
KID_BYTES = 16  # 128 bits: no two devices of a fleet share one, and it fits a file name


def length_prefixed(*fields: str | bytes) -> bytes:
    """Join fields so that no two different lists give the same bytes: 4-byte big-endian length before each."""
    raw = [f.encode() if isinstance(f, str) else f for f in fields]
    return b"".join(len(f).to_bytes(4, "big") + f for f in raw)


def wrap_info(*, identity: bytes, fleet_id: str, model_id: str, kid: str, suite: str) -> bytes:
    """Return HPKE `info` of a wrap: it opens only for this statement, fleet, model, device and suite."""
    return length_prefixed("edgeguard/v1/cek", identity, fleet_id, model_id, kid, suite)


def spki_der(public_key: X25519PublicKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a device key."""
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def kid_of(public_key_der: bytes) -> str:
    """Return the name of a device key inside a bundle: truncated SHA-256 of its DER form, in hex."""
    return hashlib.sha256(public_key_der).digest()[:KID_BYTES].hex()


def fingerprint_of(public_key_der: bytes) -> str:
    """Return what two people compare at enrolment: the whole SHA-256, hex, in groups of eight."""
    digest = hashlib.sha256(public_key_der).hexdigest()
    return " ".join(digest[i : i + 8] for i in range(0, len(digest), 8))


def hkdf_sha256(secret: bytes | memoryview, info: bytes) -> bytes:
    """Derive 32 bytes for the one purpose that `info` names (RFC 5869, no salt)."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)
