"""The sequential statistics under the motion checks: a bounded track, a residual monitor, a bounded estimator.

Gate for jumps and CUSUM for ramps (Page 1954; Murguia & Ruths arXiv 1710.04407), on residuals from which the part that
physics cannot exclude (lag x acceleration, scale x speed, ...) is taken off first as a dead band. Textbook thresholds
assume white Gaussian residuals; real ones are correlated and heavy-tailed, so sigma is inflated, increments are
weighted by the decorrelation time, and no single sample can raise an alarm.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from edgeguard.kernels.cusum import cusum_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Gate in sigma, on three samples in a row on one side (two where samples are slow): receivers do burst for 0.2 s, and
# even a Laplace tail (P = exp(-6 sqrt 2) each) then needs years.
GATE_SIGMA = 6.0
GATE_SAMPLES = 3
SLOW_SAMPLE_S = 0.3
# CUSUM reference value: changes below one sigma are left alone.
CUSUM_K = 1.0
# CUSUM threshold in decorrelated steps. Siegmund: ARL = (exp(2 k b) - 1 - 2 k b) / (2 k^2), b = h + 1.166: h = 6 gives
# 8e5 decorrelated steps for white residuals (70 h for a speed). The dead band and the widened sigma come on top.
CUSUM_H = 6.0
# One sample counts at most this much, so that an outlier is the gate's business.
CLIP_SIGMA = 6.0
# Robust scale is widened by this, and by the error that a scale from few independent residuals has itself.
SIGMA_INFLATION = 1.2
SAMPLE_S = 0.1
# Samples before the learned sigma replaces the physical upper bound.
MIN_SAMPLES = 20
INDEPENDENT_SAMPLES = 4.0
# Sorting thirty seconds of residuals at every sample would cost more than all the rest.
RELEARN_EVERY = 10
# How many clean residuals the scale is learned from: 30 s at 10 Hz.
SCALE_MEMORY = 300
# An alarm stays up this long, so that checks with different delays overlap when fusion looks at them.
HOLD_S = 1.0
# The horizon in which a change of size `power` would have been found.
POWER_HORIZON_S = 2.0
# No calibration is learned while a statistic is above this share of its threshold.
SUSPICION = 0.2
# Noise is learned up to this share: a noisy receiver hovers at some of it, and would stay misjudged for ever.
NOISE_SUSPICION = 0.35
# A residual teaches the noise level only if nothing became suspicious for this long after it: the onset of an attack
# must not widen the sigma it is judged by.
QUARANTINE_S = 1.5
# Tail quantile: of fewer residuals than this it is the largest one.
TAIL_SAMPLES = 100
# Confidence of a calibration's dead band, in its own standard deviations.
DEAD_BAND_SIGMA = 2.5


# Rows of a track that are dead before the list is cut.
MIN_DEAD = 256


class Track:
    """Samples of one stream over time, bounded; answers interpolated questions.

    Plain lists: rows are a handful of floats, for which arrays cost several times as much.

    Args:
        keep_s: how much history is kept.
        max_gap_s: time without samples over which nothing is interpolated or integrated.
    """

    def __init__(self, keep_s: float, max_gap_s: float) -> None:
        self._times: list[float] = []
        self._rows: list[tuple[float, ...]] = []
        self._start = 0
        self._keep_s = keep_s
        self.max_gap_s = max_gap_s

    def __len__(self) -> int:
        return len(self._times) - self._start

    @property
    def newest_s(self) -> float:
        """Time of the newest sample; the track must not be empty."""
        return self._times[-1]

    @property
    def newest(self) -> tuple[float, ...]:
        """(columns + 1,): time and values of the newest sample; the track must not be empty."""
        return (self._times[-1], *self._rows[-1])

    def clear(self) -> None:
        self._times.clear()
        self._rows.clear()
        self._start = 0

    def append(self, t: float, values: tuple[float, ...]) -> None:
        """Add one sample. A gap longer than `max_gap_s` forgets what was before it: nothing bridges it."""
        times = self._times
        if times and t - times[-1] > self.max_gap_s:
            self.clear()
        times.append(t)
        self._rows.append(values)
        while times[self._start] < t - self._keep_s:
            self._start += 1
        # Cutting the front off costs as much as all that stays: only once as much is dead as is alive.
        if self._start > MIN_DEAD and 2 * self._start > len(times):
            del times[: self._start], self._rows[: self._start]
            self._start = 0

    def at(self, t: float, hold_s: float = 0.0) -> tuple[float, ...] | None:
        """(columns,) values at time `t` by linear interpolation, or None outside what is known.

        `hold_s`: the newest value is taken for this long after it.
        """
        times = self._times
        if len(times) == self._start or not times[self._start] <= t <= times[-1] + hold_s:
            return None
        i = bisect_right(times, t, self._start)
        if i >= len(times):
            return self._rows[-1]
        start = times[i - 1]
        share = (t - start) / (times[i] - start)
        return tuple([a + share * (b - a) for a, b in zip(self._rows[i - 1], self._rows[i], strict=True)])


class ResidualMonitor:
    """One residual stream against its own honest noise.

    Args:
        sigma_min, sigma_max: physical bounds of the noise, in the residual's unit; the learned sigma stays inside,
            and `sigma_max` is used until anything was seen.
        decorrelation_s: residuals closer than this in time are not independent.
        sigma_prior: noise assumed until enough was seen; `sigma_max` where not given.
    """

    # By how much its share of the threshold counts when it comes to suspicion.
    wariness = 1.0
    # Of the threshold, by a calibration of the whole system's rate; what it learns from does not depend on it.
    scale = 1.0

    def __init__(
        self, sigma_min: float, sigma_max: float, decorrelation_s: float, sigma_prior: float | None = None
    ) -> None:
        self.name = ""
        self._peak = 0.0
        self._bounds = (sigma_min, sigma_max)
        self._prior = sigma_max if sigma_prior is None else sigma_prior
        self._decorrelation_s = decorrelation_s
        self._clean: deque[float] = deque(maxlen=SCALE_MEMORY)
        self._quarantine: deque[tuple[float, float]] = deque()
        self._lessons = 0
        self._taught = True
        self._sigma = sigma_max
        self.restart()

    def restart(self) -> None:
        """Forget the running statistics (not the learned noise): history must not be bridged."""
        self._quarantine.clear()
        self._up = 0.0
        self._down = 0.0
        self._last_z: deque[float] = deque(maxlen=GATE_SAMPLES)
        self._last_sizes: deque[float] = deque(maxlen=GATE_SAMPLES)
        self.size = 0.0
        self._gate = 0.0
        self._t: float | None = None
        self._alarm_t: float | None = None
        self._alarm_size = 0.0

    @property
    def sigma(self) -> float:
        """Noise level in use; learned anew every second of residuals."""
        if self._taught or len(self._clean) + len(self._quarantine) < 2 * MIN_SAMPLES:
            self._taught = False
            self._sigma = self._learned_sigma()
        return self._sigma

    def _learned_sigma(self) -> float:
        low, high = self._bounds
        needed = max(MIN_SAMPLES, INDEPENDENT_SAMPLES * self._decorrelation_s / SAMPLE_S)
        if len(self._clean) + len(self._quarantine) < MIN_SAMPLES:
            return high
        if len(self._clean) < needed:
            # Enough seen and nothing suspicious in it.
            return self._prior
        sizes = np.array(self._clean)
        # 1.4826 x median and 95 % / 1.96 agree for Gaussian residuals; the larger one respects a heavy tail.
        robust = 1.4826 * float(np.median(sizes))
        if len(sizes) >= TAIL_SAMPLES:
            robust = max(robust, float(np.quantile(sizes, 0.95)) / 1.96)
        independent = max(1.0, len(sizes) * SAMPLE_S / self._decorrelation_s)
        widened = SIGMA_INFLATION * (1.0 + 1.0 / math.sqrt(2.0 * independent))
        return min(max(widened * robust, low), high)

    def push(self, t: float, residual: float, dead_band: float) -> None:
        """Take one residual. It teaches the noise level only after a quarantine without suspicion."""
        sigma = self.sigma
        excess = max(0.0, abs(residual) - dead_band)
        z = float(np.copysign(excess, residual)) / sigma
        dt = self._decorrelation_s if self._t is None else t - self._t
        weight = min(1.0, max(dt, 0.0) / self._decorrelation_s)
        clipped = min(max(z, -CLIP_SIGMA), CLIP_SIGMA)
        # Clipped above as well: recovery after an attack is bounded, whatever its size was.
        self._up = cusum_step(self._up, clipped, CUSUM_K, weight, 2 * CUSUM_H)
        self._down = cusum_step(self._down, -clipped, CUSUM_K, weight, 2 * CUSUM_H)
        self._last_z.append(z)
        self._last_sizes.append(abs(residual))
        self._gate = self._persistent(GATE_SAMPLES - 1 if dt > SLOW_SAMPLE_S else GATE_SAMPLES) / GATE_SIGMA
        self._t = t
        self._peak = max(self._peak, self._running)
        if self._running > self.scale:
            self._alarm_t, self._alarm_size = t, self._running
            # The middle of the last residuals: what the alarm is about, in the residual's unit.
            self.size = sorted(self._last_sizes)[len(self._last_sizes) // 2]
        self._teach(t, residual, dead_band)

    def _teach(self, t: float, residual: float, dead_band: float) -> None:
        if self._running > min(NOISE_SUSPICION, self.scale):
            self._quarantine.clear()
            return
        # What the calibration's own uncertainty explains is no noise: a first guess must not widen sigma for long.
        self._quarantine.append((t, max(0.0, abs(residual) - dead_band / DEAD_BAND_SIGMA)))
        while self._quarantine and self._quarantine[0][0] < t - QUARANTINE_S:
            self._clean.append(self._quarantine.popleft()[1])
            self._lessons += 1
            self._taught = self._taught or self._lessons % RELEARN_EVERY == 0

    def _persistent(self, count: int) -> float:
        """Size that all of the last `count` samples reached on one side, 0 where they did not."""
        last = list(self._last_z)[-count:]
        if len(last) < count or not (all(z > 0 for z in last) or all(z < 0 for z in last)):
            return 0.0
        return min(abs(z) for z in last)

    @property
    def _running(self) -> float:
        return max(self._gate, self._up / CUSUM_H, self._down / CUSUM_H)

    def statistic(self, t: float) -> float:
        """Share of the threshold reached; above 1 is an alarm, which is held for `HOLD_S`."""
        if self._alarm_t is not None and t - self._alarm_t <= HOLD_S:
            return max(self._running, self._alarm_size) / self.scale
        return self._running / self.scale

    def take_peak(self) -> float:
        """The largest share of the threshold, before its scale, since the last call."""
        peak, self._peak = self._peak, 0.0
        return peak

    def power(self, dead_band: float) -> float:
        """Smallest lasting change, in the residual's unit, that would be found within `POWER_HORIZON_S`."""
        ramp = CUSUM_K + self.scale * CUSUM_H * self._decorrelation_s / POWER_HORIZON_S
        return dead_band + self.sigma * min(self.scale * GATE_SIGMA, ramp)


class BoundedEstimator:
    """Recursive least squares for a few physical parameters, with priors, bounds, and a floor under its confidence.

    Args:
        mean, sd: prior of each parameter, (P,).
        low, high: what is physically possible, (P,).
        sd_floor: confidence never gets better than this, (P,): real parameters wander, and residuals are correlated.
        sd_walk: random walk per square root of a second, (P,): how slowly it may still follow.
    """

    def __init__(
        self,
        mean: Sequence[float],
        sd: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
        sd_floor: Sequence[float],
        sd_walk: Sequence[float],
    ) -> None:
        self.mean: NDArray[np.float64] = np.array(mean, dtype=np.float64)
        self._covariance: NDArray[np.float64] = np.diag(np.square(sd))
        self._low = np.array(low)
        self._high = np.array(high)
        self._floor = np.square(sd_floor)
        self._walk = np.square(sd_walk)

    def sd(self, gradient: Sequence[float]) -> float:
        """Standard deviation of the prediction whose gradient by the parameters is `gradient`, floor included."""
        g = np.asarray(gradient)
        return float(np.sqrt(max(0.0, g @ self._covariance @ g) + (np.square(g) * self._floor).sum()))

    def update(self, innovation: float, gradient: Sequence[float], noise_sd: float, dt_s: float, limit: float) -> None:
        """Take one innovation (measured minus predicted), unless it is beyond `limit`: what the present calibration
        does not explain is for the monitors to judge, and must not teach."""
        g = np.asarray(gradient)
        self._covariance = self._covariance + np.diag(self._walk * max(dt_s, 0.0))
        if abs(innovation) > limit:
            return
        gain = self._covariance @ g / (float(g @ self._covariance @ g) + noise_sd**2)
        self.mean = np.clip(self.mean + gain * innovation, self._low, self._high)
        left = np.eye(len(g)) - np.outer(gain, g)
        # Joseph form keeps the covariance symmetric and positive however long it runs.
        self._covariance = left @ self._covariance @ left.T + np.outer(gain, gain) * noise_sd**2
