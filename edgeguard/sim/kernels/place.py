"""Solids as a sensor has them around it: which are near, where they stand in its frame, and the boxes that hold them.

Columns of a solid's row as in `edgeguard.sim.primitives`, which imports this: x, y, bottom, top, half-length,
half-width, cosine, sine, lean in front, lean behind.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numba import njit

_TABLE, _CODES = "float64[:,::1]", "int64[:,::1]"
_SIDE_X = np.array([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
_SIDE_Y = np.array([1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0])


@njit(
    f"Tuple(({_TABLE}, {_CODES}, {_TABLE}))({_TABLE}, {_CODES}, {_TABLE}, float64, float64, float64, float64, float64,"
    " float64)",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def seen_from(
    values: np.ndarray,
    codes: np.ndarray,
    velocity: np.ndarray,
    x: float,
    y: float,
    z: float,
    c: float,
    s: float,
    reach_m: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, codes and velocities of solids within `reach_m` of (x, y), in a frame there.

    The frame's x axis has the cosine `c` and the sine `s`, its origin the height `z`.
    """
    near, count = np.empty(len(values), np.int64), 0
    for k in range(len(values)):
        dx, dy = values[k, 0] - x, values[k, 1] - y
        reach = sqrt(values[k, 4] * values[k, 4] + values[k, 5] * values[k, 5]) + reach_m
        near[count] = k
        count += 1 if dx * dx + dy * dy <= reach * reach else 0
    rows, kinds = np.empty((count, values.shape[1])), np.empty((count, codes.shape[1]), np.int64)
    speeds = np.empty((count, 2))
    for n in range(count):
        k = near[n]
        for column in range(values.shape[1]):
            rows[n, column] = values[k, column]
        for column in range(codes.shape[1]):
            kinds[n, column] = codes[k, column]
        dx, dy, cosine, sine = values[k, 0] - x, values[k, 1] - y, values[k, 6], values[k, 7]
        rows[n, 0], rows[n, 1] = c * dx + s * dy, c * dy - s * dx
        rows[n, 2], rows[n, 3] = values[k, 2] - z, values[k, 3] - z
        rows[n, 6], rows[n, 7] = cosine * c + sine * s, sine * c - cosine * s
        speeds[n, 0] = c * velocity[k, 0] + s * velocity[k, 1]
        speeds[n, 1] = c * velocity[k, 1] - s * velocity[k, 0]
    return rows, kinds, speeds


@njit(f"float64[:,:,::1]({_TABLE})", cache=True, nogil=True, error_model="numpy")
def corners(values: np.ndarray) -> np.ndarray:
    """Return the (N, 8, 3) corners of each solid's upright bounding box; a lean outwards makes it longer."""
    out = np.empty((len(values), 8, 3))
    for n in range(len(values)):
        c, s, height = values[n, 6], values[n, 7], values[n, 3] - values[n, 2]
        half = values[n, 4] + max(-min(values[n, 8], values[n, 9]), 0.0) * height
        for k in range(8):
            along, across = half * _SIDE_X[k], values[n, 5] * _SIDE_Y[k]
            out[n, k, 0] = values[n, 0] + c * along - s * across
            out[n, k, 1] = values[n, 1] + s * along + c * across
            out[n, k, 2] = values[n, 2] + (height if k & 1 else 0.0)
    return out
