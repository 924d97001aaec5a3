"""What became of earlier returns: kernel and twin agree, and each answer means what it says."""

from __future__ import annotations

import numpy as np
import pytest

from edgeguard.kernels import _reference_fates as twin
from edgeguard.kernels.fates import BEYOND, COVERED, EMPTY, OUTSIDE, PRESENT, fate_of_points
from edgeguard.kernels.ranges import to_spherical

MARGINS = (0.5, 0.02, 0.3, 0.01)


def _wall(x_m: float, half_m: float = 6.0) -> np.ndarray:
    y, z = np.meshgrid(np.arange(-half_m, half_m, 0.02), np.arange(-3.0, 2.0, 0.03))
    return np.ascontiguousarray(np.stack((np.full(y.size, x_m), y.ravel(), z.ravel()), axis=1), dtype=np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_fates_equal_their_twin(seed: int) -> None:
    """Random clouds, ground and upright, after a motion; NaN among them."""
    rng = np.random.default_rng(seed)
    before = (rng.uniform(-1, 1, (4000, 3)) * [30, 30, 4]).astype(np.float32)
    now = to_spherical((rng.uniform(-1, 1, (6000, 3)) * [30, 30, 4]).astype(np.float32))
    before[::300] = np.nan
    T = np.eye(4)
    T[:2, 3] = rng.uniform(-1, 1, 2)
    ground = rng.random(4000) < 0.5

    got = fate_of_points(before, ground, T, now, *MARGINS)
    want = twin.fate_of_points(before, ground, T, now, *MARGINS)

    assert np.mean(got != want) < 2e-3  # a point on the border of two cells
    assert set(np.unique(got)) == {PRESENT, COVERED, BEYOND, EMPTY, OUTSIDE}


def test_each_fate_is_what_it_says() -> None:
    """A wall seen again, behind a nearer one, gone with another behind it, gone with nothing, and out of view."""
    place = np.array([[10.0, 0.2, -0.4]], np.float32)
    upright = np.array([False])

    def fate(now: np.ndarray) -> int:
        return int(fate_of_points(place, upright, np.eye(4), to_spherical(now), *MARGINS)[0])

    hole = _wall(20.0)
    assert fate(_wall(10.1)) == PRESENT
    assert fate(_wall(6.0)) == COVERED
    assert fate(hole) == BEYOND
    assert fate(hole[np.abs(hole[:, 2] + 0.8) > 0.4]) == EMPTY
    assert fate(hole[hole[:, 1] < -1.0]) == OUTSIDE
    assert fate(hole[hole[:, 2] < -1.5]) == OUTSIDE


def test_beyond_the_ground_counts_only_what_lies_below_it() -> None:
    """Half a degree of pitch moves the ground's range by a metre at 15 m; a return far under it is another thing."""
    place = np.array([[15.0, 0.1, -1.73]], np.float32)
    wall = _wall(15.0)
    flat = np.array([True])

    def fate(factor: float) -> int:
        now = to_spherical(np.ascontiguousarray(wall * np.float32(factor)))
        return int(fate_of_points(place, flat, np.eye(4), now, *MARGINS)[0])

    assert fate(1.1) == PRESENT
    assert fate(1.6) == BEYOND
