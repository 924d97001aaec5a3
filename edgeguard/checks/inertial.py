"""The IMU against wheels and GNSS speed: X7.accel (change of speed), X11.wheels (left-right difference), and the two
that tell whose fault it is: X7.lateral (lateral acceleration) and X9.wheels (GNSS course against the wheels).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, ClassVar

from edgeguard.checks.heading_filter import wrap
from edgeguard.checks.motion_check import MotionCheck
from edgeguard.checks.motion_history import COURSE_MIN_SPEED_M_S, LEVER_ARM_M
from edgeguard.checks.motion_statistics import DEAD_BAND_SIGMA, BoundedEstimator, ResidualMonitor, Track
from edgeguard.clock import NS_PER_S
from edgeguard.types import GNSS, IMU, WHEELS, ImuSample

if TYPE_CHECKING:
    from edgeguard.checks.motion_history import MotionHistory
    from edgeguard.types import CheckResult, SyncedSet

# Windows are this long and are taken every 0.1 s, a little in the past so that both streams have arrived.
SPAN_S = 1.0
STEP_S = 0.1
BEHIND_S = 0.1
TURN_SPAN_S = 0.5
# Vehicles accelerate or brake with at least this much before it tells from road noise.
ACCELERATING_M_S2 = 0.3
TURNING_MIN_SPEED_M_S = 2.0
GRAVITY_M_S2 = 9.81
KEEP_S, MAX_GAP_S = 8.0, 0.35
LATERAL_SPAN_S = 0.1
GNSS_HOLD_S = 0.6
# What a road vehicle's yaw rate changes by in a second in an emergency; beyond it is no lever arm, it is a fault.
MAX_SLEW_RAD_S2 = 1.5
# A residual teaches the accelerometer's offset only after so long without suspicion.
LESSON_WAIT_S = 3.0
# Vibration, quantised wheel speeds: what a second's integral honestly misses by before its noise is learned.
LESSON_NOISE_M_S = 0.12


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

    Gravity leaks in through pitch. What the gyro sees of it (a hill, squat and dive) is taken off; what is left, the
    mounting and the two biases, is an offset that drifts steadily, and is learned as one.
    """

    name: str = "X7.accel"
    quantity: ClassVar[str] = "acceleration"
    power_unit: ClassVar[str] = "m/s^2"
    power_limit: ClassVar[float] = 5.0
    still_reason: ClassVar[str] = "constant speed: nobody accelerates"

    def __init__(self, history: MotionHistory) -> None:
        # Road vibration and suspension leave 0.1..0.5 m/s in a second's integral, a good road less.
        self._second = ResidualMonitor(0.08, 0.5, SPAN_S, 0.32)
        super().__init__((IMU, WHEELS), history, {"1 s": self._second})
        self._offset = DriftingOffset()
        # Pitch up by the gyro (rad), integral of forward specific force, integral of gravity along the forward axis.
        # The pitch is what a biased gyro makes of it, many radians in an hour: gravity is taken as linear in it (true
        # to half a per cent in a real pitch of ten degrees), so that a steady bias stays a steady drift.
        self._imu = Track(KEEP_S, MAX_GAP_S)
        self._lessons: deque[tuple[float, float, float]] = deque()

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        self.history.advance(synced)
        if synced.tick.discontinuity:
            self._imu.clear()
        for sample in synced.series.get(IMU, ()):
            if isinstance(sample, ImuSample):
                self._take(self.history.now_s + (sample.stamp_ns - synced.stamp_ns) / NS_PER_S, sample)
        return super().evaluate(synced)

    def _take(self, t: float, sample: ImuSample) -> None:
        rate, accel = -sample.gyro_rad_s[1], sample.accel_m_s2[0]
        if not (math.isfinite(rate) and math.isfinite(accel)):
            return
        pitch = velocity = fallen = 0.0
        if len(self._imu):
            last = self._imu.newest
            dt = t - last[0]
            if dt <= 0.0:
                return
            if dt <= MAX_GAP_S:
                pitch = last[1] + dt * rate
                velocity = last[2] + dt * accel
                fallen = last[3] + dt * GRAVITY_M_S2 * 0.5 * (last[1] + pitch)
            else:
                self._offset.restart()
        self._imu.append(t, (pitch, velocity, fallen))

    def _restart(self) -> None:
        super()._restart()
        self._imu.clear()
        self._offset.restart()
        self._lessons.clear()

    def _window(self, t: float) -> None:
        wheels, imu = self.history.wheels, self._imu
        w1, w0, i1, i0 = wheels.at(t), wheels.at(t - SPAN_S), imu.at(t), imu.at(t - SPAN_S)
        y1, y0 = self.history.imu.at(t), self.history.imu.at(t - SPAN_S)
        if w1 is None or w0 is None or i1 is None or i0 is None or y1 is None or y0 is None:
            return
        by_wheels = w1[0] - w0[0]
        by_imu = (i1[1] - i0[1]) - (i1[2] - i0[2])
        turn = max(abs(y1[1]), abs(y0[1]))
        middle_s = t - 0.5 * SPAN_S
        offset, offset_sd = self._offset.predict(middle_s)
        # Offset is the expected value of the integral over one second, so its gradient is the span.
        residual = by_imu - by_wheels - offset * SPAN_S
        # Independent causes add in quadrature; standstill is a certainty, not a chance.
        slack = math.hypot(
            0.12 * abs(by_wheels),  # scale of accelerometer and wheels, and squat that the gyro does not see
            0.06 * turn * abs(w1[0]),  # yaw misalignment of the mount lets lateral acceleration in
            0.08 * self._jerk(t),  # time offset between the two
        )
        jolt = 0.5 if min(abs(w1[0]), abs(w0[0])) < 0.5 else 0.0
        dead_band = math.hypot(DEAD_BAND_SIGMA * offset_sd * SPAN_S, slack) + jolt
        excited = max(abs(by_wheels), abs(by_imu - offset * SPAN_S)) / SPAN_S
        # The offset itself is what a drifting accelerometer moves: it is watched at constant speed as well.
        self._moving = excited > ACCELERATING_M_S2 or abs(w1[0]) > TURNING_MIN_SPEED_M_S
        self._push("1 s", t, residual, dead_band)
        self._lessons.append((middle_s, residual + offset * SPAN_S, slack + jolt))
        if not self.history.may_learn:
            self._lessons.clear()
        # A ramp must not teach the offset that it is judged by: at first at once, then only what stayed unsuspicious.
        wait_s = min(LESSON_WAIT_S, 0.3 * t)
        while self._lessons and self._lessons[0][0] < t - wait_s:
            self._offset.update(*self._lessons.popleft(), min(LESSON_NOISE_M_S, self._second.sigma))

    def _jerk(self, t: float) -> float:
        """Change of wheel acceleration across the window, m/s^2: what a time offset between the two multiplies."""
        w = [self.history.wheels.at(s) for s in (t, t - 0.2, t - SPAN_S + 0.2, t - SPAN_S)]
        if any(x is None for x in w):
            return 0.0
        v = [float(x[0]) for x in w if x is not None]
        return abs((v[0] - v[1]) - (v[2] - v[3])) / 0.2


class DriftingOffset:
    """Offset of the forward accelerometer and its steady drift, a Kalman filter with bounds of physics.

    The drift is gravity times the bias of the pitch gyro, whose integral takes the hills off; both wander slowly.
    """

    # Mounting pitch up to 15 deg is 2.5 m/s^2. A pitch gyro's bias of 0.6 deg/s is 0.1 m/s^3.
    _OFFSET_SD, _DRIFT_SD = 2.0, 0.1
    # Hills that a gyro of one axis, or a poor one, does not take off: a grade that changes by 2 % in ten seconds.
    _OFFSET_WALK, _DRIFT_WALK = 0.06, 0.0005
    # How much of the hills the gyro takes off differs from unit to unit: the walk is learned inside these bounds, from
    # how far the offset moves in this time; the prior counts like so much of it.
    _WALK_LOW, _WALK_HIGH = 0.015, 0.1
    _WALK_SPAN_S, _WALK_PRIOR_S, _WALK_MEMORY_S = 2.5, 2.0, 60.0
    # Windows overlap: so many residuals are one.
    _OVERLAP = SPAN_S / STEP_S
    _FLOOR = 0.02
    # Mounting, biases and hills; what the drift has carried along since the start is no part of it.
    _LIMIT = 4.0

    def __init__(self) -> None:
        self._drift, self._drift_var = 0.0, self._DRIFT_SD**2
        self._moved, self._moved_s = self._OFFSET_WALK**2 * self._WALK_SPAN_S * self._WALK_PRIOR_S, self._WALK_PRIOR_S
        self.restart()

    def restart(self) -> None:
        """Forget the offset, keep the drift: after a gap the integrated pitch starts anywhere."""
        self._t: float | None = None
        self._offset, self._var, self._cross = 0.0, self._OFFSET_SD**2, 0.0
        self._carried = 0.0
        self._past: deque[tuple[float, float]] = deque()

    @property
    def walk(self) -> float:
        """Random walk of the offset, m/s^2 per square root of a second."""
        walk = math.sqrt(self._moved / self._moved_s / self._WALK_SPAN_S)
        return min(max(1.5 * walk, self._WALK_LOW), self._WALK_HIGH)

    def _learn_walk(self, t: float, measured: float, dt: float) -> None:
        self._past.append((t, measured))
        if t - self._past[0][0] < self._WALK_SPAN_S:
            return
        before_s, before = self._past.popleft()
        keep = 1.0 - dt / self._WALK_MEMORY_S
        self._moved = keep * self._moved + dt * (measured - before - self._drift * (t - before_s)) ** 2
        self._moved_s = keep * self._moved_s + dt

    def predict(self, t: float) -> tuple[float, float]:
        """Offset at `t`, m/s^2, and its standard deviation."""
        dt = 0.0 if self._t is None else t - self._t
        var = self._var + 2 * dt * self._cross + dt * dt * self._drift_var + abs(dt) * self.walk**2
        return self._offset + self._drift * dt, math.sqrt(max(var, 0.0) + self._FLOOR**2)

    def update(self, t: float, measured: float, slack: float, noise: float) -> None:
        """Take the measured integral over one window, unless the present offset cannot explain it."""
        expected, sd = self.predict(t)
        if abs(measured - expected * SPAN_S) > DEAD_BAND_SIGMA * sd + slack + 0.3:
            return
        dt = 0.0 if self._t is None else max(0.0, t - self._t)
        self._t = t
        self._learn_walk(t, measured, dt)
        self._offset += self._drift * dt
        self._carried += self._drift * dt
        self._var += 2 * dt * self._cross + dt * dt * self._drift_var + dt * self.walk**2
        self._cross += dt * self._drift_var
        self._drift_var += dt * self._DRIFT_WALK**2
        spread = self._var + (noise**2 + (0.4 * slack) ** 2) * self._OVERLAP
        gain, drift_gain = self._var / spread, self._cross / spread
        innovation = measured - self._offset
        own = self._offset - self._carried + gain * innovation
        self._offset = self._carried + min(max(own, -self._LIMIT), self._LIMIT)
        self._drift = min(max(self._drift + drift_gain * innovation, -0.5), 0.5)
        self._drift_var -= drift_gain * self._cross
        self._cross -= gain * self._cross
        self._var -= gain * self._var


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


class WheelCourseCheck(MotionCheck):
    """X9.wheels: change of GNSS course against the yaw that the wheels' left-right difference gives, over 1 s.

    The one comparison of yaw without the gyro: where it agrees, a gyro that contradicts both stands alone.
    """

    name: str = "X9.wheels"
    quantity: ClassVar[str] = "yaw_rate"
    power_unit: ClassVar[str] = "deg/s"
    # Looser than the gyro's own checks: as a witness it need only see faults of some degrees per second.
    power_limit: ClassVar[float] = 12.0
    still_reason: ClassVar[str] = "too slow for a course"

    def __init__(self, history: MotionHistory) -> None:
        # Doppler velocity across track has the noise of the speed, sd 0.05..0.3 m/s, sqrt 2 for a difference.
        super().__init__((GNSS, WHEELS), history, {"1 s": ResidualMonitor(0.15, 0.45, SPAN_S)})
        self._model = BoundedEstimator(
            mean=(0.645, 0.0), sd=(0.06, 0.003), low=(0.5, -0.01), high=(0.8, 0.01),
            sd_floor=(0.015, 0.00015), sd_walk=(0.0005, 0.00002),
        )  # fmt: skip

    def _observe(self) -> None:
        history = self.history
        for fix in history.fresh:
            before = history.earlier(fix, SPAN_S)
            late = history.wheels.at(fix.t - history.lag_s)
            self._moving = False
            if before is None or late is None or not history.has_wheel_pairs:
                continue
            early = history.wheels.at(before.t - history.lag_s)
            v = min(fix.speed_m_s or 0.0, before.speed_m_s or 0.0)
            if early is None or fix.heading_rad is None or before.heading_rad is None or v < COURSE_MIN_SPEED_M_S:
                continue
            self._compare(wrap(fix.heading_rad - before.heading_rad), fix.t, fix.t - before.t, v, late, early)

    def _compare(
        self, course: float, t: float, dt: float, v: float, late: tuple[float, ...], early: tuple[float, ...]
    ) -> None:
        gradient = (late[3] - early[3], late[1] - early[1])
        turned = float(self._model.mean @ gradient)
        # Yaw rates at both ends, from the wheels: the antenna swings, the receiver lags, tyres slip sideways.
        rates = [float(self._model.mean[0]) * row[2] for row in (late, early)]
        change, fastest = abs(rates[0] - rates[1]), max(abs(rate) for rate in rates)
        dead_rad = math.hypot(
            DEAD_BAND_SIGMA * self._model.sd(gradient),
            0.05 * turned,
            change * LEVER_ARM_M / v,
            DEAD_BAND_SIGMA * 0.05 * (change + 0.3 * fastest),
            0.004 * v * change,
        )
        residual = wrap(course - turned)
        self._moving = True
        dead_band = 0.05 + dead_rad * v
        self._push("1 s", t, residual * v, dead_band, math.degrees(1.0 / (v * dt)))
        if self.history.may_learn and abs(residual * v) < dead_band:
            self._model.update(residual, gradient, 0.3 / v, STEP_S, dead_rad + 0.1 / v)


class LateralCheck(_WindowCheck):
    """X7.lateral: lateral specific force against speed times yaw rate, over a tenth of a second.

    A gyro that swings without the body being thrown sideways is found at once, and so is the reverse. One with the
    wheels' speed and one with the receiver's: they share the IMU, which is how it is told from the others.
    """

    name: str = "X7.lateral"
    quantity: ClassVar[str] = "lateral"
    power_unit: ClassVar[str] = "rad/s"
    power_limit: ClassVar[float] = 0.6
    still_reason: ClassVar[str] = "too slow: a turn throws nobody sideways"

    def __init__(self, history: MotionHistory, speed: str = WHEELS) -> None:
        # Road roughness and body roll leave 0.2..0.6 m/s^2 in a tenth of a second.
        super().__init__((IMU, speed), history, {"0.1 s": ResidualMonitor(0.15, 0.8, LATERAL_SPAN_S)})
        self._speed = speed
        self._offset = BoundedEstimator((0.0,), (0.6,), (-2.0,), (2.0,), (0.05,), (0.08,))
        # yaw rate, and the integrals of yaw rate and of lateral specific force
        self._imu = Track(KEEP_S, MAX_GAP_S)
        self._lessons: deque[tuple[float, float, float]] = deque()

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        self.history.advance(synced)
        if synced.tick.discontinuity:
            self._imu.clear()
        for sample in synced.series.get(IMU, ()):
            if isinstance(sample, ImuSample):
                self._take(self.history.now_s + (sample.stamp_ns - synced.stamp_ns) / NS_PER_S, sample)
        return super().evaluate(synced)

    def _take(self, t: float, sample: ImuSample) -> None:
        rate, accel = sample.gyro_rad_s[2], sample.accel_m_s2[1]
        if not (math.isfinite(rate) and math.isfinite(accel)):
            return
        turned = pushed = 0.0
        if len(self._imu):
            last = self._imu.newest
            dt = t - last[0]
            if dt <= 0.0:
                return
            if dt <= MAX_GAP_S:
                turned, pushed = last[2] + dt * rate, last[3] + dt * accel
        self._imu.append(t, (rate, turned, pushed))

    def _observe(self) -> None:
        """Windows follow each other without a gap: a swing must not fall between two looks."""
        if not len(self._imu):
            return
        t = min(self.history.now_s, self._imu.newest_s)
        if t - self._next_s > 5 * LATERAL_SPAN_S:
            self._next_s = t - LATERAL_SPAN_S
        while self._next_s + LATERAL_SPAN_S / 2 <= t:
            self._next_s += LATERAL_SPAN_S / 2
            self._window(self._next_s)

    def _speed_at(self, t: float) -> float | None:
        if self._speed == WHEELS:
            row = self.history.wheels.at(t, hold_s=2 * LATERAL_SPAN_S)
            return None if row is None else row[0]
        fixes = self.history.fixes
        fix = fixes[-1] if fixes else None
        # A receiver's speed is some tenths of a second old: 2 m/s^2 make that half a metre per second.
        return fix.speed_m_s if fix is not None and t - fix.host_s < GNSS_HOLD_S else None

    def _window(self, t: float) -> None:
        late, early, v = self._imu.at(t), self._imu.at(t - LATERAL_SPAN_S), self._speed_at(t)
        if late is None or early is None or v is None:
            return
        rate = (late[1] - early[1]) / LATERAL_SPAN_S
        felt = (late[2] - early[2]) / LATERAL_SPAN_S
        slew = min(abs(late[0] - early[0]) / LATERAL_SPAN_S, MAX_SLEW_RAD_S2)
        slack = math.hypot(
            0.12 * v * rate,  # body roll lets gravity in; scale of gyro and wheels; sideslip
            0.6 * abs(rate),  # half a metre per second of doubt about the speed
            LEVER_ARM_M * slew,
        )
        offset_sd = DEAD_BAND_SIGMA * self._offset.sd((1.0,))
        residual = felt - v * rate - float(self._offset.mean[0])
        self._moving = abs(v) > TURNING_MIN_SPEED_M_S
        self._push("0.1 s", t, residual, 0.1 + math.hypot(offset_sd, slack), 1.0 / max(abs(v), TURNING_MIN_SPEED_M_S))
        self._lessons.append((t, residual + float(self._offset.mean[0]), slack))
        if not self.history.may_learn:
            self._lessons.clear()
        while self._lessons and self._lessons[0][0] < t - min(LESSON_WAIT_S, 0.3 * t):
            _, measured, unsure = self._lessons.popleft()
            noise = math.hypot(1.0, 2.0 * unsure)
            limit = DEAD_BAND_SIGMA * self._offset.sd((1.0,)) + unsure + 0.5
            self._offset.update(measured - float(self._offset.mean[0]), (1.0,), noise, LATERAL_SPAN_S / 2, limit)
