"""What a camera looks at that a sweep says is road: points ahead, the plane through them, blocks of the picture.

The points ahead are a quarter of a sweep. They are moved together once, side by side, and every question after that is
a plain pass over them. Sums may be taken in any order ("reassoc"), so that they are vectorised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.scratch import Scratch
from edgeguard.kernels.sweeps import LidarPoints

NEAREST_M = 1.0  # of the points ahead: the vehicle itself is nearer
MIN_DEPTH_M = 1.0  # of a point that is looked for in the picture
CUTS, CUT_SIGMA = 3, 2.5  # of a plane's outliers
NORMAL_SIGMA = 1.48  # of normal deviations, over their median size
BIN_M, BINS = 1e-4, 4_096  # of residuals: a hundredth of a lidar's noise; more than 0.4 m is no plane
FLAT = 1e-6  # a ray that does not fall by this much never meets the road
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_EIGHT = np.uint64(8)
_scratch = Scratch()


@dataclass(frozen=True, slots=True)
class Bands:
    """Heights over ground, metres: of what stands (at most `below_m`, at least `upright_m`, or unknown) and of ground.

    cell_m: edge of a map's cells.
    """

    below_m: float
    upright_m: float
    ground_m: float
    cell_m: float


@njit("void(f4[::1], f4[::1], f4, f4, f4, f4, b1[::1])", cache=True, nogil=True)
def _wedge(
    flat: NDArray[np.float32],
    range_m: NDArray[np.float32],
    reach_m: np.float32,
    widen: np.float32,
    aside_m: np.float32,
    aside_far_m: np.float32,
    maybe: NDArray[np.bool_],
) -> None:
    for i in range(np.uint64(range_m.shape[0])):
        j = i * _THREE
        # z is asked as well: loads that leave gaps between them are not vectorised
        x, y, z = flat[j], abs(flat[j + _ONE]), flat[j + _TWO]
        here = (x > np.float32(NEAREST_M)) & (x < reach_m) & (range_m[i] < reach_m) & (z < np.inf)
        maybe[i] = here & ((y < widen * x) | ((y < aside_m) & (x < aside_far_m)))


@njit("i8(b1[::1], u8[::1], i4[::1])", cache=True, nogil=True)
def _number(maybe: NDArray[np.bool_], eights: NDArray[np.uint64], who: NDArray[np.int32]) -> int:
    """Numbers of the flagged points. eights: `maybe`, eight flags at a time."""
    m = np.uint64(0)
    for e in range(np.uint64(eights.shape[0])):
        if eights[e] == np.uint64(0):
            continue
        for i in range(e * _EIGHT, e * _EIGHT + _EIGHT):
            who[m] = np.int32(i)
            m += np.uint64(maybe[i])
    return np.int64(m)  # type: ignore[return-value]  # numba hands Python an int


@njit("void(f4[::1], f4[::1], i4[::1], f4[:,::1])", cache=True, nogil=True)
def _gather(
    flat: NDArray[np.float32], height_m: NDArray[np.float32], who: NDArray[np.int32], kept: NDArray[np.float32]
) -> None:
    """Move points together."""
    xs, ys, zs, hs = kept[0], kept[1], kept[2], kept[3]
    for t in range(np.uint64(who.shape[0])):
        i = np.uint64(who[t])
        j = i * _THREE
        xs[t] = flat[j]
        ys[t] = flat[j + _ONE]
        zs[t] = flat[j + _TWO]
        hs[t] = height_m[i]


def points_ahead(
    sweep: LidarPoints, reach_m: float, widen: float, aside_m: float, aside_far_m: float
) -> NDArray[np.float32]:
    """Points that a camera may see, or that lie on the vehicle's own road, in the sweep's order.

    reach_m: of their ranges. widen: y is within `widen * x` either way; aside_m: or within this, up to `aside_far_m`
    ahead. Limits are left out themselves.

    Returns (4, M) float32: x, y, z (metres, sensor frame) and height over ground; scratch memory that the next call
    overwrites.
    """
    n = sweep.height_m.shape[0]
    whole = -(-n // 8)  # the flags are read eight at a time
    maybe = _scratch.array("maybe", 8 * whole, np.bool_)
    maybe[n:] = False
    flat = sweep.xyz.reshape(-1)
    _wedge(flat, sweep.range_m, reach_m, widen, aside_m, aside_far_m, maybe[:n])
    who = _scratch.array("who", 8 * whole + 1, np.int32)  # the last write of a full block may be for nobody
    count = _number(maybe, maybe.view(np.uint64), who)
    kept = _scratch.array("kept", 4 * count, np.float32).reshape(4, count)
    _gather(flat, sweep.height_m, who[:count], kept)
    return kept


@njit("i8(f4[:,::1], f4, f4, f4, f4, i8, i4[::1], f8[:,::1])", cache=True, nogil=True)
def _pick(
    ahead: NDArray[np.float32],
    near_m: np.float32,
    far_m: np.float32,
    aside_m: np.float32,
    level_m: np.float32,
    most: int,
    who: NDArray[np.int32],
    out: NDArray[np.float64],
) -> int:
    x, y, z, h = ahead[0], ahead[1], ahead[2], ahead[3]
    found = np.uint64(0)
    for i in range(np.uint64(ahead.shape[1])):
        who[found] = np.int32(i)
        here = (x[i] > near_m) & (x[i] < far_m) & (abs(y[i]) < aside_m) & (abs(h[i]) < level_m)
        found += np.uint64(here)
    step = max(_ONE, found // np.uint64(most))
    count = (found + step - _ONE) // step
    for k in range(count):
        of = np.uint64(who[k * step])
        out[0, k] = x[of]
        out[1, k] = y[of]
        out[2, k] = z[of]
    return np.int64(count)  # type: ignore[return-value]  # numba hands Python an int


@njit("Tuple((f8, f8, f8, b1))(f8[:,::1], i8)", cache=True, nogil=True, error_model="numpy", fastmath={"reassoc"})
def _plane(points: NDArray[np.float64], count: int) -> tuple[float, float, float, bool]:
    """Least squares in z, from the points' middle, so that squares keep their digits."""
    xs, ys, zs = points[0], points[1], points[2]
    n = np.uint64(count)
    sx = sy = sz = 0.0
    for i in range(n):
        sx += xs[i]
        sy += ys[i]
        sz += zs[i]
    mx, my, mz = sx / count, sy / count, sz / count
    xx = xy = yy = xz = yz = 0.0
    for i in range(n):
        x, y, z = xs[i] - mx, ys[i] - my, zs[i] - mz
        xx += x * x
        xy += x * y
        yy += y * y
        xz += x * z
        yz += y * z
    det = xx * yy - xy * xy
    a = (xz * yy - yz * xy) / det
    b = (yz * xx - xz * xy) / det
    return a, b, mz - a * mx - b * my, det > 1e-9 * xx * yy


@njit("f8(f8[::1], i4[::1])", cache=True, nogil=True)
def _middle(values: NDArray[np.float64], bins: NDArray[np.int32]) -> float:
    """Median of lengths to half of a bin; what is beyond the bins is in the last."""
    bins[:] = 0
    last = np.int64(bins.shape[0] - 1)
    inverse = 1.0 / BIN_M
    for i in range(np.uint64(values.shape[0])):
        bins[np.uint64(min(np.int64(values[i] * inverse), last))] += np.int32(1)
    below = 0
    for k in range(np.uint64(bins.shape[0])):
        below += bins[k]
        if 2 * below >= values.shape[0]:
            return (np.float64(k) + 0.5) * BIN_M
    return last * BIN_M


@njit("Tuple((f8, f8, f8, f8, b1))(f8[:,::1], i8, i8, f8, f8[::1], i4[::1])", cache=True, nogil=True)
def _fit(
    points: NDArray[np.float64],
    count: int,
    least: int,
    floor_m: float,
    left: NDArray[np.float64],
    bins: NDArray[np.int32],
) -> tuple[float, float, float, float, bool]:
    """Plane, sigma and whether there is one; points are cut in place."""
    a = b = c = 0.0
    sigma = np.inf
    xs, ys, zs = points[0], points[1], points[2]
    for _ in range(CUTS):
        if count < least:
            return a, b, c, sigma, False
        a, b, c, firm = _plane(points, count)
        if not firm:
            return a, b, c, sigma, False
        for i in range(np.uint64(count)):
            left[i] = abs(zs[i] - (a * xs[i] + b * ys[i] + c))
        sigma = max(floor_m, NORMAL_SIGMA * _middle(left[:count], bins))
        m = np.uint64(0)
        for i in range(np.uint64(count)):
            xs[m], ys[m], zs[m] = xs[i], ys[i], zs[i]
            m += np.uint64(left[i] < CUT_SIGMA * sigma)
        count = np.int64(m)  # type: ignore[assignment]  # numba knows one kind of int
    return a, b, c, sigma, True


def fit_level_plane(
    ahead: NDArray[np.float32],
    x_m: tuple[float, float],
    aside_m: float,
    level_m: float,
    count: tuple[int, int],
    sigma_floor_m: float,
) -> tuple[float, float, float, float] | None:
    """Plane z = a x + b y + c through the level returns ahead; outliers beyond 2.5 sigma are cut, three times.

    Args:
        ahead: of `points_ahead`. x_m: nearest and farthest x. aside_m: y is within it. level_m: heights are within it.
        count: least number of points, and about the most that are looked at. sigma_floor_m: as the points' noise.

    Returns a, b, c and sigma (metres; 1.48 median absolute residuals), or None where points are too few or in a line.
    """
    most = _scratch.array("level", ahead.shape[1] + 1, np.int32)
    points = _scratch.array("points", 3 * 2 * count[1], np.float64).reshape(3, 2 * count[1])
    m = _pick(ahead, x_m[0], x_m[1], aside_m, level_m, count[1], most, points)
    left, bins = _scratch.array("left", points.shape[1], np.float64), _scratch.array("bins", BINS, np.int32)
    a, b, c, sigma, found = _fit(points, m, count[0], sigma_floor_m, left, bins)
    return (a, b, c, sigma) if found else None


@njit("void(f4[:,::1], f4[:,::1], i8, i8, f4, f4, f4, i4[::1], b1[::1])", cache=True, nogil=True, error_model="numpy")
def _place(
    ahead: NDArray[np.float32],
    P: NDArray[np.float32],
    rows: int,
    columns: int,
    below_m: np.float32,
    upright_m: np.float32,
    widen: np.float32,
    place: NDArray[np.int32],
    stands: NDArray[np.bool_],
) -> None:
    """Block of each point, -1 outside the picture, -2 outside what the picture is wide; whether it stands."""
    xs, ys, zs, hs = ahead[0], ahead[1], ahead[2], ahead[3]
    p00, p01, p02, p03 = P[0, 0], P[0, 1], P[0, 2], P[0, 3]
    p10, p11, p12, p13 = P[1, 0], P[1, 1], P[1, 2], P[1, 3]
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    width, right, low = np.int32(columns), np.float32(columns), np.float32(rows)
    zero = np.float32(0.0)
    for i in range(np.uint64(place.shape[0])):
        x, y, z, h = xs[i], ys[i], zs[i], hs[i]
        w = p20 * x + p21 * y + p22 * z + p23
        u = (p00 * x + p01 * y + p02 * z + p03) / w
        v = (p10 * x + p11 * y + p12 * z + p13) / w
        inside = (w > np.float32(MIN_DEPTH_M)) & (u >= zero) & (u < right) & (v >= zero) & (v < low)
        at = np.int32(v) * width + np.int32(u) if inside else np.int32(-1)
        place[i] = at if abs(y) < widen * x else np.int32(-2)
        stands[i] = (h <= below_m) | (h >= upright_m) | np.isnan(h)


@njit("void(f4[:,::1], i4[::1], b1[::1], f4, f4, u1[::1], u1[::1], u1[:,::1])", cache=True, nogil=True)
def _mark(
    ahead: NDArray[np.float32],
    place: NDArray[np.int32],
    stands: NDArray[np.bool_],
    ground_m: np.float32,
    cell_m: np.float32,
    upright: NDArray[np.uint8],
    ground: NDArray[np.uint8],
    cells: NDArray[np.uint8],
) -> None:
    xs, ys, hs = ahead[0], ahead[1], ahead[3]
    upright[:] = 0
    ground[:] = 0
    cells[:] = 0
    inverse = np.float32(1.0) / cell_m
    long, wide = np.float32(cells.shape[0]), np.float32(cells.shape[1])
    middle = np.float32(cells.shape[1] // 2)
    odd = False
    for i in range(np.uint64(place.shape[0])):
        if place[i] < -1:
            continue
        q = np.uint64(max(place[i], np.int32(0)))
        seen = place[i] >= 0
        if not stands[i]:
            ground[q] |= np.uint8(seen & (abs(hs[i]) < ground_m))
            continue
        upright[q] |= np.uint8(seen)
        odd = not odd
        if not odd:
            continue  # every second tells as much of the map
        a, b = xs[i] * inverse, ys[i] * inverse + middle
        if a < long and b >= np.float32(0.0) and b < wide:
            cells[np.uint64(a), np.uint64(b)] = np.uint8(1)


def mark_blocks(
    ahead: NDArray[np.float32],
    P: NDArray[np.float64],
    shape: tuple[int, int],
    widen: float,
    bands: Bands,
    map_cells: int,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Which blocks of a picture have returns of what stands and of the ground, and where on a map something stands.

    Args:
        ahead: of `points_ahead`. P: (3, 4), lidar frame to blocks. shape: rows and columns of blocks.
        widen: as of `points_ahead`; what lies beyond is left out. map_cells: ahead; twice as many across.

    Returns upright and ground, (R, C) uint8, 1 where there are any; and the map, (map_cells, 2 * map_cells) uint8,
    x ahead from 0, y from -map_cells cells on, of every second point that stands.
    """
    n = ahead.shape[1]
    place, stands = _scratch.array("place", n, np.int32), _scratch.array("stands", n, np.bool_)
    upright, ground = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    cells = np.empty((map_cells, 2 * map_cells), np.uint8)
    _place(ahead, P.astype(np.float32), *shape, bands.below_m, bands.upright_m, widen, place, stands)
    _mark(ahead, place, stands, bands.ground_m, bands.cell_m, upright.reshape(-1), ground.reshape(-1), cells)
    return upright, ground, cells


@njit("void(f8[:,::1], f8[::1], f8[::1], f8, f8, u1[:,::1], u1[::1])", cache=True, nogil=True, error_model="numpy")
def _beside(
    rays: NDArray[np.float64],
    eye: NDArray[np.float64],
    normal: NDArray[np.float64],
    height_m: float,
    cell_m: float,
    cells: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> None:
    inverse = 1.0 / cell_m
    above = height_m + normal[0] * eye[0] + normal[1] * eye[1] + normal[2] * eye[2]
    long, wide = float(cells.shape[0]), float(cells.shape[1])
    middle = cells.shape[1] // 2
    for i in range(np.uint64(out.shape[0])):
        dx, dy, dz = rays[i, 0], rays[i, 1], rays[i, 2]
        slope = dx * normal[0] + dy * normal[1] + dz * normal[2]
        way = -above / min(slope, -FLAT)
        x = (dx * way + eye[0]) * inverse
        y = (dy * way + eye[1]) * inverse + middle
        here = (slope < -FLAT) & (x >= 0.0) & (x < long) & (y >= 0.0) & (y < wide)
        a, b = np.uint64(np.int64(x) if here else 0), np.uint64(np.int64(y) if here else 0)
        out[i] |= np.uint8(here) & cells[a, b]


def mark_beside(
    rays: NDArray[np.float64],
    eye: NDArray[np.float64],
    normal: NDArray[np.float64],
    height_m: float,
    cell_m: float,
    cells: NDArray[np.uint8],
    out: NDArray[np.uint8],
) -> None:
    """Set the blocks that look at marked cells of the road's map.

    Args:
        rays: (R, C, 3) float64, directions of the blocks' middles, lidar frame. eye: (3,), the camera, metres.
        normal: (3,), up, and height_m: of the sensor, the road's. cells: (A, B) uint8, 0 or 1, as of `mark_blocks`.
        out: (R, C) uint8, in place.
    """
    _beside(rays.reshape(-1, 3), eye, normal, height_m, cell_m, cells, out.reshape(-1))


@njit(
    "void(f8[:,::1], f8[::1], f8[:,::1], i8, i8, i8, f8[::1], f4[:,::1], b1[:,::1], i4[:,::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _follow(
    H: NDArray[np.float64],
    plane: NDArray[np.float64],
    K: NDArray[np.float64],
    first_row: int,
    all_rows: int,
    block_px: int,
    limits: NDArray[np.float64],
    shift: NDArray[np.float32],
    road: NDArray[np.bool_],
    was: NDArray[np.int32],
) -> None:
    near, far, least, most = limits[0], limits[1], limits[2], limits[3]
    columns = shift.shape[1]
    margin = 2.0 * block_px
    right, low = limits[4] - margin, limits[5] - margin
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    inverse = 1.0 / block_px
    last_row, last_column, width = np.float64(all_rows - 1), np.float64(columns - 1), np.int32(columns)
    for r in range(np.uint64(shift.shape[0])):
        v = (np.float64(r) + first_row + 0.5) * block_px - 0.5
        for c in range(np.uint64(columns)):
            u = (np.float64(c) + 0.5) * block_px - 0.5
            q = H[2, 0] * u + H[2, 1] * v + H[2, 2]
            q = q if abs(q) > 1e-9 else 1e-9
            x = (H[0, 0] * u + H[0, 1] * v + H[0, 2]) / q
            y = (H[1, 0] * u + H[1, 1] * v + H[1, 2]) / q
            moved = np.float32(np.sqrt((x - u) * (x - u) + (y - v) * (y - v)))
            slope = (u - cx) / fx * plane[0] + (v - cy) / fy * plane[1] + plane[2]
            depth = -plane[3] / min(slope, -FLAT)
            inside = (x > margin) & (y > margin) & (x < right) & (y < low)
            ahead = (slope < -FLAT) & (depth > near) & (depth < far)
            shift[r, c] = moved
            road[r, c] = inside & ahead & (moved > np.float32(least)) & (moved < np.float32(most))
            a = np.int32(min(max(x * inverse, 0.0), last_column))
            b = np.int32(min(max(y * inverse, 0.0), last_row))
            was[r, c] = b * width + a


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
    """Where blocks of a picture of the road were in an earlier one.

    Args:
        H: (3, 3), pixels now to pixels before. plane: (4,), the road in the camera's frame, n @ x + d = 0.
        K: (3, 3), without skew. rows: first and one past the last row of blocks. size_px: width and height.
        depth_m, moved_px: nearest and farthest, left out themselves, of blocks that count as road.

    Returns shift (R, C) float32 pixels; road (R, C) bool: looks at the road between these limits, and was inside the
    earlier picture by two blocks; was (R, C) int32: number of the block, row by row over the whole picture, that it
    was in, the nearest one where it was outside.
    """
    columns = size_px[0] // block_px
    shape = (rows[1] - rows[0], columns)
    shift, road, was = np.empty(shape, np.float32), np.empty(shape, np.bool_), np.empty(shape, np.int32)
    limits = np.array((*depth_m, *moved_px, *size_px), np.float64)
    _follow(H, plane, np.ascontiguousarray(K), rows[0], rows[1], block_px, limits, shift, road, was)
    return shift, road, was
