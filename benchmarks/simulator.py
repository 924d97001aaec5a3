"""How fast the simulator is on one core, part by part, and how much faster than the time it simulates.

Run with `python -m benchmarks simulator`. A VGA camera at 20 Hz, a 64 x 2048 lidar at 10 Hz and an inertial unit at
200 Hz make up a simulated second; the yardstick is SHA-256 over 64 MiB, in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType

import cv2
import numpy as np

from benchmarks.timing import best_cpu_s, yardstick_s
from edgeguard.sim import camera as sim_camera
from edgeguard.sim import lidar as sim_lidar
from edgeguard.sim.camera import DEFAULT_CAMERA, CameraModel
from edgeguard.sim.inertial import Imu, ImuModel
from edgeguard.sim.kernels import echo
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


# What a frame and a sweep call, in the modules that call it; the rest is arrays, keys and the interpreter.
CAMERA_PARTS: tuple[tuple[ModuleType | type, str], ...] = (
    (World, "primitives"), (sim_camera, "aim"), (sim_camera, "_windows"), (sim_camera, "cast_ground"),
    (sim_camera, "cast"), (sim_camera, "cast_shadows"), (sim_camera, "lighting"), (sim_camera, "develop"),
)  # fmt: skip
LIDAR_PARTS: tuple[tuple[ModuleType | type, str], ...] = (
    (World, "primitives"), (sim_lidar, "aim"), (sim_lidar, "spinning_windows"), (sim_lidar, "cast_ground"),
    (sim_lidar, "cast"), (echo, "reflect"), (echo, "listen"), (echo, "tell"),
)  # fmt: skip


@contextmanager
def _clocked(parts: tuple[tuple[ModuleType | type, str], ...], spent: dict[str, float]) -> Iterator[None]:
    """Add up in `spent` the processor time of each part while the block runs; no part calls another."""
    plain = [getattr(owner, name) for owner, name in parts]

    def clock(call: Callable[..., object], name: str) -> Callable[..., object]:
        def timed(*arguments: object, **named: object) -> object:
            start = time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                spent[name] = spent.get(name, 0.0) + time.thread_time() - start

        return timed

    for (owner, name), call in zip(parts, plain, strict=True):
        setattr(owner, name, clock(call, name))
    try:
        yield
    finally:
        for (owner, name), call in zip(parts, plain, strict=True):
            setattr(owner, name, call)


def _print_parts(title: str, parts: tuple[tuple[ModuleType | type, str], ...], call: Callable[[float], object]) -> None:
    """Print the least time of each part over the rounds, mean of the moments."""
    sums = dict.fromkeys([*(name for _, name in parts), "the rest"], 0.0)
    for moment in MOMENTS:
        least = dict.fromkeys(sums, np.inf)
        for _ in range(ROUNDS):
            spent: dict[str, float] = {}
            with _clocked(parts, spent):
                start = time.thread_time()
                call(moment)
                spent["the rest"] = time.thread_time() - start - sum(spent.values())
            least = {name: min(value, spent.get(name, 0.0)) for name, value in least.items()}
        sums = {name: value + least[name] / len(MOMENTS) for name, value in sums.items()}
    whole = sum(sums.values())
    print(f"{title}: least time of each part")
    for name, seconds in sorted(sums.items(), key=lambda item: -item[1]):
        print(f"    {name:42} {seconds * 1e3:8.3f} ms  {seconds / whole:5.0%}")


def main() -> None:
    """Print the tables."""
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
    _print_parts("camera 640x480", CAMERA_PARTS, lambda t: sim_camera.render(world, t, VGA))
    _print_parts("lidar 64x2048, turning", LIDAR_PARTS, lambda t: sim_lidar.sweep(world, t, SPINNING))
    yardstick = yardstick_s()
    print(
        f"{'yardstick: SHA-256 over 64 MiB':46} {yardstick * 1e3:8.1f} ms  (a second is {second / yardstick:.2f} of it)"
    )


if __name__ == "__main__":
    main()
