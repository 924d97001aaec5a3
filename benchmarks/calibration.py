"""What calibration promises beside what comes of it: time between false alarms and detectable change, simulated.

Noise of known kind, a recording to fit on, then many hours of new noise through the fitted CUSUM; many recordings each.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.fitting import Scores, fit_scores
from edgeguard.checks.scores import Fit, Prior, ScoreMonitor, SensorFits
from edgeguard.kernels.sequential import cusum

PERIOD_S = 0.1
ASKED_H = 1.0
FRESH = 1_000_000  # samples of new noise: 28 h
RECORDINGS = 8
HORIZON = 20  # samples in 2 s
TRIALS = 400


def main() -> None:
    print(
        f"asked for one false alarm in {ASKED_H:g} h; {RECORDINGS} recordings each, {FRESH * PERIOD_S / 3600:.0f} h of"
    )
    print("new noise per recording. change: found in 2 s as the fit says, and share of trials in which it was")
    print(f"{'noise':22} {'length':>7}  {'alarms/h':>8}  {'worst':>6}  {'sigma':>6}  {'h':>5}  {'change':>6}  found")
    for name, phi, dof in (
        ("white", 0.0, None), ("AR(1) 0.5", 0.5, None), ("AR(1) 0.9", 0.9, None), ("Student t, 3", 0.0, 3.0),
        ("AR(1) 0.5 of t, 3", 0.5, 3.0),
    ):  # fmt: skip
        fresh = _noise(np.random.default_rng(999), FRESH, phi, dof)
        for seconds in (60, 600):
            print(f"{name:22} {seconds:5d} s  {_row(fresh, seconds, phi, dof)}")


def _row(fresh: NDArray[np.float64], seconds: int, phi: float, dof: float | None) -> str:
    rates, fits, powers, found = [], [], [], []
    for seed in range(RECORDINGS):
        rng = np.random.default_rng(seed)
        scores = Scores.of(ScoreMonitor("noise", Prior(0.0, 1.0)))
        for i, value in enumerate(_noise(rng, round(seconds / PERIOD_S), phi, dof)):
            scores.listen(i * PERIOD_S, float(value), None)
        (one,) = fit_scores(scores, ASKED_H, rng)
        fit = one.bin.fit
        fits.append(fit)
        rates.append(_alarms_per_hour(fit, fresh))
        power = _power(fit)
        powers.append(power)
        found.append(_share_found(fit, fresh, power))
    sigma, h = (float(np.mean([getattr(fit, part) for fit in fits])) for part in ("sigma", "cusum_h"))
    return (
        f"{np.mean(rates):8.2f}  {max(rates):6.2f}  {sigma:6.2f}  {h:5.1f}  {np.mean(powers):6.2f}  "
        f"{np.mean(found):.2f}"
    )


def _noise(rng: np.random.Generator, samples: int, phi: float, dof: float | None) -> NDArray[np.float64]:
    noise = rng.normal(size=samples) if dof is None else rng.standard_t(dof, samples) / math.sqrt(dof / (dof - 2.0))
    noise *= math.sqrt(1.0 - phi * phi)
    if phi:
        for i in range(1, samples):
            noise[i] += phi * noise[i - 1]
    return noise


def _alarms_per_hour(fit: Fit, fresh: NDArray[np.float64]) -> float:
    share = _sums(fit, fresh)
    return float(np.count_nonzero((share[1:] > 1.0) & (share[:-1] <= 1.0))) / (len(fresh) * PERIOD_S / 3600.0)


def _sums(fit: Fit, values: NDArray[np.float64]) -> NDArray[np.float64]:
    z = np.clip((values - fit.location) / fit.sigma, -6.0, 6.0).reshape(-1, 1)
    weight = np.array([1.0 / (fit.decorrelation_samples * fit.cusum_h)])
    return cusum(z, 0.5, weight, 2.0, np.zeros(1), np.zeros(1))[:, 0]


def _power(fit: Fit) -> float:
    monitor = ScoreMonitor("noise", Prior(0.0, 1.0), SensorFits.of({"noise": fit}))
    for i in range(2):
        monitor.push(i * PERIOD_S, fit.location)
    return monitor.power()


def _share_found(fit: Fit, fresh: NDArray[np.float64], change: float) -> float:
    """Share of trials in which a change of that size, from some moment on, is found by gate or sums within 2 s."""
    found = 0
    fits = SensorFits.of({"noise": fit})
    for start in np.linspace(0, len(fresh) - 200, TRIALS // 8, dtype=np.int64):
        monitor = ScoreMonitor("noise", Prior(0.0, 1.0), fits)
        for i, value in enumerate(fresh[start : start + 50 + HORIZON]):
            monitor.push(i * PERIOD_S, float(value) + (change if i >= 50 else 0.0))
        found += monitor.statistic > 1.0
    return found / (TRIALS // 8)
