"""Quantiles: chi-square, Poisson bounds and normal tolerance limits for what calibration is unsure of; of a few values.

Howe, "Two-sided tolerance limits for normal populations" (JASA 64, 1969); Garwood, "Fiducial limits for the Poisson
distribution" (Biometrika 28, 1936).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

_TINY = 1e-300
_TERMS = 10_000
_HALVINGS = 200


def chi_square_cdf(x: float, dof: float) -> float:
    """P(X <= x) for chi-square with `dof` > 0 degrees of freedom."""
    return _lower_gamma(0.5 * dof, 0.5 * x) if x > 0.0 else 0.0


def chi_square_quantile(p: float, dof: float) -> float:
    """The x with P(X <= x) = p, 0 < p < 1."""
    low, high = 0.0, max(1.0, dof)
    while chi_square_cdf(high, dof) < p:
        low, high = high, 2.0 * high
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if chi_square_cdf(middle, dof) < p else (low, middle)
    return high


def poisson_upper(count: int, confidence: float = 0.95) -> float:
    """Upper bound of the mean of a Poisson variable of which `count` events were seen."""
    return 0.5 * chi_square_quantile(confidence, 2.0 * (count + 1))


def tolerance_widening(samples: float, confidence: float = 0.95) -> float:
    """By how much a sigma known from `samples` independent values may be too small; 1 for very many, 3.3 for four.

    Howe's two-sided tolerance factor over the quantile that a known sigma would need. In his formula the ratio is the
    same for every content: with `confidence`, a widened interval of z sigmas holds what z sigmas should hold.
    """
    n = max(2.0, samples)
    return math.sqrt((n - 1.0) * (1.0 + 1.0 / n) / chi_square_quantile(1.0 - confidence, n - 1.0))


def quantile_of(values: ArrayLike, share: float) -> float:
    """What a share of some values, at least one, lie below; between the two next to it, as `numpy.quantile`, whose way
    to this is twenty times as long for the few values of a frame."""
    ordered = np.sort(np.asarray(values, np.float64))
    at = share * (ordered.size - 1)
    low = int(at)
    below, above = float(ordered[low]), float(ordered[min(low + 1, ordered.size - 1)])
    return below + (at - low) * (above - below)


def _lower_gamma(a: float, x: float) -> float:
    """Regularised lower incomplete gamma function (DLMF 8.11.4 and 8.9.2)."""
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1.0:
        term = total = 1.0 / a
        for n in range(1, _TERMS):
            term *= x / (a + n)
            total += term
            if term < total * 1e-16:
                break
        return min(1.0, scale * total)
    b = x + 1.0 - a
    c = 1.0 / _TINY
    fraction = d = 1.0 / b
    for n in range(1, _TERMS):
        step = -n * (n - a)
        b += 2.0
        d = 1.0 / (step * d + b or _TINY)
        c = b + step / c or _TINY
        fraction *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return max(0.0, 1.0 - scale * fraction)
