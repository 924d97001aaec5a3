"""Planar scan matching by normal distributions (Biber & Strasser, IROS 2003).

A pose (x, y, yaw) maps current to previous sensor frame: p_prev = R(yaw) p + (x, y). Driving forward is x > 0.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

MIN_CELL_POINTS = 5  # fewer give no covariance worth inverting
LONG_AXIS_M = 2.0  # along a surface a cell knows next to nothing: points slide
MIN_SIGMA_M = 0.05  # range noise plus beam footprint: the thinnest distribution a cell may claim


@njit("f8[:,:,::1](f4[:,::1], f8, i8, f8)", cache=True, nogil=True)
def build_normals(xy: NDArray[np.float32], cell_m: float, side: int, max_sigma: float) -> NDArray[np.float64]:
    """Normal distribution per cell of a square grid centred on the sensor.

    Args:
        xy: (N, 2) float32, metres. cell_m: cell edge. side: cells per axis.

    Returns (side, side, 6) float64: count, mean x, mean y, and the inverse covariance xx, xy, yy; count is 0 where
    the cell has too few points.
    """
    grid = np.zeros((side, side, 6), dtype=np.float64)
    half = 0.5 * side * cell_m
    for i in range(xy.shape[0]):
        x = float(xy[i, 0])
        y = float(xy[i, 1])
        if not (abs(x) < half and abs(y) < half):
            continue
        a = min(int((x + half) / cell_m), side - 1)
        b = min(int((y + half) / cell_m), side - 1)
        # sums are taken from the cell's corner, so that squares keep their digits
        x -= a * cell_m - half
        y -= b * cell_m - half
        grid[a, b, 0] += 1.0
        grid[a, b, 1] += x
        grid[a, b, 2] += y
        grid[a, b, 3] += x * x
        grid[a, b, 4] += x * y
        grid[a, b, 5] += y * y
    floor2 = MIN_SIGMA_M * MIN_SIGMA_M
    for a in range(side):
        for b in range(side):
            n = grid[a, b, 0]
            if n < MIN_CELL_POINTS:
                grid[a, b, :] = 0.0
                continue
            mx = grid[a, b, 1] / n
            my = grid[a, b, 2] / n
            xx = grid[a, b, 3] / n - mx * mx + floor2
            yy = grid[a, b, 5] / n - my * my + floor2
            xy_ = grid[a, b, 4] / n - mx * my
            half_trace = 0.5 * (xx + yy)
            spread = np.sqrt(0.25 * (xx - yy) * (xx - yy) + xy_ * xy_)
            thin = half_trace - spread
            if thin > max_sigma * max_sigma + floor2:
                grid[a, b, :] = 0.0  # foliage and clutter: its sampling moves with the sensor, so it votes for rest
                continue
            angle = 0.5 * np.arctan2(2.0 * xy_, xx - yy)  # of the long axis
            nx = -np.sin(angle)
            ny = np.cos(angle)
            along = 1.0 / (LONG_AXIS_M * LONG_AXIS_M)
            across = 1.0 / thin
            grid[a, b, 1] = mx + a * cell_m - half
            grid[a, b, 2] = my + b * cell_m - half
            grid[a, b, 3] = across * nx * nx + along * ny * ny
            grid[a, b, 4] = (across - along) * nx * ny
            grid[a, b, 5] = across * ny * ny + along * nx * nx
    return grid


@njit("f8[::1](f4[:,::1], f8[:,::1], f8[:,:,::1], f8)", cache=True, nogil=True)
def score_poses(
    xy: NDArray[np.float32], poses: NDArray[np.float64], grid: NDArray[np.float64], cell_m: float
) -> NDArray[np.float64]:
    """Mean NDT score, 0..1, of each pose. xy: (N, 2) float32 current points; poses: (K, 3) float64."""
    side = grid.shape[0]
    half = 0.5 * side * cell_m
    out = np.zeros(poses.shape[0], dtype=np.float64)
    if xy.shape[0] == 0:
        return out
    for k in range(poses.shape[0]):
        c = np.cos(poses[k, 2])
        s = np.sin(poses[k, 2])
        total = 0.0
        for i in range(xy.shape[0]):
            x = c * xy[i, 0] - s * xy[i, 1] + poses[k, 0]
            y = s * xy[i, 0] + c * xy[i, 1] + poses[k, 1]
            if not (abs(x) < half and abs(y) < half):
                continue
            a = min(int((x + half) / cell_m), side - 1)
            b = min(int((y + half) / cell_m), side - 1)
            if grid[a, b, 0] == 0.0:
                continue
            dx = x - grid[a, b, 1]
            dy = y - grid[a, b, 2]
            q = dx * dx * grid[a, b, 3] + 2.0 * dx * dy * grid[a, b, 4] + dy * dy * grid[a, b, 5]
            total += np.exp(-0.5 * q)
        out[k] = total / xy.shape[0]
    return out


@njit("Tuple((f8[::1], f8[:,::1], f8))(f4[:,::1], f8[::1], f8[:,:,::1], f8, i8)", cache=True, nogil=True)
def refine_pose(
    xy: NDArray[np.float32], start: NDArray[np.float64], grid: NDArray[np.float64], cell_m: float, iterations: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Gauss-Newton on the NDT score from a start pose.

    Returns the pose (3,), the Gauss-Newton Hessian (3, 3) of the weighted squared error in units of the cells' own
    covariances (its inverse bounds the pose covariance), and the mean score at the last linearisation.
    """
    side = grid.shape[0]
    half = 0.5 * side * cell_m
    pose = start.copy()
    H = np.zeros((3, 3), dtype=np.float64)
    g = np.zeros(3, dtype=np.float64)
    score = 0.0
    for _ in range(iterations):
        c = np.cos(pose[2])
        s = np.sin(pose[2])
        H[:, :] = 0.0
        g[:] = 0.0
        total = 0.0
        for i in range(xy.shape[0]):
            px = float(xy[i, 0])
            py = float(xy[i, 1])
            rx = c * px - s * py
            ry = s * px + c * py
            x = rx + pose[0]
            y = ry + pose[1]
            if not (abs(x) < half and abs(y) < half):
                continue
            a = min(int((x + half) / cell_m), side - 1)
            b = min(int((y + half) / cell_m), side - 1)
            if grid[a, b, 0] == 0.0:
                continue
            ex = x - grid[a, b, 1]
            ey = y - grid[a, b, 2]
            ixx = grid[a, b, 3]
            ixy = grid[a, b, 4]
            iyy = grid[a, b, 5]
            w = np.exp(-0.5 * (ex * ex * ixx + 2.0 * ex * ey * ixy + ey * ey * iyy))
            total += w
            jx = -ry
            jy = rx
            fx = ixx * ex + ixy * ey
            fy = ixy * ex + iyy * ey
            kx = ixx * jx + ixy * jy
            ky = ixy * jx + iyy * jy
            g[0] += w * fx
            g[1] += w * fy
            g[2] += w * (jx * fx + jy * fy)
            H[0, 0] += w * ixx
            H[0, 1] += w * ixy
            H[1, 1] += w * iyy
            H[0, 2] += w * kx
            H[1, 2] += w * ky
            H[2, 2] += w * (jx * kx + jy * ky)
        H[1, 0] = H[0, 1]
        H[2, 0] = H[0, 2]
        H[2, 1] = H[1, 2]
        score = total / max(xy.shape[0], 1)
        # three unknowns: Cramer's rule, with a guard that leaves a degenerate pose where it is
        a00 = H[0, 0] + 1e-9
        a11 = H[1, 1] + 1e-9
        a22 = H[2, 2] + 1e-9
        m0 = a11 * a22 - H[1, 2] * H[1, 2]
        m1 = H[0, 1] * a22 - H[1, 2] * H[0, 2]
        m2 = H[0, 1] * H[1, 2] - a11 * H[0, 2]
        det = a00 * m0 - H[0, 1] * m1 + H[0, 2] * m2
        if not det > 1e-12:
            break
        d0 = (g[0] * m0 - H[0, 1] * (g[1] * a22 - H[1, 2] * g[2]) + H[0, 2] * (g[1] * H[1, 2] - a11 * g[2])) / det
        d1 = (a00 * (g[1] * a22 - g[2] * H[1, 2]) - g[0] * m1 + H[0, 2] * (H[0, 1] * g[2] - g[1] * H[0, 2])) / det
        d2 = (a00 * (a11 * g[2] - H[1, 2] * g[1]) - H[0, 1] * (H[0, 1] * g[2] - H[0, 2] * g[1]) + g[0] * m2) / det
        pose[0] -= d0
        pose[1] -= d1
        pose[2] -= d2
        if abs(d0) < 1e-4 and abs(d1) < 1e-4 and abs(d2) < 1e-6:
            break
    return pose, H, score
