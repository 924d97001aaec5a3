"""A sweep prepared in one go: what the kernels for single steps give, on ordinary and hostile points."""

from __future__ import annotations

import numpy as np
import pytest

from edgeguard.kernels import _reference as twin
from edgeguard.kernels.ground import height_above_ground
from edgeguard.kernels.ranges import range_image, to_spherical
from edgeguard.kernels.sweeps import choose_points, prepare_sweep
from edgeguard.sim.lidar import sweep
from edgeguard.sim.world import World


def _hostile(rng: np.random.Generator) -> np.ndarray:
    """Points near and far, and every kind that does not count."""
    xyz = rng.uniform(-90, 90, (4_000, 3)) * (1.0, 1.0, 0.05)
    odd = [(np.nan, 1, 1), (1, np.nan, 1), (1, 1, np.nan), (np.inf, 0, 0), (0, 0, -np.inf), (3e38, 3e38, 3e38)]
    edge = [(0, 0, 0), (0.1, 0, 0), (-5, 0, 0), (-5, -0.0, 0), (299.9, 0, 0), (300.1, 0, 0), (0, 0, 5), (1, 0, -9)]
    return np.concatenate((odd, xyz[:2_000], edge, xyz[2_000:], odd)).astype(np.float32)


def _street() -> np.ndarray:
    return np.ascontiguousarray(sweep(World(5, 20.0), 1.0).xyz)


@pytest.mark.parametrize("kind", ["hostile", "ordinary", "nothing"])
def test_a_prepared_sweep_is_what_the_single_steps_give(kind: str) -> None:
    """Points, ranges, cells, heights and range image, to the last bit; and the twins' where those are exact."""
    xyz = np.zeros((0, 3), np.float32)
    if kind != "nothing":
        xyz = _hostile(np.random.default_rng(2)) if kind == "hostile" else _street()

    got = prepare_sweep(xyz, 1.73)

    range_m, row, col = to_spherical(xyz)
    valid = row >= 0
    kept = np.ascontiguousarray(xyz[valid])
    np.testing.assert_array_equal(got.xyz, kept)
    for mine, want in zip((got.range_m, got.row, got.col), (range_m, row, col), strict=True):
        np.testing.assert_array_equal(mine, want[valid])
    np.testing.assert_array_equal(got.height_m, height_above_ground(kept, 1.73))
    np.testing.assert_array_equal(got.image, range_image(range_m, row, col))
    np.testing.assert_array_equal(got.image, twin.range_image(got.range_m, got.row, got.col))


def test_a_prepared_sweep_does_not_change_when_the_next_is_prepared() -> None:
    """Checks keep sweeps for seconds: no result lies in memory that is used again."""
    first = prepare_sweep(_street(), 1.73)
    before = [getattr(first, name).copy() for name in first.__slots__]

    prepare_sweep(_hostile(np.random.default_rng(3)), 1.73)

    for name, want in zip(first.__slots__, before, strict=True):
        np.testing.assert_array_equal(getattr(first, name), want)


def test_points_are_chosen_between_the_limits() -> None:
    """The limits themselves and unknown heights are left out."""
    height = np.array([0.4, 0.5, np.nan, 3.5, 3.0, 1.0, 1.0], np.float32)
    range_m = np.array([9.0, 9.0, 9.0, 9.0, 60.0, 2.0, 2.5], np.float32)

    chosen = choose_points(height, range_m, (0.4, 3.5, 2.0, 60.0))

    assert chosen.tolist() == [1, 6]
