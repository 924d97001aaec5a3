"""A raw sweep made ready for the lidar checks in one go: what `ranges` and `ground` give one by one.

The direction of each point is worked out once, the points that count are moved together, and the same walk over them
fills the range image and finds the lowest return of each piece of ground.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.angles import fast_atan2
from edgeguard.kernels.ground import BINS, SECTORS, walk_ground
from edgeguard.kernels.ranges import (
    AZ_SCALE,
    COLUMNS,
    EL_OFFSET,
    EL_SCALE,
    MAX_RANGE_M,
    MIN_RANGE_M,
    ROWS,
)
from edgeguard.kernels.scratch import Scratch

_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_SECTOR_SCALE = SECTORS / (2.0 * np.pi)
_scratch = Scratch()


@dataclass(frozen=True, slots=True, eq=False)
class PreparedSweep:
    """The valid points of a sweep, in its order, and what follows from where they are.

    xyz (N, 3) float32 metres; range_m, row, col (N,) as of `ranges.to_spherical`; height_m (N,) float32 as of
    `ground.height_above_ground`; image as of `ranges.range_image`.
    """

    xyz: NDArray[np.float32]
    range_m: NDArray[np.float32]
    row: NDArray[np.int16]
    col: NDArray[np.int16]
    height_m: NDArray[np.float32]
    image: NDArray[np.float32]


class LidarPoints(Protocol):
    """Whatever has points with ranges and heights, as a prepared sweep does."""

    @property
    def xyz(self) -> NDArray[np.float32]: ...
    @property
    def range_m(self) -> NDArray[np.float32]: ...
    @property
    def height_m(self) -> NDArray[np.float32]: ...


@njit("i8(f4[::1], f4[::1], i2[::1], i2[::1], i4[::1])", cache=True, nogil=True, error_model="numpy")
def _look(
    flat: NDArray[np.float32],
    range_m: NDArray[np.float32],
    row: NDArray[np.int16],
    col: NDArray[np.int16],
    cell: NDArray[np.int32],
) -> int:
    """Range, row (-1 for points that do not count), column and piece of ground (-1 for none); how many count."""
    count = 0
    for i in range(np.uint64(range_m.shape[0])):
        j = i * _THREE
        x = np.float64(flat[j])
        y = np.float64(flat[j + _ONE])
        z = np.float64(flat[j + _TWO])
        rho2 = x * x + y * y
        rho = np.sqrt(rho2)
        r = np.sqrt(rho2 + z * z)
        k = fast_atan2(z, rho) * EL_SCALE + EL_OFFSET
        azimuth = fast_atan2(y, x) + np.pi
        c = np.int32(azimuth * AZ_SCALE)
        c = np.int32(0) if c >= COLUMNS else c  # exactly behind
        s = np.int32(azimuth * _SECTOR_SCALE)
        s = np.int32(0) if s >= SECTORS else s
        inside = (r >= MIN_RANGE_M) & (r <= MAX_RANGE_M) & (k >= 0.0) & (k < ROWS)
        range_m[i] = np.float32(r)
        row[i] = np.int16(np.int32(k)) if inside else np.int16(-1)
        col[i] = np.int16(c)
        cell[i] = s * np.int32(BINS) + np.int32(rho) if rho < BINS else np.int32(-1)
        count += inside
    return count


@njit(
    "void(f4[::1], f4[::1], i2[::1], i2[::1], i4[::1], f4[::1], f4[::1], i2[::1], i2[::1], f4[:,::1], f8[::1])",
    cache=True,
    nogil=True,
)
def _gather(
    flat: NDArray[np.float32],
    range_m: NDArray[np.float32],
    row: NDArray[np.int16],
    col: NDArray[np.int16],
    cell: NDArray[np.int32],
    kept: NDArray[np.float32],
    kept_range: NDArray[np.float32],
    kept_row: NDArray[np.int16],
    kept_col: NDArray[np.int16],
    image: NDArray[np.float32],
    ground: NDArray[np.float64],
) -> None:
    """Move what counts together, also within `cell`; nearest range of each cell, lowest z of each piece of ground."""
    image[:] = np.inf
    ground[:] = np.inf
    m = np.uint64(0)
    for i in range(np.uint64(row.shape[0])):
        if row[i] < 0:
            continue
        j = i * _THREE
        n = m * _THREE
        z = flat[j + _TWO]
        kept[n] = flat[j]
        kept[n + _ONE] = flat[j + _ONE]
        kept[n + _TWO] = z
        kept_range[m] = range_m[i]
        kept_row[m] = row[i]
        kept_col[m] = col[i]
        cell[m] = cell[i]
        m += _ONE
        k, c = np.uint64(row[i]), np.uint64(col[i])
        image[k, c] = min(image[k, c], range_m[i])
        if cell[i] >= 0:
            g = np.uint64(cell[i])
            ground[g] = min(ground[g], np.float64(z))


@njit("void(f4[::1], i4[::1], f8[::1], f4[::1])", cache=True, nogil=True)
def _subtract(
    flat: NDArray[np.float32], cell: NDArray[np.int32], ground: NDArray[np.float64], height: NDArray[np.float32]
) -> None:
    for i in range(np.uint64(height.shape[0])):
        known = cell[i] >= 0
        level = ground[np.uint64(cell[i]) if known else np.uint64(0)]
        height[i] = np.float32(np.float64(flat[i * _THREE + _TWO]) - level if known else np.nan)


def prepare_sweep(xyz: NDArray[np.float32], lidar_height_m: float) -> PreparedSweep:
    """Prepare a sweep: equal to `to_spherical`, `range_image` and `height_above_ground` of its valid points.

    Args:
        xyz: (N, 3) float32, C-contiguous, metres, sensor frame (z up).
        lidar_height_m: of the sensor above the ground it stands on.
    """
    n = xyz.shape[0]
    flat = xyz.reshape(-1)
    range_m = _scratch.array("range", n, np.float32)
    row, col = _scratch.array("row", n, np.int16), _scratch.array("col", n, np.int16)
    cell = _scratch.array("cell", n, np.int32)
    count = _look(flat, range_m, row, col, cell)
    ground = _scratch.array("ground", SECTORS * BINS, np.float64)
    kept, image = np.empty((count, 3), np.float32), np.empty((ROWS, COLUMNS), np.float32)
    kept_range, kept_row, kept_col = np.empty(count, np.float32), np.empty(count, np.int16), np.empty(count, np.int16)
    _gather(flat, range_m, row, col, cell, kept.reshape(-1), kept_range, kept_row, kept_col, image, ground)
    walk_ground(ground, lidar_height_m)
    height = np.empty(count, np.float32)
    _subtract(kept.reshape(-1), cell[:count], ground, height)
    return PreparedSweep(kept, kept_range, kept_row, kept_col, height, image)


@njit("i8(f4[::1], f4[::1], f8[::1], i4[::1])", cache=True, nogil=True)
def _choose(
    height_m: NDArray[np.float32], range_m: NDArray[np.float32], limits: NDArray[np.float64], out: NDArray[np.int32]
) -> int:
    low, high, near, far = np.float32(limits[0]), np.float32(limits[1]), np.float32(limits[2]), np.float32(limits[3])
    m = np.uint64(0)
    for i in range(np.uint64(height_m.shape[0])):
        h, r = height_m[i], range_m[i]
        out[m] = np.int32(i)
        m += np.uint64((h > low) & (h < high) & (r > near) & (r < far))
    return np.int64(m)  # type: ignore[return-value]  # numba hands Python an int


def choose_points(
    height_m: NDArray[np.float32], range_m: NDArray[np.float32], band: tuple[float, float, float, float]
) -> NDArray[np.int32]:
    """Numbers of the points in a band of heights and ranges, (M,) int32; scratch memory that the next call overwrites.

    height_m, range_m: (N,) float32 metres; a height of NaN is in no band. band: lowest, highest, nearest, farthest,
    which are left out themselves.
    """
    out = _scratch.array("chosen", height_m.shape[0] + 1, np.int32)
    count = _choose(height_m, range_m, np.array(band), out)
    return out[:count]
