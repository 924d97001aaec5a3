"""The coarse-to-fine scan match: equal to its twin, exact on known motions, quiet on hopeless input."""

from __future__ import annotations

import numpy as np
import pytest

from edgeguard.kernels import _reference_scan_match as twin
from edgeguard.kernels.ground import height_above_ground
from edgeguard.kernels.scan_match import match_scans
from edgeguard.kernels.voxels import thin_points
from edgeguard.sim.lidar import DEFAULT_LIDAR, sweep
from edgeguard.sim.world import World


def _room(rng: np.random.Generator, n: int) -> np.ndarray:
    """A 2-D scan of a room of 12 by 8 m with a column, noise of 1 cm, points all around."""
    angle = np.sort(rng.uniform(-np.pi, np.pi, n))
    d = np.column_stack((np.cos(angle), np.sin(angle)))
    with np.errstate(divide="ignore"):
        r = np.minimum(
            np.where(d[:, 0] > 0, 7.0, 5.0) / np.abs(d[:, 0]), np.where(d[:, 1] > 0, 5.0, 3.0) / np.abs(d[:, 1])
        )
    column = np.abs(angle - 0.4) < 0.06
    r[column] = 3.0
    return d * (r + 0.01 * rng.standard_normal(n))[:, None]


def _moved(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """What a sensor at `pose` sees of points given in the frame of the one before."""
    c, s = np.cos(pose[2]), np.sin(pose[2])
    return np.ascontiguousarray(((points - pose[:2]) @ np.array([[c, -s], [s, c]])).astype(np.float32))


def test_the_match_equals_its_twin() -> None:
    """Pose, Hessian and score after all levels."""
    rng = np.random.default_rng(3)
    pose = np.array([0.21, -0.06, 0.03])
    previous, current = _room(rng, 1500).astype(np.float32), _moved(_room(rng, 700), pose)

    got, H, score = match_scans(previous, current, np.zeros(3))
    want, want_H, want_score = twin.match_scans(previous, current, np.zeros(3))

    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(H, want_H, rtol=1e-4, atol=1e-3)
    assert score == pytest.approx(want_score, rel=1e-5)


@pytest.mark.parametrize("pose", [(0.0, 0.0, 0.0), (0.3, 0.1, 0.05), (-0.4, 0.2, -0.08)])
def test_a_two_dimensional_scan_gives_its_motion_back(pose: tuple[float, float, float]) -> None:
    """Two scans of a room with different beams: five millimetres, a milliradian and a half."""
    rng = np.random.default_rng(9)
    true = np.array(pose)

    got, _, score = match_scans(_room(rng, 2000).astype(np.float32), _moved(_room(rng, 2000), true), np.zeros(3))

    assert np.abs(got[:2] - true[:2]).max() < 0.005
    assert abs(got[2] - true[2]) < 1.5e-3
    assert score > 0.5


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sweeps_of_the_simulator_give_the_driven_motion(seed: int) -> None:
    """A tenth of a second of driving at up to 13 m/s, looked for from rest: one centimetre and half a milliradian."""
    world = World(seed, 20.0)
    scans = []
    for time_s in (4.0, 4.1):
        xyz = np.ascontiguousarray(sweep(world, time_s).xyz)
        height = height_above_ground(xyz, 1.73)
        scans.append(np.ascontiguousarray(xyz[(height > 0.4) & (height < 3.5)]))
    before, after = world.ego(4.0), world.ego(4.1)
    places = [
        np.array([e.east_m, e.north_m]) + DEFAULT_LIDAR.mount_m[0] * np.array([np.cos(e.yaw_rad), np.sin(e.yaw_rad)])
        for e in (before, after)
    ]
    c, s = np.cos(before.yaw_rad), np.sin(before.yaw_rad)
    true = np.array([[c, s], [-s, c]]) @ (places[1] - places[0])
    assert np.linalg.norm(true) > 0.5

    thinned = np.ascontiguousarray(thin_points(scans[1], 0.1)[:, :2])
    pose, _, _ = match_scans(np.ascontiguousarray(scans[0][:, :2]), thinned, np.zeros(3))

    assert np.abs(pose[:2] - true).max() < 0.01
    assert abs(pose[2] - (after.yaw_rad - before.yaw_rad)) < 5e-4


def test_hopeless_input_leaves_the_start() -> None:
    """Empty, coincident, NaN and absurd points: the start comes back, with nothing to hold on to."""
    start = np.array([0.1, -0.2, 0.05])
    for points in (np.zeros((0, 2)), np.full((9, 2), np.nan), np.full((9, 2), 3e38), np.full((9, 2), -3e38)):
        xy = points.astype(np.float32)
        pose, H, score = match_scans(xy, xy, start)
        np.testing.assert_array_equal(pose, start)
        assert score == 0.0
        assert not H.any()
    assert np.isfinite(match_scans(np.zeros((50, 2), np.float32), np.zeros((50, 2), np.float32), start)[0]).all()
