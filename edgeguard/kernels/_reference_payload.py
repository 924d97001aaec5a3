"""Twins of the payload kernels in plain Python and NumPy: oracles for the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.payload_hash import LANES

_BITS = (1 << 64) - 1


def _fold(data: bytes, keys: NDArray[np.uint64], length: int) -> int:
    sums = [int(key) for key in keys]
    for word in range(len(data) // 8):
        lane = word % LANES
        v = int.from_bytes(data[8 * word : 8 * word + 8], "little") ^ int(keys[lane])
        turned = ((sums[lane] << 13) | (sums[lane] >> 51)) & _BITS
        sums[lane] = (turned + (v & 0xFFFFFFFF) * (v >> 32) + v) & _BITS
    total = length
    for value in sums:
        total = ((total ^ value) * 0xFF51AFD7ED558CCD) & _BITS
        total ^= total >> 33
        total = (total * 0xC4CEB9FE1A85EC53) & _BITS
        total ^= total >> 33
    return total


def payload_hash(payload: NDArray[np.generic], keys: NDArray[np.uint64]) -> int:
    """Twin of `payload_hash.payload_hash`, in Python's whole numbers."""
    data = payload.tobytes()
    whole = 8 * (len(data) // 8)
    found = _fold(data[:whole], keys, len(data))
    return found if whole == len(data) else _fold(data[whole:].ljust(8, b"\0"), keys, found)


def differs(payload: NDArray[np.generic], stride: int, enough: int) -> bool:
    """Twin of `payload_hash.differs`."""
    thin = payload.reshape(-1)[::stride]
    return bool(np.count_nonzero(thin[1:] != thin[:-1]) >= enough)
