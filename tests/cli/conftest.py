"""Recordings in the layouts that `edgeguard replay` reads, made by the simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeguard.sim.attacks.base import Attack, Injector
from edgeguard.sim.camera import render
from edgeguard.sim.lidar import sweep
from edgeguard.sim.rig import rig_calibration
from edgeguard.sim.world import World
from edgeguard.types import Image, PointCloud

KITTI_PERIOD_NS = 103_150_000

MakeDrive = Callable[..., Path]


@pytest.fixture(scope="session")
def kitti_drive(tmp_path_factory: pytest.TempPathFactory) -> MakeDrive:
    """Return a function that writes a simulated drive in KITTI's flat layout: image_02/N.png, velodyne/N.bin."""

    def make(frames: Sequence[int], *, seed: int = 3, attacks: Sequence[Attack] = (), start_s: float = 6.0) -> Path:
        folder = tmp_path_factory.mktemp("drive")
        world = World(seed, 60.0)
        injector = Injector(tuple(attacks), seed, 0)
        for sub in ("image_02", "velodyne"):
            (folder / sub).mkdir()
        for number in frames:
            stamp_ns = number * KITTI_PERIOD_NS
            time_s = start_s + stamp_ns / 1e9
            image = injector.apply(Image(render(world, time_s).pixels, stamp_ns))
            cloud = injector.apply(PointCloud(*_points(world, time_s), stamp_ns))
            if isinstance(image, Image):
                cv2.imwrite(str(folder / "image_02" / f"{number:010d}.png"), image.pixels)
            if isinstance(cloud, PointCloud):
                np.column_stack([cloud.xyz, cloud.intensity]).astype("<f4").tofile(
                    folder / "velodyne" / f"{number:010d}.bin"
                )
        _write_calibration(folder)
        return folder

    return make


def _points(world: World, time_s: float) -> tuple[np.ndarray, np.ndarray]:
    cloud = sweep(world, time_s)
    return cloud.xyz, cloud.intensity


def _write_calibration(folder: Path) -> None:
    rig = rig_calibration()
    P = np.hstack([rig.camera_matrix, np.zeros((3, 1))])
    width, height = rig.image_size_px

    def line(name: str, values: np.ndarray) -> str:
        return f"{name}: {' '.join(f'{v:.9e}' for v in np.asarray(values).ravel())}\n"

    (folder / "calib_cam_to_cam.txt").write_text(
        line("S_rect_02", np.array([width, height])) + line("R_rect_00", np.eye(3)) + line("P_rect_02", P)
    )
    (folder / "calib_velo_to_cam.txt").write_text(
        line("R", rig.T_cam_lidar[:3, :3]) + line("T", rig.T_cam_lidar[:3, 3])
    )
