"""I3.pair: two inertial units on one rigid body.

Both feel the same rotation, and the same acceleration but for the lever arm between them. Biases and small differences
of mounting are learned as constant offsets; scale, misalignment, lever arm and timing widen what is believed while the
body moves. Two units detect, and cannot tell which of them is wrong: a third witness of rotation can.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.rate_history import RateHistory
from edgeguard.checks.scores import Prior, ScoreMonitor, SensorFits
from edgeguard.clock import NS_PER_S
from edgeguard.types import CheckResult, ImuSample, Level

if TYPE_CHECKING:
    from edgeguard.types import SyncedSet

WINDOW_S = 0.1
STALE_S = 0.5
# Means over a window: white noise of two consumer units and vibration that the two places do not share.
GYRO_SIGMA_RAD_S, ACCEL_SIGMA_M_S2 = 0.003, 0.15
SCALE = 0.03  # of rate and of acceleration: gain, axes, mounting
LEVER_ARM_M = 1.0
TIMING_S = 0.01
# Zero offsets at switch-on: 5 deg/s each (MEMS data sheets); 0.6 m/s^2 and 10 degrees between the mountings.
GYRO_BIAS_RAD_S, ACCEL_BIAS_M_S2 = 0.18, 2.5
# Nothing is judged before so many windows have told the offsets.
LEARN_WINDOWS = 20
MEMORY_S = 20.0
QUARANTINE_S = 2.0
PRIOR = Prior(0.0, 1.5, "sigma", decorrelation_s=2 * WINDOW_S)
AXES = ("roll", "pitch", "yaw", "forward", "left", "up")


class ImuPairCheck:
    """I3 of two units whose samples have the same axes. Statistic: share of the threshold, threshold 1."""

    name: str = "I3.pair"

    def __init__(self, first: str, second: str, fits: SensorFits | None = None) -> None:
        self.sensors: tuple[str, ...] = (first, second)
        self.monitors: tuple[ScoreMonitor, ...] = tuple(
            ScoreMonitor(f"{self.name}.{first}.{second}.{axis}", PRIOR, fits) for axis in AXES
        )
        self._histories = (RateHistory(6), RateHistory(6))
        self._limit = np.repeat((GYRO_BIAS_RAD_S, ACCEL_BIAS_M_S2), 3)
        self._restart()

    def _restart(self) -> None:
        for history in self._histories:
            history.clear()
        self._next_s: float | None = None
        self._judged_s = -math.inf
        self._offset = np.zeros(6)
        self._first: list[NDArray[np.float64]] = []
        self._lessons: deque[tuple[float, NDArray[np.float64]]] = deque()
        self._sigma = np.full(6, math.inf)
        self._residual = np.zeros(6)
        for monitor in self.monitors:
            monitor.restart()

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        if synced.tick.discontinuity or not synced.tick.recording_gap.isdisjoint(self.sensors):
            self._restart()
        newest = []
        for sensor, history in zip(self.sensors, self._histories, strict=True):
            for sample in synced.series.get(sensor, ()):
                if isinstance(sample, ImuSample):
                    history.append(sample.stamp_ns / NS_PER_S, (*sample.gyro_rad_s, *sample.accel_m_s2))
            newest.append(history.newest_s)
        if None not in newest:
            self._compare(min(t for t in newest if t is not None))
        return self._verdict(synced.stamp_ns / NS_PER_S)

    def _compare(self, until_s: float) -> None:
        if self._next_s is None or until_s - self._next_s > 1.0:
            self._next_s = until_s - WINDOW_S
        while self._next_s + WINDOW_S <= until_s:
            start_s, end_s = self._next_s, self._next_s + WINDOW_S
            self._next_s = end_s
            if all(history.covers(start_s) for history in self._histories):
                one, other = (history.mean(start_s, end_s) for history in self._histories)
                self._judge(start_s, end_s, one, other)

    def _judge(self, start_s: float, t_s: float, one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
        difference = one - other
        rate = max(float(np.linalg.norm(v[:3])) for v in (one, other))
        slews = [h.at(t_s) - h.at(start_s) for h in self._histories]
        angular = max(float(np.linalg.norm(s[:3])) for s in slews) / WINDOW_S
        push = max(float(np.linalg.norm(s[3:])) for s in slews)
        gyro = math.hypot(GYRO_SIGMA_RAD_S, SCALE * rate, TIMING_S * angular)
        accel = math.hypot(ACCEL_SIGMA_M_S2, LEVER_ARM_M * (rate * rate + angular), 0.1 * push + SCALE * rate)
        self._sigma = np.repeat((gyro, accel), 3)
        if len(self._first) < LEARN_WINDOWS:
            self._first.append(difference)
            self._offset = np.clip(np.median(np.array(self._first), axis=0), -self._limit, self._limit)
            return
        self._residual = difference - self._offset
        for monitor, score in zip(self.monitors, (self._residual / self._sigma).tolist(), strict=True):
            monitor.push(t_s, score)
        self._judged_s = t_s
        if max(m.share for m in self.monitors) > 0.3:
            self._lessons.clear()
            return
        self._lessons.append((t_s, difference))
        while self._lessons and self._lessons[0][0] < t_s - QUARANTINE_S:
            step = self._lessons.popleft()[1] - self._offset
            self._offset = np.clip(self._offset + WINDOW_S / MEMORY_S * step, -self._limit, self._limit)

    def _verdict(self, now_s: float) -> CheckResult:
        worst = max(range(6), key=lambda i: self.monitors[i].statistic)
        statistic = self.monitors[worst].statistic
        power = self.monitors[worst].power() * float(self._sigma[worst])
        unit = "rad/s" if worst < 3 else "m/s^2"
        quantity = "yaw_rate" if worst == 2 else "tilt_rate" if worst < 2 else "acceleration"
        if now_s - self._judged_s > STALE_S or not math.isfinite(power):
            why = "still learning what the two differ by" if self._first else "the two do not overlap"
            return CheckResult(self.name, self.sensors, Level.NOT_OBSERVABLE, 0.0, 1.0, math.inf, unit, quantity, why)
        if statistic > 1.0:
            reason = f"{self.sensors[0]} and {self.sensors[1]} do not feel the same ({AXES[worst]})"
            size = abs(float(self._residual[worst]))
            return CheckResult(
                self.name, self.sensors, Level.ANOMALY, statistic, 1.0, power, unit, quantity, reason, size
            )
        yaw_power = self.monitors[2].power() * float(self._sigma[2])
        return CheckResult(self.name, self.sensors, Level.OK, statistic, 1.0, yaw_power, "rad/s", "yaw_rate")
