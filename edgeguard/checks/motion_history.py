"""What the motion checks share: tracks of GNSS, wheels and IMU over half a minute, and the calibrations between them.

Lag and scale first: uncalibrated, a GNSS-wheel residual is twice as wide and biased. Scale of the wheels, lag of the
receiver, bias of the gyro and the heading of its zero are estimated online inside physical bounds, fast in the first
seconds and slowly after, and not at all while any check suspects an anomaly, so that an attacker cannot teach them.
"""

from __future__ import annotations

import cmath
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeguard.checks.heading_filter import HeadingFilter
from edgeguard.checks.heading_filter import wrap as wrap  # noqa: PLC0414 - part of this module's interface
from edgeguard.checks.motion_statistics import DEAD_BAND_SIGMA, SUSPICION, Track
from edgeguard.checks.speed_model import SpeedModel
from edgeguard.clock import NS_PER_S
from edgeguard.types import GNSS, IMU, WHEELS, GnssFix, ImuSample, WheelOdometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeguard.checks.scores import SensorFits
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
# What receivers print: hundredths to ten-thousandths of a minute; whatever is finer steps by less than it wanders.
PRINTED_GRIDS_MIN = (1e-2, 1e-3, 1e-4)
METRES_PER_MINUTE = 1852.0
# After a check was suspicious nothing is learned for this long.
SUSPICION_S = 3.0
# From this share of a threshold on, what waits to teach is thrown away.
CLEAR_SHARE = 0.6
# Honest single-sample noise of a Doppler velocity; a difference beyond dead band and this does not teach.
LEARN_SLACK_M_S = 0.08
# Receiver stamps are believed only if they stay this near to the host's; beyond it something is wrong with one of them.
DEVICE_CLOCK_MAX_S = 0.3
# Distance of antenna and IMU from the rear axle, at most: a turn moves the antenna sideways.
LEVER_ARM_M = 2.0

# Between the axles of a road vehicle, about.
WHEELBASE_M = 2.7
# What was measured teaches only after this long without suspicion: an attack must not become part of the calibration
# before it had the time to show. In the first seconds after this share of them: there is no earlier truth to protect.
LESSON_DELAY_S = 3.0
LESSON_SHARE = 0.25
# Wheel speed is taken as distance over this time: encoders count whole ticks, and a single reading is off by one.
WHEEL_WINDOW_S = 0.1
# Noise of one receiver's speed as far as it teaches; the learned one of the monitor where that is larger.
LESSON_SD_M_S = 0.08


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
    # Integrals of the reported velocity since the first fix of an unbroken run: length, vector, and how many of the
    # steps had no course.
    path_m: float = 0.0
    path: complex = 0j
    blind_steps: int = 0
    run: int = 0


def metres_per_degree(latitude_deg: float) -> tuple[float, float]:
    """Metres per degree of longitude and of latitude on the WGS 84 ellipsoid at this latitude."""
    sin, cos = math.sin(math.radians(latitude_deg)), math.cos(math.radians(latitude_deg))
    w = 1.0 - ECCENTRICITY_2 * sin * sin
    east = EARTH_RADIUS_M / math.sqrt(w) * cos
    north = EARTH_RADIUS_M * (1.0 - ECCENTRICITY_2) / w**1.5
    return math.radians(east), math.radians(north)


class MotionHistory:
    """Shared by the motion checks of one rig; `advance` takes each tick once, whichever check asks first."""

    def __init__(self, fits: SensorFits | None = None) -> None:
        self._fits = fits
        # wheels: speed, distance, right-left difference, its integral, dead-reckoned x, y
        self.wheels = Track(KEEP_S, MAX_GAP_S)
        # imu: yaw integral, yaw rate, forward velocity integral
        self.imu = Track(KEEP_S, MAX_GAP_S)
        self.fixes: deque[Fix] = deque(maxlen=int(KEEP_S * 20))
        self.fresh: list[Fix] = []
        self.speed = SpeedModel(fits)
        # Long-run noise of the receiver's speed, as the check that compares it has learned it.
        self.speed_noise_m_s = LESSON_SD_M_S
        # The same of its velocity across the track.
        self.heading_noise_m_s = 0.2
        self.heading = HeadingFilter()
        self.now_s = 0.0
        self.has_wheel_pairs = False
        # Which of `PRINTED_GRIDS_MIN` all positions so far lie on; behind the last one, none.
        self._grid = 0
        self._cos_latitude = 1.0
        self._origin_ns: int | None = None
        self._frame: tuple[int, int] | None = None
        self._reference: tuple[float, float, float, float] | None = None
        self._device_offsets: deque[float] = deque(maxlen=50)
        self._device_zero_ns: int | None = None
        self._device_offset_s = 0.0
        self._waiting: deque[Fix] = deque(maxlen=64)
        self._lessons: deque[Fix] = deque(maxlen=128)
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
        self._lessons.extend(self.fresh)
        self.now_s = self._seconds(synced.stamp_ns)
        # Only what nobody has become suspicious of since may teach.
        delay_s = min(LESSON_DELAY_S, LESSON_SHARE * self.now_s)
        while self._lessons and self._lessons[0].t < self.now_s - delay_s:
            fix = self._lessons.popleft()
            self._learn_speed(fix)
            self._learn_heading(fix)
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
        self._settle()

    def scale_of(self, statistic: str) -> float:
        """The threshold of a statistic as a share of the shipped one."""
        return 1.0 if self._fits is None else self._fits.scale(statistic)

    def suspect(self, share: float, wariness: float) -> None:
        """A check's statistic stands at this share of its threshold: learn nothing for a while; from `CLEAR_SHARE` on
        nor from what was just before. `wariness` scales the first, not the second."""
        if share * wariness > SUSPICION:
            self._suspect_until_s = self.now_s + SUSPICION_S
        if share > CLEAR_SHARE:
            self._lessons.clear()

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
        self._lessons.clear()
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
        if len(self.wheels) and t - self.wheels.newest_s <= self.wheels.max_gap_s:
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
            self._device_offsets.append(host_s - fix.device_s)
            self._device_offset_s = sorted(self._device_offsets)[len(self._device_offsets) // 2]
        fix.t = self.time_of(fix)
        self._cos_latitude = math.cos(math.radians(sample.latitude_deg))
        while self._grid < len(PRINTED_GRIDS_MIN) and not (
            _printed(sample.latitude_deg, self._grid) and _printed(sample.longitude_deg, self._grid)
        ):
            self._grid += 1
        if self.fixes and host_s - self.fixes[-1].host_s > GNSS_MAX_GAP_S:
            self.fixes.clear()
        if self.fixes:
            _extend_path(self.fixes[-1], fix)
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
    def resolution_m(self) -> float:
        """How far the position of a vehicle that stands may step: old receivers print hundredths of a minute.

        Told by the digits of all positions, never by how far they moved: a jump would widen its own tolerance.
        """
        if self._grid == len(PRINTED_GRIDS_MIN):
            return 0.0
        return METRES_PER_MINUTE * PRINTED_GRIDS_MIN[self._grid] * math.hypot(1.0, self._cos_latitude)

    @property
    def lag_s(self) -> float:
        return self.speed.lag_s

    @property
    def scale(self) -> float:
        return self.speed.scale

    def _settle(self) -> None:
        self.fresh = []
        while self._waiting:
            fix = self._waiting[0]
            fix.t = self.time_of(fix)
            needed = fix.t - self.lag_s
            behind = [track for track in (self.wheels, self.imu) if len(track) and track.newest_s < needed]
            # Wait a little for the other streams, never long: a dead one must not stop the judgement.
            if behind and self.now_s - fix.host_s < MAX_GAP_S:
                return
            self.fresh.append(self._waiting.popleft())

    def wheel_motion(self, t: float) -> tuple[float, float, float] | None:
        """Speed over the `WHEEL_WINDOW_S` before host time `t`, acceleration and yaw rate around it, or None.

        Backwards counts as forwards: receivers know no sign. The yaw rate is 0 where no gyro is.
        """
        window, track = WHEEL_WINDOW_S, self.wheels
        here, before, earlier = track.at(t), track.at(t - window), track.at(t - 2 * window)
        if here is None or before is None or earlier is None:
            return None
        now_m, past_m = here[1] - before[1], before[1] - earlier[1]
        after = track.at(t + window)
        change_m = (after[1] - here[1] - past_m) / 2 if after is not None else now_m - past_m
        imu = self.imu.at(t)
        w = imu[1] - self.heading.bias_rad_s if imu is not None else 0.0
        v, a = now_m / window, change_m / (window * window)
        return (v, a, w) if v >= 0.0 else (-v, -a, w)

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
        noise = math.hypot(max(LESSON_SD_M_S, self.speed_noise_m_s), 0.1 * motion[1])
        limit = self.speed_offset(*motion) + 2.0 * noise
        self.speed.update(motion, fix.speed_m_s, noise, 0.1, limit)

    def _learn_heading(self, fix: Fix) -> None:
        imu = self.imu.at(fix.t - self.lag_s)
        if imu is None or fix.heading_rad is None or (fix.speed_m_s or 0.0) < COURSE_MIN_SPEED_M_S:
            return
        v = float(fix.speed_m_s or 0.0)
        turning = 0.15 * abs(imu[1])
        limit = LEARN_SLACK_M_S / v + turning + 0.003
        noise = math.hypot(max(0.1, 1.5 * self.heading_noise_m_s) / v, 0.003 + turning)
        self.heading.update(fix.t, imu[0], wrap(fix.heading_rad - imu[0]), noise, limit)

    def speed_offset(self, v: float, a: float, w: float) -> float:
        """m/s by which honest GNSS and wheel speeds may differ and stay so: calibration, geometry, standstill."""
        known = DEAD_BAND_SIGMA * self.speed.sd(v, a, w)
        standstill = 0.35 if v < 1.5 else 0.0  # wheel sensors read zero below walking pace
        return known + float(wide_arc_m_s(np.float64(v), np.float64(w))) + standstill

    def earlier(self, fix: Fix, span_s: float) -> Fix | None:
        """The fix about `span_s` before `fix`, or None. Within a quarter of the span."""
        target, best, nearest = fix.t - span_s, None, math.inf
        for candidate in reversed(self.fixes):
            distance = abs(candidate.t - target)
            if distance < nearest and candidate is not fix:
                best, nearest = candidate, distance
            elif candidate.t < target:
                break
        if best is None or nearest > 0.25 * span_s:
            return None
        # What is known of the two clocks has grown since it came: both ends of a window on one footing.
        best.t = self.time_of(best)
        return best


def wide_arc_m_s(v: NDArray[np.float64] | np.float64, w: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    """m/s by which what rolls or sits ahead of the rear axle is faster than it at most: (w L)^2 / 2 v."""
    return np.asarray(np.minimum(0.5 * np.square(w * WHEELBASE_M) / np.maximum(v, 2.0), 1.0))


def _printed(degrees: float, grid: int) -> bool:
    """Whether an angle is a whole number of steps of `PRINTED_GRIDS_MIN[grid]`, but for rounding."""
    steps = abs(degrees) * 60.0 / PRINTED_GRIDS_MIN[grid]
    return abs(steps - round(steps)) < 1e-4


def _extend_path(before: Fix, fix: Fix) -> None:
    """Carry the integrals of the reported velocity from one fix to the next."""
    if before.speed_m_s is None or fix.speed_m_s is None:
        fix.run = before.run + 1
        return
    # Differences of one clock: the receiver's own where both fixes carry it.
    own = fix.device_s is not None and before.device_s is not None
    dt = (fix.device_s or 0.0) - (before.device_s or 0.0) if own else fix.host_s - before.host_s
    if not 0.0 <= dt <= GNSS_MAX_GAP_S:
        fix.run = before.run + 1
        return
    fix.run, fix.path, fix.blind_steps = before.run, before.path, before.blind_steps
    fix.path_m = before.path_m + dt * (fix.speed_m_s + before.speed_m_s) / 2
    if fix.heading_rad is None or before.heading_rad is None or min(fix.speed_m_s, before.speed_m_s) < 2.0:
        fix.blind_steps += 1
    else:
        late, early = cmath.rect(fix.speed_m_s, fix.heading_rad), cmath.rect(before.speed_m_s, before.heading_rad)
        fix.path += dt * (late + early) / 2
