"""Exact DBSCAN: equal to its brute-force twin, number for number, on every kind of cloud."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeguard.kernels import _reference_clouds as twin
from edgeguard.kernels.dbscan import NOISE, dbscan

_COORDINATE = st.floats(-3, 3, width=32) | st.sampled_from([0.0, 0.5, -0.5, np.nan, np.inf, -np.inf, 3e38, -3e38])
_CLOUDS = st.integers(0, 80).flatmap(lambda n: arrays(np.float32, (n, 3), elements=_COORDINATE))
_LATTICE = st.integers(0, 80).flatmap(
    lambda n: arrays(np.float32, (n, 3), elements=st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]))
)


def _assert_equal(cloud: np.ndarray, eps_m: float, min_points: int) -> int:
    labels, core, count = dbscan(cloud, eps_m, min_points)
    want, want_core, want_count = twin.dbscan(cloud, eps_m, min_points)
    np.testing.assert_array_equal(core, want_core)
    np.testing.assert_array_equal(labels, want)
    assert count == want_count
    return count


@given(_CLOUDS | _LATTICE, st.sampled_from([0.5, 0.75, 1.0, 2.0]), st.integers(1, 12))
def test_dbscan_equals_brute_force(cloud: np.ndarray, eps_m: float, min_points: int) -> None:
    """Labels, core flags and count agree, distances of exactly eps and coincident points among them."""
    _assert_equal(cloud, eps_m, min_points)


def test_dbscan_equals_brute_force_on_crowded_scenes() -> None:
    """Blobs that touch, chains, sheets and loose points: clusters, border points and noise all occur."""
    rng = np.random.default_rng(11)
    for spread in (0.15, 0.3, 0.6, 1.2):
        centres = rng.uniform(-6, 6, (25, 3)) * (1, 1, 0.3)
        blobs = centres[rng.integers(0, 25, 1200)] + spread * rng.standard_normal((1200, 3))
        chain = np.stack((np.linspace(-20, 20, 200), np.full(200, 9.0), np.zeros(200)), axis=1)
        sheet = np.concatenate((rng.uniform(-4, 4, (400, 2)), np.full((400, 1), 3.0)), axis=1)
        cloud = np.concatenate((blobs, chain, sheet)).astype(np.float32)[rng.permutation(1800)]
        count = _assert_equal(cloud, 0.5, 10)
        labels = dbscan(cloud, 0.5, 10)[0]
        assert count > 0
        assert (labels == NOISE).any()


def test_a_border_point_between_two_clusters_belongs_to_the_first() -> None:
    """The rule for ties: the cluster whose first core point comes first in the cloud."""
    left = np.zeros((12, 3))
    left[:3, 0], left[3:, 0] = -0.4, -0.8
    right = -left
    middle = np.zeros((1, 3))  # three neighbours on either side and itself: not core

    for first, second in ((left, right), (right, left)):
        cloud = np.concatenate((middle, first, second)).astype(np.float32)
        labels, core, count = dbscan(cloud, 0.45, 9)
        assert count == 2
        assert not core[0]
        assert labels.tolist() == [0] + [0] * 12 + [1] * 12
        assert _assert_equal(cloud, 0.45, 9) == 2


def test_a_cluster_that_crosses_many_cells_stays_one() -> None:
    """A line of points, each within reach of the next, across a hundred thousand cells of extent."""
    along = np.arange(30_000, dtype=np.float64) * 0.4
    cloud = np.stack((along, -along, 0.25 * along), axis=1).astype(np.float32)

    labels, core, count = dbscan(cloud, 0.6, 3)

    assert count == 1
    assert core[1:-1].all()
    assert not core[[0, -1]].any()
    assert (labels == 0).all()


@pytest.mark.parametrize("eps_m", [0.0, -1.0, np.nan, np.inf])
def test_a_radius_that_is_no_radius_makes_everything_noise(eps_m: float) -> None:
    """No cell size, no clusters, no exception."""
    labels, core, count = dbscan(np.zeros((20, 3), np.float32), eps_m, 2)

    assert count == 0
    assert (labels == NOISE).all()
    assert not core.any()
