"""How high a statistic climbs by itself, and how seldom: the tail of its clean peaks, and the level for a rate.

A recording is shorter than the time between alarms that a user states, so the level lies beyond all that was seen.
Excursions of a CUSUM have exponential peaks (Siegmund, "Sequential Analysis", 1985), and as its steps are clipped no
residual makes them heavier; a gate's fall off like a Gaussian's: heights to some power are exponential (Weibull). No
power is chosen. All are averaged by what the peaks say for each (Bayes; scale-invariant prior of the mean excess), so
that a few peaks, which cannot tell, give a level as far out as not knowing deserves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.quantiles import chi_square_cdf

# What lies nearer together than this is one alarm: a suspect sensor takes so long to be trusted again.
CLUSTER_S = 5.0
# The highest quarter of the peaks carries the tail; the body below has another law.
TAIL_SHARE = 0.25
# Fewer peaks above its start say nothing about a tail.
MIN_PEAKS = 5
MAX_PEAKS = 400
# From what quiet and busy streets mixed make of an exponential to lighter than Gaussian.
POWERS = np.array([0.7, 1.0, 1.4, 2.0, 2.8, 4.0])
_HALVINGS = 50
_FAR = 1e9  # in starts: no level lies beyond
_NEGLIGIBLE = 1e-6
_NOT_KNOWN = 10.0  # of a logarithm


@dataclass(frozen=True)
class Tail:
    """Independent peaks (N,) above `start`, in `seconds` of clean data.

    The start is itself a peak, the highest below them: by Renyi (Acta Math. Hung. 4, 1953) the heights above it are
    independent of how often it is passed, and both have exact laws.
    """

    start: float
    heights: NDArray[np.float64]
    seconds: float

    @property
    def peaks(self) -> int:
        """How many carry it."""
        return len(self.heights)

    def per_hour(self, level: float) -> float:
        """How often an hour `level` is passed, the average over all that the peaks leave open; at most as often as the
        start is."""
        if level <= self.start:
            return self._often
        weights, sums = self._laws
        return float(self._often * (weights @ (1.0 + self._above(level) / sums) ** -self.peaks))

    def level(self, per_hour: float, confidence: float | None = None) -> float:
        """The height that is passed `per_hour` times an hour on average over all that the peaks leave open.

        confidence: with this probability it is not passed more often than that, instead.
        """
        if per_hour >= self._often:
            return self.start
        low, high = self.start, self.start * _FAR
        for _ in range(_HALVINGS):
            middle = math.sqrt(low * high)
            if confidence is None:
                too_low = self.per_hour(middle) > per_hour
            else:
                too_low = self._kept(middle, per_hour) < confidence
            low, high = (middle, high) if too_low else (low, middle)
        return high

    def log_sd(self, level: float) -> float:
        """Standard deviation of the logarithm of the true rate at a level, given what was seen."""
        weights, sums = self._laws
        # The rate is often * exp(-y / m), and sum / m has a gamma law of `peaks` degrees.
        share = self._above(max(level, self.start)) / sums
        means, variances = self.peaks * share, self.peaks * share**2
        spread = float(weights @ variances + weights @ means**2 - (weights @ means) ** 2)
        return min(_NOT_KNOWN, math.sqrt(max(0.0, spread) + 1.0 / self.peaks))

    @property
    def _often(self) -> float:
        # The m-th highest point of a Poisson process is passed m times, on average over processes.
        return (self.peaks + 1) * 3600.0 / self.seconds

    def _above(self, level: float) -> NDArray[np.float64]:
        """(P,) height above the start under each power, in starts, so that no unit decides."""
        return np.asarray((level / self.start) ** POWERS - 1.0)

    @cached_property
    def _laws(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(P,) probability of each power, and the sum of heights under it."""
        logs = np.log(self.heights / self.start)
        sums = np.maximum(np.expm1(np.outer(POWERS, logs)).sum(axis=1), 1e-12)
        evidence = self.peaks * (np.log(POWERS) - np.log(sums)) + (POWERS - 1.0) * logs.sum()
        weights = np.exp(evidence - evidence.max())
        return weights / weights.sum(), sums

    def _kept(self, level: float, per_hour: float) -> float:
        """Probability that a level is passed no more often than that."""
        weights, sums = self._laws
        # The rate is often * exp(-y / m); sum / m has a gamma law, half a chi-square of twice as many degrees.
        needed = 2.0 * math.log(self._often / per_hour) * sums / np.maximum(self._above(level), 1e-12)
        kept = (
            w * (1.0 - chi_square_cdf(x, 2.0 * self.peaks))
            for w, x in zip(weights.tolist(), needed.tolist(), strict=True)
            if w > _NEGLIGIBLE
        )
        return float(sum(kept))


def peaks_of(statistic: NDArray[np.float64], period_s: float) -> NDArray[np.float64]:
    """Peaks of a stretch that was sampled without a gap, from the highest down, each the highest within `CLUSTER_S`.

    statistic: (N,), at least 0. Zeros are no peaks.
    """
    reach = max(1, round(CLUSTER_S / period_s))
    free = statistic > 0.0
    found = []
    for i in np.argsort(-statistic, kind="stable"):
        if statistic[i] <= 0.0:
            break
        if free[i]:
            found.append(float(statistic[i]))
            free[max(0, i - reach) : i + reach + 1] = False
    return np.array(found)


def fit_tail(peaks: NDArray[np.float64], seconds: float) -> Tail | None:
    """The tail of independent peaks, (N,) in any order, of so many seconds of clean data; None where too few show."""
    ordered = np.sort(peaks)[::-1]
    above = min(max(MIN_PEAKS, round(TAIL_SHARE * len(ordered))), MAX_PEAKS)
    if len(ordered) <= above or seconds <= 0.0:
        return None
    return Tail(float(ordered[above]), ordered[:above], seconds)
