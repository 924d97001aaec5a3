"""NumPy twin of the coarse-to-fine scan match: cells in a dictionary, covariances by eigenvectors; oracle for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels import scan_match as kernel

Float64 = NDArray[np.float64]
Cells = dict[tuple[int, int], tuple[Float64, Float64]]


def _squares(xy: Float64, cell_m: float) -> NDArray[np.int64]:
    side = int(np.ceil(2.0 * kernel.REACH_M / cell_m))
    with np.errstate(all="ignore"):
        squares = np.floor((xy + 0.5 * side * cell_m) * (1.0 / cell_m))
        outside = ~(np.abs(xy) < 0.5 * side * cell_m).all(axis=1)
    squares[outside] = -1
    return np.minimum(squares, side - 1).astype(np.int64)


def build(xy: NDArray[np.float32], cell_m: float) -> Cells:
    """Mean and inverse covariance of each square that holds a surface."""
    points = xy.astype(np.float64)
    members: dict[tuple[int, int], list[int]] = {}
    for i, (a, b) in enumerate(_squares(points, cell_m).tolist()):
        if a >= 0 and b >= 0:
            members.setdefault((a, b), []).append(i)
    cells: Cells = {}
    sigma = max(kernel.MAX_ROUGHNESS * cell_m, 0.1)
    for square, numbers in members.items():
        if len(numbers) < kernel.MIN_CELL_POINTS:
            continue
        own = points[numbers]
        values, vectors = np.linalg.eigh(np.cov(own.T, bias=True) + kernel.NOISE_M**2 * np.eye(2))
        if values[0] <= sigma**2 + kernel.NOISE_M**2:
            scale = np.diag((1.0 / values[0], 1.0 / kernel.ALONG_M**2))
            cells[square] = own.mean(axis=0), vectors @ scale @ vectors.T
    return cells


def match_scans(
    previous: NDArray[np.float32],
    current: NDArray[np.float32],
    start: Float64,
    cells_m: tuple[float, ...] = kernel.CELLS_M,
) -> tuple[Float64, Float64, float]:
    """Twin of `scan_match.match_scans`."""
    pose, H, score = start.astype(np.float64), np.zeros((3, 3)), 0.0
    for level, cell_m in enumerate(cells_m):
        final = level == len(cells_m) - 1
        xy = current[:: 1 if final else max(1, len(current) // kernel.COARSE_POINTS)].astype(np.float64)
        enough = np.array((kernel.COARSE_SHARE * cell_m,) * 2 + (1e-3 * cell_m,))
        if final:
            enough = np.array((kernel.SETTLED_M, kernel.SETTLED_M, kernel.SETTLED_RAD))
        shifts = (0.0, 0.5 * cell_m) if final else (0.0,)
        grids = [build(previous + np.float32(shift), cell_m) for shift in shifts]
        for _ in range(kernel.ITERATIONS):
            c, s = np.cos(pose[2]), np.sin(pose[2])
            turned = xy @ np.array(((c, s), (-s, c)))
            H, gradient, total = np.zeros((3, 3)), np.zeros(3), 0.0
            for shift, cells in zip(shifts, grids, strict=True):
                moved = turned + pose[:2] + shift
                for k, square in enumerate(map(tuple, _squares(moved, cell_m).tolist())):
                    if square not in cells:
                        continue
                    mean, inverse = cells[square]
                    error = moved[k] - mean
                    root = 1.0 / (1.0 + 0.5 * error @ inverse @ error)
                    weight = root * root / len(shifts)
                    J = np.array(((1.0, 0.0, -turned[k, 1]), (0.0, 1.0, turned[k, 0])))
                    H += weight * J.T @ inverse @ J
                    gradient += weight * J.T @ inverse @ error
                    total += weight
            score = float(total / max(len(xy), 1))
            damped = H + 1e-9 * np.eye(3)
            if not np.linalg.det(damped) > 1e-12:
                break
            step = np.linalg.solve(damped, gradient)
            pose = pose - step
            if (np.abs(step) < enough).all():
                break
    return pose, H, score
