"""Where depth jumps in a sweep, where brightness jumps in an image, and how well the two coincide.

After Levinson & Thrun (RSS 2013): every depth edge of the sweep is looked up in a field of image edges that fades with
distance. Edges between neighbours of one scan line run upright and are held against upright image edges; edges between
scan lines lie flat and are held against flat ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels.projection import points_in_columns
from edgeguard.kernels.scratch import Scratch

UPRIGHT, FLAT = 0, 1
REACH_CELLS = 3  # a beam may find nothing, and coarse lidars leave cells empty
MIN_JUMP_M = 0.5
MIN_JUMP_SHARE = 0.08  # of the depth: a road seen at a flat angle steps from ring to ring
NEAR_M, FAR_M = 2.5, 60.0  # nearer, the lever arm between the sensors hides; farther, a beam is wider than the things
INK_FAR_M = 35.0  # paint, kerbs and plates; farther, the beam mixes them
MIN_INK = 0.1  # step of reflectance between two pairs of returns on one surface
MAX_ROUGH = 0.4  # what the pairs may differ within, as a share of the step: speckle has no flat sides
GRID_ROWS = 100  # of the elevation rows of `ranges.to_spherical`
_REACH_PX, _FADED = 1_024, 2.5e-7  # a fade of 0.98 and faster has faded after half of the reach
_LEAP = 1_000  # cells between the ends of two lines: farther than any reach
_THREE = np.uint64(3)
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_scratch = Scratch()


@njit(
    "UniTuple(i8, 2)(f4[:,::1], i4[::1], i2[::1], f8[:,::1], f8, i8, i4[::1], f4[::1], i4[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _cells(
    kept: NDArray[np.float32],
    who: NDArray[np.int32],
    row: NDArray[np.int16],
    P: NDArray[np.float64],
    cell_px: float,
    columns: int,
    rows: NDArray[np.int32],
    near: NDArray[np.float32],
    cell: NDArray[np.int32],
) -> tuple[int, int]:
    """Depth of each kept point, and its (elevation row, image column) cell as one number, -1 for none.

    Returns the lowest row and one past the highest. rows: scratch.
    """
    xs, ys, zs = kept[0], kept[1], kept[2]
    p00, p01, p02, p03 = P[0, 0], P[0, 1], P[0, 2], P[0, 3]
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    width = np.int32(columns)
    n = np.uint64(who.shape[0])
    for t in range(n):
        rows[t] = np.int32(row[np.uint64(who[t])])
    lowest, highest = np.int32(GRID_ROWS), np.int32(-1)
    for t in range(n):
        x, y, z = np.float64(xs[t]), np.float64(ys[t]), np.float64(zs[t])
        w = p20 * x + p21 * y + p22 * z + p23
        c = (p00 * x + p01 * y + p02 * z + p03) / (w * cell_px)
        k = rows[t]
        inside = (w > NEAR_M) & (k >= 0) & (c >= 0.0) & (c < columns)
        near[t] = np.float32(w)
        cell[t] = k * width + np.int32(c) if inside else np.int32(-1)
        lowest = min(lowest, k if inside else np.int32(GRID_ROWS))
        highest = max(highest, k if inside else np.int32(-1))
    return np.int64(lowest), np.int64(highest) + 1  # type: ignore[return-value]  # numba hands Python ints


@njit("void(f4[::1], i4[::1], i4[::1], f4[::1], i4[::1])", cache=True, nogil=True)
def _fill(
    near: NDArray[np.float32],
    cell: NDArray[np.int32],
    who: NDArray[np.int32],
    depth: NDArray[np.float32],
    point: NDArray[np.int32],
) -> None:
    """Nearest point of each cell, the first of equals."""
    depth[:] = np.inf
    for t in range(np.uint64(cell.shape[0])):
        if cell[t] < 0:
            continue
        q = np.uint64(cell[t])
        nearer = near[t] < depth[q]
        depth[q] = near[t] if nearer else depth[q]
        point[q] = who[t] if nearer else point[q]


@njit("void(f4[::1], i8, i8, f4[::1])", cache=True, nogil=True, error_model="numpy")
def _between(flat: NDArray[np.float32], near: int, far: int, out: NDArray[np.float32]) -> None:
    """The direction between two returns at the range of the nearer: the edge lies somewhere between the beams."""
    rn = np.sqrt(flat[near] ** 2 + flat[near + 1] ** 2 + flat[near + 2] ** 2)
    rf = np.sqrt(flat[far] ** 2 + flat[far + 1] ** 2 + flat[far + 2] ** 2)
    for a in range(3):
        out[a] = np.float32(0.5) * (flat[near + a] + flat[far + a] * rn / rf)


@njit("i8(f4[:,::1], i4[:,::1], f4[::1], i8, f4[:,::1], f4[:,::1], i4[:,::1])", cache=True, nogil=True)
def _line_up(
    depth: NDArray[np.float32],
    who: NDArray[np.int32],
    intensity: NDArray[np.float32],
    along: int,
    painted: NDArray[np.float32],
    values: NDArray[np.float32],
    places: NDArray[np.int32],
) -> int:
    """Write the filled cells line after line; returns how many there are, with three of nothing ahead of them.

    painted: reflectance of each cell, written by the lines along a row, which lie in memory as scan lines do, and read
    by the others. values: depth and reflectance; places: position, which leaps from line to line, and point.
    """
    columns = np.uint64(depth.shape[1])
    far, ink, at, point = values[0], values[1], places[0], places[1]
    for before in range(3):
        far[before] = ink[before] = np.float32(0.0)
        at[before], point[before] = np.int32(_LEAP * (before - 4)), np.int32(0)
    flat, points, paint = depth.reshape(-1), who.reshape(-1), painted.reshape(-1)
    lines, steps, line, step = depth.shape[0], depth.shape[1], columns, _ONE
    if along == FLAT:
        lines, steps, line, step = steps, lines, _ONE, columns
    m = np.uint64(3)
    for a in range(np.uint64(lines)):
        q = a * line
        for b in range(np.uint64(steps)):
            point[m] = np.int32(q)
            at[m] = np.int32(a * np.uint64(steps + _LEAP) + b)
            m += np.uint64(flat[q] < np.inf)
            q += step
    if along == UPRIGHT:
        for i in range(np.uint64(3), m):
            cell = np.uint64(point[i])
            paint[cell] = intensity[np.uint64(points[cell])]
    for i in range(np.uint64(3), m):
        cell = np.uint64(point[i])
        far[i] = flat[cell]
        ink[i] = paint[cell]
        point[i] = points[cell]
    return np.int64(m)  # type: ignore[return-value]  # numba hands Python an int


@njit("void(f4[::1], f4[::1], i4[::1], u1[::1])", cache=True, nogil=True)
def _mark(far: NDArray[np.float32], ink: NDArray[np.float32], at: NDArray[np.int32], mark: NDArray[np.uint8]) -> None:
    """1 where depth jumps from the cell before, 2 where the reflectance of one surface steps between two pairs."""
    n = far.shape[0] - 3
    d3, d2, d1, d0 = far[:n], far[1 : n + 1], far[2 : n + 2], far[3:]
    i3, i2, i1, i0 = ink[:n], ink[1 : n + 1], ink[2 : n + 2], ink[3:]
    b3, b2, b1, b0 = at[:n], at[1 : n + 1], at[2 : n + 2], at[3:]
    out = mark[3:]
    for m in range(np.uint64(n)):
        close0 = b0[m] - b1[m] <= REACH_CELLS
        close1 = b1[m] - b2[m] <= REACH_CELLS
        close2 = b2[m] - b3[m] <= REACH_CELLS
        near = min(d0[m], d1[m])
        jump = abs(d0[m] - d1[m])
        before = abs(d1[m] - d2[m])
        # A slope steps by the same again and again; only what exceeds its last step is an edge.
        steady = before if close1 else np.float32(0.0)
        edge = close0 & (near < FAR_M) & (jump > MIN_JUMP_M + MIN_JUMP_SHARE * near + 2.0 * min(steady, jump * 0.4))
        smooth = close0 & close1 & close2
        smooth &= (jump < MIN_JUMP_M) & (before < MIN_JUMP_M) & (abs(d2[m] - d3[m]) < MIN_JUMP_M)
        step = np.float32(0.5) * abs(i0[m] + i1[m] - i2[m] - i3[m])
        rough = abs(i0[m] - i1[m]) + abs(i2[m] - i3[m])
        painted = smooth & (near < INK_FAR_M) & (step > MIN_INK) & (rough < MAX_ROUGH * step)
        out[m] = np.uint8(edge) + np.uint8(2) * np.uint8(painted)


@njit("i8(f4[::1], i4[::1], u1[::1], i8, i4[:,::1], i4[::1])", cache=True, nogil=True)
def _collect(
    far: NDArray[np.float32],
    point: NDArray[np.int32],
    mark: NDArray[np.uint8],
    count: int,
    pairs: NDArray[np.int32],
    marked: NDArray[np.int32],
) -> int:
    """Append the points on both sides of what is marked to `pairs`, as far as it has room; returns the new count."""
    some = np.uint64(0)
    for i in range(np.uint64(3), np.uint64(far.shape[0])):
        marked[some] = np.int32(i)
        some += np.uint64(mark[i] != 0)
    for k in range(some):
        m = np.uint64(marked[k])
        if mark[m] & np.uint8(1) and count < pairs.shape[0]:
            nearer = far[m] < far[m - _ONE]
            pairs[count, 0] = point[m] if nearer else point[m - _ONE]
            pairs[count, 1] = point[m - _ONE] if nearer else point[m]
            count += 1
        if mark[m] & np.uint8(2) and count < pairs.shape[0]:
            pairs[count, 0] = point[m - _ONE]
            pairs[count, 1] = point[m - _TWO]
            count += 1
    return count


@njit("void(f4[::1], i4[:,::1], i8, i8, f4[:,::1])", cache=True, nogil=True)
def _put_between(
    flat: NDArray[np.float32], pairs: NDArray[np.int32], upright: int, step: int, out: NDArray[np.float32]
) -> None:
    """Edges between every `step`-th pair; the first `upright` pairs are of lines along a row."""
    for k in range(out.shape[0]):
        pair = k * step
        _between(flat, 3 * pairs[pair, 0], 3 * pairs[pair, 1], out[k])
        out[k, 3] = np.float32(UPRIGHT if pair < upright else FLAT)


def depth_edges(
    xyz: NDArray[np.float32],
    intensity: NDArray[np.float32],
    row: NDArray[np.int16],
    P: NDArray[np.float64],
    width: int,
    cell_px: float,
    limit: int,
    most: int | None = None,
) -> NDArray[np.float32]:
    """Places at which depth jumps, or reflectance steps on one surface, inside the camera's columns.

    Args:
        xyz: (N, 3) float32 m, lidar frame, C-contiguous. intensity: (N,) float32, zeros for depth alone.
        row: (N,) int16, 0..GRID_ROWS - 1: elevation row of `ranges.to_spherical`, -1 for points to leave out.
        P: (3, 4) float64, lidar to pixels. width: of the image, pixels. cell_px: width of a grid cell, pixels.
        limit: at most so many are found. most: at most so many of them are returned, evenly; all without.

    Returns (M, 4) float32: x, y, z between the two beams at the nearer's range, and UPRIGHT or FLAT.
    """
    columns = int(np.ceil(width / cell_px))
    size = GRID_ROWS * columns
    flat = xyz.reshape(-1)
    who, kept = points_in_columns(flat, P, width)
    n = who.shape[0]
    near, cell = _scratch.array("near", n, np.float32), _scratch.array("cell", n, np.int32)
    low, high = _cells(kept, who, row, P, cell_px, columns, _scratch.array("rows", n, np.int32), near, cell)
    depth, point = _scratch.array("depth", size, np.float32), _scratch.array("point", size, np.int32)
    _fill(near, cell, who, depth, point)
    room = size + 4  # the last write may be for nobody
    values = _scratch.array("values", 2 * room, np.float32).reshape(2, room)
    places = _scratch.array("places", 2 * room, np.int32).reshape(2, room)
    mark, marked = _scratch.array("mark", room, np.uint8), _scratch.array("marked", room, np.int32)
    pairs = _scratch.array("pairs", 2 * limit, np.int32).reshape(limit, 2)
    shape = (GRID_ROWS, columns)
    grid = depth.reshape(shape)[low:high], point.reshape(shape)[low:high]
    ink = _scratch.array("ink", size, np.float32).reshape(shape)[low:high]
    count = upright = 0
    for along in (UPRIGHT, FLAT):
        upright = count
        m = _line_up(*grid, intensity, along, ink, values, places)
        _mark(values[0, :m], values[1, :m], places[0, :m], mark[:m])
        count = _collect(values[0, :m], places[1, :m], mark[:m], count, pairs, marked)
    step = 1 if most is None else max(1, -(-count // most))
    out = np.empty((-(-count // step), 4), np.float32)
    _put_between(flat, pairs, upright, step, out)
    return out


# whole numbers up to 2**24 are exact in single precision, in any order: a line of 65 793 pixels at least
@njit("f8(u1[::1], u1[::1], f4[::1])", cache=True, nogil=True, fastmath={"reassoc"})
def _steps(a: NDArray[np.uint8], b: NDArray[np.uint8], out: NDArray[np.float32]) -> float:
    """Absolute differences of two lines; their sum."""
    total = np.float32(0.0)
    for u in range(np.uint64(out.shape[0])):
        step = abs(np.float32(a[u]) - np.float32(b[u]))
        out[u] = step
        total += step
    return np.float64(total)


@njit("void(f4[::1], f4)", cache=True, nogil=True, error_model="numpy")
def _level(line: NDArray[np.float32], usual: np.float32) -> None:
    """Steps as a share of themselves and what is usual."""
    for u in range(np.uint64(line.shape[0])):
        line[u] = line[u] / (line[u] + usual)


@njit("void(f4[::1], f4, f4[::1])", cache=True, nogil=True)
def _fade(before: NDArray[np.float32], fade: np.float32, line: NDArray[np.float32]) -> None:
    """Let a line's values show in the next one."""
    for u in range(np.uint64(line.shape[0])):
        line[u] = max(line[u], fade * before[u])


@njit("void(f4[::1], f4, f4[:,::1])", cache=True, nogil=True)
def _spread(line: NDArray[np.float32], fade: np.float32, room: NDArray[np.float32]) -> None:
    """Fade a line's values to both sides, to half a millionth at least: the reach doubles from step to step, so that
    no value waits for its neighbour. room: two lines with `_REACH_PX` zeros on either side."""
    n = np.uint64(line.shape[0])
    reach = np.uint64(_REACH_PX)
    for u in range(n):
        room[0, u + reach] = line[u]
    source, target = room[0], room[1]
    shift, factor = _ONE, fade
    while shift < reach and factor > np.float32(_FADED):
        left, here, right = source[reach - shift :], source[reach:], source[reach + shift :]
        out = target[reach:]
        for u in range(n):
            out[u] = max(here[u], factor * max(left[u], right[u]))
        source, target = target, source
        shift += shift
        factor *= factor
    for u in range(n):
        line[u] = source[u + reach]


@njit("void(u1[:,::1], f4[:,:,::1], f4, f4[:,::1])", cache=True, nogil=True, error_model="numpy")
def _gradients(
    grey: NDArray[np.uint8], field: NDArray[np.float32], fade: np.float32, room: NDArray[np.float32]
) -> None:
    """Relative gradients, spread: sideways as `_spread` does, down and up by two plain scans."""
    rows, columns = grey.shape
    field[:] = np.float32(0.0)
    sum_x = sum_y = 0.0
    for v in range(1, rows - 1):
        above, here, below = grey[v - 1], grey[v], grey[v + 1]
        left, right, up, down = here[: columns - 2], here[2:], above[1 : columns - 1], below[1 : columns - 1]
        fx, fy = field[0, v, 1 : columns - 1], field[1, v, 1 : columns - 1]
        sum_x += _steps(left, right, fx)
        sum_y += _steps(up, down, fy)
    n = max(1, (rows - 2) * (columns - 2))
    for v in range(rows):
        _level(field[0, v], np.float32(sum_x / n * 1.5 + 4.0))
        _level(field[1, v], np.float32(sum_y / n * 1.5 + 4.0))
        _spread(field[0, v], fade, room)
    for v in range(1, rows):
        _fade(field[1, v - 1], fade, field[1, v])
    for v in range(rows - 2, -1, -1):
        _fade(field[1, v + 1], fade, field[1, v])


def edge_field(grey: NDArray[np.uint8], fade: float) -> NDArray[np.float32]:
    """(2, H, W) float32 in 0..1 from (H, W) uint8: upright and flat edges, fading by `fade` per pixel across."""
    field = np.empty((2, *grey.shape), np.float32)
    room = np.zeros((2, grey.shape[1] + 2 * _REACH_PX), np.float32)
    _gradients(grey, field, np.float32(fade), room)
    return field


@njit("void(f4[:,:,::1], u1[:,::1], f4[:,:,::1])", cache=True, nogil=True)
def _hide(field: NDArray[np.float32], seen: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
    keep = seen.reshape(-1)
    for a in range(2):
        source, target = field[a].reshape(-1), out[a].reshape(-1)
        for i in range(np.uint64(keep.shape[0])):
            target[i] = source[i] if keep[i] != 0 else np.float32(np.nan)


def hide(field: NDArray[np.float32], seen: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A field of `edge_field` with NaN wherever `seen`, (H, W) uint8, is 0."""
    out = np.empty_like(field)
    _hide(field, seen, out)
    return out


@njit(
    "void(f4[:,::1], f8[:,::1], f8[::1], f8, i8, i8, i4[::1], f4[:,::1])", cache=True, nogil=True, error_model="numpy"
)
def _project(
    edges: NDArray[np.float32],
    T: NDArray[np.float64],
    lens: NDArray[np.float64],
    per_px: float,
    rows: int,
    columns: int,
    place: NDArray[np.int32],
    share: NDArray[np.float32],
) -> None:
    """Where in the field each edge comes to lie, -1 outside, and its distance from that pixel right and down."""
    fx, fy, cx, cy = lens[0], lens[1], lens[2], lens[3]
    k1, k2, p1, p2, k3 = lens[4], lens[5], lens[6], lens[7], lens[8]
    t00, t01, t02, t03 = T[0, 0], T[0, 1], T[0, 2], T[0, 3]
    t10, t11, t12, t13 = T[1, 0], T[1, 1], T[1, 2], T[1, 3]
    t20, t21, t22, t23 = T[2, 0], T[2, 1], T[2, 2], T[2, 3]
    flat = edges.reshape(-1)
    right, down = share[0], share[1]
    width, plane = np.int32(columns), np.int32(rows * columns)
    for i in range(np.uint64(place.shape[0])):
        j = np.uint64(4) * i
        x, y, z = np.float64(flat[j]), np.float64(flat[j + _ONE]), np.float64(flat[j + _TWO])
        w = t20 * x + t21 * y + t22 * z + t23
        a = (t00 * x + t01 * y + t02 * z + t03) / w
        b = (t10 * x + t11 * y + t12 * z + t13) / w
        r2 = a * a + b * b
        radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
        u = (fx * (a * radial + 2.0 * p1 * a * b + p2 * (r2 + 2.0 * a * a)) + cx) * per_px
        v = (fy * (b * radial + p1 * (r2 + 2.0 * b * b) + 2.0 * p2 * a * b) + cy) * per_px
        inside = (w > 1.0) & (u >= 2.0) & (v >= 2.0) & (u < columns - 3.0) & (v < rows - 3.0)
        u0, v0 = np.int32(u), np.int32(v)
        kind = np.int32(flat[j + _THREE])
        place[i] = kind * plane + v0 * width + u0 if inside else np.int32(-1)
        right[i] = np.float32(u - np.float64(u0))
        down[i] = np.float32(v - np.float64(v0))


@njit("void(i4[::1], f4[:,::1], f4[::1], i8, f4[::1])", cache=True, nogil=True)
def _mix(
    place: NDArray[np.int32],
    share: NDArray[np.float32],
    field: NDArray[np.float32],
    columns: int,
    out: NDArray[np.float32],
) -> None:
    """Value of the field between four pixels; NaN outside."""
    one = np.float32(1.0)
    right, down = share[0], share[1]
    below = np.uint64(columns)
    for i in range(np.uint64(place.shape[0])):
        inside = place[i] >= 0
        q = np.uint64(place[i] if inside else 0)
        fu, fv = right[i], down[i]
        low = (one - fu) * field[q] + fu * field[q + _ONE]
        high = (one - fu) * field[q + below] + fu * field[q + below + _ONE]
        out[i] = (one - fv) * low + fv * high if inside else np.float32(np.nan)


@njit("void(f4[:,::1], f4[:,:,::1], f8[:,:,::1], f8[::1], f8, i4[::1], f4[:,::1], f4[:,::1])", cache=True, nogil=True)
def _look_up(
    edges: NDArray[np.float32],
    field: NDArray[np.float32],
    poses: NDArray[np.float64],
    lens: NDArray[np.float64],
    per_px: float,
    place: NDArray[np.int32],
    share: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    rows, columns = field.shape[1], field.shape[2]
    for k in range(poses.shape[0]):
        _project(edges, poses[k], lens, per_px, rows, columns, place, share)
        _mix(place, share, field.reshape(-1), columns, out[k])


def look_up(
    edges: NDArray[np.float32],
    field: NDArray[np.float32],
    poses: NDArray[np.float64],
    lens: NDArray[np.float64],
    per_px: float,
) -> NDArray[np.float32]:
    """Value of the image's edge field under each depth edge, for each pose: (K, M) float32, NaN outside the image.

    Args:
        edges: (M, 4) of `depth_edges`. field: (2, H, W) of `edge_field`. poses: (K, 3, 4) float64, lidar to camera.
        lens: (9,) float64: fx, fy, cx, cy in full-size pixels, then k1, k2, p1, p2, k3 as OpenCV has them.
        per_px: field pixels per full-size pixel.
    """
    n = edges.shape[0]
    out = np.empty((poses.shape[0], n), np.float32)
    place = _scratch.array("place", n, np.int32)
    share = _scratch.array("share", 2 * n, np.float32).reshape(2, n)
    _look_up(edges, field, poses, lens, per_px, place, share, out)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where depth edges lie in a field: place (M,) int32, -1 outside; share (2, M) float32 of the way to the next."""

    place: NDArray[np.int32]
    share: NDArray[np.float32]


def locate(
    edges: NDArray[np.float32],
    pose: NDArray[np.float64],
    lens: NDArray[np.float64],
    per_px: float,
    shape: tuple[int, int],
) -> Places:
    """Where `edges` lie in fields of `shape` (rows, columns), for one pose; arguments as of `look_up`."""
    n = edges.shape[0]
    found = Places(np.empty(n, np.int32), np.empty((2, n), np.float32))
    _project(edges, pose, lens, per_px, *shape, found.place, found.share)
    return found


def look_up_located(found: Places, field: NDArray[np.float32]) -> NDArray[np.float32]:
    """As `look_up`, (M,) float32, for edges whose places are known."""
    out = np.empty(found.place.shape[0], np.float32)
    _mix(found.place, found.share, field.reshape(-1), field.shape[2], out)
    return out


@njit("i8(f4[:,::1], b1[::1], f8[::1])", cache=True, nogil=True, fastmath={"reassoc"})
def _sum_whole(values: NDArray[np.float32], whole: NDArray[np.bool_], sums: NDArray[np.float64]) -> int:
    whole[:] = True
    for k in range(values.shape[0]):
        line = values[k]
        for i in range(np.uint64(whole.shape[0])):
            whole[i] &= line[i] == line[i]
    count = 0
    for i in range(np.uint64(whole.shape[0])):
        count += whole[i]
    for k in range(values.shape[0]):
        line = values[k]
        total = 0.0
        for i in range(np.uint64(whole.shape[0])):
            total += np.float64(line[i]) if whole[i] else 0.0
        sums[k] = total
    return count


def sum_in_view(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], int]:
    """Sum of each pose's values over the edges that no pose moves out of the image, and how many these are.

    values: (K, M) float32 of `look_up`. Returns (K,) float64 and M or less.
    """
    sums = np.empty(values.shape[0], np.float64)
    count = _sum_whole(values, _scratch.array("whole", values.shape[1], np.bool_), sums)
    return sums, int(count)


@njit("Tuple((i8, f8, f8))(f4[::1], f4[::1], b1)", cache=True, nogil=True, error_model="numpy")
def moments(values: NDArray[np.float32], minus: NDArray[np.float32], subtract: bool) -> tuple[int, float, float]:
    """Number, mean and mean square of the values that are not NaN, or of their differences to others.

    values, minus: (M,) float32; `minus` is read only when asked to `subtract`. Means of nothing are NaN.
    """
    count = 0
    total = square = 0.0
    for i in range(np.uint64(values.shape[0])):
        v = values[i] - minus[i] if subtract else values[i]
        known = not np.isnan(v)
        d = np.float64(v) if known else 0.0
        count += known
        total += d
        square += d * d
    return count, total / count, square / count
