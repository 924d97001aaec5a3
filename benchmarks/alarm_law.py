"""The stated false-alarm rate beside the one that comes of it: rigs calibrated on some streets, driven clean on others.

Every drive runs once, with the fits of its rig in use; the thresholds for each stated rate are then held against what
the statistics reached. `edgeguard bench alarms` counts the alarms of the whole pipeline instead, at one rate.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np

from edgeguard.checks.tails import fit_tail
from edgeguard.checks.thresholds import CONFIDENCE, share_rate
from edgeguard.runtime.calibrate import calibrate_sensors, observe
from edgeguard.runtime.calibrate_rate import Climbs, climb, join, tails_of
from edgeguard.sim.detection.metrics import rate_per_hour
from edgeguard.sim.soak.lean import PRESETS, LeanDrive, lean_drive
from edgeguard.sim.soak.soak import CALIBRATION_STREET, MAX_CALIBRATION, SOAK_CONFIG

RATES = (1.0, 4.0, 20.0, 60.0)
# Of the laws of `--laws`: exponential, Gaussian, between.
POWERS = (1.0, 1.0, 1.0, 1.4, 1.4, 1.4, 2.0, 2.0, 2.0)
PEAKS_PER_HOUR = 500.0  # what a statistic of a car gives
# The streets of a seed that no other test or bench drives.
DAY_STREET = 905_000
FITTED_FOR_PER_HOUR = 4.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", action="append", choices=[preset.name for preset in PRESETS])
    parser.add_argument("--rigs", type=int, default=1, help="of each preset")
    parser.add_argument("--calibration", type=int, default=3, help="drives that each is calibrated on")
    parser.add_argument("--drives", type=int, default=6, help="clean drives after that")
    parser.add_argument("--seconds", type=float, default=600.0, help="of each drive")
    parser.add_argument("--laws", action="store_true", help="peaks of known laws instead of drives: accuracy by hours")
    options = parser.parse_args()
    if options.laws:
        _laws()
        return
    print("calibrated on  stated/h  expected/h  alarms  measured/h (95 %)")
    pooled: dict[tuple[int, float], tuple[int, float]] = {}
    for preset in PRESETS:
        if options.preset and preset.name not in options.preset:
            continue
        for rig in range(options.rigs):
            calibration, day = _climbs(preset.sensors, rig, options)
            for count in range(1, options.calibration + 1):
                for rate, expected, alarms, hours in _law(calibration[:count], day):
                    _print(f"{preset.name} {rig}: {count} drives", rate, expected, alarms, hours)
                    before = pooled.get((count, rate), (0, 0.0))
                    pooled[count, rate] = before[0] + alarms, before[1] + hours
    for (count, rate), (alarms, hours) in sorted(pooled.items()):
        _print(f"all rigs: {count} drives", rate, rate, alarms, hours)


def _laws() -> None:
    """Nine statistics whose peaks have known laws: what the true rate of all together is after calibrations."""
    print("share of the stated rate that nine statistics together have, over 60 calibrations: mean (10 % - 90 %)")
    print("hours   " + "".join(f"{name:>24}" for name in ("4/h, mean", "1 in 24 h, mean", "1 in 24 h, sure")))
    for hours in (0.17, 0.5, 1.0, 3.0, 10.0, 30.0):
        cells = []
        for rate, sure in ((4.0, False), (1.0 / 24.0, False), (1.0 / 24.0, True)):
            rng = np.random.default_rng(7)
            shares = [_true_share(rng, hours, rate, sure=sure) for _ in range(60)]
            low, high = np.quantile(shares, (0.1, 0.9))
            cells.append(f"{np.mean(shares):.2f} ({low:.2f} - {high:.2f})")
        print(f"{hours:5g} h " + "".join(f"{cell:>24}" for cell in cells))


def _true_share(rng: np.random.Generator, hours: float, rate: float, *, sure: bool) -> float:
    expected = 0.0
    for power in POWERS:
        peaks = rng.weibull(power, rng.poisson(PEAKS_PER_HOUR * hours))
        tail = fit_tail(peaks, hours * 3600.0)
        assert tail is not None
        level = tail.level(rate / len(POWERS), CONFIDENCE if sure else None)
        expected += PEAKS_PER_HOUR * math.exp(-(level**power))
    return expected / rate


def _climbs(sensors: Sequence[str], rig: int, options: argparse.Namespace) -> tuple[list[Climbs], list[Climbs]]:
    def drives(first: int, count: int) -> list[LeanDrive]:
        return [lean_drive(sensors, rig, first + i, options.seconds) for i in range(count)]

    first = CALIBRATION_STREET + rig * MAX_CALIBRATION
    known = drives(first, options.calibration)
    observed = join([observe(drive, SOAK_CONFIG) for drive in known])
    fits = calibrate_sensors(observed, 1.0 / FITTED_FOR_PER_HOUR, allow_anomalies=True).section.fits()
    unseen = drives(DAY_STREET + 1000 * rig, options.drives)
    return [climb(d, SOAK_CONFIG, fits) for d in known], [climb(d, SOAK_CONFIG, fits) for d in unseen]


def _law(calibration: Sequence[Climbs], day: Sequence[Climbs]) -> list[tuple[float, float, int, float]]:
    """Stated rate, expected rate, alarms, hours."""
    tails = tails_of(calibration, all_clean=True)
    found = []
    for rate in RATES:
        thresholds = share_rate(tails, rate)
        alarms = sum(each.alarms(thresholds) for each in day)
        hours = sum(len(each.clean) * each.period_s for each in day) / 3600.0
        found.append((rate, sum(one.per_hour for one in thresholds.values()), alarms, hours))
    return found


def _print(name: str, rate: float, expected: float, alarms: int, hours: float) -> None:
    measured, low, high = rate_per_hour(alarms, hours * 3600.0)
    print(f"{name:24} {rate:8g} {expected:8.3g} {alarms:6d} in {hours:.2f} h  {measured:.3g} ({low:.3g}-{high:.3g})")
