"""What the motion checks share: tracks of GNSS, wheels and IMU over half a minute, and the calibrations between them.

Lag and scale first: uncalibrated, a GNSS-wheel residual is twice as wide and biased. Scale of the wheels, lag of the
receiver, bias of the gyro and the heading of its zero are estimated online inside physical bounds, fast in the first
seconds and slowly after, and not at all while any check suspects an anomaly, so that an attacker cannot teach them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeguard.checks.motion_statistics import DEAD_BAND_SIGMA, BoundedEstimator, Track
from edgeguard.clock import NS_PER_S
from edgeguard.types import GNSS, IMU, WHEELS, GnssFix, ImuSample, WheelOdometry

if TYPE_CHECKING:
    from edgeguard.types import SyncedSet

# WGS 84.
EARTH_RADIUS_M = 6_378_137.0
ECCENTRICITY_2 = 6.694_379_990_14e-3
KEEP_S = 30.0
# Wheels and IMU are integrated; over a longer silence nothing is.
MAX_GAP_S = 0.35
# Fixes further apart than this do not belong to one window.
GNSS_MAX_GAP_S = 2.5
# Course from Doppler means something above this speed: sd 0.1 m/s across gives 2 deg at 3 m/s.
COURSE_MIN_SPEED_M_S = 3.0
# After a check was suspicious nothing is learned for this long.
SUSPICION_S = 3.0
# Honest single-sample noise of a Doppler velocity; a difference beyond dead band and this does not teach.
LEARN_SLACK_M_S = 0.08
# Receiver stamps are believed only if they stay this near to the host's; beyond it something is wrong with one of them.
DEVICE_CLOCK_MAX_S = 0.3
# Distance of antenna and IMU from the rear axle, at most: a turn moves the antenna sideways.
LEVER_ARM_M = 2.0

# Wheel scale (tyre radius, wear, pressure: 2 % sd, never 6 %) and GNSS lag (receiver filter + serial line, 0..0.5 s).
_SPEED_PRIOR = {"mean": (1.0, 0.15), "sd": (0.02, 0.1), "low": (0.94, -0.1), "high": (1.06, 0.5)}
_SPEED_FLOOR = (0.002, 0.025)
_SPEED_WALK = (0.0002, 0.002)


@dataclass(slots=True)
class Fix:
    """One GNSS fix in a local plane. Times in seconds; heading counter-clockwise from east, None where unknown."""

    host_s: float
    device_s: float | None
    east_m: float
    north_m: float
    speed_m_s: float | None
    heading_rad: float | None
    t: float = 0.0


def wrap(angle_rad: float) -> float:
    """The same angle in [-pi, pi)."""
    return (angle_rad + math.pi) % (2 * math.pi) - math.pi


def metres_per_degree(latitude_deg: float) -> tuple[float, float]:
    """Metres per degree of longitude and of latitude on the WGS 84 ellipsoid at this latitude."""
    sin, cos = math.sin(math.radians(latitude_deg)), math.cos(math.radians(latitude_deg))
    w = 1.0 - ECCENTRICITY_2 * sin * sin
    east = EARTH_RADIUS_M / math.sqrt(w) * cos
    north = EARTH_RADIUS_M * (1.0 - ECCENTRICITY_2) / w**1.5
    return math.radians(east), math.radians(north)


class HeadingFilter:
    """Offset of the gyro's integrated yaw to GNSS course, and the gyro's bias: a two-state Kalman filter."""

    # Consumer gyros: bias below 1 deg/s; sideslip and mounting move the offset by fractions of a degree.
    _BIAS_SD = 0.012
    _BIAS_LIMIT = 0.05
    _BIAS_WALK = 0.0002
    _OFFSET_WALK = 0.0008
    _OFFSET_FLOOR = 0.003
    _BIAS_FLOOR = 0.0015

    def __init__(self) -> None:
        self.restart()
        self.bias_rad_s = 0.0
        self._bias_var = self._BIAS_SD**2

    def restart(self) -> None:
        """Forget the offset, keep the bias: after a gap the integral starts anywhere."""
        self.offset_rad: float | None = None
        self._t = 0.0
        self._offset_var = math.pi**2
        self._cross = 0.0
        self.learned = 0

    def predict(self, t: float) -> tuple[float, float] | None:
        """Offset at `t` and its standard deviation, or None before the first course."""
        if self.offset_rad is None:
            return None
        dt = t - self._t
        var = self._offset_var - 2 * dt * self._cross + dt * dt * self._bias_var
        var += abs(dt) * self._OFFSET_WALK**2 + self._OFFSET_FLOOR**2
        return self.offset_rad - self.bias_rad_s * dt, math.sqrt(max(var, self._OFFSET_FLOOR**2))

    @property
    def bias_sd(self) -> float:
        return math.sqrt(self._bias_var + self._BIAS_FLOOR**2)

    def update(self, t: float, offset_rad: float, noise_rad: float, limit_rad: float) -> None:
        """Take one measured offset (course minus integrated yaw), unless it is off by more than the own uncertainty
        and `limit_rad`; uncertainty grows while nothing is taken, so an honest offset is taken again."""
        known = self.predict(t)
        if self.offset_rad is None or known is None:
            self.learned = 1
            self.offset_rad, self._t = offset_rad, t
            self._offset_var, self._cross = noise_rad**2, 0.0
            return
        if abs(wrap(offset_rad - known[0])) > DEAD_BAND_SIGMA * known[1] + limit_rad:
            return
        self.learned += 1
        dt = t - self._t
        # offset' = offset - bias dt
        mean = self.offset_rad - self.bias_rad_s * dt
        var = self._offset_var - 2 * dt * self._cross + dt * dt * self._bias_var + dt * self._OFFSET_WALK**2
        cross = self._cross - dt * self._bias_var
        bias_var = self._bias_var + dt * self._BIAS_WALK**2
        s = var + noise_rad**2
        innovation = wrap(offset_rad - mean)
        self.offset_rad = wrap(mean + var / s * innovation)
        bias = self.bias_rad_s + cross / s * innovation
        self.bias_rad_s = min(max(bias, -self._BIAS_LIMIT), self._BIAS_LIMIT)
        self._offset_var, self._bias_var = var - var * var / s, bias_var - cross * cross / s
        self._cross = cross - cross * var / s
        self._t = t


class MotionHistory:
    """Shared by the motion checks of one rig; `advance` takes each tick once, whichever check asks first."""

    def __init__(self) -> None:
        # wheels: speed, distance, right-left difference, its integral, dead-reckoned x, y, forward acceleration
        self.wheels = Track(6, KEEP_S, MAX_GAP_S)
        # imu: yaw integral, yaw rate, forward velocity integral
        self.imu = Track(3, KEEP_S, MAX_GAP_S)
        self.fixes: deque[Fix] = deque(maxlen=int(KEEP_S * 20))
        self.fresh: list[Fix] = []
        self.speed = BoundedEstimator(sd_floor=_SPEED_FLOOR, sd_walk=_SPEED_WALK, **_SPEED_PRIOR)
        self.heading = HeadingFilter()
        self.now_s = 0.0
        self.has_wheel_pairs = False
        self._origin_ns: int | None = None
        self._frame: tuple[int, int] | None = None
        self._reference: tuple[float, float, float, float] | None = None
        self._device_offsets: deque[float] = deque(maxlen=50)
        self._device_zero_ns: int | None = None
        self._device_offset_s = 0.0
        self._waiting: deque[Fix] = deque(maxlen=64)
        self._suspect_until_s = -math.inf

    # -- intake ------------------------------------------------------------------------------------------------

    def advance(self, synced: SyncedSet) -> None:
        """Take the tick's series; a second call for the same tick does nothing."""
        key = (synced.tick.frame, synced.stamp_ns)
        if key == self._frame:
            return
        self._frame = key
        if self._origin_ns is None:
            self._origin_ns = synced.stamp_ns
        # What the checks have judged by now may teach; only then comes what is new.
        if self.may_learn:
            for fix in self.fresh:
                self._learn_speed(fix)
                self._learn_heading(fix)
        self.now_s = self._seconds(synced.stamp_ns)
        if synced.tick.discontinuity:
            self._forget()
        for sample in synced.series.get(IMU, ()):
            if isinstance(sample, ImuSample):
                self._take_imu(sample)
        for sample in synced.series.get(WHEELS, ()):
            if isinstance(sample, WheelOdometry):
                self._take_wheels(sample)
        for sample in synced.series.get(GNSS, ()):
            if isinstance(sample, GnssFix):
                self._take_fix(sample)
        if self._device_offsets:
            self._device_offset_s = float(np.median(np.array(self._device_offsets)))
        self._settle()

    def suspect(self) -> None:
        """A check sees something: learn nothing for a while."""
        self._suspect_until_s = self.now_s + SUSPICION_S

    @property
    def may_learn(self) -> bool:
        return self.now_s >= self._suspect_until_s

    def _seconds(self, stamp_ns: int) -> float:
        return (stamp_ns - (self._origin_ns or 0)) / NS_PER_S

    def _forget(self) -> None:
        self.wheels.clear()
        self.imu.clear()
        self.fixes.clear()
        self._waiting.clear()
        self._device_offsets.clear()
        self.heading.restart()
        self._suspect_until_s = -math.inf

    def _take_imu(self, sample: ImuSample) -> None:
        t, rate, accel = self._seconds(sample.stamp_ns), sample.gyro_rad_s[2], sample.accel_m_s2[0]
        if not (math.isfinite(rate) and math.isfinite(accel)):
            return
        yaw = velocity = 0.0
        if len(self.imu):
            last = self.imu.newest
            dt = t - last[0]
            if dt <= self.imu.max_gap_s:
                yaw = last[1] + dt * (rate + last[2]) / 2
                velocity = last[3] + dt * accel
            else:
                self.heading.restart()
        self.imu.append(t, (yaw, rate, velocity))

    def _take_wheels(self, sample: WheelOdometry) -> None:
        t, v, wheels = self._seconds(sample.stamp_ns), sample.speed_m_s, sample.wheel_speeds_m_s
        self.has_wheel_pairs = wheels is not None
        pair = (wheels[1] - wheels[0] + wheels[3] - wheels[2]) / 2 if wheels is not None else 0.0
        if not (math.isfinite(v) and math.isfinite(pair)):
            return
        s = turned = x = y = 0.0
        if len(self.wheels) and t - self.wheels.newest[0] <= self.wheels.max_gap_s:
            last = self.wheels.newest
            dt = t - last[0]
            step = dt * (v + last[1]) / 2
            s, turned = last[2] + step, last[4] + dt * (pair + last[3]) / 2
            imu = self.imu.at(t - dt / 2, hold_s=MAX_GAP_S)
            yaw = imu[0] if imu is not None else 0.0
            x, y = last[5] + step * math.cos(yaw), last[6] + step * math.sin(yaw)
        self.wheels.append(t, (v, s, pair, turned, x, y))

    def _take_fix(self, sample: GnssFix) -> None:
        if sample.fix_quality <= 0 or not (math.isfinite(sample.latitude_deg) and math.isfinite(sample.longitude_deg)):
            return
        if self._reference is None:
            self._reference = (sample.latitude_deg, sample.longitude_deg, *metres_per_degree(sample.latitude_deg))
        latitude, longitude, east_per_deg, north_per_deg = self._reference
        host_s = self._seconds(sample.stamp_ns)
        heading = None if sample.course_deg is None else wrap(math.radians(90.0 - sample.course_deg))
        fix = Fix(
            host_s=host_s,
            device_s=self._device_seconds(sample),
            east_m=((sample.longitude_deg - longitude + 180) % 360 - 180) * east_per_deg,
            north_m=(sample.latitude_deg - latitude) * north_per_deg,
            speed_m_s=sample.speed_m_s,
            heading_rad=heading,
        )
        if fix.device_s is not None:
            if not self._device_offsets:
                self._device_offset_s = host_s - fix.device_s
            self._device_offsets.append(host_s - fix.device_s)
        if self.fixes and host_s - self.fixes[-1].host_s > GNSS_MAX_GAP_S:
            self.fixes.clear()
        self.fixes.append(fix)
        self._waiting.append(fix)

    def _device_seconds(self, sample: GnssFix) -> float | None:
        """The receiver's own time, which has none of the jitter of the line; None if it runs off from the host's."""
        if sample.device_stamp_ns is None:
            return None
        if self._device_zero_ns is None:
            self._device_zero_ns = sample.device_stamp_ns
        device_s = (sample.device_stamp_ns - self._device_zero_ns) / NS_PER_S
        if self._device_offsets:
            offset = self._seconds(sample.stamp_ns) - device_s
            if abs(offset - self._device_offset_s) > DEVICE_CLOCK_MAX_S:
                return None
        return device_s

    def time_of(self, fix: Fix) -> float:
        """Host time of a fix with the jitter of the line taken out where the receiver's own time allows it."""
        return fix.host_s if fix.device_s is None else fix.device_s + self._device_offset_s

    # -- settling: a fix can be judged once wheels and IMU reach its time ---------------------------------------

    @property
    def lag_s(self) -> float:
        return float(self.speed.mean[1])

    @property
    def scale(self) -> float:
        return float(self.speed.mean[0])

    def _settle(self) -> None:
        self.fresh = []
        while self._waiting:
            fix = self._waiting[0]
            fix.t = self.time_of(fix)
            needed = fix.t - self.lag_s
            behind = [track for track in (self.wheels, self.imu) if len(track) and track.newest[0] < needed]
            # Wait a little for the other streams, never long: a dead one must not stop the judgement.
            if behind and self.now_s - fix.host_s < MAX_GAP_S:
                return
            self.fresh.append(self._waiting.popleft())

    def wheel_motion(self, t: float) -> tuple[float, float] | None:
        """Wheel speed and acceleration at host time `t`, or None."""
        here, before = self.wheels.at(t), self.wheels.at(t - 0.2)
        if here is None or before is None:
            return None
        after = self.wheels.at(t + 0.1)
        middle = self.wheels.at(t - 0.1)
        if after is not None and middle is not None:
            return float(here[0]), float(after[0] - middle[0]) / 0.2
        return float(here[0]), float(here[0] - before[0]) / 0.2

    def turned_rad(self, t: float, span_s: float) -> float:
        """How far the gyro turned in the last `span_s` before `t`, or in what is known of it."""
        late = self.imu.at(t, hold_s=MAX_GAP_S)
        if late is None:
            return 0.0
        early = self.imu.at(t - span_s)
        return float(late[0] - (early[0] if early is not None else 0.0))

    def _learn_speed(self, fix: Fix) -> None:
        motion = self.wheel_motion(fix.t - self.lag_s)
        if motion is None or fix.speed_m_s is None or motion[0] < 1.0:
            return
        v, a = motion
        # sd 0.1 m/s of a receiver's Doppler speed, doubled because neighbouring errors are alike.
        noise = math.hypot(0.2, 0.1 * a)
        limit = self.speed_dead_band(v, a, 0.0) + LEARN_SLACK_M_S
        self.speed.update(fix.speed_m_s - self.scale * v, (v, -self.scale * a), noise, 0.1, limit)

    def _learn_heading(self, fix: Fix) -> None:
        imu = self.imu.at(fix.t - self.lag_s)
        if imu is None or fix.heading_rad is None or (fix.speed_m_s or 0.0) < COURSE_MIN_SPEED_M_S:
            return
        v = float(fix.speed_m_s or 0.0)
        turning = 0.15 * abs(float(imu[1]))
        limit = LEARN_SLACK_M_S / v + turning + 0.003
        self.heading.update(fix.t, wrap(fix.heading_rad - float(imu[0])), math.hypot(0.3 / v, 0.01 + turning), limit)

    def speed_dead_band(self, v: float, a: float, yaw_rate: float) -> float:
        """m/s that honest GNSS and wheel speeds may differ by: calibration, slip, geometry, standstill."""
        known = DEAD_BAND_SIGMA * self.speed.sd((v, -a))
        slip = 0.003 * v * abs(a)
        turn = 0.4 * min(abs(yaw_rate), 1.0)
        standstill = 0.3 if v < 1.5 else 0.0  # wheel sensors read zero below walking pace
        # Independent causes add in quadrature; standstill is a certainty, not a chance.
        return 0.05 + math.hypot(known, slip, turn) + standstill

    def earlier(self, fix: Fix, span_s: float) -> Fix | None:
        """The fix about `span_s` before `fix`, or None. Within a quarter of the span."""
        target, best, nearest = fix.t - span_s, None, math.inf
        for candidate in reversed(self.fixes):
            candidate.t = self.time_of(candidate)
            distance = abs(candidate.t - target)
            if distance < nearest and candidate is not fix:
                best, nearest = candidate, distance
            elif candidate.t < target:
                break
        return best if nearest <= 0.25 * span_s else None
