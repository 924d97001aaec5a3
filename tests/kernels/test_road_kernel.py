"""Road kernels against their NumPy twins: points ahead, the plane, blocks of the picture."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeguard.kernels import _reference_road as twin
from edgeguard.kernels import road
from edgeguard.kernels.road import Bands

SEEDS = st.integers(0, 2**32 - 1)
BANDS = Bands(below_m=-0.4, upright_m=0.25, ground_m=0.2, cell_m=0.5)
K = np.array([[210.0, 0.0, 160.0], [0.0, 210.0, 96.0], [0.0, 0.0, 1.0]])
MOUNT = np.array([[0.0, -1.0, 0.0, 0.05], [0.0, 0.0, -1.0, -0.08], [1.0, 0.0, 0.0, -0.27]])
SHAPE = (48, 80)
WEDGE = (60.0, 1.1, 6.0, 30.0)


def scene(seed: int, count: int = 4_000) -> SimpleNamespace:
    """Points all around: ground, what stands on it, what has no known height."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform((-70, -70, -2.5), (70, 70, 4), (count, 3)).astype(np.float32)
    height = (xyz[:, 2] + rng.normal(1.7, 0.02, count)).astype(np.float32)
    height[:: rng.integers(5, 50)] = np.nan
    return SimpleNamespace(xyz=xyz, height_m=height, range_m=np.linalg.norm(xyz, axis=1).astype(np.float32))


@given(SEEDS, st.integers(0, 300))
def test_points_ahead_are_those_of_the_twin(seed: int, count: int) -> None:
    """The same points in the same order, whatever the number over eight leaves."""
    sweep = scene(seed, count)
    np.testing.assert_array_equal(road.points_ahead(sweep, *WEDGE), twin.points_ahead(sweep, *WEDGE))


@given(SEEDS)
def test_marked_blocks_are_those_of_the_twin(seed: int) -> None:
    """But for points within rounding of a block's edge."""
    ahead = twin.points_ahead(scene(seed), *WEDGE)
    P = K @ MOUNT
    P[:2] /= 4.0
    got = road.mark_blocks(ahead, P, SHAPE, 1.1, BANDS, 68)
    want = twin.mark_blocks(ahead, P, SHAPE, 1.1, BANDS, 68)
    for mine, theirs in zip(got, want, strict=True):
        assert np.count_nonzero(mine != theirs) <= 2
    assert all(mine.any() for mine in got)


@given(SEEDS, st.floats(-0.1, 0.1), st.floats(-0.1, 0.1))
def test_blocks_beside_what_stands_are_those_of_the_twin(seed: int, slope_x: float, slope_y: float) -> None:
    """Rays onto the plane, looked up in the map; what was set stays set."""
    rng = np.random.default_rng(seed)
    cells = (rng.random((68, 136)) < 0.2).astype(np.uint8)
    rays = np.ascontiguousarray(rng.normal(size=(*SHAPE, 3)) * (1, 1, 0.2))
    normal = np.array([slope_x, slope_y, 1.0])
    normal /= np.linalg.norm(normal)
    eye = np.array([0.27, 0.0, -0.08])
    before = (rng.random(SHAPE) < 0.1).astype(np.uint8)
    got, want = before.copy(), before.copy()
    road.mark_beside(rays, eye, normal, 1.7, 0.5, cells, got)
    twin.mark_beside(rays, eye, normal, 1.7, 0.5, cells, want)
    assert np.count_nonzero(got != want) <= 2  # the edge of a cell
    assert (got >= before).all()


def plane_points(seed: int, slopes: tuple[float, float], outliers: float) -> NDArray[np.float32]:
    """A tilted road with noise of 2 cm, and kerbs and plants beside it that reach up to 0.19 m."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(3, 30, 6_000), rng.uniform(-6, 6, 6_000)
    z = slopes[0] * x + slopes[1] * y - 1.7 + rng.normal(0, 0.02, x.size)
    z += (rng.random(x.size) < outliers) * rng.uniform(0.0, 0.19, x.size)
    return np.stack((x, y, z, np.zeros_like(x))).astype(np.float32)


@given(SEEDS, st.floats(-0.05, 0.05), st.floats(-0.05, 0.05), st.floats(0.0, 0.2))
def test_the_plane_is_that_of_the_twin(seed: int, slope_x: float, slope_y: float, outliers: float) -> None:
    """To a third of a millimetre per metre: medians in steps of 0.1 mm move a few points across the cut."""
    ahead = plane_points(seed, (slope_x, slope_y), outliers)
    arguments = ((3.0, 30.0), 6.0, 0.2, (150, 2_000), 0.02)
    got, want = road.fit_level_plane(ahead, *arguments), twin.fit_level_plane(ahead, *arguments)
    assert got is not None
    assert want is not None
    assert (np.abs(np.subtract(got, want)) <= (3e-4, 3e-4, 6e-3, 5e-4)).all()
    if outliers < 0.05:
        np.testing.assert_allclose(got[:2], (slope_x, slope_y), atol=1e-3)


@pytest.mark.parametrize("count", [0, 1, 149])
def test_too_few_points_make_no_plane(count: int) -> None:
    """Least is least."""
    ahead = np.ascontiguousarray(plane_points(1, (0.0, 0.0), 0.0)[:, :count])
    assert road.fit_level_plane(ahead, (3.0, 30.0), 6.0, 0.2, (150, 2_000), 0.02) is None


def test_points_in_a_line_make_no_plane() -> None:
    """One ring that crosses the road says nothing about its slope ahead."""
    ahead = plane_points(1, (0.0, 0.0), 0.0)
    ahead[0] = 10.0
    assert road.fit_level_plane(ahead, (3.0, 30.0), 6.0, 0.2, (150, 2_000), 0.02) is None


@given(SEEDS, st.floats(0.0, 3.0), st.floats(-0.05, 0.05))
def test_followed_blocks_are_those_of_the_twin(seed: int, way_m: float, pitch: float) -> None:
    """Shifts to rounding; flags and blocks but for those at an edge."""
    rng = np.random.default_rng(seed)
    plane = np.array([0.0, -np.cos(pitch), -np.sin(pitch), 1.65])
    step = np.array([rng.normal(0, 0.1), rng.normal(0, 0.02), way_m])
    H = K @ (np.eye(3) - np.outer(step, plane[:3]) / plane[3]) @ np.linalg.inv(K)
    arguments = (H, plane, K, (25, 48), (320, 192), 4, (3.0, 30.0), (2.0, 30.0))
    got, want = road.follow_blocks(*arguments), twin.follow_blocks(*arguments)
    near = want[0] < 1e4
    np.testing.assert_allclose(got[0][near], want[0][near], rtol=1e-4, atol=1e-4)
    assert np.count_nonzero(got[1] != want[1]) <= 2
    assert np.count_nonzero(got[2] != want[2]) <= 2
