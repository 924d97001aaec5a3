"""Somebody else writes into the sweep: returns are added, and every genuine one stays.

Not a laser's attack, which displaces the returns of the beams it hits, but one on the way: a second publisher of the
same stream whose points are merged, or a man in the middle between sensor and host.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.attacks.base import AttackBase, End, Moment, Start
from edgeguard.sim.attacks.lidar import Azimuth, Metres, beams_through_plate
from edgeguard.types import LIDAR, PointCloud, Sample


class LidarInsertion(AttackBase, frozen=True, tag="lidar_insertion"):
    """A second source adds an obstacle's returns to the sweep, and the genuine returns behind it stay.

    Up to `points` beams that cross a `width_m` by `height_m` plate, standing on the ground at `range_m` in direction
    `azimuth_deg` (left positive), get a second return on it, with the ring and firing time of their genuine one and
    behind it in the sweep. With `on_beams` false the added points lie anywhere on the plate: whoever writes them does
    not know the firing pattern; ring and time are those of the nearest beam.
    """

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0041", "AML.T0015")
    source: ClassVar[str] = "mola_state_estimation issue 69: a second publisher on a sensor's topic, merged unnoticed"
    knob: ClassVar[str] = "points"

    start_s: Start
    end_s: End
    points: Annotated[int, msgspec.Meta(ge=1, le=200_000, description="at most")] = 300
    range_m: Metres = 12.0
    width_m: Metres = 1.8
    height_m: Metres = 1.5
    azimuth_deg: Azimuth = 0.0
    closing_m_s: Annotated[float, msgspec.Meta(ge=-60.0, le=60.0, description="0: moves with the vehicle")] = 0.0
    noise_m: Annotated[float, msgspec.Meta(ge=0.0, le=10.0, description="1 sigma of the range")] = 0.02
    on_beams: bool = True
    sensor_height_m: Annotated[float, msgspec.Meta(ge=0.0, le=20.0)] = 1.73
    sensor: str = LIDAR

    @property
    def size(self) -> str:
        return f"{self.points} points at {self.range_m:g} m, {'on' if self.on_beams else 'off'} the beams"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Add the plate's returns, each right behind the genuine return whose ring and time it has."""
        if not isinstance(sample, PointCloud):
            return sample
        rng = moment.rng
        distance = max(1.0, self.range_m - self.closing_m_s * moment.elapsed_s)
        plate = (distance, self.width_m, self.height_m)
        found = beams_through_plate(sample, plate, self.azimuth_deg, self.sensor_height_m)
        if len(found) == 0:
            return sample
        beams = sample.xyz[found].astype(np.float64)
        if self.on_beams:
            which = np.sort(rng.choice(len(found), min(self.points, len(found)), replace=False))
            added = self._on_plate(beams[which], distance)
        else:
            added = self._anywhere(distance, rng)
            which = _nearest(beams, added)
            order = np.argsort(which, kind="stable")
            which, added = which[order], added[order]
        reach = np.linalg.norm(added, axis=1, keepdims=True)
        added = added * (1.0 + self.noise_m * rng.standard_normal(reach.shape) / reach)
        shine = np.clip(0.6 + 0.1 * rng.standard_normal(len(added)), 0.0, 1.0)
        return _with_added(sample, found[which], added.astype(np.float32), shine.astype(np.float32))

    def _axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        c, s = np.cos(np.deg2rad(self.azimuth_deg)), np.sin(np.deg2rad(self.azimuth_deg))
        return np.array([c, s, 0.0]), np.array([-s, c, 0.0])

    def _on_plate(self, beams: NDArray[np.float64], distance: float) -> NDArray[np.float64]:
        ahead, _ = self._axes()
        return np.asarray(beams * (distance / (beams @ ahead))[:, None])

    def _anywhere(self, distance: float, rng: np.random.Generator) -> NDArray[np.float64]:
        ahead, left = self._axes()
        across = self.width_m * (rng.random(self.points) - 0.5)
        height = 0.05 + (self.height_m - 0.05) * rng.random(self.points) - self.sensor_height_m
        up = np.array([0.0, 0.0, 1.0])
        return np.asarray(distance * ahead + across[:, None] * left + height[:, None] * up)


def _nearest(beams: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each point the index of the beam nearest to it in direction."""
    unit = beams / np.linalg.norm(beams, axis=1, keepdims=True)
    return np.array([int(np.argmax(unit @ point)) for point in points], dtype=np.int64)


def _with_added(
    cloud: PointCloud, behind: NDArray[np.int64], xyz: NDArray[np.float32], intensity: NDArray[np.float32]
) -> PointCloud:
    """Return the cloud with points put in behind the given ones, whose rings and times they take."""
    at = behind + 1
    ring, time = cloud.ring, cloud.time_offset_ns
    return replace(
        cloud,
        xyz=np.insert(cloud.xyz, at, xyz, axis=0),
        intensity=np.insert(cloud.intensity, at, intensity),
        ring=None if ring is None else np.insert(ring, at, ring[behind]),
        time_offset_ns=None if time is None else np.insert(time, at, time[behind]),
    )
