"""Camera rotation from feature tracks: gyro integration between exposures, and the rotation that it leaves unexplained.

A track gives two unit bearings. Rotation moves all bearings alike, translation moves each along the plane through the
bearing and the direction of travel, by an unknown amount. Here both are solved for together, with each point's share of
the translation as a nuisance with a wide prior: at rest all of a track counts, in fast traffic only what lies across
the direction of travel, and everything between comes out of the same normal equations (Gauss-Newton, Geman-McClure
weights, the nuisance eliminated by its Schur complement).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

ITERATIONS = 12
DIRECTION_ITERATIONS = 8
DIRECTION_SCALE = 0.02  # rad, of the first step
# The first steps listen to everybody, however far off: a gyro that is wrong by degrees moves all points alike.
OPEN_TO_ALL, OPEN_TO_NEAR = 300.0, 10.0
DEPTH_SPREAD = 1.0  # a point's parallax against the mean's: from far away to twice, and more at a price
MIN_PARALLAX_PRIOR = 1.0  # rad, on the translation: wide, only keeps the equations solvable at rest
OUTLIER_COST = 100.0  # of a point that moves by itself; ten sigma
HELD, HELD_ITERATIONS = 1e14, 4
WEIGHT_SIGMA = 3.0  # residuals beyond this many sigma lose their say


@njit("f8[:,::1](f8[::1], f8[:,::1], f8, f8)", cache=True, nogil=True, error_model="numpy")
def integrate_rates(
    t_s: NDArray[np.float64], rate: NDArray[np.float64], start_s: float, end_s: float
) -> NDArray[np.float64]:
    """Rotation R_start_end of a body from its rates: maps vectors at `end_s` to the frame at `start_s`.

    t_s: (N,) rising seconds; rate: (N, 3) rad/s in the body's axes, N >= 2. Linear between samples, the outer ones are
    held outside. Exact for rates that are constant per step (Rodrigues), so that axes may turn on the way.
    """
    R = np.eye(3)
    n = t_s.shape[0]
    i = np.searchsorted(t_s, start_s)
    at = start_s
    before = np.empty(3)
    after = np.empty(3)
    A = np.empty((3, 3))
    B = np.empty((3, 3))
    while at < end_s:
        upto = end_s
        if i < n and t_s[i] < end_s:
            upto = t_s[i]
        dt = upto - at
        if dt > 0.0:
            for k in range(3):
                if i == 0:
                    before[k] = rate[0, k]
                    after[k] = rate[0, k]
                elif i >= n:
                    before[k] = rate[n - 1, k]
                    after[k] = rate[n - 1, k]
                else:
                    slope = (rate[i, k] - rate[i - 1, k]) / (t_s[i] - t_s[i - 1])
                    before[k] = rate[i - 1, k] + slope * (at - t_s[i - 1])
                    after[k] = rate[i - 1, k] + slope * (upto - t_s[i - 1])
            x = 0.5 * dt * (before[0] + after[0])
            y = 0.5 * dt * (before[1] + after[1])
            z = 0.5 * dt * (before[2] + after[2])
            angle2 = x * x + y * y + z * z
            s = 1.0 - angle2 / 6.0
            c = 0.5 - angle2 / 24.0
            if angle2 > 1e-6:
                angle = np.sqrt(angle2)
                s = np.sin(angle) / angle
                c = (1.0 - np.cos(angle)) / angle2
            A[0, 0] = 1.0 - c * (y * y + z * z)
            A[0, 1] = c * x * y - s * z
            A[0, 2] = c * x * z + s * y
            A[1, 0] = c * x * y + s * z
            A[1, 1] = 1.0 - c * (x * x + z * z)
            A[1, 2] = c * y * z - s * x
            A[2, 0] = c * x * z - s * y
            A[2, 1] = c * y * z + s * x
            A[2, 2] = 1.0 - c * (x * x + y * y)
            for a in range(3):
                for b in range(3):
                    B[a, b] = R[a, 0] * A[0, b] + R[a, 1] * A[1, b] + R[a, 2] * A[2, b]
            R[:, :] = B
        at = upto
        i += 1
    return R


@njit("i8(f8[:,::1], f8[::1])", cache=True, nogil=True, error_model="numpy")
def _cholesky(H: NDArray[np.float64], g: NDArray[np.float64]) -> int:
    """Solve H x = g in place for a positive definite H (lower triangle becomes its factor); 0 where it is none."""
    n = g.shape[0]
    for i in range(n):
        for j in range(i + 1):
            total = H[i, j]
            for k in range(j):
                total -= H[i, k] * H[j, k]
            if i == j:
                if not total > 0.0:
                    return 0
                H[i, i] = np.sqrt(total)
            else:
                H[i, j] = total / H[j, j]
    for i in range(n):
        for k in range(i):
            g[i] -= H[i, k] * g[k]
        g[i] /= H[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            g[i] -= H[k, i] * g[k]
        g[i] /= H[i, i]
    return 1


@njit("void(f8[:,::1], f8[:,::1], f8, f8[::1])", cache=True, nogil=True, error_model="numpy")
def _direction(
    early: NDArray[np.float64], late: NDArray[np.float64], sigma_rad: float, motion: NDArray[np.float64]
) -> None:
    """Start at no rotation: direction and mean of the parallax alone, into motion[3:].

    Every plane through a point's two bearings holds the direction of travel: the smallest eigenvector of the planes'
    normals, by inverse iteration, reweighted so that what moves by itself has no say. From three starts, one along each
    axis: reweighting finds the nearest answer, not the best.
    """
    n = early.shape[0]
    M = np.empty((3, 3))
    L = np.empty((3, 3))
    t = np.zeros(3)
    best = np.zeros(3)
    lowest = np.inf
    for first in range(3):
        t[:] = 0.1
        t[first] = 1.0
        scale = DIRECTION_SCALE
        for turn in range(DIRECTION_ITERATIONS + 1):
            M[:, :] = 0.0
            cost = 0.0
            for i in range(n):
                nx = early[i, 1] * late[i, 2] - early[i, 2] * late[i, 1]
                ny = early[i, 2] * late[i, 0] - early[i, 0] * late[i, 2]
                nz = early[i, 0] * late[i, 1] - early[i, 1] * late[i, 0]
                cx = early[i, 1] * t[2] - early[i, 2] * t[1]
                cy = early[i, 2] * t[0] - early[i, 0] * t[2]
                cz = early[i, 0] * t[1] - early[i, 1] * t[0]
                # noise grows with the distance from the point that all is heading for
                arm2 = cx * cx + cy * cy + cz * cz + 1e-4
                off = nx * t[0] + ny * t[1] + nz * t[2]
                off2 = off * off / (arm2 * scale * scale)
                cost += off2 / (1.0 + off2)
                w = 1.0 / ((1.0 + off2) * (1.0 + off2) * arm2)
                M[0, 0] += w * nx * nx
                M[1, 0] += w * nx * ny
                M[1, 1] += w * ny * ny
                M[2, 0] += w * nx * nz
                M[2, 1] += w * ny * nz
                M[2, 2] += w * nz * nz
            if turn == DIRECTION_ITERATIONS:
                if cost < lowest:
                    lowest = cost
                    best[:] = t
                break
            ridge = 1e-4 * (M[0, 0] + M[1, 1] + M[2, 2]) + 1e-18
            for k in range(3):
                M[k, k] += ridge
            for _ in range(6):
                L[:, :] = M
                if _cholesky(L, t) == 0:
                    return
                t /= np.sqrt(t[0] * t[0] + t[1] * t[1] + t[2] * t[2])
            scale = max(WEIGHT_SIGMA * sigma_rad, 0.4 * scale)
    t[:] = best
    # mean of the parallax along it, which also tells its sign
    total = 0.0
    for i in range(n):
        along = early[i, 0] * t[0] + early[i, 1] * t[1] + early[i, 2] * t[2]
        px = t[0] - along * early[i, 0]
        py = t[1] - along * early[i, 1]
        pz = t[2] - along * early[i, 2]
        p2 = px * px + py * py + pz * pz
        if p2 > 1e-6:
            d = (late[i, 0] - early[i, 0]) * px + (late[i, 1] - early[i, 1]) * py + (late[i, 2] - early[i, 2]) * pz
            total += min(max(d / p2, -0.3), 0.3)
    motion[3:] = t * (total / max(n, 1))


@njit("i8(f8[:,::1], f8[:,::1], f8, f8, f8[::1], f8[:,::1], f8[::1])", cache=True, nogil=True, error_model="numpy")
def _refine(
    early: NDArray[np.float64],
    late: NDArray[np.float64],
    sigma_rad: float,
    open_to: float,
    motion: NDArray[np.float64],
    covariance: NDArray[np.float64],
    residual: NDArray[np.float64],
) -> int:
    """`leftover_rotation` from the start in `motion`.

    Args:
        early, late: (N, 3) unit bearings of the same points; `late` already turned into the early frame.
        sigma_rad: noise of one coordinate of a bearing. open_to: how much wider the first steps listen.
        motion: (6,) where to start, and where that led: rotation and mean parallax.
        covariance: (3, 3) written: of the rotation, parallax and depths marginalised.
        residual: (N,) written: what is left of each track across its own parallax, in sigma.

    Returns how many tracks kept at least half of their weight; 0 where the equations could not be solved.
    """
    n = early.shape[0]
    H = np.empty((6, 6))
    g = np.empty(6)
    J = np.empty((2, 6))
    inverse = 1.0 / (sigma_rad * sigma_rad)
    looseness = sigma_rad * sigma_rad / (DEPTH_SPREAD * DEPTH_SPREAD)
    kept = 0
    for turn in range(ITERATIONS):
        H[:, :] = 0.0
        g[:] = 0.0
        kept = 0
        wide = max(1.0, open_to * 0.1**turn)
        cut2 = WEIGHT_SIGMA * WEIGHT_SIGMA * wide * wide
        # Movers must not be taken for parallax before the rotation that all share is known.
        held = HELD if open_to == OPEN_TO_ALL and turn < HELD_ITERATIONS else 1.0
        for k in range(3, 6):
            H[k, k] = held / (MIN_PARALLAX_PRIOR * MIN_PARALLAX_PRIOR)
            g[k] = -motion[k] * H[k, k]
        for i in range(n):
            fx = early[i, 0]
            fy = early[i, 1]
            fz = early[i, 2]
            depth = fx * late[i, 0] + fy * late[i, 1] + fz * late[i, 2]
            if not depth > 0.5:
                residual[i] = np.inf
                continue
            # a basis across the bearing: e1 from the axis that it points along least
            if abs(fx) < 0.6:
                s = 1.0 / np.sqrt(fy * fy + fz * fz)
                ax, ay, az = 0.0, fz * s, -fy * s
            else:
                s = 1.0 / np.sqrt(fx * fx + fy * fy)
                ax, ay, az = fy * s, -fx * s, 0.0
            bx = fy * az - fz * ay
            by = fz * ax - fx * az
            bz = fx * ay - fy * ax
            u = (ax * late[i, 0] + ay * late[i, 1] + az * late[i, 2]) / depth
            v = (bx * late[i, 0] + by * late[i, 1] + bz * late[i, 2]) / depth
            # e1 x f = -e2, e2 x f = e1
            ru = u + bx * motion[0] + by * motion[1] + bz * motion[2]
            rv = v - ax * motion[0] - ay * motion[1] - az * motion[2]
            pu = ax * motion[3] + ay * motion[4] + az * motion[5]
            pv = bx * motion[3] + by * motion[4] + bz * motion[5]
            p2 = pu * pu + pv * pv
            # a depth far from the mean's is believed the less bound to it: streets have heavy tails
            far = ((pu * ru + pv * rv + looseness) / (p2 + looseness) - 1.0) / DEPTH_SPREAD
            loose = looseness / (1.0 + far * far)
            share = (pu * ru + pv * rv + loose) / (p2 + loose)
            eu = ru - share * pu
            ev = rv - share * pv
            misfit2 = (eu * eu + ev * ev) * inverse
            residual[i] = np.sqrt(misfit2)
            root = 1.0 / (1.0 + misfit2 / cut2)
            w = root * root
            if root > 0.5:
                kept += 1
            J[0, 0], J[0, 1], J[0, 2] = -bx, -by, -bz
            J[1, 0], J[1, 1], J[1, 2] = ax, ay, az
            J[0, 3], J[0, 4], J[0, 5] = share * ax, share * ay, share * az
            J[1, 3], J[1, 4], J[1, 5] = share * bx, share * by, share * bz
            q = 1.0 / (p2 + loose)
            wuu = w * inverse * (1.0 - pu * pu * q)
            wuv = -w * inverse * pu * pv * q
            wvv = w * inverse * (1.0 - pv * pv * q)
            for a in range(6):
                ju = wuu * J[0, a] + wuv * J[1, a]
                jv = wuv * J[0, a] + wvv * J[1, a]
                g[a] += w * inverse * (J[0, a] * eu + J[1, a] * ev)
                for b in range(a + 1):
                    H[a, b] += ju * J[0, b] + jv * J[1, b]
        if _cholesky(H, g) == 0:
            return 0
        motion += g
        if g[0] * g[0] + g[1] * g[1] + g[2] * g[2] < 1e-14 and turn > 5:
            break
    # H holds its factor now: three columns of the inverse
    for c in range(3):
        for k in range(6):
            g[k] = 0.0
        g[c] = 1.0
        for i in range(6):
            for k in range(i):
                g[i] -= H[i, k] * g[k]
            g[i] /= H[i, i]
        for i in range(5, -1, -1):
            for k in range(i + 1, 6):
                g[i] -= H[k, i] * g[k]
            g[i] /= H[i, i]
        for k in range(3):
            covariance[k, c] = g[k]
    return kept


@njit("f8(f8[:,::1], f8, f8[::1], f8[::1])", cache=True, nogil=True, error_model="numpy")
def _cost(
    early: NDArray[np.float64], sigma_rad: float, motion: NDArray[np.float64], residual: NDArray[np.float64]
) -> float:
    """Minus log evidence of a solution: what it leaves, and the freedom that its parallax gave each point.

    Without the second a translation that nobody made would always win, because each point may take what it likes of it.
    """
    total = 0.0
    size2 = motion[3] * motion[3] + motion[4] * motion[4] + motion[5] * motion[5]
    for i in range(residual.shape[0]):
        along = early[i, 0] * motion[3] + early[i, 1] * motion[4] + early[i, 2] * motion[5]
        freedom = (size2 - along * along) * (DEPTH_SPREAD / sigma_rad) ** 2
        r2 = residual[i] * residual[i]
        total += r2 / (1.0 + r2 / OUTLIER_COST) if r2 < np.inf else OUTLIER_COST
        total += np.log1p(max(freedom, 0.0))
    return total


@njit("i8(f8[:,::1], f8[:,::1], f8, f8[::1], f8[:,::1], f8[::1])", cache=True, nogil=True, error_model="numpy")
def leftover_rotation(
    early: NDArray[np.float64],
    late: NDArray[np.float64],
    sigma_rad: float,
    motion: NDArray[np.float64],
    covariance: NDArray[np.float64],
    residual: NDArray[np.float64],
) -> int:
    """Rotation and translation that are left between bearings after a predicted rotation was taken out.

    Two starts: all is rotation, and all is translation; the better explanation wins.

    Args:
        early, late: (N, 3) unit bearings of the same points; `late` already turned into the early frame.
        sigma_rad: noise of one coordinate of a bearing.
        motion: (6,) written: rotation vector (rad, camera minus prediction, early frame) and mean parallax vector.
        covariance: (3, 3) written: of the rotation, parallax and depths marginalised.
        residual: (N,) written: what is left of each track across its own parallax, in sigma.

    Returns how many tracks kept at least half of their weight; 0 where the equations could not be solved.
    """
    motion[:] = 0.0
    kept: int = _refine(early, late, sigma_rad, OPEN_TO_ALL, motion, covariance, residual)
    other = np.zeros(6)
    other_covariance = np.empty((3, 3))
    other_residual = np.empty(residual.shape[0])
    _direction(early, late, sigma_rad, other)
    other_kept: int = _refine(early, late, sigma_rad, OPEN_TO_NEAR, other, other_covariance, other_residual)
    if other_kept > 0 and (
        kept == 0 or _cost(early, sigma_rad, other, other_residual) < _cost(early, sigma_rad, motion, residual)
    ):
        motion[:] = other
        covariance[:, :] = other_covariance
        residual[:] = other_residual
        return other_kept
    return kept
