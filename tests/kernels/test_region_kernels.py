"""Counts over regions agree with their NumPy twins."""

from __future__ import annotations

import numpy as np
import pytest

from edgeguard.kernels import _reference_regions as twin
from edgeguard.kernels.regions import count_alone, count_behind, count_below, count_in_box, within_reach


@pytest.mark.parametrize("seed", range(5))
def test_region_counts_equal_their_twins(seed: int) -> None:
    """Boxes, circles and windows across the seam, borders and NaN among the points."""
    rng = np.random.default_rng(seed)
    xyz = np.round(rng.uniform(-3, 3, (500, 3)), 1).astype(np.float32)
    xyz[::40] = np.nan
    flag = rng.random(500) < 0.3
    low, high = xyz[1].astype(np.float64) - 1.0, xyz[1].astype(np.float64)

    got = count_in_box(xyz, low, high, flag)
    assert got == twin.count_in_box(xyz, low, high, flag)
    assert got[0] > 0
    np.testing.assert_array_equal(within_reach(xyz, 0.3, -0.4, 1.5), twin.within_reach(xyz, 0.3, -0.4, 1.5))

    row, col = rng.integers(0, 100, 500).astype(np.int16), rng.integers(0, 900, 500).astype(np.int16)
    range_m = rng.uniform(1, 50, 500).astype(np.float32)
    for shift in (-449, 0, 449):
        window = np.array((20.0, 70.5, 300.0, 610.0))
        got = count_behind(row, col, range_m, shift, 900, window, 20.0)
        assert got == twin.count_behind(row, col, range_m, shift, 900, window, 20.0)
        assert 0 < got[1] < got[0]


@pytest.mark.parametrize("seed", range(3))
def test_lonely_cells_and_column_counts_equal_their_twins(seed: int) -> None:
    """Images with holes, borders of the image and the seam among the cells."""
    rng = np.random.default_rng(seed)
    image = rng.uniform(5, 8, (20, 90)).astype(np.float32)
    image[rng.random(image.shape) < 0.2] = np.inf
    row, col = rng.integers(-1, 20, 400).astype(np.int16), rng.integers(0, 90, 400).astype(np.int16)

    got = count_alone(image, 0.5, 0.05)

    np.testing.assert_array_equal(got, twin.count_alone(image, 0.5, 0.05))
    assert (got.sum(axis=1) > 0).all()
    np.testing.assert_array_equal(count_below(row, col, 7, 90), twin.count_below(row, col, 7, 90))
