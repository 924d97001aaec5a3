"""Pairs of returns that one firing of a spinning lidar cannot have given: same ring, same direction, other range.

A ring fires at even steps of azimuth, so two of its returns closer than a part of a step came from one firing, or one
of them from elsewhere. Directions are compared as diamond angles, y / (|x| + |y|) folded to 0..4: a division each, and
a step of azimuth is half a step of it to a whole one.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.scratch import Scratch

SECTORS = 36  # of diamond angle: 7 to 14 degrees each
MAX_RINGS = 256  # twice what the densest spinning lidar has; others are not looked at
MIN_STEP_RAD, MAX_STEP_RAD = 5e-4, 2e-2  # 0.03 to 1.1 degrees: bounds the table to 16 MB
MIN_REACH_M, MAX_REACH_M = 2.0, 500.0  # nearer, offsets between the lasers of a head turn directions by a step
CLOSE_SHARE = 0.35  # of a step; encoders jitter by hundredths of a degree, a tenth of the finest step
OTHER_M, OTHER_RATIO = 0.5, 0.05  # the same surface seen again, at the seam of a turn, is no other range
_EMPTY = np.float32(-1e9)
_THREE = np.uint64(3)
_ONE = np.uint64(1)
_scratch = Scratch()


@njit("i8[:,::1](f4[::1], i2[::1], f8, i8, i8, f4[::1], f4[::1])", cache=True, nogil=True, error_model="numpy")
def _count(
    flat: NDArray[np.float32],
    ring: NDArray[np.int16],
    close_rad: float,
    rings: int,
    cells: int,
    held: NDArray[np.float32],
    reach: NDArray[np.float32],
) -> NDArray[np.int64]:
    """held, reach: scratch, the last direction and horizontal range of each cell; a ring's ends are kept at both."""
    held[:] = _EMPTY
    out = np.zeros((2, SECTORS), np.int64)
    width = cells + 2
    scale, sector, limit = np.float32(cells / 4.0), np.float32(SECTORS / 4.0), np.float32(close_rad)
    near2, far2 = np.float32(MIN_REACH_M * MIN_REACH_M), np.float32(MAX_REACH_M * MAX_REACH_M)
    for i in range(np.uint64(ring.shape[0])):
        x, y = flat[i * _THREE], flat[i * _THREE + _ONE]
        rho2 = x * x + y * y
        k = np.int64(ring[i])
        if not ((rho2 >= near2) & (rho2 <= far2) & (k >= 0) & (k < rings)):  # NaN as well
            continue
        side = abs(x) + abs(y)
        t = y / side
        d = np.float32(2.0) - t if x < np.float32(0.0) else (t if t >= np.float32(0.0) else np.float32(4.0) + t)
        close = limit * rho2 / (side * side)
        c = min(int(d * scale), cells - 1)
        q = np.uint64(k * width + 1 + c)
        before, here, after = held[q - _ONE], held[q], held[q + _ONE]
        if (abs(here - d) < close) | (abs(before - d) < close) | (abs(after - d) < close):
            r = np.sqrt(rho2)
            other = np.float32(OTHER_M) + np.float32(OTHER_RATIO) * r
            far = (abs(here - d) < close) & (abs(reach[q] - r) > other)
            far |= (abs(before - d) < close) & (abs(reach[q - _ONE] - r) > other)
            far |= (abs(after - d) < close) & (abs(reach[q + _ONE] - r) > other)
            out[0 if far else 1, np.uint64(min(int(d * sector), SECTORS - 1))] += 1
        held[q], reach[q] = d, np.sqrt(rho2)
        if c == 0:
            held[q + np.uint64(cells)], reach[q + np.uint64(cells)] = d + np.float32(4.0), reach[q]
        elif c == cells - 1:
            held[q - np.uint64(cells)], reach[q - np.uint64(cells)] = d - np.float32(4.0), reach[q]
    return out


def table_cells(step_rad: float) -> int:
    """Cells per ring: half a step of azimuth each, in diamond angle, so that what is close lies in the next at most."""
    return int(8.0 / min(max(step_rad, MIN_STEP_RAD), MAX_STEP_RAD))


def count_pairs(xyz: NDArray[np.float32], ring: NDArray[np.int16], step_rad: float) -> NDArray[np.int64]:
    """Returns of each sector that follow one of their own ring in the same direction, (2, 36) int64.

    Row 0: at another range, which one firing cannot give; row 1: at the same, as where a turn's end overlaps its start.
    Sectors count counter-clockwise from straight ahead, by diamond angle. A cell of half a step to
    a whole one remembers its last return only: of three in two cells a pair may be missed, and none is made up.

    Args:
        xyz: (N, 3) float32, C-contiguous, metres, sensor frame; points that are not finite are left out.
        ring: (N,) int16; numbers outside 0..255 are left out.
        step_rad: between two firings of a ring, clipped to 0.03 to 1.1 degrees.
    """
    rings = min(max(int(ring.max(initial=-1)) + 1, 0), MAX_RINGS)
    cells = table_cells(step_rad)
    size = rings * (cells + 2)
    held, reach = _scratch.array("held", size, np.float32), _scratch.array("reach", size, np.float32)
    step = min(max(step_rad, MIN_STEP_RAD), MAX_STEP_RAD)
    pairs: NDArray[np.int64] = _count(xyz.reshape(-1), ring, CLOSE_SHARE * step, rings, cells, held, reach)
    return pairs
