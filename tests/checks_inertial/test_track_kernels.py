"""Kernels of camera rotation against their NumPy twins and against geometry that is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeguard.kernels import _reference_tracks as twin
from edgeguard.kernels.tracks import integrate_rates, leftover_rotation

SIGMA = 4.5e-4  # a fifth of a pixel at 450 px focal length


def scene(
    seed: int, turn: NDArray[np.float64], way_m: NDArray[np.float64], count: int = 90, outliers: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bearings of random points before and after the camera moves by `way_m` and turns by `turn` (late to early)."""
    rng = np.random.default_rng(seed)
    depth = 1.0 / rng.uniform(1 / 40.0, 1 / 5.0, count)
    points = np.column_stack((rng.uniform(-0.7, 0.7, count), rng.uniform(-0.45, 0.45, count), np.ones(count)))
    points *= depth[:, None]
    late = (points - way_m) @ twin.rotation(turn)
    moving = rng.random(count) < outliers
    late[moving] += rng.normal(0.0, 0.15, (int(moving.sum()), 3)) * depth[moving, None]
    views = []
    for view in (points, late):
        plane = view / view[:, 2:] + np.column_stack((rng.normal(0, SIGMA, (count, 2)), np.zeros(count)))
        views.append(np.ascontiguousarray(plane / np.linalg.norm(plane, axis=1, keepdims=True)))
    return views[0], views[1]


def solve(early: NDArray[np.float64], late: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """The kernel's outputs as values."""
    motion, covariance, residual = np.empty(6), np.empty((3, 3)), np.empty(len(early))
    kept = leftover_rotation(early, late, SIGMA, motion, covariance, residual)
    return motion, covariance, residual, np.array(kept)


@given(st.integers(0, 10_000), st.floats(0.0, 0.4), st.floats(0.1, 0.9))
def test_integrated_rates_equal_their_twin(seed: int, start: float, span: float) -> None:
    """Any rates, any stamps, any span, also one that reaches beyond the samples."""
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.uniform(0.002, 0.02, 80))
    rate = rng.normal(0.0, 2.0, (80, 3))
    R = integrate_rates(t, rate, start, start + span)
    assert np.allclose(R, twin.integrate_rates(t, rate, start, start + span), atol=1e-9)
    assert np.allclose(R @ R.T, np.eye(3), atol=1e-9)


def test_a_constant_rate_turns_by_rate_times_time() -> None:
    """The one case with a closed answer."""
    t = np.linspace(0.0, 1.0, 201)
    rate = np.tile((0.3, -0.2, 0.5), (201, 1))
    assert integrate_rates(t, rate, 0.1, 0.9) == pytest.approx(twin.rotation(0.8 * rate[0]), abs=1e-9)


@pytest.mark.parametrize("way", [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.4, 0.0, 0.0), (0.1, -0.05, 0.3)], ids=str)
@pytest.mark.parametrize("turn_deg", [(0.0, 0.0, 0.0), (0.2, -0.1, 0.05), (0.0, 4.0, 0.0)], ids=str)
def test_rotation_is_told_from_translation(way: tuple[float, ...], turn_deg: tuple[float, ...]) -> None:
    """Standing, driving ahead, sideways, both, some points moving by themselves: right to a fifth of a degree."""
    turn = np.radians(turn_deg)
    if any(way) and max(turn_deg) > 1.0:
        turn = turn / 16  # a gyro a quarter of a degree off while the scene passes
    for seed in range(5):
        early, late = scene(seed, turn, np.array(way), outliers=0.07)
        motion, _, _, kept = solve(early, late)
        assert kept > 55
        assert np.abs(motion[:3] - turn).max() < np.radians(0.2)


def test_the_stated_error_is_the_true_one() -> None:
    """Over 200 scenes the errors have the covariance that is stated: neither hope nor fear."""
    z = []
    for seed in range(200):
        early, late = scene(seed, np.zeros(3), np.array((0.1, 0.0, 0.5)))
        motion, covariance, _, _ = solve(early, late)
        z.append(motion[:3] / np.sqrt(np.diag(covariance)))
    assert np.std(np.array(z), axis=0) == pytest.approx(np.ones(3), abs=0.35)


@pytest.mark.parametrize("seed", range(6))
def test_leftover_rotation_equals_its_twin(seed: int) -> None:
    """Motion, covariance, residuals and count."""
    early, late = scene(seed, np.radians((0.1, 0.3, -0.2)), np.array((0.05, 0.02, 0.4)), outliers=0.1)
    motion, covariance, residual, kept = solve(early, late)
    by_twin = twin.leftover_rotation(early, late, SIGMA)
    assert motion == pytest.approx(by_twin[0], abs=1e-6)
    assert covariance == pytest.approx(by_twin[1], rel=1e-3, abs=1e-12)
    assert residual == pytest.approx(by_twin[2], rel=1e-2, abs=1e-2)
    assert int(kept) == by_twin[3]


def test_no_points_give_no_answer() -> None:
    """Nothing to solve: nobody kept, and no exception."""
    nothing = np.zeros((0, 3))
    assert leftover_rotation(nothing, nothing, SIGMA, np.empty(6), np.empty((3, 3)), np.empty(0)) == 0
