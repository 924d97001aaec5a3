"""Delay of the GNSS drift monitors against the size of the drift, beside the least that any test could need.

    python -m benchmarks drift_delay [SIGMA_M_S]

White residuals at 10 Hz and a steady speed, after 40 s: what is left of a speed when lag, scale and slip are known. The
bound is Lorden's (Annals of Mathematical Statistics 42, 1971): with T samples between false alarms, on average no test
finds a shift d of known size sooner than after 2 ln(T) sigma^2 / d^2 samples. Delays, not times: no machine in them.
"""

from __future__ import annotations

import math
import sys
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.motion_drift import RUN_SAMPLES, DriftMonitor
from edgeguard.checks.motion_onset import Course, OnsetScan

PERIOD_S = 0.1
RATES_M_S = (0.05, 0.07, 0.1, 0.15, 0.2, 0.5)
LEARN, WATCHED, STARTS, TRIALS = 400, 100, 6, 10
# A scale known to 0.1 % at 15 m/s, as after half a minute.
SPEED_M_S, SCALE_SD = 15.0, 0.001


def course(rows: NDArray[np.float64]) -> Course:
    """Rows of one residual each, which a scale lets lie off."""
    open_ = np.array([[SCALE_SD**2]])
    return Course(rows[:, 0], np.full((len(rows), 1), SPEED_M_S), open_, np.array([SCALE_SD]))


def feed(drift: DriftMonitor, scan: OnsetScan, residuals: NDArray[np.float64], start: int) -> int | None:
    """Samples until either alarms, None where neither does."""
    for k, residual in enumerate(residuals.tolist()):
        t = (start + k) * PERIOD_S
        drift.push(t, residual, 2.5 * SCALE_SD * SPEED_M_S, (residual,))
        scan.push(t, (residual,))
        if max(drift.statistic(t), scan.statistic(t)) > 1.0:
            return k + 1
    return None


def main() -> None:
    """Print median and ninth tenth of the delay per rate, and the bound."""
    sigma = float(sys.argv[1]) if len(sys.argv) > 1 else 0.06
    known = []
    for seed in range(STARTS):
        rng = np.random.default_rng([seed, 1])
        drift = DriftMonitor(0.03, 0.3, 0.15)
        scan = OnsetScan(drift, course)
        if feed(drift, scan, rng.normal(0.0, sigma, LEARN), 0) is None:
            known.append((drift, scan))
    print(f"sigma {sigma:g} m/s at 10 Hz, {len(known)} starts, {TRIALS} onsets each; seconds")
    print(f"{'m/s':>6} {'found':>7} {'median':>8} {'p90':>8} {'bound, mean':>12}")
    for rate in RATES_M_S:
        delays = []
        for number, (drift, scan) in enumerate(known):
            for trial in range(TRIALS):
                rng = np.random.default_rng([number, trial, 2])
                pair = deepcopy((drift, scan))
                residuals = rng.normal(rate if trial % 2 else -rate, sigma, WATCHED)
                delays.append((feed(*pair, residuals, LEARN) or math.inf) * PERIOD_S)
        bound = 2.0 * math.log(RUN_SAMPLES) * sigma**2 / rate**2 * PERIOD_S
        middle, late = np.quantile(delays, (0.5, 0.9), method="inverted_cdf")
        found = sum(math.isfinite(d) for d in delays)
        print(f"{rate:6g} {found:3d}/{len(delays):3d} {middle:8.1f} {late:8.1f} {bound:12.2f}")


if __name__ == "__main__":
    main()
