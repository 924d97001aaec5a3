"""L8.density: are there more returns in a part of the sphere than the sensor fires into it?

A spinning lidar fires as often in every azimuth. Where the beams of some rings all return (the ground, all round),
their number per solid angle is known from the sweep itself, and no body at any range returns more of them: the upper
side of the density law, N <= A cos(th) / (r^2 d_az d_el). It needs no rings, so that it holds where `L6.firings` has
nothing to go by.

The lower side, and with it the missing shadow, tells nothing apart: foliage, fences and glass return as small a share
of what meets them as a sparse ghost does (figures in docs/checks-geometry.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarEvidence, LidarFrame
from edgeguard.checks.lidar_firings import EDGE_M, LEARNING, MIN_EDGES, MIN_LEARNED, count_edges, moves
from edgeguard.kernels.ranges import COLUMNS, ROWS
from edgeguard.kernels.regions import count_returns
from edgeguard.types import LIDAR, CheckResult, Level, SyncedSet

LEAST_M = 4.0  # nearer, the lasers of one head, some 0.2 m apart, look past each other by several rings
TOGETHER = 4  # columns of the range image: 1.6 degrees
WIDTH, HEIGHT = 3, 8  # of a window, in those and in rows: 4.8 by 4 degrees, the size of a car at 20 m
# A window that holds four rings may hold a fifth. What a driver turns to one instant bunches in proportion to speed: it
# has at most doubled where the speed has at most doubled.
LEARN_RATIO, MAX_RATIO, MAX_FASTER = 1.25, 1.5, 2.0
MIN_BUDGET = 40  # with fewer, half as many again are twenty
FULL_SHARE = 0.75  # median of a band's windows of their upper decile: only where nearly all return is a budget known
MAX_BLIND = 6  # windows of 1.6 degrees that exceed the ratio from the first: a turn's seam
MAX_DOUBLES_PER_EDGE = 0.05  # a sensor of two returns has a fifth; lasers of one head cross by chance in a thirtieth
CONFIRM = 2  # sweeps in a row
ASKED_SHARE = 0.1  # of all columns, in which doubles are looked for
SAME_RAD = 2e-4  # two returns of one firing differ by rounding, a thousandth of that


class DensityCheck:
    """L8.density: returns of the fullest window of 4.8 by 4 deg, against what its elevations have all round.

    statistic: how far the ratio lies above 1, as a share of what is tolerated; threshold 1. power: returns that would
    have to be added to the window of the smallest budget. Not observable where no band of elevations returns all
    round, where rings are a degree apart or more, for sensors that give several returns per firing and clouds turned
    to one instant, and at more than twice the speed at which either was seen not to be.
    """

    name = "L8.density"

    def __init__(self, evidence: LidarEvidence, sensor: str = LIDAR) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._evidence = evidence
        self._single: bool | None = None  # None until it is known
        self._blind = np.zeros(COLUMNS // TOGETHER, np.bool_)
        self._learned = self._edges = self._doubles = self._run = 0
        self._known_m = 0.0  # between two sweeps, at which no ratio exceeded what was learned

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        if synced.tick.discontinuity:
            self._run = 0
        frame = self._evidence.frame(synced)
        if frame is None:
            return self._blank("no sweep at this tick")
        seen = _densities(frame)
        if seen is None:
            return self._blank("nowhere do all beams return")
        if self._single is None:
            if frame.motion is not None and moves(frame):
                self._known_m = max(self._known_m, abs(frame.motion.dx_m))
                self._learn(frame, seen)
            return self._blank(LEARNING)
        if not self._single:
            return self._blank("returns are uneven: several per firing, or turned to one instant")
        motion_m = abs(frame.motion.dx_m) if frame.motion is not None else self._known_m
        if motion_m > MAX_FASTER * self._known_m:
            return self._blank("the vehicle is much faster than where it was learned")
        return self._judge(seen, motion_m)

    def _judge(self, seen: _Densities, motion_m: float) -> CheckResult:
        ratio = np.where(self._blind, 0.0, seen.ratio)
        worst = int(np.argmax(ratio))
        share = max(0.0, float(ratio[worst]) - 1.0) / (MAX_RATIO - 1.0)
        power = (MAX_RATIO - 1.0) * seen.budget
        if ratio[worst] <= LEARN_RATIO:
            self._known_m = max(self._known_m, motion_m)
        self._run = self._run + 1 if share > 1.0 else 0
        if self._run < CONFIRM:
            return self._result(Level.OK, min(share, 1.0), power, "")
        azimuth = round((worst + 0.5 * WIDTH) * TOGETHER * 360.0 / COLUMNS) - 180
        words = f"{ratio[worst]:.2f} times as many returns around {azimuth} deg as the sensor fires there"
        return self._result(Level.ANOMALY, share, power, words)

    def _learn(self, frame: LidarFrame, seen: _Densities) -> None:
        """Collect edges and doubles until it is clear whether firings give one return."""
        self._learned += 1
        self._blind |= seen.ratio > LEARN_RATIO
        self._edges += count_edges(frame.image)
        self._doubles += _doubles(frame)
        if self._learned >= MIN_LEARNED and self._edges >= MIN_EDGES / ASKED_SHARE:
            few = self._doubles <= MAX_DOUBLES_PER_EDGE * ASKED_SHARE * self._edges
            self._single = bool(few and np.count_nonzero(self._blind) <= MAX_BLIND)

    def _blank(self, reason: str) -> CheckResult:
        self._run = 0
        return self._result(Level.NOT_OBSERVABLE, 0.0, math.inf, reason)

    def _result(self, level: Level, statistic: float, power: float, reason: str) -> CheckResult:
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "returns", "density", reason)


@dataclass(frozen=True, slots=True)
class _Densities:
    """ratio: (225,) largest of each window's first column over all bands; budget: the smallest of a band."""

    ratio: NDArray[np.float64]
    budget: float


def _densities(frame: LidarFrame) -> _Densities | None:
    counts = count_returns(frame.row, frame.col, frame.range_m, ROWS, COLUMNS, TOGETHER, LEAST_M)
    wide = counts + sum(np.roll(counts, -shift, axis=1) for shift in range(1, WIDTH))
    total = np.zeros((ROWS + 1, counts.shape[1]), np.int32)
    np.cumsum(wide, axis=0, out=total[1:])
    window = total[HEIGHT:] - total[:-HEIGHT]
    columns = window.shape[1]
    ranked = np.partition(window, (columns // 2, columns * 9 // 10), axis=1)
    middle, budget = ranked[:, columns // 2], ranked[:, columns * 9 // 10]
    # Two rows in a row without returns: rings farther apart than a degree, of which a window holds three or fewer.
    off = np.count_nonzero(wide, axis=1) <= columns // 2
    gaps = np.concatenate(([0], np.cumsum(off[1:] & off[:-1])))
    full = (middle >= FULL_SHARE * budget) & (budget >= MIN_BUDGET) & (gaps[HEIGHT - 1 :] == gaps[: -HEIGHT + 1])
    if not full.any():
        return None
    return _Densities((window[full] / budget[full, None]).max(axis=0), float(budget[full].min()))


def _doubles(frame: LidarFrame) -> int:
    """Returns in the very direction of another one at another range, in a tenth of all azimuths."""
    part = frame.col % 10 == 0
    xyz, range_m = frame.xyz[part].astype(np.float64), frame.range_m[part]
    azimuth = np.floor(np.arctan2(xyz[:, 1], xyz[:, 0]) / SAME_RAD).astype(np.int64)
    elevation = np.floor(np.arcsin(np.clip(xyz[:, 2] / range_m, -1.0, 1.0)) / SAME_RAD).astype(np.int64)
    key = azimuth * (1 << 32) + elevation
    order = np.argsort(key)
    same = np.diff(key[order]) == 0
    return int(np.count_nonzero(same & (np.abs(np.diff(range_m[order])) > EDGE_M)))
