"""Tools of this folder: rendered scenes, genuine traffic and spoofed returns on any sweep, ticks from samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from edgeguard.types import Check, CheckResult, Image, PointCloud, Sample, SyncedSet, Tick

PERIOD_NS = 103_150_000


def _box_range(d: np.ndarray, xy: tuple[float, float], yaw: float, size: tuple[float, float, float], z0: float):
    """Range along unit rays from the origin to an oriented box that stands on z0; inf where it is missed."""
    c, s = np.cos(yaw), np.sin(yaw)
    R = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    centre, half = np.array([*xy, z0 + size[2] / 2]), np.array(size) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (-half - R @ -centre) / (d @ R.T), (half - R @ -centre) / (d @ R.T)
    low, high = np.minimum(a, b).max(axis=1), np.maximum(a, b).min(axis=1)
    return np.where((low <= high) & (low > 0), low, np.inf)


@cache
def _street(east_m: float, seed: int) -> PointCloud:
    columns, rings = 720, 40
    az, el = np.meshgrid(np.linspace(-np.pi, np.pi, columns, endpoint=False), np.radians(np.linspace(2, -22, rings)))
    d = np.stack((np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)), axis=-1).reshape(-1, 3)
    with np.errstate(divide="ignore"):
        r = np.where(d[:, 2] < 0, -1.73 / d[:, 2], np.inf)
    for k in range(-5, 12):
        for side in (-1, 1):
            house = (k * 14.0 - east_m + 2 * side, side * (11.0 + (k * side) % 3))
            r = np.minimum(r, _box_range(d, house, 0.0, (9.0, 5.0, 7.0), -1.73))
            parked = (k * 11.0 - east_m + side, side * 6.0)
            r = np.minimum(r, _box_range(d, parked, 0.0, (4.2, 1.8, 1.5), -1.73))
            pole = (k * 17.0 - east_m + 5, side * 4.4)
            r = np.minimum(r, _box_range(d, pole, 0.3, (0.25, 0.25, 4.0), -1.73))
    seen = r < 90.0
    r = r[seen] + 0.02 * np.random.default_rng([seed, int(east_m * 100) % 2**31]).standard_normal(seen.sum())
    xyz = (d[seen] * r[:, None]).astype(np.float32)
    return PointCloud(xyz, np.full(len(xyz), 0.4, np.float32), 0)


@dataclass(frozen=True)
class Scenes:
    """Everything is a function of its arguments and a seed."""

    def street(self, east_m: float, seed: int = 0) -> PointCloud:
        """A sweep from (east_m, 0) on a street of houses with gaps, parked cars and poles."""
        return _street(east_m, seed)

    def drive(self, speed_m_s: float, count: int, seed: int = 0) -> list[PointCloud]:
        """Sweeps of a car that drives along the street."""
        return [self.street(speed_m_s * k * PERIOD_NS / 1e9, seed) for k in range(count)]

    def body(
        self, cloud: PointCloud, xy: tuple[float, float], yaw: float, size: tuple[float, float, float], seed: int,
        noise_m: float = 0.02,
    ) -> PointCloud:  # fmt: skip
        """Put a solid body into a sweep: every beam that meets it returns from it, with honest noise."""
        r = np.linalg.norm(cloud.xyz.astype(np.float64), axis=1)
        t = _box_range(cloud.xyz / r[:, None], xy, yaw, size, -1.73)
        hit = t < r
        t = t + noise_m * np.random.default_rng(seed).standard_normal(len(t))
        xyz = cloud.xyz.copy()
        xyz[hit] *= (t[hit] / r[hit])[:, None].astype(np.float32)
        return replace(cloud, xyz=xyz)

    def ghost(
        self, cloud: PointCloud, range_m: float, azimuth_rad: float, points: int, width_m: float, seed: int
    ) -> PointCloud:
        """Spoof: beams through a plate report it instead of what they hit; 0.10 m per point, 0.35 m per sweep."""
        rng = np.random.default_rng(seed)
        r = np.linalg.norm(cloud.xyz.astype(np.float64), axis=1)
        off = np.angle(np.exp(1j * (np.arctan2(cloud.xyz[:, 1], cloud.xyz[:, 0]) - azimuth_rad)))
        el = np.arcsin(cloud.xyz[:, 2] / r)
        low, high = np.arctan2((-1.53, -0.03), range_m)
        chosen = np.flatnonzero((np.abs(off) < width_m / 2 / range_m) & (el > low) & (el < high) & (r > range_m))
        if chosen.size > points:
            chosen = np.sort(rng.choice(chosen, points, replace=False))
        target = range_m + 0.35 * rng.standard_normal() + 0.10 * rng.standard_normal(chosen.size)
        xyz = cloud.xyz.copy()
        xyz[chosen] *= (target / r[chosen])[:, None].astype(np.float32)
        return replace(cloud, xyz=xyz)

    def image(self, seed: int, gain: float = 1.0) -> Image:
        """A picture with edges, shading and read noise."""
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[0:120, 0:400]
        scene = 90 + 50 * np.sign(np.sin(x / 9.0)) * np.sign(np.sin(y / 7.0)) + 0.2 * y
        grey = np.clip(gain * scene + 2 * rng.standard_normal(scene.shape), 0, 255).astype(np.uint8)
        return Image(np.repeat(grey[:, :, None], 3, axis=2), 0)

    def run(
        self,
        checks: Check | Sequence[Check],
        samples: Iterable[dict[str, Sample | None]],
        *,
        series: Callable[[int, int], dict[str, list[Sample]]] | None = None,
        jumps: frozenset[int] = frozenset(),
    ) -> list[CheckResult] | list[list[CheckResult]]:
        """Stamp the samples one period apart and give every tick to every check."""
        many = isinstance(checks, Sequence)
        out = []
        for k, present in enumerate(samples):
            stamp_ns = k * PERIOD_NS
            stamped = {n: None if s is None else replace(s, stamp_ns=stamp_ns) for n, s in present.items()}
            more = series(stamp_ns - PERIOD_NS, stamp_ns) if series else {}
            synced = SyncedSet(Tick(k, stamp_ns, k in jumps), stamped, more, {})
            out.append([c.evaluate(synced) for c in checks] if many else checks.evaluate(synced))
        return out


@pytest.fixture(scope="session")
def scenes() -> Scenes:
    return Scenes()
