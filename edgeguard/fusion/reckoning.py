"""What the vehicle's own motion sensors say over one tick, put together once for all who reckon with it."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeguard.clock import NS_PER_S
from edgeguard.types import IMU, LIDAR, WHEELS, ImuSample, WheelOdometry

if TYPE_CHECKING:
    from edgeguard.checks.lidar_evidence import ScanMotion
    from edgeguard.types import SyncedSet

# A stream covers a tick when its samples leave no longer hole.
MAX_HOLE_S = 0.25
# Integrated yaw is kept this long: a scan match looks back one or two sweeps.
KEEP_S = 2.0
# Track of road vehicles is 1.3 to 1.9 m: yaw from the wheels' difference is good to a tenth.
TRACK_M, TRACK_SHARE = 1.55, 0.1


@dataclass(frozen=True, slots=True)
class Stride:
    """Motion over one tick as the sensors say it, nothing calibrated.

    dt_s: length of the tick. turned_rad: integral of the gyro's z rate, gained_m_s: of the forward specific force; None
    without an IMU that covers the tick. wheel_m_s: mean wheel speed, at `wheel_age_s` before the end of the tick.
    wheel_yaw_rad_s: yaw rate from the difference of right and left. lidar: scan match that ends in this tick;
    lidar_gyro_rad_s: mean gyro rate over exactly its interval.
    """

    dt_s: float
    turned_rad: float | None = None
    gained_m_s: float | None = None
    wheel_m_s: float | None = None
    wheel_age_s: float = 0.0
    wheel_yaw_rad_s: float | None = None
    lidar: ScanMotion | None = None
    lidar_gyro_rad_s: float | None = None

    def by(self, sensors: frozenset[str]) -> Stride:
        """What these sensors alone say."""
        kept = self
        if IMU not in sensors:
            kept = replace(kept, turned_rad=None, gained_m_s=None, lidar_gyro_rad_s=None)
        if WHEELS not in sensors:
            kept = replace(kept, wheel_m_s=None, wheel_yaw_rad_s=None)
        return kept if LIDAR in sensors else replace(kept, lidar=None, lidar_gyro_rad_s=None)


class Reckoner:
    """Integrates the streams of motion from tick to tick."""

    def __init__(self) -> None:
        self._t_ns: int | None = None
        self._imu: tuple[int, float, float] | None = None
        self._yaw = 0.0
        self._gained = 0.0
        self._past: deque[tuple[int, float]] = deque()

    def restart(self) -> None:
        """Time jumped: bridge nothing."""
        self._t_ns = None
        self._imu = None
        self._past.clear()

    def stride(self, synced: SyncedSet, motion: ScanMotion | None) -> Stride:
        """What happened since the tick before, by all sensors; dt_s is 0 at the first tick."""
        now_ns = synced.stamp_ns
        dt_s = 0.0 if self._t_ns is None else max(0.0, (now_ns - self._t_ns) / NS_PER_S)
        self._t_ns = now_ns
        turned, gained = self._integrate(synced, now_ns)
        speed, age_s, yaw = _wheels(synced, now_ns)
        gyro = None if motion is None else self._mean_rate(motion.start_ns, motion.end_ns)
        return Stride(dt_s, turned, gained, speed, age_s, yaw, motion, gyro)

    def _integrate(self, synced: SyncedSet, now_ns: int) -> tuple[float | None, float | None]:
        yaw, gained, widest = self._yaw, self._gained, 0.0
        for sample in synced.series.get(IMU, ()):
            if not isinstance(sample, ImuSample):
                continue
            rate, accel = sample.gyro_rad_s[2], sample.accel_m_s2[0]
            if not (math.isfinite(rate) and math.isfinite(accel)):
                continue
            if self._imu is not None:
                dt = (sample.stamp_ns - self._imu[0]) / NS_PER_S
                if dt <= 0:
                    continue
                widest = max(widest, dt)
                self._yaw += dt * (rate + self._imu[1]) / 2
                self._gained += dt * (accel + self._imu[2]) / 2
            self._imu = (sample.stamp_ns, rate, accel)
            self._past.append((sample.stamp_ns, self._yaw))
        while self._past and self._past[0][0] < now_ns - KEEP_S * NS_PER_S:
            self._past.popleft()
        if self._imu is None or widest > MAX_HOLE_S or now_ns - self._imu[0] > MAX_HOLE_S * NS_PER_S:
            return None, None
        # The integral ends at the newest sample, a few milliseconds before the tick: rate and force hold until then.
        tail = (now_ns - self._imu[0]) / NS_PER_S
        self._yaw += tail * self._imu[1]
        self._gained += tail * self._imu[2]
        self._imu = (now_ns, self._imu[1], self._imu[2])
        self._past.append((now_ns, self._yaw))
        return self._yaw - yaw, self._gained - gained

    def _mean_rate(self, start_ns: int, end_ns: int) -> float | None:
        if not self._past or end_ns <= start_ns or self._past[0][0] > start_ns or self._past[-1][0] < end_ns:
            return None
        return (self._yaw_at(end_ns) - self._yaw_at(start_ns)) * NS_PER_S / (end_ns - start_ns)

    def _yaw_at(self, stamp_ns: int) -> float:
        before = self._past[0]
        for late in self._past:
            if late[0] >= stamp_ns:
                span = late[0] - before[0]
                return late[1] if span == 0 else before[1] + (late[1] - before[1]) * (stamp_ns - before[0]) / span
            before = late
        return before[1]


def _wheels(synced: SyncedSet, now_ns: int) -> tuple[float | None, float, float | None]:
    samples = [s for s in synced.series.get(WHEELS, ()) if isinstance(s, WheelOdometry) and math.isfinite(s.speed_m_s)]
    if not samples:
        return None, 0.0, None
    speed = sum(s.speed_m_s for s in samples) / len(samples)
    age_s = sum(now_ns - s.stamp_ns for s in samples) / len(samples) / NS_PER_S
    pairs = [s.wheel_speeds_m_s for s in samples if s.wheel_speeds_m_s is not None]
    yaw = sum((w[3] - w[2]) / TRACK_M for w in pairs) / len(pairs) if pairs else None
    return speed, age_s, yaw
