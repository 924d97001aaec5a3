"""HPKE for a receiver whose private key is elsewhere: a token computes the Diffie-Hellman value, the rest is here.

RFC 9180, base mode, DHKEM with HKDF-SHA256: sections 4.1 (Decap, ExtractAndExpand), 5.1 (KeySchedule) and 5.2 (one
message, sequence number 0). Keys in memory use the library's own HPKE; this module exists for TPM 2.0 and PKCS#11.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from edgeguard.harden.memory import wipe_bytes

_HKDF_SHA256 = b"\x00\x01"
_MODE_BASE = b"\x00"
_SECRET_BYTES = 32
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class Kem:
    """A Diffie-Hellman KEM. id: RFC 9180 section 7.1; point_bytes: of `enc` and of a public key."""

    id: int
    point_bytes: int


@dataclass(frozen=True, slots=True)
class Aead:
    """An AES-GCM. id: RFC 9180 section 7.3."""

    id: int
    key_bytes: int


X25519 = Kem(0x0020, 32)
P256 = Kem(0x0010, 65)
AES_128_GCM = Aead(0x0001, 16)  # the RFC's own vectors use it
AES_256_GCM = Aead(0x0002, 32)


def require_point(kem: Kem, point: bytes) -> None:
    """Check a stranger's point before it reaches the private key (RFC 9180 section 7.1.4).

    Raises:
        ValueError: wrong length, compressed, the point at infinity, or not on the curve.
    """
    if len(point) != kem.point_bytes:
        raise ValueError("a point of another length")
    if kem is P256:
        EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point)
    else:
        X25519PublicKey.from_public_bytes(point)


def require_shared(dh: bytes) -> None:
    """Check what the token computed: 32 bytes, and not zero, which X25519 gives for points of low order.

    Raises:
        ValueError: otherwise.
    """
    if len(dh) != _SECRET_BYTES or hmac.compare_digest(dh, bytes(_SECRET_BYTES)):
        raise ValueError("no usable shared value")


def open_base(kem: Kem, aead: Aead, *, dh: bytes, enc: bytes, public_point: bytes, info: bytes, sealed: bytes) -> bytes:
    """Return the plaintext of the one message of a base-mode context; aad is empty.

    Args:
        dh: Diffie-Hellman value of the private key and `enc`; for P-256 the x coordinate.
        public_point: the receiver's own public key, encoded as `enc` is.

    Raises:
        InvalidTag: not sealed for this key, info or suite.
    """
    secret = extract_and_expand(kem, dh, enc + public_point)
    key, nonce = key_schedule(kem, aead, secret, info)
    wipe_bytes(secret)
    cipher = AESGCM(key)
    wipe_bytes(key)
    return cipher.decrypt(nonce, sealed, None)


def extract_and_expand(kem: Kem, dh: bytes, kem_context: bytes) -> bytes:
    """Return the KEM's shared secret (section 4.1)."""
    suite = b"KEM" + kem.id.to_bytes(2, "big")
    return _expand(suite, _extract(suite, b"", b"eae_prk", dh), b"shared_secret", kem_context, _SECRET_BYTES)


def key_schedule(kem: Kem, aead: Aead, shared_secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Return AEAD key and base nonce of base mode (section 5.1)."""
    suite = b"HPKE" + kem.id.to_bytes(2, "big") + _HKDF_SHA256 + aead.id.to_bytes(2, "big")
    context = _MODE_BASE + _extract(suite, b"", b"psk_id_hash", b"") + _extract(suite, b"", b"info_hash", info)
    secret = _extract(suite, shared_secret, b"secret", b"")
    key = _expand(suite, secret, b"key", context, aead.key_bytes)
    nonce = _expand(suite, secret, b"base_nonce", context, _NONCE_BYTES)
    wipe_bytes(secret)
    return key, nonce


def _extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, "sha256")


def _expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return HKDFExpand(SHA256(), length, labeled).derive(prk)
