"""Repairs of serial readings: pure functions of stamps and values, NaN where a reading has nothing.

All look at a window around each reading, which is shorter at the ends of what is known. None of them touches what it
does not replace, and all of them say what they would replace instead of doing it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GAUSSIAN_MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
MIN_WINDOW = 5  # readings, for a line and a spread around it


def windows_of(count: int, half: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return indices (count, 2 * half + 1) of the readings around each, and which of them exist."""
    at = np.arange(count)[:, None] + np.arange(-half, half + 1)[None]
    inside = (at >= 0) & (at < count)
    return np.clip(at, 0, max(count - 1, 0)), inside


def line_around(t_s: Floats, values: Floats, half: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return, per reading, a robust line of the *others* in its window at its own time, their spread, their number.

    The line has the median of the pairwise slopes (Theil 1950, Sen 1968) and the median level, so that an honest ramp
    is no outlier at the end of what is known. t_s: (N,) rising. values: (N,), NaN for none.
    """
    at, inside = windows_of(len(t_s), half)
    inside[:, half] = False
    t, v = t_s[at] - t_s[:, None], np.where(inside & np.isfinite(values)[at], values[at], np.nan)
    first, second = np.triu_indices(2 * half + 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        slopes = (v[:, second] - v[:, first]) / (t[:, second] - t[:, first])
    slope = _median(np.where(np.isfinite(slopes), slopes, np.nan))
    slope = np.where(np.isfinite(slope), slope, 0.0)
    level = _median(v - slope[:, None] * t)
    spread = GAUSSIAN_MAD * _median(np.abs(v - slope[:, None] * t - level[:, None]))
    return level, spread, np.isfinite(v).sum(axis=1)


def hampel(t_s: Floats, values: Floats, half: int, sigmas: float, least: Floats) -> Floats:
    """Return what each reading should be: itself, or the line around it where it is an outlier (Hampel 1974).

    Outlier: farther from the line than `sigmas` times the spread around it, the spread of all readings around theirs,
    and than `least` (N,), what an honest body could do meanwhile. The spread of ten readings alone is off by a factor
    of two now and then, and vibration comes in bursts. Readings with fewer than `MIN_WINDOW` others stay.
    """
    level, spread, count = line_around(t_s, values, half)
    away = np.abs(values - level)
    common = GAUSSIAN_MAD * _median(np.where(np.isfinite(away), away, np.nan)[None])[0]
    with np.errstate(invalid="ignore"):
        out = (count >= MIN_WINDOW) & (away > np.maximum(sigmas * np.fmax(spread, common), least))
    return np.where(out, level, values)


def running_median(values: Floats, half: int) -> Floats:
    """Return the median of each reading's window, itself included; NaN stays NaN."""
    at, inside = windows_of(len(values), half)
    middle = _median(np.where(inside & np.isfinite(values)[at], values[at], np.nan))
    return np.where(np.isfinite(values), middle, values)


def declip(t_s: Floats, values: Floats, full_scale: float, longest_s: float) -> Floats:
    """Return readings with clipped stretches replaced by a cubic through what is known on both sides.

    Clipped: at `full_scale` or beyond in size. A stretch is repaired when it has one sign, two readings that are not
    clipped on either side, and lasts no longer than `longest_s` between them. The cubic has the slopes of the sides; it
    never says less than the rail, which is all that a clipped reading is sure of, and at most twice as much.
    """
    out = values.copy()
    clipped = np.abs(values) >= full_scale
    starts = np.flatnonzero(clipped & ~np.r_[False, clipped[:-1]])
    ends = np.flatnonzero(clipped & ~np.r_[clipped[1:], False])
    for a, b in zip(starts, ends, strict=True):
        sides = values[[a - 2, a - 1, b + 1, b + 2]] if a >= 2 and b + 2 < len(values) else np.full(4, np.nan)
        one_sign = (values[a : b + 1] > 0).all() or (values[a : b + 1] < 0).all()
        if not (np.isfinite(sides).all() and (np.abs(sides) < full_scale).all() and one_sign):
            continue
        span = t_s[b + 1] - t_s[a - 1]
        if not 0.0 < span <= longest_s:
            continue
        rise = (sides[1] - sides[0]) / max(t_s[a - 1] - t_s[a - 2], 1e-9) * span
        fall = (sides[3] - sides[2]) / max(t_s[b + 2] - t_s[b + 1], 1e-9) * span
        u = (t_s[a : b + 1] - t_s[a - 1]) / span
        cubic = (
            (2 * u**3 - 3 * u**2 + 1) * sides[1] + (u**3 - 2 * u**2 + u) * rise
            + (3 * u**2 - 2 * u**3) * sides[2] + (u**3 - u**2) * fall
        )  # fmt: skip
        sign = 1.0 if values[a] > 0 else -1.0
        out[a : b + 1] = sign * np.clip(sign * cubic, np.abs(values[a : b + 1]), 2.0 * full_scale)
    return out


def _median(values: Floats) -> Floats:
    """Median along the last axis of what is finite or NaN, without NaN; NaN where there is nothing.

    Quicker than `nanmedian` on short rows.
    """
    ordered = np.sort(values, axis=-1)  # NaN comes last
    count = np.isfinite(values).sum(axis=-1)
    rows = np.arange(len(values))
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, values.shape[-1] - 1)
    with np.errstate(invalid="ignore"):
        middle = 0.5 * (ordered[rows, low] + ordered[rows, high])
    return np.where(count > 0, middle, np.nan)
