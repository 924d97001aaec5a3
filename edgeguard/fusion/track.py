"""Long tracks against one another: F1 GNSS against wheels and gyro, F2 lidar against wheels and gyro.

A window of seconds forgets a constant offset, and a patient attacker stays below what it sees. Here anchors are set
while everything is believed and kept for two minutes: from each, wheels and gyro reckon on with the scale, the bias and
the heading that were known *then*, and with the uncertainty of those. An offset of the position stays visible as long
as an anchor from before it is kept. The difference is taken along the chord from the anchor (the speed's part) and
across it (the heading's), which is what tells wheels from gyro.
"""

from __future__ import annotations

import cmath
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeguard.clock import NS_PER_S
from edgeguard.fusion.ego import (
    FAST_SHARE,
    GE,
    GN,
    GYRO,
    LAG,
    SCALE,
    SHORT,
    SLOW_SD_M,
    SLOW_TIME_S,
    YAW,
    E,
    EgoFilter,
    N,
    V,
)
from edgeguard.types import GNSS, IMU, LIDAR, WHEELS, CheckResult, GnssFix, Level

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from edgeguard.fusion.reckoning import Stride
    from edgeguard.types import SyncedSet

ANCHOR_EVERY_S, KEEP_S = 10.0, 120.0
# No anchor before bias, scale and heading are better than their priors; none while a track disagrees.
SETTLED_S, CALM_SHARE = 8.0, 0.5
# Residuals are judged after this long and this far, and where this many of the last fixes say the same.
MIN_AGE_S, MIN_CHORD_M, RECENT = 8.0, 30.0, 10
# 5 sigma on errors that wander slowly: 5.7e-7 per independent look, and there are some hundred looks an hour.
GATE_SIGMA = 5.0
# Heading and speed wander beside what the calibration says: gyro noise and its bias' walk; tyres, slip, slopes.
YAW_NOISE, YAW_BIAS_WALK, SCALE_WANDER = 0.0008, 3e-5, 0.001
# What a scan match falls short by changes with the scene: 0.05 m/s over five seconds.
SHORT_SD_M_S, SHORT_TIME_S = 0.05, 5.0
# A heading by scan match, per match: neighbouring errors are alike over half a second.
LIDAR_ALIKE = 5.0
STALE_S = 3.0


@dataclass(slots=True)
class Anchor:
    """What was known at one moment, and the path reckoned since: `way` (m, complex east + i north), its moment
    `moment` (integral of the step times the time since the anchor), `length_m`, `turned_rad`; `lidar_*`: by scan match,
    over the ticks that had one, beside the same ticks by wheels and gyro."""

    t_s: float
    x: NDArray[np.float64]
    p: NDArray[np.float64]
    way: complex = 0j
    moment: complex = 0j
    length_m: float = 0.0
    heading: float = 0.0
    lidar_s: float = 0.0
    lidar_m: float = 0.0
    lidar_rad: float = 0.0
    lidar_variance: float = 0.0
    lidar_variance_rad: float = 0.0
    wheel_m: float = 0.0
    gyro_rad: float = 0.0
    shares: dict[str, deque[float]] = field(default_factory=dict)


class TrackCheck:
    """Keeps the anchors; gives four results per tick: F1.along, F1.across, F2.along, F2.across."""

    names: tuple[str, ...] = ("F1.along", "F1.across", "F2.along", "F2.across")

    @classmethod
    def names_for(cls, sensors: Collection[str]) -> tuple[str, ...]:
        """Names of the results that a rig with these sensors can have."""
        if not {WHEELS, IMU} <= set(sensors):
            return ()
        other = {"F1": GNSS, "F2": LIDAR}
        return tuple(name for name in cls.names if other[name[:2]] in sensors)

    def __init__(self, sensors: tuple[str, ...]) -> None:
        self._sensors = frozenset(sensors)
        self._anchors: list[Anchor] = []
        self._began_s: float | None = None
        self._last: dict[str, tuple[float, CheckResult]] = {}

    def update(
        self, synced: SyncedSet, ego: EgoFilter, trusted: frozenset[str], rejected: frozenset[str] = frozenset()
    ) -> tuple[CheckResult, ...]:
        """Take the tick after the filter has; `trusted` sensors may set anchors.

        rejected: what a rejected gyro or wheels have reckoned is void, and stays so when they are well again.
        """
        now_s = synced.stamp_ns / NS_PER_S
        if not self.names_for(self._sensors):
            return ()
        if synced.tick.discontinuity:
            self._anchors, self._began_s, self._last = [], None, {}
        if not self._advance(now_s, ego.stride) or rejected & {WHEELS, IMU}:
            # Wheels or gyro are silent: nothing reckons on, and no anchor bridges that.
            self._anchors, self._last = [], {}
        found: dict[str, CheckResult] = {}
        fixes = [f for f in synced.series.get(GNSS, ()) if isinstance(f, GnssFix) and f.fix_quality > 0]
        for anchor in self._anchors:
            if now_s - anchor.t_s < MIN_AGE_S or abs(anchor.way) < MIN_CHORD_M:
                continue
            for result in (*self._gnss(anchor, now_s, ego, fixes), *self._lidar(anchor, now_s)):
                kept = found.get(result.check)
                if kept is None or result.statistic > kept.statistic:
                    found[result.check] = result
        self._last |= {name: (now_s, result) for name, result in found.items()}
        self._set_anchor(now_s, ego, trusted, found)
        return tuple(
            result
            for name in self.names
            if name in self._last
            for t_s, result in (self._last[name],)
            if now_s - t_s <= STALE_S
        )

    def _advance(self, now_s: float, stride: Stride) -> bool:
        if stride.dt_s <= 0:
            return True
        if stride.wheel_m_s is None or stride.turned_rad is None:
            return False
        for a in self._anchors:
            turned = stride.turned_rad - float(a.x[GYRO]) * stride.dt_s
            way = stride.wheel_m_s / (1.0 + float(a.x[SCALE])) * stride.dt_s
            step = cmath.rect(way, a.heading + turned / 2)
            a.way += step
            a.moment += step * (now_s - a.t_s - stride.dt_s / 2)
            a.length_m += abs(way)
            a.heading += turned
            motion = stride.lidar
            if motion is not None and 0.5 < motion.dt_s / stride.dt_s < 2.0:
                part = stride.dt_s / motion.dt_s
                a.lidar_s += stride.dt_s
                a.lidar_m += motion.dx_m * part
                a.lidar_rad += motion.yaw_rad * part
                a.lidar_variance += LIDAR_ALIKE * motion.sigma_x_m**2
                a.lidar_variance_rad += LIDAR_ALIKE * motion.sigma_yaw_rad**2
                a.wheel_m += way
                a.gyro_rad += turned
        return True

    def _gnss(self, a: Anchor, now_s: float, ego: EgoFilter, fixes: list[GnssFix]) -> list[CheckResult]:
        fix = fixes[-1] if fixes else None
        place = None if fix is None else ego.plane(fix)
        if fix is None or place is None or not (math.isfinite(place.real) and math.isfinite(place.imag)):
            return []
        age_s, velocity = now_s - a.t_s, cmath.rect(float(ego.x[V]), a.heading)
        late_s = now_s - (fix.stamp_ns / NS_PER_S - float(a.x[LAG]))
        expected = complex(a.x[E], a.x[N]) + a.way - velocity * late_s + complex(a.x[GE], a.x[GN])
        chord = a.way / abs(a.way)
        residual = (place - expected) * chord.conjugate()
        # Gradients along (real) and across (imaginary) the chord by what was uncertain at the anchor.
        indices = [E, N, YAW, GYRO, SCALE, GE, GN, LAG]
        columns = [1, 1j, 1j * a.way, -1j * a.moment, -a.way / (1 + a.x[SCALE]), 1, 1j, -velocity]
        rotated = np.array(columns, dtype=np.complex128) * chord.conjugate()
        p = a.p[np.ix_(indices, indices)]
        own = fix.horizontal_accuracy_m
        slow = SLOW_SD_M if own is None else max(own, 0.3) / math.sqrt(2.0)
        drift = slow**2 * (1.0 - math.exp(-2.0 * age_s / SLOW_TIME_S)) + (FAST_SHARE * slow) ** 2
        length = abs(a.way)
        yaw_walk = length**2 * (YAW_NOISE**2 * age_s / 3 + YAW_BIAS_WALK**2 * age_s**3 / 20)
        # A path that was bent by a wrong yaw rate is shorter too, by the square of the angle: across judges that.
        bent_m = residual.imag**2 / length
        along_m = math.copysign(max(0.0, abs(residual.real) - bent_m), residual.real)
        out = []
        for name, others, r, h, more, unit, scale, quantity in (
            ("along", WHEELS, along_m, rotated.real, (SCALE_WANDER * length) ** 2, "m/s", age_s, "mean_speed"),
            ("across", IMU, residual.imag, rotated.imag, yaw_walk, "rad", length, "heading"),
        ):
            sigma = math.sqrt(float(h @ p @ h) + drift + more)
            out.append(self._judge(a, f"F1.{name}", (GNSS, others), r / sigma, sigma / scale, unit, quantity))
        return out

    def _lidar(self, a: Anchor, now_s: float) -> list[CheckResult]:
        if a.lidar_s < MIN_AGE_S or a.lidar_s < 0.7 * (now_s - a.t_s):
            return []
        t = a.lidar_s
        scene = SHORT_SD_M_S**2 * 2 * SHORT_TIME_S * t + (t * math.sqrt(float(a.p[SHORT, SHORT]))) ** 2
        along = a.lidar_m + float(a.x[SHORT]) * t - a.wheel_m
        wheels = float(a.p[SCALE, SCALE]) * a.wheel_m**2 + (SCALE_WANDER * a.wheel_m) ** 2
        along_sd = math.sqrt(scene + a.lidar_variance + wheels)
        gyro = float(a.p[GYRO, GYRO]) * t**2 + YAW_NOISE**2 * t + YAW_BIAS_WALK**2 * t**3 / 3
        turn_sd = math.sqrt(gyro + a.lidar_variance_rad + (0.01 * a.gyro_rad) ** 2)
        turn = a.lidar_rad - a.gyro_rad
        return [
            self._judge(a, "F2.along", (LIDAR, WHEELS), along / along_sd, along_sd / t, "m/s", "mean_speed"),
            self._judge(a, "F2.across", (LIDAR, IMU), turn / turn_sd, turn_sd, "rad", "heading"),
        ]

    @staticmethod
    def _judge(
        a: Anchor, name: str, sensors: tuple[str, ...], z: float, sigma: float, unit: str, quantity: str
    ) -> CheckResult:
        """The smallest of the recent residuals counts where all lie on one side: nothing alarms on a single fix."""
        recent = a.shares.setdefault(name, deque(maxlen=RECENT))
        recent.append(z / GATE_SIGMA)
        one_side = len(recent) == RECENT and (min(recent) > 0 or max(recent) < 0)
        share = min(abs(s) for s in recent) if one_side else 0.0
        level = Level.ANOMALY if share > 1.0 else Level.OK
        power = GATE_SIGMA * sigma
        size = share * power if level is Level.ANOMALY else None
        reason = f"{sensors[0]} and {sensors[1]} have drifted apart" if level is Level.ANOMALY else ""
        return CheckResult(name, sensors, level, share, 1.0, power, unit, quantity, reason, size)

    def _set_anchor(self, now_s: float, ego: EgoFilter, trusted: frozenset[str], found: dict[str, CheckResult]) -> None:
        believed = frozenset((GNSS, WHEELS, IMU, LIDAR)) & self._sensors
        if not ego.knows_way or not believed <= trusted:
            self._began_s = None
            return
        self._began_s = now_s if self._began_s is None else self._began_s
        calm = all(r.statistic < CALM_SHARE for r in found.values())
        due = not self._anchors or now_s - self._anchors[-1].t_s >= ANCHOR_EVERY_S
        if not due or not calm or now_s - self._began_s < SETTLED_S:
            return
        # Old anchors go only when a new one comes: while something is suspected, what was known before it is kept.
        self._anchors = [a for a in self._anchors if now_s - a.t_s < KEEP_S]
        self._anchors.append(Anchor(now_s, ego.x.copy(), ego.covariance, heading=float(ego.x[YAW])))
