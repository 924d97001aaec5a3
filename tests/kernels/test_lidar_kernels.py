"""Every kernel agrees with its NumPy twin, and no input makes one crash."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeguard.kernels import _reference as twin
from edgeguard.kernels.angles import fast_atan2
from edgeguard.kernels.clusters import cluster_points
from edgeguard.kernels.ground import height_above_ground
from edgeguard.kernels.motion import build_normals, refine_pose, score_poses
from edgeguard.kernels.projection import project_points
from edgeguard.kernels.ranges import ask_sweep, range_image, to_spherical
from edgeguard.kernels.voxels import thin_points

_P = np.array([[70.0, -72.0, 0.0, 4.0], [17.0, 0.0, -72.0, 2.0], [1.0, 0.0, 0.0, -0.2]])
_COORDINATE = st.floats(-60, 60, width=32) | st.sampled_from([0.0, np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-38])
_CLOUDS = st.integers(0, 60).flatmap(lambda n: arrays(np.float32, (n, 3), elements=_COORDINATE))


def _off_the_edges(cloud: np.ndarray, T: np.ndarray | None = None) -> np.ndarray:
    """Leave out points on the border of two cells, where the last bit of libm and NumPy decides differently."""
    with np.errstate(all="ignore"):
        moved = cloud.astype(np.float64) if T is None else cloud @ T[:3, :3].T + T[:3, 3]
        x, y, z = moved.T
        az = (np.arctan2(y, x) + np.pi) / (2 * np.pi) * 3600  # every grid's columns and sectors divide this
        el = np.degrees(np.arcsin(z / np.sqrt(x * x + y * y + z * z))) * 2
        far = (np.abs(az - np.round(az)) > 1e-6) & ~(np.abs(el - np.round(el)) < 1e-6)
    return np.ascontiguousarray(cloud[far | ~np.isfinite(az)])


def _street(rng: np.random.Generator, n: int = 4000) -> np.ndarray:
    """Two walls, a back wall and poles, as points on upright surfaces."""
    along = rng.uniform(-30, 30, n)
    walls = np.stack((along, np.where(rng.random(n) < 0.5, 6.0, -5.0)), axis=1)
    back = np.stack((np.full(n // 8, 25.0), rng.uniform(-5, 6, n // 8)), axis=1)
    poles = np.array([(-12.0, 4.0), (3.0, 4.5), (10.0, -4.0), (17.0, 3.0)])[rng.integers(0, 4, n // 4)]
    poles = poles + 0.15 * rng.standard_normal((n // 4, 2))
    points = np.concatenate((walls, back, poles))
    return (points + 0.02 * rng.standard_normal(points.shape)).astype(np.float32)


@given(_CLOUDS)
def test_projection_equals_its_twin(cloud: np.ndarray) -> None:
    """Depth, pixels, visibility and count are identical, whatever the coordinates."""
    got, want = project_points(cloud, _P, 124, 37), twin.project_points(cloud, _P, 124, 37)

    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@given(_CLOUDS)
def test_range_images_equal_their_twins(cloud: np.ndarray) -> None:
    """Cells, ranges and the image are identical up to the last bit of a float32."""
    cloud = _off_the_edges(cloud)
    got, want = to_spherical(cloud), twin.to_spherical(cloud)

    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    np.testing.assert_array_equal(range_image(*got), twin.range_image(*got))


@given(_CLOUDS, _CLOUDS, st.floats(-3, 3), st.floats(-0.2, 0.2))
def test_asking_a_sweep_equals_its_twin(before: np.ndarray, now: np.ndarray, forward: float, yaw: float) -> None:
    """Status and closed fronts agree for moved sensors."""
    reference = range_image(*to_spherical(np.repeat(before, 3, axis=0)))  # sparse: every status occurs
    c, s = np.cos(yaw), np.sin(yaw)
    T = np.array([[c, -s, 0, forward], [s, c, 0, 0.1], [0, 0, 1, 0], [0, 0, 0, 1.0]])

    now = _off_the_edges(now, T)
    status, front = ask_sweep(now, T, reference, 0.5, 0.02)
    want_status, want_front = twin.ask_sweep(now, T, reference, 0.5, 0.02)

    np.testing.assert_array_equal(status, want_status)
    np.testing.assert_allclose(front, want_front, rtol=1e-5)


@pytest.mark.parametrize("points", [3_000, 9_000])
def test_asking_a_sweep_about_few_or_many_places_equals_its_twin(points: int) -> None:
    """Both ways of asking, with every answer among the results and places just outside the image."""
    rng = np.random.default_rng(points)
    before = (rng.standard_normal((20_000, 3)) * (1, 1, 0.4) * rng.uniform(2, 40, (20_000, 1))).astype(np.float32)
    y, z = np.meshgrid(np.linspace(-4, 4, 300), np.linspace(-1.5, 1.5, 150))
    wall = np.stack((np.full(y.size, 5.0), y.ravel(), z.ravel()), axis=1).astype(np.float32)
    reference = range_image(*to_spherical(np.concatenate((before[before[:, 0] < 0], wall))))
    now = (rng.standard_normal((points, 3)) * (1, 1, 0.5) * rng.uniform(1, 60, (points, 1))).astype(np.float32)
    now[::50] = np.nan
    T = np.array([[0.995, -0.0998, 0, 0.7], [0.0998, 0.995, 0, 0.1], [0, 0, 1, -0.2], [0, 0, 0, 1.0]])

    status, front = ask_sweep(now, T, reference, 0.5, 0.02)
    want_status, want_front = twin.ask_sweep(now, T, reference, 0.5, 0.02)

    np.testing.assert_array_equal(status, want_status)
    np.testing.assert_allclose(front, want_front, rtol=1e-5)
    assert set(status.tolist()) == {1, 0, -1, -2}
    assert np.isfinite(front).any()


@given(st.floats(allow_nan=False, allow_infinity=False, width=64), st.floats(-1e6, 1e6))
def test_the_angle_is_the_librarys(y: float, x: float) -> None:
    """Within 2e-14 rad in every quadrant and on the axes."""
    want = np.arctan2(y, x) if x or y else 0.0

    assert fast_atan2(y, x) == pytest.approx(abs(want) if y == 0 else want, abs=2e-14)


@given(_CLOUDS)
def test_heights_and_clusters_equal_their_twins(cloud: np.ndarray) -> None:
    """Ground walks, connected components and thinning agree."""
    cloud = _off_the_edges(cloud)
    np.testing.assert_allclose(height_above_ground(cloud, 1.73), twin.height_above_ground(cloud, 1.73), rtol=1e-5)
    labels, count = cluster_points(cloud, 2.0)
    want, want_count = twin.cluster_points(cloud, 2.0)
    np.testing.assert_array_equal(labels, want)
    assert count == want_count
    np.testing.assert_allclose(thin_points(cloud, 2.0), twin.thin_points(cloud, 2.0), rtol=1e-5, atol=1e-6)


def test_clusters_agree_on_a_crowded_scene() -> None:
    """Many touching voxels, where union-find and flood fill could differ."""
    rng = np.random.default_rng(3)
    cloud = (rng.uniform(-6, 6, (800, 3))).astype(np.float32)

    for voxel_m in (0.4, 0.8, 1.5):
        labels, count = cluster_points(cloud, voxel_m)
        want, want_count = twin.cluster_points(cloud, voxel_m)
        np.testing.assert_array_equal(labels, want)
        assert count == want_count


def test_voxels_agree_when_there_are_more_than_the_first_table_holds() -> None:
    """A hundred thousand voxels: the table grows twice on the way and loses nobody."""
    rng = np.random.default_rng(5)
    cloud = rng.uniform(-40, 40, (110_000, 3)).astype(np.float32)

    thinned = thin_points(cloud, 0.5)

    assert len(thinned) > 1 << 16
    np.testing.assert_allclose(thinned, twin.thin_points(cloud, 0.5), rtol=1e-5, atol=1e-6)
    labels, _ = cluster_points(cloud[:60_000], 0.5)
    np.testing.assert_array_equal(labels, twin.cluster_points(cloud[:60_000], 0.5)[0])


def test_threads_do_not_share_scratch_memory() -> None:
    """Four threads thin and cluster different clouds at once; each gets what it gets alone."""
    rng = np.random.default_rng(6)
    clouds = [rng.uniform(-20, 20, (n, 3)).astype(np.float32) for n in (5_000, 40_000, 20_000, 60_000)]
    alone = [(thin_points(c, 0.4), cluster_points(c, 0.4)[0]) for c in clouds]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda c: (thin_points(c, 0.4), cluster_points(c, 0.4)[0]), clouds * 5))

    for k, (thinned, labels) in enumerate(together):
        np.testing.assert_array_equal(thinned, alone[k % 4][0])
        np.testing.assert_array_equal(labels, alone[k % 4][1])


def test_scan_matching_equals_its_twin_and_finds_the_motion() -> None:
    """Grid, scores and the refined pose agree with the twin; the known motion comes back to a centimetre."""
    rng = np.random.default_rng(7)
    previous = _street(rng)
    true = np.array([0.83, -0.05, 0.02])
    c, s = np.cos(true[2]), np.sin(true[2])
    current = ((_street(rng) - true[:2]) @ np.array([[c, -s], [s, c]])).astype(np.float32)

    normals = build_normals(previous, 1.0, 80, 0.3)
    grid = twin.build_normals(previous, 1.0, 80, 0.3)
    cells = normals.cells[normals.index[:-1]].reshape(80, 80, 6)
    np.testing.assert_allclose(cells[:, :, :5], grid[:, :, 1:], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(cells[:, :, 5] > 0, grid[:, :, 0] > 0)
    assert normals.index[-1] == 0
    poses = np.array([[0.0, 0, 0], true, [0.5, 0.1, -0.02]])
    scores = score_poses(current, poses, normals)
    np.testing.assert_allclose(scores, twin.score_poses(current, poses, grid, 1.0), rtol=1e-6)
    assert scores.argmax() == 1

    start = np.array([0.6, 0.0, 0.0])
    pose, H, score = refine_pose(current, start, normals, 20)
    want_pose, want_H, want_score = twin.refine_pose(current, start, grid, 1.0, 20)
    np.testing.assert_allclose(pose, want_pose, atol=1e-5)
    np.testing.assert_allclose(H, want_H, rtol=1e-3)
    assert score == pytest.approx(want_score, rel=1e-4)
    assert np.abs(pose - true).max() < 0.015


def test_scan_matching_survives_degenerate_input() -> None:
    """Empty, coincident, NaN and absurd points leave the start pose and raise nothing."""
    for points in (np.zeros((0, 2)), np.zeros((50, 2)), np.full((9, 2), np.nan), np.full((9, 2), 3e38)):
        xy = points.astype(np.float32)
        normals = build_normals(xy, 1.0, 20, 0.3)
        pose, _, score = refine_pose(xy, np.zeros(3), normals, 5)
        assert np.isfinite(pose).all()
        assert 0.0 <= score <= 1.0
        assert np.isfinite(score_poses(xy, np.zeros((1, 3)), normals)).all()


def test_a_point_nearer_than_the_surface_was_seen_through() -> None:
    """In front of a wall is SEEN_THROUGH, at it HIT, behind it HIDDEN with the wall's range, beside it UNKNOWN."""
    y, z = np.meshgrid(np.linspace(-3, 3, 200), np.linspace(-1.5, 1.0, 120))
    wall = np.stack((np.full(y.size, 10.0), y.ravel(), z.ravel()), axis=1).astype(np.float32)
    reference = range_image(*to_spherical(wall))
    places = np.array([[6, 0, 0], [10, 0, 0], [14, 0, 0], [0, 10, 0]], np.float32)

    status, front = ask_sweep(places, np.eye(4), reference, 0.5, 0.02)

    assert status.tolist() == [1, 0, -1, -2]
    assert front[2] == pytest.approx(10.0, abs=0.1)
