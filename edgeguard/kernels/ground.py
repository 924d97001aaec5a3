"""Height of every point above a ground that may slope.

Each azimuth sector is walked outward over the lowest return of each radial bin; a bin extends the ground when the step
from the last one is within what a drivable surface allows, after Himmelsbach et al. (IV 2010), without line fitting.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

SECTORS = 120  # 3 deg: a car at 20 m covers about five, so gaps beside it keep the ground alive
BINS = 80  # 1 m each
STEP_M = 0.25  # a kerb plus noise
SLOPE = 0.15  # steepest public roads are near 0.2; relative change between neighbouring bins is smaller


@njit("f4[::1](f4[:,::1], f8)", cache=True, nogil=True)
def height_above_ground(xyz: NDArray[np.float32], lidar_height_m: float) -> NDArray[np.float32]:
    """Height of each point above the local ground.

    Args:
        xyz: (N, 3) float32, metres, sensor frame (z up).
        lidar_height_m: of the sensor above the ground it stands on; where each walk starts.

    Returns (N,) float32 metres; NaN for points that are not finite or farther than the grid.
    """
    n = xyz.shape[0]
    lowest = np.full((SECTORS, BINS), np.inf, dtype=np.float64)
    cell = np.full(n, -1, dtype=np.int32)
    scale = SECTORS / (2.0 * np.pi)
    for i in range(n):
        x = float(xyz[i, 0])
        y = float(xyz[i, 1])
        z = float(xyz[i, 2])
        rho = np.sqrt(x * x + y * y)
        if not (rho < BINS and abs(z) < np.inf):
            continue
        s = int((np.arctan2(y, x) + np.pi) * scale) % SECTORS
        b = int(rho)
        cell[i] = s * BINS + b
        lowest[s, b] = min(lowest[s, b], z)
    ground = np.empty((SECTORS, BINS), dtype=np.float64)
    for s in range(SECTORS):
        level = -lidar_height_m
        last = 0
        for b in range(BINS):
            low = lowest[s, b]
            if low < np.inf:
                allowed = STEP_M + SLOPE * (b - last)
                if abs(low - level) <= allowed:
                    level = low
                    last = b
            ground[s, b] = level
    height = np.full(n, np.nan, dtype=np.float32)
    for i in range(n):
        if cell[i] >= 0:
            height[i] = np.float32(float(xyz[i, 2]) - ground[cell[i] // BINS, cell[i] % BINS])
    return height
