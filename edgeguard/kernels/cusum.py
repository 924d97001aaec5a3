"""Page's cumulative sum, one sample at a time, and how long it runs; the one step that every check takes.

Page, "Continuous Inspection Schemes" (Biometrika 1954); run lengths: Siegmund, "Sequential Analysis" (1985), 10.16.
Plain Python, so that a check on single samples needs no compiler; `kernels.sequential` compiles this same function.
"""

from __future__ import annotations

import math

# Siegmund's correction for the overshoot of Gaussian steps, both ends of the walk: 2 x 0.583.
OVERSHOOT = 1.166
_STEEPEST = 700.0  # exp() beyond it leaves the range of float64


def cusum_step(total: float, z: float, k: float, weight: float, ceiling: float) -> float:
    """Return the upper sum after one standardised sample; feed -z for the lower sum.

    `k` is what each sample must exceed, `weight` what it counts, `ceiling` bounds the recovery after an attack. A NaN
    sample leaves the sum as it is: neither evidence nor a way to wipe evidence out.
    """
    moved = total + weight * (z - k)
    if math.isnan(moved):
        return total
    if moved <= 0.0:
        return 0.0
    return min(moved, ceiling)


def run_length(shift: float, k: float, h: float) -> float:
    """Mean samples until one sum passes `h`, for independent unit-variance Gaussian samples whose mean is `shift`."""
    drift = shift - k
    b = h + OVERSHOOT
    exponent = -2.0 * drift * b
    if abs(exponent) < 1e-4:
        return b * b
    if exponent > _STEEPEST:
        return math.inf
    return (math.exp(exponent) - exponent - 1.0) / (2.0 * drift * drift)


def limit_for(samples: float, k: float) -> float:
    """The `h` with which a two-sided CUSUM of independent Gaussian samples runs `samples` samples between false alarms.

    Two sides alarm twice as often as one, to within the correlation of the two (Siegmund, section 2.6).
    """
    low, high = 0.0, 1.0
    while run_length(0.0, k, high) < 2.0 * samples and high < _STEEPEST:
        high *= 2.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if run_length(0.0, k, middle) < 2.0 * samples else (low, middle)
    return high


def detectable_shift(samples: float, k: float, h: float) -> float:
    """The smallest lasting shift, in sigma, that one sum finds after `samples` samples on average; inf for none."""
    if not samples > 0.0:
        return math.inf
    low, high = 0.0, k + 1.0
    while run_length(high, k, h) > samples:
        high *= 2.0
        if high > 1e9:
            return math.inf
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if run_length(middle, k, h) > samples else (low, middle)
    return high
