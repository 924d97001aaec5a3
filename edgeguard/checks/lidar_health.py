"""Lidar self-checks on returns: L1.removal (blockage, jamming, spoofed removal) and L7.jamming (randomised ranges)."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarEvidence, LidarFrame
from edgeguard.kernels.ranges import COLUMNS, EL_MIN_DEG, EL_STEP_DEG
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

JAM_SECTORS = 18
MIN_JAM_CELLS = 150
# Real foliage stays below 0.02; of uniformly random ranges six in ten are isolated, of half as many a fifth.
MAX_ISOLATED_SHARE = 0.15
ISOLATION_M, ISOLATION_RATIO = 1.0, 0.1


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
        statistic, reason = _loss(counts, np.median(np.array(self._past), axis=0))
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
    down = frame.row < DOWN_ROWS
    return np.bincount(frame.col[down].astype(np.int64) * SECTORS // COLUMNS, minlength=SECTORS)


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
    total = np.zeros(counts.shape[0])
    for shift in range(WINDOW):
        total += np.roll(counts, -shift)
    return total


class JammingCheck:
    """L7.jamming: share of returns that agree with none of their neighbours, in the worst 20 deg sector.

    statistic: that share; threshold `MAX_ISOLATED_SHARE`.
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
        share, sector = _isolated(frame.image)
        if sector < 0:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "too few neighbouring returns")
        self._run = self._run + 1 if share > MAX_ISOLATED_SHARE else 0
        if self._run >= CONFIRM:
            azimuth = sector * 360 // JAM_SECTORS - 170
            return self._result(Level.ANOMALY, share, f"{share:.0%} of the returns around {azimuth} deg stand alone")
        return self._result(Level.OK, min(share, MAX_ISOLATED_SHARE), "")

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else 360.0 / JAM_SECTORS
        return CheckResult(
            self.name, self.sensors, level, statistic, MAX_ISOLATED_SHARE, power, "deg", "ranges", reason
        )


def _isolated(image: NDArray[np.float32]) -> tuple[float, int]:
    """Largest share of isolated cells over sectors, and the sector; -1 when none has enough cells."""
    tolerance = ISOLATION_M + ISOLATION_RATIO * image
    alone = np.ones(image.shape, dtype=np.bool_)
    known = np.isfinite(image)
    beside = np.zeros(image.shape, dtype=np.int8)
    with np.errstate(invalid="ignore"):
        for shift in (-1, 1):
            other = np.roll(image, shift, axis=1)
            alone &= ~(np.abs(other - image) <= tolerance)
            beside += np.isfinite(other)
        up = np.abs(np.diff(image, axis=0)) <= tolerance[1:]
    alone[1:] &= ~up
    alone[:-1] &= ~up
    known &= beside == 2
    width = COLUMNS // JAM_SECTORS
    cells = known.sum(axis=0).reshape(JAM_SECTORS, width).sum(axis=1)
    odd = (alone & known).sum(axis=0).reshape(JAM_SECTORS, width).sum(axis=1)
    share = np.where(cells >= MIN_JAM_CELLS, odd / np.maximum(cells, 1), -1.0)
    worst = int(np.argmax(share))
    return (float(share[worst]), worst) if share[worst] >= 0 else (0.0, -1)
