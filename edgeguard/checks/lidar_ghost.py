"""L2.ghost: sudden objects that contradict physics (lidar spoofing by injected returns).

Dense ghosts defeat plain penetration tests (CARLO, Sun et al. 2020), so evidence is gathered over time:

* **birth**: points where the sweep before saw *through* the place (ray test after ego-motion compensation), or where
  a closed surface hid it and still stands there: no beam goes through bodywork. Occluded,
  never-seen and nearby-occupied space is no birth; foliage and thin things are occupied in their neighbourhood.
* **kinematics**: where could the object have come from? Every displacement up to 40 m/s whose origin the sweep before
  did not see empty is allowed; the object must then go on in that direction. A ghost stays.
* **jitter**: second differences of its range. Spoofers shake a ghost as a whole by 0.35 m per sweep (Sato et al.,
  NDSS 2024); a vehicle at 10 m/s^2 changes by 0.1 m.
* **roughness**: range noise between neighbouring beams, 0.10 m injected against centimetres on solid surfaces.
* **penetration**: returns from behind through a body that should be opaque.

Each born cluster becomes a track; each term is a clipped log-likelihood ratio, the sum alarms above `ALARM_LLR` after
at least `MIN_SIGHTINGS` sweeps. Nothing alarms without a seen birth, so a scene that is merely odd stays OK.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarEvidence, LidarFrame
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.clusters import cluster_points
from edgeguard.kernels.ranges import COLUMNS, HIT, SEEN_THROUGH, ask_sweep, range_image
from edgeguard.kernels.regions import count_behind, count_in_box, within_reach
from edgeguard.types import LIDAR, CheckResult, Level, SyncedSet

MIN_RANGE_M, MAX_RANGE_M = 3.5, 40.0  # nearer is the vehicle itself, farther a car has too few returns to judge
MIN_HEIGHT_M, MAX_HEIGHT_M = 0.35, 4.0  # above what pitching does to the ground, below bridges and crowns
MARGIN_M, MARGIN_RATIO = 0.5, 0.02  # ego-motion error, footprint, and 1 deg of pitch over the height of a car
MIN_BIRTH_POINTS = 40  # below, chance visibility of twigs and rails makes births; ghosts that matter have over 100
MIN_SIGHTING_POINTS = 25
MIN_BIRTH_SHARE = 0.7  # of the upright returns in its box: what grows out of something else is not a birth
MAX_BORN_SHARE = 0.25  # of all upright returns: more means that the motion is wrong, not that the world is new
MAX_BIRTHS = 4  # per sweep: spoofers paint one or two objects; a scene full of births is a scene not understood
VOXEL_M = 0.35  # twice the spacing of the sparsest ghost that matters; wider merges it with its surroundings
MAX_OBJECT_M = 7.0  # longer things are walls, hedges and lorries, of which single parts come into view
V_MAX_M_S = 42.0  # oncoming traffic on a motorway, in the world frame
HISTORY = 3
MAX_AGE = 15  # sweeps a track may live without an alarm
MAX_MISSES = 2
MIN_SIGHTINGS = 3
MAX_STAY_M = 1.5  # three sigma of the difference of two spoofed ranges, for world- and sensor-fixed ghosts
MAX_MISMATCH_M = 2.5  # prediction error plus dissimilarity beyond which a cluster is another body
ALARM_LLR = 6.5  # 1 in 650 per judged birth if terms were calibrated; clipped so that no two terms reach it
CONFIRM = 2  # sweeps in a row above: in twelve minutes of simulated traffic one track was over it for one sweep

JITTER_SD_M = 0.86  # sqrt(6) * 0.35: second difference of the measured injection jitter
GENUINE_SD_M = 0.18  # 10 m/s^2 over 0.1 s, and 6 cm of what changing visibility does to a median range
MOTION_SD_M = 0.4
ROUGH_GENUINE_M, ROUGH_GENUINE_LN = 0.02, 0.6
ROUGH_GHOST_M, ROUGH_GHOST_LN = 0.10, 0.35
ROUGH_NEUTRAL_M = 0.2  # foliage and nets: rougher than either model, so the term abstains
MIN_TRIPLES = 12
SOLID_ROUGHNESS_M = 0.045  # painted, glazed and clothed surfaces measure 0.01 to 0.03
OPAQUE_PENETRATION = 0.8  # genuine clusters: 95 % below 0.57
RECENT = 7  # sightings that the surface is judged by: a track that goes on to a real body forgets the ghost in four
MAX_JITTER_LLR = 6.5  # a long ghost must not outweigh the seconds after it
MAX_SWERVE_M = 0.35  # spoofed jitter is in range only; a change across the beam means that another body was followed


@dataclass(frozen=True, slots=True, eq=False)
class _Sighting:
    """One look at a tracked cluster. xy_m, local_m: world- and sensor-frame median; across: unit vector
    across the beam, world frame; near_m, mid_m: range quantiles in the sensor frame."""

    stamp_ns: int
    points: int
    xy_m: NDArray[np.float64]
    local_m: NDArray[np.float64]
    across: NDArray[np.float64]
    near_m: float
    mid_m: float
    roughness_m: float
    penetration: float


@dataclass(slots=True, eq=False)
class _Track:
    """A born cluster and what speaks for and against its being real."""

    reference: NDArray[np.float32]
    T_world_reference: NDArray[np.float64]
    origins: NDArray[np.float64]
    extent_m: float
    sightings: list[_Sighting] = field(default_factory=list)
    motion_llr: float = 0.0
    jitter_llr: float = 0.0
    misses: int = 0
    age: int = 0
    over: int = 0

    @property
    def roughness_m(self) -> float:
        rough = [s.roughness_m for s in self.sightings[-RECENT:] if np.isfinite(s.roughness_m)]
        return float(np.median(rough)) if rough else float("nan")

    @property
    def penetration(self) -> float:
        return float(np.median([s.penetration for s in self.sightings[-RECENT:]]))

    @property
    def llr(self) -> float:
        surface = roughness_llr(self.roughness_m) + 1.5 * max(0.0, self.penetration - 0.7) / 0.3
        total = self.motion_llr + self.jitter_llr + surface
        if self.roughness_m < SOLID_ROUGHNESS_M and self.penetration < OPAQUE_PENETRATION:
            return min(total, 0.0)  # a smooth, opaque body is one, however badly it was followed through traffic
        return total


def roughness_llr(sigma_m: float) -> float:
    """Log-likelihood ratio, ghost against solid surface, of a range noise between neighbouring beams."""
    if not sigma_m <= ROUGH_NEUTRAL_M:
        return 0.0
    value = np.log(max(sigma_m, 1e-3))
    ghost = -0.5 * ((value - np.log(ROUGH_GHOST_M)) / ROUGH_GHOST_LN) ** 2 - np.log(ROUGH_GHOST_LN)
    solid = -0.5 * ((value - np.log(ROUGH_GENUINE_M)) / ROUGH_GENUINE_LN) ** 2 - np.log(ROUGH_GENUINE_LN)
    return float(np.clip(ghost - solid, -2.5, 3.0))


def jitter_llr(second_difference_m: float) -> float:
    """Log-likelihood ratio of one second difference of range; three sweeps share noise, hence the factor."""
    q = second_difference_m**2
    llr = np.log(GENUINE_SD_M / JITTER_SD_M) + 0.5 * q * (1.0 / GENUINE_SD_M**2 - 1.0 / JITTER_SD_M**2)
    return float(np.clip(0.8 * llr, -1.2, 2.0))


def motion_llr(contradiction_m: float) -> float:
    """Log-likelihood ratio of the distance between the observed and the nearest possible displacement."""
    return float(np.clip(0.5 * (contradiction_m / MOTION_SD_M) ** 2 - 1.0, -2.0, 3.5))


class GhostCheck:
    """L2.ghost. statistic: largest log-likelihood ratio of a live track; threshold: `ALARM_LLR`."""

    name = "L2.ghost"

    def __init__(self, evidence: LidarEvidence, sensor: str = LIDAR) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._evidence = evidence
        self._past: deque[tuple[LidarFrame, NDArray[np.float64]]] = deque(maxlen=HISTORY)
        self._pose = np.eye(4)
        self._tracks: list[_Track] = []

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        frame = self._evidence.frame(synced)
        if synced.tick.discontinuity:
            self._forget()
        if frame is None:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no sweep at this tick")
        if frame.motion is None:
            self._forget()
            self._past.append((frame, self._pose))
            return self._result(Level.NOT_OBSERVABLE, 0.0, frame.why_not)
        self._pose = self._pose @ frame.motion.matrix()
        upright = _upright(frame)
        xyz = np.ascontiguousarray(frame.xyz[upright])
        previous, T_world_previous = self._past[-1]
        T_previous_current = np.linalg.inv(T_world_previous) @ self._pose
        status, front_m = ask_sweep(xyz, T_previous_current, previous.image, MARGIN_M, MARGIN_RATIO)
        born = (status == SEEN_THROUGH) | _through_solid(frame, upright, front_m)
        self._past.append((frame, self._pose))
        if xyz.shape[0] == 0 or np.count_nonzero(born) > MAX_BORN_SHARE * xyz.shape[0]:
            self._tracks = []
            return self._result(Level.NOT_OBSERVABLE, 0.0, "most of the scene is new or unexplained")
        self._follow(frame, upright, xyz)
        self._find_births(frame, upright, xyz, born, previous, T_world_previous)
        return self._judge()

    def _forget(self) -> None:
        self._past.clear()
        self._tracks = []
        self._pose = np.eye(4)

    def _judge(self) -> CheckResult:
        judged = [t for t in self._tracks if len(t.sightings) >= MIN_SIGHTINGS and t.misses == 0]
        if not judged:
            return self._result(Level.OK, 0.0, "")
        for track in judged:
            track.over = track.over + 1 if track.llr > ALARM_LLR else 0
        worst = max(judged, key=lambda t: (t.over, t.llr))
        if worst.over >= CONFIRM:
            last = worst.sightings[-1]
            reason = (
                f"an object of {last.points} returns at {last.mid_m:.1f} m appeared where the sweep before saw "
                f"through, and does not move or reflect like a solid body"
            )
            return self._result(Level.ANOMALY, worst.llr, reason)
        return self._result(Level.OK, min(max(t.llr for t in judged), ALARM_LLR), "")

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else float(MIN_BIRTH_POINTS)
        return CheckResult(self.name, self.sensors, level, statistic, ALARM_LLR, power, "points", "objects", reason)

    def _find_births(
        self,
        frame: LidarFrame,
        upright: NDArray[np.intp],
        xyz: NDArray[np.float32],
        is_born: NDArray[np.bool_],
        previous: LidarFrame,
        T_world_previous: NDArray[np.float64],
    ) -> None:
        born = np.flatnonzero(is_born)
        labels, count = cluster_points(np.ascontiguousarray(xyz[born]), VOXEL_M)
        sizes = np.bincount(labels[labels >= 0], minlength=count)
        large = np.flatnonzero(sizes >= MIN_BIRTH_POINTS)
        fresh = []
        for label in large:
            members = born[labels == label]
            points = xyz[members]
            if _extent(points) <= MAX_OBJECT_M and _share(points, xyz, is_born) >= MIN_BIRTH_SHARE:
                fresh.append(members)
        if len(fresh) > MAX_BIRTHS:
            return
        for members in fresh:
            sighting = self._sight(frame, upright[members])
            if any(np.hypot(*(t.sightings[-1].xy_m - sighting.xy_m)) < t.extent_m + 1.0 for t in self._tracks):
                continue  # already followed
            track = _Track(
                reference=previous.image,
                T_world_reference=T_world_previous,
                origins=self._origins(frame, upright[members], previous, T_world_previous),
                extent_m=_extent(xyz[members]),
            )
            track.sightings.append(sighting)
            self._tracks.append(track)

    def _origins(
        self,
        frame: LidarFrame,
        members: NDArray[np.intp],
        previous: LidarFrame,
        T_world_previous: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """World-frame displacements (K, 2) per sweep that could have brought the cluster where it is.

        A displacement is possible when, moved back along it, most of the cluster lies where the sweep before saw no
        emptiness, and where nothing stands now.
        """
        dt_s = max((frame.stamp_ns - previous.stamp_ns) / NS_PER_S, 1e-3)
        back = _displacements(V_MAX_M_S * dt_s)
        sample = frame.xyz[members[:: max(1, members.shape[0] // 60)]].astype(np.float64)
        moved = np.repeat(sample[None], back.shape[0], axis=0)
        moved[:, :, :2] += back[:, None, :]
        flat = np.ascontiguousarray(moved.reshape(-1, 3), dtype=np.float32)
        others = np.ones(frame.xyz.shape[0], dtype=np.bool_)
        others[members] = False
        now = range_image(
            np.ascontiguousarray(frame.range_m[others]), np.ascontiguousarray(frame.row[others]),
            np.ascontiguousarray(frame.col[others]),
        )  # fmt: skip
        T_previous_current = np.linalg.inv(T_world_previous) @ self._pose
        before, _ = ask_sweep(flat, T_previous_current, previous.image, 0.5 * MARGIN_M, MARGIN_RATIO)
        today, _ = ask_sweep(flat, np.eye(4), now, 0.5 * MARGIN_M, MARGIN_RATIO)
        possible = (before != SEEN_THROUGH) & ~((before == HIT) & (today == HIT))
        share = possible.reshape(back.shape[0], -1).mean(axis=1)
        origins: NDArray[np.float64] = -back[share >= 0.6] @ self._pose[:2, :2].T
        return origins

    def _follow(self, frame: LidarFrame, upright: NDArray[np.intp], xyz: NDArray[np.float32]) -> None:
        for track in self._tracks:
            track.age += 1
            sighting = self._seek(track, frame, upright, xyz)
            if sighting is None:
                track.misses += 1
            else:
                track.misses = 0
                _weigh(track, sighting, self._carried(track))
        self._tracks = [t for t in self._tracks if t.misses <= MAX_MISSES and (t.age <= MAX_AGE or t.llr > ALARM_LLR)]

    def _carried(self, track: _Track) -> NDArray[np.float64]:
        """Where the last sighting would be now, in the world, had it been carried along with the sensor."""
        place: NDArray[np.float64] = self._pose[:2, :2] @ track.sightings[-1].local_m + self._pose[:2, 3]
        return place

    def _seek(
        self, track: _Track, frame: LidarFrame, upright: NDArray[np.intp], xyz: NDArray[np.float32]
    ) -> _Sighting | None:
        last = track.sightings[-1]
        T_current_world = np.linalg.inv(self._pose)
        dt_s = (frame.stamp_ns - last.stamp_ns) / NS_PER_S
        here = T_current_world[:2, :2] @ last.xy_m + T_current_world[:2, 3]
        gate_m = track.extent_m + V_MAX_M_S * dt_s
        close = np.flatnonzero(within_reach(xyz, here[0], here[1], gate_m))
        if close.size < MIN_SIGHTING_POINTS:
            return None
        T = np.linalg.inv(track.T_world_reference) @ self._pose
        near = np.ascontiguousarray(xyz[close])
        status, _ = ask_sweep(near, T, track.reference, MARGIN_M, MARGIN_RATIO)
        loose = close[status != HIT]  # later the place itself may be hidden from the reference; only scenery is not
        labels, count = cluster_points(np.ascontiguousarray(xyz[loose]), VOXEL_M)
        predictions = [*_predictions(track, dt_s), self._carried(track)]
        best: _Sighting | None = None
        best_distance = MAX_MISMATCH_M
        for label in range(count):
            members = loose[labels == label]
            if members.size < max(MIN_SIGHTING_POINTS, 0.35 * last.points):
                continue
            sighting = self._sight(frame, upright[members])
            distance = min(np.hypot(*(sighting.xy_m - p)) for p in predictions)
            distance += _unlike(sighting, track)
            if distance < best_distance:
                best, best_distance = sighting, distance
        return best

    def _sight(self, frame: LidarFrame, members: NDArray[np.intp]) -> _Sighting:
        points = frame.xyz[members]
        near_m, mid_m = np.quantile(frame.range_m[members], (0.15, 0.5))
        centre = np.median(points[:, :2], axis=0)
        return _Sighting(
            stamp_ns=frame.stamp_ns,
            points=members.size,
            xy_m=self._pose[:2, :2] @ centre + self._pose[:2, 3],
            local_m=centre.astype(np.float64),
            across=self._pose[:2, :2] @ np.array([-centre[1], centre[0]]) / max(float(np.hypot(*centre)), 1e-6),
            near_m=float(near_m),
            mid_m=float(mid_m),
            roughness_m=_roughness(points, frame.range_m[members]),
            penetration=_penetration(frame, members),
        )


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


def _displacements(reach_m: float) -> NDArray[np.float64]:
    """Rest and rings of displacements up to reach_m, (K, 2)."""
    radii = np.arange(0.4, reach_m + 0.4, 0.4)
    angles = np.arange(24) * (2.0 * np.pi / 24)
    rings = np.stack((np.outer(radii, np.cos(angles)), np.outer(radii, np.sin(angles))), axis=-1).reshape(-1, 2)
    return np.vstack((np.zeros((1, 2)), rings))


def _predictions(track: _Track, dt_s: float) -> list[NDArray[np.float64]]:
    """Where the object may be now: standing, going on as between its last sightings, or as its origins allow."""
    last = track.sightings[-1]
    places = [last.xy_m]
    if len(track.sightings) >= 2:
        before = track.sightings[-2]
        step_s = (last.stamp_ns - before.stamp_ns) / NS_PER_S
        places.append(last.xy_m + (last.xy_m - before.xy_m) * (dt_s / step_s))
    else:
        places.extend(last.xy_m + track.origins)
    return places


def _unlike(sighting: _Sighting, track: _Track) -> float:
    """Dissimilarity to the tracked body, in metres of prediction error it is worth."""
    unlike = abs(float(np.log(sighting.points / track.sightings[-1].points)))
    if np.isfinite(sighting.roughness_m) and np.isfinite(track.roughness_m):
        unlike += 0.5 * abs(float(np.log(max(sighting.roughness_m, 0.01) / max(track.roughness_m, 0.01))))
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


def _weigh(track: _Track, sighting: _Sighting, carried: NDArray[np.float64]) -> None:
    """Add one sighting and the evidence it brings. carried: the last sighting, had it moved with the sensor."""
    past = track.sightings
    past.append(sighting)
    if len(past) == 2:
        moved = past[1].xy_m - past[0].xy_m
        stays_m = min(float(np.hypot(*moved)), float(np.hypot(*(past[1].xy_m - carried))))
        if track.age > 1 or stays_m > MAX_STAY_M:
            return  # it moved, but not where it could have come from: most likely another body
        misfit_m = np.hypot(*(track.origins - moved).T).min() if track.origins.shape[0] else np.inf
        track.motion_llr = motion_llr(float(misfit_m))
        return
    a, b, c = past[-3:]
    first_s, second_s = b.stamp_ns - a.stamp_ns, c.stamp_ns - b.stamp_ns
    if not 0.6 < second_s / first_s < 1.6:
        return  # a missed sweep in between: not a second difference
    near = c.near_m - 2.0 * b.near_m + a.near_m
    mid = c.mid_m - 2.0 * b.mid_m + a.mid_m
    swerve = c.xy_m - 2.0 * b.xy_m + a.xy_m
    if abs(float(np.dot(swerve, c.across))) > MAX_SWERVE_M or not 0.4 < c.points / b.points < 2.5:
        return
    # what moves both quantiles moves the object; what moves one moves only what is visible of it
    track.jitter_llr = min(track.jitter_llr + jitter_llr(min(abs(near), abs(mid))), MAX_JITTER_LLR)


def _roughness(points: NDArray[np.float32], range_m: NDArray[np.float32]) -> float:
    """Range noise sigma in metres from second differences of neighbouring beams; NaN with too few of them.

    Neighbours are consecutive in the cloud's order and within the angles that neighbours have, so that clouds in
    ring order and in firing order both work and shuffled clouds abstain.
    """
    az = np.arctan2(points[:, 1], points[:, 0])
    el = np.arcsin(np.clip(points[:, 2] / range_m, -1.0, 1.0))
    step = (np.abs(np.diff(az)) < np.radians(1.2)) & (np.abs(np.diff(el)) < np.radians(0.7))
    triple = step[:-1] & step[1:]
    if np.count_nonzero(triple) < MIN_TRIPLES:
        return float("nan")
    second = np.abs(range_m[2:] - 2.0 * range_m[1:-1] + range_m[:-2])[triple]
    return float(np.median(second) / (0.6745 * np.sqrt(6.0)))


def _penetration(frame: LidarFrame, members: NDArray[np.intp]) -> float:
    """Share of the returns within the cluster's inner angular box that come from well behind it."""
    row, col = frame.row[members].astype(np.int64), frame.col[members].astype(np.int64)
    shift = int(col[0]) - 450
    col = (col - shift) % COLUMNS  # away from the seam
    low_row, high_row = np.quantile(row, (0.1, 0.9))
    low_col, high_col = np.quantile(col, (0.1, 0.9))
    window = np.array((low_row, high_row, low_col, high_col), dtype=np.float64)
    beyond_m = float(np.quantile(frame.range_m[members], 0.95) + 1.0)
    inside, behind = count_behind(frame.row, frame.col, frame.range_m, shift, COLUMNS, window, beyond_m)
    return float(behind / max(inside, 1))
