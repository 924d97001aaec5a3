"""A planar lidar's own motion against wheels and gyro: X12.scan2d (speed) and X6.scan2d (yaw rate).

Each revolution is matched against the one before (`kernels.scan_match`), starting from where the last motion leads.
How the scanner is turned on the robot need not be known: lengths and angles are compared, no directions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.rate_history import RateHistory
from edgeguard.checks.scores import Prior, ScoreMonitor, SensorFits
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.scan_match import match_scans
from edgeguard.types import IMU, WHEELS, CheckResult, ImuSample, Level, Scan2d, WheelOdometry

if TYPE_CHECKING:
    from edgeguard.types import Sample, SyncedSet

MAX_GAP_S = 0.35
MIN_POINTS = 100
MIN_RANGE_M, MAX_RANGE_M = 0.05, 60.0
# Half a metre is the finest cell that a scan of one point per degree fills at some metres.
CELLS_M = (2.0, 1.0, 0.5)
MIN_SCORE = 0.4
# Surfaces found again where they were expected share their cell's error.
INFLATION = 3.0
SIGMA_FLOOR_M, SIGMA_FLOOR_RAD = 0.01, 0.003
# A corridor slides: above this the answer along the way is none.
MAX_SIGMA_M, MAX_SIGMA_RAD = 0.05, 0.02
WHEEL_SIGMA_M_S, WHEEL_SCALE = 0.05, 0.04
GYRO_BIAS_LIMIT_RAD_S, GYRO_SIGMA_RAD_S, GYRO_SCALE = 0.09, 0.006, 0.02
LEVER_ARM_M = 0.5  # of the scanner from the axle: a turn moves it sideways
MOVING_M_S, TURNING_RAD_S = 0.1, 0.05
STALE_S = 0.6
MAX_WAIT_S = 0.5
LEARN_S, QUARANTINE_S, LEARN_PAIRS = 20.0, 2.0, 10
PRIOR = Prior(0.0, 1.5, "sigma", decorrelation_s=0.3)


@dataclass(frozen=True, slots=True)
class PlanarMotion:
    """Motion between two revolutions: length of the way and turn, with 1-sigma errors. Times in seconds."""

    start_s: float
    end_s: float
    way_m: float
    yaw_rad: float
    sigma_m: float
    sigma_rad: float


class PlanarEvidence:
    """Matches each new revolution once, whichever check asks first."""

    def __init__(self, sensor: str = "scan2d") -> None:
        self.sensor = sensor
        self._key: tuple[int, int] | None = None
        self._motions: list[PlanarMotion] = []
        self.reset()

    def reset(self) -> None:
        """Forget all history."""
        self._before: tuple[float, NDArray[np.float32]] | None = None
        self._rate = np.zeros(3)
        self.why = "no earlier scan"

    def motions(self, synced: SyncedSet) -> list[PlanarMotion]:
        """Motions that end within this tick; empty where nothing could be matched (`why`)."""
        key = (synced.tick.frame, synced.stamp_ns)
        if key != self._key:
            self._key = key
            if synced.tick.discontinuity:
                self.reset()
            scans = synced.series.get(self.sensor, ())
            self._motions = [m for s in scans if (m := self._match(s)) is not None]
        return self._motions

    def _match(self, scan: Sample) -> PlanarMotion | None:
        if not isinstance(scan, Scan2d):
            return None
        points, t_s = scan_points(scan), scan.stamp_ns / NS_PER_S
        before, self._before = self._before, (t_s, points)
        if before is None or not 0.0 < t_s - before[0] <= MAX_GAP_S:
            self._rate = np.zeros(3)
            self.why = "no earlier scan"
            return None
        if min(len(points), len(before[1])) < MIN_POINTS:
            self.why = "too few returns"
            return None
        dt_s = t_s - before[0]
        starts = (self._rate * dt_s, np.zeros(3))
        pose, H, score = max((match_scans(before[1], points, s, CELLS_M) for s in starts), key=lambda r: r[2])
        self._rate = np.zeros(3)
        if score < MIN_SCORE:
            self.why = "the scan match did not converge"
            return None
        try:
            covariance = INFLATION**2 * np.linalg.inv(H)
        except np.linalg.LinAlgError:
            self.why = "the scene does not fix the motion"
            return None
        way_m = math.hypot(pose[0], pose[1])
        along = pose[:2] / way_m if way_m > 1e-6 else np.array((1.0, 0.0))
        # At rest every direction is the way: the worst one counts.
        worst = float(np.linalg.eigvalsh(covariance[:2, :2])[-1])
        variance = float(along @ covariance[:2, :2] @ along) if way_m > SIGMA_FLOOR_M else worst
        sigma_m = math.hypot(math.sqrt(max(variance, 0.0)), SIGMA_FLOOR_M)
        sigma_rad = math.hypot(math.sqrt(max(float(covariance[2, 2]), 0.0)), SIGMA_FLOOR_RAD)
        if not (sigma_m < MAX_SIGMA_M and sigma_rad < MAX_SIGMA_RAD):
            self.why = "the scene does not fix the motion"
            return None
        self._rate = pose / dt_s
        return PlanarMotion(before[0], t_s, way_m, float(pose[2]), sigma_m, sigma_rad)


def scan_points(scan: Scan2d) -> NDArray[np.float32]:
    """(N, 2) float32 metres of a scan's usable returns, sensor frame."""
    ranges = scan.range_m
    good = np.isfinite(ranges) & (ranges > MIN_RANGE_M) & (ranges < MAX_RANGE_M)
    angle, ranges = scan.angle_rad[good], ranges[good]
    return np.ascontiguousarray(np.column_stack((ranges * np.cos(angle), ranges * np.sin(angle))), dtype=np.float32)


class _PlanarCheck(ABC):
    """Pairs motions with the other line's mean over the same span."""

    name: str
    quantity: str
    unit: str

    def __init__(self, evidence: PlanarEvidence, other: str, fits: SensorFits | None) -> None:
        self.sensors: tuple[str, ...] = (evidence.sensor, other)
        self.monitors: tuple[ScoreMonitor, ...] = (ScoreMonitor(self.name, PRIOR, fits),)
        self._evidence, self._other = evidence, other
        self._history = RateHistory(1, MAX_GAP_S)
        self._restart()

    def _restart(self) -> None:
        self._history.clear()
        self._waiting: deque[PlanarMotion] = deque(maxlen=8)
        self._judged_s = -math.inf
        self._moving = False
        self._sigma, self._residual = math.inf, 0.0
        self.monitors[0].restart()

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        if synced.tick.discontinuity or not synced.tick.recording_gap.isdisjoint(self.sensors):
            self._restart()
        for sample in synced.series.get(self._other, ()):
            value = self._value(sample)
            if value is not None:
                self._history.append(sample.stamp_ns / NS_PER_S, (value,))
        self._waiting.extend(self._evidence.motions(synced))
        now_s = synced.stamp_ns / NS_PER_S
        while self._waiting and self._history.reaches(self._waiting[0].end_s):
            motion = self._waiting.popleft()
            if self._history.covers(motion.start_s):
                self._judge(motion, float(self._history.mean(motion.start_s, motion.end_s)[0]))
        while self._waiting and now_s - self._waiting[0].end_s > MAX_WAIT_S:
            self._waiting.popleft()
        return self._verdict(now_s)

    @abstractmethod
    def _value(self, sample: Sample) -> float | None:
        """What the other line says, or None."""

    @abstractmethod
    def _compare(self, motion: PlanarMotion, other: float) -> tuple[float, float, bool]:
        """Residual and sigma in `unit`, and whether there is anything to see."""

    def _judge(self, motion: PlanarMotion, other: float) -> None:
        self._residual, self._sigma, self._moving = self._compare(motion, other)
        self.monitors[0].push(motion.end_s, self._residual / self._sigma)
        self._judged_s = motion.end_s

    def _verdict(self, now_s: float) -> CheckResult:
        monitor = self.monitors[0]
        power = monitor.power() * self._sigma if math.isfinite(self._sigma) else math.inf
        level, reason, size = Level.OK, "", None
        if now_s - self._judged_s > STALE_S:
            level, reason = Level.NOT_OBSERVABLE, self._evidence.why
        elif monitor.statistic > 1.0:
            level, size = Level.ANOMALY, abs(self._residual)
            reason = f"{self.quantity} of the scan match and {self._other} differ"
        elif not self._moving:
            level, reason = Level.NOT_OBSERVABLE, "no motion: a dead sensor would read the same"
        elif not math.isfinite(power):
            level, reason = Level.NOT_OBSERVABLE, "too few scans yet"
        return CheckResult(
            self.name, self.sensors, level, monitor.statistic, 1.0,
            math.inf if level is Level.NOT_OBSERVABLE else power, self.unit, self.quantity, reason, size,
        )  # fmt: skip


class ScanSpeedCheck(_PlanarCheck):
    """X12.scan2d: how far the scans moved against how far the wheels rolled."""

    name = "X12.scan2d"
    quantity = "speed"
    unit = "m/s"

    def __init__(self, evidence: PlanarEvidence, fits: SensorFits | None = None, wheels: str = WHEELS) -> None:
        super().__init__(evidence, wheels, fits)

    def _value(self, sample: Sample) -> float | None:
        return sample.speed_m_s if isinstance(sample, WheelOdometry) else None

    def _compare(self, motion: PlanarMotion, other: float) -> tuple[float, float, bool]:
        dt_s = motion.end_s - motion.start_s
        speed, turning = motion.way_m / dt_s, abs(motion.yaw_rad) / dt_s
        sigma = math.hypot(motion.sigma_m / dt_s, WHEEL_SIGMA_M_S, WHEEL_SCALE * other, LEVER_ARM_M * turning)
        return speed - abs(other), sigma, max(speed, abs(other)) > MOVING_M_S


class ScanYawCheck(_PlanarCheck):
    """X6.scan2d: how far the scans turned against the gyro, whose bias at switch-on is learned inside its bounds."""

    name = "X6.scan2d"
    quantity = "yaw_rate"
    unit = "rad/s"

    def __init__(self, evidence: PlanarEvidence, fits: SensorFits | None = None, imu: str = IMU) -> None:
        self._bias, self._pairs = 0.0, 0
        self._lessons: deque[tuple[float, float]] = deque()
        super().__init__(evidence, imu, fits)

    def _value(self, sample: Sample) -> float | None:
        return sample.gyro_rad_s[2] if isinstance(sample, ImuSample) else None

    def _compare(self, motion: PlanarMotion, other: float) -> tuple[float, float, bool]:
        dt_s = motion.end_s - motion.start_s
        rate = motion.yaw_rad / dt_s
        unsure = GYRO_BIAS_LIMIT_RAD_S / (1.0 + self._pairs)
        sigma = math.hypot(motion.sigma_rad / dt_s, GYRO_SIGMA_RAD_S, GYRO_SCALE * other, unsure)
        self._learn(motion.end_s, dt_s, other - rate)
        moving = max(abs(rate), abs(other)) > TURNING_RAD_S or motion.way_m / dt_s > MOVING_M_S
        return rate - (other - self._bias), sigma, moving

    def _learn(self, t_s: float, dt_s: float, bias: float) -> None:
        if self.monitors[0].share > 0.3:
            self._lessons.clear()
            return
        self._lessons.append((t_s, bias))
        wait_s = 0.0 if self._pairs < LEARN_PAIRS else QUARANTINE_S
        while self._lessons and self._lessons[0][0] <= t_s - wait_s:
            share = max(1.0 / (1.0 + self._pairs), dt_s / LEARN_S)
            learned = self._bias + share * (self._lessons.popleft()[1] - self._bias)
            self._bias = min(max(learned, -GYRO_BIAS_LIMIT_RAD_S), GYRO_BIAS_LIMIT_RAD_S)
            self._pairs += 1
