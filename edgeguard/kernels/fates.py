"""What became of the returns of an earlier sweep: the beam that would meet the place today, and what it says.

The counterpart of `ranges.ask_sweep`, which asks an earlier sweep about today's returns. Here a place is judged by the
one cell of the range image that it falls into, not by nine: a thinned object keeps some neighbours, but few cells.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.ranges import COLUMNS, EL_MIN_DEG, EL_STEP_DEG, ROWS, look
from edgeguard.kernels.scratch import Scratch

PRESENT, COVERED, BEYOND, EMPTY, OUTSIDE = 0, 1, 2, 3, 4
MIN_COLUMN = 4  # filled cells of a column of the image; with fewer, the sensor does not look there
_scratch = Scratch()


@njit("UniTuple(i8, 2)(f4[::1], i2[::1], i2[::1], f4[:,::1], f4[:,::1], i4[::1])", cache=True, nogil=True)
def _span(
    range_m: NDArray[np.float32],
    row: NDArray[np.int16],
    col: NDArray[np.int16],
    near: NDArray[np.float32],
    far: NDArray[np.float32],
    filled: NDArray[np.int32],
) -> tuple[int, int]:
    """Nearest and farthest return per cell, filled cells per column; returns the lowest and the highest row in use."""
    near[:] = np.inf
    far[:] = 0.0
    filled[:] = 0
    lowest, highest = ROWS, -1
    for i in range(np.uint64(range_m.shape[0])):
        if row[i] >= 0:
            k, c = np.uint64(row[i]), np.uint64(col[i])
            filled[c] += near[k, c] == np.inf
            near[k, c] = min(near[k, c], range_m[i])
            far[k, c] = max(far[k, c], range_m[i])
            lowest = min(lowest, np.int64(row[i]))  # type: ignore[assignment]  # numba's int64 is an int
            highest = max(highest, np.int64(row[i]))  # type: ignore[assignment]  # as above
    return lowest, highest


@njit(
    "void(f8[::1], i4[::1], b1[::1], f4[:,::1], f4[:,::1], i4[::1], i8, i8, f8, f8, f8, f8, i1[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _judge(
    range_m: NDArray[np.float64],
    cell: NDArray[np.int32],
    ground: NDArray[np.bool_],
    near: NDArray[np.float32],
    far: NDArray[np.float32],
    filled: NDArray[np.int32],
    lowest: int,
    highest: int,
    margin_m: float,
    margin_ratio: float,
    depth_m: float,
    depth_ratio: float,
    out: NDArray[np.int8],
) -> None:
    for i in range(np.uint64(cell.shape[0])):
        row = np.int64(cell[i]) // COLUMNS - 1
        if cell[i] < 0 or row <= lowest or row >= highest:
            out[i] = OUTSIDE
            continue
        k, c = np.uint64(row), np.uint64(np.int64(cell[i]) % COLUMNS)
        r = range_m[i]
        margin = margin_m + margin_ratio * r
        low, high = np.float64(near[k, c]), np.float64(far[k, c])
        beyond = margin
        if ground[i]:
            # what lies `depth` below the ground lies so much farther along a beam that falls at this angle
            fall = np.sin(np.radians(-(EL_MIN_DEG + (np.float64(row) + 0.5) * EL_STEP_DEG)))
            beyond = max(margin, (depth_m + depth_ratio * r) / fall) if fall > 0.0 else np.inf
        if low == np.inf:
            out[i] = EMPTY if filled[c] >= MIN_COLUMN else OUTSIDE
        elif low < r - margin and high < r - margin:
            out[i] = COVERED
        elif low > r + beyond:
            out[i] = BEYOND
        elif low < r - margin and high > r + beyond:
            out[i] = COVERED
        else:
            out[i] = PRESENT


def fate_of_points(
    xyz: NDArray[np.float32],
    ground: NDArray[np.bool_],
    T_cur_prev: NDArray[np.float64],
    now: tuple[NDArray[np.float32], NDArray[np.int16], NDArray[np.int16]],
    margin_m: float,
    margin_ratio: float,
    depth_m: float,
    depth_ratio: float,
) -> NDArray[np.int8]:
    """What today's beams say about the places of an earlier sweep's returns.

    Args:
        xyz: (N, 3) float32, C-contiguous, metres, earlier sensor frame. ground: (N,) bool, returns from the ground.
        T_cur_prev: (4, 4) float64, earlier to current sensor frame.
        now: range, row and column of the current returns, of `ranges.to_spherical`.
        margin_m, margin_ratio: a return is at the place when within `margin_m + margin_ratio * range`.
        depth_m, depth_ratio: a return beyond the ground counts only when `depth_m + depth_ratio * range` below it.

    Returns (N,) int8: PRESENT when the place's cell has a return there, COVERED when its returns are nearer (or on
    both sides), BEYOND when all are farther, EMPTY without any, OUTSIDE where the sensor does not look: at or beyond
    its outermost rows, and in columns that are empty.
    """
    n = xyz.shape[0]
    range_m = _scratch.array("range", n, np.float64)
    cell = _scratch.array("cell", n, np.int32)
    look(xyz.reshape(-1), np.ascontiguousarray(T_cur_prev, dtype=np.float64), range_m, cell)
    near = _scratch.array("near", ROWS * COLUMNS, np.float32).reshape(ROWS, COLUMNS)
    far = _scratch.array("far", ROWS * COLUMNS, np.float32).reshape(ROWS, COLUMNS)
    filled = _scratch.array("filled", COLUMNS, np.int32)
    lowest, highest = _span(*now, near, far, filled)
    out = np.empty(n, dtype=np.int8)
    _judge(range_m, cell, ground, near, far, filled, lowest, highest, margin_m, margin_ratio, depth_m, depth_ratio, out)
    return out
