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
from edgeguard.sim.kernels.cast import cast, cast_shadows
from edgeguard.sim.kernels.shade import expose, shade
from edgeguard.sim.primitives import BUILDING, KERB, Primitives, corners
from edgeguard.sim.windows import front_to_back, pinhole_windows, shadow_corners
from edgeguard.sim.world import EgoTruth, World
from edgeguard.types import CAMERA, Image

REACH_M = 130.0  # haze and pixel size leave little beyond
READ_NOISE_DN = 1.4  # assumed, as is the next: a machine-vision sensor by day, sd about 2.5 at mid grey
SHOT_NOISE_DN = 0.022  # variance per digital number: sd 2.1 at 200
VIGNETTE = 0.16
LENS_BLUR_PX = 0.55

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
    image, scene, depth, hit, alone = _observe(world, time_s, camera, noise_seed)
    owner = np.full(len(scene.codes) + 2, -1, dtype=np.int32)
    owner[:-2] = scene.codes[:, 2]  # the last two serve hit = -1 (ground) and -2 (sky)
    object_id = owner[hit]
    return CameraView(image, depth, object_id, _boxes(world, object_id, depth, alone))


def _observe(
    world: World, time_s: float, camera: CameraModel, noise_seed: int | None
) -> tuple[Image, Primitives, NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]:
    """Return the frame, and what cast it: scene, depth, hit primitive, pixels of each object if it stood alone."""
    ego = world.ego(time_s)
    scene = world.primitives(time_s, REACH_M).seen_from(*sensor_pose(ego, camera.mount_m), REACH_M)
    depth, hit, alone = _cast(scene, camera)
    stamp_ns = round(time_s * NS_PER_S)
    key = (world.seed if noise_seed is None else noise_seed, stamp_ns)
    pixels = _expose(world, scene, camera, ego, depth, hit, key)
    return Image(pixels, stamp_ns, CAMERA, stamp_ns), scene, depth, hit, alone


def sensor_pose(ego: EgoTruth, mount_m: tuple[float, float, float]) -> tuple[float, float, float, float]:
    """Return x, y, z, yaw in the world of a sensor mounted without rotation."""
    c, s = cos(ego.yaw_rad), sin(ego.yaw_rad)
    forward, left, up = mount_m
    return ego.east_m + c * forward - s * left, ego.north_m + s * forward + c * left, up, ego.yaw_rad


@lru_cache(maxsize=4)
def _rays(camera: CameraModel) -> NDArray[np.float32]:
    v, u = np.mgrid[0 : camera.height_px, 0 : camera.width_px]
    rays = np.empty((camera.height_px, camera.width_px, 3), dtype=np.float32)
    rays[..., 0] = 1.0
    rays[..., 1] = (camera.cx_px - u) / camera.focal_px
    rays[..., 2] = (camera.cy_px - v) / camera.focal_px
    return rays


def _cast(scene: Primitives, camera: CameraModel) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]:
    shape = (camera.height_px, camera.width_px)
    depth, hit, mark = np.empty(shape, np.float32), np.empty(shape, np.int32), np.empty(shape, np.int32)
    alone = np.zeros(int(scene.codes[:, 2].max(initial=-1)) + 1, dtype=np.int64)
    size = (camera.width_px, camera.height_px)
    points = corners(scene.values)
    nearest = np.maximum(points[..., 0].min(axis=1), 0.0)
    windows = pinhole_windows(points, camera.focal_px, camera.cx_px, camera.cy_px, size)
    windows = front_to_back(windows, scene.codes, nearest)
    cast(_rays(camera), camera.mount_m[2], scene.values, scene.codes, windows, nearest, depth, hit, mark, alone)
    return depth, hit, alone


def _expose(
    world: World,
    scene: Primitives,
    camera: CameraModel,
    ego: EgoTruth,
    depth: NDArray[np.float32],
    hit: NDArray[np.int32],
    key: tuple[int, int],
) -> NDArray[np.uint8]:
    rays, height = _rays(camera), camera.mount_m[2]
    bearing = world.sun_azimuth_rad - ego.yaw_rad
    flat = cos(world.sun_elevation_rad)
    sun = np.array([flat * cos(bearing), flat * sin(bearing), sin(world.sun_elevation_rad)])
    shadow = np.zeros(depth.shape, dtype=np.uint8)
    # Facades shade half the street for long stretches: left out, as in a street under a high sun.
    casters = np.flatnonzero((scene.codes[:, 1] != BUILDING) & (scene.codes[:, 1] != KERB))
    size = (camera.width_px, camera.height_px)
    windows = pinhole_windows(
        shadow_corners(scene.values[casters], sun, height), camera.focal_px, camera.cx_px, camera.cy_px, size
    )
    windows[:, 0] = casters[windows[:, 0]]
    cast_shadows(rays, depth, hit, scene.values, scene.codes, windows, *sun, shadow)
    light = np.empty((*depth.shape, 3), dtype=np.float32)
    pose = np.array(sensor_pose(ego, camera.mount_m))
    start_s = world.arc_of_ego(ego.time_s) + camera.mount_m[0]
    shade(
        rays,
        depth,
        hit,
        shadow,
        scene.values,
        scene.codes,
        world.road.table,
        world.road.start_m,
        start_s,
        pose,
        sun,
        camera.focal_px,
        light,
    )
    light = np.ascontiguousarray(cv2.GaussianBlur(light, (3, 3), LENS_BLUR_PX), dtype=np.float32)
    pixels = np.empty(light.shape, dtype=np.uint8)
    mixed = int(np.random.SeedSequence([key[0], key[1], 0xCA]).generate_state(1)[0])
    expose(light, world.exposure, VIGNETTE, READ_NOISE_DN, SHOT_NOISE_DN, mixed, pixels)
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
