"""Lidar self-checks on returns: L1.removal (blockage, jamming, spoofed removal) and L7.jamming (randomised ranges)."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarEvidence, LidarFrame
from edgeguard.kernels.ranges import COLUMNS, EL_MIN_DEG, EL_STEP_DEG
from edgeguard.kernels.regions import count_alone, count_below
from edgeguard.types import LIDAR, CheckResult, Level, PointCloud, SyncedSet

SECTORS = 180  # of 2 deg, judged four at a time
WINDOW = (
    4  # 8 deg: fits into a sector of 10 deg, the least that removal attacks on the road have used, wherever it lies
)
DOWN_ROWS = int((-3.0 - EL_MIN_DEG) / EL_STEP_DEG)  # rows that meet the ground within 35 m: they always return
MIN_REFERENCE = 3
REFERENCE_SWEEPS = 5
MIN_WINDOW_POINTS = 120  # with fewer, chance and dark cars empty it
MAX_TOTAL_DROP = 0.35  # wet road and dark cars cost a few per cent between sweeps, a removal attack most of a target
MAX_SECTOR_DROP = 0.75  # of a window: glass and black paint keep a quarter of their returns, a cover none
HOLD_SWEEPS = 50  # how long the reference waits for a loss to pass before it becomes the new normal
CONFIRM = 2  # sweeps in a row

JAM_COLUMNS = 25  # 10 deg, the narrowest sector that pulses have drowned on the road, wherever it lies
MIN_JAM_CELLS = 60
# First pulses at f are uniform up to c / 2f: at 24 MHz, the highest rate that has been shown, within 6 m. Of such
# ranges a third is unlike all four neighbours, and half is unlike both beside it: where a coarse scanner has no ring
# next to the one that is judged, these are all. Foliage stays below a twentieth and an eighth, drops in a fog of 90 m
# make a twelfth.
ALIKE_M, ALIKE_RATIO = 0.5, 0.05
MAX_ALONE, MAX_UNLIKE = 0.15, 0.35


class RemovalCheck:
    """L1.removal: returns of downward beams against the recent past, whole sweep and every 8 deg.

    statistic: share of the tolerated loss, threshold 1. Upward beams are left out: open sky is no fault.
    """

    name = "L1.removal"

    def __init__(self, evidence: LidarEvidence, sensor: str = LIDAR) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._evidence = evidence
        self._past: deque[NDArray[np.int64]] = deque(maxlen=REFERENCE_SWEEPS)
        self._held = 0
        self._last_ns: int | None = None

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        frame = self._evidence.frame(synced)
        if synced.tick.discontinuity:
            self._past.clear()
            self._held, self._last_ns = 0, None
        sample = synced.samples.get(self.sensors[0])
        if not isinstance(sample, PointCloud) or (self._last_ns is not None and sample.stamp_ns <= self._last_ns):
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no sweep at this tick")
        self._last_ns = sample.stamp_ns
        counts = _downward(frame) if frame is not None else np.zeros(SECTORS, np.int64)
        if len(self._past) < MIN_REFERENCE:
            if frame is not None:
                self._past.append(counts)
            return self._result(Level.NOT_OBSERVABLE, 0.0, "not enough earlier sweeps")
        ordered = np.sort(self._past, axis=0)
        usual = 0.5 * (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2])
        statistic, reason = _loss(counts, usual)
        if statistic <= 1.0 or self._held >= HOLD_SWEEPS:
            self._past.append(counts)
            self._held = 0 if statistic <= 1.0 else self._held
        if statistic > 1.0:
            self._held += 1
            if self._held >= CONFIRM:
                return self._result(Level.ANOMALY, statistic, reason)
        return self._result(Level.OK, min(statistic, 1.0), "")

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else MAX_TOTAL_DROP
        return CheckResult(
            self.name, self.sensors, level, float(statistic), 1.0, float(power), "share of returns", "returns", reason
        )


def _downward(frame: LidarFrame) -> NDArray[np.int64]:
    columns = count_below(frame.row, frame.col, DOWN_ROWS, COLUMNS)
    return np.add.reduceat(columns, np.arange(0, COLUMNS, COLUMNS // SECTORS))


def _loss(counts: NDArray[np.int64], reference: NDArray[np.float64]) -> tuple[float, str]:
    """Largest loss as a share of what is tolerated, and its words."""
    total = 1.0 - counts.sum() / max(float(reference.sum()), 1.0)
    window, expected = _windows(counts), _windows(reference)
    drop = np.where(expected >= MIN_WINDOW_POINTS, 1.0 - window / np.maximum(expected, 1.0), 0.0)
    worst = int(np.argmax(drop))
    if total / MAX_TOTAL_DROP >= drop[worst] / MAX_SECTOR_DROP:
        return max(0.0, total / MAX_TOTAL_DROP), f"{total:.0%} of the downward returns are gone"
    azimuth = (worst + WINDOW // 2) * 360 // SECTORS - 180
    return float(drop[worst] / MAX_SECTOR_DROP), f"{drop[worst]:.0%} of the returns around {azimuth} deg are gone"


def _windows(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over `WINDOW` sectors from each on, around the circle."""
    total = np.cumsum(np.concatenate(([0.0], counts, counts[: WINDOW - 1])))
    sums: NDArray[np.float64] = total[WINDOW:] - total[:-WINDOW]
    return sums


class JammingCheck:
    """L7.jamming: share of returns that agree with none of their neighbours, in the worst 10 deg.

    statistic: that share of what is tolerated, by all four neighbours or by the two beside; threshold 1.
    """

    name = "L7.jamming"

    def __init__(self, evidence: LidarEvidence, sensor: str = LIDAR) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._evidence = evidence
        self._run = 0

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        frame = self._evidence.frame(synced)
        if synced.tick.discontinuity:
            self._run = 0
        if frame is None:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no sweep at this tick")
        share, worst = _disorder(frame.image)
        if worst < 0:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "too few neighbouring returns")
        self._run = self._run + 1 if share > 1.0 else 0
        if self._run >= CONFIRM:
            azimuth = round((worst + 0.5 * JAM_COLUMNS) % COLUMNS * 360 / COLUMNS) - 180
            return self._result(Level.ANOMALY, share, f"the returns around {azimuth} deg agree with none beside them")
        return self._result(Level.OK, min(share, 1.0), "")

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else JAM_COLUMNS * 360.0 / COLUMNS
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "deg", "ranges", reason)


def _disorder(image: NDArray[np.float32]) -> tuple[float, int]:
    """Largest share of what is tolerated over all windows, and its first column; -1 when none has enough cells."""
    judged, unlike, alone = (_sliding(each) for each in count_alone(image, ALIKE_M, ALIKE_RATIO))
    share = np.maximum(unlike / MAX_UNLIKE, alone / MAX_ALONE) / np.maximum(judged, 1)
    share[judged < MIN_JAM_CELLS] = -1.0
    worst = int(np.argmax(share))
    return (float(share[worst]), worst) if share[worst] >= 0 else (0.0, -1)


def _sliding(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums over `JAM_COLUMNS` columns from each on, around the circle."""
    total = np.cumsum(np.concatenate(([0], counts, counts[: JAM_COLUMNS - 1])))
    sums: NDArray[np.int64] = total[JAM_COLUMNS:] - total[:-JAM_COLUMNS]
    return sums
