"""One frame through the camera and lidar checks, check by check, and the registered depth.

    python -m benchmarks checks KITTI_DRIVE

KITTI_DRIVE holds `velodyne/N.bin` and `image_02/N.png`. Processor time per
frame, median and 99th percentile over all frames but the first three. The first check that asks for the sweep pays for
what all lidar checks share; that is shown on its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.kernels import HEIGHT, WIDTH, K, R, T
from edgeguard.checks.geometry import build_geometry_checks
from edgeguard.checks.lidar_evidence import LidarEvidence
from edgeguard.fusion.registration import register_depth
from edgeguard.types import CAMERA, LIDAR, Image, PointCloud, RigCalibration, Sample, SyncedSet, Tick

PERIOD_NS = 103_150_000
WARM_UP = 3


def real(folder: Path) -> Iterator[tuple[Image, PointCloud]]:
    for k, file in enumerate(sorted((folder / "velodyne").glob("*.bin"))):
        points = np.fromfile(file, "<f4").reshape(-1, 4)
        pixels = cv2.imread(str(folder / "image_02" / f"{file.stem}.png"), cv2.IMREAD_COLOR)
        cloud = PointCloud(np.ascontiguousarray(points[:, :3]), points[:, 3].copy(), k * PERIOD_NS)
        yield Image(pixels, k * PERIOD_NS), cloud


def main() -> None:
    if len(sys.argv) < 2:
        print("left out: name a folder with velodyne/N.bin and image_02/N.png")
        return
    M = np.eye(4)
    M[:3, :3], M[:3, 3] = R, T
    calibration = RigCalibration(K, M, (WIDTH, HEIGHT))
    evidence = LidarEvidence(calibration)
    checks = build_geometry_checks(calibration, (CAMERA, LIDAR), evidence)
    parts = [f"{c.name} {' '.join(c.sensors)}" for c in checks]
    names = ["sweep prepared and matched", *parts, "registered depth", "all"]
    spent: dict[str, list[float]] = {name: [] for name in names}
    for k, (image, cloud) in enumerate(real(Path(sys.argv[1]))):
        samples: dict[str, Sample | None] = {CAMERA: image, LIDAR: cloud}
        synced = SyncedSet(Tick(k, image.stamp_ns), samples, {CAMERA: [image], LIDAR: [cloud]}, {})
        marks = [time.process_time()]
        evidence.frame(synced)
        marks.append(time.process_time())
        for check in checks:
            check.evaluate(synced)
            marks.append(time.process_time())
        register_depth(cloud, calibration)
        marks.append(time.process_time())
        for name, ms in zip(names, [*np.diff(marks), marks[-1] - marks[0]], strict=True):
            spent[name].append(1e3 * ms)
    for name, ms in spent.items():
        settled = np.array(ms[WARM_UP:])
        print(f"{name:34s} {np.median(settled):8.2f} ms median {np.percentile(settled, 99):8.2f} ms 99th percentile")


if __name__ == "__main__":
    main()
