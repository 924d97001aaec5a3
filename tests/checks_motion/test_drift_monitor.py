"""The monitor under the GNSS drift checks, and the calibration between receiver and wheels, on synthetic residuals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeguard.checks.motion_drift import DriftMonitor
from edgeguard.checks.motion_statistics import Track
from edgeguard.checks.scores import Fit, SensorFits
from edgeguard.checks.speed_model import NAMES, SpeedModel

PERIOD_S = 0.1


def noise(rng: np.random.Generator, count: int, sigma: float, rho: float) -> np.ndarray:
    """First-order residuals of one scale; rho 0 is white."""
    out = np.empty(count)
    x = rng.normal(0.0, sigma)
    steps = rng.normal(0.0, sigma * math.sqrt(1 - rho * rho), count)
    for i in range(count):
        x = rho * x + steps[i]
        out[i] = x
    return out


def feed(monitor: DriftMonitor, values: np.ndarray, start_s: float = 0.0, offset: float = 0.0) -> float | None:
    """Time from `start_s` to the first alarm, None without one."""
    for i, value in enumerate(values):
        t = start_s + i * PERIOD_S
        monitor.push(t, float(value), offset, (float(value),))
        if monitor.statistic(t) > 1.0:
            return t - start_s
    return None


def test_white_residuals_of_a_good_receiver_raise_no_alarm_for_an_hour():
    """36 000 samples at sigma 0.07 against a designed 288 000 between alarms, after learning on themselves."""
    rng = np.random.default_rng(1)
    assert feed(DriftMonitor(0.04, 0.3, 0.15), noise(rng, 36_000, 0.07, 0.0)) is None


@pytest.mark.parametrize("rho", [0.5, 0.78])
def test_correlated_residuals_raise_no_alarm_either(rho: float):
    """The long-run variance is learned: one alarm a minute under a white design is none in half an hour."""
    rng = np.random.default_rng(2)
    monitor = DriftMonitor(0.04, 0.3, 0.15)
    assert feed(monitor, noise(rng, 18_000, 0.06, rho)) is None
    assert monitor.correlation > 0.6 * (1 + rho) / (1 - rho)


def test_a_tenth_of_a_metre_per_second_is_found_within_two_seconds():
    """At the residuals of a real drive (white, sd 0.07 m/s), both signs: median and nine of ten."""
    delays = []
    for seed in range(60):
        rng = np.random.default_rng([3, seed])
        monitor = DriftMonitor(0.04, 0.3, 0.15)
        assert feed(monitor, noise(rng, 300, 0.07, 0.0)) is None
        shift = 0.1 if seed % 2 else -0.1
        found = feed(monitor, noise(rng, 200, 0.07, 0.0) + shift, 30.0)
        delays.append(math.inf if found is None else found + PERIOD_S)
    assert np.median(delays) < 1.6
    assert np.quantile(delays, 0.9) < 2.5


def test_five_metres_per_second_need_two_samples():
    """The gate for what is overwhelming: the second altered sample, never the first."""
    rng = np.random.default_rng(4)
    monitor = DriftMonitor(0.04, 0.3, 0.15)
    feed(monitor, noise(rng, 300, 0.07, 0.0))
    found = feed(monitor, noise(rng, 10, 0.07, 0.0) + 5.0, 30.0)
    assert found == pytest.approx(PERIOD_S)


def test_an_open_offset_hides_no_more_than_itself():
    """A lasting 0.2 m/s that calibration leaves open is no alarm; 0.5 m/s on top of the same is one."""
    rng = np.random.default_rng(5)
    values = noise(rng, 300, 0.05, 0.0)
    monitor = DriftMonitor(0.04, 0.3, 0.15)
    assert feed(monitor, values + 0.2, offset=0.2) is None
    assert feed(monitor, noise(rng, 100, 0.05, 0.0) + 0.7, 30.0, offset=0.2) is not None


def test_an_attack_does_not_teach_the_noise_it_is_judged_by():
    """Sigma after ten seconds of a 1 m/s drift is what it was before."""
    rng = np.random.default_rng(6)
    monitor = DriftMonitor(0.04, 0.3, 0.15)
    feed(monitor, noise(rng, 300, 0.07, 0.0))
    before = monitor.sigma
    for i in range(100):
        monitor.push(30 + i * PERIOD_S, 1.0 + float(rng.normal(0, 0.07)), 0.0, (1.0,))
    assert monitor.sigma == pytest.approx(before, rel=0.15)


def test_a_fit_replaces_the_prior_inside_physical_bounds():
    """A calibrated rig starts sharp; a fit that no receiver can have is not believed."""
    sharp = DriftMonitor(0.04, 0.3, 0.15, fit=Fit(0.0, 0.06, 3000, 300.0, 10.0, 1.5))
    assert (sharp.sigma, sharp.correlation) == (0.06, 1.5)
    assert sharp.power(0.0) < 0.5 * DriftMonitor(0.04, 0.3, 0.15).power(0.0)
    assert DriftMonitor(0.04, 0.3, 0.15, fit=Fit(0.0, 1e-6, 3000, 300.0, 10.0, 1.0)).sigma == 0.04


def drive(rng: np.random.Generator, seconds: int) -> list[tuple[float, float, float]]:
    """(v, a, w) at 10 Hz of a drive that accelerates, brakes and turns."""
    out, v = [], 10.0
    for i in range(seconds * 10):
        a = 1.5 * math.sin(i / 37.0)
        v = min(max(v + a * PERIOD_S, 3.0), 25.0)
        out.append((v, a, 0.2 * math.sin(i / 23.0)))
    return out


@given(st.floats(0.96, 1.04), st.floats(0.02, 0.35), st.floats(-0.4, 0.4))
@settings(max_examples=25, deadline=None)
def test_scale_lag_and_antenna_are_found_within_their_stated_uncertainty(scale: float, lag_s: float, antenna_m: float):
    """Three of its own standard deviations, after a minute of driving, whatever the truth is."""
    rng = np.random.default_rng(7)
    model = SpeedModel()
    for v, a, w in drive(rng, 60):
        # The wheels are read at the lag that is believed; the truth is at the lag that is.
        measured = scale * (v + a * (model.lag_s - lag_s)) * (1 - 0.003 * a) - antenna_m * w + rng.normal(0.0, 0.05)
        model.update((v, a, w), float(measured), 0.08, PERIOD_S, 5.0)
    for index, truth in enumerate((scale, lag_s, 0.003, antenna_m)):
        assert abs(model.mean[index] - truth) < 3.0 * model.parameter_sd(index)


def test_an_innovation_beyond_the_limit_teaches_nothing():
    """Thirty seconds of a 2 m/s offset leave the calibration where it was."""
    rng = np.random.default_rng(8)
    model = SpeedModel()
    for v, a, w in drive(rng, 60):
        model.update((v, a, w), 1.01 * v, 0.08, PERIOD_S, 1.0)
    before = list(model.mean)
    for v, a, w in drive(rng, 30):
        model.update((v, a, w), 1.01 * v + 2.0, 0.08, PERIOD_S, 1.0)
    assert model.mean == before


def test_a_calibration_gives_the_model_its_start():
    """Named fits replace priors, clamped to what is physical."""
    fits = SensorFits.of(
        {NAMES[0]: Fit(1.012, 0.0001, 600, 60.0, 10.0, 1.0), NAMES[1]: Fit(9.0, 0.001, 600, 60.0, 10.0, 1.0)}
    )
    model = SpeedModel(fits)
    assert model.scale == 1.012
    assert model.lag_s == 0.5
    assert model.sd(20.0, 0.0, 0.0) < 0.2 * SpeedModel().sd(20.0, 0.0, 0.0)


@given(st.lists(st.floats(0.001, 0.3), min_size=2, max_size=600), st.floats(0.0, 1.0))
@settings(max_examples=40, deadline=None)
def test_a_track_interpolates_like_numpy_and_forgets_what_is_old(steps: list[float], where: float):
    """Against `numpy.interp` over what is kept."""
    track = Track(10.0, 0.5)
    times = np.cumsum(steps)
    for t in times:
        track.append(float(t), (math.sin(float(t)), 2.0 * float(t)))
    kept = times[times >= times[-1] - 10.0]
    t = float(kept[0] + where * (kept[-1] - kept[0]))
    found = track.at(t)
    assert found is not None
    assert found[0] == pytest.approx(float(np.interp(t, kept, np.sin(kept))), abs=1e-9)
    assert found[1] == pytest.approx(2.0 * t, abs=1e-6)
    assert track.at(float(kept[0]) - 1e-3) is None
    assert track.at(float(kept[-1]) + 1e-3) is None
