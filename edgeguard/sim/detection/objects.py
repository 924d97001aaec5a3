"""Where to attack in a sweep nobody labelled: things that stand on the ground, and free space between them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.dbscan import dbscan
from edgeguard.kernels.ground import height_above_ground
from edgeguard.sim.attacks.base import Moment
from edgeguard.types import PointCloud, Sample

# What counts as an object: between a bollard and a lorry, near enough to matter.
MIN_HEIGHT_M, MAX_HEIGHT_M = 0.3, 3.0
NEAREST_M, FARTHEST_M = 3.0, 30.0
EPS_M, MIN_NEIGHBOURS = 0.6, 8
MIN_POINTS = 40
MIN_EXTENT_M, MAX_EXTENT_M = 0.3, 6.0
# A road vehicle comes or goes by at most so much between two sweeps of 10 Hz when both drive fast in a town.
MAX_STEP_M = 3.0
# A plate is in free space when at most this share of the returns in its sector lies nearer than it.
MAX_NEARER_SHARE = 0.1
_TRIES = 60


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """A cluster above ground. index: (N,) of its points in the cloud; centre_m: x, y; low, high: of its bounding box
    in x, y, z."""

    index: NDArray[np.int64]
    centre_m: NDArray[np.float64]
    low_m: NDArray[np.float64]
    high_m: NDArray[np.float64]

    @property
    def range_m(self) -> float:
        return float(np.hypot(*self.centre_m))

    @property
    def azimuth_deg(self) -> float:
        return float(np.degrees(np.arctan2(self.centre_m[1], self.centre_m[0])))


def find_things(cloud: PointCloud, lidar_height_m: float) -> list[Thing]:
    """Return what stands on the ground within reach, in order of distance."""
    xyz = np.ascontiguousarray(cloud.xyz, dtype=np.float32)
    finite = np.isfinite(xyz).all(axis=1)
    height = height_above_ground(xyz, lidar_height_m)
    reach = np.hypot(xyz[:, 0], xyz[:, 1])
    with np.errstate(invalid="ignore"):
        keep = finite & (height > MIN_HEIGHT_M) & (height < MAX_HEIGHT_M) & (reach > NEAREST_M) & (reach < FARTHEST_M)
    kept = np.flatnonzero(keep)
    if len(kept) < MIN_POINTS:
        return []
    points = np.ascontiguousarray(xyz[kept])
    labels, _, _ = dbscan(points, EPS_M, MIN_NEIGHBOURS)
    order = np.argsort(labels, kind="stable")
    cuts = np.searchsorted(labels[order], np.arange(int(labels.max(initial=-1)) + 2))
    things = []
    for first, end in itertools.pairwise(cuts):
        inside = order[first:end]
        if len(inside) < MIN_POINTS:
            continue
        own = points[inside].astype(np.float64)
        low, high = own.min(axis=0), own.max(axis=0)
        extent = float(np.hypot(*(high - low)[:2]))
        if MIN_EXTENT_M <= extent <= MAX_EXTENT_M and high[2] - low[2] >= MIN_EXTENT_M:
            things.append(Thing(kept[inside], own[:, :2].mean(axis=0), low, high))
    return sorted(things, key=lambda thing: thing.range_m)


class ObjectRemoval:
    """A share of the returns of one object never comes, in every sweep, wherever it is by then.

    The object is followed from sweep to sweep as the cluster nearest to where it must be; while it cannot be found,
    what lies in its last box is taken. Returns of removed beams are lost, not moved (Cao et al., USENIX Security 2023).
    """

    unplugs = False

    def __init__(
        self, thing: Thing, sensor: str, end_s: float, *, share: float = 0.9, lidar_height_m: float = 1.73
    ) -> None:
        self.name, self.sensor, self.start_s, self.end_s = "object_removal", sensor, 0.0, end_s
        self.size = f"{100 * share:g} % of {len(thing.index)} points at {thing.range_m:.0f} m"
        self._thing, self._share, self._lidar_height_m = thing, share, lidar_height_m
        self._step_m = np.zeros(2)

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Drop the returns."""
        if not isinstance(sample, PointCloud):
            return sample
        self._follow(sample)
        low, high = self._thing.low_m - 0.1, self._thing.high_m + 0.1
        inside = np.all((sample.xyz >= low) & (sample.xyz <= high), axis=1)
        gone = inside & (moment.rng.random(len(inside)) < self._share)
        if not gone.any():
            return sample
        return without(sample, gone)

    def _follow(self, cloud: PointCloud) -> None:
        expected = self._thing.centre_m + self._step_m
        near = [
            (float(np.hypot(*(thing.centre_m - expected))), thing) for thing in find_things(cloud, self._lidar_height_m)
        ]
        away, found = min(near, key=lambda pair: pair[0], default=(np.inf, self._thing))
        if away > MAX_STEP_M:
            return
        self._step_m = found.centre_m - self._thing.centre_m
        self._thing = found


def without(cloud: PointCloud, gone: NDArray[np.bool_]) -> PointCloud:
    """Return the cloud without the marked points."""
    keep = ~gone
    return replace(
        cloud,
        xyz=cloud.xyz[keep],
        intensity=cloud.intensity[keep],
        ring=None if cloud.ring is None else cloud.ring[keep],
        time_offset_ns=None if cloud.time_offset_ns is None else cloud.time_offset_ns[keep],
    )


def free_bearing(
    cloud: PointCloud,
    range_m: float,
    width_m: float,
    top_m: float,
    need: int,
    lidar_height_m: float,
    rng: np.random.Generator,
) -> float | None:
    """Return a random azimuth (deg) at which a plate of this width and height at `range_m` stands free: beams cross
    it, at least `need`, and hardly any return lies nearer. None where none of a number of tries was free."""
    azimuth = np.degrees(np.arctan2(cloud.xyz[:, 1], cloud.xyz[:, 0]))
    reach = np.hypot(cloud.xyz[:, 0], cloud.xyz[:, 1])
    with np.errstate(invalid="ignore", divide="ignore"):
        height = cloud.xyz[:, 2] / reach * range_m + lidar_height_m
    crossing = (height > 0.05) & (height < top_m)
    half = float(np.degrees(np.arctan2(width_m / 2, range_m)))
    for bearing in rng.uniform(-180.0, 180.0, _TRIES):
        inside = crossing & (np.abs((azimuth - bearing + 180.0) % 360.0 - 180.0) <= half)
        count = int(np.count_nonzero(inside))
        if count >= need and np.count_nonzero(reach[inside] < range_m - 0.5) <= MAX_NEARER_SHARE * count:
            return float(bearing)
    return None
