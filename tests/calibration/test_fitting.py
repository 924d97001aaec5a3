"""Fits of clean scores: what they find, what they refuse to believe, and the alarms they lead to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeguard.checks.fitting import MIN_CLEAN_S, Scores, cusum_limit, decorrelation, fit_scores
from edgeguard.checks.scores import Prior, ScoreMonitor, SensorFits
from edgeguard.kernels.sequential import cusum

PERIOD_S = 0.1


def noise(seed: int, samples: int, phi: float = 0.0) -> np.ndarray:
    """Autoregressive noise of unit variance."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=samples) * math.sqrt(1.0 - phi * phi)
    x[0] = rng.normal()
    for i in range(1, samples):
        x[i] += phi * x[i - 1]
    return x


def scores(values: np.ndarray, speed: np.ndarray | None = None, prior: Prior | None = None) -> Scores:
    """What a monitor would have given at 10 Hz."""
    collected = Scores.of(ScoreMonitor("T", prior or Prior(0.0, 2.0, "m")))
    for i, value in enumerate(values):
        collected.listen(i * PERIOD_S, float(value), None if speed is None else float(speed[i]))
    return collected


def fitted(collected: Scores, hours: float = 1.0, seed: int = 0) -> SensorFits:
    """The fits of one monitor, as a check gets them."""
    return SensorFits({"T": tuple(one.bin for one in fit_scores(collected, hours, np.random.default_rng(seed)))})


def test_location_and_sigma_are_found_with_outliers_about() -> None:
    """Two in a hundred wild scores move neither much."""
    x = 3.0 + 0.5 * noise(1, 1200)
    x[::50] += 40.0
    fit = fitted(scores(x, prior=Prior(0.0, 2.0))).get("T")
    assert fit is not None
    assert fit.location == pytest.approx(3.0, abs=0.06)
    assert 0.5 < fit.sigma < 0.8
    assert (fit.samples, fit.clean_s) == (1200, pytest.approx(120.0))


def test_a_one_sided_score_is_fitted_on_its_bad_side() -> None:
    """A skewed score: the long side above the median sets sigma."""
    x = np.random.default_rng(2).exponential(1.0, 3000)
    (one,) = fit_scores(scores(x, prior=Prior(0.0, 1.0, one_sided=True)), 1.0, np.random.default_rng(0))
    (both,) = fit_scores(scores(x, prior=Prior(0.0, 1.0)), 1.0, np.random.default_rng(0))
    assert one.bin.fit.sigma > 1.3 * 0.5
    assert one.bin.fit.sigma > both.bin.fit.sigma


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_decorrelation_is_that_of_the_process(phi: float) -> None:
    """(1 + phi) / (1 - phi) for first-order autoregression, to 15 %."""
    x = noise(3, 20_000, phi)
    found, error = decorrelation(x, np.zeros(len(x), dtype=np.int64))
    assert error < 0.15
    assert decorrelation(x[:500], np.zeros(500, dtype=np.int64))[1] > error or phi == 0.0
    assert found == pytest.approx((1.0 + phi) / (1.0 - phi), rel=0.15)


def test_what_lies_on_both_sides_of_a_gap_says_nothing_about_correlation() -> None:
    """A series cut into segments of one score each has none."""
    x = noise(4, 4000, 0.9)
    assert decorrelation(x, np.arange(len(x))) == (1.0, 0.0)
    assert decorrelation(np.zeros(50), np.zeros(50, dtype=np.int64)) == (1.0, 0.0)


def test_less_than_thirty_seconds_leave_the_prior_and_widen_it() -> None:
    """A check's own data are not believed yet; power gets worse, not better."""
    short, long = (fitted(scores(0.1 * noise(5, n))) for n in (150, 600))
    little, much = short.get("T"), long.get("T")
    assert little is not None
    assert much is not None
    assert little.clean_s < MIN_CLEAN_S <= much.clean_s
    assert (little.location, much.location) == (0.0, pytest.approx(0.0, abs=0.02))
    assert 2.0 < little.sigma < 2.5
    assert 0.2 <= much.sigma < 0.23  # the floor: a tenth of the prior, widened a little
    powers = []
    for fits in (SensorFits(), short, long):
        monitor = ScoreMonitor("T", Prior(0.0, 2.0), fits)
        monitor.push(0.0, 0.0)
        monitor.push(0.1, 0.0)
        powers.append(monitor.power())
    assert powers[1] > powers[2]
    assert fit_scores(scores(noise(6, 3)), 1.0, np.random.default_rng(0)) == ()
    assert fit_scores(scores(np.zeros(0)), 1.0, np.random.default_rng(0)) == ()


def test_the_shorter_the_data_the_wider_the_fit() -> None:
    """Same noise, more of it: sigma comes down towards the truth from above."""
    sigmas = [fitted(scores(noise(7, n, 0.8))).get("T").sigma for n in (400, 4000, 40_000)]  # type: ignore[union-attr]
    assert sigmas == sorted(sigmas, reverse=True)
    assert 1.0 < sigmas[2] < 1.1


def test_bins_with_too_little_merge_and_speeds_never_seen_have_no_fit() -> None:
    """60 s of standing, 60 s at 4 m/s, 5 s at 8 m/s: two bins, the fast seconds in the second."""
    speed = np.concatenate((np.zeros(600), np.full(600, 4.0), np.full(50, 8.0)))
    x = noise(8, 1250) * np.where(speed > 1.0, 3.0, 0.5)
    fits = fitted(scores(x, speed))
    bins = fits.bins("T")
    assert [one.from_m_s for one in bins] == [0.0, 1.0]
    assert bins[1].to_m_s == pytest.approx(8.0 * 1.1 + 0.5)
    slow, fast = fits.get("T", 0.0), fits.get("T", 8.0)
    assert slow is not None
    assert fast is not None
    assert (slow.samples, fast.samples) == (600, 650)
    assert fast.sigma > 3.0 * slow.sigma
    assert fits.get("T", 12.0) is None


def test_scores_with_and_without_speed_are_binned_by_what_most_have() -> None:
    """A few unknown speeds are left out; a few known ones make no bins."""
    x = noise(9, 1000)
    mostly = np.full(1000, 5.0)
    mostly[::10] = math.nan
    rarely = np.where(np.arange(1000) % 10 == 0, 5.0, math.nan)
    known, unknown = fitted(scores(x, mostly)), fitted(scores(x, rarely))
    assert known.get("T", 5.0).samples == 900  # type: ignore[union-attr]
    assert unknown.get("T", 5.0).samples == 1000  # type: ignore[union-attr]
    assert unknown.get("T", 50.0) is not None


def alarms_per_hour(fits: SensorFits, clean: np.ndarray) -> float:
    """How often a monitor's sums pass their limit over a long clean series."""
    fit = fits.get("T")
    assert fit is not None
    z = np.clip((clean - fit.location) / fit.sigma, -6.0, 6.0).reshape(-1, 1)
    weight = np.array([1.0 / (fit.decorrelation_samples * fit.cusum_h)])
    share = cusum(z, 0.5, weight, 2.0, np.zeros(1), np.zeros(1))[:, 0]
    return np.count_nonzero((share[1:] > 1.0) & (share[:-1] <= 1.0)) / (len(clean) * PERIOD_S / 3600.0)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_fits_of_ten_minutes_alarm_about_as_rarely_as_asked(phi: float) -> None:
    """Asked for one in 12 minutes: over 11 h of new data, the mean of five fits is at most that, and not none."""
    asked_hours = 0.2
    clean = noise(99, 400_000, phi)
    rates = [alarms_per_hour(fitted(scores(noise(s, 6000, phi)), asked_hours, s), clean) for s in range(5)]
    assert np.mean(rates) < 1.0 / asked_hours
    assert np.mean(rates) > 0.05 / asked_hours


def test_heavy_tails_need_and_get_a_higher_limit() -> None:
    """Student's t with three degrees of freedom: what is asked for holds there too."""
    rng = np.random.default_rng(11)
    clean = rng.standard_t(3, 400_000)
    fits = [fitted(scores(rng.standard_t(3, 6000)), 0.2, s) for s in range(4)]
    assert np.mean([alarms_per_hour(each, clean) for each in fits]) < 1.5 / 0.2


def test_the_limit_grows_with_the_time_asked_for_and_never_falls_below_the_textbook() -> None:
    """A quiet series does not buy a limit below that of white noise."""
    z = 0.2 * noise(12, 2000)
    limits = [cusum_limit(z, 1.0, 0.5, n, 6.0, np.random.default_rng(0)) for n in (1e3, 1e5, 1e7)]
    assert limits == sorted(limits)
    assert limits[1] > 10.0


def test_clean_scores_never_reach_the_gate_of_their_own_fit() -> None:
    """A burst of three beyond six sigma that was clean widens sigma; where anomalies are allowed it does not."""
    x = 0.2 * noise(13, 1200)
    x[600:603] = 9.0
    (trusting,) = fit_scores(scores(x), 1.0, np.random.default_rng(0))
    (robust,) = fit_scores(scores(x), 1.0, np.random.default_rng(0), trust_tail=False)
    assert 9.0 / trusting.bin.fit.sigma <= 4.01
    assert 9.0 / robust.bin.fit.sigma > 6.0


def test_equal_scores_give_equal_fits() -> None:
    """The resampling is seeded."""
    collected = scores(noise(14, 900, 0.5))
    assert fit_scores(collected, 5.0, np.random.default_rng(3)) == fit_scores(collected, 5.0, np.random.default_rng(3))


def test_alarms_over_a_held_out_part_are_counted_once_each() -> None:
    """Two attacks in an otherwise clean part are two alarms, however long each lasts."""
    fits = fitted(scores(noise(15, 1200)), 24.0)
    tail = noise(16, 1200)
    tail[300:340] += 12.0
    tail[800:900] += 12.0
    assert scores(noise(17, 1200)).alarms(fits) == 0
    assert scores(tail).alarms(fits) == 2
