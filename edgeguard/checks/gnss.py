"""GNSS against itself, the wheels and the gyro: G1.doppler, X8.speed, X9.course, X10.displacement.

A deployed autopilot fused a 5 m/s GNSS drift for 34 s because its innovation followed the drift (PX4 #27340). Here the
reference is dead reckoning from wheels and gyro, which a GNSS attacker does not own, and the statistics are sequential.
"""

from __future__ import annotations

import cmath
import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgeguard.checks.heading_filter import wrap
from edgeguard.checks.motion_check import Monitor, MotionCheck
from edgeguard.checks.motion_drift import DriftMonitor
from edgeguard.checks.motion_history import COURSE_MIN_SPEED_M_S, LEVER_ARM_M, wide_arc_m_s
from edgeguard.checks.motion_onset import Course, OnsetScan
from edgeguard.checks.motion_statistics import DEAD_BAND_SIGMA, ResidualMonitor
from edgeguard.checks.scores import Prior, ScoreMonitor
from edgeguard.checks.speed_model import FLOOR
from edgeguard.types import GNSS, IMU, WHEELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeguard.checks.motion_history import Fix, MotionHistory
    from edgeguard.checks.scores import SensorFits

# Below this neither sensor shows motion that the other could contradict.
MOVING_M_S = 0.5
# A turn that both a gyro and a course must show: facts of a straight road say nothing about turning.
TURNING_RAD_S = math.radians(2.0)
# Courses that must have been seen before the learned heading is held against a new one.
HEADING_SAMPLES = 10
# Shortest time over which a heading is said to have left the gyro's.
MIN_RISE_S = 0.3
# A heading that has left and stays there: since at least so long, so many times the rise, and no further than so many
# times where it was when it was found. A gyro with a bias would by then be three times as far.
STEADY_S, STEADY_RISES, STEADY_GROWTH = 1.0, 2.0, 1.5
# A speed that was off by all of it within this was a step.
STEP_RISE_S = 0.5
# Lag of the receiver is known to about this much once calibrated.
LAG_SD_S = 0.05


# Wheels that turn faster than this are read and no receiver's noise looks like motion.
ROLLING_M_S = 1.5
# A tyre's radius grows by some tenths of a per cent up to motorway speed: per m/s, beside its scale.
GROWTH_PER_M_S = 1e-4
# Slip goes with the force on the wheels, and a grade that changes by one per cent, 0.1 m/s^2, is in no acceleration.
GRADE_SLIP = 0.003 * 0.1
# How much of the widest arc an antenna really takes: anything from none to all.
WIDE_SHARE = 0.5
# Velocity of a receiver along or across the track against wheels and gyro, before anybody calibrated.
NOISE = Prior(0.0, 0.15, "m/s", decorrelation_s=0.3)
# Fixes further apart than this are no steps of one another.
STEP_MAX_S = 1.5
# For so long after a gap a receiver pulls its position in.
PULL_IN_S = 10.0
# m/s by which a smoothed position honestly creeps against its own velocity, for long: ionosphere, multipath, filters.
WANDER_M_S = 0.15


class DopplerCheck(MotionCheck):
    """G1: displacement between fixes against the receiver's own velocity, over 1 s and 5 s. Blames GNSS alone."""

    name: str = "G1.doppler"
    quantity: ClassVar[str] = "position"
    power_unit: ClassVar[str] = "m"
    power_limit: ClassVar[float] = 15.0

    def __init__(self, history: MotionHistory) -> None:
        # Receivers differ: 0.04 m where the position is carrier-smoothed, above 1 m where each fix stands alone. The
        # floor leaves room for a smoothed position that is pulled back after a bridge, at some 0.5 m/s.
        # "rate" compares step by step. Its residuals are differences, so that what each fix adds of its own does not
        # add up, and a lasting drift shows as soon as it exceeds the receiver's own wander.
        super().__init__(
            (GNSS,),
            history,
            {
                "1 s": ResidualMonitor(0.25, 2.0, 1.0),
                "5 s": ResidualMonitor(0.5, 2.5, 5.0),
                "rate": DriftMonitor(0.05, 30.0, 3.0, least_correlation=0.1),
            },
        )
        self._before: Fix | None = None
        self._unsettled_s = 0.0

    def _restart(self) -> None:
        super()._restart()
        self._before = None

    def _observe(self) -> None:
        for fix in self.history.fresh:
            self._step(fix)
            for span in (1.0, 5.0):
                before = self.history.earlier(fix, span)
                if before is not None:
                    self._compare(before, fix, span)

    def _step(self, fix: Fix) -> None:
        """Along the course, from one fix to the next: m/s by which the position outruns the reported speed."""
        before, self._before = self._before, fix
        if before is None or fix.run != before.run or fix.t - before.t > STEP_MAX_S:
            # At first, and after a gap, the position is pulled to where it should have been; that takes some seconds.
            self._unsettled_s = fix.t + PULL_IN_S
            return
        if fix.speed_m_s is None or before.speed_m_s is None or fix.heading_rad is None or before.heading_rad is None:
            return
        dt, fastest = fix.t - before.t, max(fix.speed_m_s, before.speed_m_s)
        if dt <= 0.0 or fix.t < self._unsettled_s or fastest < COURSE_MIN_SPEED_M_S:
            return
        moved = complex(fix.east_m - before.east_m, fix.north_m - before.north_m)
        path = fix.path - before.path
        if fix.blind_steps != before.blind_steps or path == 0:
            return
        along = ((moved - path) * path.conjugate()).real / abs(path)
        change = abs(fix.speed_m_s - before.speed_m_s) / dt
        turn = abs(wrap(fix.heading_rad - before.heading_rad)) / dt
        # Position and velocity may be filtered differently inside the receiver: by 0.1 s of what changes.
        offset = WANDER_M_S + 0.005 * fastest + 0.1 * math.hypot(change, fastest * min(turn, 1.0))
        self._push("rate", fix.t, along / dt, offset, lesson=(along / dt,), speed_m_s=fastest)

    def _compare(self, before: Fix, fix: Fix, span: float) -> None:
        if fix.speed_m_s is None or before.speed_m_s is None or fix.run != before.run:
            return
        moved = complex(fix.east_m - before.east_m, fix.north_m - before.north_m)
        change = abs(fix.speed_m_s - before.speed_m_s)
        fastest = max(fix.speed_m_s, before.speed_m_s)
        if fix.t < self._unsettled_s and fastest < COURSE_MIN_SPEED_M_S:
            return
        # The integral of the reported velocity: a vector where every course is known, else a length.
        if fix.blind_steps == before.blind_steps:
            residual = abs(moved - (fix.path - before.path))
            turn = abs(wrap((fix.heading_rad or 0.0) - (before.heading_rad or 0.0)))
        else:
            residual, turn = abs(abs(moved) - (fix.path_m - before.path_m)), 0.0
        # Position and velocity may be filtered differently inside the receiver: 0.1 s of the velocity change.
        dead_band = (
            0.1 + 2.0 * self.history.resolution_m + 0.005 * abs(moved) + 0.1 * (change + fastest * min(turn, 1.0))
        )
        self._moving = fastest > MOVING_M_S or abs(moved) > MOVING_M_S
        self._push(f"{span:.0f} s", fix.t, residual, dead_band)


class GnssWheelSpeedCheck(MotionCheck):
    """X8: GNSS speed against wheel speed, ``v_g(t) - k v_w(t - lag)``."""

    name: str = "X8.speed"
    quantity: ClassVar[str] = "speed"
    power_unit: ClassVar[str] = "m/s"
    power_limit: ClassVar[float] = 1.5
    still_reason: ClassVar[str] = "standing still: a dead speed reads the same"

    def __init__(self, history: MotionHistory, fits: SensorFits | None = None) -> None:
        # Doppler speed: below 0.1 m/s under open sky, 0.3 m/s beside buildings.
        fit = fits.get("X8.speed") if fits is not None else None
        self._speed = DriftMonitor(0.04, 0.3, 0.15, fit=fit, renew=self._renew)
        self._speed.record = ScoreMonitor("X8.speed", NOISE, fits)
        self._onset = OnsetScan(self._speed, self._course)
        super().__init__((GNSS, WHEELS), history, {"speed": self._speed, "onset": self._onset})

    def _observe(self) -> None:
        history = self.history
        for fix in history.fresh:
            lag_s = history.lag_s
            motion = history.wheel_motion(fix.t - lag_s)
            if motion is None or fix.speed_m_s is None:
                continue
            self._moving = max(motion[0], fix.speed_m_s) > MOVING_M_S
            residual = fix.speed_m_s - history.speed.predict(*motion)
            lesson = (fix.speed_m_s, *motion, lag_s) if motion[0] > ROLLING_M_S else None
            self._push("speed", fix.t, residual, history.speed_offset(*motion), lesson=lesson, speed_m_s=motion[0])
            if lesson is not None and fix.speed_m_s > ROLLING_M_S:
                self._onset.push(fix.t, lesson)
        history.speed_noise_m_s = self._speed.noise

    @property
    def parameters(self) -> dict[str, tuple[float, float]]:
        """Scale, lag, slip and antenna as learned so far, mean and standard deviation: a calibration keeps them."""
        return self.history.speed.learned

    def _about(self, worst: str) -> str:
        if worst == "onset" and self._speed.statistic(self.history.now_s) <= 1.0:
            return self.quantity
        return "speed_step" if self._speed.step_s <= STEP_RISE_S else self.quantity

    def _course(self, rows: NDArray[np.float64]) -> Course:
        """Residuals of (receiver's speed, v, a, w, lag) by today's calibration, and what may let it lie off."""
        model = self.history.speed
        measured, v, a, w, lag_s = rows.T
        v = v + a * (lag_s - model.lag_s)
        k, _, slip, antenna_m = model.mean
        residual = measured - (k * v * (1.0 - slip * a) - antenna_m * w)
        # By scale, lag, slip, antenna; then by what no parameter stands for: tyres grow with speed, arcs are wide.
        gradient = np.column_stack((v, -k * a, -k * v * a, -w, v * v, wide_arc_m_s(v, w)))
        floor = np.array((*FLOOR, GROWTH_PER_M_S, WIDE_SHARE))
        covariance = np.diag(np.square(floor))
        # The buffered seconds have mostly taught it themselves: twice its variance, that they do not count twice.
        covariance[:4, :4] += 2.0 * np.array(model.covariance)
        return Course(residual, gradient, covariance, floor, GRADE_SLIP * float(v[-1]))

    def _renew(self, lesson: tuple[float, ...]) -> float:
        """The residual as today's calibration has it: what it had still to learn then was no noise."""
        measured, v, a, w, lag_s = lesson
        return measured - self.history.speed.predict(v + a * (lag_s - self.history.lag_s), a, w)


class CourseCheck(MotionCheck):
    """X9: GNSS course against the integrated gyro, compared as velocity across track.

    Three ways: change over 1 s and 3 s, and against the heading that gyro and *earlier* course give, where a coherent
    drift to the side shows at once and stays.
    """

    name: str = "X9.course"
    quantity: ClassVar[str] = "yaw_rate"
    power_unit: ClassVar[str] = "deg/s"
    power_limit: ClassVar[float] = 5.0
    still_reason: ClassVar[str] = "too slow for a course, or a straight road: nobody turns"

    def __init__(self, history: MotionHistory, fits: SensorFits | None = None) -> None:
        # Doppler velocity across track has the noise of the speed: sd 0.05..0.3 m/s, sqrt 2 for a difference.
        monitors: dict[str, Monitor] = {f"{s:.0f} s": ResidualMonitor(0.15, 0.45, s) for s in (1.0, 3.0)}
        fit = fits.get("X9.course.heading") if fits is not None else None
        self._heading = DriftMonitor(0.04, 0.3, 0.15, fit=fit)
        self._heading.record = ScoreMonitor("X9.course.heading", NOISE, fits)
        super().__init__((GNSS, IMU), history, monitors | {"heading": self._heading})
        self._spans = (1.0, 3.0)
        # Since when the heading is off, and by how much it was when that was found.
        self._left: tuple[float, float] | None = None

    def _observe(self) -> None:
        history = self.history
        for fix in history.fresh:
            self._moving = False
            self._compare_heading(fix)
            for span in self._spans:
                before = history.earlier(fix, span)
                if before is not None:
                    self._compare(before, fix, span)

    def _to_size(self, worst: str) -> float:
        if worst != "heading":
            return super()._to_size(worst)
        # Only a gyro that turned as fast as the heading left could explain it: it had that rise, and what has passed
        # since; where the heading stays, the first rate stands.
        passed_s = 0.0 if self._left is None else self.history.now_s - self._left[0]
        return self._to_power[worst] * self._spans[-1] / (max(self._heading.rise_s, MIN_RISE_S) + passed_s)

    def _about(self, worst: str) -> str:
        if worst != "heading":
            return self.quantity
        now_s, off = self.history.now_s, self._heading.size * self._to_power[worst]
        if self._left is None:
            self._left = now_s, off
        since_s, off_then = self._left
        waited = now_s - since_s >= max(STEADY_S, STEADY_RISES * self._heading.rise_s)
        return "course_step" if waited and off < STEADY_GROWTH * off_then else "course"

    def _compare_heading(self, fix: Fix) -> None:
        history = self.history
        imu = history.imu.at(fix.t - history.lag_s)
        known = history.heading.predict(fix.t, imu[0]) if imu is not None else None
        v = fix.speed_m_s or 0.0
        settled = known is not None and history.heading.learned >= HEADING_SAMPLES
        if imu is None or known is None or not settled or fix.heading_rad is None or v < COURSE_MIN_SPEED_M_S:
            return
        rate = abs(float(imu[1]))
        turned = abs(history.turned_rad(fix.t, 10.0))
        dead_rad = math.hypot(
            DEAD_BAND_SIGMA * known[1],
            0.03 * turned,  # scale and mounting of the gyro, not yet in the learned heading
            rate * LEVER_ARM_M / v,
            DEAD_BAND_SIGMA * LAG_SD_S * rate,
            0.004 * v * rate,
        )
        residual = wrap(fix.heading_rad - imu[0] - known[0]) * v
        history.heading_noise_m_s = self._heading.noise
        # In a turn geometry and lag make residuals that are no noise.
        lesson = (residual,) if rate < TURNING_RAD_S else None
        to_power = math.degrees(1.0 / (v * self._spans[-1]))
        self._push("heading", fix.t, residual, dead_rad * v, to_power, lesson=lesson, speed_m_s=v)
        if self._heading.statistic(fix.t) <= 1.0:
            self._left = None

    def _compare(self, before: Fix, fix: Fix, span: float) -> None:
        history = self.history
        if fix.heading_rad is None or before.heading_rad is None:
            return
        v = min(fix.speed_m_s or 0.0, before.speed_m_s or 0.0)
        late, early = history.imu.at(fix.t - history.lag_s), history.imu.at(before.t - history.lag_s)
        if v < COURSE_MIN_SPEED_M_S or late is None or early is None:
            return
        dt = fix.t - before.t
        turned = float(late[0] - early[0]) - history.heading.bias_rad_s * dt
        course = wrap(fix.heading_rad - before.heading_rad)
        rate_change = abs(float(late[1] - early[1]))
        fastest_turn = max(abs(float(late[1])), abs(float(early[1])))
        dead_rad = math.hypot(
            DEAD_BAND_SIGMA * history.heading.bias_sd * dt,
            0.03 * abs(turned),  # scale and mounting of the gyro
            rate_change * LEVER_ARM_M / v,  # the antenna swings out
            DEAD_BAND_SIGMA * LAG_SD_S * (rate_change + 0.3 * fastest_turn),
            0.004 * v * rate_change,  # sideslip, per m/s^2 of lateral acceleration
        )
        if max(abs(turned), abs(course)) / dt > TURNING_RAD_S:
            self._moving = True
        residual = wrap(course - turned)
        self._push(f"{span:.0f} s", fix.t, residual * v, 0.05 + dead_rad * v, math.degrees(1.0 / (v * dt)))


class DisplacementCheck(MotionCheck):
    """X10: where the fixes went against where wheels and gyro went, over 1, 2 and 5 s, along and across the track.

    Along compares lengths; across uses the heading that gyro and *earlier* course give, so that a drift to the side,
    which changes neither speed nor length, is seen.
    """

    name: str = "X10.displacement"
    quantity: ClassVar[str] = "position"
    power_unit: ClassVar[str] = "m"
    power_limit: ClassVar[float] = 8.0
    still_reason: ClassVar[str] = "standing still: a dead position reads the same"

    _SPANS: ClassVar[tuple[float, ...]] = (1.0, 2.0, 5.0)

    def __init__(self, history: MotionHistory, has_imu: bool) -> None:
        # Error of a difference of two fixes: decimetres when smoothed, above a metre near buildings.
        monitors = {f"along {s:.0f} s": ResidualMonitor(0.25 + 0.05 * s, 1.5 + 0.1 * s, s) for s in self._SPANS}
        if has_imu:
            monitors |= {f"across {s:.0f} s": ResidualMonitor(0.25 + 0.05 * s, 1.5 + 0.1 * s, s) for s in self._SPANS}
        super().__init__((GNSS, WHEELS, IMU) if has_imu else (GNSS, WHEELS), history, monitors)
        self._has_imu = has_imu

    def _observe(self) -> None:
        for fix in self.history.fresh:
            for span in self._SPANS:
                before = self.history.earlier(fix, span)
                if before is not None:
                    self._compare(before, fix, span)

    def _compare(self, before: Fix, fix: Fix, span: float) -> None:
        history = self.history
        late = history.wheels.at(fix.t - history.lag_s)
        early = history.wheels.at(before.t - history.lag_s)
        if late is None or early is None:
            return
        dt = fix.t - before.t
        moved = complex(fix.east_m - before.east_m, fix.north_m - before.north_m)
        driven_m = history.scale * float(late[1] - early[1])
        v_late, v_early = history.scale * float(late[0]), history.scale * float(early[0])
        self._moving = max(abs(moved) / dt, abs(driven_m) / dt) > MOVING_M_S
        slip = 0.003 * abs(driven_m) * abs(v_late - v_early) / dt
        imu_late = history.imu.at(fix.t - history.lag_s) if self._has_imu else None
        imu_early = history.imu.at(before.t - history.lag_s) if self._has_imu else None
        middle = (
            history.heading.predict((fix.t + before.t) / 2, (imu_late[0] + imu_early[0]) / 2)
            if imu_late is not None and imu_early is not None
            else None
        )
        turned = imu_late[0] - imu_early[0] if imu_late is not None and imu_early is not None else 0.0
        mean_v = (v_late + v_early) / 2
        known = DEAD_BAND_SIGMA * history.speed.path_sd(driven_m, v_late - v_early, mean_v, turned)
        if imu_late is None or imu_early is None:
            if not self._has_imu:
                along = abs(moved) - abs(driven_m) * self._chord_share(before, fix)
                self._push(f"along {span:.0f} s", fix.t, along, 0.2 + known + slip + 0.03 * abs(driven_m))
            return
        reckoned = history.scale * complex(late[4] - early[4], late[5] - early[5])
        # A turn moves the antenna around the axle, and the gyro's scale bends the reckoned path.
        swing = LEVER_ARM_M * abs(cmath.rect(1.0, turned) - 1)
        bend = 0.02 * abs(turned) * abs(driven_m)
        slack = 0.1 + swing + bend + slip + 0.05 * abs(driven_m) * min(abs(turned), 1.0)
        self._push(f"along {span:.0f} s", fix.t, abs(moved) - abs(reckoned), known + slack)
        if middle is None or history.heading.learned < HEADING_SAMPLES or abs(reckoned) < 1.0:
            return
        offset, offset_sd = middle
        if before.speed_m_s is None or before.speed_m_s < COURSE_MIN_SPEED_M_S:
            return  # no heading was learned at rest, and a parked car's heading means nothing for a stray fix
        in_track = moved * cmath.rect(1.0, -offset) * abs(reckoned) / reckoned
        # The gyro's scale error over the turn of the last seconds is still in the learned heading.
        slack += 0.03 * abs(history.turned_rad(fix.t, 10.0)) * abs(driven_m)
        # A lag error moves the reckoned start and end along their own headings.
        swerve = abs(v_late * cmath.rect(1.0, turned) - v_early)
        across_band = DEAD_BAND_SIGMA * (offset_sd * abs(reckoned) + history.speed.path_sd(0.0, swerve, 0.0, 0.0))
        self._push(f"across {span:.0f} s", fix.t, in_track.imag, across_band + slack)

    @staticmethod
    def _chord_share(before: Fix, fix: Fix) -> float:
        """Chord over arc of a constant turn between the two courses."""
        if before.heading_rad is None or fix.heading_rad is None:
            return 1.0
        half = abs(wrap(fix.heading_rad - before.heading_rad)) / 2
        return math.sin(half) / half if half > 1e-6 else 1.0
