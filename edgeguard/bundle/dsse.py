"""What every DSSE envelope needs, with no key and no trust: the bytes that are signed, and strict base64.

Apart from `signature`, so that a folder is verified with a public key without loading the trust metadata's library.
"""

from __future__ import annotations

import base64
import binascii

from edgeguard.errors import BundleFormatError

STATEMENT_TYPE = "application/vnd.in-toto+json"


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the DSSE v1 pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def from_base64(text: str, *, what: str) -> bytes:
    """Decode standard base64; one spelling only, so that no flipped bit goes unseen.

    Raises:
        BundleFormatError: EG-B004, empty, or not what an encoder would write.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not raw or base64.b64encode(raw).decode() != text:
        raise BundleFormatError(f"{what} holds malformed base64", code="EG-B004")
    return raw
