"""What became of earlier returns: kernels and twins agree, and each answer means what it says."""

from __future__ import annotations

import numpy as np
import pytest

from edgeguard.kernels import _reference_whereabouts as twin
from edgeguard.kernels.sweeps import PreparedSweep, prepare_sweep
from edgeguard.kernels.whereabouts import (
    BEYOND,
    COVERED,
    EMPTY,
    GROUND,
    MIN_COLUMN,
    OUTSIDE,
    PRESENT,
    UPRIGHT,
    Bounds,
    cells_of_sweep,
    choose_gone,
    follow_places,
    follow_returns,
)

SIDE = 200
BOUNDS = Bounds(2.5, 40.0, 0.35, 3.5, 0.15, 0.5, 0.02, 0.3, 0.01, 1.0, 1.0, SIDE, 0.5)


def _sweep(xyz: np.ndarray) -> PreparedSweep:
    return prepare_sweep(np.ascontiguousarray(xyz, np.float32), 1.73)


def _random(seed: int, size: int) -> PreparedSweep:
    rng = np.random.default_rng(seed)
    return _sweep(rng.uniform(-1, 1, (size, 3)) * [25, 25, 2.5])


def _wall(x_m: float, half_m: float = 6.0) -> np.ndarray:
    y, z = np.meshgrid(np.arange(-half_m, half_m, 0.02), np.arange(-3.0, 2.0, 0.03))
    return np.stack((np.full(y.size, x_m), y.ravel(), z.ravel()), axis=1)


def test_cells_equal_their_twin() -> None:
    """Counts, farthest returns, ground and filled cells of a random cloud."""
    sweep = _random(1, 30_000)

    got, want = cells_of_sweep(sweep, 0.3), twin.cells_of_sweep(sweep, 0.3)

    for name in ("near", "far", "count", "level", "filled", "rows"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))


@pytest.mark.parametrize("seed", range(3))
def test_fates_and_what_is_chosen_equal_their_twins(seed: int) -> None:
    """Random clouds, ground and upright, after a motion; nothing is thinned at these bounds."""
    rng = np.random.default_rng(seed)
    before, after = _random(seed, 20_000), _random(seed + 50, 60_000)
    T = np.eye(4)
    T[:2, 3] = rng.uniform(-1, 1, 2)
    now = cells_of_sweep(after, 0.3)
    looks = now.filled >= MIN_COLUMN
    looks[100:140] = False

    found = follow_returns(before.xyz, before.range_m, before.height_m, T, now, looks, BOUNDS)

    upright = (before.height_m > 0.35) & (before.height_m < 3.5)
    reach = (before.range_m > 2.5) & (before.range_m < 40.0)
    np.testing.assert_array_equal(found.index, np.flatnonzero((upright | (np.abs(before.height_m) < 0.15)) & reach))
    assert {PRESENT, COVERED, BEYOND, EMPTY, OUTSIDE} == set(np.unique(found.fate))
    for kind in (UPRIGHT, GROUND):
        mine = np.flatnonzero(found.kind == kind)
        fate, cell = twin.follow_places(before.xyz[found.index[mine]], kind == GROUND, T, now, looks, BOUNDS)
        assert np.mean(found.fate[mine] != fate) < 3e-3  # a point on the border of two cells
        assert np.mean(found.cell[mine] != cell) < 3e-3
        assert found.there[kind].sum() == np.count_nonzero(found.fate[mine] == PRESENT)
        want = twin.choose_gone(found.fate[mine], found.place[mine], kind == GROUND, SIDE, 2, 0.9)
        np.testing.assert_array_equal(choose_gone(found, kind, SIDE, 2, 0.9), mine[want])
        assert want.size > 0


def test_each_fate_is_what_it_says() -> None:
    """A wall seen again, behind a nearer one, gone with another behind it, gone with nothing, and out of view."""
    place = np.array([[10.0, 0.2, -0.4]], np.float32)

    def fate(wall: np.ndarray) -> int:
        now = cells_of_sweep(_sweep(wall), 0.3)
        return int(follow_places(place, False, np.eye(4), now, now.filled >= MIN_COLUMN, BOUNDS)[0][0])

    hole = _wall(20.0)
    assert fate(_wall(10.1)) == PRESENT
    assert fate(_wall(6.0)) == COVERED
    assert fate(hole) == BEYOND
    assert fate(hole[np.abs(hole[:, 2] + 0.8) > 0.4]) in {EMPTY, OUTSIDE}
    assert fate(hole[(np.abs(hole[:, 2] + 0.8) > 0.4) | (np.abs(hole[:, 1]) > 1.0)]) == EMPTY
    assert fate(hole[hole[:, 1] < -1.0]) == OUTSIDE
    assert fate(hole[hole[:, 2] < -1.5]) == OUTSIDE


def test_between_the_rings_of_a_coarse_scanner_nothing_is_empty() -> None:
    """Sixteen rings two degrees apart: places that no ring meets are outside, whatever they were."""
    azimuth, elevation = np.meshgrid(np.arange(-np.pi, np.pi, 0.0035), np.radians(np.arange(-14.8, 15.3, 2.0)))
    rays = np.stack((np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)), -1)
    now = cells_of_sweep(_sweep(rays.reshape(-1, 3) * 20.0), 0.3)
    between = np.radians(np.arange(-13.8, 13.3, 2.0))
    places = np.stack((10 * np.cos(between), 0 * between, 10 * np.sin(between)), axis=1).astype(np.float32)

    fate, cell = follow_places(places, False, np.eye(4), now, now.filled >= MIN_COLUMN, BOUNDS)

    assert set(fate) == {OUTSIDE}
    assert set(cell) == {-1}


def test_near_returns_are_thinned_to_the_density_they_would_have_far_away() -> None:
    """A body at half the distance keeps a quarter; beyond it every return is followed."""
    bounds = Bounds(2.5, 40.0, 0.35, 3.5, 0.15, 0.5, 0.02, 0.3, 0.01, 20.0, 20.0, SIDE, 0.5)
    for x_m, low, high in ((10.0, 0.2, 0.3), (25.0, 1.0, 1.0)):
        wall = _sweep(_wall(x_m, 2.0))
        now = cells_of_sweep(wall, 0.3)
        height = np.full(wall.range_m.shape, 1.0, np.float32)
        found = follow_returns(wall.xyz, wall.range_m, height, np.eye(4), now, now.filled >= MIN_COLUMN, bounds)
        assert low <= found.index.size / height.size <= high


def test_a_grid_too_small_for_the_reach_is_refused() -> None:
    """Otherwise counts would be written beside it."""
    sweep = _random(1, 100)
    now = cells_of_sweep(sweep, 0.3)
    bounds = Bounds(2.5, 40.0, 0.35, 3.5, 0.15, 0.5, 0.02, 0.3, 0.01, 1.0, 1.0, 20, 0.5)

    with pytest.raises(ValueError, match="grid"):
        follow_returns(sweep.xyz, sweep.range_m, sweep.height_m, np.eye(4), now, now.filled > 0, bounds)
