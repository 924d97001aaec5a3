"""Spherical range images, and what an earlier sweep says about a place: seen through, hit, hidden or unknown.

Grid: columns count counter-clockwise azimuth from -180 deg, rows count elevation upward from `EL_MIN_DEG`. Cells are
wider than the beam spacing of any 3-D lidar with 32 or more beams, so that a single cell's emptiness means little and
the 3 x 3 neighbourhood is what is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.angles import fast_atan2_single
from edgeguard.kernels.scratch import Scratch

COLUMNS = 900  # 0.4 deg
ROWS = 100  # 0.5 deg, from -30 to +20 deg
EL_MIN_DEG = -30.0
EL_STEP_DEG = 0.5
MIN_RANGE_M = 0.5  # inside the housing of every lidar there is
MAX_RANGE_M = 300.0  # beyond the reach of the sensors named in the docs; also rejects inf

SEEN_THROUGH, HIT, HIDDEN, UNKNOWN = 1, 0, -1, -2
MIN_SOLID_CELLS = 4  # of the nine, for a surface in front to count as closed
MAX_SOLID_SPREAD_M = 0.6  # foliage, fences and glass show depth within one degree; bodywork and walls do not

MANY_POINTS = 8_000  # more are worth a look at every cell of the image first

AZ_SCALE = COLUMNS / (2.0 * np.pi)
EL_SCALE = 180.0 / np.pi / EL_STEP_DEG
EL_OFFSET = -EL_MIN_DEG / EL_STEP_DEG
_PI, _AZ_SCALE = np.float32(np.pi), np.float32(AZ_SCALE)
_EL_SCALE, _EL_OFFSET, _EL_ABOVE = np.float32(EL_SCALE), np.float32(EL_OFFSET), np.float32(EL_OFFSET + 1.0)
_NEAREST, _FARTHEST = np.float32(MIN_RANGE_M), np.float32(MAX_RANGE_M)
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_EIGHT = np.uint64(8)
_scratch = Scratch()


@njit("void(f4[::1], f4[::1], i2[::1], i2[::1])", cache=True, nogil=True, error_model="numpy")
def _spherical(
    flat: NDArray[np.float32], range_m: NDArray[np.float32], row: NDArray[np.int16], col: NDArray[np.int16]
) -> None:
    for i in range(np.uint64(range_m.shape[0])):
        j = i * _THREE
        x, y, z = flat[j], flat[j + _ONE], flat[j + _TWO]
        rho2 = x * x + y * y
        r = np.sqrt(rho2 + z * z)
        k = fast_atan2_single(z, np.sqrt(rho2)) * _EL_SCALE + _EL_OFFSET
        c = np.int32((fast_atan2_single(y, x) + _PI) * _AZ_SCALE)
        c = np.int32(0) if c >= COLUMNS else c  # exactly behind
        inside = (r >= _NEAREST) & (r <= _FARTHEST) & (k >= np.float32(0.0)) & (k < np.float32(ROWS))
        range_m[i] = r if inside else np.float32(0.0)
        row[i] = np.int16(np.int32(k)) if inside else np.int16(-1)
        col[i] = np.int16(c) if inside else np.int16(0)


def to_spherical(xyz: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int16], NDArray[np.int16]]:
    """Range, row and column of each point. xyz: (N, 3) float32, C-contiguous, metres, sensor frame.

    Returns range_m (N,) float32, row (N,) int16 and column (N,) int16; row is -1 (and range 0) for points that are
    not finite, too near, too far, or outside the elevation band.
    """
    n = xyz.shape[0]
    range_m, row, col = np.empty(n, np.float32), np.empty(n, np.int16), np.empty(n, np.int16)
    _spherical(xyz.reshape(-1), range_m, row, col)
    return range_m, row, col


@njit("f4[:,::1](f4[::1], i2[::1], i2[::1])", cache=True, nogil=True)
def range_image(range_m: NDArray[np.float32], row: NDArray[np.int16], col: NDArray[np.int16]) -> NDArray[np.float32]:
    """Nearest range per cell, (ROWS, COLUMNS) float32 in metres, inf where no return. Inputs from `to_spherical`."""
    image = np.full((ROWS, COLUMNS), np.inf, dtype=np.float32)
    for i in range(np.uint64(range_m.shape[0])):
        if row[i] >= 0:
            k, c = np.uint64(row[i]), np.uint64(col[i])
            image[k, c] = min(image[k, c], range_m[i])
    return image


@njit("void(f4[:,::1], f4[:,::1], f4[:,::1], i4[:,::1], f8[:,::1])", cache=True, nogil=True)
def _around(
    image: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    count: NDArray[np.int32],
    total: NDArray[np.float64],
) -> None:
    """Nearest, farthest, number and sum of the returns in the 3 x 3 cells around each cell."""
    rows = np.uint64(ROWS)
    columns = np.uint64(COLUMNS)
    low[:] = np.inf
    high[:] = 0.0
    count[:] = 0
    total[:] = 0.0
    for dk in range(-1, 2):
        for dc in range(-1, 2):
            for k in range(rows):
                at = np.int64(k) + dk
                if at < 0 or at >= ROWS:
                    continue
                source = image[at]
                for c in range(columns):
                    column = np.int64(c) + dc
                    column = column + COLUMNS if column < 0 else column
                    column = column - COLUMNS if column >= COLUMNS else column
                    d = source[np.uint64(column)]
                    here = d < np.inf
                    low[k, c] = min(low[k, c], d)
                    high[k, c] = max(high[k, c], d if here else np.float32(0.0))
                    count[k, c] += here
                    total[k, c] += np.float64(d) if here else 0.0


@njit("void(f4[::1], f8[:,::1], f4[::1], i4[::1])", cache=True, nogil=True, error_model="numpy")
def look(
    flat: NDArray[np.float32], T: NDArray[np.float64], range_m: NDArray[np.float32], cell: NDArray[np.int32]
) -> None:
    """Range and cell of each point as the earlier sweep would see it; cell -1 where no neighbour can have a return."""
    t00, t01, t02, t03 = np.float32(T[0, 0]), np.float32(T[0, 1]), np.float32(T[0, 2]), np.float32(T[0, 3])
    t10, t11, t12, t13 = np.float32(T[1, 0]), np.float32(T[1, 1]), np.float32(T[1, 2]), np.float32(T[1, 3])
    t20, t21, t22, t23 = np.float32(T[2, 0]), np.float32(T[2, 1]), np.float32(T[2, 2]), np.float32(T[2, 3])
    for i in range(np.uint64(cell.shape[0])):
        j = i * _THREE
        x0, y0, z0 = flat[j], flat[j + _ONE], flat[j + _TWO]
        x = t00 * x0 + t01 * y0 + t02 * z0 + t03
        y = t10 * x0 + t11 * y0 + t12 * z0 + t13
        z = t20 * x0 + t21 * y0 + t22 * z0 + t23
        rho2 = x * x + y * y
        r = np.sqrt(rho2 + z * z)
        k = fast_atan2_single(z, np.sqrt(rho2)) * _EL_SCALE + _EL_ABOVE  # one row below the image has neighbours too
        c = np.int32((fast_atan2_single(y, x) + _PI) * _AZ_SCALE)
        c = np.int32(0) if c >= COLUMNS else c  # exactly behind
        inside = (r >= _NEAREST) & (r <= _FARTHEST) & (k >= np.float32(0.0)) & (k < np.float32(ROWS + 2))
        range_m[i] = r
        cell[i] = np.int32(k) * np.int32(COLUMNS) + c if inside else np.int32(-1)


@njit("Tuple((i8, f4, f4, f8))(f4[:,::1], i8, i8)", cache=True, nogil=True)
def _edge(image: NDArray[np.float32], row: int, column: int) -> tuple[int, float, float, float]:
    """Number, nearest, farthest and sum of the returns around a cell that may lie just outside the image."""
    seen = 0
    nearest = np.float32(np.inf)
    farthest = np.float32(0.0)
    total = 0.0
    for at in range(max(row - 1, 0), min(row + 2, ROWS)):
        for dc in range(-1, 2):
            d = image[at, (column + dc) % COLUMNS]
            if d < np.inf:
                seen += 1
                nearest = min(nearest, d)
                farthest = max(farthest, d)
                total += d
    return seen, nearest, farthest, total  # type: ignore[return-value]  # float32 is a float to numba


@njit(
    "void(f4[::1], i4[::1], f4[:,::1], f4[:,::1], f4[:,::1], i4[:,::1], f8[:,::1], b1, f8, f8, i1[::1], f4[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _ask(
    range_m: NDArray[np.float32],
    cell: NDArray[np.int32],
    image: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    count: NDArray[np.int32],
    total: NDArray[np.float64],
    known: bool,
    margin_m: float,
    margin_ratio: float,
    out: NDArray[np.int8],
    front_m: NDArray[np.float32],
) -> None:
    for i in range(np.uint64(cell.shape[0])):
        out[i] = UNKNOWN
        front_m[i] = np.nan
        if cell[i] < 0:
            continue
        row = np.int64(cell[i]) // COLUMNS - 1
        column = np.int64(cell[i]) % COLUMNS
        r = np.float64(range_m[i])
        margin = margin_m + margin_ratio * r
        if not known or row < 0 or row >= ROWS:
            seen, nearest, farthest, sum_ = _edge(image, row, column)
        else:
            k, c = np.uint64(row), np.uint64(column)
            seen, nearest, farthest, sum_ = np.int64(count[k, c]), low[k, c], high[k, c], total[k, c]
        if seen == 0:
            continue
        if nearest > r + margin:
            if seen >= 2:
                out[i] = SEEN_THROUGH
        elif nearest >= r - margin or (farthest >= r - margin and farthest <= r + margin):
            out[i] = HIT
        elif farthest < r - margin:
            out[i] = HIDDEN
            if seen >= MIN_SOLID_CELLS and np.float64(farthest) - np.float64(nearest) < MAX_SOLID_SPREAD_M:
                front_m[i] = np.float32(sum_ / seen)
        else:  # some in front, some beyond: is one at the place?
            out[i] = HIDDEN
            for dk in range(-1, 2):
                at = row + dk
                if at < 0 or at >= ROWS:
                    continue
                for dc in range(-1, 2):
                    d = image[at, (column + dc) % COLUMNS]
                    if d >= r - margin and d <= r + margin:
                        out[i] = HIT


def ask_sweep(
    xyz: NDArray[np.float32],
    T_ref_cur: NDArray[np.float64],
    reference: NDArray[np.float32],
    margin_m: float,
    margin_ratio: float,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Ask an earlier sweep what it knew about places.

    Args:
        xyz: (N, 3) float32, C-contiguous, metres, current sensor frame.
        T_ref_cur: (4, 4) float64, maps current to reference sensor frame.
        reference: range image of the earlier sweep, (ROWS, COLUMNS) float32, C-contiguous.
        margin_m, margin_ratio: a return counts as at the place when within `margin_m + margin_ratio * range`.

    Returns status (N,) int8: SEEN_THROUGH when at least two of the 3 x 3 cells have returns and all of them lie
    beyond the place, HIT when one lies at it, HIDDEN when all lie in front of it or on both sides, UNKNOWN otherwise;
    and front_m (N,) float32: the mean range of a closed surface that hid the place, NaN where there was none.

    For many points the nearest and the farthest of the nine are worked out for every cell first; they answer for most.
    """
    n = xyz.shape[0]
    range_m = _scratch.array("range", n, np.float32)
    cell = _scratch.array("cell", n, np.int32)
    look(xyz.reshape(-1), np.ascontiguousarray(T_ref_cur, dtype=np.float64), range_m, cell)
    shape = (ROWS, COLUMNS)
    low = _scratch.array("low", ROWS * COLUMNS, np.float32).reshape(shape)
    high = _scratch.array("high", ROWS * COLUMNS, np.float32).reshape(shape)
    count = _scratch.array("count", ROWS * COLUMNS, np.int32).reshape(shape)
    total = _scratch.array("total", ROWS * COLUMNS, np.float64).reshape(shape)
    known = n >= MANY_POINTS
    if known:
        _around(reference, low, high, count, total)
    out, front_m = np.empty(n, dtype=np.int8), np.empty(n, dtype=np.float32)
    _ask(range_m, cell, reference, low, high, count, total, known, margin_m, margin_ratio, out, front_m)
    return out, front_m


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """A range image with what the 3 x 3 cells around each cell hold, worked out once for many questions.

    image: (ROWS, COLUMNS) float32; low, high: nearest and farthest return, inf and 0 where none; count: int8, returns.
    """

    image: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    count: NDArray[np.int8]


@njit("void(f4[:,::1], f4[:,::1], f4[:,::1], i1[:,::1], f4[:,::1], f4[:,::1], i1[:,::1])", cache=True, nogil=True)
def _look_around(
    image: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    count: NDArray[np.int8],
    row_low: NDArray[np.float32],
    row_high: NDArray[np.float32],
    row_count: NDArray[np.int8],
) -> None:
    """First three columns, then three rows; the row memories are (ROWS, COLUMNS + 2)."""
    columns = np.uint64(COLUMNS)
    for k in range(ROWS):
        source, a, b, n = image[k], row_low[k], row_high[k], row_count[k]
        for c in range(columns):
            d = source[c]
            here = d < np.inf
            a[c + _ONE] = d
            b[c + _ONE] = d if here else np.float32(0.0)
            n[c + _ONE] = np.int8(1) if here else np.int8(0)
        a[0], a[COLUMNS + 1] = a[COLUMNS], a[1]
        b[0], b[COLUMNS + 1] = b[COLUMNS], b[1]
        n[0], n[COLUMNS + 1] = n[COLUMNS], n[1]
        for c in range(columns):  # what is read at c and beyond has not been written yet
            a[c] = min(a[c], a[c + _ONE], a[c + _TWO])
            b[c] = max(b[c], b[c + _ONE], b[c + _TWO])
            n[c] = n[c] + n[c + _ONE] + n[c + _TWO]
    for k in range(ROWS):
        above, below = min(k + 1, ROWS - 1), max(k - 1, 0)
        a0, a1, a2 = row_low[below], row_low[k], row_low[above]
        b0, b1, b2 = row_high[below], row_high[k], row_high[above]
        n0, n1, n2 = row_count[below], row_count[k], row_count[above]
        edge0 = np.int8(1) if below < k else np.int8(0)
        edge2 = np.int8(1) if above > k else np.int8(0)
        for c in range(columns):
            low[k, c] = min(a0[c], a1[c], a2[c])
            high[k, c] = max(b0[c], b1[c], b2[c])
            count[k, c] = edge0 * n0[c] + n1[c] + edge2 * n2[c]


def look_around(image: NDArray[np.float32]) -> Surroundings:
    """Nearest, farthest and number of the returns around each cell. image: of `range_image`."""
    shape, wide = (ROWS, COLUMNS), (ROWS, COLUMNS + 2)
    rows = (
        _scratch.array("row low", ROWS * (COLUMNS + 2), np.float32).reshape(wide),
        _scratch.array("row high", ROWS * (COLUMNS + 2), np.float32).reshape(wide),
        _scratch.array("row count", ROWS * (COLUMNS + 2), np.int8).reshape(wide),
    )
    low, high = _scratch.lend("lowest", shape, np.float32), _scratch.lend("highest", shape, np.float32)
    count = _scratch.lend("seen", shape, np.int8)
    _look_around(image, low, high, count, *rows)
    return Surroundings(image, low, high, count)


@njit("i8(f4[::1], i4[::1], f4[::1], i1[::1], f4, f4, b1[::1], u8[::1], i4[::1])", cache=True, nogil=True)
def _through(
    range_m: NDArray[np.float32],
    cell: NDArray[np.int32],
    low: NDArray[np.float32],
    count: NDArray[np.int8],
    margin_m: float,
    margin_ratio: float,
    maybe: NDArray[np.bool_],
    eights: NDArray[np.uint64],
    out: NDArray[np.int32],
) -> int:
    """maybe, eights: scratch, the same flags twice; they are read eight at a time, as hardly any is set."""
    n = np.uint64(cell.shape[0])
    for i in range(n):
        at = cell[i] - np.int32(COLUMNS)
        inside = (at >= 0) & (at < np.int32(ROWS * COLUMNS))
        q = np.uint64(at if inside else np.int32(0))
        r = range_m[i]
        maybe[i] = inside & (count[q] >= np.int8(MIN_SOLID_CELLS)) & (low[q] > r + margin_m + margin_ratio * r)
    maybe[n:] = False
    m = np.uint64(0)
    for e in range(np.uint64(eights.shape[0])):
        if eights[e] == np.uint64(0):
            continue
        for i in range(e * _EIGHT, e * _EIGHT + _EIGHT):
            out[m] = np.int32(i)
            m += np.uint64(maybe[i])
    return np.int64(m)  # type: ignore[return-value]  # numba hands Python an int


def find_seen_through(
    xyz: NDArray[np.float32],
    T_ref_cur: NDArray[np.float64],
    reference: Surroundings,
    margin_m: float,
    margin_ratio: float,
) -> NDArray[np.int32]:
    """Numbers of the points that an earlier sweep saw through, (M,) int32: at least `MIN_SOLID_CELLS` of the nine cells
    have returns, and all of them lie beyond the place.

    xyz: (N, 3) float32, C-contiguous, metres, current sensor frame. T_ref_cur, margins: as of `ask_sweep`.
    """
    n = xyz.shape[0]
    range_m = _scratch.array("range", n, np.float32)
    cell = _scratch.array("cell", n, np.int32)
    look(xyz.reshape(-1), np.ascontiguousarray(T_ref_cur, dtype=np.float64), range_m, cell)
    out = np.empty(n + 8, np.int32)
    maybe = _scratch.array("maybe", -(-n // 8) * 8, np.bool_)
    low, count = reference.low.reshape(-1), reference.count.reshape(-1)
    found = _through(range_m, cell, low, count, margin_m, margin_ratio, maybe, maybe.view(np.uint64), out)
    return out[:found]


@njit(
    "void(f4[::1], i4[::1], f4[:,::1], f4[:,::1], f4[:,::1], i1[:,::1], f8, f8, b1, i1[::1])",
    cache=True,
    nogil=True,
)
def _status(
    range_m: NDArray[np.float32],
    cell: NDArray[np.int32],
    image: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    count: NDArray[np.int8],
    margin_m: float,
    margin_ratio: float,
    whole: bool,
    out: NDArray[np.int8],
) -> None:
    for i in range(np.uint64(cell.shape[0])):
        out[i] = UNKNOWN
        at = np.int64(cell[i]) - COLUMNS
        if at < 0 or at >= ROWS * COLUMNS:
            continue
        row, column = int(at // COLUMNS), int(at % COLUMNS)
        k, c = np.uint64(row), np.uint64(column)
        seen, nearest, farthest = count[k, c], np.float64(low[k, c]), np.float64(high[k, c])
        r = np.float64(range_m[i])
        margin = margin_m + margin_ratio * r
        if seen == 0:
            continue
        if nearest > r + margin:
            if seen >= 2:
                out[i] = SEEN_THROUGH
        elif whole:
            here = nearest >= r - margin and farthest <= r + margin
            out[i] = HIT if here else HIDDEN
        elif nearest >= r - margin or (farthest >= r - margin and farthest <= r + margin):
            out[i] = HIT
        else:
            out[i] = HIDDEN
            if farthest <= r + margin:
                continue
            for line in range(max(row - 1, 0), min(row + 2, ROWS)):  # some in front, some beyond: is one at the place?
                for dc in range(-1, 2):
                    d = image[line, (column + dc) % COLUMNS]
                    if d >= r - margin and d <= r + margin:
                        out[i] = HIT


def ask_surroundings(
    xyz: NDArray[np.float32],
    T_ref_cur: NDArray[np.float64],
    reference: Surroundings,
    margin_m: float,
    margin_ratio: float,
    *,
    whole: bool = False,
) -> NDArray[np.int8]:
    """As `ask_sweep`, for places inside the image (others are UNKNOWN), and without the surfaces in front.

    whole: it is a HIT only where all returns around lie at the place; along a surface at a flat angle some always do.
    """
    n = xyz.shape[0]
    range_m = _scratch.array("range", n, np.float32)
    cell = _scratch.array("cell", n, np.int32)
    look(xyz.reshape(-1), np.ascontiguousarray(T_ref_cur, dtype=np.float64), range_m, cell)
    out = np.empty(n, np.int8)
    low, high, count = reference.low, reference.high, reference.count
    _status(range_m, cell, reference.image, low, high, count, margin_m, margin_ratio, whole, out)
    return out
