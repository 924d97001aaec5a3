"""The ground as one plane: random triples (RANSAC, Fischler & Bolles 1981), then a local search.

The search is least squares on what agrees, then small steps of slope and height as long as more points agree. Only
triples whose plane could be driven on are counted at all, and they are counted on every k-th point; the whole
sweep is read by the least-squares passes alone. Which triples are tried is the caller's choice, so that a run can be
repeated. Of the planes near the road, the one with the most inliers is wanted: kerbs and plants within the threshold
pull it up by some centimetres.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.scratch import Scratch

COUNTED = 8_000  # points that vote on a triple: the share of inliers is then known to one percent
REFINEMENTS = 3
SLOPE_STEP, HEIGHT_STEP_M = 0.004, 0.04  # first steps of the search, of the size of what least squares is off by
HALVINGS = 3
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_scratch = Scratch()


@njit("i8(f8[::1], f8[::1], f8[::1], f8, f8, f8, f8)", cache=True, nogil=True)
def _votes(
    x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64], a: float, b: float, c: float, reach: float
) -> int:
    """Points whose z is within `reach` of a * x + b * y + c."""
    votes = 0
    for i in range(np.uint64(x.shape[0])):
        votes += abs(z[i] - (a * x[i] + b * y[i] + c)) <= reach
    return votes


@njit("Tuple((f8, f8, f8, i8))(f4[:,::1], f8[:,::1], i4[:,::1], f8, f8)", cache=True, nogil=True, error_model="numpy")
def _best_triple(
    xyz: NDArray[np.float32],
    some: NDArray[np.float64],
    triples: NDArray[np.int32],
    threshold_m: float,
    max_slope: float,
) -> tuple[float, float, float, int]:
    best = 0
    slope_x = slope_y = level = 0.0
    for k in range(triples.shape[0]):
        p = xyz[triples[k, 0]]
        q = xyz[triples[k, 1]]
        r = xyz[triples[k, 2]]
        ux = np.float64(q[0]) - np.float64(p[0])
        uy = np.float64(q[1]) - np.float64(p[1])
        uz = np.float64(q[2]) - np.float64(p[2])
        vx = np.float64(r[0]) - np.float64(p[0])
        vy = np.float64(r[1]) - np.float64(p[1])
        vz = np.float64(r[2]) - np.float64(p[2])
        nz = ux * vy - uy * vx
        a = (vy * uz - uy * vz) / nz
        b = (ux * vz - vx * uz) / nz
        if not (a * a + b * b <= max_slope * max_slope):
            continue
        c = np.float64(p[2]) - a * np.float64(p[0]) - b * np.float64(p[1])
        reach = threshold_m * np.sqrt(1.0 + a * a + b * b)
        votes = _votes(some[0], some[1], some[2], a, b, c, reach)
        if votes > best:
            best = votes
            slope_x, slope_y, level = a, b, c
    return slope_x, slope_y, level, best


@njit("Tuple((f8, f8, f8, i8))(f4[::1], f8, f8, f8, f8)", cache=True, nogil=True, error_model="numpy")
def _least_squares(
    flat: NDArray[np.float32], a: float, b: float, c: float, threshold_m: float
) -> tuple[float, float, float, int]:
    """Plane through the points near a plane, by least squares in z; and how many were near."""
    reach = threshold_m * np.sqrt(1.0 + a * a + b * b)
    n = sx = sy = sz = sxx = sxy = syy = sxz = syz = 0.0
    for i in range(np.uint64(flat.shape[0]) // _THREE):
        j = i * _THREE
        x = np.float64(flat[j])
        y = np.float64(flat[j + _ONE])
        e = np.float64(flat[j + _TWO]) - (a * x + b * y + c)
        if abs(e) <= reach:
            n += 1.0
            sx += x
            sy += y
            sz += e
            sxx += x * x
            sxy += x * y
            syy += y * y
            sxz += x * e
            syz += y * e
    # the residuals are fitted, not the heights: small numbers keep their digits
    mx, my, mz = sx / n, sy / n, sz / n
    xx = sxx / n - mx * mx
    xy = sxy / n - mx * my
    yy = syy / n - my * my
    xz = sxz / n - mx * mz
    yz = syz / n - my * mz
    det = xx * yy - xy * xy
    if not (n >= 3.0 and det > 1e-9):
        return a, b, c, int(n)
    da = (xz * yy - yz * xy) / det
    db = (yz * xx - xz * xy) / det
    return a + da, b + db, c + mz - da * mx - db * my, int(n)


@njit("Tuple((f8, f8, f8))(f8[:,::1], f8, f8, f8, f8, f8)", cache=True, nogil=True)
def _climb(
    some: NDArray[np.float64], a: float, b: float, c: float, threshold_m: float, max_slope: float
) -> tuple[float, float, float]:
    """Pattern search for more votes: one parameter at a time, both ways, then with half the step."""
    at = np.array([a, b, c])
    step = np.array([SLOPE_STEP, SLOPE_STEP, HEIGHT_STEP_M])
    best = _votes(some[0], some[1], some[2], a, b, c, threshold_m * np.sqrt(1.0 + a * a + b * b))
    for _ in range(HALVINGS):
        for k in range(3):
            for sign in (1.0, -1.0):
                next_ = at.copy()
                next_[k] += sign * step[k]
                slope2 = next_[0] * next_[0] + next_[1] * next_[1]
                if slope2 > max_slope * max_slope:
                    continue
                reach = threshold_m * np.sqrt(1.0 + slope2)
                votes = _votes(some[0], some[1], some[2], next_[0], next_[1], next_[2], reach)
                if votes > best:
                    best = votes
                    at = next_
                    break
        step *= 0.5
    return at[0], at[1], at[2]


def fit_ground(
    xyz: NDArray[np.float32], triples: NDArray[np.int32], threshold_m: float, max_slope: float
) -> tuple[NDArray[np.float64], int]:
    """Plane with the most points near it, among those that could be ground.

    Args:
        xyz: (N, 3) float32, C-contiguous, metres, z up; points that are not finite agree with no plane.
        triples: (K, 3) int32, indices of points whose planes are tried.
        threshold_m: a point is an inlier when no farther from the plane than this.
        max_slope: steepest plane, as a tangent.

    Returns the plane (4,) float64 as (nx, ny, nz, d), the normal of unit length and upwards, with n . p + d = 0 on the
    plane, and the number of inliers; NaN and 0 when no triple gave a plane.

    Raises IndexError for a triple that names no point.
    """
    n = xyz.shape[0]
    if triples.size and not (triples.min() >= 0 and triples.max() < n):
        raise IndexError("a triple names a point that does not exist")
    step = max(1, n // COUNTED)
    count = -(-n // step)
    some = _scratch.array("some", 3 * count, np.float64).reshape(3, count)
    some[:] = xyz[::step].T
    a, b, c, votes = _best_triple(xyz, some, triples, threshold_m, max_slope)
    if votes == 0:
        return np.full(4, np.nan), 0
    flat = xyz.reshape(-1)
    for _ in range(REFINEMENTS):
        d, e, f, _ = _least_squares(flat, a, b, c, threshold_m)
        if not d * d + e * e <= max_slope * max_slope:
            break
        a, b, c = d, e, f
    a, b, c = _climb(some, a, b, c, threshold_m, max_slope)
    inliers = _least_squares(flat, a, b, c, threshold_m)[3]
    return np.array([-a, -b, 1.0, -c]) / np.sqrt(1.0 + a * a + b * b), int(inliers)
