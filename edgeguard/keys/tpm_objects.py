"""The three TPM objects of a device key, as the exact bytes of their public areas.

A key file may have been written by somebody else, so a loaded object counts only if its public area is one that this
page would have made: the TPM guarantees that a loaded `fixedTPM` object was made inside it, and refuses to import one.
TPM 2.0 Library, Part 2: TPMT_PUBLIC (12.2.4), TPMA_OBJECT (8.3).
"""

from __future__ import annotations

from typing import Final

_FIXED_TPM, _FIXED_PARENT, _SENSITIVE_DATA_ORIGIN = 1 << 1, 1 << 4, 1 << 5
_USER_WITH_AUTH, _ADMIN_WITH_POLICY, NO_DA = 1 << 6, 1 << 7, 1 << 10
_RESTRICTED, _DECRYPT, _SIGN = 1 << 16, 1 << 17, 1 << 18
_BORN_HERE: Final = _FIXED_TPM | _FIXED_PARENT | _SENSITIVE_DATA_ORIGIN

_ALG_HMAC, _ALG_AES, _ALG_KEYEDHASH, _ALG_SHA256, _ALG_NULL = 0x05, 0x06, 0x08, 0x0B, 0x10
_ALG_ECDH, _ALG_ECC, _ALG_CFB, _CURVE_P256 = 0x19, 0x23, 0x43, 0x03
COORDINATE_BYTES: Final = 32
POLICY_BYTES: Final = 32


def primary_area() -> bytes:
    """Return the template of the owner's P-256 storage key (TCG Provisioning Guidance, SRK of template L-2's shape)."""
    attributes = _BORN_HERE | _USER_WITH_AUTH | NO_DA | _RESTRICTED | _DECRYPT
    symmetric = _u16(_ALG_AES) + _u16(128) + _u16(_ALG_CFB)
    curve = symmetric + _u16(_ALG_NULL) + _u16(_CURVE_P256) + _u16(_ALG_NULL)
    return _head(_ALG_ECC, attributes, b"") + curve + _sized(b"") + _sized(b"")


def agreement_area(policy: bytes, extra: int = 0, x: bytes = b"", y: bytes = b"") -> bytes:
    """Return the public area of the key that computes Diffie-Hellman: decrypt only, ECDH only, P-256.

    policy: empty, or the digest without which an authorisation value is worth nothing. extra: 0 or NO_DA.
    """
    curve = _u16(_ALG_NULL) + _u16(_ALG_ECDH) + _u16(_ALG_SHA256) + _u16(_CURVE_P256) + _u16(_ALG_NULL)
    return _head(_ALG_ECC, _user(policy) | _DECRYPT | extra, policy) + curve + _sized(x) + _sized(y)


def derivation_area(policy: bytes, extra: int = 0, unique: bytes = b"") -> bytes:
    """Return the public area of the key that derives secrets: HMAC-SHA-256 only."""
    scheme = _u16(_ALG_HMAC) + _u16(_ALG_SHA256)
    return _head(_ALG_KEYEDHASH, _user(policy) | _SIGN | extra, policy) + scheme + _sized(unique)


def policy_of(area: bytes) -> bytes:
    """Return the policy digest of a public area, b"" where it has none.

    Raises:
        ValueError: too short, or no digest of SHA-256.
    """
    length = int.from_bytes(area[8:10], "big")
    if len(area) < 10 + length or length not in (0, POLICY_BYTES):
        raise ValueError("no public area")
    return area[10 : 10 + length]


def attributes_of(area: bytes) -> int:
    """Return the attributes of a public area."""
    return int.from_bytes(area[4:8], "big")


def require_agreement(area: bytes) -> tuple[bytes, bytes]:
    """Return (x, y) of a public area that `agreement_area` made.

    Raises:
        ValueError: it is another kind of object.
    """
    x, y = area[-2 * COORDINATE_BYTES - 2 : -COORDINATE_BYTES - 2], area[-COORDINATE_BYTES:]
    if area != agreement_area(policy_of(area), attributes_of(area) & NO_DA, x, y):
        raise ValueError("not a decrypt-only P-256 key that was made in its TPM")
    return x, y


def require_derivation(area: bytes) -> None:
    """Check that `derivation_area` made this public area.

    Raises:
        ValueError: it is another kind of object.
    """
    if area != derivation_area(policy_of(area), attributes_of(area) & NO_DA, area[-POLICY_BYTES:]):
        raise ValueError("not an HMAC key that was made in its TPM")


def _user(policy: bytes) -> int:
    """With a policy the authorisation value alone must not do, for use or for change."""
    return _BORN_HERE | (_ADMIN_WITH_POLICY if policy else _USER_WITH_AUTH)


def _head(kind: int, attributes: int, policy: bytes) -> bytes:
    return _u16(kind) + _u16(_ALG_SHA256) + attributes.to_bytes(4, "big") + _sized(policy)


def _sized(value: bytes) -> bytes:
    return _u16(len(value)) + value


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")
