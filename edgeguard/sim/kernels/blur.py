"""Motion blur: every pixel is the mean of five places along its own way."""

from __future__ import annotations

import numpy as np
from numba import njit

from edgeguard.sim.kernels.cast import GRID_F4, GRID_I4, PICTURE, TABLE


@njit(f"void({PICTURE}, {GRID_F4}, {GRID_F4}, {PICTURE})", cache=True, nogil=True, error_model="numpy")
def smear(light: np.ndarray, flow_u: np.ndarray, flow_v: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` with the mean of `light` at -1/2, -1/4, 0, 1/4, 1/2 of each pixel's flow (nearest pixels)."""
    rows, columns = light.shape[0], light.shape[1]
    for i in range(rows):
        for j in range(columns):
            blue, green, red = 0.0, 0.0, 0.0
            for k in range(-2, 3):
                y = int(i + 0.25 * k * flow_v[i, j] + 0.5)
                x = int(j + 0.25 * k * flow_u[i, j] + 0.5)
                y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
                blue += light[y, x, 0]
                green += light[y, x, 1]
                red += light[y, x, 2]
            out[i, j, 0], out[i, j, 1], out[i, j, 2] = 0.2 * blue, 0.2 * green, 0.2 * red


@njit(
    f"void({GRID_F4}, {GRID_I4}, {TABLE}, float64[::1], float64[::1], float64, float64, float64, float64, {GRID_F4},"
    f" {GRID_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def image_flow(
    depth: np.ndarray,
    hit: np.ndarray,
    velocity: np.ndarray,
    speed: np.ndarray,
    turn_rate: np.ndarray,
    focal_px: float,
    cx_px: float,
    cy_px: float,
    exposure_s: float,
    flow_u: np.ndarray,
    flow_v: np.ndarray,
) -> None:
    """Fill how far each pixel's content moves during an exposure, pixels right and down.

    speed: of the camera, forward, left, up, m/s; turn_rate: about the same axes, rad/s; velocity: (N, 2) of the
    primitives. The motion field of Longuet-Higgins and Prazdny 1980, without distortion.
    """
    for i in range(depth.shape[0]):
        for j in range(depth.shape[1]):
            y, z = (cx_px - j) / focal_px, (cy_px - i) / focal_px
            inverse = 0.0 if hit[i, j] == -2 else 1.0 / depth[i, j]
            vx, vy, vz = -speed[0], -speed[1], -speed[2]
            if hit[i, j] >= 0:
                vx, vy = vx + velocity[hit[i, j], 0], vy + velocity[hit[i, j], 1]
            wx, wy, wz = turn_rate[0], turn_rate[1], turn_rate[2]
            # A still point moves against the camera's turn: dP/dt = v - w x P, P = (1, y, z) * depth.
            px = vx * inverse - (wy * z - wz * y)
            py = vy * inverse - (wz - wx * z)
            pz = vz * inverse - (wx * y - wy)
            flow_u[i, j] = -focal_px * (py - y * px) * exposure_s
            flow_v[i, j] = -focal_px * (pz - z * px) * exposure_s
