"""L6.firings: does a firing of the lidar give more returns than the sensor's mode allows?

A spinning lidar that reports one return per firing has, in each of its rings, at most one return per direction. What
is written into a sweep by somebody else (a second publisher, a man in the middle on the sensor's network) leaves the
genuine returns where they were, and then two stand in one direction at two ranges.

Whether the sensor gives one return is learned: a beam is wider than nothing, so that a sensor which reports two gives
pairs at depth edges. Where edges were many and pairs none, firings give one return. It is learned while the vehicle
drives: clouds that a driver has turned to one instant have pairs at edges then, and none at rest.

Of the catalogue's other beam tests, a budget of returns per ring is this one with less power, and range-compensated
intensity has no law without a class: paint and glass span all of it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import MAX_POINTS, LidarEvidence, LidarFrame
from edgeguard.kernels.firings import (
    MAX_REACH_M,
    MAX_RINGS,
    MAX_STEP_RAD,
    MIN_REACH_M,
    MIN_STEP_RAD,
    SECTORS,
    count_pairs,
)
from edgeguard.types import LIDAR, CheckResult, Level, PointCloud, SyncedSet

MIN_LEARNED = 3  # sweeps
MOVING_M = 0.1  # between two sweeps; half of it shifts what a driver turns to one instant by three firings at 6 m
MIN_EDGES = 500  # of a percent, five pairs are then expected of the least dual sensor; chance gives none of it
MAX_PAIRS_PER_EDGE = 0.01  # a second return needs a beam that an edge splits: beams of 1.5 to 6 mrad, edges 3 apart
MIN_PAIRS = 24  # in two sectors: what a body needs to be a detector's object, and as many as L2 takes for one
SPREAD = 3.0  # times what a quarter of the other windows have: clouds turned to one instant have pairs at every edge
MAX_BLIND = 0.25  # of the windows: a turn's seam takes one or two
CONFIRM = 2  # sweeps in a row
SEAM = 2  # windows with the most pairs are not what says how many returns a firing gives
LEARNING = "learning from a moving vehicle how many returns a firing gives"
RINGS_ASKED = 4  # for the step between firings, the fullest
EDGE_M, EDGE_RATIO = 1.0, 0.1  # between cells of 0.4 degrees, a jump that no road has at this range


class FiringsCheck:
    """L6.firings: pairs of returns in one ring and direction, in the worst two sectors of 7 to 14 deg.

    statistic: share of the limit, threshold 1. power: returns that would have to be added. Not observable without
    rings, until the vehicle has driven and it is known whether the sensor gives one return per firing, and for sensors
    that give more.
    """

    name = "L6.firings"

    def __init__(self, evidence: LidarEvidence, sensor: str = LIDAR) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._evidence = evidence
        self._step_rad: float | None = None
        self._single: bool | None = None  # None until it is known
        self._blind = np.zeros(SECTORS, np.bool_)
        self._learned = self._edges = self._run = 0
        self._pairs = 0.0

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        if synced.tick.discontinuity:
            self._run = 0
        frame = self._evidence.frame(synced)
        if frame is None:
            return self._blank("no sweep at this tick")
        ring = frame.cloud.ring
        if ring is None:
            return self._blank("the source does not tell rings")
        xyz, rings = _compiled(frame.cloud, ring)
        if self._step_rad is None:
            self._step_rad = firing_step(xyz, rings)
            if self._step_rad is None:
                return self._blank("no ring is full enough to tell its firings")
        other, same = count_pairs(xyz, rings, self._step_rad)
        pairs = np.maximum(other - same, 0)  # the seam of a turn: mostly the same surface again
        windows = pairs + np.roll(pairs, -1)
        if self._single is None:
            if moves(frame):
                self._learn(windows, frame.image)
            return self._blank(LEARNING)
        if not self._single:
            return self._blank("the sensor gives several returns per firing")
        return self._judge(windows)

    def _judge(self, windows: NDArray[np.int64]) -> CheckResult:
        limit = MIN_PAIRS + SPREAD * float(np.percentile(windows, 75))
        seen = np.where(self._blind, 0, windows)
        worst = int(np.argmax(seen))
        share = float(seen[worst]) / limit
        self._run = self._run + 1 if share > 1.0 else 0
        if self._run < CONFIRM:
            return self._result(Level.OK, min(share, 1.0), limit, "")
        azimuth = round(_azimuth_deg(worst + 1))
        words = f"{seen[worst]} firings around {azimuth} deg gave two returns, and this sensor gives one"
        return self._result(Level.ANOMALY, share, limit, words)

    def _learn(self, windows: NDArray[np.int64], image: NDArray[np.float32]) -> None:
        """Collect edges and pairs until it is clear whether firings give one return."""
        self._learned += 1
        self._blind |= windows > MIN_PAIRS
        self._edges += count_edges(image)
        self._pairs += float(np.sort(windows)[: -2 * SEAM].sum()) / 2.0  # each pair is in two windows
        if self._learned >= MIN_LEARNED and self._edges >= MIN_EDGES:
            few = self._pairs <= MAX_PAIRS_PER_EDGE * self._edges
            self._single = bool(few and self._blind.mean() <= MAX_BLIND)

    def _blank(self, reason: str) -> CheckResult:
        self._run = 0
        return self._result(Level.NOT_OBSERVABLE, 0.0, math.inf, reason)

    def _result(self, level: Level, statistic: float, power: float, reason: str) -> CheckResult:
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "returns", "firings", reason)


def _compiled(cloud: PointCloud, ring: NDArray[np.int16]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Points and rings as the kernel takes them; copied only where they are not."""
    size = min(MAX_POINTS, cloud.xyz.shape[0], ring.shape[0])
    xyz = np.require(cloud.xyz[:size], np.float32, ["C", "W"])
    return xyz, np.require(ring[:size], np.int16, ["C", "W"])


def firing_step(xyz: NDArray[np.float32], ring: NDArray[np.int16]) -> float | None:
    """Azimuth between two firings of a ring, rad: the middle gap of the fullest rings; None where none is full.

    Gaps of less than a third of the upper quartile are second returns, and left out. xyz (N, 3), ring (N,) int16.
    """
    counts = np.bincount(ring[(ring >= 0) & (ring < MAX_RINGS)])
    steps = []
    for one in np.argsort(counts)[::-1][:RINGS_ASKED]:
        x, y = xyz[ring == one, 0].astype(np.float64), xyz[ring == one, 1].astype(np.float64)
        with np.errstate(all="ignore"):
            rho = np.hypot(x, y)
            good = (rho >= MIN_REACH_M) & (rho <= MAX_REACH_M)
        if np.count_nonzero(good) < 2 * np.pi / MAX_STEP_RAD:
            continue
        gaps = np.diff(np.sort(np.arctan2(y[good], x[good])))
        steps.append(float(np.median(gaps[gaps >= np.percentile(gaps, 75) / 3.0])))
    step = float(np.median(steps)) if steps else 0.0
    return step if MIN_STEP_RAD <= step <= MAX_STEP_RAD else None


def moves(frame: LidarFrame) -> bool:
    """Whether the vehicle is known to have moved since the sweep before."""
    return frame.motion is not None and abs(frame.motion.dx_m) >= MOVING_M


def count_edges(image: NDArray[np.float32]) -> int:
    """Neighbouring cells of the range image of which one is a jump behind the other."""
    near, far = np.minimum(image[:, 1:], image[:, :-1]), np.maximum(image[:, 1:], image[:, :-1])
    return int(np.count_nonzero((far < np.inf) & (far - EDGE_M > (1.0 + EDGE_RATIO) * near)))


def _azimuth_deg(sector: int) -> float:
    """Where a sector begins, degrees counter-clockwise, -180 to 180."""
    d = sector * 4.0 / SECTORS % 4.0
    y = d if d <= 1.0 else (2.0 - d if d <= 3.0 else d - 4.0)
    x = (1.0 - abs(y)) * (-1.0 if 1.0 < d < 3.0 else 1.0)
    return math.degrees(math.atan2(y, x))
