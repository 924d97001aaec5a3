"""NumPy twin of `fates`: slow and plain, for tests and as a description."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.fates import BEYOND, COVERED, EMPTY, MIN_COLUMN, OUTSIDE, PRESENT
from edgeguard.kernels.ranges import COLUMNS, EL_MIN_DEG, EL_STEP_DEG, MAX_RANGE_M, MIN_RANGE_M, ROWS


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
    """As `fates.fate_of_points`."""
    near, far = np.full((ROWS, COLUMNS), np.inf), np.zeros((ROWS, COLUMNS))
    range_now, row_now, col_now = now
    seen = row_now >= 0
    np.minimum.at(near, (row_now[seen], col_now[seen]), range_now[seen].astype(np.float64))
    np.maximum.at(far, (row_now[seen], col_now[seen]), range_now[seen].astype(np.float64))
    p = xyz.astype(np.float64) @ T_cur_prev[:3, :3].T + T_cur_prev[:3, 3]
    r = np.linalg.norm(p, axis=1)
    with np.errstate(invalid="ignore"):
        row = np.floor(
            np.degrees(np.arctan2(p[:, 2], np.hypot(p[:, 0], p[:, 1]))) / EL_STEP_DEG - EL_MIN_DEG / EL_STEP_DEG
        )
        col = np.floor((np.arctan2(p[:, 1], p[:, 0]) + np.pi) * COLUMNS / (2 * np.pi))
        inside = (r >= MIN_RANGE_M) & (r <= MAX_RANGE_M) & (row >= 0) & (row < ROWS)
    if not seen.any():
        return np.full(xyz.shape[0], OUTSIDE, np.int8)
    inside &= (row > row_now[seen].min()) & (row < row_now[seen].max())
    blank = np.isfinite(near).sum(axis=0) < MIN_COLUMN
    k, c = np.where(inside, row, 0).astype(int), np.where(inside, np.minimum(col, COLUMNS - 1), 0).astype(int)
    low, high = near[k, c], far[k, c]
    margin = margin_m + margin_ratio * r
    fall = np.sin(np.radians(-(EL_MIN_DEG + (k + 0.5) * EL_STEP_DEG)))
    with np.errstate(divide="ignore"):
        deep = np.where(fall > 0.0, np.maximum(margin, (depth_m + depth_ratio * r) / fall), np.inf)
    beyond = np.where(ground, deep, margin)
    conditions = [
        ~inside | ((low == np.inf) & blank[c]),
        low == np.inf,
        high < r - margin,
        low > r + beyond,
        (low < r - margin) & (high > r + beyond),
    ]
    return np.select(conditions, [OUTSIDE, EMPTY, COVERED, BEYOND, COVERED], PRESENT).astype(np.int8)
