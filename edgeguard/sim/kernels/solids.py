"""The solids' shapes: where a ray meets one, for a single ray and for many at once, and which way its surface faces.

For many rays the arithmetic is in float32 and without branches, so that the compiler can do sixteen at once. Whether
it is the rays' start or their direction that all of them share, the compiler finds out: it does what is shared once.
"""

from __future__ import annotations

from math import floor, inf, sqrt

import numpy as np
from numba import njit

from edgeguard.sim.primitives import BICYCLE, BOX, CYLINDER, FOLIAGE

EPSILON = 1e-4  # metres of ray: nearer hits are the surface the ray starts on
CROWN_CELL_M = 0.28  # size of a tuft of leaves
CROWN_GAP = 0.30  # share of tufts that are sky
ZERO, FAR, _NEAR = np.float32(0.0), np.float32(np.inf), np.float32(EPSILON)


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


@njit(inline="always")
def box_hit(x, y, z, ex, ey, ez, half_x, half_y, top, lean_front, lean_back):  # type: ignore[no-untyped-def]
    """Distance to a box, FAR where a ray misses; start and direction in the box's axes, from the middle of its foot."""
    inverse = np.float32(1.0) / ey
    a, b = (half_y - y) * inverse, (-half_y - y) * inverse
    near, far = (a, b) if a < b else (b, a)
    inverse = np.float32(1.0) / ez
    a, b = (top - z) * inverse, -z * inverse
    low, high = (a, b) if a < b else (b, a)
    near = low if low > near else near
    far = high if high < far else far
    way = ex + lean_front * ez
    t = (half_x - x - lean_front * z) / way
    low, high = (t if way < ZERO else -FAR), (t if way > ZERO else FAR)
    near = low if low > near else near
    far = high if high < far else far
    way = lean_back * ez - ex
    t = (half_x + x - lean_back * z) / way
    low, high = (t if way < ZERO else -FAR), (t if way > ZERO else FAR)
    near = low if low > near else near
    far = high if high < far else far
    return near if (near <= far) & (near > _NEAR) else FAR


@njit(inline="always")
def cylinder_hit(x, y, z, room, vx, vy, vz, top):  # type: ignore[no-untyped-def]
    """Distance to the side of an upright cylinder; `room` is the start's squared distance from it, less its radius'."""
    a = vx * vx + vy * vy
    b = x * vx + y * vy
    q = b * b - a * room
    t = (-b - np.sqrt(max(q, ZERO))) / a
    at = z + t * vz
    return t if (q > ZERO) & (t > _NEAR) & (at >= ZERO) & (at <= top) else FAR


@njit(inline="always")
def round_hits(x, y, z, room, vx, vy, vz):  # type: ignore[no-untyped-def]
    """Distances to the front and the back of a sphere, FAR where a ray misses; start seen from its centre."""
    a = vx * vx + vy * vy + vz * vz
    b = x * vx + y * vy + z * vz
    q = b * b - a * room
    root, inverse = np.sqrt(max(q, ZERO)), np.float32(1.0) / a
    near, far = (-b - root) * inverse, (-b + root) * inverse
    return near if (q > ZERO) & (near > _NEAR) else FAR, far if (q > ZERO) & (far > _NEAR) else FAR


@njit(inline="always")
def tuft(x, y, z, grain):  # type: ignore[no-untyped-def]
    """Whether there are leaves at a place in a crown: `opaque` in 32 bits; `grain` is 31 times the crown's."""
    inverse = np.float32(1.0 / CROWN_CELL_M)
    a = np.uint32(np.int32(np.floor(x * inverse)) + np.int32(4096))
    b = np.uint32(np.int32(np.floor(y * inverse)) + np.int32(4096))
    c = np.uint32(np.int32(np.floor(z * inverse)) + grain)
    h = np.uint32(a * np.uint32(374761393) + b * np.uint32(668265263) + c * np.uint32(974711))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(15))) * np.uint32(1274126177))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(1103515245))
    return np.uint32(h ^ (h >> np.uint32(16))) >= np.uint32(CROWN_GAP * 4294967296.0)


@njit(inline="always")
def crown_hit(x, y, z, room, vx, vy, vz, squash, c, s, half, grain):  # type: ignore[no-untyped-def]
    """Distance to a crown's leaves: where its front is a gap, its back may show. Start seen from its centre."""
    near, far = round_hits(x, y, z * squash, room, vx, vy, vz * squash)
    # A tree stands still while the frame turns with the vehicle: its tufts have the tree's own axes.
    lx, ly, ex, ey = c * x + s * y, c * y - s * x, c * vx + s * vy, c * vy - s * vx
    front = (near < FAR) & tuft(lx + near * ex, ly + near * ey, z + half + near * vz, grain)
    back = (far < FAR) & tuft(lx + far * ex, ly + far * ey, z + half + far * vz, grain)
    return near if front else (far if back else FAR)
