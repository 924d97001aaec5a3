"""How many returns lie near each return of a sweep: in angle and in range, counted on a range image of all returns.

Every cell of the image keeps all its returns, not the nearest alone: a return that is added can only add neighbours,
never hide one. Returns are sorted by cell, so that a window is one run of memory per row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import DTypeLike, NDArray

from edgeguard.kernels.angles import fast_atan2
from edgeguard.kernels.scratch import Scratch

COLUMNS = 1800  # 0.2 deg: about the step of a spinning lidar at its fastest
MAX_ROWS = 256  # twice the beams of the densest sensor there is
MIN_RANGE_M = 0.5  # inside the housing

# Rows of a sweep that does not tell its beams: bands as high as the beams are apart.
BAND_DEG = 0.5  # at least: the beams of the densest sensors are 0.35 to 0.5 deg apart
MAX_ELEVATION_DEG = 48.0  # wider than the field of view of any spinning lidar
BANDS = 480  # of the histogram in which beams are looked for, 0.2 deg
BAND_SHARE = 0.002  # of the returns, for a band to hold a beam: a quarter of the fair share of one of 128
BAND_SAMPLES = 10_000  # that many returns are looked at: a hundred a beam
MIN_RUNS = 8  # fewer separate beams than the sparsest sensor has: they touch, and no gap can be measured

_COLUMN_SCALE = COLUMNS / (2.0 * np.pi)
_DEGREES = 180.0 / np.pi
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_scratch = Scratch()


@njit("void(f4[::1], f8, f4[::1], f4[::1], i2[::1])", cache=True, nogil=True, error_model="numpy")
def _look(
    flat: NDArray[np.float32],
    reach_m: float,
    range_m: NDArray[np.float32],
    elevation_deg: NDArray[np.float32],
    col: NDArray[np.int16],
) -> None:
    """Range, elevation and column of each point; column -1 for what is not finite, inside the housing or beyond."""
    for i in range(np.uint64(range_m.shape[0])):
        j = i * _THREE
        x = np.float64(flat[j])
        y = np.float64(flat[j + _ONE])
        z = np.float64(flat[j + _TWO])
        rho2 = x * x + y * y
        r = np.sqrt(rho2 + z * z)
        c = np.int32((fast_atan2(y, x) + np.pi) * _COLUMN_SCALE)
        c = np.int32(0) if c >= COLUMNS else c  # exactly behind
        inside = (r >= MIN_RANGE_M) & (r <= reach_m)
        range_m[i] = np.float32(r)
        elevation_deg[i] = np.float32(fast_atan2(z, np.sqrt(rho2)) * _DEGREES)
        col[i] = np.int16(c) if inside else np.int16(-1)


@njit("void(i2[::1], i2[::1], f4[::1], f8[::1], i8[::1])", cache=True, nogil=True)
def _beams(
    ring: NDArray[np.int16],
    col: NDArray[np.int16],
    elevation_deg: NDArray[np.float32],
    total: NDArray[np.float64],
    count: NDArray[np.int64],
) -> None:
    """Sum of the elevations and number of returns per beam."""
    total[:] = 0.0
    count[:] = 0
    for i in range(np.uint64(ring.shape[0])):
        if col[i] >= 0:
            k = np.uint64(ring[i])
            total[k] += np.float64(elevation_deg[i])
            count[k] += 1


@njit("void(i2[::1], i2[::1], i2[::1], i4[::1], i4[::1])", cache=True, nogil=True)
def _cells_by_beam(
    ring: NDArray[np.int16],
    rank: NDArray[np.int16],
    col: NDArray[np.int16],
    cell: NDArray[np.int32],
    starts: NDArray[np.int32],
) -> None:
    starts[:] = 0
    for i in range(np.uint64(ring.shape[0])):
        k = np.int32(rank[np.uint64(ring[i])]) if col[i] >= 0 else np.int32(-1)
        cell[i] = k * np.int32(COLUMNS) + np.int32(col[i]) if k >= 0 else np.int32(-1)
        if k >= 0:
            starts[np.uint64(cell[i]) + _TWO] += 1


@njit("void(f4[::1], f8, f8, i8, i2[::1], i4[::1], i4[::1])", cache=True, nogil=True)
def _cells_by_elevation(
    elevation_deg: NDArray[np.float32],
    lowest_deg: float,
    step_deg: float,
    rows: int,
    col: NDArray[np.int16],
    cell: NDArray[np.int32],
    starts: NDArray[np.int32],
) -> None:
    starts[:] = 0
    for i in range(np.uint64(col.shape[0])):
        place = (np.float64(elevation_deg[i]) - lowest_deg) / step_deg
        inside = (col[i] >= 0) & (place >= 0.0) & (place < rows)
        cell[i] = np.int32(place) * np.int32(COLUMNS) + np.int32(col[i]) if inside else np.int32(-1)
        if inside:
            starts[np.uint64(cell[i]) + _TWO] += 1


@njit("void(f4[::1], i4[::1], i4[::1], f4[::1], i4[::1])", cache=True, nogil=True)
def _sort(
    range_m: NDArray[np.float32],
    cell: NDArray[np.int32],
    starts: NDArray[np.int32],
    by_cell_m: NDArray[np.float32],
    order: NDArray[np.int32],
) -> None:
    """Ranges and numbers in the order of cells. starts: counts two places late when called, then first of each cell."""
    total = np.int32(0)
    for k in range(np.uint64(starts.shape[0])):
        total += starts[k]
        starts[k] = total
    for i in range(np.uint64(cell.shape[0])):
        if cell[i] >= 0:
            c = np.uint64(cell[i]) + _ONE
            by_cell_m[np.uint64(starts[c])] = range_m[i]
            order[np.uint64(starts[c])] = np.int32(i)
            starts[c] += 1


@njit("i8(f4[::1], i4[::1], i8, i8, i8, f4, f4)", cache=True, nogil=True)
def _run(
    by_cell_m: NDArray[np.float32],
    starts: NDArray[np.int32],
    row: int,
    first: int,
    last: int,
    low_m: float,
    high_m: float,
) -> int:
    """Returns in columns first..last of a row whose range is in low..high; both columns exist."""
    base = row * COLUMNS
    found = 0
    for j in range(np.uint64(starts[np.uint64(base + first)]), np.uint64(starts[np.uint64(base + last) + _ONE])):
        d = by_cell_m[j]
        found += (d >= low_m) & (d <= high_m)
    return found


@njit(
    "void(f4[::1], i4[::1], b1[::1], f4[::1], i4[::1], i8, i8[::1], f8[::1], i1[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _count(
    range_m: NDArray[np.float32],
    cell: NDArray[np.int32],
    asked: NDArray[np.bool_],
    by_cell_m: NDArray[np.float32],
    starts: NDArray[np.int32],
    rows: int,
    window: NDArray[np.int64],
    tolerance: NDArray[np.float64],
    support: NDArray[np.int8],
) -> None:
    half_rows, half_columns, enough = window[0], window[1], window[2]
    for i in range(np.uint64(cell.shape[0])):
        if cell[i] < 0 or not asked[i]:
            support[i] = np.int8(-1)
            continue
        row = np.int64(cell[i]) // COLUMNS
        column = np.int64(cell[i]) - row * COLUMNS
        r = np.float64(range_m[i])
        low, high = np.float32(r - tolerance[0] - tolerance[1] * r), np.float32(r + tolerance[2] + tolerance[3] * r)
        first, last = column - half_columns, column + half_columns
        found = np.int64(-1) if low <= range_m[i] <= high else np.int64(0)  # itself
        for step in range(2 * half_rows + 1):
            # its own row first, then the nearest ones: most returns have enough there
            at = row + (step // 2 if step % 2 == 0 else -(step // 2) - 1)
            if at < 0 or at >= rows:
                continue
            if first >= 0 and last < COLUMNS:
                found += _run(by_cell_m, starts, at, first, last, low, high)
            elif first < 0:
                found += _run(by_cell_m, starts, at, 0, last, low, high)
                found += _run(by_cell_m, starts, at, first + COLUMNS, COLUMNS - 1, low, high)
            else:
                found += _run(by_cell_m, starts, at, first, COLUMNS - 1, low, high)
                found += _run(by_cell_m, starts, at, 0, last - COLUMNS, low, high)
            if found >= enough:
                break
        support[i] = np.int8(min(found, enough))


@dataclass(frozen=True, slots=True, eq=False)
class SweepImage:
    """A sweep sorted by direction; scratch memory of this thread, overwritten by the next `image_of`.

    range_m (N,) float32 metres, also of points that are not in the image; cell (N,) int32 row by row, -1 for those;
    by_cell_m (N,) float32 the ranges and order (N,) int32 the numbers of the returns in the order of cells, and starts
    (rows * COLUMNS + 2,) int32 where each cell begins.
    elevation_deg: (rows,) float64 rising. beams: returns per row that holds any, of all ranges asked for.
    """

    range_m: NDArray[np.float32]
    cell: NDArray[np.int32]
    by_cell_m: NDArray[np.float32]
    order: NDArray[np.int32]
    starts: NDArray[np.int32]
    elevation_deg: NDArray[np.float64]
    beams: float

    @property
    def rows(self) -> int:
        """Rows of the image."""
        return len(self.elevation_deg)


def image_of(xyz: NDArray[np.float32], ring: NDArray[np.int16] | None, reach_m: float) -> SweepImage:
    """Sort the returns of a sweep within `reach_m` by direction.

    Rows are beams where `ring` tells them, in the order of their mean elevation, whatever a driver's numbering is; else
    bands of elevation as high as the sensor's beams are apart.

    Args:
        xyz: (N, 3) float32, metres, sensor frame; what is not finite is left out.
        ring: (N,) int16 or None; a numbering outside 0..MAX_ROWS - 1 counts as none.
        reach_m: what is farther is left out.
    """
    n = xyz.shape[0]
    looked = _look_at(xyz, reach_m)
    if ring is None or n == 0 or int(ring.min()) < 0 or int(ring.max()) >= MAX_ROWS:
        return _banded(looked, *_bands(looked[1], looked[2]))
    _, elevation_deg, col, cell = looked
    ring = taken(ring, np.int16)
    total, count = np.empty(MAX_ROWS), np.empty(MAX_ROWS, np.int64)
    _beams(ring, col, elevation_deg, total, count)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.inf)
    order = np.argsort(mean, kind="stable")
    rows = max(1, int((count > 0).sum()))
    rank = np.zeros(MAX_ROWS, np.int16)
    rank[order] = np.arange(MAX_ROWS)
    starts = _scratch.array("starts", rows * COLUMNS + 2, np.int32)
    _cells_by_beam(ring, rank, col, cell, starts)
    return _sorted(looked, starts, mean[order[:rows]])


def image_of_bands(xyz: NDArray[np.float32], reach_m: float) -> SweepImage:
    """As `image_of`, in bands of half a degree from straight down to straight up: every return has its place."""
    return _banded(_look_at(xyz, reach_m), -90.0, BAND_DEG, int(180.0 / BAND_DEG) + 1)


_Looked = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16], NDArray[np.int32]]


def taken(array: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """The array as compiled signatures take it: in one piece and writable. Copied only where it is not."""
    return np.require(array, dtype, ["C", "W"])


def _look_at(xyz: NDArray[np.float32], reach_m: float) -> _Looked:
    n = xyz.shape[0]
    range_m, elevation_deg = _scratch.array("range", n, np.float32), _scratch.array("elevation", n, np.float32)
    col, cell = _scratch.array("col", n, np.int16), _scratch.array("cell", n, np.int32)
    _look(taken(xyz, np.float32).reshape(-1), reach_m, range_m, elevation_deg, col)
    return range_m, elevation_deg, col, cell


def _banded(looked: _Looked, lowest_deg: float, step_deg: float, rows: int) -> SweepImage:
    _, elevation_deg, col, cell = looked
    starts = _scratch.array("starts", rows * COLUMNS + 2, np.int32)
    _cells_by_elevation(elevation_deg, lowest_deg, step_deg, rows, col, cell, starts)
    return _sorted(looked, starts, np.asarray(lowest_deg + step_deg * (np.arange(rows) + 0.5), dtype=np.float64))


def _sorted(looked: _Looked, starts: NDArray[np.int32], elevation_deg: NDArray[np.float64]) -> SweepImage:
    range_m, _, _, cell = looked
    by_cell_m = _scratch.array("by_cell", len(cell), np.float32)
    order = _scratch.array("order", len(cell), np.int32)
    _sort(range_m, cell, starts, by_cell_m, order)
    held = np.diff(starts[:-1:COLUMNS])
    return SweepImage(
        range_m, cell, by_cell_m, order, starts, elevation_deg, held.sum() / max(1, np.count_nonzero(held))
    )


def count_neighbours(
    image: SweepImage,
    asked: NDArray[np.bool_],
    window: tuple[int, int],
    tolerance: tuple[float, float, float, float],
    enough: int,
) -> NDArray[np.int8]:
    """Count the other returns in a window around each return whose range is near its own, or nearer, or farther.

    Args:
        image: from `image_of`. asked: (N,) bool, which returns to count for.
        window: rows and columns to either side; columns go around.
        tolerance: (a, b, c, d): ranges from r - a - b r to r + c + d r count, in metres for a return at r.
        enough: counting stops there, 1..100.

    Returns (N,) int8, at most `enough`; -1 for returns that were not asked for or are not in the image.
    """
    support = np.empty(len(image.cell), np.int8)
    half = np.array((max(0, window[0]), min(max(0, window[1]), COLUMNS // 2 - 1), min(max(1, enough), 100)))
    margins = np.array(tolerance, np.float64)
    _count(image.range_m, image.cell, asked, image.by_cell_m, image.starts, image.rows, half, margins, support)
    return support


def _bands(elevation_deg: NDArray[np.float32], col: NDArray[np.int16]) -> tuple[float, float, int]:
    """Lowest elevation, height and number of the bands for a sweep that does not tell its beams."""
    every = max(1, len(col) // BAND_SAMPLES)
    angles = elevation_deg[::every][col[::every] >= 0]
    counts = np.histogram(angles, BANDS, (-MAX_ELEVATION_DEG, MAX_ELEVATION_DEG))[0]
    held = np.flatnonzero(counts > BAND_SHARE * counts.sum())
    if held.size == 0:
        return -MAX_ELEVATION_DEG, BAND_DEG, 1
    size = 2.0 * MAX_ELEVATION_DEG / BANDS
    ends = np.flatnonzero(np.diff(held) > 1)
    runs = np.split(held, ends + 1)
    step = float(np.median(np.diff([run.mean() for run in runs]))) * size if len(runs) >= MIN_RUNS else 0.0
    step = max(BAND_DEG, step)
    lowest = -MAX_ELEVATION_DEG + float(held[0]) * size - step / 2.0
    rows = min(MAX_ROWS, int((held[-1] - held[0] + 1) * size / step) + 2)
    return lowest, step, rows
