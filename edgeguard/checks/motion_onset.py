"""When did a calibrated residual begin to be off? A scan over onsets, which no open calibration can hide.

A sum against the calibration must leave alone whatever the calibration leaves open. What is open is an offset that
stays while the vehicle drives on as before, so it cancels between the last seconds and those before an onset: only a
change of speed, acceleration or turn lets it back in. The generalised likelihood ratio over all onsets of the last
seconds (Willsky, Jones, IEEE Trans. Automatic Control 21, 1976; window-limited: Lai, J. Royal Stat. Soc. B 57, 1995)
finds the step that a drift of position and speed makes in a speed, as soon as its own noise allows.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeguard.checks.motion_statistics import HOLD_S, POWER_HORIZON_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgeguard.checks.motion_drift import DriftMonitor

# Samples since the onset that are tried, each a third more than the last: an onset between two of them loses a tenth of
# the ratio. The shortest outlasts a receiver's burst of a fifth of a second three times.
SPANS = np.array([6, 8, 11, 15, 20, 27, 36, 48, 64, 85])
# Samples before it that tell what the residual was; fewer than `LEAST_BEFORE` tell nothing.
BEFORE, LEAST_BEFORE = (30, 60, 120), 30
KEEP = int(SPANS[-1]) + BEFORE[-1]
# What is no step of so many sigma between plain means, calibration apart, is not looked at closely, but for one sample
# in so many: what could be found is to be known all the time.
SCREEN, RENEW = 2.5, 10
# What is older than this tells nothing about now.
KEEP_S = 30.0
# In sigma. White Gaussian residuals pass it once in 1e6 samples, 29 h at 10 Hz, either side, all spans together
# (simulated, 4e7 samples); those whose noise is taken for 4 % too small once in 10 h.
LIMIT = 5.2
# One sample counts at most so much, in sigma off the middle of those before: outliers are the gate's business.
CLIP = 3.0
# The largest share that is given out.
CEILING = 4.0
# A fraction of a second does not forget what was before; a longer silence does.
FORGET_S = 10.0


@dataclass(frozen=True, slots=True)
class Course:
    """What the scan knows of the buffered moments under the calibration of now.

    residual: (N,). gradient: (N, P) by what calibration leaves open. covariance: (P, P) of that, positive definite.
    floor: (P,) standard deviations by which the same parameter differs where the gradient does: the model's own error.
    doubt: standard deviation of a change that no parameter stands for, in the residual's unit.
    """

    residual: NDArray[np.float64]
    gradient: NDArray[np.float64]
    covariance: NDArray[np.float64]
    floor: NDArray[np.float64]
    doubt: float = 0.0


class _Sums:
    """Running sums of residuals, gradients and their products: any stretch of them costs one subtraction."""

    def __init__(self, residual: NDArray[np.float64], gradient: NDArray[np.float64]) -> None:
        self._size = gradient.shape[1]
        products = (gradient[:, :, None] * gradient[:, None, :]).reshape(len(residual), -1)
        columns = np.column_stack((residual, gradient, gradient * residual[:, None], products))
        self._sums = np.concatenate((np.zeros((1, columns.shape[1])), np.cumsum(columns, axis=0)))

    def mean(
        self, start: NDArray[np.int64], count: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean residual (K,) and gradient (K, P) over `count` samples from `start`."""
        total = (self._sums[start + count] - self._sums[start])[:, : 1 + self._size] / count[:, None]
        return total[:, 0], total[:, 1:]

    def predicted(
        self, onset: NDArray[np.int64], before: NDArray[np.int64], course: Course, noise: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """What the `before` samples up to each onset add to the calibration.

        Returns the parameters (K, P) as Bayes' rule has them, their covariance (K, P, P), and the mean gradient (K, P)
        they were told at.
        """
        n = self._size
        total = self._sums[onset] - self._sums[onset - before]
        told = total[:, 1 + 2 * n :].reshape(-1, n, n) / noise**2
        covariance = np.linalg.inv(np.linalg.inv(course.covariance) + told)
        parameters = np.einsum("kij,kj->ki", covariance, total[:, 1 + n : 1 + 2 * n] / noise**2)
        return parameters, covariance, total[:, 1 : 1 + n] / before[:, None]


class OnsetScan:
    """Scan for the onset of a lasting step over one residual. Statistic: ratio of squares, ``(z / LIMIT)^2``.

    Args:
        noise: the monitor that has learned this residual's noise from clean ones.
        course: makes residuals and gradients of buffered rows, (N, C), by the calibration of now.
    """

    # As of a sum: an honest maximum over spans is often at a fifth of its limit, seldom above half.
    wariness = 0.5
    # Of the threshold, by a calibration of the whole system's rate.
    scale = 1.0

    def __init__(self, noise: DriftMonitor, course: Callable[[NDArray[np.float64]], Course]) -> None:
        self.name = ""
        self._noise, self._course = noise, course
        self._seen = -1
        self._peak = 0.0
        self._excess = np.ones(len(SPANS))
        self.restart()

    def restart(self) -> None:
        """Forget the residuals; what was learned about noise stays."""
        self._rows: NDArray[np.float64] = np.empty((0, 0))
        self._end = 0
        self._times: deque[float] = deque(maxlen=KEEP)
        self._looked = 0
        self._running = 0.0
        self._alarm_t: float | None = None
        self._alarm_size = 0.0
        self._sd = np.full(len(SPANS), math.inf)
        self._period_s = 0.1
        self.size = 0.0

    def push(self, t: float, row: tuple[float, ...]) -> None:
        """Take what one residual is made of; `course` says how."""
        if self._times and not 0.0 <= t - self._times[-1] <= FORGET_S:
            self._times.clear()
        if self._times and 0.0 < t - self._times[-1] < 1.0:
            self._period_s += 0.1 * (t - self._times[-1] - self._period_s)
        self._append(row)
        self._times.append(t)
        while t - self._times[0] > KEEP_S:
            self._times.popleft()
        self._running = 0.0
        if len(self._times) >= SPANS[0] + LEAST_BEFORE:
            self._look()
        self._peak = max(self._peak, self._running)
        if self._running > self.scale:
            self._alarm_t, self._alarm_size = t, self._running

    def _append(self, row: tuple[float, ...]) -> None:
        if self._end == len(self._rows):
            kept = self._rows[max(0, self._end - KEEP) : self._end]
            self._rows = np.empty((4 * KEEP, len(row)))
            self._end = len(kept)
            self._rows[: self._end] = kept.reshape(-1, len(row))
        self._rows[self._end] = row
        self._end += 1

    def _look(self) -> None:
        self._hear()
        count = len(self._times)
        course = self._course(self._rows[self._end - count : self._end])
        spans = SPANS[count >= SPANS + LEAST_BEFORE]
        sigma, noise = self._noise.sigma, self._noise.noise
        least = int(SPANS[0])
        middle = float(np.median(course.residual[-(BEFORE[-1] + least) : -least]))
        clipped = np.clip(course.residual, middle - CLIP * sigma, middle + CLIP * sigma)
        self._looked -= 1
        if _plain(clipped, spans) > SCREEN * noise or self._looked <= 0:
            self._looked = RENEW
            self._scan(course, clipped, spans, noise)

    def _scan(self, course: Course, clipped: NDArray[np.float64], spans: NDArray[np.int64], noise: float) -> None:
        count = len(clipped)
        sums = _Sums(clipped, course.gradient)
        # A long past knows the offset best where the vehicle drove alike, a short one where it did not.
        tried = [sums.predicted(count - spans, np.minimum(m, count - spans), course, noise) for m in BEFORE]
        after, drove = sums.mean(count - spans, spans)
        best = np.full(len(spans), math.inf)
        step = np.zeros(len(spans))
        for expected, covariance, drove_before in tried:
            changed = drove - drove_before
            open_ = np.einsum("ni,nij,nj->n", drove, covariance, drove) + np.square(changed) @ np.square(course.floor)
            variance = noise**2 / spans * self._excess[: len(spans)] + open_ + course.doubt**2
            better = variance < best
            step = np.where(better, after - np.einsum("ni,ni->n", drove, expected), step)
            best = np.minimum(variance, best)
        self._sd = np.sqrt(best)
        z = step / self._sd
        likely = int(np.argmax(np.abs(z)))
        self.size = abs(float(step[likely]))
        self._running = min(float(z[likely] / LIMIT) ** 2, CEILING)

    def _hear(self) -> None:
        """Take over what clean residuals show about each span, where the noise was learned anew."""
        if self._noise.learned == self._seen:
            return
        self._seen = self._noise.learned
        values = np.clip(self._noise.clean, -CLIP * self._noise.sigma, CLIP * self._noise.sigma)
        self._excess = np.array([_excess(values, int(span), self._noise.noise) for span in SPANS])

    def statistic(self, t: float) -> float:
        """Share of the threshold reached; above 1 is an alarm, which is held for `HOLD_S`."""
        if self._alarm_t is not None and t - self._alarm_t <= HOLD_S:
            return max(self._running, self._alarm_size) / self.scale
        return self._running / self.scale

    def take_peak(self) -> float:
        """The largest share of the threshold, before its scale, since the last call."""
        peak, self._peak = self._peak, 0.0
        return peak

    def power(self, offset: float = 0.0) -> float:  # noqa: ARG002 - an offset that stays costs nothing here
        """Smallest lasting step, in the residual's unit, that is found within `POWER_HORIZON_S` on average."""
        within = SPANS[: len(self._sd)] * self._period_s <= POWER_HORIZON_S
        return math.sqrt(self.scale) * LIMIT * float(self._sd[within].min()) if within.any() else math.inf


def _plain(values: NDArray[np.float64], spans: NDArray[np.int64]) -> float:
    """Largest step between means before and after an onset, as a share of what one sample's noise makes of it."""
    sums = np.concatenate(((0.0,), np.cumsum(values)))
    count, most = len(values), 0.0
    onset = count - spans
    after = (sums[count] - sums[onset]) / spans
    for longest in BEFORE:
        before = np.minimum(longest, onset)
        step = after - (sums[onset] - sums[onset - before]) / before
        most = max(most, float(np.max(np.abs(step) / np.sqrt(1.0 / spans + 1.0 / before))))
    return most


def _excess(values: NDArray[np.float64], span: int, noise: float) -> float:
    """How many times its theory the variance of a step over `span` clean samples is, at least once.

    What is slower than the lags of a long-run variance shows in no autocorrelation of a few seconds; it does in the
    steps themselves (the two-sample variance of Allan, Proc. IEEE 54, 1966). Few spans know it badly, and theory is
    believed beside them.
    """
    count = len(values)
    if count < 3 * span:
        return 1.0
    sums = np.concatenate(((0.0,), np.cumsum(values)))
    onset = np.arange(min(BEFORE[-1], count - 2 * span), count - span + 1)
    before = np.minimum(BEFORE[-1], onset)
    steps = (sums[onset + span] - sums[onset]) / span - (sums[onset] - sums[onset - before]) / before
    theory = noise**2 * (1.0 / span + 1.0 / before)
    spans = len(steps) / span + 1.0
    seen = float(np.mean(np.square(steps) / theory))
    return max(1.0, seen * max(0.0, 1.0 - math.sqrt(2.0 / spans)))
