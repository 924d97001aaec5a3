"""NumPy twins of the kernels that group points: brute force, from the definitions; oracles for the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels import dbscan as kernel


def dbscan(xyz: NDArray[np.float32], eps_m: float, min_points: int) -> tuple[NDArray[np.int32], NDArray[np.bool_], int]:
    """Twin of `dbscan.dbscan`: all distances, then flood fill over core points in order. Memory is quadratic."""
    labels = np.full(xyz.shape[0], kernel.NOISE, dtype=np.int32)
    core = np.zeros(xyz.shape[0], dtype=np.bool_)
    if not 0.0 < eps_m < np.inf:
        return labels, core, 0
    p = xyz.astype(np.float64)
    with np.errstate(all="ignore"):
        good = (np.abs(np.floor(p / (eps_m / np.sqrt(3.0) * kernel.SHRINK))) < kernel.LIMIT).all(axis=1)
    index = np.flatnonzero(good)
    x, y, z = p[index].T
    near = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 + (z[:, None] - z) ** 2 <= eps_m * eps_m
    dense = near.sum(axis=1) >= min_points
    core[index] = dense
    count = 0
    for first in np.flatnonzero(dense):
        if labels[index[first]] != kernel.NOISE:
            continue
        stack = [int(first)]
        while stack:
            here = stack.pop()
            labels[index[here]] = count
            if dense[here]:
                stack.extend(int(k) for k in np.flatnonzero(near[here] & (labels[index] == kernel.NOISE)))
        count += 1
    return labels, core, count
