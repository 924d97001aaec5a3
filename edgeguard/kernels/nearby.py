"""Others near each return of a sweep by distance in space: how many within a radius, and how far the nearest are.

A ball around a return is a cone from the sensor, so that the image of the sweep in bands of elevation holds all of it
in a few runs: no tree is built.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.scatter import BAND_DEG, COLUMNS, SweepImage, taken

MOST_NEAREST = 32

_COLUMN_SCALE = COLUMNS / (2.0 * np.pi)
_DEGREES = 180.0 / np.pi
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)


@njit("UniTuple(i8, 4)(i8, i8, f8, f8, f8)", cache=True, nogil=True, error_model="numpy")
def _window(row: int, rows: int, r: float, z: float, reach: float) -> tuple[int, int, int, int]:
    """First and last band, and first and last column from a return's own, that a ball around it can meet."""
    half = np.pi if reach >= r else np.arcsin(reach / r)
    up = np.int64(half * _DEGREES / BAND_DEG) + 1
    level = np.sqrt(max(1.0 - (z / r) * (z / r), 0.0))
    beside = np.sin(half) / level if half < 0.5 * np.pi and level > 0.0 else 1.0
    wide = np.int64(COLUMNS // 2) if beside >= 1.0 else np.int64(np.arcsin(beside) * _COLUMN_SCALE) + 1
    first = row - up if row > up else np.int64(0)
    last = row + up if row + up < rows else np.int64(rows - 1)
    wide = wide if wide < COLUMNS // 2 else np.int64(COLUMNS // 2)
    right = wide - 1 if wide == COLUMNS // 2 else wide  # never a column twice
    return first, last, -wide, right  # type: ignore[return-value]  # numba hands Python ints


@njit(
    "void(f4[::1], f4[::1], i4[::1], b1[::1], i4[::1], i4[::1], i8, f8[::1], i8, i1[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _count(
    flat: NDArray[np.float32],
    range_m: NDArray[np.float32],
    cell: NDArray[np.int32],
    asked: NDArray[np.bool_],
    order: NDArray[np.int32],
    starts: NDArray[np.int32],
    rows: int,
    radius: NDArray[np.float64],
    enough: int,
    near: NDArray[np.int8],
) -> None:
    for i in range(np.uint64(cell.shape[0])):
        near[i] = np.int8(-1)
        if cell[i] < 0 or not asked[i]:
            continue
        row = np.int64(cell[i]) // COLUMNS
        column = np.int64(cell[i]) - row * COLUMNS
        x, y, z = flat[i * _THREE], flat[i * _THREE + _ONE], flat[i * _THREE + _TWO]
        r = np.float64(range_m[i])
        reach = max(radius[0], radius[1] * r)
        reach2 = reach * reach
        low, high, left, right = _window(row, rows, r, z, reach)
        found = np.int64(-1)  # itself
        for at in range(low, high + 1):
            for step in range(left, right + 1):
                k = np.uint64(at * COLUMNS + (column + step) % COLUMNS)
                for j in range(np.uint64(starts[k]), np.uint64(starts[k + _ONE])):
                    n = np.uint64(order[j]) * _THREE
                    dx = np.float64(flat[n]) - x
                    dy = np.float64(flat[n + _ONE]) - y
                    dz = np.float64(flat[n + _TWO]) - z
                    found += dx * dx + dy * dy + dz * dz <= reach2
            if found >= enough:
                break
        near[i] = np.int8(found if found < enough else enough)


def count_in_radius(
    image: SweepImage,
    xyz: NDArray[np.float32],
    asked: NDArray[np.bool_],
    radius: tuple[float, float],
    enough: int,
) -> NDArray[np.int8]:
    """Count the others within max(radius[0] metres, radius[1] times its range) of each return.

    Args:
        image: from `image_of_bands` of the same `xyz` (N, 3), with a reach that is a radius farther than what is asked.
        asked: (N,) bool. enough: counting stops there, 1..100.

    Returns (N,) int8, at most `enough`; -1 for returns that were not asked for or are not in the image.
    """
    near = np.empty(len(image.cell), np.int8)
    flat, most = taken(xyz, np.float32).reshape(-1), min(max(1, enough), 100)
    margins = np.array(radius, np.float64)
    _count(flat, image.range_m, image.cell, asked, image.order, image.starts, image.rows, margins, most, near)
    return near


@njit(
    "void(f4[::1], f4[::1], i4[::1], i4[::1], i4[::1], i8, i8, f8, f4[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _mean_nearest(
    flat: NDArray[np.float32],
    range_m: NDArray[np.float32],
    cell: NDArray[np.int32],
    order: NDArray[np.int32],
    starts: NDArray[np.int32],
    rows: int,
    count: int,
    cap_m: float,
    mean_m: NDArray[np.float32],
) -> None:
    best = np.empty(MOST_NEAREST, np.float64)
    cap2 = cap_m * cap_m
    for i in range(np.uint64(cell.shape[0])):
        mean_m[i] = np.nan
        if cell[i] < 0:
            continue
        row = np.int64(cell[i]) // COLUMNS
        column = np.int64(cell[i]) - row * COLUMNS
        x, y, z = flat[i * _THREE], flat[i * _THREE + _ONE], flat[i * _THREE + _TWO]
        r = np.float64(range_m[i])
        reach = min(max(0.02 * r, 0.05), cap_m)
        while True:
            low, high, left, right = _window(row, rows, r, z, reach)
            best[:count] = cap2
            for at in range(low, high + 1):
                for step in range(left, right + 1):
                    k = np.uint64(at * COLUMNS + (column + step) % COLUMNS)
                    for j in range(np.uint64(starts[k]), np.uint64(starts[k + _ONE])):
                        if order[j] == np.int32(i):
                            continue
                        n = np.uint64(order[j]) * _THREE
                        dx = np.float64(flat[n]) - x
                        dy = np.float64(flat[n + _ONE]) - y
                        dz = np.float64(flat[n + _TWO]) - z
                        d2 = dx * dx + dy * dy + dz * dz
                        if d2 >= best[count - 1]:
                            continue
                        place = count - 1
                        while place > 0 and best[place - 1] > d2:
                            best[place] = best[place - 1]
                            place -= 1
                        best[place] = d2
            if best[count - 1] <= reach * reach or reach >= cap_m:
                break  # no nearer one can be outside the window
            reach = min(2.0 * reach, cap_m)
        mean_m[i] = np.float32(np.sqrt(best[:count]).mean())


def mean_nearest(image: SweepImage, xyz: NDArray[np.float32], count: int, cap_m: float) -> NDArray[np.float32]:
    """Mean distance to the `count` nearest others of each return, each of them `cap_m` at most; (N,) float32 metres.

    image: from `image_of_bands` of the same `xyz` (N, 3). count: 1..MOST_NEAREST. NaN for returns that are not in it.
    """
    mean_m = np.empty(len(image.cell), np.float32)
    flat, most = taken(xyz, np.float32).reshape(-1), min(max(1, count), MOST_NEAREST)
    _mean_nearest(flat, image.range_m, image.cell, image.order, image.starts, image.rows, most, cap_m, mean_m)
    return mean_m
