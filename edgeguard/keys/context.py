"""Suites, sizes, and the byte strings that bind a key to its use. docs/formats/bundle.md sections 1, 5 and 6."""

from __future__ import annotations

import hashlib
import re
from types import MappingProxyType

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SUITE_X25519 = "hpke-base/x25519/hkdf-sha256/aes-256-gcm"
SUITE_P256 = "hpke-base/p256/hkdf-sha256/aes-256-gcm"
SUITE_HYBRID = "hpke-base/mlkem768-x25519/hkdf-sha256/aes-256-gcm"
SUITES = (SUITE_X25519, SUITE_P256, SUITE_HYBRID)
POST_QUANTUM_SUITES = frozenset({SUITE_HYBRID})
KEY_CLASSES = ("file", "device-bound", "hardware")  # weakest first

CEK_BYTES = 32
TAG_BYTES = 16
ENC_BYTES = MappingProxyType({SUITE_X25519: 32, SUITE_P256: 65, SUITE_HYBRID: 1120})
# enc, CEK, tag: the exact size of a wrap.
WRAP_BYTES = MappingProxyType({suite: enc + CEK_BYTES + TAG_BYTES for suite, enc in ENC_BYTES.items()})
KID_BYTES = 16  # 128 bits: no two devices of a fleet share one, and it fits a file name
_LABEL = re.compile(r"\A[a-z][a-z0-9./-]{0,63}\Z")


def length_prefixed(*fields: str | bytes) -> bytes:
    """Join fields so that no two different lists give the same bytes: 4-byte big-endian length before each."""
    raw = [f.encode() if isinstance(f, str) else f for f in fields]
    return b"".join(len(f).to_bytes(4, "big") + f for f in raw)


def wrap_info(*, identity: bytes, fleet_id: str, model_id: str, kid: str, suite: str) -> bytes:
    """Return HPKE `info` of a wrap: it opens only for this statement, fleet, model, device and suite."""
    return length_prefixed("edgeguard/v1/cek", identity, fleet_id, model_id, kid, suite)


def challenge_info(*, fleet_id: str, request_digest: bytes, kid: str, suite: str) -> bytes:
    """Return HPKE `info` of an enrolment challenge; no wrap ever opens under it, and no challenge as a wrap."""
    return length_prefixed("edgeguard/v1/enrol-challenge", fleet_id, request_digest, kid, suite)


def derive_message(label: str) -> bytes:
    """Return what a device's key derives a secret from: one label, one purpose.

    Raises:
        ValueError: not a label.
    """
    if not _LABEL.match(label):
        raise ValueError("a label is lower-case letters, digits, dots, slashes and dashes")
    return length_prefixed("edgeguard/v1/derive", label)


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
