"""ScoreMonitor: what it alarms on, how often it does so falsely, and what it says it can see."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.checks.scores import PRIOR_CUSUM_H, Fit, Prior, ScoreMonitor, SensorFits, SpeedBin
from edgeguard.kernels.cusum import limit_for, run_length

PERIOD_S = 0.1
PRIOR = Prior(2.0, 0.5, "m/s")


def fit(h: float = 9.33, d: float = 1.0, location: float = 0.0, sigma: float = 1.0) -> Fit:
    """A fit as calibration writes it."""
    return Fit(location, sigma, 1000, 100.0, h, d)


def feed(monitor: ScoreMonitor, scores: object, start_s: float = 0.0) -> float:
    """Push scores at 10 Hz; return the largest statistic."""
    worst = 0.0
    for i, score in enumerate(scores):  # type: ignore[arg-type, var-annotated]
        monitor.push(start_s + i * PERIOD_S, score)
        worst = max(worst, monitor.statistic)
    return worst


def correlated(rng: np.random.Generator, samples: int, phi: float) -> np.ndarray:
    """First-order autoregressive noise of unit variance."""
    noise = rng.normal(size=samples) * math.sqrt(1.0 - phi * phi)
    noise[0] = rng.normal()
    for i in range(1, samples):
        noise[i] += phi * noise[i - 1]
    return noise


def alarm_after(monitor: ScoreMonitor, scores: np.ndarray) -> int:
    """Number of scores until the first alarm; all of them where there is none."""
    for i, score in enumerate(scores):
        monitor.push(i * PERIOD_S, float(score))
        if monitor.statistic > 1.0:
            return i + 1
    return len(scores)


def test_clean_scores_around_the_prior_stay_far_below_an_alarm() -> None:
    """Ten minutes of what the prior says."""
    noise = np.random.default_rng(1).normal(2.0, 0.5, 6000)
    assert feed(ScoreMonitor("T", PRIOR), noise) < 0.95


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_jump_is_an_alarm_after_persist_scores_and_not_before(side: float) -> None:
    """The gate wants three in a row on one side; two may be a burst."""
    monitor = ScoreMonitor("T", PRIOR)
    feed(monitor, [2.0] * 20)
    assert feed(monitor, [2.0 + side * 4.0] * 2, 2.0) <= 1.0
    monitor.push(2.2, 2.0 + side * 4.0)
    assert monitor.statistic > 1.0


def test_a_ramp_below_the_gate_is_found_by_the_sums() -> None:
    """Two sigma for good: never near the gate, yet an anomaly within 4 s."""
    rng = np.random.default_rng(2)
    monitor = ScoreMonitor("T", PRIOR)
    feed(monitor, rng.normal(2.0, 0.5, 100))
    assert feed(monitor, rng.normal(3.0, 0.5, 40), 10.0) > 1.0


def test_single_wild_scores_are_no_alarm_however_wild() -> None:
    """One in ten is a hundred sigma off, infinite ones included: a burst, not a lasting change."""
    scores = [2.0] * 60
    scores[9::20] = [52.0, math.inf, 52.0]
    assert feed(ScoreMonitor("T", PRIOR), scores) <= 1.0


def test_low_scores_of_a_one_sided_monitor_are_good_news() -> None:
    """Nothing below the location is evidence."""
    assert feed(ScoreMonitor("T", Prior(2.0, 0.5, one_sided=True)), [-50.0] * 100) == 0.0


def test_a_score_that_is_no_number_is_no_evidence_and_wipes_none_out() -> None:
    """NaN is what `skip` is: the sums stay, `last` is None."""
    monitor = ScoreMonitor("T", PRIOR)
    feed(monitor, [3.2] * 10)
    before = monitor.statistic
    monitor.push(1.0, math.nan)
    assert before > 0.3
    assert (monitor.statistic, monitor.last) == (before, None)
    assert monitor.power() == math.inf


def test_a_gap_ends_the_run_of_the_gate_but_not_the_sums() -> None:
    """Two scores beyond the gate before a gap and one after it are no run of three."""
    monitor = ScoreMonitor("T", PRIOR, SensorFits.of({"T": fit(h=1000.0, location=2.0, sigma=0.5)}))
    feed(monitor, [2.0] * 10)
    feed(monitor, [7.0, 7.0], 1.0)
    monitor.skip(1.5)
    monitor.skip(3.0)
    monitor.push(3.1, 7.0)
    assert 0.0 < monitor.statistic < 0.1
    monitor.skip(14.0)
    assert monitor.statistic == 0.0


def test_short_holes_do_not_end_the_run_of_the_gate() -> None:
    """A sensor that is blanked between scores is still beyond the gate three times."""
    monitor = ScoreMonitor("T", PRIOR)
    feed(monitor, [2.0] * 10)
    for t_s in (1.0, 1.2, 1.4):
        monitor.push(t_s, 7.0)
        monitor.skip(t_s + 0.1)
    assert monitor.statistic > 1.0


def test_an_alarm_is_held_and_then_forgotten() -> None:
    """Up for hold_s after the last moment above the threshold."""
    monitor = ScoreMonitor("T", PRIOR, hold_s=1.0)
    feed(monitor, [2.0] * 10 + [7.0] * 3)
    monitor.skip(2.1)
    assert monitor.statistic > 1.0
    monitor.skip(15.0)
    assert monitor.statistic == 0.0


def test_what_an_attack_has_piled_up_ebbs_within_seconds() -> None:
    """A minute of it is forgotten no later than a short one."""
    monitor = ScoreMonitor("T", PRIOR)
    feed(monitor, [2.0] * 10 + [20.0] * 600)
    assert feed(monitor, [2.0] * 300, 61.0) > 1.0
    monitor.push(91.1, 2.0)
    assert monitor.statistic < 1.0


@pytest.mark.parametrize("samples", [300.0, 1000.0])
def test_white_scores_alarm_as_rarely_as_the_limit_was_set_for(samples: float) -> None:
    """Monte Carlo through the monitor itself: mean time to a false alarm within 25 % of what was asked."""
    rng = np.random.default_rng(5)
    fits = SensorFits.of({"T": fit(limit_for(samples, 0.5))})
    runs = [alarm_after(ScoreMonitor("T", PRIOR, fits), rng.normal(size=int(8 * samples))) for _ in range(120)]
    assert np.mean(runs) == pytest.approx(samples, rel=0.25)


@pytest.mark.parametrize("phi", [0.5, 0.9])
def test_correlated_scores_alarm_no_more_often_than_white_ones(phi: float) -> None:
    """d samples count as one, so that the same limit gives d times as many samples; unweighted sums would not."""
    rng = np.random.default_rng(6)
    d = (1.0 + phi) / (1.0 - phi)
    independent = 60.0
    h = limit_for(independent, 0.5)
    fits, naive = SensorFits.of({"T": fit(h, d)}), SensorFits.of({"T": fit(h)})
    length = int(8 * independent * d)
    drives = [correlated(rng, length, phi) for _ in range(80)]
    runs = np.mean([alarm_after(ScoreMonitor("T", PRIOR, fits, gate_sigma=8.0), each) for each in drives])
    assert 0.8 * independent * d < runs < 3.5 * independent * d
    assert np.mean([alarm_after(ScoreMonitor("T", PRIOR, naive, gate_sigma=8.0), each) for each in drives]) < runs / 3


@pytest.mark.parametrize(("shift", "floor"), [(0.5, 109.0), (1.0, 18.9), (2.0, 6.9), (3.0, 4.3)])
def test_detection_delays_are_near_siegmund_s(shift: float, floor: float) -> None:
    """k = 0.5, h = 9.33: the floors are Monte Carlo means for two-sided CUSUM alone; the gate only helps."""
    rng = np.random.default_rng(7)
    fits = SensorFits.of({"T": fit(9.33)})
    runs = [alarm_after(ScoreMonitor("T", PRIOR, fits), rng.normal(shift, 1.0, 1500)) for _ in range(200)]
    assert np.mean(runs) == pytest.approx(floor, rel=0.15)
    assert np.mean(runs) == pytest.approx(run_length(shift, 0.5, 9.33), rel=0.15)


@pytest.mark.parametrize("d", [1.0, 4.0])
def test_a_change_of_the_size_of_power_is_found_in_two_seconds(d: float) -> None:
    """The mean delay of a lasting change of that size is 2 s, and half of it is mostly missed in that time."""
    rng = np.random.default_rng(8)
    fits = SensorFits.of({"T": fit(9.33, d, sigma=0.3)})
    clean = ScoreMonitor("T", PRIOR, fits)
    feed(clean, [0.0, 0.0, 0.0])
    power = clean.power()
    delays = []
    for size in (power, 0.5 * power):
        runs = [alarm_after(ScoreMonitor("T", PRIOR, fits), rng.normal(size, 0.3, 400)) for _ in range(150)]
        delays.append(float(np.mean(runs)) * PERIOD_S)
    assert delays[0] == pytest.approx(2.0, rel=0.25)
    assert delays[1] > 3.0


def test_power_is_infinite_while_nothing_is_observed() -> None:
    """Before two scores, and as soon as none comes."""
    monitor = ScoreMonitor("T", PRIOR)
    assert monitor.power() == math.inf
    monitor.push(0.0, 2.0)
    assert monitor.power() == math.inf
    monitor.push(0.1, 2.0)
    assert monitor.power() < 2.0
    monitor.skip(0.2)
    assert monitor.power() == math.inf


def test_slow_scores_see_less_than_fast_ones() -> None:
    """At one score in 1.5 s no change can be certain within 2 s, so power is worse than at 10 Hz."""
    slow, fast = ScoreMonitor("T", PRIOR), ScoreMonitor("T", PRIOR)
    for i in range(5):
        slow.push(i * 1.5, 2.0)
        fast.push(i * 0.1, 2.0)
    assert slow.power() > 3.0 * fast.power()


def test_a_fit_holds_at_the_speeds_it_has_seen_and_the_prior_elsewhere() -> None:
    """Bins by speed in either direction; without a speed the widest one."""
    slow, fast = fit(sigma=0.1), fit(sigma=3.0)
    fits = SensorFits({"T": (SpeedBin(6.0, fast, 20.0), SpeedBin(1.0, slow, 6.0))})
    assert fits.get("T", 2.0) == slow
    assert fits.get("T", -6.0) == fast
    assert fits.get("T", 0.5) is None
    assert fits.get("T", 25.0) is None
    assert fits.get("T") == fast
    assert fits.get("T", math.nan) == fast
    assert fits.get("U") is None
    monitor = ScoreMonitor("T", PRIOR, fits)
    monitor.push(0.0, 2.0, 25.0)
    assert (monitor.location, monitor.sigma) == (2.0, 0.5)
    monitor.push(0.1, 2.0, 5.0)
    assert (monitor.location, monitor.sigma) == (0.0, 0.1)


def test_the_prior_s_limit_is_held_for_correlated_scores_of_any_rate() -> None:
    """At 100 Hz twenty scores count as one: 2 sigma for a tenth of a second weigh less than two at 5 Hz."""
    monitor = ScoreMonitor("T", PRIOR, gate_sigma=100.0)
    for i in range(10):
        monitor.push(i * 0.01, 3.0)
    assert 0.0 < monitor.statistic < 2.0 * (2.0 - 0.5) / PRIOR_CUSUM_H


def test_restart_forgets_what_was_before_a_break() -> None:
    """Nothing of the sums, the run or the alarm survives."""
    monitor = ScoreMonitor("T", PRIOR)
    feed(monitor, [9.0] * 30)
    monitor.restart()
    assert (monitor.statistic, monitor.last, monitor.size) == (0.0, None, 0.0)
    monitor.push(3.1, 2.0)
    assert monitor.statistic == 0.0


def test_a_listener_gets_every_score_as_it_came() -> None:
    """Raw, with time and speed; what is no number is not told."""
    heard: list[tuple[float, float, float | None]] = []
    monitor = ScoreMonitor("T", PRIOR)
    monitor.listener = lambda t_s, score, speed: heard.append((t_s, score, speed))
    monitor.push(0.0, 2.5, 3.0)
    monitor.push(0.1, math.nan)
    monitor.push(0.2, math.inf)
    monitor.push(0.3, 2.0)
    assert heard == [(0.0, 2.5, 3.0), (0.3, 2.0, None)]


@given(
    scores=st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.none(), max_size=40),
    steps=st.lists(st.floats(-20.0, 20.0), min_size=40, max_size=40),
)
def test_whatever_comes_the_statistic_is_a_number_and_recovers(scores: list[float | None], steps: list[float]) -> None:
    """Any scores at any times, clocks that jump back included; clean scores afterwards end every alarm."""
    monitor = ScoreMonitor("T", PRIOR)
    t_s = 0.0
    for score, step in zip(scores, steps, strict=False):
        t_s += step
        if score is None:
            monitor.skip(t_s)
        else:
            monitor.push(t_s, score)
        assert math.isfinite(monitor.statistic)
        assert monitor.statistic >= 0.0
        assert monitor.power() > 0.0
    for i in range(2000):
        monitor.push(t_s + i * PERIOD_S, 2.0)
    assert monitor.statistic == 0.0
