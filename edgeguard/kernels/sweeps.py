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

from edgeguard.kernels.angles import fast_atan2_single
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
_EIGHT = np.uint64(8)
_RUN = np.uint64(64)
_PI, _AZ_SCALE, _SECTOR_SCALE = np.float32(np.pi), np.float32(AZ_SCALE), np.float32(SECTORS / (2.0 * np.pi))
_EL_SCALE, _EL_OFFSET = np.float32(EL_SCALE), np.float32(EL_OFFSET)
_NEAREST, _FARTHEST = np.float32(MIN_RANGE_M), np.float32(MAX_RANGE_M)
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
        x, y, z = flat[j], flat[j + _ONE], flat[j + _TWO]
        rho2 = x * x + y * y
        rho = np.sqrt(rho2)
        r = np.sqrt(rho2 + z * z)
        k = fast_atan2_single(z, rho) * _EL_SCALE + _EL_OFFSET
        azimuth = fast_atan2_single(y, x) + _PI
        c = np.int32(azimuth * _AZ_SCALE)
        c = np.int32(0) if c >= COLUMNS else c  # exactly behind
        s = np.int32(azimuth * _SECTOR_SCALE)
        s = np.int32(0) if s >= SECTORS else s
        inside = (r >= _NEAREST) & (r <= _FARTHEST) & (k >= np.float32(0.0)) & (k < np.float32(ROWS))
        range_m[i] = r
        row[i] = np.int16(np.int32(k)) if inside else np.int16(-1)
        col[i] = np.int16(c)
        cell[i] = s * np.int32(BINS) + np.int32(rho) if rho < np.float32(BINS) else np.int32(-1)
        count += inside
    return count


@njit("i8(f4[::1], f4[::1], i2[::1], i2[::1], i4[::1])", cache=True, nogil=True)
def _compact(
    flat: NDArray[np.float32],
    range_m: NDArray[np.float32],
    row: NDArray[np.int16],
    col: NDArray[np.int16],
    cell: NDArray[np.int32],
) -> int:
    """Move what counts together, in place; how many that are. Runs that count altogether are moved as such."""
    n = np.uint64(row.shape[0])
    m = np.uint64(0)
    for begin in range(np.uint64(0), n, _RUN):
        end = min(begin + _RUN, n)
        lowest = np.int16(0)
        for i in range(begin, end):
            lowest = min(lowest, row[i])
        if lowest >= 0 and m == begin:  # nothing was left out so far
            m = end
            continue
        for i in range(begin, end):  # what does not count is overwritten by the next
            to, of = m * _THREE, i * _THREE
            flat[to] = flat[of]
            flat[to + _ONE] = flat[of + _ONE]
            flat[to + _TWO] = flat[of + _TWO]
            counts = row[i] >= 0
            range_m[m], row[m], col[m], cell[m] = range_m[i], row[i], col[i], cell[i]
            m += np.uint64(counts)
    return np.int64(m)  # type: ignore[return-value]  # numba hands Python an int


@njit("void(f4[::1], f4[::1], i2[::1], i2[::1], i4[::1], f4[:,::1], f8[::1])", cache=True, nogil=True)
def _nearest_and_lowest(
    flat: NDArray[np.float32],
    range_m: NDArray[np.float32],
    row: NDArray[np.int16],
    col: NDArray[np.int16],
    cell: NDArray[np.int32],
    image: NDArray[np.float32],
    ground: NDArray[np.float64],
) -> None:
    """Nearest range of each cell, lowest z of each piece of ground."""
    image[:] = np.inf
    ground[:] = np.inf
    places = image.reshape(-1)
    for i in range(np.uint64(row.shape[0])):
        q = np.uint64(np.int64(row[i]) * COLUMNS + np.int64(col[i]))
        places[q] = min(places[q], range_m[i])
    for i in range(np.uint64(row.shape[0])):
        if cell[i] >= 0:
            g = np.uint64(cell[i])
            ground[g] = min(ground[g], np.float64(flat[i * _THREE + _TWO]))


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

    Where all points are valid, the result's xyz is the argument itself.

    Args:
        xyz: (N, 3) float32, C-contiguous, metres, sensor frame (z up).
        lidar_height_m: of the sensor above the ground it stands on.
    """
    n = xyz.shape[0]
    range_m = _scratch.lend("range", (n,), np.float32)
    row, col = _scratch.lend("row", (n,), np.int16), _scratch.lend("col", (n,), np.int16)
    cell = _scratch.array("cell", n, np.int32)
    count = _look(xyz.reshape(-1), range_m, row, col, cell)
    kept = xyz
    if count < n:
        kept = xyz.copy()
        _compact(kept.reshape(-1), range_m, row, col, cell)
        kept, range_m, row, col, cell = kept[:count], range_m[:count], row[:count], col[:count], cell[:count]
    ground = _scratch.array("ground", SECTORS * BINS, np.float64)
    image = _scratch.lend("image", (ROWS, COLUMNS), np.float32)
    flat = kept.reshape(-1)
    _nearest_and_lowest(flat, range_m, row, col, cell, image, ground)
    walk_ground(ground, lidar_height_m)
    height = _scratch.lend("height", (count,), np.float32)
    _subtract(flat, cell, ground, height)
    return PreparedSweep(kept, range_m, row, col, height, image)


@njit("i8(f4[::1], f4[::1], f8[::1], b1[::1], u8[::1], i4[::1])", cache=True, nogil=True)
def _choose(
    height_m: NDArray[np.float32],
    range_m: NDArray[np.float32],
    limits: NDArray[np.float64],
    maybe: NDArray[np.bool_],
    eights: NDArray[np.uint64],
    out: NDArray[np.int32],
) -> int:
    """maybe, eights: scratch, the flags twice; they are read eight at a time."""
    low, high, near, far = np.float32(limits[0]), np.float32(limits[1]), np.float32(limits[2]), np.float32(limits[3])
    for i in range(np.uint64(height_m.shape[0])):
        h, r = height_m[i], range_m[i]
        maybe[i] = (h > low) & (h < high) & (r > near) & (r < far)
    maybe[height_m.shape[0] :] = False
    m = np.uint64(0)
    for e in range(np.uint64(eights.shape[0])):
        if eights[e] == np.uint64(0):
            continue
        for i in range(e * _EIGHT, e * _EIGHT + _EIGHT):
            out[m] = np.int32(i)
            m += np.uint64(maybe[i])
    return np.int64(m)  # type: ignore[return-value]  # numba hands Python an int


def choose_points(
    height_m: NDArray[np.float32], range_m: NDArray[np.float32], band: tuple[float, float, float, float]
) -> NDArray[np.int32]:
    """Numbers of the points in a band of heights and ranges, (M,) int32; scratch memory that the next call overwrites.

    height_m, range_m: (N,) float32 metres; a height of NaN is in no band. band: lowest, highest, nearest, farthest,
    which are left out themselves.
    """
    n = height_m.shape[0]
    out = _scratch.array("chosen", n + 8, np.int32)  # the last write of an eight may be for nobody
    maybe = _scratch.array("maybe", -(-n // 8) * 8, np.bool_)
    return out[: _choose(height_m, range_m, np.array(band), maybe, maybe.view(np.uint64), out)]


@njit("void(f4[::1], i4[::1], f4[::1])", cache=True, nogil=True)
def _take(flat: NDArray[np.float32], which: NDArray[np.int32], out: NDArray[np.float32]) -> None:
    for t in range(np.uint64(which.shape[0])):
        j, to = np.uint64(which[t]) * _THREE, t * _THREE
        out[to] = flat[j]
        out[to + _ONE] = flat[j + _ONE]
        out[to + _TWO] = flat[j + _TWO]


def take_points(xyz: NDArray[np.float32], which: NDArray[np.int32]) -> NDArray[np.float32]:
    """`xyz[which]` of (N, 3) points, (M, 3) float32; scratch memory that the next call overwrites.

    which: (M,) int32, each from 0 to N - 1.
    """
    out = _scratch.array("taken", 3 * which.shape[0], np.float32)
    _take(xyz.reshape(-1), which, out)
    return out.reshape(-1, 3)


@njit("i8(f4[::1], f4, f4, f4, f4, f4, i4[::1])", cache=True, nogil=True)
def _choose_near(
    flat: NDArray[np.float32], ax: float, ay: float, bx: float, by: float, reach2: float, out: NDArray[np.int32]
) -> int:
    m = np.uint64(0)
    for i in range(np.uint64(flat.shape[0] // 3)):
        x, y = flat[i * _THREE], flat[i * _THREE + _ONE]
        out[m] = np.int32(i)
        near = ((x - ax) * (x - ax) + (y - ay) * (y - ay) < reach2) | (
            (x - bx) * (x - bx) + (y - by) * (y - by) < reach2
        )
        m += np.uint64(near)
    return np.int64(m)  # type: ignore[return-value]  # numba hands Python an int


def choose_near(
    xyz: NDArray[np.float32], a_m: tuple[float, float], b_m: tuple[float, float], reach_m: float
) -> NDArray[np.int32]:
    """Numbers of the points near either of two places, (M,) int32; scratch memory that the next choice overwrites.

    xyz: (N, 3) float32, C-contiguous, metres. a_m, b_m: x and y. reach_m: horizontally, left out itself.
    """
    out = _scratch.array("chosen", xyz.shape[0] + 1, np.int32)
    return out[: _choose_near(xyz.reshape(-1), *a_m, *b_m, reach_m * reach_m, out)]
