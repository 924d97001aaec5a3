"""L2.ghost: sudden objects that contradict physics (lidar spoofing by injected returns).

Dense ghosts defeat plain penetration tests (CARLO, Sun et al. 2020), so evidence is gathered over two to five sweeps:

* **birth**: points where the sweep before saw *through* the place (ray test after ego-motion compensation), or where
  a closed surface hid it and still stands there: no beam goes through bodywork. Occluded,
  never-seen and nearby-occupied space is no birth; foliage and thin things are occupied in their neighbourhood.
* **path**: where could the object have come from? (`lidar_paths`) The object must then go on in that direction.
* **jitter**: second differences of its range. Spoofers shake a ghost as a whole by 0.35 m per sweep (Sato et al.,
  NDSS 2024); a vehicle at 10 m/s^2 changes by 0.1 m.
* **roughness**: range noise between neighbouring beams, 0.10 m injected against centimetres on solid surfaces.
* **penetration**: returns from behind through a body that should be opaque.
* **arrival**: no motion brought it and none takes it on, and yet it stays (`lidar_arrivals`); decides alone.

Each born cluster becomes a track; each term is a clipped log-likelihood ratio (`lidar_sightings`). Nothing alarms
without a seen birth, so a scene that is merely odd stays OK.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_arrivals import SWEEPS, Arrival, arrive
from edgeguard.checks.lidar_evidence import LidarEvidence, LidarFrame
from edgeguard.checks.lidar_paths import (
    MARGIN_M,
    MARGIN_RATIO,
    V_MAX_M_S,
    PosedFrame,
    SweepHistory,
    possible_motions,
)
from edgeguard.checks.lidar_sightings import Sighting, Track, sight
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.clusters import cluster_points
from edgeguard.kernels.ranges import HIT, SEEN_THROUGH, ask_sweep
from edgeguard.kernels.regions import count_in_box, within_reach
from edgeguard.types import LIDAR, CheckResult, Level, SyncedSet

MIN_RANGE_M, MAX_RANGE_M = 3.5, 40.0  # nearer is the vehicle itself, farther a car has too few returns to judge
MIN_HEIGHT_M, MAX_HEIGHT_M = 0.35, 4.0  # above what pitching does to the ground, below bridges and crowns
MIN_BIRTH_POINTS = 24  # two thirds of the smallest published ghost that still steers a detector, less what is hidden
MIN_SIGHTING_POINTS = 16
MIN_BIRTH_RANGE_M = 4.5  # nearer things are cut at `MIN_RANGE_M`, and what is cut changes its outline
MIN_BIRTH_SHARE = 0.7  # of the upright returns in its box: what grows out of something else is not a birth
MAX_BORN_SHARE = 0.25  # of all upright returns: more means that the motion is wrong, not that the world is new
MAX_BIRTHS = 8  # the largest of a sweep: what each costs is bounded
VOXEL_M = 0.35  # twice the spacing of the sparsest ghost that matters; wider merges it with its surroundings
MAX_OBJECT_M = 7.0  # longer things are walls, hedges and lorries, of which single parts come into view
MAX_AGE = 7  # sweeps a track may live without an alarm: what is real has explained itself by then
MAX_MISSES = 2
MAX_MISMATCH_M = 2.5  # prediction error plus dissimilarity beyond which a cluster is another body
ALARM_LLR = 6.0  # a smooth body that does not shake reaches it only when no motion at all could have brought it
CONFIRM = 2  # sightings in a row above, or sweeps through which it stayed where it cannot be


class GhostCheck:
    """L2.ghost. statistic: largest log-likelihood ratio of a live track; threshold: `ALARM_LLR`."""

    name = "L2.ghost"

    def __init__(self, evidence: LidarEvidence, sensor: str = LIDAR) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._evidence = evidence
        self._history = SweepHistory()
        self._tracks: list[Track] = []
        self._arrivals: list[Arrival] = []
        self._nowhere: Arrival | None = None

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
        upright = _upright(frame)
        xyz = frame.xyz.take(upright, axis=0)
        born = self._born(frame, upright, xyz, past)
        if xyz.shape[0] == 0 or np.count_nonzero(born) > MAX_BORN_SHARE * xyz.shape[0]:
            self._tracks, self._arrivals = [], []
            return self._result(Level.NOT_OBSERVABLE, 0.0, "most of the scene is new or unexplained")
        self._follow(frame, upright, xyz)
        self._follow_arrivals(frame, xyz)
        self._find_births(frame, upright, xyz, born, past)
        return self._judge()

    def _forget(self) -> None:
        self._history.forget()
        self._tracks, self._arrivals = [], []

    def _judge(self) -> CheckResult:
        if self._nowhere is not None:
            reason = (
                f"an object of {self._nowhere.points} returns at {self._nowhere.range_m:.1f} m appeared where the "
                f"sweep before saw through, and no motion brought it there or takes it on"
            )
            return self._result(Level.ANOMALY, 2.0 * ALARM_LLR, reason)
        judged = [t for t in self._tracks if len(t.sightings) >= 2 and t.misses == 0]
        if not judged:
            return self._result(Level.OK, 0.0, "")
        for track in judged:
            track.over = track.over + 1 if track.llr > ALARM_LLR else 0
        worst = max(judged, key=lambda t: (t.over > 0, t.over + t.stays, t.llr))
        if worst.over >= CONFIRM or (worst.over > 0 and worst.stays >= CONFIRM):
            last = worst.sightings[-1]
            reason = (
                f"an object of {last.points} returns at {last.mid_m:.1f} m appeared where the sweep before saw "
                f"through, and does not move or reflect like a solid body"
            )
            return self._result(Level.ANOMALY, worst.llr, reason)
        return self._result(Level.OK, max(0.0, min(max(t.llr for t in judged), ALARM_LLR)), "")

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else float(MIN_BIRTH_POINTS)
        return CheckResult(self.name, self.sensors, level, statistic, ALARM_LLR, power, "points", "objects", reason)

    def _born(
        self, frame: LidarFrame, upright: NDArray[np.intp], xyz: NDArray[np.float32], past: tuple[PosedFrame, ...]
    ) -> NDArray[np.bool_]:
        """Upright returns from places that no recent sweep saw occupied and the last one saw to be free."""
        T = np.linalg.inv(past[0].T_world_sensor) @ self._history.pose
        status, front_m = ask_sweep(xyz, T, past[0].frame.image, MARGIN_M, MARGIN_RATIO)
        born: NDArray[np.bool_] = (status == SEEN_THROUGH) | _through_solid(frame, upright, front_m)
        for sweep in past[1:]:
            chosen = np.flatnonzero(born)
            T = np.linalg.inv(sweep.T_world_sensor) @ self._history.pose
            before, _ = ask_sweep(xyz[chosen], T, sweep.frame.image, 0.5 * MARGIN_M, MARGIN_RATIO)
            born[chosen[before == HIT]] = False  # what flickers is no birth
        return born

    def _find_births(
        self,
        frame: LidarFrame,
        upright: NDArray[np.intp],
        xyz: NDArray[np.float32],
        is_born: NDArray[np.bool_],
        past: tuple[PosedFrame, ...],
    ) -> None:
        born = np.flatnonzero(is_born)
        labels, count = cluster_points(np.ascontiguousarray(xyz[born]), VOXEL_M)
        sizes = np.bincount(labels[labels >= 0], minlength=count)
        large = np.flatnonzero(sizes >= MIN_BIRTH_POINTS)
        fresh = []
        for label in large:
            members = born[labels == label]
            points = xyz[members]
            if float(np.hypot(points[:, 0], points[:, 1]).min()) < MIN_BIRTH_RANGE_M or _extent(points) > MAX_OBJECT_M:
                continue
            if _share(points, xyz, is_born) >= MIN_BIRTH_SHARE:
                fresh.append(members)
        for members in sorted(fresh, key=len, reverse=True)[:MAX_BIRTHS]:
            motions = possible_motions(frame, upright[members], self._history.pose, past)
            extent_m = _extent(xyz[members])
            self._arrivals.append(arrive(frame, upright[members], motions, self._history.pose, past[0], extent_m))
            seen = sight(frame, upright[members], self._history.pose, float(is_born[members].mean()))
            if any(np.hypot(*(t.sightings[-1].xy_m - seen.xy_m)) < t.extent_m + 1.0 for t in self._tracks):
                continue  # already followed
            track = Track(
                reference=past[0],
                motions=motions,
                step_ns=frame.stamp_ns - past[0].frame.stamp_ns,
                extent_m=extent_m,
            )
            track.sightings.append(seen)
            self._tracks.append(track)

    def _follow(self, frame: LidarFrame, upright: NDArray[np.intp], xyz: NDArray[np.float32]) -> None:
        for track in self._tracks:
            track.age += 1
            found = self._seek(track, frame, upright, xyz)
            if found is None:
                track.misses += 1
            else:
                track.misses = 0
                track.weigh(found, self._carried(track))
        self._tracks = [
            t
            for t in self._tracks
            if not t.explained and t.misses <= MAX_MISSES and (t.age <= MAX_AGE or t.llr > ALARM_LLR)
        ]

    def _follow_arrivals(self, frame: LidarFrame, xyz: NDArray[np.float32]) -> None:
        self._arrivals = [a for a in self._arrivals if a.follow(frame, self._history.pose, xyz)]
        self._nowhere = next((a for a in self._arrivals if a.impossible), None)
        self._arrivals = [a for a in self._arrivals if a.stays < SWEEPS]

    def _carried(self, track: Track) -> NDArray[np.float64]:
        """Where the last sighting would be now, in the world, had it been carried along with the sensor."""
        pose = self._history.pose
        place: NDArray[np.float64] = pose[:2, :2] @ track.sightings[-1].local_m + pose[:2, 3]
        return place

    def _seek(
        self, track: Track, frame: LidarFrame, upright: NDArray[np.intp], xyz: NDArray[np.float32]
    ) -> Sighting | None:
        last = track.sightings[-1]
        pose = self._history.pose
        T_current_world = np.linalg.inv(pose)
        dt_s = (frame.stamp_ns - last.stamp_ns) / NS_PER_S
        here = T_current_world[:2, :2] @ last.xy_m + T_current_world[:2, 3]
        gate_m = track.extent_m + V_MAX_M_S * dt_s
        close = np.flatnonzero(within_reach(xyz, here[0], here[1], gate_m))
        if close.size < MIN_SIGHTING_POINTS:
            return None
        T = np.linalg.inv(track.reference.T_world_sensor) @ pose
        near = np.ascontiguousarray(xyz[close])
        status, _ = ask_sweep(near, T, track.reference.frame.image, MARGIN_M, MARGIN_RATIO)
        loose = close[status != HIT]  # later the place itself may be hidden from the reference; only scenery is not
        loose_status = status[status != HIT]
        labels, count = cluster_points(np.ascontiguousarray(xyz[loose]), VOXEL_M)
        predictions = [*_predictions(track, frame.stamp_ns), self._carried(track)]
        best: Sighting | None = None
        best_distance = MAX_MISMATCH_M
        sizes = np.bincount(labels[labels >= 0], minlength=count)
        for label in np.flatnonzero(sizes >= max(MIN_SIGHTING_POINTS, 0.35 * last.points)):
            free = float((loose_status[labels == label] == SEEN_THROUGH).mean())
            found = sight(frame, upright[loose[labels == label]], pose, free)
            distance = min(float(np.hypot(*(found.xy_m - p))) for p in predictions)
            distance += _unlike(found, track)
            if distance < best_distance:
                best, best_distance = found, distance
        return best


def _upright(frame: LidarFrame) -> NDArray[np.intp]:
    keep = (frame.height_m > MIN_HEIGHT_M) & (frame.height_m < MAX_HEIGHT_M)
    keep &= (frame.range_m > MIN_RANGE_M) & (frame.range_m < MAX_RANGE_M)
    return np.flatnonzero(keep)


def _extent(points: NDArray[np.float32]) -> float:
    low, high = np.quantile(points[:, :2], (0.02, 0.98), axis=0)
    return float(np.hypot(*(high - low)))


def _share(points: NDArray[np.float32], xyz: NDArray[np.float32], born: NDArray[np.bool_]) -> float:
    """Share of the upright returns in the cluster's box that are born."""
    low, high = np.quantile(points, (0.05, 0.95), axis=0).astype(np.float64)
    inside, fresh = count_in_box(xyz, low, high, born)
    return float(fresh / inside) if inside else 0.0


def _predictions(track: Track, now_ns: int) -> list[NDArray[np.float64]]:
    """Where the object may be now: standing, going on as between its last sightings, or as its past allows."""
    last = track.sightings[-1]
    places = [last.xy_m]
    if len(track.sightings) >= 2:
        before = track.sightings[-2]
        step = (now_ns - last.stamp_ns) / (last.stamp_ns - before.stamp_ns)
        places.append(last.xy_m + (last.xy_m - before.xy_m) * step)
    else:
        places.extend(last.xy_m + track.motions * ((now_ns - last.stamp_ns) / track.step_ns))
    return places


def _unlike(found: Sighting, track: Track) -> float:
    """Dissimilarity to the tracked body, in metres of prediction error it is worth."""
    unlike = abs(float(np.log(found.points / track.sightings[-1].points)))
    if np.isfinite(found.roughness_m) and np.isfinite(track.roughness_m):
        unlike += 0.5 * abs(float(np.log(max(found.roughness_m, 0.01) / max(track.roughness_m, 0.01))))
    return unlike


def _through_solid(frame: LidarFrame, upright: NDArray[np.intp], front_m: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Points behind a closed surface of the sweep before that neighbouring beams still hit. front_m: of `ask_sweep`."""
    through = np.zeros(upright.size, dtype=np.bool_)
    behind = np.flatnonzero(np.isfinite(front_m))
    if behind.size == 0 or frame.motion is None:
        return through
    nearest = np.minimum(frame.image, np.minimum(np.roll(frame.image, 1, axis=1), np.roll(frame.image, -1, axis=1)))
    padded = np.vstack((nearest[1:], np.full((1, nearest.shape[1]), np.inf, np.float32)))
    nearest = np.minimum(nearest, np.minimum(padded, np.vstack((padded[-1:], nearest[:-1]))))
    points = upright[behind]
    now_m, range_m = nearest[frame.row[points], frame.col[points]], frame.range_m[points]
    tolerance_m = 2.0 * MARGIN_M + abs(frame.motion.dx_m)
    stands = (now_m < range_m - MARGIN_M - MARGIN_RATIO * range_m) & (np.abs(now_m - front_m[behind]) < tolerance_m)
    through[behind[stands]] = True
    return through
