"""Height of every point above a ground that may slope.

Each azimuth sector is walked outward over the lowest return of each radial bin; a bin extends the ground when the step
from the last one is within what a drivable surface allows, after Himmelsbach et al. (IV 2010), without line fitting.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.angles import fast_atan2_single
from edgeguard.kernels.scratch import Scratch

SECTORS = 120  # 3 deg: a car at 20 m covers about five, so gaps beside it keep the ground alive
BINS = 80  # 1 m each
STEP_M = 0.25  # a kerb plus noise
SLOPE = 0.15  # steepest public roads are near 0.2; relative change between neighbouring bins is smaller
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_scratch = Scratch()


@njit("void(f4[::1], i4[::1])", cache=True, nogil=True, error_model="numpy")
def _cells(flat: NDArray[np.float32], cell: NDArray[np.int32]) -> None:
    """Sector and bin of each point as one number; -1 for points that are not finite or farther than the grid."""
    scale = np.float32(SECTORS / (2.0 * np.pi))
    for i in range(np.uint64(cell.shape[0])):
        j = i * _THREE
        x, y, z = flat[j], flat[j + _ONE], flat[j + _TWO]
        rho = np.sqrt(x * x + y * y)
        s = np.int32((fast_atan2_single(y, x) + np.float32(np.pi)) * scale)
        s = np.int32(0) if s >= SECTORS else s  # exactly behind
        inside = (rho < np.float32(BINS)) & (abs(z) < np.float32(np.inf))
        cell[i] = s * np.int32(BINS) + np.int32(rho) if inside else np.int32(-1)


@njit("void(f8[::1], f8)", cache=True, nogil=True)
def walk_ground(ground: NDArray[np.float64], lidar_height_m: float) -> None:
    """Turn the lowest return of each sector's bins, inf for none, into the level of the ground there, in place."""
    for s in range(SECTORS):
        level = -lidar_height_m
        last = 0
        for b in range(BINS):
            low = ground[s * BINS + b]
            if low < np.inf and abs(low - level) <= STEP_M + SLOPE * (b - last):
                level = low
                last = b
            ground[s * BINS + b] = level


@njit("void(f4[::1], i4[::1], f8, f8[::1], f4[::1])", cache=True, nogil=True)
def _heights(
    flat: NDArray[np.float32],
    cell: NDArray[np.int32],
    lidar_height_m: float,
    ground: NDArray[np.float64],
    height: NDArray[np.float32],
) -> None:
    """Walk the ground and subtract it. ground: SECTORS * BINS, written."""
    ground[:] = np.inf
    for i in range(np.uint64(cell.shape[0])):
        if cell[i] >= 0:
            c = np.uint64(cell[i])
            ground[c] = min(ground[c], np.float64(flat[i * _THREE + _TWO]))
    walk_ground(ground, lidar_height_m)
    for i in range(np.uint64(cell.shape[0])):
        known = cell[i] >= 0
        level = ground[np.uint64(cell[i]) if known else np.uint64(0)]
        height[i] = np.float32(np.float64(flat[i * _THREE + _TWO]) - level if known else np.nan)


def height_above_ground(xyz: NDArray[np.float32], lidar_height_m: float) -> NDArray[np.float32]:
    """Height of each point above the local ground.

    Args:
        xyz: (N, 3) float32, C-contiguous, metres, sensor frame (z up).
        lidar_height_m: of the sensor above the ground it stands on; where each walk starts.

    Returns (N,) float32 metres; NaN for points that are not finite or farther than the grid.
    """
    flat = xyz.reshape(-1)
    cell = _scratch.array("cell", xyz.shape[0], np.int32)
    _cells(flat, cell)
    height = np.empty(xyz.shape[0], dtype=np.float32)
    _heights(flat, cell, lidar_height_m, _scratch.array("ground", SECTORS * BINS, np.float64), height)
    return height
