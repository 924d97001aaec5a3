"""Drift: quiet on what it was made from, loud on what is different, and as SciPy's test defines the distance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.detect.drift import DriftMartingale, kolmogorov_smirnov, sketch, window_drift
from edgeguard.errors import CalibrationError


def exact_distance(reference: np.ndarray, window: np.ndarray) -> float:
    """The two-sample Kolmogorov-Smirnov distance by its definition."""
    at = np.concatenate((reference, window))
    first = np.searchsorted(np.sort(reference), at, "right") / len(reference)
    second = np.searchsorted(np.sort(window), at, "right") / len(window)
    return float(np.abs(first - second).max())


@given(st.integers(0, 2**32 - 1), st.sampled_from(["normal", "ties", "heavy"]))
def test_the_distance_on_the_sketch_is_that_of_the_samples(seed: int, kind: str) -> None:
    """Within the sketch's own resolution, also where many values are equal."""
    rng = np.random.default_rng(seed)
    draw = {
        "normal": lambda n: rng.normal(size=n),
        "ties": lambda n: rng.integers(0, 3, n).astype(float),
        "heavy": lambda n: rng.standard_t(1.5, n),
    }[kind]
    reference, window = draw(1000), draw(50) + rng.uniform(0, 1)
    distance, _ = kolmogorov_smirnov(sketch(reference), window)
    assert distance == pytest.approx(exact_distance(reference, window), abs=0.03)


def test_false_alarms_stay_below_the_level_and_a_shift_is_seen() -> None:
    """Eight scalars, windows of fifty, family-wise 1 %."""
    rng = np.random.default_rng(1)
    reference = {str(k): sketch(rng.normal(size=1000)) for k in range(8)}
    clean = [window_drift(reference, {k: rng.normal(size=50) for k in reference})[0] for _ in range(400)]
    assert np.mean(clean) <= 0.02
    shifted = [window_drift(reference, {k: rng.normal(size=50) + (k == "3") for k in reference})[0] for _ in range(100)]
    assert np.mean(shifted) > 0.95


def test_the_martingale_is_quiet_on_the_reference_and_soon_loud_on_drift_to_either_side() -> None:
    """Ten clean streams of 400 frames without an alarm; a shift of two deviations within thirty frames."""
    rng = np.random.default_rng(2)
    reference = sketch(rng.normal(size=1000))
    for _ in range(10):
        stream = DriftMartingale(reference, rng)
        assert not any(stream.push(float(rng.normal())) for _ in range(400))
    for sign in (-1.0, 1.0):
        stream = DriftMartingale(reference, rng)
        assert next(k for k in range(200) if stream.push(float(rng.normal() + 2 * sign))) < 30
    broken = DriftMartingale(reference, rng)
    assert any(broken.push(float("nan")) for _ in range(30))


def test_a_reference_needs_values_and_a_window_the_same_scalars() -> None:
    """Too few, not finite, another set of names."""
    with pytest.raises(CalibrationError, match="at least 50"):
        sketch(np.zeros(49))
    with pytest.raises(CalibrationError, match="finite"):
        sketch(np.full(60, np.nan))
    with pytest.raises(CalibrationError, match="other scalars"):
        window_drift({"a": sketch(np.arange(60.0))}, {"b": np.arange(5.0)})
