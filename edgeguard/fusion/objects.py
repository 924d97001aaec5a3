"""One list of objects from camera and lidar: boxes of the model and clusters of the sweep, each with its existence.

A Bernoulli filter per object (Ristic et al., IEEE TSP 61(13), 2013, without its kinematics): existence rises with each
sensor that sees the object, and falls with each that should have and did not, by how likely that sensor sees an object
of this size, at this range, that nothing hides. A sensor that is lost or not believed says nothing either way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeguard.types import CAMERA, LIDAR, Detection, FusedObject, RigCalibration

Box = tuple[float, float, float, float]

# What stands up from the road and is no wall: metres over ground, from the sensor, extent.
MIN_HEIGHT_M, MAX_HEIGHT_M = 0.3, 3.0
MIN_RANGE_M, DENSE_M, MAX_RANGE_M = 1.5, 15.0, 50.0
MAX_LENGTH_M, MIN_TALL_M = 13.0, 0.4
THIN_M, JOIN_M, MIN_POINTS = 0.2, 0.5, 4
# More points than this are thinned out evenly: the budget is per frame.
MAX_POINTS = 20_000
# Prior of a new object, survival per second, and when an object is dropped.
BIRTH, SURVIVAL_PER_S, FORGET = 0.2, 0.9, 0.02
CLAMP = (0.001, 0.999)
# Camera: an object that the model knows is found in nine of ten frames, one it may not know in three of ten; a box out
# of nothing in one of ten. Above this range the model's boxes become small and rare.
CAMERA_KNOWN, CAMERA_ANY, CAMERA_FALSE, CAMERA_RANGE_M = 0.9, 0.3, 0.1, 60.0
# Lidar: at least this many returns make a cluster for certain; a cluster out of nothing in one of twenty.
SURE_RETURNS, LIDAR_FALSE, LIDAR_MOST = 12.0, 0.05, 0.95
# A box and a cluster belong together from this overlap of the smaller one.
OVERLAP = 0.5
# An object moves at most this far between frames beside the vehicle's own motion.
GATE_M = 2.5
# Assumed height of what a box shows where only its foot on the road tells its range.
OBJECT_AREA_M2 = 1.0
MAX_TRACKS = 200


@dataclass(frozen=True, slots=True)
class Cluster:
    """Returns that hang together: nearest point (x, y) m in the lidar's frame, size (length, width, height) m, number
    of thinned points, and the box (pixels) that holds their projection, None outside the image."""

    position_m: tuple[float, float]
    size_m: tuple[float, float, float]
    points: int
    box_xyxy: Box | None

    @property
    def range_m(self) -> float:
        return math.hypot(*self.position_m)


@dataclass(slots=True)
class _Track:
    number: int
    existence: float = BIRTH
    label: str = ""
    score: float = 0.0
    box: Box | None = None
    position: tuple[float, float] | None = None
    size: tuple[float, float, float] | None = None
    sources: set[str] = field(default_factory=set)


def find_clusters(
    xyz: NDArray[np.float32], height_m: NDArray[np.float32], calibration: RigCalibration | None
) -> list[Cluster]:
    """Clusters of upright things that are no walls.

    xyz: (N, 3) float32 m, sensor frame. height_m: (N,) float32 over ground, NaN unknown.
    """
    from edgeguard.kernels.clusters import cluster_points
    from edgeguard.kernels.voxels import thin_points

    upright = np.flatnonzero((height_m > MIN_HEIGHT_M) & (height_m < MAX_HEIGHT_M))
    xy = xyz[upright, :2]
    square = np.einsum("ij,ij->i", xy, xy)
    # Near things have returns to spare: every fourth will do.
    near = (square < DENSE_M**2) & (upright % 4 != 0)
    kept = xyz[upright[(square < MAX_RANGE_M**2) & (square > MIN_RANGE_M**2) & ~near]]
    kept = np.ascontiguousarray(kept[:: max(1, -(-len(kept) // MAX_POINTS))])
    if len(kept) < MIN_POINTS:
        return []
    thin = thin_points(kept, THIN_M)
    labels, count = cluster_points(thin, JOIN_M)
    # By cluster, and in it by distance: the first of each is its nearest point.
    order = np.lexsort((np.einsum("ij,ij->i", thin[:, :2], thin[:, :2]), labels))
    first = np.searchsorted(labels[order], np.arange(count))
    numbers = np.diff(np.append(first, len(order)))
    points = thin[order]
    low, high = np.minimum.reduceat(points, first), np.maximum.reduceat(points, first)
    size = high - low
    good = (numbers >= MIN_POINTS) & (size[:, :2].max(axis=1) < MAX_LENGTH_M) & (size[:, 2] > MIN_TALL_M)
    boxes = _project(points, first, calibration)
    out = []
    for i in np.flatnonzero(good):
        nearest = points[first[i]]
        extent = (float(size[i, 0]), float(size[i, 1]), float(size[i, 2]))
        out.append(Cluster((float(nearest[0]), float(nearest[1])), extent, int(numbers[i]), boxes[i]))
    return out


def _project(
    points: NDArray[np.float32], first: NDArray[np.int64], calibration: RigCalibration | None
) -> list[Box | None]:
    """Image box of each run of points; None where less than half of its points are in front and inside."""
    if calibration is None:
        return [None] * len(first)
    P = (calibration.camera_matrix @ calibration.T_cam_lidar[:3]).astype(np.float32)
    p = points @ P[:, :3].T + P[:, 3]
    ahead = p[:, 2] > 0.5
    u, v = p[:, 0] / np.where(ahead, p[:, 2], 1.0), p[:, 1] / np.where(ahead, p[:, 2], 1.0)
    width, height = calibration.image_size_px
    inside = ahead & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    share = np.add.reduceat(inside.astype(np.float32), first) / np.diff(np.append(first, len(points)))
    big = np.float32(1e9)
    edges = [
        np.minimum.reduceat(np.where(inside, u, big), first),
        np.minimum.reduceat(np.where(inside, v, big), first),
        np.maximum.reduceat(np.where(inside, u, -big), first),
        np.maximum.reduceat(np.where(inside, v, -big), first),
    ]
    return [
        (float(edges[0][i]), float(edges[1][i]), float(edges[2][i]), float(edges[3][i])) if share[i] >= 0.5 else None
        for i in range(len(first))
    ]


def overlap(a: Box, b: Box) -> float:
    """Intersection over the smaller area, 0..1."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    smaller = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return width * height / max(smaller, 1e-6)


def lidar_sees(range_m: float, area_m2: float, returns_per_sr: float) -> float:
    """Probability that an object of this area at this range, hidden by nothing, makes a cluster."""
    expected = area_m2 * returns_per_sr / max(range_m, 1.0) ** 2
    return LIDAR_MOST * min(1.0, expected / SURE_RETURNS)


class ObjectFusion:
    """Holds the objects of one rig from frame to frame.

    Args:
        calibration: camera-lidar geometry; without it boxes and clusters are not brought together.
    """

    def __init__(self, calibration: RigCalibration | None = None) -> None:
        self._calibration = calibration
        self._tracks: list[_Track] = []
        self._next = 1

    def reset(self) -> None:
        """Time jumped: no object is the one it was."""
        self._tracks = []

    def update(
        self,
        dt_s: float,
        detections: Sequence[Detection] | None,
        clusters: Sequence[Cluster] | None,
        *,
        moved: tuple[float, float, float] = (0.0, 0.0, 0.0),
        returns_per_sr: float = 20_000.0,
    ) -> tuple[FusedObject, ...]:
        """Take one frame.

        detections: the model's boxes, None when the camera is not there, not believed or was not asked. clusters: of
        the sweep, None when the lidar is not there or not believed. moved: the vehicle's motion since the frame before
        (forward m, left m, counter-clockwise rad). returns_per_sr: the lidar's returns per steradian.
        """
        for track in self._tracks:
            self._carry(track, dt_s, moved)
        pairs = self._pair(detections or (), clusters or ())
        for detection, cluster in pairs:
            match = self._find(detection, cluster) or self._new()
            if match is None:
                continue
            if cluster is not None:
                match.position, match.size = cluster.position_m, cluster.size_m
                match.sources.add(LIDAR)
            if detection is not None:
                match.label, match.score, match.box = detection.label, detection.score, detection.box_xyxy
                match.sources.add(CAMERA)
            elif cluster is not None and cluster.box_xyxy is not None:
                match.box = cluster.box_xyxy
        for track in self._tracks:
            self._weigh(track, detections is not None, clusters, returns_per_sr)
        self._tracks = [t for t in self._tracks if t.existence > FORGET]
        return tuple(
            FusedObject(
                t.number,
                t.existence,
                tuple(s for s in (CAMERA, LIDAR) if s in t.sources),
                t.label,
                t.score,
                t.box if t.label else None,
                t.position,
                t.size,
            )
            for t in sorted(self._tracks, key=lambda t: -t.existence)
            if t.sources
        )

    def _new(self) -> _Track | None:
        if len(self._tracks) >= MAX_TRACKS:
            return None
        self._tracks.append(_Track(self._next))
        self._next += 1
        return self._tracks[-1]

    @staticmethod
    def _carry(track: _Track, dt_s: float, moved: tuple[float, float, float]) -> None:
        track.sources = set()
        track.existence *= SURVIVAL_PER_S**dt_s
        if track.position is not None:
            x, y = track.position[0] - moved[0], track.position[1] - moved[1]
            cos, sin = math.cos(moved[2]), math.sin(moved[2])
            track.position = (cos * x + sin * y, cos * y - sin * x)

    def _pair(
        self, detections: Sequence[Detection], clusters: Sequence[Cluster]
    ) -> list[tuple[Detection | None, Cluster | None]]:
        """Each box with the nearest cluster behind most of it; what is left over stays alone."""
        free = dict(enumerate(clusters))
        out: list[tuple[Detection | None, Cluster | None]] = []
        for detection in sorted(detections, key=lambda d: -d.score):
            fitting = [
                (c.range_m, i)
                for i, c in free.items()
                if c.box_xyxy is not None and overlap(c.box_xyxy, detection.box_xyxy) >= OVERLAP
            ]
            out.append((detection, free.pop(min(fitting)[1]) if fitting else None))
        return out + [(None, c) for c in free.values()]

    def _find(self, detection: Detection | None, cluster: Cluster | None) -> _Track | None:
        """The nearest track that nobody has taken in this frame: by place where both have one, by box otherwise."""
        best: _Track | None = None
        nearest = math.inf
        for track in self._tracks:
            if track.sources:
                continue
            if cluster is not None and track.position is not None:
                away = math.dist(cluster.position_m, track.position) / GATE_M
            elif detection is not None and track.box is not None:
                share = overlap(detection.box_xyxy, track.box)
                away = (1.0 - share) / (1.0 - OVERLAP)
            else:
                continue
            if away < min(nearest, 1.0):
                best, nearest = track, away
        return best

    def _weigh(
        self, track: _Track, camera_looked: bool, clusters: Sequence[Cluster] | None, returns_per_sr: float
    ) -> None:
        odds = track.existence / (1.0 - track.existence)
        if camera_looked and track.box is not None:
            seen = self._camera_sees(track)
            if CAMERA in track.sources:
                # The score is the model's own odds, bounded: it is confident about what is not there as well.
                odds *= min(max(track.score / max(1.0 - track.score, 1e-3), 1.0), 1.0 / CAMERA_FALSE)
            else:
                odds *= (1.0 - seen) / (1.0 - CAMERA_FALSE * seen)
        if clusters is not None:
            if LIDAR in track.sources:
                odds *= 1.0 / LIDAR_FALSE * 0.5
            else:
                odds *= (1.0 - self._lidar_sees(track, clusters, returns_per_sr)) / (1.0 - LIDAR_FALSE)
        track.existence = min(max(odds / (1.0 + odds), CLAMP[0]), CLAMP[1])

    @staticmethod
    def _camera_sees(track: _Track) -> float:
        known = CAMERA_KNOWN if track.label else CAMERA_ANY
        away = 0.0 if track.position is None else math.hypot(*track.position)
        return known * max(0.0, 1.0 - (away / CAMERA_RANGE_M) ** 2)

    def _lidar_sees(self, track: _Track, clusters: Sequence[Cluster], returns_per_sr: float) -> float:
        """Probability that the lidar would have seen this object now: not where something nearer stands before it, and
        not where nobody knows how far it is."""
        range_m = self._range_of(track)
        if range_m is None or not MIN_RANGE_M < range_m < MAX_RANGE_M:
            return 0.0
        if track.box is not None:
            nearer = (c for c in clusters if c.box_xyxy is not None and c.range_m < range_m - 1.0)
            if any(overlap(c.box_xyxy, track.box) >= OVERLAP for c in nearer if c.box_xyxy is not None):
                return 0.0
        elif track.position is not None:
            bearing = math.atan2(track.position[1], track.position[0])
            for c in clusters:
                width = max(c.size_m[0], c.size_m[1]) / 2 / max(c.range_m, 1.0)
                off = abs(math.remainder(math.atan2(c.position_m[1], c.position_m[0]) - bearing, 2 * math.pi))
                if c.range_m < range_m - 1.0 and off < width:
                    return 0.0
        size = track.size
        area = OBJECT_AREA_M2 if size is None else max(0.1, max(size[0], size[1]) * size[2])
        return lidar_sees(range_m, area, returns_per_sr)

    def _range_of(self, track: _Track) -> float | None:
        """From the lidar, else from where the foot of the box meets a level road."""
        if track.position is not None:
            return math.hypot(*track.position)
        if self._calibration is None or track.box is None:
            return None
        K, T = self._calibration.camera_matrix, self._calibration.T_cam_lidar
        foot = np.array([(track.box[0] + track.box[2]) / 2, track.box[3], 1.0])
        ray = T[:3, :3].T @ np.linalg.solve(K, foot)
        origin = -T[:3, :3].T @ T[:3, 3]
        drop = self._calibration.lidar_height_m + origin[2]
        if ray[2] > -1e-3:
            return None
        place = origin + ray * (drop / -ray[2])
        return float(math.hypot(place[0], place[1]))
