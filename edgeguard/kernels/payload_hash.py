"""A fast 64-bit hash of whole payloads, to recognise one that comes again. It is NOT cryptographic.

Multiply and fold, as in the family of xxHash: 64 lanes of 8 bytes, each keyed, its halves multiplied and added to the
lane's sum, which turns from stripe to stripe so that order counts. It runs at the speed of memory. Who knows the seed
can make two payloads collide; the seed is drawn anew by each process, and all that a collision gives is a false repeat.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

LANES = 64  # 512 bytes a stripe: four sums of the widest vectors are enough to hide a multiplication's latency
_LOW = np.uint64(0xFFFFFFFF)
_UP = np.uint64(32)
_TURN, _REST = np.uint64(13), np.uint64(51)
_MIX1, _MIX2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)  # MurmurHash3's finaliser
_SHIFT = np.uint64(33)


@njit("u8(u8[::1], u8[::1], u8, u8[::1])", cache=True, nogil=True)
def _fold(words: NDArray[np.uint64], keys: NDArray[np.uint64], length: int, sums: NDArray[np.uint64]) -> int:
    stripes = words.shape[0] // LANES
    for i in range(np.uint64(LANES)):  # copying an array into another would compile half of numba's strings
        sums[i] = keys[i]
    for s in range(stripes):
        stripe = words[s * LANES : (s + 1) * LANES]
        for i in range(np.uint64(LANES)):
            v = stripe[i] ^ keys[i]
            a = sums[i]
            sums[i] = ((a << _TURN) | (a >> _REST)) + (v & _LOW) * (v >> _UP) + v
    for i in range(np.uint64(words.shape[0] - stripes * LANES)):
        v = words[np.uint64(stripes * LANES) + i] ^ keys[i]
        a = sums[i]
        sums[i] = ((a << _TURN) | (a >> _REST)) + (v & _LOW) * (v >> _UP) + v
    total = np.uint64(length)
    for i in range(np.uint64(LANES)):
        total = (total ^ sums[i]) * _MIX1
        total ^= total >> _SHIFT
        total *= _MIX2
        total ^= total >> _SHIFT
    return total  # type: ignore[return-value]  # numba hands Python an int


def payload_keys(seed: int) -> NDArray[np.uint64]:
    """Keys of the lanes, (LANES,) uint64, from a seed."""
    return np.random.default_rng(seed).integers(0, 1 << 64, LANES, dtype=np.uint64)


def payload_hash(payload: NDArray[np.generic], keys: NDArray[np.uint64]) -> int:
    """64-bit hash of an array's bytes and their number. payload: any C-contiguous array; keys: of `payload_keys`."""
    data = _own(payload).reshape(-1).view(np.uint8)
    words = data.size // 8
    sums = np.empty(LANES, np.uint64)
    head = data[: 8 * words]
    whole = head.view(np.uint64) if head.ctypes.data % 8 == 0 else head.copy().view(np.uint64)
    found = int(_fold(whole, keys, data.size, sums))
    if data.size == 8 * words:
        return found
    rest = np.zeros(8, np.uint8)
    rest[: data.size - 8 * words] = data[8 * words :]
    return int(_fold(rest.view(np.uint64), keys, found, sums))


@njit(["i8(u1[::1], i8, i8)", "i8(f4[::1], i8, i8)"], cache=True, nogil=True)
def _count_steps(values: NDArray[np.uint8], stride: int, enough: int) -> int:
    count = 0
    for i in range(stride, values.shape[0], stride):
        count += values[i] != values[i - stride]
        if count >= enough:
            break
    return count


def differs(payload: NDArray[np.generic], stride: int, enough: int) -> bool:
    """Whether at least `enough` of every `stride`-th values differ from the one before.

    payload: C-contiguous, uint8 or float32.
    """
    flat = _own(payload).reshape(-1)
    return bool(_count_steps(flat, stride, enough) >= enough)


def _own(payload: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the array, or a copy of one that must not be written to: the kernels are compiled for those that may."""
    return payload if payload.flags.writeable else payload.copy()
