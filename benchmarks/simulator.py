"""How fast the simulator is on one core, part by part, and how much faster than the time it simulates.

Run with `python -m benchmarks simulator`. A VGA camera at 20 Hz, a 64 x 2048 lidar at 10 Hz and an inertial unit at
200 Hz make up a simulated second; the yardstick is SHA-256 over 64 MiB, in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from benchmarks.timing import best_cpu_s, yardstick_s
from edgeguard.sim import camera as sim_camera
from edgeguard.sim import lidar as sim_lidar
from edgeguard.sim.camera import DEFAULT_CAMERA, CameraModel
from edgeguard.sim.inertial import Imu, ImuModel
from edgeguard.sim.lidar import LidarModel
from edgeguard.sim.presets import CAMERAS, LIDARS
from edgeguard.sim.world import World

ROUNDS = 20
MOMENTS = (4.0, 7.0, 11.0, 16.0)  # a camera frame's cost hangs on what stands near
VGA = CameraModel(640, 480, 420.0, 319.5, 239.5)
PI_CAMERA = CAMERAS["imx219"][0]
SPINNING = LidarModel(columns=2048, turning=True)


def _mean_s(call: Callable[[float], object]) -> float:
    return float(np.mean([best_cpu_s(lambda t=t: call(t), ROUNDS) for t in MOMENTS]))  # type: ignore[misc]


def main() -> None:
    """Print the table."""
    cv2.setNumThreads(1)
    world = World(1, 30.0)
    imu = Imu(world, 1, ImuModel(rate_hz=200))
    rows: list[tuple[str, float]] = [
        ("camera 640x480", _mean_s(lambda t: sim_camera.render(world, t, VGA))),
        ("camera 640x384, the default", _mean_s(lambda t: sim_camera.render(world, t, DEFAULT_CAMERA))),
        ("camera 640x480, rolling, distorted, blurred", _mean_s(lambda t: sim_camera.render(world, t, PI_CAMERA))),
        ("lidar 64x2048, turning", _mean_s(lambda t: sim_lidar.sweep(world, t, SPINNING))),
        ("lidar 64x2048, at once", _mean_s(lambda t: sim_lidar.sweep(world, t, replace(SPINNING, turning=False)))),
        ("lidar 64x1024, the default", _mean_s(lambda t: sim_lidar.sweep(world, t))),
        ("lidar HDL-64E preset (beam width)", _mean_s(lambda t: sim_lidar.sweep(world, t, LIDARS["hdl64"][0]))),
        ("inertial sample", best_cpu_s(lambda: [imu.sample(k) for k in range(1000)], 5) / 1000),
        ("primitives and culling", _mean_s(lambda t: world.primitives(t, 130.0).seen_from(0.0, 0.0, 1.65, 0.0, 130.0))),
    ]  # fmt: skip
    for name, seconds in rows:
        print(f"{name:46} {seconds * 1e3:8.3f} ms")
    found = dict(rows)
    second = 20 * found["camera 640x480"] + 10 * found["lidar 64x2048, turning"] + 200 * found["inertial sample"]
    print(f"{'a second: 20 frames, 10 sweeps, 200 samples':46} {second * 1e3:8.1f} ms  ({1 / second:.1f} x real time)")
    yardstick = yardstick_s()
    print(
        f"{'yardstick: SHA-256 over 64 MiB':46} {yardstick * 1e3:8.1f} ms  (a second is {second / yardstick:.2f} of it)"
    )


if __name__ == "__main__":
    main()
