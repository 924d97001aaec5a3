"""Counting with honest intervals: proportions, rates, areas under curves, delays.

Wilson: J. Am. Stat. Assoc. 22, 1927. Poisson: Garwood's exact interval, Biometrika 28, 1936. Area under the ROC curve:
Mann and Whitney 1947, with half a point for ties; its interval by bootstrap over groups of frames that belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
# Draws of the bootstrap: the 2.5 % point of 1000 draws is known to about half a percent of probability.
DRAWS = 1000
_BISECTIONS = 80


def wilson(hits: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion; (0, 1) without trials."""
    if not 0 <= hits <= trials:
        raise ValueError("needs 0 <= hits <= trials")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, n = hits / trials, float(trials)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if hits == 0 else max(0.0, middle - reach)
    return low, 1.0 if hits == trials else min(1.0, middle + reach)


def poisson(count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact interval of the mean of which `count` was seen."""
    if count < 0:
        raise ValueError("needs count >= 0")
    tail = (1 - confidence) / 2
    high = _mean_with(count, tail, count + 10.0 * sqrt(count + 1.0) + 20.0)
    return (0.0 if count == 0 else _mean_with(count - 1, 1.0 - tail, float(count))), high


def _mean_with(count: int, share: float, top: float) -> float:
    """Return the mean in 0..top at which a Poisson variable is at most `count` with this probability."""
    numbers = np.arange(count + 1, dtype=np.float64)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(numbers[1:]))])
    low, high = 0.0, top
    for _ in range(_BISECTIONS):
        mean = (low + high) / 2
        at_most = np.exp(numbers * log(mean) - mean - log_factorial).sum() if mean > 0.0 else 1.0
        low, high = (mean, high) if at_most > share else (low, mean)
    return (low + high) / 2


def rate_per_hour(count: int, seconds: float) -> tuple[float, float, float]:
    """Return events per hour with the exact interval; (0, 0, inf) over no time."""
    if seconds <= 0.0:
        return 0.0, 0.0, inf
    low, high = poisson(count)
    hours = seconds / 3600.0
    return count / hours, low / hours, high / hours


def auroc(clean: NDArray[np.float64], attacked: NDArray[np.float64]) -> float:
    """Return the chance that a score under attack exceeds a clean one, ties half; NaN when one side is empty."""
    if len(clean) == 0 or len(attacked) == 0:
        return float("nan")
    order = np.sort(clean)
    below = np.searchsorted(order, attacked, side="left")
    up_to = np.searchsorted(order, attacked, side="right")
    return float((below + up_to).mean() / (2 * len(clean)))


def auroc_interval(
    clean: Sequence[NDArray[np.float64]], attacked: Sequence[NDArray[np.float64]], rng: np.random.Generator
) -> tuple[float, float]:
    """Return the bootstrap interval over groups (blocks of clean time; trials): frames of one group are not
    independent. (0, 1) where a side has fewer than two groups."""
    clean, attacked = [g for g in clean if len(g)], [g for g in attacked if len(g)]
    if len(clean) < 2 or len(attacked) < 2:
        return 0.0, 1.0
    # Every group against every other once: a draw is then a weighted mean of this table.
    table = np.array([[auroc(c, a) for a in attacked] for c in clean])
    weights = np.outer([len(c) for c in clean], [len(a) for a in attacked]).astype(np.float64)
    rows = rng.multinomial(len(clean), np.full(len(clean), 1 / len(clean)), DRAWS).astype(np.float64)
    columns = rng.multinomial(len(attacked), np.full(len(attacked), 1 / len(attacked)), DRAWS).astype(np.float64)
    top = np.einsum("di,ij,dj->d", rows, table * weights, columns)
    draws = top / np.einsum("di,ij,dj->d", rows, weights, columns)
    tail = (1 - CONFIDENCE) / 2
    return float(np.quantile(draws, tail)), float(np.quantile(draws, 1 - tail))


def percentile(delays: Sequence[float | None], share: float) -> float | None:
    """Return the delay within which `share` of the trials were found (nearest rank); a miss counts as longer than all,
    so None means that fewer were found."""
    if not delays:
        return None
    ordered = sorted(inf if d is None else d for d in delays)
    rank = max(0, -int(-share * len(ordered) // 1) - 1)
    value = ordered[min(rank, len(ordered) - 1)]
    return None if value == inf else value
