"""What became of the returns of an earlier sweep: one pass over them, and over the cells of today's range image.

Each earlier return is carried into today's frame; the one cell of the range image that it falls into says whether it
is there, covered, seen past, or without any return. The counterpart of `ranges.ask_sweep`, which asks an earlier sweep
about today's returns. One cell, not nine: a thinned object keeps some neighbours, but few cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.angles import fast_atan2_single
from edgeguard.kernels.ranges import (
    AZ_SCALE,
    COLUMNS,
    EL_MIN_DEG,
    EL_OFFSET,
    EL_SCALE,
    EL_STEP_DEG,
    MAX_RANGE_M,
    MIN_RANGE_M,
    ROWS,
)
from edgeguard.kernels.scratch import Scratch

PRESENT, COVERED, BEYOND, EMPTY, OUTSIDE = 0, 1, 2, 3, 4
UPRIGHT, GROUND = 0, 1
MIN_COLUMN = 4  # filled cells of a column of the image; with fewer, the sensor does not look there
SPARSE_SHARE = 0.6  # of the fullest row: rows that a coarse scanner's rings meet only at times
BETWEEN_SHARE = 0.1  # rows between its rings
# Bodies nearby have returns to spare: they are thinned to the density that they would have at `thin_m`, by a hash of
# their number (Knuth's multiplier), which no pattern of rings and columns is in step with.
_HASH, _SHIFT, _MASK, _WHOLE = np.uint32(2_654_435_761), np.uint32(16), np.uint32(0xFFF), 4096.0
_PI, _AZ_SCALE = np.float32(np.pi), np.float32(AZ_SCALE)
_EL_SCALE, _EL_OFFSET = np.float32(EL_SCALE), np.float32(EL_OFFSET)
_MOST = np.uint32(2 * 255)  # twice the returns that a cell counts
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_EIGHT = np.uint64(8)
_scratch = Scratch()


class CellPoints(Protocol):
    """Points with their cells, as of `sweeps.prepare_sweep`."""

    @property
    def range_m(self) -> NDArray[np.float32]: ...
    @property
    def row(self) -> NDArray[np.int16]: ...
    @property
    def col(self) -> NDArray[np.int16]: ...
    @property
    def height_m(self) -> NDArray[np.float32]: ...
    @property
    def image(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True, eq=False)
class SweepCells:
    """A sweep by the cells of its range image.

    near, far: (ROWS, COLUMNS) float32 m, inf and 0 without a return; count: (ROWS, COLUMNS) uint8 returns, 255 for
    more; level: (ROWS, COLUMNS) uint8, 1 where a return is from the ground; filled: (COLUMNS,) int32 filled cells;
    rows: (ROWS,) int32 filled cells. far, count, level, rows are scratch memory: the next sweep overwrites them.
    """

    near: NDArray[np.float32]
    far: NDArray[np.float32]
    count: NDArray[np.uint8]
    level: NDArray[np.uint8]
    filled: NDArray[np.int32]
    rows: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Whereabouts:
    """The earlier returns that were asked for, (M,) each; scratch memory.

    index: int32 in the earlier sweep; fate: int8; kind: int8, UPRIGHT or GROUND; cell: int32 of today's image, row
    times COLUMNS plus column, -1 outside; place: int32 of the plane's grid. there, gone: (2, side * side) int32, how
    many of each kind were present and gone in each piece of the grid. Gone upright returns are BEYOND or EMPTY, those
    of the ground BEYOND alone.
    """

    index: NDArray[np.int32]
    fate: NDArray[np.int8]
    kind: NDArray[np.int8]
    cell: NDArray[np.int32]
    place: NDArray[np.int32]
    there: NDArray[np.int32]
    gone: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Which returns are asked for, and when an answer counts. Metres, and shares of the range.

    nearest_m, farthest_m: of the range; upright_m, top_m: heights of upright returns; ground_m: of the ground's, either
    way. margin: a return is at the place when within it. depth: how far below the ground one must lie to be beyond it.
    thin_m, thin_ground_m: returns nearer than this are thinned to the density that they would have there. side,
    piece_m: pieces of the plane's grid a side, and their size; the sensor is in its middle.
    """

    nearest_m: float
    farthest_m: float
    upright_m: float
    top_m: float
    ground_m: float
    margin_m: float
    margin_ratio: float
    depth_m: float
    depth_ratio: float
    thin_m: float
    thin_ground_m: float
    side: int
    piece_m: float


@njit(
    "void(f4[::1], i2[::1], i2[::1], f4[::1], f4, f4[:,::1], u2[::1], f4[:,::1], u1[:,::1], u1[:,::1], i4[::1],"
    " i4[::1])",
    cache=True,
    nogil=True,
)
def _fill(
    range_m: NDArray[np.float32],
    row: NDArray[np.int16],
    col: NDArray[np.int16],
    height_m: NDArray[np.float32],
    ground_m: float,
    near: NDArray[np.float32],
    both: NDArray[np.uint16],
    far: NDArray[np.float32],
    count: NDArray[np.uint8],
    level: NDArray[np.uint8],
    filled: NDArray[np.int32],
    rows: NDArray[np.int32],
) -> None:
    """both: scratch, twice the count, and the level: a cell that is changed is waited for by the next return in it."""
    far[:] = 0.0
    both[:] = 0
    filled[:] = 0
    farthest, counted, lies = far.reshape(-1), count.reshape(-1), level.reshape(-1)
    for i in range(np.uint64(range_m.shape[0])):
        if row[i] >= 0:
            q = np.uint64(np.int64(row[i]) * COLUMNS + np.int64(col[i]))
            farthest[q] = max(farthest[q], range_m[i])
            held = np.uint32(both[q])
            held += np.uint32(2) * np.uint32(held < _MOST)
            both[q] = np.uint16(held | np.uint32(abs(height_m[i]) < ground_m))
    for at in range(np.uint64(both.shape[0])):
        counted[at] = np.uint8(both[at] >> np.uint16(1))
        lies[at] = np.uint8(both[at] & np.uint16(1))
    for k in range(np.uint64(ROWS)):
        cells = near[k]
        own = np.int32(0)
        for c in range(np.uint64(COLUMNS)):
            fresh = np.int32(cells[c] < np.float32(np.inf))
            filled[c] += fresh
            own += fresh
        rows[k] = own


def cells_of_sweep(sweep: CellPoints, ground_m: float) -> SweepCells:
    """Sort a prepared sweep into cells. ground_m: returns within it of the ground are its."""
    shape, size = (ROWS, COLUMNS), ROWS * COLUMNS
    out = SweepCells(
        sweep.image,
        _scratch.array("far", size, np.float32).reshape(shape),
        _scratch.array("count", size, np.uint8).reshape(shape),
        _scratch.array("level", size, np.uint8).reshape(shape),
        np.empty(COLUMNS, np.int32),
        _scratch.array("rows", ROWS, np.int32),
    )
    points, both = (sweep.range_m, sweep.row, sweep.col, sweep.height_m), _scratch.array("both", size, np.uint16)
    _fill(*points, ground_m, out.near, both, out.far, out.count, out.level, out.filled, out.rows)
    return out


@njit("i8(f4[::1], f4[::1], f4[::1], f8[::1], b1[::1], u8[::1], i4[::1], i1[::1], f4[:,::1])", cache=True, nogil=True)
def _gather(
    flat: NDArray[np.float32],
    range_m: NDArray[np.float32],
    height_m: NDArray[np.float32],
    bounds: NDArray[np.float64],
    maybe: NDArray[np.bool_],
    eights: NDArray[np.uint64],
    index: NDArray[np.int32],
    kind: NDArray[np.int8],
    at: NDArray[np.float32],
) -> int:
    """Choose and thin the returns; at: (3, N) their coordinates. maybe, eights: scratch, the same flags twice."""
    nearest, farthest = np.float32(bounds[0]), np.float32(bounds[1])
    upright, top, level = np.float32(bounds[2]), np.float32(bounds[3]), np.float32(bounds[4])
    scale, scale_ground = np.float32(_WHOLE / bounds[9] ** 2), np.float32(_WHOLE / bounds[10] ** 2)
    for i in range(np.uint64(range_m.shape[0])):
        h, r = height_m[i], range_m[i]
        lies = abs(h) < level
        stands = (h > upright) & (h < top)
        ticket = np.float32(np.int32((np.uint32(np.uint32(i) * _HASH) >> _SHIFT) & _MASK))
        maybe[i] = (
            (stands | lies) & (r > nearest) & (r < farthest) & (ticket < (scale_ground if lies else scale) * r * r)
        )
    maybe[range_m.shape[0] :] = False
    m = np.uint64(0)
    for e in range(np.uint64(eights.shape[0])):
        if eights[e] == np.uint64(0):
            continue
        for i in range(e * _EIGHT, e * _EIGHT + _EIGHT):
            index[m] = np.int32(i)
            m += np.uint64(maybe[i])
    for t in range(m):
        of = np.uint64(index[t])
        j = of * _THREE
        kind[t] = np.int8(abs(height_m[of]) < level)
        at[0, t] = flat[j]
        at[1, t] = flat[j + _ONE]
        at[2, t] = flat[j + _TWO]
    return np.int64(m)  # type: ignore[return-value]  # numba hands Python an int


@njit(
    "void(f4[:,::1], i8, f8[:,::1], f8[::1], i8, i8, f4[::1], i4[::1], i4[::1], i4[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _carry(
    at: NDArray[np.float32],
    m: int,
    T: NDArray[np.float64],
    bounds: NDArray[np.float64],
    lowest: int,
    highest: int,
    range_m: NDArray[np.float32],
    row: NDArray[np.int32],
    col: NDArray[np.int32],
    place: NDArray[np.int32],
) -> None:
    """Range, row (-1 where the sensor does not look) and column of each place as the sensor sees it now, and the piece
    of the grid it was in."""
    t00, t01, t02, t03 = np.float32(T[0, 0]), np.float32(T[0, 1]), np.float32(T[0, 2]), np.float32(T[0, 3])
    t10, t11, t12, t13 = np.float32(T[1, 0]), np.float32(T[1, 1]), np.float32(T[1, 2]), np.float32(T[1, 3])
    t20, t21, t22, t23 = np.float32(T[2, 0]), np.float32(T[2, 1]), np.float32(T[2, 2]), np.float32(T[2, 3])
    first, last = np.float32(lowest + 1), np.float32(highest)
    side, piece, half = np.int32(bounds[11]), np.float32(bounds[12]), np.float32(0.5 * bounds[11] * bounds[12])
    xs, ys, zs = at[0], at[1], at[2]
    for i in range(np.uint64(m)):
        x0, y0, z0 = xs[i], ys[i], zs[i]
        x = t00 * x0 + t01 * y0 + t02 * z0 + t03
        y = t10 * x0 + t11 * y0 + t12 * z0 + t13
        z = t20 * x0 + t21 * y0 + t22 * z0 + t23
        rho2 = x * x + y * y
        r = np.sqrt(rho2 + z * z)
        e = fast_atan2_single(z, np.sqrt(rho2)) * _EL_SCALE + _EL_OFFSET
        c = np.int32((fast_atan2_single(y, x) + _PI) * _AZ_SCALE)
        inside = (r >= np.float32(MIN_RANGE_M)) & (r <= np.float32(MAX_RANGE_M)) & (e >= first) & (e < last)
        range_m[i] = r
        row[i] = np.int32(e) if inside else np.int32(-1)
        col[i] = np.int32(0) if c >= COLUMNS else c  # exactly behind
        place[i] = np.int32((x0 + half) / piece) * side + np.int32((y0 + half) / piece)


@njit(
    "void(f4[::1], i4[::1], i4[::1], i1[::1], i4[::1], f8[::1], f4[:,::1], f4[:,::1], b1[::1], b1[::1], b1[::1],"
    " i8, i1[::1], i4[::1], i4[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _judge(
    range_m: NDArray[np.float32],
    row: NDArray[np.int32],
    col: NDArray[np.int32],
    kind: NDArray[np.int8],
    place: NDArray[np.int32],
    bounds: NDArray[np.float64],
    near: NDArray[np.float32],
    far: NDArray[np.float32],
    looks: NDArray[np.bool_],
    sparse: NDArray[np.bool_],
    between: NDArray[np.bool_],
    pieces: int,
    fate: NDArray[np.int8],
    cell: NDArray[np.int32],
    tally: NDArray[np.int32],
) -> None:
    """tally: (4 * pieces + 1,), present of both kinds, gone of both kinds, and neither. What is usual, a return at the
    place, takes no branch that depends on it: neighbours fare too differently for those to be foreseen."""
    margin_m, margin_ratio = np.float32(bounds[5]), np.float32(bounds[6])
    below = np.empty(ROWS, np.float32)
    for ring in range(ROWS):
        # what lies `depth` below the ground lies so much farther along a beam that falls at this angle
        fall = np.sin(np.radians(-(EL_MIN_DEG + (ring + 0.5) * EL_STEP_DEG)))
        below[ring] = np.float32(1.0 / fall if fall > 0.0 else np.inf)
    depth_m, depth_ratio = np.float32(bounds[7]), np.float32(bounds[8])
    nearest, farthest = near.reshape(-1), far.reshape(-1)
    wide = np.uint64(COLUMNS)
    tally[:] = 0
    for i in range(np.uint64(row.shape[0])):
        k, u = np.uint64(max(row[i], np.int32(0))), np.uint64(col[i])
        if (row[i] < 0) | (not looks[u]) | between[k]:
            fate[i] = np.int8(OUTSIDE)
            cell[i] = np.int32(-1)
            continue
        q = k * wide + u
        cell[i] = np.int32(q)
        r = range_m[i]
        lies = kind[i] == GROUND
        margin = margin_m + margin_ratio * r
        deep = max(margin, (depth_m + depth_ratio * r) * below[k])
        beyond = deep if lies else margin
        low, high = nearest[q], farthest[q]
        covered = (low < r - margin) & ((high < r - margin) | (high > r + beyond))
        answer = np.int64(BEYOND) if low > r + beyond else np.int64(PRESENT)
        answer = np.int64(COVERED) if covered else answer
        if low == np.float32(np.inf):
            # a ring that wanders between two rows leaves holes in both
            beside = (nearest[q - wide] < np.float32(np.inf)) | (nearest[q + wide] < np.float32(np.inf))
            answer = np.int64(OUTSIDE) if sparse[k] & beside else np.int64(EMPTY)
        fate[i] = np.int8(answer)
        gone = (answer == BEYOND) | ((answer == EMPTY) & (not lies))
        at = np.int64(place[i]) + (np.int64(pieces) if lies else np.int64(0))
        at = at + 2 * pieces if gone else at
        tally[np.uint64(at if gone | (answer == PRESENT) else 4 * pieces)] += 1


@njit("i8(u1[:,::1], i8[::1], i8[::1], i8)", cache=True, nogil=True)
def least_returns(count: NDArray[np.uint8], row: NDArray[np.int64], column: NDArray[np.int64], reach: int) -> int:
    """Returns in a piece of a sweep, moved by up to `reach` columns either way, where there are fewest.

    count: of `SweepCells`; row, column: (N,) int64 cells of the piece, columns from any side of the seam.
    """
    least = np.int64(-1)
    for shift in range(-reach, reach + 1):
        found = np.int64(0)
        for i in range(np.uint64(row.shape[0])):
            c = (column[i] + shift) % COLUMNS
            found += np.int64(count[np.uint64(row[i]), np.uint64(c)])
            if least >= 0 and found >= least:
                break
        least = found if least < 0 else min(least, found)
    return max(least, np.int64(0))  # type: ignore[return-value]  # numba hands Python an int


def follow_returns(
    xyz: NDArray[np.float32],
    range_m: NDArray[np.float32],
    height_m: NDArray[np.float32],
    T_cur_prev: NDArray[np.float64],
    now: SweepCells,
    looks: NDArray[np.bool_],
    bounds: Bounds,
) -> Whereabouts:
    """What today's cells say about the places of an earlier sweep's returns.

    Args:
        xyz: (N, 3) float32, C-contiguous, metres, earlier sensor frame; range_m, height_m: (N,) float32 of them.
        T_cur_prev: (4, 4) float64, earlier to current sensor frame. now: today's sweep.
        looks: (COLUMNS,) bool, columns in which the sensor looks.
        bounds: which returns, and when an answer counts; the grid must hold `farthest_m`.

    A return is PRESENT when its cell has a return at the place, COVERED when those of the cell are nearer (or on both
    sides), BEYOND when all are farther, EMPTY without any, OUTSIDE where the sensor does not look: at or beyond its
    outermost rows, between its rings, and in other columns.
    """
    if bounds.farthest_m >= 0.5 * bounds.side * bounds.piece_m:
        raise ValueError("the grid does not hold the farthest return")
    n = xyz.shape[0]
    index, kind = _scratch.array("index", n + 8, np.int32), _scratch.array("kind", n, np.int8)
    at = _scratch.array("at", 3 * n, np.float32).reshape(3, n)
    maybe = _scratch.array("maybe", -(-n // 8) * 8, np.bool_)
    m = _gather(xyz.reshape(-1), range_m, height_m, _packed(bounds), maybe, maybe.view(np.uint64), index, kind, at)
    return _answer(at, m, index, kind, T_cur_prev, now, looks, bounds)


def follow_places(
    xyz: NDArray[np.float32],
    ground: bool,
    T_cur_prev: NDArray[np.float64],
    now: SweepCells,
    looks: NDArray[np.bool_],
    bounds: Bounds,
) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """Fate and cell of every place, of the ground or upright, as of `follow_returns`, without choosing or thinning."""
    n = xyz.shape[0]
    at = np.ascontiguousarray(xyz.T, np.float32)
    kind = np.full(n, GROUND if ground else UPRIGHT, np.int8)
    found = _answer(at, n, np.arange(n, dtype=np.int32), kind, T_cur_prev, now, looks, bounds)
    return found.fate.copy(), found.cell.copy()


def _packed(bounds: Bounds) -> NDArray[np.float64]:
    return np.array([getattr(bounds, name) for name in Bounds.__slots__], np.float64)


def _answer(
    at: NDArray[np.float32],
    m: int,
    index: NDArray[np.int32],
    kind: NDArray[np.int8],
    T_cur_prev: NDArray[np.float64],
    now: SweepCells,
    looks: NDArray[np.bool_],
    bounds: Bounds,
) -> Whereabouts:
    pieces = bounds.side * bounds.side
    used = np.flatnonzero(now.rows)
    lowest, highest = (int(used[0]), int(used[-1])) if used.size else (0, 0)
    most = now.rows.max(initial=0)
    sparse, between = now.rows < SPARSE_SHARE * most, now.rows < BETWEEN_SHARE * most
    cell, place, row, col = (_scratch.array(name, m, np.int32) for name in ("cell", "place", "row", "column"))
    fate, reach = _scratch.array("fate", m, np.int8), _scratch.array("reach", m, np.float32)
    tally = _scratch.array("tally", 4 * pieces + 1, np.int32)
    packed = _packed(bounds)
    _carry(at, m, np.ascontiguousarray(T_cur_prev, np.float64), packed, lowest, highest, reach, row, col, place)
    _judge(
        reach, row, col, kind[:m], place, packed, now.near, now.far, looks, sparse, between, pieces, fate, cell, tally
    )
    there, gone = tally[: 2 * pieces].reshape(2, pieces), tally[2 * pieces : 4 * pieces].reshape(2, pieces)
    return Whereabouts(index[:m], fate, kind[:m], cell, place, there, gone)


@njit("i8(i1[::1], i1[::1], i4[::1], i4[:,::1], i4[:,::1], i8, i8, i8, f8, b1[::1], i4[::1])", cache=True, nogil=True)
def _choose(
    fate: NDArray[np.int8],
    kind: NDArray[np.int8],
    place: NDArray[np.int32],
    there: NDArray[np.int32],
    gone: NDArray[np.int32],
    wanted: int,
    side: int,
    least: int,
    left: float,
    empty: NDArray[np.bool_],
    out: NDArray[np.int32],
) -> int:
    w = np.uint64(wanted)
    present, lost = there[w], gone[w]
    for a in range(side):
        for b in range(side):
            at = a * side + b
            empty[at] = False
            if lost[at] == 0:
                continue
            stays = 0
            goes = 0
            for da in range(max(a - 1, 0), min(a + 2, side)):
                for db in range(max(b - 1, 0), min(b + 2, side)):
                    stays += present[da * side + db]
                    goes += lost[da * side + db]
            empty[at] = (stays + goes >= least) & (stays <= left * (stays + goes))
    other = np.int8(EMPTY if wanted == UPRIGHT else BEYOND)
    m = np.uint64(0)
    for i in range(np.uint64(fate.shape[0])):
        f = fate[i]
        out[m] = np.int32(i)
        here = (kind[i] == wanted) & ((f == np.int8(BEYOND)) | (f == other)) & empty[np.uint64(place[i])]
        m += np.uint64(here)
    return np.int64(m)  # type: ignore[return-value]  # as above


def choose_gone(found: Whereabouts, kind: int, side: int, least: int, left: float) -> NDArray[np.int32]:
    """Numbers (in `found`) of the gone returns of a kind around which hardly any is left, (K,) int32; scratch.

    The neighbourhood is 3 x 3 pieces of the grid of `side` by `side`; at least `least` returns are judged, of which a
    share of at most `left` may be present.
    """
    out = _scratch.array("chosen", found.fate.shape[0] + 1, np.int32)
    empty = _scratch.array("empty", side * side, np.bool_)
    count = _choose(found.fate, found.kind, found.place, found.there, found.gone, kind, side, least, left, empty, out)
    return out[:count]
