"""NumPy twins of the ray-casting kernels: every ray against every primitive, written the plain way, as test oracle.

They share no code with the kernels and do no culling, so they also prove that the windows lose nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.primitives import BICYCLE, BOX, CYLINDER, FOLIAGE

Floats = NDArray[np.float64]
_EPSILON, _CELL_M, _GAP = 1e-4, 0.28, 0.30


def cast(
    rays: NDArray[np.float32], height_m: float, values: Floats, codes: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Return distance (inf where nothing), hit (-1 ground, -2 nothing) and pixels per object if it stood alone."""
    directions = rays.reshape(-1, 3).astype(np.float64)
    origins = np.zeros_like(directions)
    down = directions[:, 2] < 0
    best = np.where(down, -height_m / np.where(down, directions[:, 2], -1.0), np.inf)
    hit = np.where(down, -1, -2)
    touched: dict[int, NDArray[np.bool_]] = {}
    for index, (p, code) in enumerate(zip(values, codes, strict=True)):
        t = intersect(p, int(code[0]), int(code[1]), origins, directions)
        nearer = t < best
        best, hit = np.where(nearer, t, best), np.where(nearer, index, hit)
        if code[2] >= 0:
            owner = int(code[2])
            touched[owner] = touched.get(owner, np.zeros(len(t), dtype=bool)) | (t < np.inf)
    alone = np.zeros(int(codes[:, 2].max(initial=-1)) + 1, dtype=np.int64)
    for owner, mask in touched.items():
        alone[owner] = int(mask.sum())
    shape = rays.shape[:2]
    return best.reshape(shape), hit.reshape(shape), alone


def intersect(p: Floats, kind: int, material: int, origins: Floats, directions: Floats) -> Floats:
    """Return (N,) distances of rays to one primitive, inf where they miss."""
    if kind == BOX:
        return _box(p, material, origins, directions)
    if kind == CYLINDER:
        return _cylinder(p, origins, directions)
    return _ellipsoid(p, material, origins, directions)


def _to_local(p: Floats, vectors: Floats) -> Floats:
    turn = np.array([[p[6], p[7], 0], [-p[7], p[6], 0], [0, 0, 1.0]])
    return np.asarray(vectors @ turn.T)


def _box(p: Floats, material: int, origins: Floats, directions: Floats) -> Floats:
    start = _to_local(p, origins - np.array([p[0], p[1], p[2]]))
    way = _to_local(p, directions)
    top = p[3] - p[2]
    normals = np.array([[0, 1, 0], [0, -1, 0], [1, 0, p[8]], [-1, 0, p[9]], [0, 0, 1], [0, 0, -1]], dtype=np.float64)
    limits = np.array([p[5], p[5], p[4], p[4], top, 0.0])
    room, speed = limits - start @ normals.T, way @ normals.T
    with np.errstate(divide="ignore", invalid="ignore"):
        when = room / speed
    near = np.where(speed < -1e-12, when, -np.inf).max(axis=1)
    far = np.where(speed > 1e-12, when, np.inf).min(axis=1)
    beside = ((np.abs(speed) <= 1e-12) & (room < 0)).any(axis=1)
    seen = (near <= far) & (near > _EPSILON) & ~beside
    t = np.where(seen, near, np.inf)
    if material == BICYCLE:
        at = start + np.where(seen, near, 0.0)[:, None] * way
        t = np.where(_bicycle(at[:, 0], at[:, 2]), t, np.inf)
    return t


def _cylinder(p: Floats, origins: Floats, directions: Floats) -> Floats:
    rx, ry = origins[:, 0] - p[0], origins[:, 1] - p[1]
    a = directions[:, 0] ** 2 + directions[:, 1] ** 2
    b = rx * directions[:, 0] + ry * directions[:, 1]
    q = b * b - a * (rx * rx + ry * ry - p[4] ** 2)
    t = (-b - np.sqrt(np.maximum(q, 0.0))) / np.maximum(a, 1e-12)
    z = origins[:, 2] + t * directions[:, 2]
    return np.where((q > 0) & (t > _EPSILON) & (z >= p[2]) & (z <= p[3]) & (a >= 1e-12), t, np.inf)


def _ellipsoid(p: Floats, material: int, origins: Floats, directions: Floats) -> Floats:
    radii = np.array([p[4], p[4], (p[3] - p[2]) / 2])
    start = (origins - np.array([p[0], p[1], (p[2] + p[3]) / 2])) / radii
    way = directions / radii
    a, b = (way * way).sum(axis=1), (start * way).sum(axis=1)
    q = b * b - a * ((start * start).sum(axis=1) - 1.0)
    root = np.sqrt(np.maximum(q, 0.0))
    out = np.full(len(a), np.inf)
    for side in (1.0, -1.0) if material == FOLIAGE else (-1.0,):
        t = (-b + side * root) / a
        valid = (q > 0) & (t > _EPSILON)
        if material == FOLIAGE:
            at = _to_local(p, origins + np.where(valid, t, 0.0)[:, None] * directions - np.array([p[0], p[1], p[2]]))
            valid &= _leaves(at, int(p[14]))
        out = np.where(valid, t, out)
    return out


def _bicycle(x: Floats, z: Floats) -> NDArray[np.bool_]:
    solid = np.zeros(len(x), dtype=bool)
    for wheel in (-0.53, 0.53):
        r = np.hypot(x - wheel, z - 0.34)
        solid |= (r > 0.29) & (r < 0.345)
    solid |= (np.abs(z - 0.34 - 0.9 * (x + 0.53)) < 0.03) & (x > -0.53) & (x < 0.0)
    solid |= (np.abs(x + 0.12 - 0.2 * (0.6 - z)) < 0.025) & (z > 0.3) & (z < 0.85)
    solid |= (np.abs(z - 0.82) < 0.025) & (x > -0.1) & (x < 0.42)
    solid |= (np.abs(x - 0.40 - 0.3 * (0.8 - z)) < 0.025) & (z > 0.34) & (z < 1.02)
    solid |= (np.abs(z - 0.34 - 1.15 * x) < 0.03) & (x > 0.0) & (x < 0.42)
    return solid


def _leaves(at: Floats, grain: int) -> NDArray[np.bool_]:
    cell = np.floor(at / _CELL_M).astype(np.int64)
    return np.asarray(hash3(cell[:, 0] + 4096, cell[:, 1] + 4096, grain * 31 + cell[:, 2]) >= _GAP * 2.0**32)


def hash3(a: NDArray[np.int64], b: NDArray[np.int64], c: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Twin of the kernels' hash, in unsigned arithmetic."""
    word = np.uint64(0xFFFFFFFF)
    u, v = a.astype(np.uint64) & np.uint64(0xFFFFFF), b.astype(np.uint64) & np.uint64(0xFFFFFF)
    h = (u * np.uint64(374761393) + v * np.uint64(668265263) + (c.astype(np.uint64) & word) * np.uint64(974711)) & word
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(1274126177)) & word
    h = ((h ^ (h >> np.uint64(13))) * np.uint64(1103515245)) & word
    return np.asarray(h ^ (h >> np.uint64(16)))


def normals(values: Floats, codes: NDArray[np.int64], hit: NDArray[np.int64], points: Floats) -> Floats:
    """Return (N, 3) outward unit normals at surface points by the gradient of each solid's implicit function."""
    out = np.zeros_like(points)
    for row, (index, point) in enumerate(zip(hit, points, strict=True)):
        p = values[index]
        at = _to_local(p, point - np.array([p[0], p[1], p[2]]))
        if codes[index, 0] == BOX:
            top = p[3] - p[2]
            planes = np.array([[0, 1, 0], [0, -1, 0], [1, 0, p[8]], [-1, 0, p[9]], [0, 0, 1], [0, 0, -1]])
            slack = np.abs(np.array([p[5], p[5], p[4], p[4], top, 0.0]) - planes @ at)
            local = planes[int(np.argmin(slack))]
        else:
            half = (p[3] - p[2]) / 2
            lift = 0.0 if codes[index, 0] == CYLINDER else (at[2] - half) / half**2
            local = np.array([at[0] / p[4] ** 2, at[1] / p[4] ** 2, lift])
        back = np.array([[p[6], -p[7], 0], [p[7], p[6], 0], [0, 0, 1.0]])
        out[row] = back @ local / np.linalg.norm(local)
    return out


def seen_from(
    values: Floats,
    codes: NDArray[np.int64],
    velocity: Floats,
    x: float,
    y: float,
    z: float,
    c: float,
    s: float,
    reach: float,
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Twin of the solids around a place: cut, moved and turned."""
    away = np.hypot(values[:, 0] - x, values[:, 1] - y) - np.hypot(values[:, 4], values[:, 5])
    near = away <= reach
    turn = np.array([[c, -s], [s, c]])
    out = values[near].copy()
    out[:, :2] = (out[:, :2] - np.array([x, y])) @ turn
    out[:, 2:4] -= z
    out[:, 6:8] = out[:, 6:8] @ turn
    return out, codes[near], velocity[near] @ turn


def corners(values: Floats) -> Floats:
    """Twin of the boxes around solids, corner by corner."""
    out = np.empty((len(values), 8, 3))
    for p, box in zip(values, out, strict=True):
        half = p[4] + max(-p[8], -p[9], 0.0) * (p[3] - p[2])
        signs = [(i, j, k) for i in (1, -1) for j in (1, -1) for k in (0, 1)]
        local = np.array([(i * half, j * p[5], p[2 + k]) for i, j, k in signs])
        box[:] = _to_local(np.array([0, 0, 0, 0, 0, 0, p[6], -p[7]]), local) + np.array([p[0], p[1], 0.0])
    return out


def expose(
    light: NDArray[np.float32],
    blur_px: float,
    gain: float,
    vignette: float,
    read_dn: float,
    shot_dn: float,
    key: int,
    deviates: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """Twin of the lens' blur and the sensor's gain, vignetting and noise."""
    rows, columns = light.shape[1:]
    i, j = np.mgrid[0:rows, 0:columns]
    cy, cx = (rows - 1) / 2, (columns - 1) / 2
    fall = gain * (1.0 - vignette * ((i - cy) ** 2 + (j - cx) ** 2) / (cy**2 + cx**2))
    tap = np.exp(-0.5 / blur_px**2) if blur_px > 0 else 0.0
    edged = np.pad(light.astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="reflect")
    across = edged[:, :, 1:-1] + tap * (edged[:, :, :-2] + edged[:, :, 2:])
    soft = (across[:, 1:-1] + tap * (across[:, :-2] + across[:, 2:])) / (1 + 2 * tap) ** 2
    signal = soft * fall
    row = np.arange(rows, dtype=np.int64)
    first = hash3(row, np.full(rows, key, dtype=np.int64), np.full(rows, 0x5EED, dtype=np.int64)).astype(np.int64)
    first %= len(deviates) - 3 * columns
    unit = np.moveaxis(deviates[first[:, None] + np.arange(3 * columns)].reshape(rows, 3, columns), 1, 0)
    noise = unit * np.sqrt(read_dn**2 + shot_dn * np.maximum(signal, 0.0))
    return np.asarray(np.clip(signal + noise + 0.5, 0, 255).astype(np.uint8))
