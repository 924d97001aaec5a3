"""Where the vehicle is, from the sensors that are believed: an error-state Kalman filter with delayed measurements.

State: east, north (m), yaw (rad, counter-clockwise from east), speed (m/s), biases of gyro and accelerometer, scale
error of the wheels, shortfall of the lidar's speed, GNSS position error (a first-order Gauss-Markov process), and the
receiver's latency. Gyro and accelerometer drive it; wheels, lidar and GNSS correct it, each fix at the time at which it
was true. A measurement outside its own gate is left out and the covariance grows until it fits: there is no reset to a
measurement, ever.
"""

from __future__ import annotations

import cmath
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeguard.checks.heading_filter import wrap
from edgeguard.checks.motion_history import metres_per_degree
from edgeguard.clock import NS_PER_S
from edgeguard.fusion.reckoning import TRACK_SHARE, Reckoner, Stride
from edgeguard.types import GNSS, IMU, LIDAR, WHEELS, EgoState, GnssFix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeguard.checks.lidar_evidence import ScanMotion
    from edgeguard.types import SyncedSet

E, N, YAW, V, GYRO, ACCEL, SCALE, SHORT, GE, GN, LAG = range(11)
SIZE = 11

# chi-square, 1 and 2 degrees of freedom, at 1e-5: one honest measurement in 1e5 is left out.
GATE_1, GATE_2 = 19.5, 23.0
# Consistency before GNSS is believed again: 99 % of honest fixes.
READMIT_1, READMIT_2 = 6.6, 9.2
# Course from Doppler means something above this speed.
COURSE_MIN_SPEED_M_S = 3.0

# Priors, one sigma. MEMS gyro 0.7 deg/s; accelerometer with a mount that is off by some degrees 1 m/s^2; tyres 2 %; a
# scan match falls short by 1 or 2 cm per sweep at 10 Hz; receiver and line 0.05 to 0.3 s.
PRIOR_SD = {GYRO: 0.012, ACCEL: 1.0, SCALE: 0.02, SHORT: 0.15, LAG: 0.08}
LAG_S, MAX_LAG_S = 0.15, 0.5
# Random walks per square root of a second: heading (gyro noise), heading without any source of turning, speed with and
# without an accelerometer, the biases; accelerometer: the road's grade changes by some percent within ten seconds.
YAW_WALK, YAW_WALK_BLIND, SPEED_WALK, SPEED_WALK_BLIND = 0.0008, 0.3, 0.1, 2.0
WALK = {GYRO: 3e-5, ACCEL: 0.15, SCALE: 1e-4, SHORT: 0.02, LAG: 2e-3}
GYRO_SCALE_SD = 0.01
# GNSS without an accuracy of its own: 2.5 m CEP of data sheets is 2.1 m per axis; it wanders within minutes
# (ionosphere, orbits). Multipath beside it, within seconds; as white noise of equal power density.
SLOW_SD_M, SLOW_TIME_S = 2.1, 300.0
FAST_SHARE, FAST_TIME_S = 0.2, 8.0
DOPPLER_SD_M_S, DOPPLER_TIME_S = 0.1, 0.2
# Course against heading: sideslip on a straight, over a second; in a turn the antenna swings, this far from the axle.
COURSE_SD_RAD, LEVER_ARM_M = 0.003, 1.0
# Wheels: quantisation, and slip in proportion to acceleration (m/s per m/s^2).
WHEEL_SD_M_S, WHEEL_SLIP_S = 0.05, 0.02
# Errors of neighbouring scan matches are alike: half a second of sweeps counts for one.
LIDAR_ALIKE = 5.0
# Reckoning in one stride over a longer time means nothing.
MAX_STRIDE_S = 1.0
# How far back a fix may have been true.
KEEP_TICKS = 16
# No fix is placed on a path shorter than this.
MIN_TICKS = 4


@dataclass(frozen=True, slots=True)
class _Mark:
    """The uncorrected path at the end of a tick: time, east, north, yaw, speed."""

    t_s: float
    e: float
    n: float
    yaw: float
    v: float


class EgoFilter:
    """Feed it each tick with the names of the sensors to believe; read the state and whether GNSS agrees.

    Args:
        has_gnss: a rig without GNSS starts at 0,0 and looks east.
    """

    def __init__(self, has_gnss: bool = True) -> None:
        self.x: NDArray[np.float64] = np.zeros(SIZE)
        self.x[LAG] = LAG_S
        self._p: NDArray[np.float64] = np.zeros((SIZE, SIZE))
        # Position: nothing is known until the first fix, which the plane starts at.
        for index, sd in {E: 1e3, N: 1e3, YAW: math.pi, V: 10.0, GE: SLOW_SD_M, GN: SLOW_SD_M, **PRIOR_SD}.items():
            self._p[index, index] = sd**2
        self._yaw_known = not has_gnss
        if not has_gnss:
            self._p[[E, N, YAW], [E, N, YAW]] = 0.0
        self._reckoner = Reckoner()
        self.stride = Stride(0.0)
        self._path: deque[_Mark] = deque(maxlen=KEEP_TICKS)
        self._reference: tuple[float, float, float, float] | None = None
        self._fix_ns: int | None = None
        self._turn_rate = self._acceleration = 0.0
        self._wheel_m_s: float | None = None
        self._started = False
        self._used: set[str] = set()

    def update(self, synced: SyncedSet, believed: frozenset[str], motion: ScanMotion | None = None) -> EgoState | None:
        """Advance to the tick. None before anything believable has moved the filter.

        motion: the scan match of this tick's sweep, where there is one. `stride` keeps what every sensor said of the
        tick, believed or not.
        """
        self._used = set()
        if synced.tick.discontinuity:
            self._lose_track()
        self.stride = self._reckoner.stride(synced, motion)
        stride = self.stride.by(believed)
        self._predict(synced.stamp_ns / NS_PER_S, stride)
        self._take_wheels(stride)
        self._take_lidar(stride)
        if GNSS in believed:
            for fix in synced.series.get(GNSS, ()):
                if isinstance(fix, GnssFix):
                    self._take_fix(fix)
        self._p = (self._p + self._p.T) / 2
        if not self._started:
            return None
        sd = np.sqrt(np.maximum(np.diag(self._p), 0.0))
        return EgoState(
            east_m=float(self.x[E]),
            north_m=float(self.x[N]),
            yaw_rad=wrap(float(self.x[YAW])),
            speed_m_s=float(self.x[V]),
            sigma_m=math.sqrt(float(sd[E] ** 2 + sd[N] ** 2) / 2),
            sources=tuple(s for s in (GNSS, WHEELS, IMU, LIDAR) if s in self._used),
            sigma_yaw_rad=float(min(sd[YAW], math.pi)),
            sigma_speed_m_s=float(sd[V]),
        )

    def consistent(self, fix: GnssFix) -> bool:
        """Does this fix agree with where believed sensors say the vehicle is? True where the filter knows nothing."""
        if self._reference is None or not self._started or len(self._path) < MIN_TICKS:
            return True
        if not (math.isfinite(fix.latitude_deg) and math.isfinite(fix.longitude_deg)):
            return False
        r, h, noise, _ = self._position_model(fix)
        s = h @ self._p @ h.T + np.eye(2) * noise
        if not float(r @ np.linalg.solve(s, r)) <= READMIT_2:
            return False
        if fix.speed_m_s is None:
            return True
        past = self._at(fix)
        variance = float(self._p[V, V]) + DOPPLER_SD_M_S**2
        return bool((fix.speed_m_s - abs(past.v)) ** 2 <= READMIT_1 * variance)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(11, 11) copy."""
        return self._p.copy()

    @property
    def turn_rate_rad_s(self) -> float:
        """Yaw rate over the last tick, bias taken off."""
        return self._turn_rate

    @property
    def knows_way(self) -> bool:
        """Whether position and heading mean anything yet."""
        return self._yaw_known and self._started

    def plane(self, fix: GnssFix) -> complex | None:
        """East and north of a fix in the filter's plane, m; None before the plane exists."""
        if self._reference is None:
            return None
        latitude, longitude, east, north = self._reference
        return complex(
            ((fix.longitude_deg - longitude + 180) % 360 - 180) * east, (fix.latitude_deg - latitude) * north
        )

    def _lose_track(self) -> None:
        """Time jumped: the vehicle may be anywhere it could have driven to."""
        self._reckoner.restart()
        self._path.clear()
        self._fix_ns = None
        if self._started:
            self._p[[E, N, V, YAW], [E, N, V, YAW]] += (1e4, 1e4, 10.0**2, math.pi**2)
            self._yaw_known = False

    def _predict(self, now_s: float, stride: Stride) -> None:
        dt = stride.dt_s
        near = min(dt, MAX_STRIDE_S)
        turned, yaw_variance = self._turn(stride)
        gained = 0.0 if stride.gained_m_s is None else stride.gained_m_s - self.x[ACCEL] * dt
        f = np.eye(SIZE)
        if dt <= 0 and self._path:
            return
        if dt > 0:
            yaw, v = self.x[YAW] + turned / 2, self.x[V] + gained / 2
            cos, sin = math.cos(yaw) * near, math.sin(yaw) * near
            if self._yaw_known:
                self.x[E] += v * cos
                self.x[N] += v * sin
                f[E, YAW], f[N, YAW], f[E, V], f[N, V] = -v * sin, v * cos, cos, sin
            if stride.turned_rad is not None:
                f[YAW, GYRO] = -dt
                f[E, GYRO], f[N, GYRO] = f[E, YAW] * -dt / 2, f[N, YAW] * -dt / 2
            if stride.gained_m_s is not None:
                f[V, ACCEL] = -dt
            self.x[YAW] += turned
            self.x[V] += gained
            keep = math.exp(-dt / SLOW_TIME_S)
            f[GE, GE] = f[GN, GN] = keep
            self.x[[GE, GN]] *= keep
            self._p = f @ self._p @ f.T
            self._grow(dt, v, keep, yaw_variance, stride.gained_m_s is not None)
            self._turn_rate, self._acceleration = turned / dt, gained / dt
            if stride.gained_m_s is None and None not in (stride.wheel_m_s, self._wheel_m_s):
                change = (stride.wheel_m_s or 0.0) - (self._wheel_m_s or 0.0)
                self._acceleration = min(max(change / dt, -10.0), 10.0)
        self._wheel_m_s = stride.wheel_m_s
        before = self._path[-1] if self._path else _Mark(now_s, 0.0, 0.0, 0.0, 0.0)
        step = (self.x[V] - gained / 2) * near
        way = self.x[YAW] - turned / 2
        self._path.append(
            _Mark(
                now_s,
                before.e + step * math.cos(way),
                before.n + step * math.sin(way),
                before.yaw + turned,
                before.v + gained,
            )
        )

    def _turn(self, stride: Stride) -> tuple[float, float]:
        """Yaw over the tick from the best source there is, and its variance."""
        dt = stride.dt_s
        if stride.turned_rad is not None:
            self._used.add(IMU)
            turned = stride.turned_rad - float(self.x[GYRO]) * dt
            # A scale error is the same all through a turn; one turn's worth per second bounds it.
            return turned, YAW_WALK**2 * dt + GYRO_SCALE_SD**2 * turned**2 / max(dt, 0.1)
        if stride.lidar is not None:
            share = dt / max(stride.lidar.dt_s, 1e-3)
            return stride.lidar.yaw_rad * share, (stride.lidar.sigma_yaw_rad * share) ** 2 * 2
        if stride.wheel_yaw_rad_s is not None:
            turned = stride.wheel_yaw_rad_s * dt
            return turned, (TRACK_SHARE * turned) ** 2 + (0.02 * dt) ** 2 + 0.01**2 * dt
        return 0.0, YAW_WALK_BLIND**2 * dt

    def _grow(self, dt: float, v: float, keep: float, yaw_variance: float, has_accel: bool) -> None:
        wander = 0.0 if self._yaw_known else (v * dt) ** 2 + 0.01 * dt
        walk = SPEED_WALK if has_accel else SPEED_WALK_BLIND
        for index, variance in (
            (E, 1e-4 * dt + wander),
            (N, 1e-4 * dt + wander),
            (YAW, yaw_variance),
            (V, walk**2 * dt),
            (GE, SLOW_SD_M**2 * (1 - keep**2)),
            (GN, SLOW_SD_M**2 * (1 - keep**2)),
            *((index, sd**2 * dt) for index, sd in WALK.items()),
        ):
            self._p[index, index] += variance

    def _take_wheels(self, stride: Stride) -> None:
        if stride.wheel_m_s is None:
            return
        self._started = True
        v = self.x[V] - self._acceleration * stride.wheel_age_s
        h = np.zeros(SIZE)
        h[V], h[SCALE] = 1.0 + self.x[SCALE], v
        noise = WHEEL_SD_M_S**2 + (WHEEL_SLIP_S * self._acceleration) ** 2
        if self._correct(stride.wheel_m_s - (1.0 + float(self.x[SCALE])) * float(v), h, noise):
            self._used.add(WHEELS)

    def _take_lidar(self, stride: Stride) -> None:
        motion = stride.lidar
        if motion is None:
            return
        self._started = True
        half = motion.dt_s / 2
        h = np.zeros(SIZE)
        h[V], h[SHORT] = 1.0, -1.0
        noise = LIDAR_ALIKE * (motion.sigma_x_m / motion.dt_s) ** 2
        expected = float(self.x[V]) - self._acceleration * half - float(self.x[SHORT])
        used = self._correct(motion.speed_m_s - expected, h, noise)
        if stride.lidar_gyro_rad_s is not None:
            h = np.zeros(SIZE)
            h[GYRO] = 1.0
            noise = LIDAR_ALIKE * (motion.sigma_yaw_rad / motion.dt_s) ** 2
            off = stride.lidar_gyro_rad_s - motion.yaw_rate_rad_s
            used = self._correct(off - float(self.x[GYRO]), h, noise) or used
        if used:
            self._used.add(LIDAR)

    # -- GNSS, at the time at which it was true -----------------------------------------------------------------

    def _at(self, fix: GnssFix) -> _Mark:
        """Place, yaw and speed at the time of a fix: now, less what was reckoned since."""
        now = self._path[-1]
        t_s = fix.stamp_ns / NS_PER_S - float(self.x[LAG])
        later = next((i for i, mark in enumerate(self._path) if mark.t_s >= t_s), len(self._path) - 1)
        late, then = self._path[max(later, 1)], self._path[max(later, 1) - 1]
        # Before the first mark the first step goes on backwards.
        share = min(1.0, (t_s - then.t_s) / (late.t_s - then.t_s))

        def back(a: float, b: float, c: float) -> float:
            return a - (b + share * (c - b))

        return _Mark(
            t_s,
            float(self.x[E]) - back(now.e, then.e, late.e),
            float(self.x[N]) - back(now.n, then.n, late.n),
            float(self.x[YAW]) - back(now.yaw, then.yaw, late.yaw),
            float(self.x[V]) - back(now.v, then.v, late.v),
        )

    def _position_model(self, fix: GnssFix) -> tuple[NDArray[np.float64], NDArray[np.float64], float, _Mark]:
        """Innovation (2,), its gradient (2, 11), the variance of one fix's own noise, and where the vehicle was."""
        place, past = self.plane(fix) or 0j, self._at(fix)
        h = np.zeros((2, SIZE))
        h[0, E] = h[1, N] = h[0, GE] = h[1, GN] = 1.0
        if self._yaw_known:
            since_e, since_n = float(self.x[E]) - past.e, float(self.x[N]) - past.n
            late_s = self._path[-1].t_s - past.t_s
            cos, sin = math.cos(past.yaw), math.sin(past.yaw)
            h[0, YAW], h[1, YAW] = since_n, -since_e
            h[0, V], h[1, V] = -late_s * cos, -late_s * sin
            h[0, LAG], h[1, LAG] = -past.v * cos, -past.v * sin
        r = np.array([place.real - past.e - self.x[GE], place.imag - past.n - self.x[GN]])
        return r, h, (FAST_SHARE * _slow_sd_m(fix)) ** 2, past

    def _take_fix(self, fix: GnssFix) -> None:
        if fix.fix_quality <= 0 or not (math.isfinite(fix.latitude_deg) and math.isfinite(fix.longitude_deg)):
            return
        if len(self._path) < MIN_TICKS:
            return
        if self._reference is None:
            self._reference = (fix.latitude_deg, fix.longitude_deg, *metres_per_degree(fix.latitude_deg))
            self._started = True
        dt = FAST_TIME_S if self._fix_ns is None else (fix.stamp_ns - self._fix_ns) / NS_PER_S
        self._fix_ns = fix.stamp_ns
        r, h, noise, _ = self._position_model(fix)
        s = h @ self._p @ h.T + np.eye(2) * noise
        if float(r @ np.linalg.solve(s, r)) <= GATE_2:
            white = noise * max(1.0, 2 * FAST_TIME_S / max(dt, 1e-3))
            self._correct(float(r[0]), h[0], white, math.inf)
            r, h, _, _ = self._position_model(fix)
            self._correct(float(r[1]), h[1], white, math.inf)
            self._used.add(GNSS)
        if fix.speed_m_s is not None and math.isfinite(fix.speed_m_s):
            self._take_doppler(fix, fix.speed_m_s, dt)

    def _take_doppler(self, fix: GnssFix, speed_m_s: float, dt: float) -> None:
        alike = max(1.0, 2 * DOPPLER_TIME_S / max(dt, 1e-3))
        sd = fix.speed_accuracy_m_s or DOPPLER_SD_M_S
        h = np.zeros(SIZE)
        h[V], h[LAG] = 1.0, -self._acceleration
        past = self._at(fix)
        self._correct(speed_m_s - abs(past.v), h, alike * sd**2)
        if fix.course_deg is None or not speed_m_s > COURSE_MIN_SPEED_M_S:
            return
        heading = wrap(math.radians(90.0 - fix.course_deg))
        swing = LEVER_ARM_M * self._turn_rate / speed_m_s
        noise = alike * (sd / speed_m_s) ** 2 + (COURSE_SD_RAD**2 + swing**2) * max(1.0, 1.0 / max(dt, 1e-3))
        if not self._yaw_known:
            self._face(wrap(heading - past.yaw), noise + (self._turn_rate * PRIOR_SD[LAG]) ** 2)
            self._place(fix)
            return
        h = np.zeros(SIZE)
        h[YAW], h[LAG] = 1.0, -self._turn_rate
        self._correct(wrap(heading - self._at(fix).yaw), h, noise)

    def _face(self, by_rad: float, variance: float) -> None:
        """Take a first heading, and turn the path reckoned so far with it."""
        self.x[YAW] += by_rad
        self._p[YAW, :] = self._p[:, YAW] = 0.0
        self._p[YAW, YAW] = variance
        self._yaw_known = True
        now, turn = self._path[-1], cmath.rect(1.0, by_rad)
        ways = [complex(m.e - now.e, m.n - now.n) * turn for m in self._path]
        marks = [
            _Mark(m.t_s, now.e + w.real, now.n + w.imag, m.yaw, m.v) for m, w in zip(self._path, ways, strict=True)
        ]
        self._path.extend(marks)  # as many as it holds: they replace the others

    def _place(self, fix: GnssFix) -> None:
        """Take a first position that knows how late the fix is: east = fix - GNSS error + what was driven since."""
        _, h, noise, past = self._position_model(fix)
        place = self.plane(fix) or 0j
        since = (float(self.x[E]) - past.e, float(self.x[N]) - past.n)
        for axis, index, error in ((0, E, GE), (1, N, GN)):
            self.x[index] = (place.real, place.imag)[axis] - float(self.x[error]) + since[axis]
            others = h[axis].copy()
            others[index] = 0.0
            # East is what makes the innovation zero: minus all that it also hangs on.
            row = -(others @ self._p)
            row[E if axis == 0 else N] = 0.0
            self._p[index, :] = self._p[:, index] = row
            self._p[index, index] = float(others @ self._p @ others) + noise

    def _correct(self, innovation: float, h: NDArray[np.float64], noise: float, gate: float = GATE_1) -> bool:
        """Kalman correction by one number unless the innovation fails its gate."""
        ph = self._p @ h
        s = float(h @ ph) + noise
        # Written so that a NaN fails the gate.
        if not innovation * innovation <= gate * s or not math.isfinite(innovation):
            return False
        gain = ph / s
        self.x = self.x + gain * innovation
        left = np.eye(SIZE) - np.outer(gain, h)
        self._p = left @ self._p @ left.T + np.outer(gain, gain) * noise
        self.x[LAG] = min(max(self.x[LAG], 0.0), MAX_LAG_S)
        return True


def _slow_sd_m(fix: GnssFix) -> float:
    """Standard deviation of a fix per axis: the receiver's own figure where it gives one, a data sheet's otherwise."""
    own = fix.horizontal_accuracy_m
    return SLOW_SD_M if own is None or not math.isfinite(own) or own <= 0 else max(own, 0.3) / math.sqrt(2.0)
