"""L1.object and L4.crossing: returns that must be there and are not.

Each return of the sweep before is carried into today's frame, and the beam that would meet its place is asked what
became of it (`kernels.fates`): still there, covered by something nearer, seen past, or no return at all.

* **L1.object**: an upright body of which hardly a return is left, although nothing covers it, nothing of it remains
  beside it, and nothing new stands where it could have gone. Removal attacks (Cao et al., USENIX Security 2023)
  suppress the echoes of one object, and solid bodies do not vanish.
* **L4.crossing**: returns from below ground that the sweep before had seen closed. Beams do not pass through a road;
  a mirror, or a spoofer who sets ranges behind a surface, makes them seem to.

Both must hold for two sweeps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarEvidence, LidarFrame
from edgeguard.checks.lidar_paths import V_MAX_M_S, displacements
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.clusters import cluster_points
from edgeguard.kernels.fates import BEYOND, COVERED, EMPTY, OUTSIDE, PRESENT, fate_of_points
from edgeguard.kernels.ranges import HIT, ask_sweep
from edgeguard.kernels.regions import count_in_box, within_reach
from edgeguard.types import LIDAR, CheckResult, Level, SyncedSet

NEAREST_M, FARTHEST_M = 2.5, 32.0  # nearer, bodies leave the field of view below; farther, they have few returns
OBJECT_NEAREST_M = 5.0  # so that what remains of a body that passes by is seen beside what has gone
UPRIGHT_M, TOP_M = 0.35, 3.5
GROUND_M = 0.15  # what lies within this of the ground is ground
MARGIN_M, MARGIN_RATIO = 0.5, 0.02
DEPTH_M, DEPTH_RATIO = 0.3, 0.01  # below ground: half a degree of pitch and the height of a kerb
CELL_M = 0.5
SIDE = int(2 * (FARTHEST_M + 2.0) / CELL_M)
MIN_CELL = 8  # returns in a neighbourhood of 3 x 3 cells to judge it by
LEFT_SHARE = 0.4  # of the share that other bodies keep: attacks leave a tenth of the points, a fifth of the cells
MIN_OBJECT = 40  # returns of a body that is worth an alarm: a pedestrian at 20 m in a 64-beam sweep
MIN_CROSSED = 24
MIN_TALL_M = 0.3  # of an upright body that vanishes: pitching takes a row of beams off a roof's edge
BOX_M = 0.4  # how far aside a body is looked for before it is called gone: ego-motion error and the cells' edges
MIN_LOSS = 0.65  # of a region's returns that the box around it must have lost
GROW_M = 2.5
BODY_VOXEL_M = 0.35
MIN_BODY_SHARE = 0.6  # a part that is gone has moved with the rest, or turned out of sight
MAX_CONTACT = 0.35  # of a region's returns that remain beside it: then a part moved on, and the rest is the body
STILL_SHARE = 0.8  # of a region that stood at the same place one sweep earlier: it was not fast
STILL_REACH_M = 1.0  # what a pedestrian's dash and a car's braking distance in one sweep stay below
EXIT_SHARE = 0.5
MAX_LOST_SHARE = 0.6  # of all uncovered upright returns: more is a wrong motion or a blockage, not an object
MAX_REGIONS = 6
CONFIRM = 2
HOLD = 10  # sweeps that an alarm lasts: after a second what is gone is the new state of the street
SAMPLE = 48


@dataclass(slots=True, eq=False)
class _Missing:
    """Returns that vanished together. xyz: (N, 3) float32 in the frame of `T_world`; run: sweeps it is gone for."""

    xyz: NDArray[np.float32]
    ground: bool
    T_world: NDArray[np.float64]
    range_m: float
    run: int = 1


class _VanishedReturns:
    """The comparison that both checks share; computed once per sweep."""

    def __init__(self, evidence: LidarEvidence) -> None:
        self._evidence = evidence
        self._before: LidarFrame | None = None
        self._earlier: tuple[LidarFrame, NDArray[np.float64]] | None = None
        self._done: LidarFrame | None = None
        self._pose = np.eye(4)
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
        if frame.motion is None or before is None:
            self.why_not = frame.why_not or "no earlier sweep"
            self.objects, self.crossed, self._earlier = [], [], None
            return None
        self.why_not = ""
        self._pose = self._pose @ frame.motion.matrix()
        T_cur_prev: NDArray[np.float64] = np.linalg.inv(frame.motion.matrix()).astype(np.float64)
        self._compare(before, frame, T_cur_prev)
        self._earlier = (before, T_cur_prev)
        return frame

    def _compare(self, before: LidarFrame, frame: LidarFrame, T_cur_prev: NDArray[np.float64]) -> None:
        self.objects = [m for m in self.objects if self._still(m, frame)]
        self.crossed = [m for m in self.crossed if self._still(m, frame)]
        height, reach = before.height_m, before.range_m
        near = (reach > NEAREST_M) & (reach < FARTHEST_M)
        upright = np.flatnonzero(near & (height > UPRIGHT_M) & (height < TOP_M))
        ground = np.flatnonzero(near & (np.abs(height) < GROUND_M))
        T_world_before = self._pose @ T_cur_prev
        for chosen, is_ground in ((upright, False), (ground, True)):
            xyz = np.ascontiguousarray(before.xyz[chosen])
            fate = _fates(xyz, is_ground, T_cur_prev, frame)
            for region in _regions(xyz, fate, is_ground):
                if float(np.hypot(region[:, 0], region[:, 1]).min()) < OBJECT_NEAREST_M:
                    continue
                if not is_ground and not (
                    float(np.ptp(region[:, 2])) >= MIN_TALL_M
                    and _whole(region, xyz)
                    and _lost(region, before, frame, T_cur_prev)
                    and not self._leaves(region, before, frame, T_cur_prev)
                ):
                    continue
                middle_m = float(np.median(np.linalg.norm(region, axis=1)))
                known = self.crossed if is_ground else self.objects
                known.append(_Missing(region, is_ground, T_world_before, middle_m))

    def _still(self, missing: _Missing, frame: LidarFrame) -> bool:
        """Whether what vanished is still gone; counts the sweep."""
        fate = _fates(missing.xyz, missing.ground, np.linalg.inv(self._pose) @ missing.T_world, frame)
        gone = fate == BEYOND if missing.ground else (fate == BEYOND) | (fate == EMPTY)
        open_ = (fate != COVERED) & (fate != OUTSIDE)
        missing.run += 1
        if missing.run > HOLD:
            return False
        enough = np.count_nonzero(open_) >= 0.5 * missing.xyz.shape[0]
        return bool(enough and gone[open_].mean() >= 1.0 - LEFT_SHARE)

    def _leaves(
        self,
        region: NDArray[np.float32],
        before: LidarFrame,
        frame: LidarFrame,
        T_cur_prev: NDArray[np.float64],
    ) -> bool:
        """Whether something new stands where the body could have moved to."""
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
        return bool(fits.max() >= EXIT_SHARE)


def _seen_at(region: NDArray[np.float32], earlier: LidarFrame, T: NDArray[np.float64]) -> bool:
    """Whether an earlier sweep had seen the region at the same place. T: from the region's frame to the sweep's."""
    status, _ = ask_sweep(region, T, earlier.image, 0.5 * MARGIN_M, 0.5 * MARGIN_RATIO)
    return bool(np.mean(status == HIT) >= STILL_SHARE)


def _whole(region: NDArray[np.float32], xyz: NDArray[np.float32]) -> bool:
    """Whether a region is most of the body that it was connected to. xyz: (N, 3) all upright returns of its sweep."""
    low, high = region[:, :2].min(axis=0), region[:, :2].max(axis=0)
    middle, reach_m = (low + high) / 2, float(np.linalg.norm(high - low)) / 2 + GROW_M
    near = xyz[within_reach(xyz, float(middle[0]), float(middle[1]), reach_m)]
    labels, _ = cluster_points(np.ascontiguousarray(np.vstack((near, region))), BODY_VOXEL_M)
    body = np.isin(labels[: near.shape[0]], labels[near.shape[0] :])
    return bool(region.shape[0] >= MIN_BODY_SHARE * np.count_nonzero(body))


def _lost(region: NDArray[np.float32], before: LidarFrame, frame: LidarFrame, T_cur_prev: NDArray[np.float64]) -> bool:
    """Whether the box around a region holds as many returns less as the region had."""
    here = region.astype(np.float64) @ T_cur_prev[:3, :3].T + T_cur_prev[:3, 3]
    counts = []
    for place, sweep in ((region.astype(np.float64), before), (here, frame)):
        low, high = place.min(axis=0) - BOX_M, place.max(axis=0) + BOX_M
        low[2] += BOX_M  # not into the ground
        counts.append(count_in_box(sweep.xyz, low, high, np.zeros(sweep.xyz.shape[0], np.bool_))[0])
    return bool(counts[0] - counts[1] >= MIN_LOSS * region.shape[0])


def _fates(
    xyz: NDArray[np.float32], ground: bool, T_cur_prev: NDArray[np.float64], frame: LidarFrame
) -> NDArray[np.int8]:
    now = (frame.range_m, frame.row, frame.col)
    flags = np.full(xyz.shape[0], ground)
    return fate_of_points(xyz, flags, T_cur_prev, now, MARGIN_M, MARGIN_RATIO, DEPTH_M, DEPTH_RATIO)


def _regions(xyz: NDArray[np.float32], fate: NDArray[np.int8], ground: bool) -> Iterator[NDArray[np.float32]]:
    """Yield the returns of each connected region that vanished and is no part of a larger body, (N, 3) float32."""
    gone = fate == BEYOND if ground else (fate == BEYOND) | (fate == EMPTY)
    there = fate == PRESENT
    kept = int(there.sum()) / max(int((there | gone).sum()), 1)
    if np.count_nonzero(gone) < MIN_OBJECT or (not ground and kept < 1.0 - MAX_LOST_SHARE):
        return
    at = ((xyz[:, :2] + SIDE * CELL_M / 2) / CELL_M).astype(np.int64)
    cell = at[:, 0] * SIDE + at[:, 1]
    present, lost = (np.bincount(cell[m], minlength=SIDE * SIDE).reshape(SIDE, SIDE) for m in (there, gone))
    around, missing = _around(present), _around(lost)
    empty = (missing + around >= MIN_CELL) & (around <= LEFT_SHARE * kept * (missing + around))
    chosen = np.flatnonzero(gone & empty.reshape(-1)[cell])
    if chosen.size < MIN_OBJECT:
        return
    labels, count = cluster_points(np.ascontiguousarray(xyz[chosen]), CELL_M)
    sizes = np.bincount(labels[labels >= 0], minlength=count)
    least = MIN_CROSSED if ground else MIN_OBJECT
    for label in np.argsort(-sizes)[:MAX_REGIONS]:
        members = chosen[labels == label]
        if members.size < least:
            return
        own = np.zeros((SIDE, SIDE), dtype=np.int64)
        own.reshape(-1)[cell[members]] = 1
        contact = float(present[(_around(own) > 0) & (own == 0)].sum()) / members.size
        if ground or contact <= MAX_CONTACT:
            yield np.ascontiguousarray(xyz[members])


def _around(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums over 3 x 3 cells."""
    rows = counts.copy()
    rows[1:] += counts[:-1]
    rows[:-1] += counts[1:]
    total = rows.copy()
    total[:, 1:] += rows[:, :-1]
    total[:, :-1] += rows[:, 1:]
    return total


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
        worst = max(self._missing(), key=lambda m: (m.run, m.xyz.shape[0]), default=None)
        if worst is None:
            return self._result(Level.OK, 0.0, "")
        statistic = worst.xyz.shape[0] / self._least
        if worst.run < CONFIRM:
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
