"""Camera and lidar see one world: geometry, occlusion, noise and repeatability."""

from __future__ import annotations

import numpy as np
import pytest

from edgeguard.sim import camera as sim_camera
from edgeguard.sim import lidar as sim_lidar
from edgeguard.sim.camera import DEFAULT_CAMERA, camera_boxes, render
from edgeguard.sim.lidar import DEFAULT_LIDAR, LidarModel, sweep
from edgeguard.sim.rig import rig_calibration
from edgeguard.sim.world import World
from edgeguard.types import RigCalibration


@pytest.fixture(scope="module")
def world() -> World:
    """One street for the whole module."""
    return World(3, 30.0)


def project(xyz: np.ndarray, rig: RigCalibration) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return integer columns and rows and depth of points in front of and inside the image, and NaN-free indices."""
    camera = xyz @ rig.T_cam_lidar[:3, :3].T + rig.T_cam_lidar[:3, 3]
    index = np.flatnonzero(camera[:, 2] > 0.5)
    pixel = camera[index] @ rig.camera_matrix.T
    uv = np.round(pixel[:, :2] / pixel[:, 2:]).astype(int)
    inside = (uv[:, 0] >= 1) & (uv[:, 0] < 639) & (uv[:, 1] >= 1) & (uv[:, 1] < 383)
    return index[inside], uv[inside], camera[index[inside], 2]


def test_frames_and_sweeps_repeat_whatever_was_made_before(world: World) -> None:
    """Noise depends on seed and stamp alone: order of calls changes no byte."""
    first, cloud = render(world, 2.0), sweep(world, 2.0)
    render(world, 7.0)
    sweep(world, 7.1)
    again, cloud_again = render(World(3, 30.0), 2.0), sweep(World(3, 30.0), 2.0)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(cloud.xyz, cloud_again.xyz)
    np.testing.assert_array_equal(cloud.intensity, cloud_again.intensity)
    assert not np.array_equal(first.pixels, render(world, 2.0, noise_seed=99).pixels)


def test_values_have_the_promised_shapes_and_ranges(world: World) -> None:
    """An image is 640x384 BGR bytes; a cloud has rings, offsets and intensities of equal length."""
    image, cloud = render(world, 1.0), sweep(world, 1.0)
    assert image.pixels.shape == (384, 640, 3)
    assert image.pixels.dtype == np.uint8
    assert image.stamp_ns == cloud.stamp_ns == 1_000_000_000
    assert cloud.xyz.dtype == np.float32
    assert cloud.intensity.dtype == np.float32
    assert cloud.ring is not None
    assert cloud.time_offset_ns is not None
    assert len(cloud.xyz) == len(cloud.intensity) == len(cloud.ring) == len(cloud.time_offset_ns)
    assert 40_000 < len(cloud.xyz) <= 65_536
    assert cloud.intensity.min() >= 0.0
    assert cloud.intensity.max() <= 1.0
    assert np.linalg.norm(cloud.xyz, axis=1).max() < 100.2
    elevation = np.arcsin(cloud.xyz[:, 2] / np.linalg.norm(cloud.xyz, axis=1))
    np.testing.assert_allclose(elevation, DEFAULT_LIDAR.elevations_rad()[cloud.ring], atol=1e-4)


@pytest.mark.parametrize("time_s", [1.0, 8.0, 20.0])
def test_lidar_points_land_on_the_same_things_in_the_image(world: World, time_s: float) -> None:
    """Through the calibration, depth and object of almost every point agree with the camera's; the rest is parallax."""
    seen, swept = sim_camera.view(world, time_s), sim_lidar.view(world, time_s)
    index, uv, depth = project(swept.cloud.xyz.astype(float), rig_calibration())
    camera_depth = seen.depth_m[uv[:, 1], uv[:, 0]]
    close = np.abs(camera_depth - depth) < 0.1 + 0.03 * depth
    same = seen.object_id[uv[:, 1], uv[:, 0]] == swept.object_id[index]
    assert len(index) > 5000
    assert close.mean() > 0.96
    assert same.mean() > 0.96


def test_one_degree_of_yaw_breaks_the_agreement(world: World) -> None:
    """The agreement test has power: a wrong calibration is seen on object pixels."""
    seen, swept = sim_camera.view(world, 8.0), sim_lidar.view(world, 8.0)
    c, s = np.cos(np.deg2rad(1.0)), np.sin(np.deg2rad(1.0))
    turned = swept.cloud.xyz.astype(float) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]).T
    index, uv, _ = project(turned, rig_calibration())
    on_object = swept.object_id[index] >= 0
    same = seen.object_id[uv[:, 1], uv[:, 0]] == swept.object_id[index]
    assert same[on_object].mean() < 0.93


def test_range_noise_is_two_centimetres(world: World) -> None:
    """Measured minus true range is white with the model's sigma."""
    swept = sim_lidar.view(world, 5.0)
    error = np.linalg.norm(swept.cloud.xyz, axis=1) - swept.true_range_m
    assert abs(error.mean()) < 0.001
    assert error.std() == pytest.approx(0.02, rel=0.03)


def test_far_and_grazing_beams_are_lost_more_often(world: World) -> None:
    """Ray drop rises with range: nearly all near beams return, far ground does not."""
    cloud = sweep(world, 5.0)
    assert cloud.ring is not None
    share = np.bincount(cloud.ring, minlength=64) / DEFAULT_LIDAR.columns
    assert share[-5:].min() > 0.95
    on_ground = cloud.xyz[np.abs(cloud.xyz[:, 2] + 1.73) < 0.06]
    distance = np.linalg.norm(on_ground[:, :2], axis=1)
    assert np.median(distance) < 15.0
    assert np.mean(distance > 45.0) < 0.01  # beyond, asphalt is grazed too flatly


def test_a_turning_mirror_distorts_a_moving_sweep() -> None:
    """Points carry firing times; put back by the vehicle's motion, they lie where an instant sweep's do."""
    world, turning = World(3, 30.0), LidarModel(turning=True, range_sigma_m=0.0)
    cloud = sweep(world, 5.0, turning)
    assert cloud.time_offset_ns is not None
    assert cloud.time_offset_ns.min() == -50_000_000
    assert cloud.time_offset_ns.max() == round((1023 / 1024 - 0.5) * 1e8)
    still = sim_lidar.view(world, 5.0, LidarModel(range_sigma_m=0.0))
    assert still.cloud.time_offset_ns is not None
    assert not still.cloud.time_offset_ns.any()
    behind = cloud.xyz[cloud.time_offset_ns < -48_000_000]
    assert np.all(behind[:, 0] < 0.5)  # the turn starts looking back
    scenery = sim_lidar.view(world, 5.0, turning)
    own = scenery.object_id < 0
    scenery_now = still.cloud.xyz[still.object_id < 0]
    now = world.ego(5.0)
    undone = cloud.xyz[own].astype(float)
    for at in np.unique(cloud.time_offset_ns):
        then, part = world.ego(5.0 + at / 1e9), cloud.time_offset_ns[own] == at
        for ego, sign in ((then, 1), (now, -1)):
            c, s = np.cos(ego.yaw_rad), np.sin(ego.yaw_rad)
            mount = np.array([c, s]) * turning.mount_m[0] + np.array([ego.east_m, ego.north_m])
            turn = np.array([[c, s], [-s, c]])
            undone[part, :2] = undone[part, :2] @ turn + mount if sign > 0 else (undone[part, :2] - mount) @ turn.T
    standing = (undone[:, 2] > -1.4) & (np.linalg.norm(undone, axis=1) < 30.0)
    some = np.flatnonzero(standing)[::40]

    def gap(points: np.ndarray) -> float:
        squares = [np.square(scenery_now - p).sum(axis=1).min() for p in points.astype(np.float32)]
        return float(np.sqrt(np.mean(np.minimum(squares, 1.0))))

    assert gap(undone[some]) < 0.75 * gap(cloud.xyz[own][some])


def test_boxes_bound_the_visible_pixels_of_what_they_name(world: World) -> None:
    """Every box is tight, non-empty, inside the image, and its share counts real occlusion."""
    seen = sim_camera.view(world, 8.0)
    assert len(seen.boxes) >= 5
    shares = []
    for label, (x1, y1, x2, y2), share, range_m in seen.boxes:
        assert label in {"car", "pedestrian", "cyclist", "barrier"}
        assert 0 <= x1 < x2 <= 640
        assert 0 <= y1 < y2 <= 384
        assert 0.0 < share <= 1.0
        assert 0.3 < range_m < 130.0
        inside = seen.object_id[int(y1) : int(y2), int(x1) : int(x2)]
        numbers = {int(n) for n in np.unique(inside[inside >= 0])}
        assert any(world.label_of(n) == label for n in numbers)
        shares.append(share)
    assert min(shares) < 0.7 < max(shares)
    assert [b[3] for b in seen.boxes] == sorted(b[3] for b in seen.boxes)
    assert camera_boxes(world, 8.0) == list(seen.boxes)


def test_a_box_grows_as_its_object_comes_nearer(world: World) -> None:
    """Pinhole geometry: a car's box height is its height times focal length over depth."""
    checked = 0
    for time_s in np.arange(1.0, 20.0, 2.0):
        seen = sim_camera.view(world, float(time_s))
        objects = {o.number: o for o in world.objects(float(time_s))}
        ego = world.ego(float(time_s))
        for number in np.unique(seen.object_id[seen.object_id >= 0]):
            rows, columns = np.nonzero(seen.object_id == number)
            thing = objects[int(number)]
            box = next(b for b in seen.boxes if b[1][:2] == (columns.min(), rows.min()) and b[0] == thing.label)
            dx, dy = thing.x_m - ego.east_m, thing.y_m - ego.north_m
            ahead = dx * np.cos(ego.yaw_rad) + dy * np.sin(ego.yaw_rad) - DEFAULT_CAMERA.mount_m[0]
            whole = box[2] > 0.999 and box[1][0] > 0 and box[1][2] < 640 and box[1][3] < 384
            if thing.label == "pedestrian" and whole and 8.0 < ahead < 40.0:
                expected = thing.size_m[2] * DEFAULT_CAMERA.focal_px / ahead
                assert box[1][3] - box[1][1] == pytest.approx(expected, rel=0.08, abs=2.5)
                checked += 1
    assert checked > 5


def test_pictures_are_neither_black_nor_blown_out() -> None:
    """Exposure is usable on every seed: mid tones, contrast, few clipped pixels."""
    for seed in range(4):
        pixels = render(World(seed, 10.0), 5.0).pixels
        assert 60 < pixels.mean() < 190
        assert pixels.std() > 30
        assert np.mean((pixels == 0) | (pixels == 255)) < 0.03
