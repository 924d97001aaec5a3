"""NumPy twin of the pairs of returns; oracle for the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.firings import (
    CLOSE_SHARE,
    MAX_REACH_M,
    MAX_RINGS,
    MAX_STEP_RAD,
    MIN_REACH_M,
    MIN_STEP_RAD,
    OTHER_M,
    OTHER_RATIO,
    SECTORS,
)


def count_pairs(xyz: NDArray[np.float32], ring: NDArray[np.int16], step_rad: float) -> NDArray[np.int64]:
    """As `firings.count_pairs`, with every pair of neighbours in direction: each return against the one before it.

    Equal where no three returns of a ring lie in one place and none is within a rounding of a limit.
    """
    out = np.zeros((2, SECTORS), np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        rho = np.hypot(xyz[:, 0].astype(np.float64), xyz[:, 1].astype(np.float64))
        good = (rho >= MIN_REACH_M) & (rho <= MAX_REACH_M) & (ring >= 0) & (ring < MAX_RINGS)
    step = min(max(step_rad, MIN_STEP_RAD), MAX_STEP_RAD)
    for one in np.unique(ring[good]):
        which = np.flatnonzero(good & (ring == one))
        if which.size < 2:
            continue
        azimuth = np.arctan2(xyz[which, 1], xyz[which, 0]).astype(np.float64) % (2 * np.pi)
        which = which[np.argsort(azimuth)]
        azimuth = np.sort(azimuth)
        gap = (np.roll(azimuth, -1) - azimuth) % (2 * np.pi)
        after = np.roll(which, -1)
        later = np.maximum(which, after)
        close = gap < CLOSE_SHARE * step
        other = np.abs(rho[which] - rho[after]) > OTHER_M + OTHER_RATIO * rho[later]
        x, y = xyz[later, 0].astype(np.float64), xyz[later, 1].astype(np.float64)
        t = y / (np.abs(x) + np.abs(y))
        d = np.where(x < 0, 2.0 - t, np.where(t >= 0, t, 4.0 + t))
        sector = np.minimum((d * SECTORS / 4.0).astype(np.int64), SECTORS - 1)
        for kind, which_kind in enumerate((close & other, close & ~other)):
            out[kind] += np.bincount(sector[which_kind], minlength=SECTORS)
    return out
