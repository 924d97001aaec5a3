"""Object-order ray casting: for every primitive, only the rays of its window are tried.

A grid of rays leaves the origin of the frame the primitives are given in. Distance is in units of the ray's own
length: unit rays give range, rays with x = 1 give depth. The ground is the plane z = -height.
"""

from __future__ import annotations

from math import floor, inf, sqrt

import numpy as np
from numba import njit

from edgeguard.sim.primitives import BICYCLE, BOX, CYLINDER, FOLIAGE

# The array types of the kernels' signatures.
RAYS, TABLE, CODES = "float32[:,:,::1]", "float64[:,::1]", "int64[:,::1]"
GRID_F4, GRID_I4, GRID_U1 = "float32[:,::1]", "int32[:,::1]", "uint8[:,::1]"

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


@njit(
    f"void({RAYS}, float64, {TABLE}, {CODES}, {CODES}, float64[::1], {GRID_F4}, {GRID_I4}, {GRID_I4}, int64[::1])",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def cast(
    rays: np.ndarray,
    height_m: float,
    values: np.ndarray,
    codes: np.ndarray,
    windows: np.ndarray,
    nearest: np.ndarray,
    distance: np.ndarray,
    hit: np.ndarray,
    mark: np.ndarray,
    alone: np.ndarray,
) -> None:
    """Find the nearest surface for every ray of a grid.

    Args:
        rays: (H, W, 3) float32 directions. height_m: of the origin above the ground.
        values, codes: primitives in the rays' frame (see `edgeguard.sim.primitives`).
        windows: (M, 5) int64 rows of primitive, first row, end row, first column, end column.
        nearest: (N,) lower bound of each primitive's distance; with windows sorted by it, hidden scenery costs nothing.
        distance: (H, W) float32 out; inf where nothing. hit: (H, W) int32 out; primitive, -1 ground, -2 nothing.
        mark: (H, W) int32 scratch. alone: per object number, how many rays would hit it if it stood alone.
    """
    rows, columns = distance.shape
    for i in range(rows):
        for j in range(columns):
            dz = rays[i, j, 2]
            distance[i, j] = -height_m / dz if dz < 0.0 else np.inf
            hit[i, j] = -1 if dz < 0.0 else -2
            mark[i, j] = -1
    for w in range(windows.shape[0]):
        index = windows[w, 0]
        p = values[index]
        kind, material, owner = codes[index, 0], codes[index, 1], codes[index, 2]
        # Labelled objects are cast even where hidden: their unhidden size is counted.
        bound = nearest[index] if owner < 0 else -1.0
        for i in range(windows[w, 1], windows[w, 2]):
            for j in range(windows[w, 3], windows[w, 4]):
                if distance[i, j] <= bound:
                    continue
                t = intersect(p, kind, material, 0.0, 0.0, 0.0, rays[i, j, 0], rays[i, j, 1], rays[i, j, 2])
                if t == inf:
                    continue
                if owner >= 0 and mark[i, j] != owner:
                    mark[i, j] = owner
                    alone[owner] += 1
                if t < distance[i, j]:
                    distance[i, j] = t
                    hit[i, j] = index


@njit(
    f"void({RAYS}, {GRID_F4}, {GRID_I4}, {TABLE}, {CODES}, {CODES}, float64, float64, float64, {GRID_U1})",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def cast_shadows(
    rays: np.ndarray,
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
                x, y, z = t * rays[i, j, 0], t * rays[i, j, 1], t * rays[i, j, 2]
                if intersect(p, kind, material, x, y, z, sun_x, sun_y, sun_z) < inf:
                    shadow[i, j] = 1


@njit(
    f"void({RAYS}, {GRID_F4}, {GRID_I4}, {TABLE}, {CODES}, float64, {GRID_F4}, {GRID_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def reflect(
    rays: np.ndarray,
    distance: np.ndarray,
    hit: np.ndarray,
    values: np.ndarray,
    codes: np.ndarray,
    ground_reflectance: float,
    reflectance: np.ndarray,
    cosine: np.ndarray,
) -> None:
    """Fill reflectance and cosine of incidence (both (H, W) float32) for unit rays; zero where nothing was hit."""
    rows, columns = distance.shape
    for i in range(rows):
        for j in range(columns):
            index = hit[i, j]
            reflectance[i, j] = 0.0
            cosine[i, j] = 0.0
            if index == -1:
                reflectance[i, j] = ground_reflectance
                cosine[i, j] = -rays[i, j, 2]
            elif index >= 0:
                p, t = values[index], distance[i, j]
                dx, dy, dz = rays[i, j, 0], rays[i, j, 1], rays[i, j, 2]
                _, nx, ny, nz = surface(p, codes[index, 0], t * dx, t * dy, t * dz)
                reflectance[i, j] = p[13]
                cosine[i, j] = abs(nx * dx + ny * dy + nz * dz)
