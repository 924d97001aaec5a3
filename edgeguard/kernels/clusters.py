"""Connected components of points over a voxel grid: two points touch when their voxels are equal or neighbours.

The fast clustering for a frame's budget: no distance is ever computed. `dbscan` is the exact one.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.scratch import Scratch
from edgeguard.kernels.voxels import VoxelTable, find_slot

_scratch = Scratch()


@njit("i8(i4[::1], i8)", cache=True, nogil=True)
def find_root(parent: NDArray[np.int32], i: int) -> int:
    """Root of an element of a union-find forest; the path to it is halved."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return int(i)


@njit("void(i8[::1], i8[::1], i4[::1], u8, i4[::1])", cache=True, nogil=True)
def _join(
    voxel_key: NDArray[np.int64],
    slots: NDArray[np.int64],
    number: NDArray[np.int32],
    bits: int,
    parent: NDArray[np.int32],
) -> None:
    for v in range(voxel_key.shape[0]):
        parent[v] = v
    for v in range(voxel_key.shape[0]):
        for dx in range(-1, 2):
            for dy in range(-1, 2):
                for dz in range(-1, 2):
                    step = (dx << 42) + (dy << 21) + dz
                    if step <= 0:
                        continue
                    slot = find_slot(slots, voxel_key[v] + step, bits)
                    if slots[slot] >= 0:
                        a = find_root(parent, v)
                        b = find_root(parent, number[slot])
                        if a != b:
                            parent[max(a, b)] = min(a, b)


@njit("i8(i4[::1], i4[::1], i4[::1], i4[::1])", cache=True, nogil=True)
def _label(
    voxel_of: NDArray[np.int32], parent: NDArray[np.int32], name: NDArray[np.int32], labels: NDArray[np.int32]
) -> int:
    """Number the components in order of first point. name: one element per voxel, written."""
    name[:] = -1
    count = 0
    for i in range(voxel_of.shape[0]):
        if voxel_of[i] < 0:
            labels[i] = -1
            continue
        root = find_root(parent, voxel_of[i])
        if name[root] < 0:
            name[root] = count
            count += 1
        labels[i] = name[root]
    return count


def cluster_points(xyz: NDArray[np.float32], voxel_m: float) -> tuple[NDArray[np.int32], int]:
    """Label connected points.

    Args:
        xyz: (N, 3) float32, C-contiguous, metres.
        voxel_m: edge length; points up to one voxel apart always connect, more than two voxels per axis never do.

    Returns labels (N,) int32 counted from 0 in order of first point, -1 for points that are not finite or beyond
    a million voxels from the origin; and the number of clusters.
    """
    table = VoxelTable(xyz, voxel_m)
    voxels = table.key.shape[0]
    parent = _scratch.array("parent", voxels, np.int32)
    _join(table.key, table.slots, table.number, table.bits, parent)
    labels = np.empty(xyz.shape[0], dtype=np.int32)
    return labels, int(_label(table.of_point, parent, _scratch.array("name", voxels, np.int32), labels))
