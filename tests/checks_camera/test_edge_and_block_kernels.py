"""The edge and block kernels against their NumPy twins, and what they do with hostile input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.kernels import _reference_edges as twin
from edgeguard.kernels import blocks, edges
from edgeguard.kernels.ranges import to_spherical

P = np.array([[100.0, 0, 0, 0], [0, 100.0, 0, 0], [0, 0, 1, 0]]) @ np.array(
    [[0, -1.0, 0, 0.4], [0, 0, -1, 0.2], [1, 0, 0, -0.1], [0, 0, 0, 1]]
)
POSE = np.array([[[0, -1.0, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]])


def _sweep(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random directions ahead, a few depths, a few reflectances."""
    rng = np.random.default_rng(seed)
    azimuth, elevation = rng.uniform(-0.9, 0.9, count), rng.uniform(-0.3, 0.05, count)
    r = rng.choice([4.0, 4.1, 9.0, 20.0, 70.0], count)
    xyz = np.stack((np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)), 1)
    xyz = np.ascontiguousarray(xyz * r[:, None], np.float32)
    return xyz, rng.choice([0.1, 0.5], count).astype(np.float32), to_spherical(xyz)[1]


@given(seed=st.integers(0, 1000), rows=st.integers(4, 40), columns=st.integers(4, 50))
def test_the_edge_field_is_that_of_the_twin(seed: int, rows: int, columns: int) -> None:
    """Gradients, normalisation and fading, for any picture of four by four and more."""
    grey = np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)

    assert np.allclose(edges.edge_field(grey, 0.7), twin.edge_field(grey, 0.7), atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [0, 1, 900, 6000])
def test_depth_edges_are_those_of_the_twin(seed: int, count: int) -> None:
    """Same places, same kinds, same order, at any density."""
    xyz, intensity, row = _sweep(seed, count)

    found = edges.depth_edges(xyz, intensity, row, P, 200, 2.0, 5000)
    expected = twin.depth_edges(xyz, intensity, row, P, 200, 2.0, 5000)

    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=1e-4)
    assert count < 900 or len(found) > 50


@given(seed=st.integers(0, 1000))
def test_look_up_is_that_of_the_twin_through_any_lens(seed: int) -> None:
    """Bilinear values, NaN outside, with distortion."""
    rng = np.random.default_rng(seed)
    field = rng.random((2, 30, 40), dtype=np.float32)
    found = np.column_stack((rng.uniform(-1, 20, 80), rng.uniform(-9, 9, (80, 2)), rng.integers(0, 2, 80)))
    found = found.astype(np.float32)
    lens = np.array([70.0, 72, 40, 30, *rng.uniform(-0.2, 0.2, 5)])

    values = edges.look_up(found, field, POSE, lens, 0.5)
    expected = twin.look_up(found, field, POSE, lens, 0.5)

    assert (np.isnan(values) == np.isnan(expected)).all()
    assert np.allclose(values, expected, atol=1e-4, equal_nan=True)


def test_nothing_hostile_reaches_the_edges() -> None:
    """NaN, infinite and coincident points, a limit that is too small: fewer edges, all of them numbers."""
    xyz = np.array([[np.nan] * 3, [np.inf] * 3, [-np.inf, 0, 0], [3e38] * 3, [0, 0, 0], *[[5, 1, 0]] * 50], np.float32)
    row = np.full(len(xyz), 40, np.int16)

    found = edges.depth_edges(xyz, np.zeros(len(xyz), np.float32), row, P, 200, 2.0, 10)
    many = edges.depth_edges(*_sweep(0, 6000), P, 200, 2.0, 7)

    assert np.isfinite(found).all()
    assert len(many) == 7


@given(seed=st.integers(0, 1000), rows=st.integers(16, 60), columns=st.integers(48, 130))
def test_block_statistics_are_those_of_the_twins(seed: int, rows: int, columns: int) -> None:
    """Means, changes, steps of brightness, and means of rows, for sizes that divide by nothing."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    grey, before = np.ascontiguousarray(pixels[..., 1]), np.ascontiguousarray(pixels[..., 2])

    for got, expected in zip(blocks.block_changes(grey, before), twin.block_changes(grey, before), strict=True):
        assert np.allclose(got, expected, atol=1e-3)
    assert np.allclose(blocks.brightness_steps(pixels, 5), twin.brightness_steps(pixels, 5))
    assert np.allclose(blocks.row_means(grey, 7), twin.row_means(grey, 7), atol=1e-3)


def test_moments_and_sums_leave_out_what_fell_out_of_the_image() -> None:
    """Number, mean and mean square as NumPy has them; an edge that one pose loses counts for none."""
    rng = np.random.default_rng(4)
    values = rng.random((5, 300), dtype=np.float32)
    values[rng.random((5, 300)) < 0.1] = np.nan

    sums, count = edges.sum_in_view(values)
    difference, plain = edges.moments(values[0], values[1], True), edges.moments(values[0], values[1], False)

    whole = np.isfinite(values).all(axis=0)
    assert count == whole.sum()
    assert np.allclose(sums, values[:, whole].sum(axis=1), rtol=1e-6)
    for found, of in ((difference, values[0] - values[1]), (plain, values[0])):
        known = of[np.isfinite(of)].astype(np.float64)
        assert np.allclose(found, (known.size, known.mean(), (known**2).mean()), rtol=1e-6)
    assert edges.moments(np.full(3, np.nan, np.float32), values[0], False)[0] == 0


@given(seed=st.integers(0, 1000), rows=st.integers(4, 70), columns=st.integers(4, 130), stride=st.integers(1, 5))
def test_a_thinned_look_is_that_of_the_twin(seed: int, rows: int, columns: int, stride: int) -> None:
    """Grey levels to the last pixel, deviations and detail to rounding, for frames that are too small as well."""
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)

    histogram, deviation, detail = blocks.thin_look(pixels, stride, (4, 8))
    expected = twin.thin_look(pixels, stride, (4, 8))

    assert np.array_equal(histogram, expected[0])
    assert np.allclose(deviation, expected[1], atol=1e-3)
    assert detail == pytest.approx(expected[2])


def test_distances_are_those_of_the_twin_where_they_are_asked_for() -> None:
    """And infinite elsewhere."""
    rng = np.random.default_rng(8)
    kept, look, asked = rng.random((40, 512), np.float32), rng.random(512, np.float32), rng.random(40) < 0.5

    assert np.allclose(blocks.mean_distances(kept, look, asked), twin.mean_distances(kept, look, asked), rtol=1e-5)
