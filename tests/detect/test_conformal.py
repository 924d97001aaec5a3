"""P-values are valid, levels are what the frames support, and a stream alarms as rarely as stated."""

from __future__ import annotations

import numpy as np
import pytest

from edgeguard.detect.conformal import Combined, Reference, StreamAlarm, e_value, lowest_level
from edgeguard.errors import CalibrationError


def test_p_values_of_clean_scores_are_never_too_small() -> None:
    """Over fresh calibrations, at most the stated share of clean frames lies below each level."""
    rng = np.random.default_rng(0)
    p = np.array([Reference(rng.standard_cauchy(200)).p_value(float(rng.standard_cauchy())) for _ in range(4000)])
    for level in (0.01, 0.05, 0.2, 0.5):
        assert (p <= level).mean() <= level + 3 * np.sqrt(level / 4000)
        assert (p <= level).mean() >= 0.5 * level


def test_ties_and_nonsense_are_on_the_safe_side() -> None:
    """A score that all clean frames have is not suspicious; one that is no number is as suspicious as can be."""
    reference = Reference([0.0] * 90 + [1.0] * 10)
    assert reference.p_value(0.0) == 1.0
    assert reference.p_value(1.0) == pytest.approx(11 / 101)
    assert reference.p_value(float("nan")) == pytest.approx(1 / 101)


def test_one_percent_takes_a_thousand_frames() -> None:
    """The lowest level falls with the frames and is never zero."""
    assert lowest_level(1000) == pytest.approx(0.01)
    assert lowest_level(375) == pytest.approx(0.0267, abs=1e-4)
    assert lowest_level(5) == lowest_level(0) == 1.0


def test_several_scores_keep_the_level_also_when_they_depend_on_each_other() -> None:
    """The sum is calibrated as a whole: three copies of one score alarm as often as one."""
    rng = np.random.default_rng(1)
    alarms = []
    for _ in range(60):
        base = rng.normal(size=300)
        combined = Combined({"a": base, "b": base + 0.1 * rng.normal(size=300), "c": rng.normal(size=300)})
        fresh = rng.normal(size=100)
        alarms += [
            combined.judge({"a": x, "b": x + 0.1 * float(rng.normal()), "c": float(rng.normal())})[0] <= 0.05
            for x in fresh
        ]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.012)


def test_what_was_not_calibrated_cannot_be_asked() -> None:
    """Too few frames, frames that do not match, other scores."""
    with pytest.raises(CalibrationError, match="at least 20"):
        Reference([1.0] * 19)
    with pytest.raises(CalibrationError, match="same frames"):
        Combined({"a": [0.0] * 30, "b": [0.0] * 31})
    with pytest.raises(CalibrationError, match="asked about"):
        Combined({"a": [0.0] * 30}).judge({"b": 1.0})


def test_an_e_value_has_mean_one_at_most() -> None:
    """Integrated over uniform p-values."""
    p = (np.arange(20_000) + 0.5) / 20_000
    assert np.mean([e_value(float(x)) for x in p]) <= 1.0
    assert e_value(0.001) > 10
    assert e_value(0.9) < 1


def test_a_clean_stream_alarms_not_more_often_than_stated_and_an_attack_ends_it_soon() -> None:
    """Mean run length at least the stated one; frames at p = 0.02 alarm within seconds."""
    rng = np.random.default_rng(2)
    runs = []
    for _ in range(80):
        stream = StreamAlarm(200.0)
        runs.append(next((k for k in range(3000) if stream.push(float(rng.uniform()))), 3000))
    assert np.mean(runs) >= 200
    stream = StreamAlarm(36_000.0)
    assert next(k for k in range(100) if stream.push(0.02)) < 12
    slow = StreamAlarm(36_000.0, every=5)
    assert next(k for k in range(500) if slow.push(0.02)) < 60
