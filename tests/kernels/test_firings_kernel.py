"""Pairs of returns in one direction and returns of a part of the sphere, against their plain NumPy twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeguard.kernels import _reference_firings, _reference_regions
from edgeguard.kernels.firings import MAX_RINGS, SECTORS, count_pairs
from edgeguard.kernels.ranges import COLUMNS, ROWS
from edgeguard.kernels.regions import count_returns
from edgeguard.sim.lidar import sweep
from edgeguard.sim.presets import LIDARS
from edgeguard.sim.world import World

STEP_RAD = 2 * np.pi / 900


def _ring_of(azimuth_rad: np.ndarray, range_m: np.ndarray, ring: int) -> tuple[np.ndarray, np.ndarray]:
    xyz = np.stack([range_m * np.cos(azimuth_rad), range_m * np.sin(azimuth_rad), -0.1 * range_m], axis=1)
    return xyz.astype(np.float32), np.full(len(xyz), ring, np.int16)


def _doubled(seed: int, jitter: float) -> tuple[np.ndarray, np.ndarray]:
    """Even rings with a tenth of second returns, at other ranges and at the same, in any order of points."""
    rng = np.random.default_rng(seed)
    parts = []
    for ring in range(5):
        azimuth = (np.arange(900) + rng.random()) * STEP_RAD - np.pi
        range_m = rng.uniform(5.0, 60.0, 900)
        parts.append(_ring_of(azimuth, range_m, ring))
        again = rng.choice(900, 90, replace=False)
        jump = np.where(rng.random(90) < 0.5, 0.01, 12.0)
        parts.append(
            _ring_of(azimuth[again] + jitter * STEP_RAD * rng.standard_normal(90), range_m[again] + jump, ring)
        )
    xyz, ring = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    order = rng.permutation(len(xyz))
    return np.ascontiguousarray(xyz[order]), np.ascontiguousarray(ring[order])


@pytest.mark.parametrize("seed", range(6))
def test_pairs_equal_their_twin_all_round_and_across_both_seams(seed: int) -> None:
    """Second returns of the very same direction."""
    xyz, ring = _doubled(seed, 0.0)

    found = count_pairs(xyz, ring, STEP_RAD)

    np.testing.assert_array_equal(found, _reference_firings.count_pairs(xyz, ring, STEP_RAD))
    assert found[0].sum() > 100
    assert found[1].sum() > 100


@pytest.mark.parametrize("seed", range(3))
def test_second_returns_a_tenth_of_a_step_aside_are_counted_but_for_some(seed: int) -> None:
    """A cell remembers one return, so that of three in two cells one pair may be missed; none is made up."""
    xyz, ring = _doubled(seed, 0.1)

    found = count_pairs(xyz, ring, STEP_RAD).sum(axis=1)
    expected = _reference_firings.count_pairs(xyz, ring, STEP_RAD).sum(axis=1)

    assert (found <= expected).all()
    assert (found >= 0.93 * expected).all()


@pytest.mark.parametrize("name", ["vlp16_dual", "vlp32c", "os1_64"])
def test_pairs_of_whole_sweeps_equal_their_twin(name: str) -> None:
    """A sensor of two returns has pairs, those of one have none."""
    model = LIDARS[name][0]
    cloud = sweep(World(31, 4.0), 2.0, model)
    step = 2 * np.pi / model.columns

    found = count_pairs(cloud.xyz, cloud.ring, step)

    np.testing.assert_array_equal(found, _reference_firings.count_pairs(cloud.xyz, cloud.ring, step))
    assert found[0].sum() > 20 if model.dual_return else found[0].sum() == 0


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 40), st.just(3)), elements=st.floats(width=32)),
    st.integers(-32768, 32767),
    st.floats(1e-3, 1e3) | st.sampled_from([0.0, -1.0, 1e-300, float("inf")]),
)
def test_no_points_rings_or_steps_break_the_count(xyz: np.ndarray, ring: int, step_rad: float) -> None:
    """NaN, infinities, numbers of no ring, steps of nothing: counted or left out, never more pairs than points."""
    found = count_pairs(xyz, np.full(len(xyz), ring, np.int16), step_rad)

    assert found.shape == (2, SECTORS)
    assert 0 <= found.sum() <= max(0, len(xyz) - 1)
    assert found.sum() == 0 or 0 <= ring < MAX_RINGS


@pytest.mark.parametrize("seed", range(3))
def test_returns_of_a_part_of_the_sphere_equal_their_twin(seed: int) -> None:
    """Rows of -1 and near returns are left out, and so are columns that fill no group."""
    rng = np.random.default_rng(seed)
    row = rng.integers(-1, ROWS, 5000).astype(np.int16)
    col = rng.integers(0, COLUMNS, 5000).astype(np.int16)
    range_m = rng.uniform(0.5, 20.0, 5000).astype(np.float32)

    for together in (1, 4, 7):
        args = (row, col, range_m, ROWS, COLUMNS, together, 4.0)
        np.testing.assert_array_equal(count_returns(*args), _reference_regions.count_returns(*args))
