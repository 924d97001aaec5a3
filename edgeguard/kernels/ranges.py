"""Spherical range images, and what an earlier sweep says about a place: seen through, hit, hidden or unknown.

Grid: columns count counter-clockwise azimuth from -180 deg, rows count elevation upward from `EL_MIN_DEG`. Cells are
wider than the beam spacing of any 3-D lidar with 32 or more beams, so that a single cell's emptiness means little and
the 3 x 3 neighbourhood is what is asked.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

COLUMNS = 900  # 0.4 deg
ROWS = 100  # 0.5 deg, from -30 to +20 deg
EL_MIN_DEG = -30.0
EL_STEP_DEG = 0.5
MIN_RANGE_M = 0.5  # inside the housing of every lidar there is
MAX_RANGE_M = 300.0  # beyond the reach of the sensors named in the docs; also rejects inf

SEEN_THROUGH, HIT, HIDDEN, UNKNOWN = 1, 0, -1, -2
MIN_SOLID_CELLS = 4  # of the nine, for a surface in front to count as closed
MAX_SOLID_SPREAD_M = 0.6  # foliage, fences and glass show depth within one degree; bodywork and walls do not

AZ_SCALE = COLUMNS / (2.0 * np.pi)
EL_SCALE = 180.0 / np.pi / EL_STEP_DEG
EL_OFFSET = -EL_MIN_DEG / EL_STEP_DEG


@njit("Tuple((f4[::1], i2[::1], i2[::1]))(f4[:,::1])", cache=True, nogil=True)
def to_spherical(xyz: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int16], NDArray[np.int16]]:
    """Range, row and column of each point. xyz: (N, 3) float32, metres, sensor frame.

    Returns range_m (N,) float32, row (N,) int16 and column (N,) int16; row is -1 (and range 0) for points that are
    not finite, too near, too far, or outside the elevation band.
    """
    n = xyz.shape[0]
    range_m = np.zeros(n, dtype=np.float32)
    row = np.full(n, -1, dtype=np.int16)
    col = np.zeros(n, dtype=np.int16)
    for i in range(n):
        x = float(xyz[i, 0])
        y = float(xyz[i, 1])
        z = float(xyz[i, 2])
        r = np.sqrt(x * x + y * y + z * z)
        if not (r >= MIN_RANGE_M and r <= MAX_RANGE_M):
            continue
        k = np.floor(np.arcsin(z / r) * EL_SCALE + EL_OFFSET)
        if k < 0 or k >= ROWS:
            continue
        c = int((np.arctan2(y, x) + np.pi) * AZ_SCALE)
        range_m[i] = np.float32(r)
        row[i] = np.int16(k)
        col[i] = np.int16(c % COLUMNS)
    return range_m, row, col


@njit("f4[:,::1](f4[::1], i2[::1], i2[::1])", cache=True, nogil=True)
def range_image(range_m: NDArray[np.float32], row: NDArray[np.int16], col: NDArray[np.int16]) -> NDArray[np.float32]:
    """Nearest range per cell, (ROWS, COLUMNS) float32 in metres, inf where no return. Inputs from `to_spherical`."""
    image = np.full((ROWS, COLUMNS), np.inf, dtype=np.float32)
    for i in range(range_m.shape[0]):
        if row[i] >= 0 and range_m[i] < image[row[i], col[i]]:
            image[row[i], col[i]] = range_m[i]
    return image


@njit("Tuple((i1[::1], f4[::1]))(f4[:,::1], f8[:,::1], f4[:,::1], f8, f8)", cache=True, nogil=True)
def ask_sweep(
    xyz: NDArray[np.float32],
    T_ref_cur: NDArray[np.float64],
    reference: NDArray[np.float32],
    margin_m: float,
    margin_ratio: float,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Ask an earlier sweep what it knew about places.

    Args:
        xyz: (N, 3) float32, metres, current sensor frame.
        T_ref_cur: (4, 4) float64, maps current to reference sensor frame.
        reference: range image of the earlier sweep.
        margin_m, margin_ratio: a return counts as at the place when within `margin_m + margin_ratio * range`.

    Returns status (N,) int8: SEEN_THROUGH when at least two of the 3 x 3 cells have returns and all of them lie
    beyond the place, HIT when one lies at it, HIDDEN when all lie in front of it or on both sides, UNKNOWN otherwise;
    and front_m (N,) float32: the mean range of a closed surface that hid the place, NaN where there was none.
    """
    n = xyz.shape[0]
    out = np.full(n, UNKNOWN, dtype=np.int8)
    front_m = np.full(n, np.nan, dtype=np.float32)
    for i in range(n):
        x0 = float(xyz[i, 0])
        y0 = float(xyz[i, 1])
        z0 = float(xyz[i, 2])
        x = T_ref_cur[0, 0] * x0 + T_ref_cur[0, 1] * y0 + T_ref_cur[0, 2] * z0 + T_ref_cur[0, 3]
        y = T_ref_cur[1, 0] * x0 + T_ref_cur[1, 1] * y0 + T_ref_cur[1, 2] * z0 + T_ref_cur[1, 3]
        z = T_ref_cur[2, 0] * x0 + T_ref_cur[2, 1] * y0 + T_ref_cur[2, 2] * z0 + T_ref_cur[2, 3]
        r = np.sqrt(x * x + y * y + z * z)
        if not (r >= MIN_RANGE_M and r <= MAX_RANGE_M):
            continue
        k = int(np.floor(np.arcsin(z / r) * EL_SCALE + EL_OFFSET))
        c = int((np.arctan2(y, x) + np.pi) * AZ_SCALE)
        margin = margin_m + margin_ratio * r
        beyond = 0
        front = 0
        near = 0
        nearest = np.inf
        farthest = 0.0
        total = 0.0
        for dk in range(-1, 2):
            if k + dk < 0 or k + dk >= ROWS:
                continue
            for dc in range(-1, 2):
                d = float(reference[k + dk, (c + dc) % COLUMNS])
                if not d < np.inf:
                    continue
                if d > r + margin:
                    beyond += 1
                elif d < r - margin:
                    front += 1
                    total += d
                    nearest = min(nearest, d)
                    farthest = max(farthest, d)
                else:
                    near += 1
        if near > 0:
            out[i] = HIT
        elif front > 0:
            out[i] = HIDDEN
            if beyond == 0 and front >= MIN_SOLID_CELLS and farthest - nearest < MAX_SOLID_SPREAD_M:
                front_m[i] = np.float32(total / front)
        elif beyond >= 2:
            out[i] = SEEN_THROUGH
    return out, front_m
