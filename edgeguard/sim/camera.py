"""A colour camera in the simulated street, and the ground-truth boxes of what it sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.sim.actors import LABELS
from edgeguard.sim.deviates import DEVIATES
from edgeguard.sim.kernels.cast import cast, cast_plane, cast_shadows
from edgeguard.sim.kernels.light import AIR_B, AIR_G, AIR_R, AMBIENT, HAZE, MAP_CELL, PLACES, SKY, SUN
from edgeguard.sim.kernels.shade import expose, shade
from edgeguard.sim.lines import Aim, Planes, aim
from edgeguard.sim.primitives import BUILDING, KERB, Primitives, corners
from edgeguard.sim.windows import front_to_back, pinhole_windows, shadow_corners
from edgeguard.sim.world import World
from edgeguard.types import CAMERA, Image

REACH_M = 130.0  # haze and pixel size leave little beyond
READ_NOISE_DN = 1.4  # assumed, as is the next: a machine-vision sensor by day, sd about 2.5 at mid grey
SHOT_NOISE_DN = 0.022  # variance per digital number: sd 2.1 at 200
VIGNETTE = 0.16
LENS_BLUR_PX = 0.55

DAYLIGHT = np.zeros(PLACES)  # town air on a clear day: contrast falls to 1/e at 260 m
DAYLIGHT[[AMBIENT, SUN, HAZE, AIR_R, AIR_G, AIR_B, SKY, MAP_CELL]] = (0.50, 0.62, 260.0, 214.0, 222.0, 230.0, 1.0, 1.0)
_NO_LAMPS = np.empty((0, 0, 2), dtype=np.float32)

Box = tuple[str, tuple[float, float, float, float], float, float]


@dataclass(frozen=True, slots=True)
class CameraModel:
    """A pinhole camera that looks straight ahead. `mount_m` is its place in the vehicle's frame.

    Pixel centres have integer coordinates, as in OpenCV.
    """

    width_px: int = 640
    height_px: int = 384
    focal_px: float = 420.0
    cx_px: float = 319.5
    cy_px: float = 191.5
    mount_m: tuple[float, float, float] = (1.70, 0.0, 1.65)

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
    return _observe(world, time_s, camera, noise_seed)[0]


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
    image, seen = _observe(world, time_s, camera, noise_seed)
    owner = np.full(len(seen.scene.codes) + 2, -1, dtype=np.int32)
    owner[:-2] = seen.scene.codes[:, 2]  # the last two serve hit = -1 (ground) and -2 (sky)
    object_id = owner[seen.hit]
    return CameraView(image, seen.depth, object_id, _boxes(world, object_id, seen.depth, seen.alone))


@dataclass(frozen=True, slots=True, eq=False)
class _Exposure:
    """What one exposure works on: the scene in the level frame, rays, and what they hit."""

    time_s: float
    scene: Primitives
    aim: Aim
    depth: NDArray[np.float32]
    hit: NDArray[np.int32]
    alone: NDArray[np.int64]


def _observe(world: World, time_s: float, camera: CameraModel, noise_seed: int | None) -> tuple[Image, _Exposure]:
    world.ego(time_s)  # refuses times outside the drive
    aimed = aim(world, time_s, camera.mount_m, _rays(camera))
    scene = world.primitives(time_s, REACH_M).seen_from(*aimed.frame, REACH_M)
    seen = _cast(time_s, scene, aimed, camera)
    stamp_ns = round(time_s * NS_PER_S)
    key = (world.seed if noise_seed is None else noise_seed, stamp_ns)
    return Image(_expose(world, seen, camera, key), stamp_ns, CAMERA, stamp_ns), seen


@lru_cache(maxsize=4)
def _rays(camera: CameraModel) -> Planes:
    """Return three (H, W) planes: rays in the camera's place, x = 1 along the optical axis."""
    v, u = np.mgrid[0 : camera.height_px, 0 : camera.width_px]
    y, z = (camera.cx_px - u) / camera.focal_px, (camera.cy_px - v) / camera.focal_px
    return np.ones(u.shape, np.float32), y.astype(np.float32), z.astype(np.float32)


def _windows(points: NDArray[np.float64], camera: CameraModel) -> NDArray[np.int64]:
    size = (camera.width_px, camera.height_px)
    return pinhole_windows(points, camera.focal_px, camera.cx_px, camera.cy_px, size)


def _cast(time_s: float, scene: Primitives, aimed: Aim, camera: CameraModel) -> _Exposure:
    shape = (camera.height_px, camera.width_px)
    depth, hit, mark = np.empty(shape, np.float32), np.empty(shape, np.int32), np.empty(shape, np.int32)
    alone = np.zeros(int(scene.codes[:, 2].max(initial=-1)) + 1, dtype=np.int64)
    points = corners(scene.values)
    nearest = np.maximum(points[..., 0].min(axis=1), 0.0)
    windows = front_to_back(_windows(points, camera), scene.codes, nearest)
    cast_plane(aimed.rays[2], aimed.starts, camera.mount_m[2], depth, hit)
    cast(
        *aimed.rays,
        aimed.starts,
        scene.codes,
        scene.values,
        scene.velocities(),
        windows,
        nearest,
        depth,
        hit,
        mark,
        alone,
    )
    return _Exposure(time_s, scene, aimed, depth, hit, alone)


def _expose(world: World, seen: _Exposure, camera: CameraModel, key: tuple[int, int]) -> NDArray[np.uint8]:
    scene, rays, height = seen.scene, seen.aim.rays, camera.mount_m[2]
    bearing = world.sun_azimuth_rad - seen.aim.frame[3]
    flat = cos(world.sun_elevation_rad)
    sun = np.array([flat * cos(bearing), flat * sin(bearing), sin(world.sun_elevation_rad)])
    shadow = np.zeros(seen.depth.shape, dtype=np.uint8)
    # Facades shade half the street for long stretches: left out, as in a street under a high sun.
    casters = np.flatnonzero((scene.codes[:, 1] != BUILDING) & (scene.codes[:, 1] != KERB))
    windows = _windows(shadow_corners(scene.values[casters], sun, height), camera)
    windows[:, 0] = casters[windows[:, 0]]
    cast_shadows(*rays, seen.depth, seen.hit, scene.values, scene.codes, windows, *sun, shadow)
    light = np.empty((*seen.depth.shape, 3), dtype=np.float32)
    pose = np.array([seen.aim.frame[0], seen.aim.frame[1], height, seen.aim.frame[3]])
    shade(
        *rays,
        seen.aim.starts,
        seen.depth,
        seen.hit,
        shadow,
        scene.values,
        scene.velocities(),
        scene.codes,
        world.road.table,
        world.road.start_m,
        world.arc_of_ego(seen.time_s) + camera.mount_m[0],
        pose,
        sun,
        camera.focal_px,
        DAYLIGHT,
        _NO_LAMPS,
        light,
    )
    light = np.ascontiguousarray(cv2.GaussianBlur(light, (3, 3), LENS_BLUR_PX), dtype=np.float32)
    pixels = np.empty(light.shape, dtype=np.uint8)
    mixed = int(np.random.SeedSequence([key[0], key[1], 0xCA]).generate_state(1)[0])
    expose(light, world.exposure, VIGNETTE, READ_NOISE_DN, SHOT_NOISE_DN, mixed, DEVIATES, pixels)
    return pixels


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
