"""Sequential kernels against their NumPy twins, and run lengths against Siegmund and Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeguard.kernels import _reference_sequential as reference
from edgeguard.kernels import cusum as scalar
from edgeguard.kernels import sequential

finite = st.floats(-50.0, 50.0, width=32)
tables = arrays(np.float64, st.tuples(st.integers(0, 40), st.integers(1, 4)), elements=finite | st.just(math.nan))


@given(z=tables, k=st.floats(0.0, 2.0), seed=st.integers(0, 99))
def test_cusum_of_many_channels_equals_its_twin_and_keeps_its_state(z: np.ndarray, k: float, seed: int) -> None:
    """Outputs and the sums left behind agree; two halves in a row give what the whole gives."""
    weight = np.random.default_rng(seed).uniform(0.01, 1.0, z.shape[1])
    ours, twin, halves = ([np.zeros(z.shape[1]), np.zeros(z.shape[1])] for _ in range(3))
    out = sequential.cusum(z, k, weight, 3.0, *ours)
    np.testing.assert_allclose(out, reference.cusum(z, k, weight, 3.0, *twin), atol=1e-12)
    np.testing.assert_allclose(ours, twin, atol=1e-12)
    middle = len(z) // 2
    parts = [sequential.cusum(part.copy(), k, weight, 3.0, *halves) for part in (z[:middle], z[middle:])]
    np.testing.assert_array_equal(np.concatenate(parts), out)


def test_nan_is_neither_evidence_nor_a_way_to_wipe_it_out() -> None:
    """A sum stays where it is through samples that are no numbers."""
    z = np.array([[3.0], [math.nan], [math.nan]])
    out = sequential.cusum(z, 0.5, np.ones(1), 10.0, np.zeros(1), np.zeros(1))
    assert out[:, 0].tolist() == [2.5, 2.5, 2.5]


@given(z=tables, window=st.integers(1, 12))
def test_windowed_chi_square_equals_its_twin(z: np.ndarray, window: int) -> None:
    """Sums and degrees of freedom agree, NaN in neither."""
    total, count = sequential.windowed_chi_square(z, window)
    expected, observed = reference.windowed_chi_square(z, window)
    np.testing.assert_allclose(total, expected, rtol=1e-12)
    np.testing.assert_array_equal(count, observed)


def test_a_huge_outlier_leaves_the_window_without_a_trace() -> None:
    """1e200 squared is infinite while it is inside and gone afterwards."""
    z = np.ones((10, 1))
    z[2] = 1e200
    total, _ = sequential.windowed_chi_square(z, 3)
    assert np.isinf(total[2:5, 0]).all()
    assert total[5:, 0].tolist() == [3.0] * 5


@settings(max_examples=60)
@given(
    z=arrays(np.float64, st.integers(4, 60), elements=st.integers(-6, 6).map(float)),
    block=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_excursions_of_resampled_blocks_equal_their_twin(z: np.ndarray, block: int, seed: int) -> None:
    """Whole numbers add exactly, so that the twin's other order of summation gives the same peaks."""
    starts = np.random.default_rng(seed).integers(0, len(z), 20)
    ours = sequential.cusum_excursions(z, starts, block, 0.5, 0.25)
    np.testing.assert_array_equal(ours, reference.cusum_excursions(z, starts, block, 0.5, 0.25))


@given(total=st.floats(0.0, 5.0), z=st.floats(allow_nan=True, allow_infinity=True), k=st.floats(0.0, 2.0))
def test_one_step_stays_between_zero_and_the_ceiling(total: float, z: float, k: float) -> None:
    """Whatever a score is, the sum is a number within its bounds."""
    assert 0.0 <= scalar.cusum_step(total, z, k, 0.5, 5.0) <= 5.0


@pytest.mark.parametrize(("shift", "samples"), [(0.5, 110), (1.0, 19.0), (2.0, 6.8), (3.0, 4.1), (5.0, 2.3)])
def test_run_lengths_are_siegmund_s(shift: float, samples: float) -> None:
    """Page's two-sided CUSUM, k = 0.5, h = 9.33: published approximations of the delay."""
    assert scalar.run_length(shift, 0.5, 9.33) == pytest.approx(samples, rel=0.03)


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0, 3.0])
def test_detection_delays_of_the_kernel_are_near_siegmund(shift: float) -> None:
    """400 drives side by side; measured mean delay within 12 % or half a sample of the formula."""
    rng = np.random.default_rng(3)
    z = rng.normal(shift, 1.0, (900, 400))
    out = sequential.cusum(z, 0.5, np.ones(400), 100.0, np.zeros(400), np.zeros(400))
    assert (out > 9.33).any(axis=0).all()
    delay = float((np.argmax(out > 9.33, axis=0) + 1).mean())
    assert delay == pytest.approx(scalar.run_length(shift, 0.5, 9.33), rel=0.12, abs=0.5)


def test_a_limit_runs_as_long_as_it_was_asked_to() -> None:
    """h for 500 samples between false alarms: 400 channels of white noise alarm at that rate, two-sided."""
    h = scalar.limit_for(500.0, 0.5)
    z = np.random.default_rng(4).normal(size=(8000, 400))
    out = sequential.cusum(z, 0.5, np.ones(400), 100.0, np.zeros(400), np.zeros(400))
    first = np.argmax(out > h, axis=0) + 1
    assert (out > h).any(axis=0).all()
    assert float(first.mean()) == pytest.approx(500.0, rel=0.2)


def test_a_shift_that_is_called_detectable_is_found_in_that_time() -> None:
    """`detectable_shift` is the inverse of the run length, and infinite where no time is given."""
    shift = scalar.detectable_shift(20.0, 0.5, 12.0)
    assert scalar.run_length(shift, 0.5, 12.0) == pytest.approx(20.0, rel=1e-6)
    assert scalar.detectable_shift(0.0, 0.5, 12.0) == math.inf
