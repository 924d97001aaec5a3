"""A colour camera in the simulated street, and the ground-truth boxes of what it sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.sim.actors import LABELS
from edgeguard.sim.deviates import DEVIATES
from edgeguard.sim.kernels.blur import image_flow, smear
from edgeguard.sim.kernels.bounds import pinhole_bounds
from edgeguard.sim.kernels.cast import cast, cast_shadows
from edgeguard.sim.kernels.light import SUN
from edgeguard.sim.kernels.shade import develop, expose, shade
from edgeguard.sim.lighting import exposure, lighting
from edgeguard.sim.lines import Aim, Planes, aim, cast_ground
from edgeguard.sim.optics import bloom, distorted, rain_streaks, undistorted
from edgeguard.sim.primitives import BUILDING, KERB, Primitives, corners
from edgeguard.sim.scratch import Scratch
from edgeguard.sim.windows import front_to_back, shadow_corners, to_pixels, windows_of
from edgeguard.sim.world import World
from edgeguard.types import CAMERA, Image

REACH_M = 130.0  # haze and pixel size leave little beyond
READ_NOISE_DN = 1.4  # assumed, as is the next: a machine-vision sensor by day, sd about 2.5 at mid grey
SHOT_NOISE_DN = 0.022  # variance per digital number: sd 2.1 at 200
VIGNETTE = 0.16
LENS_BLUR_PX = 0.55

_SCRATCH = Scratch()

Box = tuple[str, tuple[float, float, float, float], float, float]


@dataclass(frozen=True, slots=True)
class CameraModel:
    """A pinhole camera that looks straight ahead. `mount_m` is its place in the vehicle's frame.

    Pixel centres have integer coordinates, as in OpenCV. distortion: Brown's k1, k2, p1, p2[, k3], as in OpenCV; empty:
    none. readout_s: of a rolling shutter, from the first row to the last; 0: global. The stamp is the middle of the
    exposure. exposure_s: how long a row is exposed, for motion blur; 0: an instant.
    """

    width_px: int = 640
    height_px: int = 384
    focal_px: float = 420.0
    cx_px: float = 319.5
    cy_px: float = 191.5
    mount_m: tuple[float, float, float] = (1.70, 0.0, 1.65)
    distortion: tuple[float, ...] = ()
    readout_s: float = 0.0
    exposure_s: float = 0.0

    def matrix(self) -> NDArray[np.float64]:
        """Return the (3, 3) camera matrix."""
        return np.array([[self.focal_px, 0, self.cx_px], [0, self.focal_px, self.cy_px], [0, 0, 1.0]])


DEFAULT_CAMERA = CameraModel()


@dataclass(frozen=True, slots=True, eq=False)
class CameraView:
    """Everything one exposure gives.

    image: what the sensor outputs. depth_m: (H, W) float32 along the optical axis, inf where sky.
    object_id: (H, W) int32 object number as in `World.objects`, -1 for scenery, ground and sky.
    boxes: (label, (x1, y1, x2, y2), visible share, range in metres), nearest first.
    """

    image: Image
    depth_m: NDArray[np.float32]
    object_id: NDArray[np.int32]
    boxes: tuple[Box, ...]


def render(
    world: World, time_s: float, camera: CameraModel = DEFAULT_CAMERA, *, noise_seed: int | None = None
) -> Image:
    """Return the frame exposed at `time_s`: (H, W, 3) uint8 BGR, stamped with simulated nanoseconds.

    `noise_seed` replaces the world's seed for the sensor noise alone. Equal arguments give equal bytes in any order.
    """
    return _observe(world, time_s, camera, noise_seed, counting=False)[0]


def camera_boxes(world: World, time_s: float, camera: CameraModel = DEFAULT_CAMERA) -> list[Box]:
    """Return ground truth at `time_s`: (label, (x1, y1, x2, y2), visible share, range_m) of every visible road user.

    Boxes bound the visible pixels, x2 and y2 exclusive. The share counts pixels inside the image only: 1.0 means that
    nothing stands in front. Labels are those of `edgeguard.sim.actors.LABELS`.
    """
    return list(view(world, time_s, camera).boxes)


def view(
    world: World, time_s: float, camera: CameraModel = DEFAULT_CAMERA, *, noise_seed: int | None = None
) -> CameraView:
    """Return image, depth, object numbers and boxes of one exposure in one go."""
    image, seen = _observe(world, time_s, camera, noise_seed, counting=True)
    owner = np.full(len(seen.scene.codes) + 2, -1, dtype=np.int32)
    owner[:-2] = seen.scene.codes[:, 2]  # the last two serve hit = -1 (ground) and -2 (sky)
    object_id = owner[seen.hit]
    return CameraView(image, seen.depth.copy(), object_id, _boxes(world, object_id, seen.depth, seen.alone))


def _row_times_s(camera: CameraModel) -> NDArray[np.float64] | None:
    """Return when each row is taken against the stamp, the middle of the exposure; None: all at once."""
    if camera.readout_s <= 0.0:
        return None
    return np.linspace(-0.5, 0.5, camera.height_px) * camera.readout_s


@dataclass(frozen=True, slots=True, eq=False)
class _Exposure:
    """What one exposure works on: the scene in the level frame, rays, and what they hit."""

    time_s: float
    scene: Primitives
    aim: Aim
    depth: NDArray[np.float32]
    hit: NDArray[np.int32]
    alone: NDArray[np.int64]


def _observe(
    world: World, time_s: float, camera: CameraModel, noise_seed: int | None, *, counting: bool
) -> tuple[Image, _Exposure]:
    world.ego(time_s)  # refuses times outside the drive
    size = (camera.height_px, camera.width_px)
    turned = (_SCRATCH.f4("x", size), _SCRATCH.f4("y", size), _SCRATCH.f4("z", size))
    aimed = aim(world, time_s, camera.mount_m, _rays(camera), _row_times_s(camera), turned)
    scene = world.primitives(time_s, REACH_M).seen_from(*aimed.frame, REACH_M)
    seen = _cast(world, time_s, scene, aimed, camera, counting=counting)
    stamp_ns = round(time_s * NS_PER_S)
    key = (world.seed if noise_seed is None else noise_seed, stamp_ns)
    return Image(_expose(world, seen, camera, key), stamp_ns, CAMERA, stamp_ns), seen


@lru_cache(maxsize=4)
def _rays(camera: CameraModel) -> Planes:
    """Return three (H, W) planes: rays in the camera's place, x = 1 along the optical axis."""
    v, u = np.mgrid[0 : camera.height_px, 0 : camera.width_px]
    x, y = (u - camera.cx_px) / camera.focal_px, (v - camera.cy_px) / camera.focal_px
    if camera.distortion:
        x, y = undistorted(x, y, camera.distortion)
    return np.ones(u.shape, np.float32), (-x).astype(np.float32), (-y).astype(np.float32)


def _bounds(points: NDArray[np.float64], camera: CameraModel) -> NDArray[np.float64]:
    """Return (N, 4) bounds in pixels of convex point sets in the camera's own frame."""
    bounds = pinhole_bounds(np.ascontiguousarray(points))
    if not camera.distortion:
        return to_pixels(bounds, camera.focal_px, camera.cx_px, camera.cy_px)
    # A rectangle's image is bounded by the image of its rim; beyond the picture the polynomial may fold back.
    rays = _rays(camera)
    limits = [float(plane.min()) * 1.05 - 0.02 for plane in rays[1:]], [float(p.max()) * 1.05 + 0.02 for p in rays[1:]]
    y0, y1 = np.clip(bounds[:, 0], limits[0][0], limits[1][0]), np.clip(bounds[:, 1], limits[0][0], limits[1][0])
    z0, z1 = np.clip(bounds[:, 2], limits[0][1], limits[1][1]), np.clip(bounds[:, 3], limits[0][1], limits[1][1])
    share = np.linspace(0.0, 1.0, 9)[None, :]
    across, along = y0[:, None] + share * (y1 - y0)[:, None], z0[:, None] + share * (z1 - z0)[:, None]
    rim_y = np.concatenate([across, across, np.repeat(y0[:, None], 9, 1), np.repeat(y1[:, None], 9, 1)], axis=1)
    rim_z = np.concatenate([np.repeat(z0[:, None], 9, 1), np.repeat(z1[:, None], 9, 1), along, along], axis=1)
    u, v = distorted(-rim_y, -rim_z, camera.distortion)
    empty = ~(bounds[:, 1] >= bounds[:, 0])
    out = np.stack([u.min(axis=1), u.max(axis=1), v.min(axis=1), v.max(axis=1)], axis=1) * camera.focal_px
    out += np.array([camera.cx_px - 2, camera.cx_px + 2, camera.cy_px - 2, camera.cy_px + 2])
    out[empty] = np.array([np.inf, -np.inf, np.inf, -np.inf])
    return np.asarray(out)


def _windows(
    points: NDArray[np.float64], velocity: NDArray[np.float64], aimed: Aim, camera: CameraModel
) -> NDArray[np.int64]:
    """Return the windows of (N, 8, 3) corners in the level frame, wherever they are while the shutter runs down."""
    size = (camera.width_px, camera.height_px)
    if aimed.rotations is None:
        return windows_of(_bounds(points, camera), size)
    found = None
    for line in (0, -1) if camera.readout_s > 0.0 else (0,):
        start = aimed.starts[line]
        moved = points - start[:3]
        moved[..., :2] += (velocity * start[3])[:, None, :]
        bounds = _bounds(moved @ aimed.rotations[line], camera)
        if found is None:
            found = bounds
        else:
            found[:, ::2] = np.minimum(found[:, ::2], bounds[:, ::2])
            found[:, 1::2] = np.maximum(found[:, 1::2], bounds[:, 1::2])
    assert found is not None  # noqa: S101 - the loop runs at least once
    found += np.array([-1.0, 1.0, -1.0, 1.0])
    return windows_of(found, size)


def _cast(
    world: World, time_s: float, scene: Primitives, aimed: Aim, camera: CameraModel, *, counting: bool
) -> _Exposure:
    shape = (camera.height_px, camera.width_px)
    depth, hit = _SCRATCH.f4("depth", shape), _SCRATCH.i4("hit", shape)
    mark = _SCRATCH.i4("mark", shape if counting else (0, 0))
    alone = np.zeros(int(scene.codes[:, 2].max(initial=-1)) + 1, dtype=np.int64)
    points, velocity = corners(scene.values), scene.velocities()
    nearest = np.maximum(points[..., 0].min(axis=1) - (0.0 if aimed.rotations is None else 1.0), 0.0)
    windows = front_to_back(_windows(points, velocity, aimed, camera), scene.codes, nearest)
    cast_ground(world, aimed, REACH_M, depth, hit)
    cast(*aimed.rays, aimed.starts, scene.codes, scene.values, velocity, windows, nearest, depth, hit, mark, alone)
    return _Exposure(time_s, scene, aimed, depth, hit, alone)


def _expose(world: World, seen: _Exposure, camera: CameraModel, key: tuple[int, int]) -> NDArray[np.uint8]:
    scene, rays, frame = seen.scene, seen.aim.rays, seen.aim.frame
    height, velocity = camera.mount_m[2], scene.velocities()
    lit = lighting(world, frame)
    shadow = _SCRATCH.u1("shadow", seen.depth.shape)
    shadow[:] = 0
    if lit.numbers[SUN] > 0.05:
        # Facades shade half the street for long stretches: left out, as in a street under a high sun.
        casters = np.flatnonzero((scene.codes[:, 1] != BUILDING) & (scene.codes[:, 1] != KERB))
        points = shadow_corners(scene.values[casters], lit.sun, height)
        windows = _windows(points, velocity[casters], seen.aim, camera)
        windows[:, 0] = casters[windows[:, 0]]
        cast_shadows(*rays, seen.depth, seen.hit, scene.values, scene.codes, windows, *lit.sun, shadow)
    told = (
        *rays, seen.aim.starts, seen.depth, seen.hit, shadow, scene.values, velocity, scene.codes, world.road.table,
        world.road.start_m, world.arc_of_ego(seen.time_s) + camera.mount_m[0],
        np.array([frame[0], frame[1], height, frame[3]]), lit.sun, camera.focal_px, lit.numbers, lit.lamps,
    )  # fmt: skip
    mixed = np.random.SeedSequence([key[0], key[1], 0xCA])
    gain = exposure(world, seen.time_s)
    read, shot = READ_NOISE_DN * max(gain, 1.0), SHOT_NOISE_DN * max(gain, 1.0)
    number = int(mixed.generate_state(1)[0])
    sensor = (LENS_BLUR_PX, world.exposure * gain, VIGNETTE, read, shot, number, DEVIATES)
    planes = _SCRATCH.u1("planes", (3, *seen.depth.shape))
    if _plain(world, camera):
        develop(*told, *sensor, planes)
    else:
        light = _SCRATCH.f4("light", planes.shape)
        shade(*told, light)
        expose(_lens(world, seen, camera, light, mixed), *sensor, planes)
    return np.asarray(cv2.merge(list(planes)), dtype=np.uint8)


def _plain(world: World, camera: CameraModel) -> bool:
    """Whether nothing comes between light and sensor: `_lens` would give back what it gets."""
    air = world.conditions
    return not (air.rain_mm_h or camera.exposure_s or air.night or air.low_sun or air.tunnel)


def _lens(
    world: World, seen: _Exposure, camera: CameraModel, light: NDArray[np.float32], key: np.random.SeedSequence
) -> NDArray[np.float32]:
    """Return the three planes of the picture after rain, shutter and glare."""
    conditions = world.conditions
    if conditions.rain_mm_h > 0.0:
        exposure_s = camera.exposure_s or 0.008
        rain_streaks(light, conditions.rain_mm_h, exposure_s, camera.focal_px, np.random.default_rng(key))
    if camera.exposure_s > 0.0:
        ego = world.ego(seen.time_s)
        speed = np.array([ego.speed_m_s, ego.yaw_rate_rad_s * camera.mount_m[0], 0.0])
        turning = np.array([ego.roll_rate_rad_s, ego.pitch_rate_rad_s, ego.yaw_rate_rad_s])
        flow = _SCRATCH.f4("flow_u", seen.depth.shape), _SCRATCH.f4("flow_v", seen.depth.shape)
        image_flow(
            seen.depth, seen.hit, seen.scene.velocities(), speed, turning, camera.focal_px, camera.cx_px, camera.cy_px,
            camera.exposure_s, *flow,
        )  # fmt: skip
        sharp, light = light, _SCRATCH.f4("blurred", light.shape)
        smear(sharp, *flow, light)
    if conditions.night or conditions.low_sun or conditions.tunnel:
        bloom(light, 0.16)
    return light


def _boxes(
    world: World, object_id: NDArray[np.int32], depth: NDArray[np.float32], alone: NDArray[np.int64]
) -> tuple[Box, ...]:
    rows, columns = np.nonzero(object_id >= 0)
    numbers = object_id[rows, columns]
    order = np.argsort(numbers, kind="stable")
    numbers, rows, columns = numbers[order], rows[order], columns[order]
    present, first = np.unique(numbers, return_index=True)
    boxes: list[Box] = []
    for number, begin, end in zip(present, first, [*first[1:], len(numbers)], strict=True):
        r, c = rows[begin:end], columns[begin:end]
        label = world.label_of(int(number))
        if label not in LABELS:
            continue
        xyxy = (float(c.min()), float(r.min()), float(c.max() + 1), float(r.max() + 1))
        boxes.append((label, xyxy, float((end - begin) / alone[number]), float(depth[r, c].min())))
    return tuple(sorted(boxes, key=lambda box: box[3]))
