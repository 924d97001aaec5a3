"""L1.object and L4.crossing: returns that must be there and are not.

Each return of the sweep before is carried into today's frame, and the beam that would meet its place is asked what
became of it (`kernels.whereabouts`): still there, covered by something nearer, seen past, or no return at all.

* **L1.object**: an upright body of which hardly a return is left. Either nothing returns from its beams, although what
  stands behind it would (`lidar_holes`): its echoes were taken away (Cao et al., USENIX Security 2023). Or the beams
  go past it, although nothing covers it, nothing of it remains beside it, and nothing new stands where it could have
  gone: solid bodies do not vanish.
* **L4.crossing**: returns from below ground that the sweep before had seen closed. Beams do not pass through a road;
  a mirror, or a spoofer who sets ranges behind a surface, makes them seem to.

Both must hold for two sweeps, but for a large hole in what the ground must fill, which no lost packet explains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarEvidence, LidarFrame
from edgeguard.checks.lidar_holes import Hole, look_for_hole
from edgeguard.checks.lidar_paths import V_MAX_M_S, displacements
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.clusters import cluster_points
from edgeguard.kernels.ranges import COLUMNS, HIT, ask_sweep
from edgeguard.kernels.regions import count_in_box, within_reach
from edgeguard.kernels.whereabouts import (
    BEYOND,
    COVERED,
    EMPTY,
    GROUND,
    MIN_COLUMN,
    OUTSIDE,
    UPRIGHT,
    Bounds,
    SweepCells,
    Whereabouts,
    cells_of_sweep,
    choose_gone,
    follow_places,
    follow_returns,
)
from edgeguard.types import LIDAR, CheckResult, Level, SyncedSet

NEAREST_M, FARTHEST_M = 2.5, 32.0  # nearer, bodies leave the field of view below; farther, they have few returns
OBJECT_NEAREST_M = 5.0  # so that what remains of a body that passes by is seen beside what has gone
UPRIGHT_M, TOP_M = 0.35, 3.5
GROUND_M = 0.15  # what lies within this of the ground is ground
ROAD_M = 0.3  # what returns where a body has left: kerbs and slopes too
MARGIN_M, MARGIN_RATIO = 0.5, 0.02
DEPTH_M, DEPTH_RATIO = 0.3, 0.01  # below ground: half a degree of pitch and the height of a kerb
THIN_M, THIN_GROUND_M = 10.0, 10.0  # nearer than this there are returns to spare
CELL_M = 0.35  # three are a person and what is beside
SIDE = int(2 * (FARTHEST_M + 2.0) / CELL_M)
JOIN_M = 0.5
MIN_CELL = 8  # returns in a neighbourhood of 3 x 3 cells to judge it by
LEFT_SHARE = 0.4  # of the share that other bodies keep: attacks leave a tenth of the points, a fifth of the cells
MIN_OBJECT = 40  # returns of a body that is worth an alarm: a pedestrian at 20 m in a 64-beam sweep
# Without a hole, through which what is behind speaks, a departure is read from absence alone, and parts of bodies that
# are seen past others come and go by forty returns.
MIN_DEPARTED = 60
MIN_HOLE = 16  # of them, empty: what `lidar_holes` asks for is more
MIN_CROSSED = 24
MIN_RINGS = 3.0  # a body that fewer beams met, one above the other, may have slipped between them
MIN_TALL_M = 0.3  # of an upright body that vanishes: pitching takes a row of beams off a roof's edge
BOX_M = 0.4  # how far aside a body is looked for before it is called gone: ego-motion error and the cells' edges
MIN_LOSS = 0.65  # of a body's returns that the box around what is gone must have lost
MIN_HOLE_SHARE = 0.5  # of a body that must be empty: what touches it counts as its part
GROW_M = 2.5
BODY_VOXEL_M = 0.35
MIN_BODY_SHARE = 0.6  # a part that is gone has moved with the rest, or turned out of sight
MAX_CONTACT = 0.35  # of a region's returns that remain beside it: then a part moved on, and the rest is the body
STILL_SHARE = 0.8  # of a region that stood at the same place one sweep earlier: it was not fast
STILL_REACH_M = 1.0  # what a pedestrian's dash and a car's braking distance in one sweep stay below
HOLE_REACH_M = 3.0  # what a car that comes towards us moves in one sweep: the hole moves with it
EXIT_SHARE = 0.5
EXIT_GAIN = 0.35  # of its returns that the place must have gained: part of it may be hidden there
MAX_EXITS = 4
MAX_LOST_SHARE = 0.6  # of all uncovered upright returns: more is a wrong motion or a blockage, not an object
MAX_REGIONS = 6
CONFIRM = 2
HOLD = 10  # sweeps that an alarm lasts: after a second what is gone is the new state of the street
SAMPLE = 48

BOUNDS = Bounds(
    NEAREST_M,
    FARTHEST_M,
    UPRIGHT_M,
    TOP_M,
    GROUND_M,
    MARGIN_M,
    MARGIN_RATIO,
    DEPTH_M,
    DEPTH_RATIO,
    THIN_M,
    THIN_GROUND_M,
    SIDE,
    CELL_M,
)


@dataclass(slots=True, eq=False)
class _Missing:
    """Returns that vanished together. xyz: (N, 3) float32 in the frame of `T_world`; hole: what was found of it, None
    where beams go past it; run: sweeps it is gone for."""

    xyz: NDArray[np.float32]
    ground: bool
    T_world: NDArray[np.float64]
    range_m: float
    hole: Hole | None = None
    run: int = 1


class _VanishedReturns:
    """The comparison that both checks share; computed once per sweep."""

    def __init__(self, evidence: LidarEvidence) -> None:
        self._evidence = evidence
        self._before: LidarFrame | None = None
        self._earlier: tuple[LidarFrame, NDArray[np.float64]] | None = None
        self._done: LidarFrame | None = None
        self._pose = np.eye(4)
        self._filled: NDArray[np.int32] | None = None
        self.objects: list[_Missing] = []
        self.crossed: list[_Missing] = []
        self.why_not = ""

    def update(self, synced: SyncedSet) -> LidarFrame | None:
        """Bring the lists up to this tick's sweep; None when there is nothing to compare (see `why_not`)."""
        frame = self._evidence.frame(synced)
        if frame is None:
            self.why_not = "no sweep at this tick"
            return None
        if frame is self._done:
            return frame if frame.motion is not None else None
        before, self._before, self._done = self._before, frame, frame
        now = cells_of_sweep(frame, ROAD_M)
        filled, self._filled = self._filled, now.filled
        if frame.motion is None or before is None or filled is None:
            self.why_not = frame.why_not or "no earlier sweep"
            self.objects, self.crossed, self._earlier = [], [], None
            return None
        self.why_not = ""
        self._pose = self._pose @ frame.motion.matrix()
        T_cur_prev: NDArray[np.float64] = np.linalg.inv(frame.motion.matrix()).astype(np.float64)
        # A column that was empty before is outside the view; one that has become so is not.
        looks = np.maximum(filled, now.filled) >= MIN_COLUMN
        self._compare(_Pair(before, frame, T_cur_prev, now, looks))
        self._earlier = (before, T_cur_prev)
        return frame

    def _compare(self, pair: _Pair) -> None:
        self.objects = [m for m in self.objects if self._still(m, pair)]
        self.crossed = [m for m in self.crossed if self._still(m, pair)]
        before = pair.before
        found = follow_returns(
            before.xyz, before.range_m, before.height_m, pair.T_cur_prev, pair.now, pair.looks, BOUNDS
        )
        T_world_before = self._pose @ pair.T_cur_prev
        for region in _regions(found, before.xyz, UPRIGHT):
            hole = self._hole(region, found, pair)
            if hole is not None:
                self.objects.append(_Missing(region.hollow, False, T_world_before, region.range_m, hole))
            elif self._departed(region, found, pair):
                self.objects.append(_Missing(region.xyz, False, T_world_before, region.range_m))
        for region in _regions(found, before.xyz, GROUND):
            if float(np.hypot(region.xyz[:, 0], region.xyz[:, 1]).min()) >= OBJECT_NEAREST_M:
                self.crossed.append(_Missing(region.xyz, True, T_world_before, region.range_m))

    def _hole(self, region: _Region, found: Whereabouts, pair: _Pair) -> Hole | None:
        """What returns from the beams that the body had met, when that is nothing."""
        enough = np.count_nonzero(region.empty) >= max(MIN_HOLE, 0.5 * region.empty.size)
        if not enough or not region.tall or region.contact > MAX_CONTACT:
            return None  # specks that a window or black paint loses are no hole
        hole = look_for_hole(region.cell[region.empty], pair.now, pair.looks)
        if not hole.empty or hole.sure:
            return hole if hole.empty else None
        # What is beside need not be behind: then the whole body must be gone, and be nowhere.
        whole = np.count_nonzero(region.empty) >= MIN_HOLE_SHARE * _body(region.xyz, found, pair)
        return hole if whole and not self._leaves(region.xyz, pair, EXIT_GAIN) else None

    def _departed(self, region: _Region, found: Whereabouts, pair: _Pair) -> bool:
        """Whether a whole body is gone, beams go past it, and it went nowhere."""
        if region.xyz.shape[0] < MIN_DEPARTED or region.contact > MAX_CONTACT or _rings(region.cell, pair) < MIN_RINGS:
            return False
        xyz = region.xyz
        if float(np.hypot(xyz[:, 0], xyz[:, 1]).min()) < OBJECT_NEAREST_M or not region.tall:
            return False
        was, is_ = _counts(xyz, np.zeros(2), pair)
        if was - is_ < MIN_LOSS * xyz.shape[0]:
            return False
        body = _body(xyz, found, pair)
        whole = xyz.shape[0] >= MIN_BODY_SHARE * body and was - is_ >= MIN_LOSS * body
        return whole and not self._leaves(xyz, pair)

    def _still(self, missing: _Missing, pair: _Pair) -> bool:
        """Whether what vanished is still gone; counts the sweep."""
        missing.run += 1
        if missing.run > HOLD:
            return False
        T = np.linalg.inv(self._pose) @ missing.T_world
        fate, cell = follow_places(missing.xyz, missing.ground, T, pair.now, pair.looks, BOUNDS)
        if missing.hole is not None:
            reach = round(HOLE_REACH_M / missing.range_m * COLUMNS / (2 * np.pi))
            hole = look_for_hole(cell, pair.now, pair.looks, reach)
            return hole.empty
        gone = fate == BEYOND if missing.ground else (fate == BEYOND) | (fate == EMPTY)
        open_ = (fate != COVERED) & (fate != OUTSIDE)
        enough = np.count_nonzero(open_) >= 0.5 * missing.xyz.shape[0]
        return bool(enough and gone[open_].mean() >= 1.0 - LEFT_SHARE)

    def _leaves(self, region: NDArray[np.float32], pair: _Pair, least: float = 0.0) -> bool:
        """Whether something new stands where the body could have moved to. least: of the body's returns, that there
        must be more of there."""
        before, frame, T_cur_prev = pair.before, pair.frame, pair.T_cur_prev
        dt_s = (frame.stamp_ns - before.stamp_ns) / NS_PER_S
        earlier = self._earlier
        by = displacements(V_MAX_M_S * dt_s)
        if earlier is not None and _seen_at(region, earlier[0], np.linalg.inv(earlier[1]).astype(np.float64)):
            by = displacements(STILL_REACH_M)
        elif earlier is not None and _seen_at(region, earlier[0], np.eye(4)):
            by = displacements(STILL_REACH_M) + np.linalg.inv(T_cur_prev)[:2, 3]  # it drove ahead, as fast as we do
        sample = region[:: max(1, region.shape[0] // SAMPLE)]
        places = np.repeat(sample[None], by.shape[0], axis=0)
        places[:, :, :2] += by[:, None, :].astype(np.float32)
        flat = np.ascontiguousarray(places.reshape(-1, 3))
        now, _ = ask_sweep(flat, T_cur_prev, frame.image, 0.5 * MARGIN_M, MARGIN_RATIO)
        then, _ = ask_sweep(flat, np.eye(4), before.image, 0.5 * MARGIN_M, MARGIN_RATIO)
        fits = ((now == HIT) & (then != HIT)).reshape(by.shape[0], -1).mean(axis=1)
        if least <= 0.0 or fits.max() < EXIT_SHARE:
            return bool(fits.max() >= EXIT_SHARE)
        best = np.argsort(-fits, kind="stable")[:MAX_EXITS]
        had, _ = _counts(region, np.zeros(2), pair)
        for at in best[fits[best] >= EXIT_SHARE]:
            was, there = _counts(region, by[at], pair)
            if there - was >= least * had:
                return True
        return False


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Two sweeps that are compared. now: the cells of the later one; looks: columns in which the sensor looks."""

    before: LidarFrame
    frame: LidarFrame
    T_cur_prev: NDArray[np.float64]
    now: SweepCells
    looks: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class _Region:
    """Connected returns that are gone. xyz: (N, 3) float32 m, earlier frame; cell: (N,) int32 of today's image; empty:
    (N,) bool, of those without any return; contact: returns that remain beside it, as a share."""

    xyz: NDArray[np.float32]
    cell: NDArray[np.int32]
    empty: NDArray[np.bool_]
    contact: float

    @property
    def range_m(self) -> float:
        return float(np.median(np.linalg.norm(self.xyz, axis=1)))

    @property
    def hollow(self) -> NDArray[np.float32]:
        return np.ascontiguousarray(self.xyz[self.empty])

    @property
    def tall(self) -> bool:
        return float(np.ptp(self.xyz[:, 2])) >= MIN_TALL_M


def _seen_at(region: NDArray[np.float32], earlier: LidarFrame, T: NDArray[np.float64]) -> bool:
    """Whether an earlier sweep had seen the region at the same place. T: from the region's frame to the sweep's."""
    status, _ = ask_sweep(region, T, earlier.image, 0.5 * MARGIN_M, 0.5 * MARGIN_RATIO)
    return bool(np.mean(status == HIT) >= STILL_SHARE)


def _body(region: NDArray[np.float32], found: Whereabouts, pair: _Pair) -> int:
    """Returns of the body that a region was connected to, of those that were followed."""
    xyz = pair.before.xyz[found.index[found.kind == UPRIGHT]]
    low, high = region[:, :2].min(axis=0), region[:, :2].max(axis=0)
    middle, reach_m = (low + high) / 2, float(np.linalg.norm(high - low)) / 2 + GROW_M
    near = xyz[within_reach(xyz, float(middle[0]), float(middle[1]), reach_m)]
    labels, _ = cluster_points(np.ascontiguousarray(np.vstack((near, region))), BODY_VOXEL_M)
    return int(np.count_nonzero(np.isin(labels[: near.shape[0]], labels[near.shape[0] :])))


def _rings(cell: NDArray[np.int32], pair: _Pair) -> float:
    """How many rings of the sensor meet the rows in which a body was."""
    row = cell[cell >= 0] // COLUMNS
    if row.size == 0:
        return 0.0
    return float(pair.now.rows[row.min() : row.max() + 1].sum() / max(np.count_nonzero(pair.looks), 1))


def _counts(region: NDArray[np.float32], by_m: NDArray[np.float64], pair: _Pair) -> tuple[int, int]:
    """Returns in the box around a region, moved in the plane, in the sweep before and in today's."""
    moved = region.astype(np.float64)
    moved[:, :2] += by_m
    here = moved @ pair.T_cur_prev[:3, :3].T + pair.T_cur_prev[:3, 3]
    counts = []
    for place, sweep in ((moved, pair.before), (here, pair.frame)):
        low, high = place.min(axis=0) - BOX_M, place.max(axis=0) + BOX_M
        low[2] += BOX_M  # not into the ground
        counts.append(count_in_box(sweep.xyz, low, high, np.zeros(sweep.xyz.shape[0], np.bool_))[0])
    return counts[0], counts[1]


def _regions(found: Whereabouts, xyz: NDArray[np.float32], kind: int) -> Iterator[_Region]:
    """Yield the connected regions that vanished, the largest first. xyz: (N, 3) float32 of the earlier sweep."""
    there, gone = int(found.there[kind].sum()), int(found.gone[kind].sum())
    kept = there / max(there + gone, 1)
    least = MIN_CROSSED if kind == GROUND else MIN_HOLE
    if gone < least or (kind == UPRIGHT and kept < 1.0 - MAX_LOST_SHARE):
        return
    chosen = choose_gone(found, kind, SIDE, MIN_CELL, LEFT_SHARE * kept).copy()
    if chosen.size < least:
        return
    points = xyz[found.index[chosen]]
    labels, count = cluster_points(np.ascontiguousarray(points), JOIN_M)
    sizes = np.bincount(labels[labels >= 0], minlength=count)
    present = found.there[kind].reshape(SIDE, SIDE)
    for label in np.argsort(-sizes, kind="stable")[:MAX_REGIONS]:
        own = labels == label
        size = int(np.count_nonzero(own))
        if size < least:
            return
        members = chosen[own]
        area = np.zeros((SIDE, SIDE), dtype=np.int64)
        area.reshape(-1)[found.place[members]] = 1
        contact = float(present[(_around(area) > 0) & (area == 0)].sum()) / size
        yield _Region(np.ascontiguousarray(points[own]), found.cell[members], found.fate[members] == EMPTY, contact)


def _around(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums over 3 x 3 cells."""
    rows = counts.copy()
    rows[1:] += counts[:-1]
    rows[:-1] += counts[1:]
    total = rows.copy()
    total[:, 1:] += rows[:, :-1]
    total[:, :-1] += rows[:, 1:]
    return total


def _gravity(missing: _Missing) -> tuple[bool, int, int]:
    clear = missing.hole is not None and missing.hole.clear
    return missing.run >= CONFIRM or clear, missing.run, missing.xyz.shape[0]


class _VanishedCheck(ABC):
    """What the two checks have in common."""

    name = ""
    _least = 0

    def __init__(self, shared: _VanishedReturns, sensor: str = LIDAR) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._shared = shared

    @abstractmethod
    def _missing(self) -> list[_Missing]:
        """What is missing now."""

    @abstractmethod
    def _words(self, worst: _Missing) -> str:
        """Say it for people."""

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        if self._shared.update(synced) is None:
            return self._result(Level.NOT_OBSERVABLE, 0.0, self._shared.why_not)
        worst = max(self._missing(), key=_gravity, default=None)
        if worst is None:
            return self._result(Level.OK, 0.0, "")
        statistic = max(1.0, worst.xyz.shape[0] / self._least)
        if not _gravity(worst)[0]:
            return self._result(Level.OK, min(statistic, 1.0), "")
        return self._result(Level.ANOMALY, statistic, self._words(worst))

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else float(self._least)
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "points", "objects", reason)


class ObjectRemovalCheck(_VanishedCheck):
    """L1.object. statistic: returns of the largest vanished body, as a share of `MIN_OBJECT`; threshold 1."""

    name = "L1.object"
    _least = MIN_OBJECT

    def _missing(self) -> list[_Missing]:
        return self._shared.objects

    def _words(self, worst: _Missing) -> str:
        if worst.hole is not None:
            due, found = worst.hole.expected, worst.hole.found
            body = f"a body at {worst.range_m:.1f} m is gone"
            return f"{body}: {found:.0f} returns from there, where what is behind gives {due:.0f}"
        body = f"{worst.xyz.shape[0]} returns of a body at {worst.range_m:.1f} m"
        return f"{body} are gone: nothing covers it, and it went nowhere"


class CrossingCheck(_VanishedCheck):
    """L4.crossing. statistic: ground returns that beams now pass through, as a share of `MIN_CROSSED`; threshold 1."""

    name = "L4.crossing"
    _least = MIN_CROSSED

    def _missing(self) -> list[_Missing]:
        return self._shared.crossed

    def _words(self, worst: _Missing) -> str:
        return f"beams pass through {worst.xyz.shape[0]} places of closed ground at {worst.range_m:.1f} m"


def build_vanished_checks(evidence: LidarEvidence) -> tuple[ObjectRemovalCheck, CrossingCheck]:
    """Return the two checks on one comparison."""
    shared = _VanishedReturns(evidence)
    return ObjectRemovalCheck(shared), CrossingCheck(shared)
