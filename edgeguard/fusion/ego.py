"""Where the vehicle is, from the sensors that are believed: a five-state extended Kalman filter.

State: east, north (m), yaw (rad, counter-clockwise from east), speed (m/s), gyro bias (rad/s). Prediction by the gyro,
corrections by wheel speed and GNSS position, speed and course. A measurement far outside its own gate is left out and
the covariance grows until it fits again: there is no reset to a measurement, ever.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgeguard.checks.motion_history import COURSE_MIN_SPEED_M_S, metres_per_degree, wrap
from edgeguard.clock import NS_PER_S
from edgeguard.types import GNSS, IMU, WHEELS, EgoState, GnssFix, ImuSample, WheelOdometry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeguard.types import Sample, SyncedSet

E, N, YAW, V, BIAS = range(5)
# chi-square, 2 and 1 degrees of freedom, at 1e-5: one honest fix in 1e5 is left out.
GATE_2 = 23.0
GATE_1 = 19.5
# Consistency before GNSS is believed again: 99 % of honest fixes.
READMIT_2 = 9.2
# Standalone GNSS: 2.5 m sd across seconds; Doppler 0.15 m/s; wheels 1 % and 0.1 m/s.
POSITION_SD_M = 2.5
DOPPLER_SD_M_S = 0.2
WHEEL_SD_M_S = 0.1
WHEEL_SCALE_SD = 0.01
# Process noise per square root of a second: unknown acceleration, gyro noise and scale, yaw rate without a gyro, bias.
SPEED_WALK = 2.0
YAW_WALK_GYRO = 0.003
YAW_WALK_BLIND = 0.3
BIAS_WALK = 0.0002
BIAS_SD = 0.012
GYRO_SCALE_SD = 0.02
# Reckoning in one stride over a longer time means nothing.
MAX_STRIDE_S = 1.0


class EgoFilter:
    """Feed it each tick with the names of the sensors to believe; read the state and whether GNSS agrees."""

    def __init__(self) -> None:
        self._x: NDArray[np.float64] = np.zeros(5)
        # Nothing is known of position only until a reference is chosen: the plane starts at the first fix, or at 0,0.
        self._p: NDArray[np.float64] = np.diag([0.0, 0.0, math.pi**2, 10.0**2, BIAS_SD**2])
        self._t_ns: int | None = None
        self._rate: float | None = None
        self._reference: tuple[float, float, float, float] | None = None
        self._yaw_known = False
        self._started = False
        self._used: set[str] = set()
        self._rate_ns = 0

    def update(self, synced: SyncedSet, believed: frozenset[str]) -> EgoState | None:
        """Advance to the tick. None before anything believable has moved the filter."""
        self._used = set()
        if synced.tick.discontinuity:
            self._lose_track()
        for sample in _in_order(synced, believed):
            self._predict(sample.stamp_ns)
            if isinstance(sample, ImuSample):
                self._rate, self._rate_ns = sample.gyro_rad_s[2], sample.stamp_ns
                self._used.add(IMU)
            elif isinstance(sample, WheelOdometry):
                self._take_wheels(sample)
            elif isinstance(sample, GnssFix):
                self._take_fix(sample)
        if not self._started:
            return None
        self._predict(synced.stamp_ns)
        return EgoState(
            east_m=float(self._x[E]),
            north_m=float(self._x[N]),
            yaw_rad=wrap(float(self._x[YAW])),
            speed_m_s=float(self._x[V]),
            sigma_m=math.sqrt(max(0.0, float(self._p[E, E] + self._p[N, N]) / 2)),
            sources=tuple(s for s in (GNSS, WHEELS, IMU) if s in self._used),
        )

    def consistent(self, fix: GnssFix) -> bool:
        """Does this fix agree with where believed sensors say the vehicle is? True where the filter knows nothing."""
        if self._reference is None or not self._started:
            return True
        if not (math.isfinite(fix.latitude_deg) and math.isfinite(fix.longitude_deg)):
            return False
        r = self._plane(fix) - self._x[:2]
        s = self._p[:2, :2] + np.eye(2) * POSITION_SD_M**2
        if float(r @ np.linalg.solve(s, r)) > READMIT_2:
            return False
        if fix.speed_m_s is None:
            return True
        speed_var = float(self._p[V, V]) + DOPPLER_SD_M_S**2
        return bool((fix.speed_m_s - abs(self._x[V])) ** 2 <= READMIT_2 * speed_var)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(5, 5) copy, for tests of consistency."""
        return self._p.copy()

    def _lose_track(self) -> None:
        """Time jumped: the vehicle may be anywhere it could have driven to."""
        self._t_ns = None
        self._rate = None
        if self._started:
            self._p[E, E] += 1e4
            self._p[N, N] += 1e4
            self._p[YAW, YAW] += math.pi**2
            self._p[V, V] += 10.0**2
            self._yaw_known = False

    def _predict(self, stamp_ns: int) -> None:
        if self._t_ns is None:
            self._t_ns = stamp_ns
            return
        dt = (stamp_ns - self._t_ns) / NS_PER_S
        if dt <= 0:
            return
        self._t_ns = stamp_ns
        fresh = self._rate is not None and stamp_ns - self._rate_ns < NS_PER_S // 4
        rate = (self._rate or 0.0) - self._x[BIAS] if fresh else 0.0
        stride = min(dt, MAX_STRIDE_S)
        yaw = self._x[YAW] + rate * stride / 2
        cos, sin, v = math.cos(yaw), math.sin(yaw), self._x[V]
        f = np.eye(5)
        if self._yaw_known:
            self._x[E] += v * cos * stride
            self._x[N] += v * sin * stride
            f[E, YAW], f[N, YAW] = -v * sin * stride, v * cos * stride
            f[E, V], f[N, V] = cos * stride, sin * stride
        self._x[YAW] += rate * stride
        if fresh:
            f[YAW, BIAS] = -stride
        yaw_sd = YAW_WALK_GYRO if fresh else YAW_WALK_BLIND
        # Gyro scale error is the same all through a turn, so it adds linearly; bounded by one turn's worth per second.
        yaw_var = yaw_sd**2 * dt + (GYRO_SCALE_SD * rate) ** 2 * dt
        wander = 0.0 if self._yaw_known else (v * dt) ** 2 + 0.01 * dt
        q = np.array([1e-4 * dt + wander, 1e-4 * dt + wander, yaw_var, SPEED_WALK**2 * dt, BIAS_WALK**2 * dt])
        self._p = f @ self._p @ f.T + np.diag(q)

    def _take_wheels(self, sample: WheelOdometry) -> None:
        self._started = True
        sd = math.hypot(WHEEL_SD_M_S, WHEEL_SCALE_SD * sample.speed_m_s)
        # Wheel error is mostly scale, hence the same from sample to sample: never let a fast stream average it away.
        sd = max(sd, 0.05) * math.sqrt(10.0)
        h = np.zeros((1, 5))
        h[0, V] = 1.0
        if self._correct(np.array([sample.speed_m_s - self._x[V]]), h, np.array([[sd**2]]), GATE_1):
            self._used.add(WHEELS)

    def _plane(self, fix: GnssFix) -> NDArray[np.float64]:
        if self._reference is None:
            return np.zeros(2)
        latitude, longitude, east, north = self._reference
        d_longitude = (fix.longitude_deg - longitude + 180) % 360 - 180
        return np.array([d_longitude * east, (fix.latitude_deg - latitude) * north])

    def _take_fix(self, fix: GnssFix) -> None:
        if fix.fix_quality <= 0 or not (math.isfinite(fix.latitude_deg) and math.isfinite(fix.longitude_deg)):
            return
        if self._reference is None:
            self._reference = (fix.latitude_deg, fix.longitude_deg, *metres_per_degree(fix.latitude_deg))
            if not self._started or not self._yaw_known:
                # The plane starts here, by definition; the fix's own error is the position's.
                self._x[E] = self._x[N] = 0.0
                self._p[:2, :] = 0.0
                self._p[:, :2] = 0.0
                self._p[E, E] = self._p[N, N] = POSITION_SD_M**2
            self._started = True
        h = np.zeros((2, 5))
        h[0, E] = h[1, N] = 1.0
        # Position error wanders over tens of seconds: a fix in ten counts for one.
        noise = np.eye(2) * POSITION_SD_M**2 * 10.0
        if self._correct(self._plane(fix) - self._x[:2], h, noise, GATE_2, np.eye(2) * POSITION_SD_M**2):
            self._used.add(GNSS)
        if fix.speed_m_s is not None:
            h1 = np.zeros((1, 5))
            h1[0, V] = 1.0
            noise = np.array([[4 * DOPPLER_SD_M_S**2]])
            self._correct(np.array([fix.speed_m_s - self._x[V]]), h1, noise, GATE_1)
            if fix.course_deg is not None and fix.speed_m_s > COURSE_MIN_SPEED_M_S:
                self._take_course(wrap(math.radians(90.0 - fix.course_deg)), fix.speed_m_s)

    def _take_course(self, heading_rad: float, speed_m_s: float) -> None:
        noise = np.array([[4 * (DOPPLER_SD_M_S / speed_m_s) ** 2 + 0.02**2]])
        if not self._yaw_known:
            self._x[YAW] = heading_rad
            self._p[YAW, :] = self._p[:, YAW] = 0.0
            self._p[YAW, YAW] = float(noise[0, 0])
            self._yaw_known = True
            return
        h = np.zeros((1, 5))
        h[0, YAW] = 1.0
        self._correct(np.array([wrap(heading_rad - float(self._x[YAW]))]), h, noise, GATE_1)

    def _correct(
        self,
        innovation: NDArray[np.float64],
        h: NDArray[np.float64],
        noise: NDArray[np.float64],
        gate: float,
        gate_noise: NDArray[np.float64] | None = None,
    ) -> bool:
        """Kalman correction unless the innovation fails its gate; Joseph form."""
        judged = h @ self._p @ h.T + (noise if gate_noise is None else gate_noise)
        # Written so that a NaN fails the gate.
        if not float(innovation @ np.linalg.solve(judged, innovation)) <= gate:
            return False
        s = h @ self._p @ h.T + noise
        gain = np.linalg.solve(s, h @ self._p).T
        self._x = self._x + gain @ innovation
        left = np.eye(5) - gain @ h
        self._p = left @ self._p @ left.T + gain @ noise @ gain.T
        return True


def _in_order(synced: SyncedSet, believed: frozenset[str]) -> Sequence[Sample]:
    """Everything the believed sensors said since the last tick, by stamp."""
    return sorted((s for name in believed for s in synced.series.get(name, ())), key=lambda s: s.stamp_ns)
