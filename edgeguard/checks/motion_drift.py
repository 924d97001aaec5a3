"""A residual of a calibrated pair of sensors against its own honest noise: finds small lasting shifts within seconds.

Textbook limits hold for white Gaussian residuals. Real ones are correlated and heavy-tailed, so three things are
learned from clean residuals instead of being covered by one wide sigma: the scale (median absolute deviation), the
weight of the tails (samples are clipped, Huber 1964), and the long-run variance, which is what correlation adds to a
sum (Newey, West 1987). What calibration and physics leave open is no noise but an unknown offset: it does not widen
sigma, it raises the reference value, so that it costs only the shifts that it can really explain.
"""

from __future__ import annotations

import math
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from edgeguard.checks.motion_statistics import GATE_SAMPLES, GATE_SIGMA, HOLD_S, POWER_HORIZON_S, SLOW_SAMPLE_S
from edgeguard.kernels.cusum import OVERSHOOT, cusum_step, limit_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgeguard.checks.scores import Fit, ScoreMonitor

# Shifts below half a sigma of the long-run noise are left alone.
REFERENCE = 0.5
# Independent samples between false alarms of one monitor: eight hours at 10 Hz.
RUN_SAMPLES = 288_000.0
LIMIT = limit_for(RUN_SAMPLES, REFERENCE)
# On top of the open offset, in sigma: a sum without any drift against it would still wander over its limit.
MARGIN = 0.25
# One sample counts at most this much: outliers are the gate's business.
CLIP = 3.0
# Two samples in a row so far out cannot wait for a third. Receivers do burst for a fifth of a second, so the sigma of
# this gate is never taken for smaller than `SURE_FLOOR` of the physical upper bound.
SURE_SIGMA = 12.0
SURE_SAMPLES = 2
SURE_FLOOR = 1.0 / 3.0
# Sums stop at this many limits, so that an attack that ends is forgotten as fast as it could have grown.
CEILING = 2.0
# Noise is learned from this many clean residuals at most, anew after every so many, and at first from so few.
MEMORY = 300
RELEARN_EVERY = 10
FIRST_SAMPLES = 20
# Correlation that so many residuals may still have hidden.
UNSEEN_CORRELATION, UNSEEN_SAMPLES = 5.0, 60.0
# A fit of less than this is the prior, widened, and no knowledge of this rig: what is learned while driving is better.
LEAST_FIT_S = 30.0
# A step is looked for among so many samples: from this share of the residual on.
STEP_SAMPLES, NOTHING = 10, 0.3
# Correlation is looked for over this many samples.
LAGS = 8
# A residual teaches once so much time has passed over it without suspicion; of a young stream, that share of its age:
# what was there from the first second cannot be told from the truth anyway.
QUARANTINE_S = 3.0
QUARANTINE_SHARE = 0.25
# Share of the limit from which a statistic is suspicious: an honest sum passes it once in minutes.
SUSPICION = 0.5


class DriftMonitor:
    """Gate for jumps and two-sided CUSUM for small lasting shifts over one residual.

    Args:
        sigma_min, sigma_max: physical bounds of the residual's noise, in its unit.
        sigma_prior: noise assumed until enough was seen.
        correlation: long-run variance over variance, assumed until enough was seen.
        least_correlation: the lowest that is believed; below 1 only where residuals are differences, whose sums do
            not grow.
        fit: what a calibration of this rig found; its sigma replaces the prior.
        renew: makes a residual of a lesson, by the calibration of now; without it the lesson is the residual.
    """

    # Its sums wander: an honest one is often above a fifth of its limit, seldom above half.
    wariness = 0.5
    # Of the threshold, by a calibration of the whole system's rate; what it learns from does not depend on it.
    scale = 1.0

    def __init__(
        self,
        sigma_min: float,
        sigma_max: float,
        sigma_prior: float,
        *,
        correlation: float = 3.0,
        least_correlation: float = 1.0,
        fit: Fit | None = None,
        renew: Callable[[tuple[float, ...]], float] = itemgetter(0),
    ) -> None:
        self.name = ""
        self._peak = 0.0
        self.last: float | None = None
        # What a calibration listens to; it judges nothing here.
        self.record: ScoreMonitor | None = None
        self._low, self._high = sigma_min, sigma_max
        self._least = least_correlation
        self._clean: deque[tuple[float, ...]] = deque(maxlen=MEMORY)
        self._waiting: deque[tuple[float, tuple[float, ...]]] = deque()
        self._renew = renew
        self._lessons = 0
        self._since: float | None = None
        self._limit = LIMIT
        self.sigma, self.correlation, self.location = sigma_prior, correlation, 0.0
        self._fitted = fit is not None and fit.clean_s >= LEAST_FIT_S
        if fit is not None and self._fitted:
            self.calibrate(fit)
        self._root = math.sqrt(self.correlation)
        # How often the noise was learned, and the clean residuals of the last time, around their middle.
        self.learned = 0
        self.clean: NDArray[np.float64] = np.zeros(0)
        self.restart()

    def calibrate(self, fit: Fit) -> None:
        """Start from what a calibration found instead of from the prior. Learning goes on from there."""
        self.sigma = min(max(fit.sigma, self._low), self._high)
        self.correlation = max(fit.decorrelation_samples, self._least)
        self._root = math.sqrt(self.correlation)

    @property
    def noise(self) -> float:
        """Standard deviation of an independent sample that adds up as these correlated ones do."""
        return self.sigma * self._root

    def restart(self) -> None:
        """Forget the running statistics, not the learned noise: history must not be bridged."""
        self._waiting.clear()
        self._up = self._down = 0.0
        self._run: deque[float] = deque(maxlen=GATE_SAMPLES)
        self._sizes: deque[float] = deque(maxlen=GATE_SAMPLES)
        self._running = 0.0
        self._t: float | None = None
        self._period_s = 0.1
        self._alarm_t: float | None = None
        self._alarm_size = 0.0
        self._zero_t = 0.0
        # How long the sums needed from nothing to where they are, or were when they passed the limit.
        self.rise_s = 0.0
        # How long the residual itself needed, from below `NOTHING` of what it was when the alarm came.
        self.step_s = math.inf
        self._recent: deque[tuple[float, float]] = deque(maxlen=STEP_SAMPLES)
        self.size = 0.0
        self.last = None

    def push(
        self,
        t: float,
        residual: float,
        offset: float,
        lesson: tuple[float, ...] | None,
        speed_m_s: float | None = None,
    ) -> None:
        """Take one residual.

        Args:
            offset: what it may lie off by honestly and for long, in its unit.
            lesson: what `renew` needs to learn the noise from it, None where it says nothing about noise.
        """
        dt = self._period_s if self._t is None else t - self._t
        if 0.0 < dt < 1.0:
            self._period_s += 0.1 * (dt - self._period_s)
        self._t, self.last = t, residual
        # A calibration hears what teaches. What a turn leaves is geometry, which the open offset answers for, no noise.
        if lesson is not None and self.record is not None and self.record.listener is not None:
            self.record.listener(t, residual, speed_m_s)
        z = residual / (self.sigma * self._root)
        reference = self._reference(offset)
        # Clipped beyond the reference, so that a shift that stands out of a large open offset counts in full.
        clip = reference + CLIP / self._root
        z = min(max(z, -clip), clip)
        ceiling = CEILING * self._limit
        self._up = cusum_step(self._up, z, reference, 1.0, ceiling)
        self._down = cusum_step(self._down, -z, reference, 1.0, ceiling)
        if self._up == self._down == 0.0:
            self._zero_t = t
        if self._running <= self.scale:
            self.rise_s = t - self._zero_t + self._period_s
        self._sizes.append(abs(residual))
        self._recent.append((t, residual))
        before = self._running
        self._run.append(math.copysign(max(0.0, abs(residual) - offset), residual))
        self._running = max(self._gates(dt), self._up / self._limit, self._down / self._limit)
        self._peak = max(self._peak, self._running)
        if self._running > self.scale:
            self._alarm_t, self._alarm_size = t, self._running
            self.size = sorted(self._sizes)[len(self._sizes) // 2]
            if before <= self.scale:
                self.step_s = self._step_s(t, residual)
        self._teach(t, lesson)

    def _step_s(self, t: float, residual: float) -> float:
        nothing = [s for s, r in self._recent if math.copysign(1.0, residual) * r < NOTHING * abs(residual)]
        return t - nothing[-1] if nothing else math.inf

    def _reference(self, offset: float) -> float:
        """What each sample must exceed, in units of the long-run noise."""
        return max(REFERENCE, offset / (self.sigma * self._root) + MARGIN)

    def _gates(self, dt: float) -> float:
        run = self._run
        count = GATE_SAMPLES - 1 if dt > SLOW_SAMPLE_S else GATE_SAMPLES
        share = _one_sided(run, count) / (GATE_SIGMA * self.sigma)
        sure = _one_sided(run, SURE_SAMPLES) / (SURE_SIGMA * max(self.sigma, SURE_FLOOR * self._high))
        return max(share, sure)

    def _teach(self, t: float, lesson: tuple[float, ...] | None) -> None:
        if self._running > min(SUSPICION, self.scale):
            self._waiting.clear()
            return
        if lesson is not None:
            self._waiting.append((t, lesson))
        self._since = t if self._since is None else self._since
        before = t - min(QUARANTINE_S, QUARANTINE_SHARE * (t - self._since))
        while self._waiting and self._waiting[0][0] < before:
            self._clean.append(self._waiting.popleft()[1])
            self._lessons += 1
            if self._lessons >= (MEMORY // 2 if self._fitted else FIRST_SAMPLES) and self._lessons % RELEARN_EVERY == 0:
                self._learn()

    def _learn(self) -> None:
        values = np.array([self._renew(lesson) for lesson in self._clean])
        values -= np.median(values)
        count = len(values)
        # Few residuals know their own scale badly: to 1 / sqrt(2 n).
        scale = 1.4826 * float(np.median(np.abs(values))) * (1.0 + 1.0 / math.sqrt(2.0 * count / self.correlation))
        self.sigma = min(max(scale, self._low), self._high)
        # Taking the middle off hides what is slower than the window; few residuals hide more, and a first look at a
        # correlated stream can show none of it.
        hidden = 1.0 + 2.0 * LAGS / count
        unseen = 0.0 if self._fitted else UNSEEN_CORRELATION * math.exp(-count / UNSEEN_SAMPLES)
        self.correlation = max(hidden * _long_run(np.clip(values / self.sigma, -CLIP, CLIP)), self._least) + unseen
        self._root = math.sqrt(self.correlation)
        self.learned, self.clean = self.learned + 1, values

    def statistic(self, t: float) -> float:
        """Share of the threshold reached; above 1 is an alarm, which is held for `HOLD_S`."""
        if self._alarm_t is not None and t - self._alarm_t <= HOLD_S:
            return max(self._running, self._alarm_size) / self.scale
        return self._running / self.scale

    def take_peak(self) -> float:
        """The largest share of the threshold, before its scale, since the last call."""
        peak, self._peak = self._peak, 0.0
        return peak

    def power(self, offset: float) -> float:
        """Smallest lasting shift, in the residual's unit, that is found within `POWER_HORIZON_S` on average."""
        samples = max(1.0, POWER_HORIZON_S / self._period_s)
        unit = self.sigma * self._root
        needed = (self.scale * self._limit + OVERSHOOT) / samples
        # A sample counts at most `CLIP` sigma beyond the reference, however large it is: past that only the gate helps.
        found = (self._reference(offset) + needed) * unit
        return found if needed * unit < CLIP * self.sigma else offset + self.scale * GATE_SIGMA * self.sigma


def _one_sided(run: deque[float], count: int) -> float:
    """Size that the last `count` values all reached on one side, 0 where they did not."""
    if len(run) < count:
        return 0.0
    last = [run[-i] for i in range(1, count + 1)]
    return max(0.0, min(last), -max(last))


def _long_run(z: NDArray[np.float64]) -> float:
    """Long-run variance of standardised values, not relative to their variance.

    The larger of two estimates: weighted autocovariances (Bartlett; Newey, West 1987), which miss what outlasts their
    lags, and what a first-order process of the same neighbours' correlation has.
    """
    count = len(z)
    variance, first = float(z @ z) / count, float(z[1:] @ z[:-1]) / count
    total = variance
    for lag in range(1, LAGS + 1):
        total += 2.0 * (1.0 - lag / (LAGS + 1.0)) * float(z[lag:] @ z[:-lag]) / count
    rho = min(max(first / variance, 0.0), 0.95) if variance > 0.0 else 0.0
    return max(total, variance * (1.0 + rho) / (1.0 - rho) if rho > 0.0 else 0.0)
