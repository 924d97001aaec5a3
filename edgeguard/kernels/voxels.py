"""Voxel grid: which cubes of space are occupied, and the mean of the points in each.

Three plain passes: keys, numbers, sums. Rows are addressed through a flat view with unsigned indices, because numba's
test for negative ones keeps a loop from being vectorised.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.scratch import Scratch

HALF = 1 << 20  # voxels per half axis; 21 bits per coordinate fill an int64 key
NOWHERE = -1  # key of a point that is not finite or beyond the grid
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: Fibonacci hashing
_BITS = 16  # of the first table, 768 KiB: a street at 0.25 m fits, and it stays in the second-level cache
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_scratch = Scratch()


class VoxelTable:
    """Occupied voxels in order of first point. Its arrays are scratch memory: use them before the next table.

    key: (V,) int64. of_point: (N,) int32, the voxel of each point, -1 for none. slots, number, bits: for `find_slot`.
    """

    __slots__ = ("bits", "key", "number", "of_point", "slots")

    def __init__(self, xyz: NDArray[np.float32], voxel_m: float) -> None:
        n = xyz.shape[0]
        keys = _scratch.array("keys", n, np.int64)
        _voxel_keys(xyz.reshape(-1), voxel_m, keys)
        key = _scratch.array("voxel key", n, np.int64)
        self.of_point = _scratch.array("of point", n, np.int32)
        self.bits = _BITS
        done = voxels = 0
        while True:
            self.slots = _scratch.array(f"slots {self.bits}", 1 << self.bits, np.int64)
            self.number = _scratch.array(f"number {self.bits}", 1 << self.bits, np.int32)
            done, voxels = _number(keys, done, self.of_point, key, voxels, self.slots, self.number, self.bits)
            if done == n:
                break
            self.bits += 2
        self.key = key[:voxels]


@njit("void(f4[::1], f8, i8[::1])", cache=True, nogil=True)
def _voxel_keys(flat: NDArray[np.float32], voxel_m: float, keys: NDArray[np.int64]) -> None:
    """21 bits each of floor(coordinate * (1 / voxel_m) + HALF), rounded to double precision; NOWHERE if outside."""
    inverse = 1.0 / voxel_m
    half = float(HALF)
    top = float(2 * HALF - 1)
    for i in range(np.uint64(keys.shape[0])):
        j = i * _THREE
        x = float(flat[j]) * inverse + half
        y = float(flat[j + _ONE]) * inverse + half
        z = float(flat[j + _TWO]) * inverse + half
        inside = (x >= 1.0) & (x < top) & (y >= 1.0) & (y < top) & (z >= 1.0) & (z < top)
        key = (np.int64(np.int32(x)) << 42) | (np.int64(np.int32(y)) << 21) | np.int64(np.int32(z))
        keys[i] = key if inside else NOWHERE


@njit("u8(i8[::1], i8, u8)", cache=True, nogil=True)
def find_slot(slots: NDArray[np.int64], key: int, bits: int) -> int:
    """Where a table of 2**bits has a key, or the free place where it belongs. It is never full.

    The top bits of the product are taken: the lower ones know nothing of the key's upper ones.
    """
    mask = np.uint64(slots.shape[0]) - _ONE
    slot = (np.uint64(key) * _MIX) >> (np.uint64(64) - np.uint64(bits))
    while slots[slot] != key and slots[slot] >= 0:
        slot = (slot + _ONE) & mask
    return slot  # type: ignore[return-value]  # numba hands Python an int


@njit("UniTuple(i8, 2)(i8[::1], i8, i4[::1], i8[::1], i8, i8[::1], i4[::1], u8)", cache=True, nogil=True)
def _number(
    keys: NDArray[np.int64],
    first: int,
    of_point: NDArray[np.int32],
    voxel_key: NDArray[np.int64],
    voxels: int,
    slots: NDArray[np.int64],
    number: NDArray[np.int32],
    bits: int,
) -> tuple[int, int]:
    """Number the voxels of points from `first` on, in a table made anew of the `voxels` known so far.

    Returns the point where the table was half full, or the number of points; and the number of voxels.
    """
    slots[:] = NOWHERE
    for v in range(voxels):
        slot = find_slot(slots, voxel_key[v], bits)
        slots[slot] = voxel_key[v]
        number[slot] = v
    for i in range(np.uint64(first), np.uint64(keys.shape[0])):
        key = keys[i]
        if key < 0:
            of_point[i] = -1
            continue
        slot = find_slot(slots, key, bits)
        if slots[slot] < 0:
            if 2 * (voxels + 1) > slots.shape[0]:
                return int(i), voxels
            slots[slot] = key
            number[slot] = voxels
            voxel_key[voxels] = key
            voxels += 1
        of_point[i] = number[slot]
    return keys.shape[0], voxels


@njit("UniTuple(i8, 2)(f4[::1], i8[::1], i8, i8[::1], f8[:,::1], i8, i4[::1], u8)", cache=True, nogil=True)
def _add_up(
    flat: NDArray[np.float32],
    keys: NDArray[np.int64],
    first: int,
    voxel_key: NDArray[np.int64],
    sums: NDArray[np.float64],
    voxels: int,
    slots: NDArray[np.int32],
    bits: int,
) -> tuple[int, int]:
    """Add each point from `first` on to its voxel's sums, in a table of numbers (from 1) made anew of those known.

    A slot is four bytes, so that the table stays in the second-level cache beside the sums; the key is asked of the
    voxel itself. Neighbours in a sweep often share one: they are added up in registers first. Returns as `_number`.
    """
    slots[:] = 0
    mask = np.uint64(slots.shape[0]) - _ONE
    shift = np.uint64(64) - np.uint64(bits)
    for known in range(np.uint64(1), np.uint64(voxels + 1)):
        slot = (np.uint64(voxel_key[known]) * _MIX) >> shift
        while slots[slot] != 0:
            slot = (slot + _ONE) & mask
        slots[slot] = np.int32(known)
    last = np.int64(NOWHERE)
    v = np.uint64(0)
    x = y = z = count = 0.0
    for i in range(np.uint64(first), np.uint64(keys.shape[0])):
        key = keys[i]
        if key < 0:
            continue
        if key != last:
            sums[v, 0] += x  # before the first one, nothing to the sums of nobody
            sums[v, 1] += y
            sums[v, 2] += z
            sums[v, 3] += count
            x = y = z = count = 0.0
            slot = (np.uint64(key) * _MIX) >> shift
            v = np.uint64(slots[slot])
            while voxel_key[v] != key:
                if v == 0:
                    if 2 * (voxels + 1) > slots.shape[0]:
                        return np.int64(i), voxels  # type: ignore[return-value]  # numba hands Python an int
                    voxels += 1
                    v = np.uint64(voxels)
                    slots[slot] = np.int32(v)
                    voxel_key[v] = key
                    sums[v, 0] = sums[v, 1] = sums[v, 2] = sums[v, 3] = 0.0
                    break
                slot = (slot + _ONE) & mask
                v = np.uint64(slots[slot])
            last = key
        j = i * _THREE
        x += flat[j]
        y += flat[j + _ONE]
        z += flat[j + _TWO]
        count += 1.0
    sums[v, 0] += x
    sums[v, 1] += y
    sums[v, 2] += z
    sums[v, 3] += count
    return keys.shape[0], voxels


@njit("void(f8[:,::1], f4[:,::1])", cache=True, nogil=True, error_model="numpy")
def _means(sums: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    for u in range(np.uint64(out.shape[0])):
        count = 1.0 / sums[u, 3]
        out[u, 0] = np.float32(sums[u, 0] * count)
        out[u, 1] = np.float32(sums[u, 1] * count)
        out[u, 2] = np.float32(sums[u, 2] * count)


def thin_points(xyz: NDArray[np.float32], voxel_m: float) -> NDArray[np.float32]:
    """One point per occupied voxel: the mean of its points, (M, 3) float32, in order of first point.

    xyz: (N, 3) float32, C-contiguous, metres. Gives near and far surfaces equal say per area. Points that are not
    finite or beyond a million voxels from the origin are left out. Sums are taken in double precision.
    """
    n = xyz.shape[0]
    flat = xyz.reshape(-1)
    keys = _scratch.array("keys", n, np.int64)
    _voxel_keys(flat, voxel_m, keys)
    key = _scratch.array("voxel key", n + 1, np.int64)
    key[0] = NOWHERE  # what an empty slot stands for is no voxel's
    sums = _scratch.array("sums", 4 * (n + 1), np.float64).reshape(n + 1, 4)
    bits, done, voxels = _BITS, 0, 0
    while True:
        slots = _scratch.array(f"numbers {bits}", 1 << bits, np.int32)
        done, voxels = _add_up(flat, keys, done, key, sums, voxels, slots, bits)
        if done == n:
            break
        bits += 2
    out = np.empty((voxels, 3), dtype=np.float32)
    _means(sums[1 : voxels + 1], out)
    return out
