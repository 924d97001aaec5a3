"""NumPy twins of the kernels that count neighbours in a sweep: brute force, the definitions; test oracles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels import scatter as kernel


def count_neighbours(
    range_m: NDArray[np.float32],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    window: tuple[int, int],
    tolerance: tuple[float, float, float, float],
    enough: int,
) -> NDArray[np.int8]:
    """Twin of `scatter.count_neighbours` for returns that are all in the image; memory is quadratic.

    row, column: (N,) place in the image.
    """
    r = range_m.astype(np.float64)
    low = (r - tolerance[0] - tolerance[1] * r).astype(np.float32)[:, None]
    high = (r + tolerance[2] + tolerance[3] * r).astype(np.float32)[:, None]
    apart = np.abs(column[:, None] - column[None])
    near = np.minimum(apart, kernel.COLUMNS - apart) <= window[1]
    near &= np.abs(row[:, None] - row[None]) <= window[0]
    near &= (range_m[None] >= low) & (range_m[None] <= high)
    np.fill_diagonal(near, val=False)
    return np.asarray(np.minimum(near.sum(axis=1), enough), dtype=np.int8)


def count_in_radius(xyz: NDArray[np.float32], radius: tuple[float, float], enough: int) -> NDArray[np.int8]:
    """Twin of `nearby.count_in_radius` for a whole sweep; memory is quadratic."""
    p = xyz.astype(np.float64)
    reach = np.maximum(radius[0], radius[1] * np.linalg.norm(p, axis=1))
    apart2 = ((p[:, None] - p[None]) ** 2).sum(axis=2)
    return np.asarray(np.minimum((apart2 <= (reach**2)[:, None]).sum(axis=1) - 1, enough), dtype=np.int8)


def mean_nearest(xyz: NDArray[np.float32], count: int, cap_m: float) -> NDArray[np.float32]:
    """Twin of `nearby.mean_nearest` for a whole sweep of at least two returns; memory is quadratic."""
    p = xyz.astype(np.float64)
    apart = np.sqrt(((p[:, None] - p[None]) ** 2).sum(axis=2))
    np.fill_diagonal(apart, np.inf)
    nearest = np.full((len(p), count), np.inf)
    held = np.sort(apart, axis=1)[:, :count]
    nearest[:, : held.shape[1]] = held
    return np.asarray(np.minimum(nearest, cap_m).mean(axis=1), dtype=np.float32)
