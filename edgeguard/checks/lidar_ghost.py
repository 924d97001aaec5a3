"""L2.ghost: sudden objects that contradict physics (lidar spoofing by injected returns).

Dense ghosts defeat plain penetration tests (CARLO, Sun et al. 2020), so evidence is gathered over up to three sweeps:

* **birth**: returns where the sweep before saw *through* the place (ray test after ego-motion compensation) and no
  recent one saw anything. Occluded, never-seen and nearby-occupied space is no birth; foliage and thin things are
  occupied in their neighbourhood.
* **path**: where could the body have come from, and is it where it then must be? (`lidar_paths`, `lidar_arrivals`)
* **surface**: range noise between neighbouring beams, 0.10 m injected against centimetres on solid surfaces (Sato et
  al., NDSS 2024); returns from behind through what should be opaque; shaking as a whole by 0.35 m per sweep.

Each born cluster is followed for two sweeps; each term is a clipped log-likelihood ratio. Nothing alarms without a
seen birth that no motion explains, so a scene that is merely odd stays OK. Work per sweep is bounded: the largest
births only, and each of them for two sweeps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_arrivals import BIRTH_MARGIN_M, BIRTH_MARGIN_RATIO, SWEEPS, Arrival, arrive
from edgeguard.checks.lidar_evidence import LidarEvidence, LidarFrame
from edgeguard.checks.lidar_paths import PosedFrame, SweepHistory
from edgeguard.checks.lidar_sightings import roughness, roughness_llr
from edgeguard.kernels.clusters import cluster_points
from edgeguard.kernels.ranges import HIT, ROWS, ask_surroundings, find_seen_through
from edgeguard.kernels.regions import count_in_box
from edgeguard.kernels.sweeps import choose_points, take_points
from edgeguard.types import LIDAR, CheckResult, Level, SyncedSet

MIN_RANGE_M, MAX_RANGE_M = 2.0, 40.0  # nearer is the vehicle itself, farther a car has too few returns to judge
MIN_HEIGHT_M, MAX_HEIGHT_M = 0.35, 4.0  # above what pitching does to the ground, below bridges and crowns
MIN_BIRTH_POINTS = 24  # two thirds of the smallest published ghost that still steers a detector, less what is hidden
MIN_BIRTH_RANGE_M = 2.5  # nearer things are cut at `MIN_RANGE_M`, and what is cut changes its outline
MIN_TALL_M = 0.3  # pitching puts a row of beams on a roof's edge
MIN_BIRTH_SHARE = 0.7  # of the upright returns in its box: what grows out of something else is not a birth
MIN_ROWS_SHARE = 0.6  # of the image's rows that have returns, between its outer ones: rings up to 0.8 deg apart
MIN_ROW_RETURNS = 40  # of a row that counts: stray ones fall anywhere
MAX_BORN_SHARE = 0.25  # of all upright returns: more means that the motion is wrong, not that the world is new
MOST_TRIED, MOST_BIRTHS, MOST_FOLLOWED = 10, 2, 4  # the largest of a sweep: what each costs is bounded
VOXEL_M = 0.35  # twice the spacing of the sparsest ghost that matters; wider merges it with its surroundings
MAX_OBJECT_M = 7.0  # longer things are walls, hedges and lorries, of which single parts come into view
ALARM_LLR = 6.0  # no motion (4) and a rough surface (up to 3), or staying (1 each) with a porous or shaking one
DENSE_EVERY = 50  # sweeps; a sensor does not change its rings
HOLD = 3  # sweeps that an alarm lasts: as long as it may have taken to find


class GhostCheck:
    """L2.ghost. statistic: largest log-likelihood ratio of a followed birth; threshold: `ALARM_LLR`."""

    name = "L2.ghost"

    def __init__(self, evidence: LidarEvidence, sensor: str = LIDAR) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._evidence = evidence
        self._history = SweepHistory()
        self._arrivals: list[Arrival] = []
        self._found: Arrival | None = None
        self._hold = 0
        self._dense_rows, self._dense_left = True, 0

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        frame = self._evidence.frame(synced)
        if synced.tick.discontinuity:
            self._forget()
        if frame is None:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no sweep at this tick")
        if frame.motion is None:
            self._forget()
            self._history.add(frame)
            return self._result(Level.NOT_OBSERVABLE, 0.0, frame.why_not)
        self._history.advance(frame.motion.matrix())
        past = self._history.newest_first()
        self._history.add(frame)
        if not self._dense(frame):
            return self._result(Level.NOT_OBSERVABLE, 0.0, "the rings are too far apart to know what is empty")
        upright = choose_points(frame.height_m, frame.range_m, (MIN_HEIGHT_M, MAX_HEIGHT_M, MIN_RANGE_M, MAX_RANGE_M))
        upright = upright.copy()  # scratch memory of the chooser's
        xyz = take_points(frame.xyz, upright)  # scratch too, and of this call alone
        born = self._born(xyz, past)
        if xyz.shape[0] == 0 or born.size > MAX_BORN_SHARE * xyz.shape[0]:
            self._arrivals, self._hold = [], 0
            return self._result(Level.NOT_OBSERVABLE, 0.0, "most of the scene is new or unexplained")
        self._follow(frame, upright, xyz)
        self._find_births(frame, upright, xyz, born, past)
        return self._judge()

    def _forget(self) -> None:
        self._history.forget()
        self._dense_left = 0
        self._arrivals, self._hold = [], 0

    def _dense(self, frame: LidarFrame) -> bool:
        """Whether rings are near enough to each other that what lies between them is known. Asked now and then."""
        self._dense_left -= 1
        if self._dense_left <= 0:
            filled = np.flatnonzero(np.bincount(frame.row, minlength=ROWS) >= MIN_ROW_RETURNS)
            span = int(filled[-1] - filled[0]) + 1 if filled.size else ROWS
            self._dense_rows = filled.size >= MIN_ROWS_SHARE * span
            self._dense_left = DENSE_EVERY
        return self._dense_rows

    def _judge(self) -> CheckResult:
        self._hold = max(0, self._hold - 1)
        followed = [a for a in self._arrivals if a.sweeps > 0]
        worst = max(followed, key=lambda a: (a.impossible, a.llr), default=None)
        if worst is not None and (worst.impossible or worst.llr >= ALARM_LLR):
            self._found, self._hold = worst, HOLD
        if self._hold and self._found is not None:
            reason = (
                f"an object of {self._found.points} returns at {self._found.range_m:.1f} m appeared where the sweep "
                f"before saw through, and no motion brought it there or takes it on"
            )
            return self._result(Level.ANOMALY, max(2.0 * ALARM_LLR if self._found.impossible else 0.0, self._found.llr),
                                reason)  # fmt: skip
        statistic = max((a.llr for a in followed), default=0.0)
        return self._result(Level.OK, min(max(0.0, statistic), ALARM_LLR), "")

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else float(MIN_BIRTH_POINTS)
        return CheckResult(self.name, self.sensors, level, statistic, ALARM_LLR, power, "points", "objects", reason)

    def _born(self, xyz: NDArray[np.float32], past: tuple[PosedFrame, ...]) -> NDArray[np.int32]:
        """Numbers of the upright returns from places that no recent sweep saw occupied and the last one saw free."""
        pose = self._history.pose
        T = past[0].T_sensor_world @ pose
        born = find_seen_through(xyz, T, past[0].around, BIRTH_MARGIN_M, BIRTH_MARGIN_RATIO)
        if len(past) > 1:  # what flickers is no birth; what a still older sweep saw there may have left it since
            T = past[1].T_sensor_world @ pose
            before = ask_surroundings(xyz[born], T, past[1].around, 0.5 * BIRTH_MARGIN_M, BIRTH_MARGIN_RATIO)
            born = born[before != HIT]
        return born

    def _find_births(
        self,
        frame: LidarFrame,
        upright: NDArray[np.int32],
        xyz: NDArray[np.float32],
        born: NDArray[np.int32],
        past: tuple[PosedFrame, ...],
    ) -> None:
        if born.size < MIN_BIRTH_POINTS:
            return
        labels, count = cluster_points(np.ascontiguousarray(xyz[born]), VOXEL_M)
        sizes = np.bincount(labels[labels >= 0], minlength=count)
        large = np.flatnonzero(sizes >= MIN_BIRTH_POINTS)
        is_born = np.zeros(xyz.shape[0], np.bool_)
        is_born[born] = True
        fresh: list[tuple[float, NDArray[np.int32], float]] = []
        for label in large[np.argsort(-sizes[large], kind="stable")][:MOST_TRIED]:
            members = born[labels == label]
            points = xyz[members]
            extent_m = _extent(points)
            near_m2 = float((points[:, :2] ** 2).sum(axis=1).min())
            if near_m2 < MIN_BIRTH_RANGE_M**2 or extent_m > MAX_OBJECT_M or _tall_m(points) < MIN_TALL_M:
                continue
            if _share(points, xyz, is_born) >= MIN_BIRTH_SHARE:
                fresh.append((roughness(points, frame.range_m[upright[members]]), upright[members], extent_m))
        fresh.sort(key=lambda birth: -roughness_llr(birth[0]))  # stable: the larger first among equals
        for rough_m, members, extent_m in fresh[:MOST_BIRTHS]:
            self._arrivals.append(arrive(frame, members, self._history.pose, past, extent_m, rough_m))

    def _follow(self, frame: LidarFrame, upright: NDArray[np.int32], xyz: NDArray[np.float32]) -> None:
        """Look at the births of the last sweeps again; those that have been followed for long enough are dropped."""
        self._arrivals = [a for a in self._arrivals if a.sweeps < SWEEPS][-MOST_FOLLOWED:]
        if self._arrivals:
            around, range_m = self._history.newest_first()[0].around, frame.range_m.take(upright)
            for arrival in self._arrivals:
                arrival.follow(frame, around, self._history.pose, xyz, range_m)


def _outline(points: NDArray[np.float32], share: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates below and above which `share` of the points lie, axis by axis."""
    ordered = np.sort(points, axis=0)
    cut = int(share * points.shape[0])
    return ordered[cut], ordered[points.shape[0] - 1 - cut]


def _extent(points: NDArray[np.float32]) -> float:
    low, high = _outline(points[:, :2], 0.02)
    return float(np.hypot(*(high - low)))


def _tall_m(points: NDArray[np.float32]) -> float:
    low, high = _outline(points[:, 2:], 0.05)
    return float(high[0] - low[0])


def _share(points: NDArray[np.float32], xyz: NDArray[np.float32], born: NDArray[np.bool_]) -> float:
    """Share of the upright returns in the cluster's box that are born."""
    low, high = _outline(points, 0.05)
    inside, fresh = count_in_box(xyz, low.astype(np.float64), high.astype(np.float64), born)
    return float(fresh / inside) if inside else 0.0
