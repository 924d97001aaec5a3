"""The IMU against itself: I1.noise (vibration that no body makes), I2.rails (clipping, stuck axes, lost bits)."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.scores import Prior, ScoreMonitor, SensorFits
from edgeguard.clock import NS_PER_S
from edgeguard.types import IMU, CheckResult, ImuSample, Level

if TYPE_CHECKING:
    from edgeguard.types import SyncedSet

AXES = ("gyro_x", "gyro_y", "gyro_z", "accel_x", "accel_y", "accel_z")
STALE_S = 0.5
MAX_GAP_S = 0.25

# ---- I1
WINDOW_S = 0.1
MIN_DIFFERENCES = 8
# Honest bodies change their rate by 2 rad/s^2 and their acceleration by 20 m/s^3 all day; less is no reference.
GYRO_SLEW_RAD_S2, ACCEL_JERK_M_S3 = 2.0, 20.0
# White noise of consumer units per sqrt(Hz), sampled: the least a window's Allan deviation can be.
GYRO_NOISE, ACCEL_NOISE = 1.75e-4, 3.0e-3
LEARN_S = 8.0
QUARANTINE_S = 2.0
# An agile body moves one axis some three times as hard as its past and its other axes suggest, for as long as it likes:
# below exp(2 sigma) nothing adds up. The gate stands at exp(6 sigma), 37 times.
NOISE_PRIOR = Prior(0.0, 0.6, "ln", one_sided=True, decorrelation_s=0.1)
NOISE_CUSUM_K = 2.0

# ---- I2
ALPHA = 1e-9  # per look; 1000 looks a second give one false alarm in eleven days
RAIL_WINDOW = 40  # samples
MIN_AT_RAIL = 3
MIN_P, MAX_P = 0.01, 0.9999
RECENT = 50
MIN_STUCK_S = 0.08
MIN_RUN = 4
LOST_BITS_WINDOW = 128
LOST_FACTOR = 4.0
MIN_CHANGES = 24
HOLD_S = 1.0


def _rows(synced: SyncedSet, sensor: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Stamps (N,) s and readings (N, 6) rad/s, m/s^2 of this tick's finite samples."""
    samples = [s for s in synced.series.get(sensor, ()) if isinstance(s, ImuSample)]
    values = np.array([(*s.gyro_rad_s, *s.accel_m_s2) for s in samples], np.float64).reshape(-1, 6)
    t_s = np.array([s.stamp_ns for s in samples], np.int64) / NS_PER_S
    fine = np.isfinite(values).all(axis=1)
    return t_s[fine], values[fine]


class NoiseCheck:
    """I1: Allan deviation at one sampling interval over a tenth of a second, per axis, against the loudest that the
    axis should be: its own past times what the other axes grew by, and never less than an honest body's slew.

    Sound at a resonance (WALNUT; Rocking drones, Son et al. 2015) shakes one sensor and not its neighbours; a road, an
    engine or a landing shakes all. Raw score: ln of the excess.
    """

    name: str = "I1.noise"

    def __init__(self, fits: SensorFits | None = None, sensor: str = IMU) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        part = self.name if sensor == IMU else f"{self.name}.{sensor}"
        self.monitors: tuple[ScoreMonitor, ...] = tuple(
            ScoreMonitor(f"{part}.{axis}", NOISE_PRIOR, fits, persist=2, cusum_k=NOISE_CUSUM_K) for axis in AXES
        )
        self._sensor = sensor
        self._restart()

    def _restart(self) -> None:
        self._buffer: deque[NDArray[np.float64]] = deque()
        self._t_s: deque[float] = deque()
        self._learned: NDArray[np.float64] | None = None
        self._lessons: deque[tuple[float, NDArray[np.float64]]] = deque()
        self._judged_s = -math.inf
        self._floor = np.ones(6)
        self._loudness = np.zeros(6)
        for monitor in self.monitors:
            monitor.restart()

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        if synced.tick.discontinuity or self._sensor in synced.tick.recording_gap:
            self._restart()
        for t_s, row in zip(*_rows(synced, self._sensor), strict=True):
            self._take(float(t_s), row)
        now_s = synced.stamp_ns / NS_PER_S
        if now_s - self._judged_s > STALE_S:
            return self._result(Level.NOT_OBSERVABLE, 0.0, 0, "too few readings in a window")
        worst = max(range(6), key=lambda i: self.monitors[i].statistic)
        statistic = self.monitors[worst].statistic
        if statistic > 1.0:
            times = math.exp(min(50.0, float(self._loudness[worst])))
            reason = f"{AXES[worst]} of {self._sensor} is {times:.0f} times louder than the body explains"
            return self._result(Level.ANOMALY, statistic, worst, reason)
        return self._result(Level.OK, statistic, worst, "")

    def _take(self, t_s: float, row: NDArray[np.float64]) -> None:
        if self._t_s and not 0.0 < t_s - self._t_s[-1] <= MAX_GAP_S:
            if t_s == self._t_s[-1]:
                return
            self._buffer.clear()
            self._t_s.clear()
        self._t_s.append(t_s)
        self._buffer.append(row)
        if t_s - self._t_s[0] < WINDOW_S or len(self._t_s) <= MIN_DIFFERENCES:
            return
        values = np.array(self._buffer)
        period_s = (t_s - self._t_s[0]) / (len(self._t_s) - 1)
        # Half of a window overlaps with the next: a burst of sound cannot hide on a border.
        for _ in range(len(self._t_s) // 2):
            self._t_s.popleft()
            self._buffer.popleft()
        self._judge(t_s, np.sqrt(0.5 * np.mean(np.diff(values, axis=0) ** 2, axis=0)), period_s)

    def _judge(self, t_s: float, deviation: NDArray[np.float64], period_s: float) -> None:
        white = np.repeat((GYRO_NOISE, ACCEL_NOISE), 3) / math.sqrt(period_s)
        slew = np.repeat((GYRO_SLEW_RAD_S2, ACCEL_JERK_M_S3), 3) * period_s
        self._floor = np.hypot(white, slew)
        level = np.log(np.maximum(deviation, 1e-12))
        expected = np.log(self._floor)
        if self._learned is not None:
            grown = level - self._learned
            for axis in range(6):
                # What shakes the body shakes more than one axis of both sensors.
                common = max(0.0, float(np.median(np.delete(grown, axis))))
                expected[axis] = max(expected[axis], float(self._learned[axis]) + common)
        self._loudness = level - expected
        for monitor, score in zip(self.monitors, self._loudness.tolist(), strict=True):
            monitor.push(t_s, score)
        self._judged_s = t_s
        if max(m.share for m in self.monitors) > 0.5:
            self._lessons.clear()
            return
        self._lessons.append((t_s, level))
        # The first window is taken at once: until then only the floor is known.
        while self._lessons and (self._learned is None or self._lessons[0][0] < t_s - QUARANTINE_S):
            lesson = self._lessons.popleft()[1]
            share = 0.5 * WINDOW_S / LEARN_S
            # Loud moments are remembered as quickly as they come, and forgotten slowly.
            if self._learned is None:
                self._learned = lesson
            else:
                step = lesson - self._learned
                self._learned = self._learned + step * np.where(step > 0, 4.0 * share, share)

    def _result(self, level: Level, statistic: float, axis: int, reason: str) -> CheckResult:
        power, unit = math.inf, "rad/s" if axis < 3 else "m/s^2"
        if level is not Level.NOT_OBSERVABLE:
            monitor = self.monitors[axis]
            power = float(self._floor[axis]) * math.exp(
                min(50.0, monitor.location + monitor.gate_sigma * monitor.sigma)
            )
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, unit, "noise", reason)


class _Axis:
    """Chance that an honest axis repeats itself, and what it did lately."""

    def __init__(self) -> None:
        # One pretended repeat in two pairs: until the axis has shown otherwise, repeats are common.
        self.equal, self.pairs = 1.0, 2.0
        self.recent: deque[bool] = deque(maxlen=RECENT)
        self.run = 0
        self.last: float | None = None

    def push(self, value: float) -> None:
        """Take one reading."""
        if self.last is not None:
            if value == self.last:
                self.run += 1
            else:
                # A run that ended by itself was honest, one that never ends teaches nothing.
                self.equal += self.run
                self.pairs += self.run + 1
                self.recent.extend([True] * min(self.run, RECENT) + [False])
                self.run = 0
                if self.pairs > 4000.0:
                    self.equal, self.pairs = 0.5 * self.equal, 0.5 * self.pairs
        self.last = value

    @property
    def p(self) -> float:
        """Chance that the next reading equals the last: the larger of what was learned and what was just seen."""
        lately = (1.0 + sum(self.recent)) / (2.0 + len(self.recent))
        return min(max(self.equal / self.pairs, lately, MIN_P), MAX_P)


class RailsCheck:
    """I2: readings at the converter's rails, axes that repeat themselves while their neighbours do not, lost low bits.

    Nothing here is a constant count: how many repeats are too many follows from how often this unit repeats itself
    honestly (PX4-ECL #219), ``N = ln(1e-9) / ln P(equal)``. Statistic: share of N.
    """

    name: str = "I2.rails"

    def __init__(self, sensor: str = IMU) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._sensor = sensor
        self._restart()

    def _restart(self) -> None:
        self._axes = [_Axis() for _ in AXES]
        self._whole = _Axis()
        self._window: deque[NDArray[np.float64]] = deque(maxlen=RAIL_WINDOW)
        self._bits: deque[NDArray[np.float64]] = deque(maxlen=LOST_BITS_WINDOW)
        self._peak = np.zeros(6)
        self._older: deque[tuple[float, NDArray[np.float64]]] = deque()
        self._step: NDArray[np.float64] | None = None
        self._t_s = -math.inf
        self._period_s = 0.01
        self._alarm: tuple[float, float, str] | None = None
        self._needed = math.inf

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        if synced.tick.discontinuity or self._sensor in synced.tick.recording_gap:
            self._restart()
        worst, reason = 0.0, ""
        fresh = False
        for t_s, row in zip(*_rows(synced, self._sensor), strict=True):
            fresh |= self._take(float(t_s), row)
            if max(axis.run for axis in self._axes) >= MIN_RUN:
                worst, reason = max((worst, reason), self._stuck(), key=lambda found: found[0])
        if fresh:
            worst, reason = max((worst, reason), self._rails(), key=lambda found: found[0])
        now_s = synced.stamp_ns / NS_PER_S
        share, why = self._lost_bits()
        if share > worst:
            worst, reason = share, why
        if worst > 1.0:
            self._alarm = (now_s, worst, reason)
        elif self._alarm is not None and now_s - self._alarm[0] <= HOLD_S:
            _, worst, reason = self._alarm
        if now_s - self._t_s > STALE_S:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no readings")
        if worst > 1.0:
            return self._result(Level.ANOMALY, worst, reason)
        if len(self._window) < RAIL_WINDOW:
            return self._result(Level.NOT_OBSERVABLE, worst, "too few readings yet")
        return self._result(Level.OK, worst, "")

    def _take(self, t_s: float, row: NDArray[np.float64]) -> bool:
        if t_s <= self._t_s:
            return False
        if t_s - self._t_s <= MAX_GAP_S:
            self._period_s += 0.1 * (t_s - self._t_s - self._period_s)
        self._t_s = t_s
        for axis, value in zip(self._axes, row.tolist(), strict=True):
            axis.push(value)
        self._whole.push(hash(row.tobytes()))
        self._window.append(row)
        self._bits.append(row)
        self._older.append((t_s, np.abs(row)))
        # What is about to be judged must not have set the peak that it is judged by.
        while self._older[0][0] < t_s - 1.0 - RAIL_WINDOW * self._period_s:
            self._peak = np.maximum(self._peak, self._older.popleft()[1])
        return True

    def _stuck(self) -> tuple[float, str]:
        """Repeats in a row against N, of the whole reading and of each axis."""
        least = MIN_STUCK_S / self._period_s
        # A reading of six values repeats only where the driver hands it over twice.
        p = min(self._whole.p, max(axis.p for axis in self._axes))
        whole = self._whole.run / max(math.log(ALPHA) / math.log(max(p, 0.1)), least)
        self._needed = max(math.log(ALPHA) / math.log(max(p, 0.1)), least)
        worst, name = whole, "the whole reading"
        for i, axis in enumerate(self._axes):
            sisters = [a for j, a in enumerate(self._axes) if j // 3 == i // 3 and j != i]
            if any(sister.run > 0.5 * axis.run for sister in sisters):
                continue  # all repeat: at rest, or the whole reading is stuck
            p = max(axis.p, *(sister.p for sister in sisters), 0.1)
            share = axis.run / max(math.log(ALPHA) / math.log(p), least)
            if share > worst:
                worst, name = share, AXES[i]
        return worst, f"{name} of {self._sensor} repeats itself under fresh stamps"

    def _rails(self) -> tuple[float, str]:
        """Readings that share one extreme value, larger than any seen before, against N."""
        values = np.array(self._window)
        size = np.abs(values)
        top = size.max(axis=0)
        worst, name = 0.0, ""
        for i in np.flatnonzero(top > self._peak):
            column = values[:, i]
            high, low = float(column.max()), float(column.min())
            at_high, at_low = int((column == high).sum()), int((column == low).sum())
            count = at_high if high >= -low else at_low
            if abs(high + low) < 0.01 * top[i] and min(at_high, at_low) > 1:
                count = at_high + at_low - 1
            if self._axes[i].run >= count - 1:
                continue  # one run of one value is a stuck axis or a rest, not a rail
            needed = max(MIN_AT_RAIL, 1.0 + math.log(ALPHA) / math.log(self._axes[i].p))
            if count / needed > worst:
                worst, name = count / needed, AXES[i]
        return worst, f"{name} of {self._sensor} is at its rail"

    def _lost_bits(self) -> tuple[float, str]:
        """Do all readings of a window fall on a grid four times coarser than the unit's own?"""
        if len(self._bits) < LOST_BITS_WINDOW:
            return 0.0, ""
        changes = np.abs(np.diff(np.array(self._bits), axis=0))
        self._bits.clear()
        steps = np.array([float(c[c > 1e-9].min()) if (c > 1e-9).sum() >= MIN_CHANGES else math.nan for c in changes.T])
        worst, name = 0.0, ""
        known = self._step
        for i in range(6) if known is not None else ():
            if not (math.isfinite(steps[i]) and known is not None and math.isfinite(known[i])):
                continue
            grid = LOST_FACTOR * known[i]
            moved = changes[:, i][changes[:, i] > 1e-9]
            # Only a unit that really is quantised has a grid to lose; P(all on the coarse one) = 4^-n.
            fine = np.abs(moved / grid - np.round(moved / grid)) < 0.02
            if bool(fine.all()) and float(np.median(moved)) >= grid and worst < len(moved) / MIN_CHANGES:
                worst, name = 1.0 + len(moved) / MIN_CHANGES, AXES[i]
        if worst == 0.0:
            self._step = steps if known is None else np.fmin(known, steps)
        return worst, f"{name} of {self._sensor} has lost its lowest bits"

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = math.inf if level is Level.NOT_OBSERVABLE else self._needed * self._period_s
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "s", "freshness", reason)
