"""Twin of `road` in NumPy: slow, plain, and what the tests hold the kernels against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.road import CUT_SIGMA, CUTS, FLAT, MIN_DEPTH_M, NEAREST_M, NORMAL_SIGMA, Bands
from edgeguard.kernels.sweeps import LidarPoints


def points_ahead(
    sweep: LidarPoints, reach_m: float, widen: float, aside_m: float, aside_far_m: float
) -> NDArray[np.float32]:
    """As `road.points_ahead`."""
    x, y, z = sweep.xyz.T
    here = (x > NEAREST_M) & (x < reach_m) & (sweep.range_m < reach_m) & (z < np.inf)
    here &= (np.abs(y) < np.float32(widen) * x) | ((np.abs(y) < aside_m) & (x < aside_far_m))
    return np.ascontiguousarray(np.vstack((sweep.xyz[here].T, sweep.height_m[here])))


def fit_level_plane(
    ahead: NDArray[np.float32],
    x_m: tuple[float, float],
    aside_m: float,
    level_m: float,
    count: tuple[int, int],
    sigma_floor_m: float,
) -> tuple[float, float, float, float] | None:
    """As `road.fit_level_plane`, with exact medians."""
    x, y, _, h = ahead
    here = (x > x_m[0]) & (x < x_m[1]) & (np.abs(y) < aside_m) & (np.abs(h) < np.float32(level_m))
    points = ahead[:3, here].astype(np.float64)
    points = points[:, :: max(1, points.shape[1] // count[1])]
    fitted, sigma = np.zeros(3), np.inf
    for _ in range(CUTS):
        design = np.vstack((points[:2], np.ones(points.shape[1]))).T
        if points.shape[1] < count[0] or np.linalg.matrix_rank(design) < 3:
            return None
        fitted = np.linalg.lstsq(design, points[2])[0]
        left = np.abs(points[2] - design @ fitted)
        sigma = max(sigma_floor_m, NORMAL_SIGMA * float(np.median(left)))
        points = points[:, left < CUT_SIGMA * sigma]
    a, b, c = fitted.tolist()
    return a, b, c, sigma


def mark_blocks(
    ahead: NDArray[np.float32],
    P: NDArray[np.float64],
    shape: tuple[int, int],
    widen: float,
    bands: Bands,
    map_cells: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """As `road.mark_blocks`."""
    ahead = ahead[:, np.abs(ahead[1]) < np.float32(widen) * ahead[0]]
    P = P.astype(np.float32)
    u, v, w = P[:, :3] @ ahead[:3] + P[:, 3:]
    stands = ~((ahead[3] > np.float32(bands.below_m)) & (ahead[3] < np.float32(bands.upright_m)))
    level = ~stands & (np.abs(ahead[3]) < np.float32(bands.ground_m))
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = u / w, v / w
    inside = (w > MIN_DEPTH_M) & (u >= 0) & (u < shape[1]) & (v >= 0) & (v < shape[0])
    upright, ground = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    cells = np.zeros((map_cells, 2 * map_cells), np.uint8)
    for where, out in ((inside & stands, upright), (inside & level, ground)):
        out[v[where].astype(np.intp), u[where].astype(np.intp)] = 1
    a, b = ahead[:2, stands][:, ::2] / np.float32(bands.cell_m) + np.array([[0], [map_cells]], np.float32)
    on_map = (a < map_cells) & (b >= 0) & (b < 2 * map_cells)
    cells[a[on_map].astype(np.intp), b[on_map].astype(np.intp)] = 1
    return upright, ground, cells


def mark_beside(
    rays: NDArray[np.float64],
    eye: NDArray[np.float64],
    normal: NDArray[np.float64],
    height_m: float,
    cell_m: float,
    cells: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> None:
    """As `road.mark_beside`."""
    slope = rays @ normal
    way = -(height_m + normal @ eye) / np.minimum(slope, -FLAT)
    x = (rays[..., 0] * way + eye[0]) / cell_m
    y = (rays[..., 1] * way + eye[1]) / cell_m + cells.shape[1] // 2
    here = (slope < -FLAT) & (x >= 0) & (x < cells.shape[0]) & (y >= 0) & (y < cells.shape[1])
    out[here] |= cells[x[here].astype(np.intp), y[here].astype(np.intp)]


def follow_blocks(
    H: NDArray[np.float64],
    plane: NDArray[np.float64],
    K: NDArray[np.float64],
    rows: tuple[int, int],
    size_px: tuple[int, int],
    block_px: int,
    depth_m: tuple[float, float],
    moved_px: tuple[float, float],
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int32]]:
    """As `road.follow_blocks`."""
    columns = size_px[0] // block_px
    u, v = np.meshgrid(
        (np.arange(columns) + 0.5) * block_px - 0.5, (np.arange(*rows) + 0.5) * block_px - 0.5
    )  # fmt: skip
    q = np.stack([u, v, np.ones_like(u)], axis=-1) @ H.T
    there = q[..., :2] / np.where(np.abs(q[..., 2:]) > 1e-9, q[..., 2:], 1e-9)
    shift = np.hypot(there[..., 0] - u, there[..., 1] - v).astype(np.float32)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], axis=-1)
    slope = rays @ plane[:3]
    depth = np.where(slope < -FLAT, -plane[3] / np.minimum(slope, -FLAT), np.inf)
    margin = 2 * block_px
    road = (there > margin).all(axis=-1) & (there < np.array(size_px) - margin).all(axis=-1)
    road &= (depth > depth_m[0]) & (depth < depth_m[1]) & (shift > moved_px[0]) & (shift < moved_px[1])
    at = np.clip(there / block_px, 0, np.array((columns - 1, rows[1] - 1))).astype(np.int32)
    return shift, road, at[..., 1] * np.int32(columns) + at[..., 0]
