"""X5 on pictures that mislead: bare walls, and parts that move by themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeguard.checks.camera_rotation import RotationCheck, _spread
from edgeguard.checks.feature_tracks import FeatureTracks, common
from edgeguard.kernels.tracks import leftover_rotation
from edgeguard.sim.camera import render
from edgeguard.sim.inertial import Imu
from edgeguard.sim.rig import rig_calibration
from edgeguard.sim.weather import WORLD_PRESETS
from edgeguard.sim.world import World
from edgeguard.types import SyncedSet, Tick

SHIFT_PX = 3
SIGMA_RAD, TURN_RAD = 2.5e-4, 0.006


def _frame(rng: np.random.Generator, scene: np.ndarray, number: int) -> np.ndarray:
    """Left half: texture that moves by `SHIFT_PX` a frame; right half: a bare wall in slanting light, fresh noise."""
    wall = np.broadcast_to(np.linspace(230.0, 120.0, 200), (240, 200))
    left = scene[:, number * SHIFT_PX : number * SHIFT_PX + 200].astype(np.float64)
    grey = np.hstack((left, wall)) + rng.normal(0.0, 1.0, (240, 400))
    return np.clip(grey, 0, 255).astype(np.uint8)


def test_noise_on_a_bare_wall_is_not_followed() -> None:
    """Corners of noise do not lead back to where they came from; those of a scene do."""
    rng = np.random.default_rng(1)
    scene = np.kron(rng.integers(30, 220, (20, 30)), np.ones((12, 12)))
    K = np.array([[300.0, 0.0, 200.0], [0.0, 300.0, 120.0], [0.0, 0.0, 1.0]])
    tracks = FeatureTracks(K, (), 8)

    frames = [tracks.push(0.1 * k, _frame(rng, scene, k)) for k in range(5)]

    here, _ = common(frames[0], frames[-1])
    columns = 200.0 + 300.0 * frames[0].bearings[here, 0] / frames[0].bearings[here, 2]
    assert np.count_nonzero(columns < 195) > 20
    assert np.count_nonzero(columns > 205) == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_rotation_that_parts_of_the_picture_do_not_share_is_noise(seed: int) -> None:
    """On the move: a third of the points turned by a third of a degree, by a body ahead that turns with the rig; the
    strips' spread covers it. The same turn of all points, as a gyro's error makes it, stands ten sigma out of it."""
    rng = np.random.default_rng(seed)
    seen = np.column_stack((rng.uniform(-0.7, 0.7, 90), rng.uniform(-0.4, 0.4, 90), np.ones(90)))
    seen /= np.linalg.norm(seen, axis=1)[:, None]
    nearer = seen - np.column_stack((np.zeros((90, 2)), 0.03 / rng.lognormal(0.0, 0.7, 90)))
    z_all, z_some = (_z(seen, nearer, TURN_RAD * parts, rng) for parts in (np.ones(90), seen[:, 0] > 0.2))
    assert z_all > 10.0
    assert z_some < 5.0


def _z(seen: np.ndarray, moved: np.ndarray, angle: np.ndarray, rng: np.random.Generator) -> float:
    """Yaw that is found, in sigma of the strips' spread."""
    x = moved[:, 0] * np.cos(angle) + moved[:, 2] * np.sin(angle)
    z = moved[:, 2] * np.cos(angle) - moved[:, 0] * np.sin(angle)
    late = np.column_stack((x, moved[:, 1], z)) + rng.normal(0.0, SIGMA_RAD, (90, 3))
    late = np.ascontiguousarray(late / np.linalg.norm(late, axis=1)[:, None])
    motion = np.empty(6)
    assert leftover_rotation(seen, late, SIGMA_RAD, motion, np.empty((3, 3)), np.empty(90)) > 0
    spread = _spread(seen, late, SIGMA_RAD)
    assert spread is not None
    return abs(motion[1]) / float(np.sqrt(spread[1, 1]))


def test_nobody_is_accused_in_a_tunnel() -> None:
    """Bare walls, a bright mouth ahead, and a car that turns as we do: no rotation but the gyro's."""
    world = World(21, 18.0, WORLD_PRESETS["tunnel"][0])
    imu, check, worst, sent = Imu(world, 21), RotationCheck(rig_calibration()), 0.0, 0
    for k in range(90):
        stamp_ns = k * 100_000_000
        image = replace(render(world, k / 10, noise_seed=21), stamp_ns=stamp_ns)
        readings = [replace(imu.sample(n), stamp_ns=n * 10_000_000) for n in range(sent + 1, 10 * k + 1)]
        sent = max(sent, 10 * k)
        tick = Tick(k, stamp_ns + 6_000_000)
        series = {"imu": readings, "camera": [image]}
        result = check.evaluate(
            SyncedSet(tick, {"camera": image, "imu": readings[-1] if readings else None}, series, {})
        )
        worst = max(worst, result.statistic)
    assert worst < 0.8
