"""NumPy twins of `tracks`: what its kernels must agree with, and the fallback where numba is missing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.tracks import (
    DEPTH_SPREAD,
    DIRECTION_ITERATIONS,
    DIRECTION_SCALE,
    HELD,
    HELD_ITERATIONS,
    ITERATIONS,
    MIN_PARALLAX_PRIOR,
    OPEN_TO_ALL,
    OPEN_TO_NEAR,
    OUTLIER_COST,
    WEIGHT_SIGMA,
)


def rotation(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) of a rotation vector (3,), by Rodrigues' formula."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    K = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    turned: NDArray[np.float64] = np.eye(3) + np.sin(angle) * K + (1.0 - np.cos(angle)) * K @ K
    return turned


def integrate_rates(
    t_s: NDArray[np.float64], rate: NDArray[np.float64], start_s: float, end_s: float
) -> NDArray[np.float64]:
    """Twin of `tracks.integrate_rates`."""
    knots = np.concatenate(((start_s,), t_s[(t_s > start_s) & (t_s < end_s)], (end_s,)))
    values = np.column_stack([np.interp(knots, t_s, rate[:, k]) for k in range(3)])
    R = np.eye(3)
    for i in range(len(knots) - 1):
        R = R @ rotation(0.5 * (values[i] + values[i + 1]) * (knots[i + 1] - knots[i]))
    return R


def leftover_rotation(
    early: NDArray[np.float64], late: NDArray[np.float64], sigma_rad: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]:
    """Twin of `tracks.leftover_rotation`: motion (6,), covariance (3, 3), residual (N,), tracks kept."""
    found = []
    for start, open_to in ((np.zeros(6), OPEN_TO_ALL), (_direction(early, late, sigma_rad), OPEN_TO_NEAR)):
        found.append(_refine(early, late, sigma_rad, open_to, start))
    return min(found, key=lambda f: _cost(early, sigma_rad, f[0], f[2]))


def _cost(
    early: NDArray[np.float64], sigma_rad: float, motion: NDArray[np.float64], residual: NDArray[np.float64]
) -> float:
    v = motion[3:]
    freedom = (v @ v - (early @ v) ** 2) * (DEPTH_SPREAD / sigma_rad) ** 2
    left = residual**2 / (1.0 + residual**2 / OUTLIER_COST)
    return float(np.sum(left + np.log1p(np.maximum(freedom, 0.0))))


def _direction(early: NDArray[np.float64], late: NDArray[np.float64], sigma_rad: float) -> NDArray[np.float64]:
    normals = np.cross(early, late)
    found = []
    for first in np.eye(3):
        t, scale = 0.1 + 0.9 * first, DIRECTION_SCALE
        for turn in range(DIRECTION_ITERATIONS + 1):
            arm2 = np.sum(np.cross(early, t) ** 2, axis=1) + 1e-4
            off2 = (normals @ t) ** 2 / (arm2 * scale**2)
            if turn == DIRECTION_ITERATIONS:
                found.append((float(np.sum(off2 / (1.0 + off2))), t))
                break
            M = (normals / ((1.0 + off2) ** 2 * arm2)[:, None]).T @ normals
            M += (1e-4 * np.trace(M) + 1e-18) * np.eye(3)
            for _ in range(6):
                t = np.linalg.solve(M, t)
                t /= np.linalg.norm(t)
            scale = max(WEIGHT_SIGMA * sigma_rad, 0.4 * scale)
    t = min(found, key=lambda f: f[0])[1]
    across = t - (early @ t)[:, None] * early
    square = np.sum(across**2, axis=1)
    far = square > 1e-6
    share = np.clip(np.sum((late - early)[far] * across[far], axis=1) / square[far], -0.3, 0.3)
    return np.concatenate((np.zeros(3), t * float(share.sum()) / max(len(early), 1)))


def _refine(
    early: NDArray[np.float64], late: NDArray[np.float64], sigma_rad: float, open_to: float, motion: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], int]:
    motion = motion.copy()
    sideways = np.where(np.abs(early[:, :1]) < 0.6, [[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]])
    e1 = np.cross(early, sideways)
    e1 /= np.linalg.norm(e1, axis=1, keepdims=True)
    basis = np.stack((e1, np.cross(early, e1)), axis=1)  # (N, 2, 3)
    depth = np.sum(early * late, axis=1)
    u = np.einsum("nij,nj->ni", basis, late) / depth[:, None]
    turn_by = np.stack((-basis[:, 1], basis[:, 0]), axis=1)
    looseness = (sigma_rad / DEPTH_SPREAD) ** 2
    H, misfit2, root = np.eye(6), np.zeros(len(early)), np.ones(len(early))
    for turn in range(ITERATIONS):
        r = u - turn_by @ motion[:3]
        p = basis @ motion[3:]
        p2, along = np.sum(p * p, axis=1), np.sum(p * r, axis=1)
        far = ((along + looseness) / (p2 + looseness) - 1.0) / DEPTH_SPREAD
        loose = looseness / (1.0 + far**2)
        share = (along + loose) / (p2 + loose)
        e = r - share[:, None] * p
        misfit2 = np.sum(e * e, axis=1) / sigma_rad**2
        root = 1.0 / (1.0 + misfit2 / (WEIGHT_SIGMA * max(1.0, open_to * 0.1**turn)) ** 2)
        w = root**2 / sigma_rad**2
        J = np.concatenate((turn_by, share[:, None, None] * basis), axis=2)  # (N, 2, 6)
        W = w[:, None, None] * (np.eye(2) - p[:, :, None] * p[:, None, :] / (p2 + loose)[:, None, None])
        H = np.einsum("nia,nij,njb->ab", J, W, J)
        g = np.einsum("nia,n,ni->a", J, w, e)
        held = HELD if open_to == OPEN_TO_ALL and turn < HELD_ITERATIONS else 1.0
        H[3:, 3:] += held * np.eye(3) / MIN_PARALLAX_PRIOR**2
        g[3:] -= held * motion[3:] / MIN_PARALLAX_PRIOR**2
        step = np.linalg.solve(H, g)
        motion += step
        if float(step[:3] @ step[:3]) < 1e-14 and turn > 5:
            break
    covariance = np.asarray(np.linalg.inv(H)[:3, :3], np.float64)
    return motion, covariance, np.asarray(np.sqrt(misfit2), np.float64), int(np.sum(root > 0.5))
