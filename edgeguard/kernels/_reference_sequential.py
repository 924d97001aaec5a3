"""NumPy twins of the sequential statistics; oracles for the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cusum(
    z: NDArray[np.float64],
    k: float,
    weight: NDArray[np.float64],
    ceiling: float,
    up: NDArray[np.float64],
    down: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Twin of `sequential.cusum`: all channels of a row at once."""
    out = np.empty_like(z)
    for row, values in zip(out, z, strict=True):
        for side, sign in ((up, 1.0), (down, -1.0)):
            moved = side + weight * (sign * values - k)
            side[:] = np.where(np.isnan(moved), side, np.clip(moved, 0.0, ceiling))
        row[:] = np.maximum(up, down)
    return out


def windowed_chi_square(z: NDArray[np.float64], window: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Twin of `sequential.windowed_chi_square`."""
    rows = [z[max(0, t + 1 - window) : t + 1] for t in range(len(z))]
    total = np.array([np.nansum(row**2, axis=0) for row in rows]).reshape(z.shape)
    count = np.array([np.isfinite(row).sum(axis=0) for row in rows], dtype=np.int64).reshape(z.shape)
    return total, count


def cusum_excursions(
    z: NDArray[np.float64], starts: NDArray[np.int64], block: int, k: float, weight: float
) -> NDArray[np.float64]:
    """Twin of `sequential.cusum_excursions`, by Lindley's formula: a reflected walk is the walk minus its minimum."""
    stream = z[(starts[:, None] + np.arange(block)) % len(z)].reshape(-1)
    walk = np.concatenate(([0.0], np.cumsum(weight * (stream - k))))
    sums = walk - np.minimum.accumulate(walk)
    above = sums > 0.0
    begins = np.flatnonzero(above & ~np.concatenate(([False], above[:-1])))
    ends = np.flatnonzero(~above)
    return np.array([sums[i : ends[ends > i][0] if (ends > i).any() else len(sums)].max() for i in begins])
