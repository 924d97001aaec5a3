"""X7.gravity: does an accelerometer at rest read the Earth?

A body that stands feels gravity and nothing else, whichever way it leans: |a| = g (9.78 to 9.83 m/s^2, WGS 84). A
unit's own biases and scales make it another number, honestly so; they are learned at rest, about three axes, inside
data-sheet bounds. What comes on top is the sensor's: an accelerometer pushed off by sound (Trippel et al., WALNUT,
EuroS&P 2017), a bias or scale put in on its way, a unit that breaks. Rest needs a witness: wheels, a receiver, or the
unit's own silence.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from edgeguard.checks.motion_statistics import BoundedEstimator
from edgeguard.checks.scores import Prior, ScoreMonitor, SensorFits
from edgeguard.clock import NS_PER_S
from edgeguard.types import GNSS, IMU, WHEELS, CheckResult, GnssFix, ImuSample, Level, WheelOdometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeguard.types import SyncedSet

# Half-way between the equator's and the poles'. What is missing is within the biases' floor.
GRAVITY_M_S2, GRAVITY_SD_M_S2 = 9.806, 0.015

SPAN_S, MIN_READINGS, MAX_GAP_S, STALE_S = 0.5, 8, 0.25, 1.5
# Springs and passengers come to rest within this time after the wheels did; a skid on locked wheels ends.
SETTLE_S = 2.0
WHEELS_STALE_S, GNSS_STALE_S = 0.5, 1.5
# Wheel sensors read zero below walking pace; Doppler speed at rest has an sd of 0.05 to 0.15 m/s.
WHEELS_STILL_M_S, GNSS_STILL_M_S = 0.05, 0.5
# With a witness a window may shake: an engine idles, somebody boards. Turning by 6 deg/s adds 0.01 m/s^2 at a metre.
SHAKE_M_S2, TURN_RAD_S = 0.5, 0.1
# Without one the unit's own noise is all there may be (Skog et al., IEEE TBME 57(11), 2010): three times that of a
# consumer unit at 100 Hz (MPU-9250: 0.03 m/s^2, 0.002 rad/s). Then constant speed looks like rest, and reads g as well.
SILENT_M_S2, SILENT_RAD_S = 0.1, 0.006

# Zero-g offset and sensitivity of MEMS data sheets: MPU-9250 +-0.6 (z 0.8) m/s^2, +-3 %; LSM6DSO +-0.2, 1 %.
BIAS_SIGMA, BIAS_LIMIT, BIAS_FLOOR = 0.4, 1.2, 0.015
SCALE_SIGMA, SCALE_LIMIT, SCALE_FLOOR = 0.01, 0.04, 0.001
# Offsets follow the temperature, up to 1.5 mg/K: ten kelvin between two stops ten minutes apart.
BIAS_WALK, SCALE_WALK = 0.006, 0.00005
MAX_WALK_S = 3600.0
# Mean of half a second at rest: bias instability, engine, quantisation.
NOISE_M_S2 = 0.03
# From here on lessons wait for suspicion to arise.
KNOWN_M_S2 = 0.1
QUARANTINE_S, SUSPICION = 6.0, 0.3
CONFIDENCE = 4.0
# A lift accelerates for 2.5 s with 1 m/s^2: what lasts no longer than four seconds is the body's.
PERSIST = 8  # windows
PRIOR = Prior(0.0, 1.0, "sigma", decorrelation_s=2.0)
GATE_SIGMA = 6.0


class GravityCheck:
    """X7.gravity of one unit. Statistic: share of the threshold, threshold 1; power and size in m/s^2. Other than of
    most checks the power is what would be found in four seconds.

    The score is the excess of |a| over what gravity and the learned unit explain, in sigma of noise and knowledge.
    """

    name: str = "X7.gravity"

    def __init__(self, fits: SensorFits | None = None, sensor: str = IMU) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        part = self.name if sensor == IMU else f"{self.name}.{sensor}"
        self._monitor = ScoreMonitor(f"{part}.norm", PRIOR, fits, gate_sigma=GATE_SIGMA, persist=PERSIST)
        self.monitors: tuple[ScoreMonitor, ...] = (self._monitor,)
        self._sensor = sensor
        # bias x y z, scale x y z
        self._model = BoundedEstimator(
            mean=(0.0,) * 6,
            sd=(BIAS_SIGMA,) * 3 + (SCALE_SIGMA,) * 3,
            low=(-BIAS_LIMIT,) * 3 + (-SCALE_LIMIT,) * 3,
            high=(BIAS_LIMIT,) * 3 + (SCALE_LIMIT,) * 3,
            sd_floor=(BIAS_FLOOR,) * 3 + (SCALE_FLOOR,) * 3,
            sd_walk=(BIAS_WALK,) * 3 + (SCALE_WALK,) * 3,
        )
        self._learned_s: float | None = None
        self._restart()

    def _restart(self) -> None:
        self._t_s: list[float] = []
        self._rows: list[tuple[float, ...]] = []
        self._lessons: deque[tuple[float, float, NDArray[np.float64]]] = deque()
        self._still: dict[str, tuple[float, bool]] = {}
        self._moved_s = -math.inf
        self._judged_s = -math.inf
        self._excess = 0.0
        self._total = math.inf
        self._why = "too few readings"
        self._monitor.restart()

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        if synced.tick.discontinuity or self._sensor in synced.tick.recording_gap:
            self._restart()
        self._listen(synced)
        for sample in synced.series.get(self._sensor, ()):
            if isinstance(sample, ImuSample):
                self._take(sample.stamp_ns / NS_PER_S, (*sample.gyro_rad_s, *sample.accel_m_s2))
        return self._verdict(synced.stamp_ns / NS_PER_S)

    def _listen(self, synced: SyncedSet) -> None:
        """Note who says that the body stands, and when anybody last said that it moves."""
        for name in (WHEELS, GNSS):
            for sample in synced.series.get(name, ()):
                t_s = sample.stamp_ns / NS_PER_S
                if isinstance(sample, WheelOdometry):
                    wheels = sample.wheel_speeds_m_s or (sample.speed_m_s,)
                    still = max(abs(v) for v in (sample.speed_m_s, *wheels)) <= WHEELS_STILL_M_S
                elif isinstance(sample, GnssFix) and sample.fix_quality > 0 and sample.speed_m_s is not None:
                    still = abs(sample.speed_m_s) <= GNSS_STILL_M_S
                else:
                    continue
                self._still[name] = (t_s, still)
                if not still:
                    self._moved_s = max(self._moved_s, t_s)

    def _take(self, t_s: float, row: tuple[float, ...]) -> None:
        if not all(map(math.isfinite, row)):
            return
        if self._t_s and not 0.0 < t_s - self._t_s[-1] <= MAX_GAP_S:
            if t_s == self._t_s[-1]:
                return
            self._t_s, self._rows = [], []
        self._t_s.append(t_s)
        self._rows.append(row)
        if t_s - self._t_s[0] < SPAN_S:
            return
        values, started_s = np.array(self._rows), self._t_s[0]
        self._t_s, self._rows = [], []
        self._judge(t_s, started_s, values)

    def _witnessed(self, t_s: float) -> bool:
        stale_s = {WHEELS: WHEELS_STALE_S, GNSS: GNSS_STALE_S}
        return any(t_s - seen_s <= stale_s[name] for name, (seen_s, _) in self._still.items())

    def _judge(self, t_s: float, started_s: float, values: NDArray[np.float64]) -> None:
        """Take one window, (N, 6) rad/s and m/s^2."""
        sd, mean = values.std(axis=0), values.mean(axis=0)
        witnessed = self._witnessed(t_s)
        # Without a witness half a second of silence is chance: the body has to be silent as long as it takes to settle.
        quiet = sd[3:].max() <= SHAKE_M_S2 and np.abs(mean[:3]).max() <= TURN_RAD_S
        if not witnessed and not (quiet and sd[3:].max() <= SILENT_M_S2 and sd[:3].max() <= SILENT_RAD_S):
            self._moved_s = max(self._moved_s, t_s)
        if len(values) < MIN_READINGS or not quiet or started_s < self._moved_s + SETTLE_S:
            self._why = "too few readings" if len(values) < MIN_READINGS else "not at rest"
            self._monitor.skip(t_s)
            self._judged_s = -math.inf
            return
        felt = float(np.linalg.norm(mean[3:]))
        up = mean[3:] / max(felt, 1e-9)
        gradient = np.concatenate((up, GRAVITY_M_S2 * up**2))
        self._excess = felt - GRAVITY_M_S2 - float(gradient @ self._model.mean)
        known = self._known(t_s, gradient)
        self._total = math.hypot(known, NOISE_M_S2, GRAVITY_SD_M_S2)
        self._monitor.push(t_s, self._excess / self._total)
        self._judged_s = t_s
        if self._monitor.share > SUSPICION:
            self._lessons.clear()
            return
        self._lessons.append((t_s, felt, gradient))
        self._learn(t_s, QUARANTINE_S if known < KNOWN_M_S2 else 0.0)

    def _known(self, t_s: float, gradient: NDArray[np.float64]) -> float:
        """Standard deviation of what the unit should read, m/s^2; offsets wander while nobody can look."""
        away_s = 0.0 if self._learned_s is None else min(max(0.0, t_s - self._learned_s), MAX_WALK_S)
        return math.hypot(self._model.sd(gradient.tolist()), BIAS_WALK * math.sqrt(away_s))

    def _learn(self, t_s: float, wait_s: float) -> None:
        while self._lessons and self._lessons[0][0] <= t_s - wait_s:
            at_s, felt, gradient = self._lessons.popleft()
            dt_s = 0.0 if self._learned_s is None else min(max(0.0, at_s - self._learned_s), MAX_WALK_S)
            innovation = felt - GRAVITY_M_S2 - float(gradient @ self._model.mean)
            limit = CONFIDENCE * math.hypot(self._known(at_s, gradient), NOISE_M_S2)
            # Windows within the decorrelation time know as much as one.
            noise = NOISE_M_S2 * math.sqrt(PRIOR.decorrelation_s / SPAN_S)
            self._model.update(innovation, gradient.tolist(), noise, dt_s, limit)
            self._learned_s = at_s

    def _verdict(self, now_s: float) -> CheckResult:
        statistic = self._monitor.statistic
        if now_s - self._judged_s > STALE_S:
            return self._result(Level.NOT_OBSERVABLE, 0.0, math.inf, self._why)
        # What the gate finds, in the time that it lasts; the sums find less, and later.
        power = (GATE_SIGMA * self._monitor.scale * self._monitor.sigma + abs(self._monitor.location)) * self._total
        if statistic > 1.0:
            reason = f"{self._sensor} at rest feels {self._excess:+.2f} m/s^2 that gravity does not explain"
            return self._result(Level.ANOMALY, statistic, power, reason)
        return self._result(Level.OK, statistic, power, "")

    def _result(self, level: Level, statistic: float, power: float, reason: str) -> CheckResult:
        size = abs(self._excess) if level is Level.ANOMALY else None
        power = math.inf if level is Level.NOT_OBSERVABLE else power
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "m/s^2", "gravity", reason, size)
