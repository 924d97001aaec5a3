"""Planar scan matching by normal distributions (Biber & Strasser, IROS 2003), for a search over many starts.

A pose (x, y, yaw) maps current to previous sensor frame: p_prev = R(yaw) p + (x, y). Driving forward is x > 0.

Points are taken in blocks that stay in the first-level cache: where they fall, and what all of them add up to, are
vectorised; only fetching their cells is not. Sums over a block may be taken in any order ("reassoc").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.scan_match import build_surfaces
from edgeguard.kernels.scratch import Scratch

SETTLED_M, SETTLED_RAD = 1e-4, 1e-6
SLACK = 1e-3  # metres and radians by which a Newton step may always differ
_BLOCK = 256
_ROWS = 9  # of block memory: rotated x and y, moved x and y, inverse covariance xx, xy and yy, live, weight
_SUMS = 17
_TAIL = 32.0  # exp(-32) is nothing
_scratch = Scratch()


@dataclass(frozen=True, slots=True, eq=False)
class Normals:
    """Normal distributions of the occupied cells of a square grid centred on the sensor.

    index: (side * side + 1,) int32, row of `cells` for each square, 0 for none; the last is for what lies outside.
    cells: (C, 6) float64: mean x and y, inverse covariance xx, xy and yy, and 1; row 0 is zeros. cell_m: cell edge.
    """

    index: NDArray[np.int32]
    cells: NDArray[np.float64]
    side: int
    cell_m: float


def build_normals(xy: NDArray[np.float32], cell_m: float, side: int, max_sigma: float) -> Normals:
    """Normal distribution per cell; cells with fewer than `scan_match.MIN_CELL_POINTS` or no surface have none.

    Args:
        xy: (N, 2) float32, metres. cell_m: cell edge. side: cells per axis. max_sigma: of a surface, metres: foliage
            and clutter are thicker; their sampling moves with the sensor, so that they would vote for rest.
    """
    index = np.empty(side * side + 1, np.int32)
    room = min(xy.shape[0], side * side) + 1
    cells = _scratch.array("cells", 6 * room, np.float64).reshape(room, 6)
    live = _scratch.array("live", room, np.int32)
    index[-1] = 0
    count = build_surfaces(xy, cell_m, max_sigma, index[:-1].reshape(side, side), cells, live)
    kept = cells[:count].copy()
    kept[1:, 5] = 1.0
    return Normals(index, kept, side, cell_m)


@njit("void(f4[::1], f8[::1], i8, f8, f8[:,::1], i4[::1])", cache=True, nogil=True)
def _place(
    flat: NDArray[np.float32],
    pose: NDArray[np.float64],
    side: int,
    cell_m: float,
    block: NDArray[np.float64],
    square: NDArray[np.int32],
) -> None:
    """Rotated and moved points of a block, and the square each falls into."""
    rx, ry, mx, my = block[0], block[1], block[2], block[3]
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    dx, dy = pose[0], pose[1]
    half = 0.5 * side * cell_m
    inverse = 1.0 / cell_m
    columns = np.int32(side)
    last = np.int32(side - 1)
    outside = np.int32(side * side)
    for t in range(np.uint64(flat.shape[0] // 2)):
        px = np.float64(flat[np.uint64(2) * t])
        py = np.float64(flat[np.uint64(2) * t + np.uint64(1)])
        turned_x = cos * px - sin * py
        turned_y = sin * px + cos * py
        x = turned_x + dx
        y = turned_y + dy
        inside = (abs(x) < half) & (abs(y) < half)
        a = min(np.int32((x + half) * inverse), last)
        b = min(np.int32((y + half) * inverse), last)
        square[t] = a * columns + b if inside else outside
        rx[t] = turned_x
        ry[t] = turned_y
        mx[t] = x
        my[t] = y


@njit("void(i4[::1], i4[::1], f8[:,::1], f8[:,::1])", cache=True, nogil=True)
def _fetch(
    square: NDArray[np.int32], index: NDArray[np.int32], cells: NDArray[np.float64], block: NDArray[np.float64]
) -> None:
    """Turn moved points into errors against their cells, with the cells' inverse covariances."""
    mx, my, xx, xy, yy, live = block[2], block[3], block[4], block[5], block[6], block[7]
    for t in range(np.uint64(square.shape[0])):
        c = np.uint64(index[np.uint64(square[t])])
        mx[t] -= cells[c, 0]
        my[t] -= cells[c, 1]
        xx[t] = cells[c, 2]
        xy[t] = cells[c, 3]
        yy[t] = cells[c, 4]
        live[t] = cells[c, 5]


@njit("f8(i8, f8[:,::1])", cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _weigh(count: int, block: NDArray[np.float64]) -> float:
    """Weight of each point, exp(-q / 2) to 4e-8 of itself, 0 without a cell; returns the sum."""
    ex, ey, xx, xy, yy, live, weight = block[2], block[3], block[4], block[5], block[6], block[7], block[8]
    total = 0.0
    for t in range(np.uint64(count)):
        x, y = ex[t], ey[t]
        q = 0.5 * (x * x * xx[t] + 2.0 * x * y * xy[t] + y * y * yy[t])
        u = (q if q < _TAIL else _TAIL) / _TAIL
        # a Chebyshev fit of exp(-u) over 0..1, raised to the 32nd power
        p = -0.00012118171798647381
        p = p * u + 0.001274089960247693
        p = p * u - 0.008240356909922752
        p = p * u + 0.04162415464252334
        p = p * u - 0.16665600674645908
        p = p * u + 0.499998679397903
        p = p * u - 0.9999999374035059
        p = p * u + 0.9999999995114079
        p *= p
        p *= p
        p *= p
        p *= p
        p *= p
        w = live[t] * p
        weight[t] = w
        total += w
    return total


@njit("void(i8, f8[:,::1], f8[::1])", cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _add_up(count: int, block: NDArray[np.float64], sums: NDArray[np.float64]) -> None:
    """Add a block's gradient, Gauss-Newton Hessian, and what a true Hessian has besides."""
    rx, ry, ex, ey, xx, xy, yy, weight = (
        block[0], block[1], block[2], block[3], block[4], block[5], block[6], block[8],
    )  # fmt: skip
    g0 = g1 = g2 = h00 = h01 = h11 = h02 = h12 = h22 = 0.0
    u00 = u01 = u11 = u02 = u12 = u22 = turn = 0.0
    for t in range(np.uint64(count)):
        w, x, y = weight[t], rx[t], ry[t]
        fx = xx[t] * ex[t] + xy[t] * ey[t]
        fy = xy[t] * ex[t] + yy[t] * ey[t]
        fa = x * fy - y * fx
        kx = xy[t] * x - xx[t] * y
        ky = yy[t] * x - xy[t] * y
        wx, wy, wa = w * fx, w * fy, w * fa
        g0 += wx
        g1 += wy
        g2 += wa
        h00 += w * xx[t]
        h01 += w * xy[t]
        h11 += w * yy[t]
        h02 += w * kx
        h12 += w * ky
        h22 += w * (x * ky - y * kx)
        u00 += wx * fx
        u01 += wx * fy
        u11 += wy * fy
        u02 += wx * fa
        u12 += wy * fa
        u22 += wa * fa
        turn += wx * x + wy * y
    sums[1] += g0
    sums[2] += g1
    sums[3] += g2
    sums[4] += h00
    sums[5] += h01
    sums[6] += h11
    sums[7] += h02
    sums[8] += h12
    sums[9] += h22
    sums[10] += u00
    sums[11] += u01
    sums[12] += u11
    sums[13] += u02
    sums[14] += u12
    sums[15] += u22
    sums[16] += turn


@njit("void(f4[::1], f8[::1], i8, f8, f4[:,::1], i4[::1])", cache=True, nogil=True)
def _place_single(
    flat: NDArray[np.float32],
    pose: NDArray[np.float64],
    side: int,
    cell_m: float,
    block: NDArray[np.float32],
    square: NDArray[np.int32],
) -> None:
    """Moved points of a block, and the square each falls into."""
    mx, my = block[0], block[1]
    cos, sin = np.float32(np.cos(pose[2])), np.float32(np.sin(pose[2]))
    dx, dy = np.float32(pose[0]), np.float32(pose[1])
    half, inverse = np.float32(0.5 * side * cell_m), np.float32(1.0 / cell_m)
    columns, last, outside = np.int32(side), np.int32(side - 1), np.int32(side * side)
    for t in range(np.uint64(flat.shape[0] // 2)):
        px, py = flat[np.uint64(2) * t], flat[np.uint64(2) * t + np.uint64(1)]
        x = cos * px - sin * py + dx
        y = sin * px + cos * py + dy
        inside = (abs(x) < half) & (abs(y) < half)
        a = min(np.int32((x + half) * inverse), last)
        b = min(np.int32((y + half) * inverse), last)
        square[t] = a * columns + b if inside else outside
        mx[t] = x
        my[t] = y


@njit("f4(i4[::1], i4[::1], f4[:,::1], f4[:,::1])", cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _weigh_single(
    square: NDArray[np.int32], index: NDArray[np.int32], cells: NDArray[np.float32], block: NDArray[np.float32]
) -> float:
    """Sum of the weights of a block's points, as of `_weigh`, to a millionth."""
    mx, my, xx, xy, yy = block[0], block[1], block[2], block[3], block[4]
    n = np.uint64(0)
    for t in range(np.uint64(square.shape[0])):  # those without a cell are overwritten by the next
        c = np.uint64(index[np.uint64(square[t])])
        mx[n] = mx[t] - cells[c, 0]
        my[n] = my[t] - cells[c, 1]
        xx[n] = cells[c, 2]
        xy[n] = cells[c, 3]
        yy[n] = cells[c, 4]
        n += np.uint64(c > np.uint64(0))
    total = np.float32(0.0)
    tail, per_tail, one, two = np.float32(_TAIL), np.float32(1.0 / _TAIL), np.float32(1.0), np.float32(2.0)
    for t in range(n):
        x, y = mx[t], my[t]
        q = np.float32(0.5) * (x * x * xx[t] + two * x * y * xy[t] + y * y * yy[t])
        u = (q if q < tail else tail) * per_tail
        # Taylor's series of exp(-u) over 0..1, raised to the 32nd power: what the last term leaves counts where u is
        # large, and there nothing is left of the power
        p = np.float32(-1.0 / 120.0)
        p = p * u + np.float32(1.0 / 24.0)
        p = p * u - np.float32(1.0 / 6.0)
        p = p * u + np.float32(0.5)
        p = p * u - one
        p = p * u + one
        p *= p
        p *= p
        p *= p
        p *= p
        p *= p
        total += p
    return total  # type: ignore[return-value]  # float32 is a float to numba


@njit(
    "void(f4[::1], f8[:,::1], i4[::1], f4[:,::1], i8, f8, f4[:,::1], i4[::1], f8[::1])",
    cache=True,
    nogil=True,
)
def _scores(
    flat: NDArray[np.float32],
    poses: NDArray[np.float64],
    index: NDArray[np.int32],
    cells: NDArray[np.float32],
    side: int,
    cell_m: float,
    block: NDArray[np.float32],
    square: NDArray[np.int32],
    out: NDArray[np.float64],
) -> None:
    n = flat.shape[0] // 2
    for k in range(poses.shape[0]):
        total = 0.0
        for begin in range(0, n, _BLOCK):
            count = min(_BLOCK, n - begin)
            _place_single(flat[2 * begin : 2 * (begin + count)], poses[k], side, cell_m, block, square)
            total += np.float64(_weigh_single(square[:count], index, cells, block))
        out[k] = total / max(n, 1)


@njit("b1(f8, f8, f8, f8, f8, f8, f8[::1], f8[::1])", cache=True, nogil=True, error_model="numpy")
def _solve(
    a00: float,
    a01: float,
    a11: float,
    a02: float,
    a12: float,
    a22: float,
    g: NDArray[np.float64],
    step: NDArray[np.float64],
) -> bool:
    """Step of a symmetric system of three, by Cramer's rule; false where it is not positive definite."""
    m0 = a11 * a22 - a12 * a12
    m1 = a01 * a22 - a12 * a02
    m2 = a01 * a12 - a11 * a02
    det = a00 * m0 - a01 * m1 + a02 * m2
    if not (det > 1e-12 and a00 > 0.0 and a00 * a11 - a01 * a01 > 0.0):
        return False
    step[0] = (g[0] * m0 - a01 * (g[1] * a22 - a12 * g[2]) + a02 * (g[1] * a12 - a11 * g[2])) / det
    step[1] = (a00 * (g[1] * a22 - g[2] * a12) - g[0] * m1 + a02 * (a01 * g[2] - g[1] * a02)) / det
    step[2] = (a00 * (a11 * g[2] - a12 * g[1]) - a01 * (a01 * g[2] - g[1] * a02) + g[0] * m2) / det
    return True


@njit(
    "f8(f4[::1], f8[::1], i4[::1], f8[:,::1], i8, f8, i8, f8, f8, f8[:,::1], i4[::1], f8[::1])",
    cache=True,
    nogil=True,
)
def _refine(
    flat: NDArray[np.float32],
    pose: NDArray[np.float64],
    index: NDArray[np.int32],
    cells: NDArray[np.float64],
    side: int,
    cell_m: float,
    iterations: int,
    settled_m: float,
    settled_rad: float,
    block: NDArray[np.float64],
    square: NDArray[np.int32],
    sums: NDArray[np.float64],
) -> float:
    """Iterate `pose` in place; sums are those of the last linearisation."""
    n = flat.shape[0] // 2
    step, newton = np.zeros(3), np.zeros(3)
    for _ in range(iterations):
        sums[:] = 0.0
        for begin in range(0, n, _BLOCK):
            count = min(_BLOCK, n - begin)
            _place(flat[2 * begin : 2 * (begin + count)], pose, side, cell_m, block, square)
            _fetch(square[:count], index, cells, block)
            sums[0] += _weigh(count, block)
            _add_up(count, block, sums)
        g, h, u = sums[1:4], sums[4:10], sums[10:16]
        if not _solve(h[0] + 1e-9, h[1], h[2] + 1e-9, h[3], h[4], h[5] + 1e-9, g, step):
            break  # nothing to hold on to: the pose stays where it is
        # Near the answer the true Hessian takes fewer steps; a step much longer than Gauss and Newton's is no step.
        bent = _solve(
            h[0] - u[0], h[1] - u[1], h[2] - u[2], h[3] - u[3], h[4] - u[4], h[5] - u[5] - sums[16], g, newton
        )
        for a in range(3):
            bent = bent and abs(newton[a]) <= 4.0 * abs(step[a]) + SLACK
        for a in range(3):  # one by one: copying an array into another would compile half of numba's strings
            step[a] = newton[a] if bent else step[a]
            pose[a] -= step[a]
        if abs(step[0]) < settled_m and abs(step[1]) < settled_m and abs(step[2]) < settled_rad:
            break
    score: float = sums[0] / max(n, 1)
    return score


def score_poses(xy: NDArray[np.float32], poses: NDArray[np.float64], normals: Normals) -> NDArray[np.float64]:
    """Mean NDT score, 0..1, of each pose, within 1e-5. xy: (N, 2) float32 current points; poses: (K, 3) float64.

    Single precision is enough to choose starts by.
    """
    out = np.empty(poses.shape[0], np.float64)
    block = _scratch.array("single", 5 * _BLOCK, np.float32).reshape(5, _BLOCK)
    square, cells = _scratch.array("square", _BLOCK, np.int32), normals.cells.astype(np.float32)
    _scores(xy.reshape(-1), poses, normals.index, cells, normals.side, normals.cell_m, block, square, out)
    return out


def refine_pose(
    xy: NDArray[np.float32],
    start: NDArray[np.float64],
    normals: Normals,
    iterations: int,
    settled_m: float = SETTLED_M,
    settled_rad: float = SETTLED_RAD,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Climb the NDT score from a start pose, by Newton's steps where they are safe, else by Gauss and Newton's.

    Args:
        xy: (N, 2) float32 current points. start: (3,) float64. iterations: at most so many.
        settled_m, settled_rad: a step that is shorter is the last.

    Returns the pose (3,), the Gauss-Newton Hessian (3, 3) of the weighted squared error in units of the cells' own
    covariances (its inverse bounds the pose covariance), and the mean score at the last linearisation.
    """
    pose = start.astype(np.float64)
    block, square = _memory()
    sums = np.zeros(_SUMS)
    score = _refine(
        xy.reshape(-1), pose, normals.index, normals.cells, normals.side, normals.cell_m, iterations, settled_m,
        settled_rad, block, square, sums,
    )  # fmt: skip
    h = sums[4:10]
    return pose, np.array([[h[0], h[1], h[3]], [h[1], h[2], h[4]], [h[3], h[4], h[5]]]), score


def _memory() -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    block = _scratch.array("block", _ROWS * _BLOCK, np.float64).reshape(_ROWS, _BLOCK)
    return block, _scratch.array("square", _BLOCK, np.int32)
