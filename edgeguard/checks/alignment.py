"""Camera against lidar by their edges: X1.extrinsics (a sensor was turned) and X2.time_offset (one of the two is late).

Both accumulate edge scores, X2 of half a second and X1 of one, and ask where they peak. The place of the peak has a
unit, degrees or frames, and clean data put it at zero on any street; its height, which moves with the scene, is not
judged. Scenes without edges, and for X2 without motion, are NOT_OBSERVABLE.

A rig that was never calibrated has an honest misalignment. Until a calibration gives the fit, the session's own first
seconds are the reference, and the prior is as wide as hand-measured mounts are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.alignment_evidence import ANGLES_DEG, AXES, LOOK_BACK, Alignment, AlignmentEvidence
from edgeguard.checks.scores import Prior, ScoreMonitor, SensorFits
from edgeguard.clock import NS_PER_S
from edgeguard.types import CAMERA, LIDAR, CheckResult, Level, SyncedSet

TURN_PAIRS = 10  # one second at 10 Hz
SHIFT_PAIRS = 5
MIN_PAIRS = 3
MIN_TURN_EDGES = 800  # over the pairs: below, one parked car decides
MIN_CONTRAST = 0.012  # of the field, between the peak and 1.2 deg beside it; half of what a bare street gives
MAX_TOP_STEPS = 2  # angles that fit as well as the best, in steps of ANGLES_DEG: a peak reaches one to either side
# Calibration of extrinsics by hand and by common tools is good to 0.1 deg; roll is what the edges fix worst.
TURN_SIGMA_DEG = (0.075, 0.07, 0.10)
REFERENCE_PAIRS = 40
MAX_REFERENCE_DEG = 0.25  # more at the start of a session is no honest mount: it stays visible
MAX_REFERENCE_FRAMES = 0.5  # sensors that are paired by the nearest stamp are at most half a frame apart
SHIFT_SIGMA_FRAMES = 0.12
MOUNT_SIGMA_M = 0.05  # a lidar mounted this much farther ahead looks like one that is this much of driving early
MIN_MOTION_Z = 4.0  # sigma by which two frames fit differently: as long as none do nothing moved, and any frame fits
# A late sensor's older partner must fit as well as the worst tenth of the pairs of this drive, of so many at least.
LEVEL_PAIRS, MIN_LEVELS, USUAL_QUANTILE, CALM_SHARE = 100, 8, 0.1, 0.5
TOO_LATE_FRAMES = 0.5  # a pair this far apart in time says nothing about angles


_AT = np.arange(-LOOK_BACK, LOOK_BACK + 0.05, 0.1)
_REACHES = (1.0, 1.5, 2.5, 6.0)  # frames over which the score falls: fast and slow driving
_TENT_AT = np.tile(_AT, len(_REACHES))
_TENTS = np.vstack([
    -np.minimum(np.abs(np.arange(-LOOK_BACK, LOOK_BACK + 1)[None, :] - _AT[:, None]), reach) for reach in _REACHES
])  # fmt: skip
_TENTS_SQUARE = _TENTS**2


class _Reference:
    """Median of a session's first values; 0 until there are enough, and where they are no honest offset."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._values: list[float] = []
        self.value = 0.0

    def push(self, value: float) -> None:
        if len(self._values) >= REFERENCE_PAIRS:
            return
        self._values.append(value)
        if len(self._values) == REFERENCE_PAIRS:
            middle = float(np.median(self._values))
            self.value = middle if abs(middle) <= self._limit else 0.0


class TimeOffsetCheck:
    """X2.time_offset. Raw score: frames by which the lidar is late (positive) or the camera (negative).

    The sweep is held against the images before, the image against the sweeps before (DejaVu, arXiv 2507.09095, is the
    attack). An older image fitting best means that the sweep is old, since nobody is early: the late one is blamed,
    where the older one fits as pairs of this drive fit. Where it fits best and yet badly, the two show no common scene,
    at any time: whose fault that is, two sensors cannot tell, and both are accused.
    """

    name = "X2.time_offset"

    def __init__(
        self, evidence: AlignmentEvidence, fits: SensorFits | None = None, camera: str = CAMERA, lidar: str = LIDAR
    ) -> None:
        self.sensors: tuple[str, ...] = (camera, lidar)
        self._evidence = evidence
        prior = Prior(0.0, SHIFT_SIGMA_FRAMES, "frames", decorrelation_s=0.5)
        # The score is an average over half a second already: the gate decides, and the sum ebbs within a second.
        self._monitor = ScoreMonitor(self.name, prior, fits, persist=3, cusum_k=5.0)
        self.monitors: tuple[ScoreMonitor, ...] = (self._monitor,)
        self._calibrated = fits is not None and fits.get(self.name) is not None
        self._reference = _Reference(MAX_REFERENCE_FRAMES)
        self._pairs: deque[Alignment] = deque(maxlen=SHIFT_PAIRS)
        self._late = 0.0
        self._levels: deque[float] = deque(maxlen=LEVEL_PAIRS)  # how well pairs fit while nothing was suspected
        self._fits_late = False
        self._culprit = 0.0  # frames late when an alarm was last raised; it holds the alarm's name
        self.gain = 0.0

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        if synced.tick.discontinuity:
            self._pairs.clear()
            self._monitor.restart()
        now_s = synced.tick.stamp_ns / NS_PER_S
        pair = self._evidence.pair(synced)
        if pair is None:
            self._monitor.skip(now_s)
            return self._result(self._evidence.why_not)
        self._pairs.append(pair)
        late, self.gain = _peak_frames(self._pairs)
        self._late = late or 0.0
        if late is None:
            self._monitor.skip(now_s)
            return self._result("nothing moves: any frame fits any sweep")
        if _turn_gains(self._pairs).max() > self.gain and abs(late) > TOO_LATE_FRAMES:
            self._late = 0.0
            self._monitor.skip(now_s)
            return self._result("a turn explains the edges better than a delay")
        score = late if self._calibrated else self._uncalibrated(late, pair)
        speed = None if pair.displacement_m is None or pair.period_s <= 0 else pair.displacement_m / pair.period_s
        self._monitor.push(now_s, score, speed)
        self._weigh_fit(abs(late))
        return self._result("")

    def _weigh_fit(self, late: float) -> None:
        """Whether the frame that fits best fits as well as pairs of this drive did while they were believed."""
        middle = len(ANGLES_DEG) // 2
        level = float(np.mean([pair.turned[0, middle] / pair.count for pair in self._pairs]))
        if late <= TOO_LATE_FRAMES and self._monitor.statistic < CALM_SHARE:
            self._levels.append(level)
        self._fits_late = len(self._levels) >= MIN_LEVELS and level + self.gain >= _quantile(self._levels)

    def _uncalibrated(self, late: float, pair: Alignment) -> float:
        """Frames, shrunk where an honest error of the mount would look the same."""
        self._reference.push(late)
        moved = pair.displacement_m if pair.displacement_m else 0.05
        slack = MOUNT_SIGMA_M / max(abs(moved), 1e-3)
        return (late - self._reference.value) * SHIFT_SIGMA_FRAMES / float(np.hypot(SHIFT_SIGMA_FRAMES, slack))

    @property
    def late_frames(self) -> float:
        """Newest estimate, for X1: a pair that is apart in time says nothing about angles."""
        return self._late

    def _result(self, why_not: str) -> CheckResult:
        statistic = self._monitor.statistic
        power = float("inf") if why_not else self._monitor.power()
        why_not = why_not or ("too few pairs yet" if power == float("inf") else "")
        if abs(self._late) > TOO_LATE_FRAMES or self._culprit == 0.0:
            self._culprit = self._late
        late = self.sensors[1] if self._culprit > 0 else self.sensors[0]
        sensors = self.sensors
        if statistic > 1.0:
            reason = f"the {late} is {abs(self._culprit):.1f} frames late: it shows what the other saw before"
            level = Level.ANOMALY
            if self._fits_late:
                sensors = (late,)
            else:
                reason = "camera and lidar do not show the same scene, at no time of the last second"
        else:
            level, reason = (Level.NOT_OBSERVABLE if why_not else Level.OK), why_not
        size = abs(self._culprit) if level is Level.ANOMALY else None
        return CheckResult(self.name, sensors, level, statistic, 1.0, power, "frames", "time_offset", reason, size)


class ExtrinsicCheck:
    """X1.extrinsics. Raw scores: degrees by which the camera seems turned about its x, y and z axis."""

    name = "X1.extrinsics"

    def __init__(
        self, evidence: AlignmentEvidence, time: TimeOffsetCheck, fits: SensorFits | None = None,
        camera: str = CAMERA, lidar: str = LIDAR,
    ) -> None:  # fmt: skip
        self.sensors: tuple[str, ...] = (camera, lidar)
        self._evidence, self._time = evidence, time
        self.monitors: tuple[ScoreMonitor, ...] = tuple(
            ScoreMonitor(
                f"{self.name}.{axis}", Prior(0.0, sigma, "deg", decorrelation_s=1.0), fits, persist=3, cusum_k=3.0
            )
            for axis, sigma in zip(AXES, TURN_SIGMA_DEG, strict=True)
        )
        self._calibrated = [fits is not None and fits.get(m.name) is not None for m in self.monitors]
        self._references = [_Reference(MAX_REFERENCE_DEG) for _ in AXES]
        self._pairs: deque[Alignment] = deque(maxlen=TURN_PAIRS)
        self._gains = np.zeros(3)

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        if synced.tick.discontinuity:
            self._pairs.clear()
            for monitor in self.monitors:
                monitor.restart()
        now_s = synced.tick.stamp_ns / NS_PER_S
        pair = self._evidence.pair(synced)
        why_not = self._evidence.why_not
        if pair is not None:
            self._pairs.append(pair)
        angles: Sequence[float | None] = (None, None, None)
        if pair is None:
            pass
        elif abs(self._time.late_frames) > TOO_LATE_FRAMES:
            self._pairs.clear()
            why_not = "camera and lidar do not show the same moment"
        elif len(self._pairs) >= MIN_PAIRS:
            angles = _peak_angles(self._pairs)
            self._gains = _turn_gains(self._pairs)
            why_not = "" if any(a is not None for a in angles) else "the edges do not fix the angles"
        else:
            why_not = "too few pairs yet"
        for axis, angle in enumerate(angles):
            self._push(axis, now_s, angle)
        return self._result(why_not)

    def _push(self, axis: int, now_s: float, angle: float | None) -> None:
        monitor = self.monitors[axis]
        if angle is None:
            monitor.skip(now_s)
            return
        if not self._calibrated[axis]:
            self._references[axis].push(angle)
            angle -= self._references[axis].value
        monitor.push(now_s, angle)

    def _result(self, why_not: str) -> CheckResult:
        statistic = max(monitor.statistic for monitor in self.monitors)
        # A turn about one axis bends the curves of the others: named is the one that explains most.
        above = [axis for axis in range(3) if self.monitors[axis].statistic > 1.0]
        worst = max(above, key=lambda axis: float(self._gains[axis]), default=0)
        monitor = self.monitors[worst]
        power = float("inf") if why_not else max(m.power() for m in self.monitors if m.last is not None)
        why_not = why_not or ("too few pairs yet" if power == float("inf") else "")
        if statistic > 1.0:
            off = 0.0 if monitor.last is None else monitor.last - monitor.location
            reason = f"the camera is turned against the lidar: {AXES[worst]} by {off:+.1f} deg"
            return self._answer(Level.ANOMALY, statistic, power, reason, abs(off) or None)
        return self._answer(Level.NOT_OBSERVABLE if why_not else Level.OK, statistic, power, why_not, None)

    def _answer(self, level: Level, statistic: float, power: float, reason: str, size: float | None) -> CheckResult:
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "deg", "extrinsics", reason, size)


def _peak_angles(pairs: Sequence[Alignment]) -> list[float | None]:
    """Where each axis' score peaks, degrees; None where it has no clear peak, or one as wide as the view of it."""
    count = sum(p.count for p in pairs)
    if count < MIN_TURN_EDGES:
        return [None, None, None]
    curves = np.sum([p.turned for p in pairs], axis=0) / count
    return [_peak_angle(curve) for curve in curves]


def _peak_angle(curve: NDArray[np.float64]) -> float | None:
    top = int(np.argmax(curve))
    if curve[top] - min(curve[0], curve[-1]) < MIN_CONTRAST:
        return None
    # Along a wall or a kerb one side of the peak may not fall at all: then where the top lies is chance.
    as_good = np.flatnonzero(curve[top] - curve < MIN_CONTRAST)
    if as_good[-1] - as_good[0] > MAX_TOP_STEPS:
        return None
    at = min(max(top, 1), curve.size - 2)
    step = ANGLES_DEG[1] - ANGLES_DEG[0]
    # The camera is turned the other way round from the turn that undoes it.
    return -(ANGLES_DEG[at] + step * _vertex(curve[at - 1], curve[at], curve[at + 1]))


def _turn_gains(pairs: Sequence[Alignment]) -> NDArray[np.float64]:
    """By how much the best turn of the camera about each axis would lift the mean score."""
    curves = np.sum([p.turned for p in pairs], axis=0) / sum(p.count for p in pairs)
    return np.asarray(curves.max(axis=1) - curves[:, ANGLES_DEG.index(0.0)], np.float64)


def _peak_frames(pairs: Sequence[Alignment]) -> tuple[float | None, float]:
    """Where the score over time peaks, frames, and by how much it lies above now; None where nothing moved."""
    known = [p for p in pairs if np.isfinite(p.shifted).all()]
    if len(known) < min(MIN_PAIRS, len(pairs)) or not known:
        return None, 0.0
    mean = np.mean([p.shifted for p in known], axis=0)
    noise = np.sqrt(np.sum([p.noise**2 for p in known], axis=0)) / len(known)
    # Now differs from itself by nothing. An earlier frame that differs by nothing is the same frame: no time to tell.
    if np.count_nonzero(noise) < noise.size - 1:
        return None, 0.0
    top, low = int(np.argmax(mean)), int(np.argmin(mean))
    if mean[top] - mean[low] < MIN_MOTION_Z * max(float(np.hypot(noise[top], noise[low])), 1e-6):
        return None, 0.0
    # Half a frame about the frame that fits best: beyond, another one would fit better. That is the present one until
    # another fits better by more than noise: along a tunnel's walls all fit alike, and changing light favours one side.
    best = top - LOOK_BACK if mean[top] >= MIN_MOTION_Z * noise[top] else 0
    return min(max(_fit_tent(mean, noise), best - 0.5), best + 0.5), float(mean[top])


def _quantile(values: Collection[float]) -> float:
    """`USUAL_QUANTILE` of some values, between the two next to it."""
    ordered = sorted(values)
    at = USUAL_QUANTILE * (len(ordered) - 1)
    low, share = int(at), at % 1.0
    return ordered[low] + share * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def _fit_tent(mean: NDArray[np.float64], noise: NDArray[np.float64]) -> float:
    """Place of the tent that fits best, frames. Scores fall linearly on both sides until nothing overlaps any more."""
    noise = np.maximum(noise, np.median(noise))
    weight = 1.0 / noise**2
    weight /= weight.sum()
    y = mean - weight @ mean
    along = _TENTS @ (weight * y)  # y has no mean, so that the tents' need not be taken out
    size = _TENTS_SQUARE @ weight - (_TENTS @ weight) ** 2
    explained = np.where(along > 0, along**2 / size, 0.0)
    return float(_TENT_AT[int(np.argmax(explained))])


def _vertex(left: float, middle: float, right: float) -> float:
    """Vertex of the parabola through three values at -1, 0, 1; at most one step away."""
    bend = left - 2.0 * middle + right
    if bend >= -1e-9:
        return float(np.sign(right - left))
    return float(np.clip(0.5 * (left - right) / bend, -1.0, 1.0))
