"""Counting neighbours in a sweep: against the pairwise twins and SciPy's tree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from edgeguard.kernels import _reference_scatter as twin
from edgeguard.kernels.nearby import count_in_radius, mean_nearest
from edgeguard.kernels.scatter import COLUMNS, count_neighbours, image_of, image_of_bands


def sweep_of(rng: np.random.Generator, count: int, beams: int) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Returns of a few crowded directions, and their beams."""
    ring = rng.integers(0, beams, count).astype(np.int16)
    azimuth = np.deg2rad(rng.integers(0, 40, count) * 0.2 - 4.0 + 180.0 + 0.1)  # around the seam of the image
    elevation = np.deg2rad(2.0 * ring - 15.0)
    r = rng.uniform(1.0, 12.0, count)
    flat = np.cos(elevation) * r
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) * r], 1).astype(np.float32), ring


@given(
    seed=st.integers(0, 2**31), count=st.integers(1, 250), rows=st.integers(0, 3), columns=st.integers(0, 12),
    enough=st.integers(1, 9),
)  # fmt: skip
def test_neighbours_are_those_of_the_definition(seed: int, count: int, rows: int, columns: int, enough: int) -> None:
    """Every count, also around the seam behind the sensor."""
    xyz, ring = sweep_of(np.random.default_rng(seed), count, 16)
    image = image_of(xyz, ring, 50.0)
    tolerance = (0.3, 0.1, 0.5, 0.05)

    found = count_neighbours(image, np.ones(count, np.bool_), (rows, columns), tolerance, enough)

    row, column = np.divmod(image.cell.astype(np.int64), COLUMNS)
    wanted = twin.count_neighbours(image.range_m, row, column, (rows, columns), tolerance, enough)
    np.testing.assert_array_equal(found, wanted)


def test_rows_are_beams_by_elevation_whatever_their_numbers() -> None:
    """A driver that numbers beams in the order of firing gets the same neighbours."""
    xyz, ring = sweep_of(np.random.default_rng(3), 400, 16)
    shuffled = np.random.default_rng(4).permutation(200)[:16].astype(np.int16)[ring]
    everything, window, tolerance = np.ones(400, np.bool_), (1, 3), (0.2, 0.0, 0.2, 0.0)

    plain = count_neighbours(image_of(xyz, ring, 50.0), everything, window, tolerance, 9).copy()
    other = count_neighbours(image_of(xyz, shuffled, 50.0), everything, window, tolerance, 9)

    np.testing.assert_array_equal(plain, other)


@pytest.mark.parametrize(("beams", "step_deg"), [(16, 2.0), (32, 1.33), (64, 0.42), (128, 0.35)])
def test_a_sweep_without_beam_numbers_gets_rows_as_high_as_its_beams_are_apart(beams: int, step_deg: float) -> None:
    """Half a degree at least, where they touch."""
    elevation = np.deg2rad(np.arange(beams) * step_deg - 22.0)
    a, e = (m.ravel() for m in np.meshgrid(np.deg2rad(np.arange(0, 360, 0.5)), elevation))
    xyz = 10.0 * np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], 1).astype(np.float32)

    image = image_of(xyz, None, 50.0)

    step = np.median(np.diff(image.elevation_deg))
    assert abs(step - max(step_deg, 0.5)) < 0.11
    assert (image.cell >= 0).all()
    assert abs(image.beams - 720.0 * max(1.0, step / step_deg)) < 0.25 * image.beams


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 250), slope=st.floats(0.001, 1.2))
def test_radius_counts_are_those_of_the_definition(seed: int, count: int, slope: float) -> None:
    """Every count; the radius may be larger than the range."""
    rng = np.random.default_rng(seed)
    xyz = (rng.standard_normal((count, 3)) * rng.choice([0.5, 3.0, 9.0])).astype(np.float32)
    xyz = xyz[np.linalg.norm(xyz, axis=1) > 0.51]
    image = image_of_bands(xyz, 1e4)

    found = count_in_radius(image, xyz, np.ones(len(xyz), np.bool_), (0.2, slope), 20)

    np.testing.assert_array_equal(found, twin.count_in_radius(xyz, (0.2, slope), 20))


def test_radius_counts_are_those_of_a_tree() -> None:
    """Ten thousand returns, SciPy's k-d tree as the oracle; returns on the very edge of a radius left out."""
    rng = np.random.default_rng(8)
    xyz = (rng.standard_normal((10_000, 3)) * (8.0, 8.0, 1.0)).astype(np.float32)
    xyz = xyz[np.linalg.norm(xyz, axis=1) > 0.6]
    reach = np.maximum(0.04, 0.03 * np.linalg.norm(xyz.astype(np.float64), axis=1))
    tree = cKDTree(xyz.astype(np.float64))
    low, high = (tree.query_ball_point(tree.data, reach * f, return_length=True) - 1 for f in (1 - 1e-6, 1 + 1e-6))

    found = count_in_radius(image_of_bands(xyz, 1e4), xyz, np.ones(len(xyz), np.bool_), (0.04, 0.03), 100)

    assert ((found >= np.minimum(low, 100)) & (found <= np.minimum(high, 100))).all()
    assert (low == high).mean() > 0.99


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 200), nearest=st.integers(1, 12), cap_m=st.floats(0.1, 20.0))
def test_mean_distances_are_those_of_the_definition(seed: int, count: int, nearest: int, cap_m: float) -> None:
    """Every return, also where there are fewer others than asked for."""
    rng = np.random.default_rng(seed)
    xyz = (rng.standard_normal((count, 3)) * rng.choice([0.5, 3.0, 9.0])).astype(np.float32)
    xyz = xyz[np.linalg.norm(xyz, axis=1) > 0.51]

    found = mean_nearest(image_of_bands(xyz, 1e4), xyz, nearest, cap_m)

    np.testing.assert_allclose(found, twin.mean_nearest(xyz, nearest, cap_m), rtol=1e-5)


def test_mean_distances_are_those_of_a_tree() -> None:
    """Ten thousand returns and the ten nearest, SciPy's k-d tree as the oracle."""
    rng = np.random.default_rng(8)
    xyz = (rng.standard_normal((10_000, 3)) * (8.0, 8.0, 1.0)).astype(np.float32)
    xyz = xyz[np.linalg.norm(xyz, axis=1) > 0.6]
    wanted = np.minimum(cKDTree(xyz.astype(np.float64)).query(xyz.astype(np.float64), k=11)[0][:, 1:], 3.0).mean(axis=1)

    np.testing.assert_allclose(mean_nearest(image_of_bands(xyz, 1e4), xyz, 10, 3.0), wanted, rtol=1e-5)


def test_what_is_not_finite_or_not_asked_for_is_not_counted() -> None:
    """Minus one, and no neighbour of anything."""
    xyz = np.array([[np.nan, 0, 0], [np.inf, 1, 1], [5, 0, 0], [5.01, 0, 0], [0, 0, 0], [900, 0, 0]], np.float32)
    asked = np.array([True, True, True, False, True, True])

    near = count_neighbours(image_of(xyz, None, 50.0), asked, (2, 3), (0.1, 0.0, 0.1, 0.0), 9)
    ball = count_in_radius(image_of_bands(xyz, 50.0), xyz, asked, (0.1, 0.0), 9)

    for found in (near, ball):
        assert found.tolist() == [-1, -1, 1, -1, -1, -1]


def test_sweeps_that_are_lent_and_empty_ones_are_taken() -> None:
    """Read-only memory, hostile beam numbers, nothing at all."""
    xyz = np.ones((3, 3), np.float32)
    xyz.flags.writeable = False
    ring = np.array([-5, 300, 2], np.int16)
    ring.flags.writeable = False

    assert count_neighbours(
        image_of(xyz, ring, 9.0), np.ones(3, np.bool_), (1, 1), (0.1, 0.0, 0.1, 0.0), 5
    ).tolist() == [2, 2, 2]
    empty = image_of(xyz[:0], ring[:0], 9.0)
    assert count_neighbours(empty, np.ones(0, np.bool_), (1, 1), (0.1, 0.0, 0.1, 0.0), 5).size == 0
