"""Motion blur: every pixel is the mean of five places along its own way."""

from __future__ import annotations

import numpy as np
from numba import njit

from edgeguard.sim.kernels.cast import GRID_F4, GRID_I4, LINE_F4, PICTURE, TABLE


@njit(f"void(int64, float32, {LINE_F4}, {LINE_F4}, int64, uint32[::1])", cache=True, nogil=True, error_model="numpy")
def _places(row: int, share: float, flow_u: np.ndarray, flow_v: np.ndarray, rows: int, out: np.ndarray) -> None:
    """Fill which pixel of the picture lies a share of its flow away from each pixel of a row."""
    columns = len(out)
    low, right, down = np.float32(0.0), np.float32(columns - 1), np.float32(rows - 1)
    here, half = np.float32(row) + np.float32(0.5), np.float32(0.5)
    for j in range(columns):
        y = min(max(here + share * flow_v[j], low), down)
        x = min(max(np.float32(np.int32(j)) + half + share * flow_u[j], low), right)
        out[j] = np.uint32(np.int32(y) * np.int32(columns) + np.int32(x))


@njit(f"void({LINE_F4}, uint32[:,::1], {LINE_F4})", cache=True, nogil=True, error_model="numpy")
def _mean_of(source: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    """Fill the mean of five places of a plane."""
    a, b, c, d, e = places[0], places[1], places[2], places[3], places[4]
    for j in range(len(out)):
        total = source[np.uint64(a[j])] + source[np.uint64(b[j])] + source[np.uint64(c[j])]
        out[j] = np.float32(0.2) * (total + source[np.uint64(d[j])] + source[np.uint64(e[j])])


@njit(f"void({PICTURE}, {GRID_F4}, {GRID_F4}, {PICTURE})", cache=True, nogil=True, error_model="numpy")
def smear(light: np.ndarray, flow_u: np.ndarray, flow_v: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` (3, H, W) with the mean of `light` at -1/2, -1/4, 0, 1/4, 1/2 of each pixel's flow, unblended."""
    rows, columns = light.shape[1], light.shape[2]
    source = light.reshape((3, rows * columns))
    places = np.empty((5, columns), np.uint32)
    for i in range(rows):
        for k in range(5):
            _places(i, np.float32(0.25 * (k - 2)), flow_u[i], flow_v[i], rows, places[k])
        for c in range(3):
            _mean_of(source[c], places, out[c, i])


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
