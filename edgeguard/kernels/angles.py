"""Angles without a library call, so that loops over points are vectorised."""

from __future__ import annotations

import numpy as np
from numba import njit

_BEND = 0.41421356237309503  # tan(pi / 8): beyond it the angle is counted from 45 degrees
_QUARTER = 0.25 * np.pi
_HALF = 0.5 * np.pi
_PI4, _HALF4, _QUARTER4 = np.float32(np.pi), np.float32(0.5 * np.pi), np.float32(0.25 * np.pi)
_BEND4, _ONE4, _NONE4 = np.float32(_BEND), np.float32(1.0), np.float32(0.0)
_C3, _C5, _C7, _C9 = (
    np.float32(-0.333329491539),
    np.float32(0.199777106478),
    np.float32(-0.138776856032),
    np.float32(0.0805374449538),
)


@njit("f8(f8, f8)", cache=True, nogil=True, error_model="numpy", inline="always")
def fast_atan2(y: float, x: float) -> float:
    """Angle of (x, y) in radians, as arctan2, within 2e-14; 0 for the origin, of whatever signs; NaN for NaN
    and for infinities.

    No branches. The odd polynomial is a Chebyshev fit over +-tan(pi / 8) (relative weight, nine terms, error 5e-15).
    """
    ax = abs(x)
    ay = abs(y)
    high = ax if ax > ay else ay
    low = ay if ax > ay else ax
    bent = 1.0 if low > _BEND * high else 0.0
    below = high + bent * low
    t = (low - bent * high) / (below if below != 0.0 else 1.0)
    u = t * t
    p = 0.02960185085091711
    p = p * u - 0.057971143459309205
    p = p * u + 0.07540441203258255
    p = p * u - 0.09074680207144183
    p = p * u + 0.1111004754731937
    p = p * u - 0.14285673006416394
    p = p * u + 0.199999991279666
    p = p * u - 0.3333333332493724
    p = p * u + 0.9999999999997632
    a = bent * _QUARTER + t * p
    a = a if ax > ay else _HALF - a
    a = np.pi - a if x < 0.0 else a
    a = 0.0 if high == 0.0 else a
    return -a if y < 0.0 else a


@njit("f4(f4, f4)", cache=True, nogil=True, error_model="numpy", inline="always")
def fast_atan2_single(y: float, x: float) -> float:
    """As `fast_atan2`, in float32 and within 1e-6 of arctan2, a 7000th of a cell of `ranges`; pi / 2 for the origin.

    Twice as many points fit a vector. Polynomial: Cephes, atanf.
    """
    ax = abs(x)
    ay = abs(y)
    high = ax if ax > ay else ay
    low = ay if ax > ay else ax
    bent = _ONE4 if low > _BEND4 * high else _NONE4
    below = high + bent * low
    t = (low - bent * high) / (below if below != _NONE4 else _ONE4)
    u = t * t
    a = bent * _QUARTER4 + t + t * u * (_C3 + u * (_C5 + u * (_C7 + u * _C9)))
    a = a if ax > ay else _HALF4 - a
    a = _PI4 - a if x < _NONE4 else a
    return -a if y < _NONE4 else a  # type: ignore[return-value]  # float32 is a float to numba
