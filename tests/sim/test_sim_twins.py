"""The kernels of shading, blur, culling, hills and echoes against their plain NumPy twins, in every world preset."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from edgeguard.sim import camera as sim_camera
from edgeguard.sim import lidar as sim_lidar
from edgeguard.sim.camera import CameraModel
from edgeguard.sim.deviates import DEVIATES
from edgeguard.sim.kernels import _reference as plain
from edgeguard.sim.kernels import _reference_optics as optics
from edgeguard.sim.kernels import _reference_shade as reference
from edgeguard.sim.kernels import echo
from edgeguard.sim.kernels.blur import image_flow, smear
from edgeguard.sim.kernels.bounds import NEAR_M, pinhole_bounds, spinning_bounds
from edgeguard.sim.kernels.cast import cast_hills
from edgeguard.sim.kernels.chance import decay, scramble
from edgeguard.sim.kernels.shade import shade
from edgeguard.sim.lines import sensor_pose
from edgeguard.sim.presets import LIDARS
from edgeguard.sim.primitives import corners
from edgeguard.sim.weather import WORLD_PRESETS
from edgeguard.sim.world import World

# Cut out of a VGA picture, so that a pixel is as narrow as there: horizon, cars, a facade, pavement.
CUTS = [CameraModel(96, 64, 420.0, cx, cy) for cx, cy in ((47.5, 31.5), (200.0, -30.0), (-160.0, 90.0), (-60.0, -25.0))]


@pytest.mark.parametrize("name", list(WORLD_PRESETS))
def test_shading_agrees_with_its_twin(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a digital number, but for one pixel in twenty, on ground at a stone's edge where the road bends."""
    world, caught = World(3, 20.0, WORLD_PRESETS[name][0]), []

    def watch(*arguments: object) -> None:
        shade(*arguments)
        caught.append(arguments)

    monkeypatch.setattr(sim_camera, "shade", watch)
    monkeypatch.setattr(sim_camera, "_plain", lambda *_: False)  # or light and sensor are worked on row by row
    for time_s, cut in zip((4.0, 9.0, 9.0, 12.0), CUTS, strict=True):
        sim_camera.render(world, time_s, cut)
        rx, ry, rz, starts, depth, hit, shadow, values, velocity, codes, table, start_m, _, pose, sun, focal, light = (
            caught[-1][:17]
        )
        lamps, found = caught[-1][17], np.empty((3, *hit.shape), np.float32)
        shade(*caught[-1][:18], found)  # what the camera was given has been worked on since
        expected = reference.shade(
            (rx, ry, rz), starts, depth, hit, shadow, (values, velocity, codes), (table, start_m), pose, sun, focal,
            light, lamps,
        )  # fmt: skip
        difference = np.abs(found - expected).max(axis=0)
        assert np.isfinite(found).all()
        assert np.quantile(difference, 0.95) < 0.25, time_s
        assert np.quantile(difference, 0.98) < 1.0, time_s
        assert difference.mean() < 0.1
        assert expected.std() > 5.0


@pytest.mark.parametrize("name", ["clear", "hills", "fog"])
def test_a_picture_made_row_by_row_is_the_one_made_in_two_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Light, blur and noise are the same to the byte, at the borders too; a row may be longer than a stretch."""
    world, wide = World(3, 20.0, WORLD_PRESETS[name][0]), CameraModel(1300, 90, 500.0, 649.5, 44.5)
    for time_s, camera in ((4.0, CUTS[0]), (9.0, wide)):
        at_once = sim_camera.render(world, time_s, camera).pixels.copy()
        with monkeypatch.context() as patch:
            patch.setattr(sim_camera, "_plain", lambda *_: False)
            in_two = sim_camera.render(world, time_s, camera).pixels
        np.testing.assert_array_equal(at_once, in_two)
        assert at_once.std() > 10.0


def boxes(time_s: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    world = World(3, 20.0)
    scene = world.primitives(time_s, 80.0).seen_from(*sensor_pose(world.ego(time_s), (1.4, 0.0, 1.7)), 80.0)
    return scene.values, scene.velocities()


def test_solids_around_a_place_and_their_boxes_agree_with_their_twins() -> None:
    """Rows, codes, velocities and corners of a busy street, seen from beside it."""
    world = World(3, 20.0, WORLD_PRESETS["busy"][0])
    all_ = world.primitives(6.0)
    c, s = np.cos(0.7), np.sin(0.7)
    found = all_.seen_from(40.0, -3.0, 1.4, 0.7, 60.0)
    values, codes, velocity = plain.seen_from(all_.values, all_.codes, all_.velocities(), 40.0, -3.0, 1.4, c, s, 60.0)
    assert 50 < len(codes) < len(all_.codes)
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_allclose(found.values, values, rtol=0.0, atol=1e-9)
    np.testing.assert_allclose(found.velocities(), velocity, rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(corners(found.values), plain.corners(values), rtol=0.0, atol=1e-9)


def test_bounds_in_a_picture_agree_with_their_twin() -> None:
    """To a billionth, also for solids that are cut because they begin behind the lens."""
    points = corners(boxes()[0])
    found, expected = pinhole_bounds(points), optics.pinhole_bounds(points, NEAR_M)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    cut = (points[..., 0].min(axis=1) < NEAR_M) & np.isfinite(expected[:, 0])
    assert cut.sum() > 3
    assert np.isinf(expected[:, 0]).sum() > 10


def test_bounds_in_a_sweep_hold_every_corner_and_little_more() -> None:
    """At rest: azimuths of the corners to a millionth of a radian, elevations never less than what is there."""
    values, velocity = boxes()
    found = spinning_bounds(values, np.zeros_like(velocity), np.zeros(4), 0.0, 0.0)
    outside = found[:, 1] - found[:, 0] < 3.0
    points = corners(values)[outside]
    middle = 0.5 * (found[outside, 0] + found[outside, 1])[:, None]
    turned = (np.arctan2(points[..., 1], points[..., 0]) - middle + np.pi) % (2 * np.pi) - np.pi
    np.testing.assert_allclose(turned.max(axis=1), 0.5 * (found[outside, 1] - found[outside, 0]), atol=1e-6)
    np.testing.assert_allclose(turned.min(axis=1), -0.5 * (found[outside, 1] - found[outside, 0]), atol=1e-6)
    rise = np.arctan2(points[..., 2], np.hypot(points[..., 0], points[..., 1]))
    assert np.all(rise.max(axis=1) <= found[outside, 3] + 1e-9)
    assert np.all(rise.min(axis=1) >= found[outside, 2] - 1e-9)
    assert np.all(np.hypot(points[..., 0], points[..., 1]).min(axis=1) >= found[outside, 4] - 1e-9)
    assert outside.sum() > 100


def test_motion_blur_agrees_with_its_twin() -> None:
    """Flow to a thousandth of its size; the smeared picture to a millionth, but where a place falls between pixels."""
    rng = np.random.default_rng(4)
    hit = rng.integers(-2, 3, (40, 56)).astype(np.int32)
    depth = rng.uniform(2.0, 60.0, hit.shape).astype(np.float32)
    depth[hit == -2] = np.inf
    velocity, speed, turn = rng.normal(0, 5, (3, 2)), np.array([11.0, 0.3, 0.1]), np.array([0.05, -0.1, 0.4])
    u, v = np.empty(hit.shape, np.float32), np.empty(hit.shape, np.float32)
    image_flow(depth, hit, velocity, speed, turn, 60.0, 27.5, 19.5, 0.02, u, v)
    expected = optics.image_flow(depth, hit, velocity, (speed, turn), (60.0, 27.5, 19.5), 0.02)
    np.testing.assert_allclose(u, expected[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(v, expected[1], rtol=1e-3, atol=1e-3)
    light = rng.uniform(0, 255, (3, *hit.shape)).astype(np.float32)
    out = np.empty_like(light)
    smear(light, u, v, out)
    assert np.mean(np.abs(out - optics.smear(light, u, v)) > 1e-3) < 2e-3


def test_hills_are_hit_where_small_steps_hit_them() -> None:
    """Distances along the ground agree to the steps' 2 cm, but for rays that graze a crest (one in a hundred)."""
    rng = np.random.default_rng(5)
    axis = 4.0 * (np.arange(42) - 20.5)
    x, y = np.meshgrid(axis, axis)
    heights = -1.7 + 0.8 * np.sin(x / 19.0 + 1.0) * np.cos(y / 23.0) - 0.8 * np.sin(1.0)
    pitch, turned = np.meshgrid(np.linspace(-0.30, 0.10, 30), rng.uniform(-np.pi, np.pi, 20))
    flat = (np.cos(pitch) * np.cos(turned), np.cos(pitch) * np.sin(turned), np.sin(pitch))
    rays = tuple(np.ascontiguousarray(plane, dtype=np.float32) for plane in flat)
    distance, hit = np.empty(pitch.shape, np.float32), np.empty(pitch.shape, np.int32)
    starts = np.zeros((len(pitch), 4))
    cast_hills(*rays, starts, np.ascontiguousarray(heights), axis[0], axis[0], 4.0, distance, hit)
    expected = optics.hill_distance(rays, heights, (axis[0], axis[0]), 4.0, 75.0)
    near = (expected < 70.0) | (distance < 70.0)
    assert np.mean(np.abs(distance[near] - expected[near]) > 0.05) < 0.01
    assert np.all((hit == -1) == np.isfinite(distance))
    assert near.mean() > 0.4


def test_draws_and_decay_agree_with_their_twins() -> None:
    """The 32-bit mix is exact; the exponential is right to 2e-5 of itself, and to 4e-9 where it is all but nothing."""
    words = np.random.default_rng(6).integers(0, 2**32, 500, dtype=np.uint64)
    assert [int(scramble(np.uint32(w))) for w in words] == optics.scramble(words).tolist()
    x = np.linspace(0.0, 60.0, 3000).astype(np.float32)
    found = np.array([decay(v) for v in x], dtype=np.float64)
    exact = np.exp(-x.astype(np.float64))
    assert np.all(np.abs(found - exact) <= np.maximum(2e-5 * exact, 4e-9))


@pytest.mark.parametrize("name", list(WORLD_PRESETS))
@pytest.mark.parametrize("sensor", ["street", "vlp16_dual", "os1_64"])
def test_echoes_agree_with_their_twin(name: str, sensor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pulses are heard but for one in ten thousand; ranges agree to a tenth of a millimetre or one count."""
    world, caught, listen = World(3, 20.0, WORLD_PRESETS[name][0]), [], echo.listen

    def watch(*arguments: object) -> None:
        listen(*arguments)
        caught.append(arguments)

    monkeypatch.setattr(echo, "listen", watch)
    lidar = replace(LIDARS[sensor][0], columns=256)
    seen = sim_lidar.view(world, 5.0, lidar)
    distance, second, part, rho, cosine, model, key, table, said, shine, true, late, tally = caught[-1]
    split = (second, part) if len(second) else None
    expected = optics.listen(distance, split, (rho, cosine), model, key, DEVIATES)
    assert table is DEVIATES
    heard = (said > 0) & (expected[0] > 0)
    assert np.mean((said > 0) != (expected[0] > 0)) < 1e-4
    assert heard.mean() > 0.2
    apart = np.abs(said - expected[0])[heard]
    assert np.mean(apart > 1e-4) < 1e-3  # quantised ranges may fall on the next count
    assert apart.max() <= 1e-4 + 1.01 * lidar.quantum_m
    np.testing.assert_allclose(shine[heard], expected[1][heard], rtol=1e-4, atol=1e-6)
    assert np.all((true == np.inf)[heard] == np.isinf(expected[2])[heard])
    if len(late):
        assert np.mean((late > 0) != (expected[3] > 0)) < 1e-4
        assert (late > 0).any() or sensor != "vlp16_dual"
    count = (said > 0).sum(axis=0) + ((late > 0).sum(axis=0) if len(late) else 0)
    np.testing.assert_array_equal(np.diff(tally), count)
    # What is told is what was heard, ring by ring and in the order of firing.
    assert len(seen.cloud.xyz) == len(seen.object_id) == tally[-1]
    np.testing.assert_array_equal(seen.cloud.ring, np.repeat(np.arange(len(count)), count))
    ranges = np.linalg.norm(seen.cloud.xyz, axis=1)
    both = np.stack([said.T, late.T], axis=-1) if len(late) else said.T[..., None]
    order = both[both > 0]
    np.testing.assert_allclose(ranges, order, rtol=1e-5)
    plain = sim_lidar.sweep(world, 5.0, lidar)
    np.testing.assert_array_equal(plain.xyz, seen.cloud.xyz)


def test_frames_made_on_two_threads_at_once_are_those_of_one() -> None:
    """Kept memory is each thread's own, and what was handed out before is never written again."""
    world, times = World(4, 20.0, WORLD_PRESETS["rough"][0]), [2.0 + 0.5 * k for k in range(12)]
    cut = replace(CUTS[3], exposure_s=0.01, readout_s=0.01)

    def make(time_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen = sim_camera.view(world, time_s, cut)
        return seen.image.pixels, seen.depth_m, sim_lidar.sweep(world, time_s, LIDARS["os1_64"][0]).xyz

    alone = [tuple(array.copy() for array in make(time_s)) for time_s in times]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(make, times))
    for first, second in zip(alone, together, strict=True):
        for expected, found in zip(first, second, strict=True):
            np.testing.assert_array_equal(found, expected)
