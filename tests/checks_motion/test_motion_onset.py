"""The scan for the onset of a step: silent on honest noise and honest manoeuvres, quick where a calibration is open."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeguard.checks.motion_drift import DriftMonitor
from edgeguard.checks.motion_onset import LIMIT, Course, OnsetScan

PERIOD_S = 0.1
SCALE_SD, FLOOR = 0.01, 0.0005


def by_speed(rows: NDArray[np.float64]) -> Course:
    """Residual and speed per row; a scale known to 1 % is what lets the residual lie off."""
    return Course(rows[:, 0], rows[:, 1:2], np.array([[SCALE_SD**2 + FLOOR**2]]), np.array([FLOOR]))


class Pair:
    """A monitor and the scan beside it, fed alike; the open offset is that of a scale known to 1 %."""

    def __init__(self) -> None:
        self.drift = DriftMonitor(0.03, 0.3, 0.15)
        self.scan = OnsetScan(self.drift, by_speed)
        self.count = 0

    def feed(self, residuals: NDArray[np.float64], speed: NDArray[np.float64]) -> float | None:
        """Seconds to the scan's first alarm, None without one."""
        found = None
        for k, (residual, v) in enumerate(zip(residuals.tolist(), speed.tolist(), strict=True)):
            t = self.count * PERIOD_S
            self.count += 1
            self.drift.push(t, residual, 2.5 * SCALE_SD * v, (residual,))
            self.scan.push(t, (residual, v))
            if found is None and self.scan.statistic(t) > 1.0:
                found = (k + 1) * PERIOD_S
        return found


def coloured(rng: np.random.Generator, count: int, sigma: float, rho: float) -> NDArray[np.float64]:
    """First-order residuals of one scale; rho 0 is white."""
    out, x = np.empty(count), rng.normal(0.0, sigma)
    steps = rng.normal(0.0, sigma * math.sqrt(1 - rho * rho), count)
    for i in range(count):
        x = rho * x + steps[i]
        out[i] = x
    return out


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.78])
def test_honest_noise_raises_no_alarm(rho: float):
    """Five minutes each, white and correlated, after learning on themselves."""
    rng = np.random.default_rng([1, int(100 * rho)])
    assert Pair().feed(coloured(rng, 3000, 0.06, rho), np.full(3000, 15.0)) is None


def test_a_step_is_found_that_the_open_scale_hides_from_the_sum():
    """0.2 m/s at 25 m/s, where a scale known to 1 % may be 0.6 m/s off for long: the scan sees that it began."""
    delays = []
    for seed in range(10):
        rng = np.random.default_rng([2, seed])
        pair = Pair()
        assert pair.feed(rng.normal(0.1, 0.06, 300), np.full(300, 25.0)) is None
        delays.append(pair.feed(rng.normal(0.1 + (0.2 if seed % 2 else -0.2), 0.06, 40), np.full(40, 25.0)) or math.inf)
        assert pair.drift.statistic(pair.count * PERIOD_S) <= 1.0
    assert np.median(delays) <= 0.9
    assert max(delays) <= 1.5


def test_a_tenth_of_a_metre_per_second_is_found_at_the_pace_that_noise_allows():
    """White, sd 0.06 m/s, steady speed: half within 1.8 s, nine of ten within 2.6 s."""
    delays = []
    for seed in range(24):
        rng = np.random.default_rng([3, seed])
        if seed % 8 == 0:
            known = Pair()
            assert known.feed(rng.normal(0.0, 0.06, 400), np.full(400, 15.0)) is None
        delays.append(deepcopy(known).feed(rng.normal(0.1, 0.06, 40), np.full(40, 15.0)) or math.inf)
    assert np.median(delays) <= 1.8
    assert np.quantile(delays, 0.9) <= 2.6


@pytest.mark.parametrize("error", [0.01, -0.01])
def test_a_wrong_scale_that_a_change_of_speed_brings_out_is_no_onset(error: float):
    """From 10 to 20 m/s in four seconds and back: the residual steps by 0.1 m/s, as an open scale lets it."""
    rng = np.random.default_rng(4)
    speed = np.concatenate((np.full(300, 10.0), np.linspace(10, 20, 40), np.full(200, 20.0), np.linspace(20, 10, 40)))
    assert Pair().feed(error * speed + rng.normal(0.0, 0.06, len(speed)), speed) is None


def test_bursts_of_a_fifth_of_a_second_are_no_onset():
    """Two samples of 1 m/s every five seconds: clipped, they are outliers and no step."""
    rng = np.random.default_rng(5)
    residuals = rng.normal(0.0, 0.06, 3000)
    residuals[::50] += 1.0
    residuals[1::50] += 1.0
    assert Pair().feed(residuals, np.full(3000, 15.0)) is None


def test_a_long_silence_forgets_what_was_before_it_and_restart_does_too():
    """After eleven seconds without a residual, or a restart, a new level is the only level there is."""
    for silent in (True, False):
        rng = np.random.default_rng(6)
        pair = Pair()
        pair.feed(rng.normal(0.0, 0.06, 300), np.full(300, 15.0))
        if silent:
            pair.count += 110
        else:
            pair.scan.restart()
        assert pair.feed(rng.normal(0.5, 0.06, 100), np.full(100, 15.0)) is None


def test_power_is_what_is_found_within_two_seconds():
    """A step of the stated power is found within two seconds in half of the trials, one of 1.5 times in nine of ten."""
    rng = np.random.default_rng(7)
    known = Pair()
    known.feed(rng.normal(0.0, 0.06, 400), np.full(400, 15.0))
    power = known.scan.power()
    assert 0.05 < power < 0.2
    for factor, share in ((1.0, 0.35), (1.5, 0.9)):
        tried = [deepcopy(known).feed(rng.normal(factor * power, 0.06, 20), np.full(20, 15.0)) for _ in range(20)]
        assert sum(found is not None for found in tried) >= share * 20


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=36, max_size=60),
    st.lists(st.floats(0.0, 60.0), min_size=60, max_size=60),
)
def test_any_residuals_give_a_finite_share(residuals: list[float], speeds: list[float]):
    """Whatever comes, the share is a number between nothing and its ceiling."""
    pair = Pair()
    pair.feed(np.array(residuals), np.array(speeds[: len(residuals)]))
    assert 0.0 <= pair.scan.statistic(pair.count * PERIOD_S) <= 4.0
    assert pair.scan.power() >= 0.0
    assert LIMIT > 5.0
