"""NumPy twins of the kernels that group points: brute force, from the definitions; oracles for the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels import dbscan as kernel
from edgeguard.kernels import plane as plane_kernel


def dbscan(xyz: NDArray[np.float32], eps_m: float, min_points: int) -> tuple[NDArray[np.int32], NDArray[np.bool_], int]:
    """Twin of `dbscan.dbscan`: all distances, then flood fill over core points in order. Memory is quadratic."""
    labels = np.full(xyz.shape[0], kernel.NOISE, dtype=np.int32)
    core = np.zeros(xyz.shape[0], dtype=np.bool_)
    if not 0.0 < eps_m < np.inf:
        return labels, core, 0
    p = xyz.astype(np.float64)
    with np.errstate(all="ignore"):
        good = (np.abs(np.floor(p / (eps_m / np.sqrt(3.0) * kernel.SHRINK))) < kernel.LIMIT).all(axis=1)
    index = np.flatnonzero(good)
    x, y, z = p[index].T
    near = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 + (z[:, None] - z) ** 2 <= eps_m * eps_m
    dense = near.sum(axis=1) >= min_points
    core[index] = dense
    count = 0
    for first in np.flatnonzero(dense):
        if labels[index[first]] != kernel.NOISE:
            continue
        stack = [int(first)]
        while stack:
            here = stack.pop()
            labels[index[here]] = count
            if dense[here]:
                stack.extend(int(k) for k in np.flatnonzero(near[here] & (labels[index] == kernel.NOISE)))
        count += 1
    return labels, core, count


def _near(p: NDArray[np.float64], plane: tuple[float, float, float], threshold_m: float) -> NDArray[np.bool_]:
    a, b, c = plane
    near: NDArray[np.bool_] = np.abs(p[:, 2] - (a * p[:, 0] + b * p[:, 1] + c)) <= threshold_m * np.sqrt(
        1 + a * a + b * b
    )
    return near


def fit_ground(
    xyz: NDArray[np.float32], triples: NDArray[np.int32], threshold_m: float, max_slope: float
) -> tuple[NDArray[np.float64], int]:
    """Twin of `plane.fit_ground`: planes by linear algebra, votes by masks."""
    p = xyz.astype(np.float64)
    some = p[:: max(1, len(p) // plane_kernel.COUNTED)]
    best, votes = (0.0, 0.0, 0.0), 0
    with np.errstate(all="ignore"):
        for triple in triples:
            normal = np.cross(p[triple[1]] - p[triple[0]], p[triple[2]] - p[triple[0]])
            a, b = -normal[:2] / normal[2]
            if not a * a + b * b <= max_slope**2:
                continue
            candidate = (float(a), float(b), float(p[triple[0]] @ (-a, -b, 1.0)))
            count = int(_near(some, candidate, threshold_m).sum())
            if count > votes:
                best, votes = candidate, count
        if votes == 0:
            return np.full(4, np.nan), 0
        for _ in range(plane_kernel.REFINEMENTS):
            inside = p[_near(p, best, threshold_m)]
            if np.linalg.matrix_rank(inside - inside.mean(axis=0)) < 2:
                continue
            system = np.column_stack((inside[:, :2], np.ones(len(inside))))
            a, b, c = np.linalg.lstsq(system, inside[:, 2], rcond=None)[0]
            if not a * a + b * b <= max_slope**2:
                break
            best = (float(a), float(b), float(c))
        step = np.array((plane_kernel.SLOPE_STEP, plane_kernel.SLOPE_STEP, plane_kernel.HEIGHT_STEP_M))
        votes = int(_near(some, best, threshold_m).sum())
        for halving in range(plane_kernel.HALVINGS):
            for k in range(3):
                for sign in (1.0, -1.0):
                    moved = np.array(best)
                    moved[k] += sign * step[k] / 2**halving
                    if moved[0] ** 2 + moved[1] ** 2 > max_slope**2:
                        continue
                    count = int(_near(some, tuple(moved.tolist()), threshold_m).sum())
                    if count > votes:
                        best, votes = tuple(moved.tolist()), count
                        break
        inliers = int(_near(p, best, threshold_m).sum())
    plane = np.array((-best[0], -best[1], 1.0, -best[2]))
    return plane / np.linalg.norm(plane[:3]), inliers
