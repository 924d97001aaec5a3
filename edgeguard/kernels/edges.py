"""Where depth jumps in a sweep, where brightness jumps in an image, and how well the two coincide.

After Levinson & Thrun (RSS 2013): every depth edge of the sweep is looked up in a field of image edges that fades with
distance. Edges between neighbours of one scan line run upright and are held against upright image edges; edges between
scan lines lie flat and are held against flat ones.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

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
_LEAP = 1_000  # cells between the ends of two lines: farther than any reach
_THREE = np.uint64(3)
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_scratch = Scratch()


@njit("void(f4[::1], i2[::1], f8[:,::1], f8, i8, f4[::1], i4[::1])", cache=True, nogil=True, error_model="numpy")
def _cells(
    flat: NDArray[np.float32],
    row: NDArray[np.int16],
    P: NDArray[np.float64],
    cell_px: float,
    columns: int,
    near: NDArray[np.float32],
    cell: NDArray[np.int32],
) -> None:
    """Depth of each point, and its (elevation row, image column) cell as one number, -1 for none."""
    p00, p01, p02, p03 = P[0, 0], P[0, 1], P[0, 2], P[0, 3]
    p20, p21, p22, p23 = P[2, 0], P[2, 1], P[2, 2], P[2, 3]
    width = np.int32(columns)
    for i in range(np.uint64(row.shape[0])):
        j = i * _THREE
        x, y, z = np.float64(flat[j]), np.float64(flat[j + _ONE]), np.float64(flat[j + _TWO])
        w = p20 * x + p21 * y + p22 * z + p23
        c = (p00 * x + p01 * y + p02 * z + p03) / (w * cell_px)
        k = np.int32(row[i])
        inside = (w > NEAR_M) & (k >= 0) & (c >= 0.0) & (c < columns)
        near[i] = np.float32(w)
        cell[i] = k * width + np.int32(c) if inside else np.int32(-1)


@njit("void(f4[::1], i4[::1], f4[::1], i4[::1])", cache=True, nogil=True)
def _fill(
    near: NDArray[np.float32], cell: NDArray[np.int32], depth: NDArray[np.float32], who: NDArray[np.int32]
) -> None:
    """Nearest point of each cell, the first of equals."""
    depth[:] = np.inf
    for i in range(np.uint64(cell.shape[0])):
        if cell[i] < 0:
            continue
        q = np.uint64(cell[i])
        nearer = near[i] < depth[q]
        depth[q] = near[i] if nearer else depth[q]
        who[q] = np.int32(i) if nearer else who[q]


@njit("void(f4[::1], i8, i8, f4[::1])", cache=True, nogil=True, error_model="numpy")
def _between(flat: NDArray[np.float32], near: int, far: int, out: NDArray[np.float32]) -> None:
    """The direction between two returns at the range of the nearer: the edge lies somewhere between the beams."""
    rn = np.sqrt(flat[near] ** 2 + flat[near + 1] ** 2 + flat[near + 2] ** 2)
    rf = np.sqrt(flat[far] ** 2 + flat[far + 1] ** 2 + flat[far + 2] ** 2)
    for a in range(3):
        out[a] = np.float32(0.5) * (flat[near + a] + flat[far + a] * rn / rf)


@njit("i8(f4[:,::1], i4[:,::1], f4[::1], i8, f4[:,::1], i4[:,::1])", cache=True, nogil=True)
def _line_up(
    depth: NDArray[np.float32],
    who: NDArray[np.int32],
    intensity: NDArray[np.float32],
    along: int,
    values: NDArray[np.float32],
    places: NDArray[np.int32],
) -> int:
    """Write the filled cells line after line; returns how many there are, with three of nothing ahead of them.

    values: depth and reflectance; places: position, which leaps from line to line, and point.
    """
    rows, columns = depth.shape
    lines, steps = (rows, columns) if along == UPRIGHT else (columns, rows)
    far, ink, at, point = values[0], values[1], places[0], places[1]
    for before in range(3):
        far[before] = ink[before] = np.float32(0.0)
        at[before], point[before] = np.int32(_LEAP * (before - 4)), np.int32(0)
    m = np.uint64(3)
    for a in range(np.uint64(lines)):
        for b in range(np.uint64(steps)):
            k, q = (a, b) if along == UPRIGHT else (b, a)
            far[m] = depth[k, q]
            at[m] = np.int32(a * np.uint64(steps + _LEAP) + b)
            point[m] = who[k, q]
            m += np.uint64(depth[k, q] < np.inf)
    for i in range(np.uint64(3), m):
        ink[i] = intensity[np.uint64(point[i])]
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


@njit("i8(f4[::1], i4[::1], u1[::1], f4[::1], i8, i8, f4[:,::1])", cache=True, nogil=True)
def _collect(
    far: NDArray[np.float32],
    point: NDArray[np.int32],
    mark: NDArray[np.uint8],
    flat: NDArray[np.float32],
    along: int,
    count: int,
    out: NDArray[np.float32],
) -> int:
    """Append what is marked to `out`, as far as it has room; returns the new count."""
    for m in range(3, far.shape[0]):
        if mark[m] == 0:
            continue
        if mark[m] & 1 and count < out.shape[0]:
            near, other = (m, m - 1) if far[m] < far[m - 1] else (m - 1, m)
            _between(flat, 3 * point[near], 3 * point[other], out[count])
            out[count, 3] = np.float32(along)
            count += 1
        if mark[m] & 2 and count < out.shape[0]:
            _between(flat, 3 * point[m - 1], 3 * point[m - 2], out[count])
            out[count, 3] = np.float32(along)
            count += 1
    return count


def depth_edges(
    xyz: NDArray[np.float32],
    intensity: NDArray[np.float32],
    row: NDArray[np.int16],
    P: NDArray[np.float64],
    width: int,
    cell_px: float,
    limit: int,
) -> NDArray[np.float32]:
    """Places at which depth jumps, or reflectance steps on one surface, inside the camera's columns.

    Args:
        xyz: (N, 3) float32 m, lidar frame, C-contiguous. intensity: (N,) float32, zeros for depth alone.
        row: (N,) int16, 0..GRID_ROWS - 1: elevation row of `ranges.to_spherical`, -1 for points to leave out.
        P: (3, 4) float64, lidar to pixels. width: of the image, pixels. cell_px: width of a grid cell, pixels.
        limit: at most so many.

    Returns (M, 4) float32: x, y, z between the two beams at the nearer's range, and UPRIGHT or FLAT.
    """
    columns = int(np.ceil(width / cell_px))
    size, n = GRID_ROWS * columns, row.shape[0]
    near, cell = _scratch.array("near", n, np.float32), _scratch.array("cell", n, np.int32)
    depth, who = _scratch.array("depth", size, np.float32), _scratch.array("who", size, np.int32)
    flat = xyz.reshape(-1)
    _cells(flat, row, P, cell_px, columns, near, cell)
    _fill(near, cell, depth, who)
    room = size + 4  # the last write may be for nobody
    values = _scratch.array("values", 2 * room, np.float32).reshape(2, room)
    places = _scratch.array("places", 2 * room, np.int32).reshape(2, room)
    mark = _scratch.array("mark", room, np.uint8)
    grid, points = depth.reshape(GRID_ROWS, columns), who.reshape(GRID_ROWS, columns)
    out = np.empty((limit, 4), np.float32)
    count = 0
    for along in (UPRIGHT, FLAT):
        m = _line_up(grid, points, intensity, along, values, places)
        _mark(values[0, :m], values[1, :m], places[0, :m], mark[:m])
        count = _collect(values[0, :m], places[1, :m], mark[:m], flat, along, count, out)
    return out[:count]


@njit("void(u1[:,::1], f4[:,:,::1], f4)", cache=True, nogil=True, error_model="numpy")
def _gradients(grey: NDArray[np.uint8], field: NDArray[np.float32], fade: np.float32) -> None:
    """Relative gradients, spread: two plain scans per direction."""
    rows, columns = grey.shape
    inner = np.uint64(max(columns - 2, 0))
    field[:] = np.float32(0.0)
    sum_x = 0
    sum_y = 0
    for v in range(1, rows - 1):
        above, here, below = grey[v - 1], grey[v], grey[v + 1]
        left, right, up, down = here[: columns - 2], here[2:], above[1 : columns - 1], below[1 : columns - 1]
        fx, fy = field[0, v, 1 : columns - 1], field[1, v, 1 : columns - 1]
        part_x = np.int32(0)
        part_y = np.int32(0)
        for u in range(inner):
            gx = abs(np.int32(right[u]) - np.int32(left[u]))
            gy = abs(np.int32(down[u]) - np.int32(up[u]))
            fx[u] = np.float32(gx)
            fy[u] = np.float32(gy)
            part_x += gx
            part_y += gy
        sum_x += int(part_x)
        sum_y += int(part_y)
    n = max(1, (rows - 2) * (columns - 2))
    for a in range(2):
        usual = np.float32((sum_x if a == 0 else sum_y) / n * 1.5 + 4.0)
        plane = field[a].reshape(-1)
        for i in range(np.uint64(plane.shape[0])):
            plane[i] = plane[i] / (plane[i] + usual)
    for v in range(0, rows, 4):  # an upright edge fades sideways: four lines at a time, as each waits for itself
        r0, r1 = field[0, v], field[0, min(v + 1, rows - 1)]
        r2, r3 = field[0, min(v + 2, rows - 1)], field[0, min(v + 3, rows - 1)]
        for back in range(2):
            a0 = a1 = a2 = a3 = np.float32(0.0)
            for t in range(columns):
                u = columns - 1 - t if back else t
                a0 = max(r0[u], fade * a0)
                a1 = max(r1[u], fade * a1)
                a2 = max(r2[u], fade * a2)
                a3 = max(r3[u], fade * a3)
                r0[u], r1[u], r2[u], r3[u] = a0, a1, a2, a3
    for v in range(1, rows):
        before, row = field[1, v - 1], field[1, v]
        for u in range(np.uint64(columns)):
            row[u] = max(row[u], fade * before[u])
    for v in range(rows - 2, -1, -1):
        before, row = field[1, v + 1], field[1, v]
        for u in range(np.uint64(columns)):
            row[u] = max(row[u], fade * before[u])


def edge_field(grey: NDArray[np.uint8], fade: float) -> NDArray[np.float32]:
    """(2, H, W) float32 in 0..1 from (H, W) uint8: upright and flat edges, fading by `fade` per pixel across."""
    field = np.empty((2, *grey.shape), np.float32)
    _gradients(grey, field, np.float32(fade))
    return field


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
    out = np.empty((poses.shape[0], edges.shape[0]), np.float32)
    n = edges.shape[0]
    place = _scratch.array("place", n, np.int32)
    share = _scratch.array("share", 2 * n, np.float32).reshape(2, n)
    rows, columns = field.shape[1:]
    flat = field.reshape(-1)
    for pose, values in zip(poses, out, strict=True):
        _project(edges, pose, lens, per_px, rows, columns, place, share)
        _mix(place, share, flat, columns, values)
    return out


@njit("i8(f4[:,::1], b1[::1], f8[::1])", cache=True, nogil=True)
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
