"""Levels for a stated rate: exact on average where the tail has a law, wider where little was seen, sure when asked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import expon, weibull_min

from edgeguard.checks.tails import CLUSTER_S, MIN_PEAKS, POWERS, Tail, fit_tail, peaks_of
from edgeguard.checks.thresholds import CONFIDENCE, HIGHEST, LOWEST, Threshold, share_rate, total

HOUR_S = 3600.0
PER_HOUR = 200.0  # independent peaks of a clean statistic


def drawn(rng: np.random.Generator, hours: float, power: float = 1.0, scale: float = 0.06) -> np.ndarray:
    """Peaks of so many hours, Weibull: exponential with power 1, Gaussian-like with 2."""
    return scale * rng.weibull(power, rng.poisson(PER_HOUR * hours))


def true_rate(level: float, power: float, scale: float = 0.06) -> float:
    """How often an hour such peaks really pass a level."""
    return PER_HOUR * float(weibull_min.sf(level, power, scale=scale))


@pytest.mark.parametrize("power", [1.0, 1.4, 2.0])
@pytest.mark.parametrize(("hours", "off"), [(1.0, 0.5), (4.0, 0.35)])
def test_the_rate_on_average_over_calibrations_is_about_the_stated_one(power: float, hours: float, off: float) -> None:
    """A hundred calibrations each, one alarm in two hours: the mean of their true rates, whatever the peaks' law."""
    rng = np.random.default_rng(17)
    tails = [tail for _ in range(100) if (tail := fit_tail(drawn(rng, hours, power), hours * HOUR_S)) is not None]
    assert len(tails) == 100
    assert np.mean([true_rate(tail.level(0.5), power) for tail in tails]) == pytest.approx(0.5, rel=off)


def test_more_data_bring_each_calibration_nearer_to_the_stated_rate() -> None:
    """The spread of the true rates' logarithms falls with the hours, and is about what a tail says of itself."""
    rng = np.random.default_rng(3)
    spreads = []
    for hours in (0.5, 2.0, 8.0):
        tails = [tail for _ in range(40) if (tail := fit_tail(drawn(rng, hours), hours * HOUR_S)) is not None]
        levels = [tail.level(0.5) for tail in tails]
        spreads.append(float(np.std([math.log(true_rate(level, 1.0)) for level in levels])))
        said = np.mean([tail.log_sd(level) for tail, level in zip(tails, levels, strict=True)])
        assert 0.5 < said / spreads[-1] < 2.5
    assert spreads[0] > spreads[1] > spreads[2]


def test_a_sure_level_keeps_the_rate_in_nineteen_of_twenty_calibrations() -> None:
    """At least; the price is fewer alarms than stated on average."""
    rng = np.random.default_rng(5)
    rates = []
    for _ in range(80):
        tail = fit_tail(drawn(rng, 1.0), HOUR_S)
        assert tail is not None
        rates.append(true_rate(tail.level(0.5, CONFIDENCE), 1.0))
    assert np.mean(np.array(rates) <= 0.5) >= 0.9
    assert np.mean(rates) < 0.3


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(1e-3, 10.0), min_size=MIN_PEAKS + 1, max_size=60, unique=True),
    st.floats(60.0, 1e6),
    st.floats(1e-4, 1e3),
)
def test_level_and_rate_are_inverse_and_monotone(peaks: list[float], seconds: float, per_hour: float) -> None:
    """For any peaks: a rarer alarm lies higher, and the level's own rate is the one asked for or the start's."""
    tail = fit_tail(np.array(peaks), seconds)
    assert tail is not None
    level = tail.level(per_hour)
    assert level >= tail.start
    assert tail.level(per_hour / 2.0) >= level
    assert tail.level(per_hour / 2.0, CONFIDENCE) >= tail.level(per_hour, CONFIDENCE) >= tail.start
    if tail.start < level < tail.start * 500.0:
        assert tail.per_hour(level) == pytest.approx(per_hour, rel=1e-3)


def test_one_power_gives_the_exact_predictive_law() -> None:
    """With exponential heights alone, the mean rate over all m is (1 + c / n)^-n: checked against quadrature."""
    tail = Tail(1.0, 1.0 + np.arange(1.0, 21.0) / 10.0, HOUR_S)
    n, total_height = tail.peaks, float((tail.heights - 1.0).sum())
    rng = np.random.default_rng(1)
    means = total_height / rng.gamma(n, size=400_000)
    simulated = 21.0 * float(np.mean(expon.sf(3.0, scale=means)))
    assert 21.0 * (1.0 + 3.0 / total_height) ** -n == pytest.approx(simulated, rel=0.01)
    # The average over powers lies between the heaviest and the lightest of them.
    each = [21.0 * (1.0 + (4.0**p - 1.0) / float((tail.heights**p - 1.0).sum())) ** -n for p in POWERS.tolist()]
    assert min(each) < tail.per_hour(4.0) < max(each)


def test_peaks_closer_together_than_a_cluster_are_one() -> None:
    """The highest of each stays, zeros are none."""
    x = np.zeros(1000)
    x[[100, 120, 400, 405, 900]] = [1.0, 2.0, 3.0, 0.5, 0.1]
    assert peaks_of(x, 0.1).tolist() == [3.0, 2.0, 0.1]
    assert peaks_of(x, 2.0 * CLUSTER_S).tolist() == [3.0, 2.0, 1.0, 0.5, 0.1]
    assert len(peaks_of(np.zeros(10), 0.1)) == 0
    assert fit_tail(np.ones(MIN_PEAKS), 100.0) is None
    assert fit_tail(np.ones(50), 0.0) is None


def test_the_rate_is_shared_and_what_one_cannot_use_goes_to_the_others() -> None:
    """Two alike take half each; one whose tail ends below the lowest threshold leaves its part; one unseen stays."""
    rng = np.random.default_rng(8)
    loud = [fit_tail(drawn(rng, 4.0, scale=0.2), 4.0 * HOUR_S) for _ in range(2)]
    quiet = fit_tail(drawn(rng, 4.0, scale=0.002), 4.0 * HOUR_S)
    alone = share_rate({"a": loud[0], "b": loud[1]}, 4.0)
    assert [round(each.per_hour, 3) for each in alone.values()] == [2.0, 2.0]
    found = share_rate({"a": loud[0], "b": loud[1], "quiet": quiet, "unseen": None}, 4.0)
    assert found["unseen"] == Threshold()
    assert found["quiet"].scale == LOWEST
    assert found["quiet"].per_hour < 0.1
    assert total(found)[0] == pytest.approx(4.0, rel=0.01)
    assert found["a"].scale <= alone["a"].scale + 1e-9


def test_thresholds_stay_within_their_bounds_and_say_what_is_expected_then() -> None:
    """Too loud for the rate: held at the highest, and more is expected than was asked for."""
    loud = fit_tail(drawn(np.random.default_rng(2), 4.0, scale=0.6), 4.0 * HOUR_S)
    found = share_rate({"loud": loud}, 0.1)["loud"]
    assert found.scale == HIGHEST
    assert found.per_hour > 1.0
    assert total({"loud": found})[1] > 0.0
    assert total({}) == (0.0, 0.0)


def test_how_little_was_seen_lifts_no_threshold_above_the_shipped_one() -> None:
    """Half a minute of small peaks: the shipped threshold stays, and takes nothing from a statistic that is known."""
    rng = np.random.default_rng(6)
    little = fit_tail(0.01 * rng.exponential(size=7) ** 3, 36.0)
    much = fit_tail(drawn(rng, 4.0, scale=0.15), 4.0 * HOUR_S)
    found = share_rate({"little": little, "much": much}, 1.0)
    assert LOWEST <= found["little"].scale <= 1.0
    assert found["much"].scale < 1.0
    assert 0.5 <= found["much"].per_hour <= 1.0
    shown = fit_tail(drawn(rng, 4.0, scale=0.2), 4.0 * HOUR_S)
    assert 1.0 < share_rate({"shown": shown}, 0.5)["shown"].scale < HIGHEST


def test_what_little_data_leave_open_is_paid_for_in_the_level() -> None:
    """The same tail seen for a tenth of the time lies higher at the same rate."""
    rng = np.random.default_rng(4)
    long, short = (fit_tail(drawn(rng, hours), hours * HOUR_S) for hours in (5.0, 0.2))
    assert long is not None
    assert short is not None
    assert short.level(0.2) > long.level(0.2)
    assert short.log_sd(short.level(0.2)) > 2.0 * long.log_sd(long.level(0.2))
