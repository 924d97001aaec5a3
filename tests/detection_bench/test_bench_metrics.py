"""Intervals, areas and quantiles against third parties and by their own laws."""

from __future__ import annotations

from math import inf, isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.sim.detection.metrics import auroc, auroc_interval, percentile, poisson, rate_per_hour, wilson


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 40, 0.0, 0.087622), (40, 40, 0.912378, 1.0), (95, 100, 0.888252, 0.978457)],
)
def test_wilson_at_published_points(hits: int, trials: int, low: float, high: float) -> None:
    """Figures that other programs give for the score interval."""
    assert wilson(hits, trials) == pytest.approx((low, high), abs=5e-6)


@pytest.mark.parametrize(
    ("count", "low", "high"), [(0, 0.0, 3.688879), (1, 0.025318, 5.571643), (7, 2.814363, 14.422675)]
)
def test_poisson_at_published_points(count: int, low: float, high: float) -> None:
    """Garwood's table."""
    assert poisson(count) == pytest.approx((low, high), abs=5e-6)


def test_the_area_by_counting_pairs() -> None:
    """Six pairs: four won, one tie."""
    assert auroc(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])) == pytest.approx(4.5 / 6)


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (1, 1), (0, 40), (40, 40), (3, 7), (381, 381), (95, 100)])
def test_wilson_is_scipys(hits: int, trials: int) -> None:
    """The score interval without continuity correction."""
    stats = pytest.importorskip("scipy.stats")
    theirs = stats.binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert wilson(hits, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40, 96, 400])
def test_poisson_is_the_exact_interval_of_chi_square(count: int) -> None:
    """Garwood: quantiles of chi-square with 2k and 2k + 2 degrees of freedom."""
    stats = pytest.importorskip("scipy.stats")
    low, high = poisson(count)
    assert high == pytest.approx(stats.chi2.ppf(0.975, 2 * count + 2) / 2, rel=1e-6)
    assert low == pytest.approx(stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0, rel=1e-6, abs=1e-12)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_the_area_is_sklearns_with_ties(clean: list[int], attacked: list[int]) -> None:
    """Half a point for ties, whatever the scores."""
    sk = pytest.importorskip("sklearn.metrics")
    truth = [0] * len(clean) + [1] * len(attacked)
    expected = sk.roc_auc_score(truth, clean + attacked)
    assert auroc(np.array(clean, float), np.array(attacked, float)) == pytest.approx(expected)


def test_an_area_without_a_side_is_no_number() -> None:
    """Nothing to compare is not one half."""
    assert isnan(auroc(np.zeros(0), np.ones(3)))


def test_the_bootstrap_covers_the_area_and_widens_with_fewer_groups() -> None:
    """Ten groups know less than a hundred; perfect separation leaves no width."""
    rng = np.random.default_rng(4)
    clean = [rng.normal(0, 1, 5) for _ in range(100)]
    hit = [rng.normal(1, 1, 5) for _ in range(100)]
    area = auroc(np.concatenate(clean), np.concatenate(hit))
    wide = auroc_interval(clean[:10], hit[:10], np.random.default_rng(1))
    narrow = auroc_interval(clean, hit, np.random.default_rng(1))
    assert narrow[0] < area < narrow[1]
    assert narrow[1] - narrow[0] < 0.6 * (wide[1] - wide[0])
    assert auroc_interval([np.zeros(3)] * 4, [np.ones(3)] * 4, rng) == (1.0, 1.0)
    assert auroc_interval([np.zeros(3)], [np.ones(3)] * 4, rng) == (0.0, 1.0)


def test_a_miss_is_longer_than_every_delay() -> None:
    """The ninetieth percentile of nine finds and two misses is a miss."""
    assert percentile([0.1] * 9 + [None], 0.9) == 0.1
    assert percentile([0.1] * 9 + [None] * 2, 0.9) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([], 0.5) is None


@given(st.integers(0, 300), st.floats(1.0, 1e6))
def test_a_rate_lies_inside_its_interval(count: int, seconds: float) -> None:
    """And the interval shrinks to it from both sides."""
    rate, low, high = rate_per_hour(count, seconds)
    assert low <= rate <= high
    assert high > 0.0


def test_no_time_bounds_nothing() -> None:
    """Zero alarms in zero seconds."""
    assert rate_per_hour(0, 0.0) == (0.0, 0.0, inf)
