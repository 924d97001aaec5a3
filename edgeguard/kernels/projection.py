"""Lidar points onto the camera's pixel grid, nearest return first.

A point is inside when its depth is at least `MIN_DEPTH_M` and its pixel, rounded to the nearest centre, lies in the
image. NaN, infinite and absurdly large coordinates fall outside by comparison, never by exception.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

MIN_DEPTH_M = 0.1  # nearer than any lens; keeps the division finite
_SIGNATURE = "Tuple((f4[:,::1], i4[:,::1], b1[::1], i8))(f4[:,::1], f8[:,::1], i8, i8)"


@njit(_SIGNATURE, cache=True, nogil=True)
def project_points(
    xyz: NDArray[np.float32], P: NDArray[np.float64], width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_], int]:
    """Project points and keep the nearest per pixel.

    Args:
        xyz: (N, 3) float32, metres, lidar frame, C-contiguous.
        P: (3, 4) float64, `K @ T_cam_lidar[:3]` with the last row of K equal to (0, 0, 1), so that the third
            coordinate of the product is the depth.
        width, height: image size in pixels.

    Returns:
        depth (height, width) float32 in metres, NaN where no return; pixel (N, 2) int32 as (column, row), -1 where
        outside; visible (N,) bool, true for the return that gave its pixel the depth (first of equals); and how many
        points are inside.
    """
    n = xyz.shape[0]
    depth = np.full((height, width), np.inf, dtype=np.float32)
    owner = np.full((height, width), -1, dtype=np.int32)
    pixel = np.full((n, 2), -1, dtype=np.int32)
    visible = np.zeros(n, dtype=np.bool_)
    inside = 0
    for i in range(n):
        x = float(xyz[i, 0])
        y = float(xyz[i, 1])
        z = float(xyz[i, 2])
        w = P[2, 0] * x + P[2, 1] * y + P[2, 2] * z + P[2, 3]
        if not (w >= MIN_DEPTH_M and w < np.inf):
            continue
        u = np.floor((P[0, 0] * x + P[0, 1] * y + P[0, 2] * z + P[0, 3]) / w + 0.5)
        v = np.floor((P[1, 0] * x + P[1, 1] * y + P[1, 2] * z + P[1, 3]) / w + 0.5)
        if not (u >= 0.0 and u < width and v >= 0.0 and v < height):
            continue
        col = int(u)
        row = int(v)
        pixel[i, 0] = col
        pixel[i, 1] = row
        inside += 1
        near = np.float32(w)
        if near < depth[row, col]:
            depth[row, col] = near
            owner[row, col] = i
    for row in range(height):
        for col in range(width):
            i = owner[row, col]
            if i < 0:
                depth[row, col] = np.nan
            else:
                visible[i] = True
    return depth, pixel, visible, inside
