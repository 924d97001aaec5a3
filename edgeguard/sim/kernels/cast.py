"""Object-order ray casting: for every primitive, only the rays of its window are tried.

Rays come as three planes (L, B) float32: L lines of B rays that leave at one moment from one place (an image row, the
beams of a lidar that fire together). `starts` (L, 4) float64 holds x, y, z of that place in the frame the primitives
are given in, and the line's time in seconds against the moment at which the primitives stand there. Distance is in
units of the ray's own length: unit rays give range, rays whose component along the optical axis is 1 give depth. The
ground is the plane z = -height, or a height field. Inner loops are free of branches and in float32, so that the
compiler can do eight rays at once.
"""

from __future__ import annotations

from math import floor, inf, sqrt

import numpy as np
from numba import njit

from edgeguard.sim.primitives import BICYCLE, BOX, CYLINDER, FOLIAGE

# The array types of the kernels' signatures.
PICTURE, TABLE, CODES = "float32[:,:,::1]", "float64[:,::1]", "int64[:,::1]"
GRID_F4, GRID_I4, GRID_U1 = "float32[:,::1]", "int32[:,::1]", "uint8[:,::1]"
LINE_F4 = "float32[::1]"

EPSILON = 1e-4  # metres of ray: nearer hits are the surface the ray starts on
CROWN_CELL_M = 0.28  # size of a tuft of leaves
CROWN_GAP = 0.30  # share of tufts that are sky


@njit("int64(int64, int64, int64)", cache=True, nogil=True, error_model="numpy")
def hash3(a: int, b: int, c: int) -> int:
    """Mix three integers into 0..2^32-1 (multiply-xorshift; fine for texture and noise, not for secrets)."""
    h = ((a & 0xFFFFFF) * 374761393 + (b & 0xFFFFFF) * 668265263 + (c & 0xFFFFFFFF) * 974711) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1103515245) & 0xFFFFFFFF
    return h ^ (h >> 16)


@njit("float64(float64[:], int64, float64, float64, float64)", cache=True, nogil=True, error_model="numpy")
def opaque(p: np.ndarray, material: int, lx: float, ly: float, z: float) -> float:
    """Return 1 where a surface with holes (spokes, leaves) is solid, else 0; local x, y, height above its base."""
    if material == BICYCLE:
        for wheel in (-0.53, 0.53):
            r = sqrt((lx - wheel) * (lx - wheel) + (z - 0.34) * (z - 0.34))
            if 0.29 < r < 0.345:
                return 1.0
        bar = abs(z - 0.34 - 0.9 * (lx + 0.53)) < 0.03 and -0.53 < lx < 0.0
        post = abs(lx + 0.12 - 0.2 * (0.6 - z)) < 0.025 and 0.3 < z < 0.85
        top = abs(z - 0.82) < 0.025 and -0.1 < lx < 0.42
        fork = abs(lx - 0.40 - 0.3 * (0.8 - z)) < 0.025 and 0.34 < z < 1.02
        down = abs(z - 0.34 - 1.15 * (lx - 0.0)) < 0.03 and 0.0 < lx < 0.42
        return 1.0 if bar or post or top or fork or down else 0.0
    if material == FOLIAGE:
        cell = hash3(
            floor(lx / CROWN_CELL_M) + 4096,
            floor(ly / CROWN_CELL_M) + 4096,
            int(p[14]) * 31 + floor(z / CROWN_CELL_M),
        )
        return 0.0 if cell < CROWN_GAP * 4294967296.0 else 1.0
    return 1.0


@njit(
    "float64(float64[:], int64, int64, float64, float64, float64, float64, float64, float64)",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def intersect(
    p: np.ndarray, kind: int, material: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> float:
    """Return the distance along (dx, dy, dz) from (ox, oy, oz) to primitive `p`, or inf.

    A ray that starts inside a solid does not see it. Slabs: Kay and Kajiya 1986.
    """
    rx, ry = ox - p[0], oy - p[1]
    if kind == BOX:
        c, s = p[6], p[7]
        px, py, pz = c * rx + s * ry, c * ry - s * rx, oz - p[2]
        ex, ey = c * dx + s * dy, c * dy - s * dx
        near, far = -inf, inf
        for plane in range(6):
            if plane == 0:
                den, num = ey, p[5] - py
            elif plane == 1:
                den, num = -ey, p[5] + py
            elif plane == 2:
                den, num = ex + p[8] * dz, p[4] - px - p[8] * pz
            elif plane == 3:
                den, num = p[9] * dz - ex, p[4] + px - p[9] * pz
            elif plane == 4:
                den, num = dz, p[3] - oz
            else:
                den, num = -dz, pz
            if den > 1e-12:
                far = min(far, num / den)
            elif den < -1e-12:
                near = max(near, num / den)
            elif num < 0.0:
                return inf
            if near > far:
                return inf
        if near <= EPSILON:
            return inf
        if material == BICYCLE and opaque(p, material, px + near * ex, 0.0, pz + near * dz) == 0.0:
            return inf
        return float(near)
    if kind == CYLINDER:
        a = dx * dx + dy * dy
        b = rx * dx + ry * dy
        q = b * b - a * (rx * rx + ry * ry - p[4] * p[4])
        if a < 1e-12 or q <= 0.0:
            return inf
        t = (-b - sqrt(q)) / a
        z = oz + t * dz
        return float(t) if t > EPSILON and p[2] <= z <= p[3] else inf
    half = 0.5 * (p[3] - p[2])
    k = p[4] / half  # squash the ellipsoid to a sphere of its radius in plan
    rz, ez = (oz - 0.5 * (p[2] + p[3])) * k, dz * k
    a = dx * dx + dy * dy + ez * ez
    b = rx * dx + ry * dy + rz * ez
    q = b * b - a * (rx * rx + ry * ry + rz * rz - p[4] * p[4])
    if q <= 0.0:
        return inf
    root = sqrt(q)
    for side in (-1.0, 1.0):
        t = (-b + side * root) / a
        if t > EPSILON:
            if material != FOLIAGE:
                return float(t) if side < 0.0 else inf
            hx, hy = rx + t * dx, ry + t * dy  # a tree stands still while the frame turns with the vehicle
            if opaque(p, material, p[6] * hx + p[7] * hy, p[6] * hy - p[7] * hx, oz + t * dz - p[2]) > 0.0:
                return float(t)
    return inf


@njit(
    "Tuple((int64, float64, float64, float64))(float64[:], int64, float64, float64, float64)",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def surface(p: np.ndarray, kind: int, x: float, y: float, z: float) -> tuple[int, float, float, float]:
    """Return the face and the outward unit normal of primitive `p` at a point on its surface.

    Faces of a box: 0 left, 1 right, 2 front, 3 back, 4 top or bottom; -1 for round solids.
    """
    if kind != BOX:
        half = 0.5 * (p[3] - p[2])
        nx, ny = (x - p[0]) / (p[4] * p[4]), (y - p[1]) / (p[4] * p[4])
        nz = 0.0 if kind == CYLINDER else (z - p[2] - half) / (half * half)
        scale = 1.0 / sqrt(nx * nx + ny * ny + nz * nz + 1e-30)
        return -1, nx * scale, ny * scale, nz * scale
    c, s, h = p[6], p[7], z - p[2]
    lx, ly = c * (x - p[0]) + s * (y - p[1]), c * (y - p[1]) - s * (x - p[0])
    face, best = 0, abs(p[5] - ly)
    if abs(p[5] + ly) < best:
        face, best = 1, abs(p[5] + ly)
    if abs(p[4] - p[8] * h - lx) < best:
        face, best = 2, abs(p[4] - p[8] * h - lx)
    if abs(p[4] - p[9] * h + lx) < best:
        face, best = 3, abs(p[4] - p[9] * h + lx)
    if min(abs(p[3] - z), abs(h)) < best:
        return 4, 0.0, 0.0, 1.0 if abs(p[3] - z) < abs(h) else -1.0
    if face <= 1:
        side = 1.0 if face == 0 else -1.0
        return face, -s * side, c * side, 0.0
    lean, side = (p[8], 1.0) if face == 2 else (p[9], -1.0)
    scale = 1.0 / sqrt(1.0 + lean * lean)
    return face, c * side * scale, s * side * scale, lean * scale


ZERO, FAR = np.float32(0.0), np.float32(np.inf)


@njit(
    f"void(uint64, uint64, float64[::1], float64, float64, float64, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _box_line(
    first: int,
    count: int,
    p: np.ndarray,
    rx0: float,
    ry0: float,
    oz: float,
    rx: np.ndarray,
    ry: np.ndarray,
    rz: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill distances of rays first, first + 1, .. to a box, inf where they miss; (rx0, ry0): the start seen from it."""
    c, s = np.float32(p[6]), np.float32(p[7])
    px, py, pz = p[6] * rx0 + p[7] * ry0, p[6] * ry0 - p[7] * rx0, oz - p[2]
    left, right = np.float32(p[5] - py), np.float32(-p[5] - py)
    front, back = np.float32(p[4] - px - p[8] * pz), np.float32(p[4] + px - p[9] * pz)
    lean_front, lean_back = np.float32(p[8]), np.float32(p[9])
    top, bottom = np.float32(p[3] - oz), np.float32(-pz)
    for j in range(count):
        ex, ey, ez = c * rx[first + j] + s * ry[first + j], c * ry[first + j] - s * rx[first + j], rz[first + j]
        a, b = left / ey, right / ey
        near, far = (a, b) if a < b else (b, a)
        a, b = top / ez, bottom / ez
        low, high = (a, b) if a < b else (b, a)
        near = low if low > near else near
        far = high if high < far else far
        way = ex + lean_front * ez
        t = front / way
        low, high = (t if way < ZERO else -FAR), (t if way > ZERO else FAR)
        near = low if low > near else near
        far = high if high < far else far
        way = lean_back * ez - ex
        t = back / way
        low, high = (t if way < ZERO else -FAR), (t if way > ZERO else FAR)
        near = low if low > near else near
        far = high if high < far else far
        out[j] = near if (near <= far) & (near > np.float32(EPSILON)) else FAR


@njit(
    f"void(uint64, uint64, float64[::1], float64, float64, float64, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _cylinder_line(
    first: int,
    count: int,
    p: np.ndarray,
    rx0: float,
    ry0: float,
    oz: float,
    rx: np.ndarray,
    ry: np.ndarray,
    rz: np.ndarray,
    out: np.ndarray,
) -> None:
    """As `_box_line`, for the side of an upright cylinder."""
    x, y, z = np.float32(rx0), np.float32(ry0), np.float32(oz)
    room = np.float32(rx0 * rx0 + ry0 * ry0 - p[4] * p[4])
    low, high = np.float32(p[2]), np.float32(p[3])
    for j in range(count):
        a = rx[first + j] * rx[first + j] + ry[first + j] * ry[first + j]
        b = x * rx[first + j] + y * ry[first + j]
        q = b * b - a * room
        t = (-b - np.sqrt(q if q > ZERO else ZERO)) / a
        at = z + t * rz[first + j]
        out[j] = t if (q > ZERO) & (t > np.float32(EPSILON)) & (at >= low) & (at <= high) else FAR


@njit(
    f"void(uint64, uint64, float64[::1], float64, float64, float64, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _ellipsoid_line(
    first: int,
    count: int,
    p: np.ndarray,
    rx0: float,
    ry0: float,
    oz: float,
    rx: np.ndarray,
    ry: np.ndarray,
    rz: np.ndarray,
    out: np.ndarray,
) -> None:
    """As `_box_line`, for an ellipsoid without holes."""
    squash = p[4] / (0.5 * (p[3] - p[2]))
    up = (oz - 0.5 * (p[2] + p[3])) * squash
    x, y, z, k = np.float32(rx0), np.float32(ry0), np.float32(up), np.float32(squash)
    room = np.float32(rx0 * rx0 + ry0 * ry0 + up * up - p[4] * p[4])
    for j in range(count):
        ez = rz[first + j] * k
        a = rx[first + j] * rx[first + j] + ry[first + j] * ry[first + j] + ez * ez
        b = x * rx[first + j] + y * ry[first + j] + z * ez
        q = b * b - a * room
        t = (-b - np.sqrt(q if q > ZERO else ZERO)) / a
        out[j] = t if (q > ZERO) & (t > np.float32(EPSILON)) else FAR


@njit(
    f"void({GRID_F4}, {TABLE}, float64, {GRID_F4}, {GRID_I4})",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def cast_plane(
    dz: np.ndarray,
    starts: np.ndarray,
    height_m: float,
    distance: np.ndarray,
    hit: np.ndarray,
) -> None:
    """Start `distance` and `hit` (-1 ground, -2 nothing) with the plane z = -height."""
    zero, nothing = np.float32(0.0), np.float32(np.inf)
    for i in range(distance.shape[0]):
        drop = np.float32(-height_m - starts[i, 2])
        row, reach, what = dz[i], distance[i], hit[i]
        for j in range(len(row)):
            down = row[j] < zero
            reach[j] = drop / row[j] if down else nothing
            what[j] = -1 if down else -2


@njit(
    f"float64({TABLE}, float64, float64, float64, float64, float64, float64, float64)",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def clearance(
    heights: np.ndarray, corner_x: float, corner_y: float, cell_m: float, x: float, y: float, z: float, last: float
) -> float:
    """Height of a point above the height field."""
    u, v = (x - corner_x) / cell_m, (y - corner_y) / cell_m
    u, v = min(max(u, 0.0), last), min(max(v, 0.0), last)
    iu, iv = int(u), int(v)
    fu, fv = u - iu, v - iv
    low = heights[iv, iu] + fu * (heights[iv, iu + 1] - heights[iv, iu])
    high = heights[iv + 1, iu] + fu * (heights[iv + 1, iu + 1] - heights[iv + 1, iu])
    return float(z - low - fv * (high - low))


@njit(
    f"void({GRID_F4}, {GRID_F4}, {GRID_F4}, float64[:,:,::1], {GRID_F4}, {GRID_F4}, {GRID_F4})",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def turn(
    sx: np.ndarray,
    sy: np.ndarray,
    sz: np.ndarray,
    rotations: np.ndarray,
    dx: np.ndarray,
    dy: np.ndarray,
    dz: np.ndarray,
) -> None:
    """Turn every line's rays by that line's (3, 3) rotation."""
    for i in range(sx.shape[0]):
        r = rotations[i]
        a, b, c = np.float32(r[0, 0]), np.float32(r[0, 1]), np.float32(r[0, 2])
        d, e, f = np.float32(r[1, 0]), np.float32(r[1, 1]), np.float32(r[1, 2])
        g, h, k = np.float32(r[2, 0]), np.float32(r[2, 1]), np.float32(r[2, 2])
        x, y, z, u, v, w = sx[i], sy[i], sz[i], dx[i], dy[i], dz[i]
        for j in range(len(x)):
            u[j] = a * x[j] + b * y[j] + c * z[j]
            v[j] = d * x[j] + e * y[j] + f * z[j]
            w[j] = g * x[j] + h * y[j] + k * z[j]


@njit(
    f"void({GRID_F4}, {GRID_F4}, {GRID_F4}, {TABLE}, {TABLE}, float64, float64, float64, {GRID_F4}, {GRID_I4})",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def cast_hills(
    dx: np.ndarray,
    dy: np.ndarray,
    dz: np.ndarray,
    starts: np.ndarray,
    heights: np.ndarray,
    corner_x: float,
    corner_y: float,
    cell_m: float,
    distance: np.ndarray,
    hit: np.ndarray,
) -> None:
    """Start `distance` and `hit` with a height field.

    heights: (N, N) z of the ground in the rays' frame at (corner_x + column * cell_m, corner_y + row * cell_m),
    bilinear in between. Rays are marched: steps of a tenth of the distance, then bisection.
    """
    last = heights.shape[0] - 1.001
    for i in range(distance.shape[0]):
        ox, oy, oz = starts[i, 0], starts[i, 1], starts[i, 2]
        for j in range(distance.shape[1]):
            vx, vy, vz = dx[i, j], dy[i, j], dz[i, j]
            flat = sqrt(vx * vx + vy * vy)
            distance[i, j], hit[i, j] = np.inf, -2
            if vz > 0.15 * flat or flat < 1e-9:  # steeper than any hill here
                continue
            before, t = 0.0, 0.5 / sqrt(vx * vx + vy * vy + vz * vz)
            if (
                vz < 0.0
            ):  # no hill rises more than 15 %: until the ray is that close to the level ground, nothing is hit
                t = max(t, 0.5 * clearance(heights, corner_x, corner_y, cell_m, ox, oy, oz, last) / (0.15 * flat - vz))
            found = False
            while t * flat < last * cell_m * 0.5:
                x, y = ox + t * vx, oy + t * vy
                if clearance(heights, corner_x, corner_y, cell_m, x, y, oz + t * vz, last) < 0.0:
                    found = True
                    break
                before, t = t, t * 1.1
            if not found:
                continue
            after = t
            for _ in range(14):
                middle = 0.5 * (before + after)
                x, y = ox + middle * vx, oy + middle * vy
                if clearance(heights, corner_x, corner_y, cell_m, x, y, oz + middle * vz, last) < 0.0:
                    after = middle
                else:
                    before = middle
            distance[i, j], hit[i, j] = 0.5 * (before + after), -1


@njit(
    f"void({GRID_F4}, {GRID_F4}, {GRID_F4}, {TABLE}, {CODES}, {TABLE}, {TABLE}, {CODES}, float64[::1], {GRID_F4},"
    f" {GRID_I4}, {GRID_I4}, int64[::1])",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def cast(
    dx: np.ndarray,
    dy: np.ndarray,
    dz: np.ndarray,
    starts: np.ndarray,
    codes: np.ndarray,
    values: np.ndarray,
    velocity: np.ndarray,
    windows: np.ndarray,
    nearest: np.ndarray,
    distance: np.ndarray,
    hit: np.ndarray,
    mark: np.ndarray,
    alone: np.ndarray,
) -> None:
    """Find the nearest surface for every ray of a grid, on top of the ground that `distance` and `hit` start with.

    Args:
        dx, dy, dz: (L, B) directions. starts: (L, 4); see the module.
        values, codes: primitives in the rays' frame (see `edgeguard.sim.primitives`). velocity: (N, 2) of each, m/s.
        windows: (M, 5) int64 rows of primitive, first line, end line, first ray, end ray.
        nearest: (N,) lower bound of each primitive's distance; with windows sorted by it, hidden scenery costs little.
        distance: (L, B) float32 in and out. hit: (L, B) int32 in and out; primitive, -1 ground, -2 nothing.
        mark: (L, B) int32 scratch, or (0, 0) where nobody counts. alone: per object number, how many rays would hit
            it if it stood alone.
    """
    counting, width = mark.shape[0] > 0, distance.shape[1]
    found = np.empty(width, dtype=np.float32)
    # Flat and unsigned: a slice per line would cost more than a short line itself, a signed index a test.
    rx, ry, rz, reach = dx.reshape(-1), dy.reshape(-1), dz.reshape(-1), distance.reshape(-1)
    what, line = hit.reshape(-1), mark.reshape(-1)
    for k in range(len(line)):
        line[k] = -1
    for w in range(windows.shape[0]):
        index = windows[w, 0]
        p = values[index]
        kind, material, owner = codes[index, 0], codes[index, 1], codes[index, 2]
        counted = counting and owner >= 0
        # Labelled objects are cast even where hidden: their unhidden size is counted.
        bound = np.float32(-1.0) if counted else np.float32(nearest[index])
        number, whose, total = np.int32(index), np.int32(owner), 0
        count = np.uint64(max(windows[w, 4] - windows[w, 3], 0))
        for i in range(windows[w, 1], windows[w, 2]):
            first = np.uint64(i * width + windows[w, 3])
            furthest = np.float32(-1.0)
            for j in range(count):
                furthest = max(furthest, reach[first + j])
            if furthest <= bound:
                continue
            ox = starts[i, 0] - p[0] - velocity[index, 0] * starts[i, 3]
            oy = starts[i, 1] - p[1] - velocity[index, 1] * starts[i, 3]
            oz = starts[i, 2]
            if material == FOLIAGE:
                _ellipsoid_line(first, count, p, ox, oy, oz, rx, ry, rz, found)
                for j in range(count):
                    at = first + j
                    if found[j] < FAR and (counted or found[j] < reach[at]):
                        found[j] = intersect(p, kind, material, ox + p[0], oy + p[1], oz, rx[at], ry[at], rz[at])
            elif kind == BOX:
                _box_line(first, count, p, ox, oy, oz, rx, ry, rz, found)
            elif kind == CYLINDER:
                _cylinder_line(first, count, p, ox, oy, oz, rx, ry, rz, found)
            else:
                _ellipsoid_line(first, count, p, ox, oy, oz, rx, ry, rz, found)
            if material == BICYCLE:
                for j in range(count):
                    t, at = found[j], first + j
                    if t < FAR:
                        lx = p[6] * (ox + t * rx[at]) + p[7] * (oy + t * ry[at])
                        if opaque(p, material, lx, 0.0, oz + t * rz[at] - p[2]) == 0.0:
                            found[j] = FAR
            if counted:
                for j in range(count):
                    struck = found[j] < FAR
                    total += struck & (line[first + j] != whose)
                    line[first + j] = whose if struck else line[first + j]
            for j in range(count):
                closer = found[j] < reach[first + j]
                what[first + j] = number if closer else what[first + j]
                reach[first + j] = found[j] if closer else reach[first + j]
        if counted:
            alone[owner] += total


@njit(
    f"void({GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_F4}, {GRID_I4}, {TABLE}, {CODES}, {CODES}, float64, float64, float64,"
    f" {GRID_U1})",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def cast_shadows(
    dx: np.ndarray,
    dy: np.ndarray,
    dz: np.ndarray,
    distance: np.ndarray,
    hit: np.ndarray,
    values: np.ndarray,
    codes: np.ndarray,
    windows: np.ndarray,
    sun_x: float,
    sun_y: float,
    sun_z: float,
    shadow: np.ndarray,
) -> None:
    """Set `shadow` to 1 at ground pixels from which a primitive hides the sun; windows as in `cast`."""
    for w in range(windows.shape[0]):
        index = windows[w, 0]
        p = values[index]
        kind, material = codes[index, 0], codes[index, 1]
        for i in range(windows[w, 1], windows[w, 2]):
            for j in range(windows[w, 3], windows[w, 4]):
                if hit[i, j] != -1 or shadow[i, j] == 1:
                    continue
                t = distance[i, j]
                x, y, z = t * dx[i, j], t * dy[i, j], t * dz[i, j]
                if intersect(p, kind, material, x, y, z, sun_x, sun_y, sun_z) < inf:
                    shadow[i, j] = 1
