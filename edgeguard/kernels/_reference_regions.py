"""NumPy twins of the region counts; oracles for the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def count_in_box(
    xyz: NDArray[np.float32], low: NDArray[np.float64], high: NDArray[np.float64], flag: NDArray[np.bool_]
) -> tuple[int, int]:
    """Twin of `regions.count_in_box`."""
    inside = ((xyz >= low) & (xyz <= high)).all(axis=1)
    return int(inside.sum()), int((inside & flag).sum())


def within_reach(xyz: NDArray[np.float32], x_m: float, y_m: float, reach_m: float) -> NDArray[np.bool_]:
    """Twin of `regions.within_reach`."""
    with np.errstate(all="ignore"):
        near: NDArray[np.bool_] = ((xyz[:, :2].astype(np.float64) - (x_m, y_m)) ** 2).sum(axis=1) < reach_m**2
    return near


def count_behind(
    row: NDArray[np.int16],
    col: NDArray[np.int16],
    range_m: NDArray[np.float32],
    shift: int,
    columns: int,
    window: NDArray[np.float64],
    beyond_m: float,
) -> tuple[int, int]:
    """Twin of `regions.count_behind`."""
    column = (col.astype(np.int64) - shift) % columns
    inside = (row >= window[0]) & (row <= window[1]) & (column >= window[2]) & (column <= window[3])
    return int(inside.sum()), int((inside & (range_m > beyond_m)).sum())


def count_below(row: NDArray[np.int16], col: NDArray[np.int16], limit: int, columns: int) -> NDArray[np.int64]:
    """As `regions.count_below`."""
    return np.bincount(col[(row >= 0) & (row < limit)], minlength=columns)


def count_alone(image: NDArray[np.float32], margin_m: float, margin_ratio: float) -> NDArray[np.int64]:
    """As `regions.count_alone`."""
    margin = np.float32(margin_m) + np.float32(margin_ratio) * image
    padded = np.full((image.shape[0] + 2, image.shape[1]), np.inf, np.float32)
    padded[1:-1] = image
    with np.errstate(invalid="ignore"):
        beside = [np.roll(image, shift, axis=1) for shift in (1, -1)]
        judged = np.isfinite(image) & np.isfinite(beside[0]) & np.isfinite(beside[1])
        unlike = judged & (np.abs(beside[0] - image) > margin) & (np.abs(beside[1] - image) > margin)
        alone = unlike & (np.abs(padded[2:] - image) > margin) & (np.abs(padded[:-2] - image) > margin)
    return np.stack([each.sum(axis=0) for each in (judged, unlike, alone)])


def count_returns(
    row: NDArray[np.int16],
    col: NDArray[np.int16],
    range_m: NDArray[np.float32],
    rows: int,
    columns: int,
    together: int,
    least_m: float,
) -> NDArray[np.int32]:
    """As `regions.count_returns`."""
    out = np.zeros((rows, columns // together), np.int32)
    group = col.astype(np.int64) // together
    good = (range_m >= np.float32(least_m)) & (row >= 0) & (group < out.shape[1])
    np.add.at(out, (row[good].astype(np.int64), group[good]), 1)
    return out
