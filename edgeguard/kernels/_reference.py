"""NumPy twins of the kernels: slow, plain, written from the docstrings; oracles for the tests."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels import ground, motion, ranges, scan_match
from edgeguard.kernels.projection import MIN_DEPTH_M
from edgeguard.kernels.voxels import HALF

_AROUND = tuple(product((-1, 0, 1), repeat=3))
Float64 = NDArray[np.float64]


def project_points(
    xyz: NDArray[np.float32], P: Float64, width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_], int]:
    """Twin of `projection.project_points`."""
    x, y, z = xyz.astype(np.float64).T
    with np.errstate(all="ignore"):
        u, v, w = (P[i, 0] * x + P[i, 1] * y + P[i, 2] * z + P[i, 3] for i in range(3))
        u, v = np.floor(u / w + 0.5), np.floor(v / w + 0.5)
        inside = (w >= MIN_DEPTH_M) & (w < np.inf) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    pixel = np.full((xyz.shape[0], 2), -1, dtype=np.int32)
    pixel[inside] = np.stack((u[inside], v[inside]), axis=1).astype(np.int32)
    index = np.flatnonzero(inside)
    near = w[index].astype(np.float32)
    order = np.lexsort((index, near))
    flat = pixel[index[order], 1].astype(np.int64) * width + pixel[index[order], 0]
    first_flat, first = np.unique(flat, return_index=True)
    depth = np.full(width * height, np.nan, dtype=np.float32)
    depth[first_flat] = near[order][first]
    visible = np.zeros(xyz.shape[0], dtype=np.bool_)
    visible[index[order][first]] = True
    return depth.reshape(height, width), pixel, visible, int(inside.sum())


def to_spherical(xyz: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int16], NDArray[np.int16]]:
    """Twin of `ranges.to_spherical`."""
    x, y, z = xyz.astype(np.float64).T
    with np.errstate(all="ignore"):
        r = np.sqrt(x * x + y * y + z * z)
        row = np.floor(np.arcsin(z / r) * ranges.EL_SCALE + ranges.EL_OFFSET)
        valid = (r >= ranges.MIN_RANGE_M) & (r <= ranges.MAX_RANGE_M) & (row >= 0) & (row < ranges.ROWS)
        col = np.floor((np.arctan2(y, x) + np.pi) * ranges.AZ_SCALE) % ranges.COLUMNS
    return (
        np.where(valid, r, 0).astype(np.float32),
        np.where(valid, row, -1).astype(np.int16),
        np.where(valid, col, 0).astype(np.int16),
    )


def range_image(range_m: NDArray[np.float32], row: NDArray[np.int16], col: NDArray[np.int16]) -> NDArray[np.float32]:
    """Twin of `ranges.range_image`."""
    image = np.full((ranges.ROWS, ranges.COLUMNS), np.inf, dtype=np.float32)
    keep = row >= 0
    np.minimum.at(image, (row[keep], col[keep]), range_m[keep])
    return image


def ask_sweep(
    xyz: NDArray[np.float32], T_ref_cur: Float64, reference: NDArray[np.float32], margin_m: float, margin_ratio: float
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Twin of `ranges.ask_sweep`."""
    status = np.full(xyz.shape[0], ranges.UNKNOWN, dtype=np.int8)
    front_m = np.full(xyz.shape[0], np.nan, dtype=np.float32)
    for i, point in enumerate(xyz.astype(np.float64)):
        with np.errstate(all="ignore"):
            x, y, z = (row[0] * point[0] + row[1] * point[1] + row[2] * point[2] + row[3] for row in T_ref_cur[:3])
            r = np.sqrt(x * x + y * y + z * z)
        if not ranges.MIN_RANGE_M <= r <= ranges.MAX_RANGE_M:
            continue
        k = int(np.floor(np.arcsin(z / r) * ranges.EL_SCALE + ranges.EL_OFFSET))
        c = int((np.arctan2(y, x) + np.pi) * ranges.AZ_SCALE)
        rows = [k + d for d in (-1, 0, 1) if 0 <= k + d < ranges.ROWS]
        cells = reference[np.ix_(rows, [(c + d) % ranges.COLUMNS for d in (-1, 0, 1)])].astype(np.float64)
        seen = cells[np.isfinite(cells)]
        margin = margin_m + margin_ratio * r
        front, beyond = seen[seen < r - margin], seen[seen > r + margin]
        if seen.size > front.size + beyond.size:
            status[i] = ranges.HIT
        elif front.size:
            status[i] = ranges.HIDDEN
            closed = not beyond.size and front.size >= ranges.MIN_SOLID_CELLS
            if closed and front.max() - front.min() < ranges.MAX_SOLID_SPREAD_M:
                front_m[i] = front.mean()
        elif beyond.size >= 2:
            status[i] = ranges.SEEN_THROUGH
    return status, front_m


def height_above_ground(xyz: NDArray[np.float32], lidar_height_m: float) -> NDArray[np.float32]:
    """Twin of `ground.height_above_ground`."""
    x, y, z = xyz.astype(np.float64).T
    with np.errstate(all="ignore"):
        rho = np.sqrt(x * x + y * y)
        valid = (rho < ground.BINS) & np.isfinite(z)
    sector = ((np.arctan2(y[valid], x[valid]) + np.pi) * (ground.SECTORS / (2.0 * np.pi))).astype(
        np.int64
    ) % ground.SECTORS
    ring = rho[valid].astype(np.int64)
    lowest = np.full((ground.SECTORS, ground.BINS), np.inf)
    np.minimum.at(lowest, (sector, ring), z[valid])
    levels = np.empty_like(lowest)
    for s in range(ground.SECTORS):
        level, last = -lidar_height_m, 0
        for b in range(ground.BINS):
            low = lowest[s, b]
            if np.isfinite(low) and abs(low - level) <= ground.STEP_M + ground.SLOPE * (b - last):
                level, last = low, b
            levels[s, b] = level
    height = np.full(xyz.shape[0], np.nan, dtype=np.float32)
    height[valid] = z[valid] - levels[sector, ring]
    return height


def _voxels(xyz: NDArray[np.float32], voxel_m: float) -> list[tuple[int, int, int] | None]:
    with np.errstate(all="ignore"):
        cells = np.floor(xyz.astype(np.float64) * (1.0 / voxel_m) + HALF)
        good: NDArray[np.bool_] = np.all((cells >= 1) & (cells < 2 * HALF - 1), axis=1)
    return [(int(c[0]), int(c[1]), int(c[2])) if ok else None for c, ok in zip(cells, good.tolist(), strict=True)]


def cluster_points(xyz: NDArray[np.float32], voxel_m: float) -> tuple[NDArray[np.int32], int]:
    """Twin of `clusters.cluster_points`."""
    cells = _voxels(xyz, voxel_m)
    occupied = {cell for cell in cells if cell is not None}
    number: dict[tuple[int, int, int], int] = {}
    labels = np.full(xyz.shape[0], -1, dtype=np.int32)
    count = 0
    for i, cell in enumerate(cells):
        if cell is None:
            continue
        if cell not in number:
            stack = [cell]
            number[cell] = count
            while stack:
                x, y, z = stack.pop()
                for dx, dy, dz in _AROUND:
                    near = (x + dx, y + dy, z + dz)
                    if near in occupied and near not in number:
                        number[near] = count
                        stack.append(near)
            count += 1
        labels[i] = number[cell]
    return labels, count


def thin_points(xyz: NDArray[np.float32], voxel_m: float) -> NDArray[np.float32]:
    """Twin of `voxels.thin_points`."""
    members: dict[tuple[int, int, int], list[int]] = {}
    for i, cell in enumerate(_voxels(xyz, voxel_m)):
        if cell is not None:
            members.setdefault(cell, []).append(i)
    means = [xyz[index].astype(np.float64).mean(axis=0) for index in members.values()]
    return np.array(means, dtype=np.float32).reshape(-1, 3)


def build_normals(xy: NDArray[np.float32], cell_m: float, side: int, max_sigma: float) -> Float64:
    """Twin of `motion.build_normals`, as (side, side, 6): points in the cell, then mean and inverse covariance."""
    grid = np.zeros((side, side, 6))
    half = 0.5 * side * cell_m
    points = xy.astype(np.float64)
    with np.errstate(invalid="ignore"):
        points = points[(np.abs(points) < half).all(axis=1)]
    cells = np.minimum(((points + half) / cell_m).astype(np.int64), side - 1)
    for a, b in {(int(a), int(b)) for a, b in cells}:
        own = points[(cells == (a, b)).all(axis=1)]
        if len(own) < scan_match.MIN_CELL_POINTS:
            continue
        covariance = np.cov(own.T, bias=True) + scan_match.NOISE_M**2 * np.eye(2)
        values, vectors = np.linalg.eigh(covariance)
        if values[0] > max_sigma**2 + scan_match.NOISE_M**2:
            continue
        scale = np.diag((1.0 / values[0], 1.0 / scan_match.ALONG_M**2))
        inverse = vectors @ scale @ vectors.T
        grid[a, b] = len(own), *own.mean(axis=0), inverse[0, 0], inverse[0, 1], inverse[1, 1]
    return grid


def _residuals(xy: NDArray[np.float32], pose: Float64, grid: Float64, cell_m: float) -> tuple[Float64, ...]:
    """Rotated points, errors, inverse covariances and weights of the points that fall into a live cell."""
    side = grid.shape[0]
    half = 0.5 * side * cell_m
    c, s = np.cos(pose[2]), np.sin(pose[2])
    with np.errstate(all="ignore"):
        turned = xy.astype(np.float64) @ np.array([[c, s], [-s, c]])
        moved = turned + pose[:2]
        ok = (np.abs(moved) < half).all(axis=1)
    turned, moved = turned[ok], moved[ok]
    cells = np.minimum(((moved + half) / cell_m).astype(np.int64), side - 1)
    cell = grid[cells[:, 0], cells[:, 1]]
    live = cell[:, 0] > 0
    turned, cell = turned[live], cell[live]
    error = moved[live] - cell[:, 1:3]
    inverse = cell[:, [3, 4, 4, 5]].reshape(-1, 2, 2)
    weight = np.exp(-0.5 * np.einsum("ni,nij,nj->n", error, inverse, error))
    return turned, error, inverse, weight


def score_poses(xy: NDArray[np.float32], poses: Float64, grid: Float64, cell_m: float) -> Float64:
    """Twin of `motion.score_poses`."""
    return np.array([_residuals(xy, pose, grid, cell_m)[3].sum() / max(len(xy), 1) for pose in poses])


def refine_pose(
    xy: NDArray[np.float32], start: Float64, grid: Float64, cell_m: float, iterations: int
) -> tuple[Float64, Float64, float]:
    """Twin of `motion.refine_pose`."""
    pose, H, score = start.astype(np.float64).copy(), np.zeros((3, 3)), 0.0
    for _ in range(iterations):
        turned, error, inverse, weight = _residuals(xy, pose, grid, cell_m)
        J = np.zeros((len(weight), 2, 3))
        J[:, 0, 0] = J[:, 1, 1] = 1.0
        J[:, 0, 2], J[:, 1, 2] = -turned[:, 1], turned[:, 0]
        H = np.einsum("n,nki,nkl,nlj->ij", weight, J, inverse, J)
        gradient = np.einsum("n,nki,nkl,nl->i", weight, J, inverse, error)
        score = float(weight.sum() / max(len(xy), 1))
        damped = H + 1e-9 * np.eye(3)
        if not np.linalg.det(damped) > 1e-12:
            break
        step = np.linalg.solve(damped, gradient)
        each = np.einsum("nki,nkl,nl->ni", J, inverse, error)
        bend = np.einsum("n,ni,ni->", weight, np.einsum("nkl,nl->nk", inverse, error), turned)
        true = H - np.einsum("n,ni,nj->ij", weight, each, each) - np.diag((0.0, 0.0, bend))
        if np.linalg.eigvalsh(true)[0] > 0.0:
            newton = np.linalg.solve(true, gradient)
            step = newton if (np.abs(newton) <= 4.0 * np.abs(step) + motion.SLACK).all() else step
        pose -= step
        if (np.abs(step) < (motion.SETTLED_M, motion.SETTLED_M, motion.SETTLED_RAD)).all():
            break
    return pose, H, score
