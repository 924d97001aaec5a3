"""A check of this product: does the body feel the turn that wheels and gyro tell?

A vehicle that turns at yaw rate w with speed v is pushed sideways by v * w. An accelerometer that does not feel it, or
a gyro that tells a turn nobody drives, contradicts the other.
"""

from __future__ import annotations

from collections import deque

from edgeguard.types import IMU, WHEELS, CheckResult, ImuSample, Level, SyncedSet, WheelOdometry

WINDOW_S = 1.5
# Bias of the accelerometer (0.15 m/s^2 is a cheap one's), the road's cross slope (2 %: 0.2) and vibration, averaged.
LIMIT_M_S2 = 0.8


class TurnIsFelt:
    """Cross-check of gyro, accelerometer and wheels. Statistic: metres per second squared, averaged over a window."""

    name = "U2.turn-is-felt"
    sensors = (IMU, WHEELS)

    def __init__(self) -> None:
        self._speed_m_s: float | None = None
        self._window: deque[tuple[float, float]] = deque()

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        for wheels in synced.series.get(WHEELS, ()):
            if isinstance(wheels, WheelOdometry):
                self._speed_m_s = wheels.speed_m_s
        for imu in synced.series.get(IMU, ()):
            if isinstance(imu, ImuSample) and self._speed_m_s is not None:
                felt = imu.accel_m_s2[1] - self._speed_m_s * imu.gyro_rad_s[2]
                self._window.append((imu.stamp_ns / 1e9, felt))
        now_s = synced.stamp_ns / 1e9
        while self._window and self._window[0][0] < now_s - WINDOW_S:
            self._window.popleft()
        if not self._window or self._window[-1][0] - self._window[0][0] < 0.8 * WINDOW_S:
            return CheckResult(self.name, self.sensors, Level.NOT_OBSERVABLE, 0.0, LIMIT_M_S2, reason="window not full")
        mean = abs(sum(felt for _, felt in self._window) / len(self._window))
        level = Level.ANOMALY if mean > LIMIT_M_S2 else Level.OK
        reason = "the turn that the gyro tells is not felt" if level is Level.ANOMALY else ""
        return CheckResult(
            self.name, self.sensors, level, mean, LIMIT_M_S2, power=LIMIT_M_S2, power_unit="m/s^2", reason=reason
        )
