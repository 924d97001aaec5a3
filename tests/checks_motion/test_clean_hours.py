"""Honest sensors over a time in which their biases come to matter: nobody is blamed for what data sheets allow."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from edgeguard.checks.fitting import Scores, fit_scores
from edgeguard.checks.motion_drift import DriftMonitor
from edgeguard.checks.scores import Prior, ScoreMonitor
from edgeguard.types import ImuSample, Sample

PITCH_BIAS_RAD_S = 0.02  # 1.1 deg/s, a consumer gyro's at switching on


def _biased(sample: Sample, t: float) -> Sample | None:
    if not isinstance(sample, ImuSample):
        return sample
    x, y, z = sample.gyro_rad_s
    return dataclasses.replace(sample, gyro_rad_s=(x, y + PITCH_BIAS_RAD_S, z))


def test_a_steady_bias_of_the_pitch_gyro_never_accuses_the_accelerometer(drives: Any, find: Any):
    """Worth 25 m/s^2 of gravity after two minutes: a drift that stays steady, and no offset to bound."""
    assert find(drives(2, 130, "highway"), _biased) == {}


def test_an_accelerometer_beside_a_biased_pitch_gyro_is_still_judged(drives: Any, find: Any):
    """A step of 2 m/s^2 after 100 s is found while the gyro's integral says far more than that."""

    def pushed(sample: Sample, t: float) -> Sample | None:
        biased = _biased(sample, t)
        if not isinstance(biased, ImuSample) or t < 100.0:
            return biased
        x, y, z = biased.accel_m_s2
        return dataclasses.replace(biased, accel_m_s2=(x + 2.0, y, z))

    found = find(drives(2, 104, "highway"), pushed)
    assert 100.0 <= found.pop("X7.accel imu+wheels") < 103.0
    assert all(t >= 100.0 for t in found.values())


def test_a_calibration_hears_what_teaches_and_no_turns():
    """What a turn leaves of a heading is lever arm and lag, which the open offset answers for; it widens no fit."""
    monitor = DriftMonitor(0.04, 0.3, 0.15)
    monitor.record = ScoreMonitor("X9.course.heading", Prior(0.0, 0.15, "m/s"))
    heard = Scores.of(monitor.record)
    rng = np.random.default_rng(4)
    for k in range(900):
        turning = k % 90 < 45
        residual = float(rng.normal(0.6 if turning else 0.0, 0.07))
        monitor.push(0.1 * k, residual, 1.5 if turning else 0.1, None if turning else (residual,), 9.0)

    assert len(heard.score) == 450
    (fitted,) = fit_scores(heard, 1.0, rng)
    assert fitted.bin.fit.sigma < 0.1
