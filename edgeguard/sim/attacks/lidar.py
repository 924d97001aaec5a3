"""Attacks on lidar (MITRE ATLAS AML.T0015): points that a laser makes appear."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from edgeguard.sim.attacks.base import Moment
from edgeguard.types import LIDAR, PointCloud, Sample


class GhostPoints(msgspec.Struct, frozen=True, tag="ghost_points", forbid_unknown_fields=True):
    """An obstacle that is not there.

    Up to `points` beams that cross a `width_m` by `height_m` plate, standing on the ground at `range_m` in direction
    `azimuth_deg` (left positive), report the plate instead of what they really hit: a spoofed pulse displaces the
    genuine return. With `closing_m_s` above zero it comes nearer, otherwise it moves with the vehicle.

    Jitter as measured on injected points by Sato et al., NDSS 2024: 0.10 m per point and 0.35 m of the whole cluster
    per frame; `survival` is the share of beams the injection reaches (98.5 % for a VLP-16).
    """

    start_s: float
    end_s: float
    points: int = 300
    range_m: float = 12.0
    width_m: float = 1.8
    height_m: float = 1.5
    azimuth_deg: float = 0.0
    closing_m_s: float = 0.0
    point_jitter_m: float = 0.10
    frame_jitter_m: float = 0.35
    survival: float = 0.985
    sensor_height_m: float = 1.73

    @property
    def name(self) -> str:
        return "ghost_points"

    @property
    def sensor(self) -> str:
        return LIDAR

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
        xyz, intensity = sample.xyz.copy(), sample.intensity.copy()
        xyz[chosen] *= (target / reach)[:, None].astype(np.float32)
        intensity[chosen] = np.clip(0.6 + 0.1 * rng.standard_normal(len(chosen)), 0.0, 1.0)
        return replace(sample, xyz=xyz, intensity=intensity)

    def _beams(self, cloud: PointCloud, distance: float, rng: np.random.Generator) -> np.ndarray:
        """Return indices of at most `points` returns whose beams cross the plate."""
        x, y, z = cloud.xyz.T.astype(np.float64)
        c, s = np.cos(np.deg2rad(self.azimuth_deg)), np.sin(np.deg2rad(self.azimuth_deg))
        ahead, left = c * x + s * y, c * y - s * x
        safe = np.maximum(ahead, 1e-3)
        height = z / safe * distance + self.sensor_height_m
        crosses = (ahead > 0.5) & (np.abs(left / safe * distance) <= self.width_m / 2)
        crosses &= (height >= 0.05) & (height <= self.height_m)
        found = np.flatnonzero(crosses)
        found = found[rng.random(len(found)) < self.survival]
        if len(found) > self.points:
            found = np.sort(rng.choice(found, self.points, replace=False))
        return found
