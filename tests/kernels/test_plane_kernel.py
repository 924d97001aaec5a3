"""The ground plane: found among clutter, equal to its twin, never steeper than asked."""

from __future__ import annotations

import numpy as np
import pytest

from edgeguard.kernels import _reference_clouds as twin
from edgeguard.kernels.plane import fit_ground


def _street(rng: np.random.Generator, slope: tuple[float, float], n: int = 3000) -> np.ndarray:
    """A sloping road, one wall twice as dense as it, and loose points."""
    road = np.column_stack((rng.uniform(-30, 30, (n, 2)), np.zeros(n)))
    road[:, 2] = road[:, :2] @ slope - 1.73 + 0.02 * rng.standard_normal(n)
    wall = np.column_stack((rng.uniform(-30, 30, 2 * n), np.full(2 * n, 6.0), rng.uniform(-1.7, 8, 2 * n)))
    loose = rng.uniform(-30, 30, (n // 3, 3))
    return np.concatenate((road, wall, loose)).astype(np.float32)[rng.permutation(3 * n + n // 3)]


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.08, -0.03), (-0.15, 0.1)])
def test_the_ground_is_found_beside_a_wall_with_more_points(slope: tuple[float, float]) -> None:
    """Slope to a few thousandths, height to a few centimetres; a wall is no ground however dense."""
    rng = np.random.default_rng(2)
    cloud = _street(rng, slope)

    plane, inliers = fit_ground(cloud, rng.integers(0, len(cloud), (200, 3)).astype(np.int32), 0.1, 0.3)

    assert np.linalg.norm(plane[:3]) == pytest.approx(1.0)
    np.testing.assert_allclose(-plane[:2] / plane[2], slope, atol=0.006)
    assert plane[3] / plane[2] == pytest.approx(1.73, abs=0.06)
    distance = np.abs(cloud.astype(np.float64) @ plane[:3] + plane[3])
    assert inliers == pytest.approx((distance <= 0.1).sum(), abs=2)
    assert inliers >= 2950  # five sigma of noise on 3000 points


def test_the_plane_equals_its_twin() -> None:
    """The same plane and the same count, on clouds of many sizes."""
    rng = np.random.default_rng(8)
    for n in (4, 40, 700, 9000):
        cloud = _street(rng, (0.05, 0.02), n)
        triples = rng.integers(0, len(cloud), (60, 3)).astype(np.int32)

        plane, inliers = fit_ground(cloud, triples, 0.15, 0.3)
        want, want_inliers = twin.fit_ground(cloud, triples, 0.15, 0.3)

        np.testing.assert_allclose(plane, want, rtol=1e-6, atol=1e-8)
        assert inliers == want_inliers


def test_points_that_are_not_finite_agree_with_no_plane() -> None:
    """NaN and infinities change neither plane nor count; a cloud of nothing else has no plane."""
    rng = np.random.default_rng(4)
    clean = _street(rng, (0.0, 0.0), 500)
    holes = clean.copy()
    holes[::7] = np.nan
    holes[3::7] = np.inf
    triples = rng.integers(0, len(clean), (1000, 3)).astype(np.int32)

    plane, inliers = fit_ground(holes, triples, 0.1, 0.3)
    assert plane[3] == pytest.approx(1.73, abs=0.06)
    assert 300 < inliers < 400

    for cloud in (np.full((9, 3), np.nan, np.float32), np.zeros((9, 3), np.float32)):
        plane, inliers = fit_ground(cloud, np.array([[0, 1, 2]], np.int32), 0.1, 0.3)
        assert inliers == 0
        assert np.isnan(plane).all()


def test_a_triple_outside_the_cloud_is_refused() -> None:
    """Before any memory is read."""
    for triple in ([0, 1, 5], [0, -1, 2]):
        with pytest.raises(IndexError, match="does not exist"):
            fit_ground(np.zeros((5, 3), np.float32), np.array([triple], np.int32), 0.1, 0.3)
    plane, inliers = fit_ground(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), 0.1, 0.3)
    assert inliers == 0
    assert np.isnan(plane).all()
