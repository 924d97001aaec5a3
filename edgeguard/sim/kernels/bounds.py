"""What part of a grid of rays can meet each primitive: bounds in a pinhole image and in a spinning sweep."""

from __future__ import annotations

from math import atan2, inf, pi, sqrt

import numpy as np
from numba import njit

from edgeguard.sim.kernels.cast import TABLE
from edgeguard.sim.primitives import COS, HALF_LENGTH, HALF_WIDTH, SIN, TAPER_BACK, TAPER_FRONT, Z0, Z1, X, Y

NEAR_M = 0.3  # solids are cut here before they are projected
_FIRST = np.array([0, 2, 4, 6, 0, 1, 4, 5, 0, 1, 2, 3])
_SECOND = np.array([1, 3, 5, 7, 2, 3, 6, 7, 4, 5, 6, 7])


@njit(f"{TABLE}(float64[:,:,::1])", cache=True, nogil=True, error_model="numpy")
def pinhole_bounds(points: np.ndarray) -> np.ndarray:
    """Return (N, 4) lowest and highest y / x, lowest and highest z / x of convex point sets.

    points: (N, 8, 3) corners of boxes, x along the optical axis; inf, -inf where all of a box is behind `NEAR_M`.
    """
    out = np.empty((points.shape[0], 4))
    for n in range(points.shape[0]):
        low_y, high_y, low_z, high_z = inf, -inf, inf, -inf
        for k in range(20):
            if k < 8:
                x, y, z = points[n, k, 0], points[n, k, 1], points[n, k, 2]
                if x < NEAR_M:
                    continue
            else:  # where an edge crosses the near plane
                a, b = points[n, _FIRST[k - 8]], points[n, _SECOND[k - 8]]
                if (a[0] - NEAR_M) * (b[0] - NEAR_M) >= 0.0:
                    continue
                share = (NEAR_M - a[0]) / (b[0] - a[0])
                x, y, z = NEAR_M, a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2])
            low_y, high_y = min(low_y, y / x), max(high_y, y / x)
            low_z, high_z = min(low_z, z / x), max(high_z, z / x)
        out[n, 0], out[n, 1], out[n, 2], out[n, 3] = low_y, high_y, low_z, high_z
    return out


@njit(
    f"{TABLE}({TABLE}, {TABLE}, float64[::1], float64, float64)",
    cache=True, nogil=True, error_model="numpy",
)  # fmt: skip
def spinning_bounds(
    values: np.ndarray, velocity: np.ndarray, motion: np.ndarray, period_s: float, tilt_rad: float
) -> np.ndarray:
    """Return (N, 5) lowest and highest azimuth, lowest and highest elevation, distance in plan; radians and metres.

    The sweep looks along azimuth pi at its start and turns clockwise; `motion` is the sensor's speed forward, left, up
    and its yaw rate, while it turns for `period_s` (0: all at once). A primitive is put where it stands, seen from
    there, when the beam passes; what that guess leaves out is added as a margin. `tilt_rad`: most the sensor leans.
    """
    out = np.empty((values.shape[0], 5))
    for n in range(values.shape[0]):
        p = values[n]
        drift_x, drift_y = velocity[n, 0] - motion[0], velocity[n, 1] - motion[1]
        x, y, lag = p[X], p[Y], 0.0
        for _ in range(2):  # where it stands then is itself a matter of when: near ones move by a tenth of a radian
            lag = -atan2(y, x) / (2 * pi) * period_s
            x, y = p[X] + drift_x * lag, p[Y] + drift_y * lag
        centre = atan2(y, x)
        lean = max(-min(p[TAPER_FRONT], p[TAPER_BACK]), 0.0)
        half = p[HALF_LENGTH] + lean * (p[Z1] - p[Z0])
        along = max(abs(p[COS] * x + p[SIN] * y) - half, 0.0)
        across = max(abs(p[COS] * y - p[SIN] * x) - p[HALF_WIDTH], 0.0)
        near = sqrt(along * along + across * across)
        low, high, far = inf, -inf, 0.0
        for k in range(4):
            a, b = half * (1 - 2 * (k & 1)), p[HALF_WIDTH] * (1 - (k & 2))
            cx, cy = x + p[COS] * a - p[SIN] * b, y + p[SIN] * a + p[COS] * b
            turn = atan2(cy, cx) - centre
            turn -= 2 * pi * np.floor((turn + pi) / (2 * pi))
            low, high = min(low, turn), max(high, turn)
            far = max(far, sqrt(cx * cx + cy * cy))
        # At the seam, behind, the guess of the lag may be wrong by a whole turn.
        seam = abs(centre) + max(-low, high) > pi - 0.2
        slack_s = period_s if seam else max(-low, high) / (2 * pi) * period_s
        creep = sqrt(drift_x * drift_x + drift_y * drift_y) * slack_s
        closest = max(near - creep, 0.05)
        if near - creep < 1e-6:
            low, high = -pi, pi
        else:
            margin = creep / closest + abs(motion[3]) * (slack_s + abs(lag)) + 0.6 * tilt_rad
            low, high = max(low - margin, -pi), min(high + margin, pi)
        bob = abs(motion[2]) * (abs(lag) + slack_s)
        top = max(atan2(p[Z1] + bob, closest), atan2(p[Z1] + bob, far + creep)) + tilt_rad
        bottom = min(atan2(p[Z0] - bob, closest), atan2(p[Z0] - bob, far + creep)) - tilt_rad
        out[n, 0], out[n, 1], out[n, 2], out[n, 3] = centre + low, centre + high, bottom, top
        out[n, 4] = max(near - creep - 0.01, 0.0) if period_s > 0.0 else near
    return out
