"""A spinning lidar in the simulated street: 64 rings like an HDL-64, 1024 azimuths.

By default a sweep is instantaneous, so that it agrees exactly with the frame exposed at the same time. With
`sectors` above one the vehicle moves while the mirror turns: every sector is cast from where the vehicle is when
the beam passes its middle, points are given in the sensor's frame at that moment (motion distortion), and
`time_offset_ns` says when. The sweep's stamp is when the beam looks straight ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.sim.camera import sensor_pose
from edgeguard.sim.kernels.cast import cast, reflect
from edgeguard.sim.windows import front_to_back, plan_distance, spinning_windows
from edgeguard.sim.world import World
from edgeguard.types import LIDAR, PointCloud

GROUND_REFLECTANCE = 0.22  # assumed for dry asphalt
# Assumed: half of the pulses return from a 10 % target at 55 m head-on, the class of a large spinning lidar.
_HALF_POWER = 0.10 / 55.0**2
_STEEPNESS = 4.0
_STRAY_LOSS = 0.015  # assumed: beams that find nothing for no visible reason


@dataclass(frozen=True, slots=True)
class LidarModel:
    """Beam pattern and noise. `mount_m` is the sensor's place in the vehicle's frame."""

    columns: int = 1024
    max_range_m: float = 100.0
    range_sigma_m: float = 0.02
    mount_m: tuple[float, float, float] = (1.43, 0.0, 1.73)
    period_s: float = 0.1
    sectors: int = 1

    def elevations_rad(self) -> NDArray[np.float64]:
        """Return the 64 ring elevations, falling: 1/3 degree apart above, 1/2 degree apart below."""
        degrees = np.concatenate([np.linspace(2.0, -8.33, 32), np.linspace(-8.83, -24.8, 32)])
        return np.asarray(np.deg2rad(degrees))


DEFAULT_LIDAR = LidarModel()


@dataclass(frozen=True, slots=True, eq=False)
class LidarView:
    """A sweep and what its points hit: object_id (N,) int32 as in `World.objects` (-1 scenery); true_range_m (N,)."""

    cloud: PointCloud
    object_id: NDArray[np.int32]
    true_range_m: NDArray[np.float32]


def sweep(
    world: World, time_s: float, lidar: LidarModel = DEFAULT_LIDAR, *, noise_seed: int | None = None
) -> PointCloud:
    """Return the sweep centred at `time_s`; equal arguments give equal bytes in any order.

    Intensity is reflectance times the cosine of incidence (range-compensated, as sensors report it), 0..1.
    """
    return view(world, time_s, lidar, noise_seed=noise_seed).cloud


def view(world: World, time_s: float, lidar: LidarModel = DEFAULT_LIDAR, *, noise_seed: int | None = None) -> LidarView:
    """Return a sweep together with ground truth per point."""
    world.ego(time_s)  # refuses times outside the drive
    stamp_ns = round(time_s * NS_PER_S)
    key = [world.seed if noise_seed is None else noise_seed, stamp_ns, 0x11DA]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    rays = _rays(lidar)
    shape = rays.shape[:2]
    distance, owner = np.empty(shape, np.float32), np.empty(shape, np.int32)
    reflectance, cosine = np.empty(shape, np.float32), np.empty(shape, np.float32)
    offsets = np.zeros(lidar.columns, dtype=np.int32)
    width = lidar.columns // lidar.sectors
    for sector in range(lidar.sectors):
        part = slice(sector * width, (sector + 1) * width if sector + 1 < lidar.sectors else lidar.columns)
        # Column 0 looks back at the start of the turn, the middle column ahead at the stamp.
        lag = ((part.start + part.stop) / 2 / lidar.columns - 0.5) * lidar.period_s if lidar.sectors > 1 else 0.0
        at = min(max(time_s + lag, 0.0), world.duration_s)
        offsets[part] = round(lag * NS_PER_S)
        cells = _cast(world, at, lidar, rays, part)
        distance[:, part], owner[:, part], reflectance[:, part], cosine[:, part] = cells
    returned = _returned(rng, distance, reflectance, cosine, lidar)
    noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(lidar.range_sigma_m)
    intensity = reflectance * cosine * (1.0 + 0.04 * rng.standard_normal(shape, dtype=np.float32))
    ring, column = np.nonzero(returned)
    measured = distance[returned] + noise[returned]
    cloud = PointCloud(
        xyz=rays[returned] * measured[:, None],
        intensity=np.clip(intensity[returned], 0.0, 1.0),
        stamp_ns=stamp_ns,
        sensor=LIDAR,
        ring=ring.astype(np.int16),
        time_offset_ns=offsets[column],
        device_stamp_ns=stamp_ns,
    )
    return LidarView(cloud, owner[returned], distance[returned])


@lru_cache(maxsize=4)
def _rays(lidar: LidarModel) -> NDArray[np.float32]:
    elevation = lidar.elevations_rad()[:, None]
    azimuth = np.pi - 2 * np.pi * np.arange(lidar.columns) / lidar.columns
    rays = np.empty((len(elevation), lidar.columns, 3), dtype=np.float32)
    rays[..., 0] = np.cos(elevation) * np.cos(azimuth)
    rays[..., 1] = np.cos(elevation) * np.sin(azimuth)
    rays[..., 2] = np.sin(elevation)
    return rays


def _cast(
    world: World, time_s: float, lidar: LidarModel, rays: NDArray[np.float32], part: slice
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Return distance, object number, reflectance and cosine of incidence for the columns of `part`."""
    pose = sensor_pose(world.ego(time_s), lidar.mount_m)
    scene = world.primitives(time_s, lidar.max_range_m + 10.0).seen_from(*pose, lidar.max_range_m)
    nearest = plan_distance(scene.values)
    windows = spinning_windows(scene.values, lidar.elevations_rad(), lidar.columns)
    windows = front_to_back(windows, scene.codes, nearest)
    windows[:, 3] = np.clip(windows[:, 3] - part.start, 0, part.stop - part.start)
    windows[:, 4] = np.clip(windows[:, 4] - part.start, 0, part.stop - part.start)
    beams = np.ascontiguousarray(rays[:, part])
    shape = beams.shape[:2]
    distance, hit, mark = np.empty(shape, np.float32), np.empty(shape, np.int32), np.empty(shape, np.int32)
    alone = np.zeros(int(scene.codes[:, 2].max(initial=-1)) + 1, dtype=np.int64)
    cast(beams, lidar.mount_m[2], scene.values, scene.codes, windows, nearest, distance, hit, mark, alone)
    reflectance, cosine = np.empty(shape, np.float32), np.empty(shape, np.float32)
    reflect(beams, distance, hit, scene.values, scene.codes, GROUND_REFLECTANCE, reflectance, cosine)
    owner = np.full(len(scene.codes) + 2, -1, dtype=np.int32)
    owner[:-2] = scene.codes[:, 2]
    return distance, owner[hit], reflectance, cosine


def _returned(
    rng: np.random.Generator,
    distance: NDArray[np.float32],
    reflectance: NDArray[np.float32],
    cosine: NDArray[np.float32],
    lidar: LidarModel,
) -> NDArray[np.bool_]:
    """Draw which pulses come back: a logistic curve of received power around the half-power point.

    Street surfaces are rougher than Lambert's: their echo falls with the square root of the cosine (the flattening
    that Oren and Nayar 1994 describe), or no grazing ground would be seen at all.
    """
    reach = np.minimum(distance, np.float32(1e6))
    power = reflectance * np.sqrt(cosine) / (reach * reach)
    ratio = np.maximum(power / _HALF_POWER, 1e-6)
    chance = (1.0 - _STRAY_LOSS) / (1.0 + ratio**-_STEEPNESS)
    return np.asarray((rng.random(distance.shape, dtype=np.float32) < chance) & (distance <= lidar.max_range_m))
