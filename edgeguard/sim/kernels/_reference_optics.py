"""NumPy twins of what moves, bounds and echoes: motion blur, culling by sampling, hills by fine steps, lidar draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.kernels import echo

Floats = NDArray[np.float64]
_NOWHERE_M = 1e6


def image_flow(
    depth: NDArray[np.float32],
    hit: NDArray[np.int32],
    velocity: Floats,
    motion: tuple[Floats, Floats],
    lens: tuple[float, float, float],
    exposure_s: float,
) -> tuple[Floats, Floats]:
    """Return flow right and down by moving each point for a microsecond and projecting it again."""
    focal, cx, cy = lens
    v, u = np.mgrid[0 : hit.shape[0], 0 : hit.shape[1]].astype(np.float64)
    ray = np.stack([np.ones_like(u), (cx - u) / focal, (cy - v) / focal], axis=-1)
    reach = np.where(hit == -2, 1e12, depth.astype(np.float64))
    point = ray * reach[..., None]
    own = np.zeros_like(point)
    own[hit >= 0, :2] = velocity[hit[hit >= 0]]
    step_s = 1e-6
    rate = own - motion[0] - np.cross(np.broadcast_to(motion[1], point.shape), point)
    moved = point + step_s * rate
    y, z = moved[..., 1] / moved[..., 0], moved[..., 2] / moved[..., 0]
    return -focal * (y - ray[..., 1]) / step_s * exposure_s, -focal * (z - ray[..., 2]) / step_s * exposure_s


def smear(light: NDArray[np.float32], flow_u: NDArray[np.float32], flow_v: NDArray[np.float32]) -> Floats:
    """Return the mean of five nearest pixels along each pixel's way."""
    rows, columns = light.shape[1:]
    i, j = np.mgrid[0:rows, 0:columns].astype(np.float32)
    taken = []
    for share in np.array([-0.5, -0.25, 0.0, 0.25, 0.5], dtype=np.float32):
        y = np.clip(np.floor(i + np.float32(0.5) + share * flow_v), 0, rows - 1).astype(int)
        x = np.clip(np.floor(j + np.float32(0.5) + share * flow_u), 0, columns - 1).astype(int)
        taken.append(light[:, y, x].astype(np.float64))
    return np.asarray(np.mean(taken, axis=0))


def pinhole_bounds(corners: Floats, near_m: float) -> Floats:
    """Return (N, 4) bounds of y / x and z / x of boxes cut at x = near_m: of kept corners and of cut pairs of them."""
    out = np.tile([np.inf, -np.inf, np.inf, -np.inf], (len(corners), 1))
    for row, box in zip(out, corners, strict=True):
        points = list(box[box[:, 0] >= near_m])
        # Every pair, not only the edges: what lies between two corners is inside the box.
        pairs = [(a, b) for a in box for b in box if a[0] < near_m < b[0]]
        points += [a + (near_m - a[0]) / (b[0] - a[0]) * (b - a) for a, b in pairs]
        if points:
            found = np.array(points)
            y, z = found[:, 1] / found[:, 0], found[:, 2] / found[:, 0]
            row[:] = y.min(), y.max(), z.min(), z.max()
    return out


def hill_distance(
    rays: tuple[NDArray[np.float32], ...], heights: Floats, corner: tuple[float, float], cell_m: float, reach: float
) -> Floats:
    """Return where each ray from the origin first goes below a height field, by steps of 2 cm; inf: nowhere."""
    flat = [plane.ravel().astype(np.float64) for plane in rays]
    out, last = np.full(flat[0].shape, np.inf), heights.shape[0] - 1.001
    norm = np.hypot(flat[0], flat[1])
    for t in np.arange(0.5, reach, 0.02):
        x, y, z = (plane * (t / norm) for plane in flat)
        u, v = ((a - b) / cell_m for a, b in ((x, corner[0]), (y, corner[1])))
        u, v = np.clip(u, 0, last), np.clip(v, 0, last)
        i, j = v.astype(int), u.astype(int)
        fu, fv = u - j, v - i
        low = heights[i, j] * (1 - fu) + heights[i, j + 1] * fu
        high = heights[i + 1, j] * (1 - fu) + heights[i + 1, j + 1] * fu
        below = (z < low * (1 - fv) + high * fv) & np.isinf(out)
        out[below] = t / norm[below]
    return out.reshape(rays[0].shape)


def scramble(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Twin of the kernels' 32-bit mix, in 64-bit words cut off by hand."""
    mask = np.uint64(0xFFFFFFFF)
    h = word & mask
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h = ((h ^ (h >> np.uint64(shift))) * np.uint64(factor)) & mask
    return np.asarray(h ^ (h >> np.uint64(16)))


def _first(key: int, lines: int) -> NDArray[np.uint64]:
    start = scramble(np.array([key & 0xFFFFFFFF], dtype=np.uint64))
    return scramble(np.asarray(start + np.arange(lines, dtype=np.uint64), dtype=np.uint64))


def _share(first: NDArray[np.uint64], rays: int, more: int) -> Floats:
    word = first[:, None] + np.arange(rays, dtype=np.uint64) * np.uint64(0x9E3779B9) + np.uint64(more)
    return np.asarray((scramble(word) >> np.uint64(8)).astype(np.float64) / 2**24)


def _deviates(key: int, shape: tuple[int, int], table: NDArray[np.float32]) -> Floats:
    first = _first(key, shape[0]).astype(np.int64) % (len(table) - shape[1])
    return np.asarray(table[first[:, None] + np.arange(shape[1])], dtype=np.float64)


def listen(
    distance: NDArray[np.float32],
    split: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    surface: tuple[NDArray[np.float32], NDArray[np.float32]],
    model: Floats,
    key: int,
    table: NDArray[np.float32],
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return said, shine, true and late of every beam; arguments and meaning as of the kernel."""
    shape, m = distance.shape, model
    t, weight = np.minimum(distance.astype(np.float64), _NOWHERE_M), np.ones(shape)
    behind = np.full(shape, np.inf)
    if split is not None:
        second, part = split[0].astype(np.float64), split[1].astype(np.float64)
        two = np.isfinite(second)
        swap = two & (part * t**2 > (1 - part) * np.where(two, second, 0.0) ** 2)
        weight = np.where(two, np.where(swap, part, 1 - part), 1.0)
        t, behind = np.where(swap, second, t), np.where(two, np.where(swap, t, second), np.inf)
    rho, cosine = surface[0].astype(np.float64), surface[1].astype(np.float64)
    power = weight * rho * np.sqrt(cosine) / t**2 * np.exp(-2 * m[echo.EXTINCTION] * t) / m[echo.HALF_POWER]
    power = np.clip(power, 1e-6, 1e6)
    odds = power ** m[echo.STEEPNESS]
    first = _first(key, shape[0])
    heard = _share(first, shape[1], 0) < (1 - m[echo.STRAY_LOSS]) * odds / (1 + odds)
    heard &= t <= m[echo.MAX_RANGE]
    slope = np.sqrt(np.maximum(1 - cosine**2, 0)) / np.maximum(cosine, 0.05)
    with np.errstate(invalid="ignore"):
        spot = np.minimum(t * m[echo.BEAM] * slope * 0.2887, 0.5)
        sigma = np.sqrt(m[echo.SIGMA] ** 2 + m[echo.SIGMA_WEAK] ** 2 / power + spot**2)
        said = np.where(heard, t + _deviates(key + 1, shape, table) * sigma, 0.0)
    if m[echo.QUANTUM] > 0:
        said = m[echo.QUANTUM] * np.floor(said / m[echo.QUANTUM] + 0.5)
    tint = _deviates(key + 2, shape, table)
    shine, true = rho * cosine * (1 + m[echo.INTENSITY_NOISE] * tint), t.copy()
    if m[echo.BACKSCATTER] > 0:
        gap = -np.log(_share(first, shape[1], 3) + 1e-10) * m[echo.SCATTER_M]
        drop = (_share(first, shape[1], 2) < m[echo.BACKSCATTER]) & (gap > 0.8) & (gap < t)
        said[drop], true[drop] = gap[drop], np.inf
        shine[drop] = 0.02 + 0.05 * _share(first, shape[1], 4)[drop]
    late = np.zeros(shape)
    if split is not None and m[echo.DUAL] > 0:
        can = (behind <= m[echo.MAX_RANGE]) & (said > 0) & np.isfinite(true)
        far = np.where(can, behind, 1.0)
        faint = (1 - weight) * 0.3 * np.exp(-2 * m[echo.EXTINCTION] * far) / far**2 / m[echo.HALF_POWER]
        chance = faint ** m[echo.STEEPNESS]
        can &= _share(first, shape[1], 1) < chance / (1 + chance)
        late[can] = (far + tint * m[echo.SIGMA])[can]
    return said, shine, true, late
