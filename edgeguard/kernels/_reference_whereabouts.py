"""NumPy twin of `whereabouts`: slow and plain, for tests and as a description."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.ranges import COLUMNS, EL_MIN_DEG, EL_STEP_DEG, MAX_RANGE_M, MIN_RANGE_M, ROWS
from edgeguard.kernels.whereabouts import (
    BETWEEN_SHARE,
    BEYOND,
    COVERED,
    EMPTY,
    OUTSIDE,
    PRESENT,
    SPARSE_SHARE,
    Bounds,
    CellPoints,
    SweepCells,
)


def cells_of_sweep(sweep: CellPoints, ground_m: float) -> SweepCells:
    """As `whereabouts.cells_of_sweep`."""
    far, count = np.zeros((ROWS, COLUMNS), np.float32), np.zeros((ROWS, COLUMNS), np.int64)
    level = np.zeros((ROWS, COLUMNS), np.uint8)
    at = (sweep.row, sweep.col)
    np.maximum.at(far, at, sweep.range_m)
    np.add.at(count, at, 1)
    level[sweep.row[lies := np.abs(sweep.height_m) < ground_m], sweep.col[lies]] = 1
    seen = count > 0
    columns, rows = seen.sum(axis=0).astype(np.int32), seen.sum(axis=1).astype(np.int32)
    return SweepCells(sweep.image, far, np.minimum(count, 255).astype(np.uint8), level, columns, rows)


def follow_places(
    xyz: NDArray[np.float32],
    ground: bool,
    T_cur_prev: NDArray[np.float64],
    now: SweepCells,
    looks: NDArray[np.bool_],
    bounds: Bounds,
) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """As `whereabouts.follow_places`."""
    p = xyz.astype(np.float64) @ T_cur_prev[:3, :3].T + T_cur_prev[:3, 3]
    r = np.linalg.norm(p, axis=1)
    row = (np.degrees(np.arctan2(p[:, 2], np.hypot(p[:, 0], p[:, 1]))) - EL_MIN_DEG) / EL_STEP_DEG
    col = ((np.arctan2(p[:, 1], p[:, 0]) + np.pi) * COLUMNS / (2 * np.pi)).astype(np.int64) % COLUMNS
    used = np.flatnonzero(now.rows)
    inside = (r >= MIN_RANGE_M) & (r <= MAX_RANGE_M) & (row >= used[0] + 1) & (row < used[-1]) & looks[col]
    k = np.where(inside, row, 1).astype(np.int64)
    inside &= now.rows[k] >= BETWEEN_SHARE * now.rows.max()
    margin = bounds.margin_m + bounds.margin_ratio * r
    beyond = margin
    if ground:
        fall = np.sin(np.radians(-(EL_MIN_DEG + (k + 0.5) * EL_STEP_DEG)))
        with np.errstate(divide="ignore"):
            depth = np.where(fall > 0, (bounds.depth_m + bounds.depth_ratio * r) / fall, np.inf)
        beyond = np.maximum(margin, depth)
    low, high = now.near[k, col].astype(np.float64), now.far[k, col].astype(np.float64)
    nearer, past = low < r - margin, high > r + beyond
    fate = np.full(r.shape, PRESENT, np.int8)
    fate[low > r + beyond] = BEYOND
    fate[nearer & ((high < r - margin) | past)] = COVERED
    none = np.isinf(low)
    beside = np.isfinite(now.near[k - 1, col]) | np.isfinite(now.near[np.minimum(k + 1, ROWS - 1), col])
    wanders = (now.rows[k] < SPARSE_SHARE * now.rows.max()) & beside
    fate[none] = np.where(wanders[none], OUTSIDE, EMPTY)
    fate[~inside] = OUTSIDE
    return fate, np.where(inside, k * COLUMNS + col, -1).astype(np.int32)


def choose_gone(
    fate: NDArray[np.int8],
    place: NDArray[np.int32],
    ground: bool,
    side: int,
    least: int,
    left: float,
) -> NDArray[np.int64]:
    """As `whereabouts.choose_gone`, of the returns of one kind."""
    gone = (fate == BEYOND) | ((fate == EMPTY) & (not ground))
    grids = [np.zeros((side + 2, side + 2)) for _ in range(2)]
    for grid, chosen in zip(grids, (fate == PRESENT, gone), strict=True):
        np.add.at(grid, (place[chosen] // side + 1, place[chosen] % side + 1), 1)
    windows = [np.lib.stride_tricks.sliding_window_view(grid, (3, 3)).sum(axis=(2, 3)).reshape(-1) for grid in grids]
    stays, goes = windows
    hollow = (stays + goes >= least) & (stays <= left * (stays + goes))
    return np.flatnonzero(gone & hollow[place])


def least_returns(count: NDArray[np.uint8], row: NDArray[np.int64], column: NDArray[np.int64], reach: int) -> int:
    """As `whereabouts.least_returns`."""
    shifts = range(-reach, reach + 1)
    return min(int(count[row, (column + shift) % COLUMNS].sum(dtype=np.int64)) for shift in shifts)
