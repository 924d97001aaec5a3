"""Falling snow in a lidar sweep, real or simulated: flakes that answer a pulse before the scene does.

A pulse meets flakes by chance. Their number per volume and diameter is that of Sekhon and Srivastava (J. Atmos. Sci.
27, 1970), N(D) = N0 exp(-L D) with N0 = 2.50e3 R^-0.94 per m^3 and mm, L = 2.29 R^-0.45 per mm for R mm/h of water. A
flake fills a part of the widening beam, so its echo is reflectance * 2 exp(-2 u) (D / width)^2 / r^2, with u the place
in a Gaussian beam; of all echoes of a pulse the strongest is told. The same way is taken by Hahner et al., "LiDAR
Snowfall Simulation for Robust 3D Object Detection" (CVPR 2022). Two flakes of one pulse are no more likely for one of
its neighbours: snow is independent from pulse to pulse, except that gusts make it thicker in some directions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeguard.types import PointCloud

FLAKE_REFLECTANCE = 0.9  # of fresh snow in the near infrared
LARGEST_MM = 20.0  # aggregates; the law gives none of that size at any rate below
STEP_M = 0.25
GUST_WAVES = 6


@dataclass(frozen=True, slots=True)
class Pulse:
    """A lidar's beam. aperture_mm and divergence_mrad: full width at the window, and its growth. reach_10_m: the range
    at which half of the pulses come back from a target of 10 %. blind_m: nearer echoes are not told."""

    aperture_mm: float = 10.0
    divergence_mrad: float = 3.0
    reach_10_m: float = 55.0
    blind_m: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Snowy:
    """A sweep in snow. scatter (N,) bool: which returns are flakes."""

    cloud: PointCloud
    scatter: NDArray[np.bool_]

    @property
    def share(self) -> float:
        """Flakes among the returns."""
        return float(self.scatter.mean()) if len(self.scatter) else 0.0


def fall(
    cloud: PointCloud, rate_mm_h: float, rng: np.random.Generator, pulse: Pulse = Pulse(), gust: float = 0.4
) -> Snowy:
    """Let it snow: returns whose pulse meets a stronger flake are told from there. Order and number stay.

    Args:
        rate_mm_h: of melted snow; 1 is moderate, 2.5 heavy. gust: how uneven, standard deviation of the log density.
    """
    xyz = cloud.xyz.astype(np.float64)
    reach = np.linalg.norm(xyz, axis=1)
    azimuth = np.arctan2(xyz[:, 1], xyz[:, 0])
    thicker = np.exp(gust * _gusts(azimuth, rng) - gust * gust / 2.0)
    floor = 0.1 / pulse.reach_10_m**2
    scene = np.maximum(cloud.intensity.astype(np.float64), 0.004) / np.maximum(reach, 0.1) ** 2  # half a step of 8 bits
    best, at = np.maximum(scene, floor), np.zeros(len(reach))
    per_m3_mm, per_mm = 2.50e3 * rate_mm_h**-0.94, 2.29 * rate_mm_h**-0.45
    for near in np.arange(pulse.blind_m, 60.0, STEP_M):
        middle = near + STEP_M / 2.0
        width_mm = pulse.aperture_mm + pulse.divergence_mrad * middle
        # Smaller ones are never heard: the loudest place in the beam is twice the mean.
        least_mm = width_mm * middle * np.sqrt(floor / (2.0 * FLAKE_REFLECTANCE))
        if least_mm > LARGEST_MM:
            break
        volume_m3 = np.pi / 4.0 * (width_mm / 1000.0) ** 2 * STEP_M
        expected = per_m3_mm / per_mm * np.exp(-per_mm * least_mm) * volume_m3 * thicker
        for who in _met(rng.poisson(expected), reach > near + STEP_M):
            size_mm = np.minimum(least_mm + rng.exponential(1.0 / per_mm, len(who)), LARGEST_MM)
            filled = np.minimum(size_mm / width_mm, 1.0) ** 2 * 2.0 * np.exp(-2.0 * rng.random(len(who)))
            where = near + STEP_M * rng.random(len(who))
            echo = FLAKE_REFLECTANCE * np.minimum(filled, 1.0) / where**2
            louder = echo > best[who]
            best[who[louder]], at[who[louder]] = echo[louder], where[louder]
    hit = at > 0.0
    return _told(cloud, hit, at[hit], best[hit] * at[hit] ** 2)


def scatter(
    cloud: PointCloud, share: float, rng: np.random.Generator, reach_m: float = 15.0, brightest: float = 0.1
) -> Snowy:
    """Replace a share of all returns by dim ones at even odds between 1.5 m and `reach_m`, or the scene before that."""
    reach = np.linalg.norm(cloud.xyz.astype(np.float64), axis=1)
    hit = (rng.random(len(reach)) < share) & (reach > 2.0)
    at = rng.uniform(1.5, np.minimum(reach[hit], reach_m))
    return _told(cloud, hit, at, rng.uniform(0.0, brightest, len(at)))


def _gusts(azimuth: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """(N,) a smooth function of direction with mean square one."""
    phase = rng.uniform(0.0, 2.0 * np.pi, GUST_WAVES)
    waves = [np.cos((k + 1) * azimuth + phase[k]) for k in range(GUST_WAVES)]
    return np.asarray(np.sqrt(2.0 / GUST_WAVES) * np.sum(waves, axis=0))


def _met(count: NDArray[np.int64], open_way: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Numbers of the pulses that meet a first flake in this stretch, a second, and so on."""
    count = np.where(open_way, count, 0)
    return [np.flatnonzero(count > k) for k in range(int(count.max(initial=0)))]


def _told(
    cloud: PointCloud, hit: NDArray[np.bool_], at_m: NDArray[np.float64], reflectance: NDArray[np.float64]
) -> Snowy:
    xyz, intensity = cloud.xyz.copy(), cloud.intensity.copy()
    reach = np.linalg.norm(xyz[hit].astype(np.float64), axis=1)
    xyz[hit] *= (at_m / reach)[:, None].astype(np.float32)
    intensity[hit] = np.round(np.clip(reflectance, 0.0, 1.0) * 255.0) / 255.0
    return Snowy(replace(cloud, xyz=xyz, intensity=intensity), hit)
