"""How many points of a sweep, or cells of its image, lie in a region or alone: one pass, no arrays in between."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)


@njit("UniTuple(i8, 2)(f4[:,::1], f8[::1], f8[::1], b1[::1])", cache=True, nogil=True)
def count_in_box(
    xyz: NDArray[np.float32], low: NDArray[np.float64], high: NDArray[np.float64], flag: NDArray[np.bool_]
) -> tuple[int, int]:
    """Points inside a box, borders included, and how many of them are flagged.

    xyz: (N, 3) float32, metres. low, high: (3,) float64. flag: (N,) bool. NaN is outside.
    """
    flat = xyz.reshape(-1)
    inside = 0
    flagged = 0
    for i in range(np.uint64(flag.shape[0])):
        j = i * _THREE
        x, y, z = np.float64(flat[j]), np.float64(flat[j + _ONE]), np.float64(flat[j + _TWO])
        here = (x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1]) & (z >= low[2]) & (z <= high[2])
        inside += here
        flagged += here & flag[i]
    return inside, flagged


@njit("b1[::1](f4[:,::1], f8, f8, f8)", cache=True, nogil=True)
def within_reach(xyz: NDArray[np.float32], x_m: float, y_m: float, reach_m: float) -> NDArray[np.bool_]:
    """Whether each point is nearer than `reach_m` to a place in the plane. xyz: (N, 3) float32, metres."""
    flat = xyz.reshape(-1)
    near = np.empty(xyz.shape[0], dtype=np.bool_)
    reach2 = reach_m * reach_m
    for i in range(np.uint64(near.shape[0])):
        j = i * _THREE
        dx = np.float64(flat[j]) - x_m
        dy = np.float64(flat[j + _ONE]) - y_m
        near[i] = dx * dx + dy * dy < reach2
    return near


@njit("UniTuple(i8, 2)(i2[::1], i2[::1], f4[::1], i8, i8, f8[::1], f8)", cache=True, nogil=True)
def count_behind(
    row: NDArray[np.int16],
    col: NDArray[np.int16],
    range_m: NDArray[np.float32],
    shift: int,
    columns: int,
    window: NDArray[np.float64],
    beyond_m: float,
) -> tuple[int, int]:
    """Returns inside a window of the range image, borders included, and how many of them lie farther than `beyond_m`.

    row, col: (N,) int16, col in 0..columns - 1; range_m: (N,) float32. The window is (lowest row, highest row, lowest
    column, highest column), its columns counted from `shift`, which is less than `columns` either way.
    """
    inside = 0
    behind = 0
    for i in range(np.uint64(row.shape[0])):
        c = np.int64(col[i]) - shift
        c = c + columns if c < 0 else c
        c = c - columns if c >= columns else c
        k = np.float64(row[i])
        here = (k >= window[0]) & (k <= window[1]) & (c >= window[2]) & (c <= window[3])
        inside += here
        behind += here & (np.float64(range_m[i]) > beyond_m)
    return inside, behind


@njit("i8[::1](i2[::1], i2[::1], i8, i8)", cache=True, nogil=True)
def count_below(row: NDArray[np.int16], col: NDArray[np.int16], limit: int, columns: int) -> NDArray[np.int64]:
    """Returns of each column in the rows 0 to `limit` - 1. row, col: (N,) int16, col in 0..columns - 1."""
    out = np.zeros(columns, np.int64)
    for i in range(np.uint64(row.shape[0])):
        out[np.uint64(col[i])] += (row[i] >= 0) & (row[i] < limit)
    return out


@njit("i8[:,::1](f4[:,::1], f4, f4)", cache=True, nogil=True)
def count_alone(image: NDArray[np.float32], margin_m: float, margin_ratio: float) -> NDArray[np.int64]:
    """Cells of each column of a range image, (3, columns) int64: those judged, those unlike both cells beside them, and
    those of the latter that are unlike the cells above and below as well.

    image: (rows, columns) float32, metres, around the circle, inf without a return. A cell is judged when it and both
    cells beside it have returns; two are alike within `margin_m + margin_ratio * range`.
    """
    rows, columns = image.shape
    out = np.zeros((3, columns), np.int64)
    for k in range(rows):
        for c in range(columns):
            r = image[k, c]
            left = image[k, c - 1 if c > 0 else columns - 1]
            right = image[k, c + 1 if c + 1 < columns else 0]
            if not (r < np.inf and left < np.inf and right < np.inf):
                continue
            margin = margin_m + margin_ratio * r
            unlike = (abs(left - r) > margin) & (abs(right - r) > margin)
            out[0, c] += 1
            out[1, c] += unlike
            if unlike:
                above = image[k + 1, c] if k + 1 < rows else np.float32(np.inf)
                below = image[k - 1, c] if k > 0 else np.float32(np.inf)
                out[2, c] += (abs(above - r) > margin) & (abs(below - r) > margin)
    return out


@njit("i4[:,::1](i2[::1], i2[::1], f4[::1], i8, i8, i8, f8)", cache=True, nogil=True)
def count_returns(
    row: NDArray[np.int16],
    col: NDArray[np.int16],
    range_m: NDArray[np.float32],
    rows: int,
    columns: int,
    together: int,
    least_m: float,
) -> NDArray[np.int32]:
    """Returns of each row and each `together` columns, (rows, columns // together) int32, from `least_m` on.

    row, col: (N,) int16, row in 0..rows - 1, col in 0..columns - 1; range_m: (N,) float32. Columns left over at the end
    are not counted.
    """
    out = np.zeros((rows, columns // together), np.int32)
    least, group, groups = np.float32(least_m), np.uint64(together), np.uint64(columns // together)
    for i in range(np.uint64(row.shape[0])):
        c = np.uint64(col[i]) // group
        if (range_m[i] >= least) & (row[i] >= 0) & (c < groups):
            out[np.uint64(row[i]), c] += np.int32(1)
    return out
