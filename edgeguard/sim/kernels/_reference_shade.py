"""NumPy twin of the shading kernel: every pixel by itself in float64, road coordinates by search instead of lines.

It shares names of places and the texture's recipe with the kernels, but no code: no runs, no anchors, no packed words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.kernels import light as place
from edgeguard.sim.primitives import (
    BOX,
    BUILDING,
    CAR_BODY,
    CAR_CABIN,
    CONCRETE,
    CYLINDER,
    ELLIPSOID,
    FOLIAGE,
    KERB,
    LAMP,
    STRIPES,
)

Floats = NDArray[np.float64]
_CORNERS = np.round(np.random.default_rng(0x711E).random((64, 64), dtype=np.float32) * 255.0).astype(np.float64)


def value_noise(x: Floats, y: Floats, seed: Any) -> Floats:
    """Smooth noise in 0..1 between corners of a repeating table."""
    seed = np.asarray(seed, dtype=np.int64)
    column, row = np.floor(x), np.floor(y)
    u, v = x - column, y - row
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    i, j = row.astype(np.int64) + seed * 29 + (seed >> 5), column.astype(np.int64) + seed * 17
    corner = [_CORNERS[(i + a) % 64, (j + b) % 64] for a in (0, 1) for b in (0, 1)]
    above, below = corner[0] * (1 - u) + corner[1] * u, corner[2] * (1 - u) + corner[3] * u
    return np.asarray((above * (1 - v) + below * v) / 255.0)


def scatter(a: Floats, b: Floats, c: Any) -> NDArray[np.int64]:
    """Mix three integers into 24 bits."""
    words = [np.asarray(w).astype(np.int64).astype(np.uint64) for w in (a, b, c)]
    mask = np.uint64(0xFFFFFFFF)
    h = (words[0] * np.uint64(374761393) + words[1] * np.uint64(668265263) + words[2] * np.uint64(974711)) & mask
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(1274126177)) & mask
    h = ((h ^ (h >> np.uint64(13))) * np.uint64(1103515245)) & mask
    return np.asarray(((h ^ (h >> np.uint64(16))) & np.uint64(0xFFFFFF)).astype(np.int64))


def stripe(x: Floats, low: Any, high: Any, edge: Any) -> Floats:
    """1 inside low..high, 0 outside, with edges as wide as `edge`."""
    return np.asarray(np.clip((x - low) / edge + 0.5, 0, 1) * np.clip((high - x) / edge + 0.5, 0, 1))


def shade(
    rays: tuple[NDArray[np.float32], ...],
    starts: Floats,
    depth: NDArray[np.float32],
    hit: NDArray[np.int32],
    shadow: NDArray[np.uint8],
    scene: tuple[Floats, Floats, NDArray[np.int64]],
    road: tuple[Floats, float],
    pose: Floats,
    sun: Floats,
    focal_px: float,
    light: Floats,
    lamps: NDArray[np.float32],
) -> Floats:
    """Return (3, H, W) light; arguments as of the kernel. scene: values, velocity, codes; road: table, its start."""
    values, velocity, codes = scene
    d = np.stack([plane.astype(np.float64) for plane in rays], axis=-1)
    t = np.where(hit == -2, 0.0, depth).astype(np.float64)
    at = starts[:, None, :3] + t[..., None] * d
    out = np.zeros((*hit.shape, 3))
    lit, glow, towards = np.ones(hit.shape), np.zeros(hit.shape), np.full(hit.shape, 0.3)
    sky, ground = hit == -2, hit == -1
    out[sky] = _sky(d[sky], pose[3], sun, light)
    out[ground], lit[ground] = _ground(at[ground], t[ground], shadow[ground], road, pose, sun, focal_px, light)
    solid = hit >= 0
    index = hit[solid]
    p, code = values[index], codes[index]
    lag = np.broadcast_to(starts[:, None, 3], hit.shape)[solid][:, None]
    local = at[solid]
    local[:, :2] -= velocity[index] * lag
    colour, solid_lit, solid_glow, solid_towards = _solids(
        p, code, index, local - p[:, :3], d[solid], t[solid] / focal_px, sun, light, -pose[2]
    )
    out[solid], lit[solid], glow[solid], towards[solid] = colour, solid_lit, solid_glow, solid_towards
    if len(lamps):
        seen = ~sky
        day, lamp = _lamps(lamps, light, starts[:, None, :2] + t[..., None] * d[..., :2])
        lit[seen] = (lit * day + lamp)[seen]
    if light[place.HEADLIGHT] > 0:
        seen = ~sky
        lit[seen] += _headlight(light, t[..., None] * d, np.maximum(towards, 0.0))[seen]
        walls = np.zeros(hit.shape, dtype=bool)
        walls[solid] = code[:, 1] == BUILDING
        share = light[place.EMIT] * glow / np.maximum(lit, 1e-6)
        out[walls] += (share[..., None] * np.array([92.0, 150.0, 190.0]))[walls]
        lit[~walls] += (5.0 * light[place.EMIT] * glow)[~walls]
    clear = np.exp(-t * np.linalg.norm(d, axis=-1) / light[place.HAZE])[..., None]
    air = light[[place.AIR_B, place.AIR_G, place.AIR_R]]
    shown = out * lit[..., None] * clear + air * (1 - clear)
    return np.moveaxis(np.where(sky[..., None], out, shown), -1, 0)


def _sky(d: Floats, heading: float, sun: Floats, light: Floats) -> Floats:
    unit = d / np.linalg.norm(d, axis=1, keepdims=True)
    z = np.maximum(unit[:, 2], 0.0)
    c, s = np.cos(heading), np.sin(heading)
    x, y = (c * unit[:, 0] - s * unit[:, 1]) / (z + 0.12), (s * unit[:, 0] + c * unit[:, 1]) / (z + 0.12)
    cloud = 0.68 * value_noise(1.1 * x, 1.1 * y, 21) + 0.32 * value_noise(3.1 * x, 3.1 * y, 22)
    cover = np.maximum(np.clip((cloud - 0.48) * 3.6, 0, 1) * np.minimum(1, 8 * z), light[place.OVERCAST])[:, None]
    grey = 240.0 - 34.0 * light[place.OVERCAST] + np.array([3.0, 1.0, 0.0])
    plain = np.array([236.0, 224.0, 214.0]) - np.array([26.0, 74.0, 110.0]) * z[:, None]
    out = (plain + cover * (grey - plain)) * light[place.SKY]
    if light[place.FOG] > 0:
        air = light[[place.AIR_B, place.AIR_G, place.AIR_R]]
        out += np.exp(-z * light[place.FOG])[:, None] * (air - out)
    if light[place.SUN_DISC] > 0:
        near = unit @ sun
        flare = light[place.SUN_DISC] * (0.035 / (1.002 - near) + np.where(near > 0.99999, 60.0, 0.0))
        out += np.where(near > 0, flare, 0.0)[:, None] * np.array([24.0, 31.0, 34.0])
    return np.asarray(out)


def _ground(
    at: Floats,
    t: Floats,
    shadow: NDArray[np.uint8],
    road: tuple[Floats, float],
    pose: Floats,
    sun: Floats,
    focal_px: float,
    light: Floats,
) -> tuple[Floats, Floats]:
    c, s = np.cos(pose[3]), np.sin(pose[3])
    x, y = pose[0] + c * at[:, 0] - s * at[:, 1], pose[1] + s * at[:, 0] + c * at[:, 1]
    table, start_m = road
    node = np.empty(len(x), dtype=np.int64)
    for k in range(len(x)):  # a metre of road per row: the nearest one, by looking at all
        node[k] = np.argmin((table[:, 0] - x[k]) ** 2 + (table[:, 1] - y[k]) ** 2)
    step = np.hypot(*(table[1, :2] - table[0, :2]))
    ahead, left = x - table[node, 0], y - table[node, 1]
    arc = start_m + np.round(step, 6) * node + ahead * table[node, 2] + left * table[node, 3]
    offset = left * table[node, 2] - ahead * table[node, 3]
    foot = t / focal_px * np.maximum(1.0, 0.35 * t / pose[2])
    coarse = value_noise(0.5 * x, 0.5 * y, 11) - 0.5
    fine = value_noise(16 * x, 16 * y, 12) - 0.5
    side = np.abs(offset)
    kinds = [
        _asphalt(x, y, arc, offset, foot, coarse, fine),
        _paving(arc, side, foot, coarse, fine),
        _grass(x, y, foot, coarse),
    ]
    zone = np.where(side < 6.0, 0, np.where(side < 9.6, 1, 2))
    colour = np.choose(zone[:, None], kinds)
    direct = light[place.SUN] * sun[2] * (shadow == 0)
    lit = (light[place.AMBIENT] + direct) * (1.0 - 0.15 * (3 - zone) * light[place.WET])
    return np.asarray(colour), np.asarray(lit)


def _asphalt(x: Floats, y: Floats, arc: Floats, offset: Floats, foot: Floats, coarse: Floats, fine: Floats) -> Floats:
    side = np.abs(offset)
    edge = 0.02 + 0.35 * foot
    grey = 84 + 16 * coarse + 26 * fine * np.minimum(1, 0.03 / foot)
    grey = grey - 5 * stripe(np.abs(side - 1.75), 0.55, 1.0, 0.4)
    patch = scatter(np.floor(arc / 7), np.floor(offset / 1.75), 13) < 0xFFFFFF // 9
    grey = grey - np.where(patch, 11.0, 0.0) * stripe(arc % 7.0, 0.8, 5.9, 0.15 + foot)
    paint = stripe(side, -1.0, 0.07, edge) * stripe(arc % 6.0, 0.0, 3.0, 0.05 + foot) + stripe(side, 3.43, 3.57, edge)
    paint = paint * (0.88 - 0.35 * np.maximum(0, value_noise(3 * x, 3 * y, 14) - 0.5))
    gutter = 14 * stripe(side, 5.55, 5.95, edge)
    bgr = grey[:, None] * np.array([1.02, 1.0, 1.0])
    return np.asarray(bgr + paint[:, None] * (np.array([208.0, 214.0, 214.0]) - bgr) - gutter[:, None])


def _paving(arc: Floats, side: Floats, foot: Floats, coarse: Floats, fine: Floats) -> Floats:
    edge = 0.02 + foot
    joint = 1 - np.minimum(stripe(arc % 0.6, 0.03, 0.57, edge), stripe((side - 6.0) % 0.6, 0.03, 0.57, edge))
    stone = (scatter(np.floor(arc / 0.6), np.floor(side / 0.6), 15) / 0xFFFFFF - 0.5) * np.minimum(1, 0.15 / foot)
    grey = 148 + 10 * coarse + 16 * stone + 14 * fine * np.minimum(1, 0.03 / foot)
    grey = grey - 34 * joint * np.minimum(1, 0.08 / foot)
    return np.asarray(grey[:, None] * np.array([0.95, 1.0, 1.02]))


def _grass(x: Floats, y: Floats, foot: Floats, coarse: Floats) -> Floats:
    blade = (value_noise(7 * x, 7 * y, 16) - 0.5) * np.minimum(1, 0.1 / foot)
    colour = np.array([62.0, 116.0, 88.0]) + coarse[:, None] * np.array([12.0, 24.0, 22.0])
    return np.asarray(colour + blade[:, None] * np.array([18.0, 30.0, 26.0]))


def _lamps(lamps: NDArray[np.float32], light: Floats, xy: Floats) -> tuple[Floats, Floats]:
    n = lamps.shape[0]
    u, v = ((xy - light[[place.MAP_X, place.MAP_Y]]) / light[place.MAP_CELL]).clip(0, n - 1.001).transpose(2, 0, 1)
    i, j = v.astype(np.int64), u.astype(np.int64)
    fu, fv = (u - j)[..., None], (v - i)[..., None]
    cell = lamps.astype(np.float64)
    low, high = cell[i, j] * (1 - fu) + cell[i, j + 1] * fu, cell[i + 1, j] * (1 - fu) + cell[i + 1, j + 1] * fu
    found = low * (1 - fv) + high * fv
    return found[..., 0], found[..., 1]


def _headlight(light: Floats, at: Floats, facing: Floats) -> Floats:
    ahead = at[..., 0] + 1.2
    safe = np.maximum(ahead, 0.5)
    side, rise = at[..., 1] / safe, (at[..., 2] + 1.0) / safe
    cut = np.where(rise < 0, 1.0, np.exp(-900 * np.square(rise)))
    beam = light[place.HEADLIGHT] * np.exp(-6 * side**2) * (0.08 + 0.92 * cut) * (0.15 + 0.85 * facing)
    return np.where(ahead < 0.5, 0.0, beam / (1 + 0.012 * (safe**2 + at[..., 1] ** 2)))


def _solids(
    p: Floats,
    code: NDArray[np.int64],
    index: NDArray[np.int32],
    at: Floats,
    d: Floats,
    foot: Floats,
    sun: Floats,
    light: Floats,
    ground_z: float,
) -> tuple[Floats, Floats, Floats, Floats]:
    c, s, top = p[:, 6], p[:, 7], p[:, 3] - p[:, 2]
    x, y, z = c * at[:, 0] + s * at[:, 1], c * at[:, 1] - s * at[:, 0], at[:, 2]
    normal, face = _normal(p, code, x, y, z, top)
    world = np.stack(
        [c * normal[:, 0] - s * normal[:, 1], s * normal[:, 0] + c * normal[:, 1], normal[:, 2]], axis=1
    )  # fmt: skip
    facing, towards = world @ sun, -(world * d).sum(axis=1)
    dim = 0.78 + 0.22 * np.minimum(1, (z + p[:, 2] - ground_z) / 0.7)
    ambient, strength = light[place.AMBIENT], light[place.SUN]
    lit = (ambient * (1 + 0.12 * facing) + strength * np.maximum(facing, 0)) * dim
    colour, glow = p[:, [12, 11, 10]].copy(), np.zeros(len(p))
    grain, material = p[:, 14].astype(np.int64), code[:, 1]
    for of, paint in ((BUILDING, _wall), (CAR_BODY, _car_body), (CAR_CABIN, _car_cabin)):
        m = material == of
        if m.any():
            colour[m], glow[m] = paint(p[m], x[m], y[m], z[m], top[m], face[m], foot[m], colour[m])
    m = material == FOLIAGE
    gain = 0.62 + 0.76 * value_noise(5 * x[m] + 3 * z[m], 5 * y[m] + 4 * z[m], grain[m])
    colour[m] *= gain[:, None]
    m = material == STRIPES
    mark = stripe((y + z)[m] % 0.5, 0.0, 0.25, 0.02 + foot[m])[:, None]
    colour[m] += mark * (np.array([238.0, 240.0, 240.0]) - colour[m])
    m = material == KERB
    grit = (value_noise(8 * x[m], 8 * z[m], index[m]) - 0.5) * 20 * np.minimum(1, 0.05 / foot[m])
    colour[m] += grit[:, None]
    m = material == CONCRETE
    joint = 1 - stripe(x[m] % 5.0, 0.03, 4.97, 0.02 + foot[m])
    stain = 1 - 0.16 * value_noise(0.4 * x[m], 1.3 * z[m] + 0.4 * y[m], 41)
    stain = (stain - 0.25 * joint * np.minimum(1, 0.08 / foot[m])) * np.where((z[m] < 2.2) & (face[m] <= 1), 1.12, 1.0)
    colour[m] *= stain[:, None]
    glow[material == LAMP] = 1.0
    m = (code[:, 0] == ELLIPSOID) & (material != FOLIAGE) & (foot < 0.2)
    fold = value_noise(6 * at[m, 1] + p[m, 14] % 64.0, 7 * z[m], 31) - 0.5
    colour[m] *= (1 + 0.22 * fold * np.minimum(1, 0.05 / foot[m]))[:, None]
    return colour, lit, glow, towards


def _normal(
    p: Floats, code: NDArray[np.int64], x: Floats, y: Floats, z: Floats, top: Floats
) -> tuple[Floats, NDArray[np.int64]]:
    half, lean_front, lean_back = top / 2, p[:, 8], p[:, 9]
    gaps = np.stack(
        [
            np.abs(p[:, 5] - y),
            np.abs(p[:, 5] + y),
            np.abs(p[:, 4] - lean_front * z - x),
            np.abs(p[:, 4] - lean_back * z + x),
            np.minimum(np.abs(top - z), np.abs(z)),
        ]
    )
    face = np.argmin(gaps, axis=0)
    one, none = np.ones(len(x)), np.zeros(len(x))
    up = np.where(np.abs(top - z) < np.abs(z), 1.0, -1.0)
    sides = np.stack(
        [
            np.stack([none, one, none], axis=1),
            np.stack([none, -one, none], axis=1),
            np.stack([one, none, lean_front], axis=1),
            np.stack([-one, none, lean_back], axis=1),
            np.stack([none, none, up], axis=1),
        ]
    )
    box = sides[face, np.arange(len(x))]
    rise = np.where(code[:, 0] == CYLINDER, 0.0, (z - half) / half**2)
    curved = np.stack([x / p[:, 4] ** 2, y / p[:, 4] ** 2, rise], axis=1)
    is_box = code[:, 0] == BOX
    # Windows and doors are drawn on walls from their edge to the roof: a wall has no top of its own.
    wall = is_box & (code[:, 1] == BUILDING)
    flank = np.abs(p[:, 5] - np.abs(y)) < np.abs(p[:, 4] - np.abs(x))
    upright = np.where(flank[:, None], np.sign(y)[:, None] * [0, 1.0, 0], np.sign(x)[:, None] * [1.0, 0, 0])
    found = np.where(wall[:, None], upright, np.where(is_box[:, None], box, curved))
    return found / np.linalg.norm(found, axis=1, keepdims=True), np.where(is_box, face, -1)


def _wall(
    p: Floats, x: Floats, y: Floats, z: Floats, top: Floats, _: Any, foot: Floats, plain: Floats
) -> tuple[Floats, Floats]:
    flank = np.abs(p[:, 5] - np.abs(y)) < np.abs(p[:, 4] - np.abs(x))
    along, half = np.where(flank, x, y), np.where(flank, p[:, 4], p[:, 5])
    face = np.where(flank, 0, 2) + np.where(np.where(flank, y, x) > 0, 0, 1)
    grain = p[:, 14].astype(np.int64)
    fade = np.clip(0.08 / foot - 0.4, 0, 1) * 18
    blotch = (value_noise(0.7 * along, 0.7 * z, grain) - 0.5) * 14
    blotch = blotch + (value_noise(9 * along, 9 * z, grain + 1) - 0.5) * fade
    level, column = np.floor(z / 3.2), np.floor((along + half) / 2.8)
    u, v = along + half - 2.8 * column, z - 3.2 * level
    pick = scatter(column, level, grain + 7 * face)
    shop, door, wide = level < 1, (pick & 3) == 0, grain % 3 == 0
    left = np.where(shop, np.where(door, 0.9, 0.25), np.where(wide, 0.4, 0.8))
    right = np.where(shop, np.where(door, 1.95, 2.55), np.where(wide, 2.4, 2.0))
    low = np.where(shop, np.where(door, 0.0, 0.35), np.where(wide, 0.9, 0.75))
    high = np.where(shop, np.where(door, 2.3, 2.7), np.where(wide, 2.5, 2.55))
    edge, cornice = 0.03 + foot, z > top - 0.9
    free = ~(cornice | (column >= np.floor(2 * half / 2.8)))
    frame = 0.7 * free * stripe(u, left - 0.12, right + 0.12, edge) * stripe(v, low - 0.12, high + 0.12, edge)
    glass = free * stripe(u, left, right, edge) * stripe(v, low, high, edge)
    middle = (left + right) / 2
    glass = glass * (1 - stripe(u, middle - 0.04, middle + 0.04, edge) * np.minimum(1, 0.08 / foot))
    shine = ((pick >> 8) & 127) / 127
    tone = np.where(cornice, np.where(z < top - 0.7, 0.82, 1.08), 1.0)
    colour = (plain + blotch[:, None]) * tone[:, None]
    colour += frame[:, None] * (np.array([214.0, 220.0, 222.0]) - colour)
    pane = (34 + 60 * shine + 26 * (v - low) / (high - low))[:, None] * np.array([1.14, 0.98, 0.86])
    return colour + glass[:, None] * (pane - colour), np.where(shine > 0.72, glass, 0.0)


def _car_cabin(
    p: Floats, x: Floats, y: Floats, z: Floats, top: Floats, face: NDArray[np.int64], foot: Floats, plain: Floats
) -> tuple[Floats, Floats]:
    edge, half, wide = 0.015 + 0.7 * foot, p[:, 4], p[:, 5]
    flank = stripe(x, -half + 0.10 + p[:, 9] * z, half - 0.12 - 0.9 * p[:, 8] * z, edge)
    flank = flank * stripe(z, 0.02, top - 0.07, edge) * (1 - stripe(x, -0.12, 0.0, edge))
    screen = stripe(y, -wide + 0.07, wide - 0.07, edge) * stripe(z, 0.03, top - 0.05, edge)
    glass = np.where(face == 4, 0.0, np.where(face <= 1, flank, screen))[:, None]
    shine = 40 + 46 * z / top + 14 * (value_noise(2 * x + 9, 2 * z, p[:, 14].astype(np.int64)) - 0.5)
    return plain + glass * (shine[:, None] * np.array([1.1, 1.0, 0.9]) - plain), np.zeros(len(x))


def _car_body(
    p: Floats, x: Floats, y: Floats, z: Floats, top: Floats, face: NDArray[np.int64], foot: Floats, plain: Floats
) -> tuple[Floats, Floats]:
    edge, half, wide = 0.015 + 0.7 * foot, p[:, 4], p[:, 5]
    seam = stripe(np.abs(x + 0.05), 0.44, 0.46, edge) * stripe(z, 0.25, top, edge) * np.minimum(1, 0.02 / foot)
    axle = 0.01 * half + np.where(x > 0.01 * half, 0.61, -0.61) * half
    r = np.hypot(x - axle, z - 0.32)
    dark = np.maximum(np.maximum(1 - stripe(z, 0.26, 9.0, edge), 0.5 * seam), stripe(r, -1.0, 0.37, edge))[:, None]
    side = plain + dark * (np.array([26.0, 24.0, 24.0]) - plain)
    side += stripe(r, -1.0, 0.20, edge)[:, None] * (np.array([146.0, 142.0, 140.0]) - side)
    front, across = face == 2, np.abs(y)
    keep = 0.25 + 0.75 * stripe(z, 0.22, 9.0, edge)
    keep = keep * (1 - 0.8 * stripe(across, wide - 0.26, wide - 0.04, edge) * stripe(z, -1.0, 0.24, edge))
    keep = keep * (1 - 0.8 * front * stripe(across, -1.0, 0.45, edge) * stripe(z, 0.52, 0.68, edge))
    lamp = stripe(across, wide - 0.42, wide - 0.06, edge) * stripe(z, 0.52, 0.70, edge)
    plate = stripe(across, -1.0, 0.26, edge) * stripe(z, 0.36, 0.47, edge)
    end = plain * keep[:, None]
    lens = np.where(front[:, None], np.array([228.0, 238.0, 238.0]), np.array([20.0, 22.0, 176.0]))
    end += lamp[:, None] * (lens - end)
    end += plate[:, None] * (np.array([222.0, 232.0, 232.0]) - end)
    colour = np.where((face <= 1)[:, None], side, np.where((face == 4)[:, None], plain, end))
    return colour, np.where((face == 2) | (face == 3), lamp, 0.0)
