"""Object-order ray casting: for every primitive, only the rays of its window are tried.

Rays come as three planes (L, B) float32: L lines of B rays that leave at one moment from one place (an image row, the
beams of a lidar that fire together). `starts` (L, 4) float64 holds x, y, z of that place in the frame the primitives
are given in, and the line's time in seconds against the moment at which the primitives stand there. Distance is in
units of the ray's own length: unit rays give range, rays whose component along the optical axis is 1 give depth. The
ground is the plane z = -height, or a height field. Inner loops are free of branches and in float32, so that the
compiler can do eight rays at once.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numba import njit

from edgeguard.sim.kernels.solids import FAR, box_hit, crown_hit, cylinder_hit, opaque, round_hits
from edgeguard.sim.primitives import BICYCLE, BOX, CYLINDER, FOLIAGE

# The array types of the kernels' signatures.
PICTURE, TABLE, CODES = "float32[:,:,::1]", "float64[:,::1]", "int64[:,::1]"
GRID_F4, GRID_I4, GRID_U1 = "float32[:,::1]", "int32[:,::1]", "uint8[:,::1]"
LINE_F4 = "float32[::1]"


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
    f"void(uint64, uint64, float64[::1], int64, int64, float64, float64, float64, {LINE_F4}, {LINE_F4}, {LINE_F4},"
    f" {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _line(
    first: int,
    count: int,
    p: np.ndarray,
    kind: int,
    material: int,
    ox: float,
    oy: float,
    oz: float,
    rx: np.ndarray,
    ry: np.ndarray,
    rz: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill distances of rays first, first + 1, .. to a solid, inf where they miss; (ox, oy, oz): start seen from it."""
    c, s, half = np.float32(p[6]), np.float32(p[7]), 0.5 * (p[3] - p[2])
    x, y, top = np.float32(ox), np.float32(oy), np.float32(p[3] - p[2])
    room = ox * ox + oy * oy - p[4] * p[4]
    if kind == BOX:
        lx, ly, lz = np.float32(p[6] * ox + p[7] * oy), np.float32(p[6] * oy - p[7] * ox), np.float32(oz)
        half_x, half_y, lean_front, lean_back = np.float32(p[4]), np.float32(p[5]), np.float32(p[8]), np.float32(p[9])
        for j in range(count):
            vx, vy, vz = rx[first + j], ry[first + j], rz[first + j]
            out[j] = box_hit(lx, ly, lz, c * vx + s * vy, c * vy - s * vx, vz, half_x, half_y, top, lean_front,
                             lean_back)  # fmt: skip
        if material == BICYCLE:
            for j in range(count):
                if out[j] < FAR:
                    at = p[6] * (ox + out[j] * rx[first + j]) + p[7] * (oy + out[j] * ry[first + j])
                    if opaque(p, material, at, 0.0, oz + out[j] * rz[first + j]) == 0.0:
                        out[j] = FAR
    elif kind == CYLINDER:
        z, gap = np.float32(oz), np.float32(room)
        for j in range(count):
            out[j] = cylinder_hit(x, y, z, gap, rx[first + j], ry[first + j], rz[first + j], top)
    else:  # squashed to a sphere of its radius in plan
        up = oz - half
        squash, z, gap = np.float32(p[4] / half), np.float32(up), np.float32(room + (up * p[4] / half) ** 2)
        if material == FOLIAGE:
            middle, grain = np.float32(half), np.int32(int(p[14]) * 31)
            for j in range(count):
                out[j] = crown_hit(x, y, z, gap, rx[first + j], ry[first + j], rz[first + j], squash, c, s, middle,
                                   grain)  # fmt: skip
        else:
            for j in range(count):
                out[j], _ = round_hits(x, y, z * squash, gap, rx[first + j], ry[first + j], rz[first + j] * squash)


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
            oz = starts[i, 2] - p[2]
            _line(first, count, p, kind, material, ox, oy, oz, rx, ry, rz, found)
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
    f"void(uint64, uint64, float64[::1], int64, int64, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, float64, float64,"
    f" float64, {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _shade_line(
    first: int,
    count: int,
    p: np.ndarray,
    kind: int,
    material: int,
    dx: np.ndarray,
    dy: np.ndarray,
    dz: np.ndarray,
    reach: np.ndarray,
    sun_x: float,
    sun_y: float,
    sun_z: float,
    out: np.ndarray,
) -> None:
    """Fill distances from where rays first, first + 1, .. end to a solid on their way to the sun, inf where none is."""
    c, s, half = np.float32(p[6]), np.float32(p[7]), 0.5 * (p[3] - p[2])
    cx, cy, cz, top = np.float32(p[0]), np.float32(p[1]), np.float32(p[2]), np.float32(p[3] - p[2])
    vx, vy, vz, radius2 = np.float32(sun_x), np.float32(sun_y), np.float32(sun_z), np.float32(p[4] * p[4])
    if kind == BOX:
        ex, ey = np.float32(p[6] * sun_x + p[7] * sun_y), np.float32(p[6] * sun_y - p[7] * sun_x)
        half_x, half_y, lean_front, lean_back = np.float32(p[4]), np.float32(p[5]), np.float32(p[8]), np.float32(p[9])
        for j in range(count):
            t = reach[first + j]
            x, y, z = t * dx[first + j] - cx, t * dy[first + j] - cy, t * dz[first + j] - cz
            out[j] = box_hit(c * x + s * y, c * y - s * x, z, ex, ey, vz, half_x, half_y, top, lean_front, lean_back)
        if material == BICYCLE:
            for j in range(count):
                if out[j] < FAR:
                    t = reach[first + j]
                    at = p[6] * (t * dx[first + j] - p[0]) + p[7] * (t * dy[first + j] - p[1]) + out[j] * ex
                    if opaque(p, material, at, 0.0, t * dz[first + j] - p[2] + out[j] * vz) == 0.0:
                        out[j] = FAR
    elif kind == CYLINDER:
        for j in range(count):
            t = reach[first + j]
            x, y, z = t * dx[first + j] - cx, t * dy[first + j] - cy, t * dz[first + j] - cz
            out[j] = cylinder_hit(x, y, z, x * x + y * y - radius2, vx, vy, vz, top)
    else:
        squash, middle, grain = np.float32(p[4] / half), np.float32(half), np.int32(int(p[14]) * 31)
        for j in range(count):
            t = reach[first + j]
            x, y, z = t * dx[first + j] - cx, t * dy[first + j] - cy, t * dz[first + j] - cz - middle
            room = x * x + y * y + (z * squash) * (z * squash) - radius2
            if material == FOLIAGE:
                out[j] = crown_hit(x, y, z, room, vx, vy, vz, squash, c, s, middle, grain)
            else:
                out[j], _ = round_hits(x, y, z * squash, room, vx, vy, vz * squash)


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
    width = distance.shape[1]
    x, y, z, reach = dx.reshape(-1), dy.reshape(-1), dz.reshape(-1), distance.reshape(-1)
    what, dark, found = hit.reshape(-1), shadow.reshape(-1), np.empty(width, np.float32)
    for w in range(windows.shape[0]):
        p, kind, material = values[windows[w, 0]], codes[windows[w, 0], 0], codes[windows[w, 0], 1]
        count = np.uint64(max(windows[w, 4] - windows[w, 3], 0))
        for i in range(windows[w, 1], windows[w, 2]):
            first = np.uint64(i * width + windows[w, 3])
            _shade_line(first, count, p, kind, material, x, y, z, reach, sun_x, sun_y, sun_z, found)
            for j in range(count):
                shaded = (found[j] < FAR) & (what[first + j] == -1)
                dark[first + j] = np.uint8(1) if shaded else dark[first + j]
