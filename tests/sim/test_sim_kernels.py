"""The compiled ray casters against their plain NumPy twins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.sim import camera as sim_camera
from edgeguard.sim import lidar as sim_lidar
from edgeguard.sim.camera import DEFAULT_CAMERA, CameraModel
from edgeguard.sim.deviates import DEVIATES
from edgeguard.sim.kernels import _reference as reference
from edgeguard.sim.kernels.bounds import pinhole_bounds
from edgeguard.sim.kernels.cast import cast, cast_plane, cast_shadows
from edgeguard.sim.kernels.echo import reflect
from edgeguard.sim.kernels.shade import expose
from edgeguard.sim.kernels.solids import hash3
from edgeguard.sim.kernels.textures import band, noise, wrap
from edgeguard.sim.lidar import DEFAULT_LIDAR, LidarModel
from edgeguard.sim.lines import Aim, aim, cast_ground, sensor_pose
from edgeguard.sim.presets import LIDARS
from edgeguard.sim.primitives import Primitives, corners
from edgeguard.sim.weather import WORLD_PRESETS
from edgeguard.sim.windows import front_to_back, shadow_corners, spinning_windows, to_pixels, windows_of
from edgeguard.sim.world import World

SMALL = CameraModel(width_px=96, height_px=56, focal_px=63.0, cx_px=47.5, cy_px=27.5)
SPARSE = LidarModel(columns=128)


def scene_at(seed: int, time_s: float, mount_m: tuple[float, float, float]) -> Primitives:
    world = World(seed, 20.0)
    return world.primitives(time_s, 80.0).seen_from(*sensor_pose(world.ego(time_s), mount_m), 80.0)


def pinhole_rays(camera: CameraModel) -> np.ndarray:
    v, u = np.mgrid[0 : camera.height_px, 0 : camera.width_px]
    y, z = (camera.cx_px - u) / camera.focal_px, (camera.cy_px - v) / camera.focal_px
    return np.stack([np.ones_like(y), y, z], axis=2).astype(np.float32)


def pinhole_windows(points: np.ndarray) -> np.ndarray:
    pixels = to_pixels(pinhole_bounds(points), SMALL.focal_px, SMALL.cx_px, SMALL.cy_px)
    return windows_of(pixels, (SMALL.width_px, SMALL.height_px))


def spinning_rays(lidar: LidarModel) -> np.ndarray:
    elevation = lidar.elevations_rad()[:, None]
    azimuth = np.pi - 2 * np.pi * np.arange(lidar.columns) / lidar.columns
    x, y = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)
    rings = np.stack([x, y, np.broadcast_to(np.sin(elevation), x.shape)], axis=2).astype(np.float32)
    return np.ascontiguousarray(rings.transpose(1, 0, 2))  # a line is one azimuth


def nearest_depth(scene: Primitives) -> np.ndarray:
    return np.maximum(corners(scene.values)[..., 0].min(axis=1), 0.0)


def run_cast(
    rays: np.ndarray, height_m: float, scene: Primitives, windows: np.ndarray, nearest: np.ndarray
) -> tuple[np.ndarray, ...]:
    shape = rays.shape[:2]
    distance, hit, mark = np.empty(shape, np.float32), np.empty(shape, np.int32), np.empty(shape, np.int32)
    alone = np.zeros(int(scene.codes[:, 2].max(initial=-1)) + 1, dtype=np.int64)
    starts = np.zeros((shape[0], 4))
    planes = planes_of(rays)
    cast_plane(planes[2], starts, height_m, distance, hit)
    order = front_to_back(windows, scene.codes, nearest)
    still = np.zeros((len(scene.values), 2))
    cast(*planes, starts, scene.codes, scene.values, still, order, nearest, distance, hit, mark, alone)
    return distance, hit, alone


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    """Kernels work in float32: a hundred-thousandth, but for rays that graze a surface."""
    finite = np.isfinite(expected)
    assert np.all(np.isfinite(found) == finite)
    error = np.abs(found[finite] / expected[finite] - 1.0)
    assert np.quantile(error, 0.99) < 1e-5
    assert error.max() < 1e-3


def planes_of(rays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, z = (np.ascontiguousarray(rays[..., axis]) for axis in range(3))
    return x, y, z


@pytest.mark.parametrize(("seed", "time_s"), [(1, 2.0), (5, 11.0)])
def test_the_camera_caster_agrees_with_brute_force(seed: int, time_s: float) -> None:
    """Every ray against every solid in NumPy gives the same depth, hit and pixel counts as the culled kernel."""
    scene = scene_at(seed, time_s, SMALL.mount_m)
    windows = pinhole_windows(corners(scene.values))
    distance, hit, alone = run_cast(pinhole_rays(SMALL), SMALL.mount_m[2], scene, windows, nearest_depth(scene))
    expected, expected_hit, expected_alone = reference.cast(
        pinhole_rays(SMALL), SMALL.mount_m[2], scene.values, scene.codes
    )
    assert np.mean(hit != expected_hit) < 1e-3  # rays that graze an edge may fall either way in the last bit
    same = hit == expected_hit
    agree(distance[same], expected[same])
    assert np.abs(alone - expected_alone).max() <= 2
    assert (hit >= 0).mean() > 0.2


def test_the_lidar_caster_agrees_with_brute_force_all_around() -> None:
    """Windows of a spinning grid lose nothing, also where they hang over the ends of the sweep."""
    scene = scene_at(2, 6.0, DEFAULT_LIDAR.mount_m)
    windows, nearest = spinning_windows(scene.values, SPARSE.elevations_rad(), SPARSE.columns)
    rays = spinning_rays(SPARSE)
    distance, hit, _ = run_cast(rays, SPARSE.mount_m[2], scene, windows, nearest)
    expected, expected_hit, _ = reference.cast(rays, SPARSE.mount_m[2], scene.values, scene.codes)
    assert np.mean(hit != expected_hit) < 1e-3
    same = (hit == expected_hit) & np.isfinite(expected)
    agree(distance[same], expected[same])


def test_incidence_and_reflectance_follow_the_surface_that_was_hit() -> None:
    """Cosines agree with normals taken from each solid's implicit function; reflectance is the solid's own."""
    scene = scene_at(3, 4.0, DEFAULT_LIDAR.mount_m)
    rays = spinning_rays(SPARSE)
    windows, nearest = spinning_windows(scene.values, SPARSE.elevations_rad(), SPARSE.columns)
    distance, hit, _ = run_cast(rays, SPARSE.mount_m[2], scene, windows, nearest)
    reflectance, cosine = np.empty(hit.shape, np.float32), np.empty(hit.shape, np.float32)
    starts, still = np.zeros((len(rays), 4)), np.zeros((len(scene.values), 2))
    reflect(*planes_of(rays), starts, distance, hit, scene.values, still, scene.codes, 0.2, reflectance, cosine)
    solid = hit >= 0
    directions = rays[solid].astype(np.float64)
    normal = reference.normals(scene.values, scene.codes, hit[solid], directions * distance[solid][:, None])
    expected = np.abs((normal * directions).sum(axis=1))
    assert np.mean(np.abs(cosine[solid] - expected) > 1e-3) < 2e-3  # a point on an edge belongs to either face
    np.testing.assert_allclose(reflectance[solid], scene.values[hit[solid], 13], rtol=1e-6)
    assert np.all(reflectance[hit == -1] == np.float32(0.2))
    assert np.all(cosine[hit == -2] == 0.0)


def test_a_ground_pixel_is_dark_exactly_when_something_hides_the_sun() -> None:
    """Shadows agree with tracing every ground pixel towards the sun through every solid."""
    scene = scene_at(1, 2.0, SMALL.mount_m)
    rays = pinhole_rays(SMALL)
    windows = pinhole_windows(corners(scene.values))
    distance, hit, _ = run_cast(rays, SMALL.mount_m[2], scene, windows, nearest_depth(scene))
    sun = np.array([0.5, 0.4, np.sqrt(1 - 0.41)])
    shade_points = shadow_corners(scene.values, sun, SMALL.mount_m[2])
    windows = pinhole_windows(shade_points)
    shadow = np.zeros(hit.shape, np.uint8)
    cast_shadows(*planes_of(rays), distance, hit, scene.values, scene.codes, windows, *sun, shadow)
    ground = hit == -1
    points = rays[ground].astype(np.float64) * distance[ground][:, None].astype(np.float64)
    dark = np.zeros(len(points), dtype=bool)
    towards = np.broadcast_to(sun, points.shape)
    for p, code in zip(scene.values, scene.codes, strict=True):
        dark |= reference.intersect(p, int(code[0]), int(code[1]), points, towards) < np.inf
    assert np.mean(shadow[ground].astype(bool) != dark) < 2e-3
    assert 0.02 < dark.mean() < 0.98


def test_the_hash_equals_its_twin_in_unsigned_arithmetic() -> None:
    """No overflow hides in the signed 64-bit version."""
    rng = np.random.default_rng(0)
    a, b, c = rng.integers(0, 2**31, size=(3, 500))
    expected = reference.hash3(a, b, c)
    assert [hash3(int(x), int(y), int(z)) for x, y, z in zip(a, b, c, strict=True)] == expected.tolist()


def test_exposure_equals_its_twin() -> None:
    """Blur, gain, vignetting and noise agree with NumPy but for pixels on a rounding edge."""
    light = np.random.default_rng(1).uniform(-5, 300, size=(3, 40, 64)).astype(np.float32)
    out = np.empty(light.shape, np.uint8)
    expose(light, 0.55, 1.1, 0.16, 1.4, 0.022, 12345, DEVIATES, out)
    expected = reference.expose(light, 0.55, 1.1, 0.16, 1.4, 0.022, 12345, DEVIATES)
    difference = np.abs(out.astype(int) - expected)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3


@given(st.floats(-64, 64, width=32), st.floats(-64, 64, width=32), st.integers(0, 1 << 20))
def test_texture_noise_is_bounded_and_continuous(x: float, y: float, seed: int) -> None:
    """Values stay in 0..1 and a small step makes a small change, also across cell borders."""
    here = sample_noise(x, y, seed)
    assert 0.0 <= here <= 1.0
    assert abs(sample_noise(x + 1e-4, y, seed) - here) < 1e-3
    assert abs(sample_noise(x, y + 1e-4, seed) - here) < 1e-3


def sample_noise(x: float, y: float, seed: int) -> float:
    return float(noise(np.float32(x), np.float32(y), np.int32(seed)))


@given(st.floats(-1e3, 1e3, width=32), st.sampled_from([0.5, 0.6, 6.0, 7.0]))
def test_wrapping_is_the_modulo(x: float, period: float) -> None:
    """The fast form agrees with Python's exact one, up to a step at the period's end."""
    difference = abs(float(wrap(np.float32(x), np.float32(period))) - x % period)
    assert min(difference, abs(difference - period)) < 1e-3


def test_stripes_blur_to_their_mean_instead_of_aliasing() -> None:
    """Inside is 1, outside 0, the edge one half."""
    assert band(0.5, 0.0, 1.0, 10.0) == 1.0
    assert band(2.0, 0.0, 1.0, 10.0) == 0.0
    assert band(0.0, 0.0, 1.0, 10.0) == pytest.approx(0.5)


def test_lane_paint_is_where_the_road_says() -> None:
    """Undo the shading's search for the road: bright edge-line pixels lie 3.5 m from the centreline, by brute force."""
    world = World(2, 20.0)
    for time_s in (3.0, 9.0, 15.0):
        seen = sim_camera.view(world, time_s)
        ego = world.ego(time_s)
        x, y, _, yaw = sensor_pose(ego, DEFAULT_CAMERA.mount_m)
        rays = pinhole_rays(DEFAULT_CAMERA)
        ground = (seen.object_id < 0) & (np.abs(rays[..., 2] * seen.depth_m + DEFAULT_CAMERA.mount_m[2]) < 1e-3)
        ground &= seen.depth_m < 14.0
        ahead, left = seen.depth_m[ground], (rays[..., 1] * seen.depth_m)[ground]
        place = np.stack(
            [x + np.cos(yaw) * ahead - np.sin(yaw) * left, y + np.sin(yaw) * ahead + np.cos(yaw) * left], axis=1
        )
        offset = np.hypot(
            place[:, None, 0] - world.road.table[None, 200:900:1, 0],
            place[:, None, 1] - world.road.table[None, 200:900, 1],
        ).min(axis=1)
        grey = seen.image.pixels.mean(axis=2)[ground]
        paint = grey[np.abs(offset - 3.5) < 0.03]
        asphalt = grey[(np.abs(offset - 3.1) < 0.2) | (np.abs(offset - 2.5) < 0.2)]
        assert len(paint) > 50
        assert np.median(paint) > 1.35 * np.median(asphalt)


def test_sensor_noise_has_the_stated_mean_and_variance() -> None:
    """Flat grey light comes out with its own mean and read + shot variance, in each channel."""
    light = np.full((3, 384, 640), 120.0, dtype=np.float32)
    out = np.empty(light.shape, np.uint8)
    expose(light, 0.55, 1.0, 0.0, 1.4, 0.022, 77, DEVIATES, out)
    expected = 1.4**2 + 0.022 * 120.0 + 1 / 12  # rounding adds a twelfth
    for channel in range(3):
        values = out[channel].astype(float)
        assert abs(values.mean() - 120.0) < 0.05
        assert abs(values.var() / expected - 1.0) < 0.03
    rows = out[0].astype(float)
    assert abs(np.corrcoef(rows[:, :-1].ravel(), rows[:, 1:].ravel())[0, 1]) < 0.01
    assert DEFAULT_CAMERA.width_px == 640


@pytest.mark.parametrize(("seed", "time_s", "name"), [(1, 5.0, "hills"), (2, 9.0, "rough"), (3, 7.0, "busy")])
def test_culling_loses_nothing_from_a_leaning_moving_vehicle(seed: int, time_s: float, name: str) -> None:
    """Staggered turning beams and a distorted rolling shutter hit the same as when every ray tries every solid."""
    world = World(seed, 20.0, WORLD_PRESETS[name][0])
    lidar = replace(LIDARS["os1_64"][0], columns=256)
    beams, offsets_s, _ = sim_lidar._beams(lidar)
    aimed = aim(world, time_s, lidar.mount_m, beams, offsets_s)
    scene = world.primitives(time_s, lidar.max_range_m).seen_from(*aimed.frame, lidar.max_range_m)
    distance, hit = sim_lidar._cast(world, scene, aimed, lidar)
    same(aimed, scene, world, lidar.max_range_m, distance, hit)
    camera = CameraModel(160, 120, 125.0, 79.5, 59.5, distortion=(0.16, -0.30, 0.0, 0.0), readout_s=0.020)
    aimed = aim(world, time_s, camera.mount_m, sim_camera._rays(camera), sim_camera._row_times_s(camera))
    scene = world.primitives(time_s, sim_camera.REACH_M).seen_from(*aimed.frame, sim_camera.REACH_M)
    seen = sim_camera._cast(world, time_s, scene, aimed, camera, counting=True)
    same(aimed, scene, world, sim_camera.REACH_M, seen.depth, seen.hit)


def same(aimed: Aim, scene: Primitives, world: World, reach_m: float, distance: np.ndarray, hit: np.ndarray) -> None:
    count, (lines, rays) = len(scene.values), hit.shape
    every = np.zeros((count, 5), dtype=np.int64)
    every[:, 0], every[:, 2], every[:, 4] = np.arange(count), lines, rays
    expected, expected_hit = np.empty_like(distance), np.empty_like(hit)
    cast_ground(world, aimed, reach_m, expected, expected_hit)
    marks, alone = np.empty((0, 0), np.int32), np.zeros(0, np.int64)
    cast(
        *aimed.rays,
        aimed.starts,
        scene.codes,
        scene.values,
        scene.velocities(),
        every,
        np.zeros(count),
        expected,
        expected_hit,
        marks,
        alone,
    )
    np.testing.assert_array_equal(np.isfinite(distance), np.isfinite(expected))
    np.testing.assert_array_equal(distance, expected)  # which of two touching solids was hit may depend on the order
