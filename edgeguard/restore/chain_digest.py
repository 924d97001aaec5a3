"""What evidence calls a chain: the digest of what it says."""

from __future__ import annotations

import hashlib

import msgspec


def digest_of(chain: object) -> str:
    """SHA-256 of a chain, or of several in order, as canonical JSON; hex. chain: msgspec structs."""
    return hashlib.sha256(msgspec.json.encode(chain, order="deterministic")).hexdigest()
