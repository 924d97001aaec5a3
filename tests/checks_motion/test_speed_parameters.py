"""What a calibration keeps of the wheels' and the receiver's physics, and what it is worth to the next drive."""

from __future__ import annotations

import math

import numpy as np

from edgeguard.checks.motion_drift import DriftMonitor
from edgeguard.checks.scores import Fit, SensorFits, SpeedBin
from edgeguard.checks.speed_model import FIT_SD, NAMES, PRIOR_SD, SpeedModel


def _driven(model: SpeedModel, scale: float, lag_s: float, seconds: float) -> SpeedModel:
    """A drive with speed and acceleration that come and go; the receiver lags and the tyres are small."""
    for i in range(round(seconds * 10)):
        t = i / 10
        v, a = 12.0 + 4.0 * math.sin(t / 3.0), 4.0 / 3.0 * math.cos(t / 3.0)
        measured = scale * v - a * (lag_s - model.lag_s)
        model.update((v, a, 0.0), measured, 0.1, 0.1, 1.0)
    return model


def test_nothing_is_kept_of_what_nobody_has_learned() -> None:
    """A rig that stood gives no parameters: its priors stay."""
    assert SpeedModel().learned == {}


def test_a_drive_gives_its_scale_and_lag_and_the_next_one_starts_with_them() -> None:
    """Means within what they claim; the next drive is surer from its first second, never surer than tyres allow."""
    learned = _driven(SpeedModel(), 1.02, 0.3, 60.0).learned
    assert {NAMES[0], NAMES[1]} <= set(learned)
    assert abs(learned[NAMES[0]][0] - 1.02) < 3.0 * max(learned[NAMES[0]][1], FIT_SD[0])
    assert abs(learned[NAMES[1]][0] - 0.3) < 3.0 * max(learned[NAMES[1]][1], FIT_SD[1])
    fits = SensorFits({
        name: (SpeedBin(0.0, Fit(mean, sd, 0, 60.0, 1.0, 1.0)),) for name, (mean, sd) in learned.items()
    })  # fmt: skip
    again, new = SpeedModel(fits), SpeedModel()
    assert abs(again.scale - 1.02) < 0.005
    assert again.sd(15.0, 1.0, 0.0) < 0.5 * new.sd(15.0, 1.0, 0.0)
    assert FIT_SD[0] <= again.parameter_sd(0) < PRIOR_SD[0]


def test_a_fit_of_a_few_seconds_does_not_keep_a_monitor_from_learning() -> None:
    """Less than half a minute is the prior, widened: the monitor learns its noise as without; a real fit is used."""
    short, long = (Fit(0.0, 0.29, 120, clean_s, 9.0, 8.0) for clean_s in (12.0, 60.0))
    noise = np.random.default_rng(5).normal(0.0, 0.07, 200)
    sigma = {}
    for name, fit in (("none", None), ("short", short), ("long", long)):
        monitor = DriftMonitor(0.04, 0.3, 0.15, fit=fit)
        for i, residual in enumerate(noise):
            monitor.push(i / 10, float(residual), 0.02, (float(residual),))
        sigma[name] = monitor.sigma
    assert sigma["short"] == sigma["none"] < 0.1
    assert DriftMonitor(0.04, 0.3, 0.15, fit=long).sigma == 0.29
