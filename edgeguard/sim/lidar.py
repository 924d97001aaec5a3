"""A spinning lidar in the simulated street; by default 64 rings like an HDL-64, 1024 azimuths.

By default a sweep is instantaneous, so that it agrees exactly with the frame exposed at the same time. With
`turning` the vehicle and everybody else move while the mirror turns: every firing leaves from where the sensor is at
that moment, points are given in the sensor's frame at that moment (motion distortion), and `time_offset_ns` says when.
The sweep's stamp is when the beam looks straight ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.sim.deviates import DEVIATES
from edgeguard.sim.kernels import echo
from edgeguard.sim.kernels.cast import cast
from edgeguard.sim.lines import Aim, Planes, aim, cast_ground
from edgeguard.sim.primitives import Primitives
from edgeguard.sim.scratch import Scratch
from edgeguard.sim.weather import Conditions
from edgeguard.sim.windows import front_to_back, spinning_windows
from edgeguard.sim.world import World
from edgeguard.types import LIDAR, PointCloud

GROUND_REFLECTANCE = 0.22  # assumed for dry asphalt
_SCRATCH = Scratch()
_NOTHING = np.empty((0, 0), dtype=np.float32)
_NO_MARKS = np.empty((0, 0), dtype=np.int32)


def _hdl64() -> tuple[float, ...]:
    return (*np.linspace(2.0, -8.33, 32).tolist(), *np.linspace(-8.83, -24.8, 32).tolist())


@dataclass(frozen=True, slots=True)
class LidarModel:
    """Beam pattern and noise. `mount_m` is the sensor's place in the vehicle's frame.

    elevations_deg: of each ring, falling. azimuths_deg: by how much each ring leads, counter-clockwise; empty: none.
    firing_s: (per ring) when it fires after its line began, as far as it matters; empty: all together.
    turning: the mirror takes `period_s` for a turn. range_sigma_m: noise of a strong echo; weak_sigma_m: what is added
    at the half-power point, falling with the square root of the echo's power. beam_rad: full divergence.
    pulse_m: two echoes closer than this are one (6 ns, 0.9 m); dual_return: the second loudest is told too.
    reach_10_m: range at which half of the pulses return from a 10 % target head-on.
    """

    columns: int = 1024
    max_range_m: float = 100.0
    range_sigma_m: float = 0.02
    mount_m: tuple[float, float, float] = (1.43, 0.0, 1.73)
    period_s: float = 0.1
    turning: bool = False
    elevations_deg: tuple[float, ...] = _hdl64()
    azimuths_deg: tuple[float, ...] = ()
    firing_s: tuple[float, ...] = ()
    weak_sigma_m: float = 0.0
    beam_rad: float = 0.0
    reach_10_m: float = 55.0  # assumed: the class of a large spinning lidar
    steepness: float = 4.0  # assumed
    stray_loss: float = 0.015  # assumed: beams that find nothing for no visible reason
    intensity_noise: float = 0.04
    quantum_m: float = 0.0
    pulse_m: float = 0.9
    dual_return: bool = False

    def elevations_rad(self) -> NDArray[np.float64]:
        """Return the ring elevations, falling."""
        return np.deg2rad(np.asarray(self.elevations_deg, dtype=np.float64))


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
    return _sweep(world, time_s, lidar, noise_seed, truth=False).cloud


def view(world: World, time_s: float, lidar: LidarModel = DEFAULT_LIDAR, *, noise_seed: int | None = None) -> LidarView:
    """Return a sweep together with ground truth per point."""
    return _sweep(world, time_s, lidar, noise_seed, truth=True)


def _sweep(world: World, time_s: float, lidar: LidarModel, noise_seed: int | None, *, truth: bool) -> LidarView:
    world.ego(time_s)  # refuses times outside the drive
    stamp_ns = round(time_s * NS_PER_S)
    beams, offsets_s, fired = _beams(lidar)
    turned = (_SCRATCH.f4("x", fired.shape), _SCRATCH.f4("y", fired.shape), _SCRATCH.f4("z", fired.shape))
    aimed = aim(world, time_s, lidar.mount_m, beams, offsets_s if lidar.turning else None, turned)
    scene = world.primitives(time_s, lidar.max_range_m + 10.0).seen_from(*aimed.frame, lidar.max_range_m)
    distance, hit = _cast(world, scene, aimed, lidar)
    shape = distance.shape
    second, behind = _NOTHING, _NOTHING
    if lidar.beam_rad > 0.0:
        second, behind = _SCRATCH.f4("second", shape), _SCRATCH.f4("behind", shape)
        echo.split(
            *aimed.rays, aimed.starts, distance, hit, scene.values, scene.velocities(), scene.codes, lidar.beam_rad,
            lidar.pulse_m, second, behind,
        )  # fmt: skip
    reflectance, cosine = _SCRATCH.f4("reflectance", shape), _SCRATCH.f4("cosine", shape)
    velocity = scene.velocities()
    echo.reflect(
        *aimed.rays, aimed.starts, distance, hit, scene.values, velocity, scene.codes, GROUND_REFLECTANCE, reflectance,
        cosine,
    )  # fmt: skip
    seed = world.seed if noise_seed is None else noise_seed
    key = int(np.random.SeedSequence([seed, stamp_ns, 0x11DA]).generate_state(1)[0])
    owners = np.ascontiguousarray(scene.codes[:, 2].astype(np.int32))
    said, shine, true = (_SCRATCH.f4(name, shape) for name in ("said", "shine", "true"))
    late = _SCRATCH.f4("late", second.shape)
    tally = np.empty(shape[1] + 1, np.int64)
    echo.listen(
        distance, second, behind, reflectance, cosine, _constants(lidar, world.conditions), key, DEVIATES, said, shine,
        true, late, tally,
    )  # fmt: skip
    size = int(tally[-1])
    xyz, intensity = np.empty((size, 3), np.float32), np.empty(size, np.float32)
    ring, offset = np.empty(size, np.int16), np.empty(size, np.int32)
    asked = size if truth else 0
    owner, true_range = np.empty(asked, np.int32), np.empty(asked, np.float32)
    echo.tell(
        *beams, said, shine, true, late, behind, hit, owners, fired, tally, xyz, intensity, ring, offset, owner,
        true_range,
    )  # fmt: skip
    cloud = PointCloud(
        xyz=xyz,
        intensity=intensity,
        stamp_ns=stamp_ns,
        sensor=LIDAR,
        ring=ring,
        time_offset_ns=offset,
        device_stamp_ns=stamp_ns,
    )
    return LidarView(cloud, owner, true_range)


@lru_cache(maxsize=4)
def _beams(lidar: LidarModel) -> tuple[Planes, NDArray[np.float64], NDArray[np.int32]]:
    """Return three (L, B) planes of unit rays in the sensor's frame, (L,) firing times in s, (L, B) the same in ns.

    Line 0 looks back at the start of the turn, the middle line ahead at the stamp.
    """
    elevation = lidar.elevations_rad()[None, :]
    lead = np.deg2rad(np.asarray(lidar.azimuths_deg or np.zeros(elevation.shape[1])))[None, :]
    azimuth = (np.pi - 2 * np.pi * np.arange(lidar.columns) / lidar.columns)[:, None] + lead
    rays = (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation) + 0 * azimuth)
    planes = tuple(np.ascontiguousarray(plane, dtype=np.float32) for plane in rays)
    offsets_s = (np.arange(lidar.columns) / lidar.columns - 0.5) * lidar.period_s
    within = np.asarray(lidar.firing_s or np.zeros(elevation.shape[1]))[None, :]
    fired = np.round((offsets_s[:, None] + within) * NS_PER_S).astype(np.int32)
    if not lidar.turning:
        fired = np.zeros_like(fired)
    return (planes[0], planes[1], planes[2]), offsets_s, np.ascontiguousarray(fired)


def _constants(lidar: LidarModel, air: Conditions) -> NDArray[np.float64]:
    out = np.zeros(echo.PLACES)
    out[echo.GROUND] = GROUND_REFLECTANCE
    out[echo.HALF_POWER], out[echo.STEEPNESS] = 0.10 / lidar.reach_10_m**2, lidar.steepness
    out[echo.STRAY_LOSS], out[echo.SIGMA] = lidar.stray_loss, lidar.range_sigma_m
    out[echo.SIGMA_WEAK], out[echo.BEAM] = lidar.weak_sigma_m, lidar.beam_rad
    out[echo.MAX_RANGE], out[echo.INTENSITY_NOISE] = lidar.max_range_m, lidar.intensity_noise
    out[echo.QUANTUM], out[echo.DUAL] = lidar.quantum_m, float(lidar.dual_return)
    out[echo.EXTINCTION] = air.extinction_1_m
    fog = max(air.extinction_1_m - 0.01 * air.rain_mm_h**0.6 / 1000.0, 0.0)
    # Assumed: in 20 mm/h of rain one pulse in seventy is answered by drops first, in fog of 90 m one in twelve; drops
    # answer within some metres, because what is heard of them falls with the square of range.
    out[echo.BACKSCATTER] = 0.0007 * air.rain_mm_h + 2.0 * fog
    out[echo.SCATTER_M] = 6.0 if air.rain_mm_h > 0.0 else 4.0
    return out


def _cast(
    world: World, scene: Primitives, aimed: Aim, lidar: LidarModel
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    shape = (lidar.columns, len(lidar.elevations_deg))
    distance, hit = _SCRATCH.f4("distance", shape), _SCRATCH.i4("hit", shape)
    motion, period_s = (0.0, 0.0, 0.0, 0.0), 0.0
    if lidar.turning:
        assert aimed.rotations is not None  # noqa: S101 - a turning sensor's lines always have them
        period_s, first, last = lidar.period_s, aimed.rotations[0], aimed.rotations[-1]
        way = (aimed.starts[-1] - aimed.starts[0]) / period_s
        turned = float(np.arctan2(last[1, 0], last[0, 0]) - np.arctan2(first[1, 0], first[0, 0]))
        motion = (float(way[0]), float(way[1]), float(way[2]), turned / period_s)
    tilt = 0.0
    if aimed.rotations is not None:
        tilt = float(np.hypot(aimed.rotations[:, 2, 0], aimed.rotations[:, 2, 1]).max())
    windows, nearest = spinning_windows(
        scene.values,
        lidar.elevations_rad(),
        lidar.columns,
        velocity=scene.velocities(),
        motion=motion,
        period_s=period_s,
        tilt_rad=tilt,
        spread_rad=float(np.abs(np.deg2rad(lidar.azimuths_deg or (0.0,))).max()),
    )
    windows = front_to_back(windows, scene.codes, nearest, counted=False)
    cast_ground(world, aimed, lidar.max_range_m, distance, hit)
    alone = np.zeros(0, dtype=np.int64)
    cast(
        *aimed.rays, aimed.starts, scene.codes, scene.values, scene.velocities(), windows, nearest, distance, hit,
        _NO_MARKS, alone,
    )  # fmt: skip
    return distance, hit
