"""Planar scan matching from coarse to fine, for two sets of upright points a known start apart.

Normal distributions per cell (Biber & Strasser, IROS 2003) as in `motion`, with three differences that make it exact
and fast: cells shrink from level to level, so that the last ones are flat pieces of surface; only occupied cells are
stored; and points far from their cell's surface are weighed down by Geman-McClure's function, which needs no
exponential. The last level has two grids, half a cell apart along both axes, and takes their mean: where one cuts a
surface, the other does not (the paper's overlapping grids, of which two do nearly what four do). A pose (x, y, yaw)
maps current to previous sensor frame: p_prev = R(yaw) p + (x, y).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.scratch import Scratch

CELLS_M = (2.0, 1.0, 0.5, 0.25)  # the first reaches a metre beyond the start, the last is a wall's roughness wide
REACH_M = 70.0
COARSE_POINTS = 3_000  # enough for a level whose answer is only the next one's start
ITERATIONS = 15  # per level; three to six are usual
SETTLED_M, SETTLED_RAD = 1e-4, 1e-5  # steps of the last level; of the others a hundredth of a cell is enough
COARSE_SHARE = 0.01
MIN_CELL_POINTS = 5  # fewer give no covariance worth inverting
ALONG_M = 2.0  # along a surface a cell knows next to nothing: points slide
NOISE_M = 0.05  # range noise plus beam footprint: the thinnest surface a cell may claim
MAX_ROUGHNESS = 0.3  # sigma over cell edge; a cell filled evenly has 0.29, so that foliage does not vote
_MIN_ROUGHNESS_M = 0.1
_scratch = Scratch()


@njit("i8(f4[:,::1], f8, f8, i4[:,::1], f8[:,::1], i4[::1])", cache=True, nogil=True, error_model="numpy")
def build_surfaces(
    xy: NDArray[np.float32],
    cell_m: float,
    max_sigma_m: float,
    index: NDArray[np.int32],
    cells: NDArray[np.float64],
    live: NDArray[np.int32],
) -> int:
    """Cells of the points: mean x, mean y, inverse covariance xx, xy, yy. index: cell of each square, 0 for none.

    cells: row 0 becomes zeros. live: square of each cell, written; returns one more than there are. Squares whose
    points make no surface end at 0.
    """
    side = index.shape[0]
    half = 0.5 * side * cell_m
    flat = index.reshape(-1)
    flat[:] = 0
    cells[0, :] = 0.0
    inverse = 1.0 / cell_m
    count = 1
    for i in range(xy.shape[0]):
        x = float(xy[i, 0])
        y = float(xy[i, 1])
        if not ((abs(x) < half) & (abs(y) < half)):
            continue
        a = min(np.uint64(np.int32((x + half) * inverse)), np.uint64(side - 1))
        b = min(np.uint64(np.int32((y + half) * inverse)), np.uint64(side - 1))
        square = a * np.uint64(side) + b
        if flat[square] == 0:
            flat[square] = count
            live[count] = np.int32(square)
            cells[count, :] = 0.0
            count += 1
        # sums are taken from the cell's corner, so that squares keep their digits
        c = np.uint64(flat[square])
        x -= np.float64(a) * cell_m - half
        y -= np.float64(b) * cell_m - half
        cells[c, 0] += x
        cells[c, 1] += y
        cells[c, 2] += x * x
        cells[c, 3] += x * y
        cells[c, 4] += y * y
        cells[c, 5] += 1.0
    floor2 = NOISE_M * NOISE_M
    for k in range(1, count):
        n = cells[k, 5]
        square = np.uint64(live[k])
        if n < MIN_CELL_POINTS:
            flat[square] = 0
            continue
        mx = cells[k, 0] / n
        my = cells[k, 1] / n
        xx = cells[k, 2] / n - mx * mx + floor2
        xy_ = cells[k, 3] / n - mx * my
        yy = cells[k, 4] / n - my * my + floor2
        spread = np.sqrt(0.25 * (xx - yy) * (xx - yy) + xy_ * xy_)
        thin = 0.5 * (xx + yy) - spread
        if thin > max_sigma_m * max_sigma_m + floor2:
            flat[square] = 0
            continue
        # half of the cosine and sine of twice the long axis' angle: the normal needs no more
        cos2 = 0.25 * (xx - yy) / spread if spread > 0.0 else 0.5
        sin2 = 0.5 * xy_ / spread if spread > 0.0 else 0.0
        along = 1.0 / (ALONG_M * ALONG_M)
        across = 1.0 / thin
        cells[k, 0] = mx + float(np.int64(live[k]) // side) * cell_m - half
        cells[k, 1] = my + float(np.int64(live[k]) % side) * cell_m - half
        cells[k, 2] = across * (0.5 - cos2) + along * (0.5 + cos2)
        cells[k, 3] = (along - across) * sin2
        cells[k, 4] = across * (0.5 + cos2) + along * (0.5 - cos2)
    return count


@njit("f8(f4[:,::1], f8[::1], i4[:,::1], f8[:,::1], f8, f8[::1])", cache=True, nogil=True, error_model="numpy")
def _normal_equations(
    xy: NDArray[np.float32],
    pose: NDArray[np.float64],
    index: NDArray[np.int32],
    cells: NDArray[np.float64],
    cell_m: float,
    out: NDArray[np.float64],
) -> float:
    """Gradient (3) and upper Hessian (xx, xy, yy, xa, ya, aa) at a pose; returns the sum of the weights."""
    side = index.shape[0]
    half = 0.5 * side * cell_m
    inverse = 1.0 / cell_m
    last = np.uint64(side - 1)
    cos = np.cos(pose[2])
    sin = np.sin(pose[2])
    total = g0 = g1 = g2 = h00 = h01 = h11 = h02 = h12 = h22 = 0.0
    for i in range(xy.shape[0]):
        px = float(xy[i, 0])
        py = float(xy[i, 1])
        rx = cos * px - sin * py
        ry = sin * px + cos * py
        x = rx + pose[0]
        y = ry + pose[1]
        if not ((abs(x) < half) & (abs(y) < half)):
            continue
        a = min(np.uint64(np.int32((x + half) * inverse)), last)
        b = min(np.uint64(np.int32((y + half) * inverse)), last)
        if index[a, b] == 0:
            continue
        c = np.uint64(index[a, b])
        ex = x - cells[c, 0]
        ey = y - cells[c, 1]
        xx = cells[c, 2]
        xy_ = cells[c, 3]
        yy = cells[c, 4]
        fx = xx * ex + xy_ * ey
        fy = xy_ * ex + yy * ey
        root = 1.0 / (1.0 + 0.5 * (ex * fx + ey * fy))
        w = root * root
        total += w
        kx = xy_ * rx - xx * ry
        ky = yy * rx - xy_ * ry
        g0 += w * fx
        g1 += w * fy
        g2 += w * (rx * fy - ry * fx)
        h00 += w * xx
        h01 += w * xy_
        h11 += w * yy
        h02 += w * kx
        h12 += w * ky
        h22 += w * (rx * ky - ry * kx)
    out[0], out[1], out[2] = g0, g1, g2
    out[3], out[4], out[5], out[6], out[7], out[8] = h00, h01, h11, h02, h12, h22
    return total


def match_scans(
    previous: NDArray[np.float32],
    current: NDArray[np.float32],
    start: NDArray[np.float64],
    cells_m: tuple[float, ...] = CELLS_M,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Pose of the current scan in the previous one's frame, by Gauss-Newton on each level of cells in turn.

    Args:
        previous: (N, 2) float32, C-contiguous, metres: all points of upright things, or a 2-D scan.
        current: (M, 2) float32, C-contiguous, metres; thinned, so that near surfaces have no more say than far ones.
        start: (3,) float64, where to look: x and y to half of the first cell or so, yaw to some degrees.
        cells_m: edges of the cells of each level. Points beyond `REACH_M` are left out.

    Returns the pose (3,); the Gauss-Newton Hessian (3, 3) of the last level in units of the cells' own covariances (its
    inverse bounds the pose's covariance); and the mean weight of the current points there, 0..1.
    """
    pose = start.astype(np.float64)
    part = np.empty(9)
    H = np.zeros((3, 3))
    score = 0.0
    for level, cell_m in enumerate(cells_m):
        final = level == len(cells_m) - 1
        points = current if final else _every(current, COARSE_POINTS)
        enough_m, enough_rad = (SETTLED_M, SETTLED_RAD) if final else (COARSE_SHARE * cell_m, 1e-3 * cell_m)
        shifts = (0.0, 0.5 * cell_m) if final else (0.0,)
        grids = [(shift, *_grid(previous, cell_m, shift)) for shift in shifts]
        for _ in range(ITERATIONS):
            total, sums = 0.0, np.zeros(9)
            for shift, index, cells in grids:
                moved = pose + np.array((shift, shift, 0.0))
                total += _normal_equations(points, moved, index, cells, cell_m, part) / len(grids)
                sums += part / len(grids)
            score = float(total / max(points.shape[0], 1))
            h = sums[3:]
            H = np.array([[h[0], h[1], h[3]], [h[1], h[2], h[4]], [h[3], h[4], h[5]]])
            damped = H + 1e-9 * np.eye(3)
            if not np.linalg.det(damped) > 1e-12:
                break  # nothing to hold on to: the pose stays where it is
            step = np.linalg.solve(damped, sums[:3])
            pose = pose - step
            if max(abs(step[0]), abs(step[1])) < enough_m and abs(step[2]) < enough_rad:
                break
    return pose, H, score


def _grid(
    previous: NDArray[np.float32], cell_m: float, shift_m: float
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Cells of the points, moved by `shift_m` along both axes; scratch memory of this cell and shift."""
    side = int(np.ceil(2.0 * REACH_M / cell_m))
    room = min(previous.shape[0], side * side) + 1
    which = "" if shift_m == 0.0 else " shifted"
    index = _scratch.array("index" + which, side * side, np.int32).reshape(side, side)
    cells = _scratch.array("cells" + which, 6 * room, np.float64).reshape(room, 6)
    live = _scratch.array("live", room, np.int32)
    points = previous if shift_m == 0.0 else previous + np.float32(shift_m)
    build_surfaces(points, cell_m, max(MAX_ROUGHNESS * cell_m, _MIN_ROUGHNESS_M), index, cells, live)
    return index, cells


def _every(points: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """At least `count` points, evenly spread over the scan, or all there are."""
    return np.ascontiguousarray(points[:: max(1, points.shape[0] // count)])
