"""Lidar ego-motion against gyro and wheels: X6.yaw and X12.speed.

Both integrate the other sensor over exactly the interval between two sweeps. A sweep pair waits until the slower line
has delivered that interval. Gate for jumps, CUSUM for drifts; both in units of the match's own sigma.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

import numpy as np

from edgeguard.checks.lidar_evidence import LidarEvidence, ScanMotion
from edgeguard.checks.motion_statistics import DEAD_BAND_SIGMA, BoundedEstimator
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.cusum import cusum_step
from edgeguard.types import IMU, LIDAR, WHEELS, CheckResult, ImuSample, Level, SyncedSet, WheelOdometry

KEEP_NS = 2 * NS_PER_S
MAX_HOLE_NS = 120_000_000  # between samples of the other sensor, or from its last to the end of the interval
MAX_WAITING = 5
STALE_NS = NS_PER_S // 2
GATE_SIGMA = 6.0
GATE_RUN = 2
CUSUM_DRIFT, CUSUM_LIMIT = 1.0, 12.0  # a 1-sigma bias is tolerated, as matches have one; 2 sigma alarm in 12 sweeps
CUSUM_CEILING = 3.0 * CUSUM_LIMIT  # what has accumulated ebbs within seconds after an attack
MIN_SPEED_M_S = 0.5

# Of a gyro whose bias is known: scale and mounting in a turn, vibration, what the matching of a street gets wrong.
GYRO_SIGMA_RAD_S = 0.006
# Zero-rate offset at switching on, 5 deg/s at most (MEMS data sheets), and how it wanders; never known better than 0.02
# deg/s, nor by what has become suspicious within the quarantine.
BIAS_SIGMA_RAD_S, BIAS_LIMIT_RAD_S, BIAS_FLOOR_RAD_S, BIAS_WALK_RAD_S = 0.03, 0.09, 3e-4, 2e-5
QUARANTINE_S, QUARANTINE_SHARE, SUSPICION = 3.0, 0.25, 0.3
# Matches of one scene err alike: so many of them are one.
ALIKE = 10.0
WHEEL_SIGMA_M_S = 0.15
WHEEL_SCALE = 0.04  # tyre wear, pressure and slip: within it a wheel speed is honest


class _Track:
    """Values of one line over time, for integration between stamps."""

    def __init__(self) -> None:
        self._stamps: deque[int] = deque()
        self._values: deque[float] = deque()

    def clear(self) -> None:
        self._stamps.clear()
        self._values.clear()

    def push(self, stamp_ns: int, value: float) -> None:
        if not np.isfinite(value) or (self._stamps and stamp_ns <= self._stamps[-1]):
            return
        self._stamps.append(stamp_ns)
        self._values.append(value)
        while self._stamps[-1] - self._stamps[0] > KEEP_NS:
            self._stamps.popleft()
            self._values.popleft()

    @property
    def last_ns(self) -> int | None:
        return self._stamps[-1] if self._stamps else None

    def mean(self, start_ns: int, end_ns: int) -> float | None:
        """Time average over an interval, None where the samples do not cover it without a hole."""
        if not self._stamps or self._stamps[0] > start_ns or self._stamps[-1] < end_ns:
            return None
        t = np.array(self._stamps, dtype=np.int64) - start_ns
        inside = (t > 0) & (t < end_ns - start_ns)
        knots = np.concatenate(([0], t[inside], [end_ns - start_ns])).astype(np.float64)
        around = t[max(0, int(np.argmax(t > 0)) - 1) : int(np.searchsorted(t, end_ns - start_ns)) + 1]
        if around.size > 1 and np.diff(around).max() > MAX_HOLE_NS:
            return None
        values = np.interp(knots, t.astype(np.float64), np.array(self._values))
        return float(np.sum(0.5 * (values[1:] + values[:-1]) * np.diff(knots)) / (end_ns - start_ns))


class _LidarCrossCheck(ABC):
    """Common part: pair motions with the other line, then judge residuals by gate and CUSUM.

    statistic: share of the threshold reached by gate or CUSUM; threshold 1.
    """

    name: str
    quantity: str
    unit: str

    def __init__(self, evidence: LidarEvidence, other: str, lidar: str) -> None:
        self.sensors: tuple[str, ...] = (lidar, other)
        self._evidence = evidence
        self._other = other
        self._track = _Track()
        self._waiting: deque[ScanMotion] = deque(maxlen=MAX_WAITING)
        self._upper = self._lower = 0.0
        self._run = 0
        self._judged_ns: int | None = None
        self._last: tuple[float, float] | None = None
        self._power = float("inf")
        self._moving = False
        self._gate = 0.0

    @abstractmethod
    def _value(self, sample: object) -> float | None:
        """Return what the other line says, or None where the sample is not its."""

    @abstractmethod
    def _residual(self, motion: ScanMotion, other: float) -> tuple[float, float]:
        """Residual and its sigma in `unit`."""

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        motion = self._evidence.motion(synced)
        if synced.tick.discontinuity:
            self._reset()
        for sample in synced.series.get(self._other, ()):
            value = self._value(sample)
            if value is not None:
                self._track.push(sample.stamp_ns, value)
        if motion is not None:
            self._waiting.append(motion)
        while self._waiting and (self._track.last_ns or 0) >= self._waiting[0].end_ns:
            self._judge(self._waiting.popleft())
        return self._verdict(synced, motion)

    def _reset(self) -> None:
        self._track.clear()
        self._waiting.clear()
        self._upper = self._lower = self._gate = 0.0
        self._run, self._judged_ns = 0, None

    def _judge(self, motion: ScanMotion) -> None:
        self._last = None
        other = self._track.mean(motion.start_ns, motion.end_ns)
        if other is None:
            return
        residual, sigma = self._residual(motion, other)
        z = float(np.clip(residual / sigma, -4 * GATE_SIGMA, 4 * GATE_SIGMA))
        self._upper = cusum_step(self._upper, z, CUSUM_DRIFT, 1.0, CUSUM_CEILING)
        self._lower = cusum_step(self._lower, -z, CUSUM_DRIFT, 1.0, CUSUM_CEILING)
        self._run = self._run + 1 if abs(z) > GATE_SIGMA else 0
        self._gate = abs(z) / GATE_SIGMA
        self._judged_ns = motion.end_ns
        self._last = residual, sigma
        self._power = GATE_SIGMA * sigma
        self._moving = abs(motion.speed_m_s) > MIN_SPEED_M_S or self._excited(other)

    def _excited(self, other: float) -> bool:
        return abs(other) > MIN_SPEED_M_S

    @property
    def _share(self) -> float:
        """Share of the threshold that the sums and the gate have reached."""
        drift = max(self._upper, self._lower) / CUSUM_LIMIT
        return max(drift, self._gate if self._run >= GATE_RUN else min(self._gate, 1.0))

    def _verdict(self, synced: SyncedSet, motion: ScanMotion | None) -> CheckResult:
        if self._judged_ns is None or synced.tick.stamp_ns - self._judged_ns > STALE_NS:
            why = "no scan match" if motion is None else f"{self._other} does not cover the sweep"
            return self._result(Level.NOT_OBSERVABLE, 0.0, why)
        statistic = self._share
        if statistic > 1.0:
            return self._result(Level.ANOMALY, statistic, f"{self.quantity} of the scan match and {self._other} differ")
        if not self._moving:
            return self._result(Level.NOT_OBSERVABLE, statistic, "no motion: a dead sensor would read the same")
        return self._result(Level.OK, statistic, "")

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else self._power
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, self.unit, self.quantity, reason)


class YawCheck(_LidarCrossCheck):
    """X6.yaw: yaw rate of the scan match against the gyro's z axis, averaged over the same interval.

    The gyro's zero-rate offset is legitimate as far as data sheets allow, and is learned from what stayed unsuspicious.
    """

    name = "X6.yaw"
    quantity = "yaw_rate"
    unit = "rad/s"

    def __init__(self, evidence: LidarEvidence, imu: str = IMU, lidar: str = LIDAR) -> None:
        super().__init__(evidence, imu, lidar)
        self._bias = BoundedEstimator(
            (0.0,), (BIAS_SIGMA_RAD_S,), (-BIAS_LIMIT_RAD_S,), (BIAS_LIMIT_RAD_S,), (BIAS_FLOOR_RAD_S,),
            (BIAS_WALK_RAD_S,),
        )  # fmt: skip
        self._lessons: deque[tuple[int, float, float]] = deque()
        self._first_ns: int | None = None
        self._learned_ns: int | None = None
        self._match_rad_s = GYRO_SIGMA_RAD_S

    @property
    def bias_rad_s(self) -> float:
        """The gyro's learned zero-rate offset about the vertical."""
        return float(self._bias.mean[0])

    def _reset(self) -> None:
        super()._reset()
        self._lessons.clear()

    def _judge(self, motion: ScanMotion) -> None:
        super()._judge(motion)
        if self._last is None:
            return
        residual, _ = self._last
        now_ns = motion.end_ns
        self._first_ns = now_ns if self._first_ns is None else self._first_ns
        if self._share > SUSPICION:
            self._lessons.clear()
            return
        self._lessons.append((now_ns, residual - self.bias_rad_s, self._match_rad_s))
        # Of the first seconds there is no earlier truth to protect.
        wait_s = min(QUARANTINE_S, QUARANTINE_SHARE * (now_ns - self._first_ns) / NS_PER_S)
        while self._lessons and self._lessons[0][0] <= now_ns - wait_s * NS_PER_S:
            stamp_ns, raw, unsure = self._lessons.popleft()
            dt_s = 0.0 if self._learned_ns is None else max(0.0, (stamp_ns - self._learned_ns) / NS_PER_S)
            self._learned_ns = stamp_ns
            limit = DEAD_BAND_SIGMA * (self._bias.sd((1.0,)) + 2.0 * unsure)
            # The residual is match minus gyro plus bias, so a gyro that reads too much leaves it negative.
            self._bias.update(-raw - self.bias_rad_s, (1.0,), unsure * ALIKE**0.5, dt_s, limit)

    def _value(self, sample: object) -> float | None:
        return sample.gyro_rad_s[2] if isinstance(sample, ImuSample) else None

    def _residual(self, motion: ScanMotion, other: float) -> tuple[float, float]:
        self._match_rad_s = float(np.hypot(motion.sigma_yaw_rad / motion.dt_s, GYRO_SIGMA_RAD_S))
        # What is open of the bias is no noise, but it is nobody's fault either.
        return motion.yaw_rate_rad_s - other + self.bias_rad_s, float(
            np.hypot(self._match_rad_s, self._bias.sd((1.0,)))
        )

    def _excited(self, other: float) -> bool:
        return abs(other) > 0.02


class SpeedCheck(_LidarCrossCheck):
    """X12.speed: forward speed of the scan match against the wheels.

    Traffic that moves along can outvote the street, so the match is asked again from where the wheels put it: an
    explanation nearly as good as the best one that agrees with the wheels clears them.
    """

    name = "X12.speed"
    quantity = "speed"
    unit = "m/s"

    def __init__(self, evidence: LidarEvidence, wheels: str = WHEELS, lidar: str = LIDAR) -> None:
        super().__init__(evidence, wheels, lidar)

    def _value(self, sample: object) -> float | None:
        return sample.speed_m_s if isinstance(sample, WheelOdometry) else None

    def _residual(self, motion: ScanMotion, other: float) -> tuple[float, float]:
        dx_m = self._evidence.mode_near(motion, other * motion.dt_s)
        residual = dx_m / motion.dt_s - other
        slack = WHEEL_SCALE * abs(other)
        residual = float(np.sign(residual) * max(0.0, abs(residual) - slack))
        return residual, float(np.hypot(motion.sigma_x_m / motion.dt_s, WHEEL_SIGMA_M_S))
