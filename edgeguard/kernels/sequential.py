"""Sequential statistics over many channels: CUSUM, windowed chi-square, the excursions of a resampled CUSUM.

A row is one moment, a column one channel; NaN is "nothing observed" and never evidence. Page (Biometrika 1954) and, for
resampling in blocks, Kuensch (Annals of Statistics 17, 1989).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.cusum import cusum_step

_step = njit("f8(f8, f8, f8, f8, f8)", cache=True, nogil=True)(cusum_step)


@njit("f8[:,::1](f8[:,::1], f8, f8[::1], f8, f8[::1], f8[::1])", cache=True, nogil=True)
def cusum(
    z: NDArray[np.float64],
    k: float,
    weight: NDArray[np.float64],
    ceiling: float,
    up: NDArray[np.float64],
    down: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(T, C): the larger of both sums of each channel after each row.

    z: (T, C) standardised. weight: (C,) what a sample of a channel counts. up, down: (C,) the sums, updated in place.
    """
    out = np.empty_like(z)
    for t in range(z.shape[0]):
        for c in range(z.shape[1]):
            up[c] = _step(up[c], z[t, c], k, weight[c], ceiling)
            down[c] = _step(down[c], -z[t, c], k, weight[c], ceiling)
            out[t, c] = max(up[c], down[c])
    return out


@njit("Tuple((f8[:,::1], i8[:,::1]))(f8[:,::1], i8)", cache=True, nogil=True)
def windowed_chi_square(z: NDArray[np.float64], window: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(T, C) sum of squares over the last `window` rows of each channel, and (T, C) how many of them were observed.

    The second is the degrees of freedom of the first. Each window is summed anew: a running difference would keep the
    rounding of a huge outlier for ever.
    """
    total = np.zeros_like(z)
    count = np.zeros(z.shape, dtype=np.int64)
    for t in range(z.shape[0]):
        for row in range(max(0, t + 1 - window), t + 1):
            for c in range(z.shape[1]):
                value = z[row, c]
                if not np.isnan(value):
                    total[t, c] += value * value
                    count[t, c] += 1
    return total, count


@njit("f8[::1](f8[::1], i8[::1], i8, f8, f8)", cache=True, nogil=True)
def cusum_excursions(
    z: NDArray[np.float64], starts: NDArray[np.int64], block: int, k: float, weight: float
) -> NDArray[np.float64]:
    """(E,) the peak of each excursion of the upper sum above zero, over blocks of `z` put one after the other.

    z: (N,) standardised, no NaN. starts: (B,) where each block begins in `z`; a block that reaches the end goes on at
    the beginning. Neither the start nor the unfinished last excursion is left out: a peak is a peak.
    """
    peaks = np.empty(starts.shape[0] * block // 2 + 1)
    found = 0
    total = 0.0
    peak = 0.0
    for b in range(starts.shape[0]):
        i = starts[b]
        for _ in range(block):
            total = _step(total, z[i], k, weight, np.inf)
            if total > peak:
                peak = total
            elif total == 0.0 and peak > 0.0:
                peaks[found] = peak
                found += 1
                peak = 0.0
            i += 1
            if i == z.shape[0]:
                i = 0
    if peak > 0.0:
        peaks[found] = peak
        found += 1
    return peaks[:found].copy()
