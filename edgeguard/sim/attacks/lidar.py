"""Attacks and faults of lidar: what a laser, a mirror or dirt does to the returns of each beam.

A pulse that is spoofed, reflected or blocked displaces the genuine return of its beam: no beam ever gives both (what
adds returns on the way to the host is in `insertion`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.attacks.base import AttackBase, End, Moment, Start
from edgeguard.types import LIDAR, PointCloud, Sample

_EVADE = ("AML.T0041", "AML.T0015")
_DENY = ("AML.T0041", "AML.T0029")
_SATO = "Sato et al., NDSS 2024: jitter and share of surviving points per lidar"

Azimuth = Annotated[float, msgspec.Meta(ge=-360.0, le=360.0, description="left positive, 0 ahead")]
Width = Annotated[float, msgspec.Meta(gt=0.0, le=360.0, description="of the sector")]
Metres = Annotated[float, msgspec.Meta(gt=0.0, le=500.0)]
_RAYS_AT_ONCE = 32  # bounds the table of rays by points to some 15 MB a sweep

Jitter = Annotated[float, msgspec.Meta(ge=0.0, le=10.0, description="1 sigma of the range")]


def _sector(cloud: PointCloud, azimuth_deg: float, width_deg: float) -> NDArray[np.bool_]:
    """Return (N,) whether a point lies in a sector around the vertical axis."""
    away = np.rad2deg(np.arctan2(cloud.xyz[:, 1], cloud.xyz[:, 0])) - azimuth_deg
    return np.asarray(np.abs((away + 180.0) % 360.0 - 180.0) <= width_deg / 2)


def _kept(cloud: PointCloud, keep: NDArray[np.bool_]) -> PointCloud:
    return replace(
        cloud,
        xyz=cloud.xyz[keep],
        intensity=cloud.intensity[keep],
        ring=None if cloud.ring is None else cloud.ring[keep],
        time_offset_ns=None if cloud.time_offset_ns is None else cloud.time_offset_ns[keep],
    )


def _moved(
    cloud: PointCloud, chosen: NDArray[np.int64], target_m: NDArray[np.float64], intensity: NDArray[np.float64]
) -> PointCloud:
    """Return the cloud with the chosen beams' returns at other ranges; count, order, rings and times stay."""
    reach = np.linalg.norm(cloud.xyz[chosen], axis=1)
    xyz, strength = cloud.xyz.copy(), cloud.intensity.copy()
    xyz[chosen] *= (target_m / reach)[:, None].astype(np.float32)
    strength[chosen] = np.clip(intensity, 0.0, 1.0)
    return replace(cloud, xyz=xyz, intensity=strength)


def beams_through_plate(
    cloud: PointCloud, plate_m: tuple[float, float, float], azimuth_deg: float, sensor_height_m: float
) -> NDArray[np.int64]:
    """Return indices of the returns whose beams cross an upright plate that stands on the ground and faces the lidar.

    plate_m: its distance, width and height.
    """
    distance, width_m, height_m = plate_m
    x, y, z = cloud.xyz.T.astype(np.float64)
    c, s = np.cos(np.deg2rad(azimuth_deg)), np.sin(np.deg2rad(azimuth_deg))
    ahead, left = c * x + s * y, c * y - s * x
    safe = np.maximum(ahead, 1e-3)
    height = z / safe * distance + sensor_height_m
    crosses = (ahead > 0.5) & (np.abs(left / safe * distance) <= width_m / 2)
    crosses &= (height >= 0.05) & (height <= height_m)
    return np.flatnonzero(crosses)


class GhostPoints(AttackBase, frozen=True, tag="ghost_points"):
    """A laser makes an obstacle appear that is not there.

    Up to `points` beams that cross a `width_m` by `height_m` plate, standing on the ground at `range_m` in direction
    `azimuth_deg` (left positive), report the plate instead of what they really hit: a spoofed pulse displaces the
    genuine return. With `closing_m_s` above zero it comes nearer, otherwise it moves with the vehicle.

    Jitter as measured on injected points by Sato et al., NDSS 2024: 0.10 m per point and 0.35 m of the whole cluster
    per frame; `survival` is the share of beams the injection reaches (98.5 % for a VLP-16).
    """

    atlas: ClassVar[tuple[str, ...]] = _EVADE
    source: ClassVar[str] = _SATO
    knob: ClassVar[str] = "points"

    start_s: Start
    end_s: End
    points: Annotated[int, msgspec.Meta(le=200_000, description="at most")] = 300
    range_m: float = 12.0
    width_m: float = 1.8
    height_m: float = 1.5
    azimuth_deg: Azimuth = 0.0
    closing_m_s: Annotated[float, msgspec.Meta(ge=-60.0, le=60.0, description="0: moves with the vehicle")] = 0.0
    point_jitter_m: Jitter = 0.10
    frame_jitter_m: Jitter = 0.35
    survival: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="share of the beams that it reaches")] = 0.985
    sensor_height_m: Annotated[float, msgspec.Meta(ge=0.0, le=20.0)] = 1.73
    sensor: str = LIDAR

    @property
    def size(self) -> str:
        return f"{self.points} points at {self.range_m:g} m"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Move the chosen beams' returns to the plate; count, order, rings and times of the points stay."""
        if not isinstance(sample, PointCloud):
            return sample
        rng = moment.rng
        jitter = self.frame_jitter_m * float(rng.standard_normal())
        distance = max(1.0, self.range_m - self.closing_m_s * moment.elapsed_s + jitter)
        chosen = self._beams(sample, distance, rng)
        reach = np.linalg.norm(sample.xyz[chosen], axis=1)
        toward = np.array([np.cos(np.deg2rad(self.azimuth_deg)), np.sin(np.deg2rad(self.azimuth_deg))])
        along = sample.xyz[chosen, :2] @ toward / reach  # cosine between beam and the plate's normal
        target = distance / along + self.point_jitter_m * rng.standard_normal(len(chosen))
        return _moved(sample, chosen, target, 0.6 + 0.1 * rng.standard_normal(len(chosen)))

    def _beams(self, cloud: PointCloud, distance: float, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return indices of at most `points` returns whose beams cross the plate."""
        plate = (distance, self.width_m, self.height_m)
        found = beams_through_plate(cloud, plate, self.azimuth_deg, self.sensor_height_m)
        found = found[rng.random(len(found)) < self.survival]
        if len(found) > self.points:
            found = np.sort(rng.choice(found, self.points, replace=False))
        return found


class GhostFrustum(AttackBase, frozen=True, tag="ghost_frustum"):
    """A camera-consistent ghost: the beams on a real object report it at another range, inside its camera box.

    The object is the nearest upright thing between `nearest_m` and `farthest_m` in the sector; box and class in the
    camera stay true, only the distance is wrong.
    """

    atlas: ClassVar[tuple[str, ...]] = _EVADE
    source: ClassVar[str] = f"Hallyburton et al., arXiv 2106.07098 (frustum attack); {_SATO}"
    knob: ClassVar[str] = "shift_m"

    start_s: Start
    end_s: End
    shift_m: Annotated[float, msgspec.Meta(ge=-100.0, le=100.0, description="away is positive")] = -6.0
    points: Annotated[int, msgspec.Meta(ge=1, le=200_000)] = 200
    azimuth_deg: Azimuth = 0.0
    width_deg: Width = 16.0
    nearest_m: Metres = 6.0
    farthest_m: Metres = 45.0
    point_jitter_m: Jitter = 0.10
    frame_jitter_m: Jitter = 0.35
    sensor_height_m: Annotated[float, msgspec.Meta(ge=0.0, le=20.0)] = 1.73
    sensor: str = LIDAR

    @property
    def size(self) -> str:
        return f"{self.shift_m:+g} m, {self.points} points"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Move the object's returns along their beams."""
        if not isinstance(sample, PointCloud):
            return sample
        chosen = self._object(sample)
        if len(chosen) == 0:
            return sample
        rng = moment.rng
        if len(chosen) > self.points:
            chosen = np.sort(rng.choice(chosen, self.points, replace=False))
        reach = np.linalg.norm(sample.xyz[chosen], axis=1).astype(np.float64)
        shift = self.shift_m + self.frame_jitter_m * float(rng.standard_normal())
        target = np.maximum(1.0, reach + shift + self.point_jitter_m * rng.standard_normal(len(chosen)))
        return _moved(sample, chosen, target, sample.intensity[chosen].astype(np.float64))

    def _object(self, cloud: PointCloud) -> NDArray[np.int64]:
        """Return the indices of the returns on the nearest upright thing: a car's depth behind its nearest point."""
        reach = np.hypot(cloud.xyz[:, 0], cloud.xyz[:, 1])
        height = cloud.xyz[:, 2] + self.sensor_height_m
        upright = (height > 0.3) & (height < 2.2) & (reach > self.nearest_m) & (reach < self.farthest_m)
        upright &= _sector(cloud, self.azimuth_deg, self.width_deg)
        if np.count_nonzero(upright) < 5:
            return np.zeros(0, dtype=np.int64)
        nearest = float(np.partition(reach[upright], 4)[4])
        return np.flatnonzero(upright & (reach < nearest + 2.5))


class LidarRemoval(AttackBase, frozen=True, tag="lidar_removal"):
    """Pulses from a laser arrive first, below the least range, where the sensor discards them: a sector goes empty."""

    atlas: ClassVar[tuple[str, ...]] = _EVADE
    source: ClassVar[str] = "Cao et al., You Can't See Me, USENIX Security 2023: 92.7 % success, 90 % of a target"
    knob: ClassVar[str] = "width_deg"

    start_s: Start
    end_s: End
    width_deg: Width = 40.0
    azimuth_deg: Azimuth = 0.0
    share: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="of the sector's points removed")] = 0.95
    nearest_m: Annotated[float, msgspec.Meta(ge=0.0, le=500.0, description="spares what is nearer")] = 0.0
    farthest_m: Metres = 200.0
    sensor: str = LIDAR

    @property
    def size(self) -> str:
        return f"{100 * self.share:g} % of {self.width_deg:g} deg at {self.azimuth_deg:g} deg"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Drop the returns."""
        if not isinstance(sample, PointCloud):
            return sample
        reach = np.linalg.norm(sample.xyz, axis=1)
        hit = _sector(sample, self.azimuth_deg, self.width_deg)
        hit &= (reach >= self.nearest_m) & (reach <= self.farthest_m)
        hit &= moment.rng.random(len(hit)) < self.share
        return _kept(sample, ~hit)


class LidarHfr(AttackBase, frozen=True, tag="lidar_hfr"):
    """High-frequency removal: pulses at megahertz rates drown a sector; each beam reports some random range."""

    atlas: ClassVar[tuple[str, ...]] = _DENY
    source: ClassVar[str] = "Sato et al., NDSS 2024 and 2025: sectors of 10 to 60 deg at 15 to 24 MHz"
    knob: ClassVar[str] = "width_deg"

    start_s: Start
    end_s: End
    width_deg: Width = 40.0
    azimuth_deg: Azimuth = 0.0
    share: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="of the sector's beams hit")] = 0.9
    pulse_mhz: Annotated[float, msgspec.Meta(gt=0.0, le=1000.0, description="first pulse wins: c / 2f at most")] = 15.0
    max_range_m: Annotated[float, msgspec.Meta(gt=1.0, le=500.0)] = 100.0
    least_range_m: Annotated[float, msgspec.Meta(gt=0.0, le=50.0, description="nearer returns are discarded")] = 1.0
    sensor: str = LIDAR

    @property
    def size(self) -> str:
        return f"{100 * self.share:g} % of {self.width_deg:g} deg at {self.pulse_mhz:g} MHz"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Replace returns: the first false pulse in the listening window wins, unless the echo was there before."""
        if not isinstance(sample, PointCloud):
            return sample
        rng = moment.rng
        hit = _sector(sample, self.azimuth_deg, self.width_deg) & (rng.random(len(sample.xyz)) < self.share)
        spacing = 149.9 / self.pulse_mhz  # metres of range between two false pulses
        false = rng.random(len(hit)) * spacing
        false = np.where(false < self.least_range_m, false + spacing, false)
        reach = np.linalg.norm(sample.xyz, axis=1)
        wins = hit & (false < np.minimum(reach, self.max_range_m))
        chosen = np.flatnonzero(wins)
        return _moved(sample, chosen, false[chosen], 0.3 + 0.5 * rng.random(len(chosen)))


class LidarBlockage(AttackBase, frozen=True, tag="lidar_blockage"):
    """Dirt or tape on the window: a sector sees nothing, or only the dirt itself."""

    atlas: ClassVar[tuple[str, ...]] = _DENY
    knob: ClassVar[str] = "width_deg"

    start_s: Start
    end_s: End
    width_deg: Width = 60.0
    azimuth_deg: Azimuth = 0.0
    share: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="of the beams blocked")] = 1.0
    echo_share: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="of the blocked ones that see the dirt")] = (
        0.0
    )
    echo_range_m: Annotated[float, msgspec.Meta(gt=0.0, le=5.0)] = 0.6
    sensor: str = LIDAR

    @property
    def size(self) -> str:
        return f"{100 * self.share:g} % of {self.width_deg:g} deg"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Lose the blocked beams' returns; the same spots stay blocked in every sweep."""
        if not isinstance(sample, PointCloud):
            return sample
        hit = _sector(sample, self.azimuth_deg, self.width_deg)
        hit &= _spots(sample, moment.steady_rng()) < self.share
        echo = hit & (moment.rng.random(len(hit)) < self.echo_share)
        chosen = np.flatnonzero(echo)
        near = _moved(sample, chosen, np.full(len(chosen), self.echo_range_m), np.full(len(chosen), 0.2))
        return _kept(near, ~hit | echo)


def _spots(cloud: PointCloud, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return (N,) a number 0..1 that depends on the beam's direction alone, so that blocked directions stay so."""
    grid = rng.random((90, 720))
    x, y, z = cloud.xyz.T.astype(np.float64)
    column = ((np.arctan2(y, x) + np.pi) / (2 * np.pi) * 720).astype(np.int64) % 720
    row = np.clip(((np.arctan2(z, np.hypot(x, y)) + np.pi / 2) / np.pi * 90).astype(np.int64), 0, 89)
    return np.asarray(grid[row, column])


class LidarMirror(AttackBase, frozen=True, tag="lidar_mirror"):
    """A flat mirror in the scene: what it reflects appears behind it, and what stands there is gone."""

    atlas: ClassVar[tuple[str, ...]] = _EVADE
    source: ClassVar[str] = "arXiv 2509.17253: passive mirrors add and remove objects, shown on Autoware"
    knob: ClassVar[str] = "width_m"

    start_s: Start
    end_s: End
    width_m: Metres = 2.0
    height_m: Metres = 1.5
    range_m: Metres = 10.0
    azimuth_deg: Azimuth = 0.0
    tilt_deg: Annotated[
        float, msgspec.Meta(ge=-89.0, le=89.0, description="of its normal, counter-clockwise from facing the lidar")
    ] = 40.0
    bottom_m: Annotated[float, msgspec.Meta(ge=0.0, le=10.0, description="above ground")] = 0.3
    loss: Annotated[float, msgspec.Meta(ge=0.0, le=1.0, description="of beams that a mirror of this kind swallows")] = (
        0.05
    )
    closing_m_s: Annotated[float, msgspec.Meta(ge=-60.0, le=60.0)] = 0.0
    sensor_height_m: Annotated[float, msgspec.Meta(ge=0.0, le=20.0)] = 1.73
    max_range_m: Metres = 100.0
    sensor: str = LIDAR

    @property
    def size(self) -> str:
        return f"{self.width_m:g} x {self.height_m:g} m at {self.range_m:g} m"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Fold the beams that meet the mirror; where they then meet nothing, nothing returns.

        What they meet is looked up in the sweep itself: the surfaces that the lidar sees directly.
        """
        distance = self.range_m - self.closing_m_s * moment.elapsed_s
        if not isinstance(sample, PointCloud) or distance < 1.0:
            return sample
        points = sample.xyz.astype(np.float64)
        reach = np.linalg.norm(points, axis=1)
        beams = points / np.maximum(reach, 1e-6)[:, None]
        to_plate, hits, normal = self._hits(beams, distance)
        hit = hits & (to_plate < reach)
        chosen = np.flatnonzero(hit)
        if len(chosen) == 0:
            return sample
        at = beams[chosen] * to_plate[chosen, None]
        away = beams[chosen] - 2.0 * (beams[chosen] @ normal)[:, None] * normal
        beyond = _ranges_along(at, away, points[~hit], self.max_range_m)
        beyond[moment.rng.random(len(chosen)) < self.loss] = np.inf
        total = to_plate[chosen] + beyond
        seen = total <= self.max_range_m
        noise = 0.02 * moment.rng.standard_normal(len(chosen))
        folded = _moved(sample, chosen[seen], (total + noise)[seen], 0.5 * np.ones(np.count_nonzero(seen)))
        lost = np.zeros(len(points), dtype=bool)
        lost[chosen[~seen]] = True
        return _kept(folded, ~lost)

    def _hits(
        self, beams: NDArray[np.float64], distance: float
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
        """Return per beam the range to the mirror's plane and whether it meets the plate; and the plate's normal."""
        facing, turn = np.deg2rad(self.azimuth_deg), np.deg2rad(self.azimuth_deg + 180.0 + self.tilt_deg)
        middle = np.array([distance * np.cos(facing), distance * np.sin(facing), 0.0])
        normal = np.array([np.cos(turn), np.sin(turn), 0.0])
        across = np.array([-normal[1], normal[0], 0.0])
        slope = beams @ normal
        range_m = np.where(slope < -1e-6, (middle @ normal) / np.minimum(slope, -1e-6), np.inf)
        finite = np.where(np.isfinite(range_m), range_m, 0.0)
        at = beams * finite[:, None]
        height = at[:, 2] + self.sensor_height_m
        inside = (np.abs((at - middle) @ across) <= self.width_m / 2) & (height >= self.bottom_m)
        inside &= (height <= self.bottom_m + self.height_m) & np.isfinite(range_m) & (range_m > 0.5)
        return range_m, inside, normal


def _ranges_along(
    origins: NDArray[np.float64], directions: NDArray[np.float64], points: NDArray[np.float64], max_range_m: float
) -> NDArray[np.float64]:
    """Return for each ray the range to the first point of a cloud near it, inf where none is.

    Near means within a beam's own spacing at that range: 0.1 m and 1.5 % of the way.
    """
    found = np.full(len(origins), np.inf)
    # Only points in the cone that all rays together fill can be met: a tenth of a sweep or less.
    centre, axis = origins.mean(axis=0), directions.mean(axis=0)
    axis /= max(float(np.linalg.norm(axis)), 1e-9)
    radius = float(np.linalg.norm(origins - centre, axis=1).max())
    slope = float(np.tan(min(np.arccos(np.clip(directions @ axis, -1.0, 1.0)).max(), 1.4)))
    ahead = (points - centre) @ axis
    aside = np.sqrt(np.maximum(((points - centre) ** 2).sum(axis=1) - ahead * ahead, 0.0))
    points = points[(ahead > -radius) & (aside < radius + 0.2 + (slope + 0.03) * np.maximum(ahead + radius, 0.0))]
    if len(points) == 0:
        return found
    squared = np.einsum("ij,ij->i", points, points)
    for first in range(0, len(origins), _RAYS_AT_ONCE):
        part = slice(first, first + _RAYS_AT_ONCE)
        origin, direction = origins[part], directions[part]
        along = points @ direction.T - np.einsum("ij,ij->i", origin, direction)
        apart = squared[:, None] - 2.0 * (points @ origin.T) + np.einsum("ij,ij->i", origin, origin)
        near = (along > 0.5) & (along < max_range_m) & (apart - along * along < (0.1 + 0.015 * along) ** 2)
        found[part] = np.where(near, along, np.inf).min(axis=0)
    return found
