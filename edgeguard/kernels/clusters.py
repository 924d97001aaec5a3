"""Connected components of points over a voxel grid: two points touch when their voxels are equal or neighbours."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_HALF = 1 << 20  # voxels per half axis; 21 bits per coordinate fill an int64 key
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: Fibonacci hashing


@njit("i8(i4[::1], i8)", cache=True, nogil=True)
def _root(parent: NDArray[np.int32], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return int(i)


@njit("i8(i8[::1], i4[::1], i8, i8)", cache=True, nogil=True)
def _slot(keys: NDArray[np.int64], values: NDArray[np.int32], key: int, mask: int) -> int:
    slot = int((np.uint64(key) * _MIX) >> np.uint64(32)) & mask
    while values[slot] >= 0 and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@njit("i8(i8)", cache=True, nogil=True)
def _table_size(points: int) -> int:
    """Power of two that stays at most half full, so that probing is short and ends."""
    size = 16
    while size < 2 * points:
        size *= 2
    return size


@njit("i8(f4, f4, f4, f8)", cache=True, nogil=True)
def _voxel_key(x: float, y: float, z: float, voxel_m: float) -> int:
    """Key of the voxel of a point; -1 for points that are not finite or absurdly far."""
    fx = np.floor(float(x) / voxel_m)
    fy = np.floor(float(y) / voxel_m)
    fz = np.floor(float(z) / voxel_m)
    if not (abs(fx) < _HALF - 1 and abs(fy) < _HALF - 1 and abs(fz) < _HALF - 1):
        return -1
    return ((int(fx) + _HALF) << 42) | ((int(fy) + _HALF) << 21) | (int(fz) + _HALF)


@njit("Tuple((i4[::1], i8))(f4[:,::1], f8)", cache=True, nogil=True)
def cluster_points(xyz: NDArray[np.float32], voxel_m: float) -> tuple[NDArray[np.int32], int]:
    """Label connected points.

    Args:
        xyz: (N, 3) float32, metres.
        voxel_m: edge length; points up to one voxel apart always connect, more than two voxels per axis never do.

    Returns labels (N,) int32 counted from 0 in order of first point, -1 for points that are not finite or beyond
    a million voxels from the origin; and the number of clusters.
    """
    n = xyz.shape[0]
    labels = np.full(n, -1, dtype=np.int32)
    size = _table_size(n)
    mask = size - 1
    keys = np.zeros(size, dtype=np.int64)
    values = np.full(size, -1, dtype=np.int32)
    voxel_of = np.full(n, -1, dtype=np.int32)
    voxel_key = np.empty(n, dtype=np.int64)
    parent = np.empty(n, dtype=np.int32)
    voxels = 0
    for i in range(n):
        key = _voxel_key(xyz[i, 0], xyz[i, 1], xyz[i, 2], voxel_m)
        if key < 0:
            continue
        slot = _slot(keys, values, key, mask)
        if values[slot] < 0:
            keys[slot] = key
            values[slot] = voxels
            voxel_key[voxels] = key
            parent[voxels] = voxels
            voxels += 1
        voxel_of[i] = values[slot]
    for v in range(voxels):
        for dx in range(-1, 2):
            for dy in range(-1, 2):
                for dz in range(-1, 2):
                    step = (dx << 42) + (dy << 21) + dz
                    if step <= 0:
                        continue
                    slot = _slot(keys, values, voxel_key[v] + step, mask)
                    if values[slot] >= 0:
                        a = _root(parent, v)
                        b = _root(parent, values[slot])
                        if a != b:
                            parent[max(a, b)] = min(a, b)
    number = np.full(max(voxels, 1), -1, dtype=np.int32)
    count = 0
    for i in range(n):
        if voxel_of[i] < 0:
            continue
        root = _root(parent, voxel_of[i])
        if number[root] < 0:
            number[root] = count
            count += 1
        labels[i] = number[root]
    return labels, count


@njit("f4[:,::1](f4[:,::1], f8)", cache=True, nogil=True)
def thin_points(xyz: NDArray[np.float32], voxel_m: float) -> NDArray[np.float32]:
    """One point per occupied voxel: the mean of its points, (M, 3) float32, in order of first point.

    Gives near and far surfaces equal say per area. Points that are not finite or absurdly far are left out.
    """
    n = xyz.shape[0]
    size = _table_size(n)
    mask = size - 1
    keys = np.zeros(size, dtype=np.int64)
    values = np.full(size, -1, dtype=np.int32)
    sums = np.zeros((n, 4), dtype=np.float64)
    voxels = 0
    for i in range(n):
        key = _voxel_key(xyz[i, 0], xyz[i, 1], xyz[i, 2], voxel_m)
        if key < 0:
            continue
        slot = _slot(keys, values, key, mask)
        if values[slot] < 0:
            keys[slot] = key
            values[slot] = voxels
            voxels += 1
        v = values[slot]
        sums[v, 0] += xyz[i, 0]
        sums[v, 1] += xyz[i, 1]
        sums[v, 2] += xyz[i, 2]
        sums[v, 3] += 1.0
    out = np.empty((voxels, 3), dtype=np.float32)
    for v in range(voxels):
        for a in range(3):
            out[v, a] = np.float32(sums[v, a] / sums[v, 3])
    return out
