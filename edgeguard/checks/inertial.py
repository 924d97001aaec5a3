"""The IMU against the wheels: X7.accel (change of speed), X11.wheels (left-right difference)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from edgeguard.checks.motion_check import MotionCheck
from edgeguard.checks.motion_statistics import DEAD_BAND_SIGMA, BoundedEstimator, ResidualMonitor
from edgeguard.types import IMU, WHEELS

if TYPE_CHECKING:
    from edgeguard.checks.motion_history import MotionHistory

# Windows are this long and are taken every 0.1 s, a little in the past so that both streams have arrived.
SPAN_S = 1.0
STEP_S = 0.1
BEHIND_S = 0.1
TURN_SPAN_S = 0.5
# Vehicles accelerate or brake with at least this much before it tells from road noise.
ACCELERATING_M_S2 = 0.3
TURNING_MIN_SPEED_M_S = 2.0


class _WindowCheck(MotionCheck):
    """Compares windows of the two continuous streams on its own 10 Hz grid."""

    def __init__(self, sensors: tuple[str, ...], history: MotionHistory, monitors: dict[str, ResidualMonitor]) -> None:
        super().__init__(sensors, history, monitors)
        self._next_s = -math.inf

    def _observe(self) -> None:
        now_s = self.history.now_s
        if not len(self.history.wheels) or not len(self.history.imu):
            return
        t = min(now_s, float(self.history.wheels.newest[0]), float(self.history.imu.newest[0])) - BEHIND_S
        if t < self._next_s:
            return
        self._next_s = t + STEP_S * 0.75
        self._window(t)

    def _restart(self) -> None:
        super()._restart()
        self._next_s = -math.inf

    @abstractmethod
    def _window(self, t: float) -> None:
        """Judge the window that ends at `t`."""


class AccelerationCheck(_WindowCheck):
    """X7: integral of forward specific force against change of wheel speed over 1 s.

    Gravity leaks in through mounting pitch and road grade; together they are one slowly walking offset.
    """

    name: str = "X7.accel"
    quantity: ClassVar[str] = "acceleration"
    power_unit: ClassVar[str] = "m/s^2"
    power_limit: ClassVar[float] = 5.0
    still_reason: ClassVar[str] = "constant speed: nobody accelerates"

    def __init__(self, history: MotionHistory) -> None:
        # Road vibration and suspension leave 0.1..0.5 m/s in a second's integral.
        super().__init__((IMU, WHEELS), history, {"1 s": ResidualMonitor(0.2, 0.5, SPAN_S, 0.32)})
        # Mounting pitch up to 15 deg is 2.5 m/s^2; grade changes by 5 % within some seconds: followed with 2 s delay.
        self._offset = BoundedEstimator((0.0,), (2.0,), (-4.0,), (4.0,), (0.12,), (0.08,))
        self._count = 0

    def _window(self, t: float) -> None:
        wheels, imu = self.history.wheels, self.history.imu
        w1, w0, i1, i0 = wheels.at(t), wheels.at(t - SPAN_S), imu.at(t), imu.at(t - SPAN_S)
        if w1 is None or w0 is None or i1 is None or i0 is None:
            return
        by_wheels, by_imu = float(w1[0] - w0[0]), float(i1[2] - i0[2])
        turn = max(abs(float(i1[1])), abs(float(i0[1])))
        # Offset is the expected value of the integral over one second, so its gradient is the span.
        residual = by_imu - by_wheels - float(self._offset.mean[0]) * SPAN_S
        dead_band = (
            DEAD_BAND_SIGMA * self._offset.sd((SPAN_S,))
            + 0.15 * abs(by_wheels)  # squat and dive tilt the body by about a degree per 2 m/s^2
            + 0.06 * turn * abs(float(w1[0]))  # yaw misalignment of the mount lets lateral acceleration in
            + 0.15 * self._jerk(t)
            + (0.5 if min(abs(float(w1[0])), abs(float(w0[0]))) < 0.5 else 0.0)  # the jolt of stopping
        )
        excited = max(abs(by_wheels), abs(by_imu - float(self._offset.mean[0]) * SPAN_S)) / SPAN_S
        self._moving = excited > ACCELERATING_M_S2
        self._push("1 s", t, residual, dead_band)
        if self.history.may_learn:
            self._offset.update(residual, (SPAN_S,), 0.5, STEP_S, dead_band + 0.3)

    def _jerk(self, t: float) -> float:
        """Change of wheel acceleration across the window, m/s^2: what a time offset between the two multiplies."""
        w = [self.history.wheels.at(s) for s in (t, t - 0.2, t - SPAN_S + 0.2, t - SPAN_S)]
        if any(x is None for x in w):
            return 0.0
        v = [float(x[0]) for x in w if x is not None]
        return abs((v[0] - v[1]) - (v[2] - v[3])) / 0.2


class WheelTurnCheck(_WindowCheck):
    """X11: yaw from the right-left wheel difference against the gyro over 0.5 s.

    ``dyaw = (1/track) * integral(right - left) + e * distance + bias * t``: track, radius mismatch and gyro bias are
    estimated inside physical bounds.
    """

    name: str = "X11.wheels"
    quantity: ClassVar[str] = "yaw_rate"
    power_unit: ClassVar[str] = "deg/s"
    power_limit: ClassVar[float] = 5.0
    still_reason: ClassVar[str] = "too slow to turn"

    def __init__(self, history: MotionHistory) -> None:
        # Quantised wheel speeds and tyre slip: 0.15..0.6 deg in the integral.
        super().__init__((IMU, WHEELS), history, {"0.5 s": ResidualMonitor(0.003, 0.01, TURN_SPAN_S, 0.0055)})
        # Track of road vehicles 1.3..1.9 m; radius mismatch up to 0.5 % over it; consumer gyro bias.
        self._model = BoundedEstimator(
            mean=(0.645, 0.0, 0.0),
            sd=(0.06, 0.003, 0.012),
            low=(0.5, -0.01, -0.05),
            high=(0.8, 0.01, 0.05),
            sd_floor=(0.015, 0.00015, 0.0012),
            sd_walk=(0.0005, 0.00002, 0.0002),
        )

    def _window(self, t: float) -> None:
        history = self.history
        w1, w0 = history.wheels.at(t), history.wheels.at(t - TURN_SPAN_S)
        i1, i0 = history.imu.at(t), history.imu.at(t - TURN_SPAN_S)
        if not history.has_wheel_pairs or w1 is None or w0 is None or i1 is None or i0 is None:
            return
        difference_m, distance_m = float(w1[3] - w0[3]), float(w1[1] - w0[1])
        gradient = (difference_m, distance_m, TURN_SPAN_S)
        turned = float(i1[0] - i0[0])
        residual = turned - float(self._model.mean @ gradient)
        slowest = min(abs(float(w1[0])), abs(float(w0[0])))
        lateral = max(abs(float(i1[1]) * float(w1[0])), abs(float(i0[1]) * float(w0[0])))
        dead_band = (
            DEAD_BAND_SIGMA * self._model.sd(gradient)
            + 0.1 * abs(float(i1[1] - i0[1]))  # time offset between the two streams
            + 0.05 * abs(turned)  # steered front wheels
            + 0.002 * lateral  # load transfer changes rolling radius
            + (0.01 if slowest < TURNING_MIN_SPEED_M_S else 0.001)
        )
        self._moving = slowest > TURNING_MIN_SPEED_M_S
        self._push("0.5 s", t, residual, dead_band, math.degrees(1.0 / TURN_SPAN_S))
        if history.may_learn and self._moving:
            self._model.update(residual, gradient, 0.01, STEP_S, dead_band + 0.004)
