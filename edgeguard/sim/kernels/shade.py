"""What a camera pixel sees: surfaces lit by sun, sky and lamps, through air; then exposure and sensor noise."""

from __future__ import annotations

from math import exp, sqrt

import numpy as np
from numba import njit

from edgeguard.sim.kernels.cast import CODES, GRID_F4, GRID_I4, GRID_U1, PICTURE, TABLE, hash3, surface
from edgeguard.sim.kernels.light import (
    AIR_B,
    AIR_G,
    AIR_R,
    AMBIENT,
    EMIT,
    FOG,
    HAZE,
    HEADLIGHT,
    MAP_CELL,
    MAP_X,
    MAP_Y,
    OVERCAST,
    SKY,
    SUN,
    SUN_DISC,
    WET,
)
from edgeguard.sim.kernels.textures import LINE_F4, asphalt, grass, leaves, paving, sky, thing_colour, wall
from edgeguard.sim.primitives import BUILDING, FOLIAGE
from edgeguard.sim.road import STEP_M

ANCHOR = 32  # pixels between the places where haze, lamps and road coordinates are found; linear in between
ASPHALT_M, PAVING_M = 6.0, 9.6  # half the width of the carriageway, and out to where grass begins
_REPEAT_M = 128.0  # every texture of the ground repeats at least this often

LINE_BGR = "float32[:,::1]"


@njit(f"UniTuple(float64, 2)({PICTURE}, float64[::1], float64, float64)", cache=True, nogil=True, error_model="numpy")
def lights_at(lamps: np.ndarray, light: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Share of daylight and brightness of lamps at (x, y) of the level frame, from a map of square cells."""
    n = lamps.shape[0]
    u, v = (x - light[MAP_X]) / light[MAP_CELL], (y - light[MAP_Y]) / light[MAP_CELL]
    u, v = min(max(u, 0.0), n - 1.001), min(max(v, 0.0), n - 1.001)
    iu, iv = int(u), int(v)
    fu, fv = u - iu, v - iv
    a, b = (1 - fu) * (1 - fv), fu * (1 - fv)
    c, d = (1 - fu) * fv, fu * fv
    return (
        a * lamps[iv, iu, 0] + b * lamps[iv, iu + 1, 0] + c * lamps[iv + 1, iu, 0] + d * lamps[iv + 1, iu + 1, 0],
        a * lamps[iv, iu, 1] + b * lamps[iv, iu + 1, 1] + c * lamps[iv + 1, iu, 1] + d * lamps[iv + 1, iu + 1, 1],
    )


@njit(
    "float64(float64[::1], float64, float64, float64, float64)",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def headlight(light: np.ndarray, x: float, y: float, z: float, facing: float) -> float:
    """Light of the own dipped beam at a point of the camera's level frame; `facing` is the cosine at the surface."""
    ahead = x + 1.2  # lamps stand in front of the camera, but a beam has no edge there
    if ahead < 0.5:
        return 0.0
    side, rise = y / ahead, (z + 1.0) / ahead
    r2 = ahead * ahead + y * y
    spread = exp(-6.0 * side * side)
    cut = 1.0 if rise < 0.0 else exp(-900.0 * rise * rise)  # dipped: little goes above the lamps
    return float(light[HEADLIGHT] * spread * (0.08 + 0.92 * cut) * (0.15 + 0.85 * facing) / (1.0 + 0.012 * r2))


@njit(f"UniTuple(float64, 2)({TABLE}, float64, float64, float64, float64)", cache=True, nogil=True, error_model="numpy")
def along_road(table: np.ndarray, start_m: float, x: float, y: float, arc: float) -> tuple[float, float]:
    """Arc length and offset of world (x, y), by three steps of Newton from `arc`."""
    last, d = table.shape[0] - 2, 0.0
    for _ in range(3):
        node = min(max(int((arc - start_m) / STEP_M), 0), last)
        f = arc - start_m - node * STEP_M
        tx, ty = table[node, 2], table[node, 3]
        rx, ry = x - table[node, 0], y - table[node, 1]
        arc += rx * tx + ry * ty - f
        d = ry * tx - rx * ty
    return arc, d


@njit(
    f"void({TABLE}, float64, float64[::1], float64, float64, float64, float64[::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _locate(
    table: np.ndarray, start_m: float, pose: np.ndarray, x: float, y: float, guess: float, out: np.ndarray
) -> None:
    """Fill world x, y, arc length and offset of (x, y) in the rays' frame."""
    c, s = np.cos(pose[3]), np.sin(pose[3])
    out[0], out[1] = pose[0] + c * x - s * y, pose[1] + s * x + c * y
    out[2], out[3] = along_road(table, start_m, out[0], out[1], guess)


@njit(f"void({LINE_F4}, float64, float64)", cache=True, nogil=True, error_model="numpy")
def _lerp(line: np.ndarray, first: float, step: float) -> None:
    """Fill a line with first, first + step and so on."""
    base, slope = np.float32(first), np.float32(step)
    for k in range(len(line)):
        line[k] = base + np.float32(k) * slope


@njit("float64(float64, float64)", cache=True, nogil=True, error_model="numpy")
def _stretch(depth_m: float, height_m: float) -> float:
    """Depth, lengthened as a pixel is on ground seen at a flat angle."""
    flat = 0.35 * depth_m / height_m
    return depth_m * (flat if flat > 1.0 else 1.0)


@njit(
    f"void(float64, float64, float64, float64, float64[::1], float64[::1], {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _brighten(x: float, y: float, z: float, up: float, sun: np.ndarray, light: np.ndarray, out: np.ndarray) -> None:
    """Add fog and the sun to a pixel of sky."""
    if light[FOG] > 0.0:
        veil = exp(-up * light[FOG])
        out[0] += veil * (light[AIR_B] - out[0])
        out[1] += veil * (light[AIR_G] - out[1])
        out[2] += veil * (light[AIR_R] - out[2])
    if light[SUN_DISC] > 0.0:
        near = (x * sun[0] + y * sun[1] + z * sun[2]) / sqrt(x * x + y * y + z * z)
        if near > 0.0:
            # The disc is a quarter of a degree in radius; the air around it scatters forward.
            glow = light[SUN_DISC] * (0.035 / (1.002 - near) + (60.0 if near > 0.99999 else 0.0))
            out[0] += 24.0 * glow
            out[1] += 31.0 * glow
            out[2] += 34.0 * glow


@njit(
    f"void(float64[::1], {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, boolean,"
    f" {LINE_F4}, {LINE_F4}, {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _shine(
    light: np.ndarray,
    rx: np.ndarray,
    ry: np.ndarray,
    rz: np.ndarray,
    depth: np.ndarray,
    lit: np.ndarray,
    emit: np.ndarray,
    towards: np.ndarray,
    wall: bool,
    blue: np.ndarray,
    green: np.ndarray,
    red: np.ndarray,
) -> None:
    """Night: add the own headlights to `lit`, and to the colours what shines by itself: colour times `lit` shows it."""
    for k in range(len(lit)):
        t = depth[k]
        facing = towards[k] if towards[k] > 0.0 else 0.0
        lit[k] += headlight(light, t * rx[k], t * ry[k], t * rz[k], facing)
        if emit[k] > 0.0:
            glow = light[EMIT] * emit[k]
            if wall:
                share = glow / max(lit[k], 1e-6)
                blue[k] += 92.0 * share
                green[k] += 150.0 * share
                red[k] += 190.0 * share
            else:
                lit[k] += 5.0 * glow


@njit(
    f"void({LINE_F4}, {LINE_F4}, float32, float32, float32, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_BGR})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _through_air(
    lit: np.ndarray,
    clear: np.ndarray,
    air_b: float,
    air_g: float,
    air_r: float,
    blue: np.ndarray,
    green: np.ndarray,
    red: np.ndarray,
    out: np.ndarray,
) -> None:
    """Light a run of colours and put the air in front of it."""
    for k in range(len(lit)):
        shine, veil = lit[k] * clear[k], np.float32(1.0) - clear[k]
        out[k, 0] = blue[k] * shine + air_b * veil
        out[k, 1] = green[k] * shine + air_g * veil
        out[k, 2] = red[k] * shine + air_r * veil


@njit(
    f"void(float64[::1], int64, int64, int64, float64, float64, float64, float64[::1], float64,"
    f" float64, float64, float64,"
    f" {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4})",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def _thing(
    p: np.ndarray,
    kind: int,
    material: int,
    index: int,
    px: float,
    py: float,
    pz: float,
    sun: np.ndarray,
    ambient: float,
    strength: float,
    ground_z: float,
    focal_px: float,
    rx: np.ndarray,
    ry: np.ndarray,
    rz: np.ndarray,
    depth: np.ndarray,
    blue: np.ndarray,
    green: np.ndarray,
    red: np.ndarray,
    lit: np.ndarray,
    emit: np.ndarray,
    towards: np.ndarray,
) -> None:
    """Colours of a run of any solid but walls and crowns; arguments as in `textures.wall`, px, py, pz from its base."""
    for k in range(len(depth)):
        t = float(depth[k])
        ux, uy, z = px + t * rx[k], py + t * ry[k], pz + t * rz[k]
        face, nx, ny, nz = surface(p, kind, ux + p[0], uy + p[1], z + p[2])
        red[k], green[k], blue[k], emit[k] = thing_colour(p, kind, material, ux, uy, z, face, t / focal_px, index)
        facing = nx * sun[0] + ny * sun[1] + nz * sun[2]
        towards[k] = -(nx * rx[k] + ny * ry[k] + nz * rz[k])
        rise = (z + p[2] - ground_z) / 0.7
        dim = 0.78 + 0.22 * (rise if rise < 1.0 else 1.0)
        lit[k] = (ambient * (1.0 + 0.12 * facing) + strength * (facing if facing > 0.0 else 0.0)) * dim


@njit(
    f"void({GRID_F4}, {GRID_F4}, {GRID_F4}, {TABLE}, {GRID_F4}, {GRID_I4}, {GRID_U1}, {TABLE}, {TABLE}, {CODES},"
    f" {TABLE}, float64, float64, float64[::1], float64[::1], float64, float64[::1], {PICTURE}, {PICTURE})",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def shade(
    rx: np.ndarray,
    ry: np.ndarray,
    rz: np.ndarray,
    starts: np.ndarray,
    depth: np.ndarray,
    hit: np.ndarray,
    shadow: np.ndarray,
    values: np.ndarray,
    velocity: np.ndarray,
    codes: np.ndarray,
    table: np.ndarray,
    table_start_m: float,
    first_s_m: float,
    pose: np.ndarray,
    sun: np.ndarray,
    focal_px: float,
    light: np.ndarray,
    lamps: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill `out` (H, W, 3) float32 BGR, about 0..255, with the light that reaches each pixel.

    Args:
        rx, ry, rz, starts, depth, hit: as in and out of `cast`; rays have 1 along the optical axis. shadow: of
            `cast_shadows`.
        values, velocity, codes: primitives in the rays' frame.
        table, table_start_m: the road's (x, y, cos, sin) every `STEP_M`, world frame, from that arc length on.
        first_s_m: arc length near the camera, where the search for the ground's road coordinates begins.
        pose: of the camera: world x, y, height above the ground, heading. sun: unit vector in the rays' frame.
        light: what shines and what dims, see `edgeguard.sim.kernels.light`. lamps: (N, N, 2) map of daylight and
            lamps, or (0, 0, 2).

    A row is cut into runs of one surface. What changes slowly (haze, lamps, road coordinates) is found every ANCHOR
    pixels and interpolated; what is left is arithmetic on lines, eight pixels at a time.
    """
    rows, columns = depth.shape
    cosine, sine = np.cos(pose[3]), np.sin(pose[3])
    mapped, night = lamps.shape[0] > 0, light[HEADLIGHT] > 0.0
    ambient, strength, wet = np.float32(light[AMBIENT]), np.float32(light[SUN]), light[WET]
    on_ground = np.float32(light[SUN] * sun[2])
    air_b, air_g, air_r = np.float32(light[AIR_B]), np.float32(light[AIR_G]), np.float32(light[AIR_R])
    lit, emit, towards = np.empty(columns, np.float32), np.zeros(columns, np.float32), np.empty(columns, np.float32)
    blue, green, red = np.empty(columns, np.float32), np.empty(columns, np.float32), np.empty(columns, np.float32)
    clear, foot = np.empty(columns, np.float32), np.empty(columns, np.float32)
    wx, wy = np.empty(columns, np.float32), np.empty(columns, np.float32)
    arc, offset = np.empty(columns, np.float32), np.empty(columns, np.float32)
    here, there = np.empty(4), np.empty(4)
    arc0 = first_s_m
    for i in range(rows - 1, -1, -1):  # upwards: arc length grows smoothly, so the search starts close
        j = 0
        sx, sy, sz, tau = starts[i, 0], starts[i, 1], starts[i, 2], starts[i, 3]
        dx, dy, dz, reach, what, row = rx[i], ry[i], rz[i], depth[i], hit[i], out[i]
        guess = arc0
        while j < columns:
            index = what[j]
            end = j + 1
            while end < columns and what[end] == index:
                end += 1
            a, b = j, end
            j = end
            if index == -2:
                sky(
                    dx[a:b],
                    dy[a:b],
                    dz[a:b],
                    cosine,
                    sine,
                    light[OVERCAST],
                    light[SKY],
                    clear[a:b],
                    blue[a:b],
                    green[a:b],
                    red[a:b],
                )
                for k in range(a, b):
                    row[k, 0], row[k, 1], row[k, 2] = blue[k], green[k], red[k]
                if light[FOG] > 0.0 or light[SUN_DISC] > 0.0:
                    for k in range(a, b):
                        _brighten(dx[k], dy[k], dz[k], clear[k], sun, light, row[k])
                continue
            begin = a
            while True:
                stop = min(begin + ANCHOR, b - 1)
                t0, t1 = float(reach[begin]), float(reach[stop])
                n0 = sqrt(dx[begin] * dx[begin] + dy[begin] * dy[begin] + dz[begin] * dz[begin])
                n1 = sqrt(dx[stop] * dx[stop] + dy[stop] * dy[stop] + dz[stop] * dz[stop])
                c0, c1 = exp(-t0 * n0 / light[HAZE]), exp(-t1 * n1 / light[HAZE])
                step = 1.0 / max(stop - begin, 1)
                slope = np.float32((c1 - c0) * step)
                base = np.float32(c0)
                part = clear[begin : stop + 1]
                for k in range(len(part)):
                    part[k] = base + np.float32(k) * slope
                if index == -1:
                    _locate(table, table_start_m, pose, sx + t0 * dx[begin], sy + t0 * dy[begin], guess, here)
                    _locate(table, table_start_m, pose, sx + t1 * dx[stop], sy + t1 * dy[stop], here[2], there)
                    guess = there[2]
                    if begin == 0:
                        arc0 = here[2]
                    shift_x = _REPEAT_M * np.floor(here[0] / _REPEAT_M)
                    shift_y = _REPEAT_M * np.floor(here[1] / _REPEAT_M)
                    _lerp(wx[begin : stop + 1], here[0] - shift_x, (there[0] - here[0]) * step)
                    _lerp(wy[begin : stop + 1], here[1] - shift_y, (there[1] - here[1]) * step)
                    _lerp(arc[begin : stop + 1], here[2], (there[2] - here[2]) * step)
                    _lerp(offset[begin : stop + 1], here[3], (there[3] - here[3]) * step)
                    _lerp(foot[begin : stop + 1], _stretch(t0, pose[2]) / focal_px,
                          (_stretch(t1, pose[2]) - _stretch(t0, pose[2])) / focal_px * step)  # fmt: skip
                begin = stop
                if begin >= b - 1:
                    break
            flat = index == -1
            wall_run = False
            if flat:
                k = a
                while k < b:
                    side = abs(offset[k])
                    zone = 0 if side < ASPHALT_M else (1 if side < PAVING_M else 2)
                    e = k + 1
                    while e < b:
                        side = abs(offset[e])
                        if zone != (0 if side < ASPHALT_M else (1 if side < PAVING_M else 2)):
                            break
                        e += 1
                    if zone == 0:
                        asphalt(wx[k:e], wy[k:e], arc[k:e], offset[k:e], foot[k:e], ambient, shadow[i, k:e],
                                on_ground, blue[k:e], green[k:e], red[k:e], lit[k:e])  # fmt: skip
                    elif zone == 1:
                        paving(wx[k:e], wy[k:e], arc[k:e], offset[k:e], foot[k:e], ambient, shadow[i, k:e],
                               on_ground, blue[k:e], green[k:e], red[k:e], lit[k:e])  # fmt: skip
                    else:
                        grass(wx[k:e], wy[k:e], foot[k:e], ambient, shadow[i, k:e],
                              on_ground, blue[k:e], green[k:e], red[k:e], lit[k:e])  # fmt: skip
                    if wet > 0.0:
                        dark = np.float32(1.0 - 0.15 * (3 - zone) * wet)
                        part = lit[k:e]
                        for m in range(len(part)):
                            part[m] *= dark
                    k = e
                if night:
                    emit[a:b] = 0.0
                    towards[a:b] = 0.3  # the ground's facets stand up to a grazing beam
            else:
                p, material = values[index], codes[index, 1]
                px = sx - p[0] - velocity[index, 0] * tau
                py = sy - p[1] - velocity[index, 1] * tau
                pz = sz - p[2]
                ground_z = -pose[2]
                wall_run = material == BUILDING
                if wall_run:
                    wall(p, px, py, pz, ground_z, focal_px, sun, ambient, strength, dx[a:b], dy[a:b], dz[a:b],
                         reach[a:b], blue[a:b], green[a:b], red[a:b], lit[a:b], emit[a:b], towards[a:b])  # fmt: skip
                elif material == FOLIAGE:
                    leaves(p, px, py, pz, ground_z, sun, ambient, strength, dx[a:b], dy[a:b], dz[a:b],
                           reach[a:b], blue[a:b], green[a:b], red[a:b], lit[a:b], emit[a:b], towards[a:b])  # fmt: skip
                else:
                    _thing(p, codes[index, 0], material, index, px, py, pz, sun, light[AMBIENT], light[SUN], ground_z,
                           focal_px,
                           dx[a:b], dy[a:b], dz[a:b], reach[a:b], blue[a:b], green[a:b], red[a:b], lit[a:b], emit[a:b],
                           towards[a:b])  # fmt: skip
            if mapped:
                for k in range(a, b):
                    day, lamp = lights_at(lamps, light, sx + reach[k] * dx[k], sy + reach[k] * dy[k])
                    lit[k] = lit[k] * day + lamp
            if night:
                _shine(light, dx[a:b], dy[a:b], dz[a:b], reach[a:b], lit[a:b], emit[a:b], towards[a:b], wall_run,
                       blue[a:b], green[a:b], red[a:b])  # fmt: skip
            _through_air(lit[a:b], clear[a:b], air_b, air_g, air_r, blue[a:b], green[a:b], red[a:b], row[a:b])


@njit(
    f"void({PICTURE}, float64, float64, float64, float64, int64, {LINE_F4}, uint8[:,:,::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def expose(
    light: np.ndarray,
    gain: float,
    vignette: float,
    read_dn: float,
    shot_dn: float,
    key: int,
    deviates: np.ndarray,
    out: np.ndarray,
) -> None:
    """Turn light into digital numbers: gain, vignetting (share `vignette` lost in the corners), shot and read noise.

    Noise is read from `deviates`, a table of standard normal ones; where a row begins in it hangs on a hash of (key,
    row), so a frame does not depend on which frames were made before it. Variance is read_dn^2 + shot_dn * signal, in
    digital numbers squared.
    """
    rows, columns = light.shape[0], light.shape[1]
    cy, cx = 0.5 * (rows - 1), 0.5 * (columns - 1)
    scale = vignette / (cy * cy + cx * cx)
    width = 3 * columns
    fall = np.empty(width, dtype=np.float32)
    read, shot = np.float32(read_dn * read_dn), np.float32(shot_dn)
    zero, half, full = np.float32(0.0), np.float32(0.5), np.float32(255.0)
    for j in range(columns):
        for k in range(3):
            fall[3 * j + k] = gain * (1.0 - scale * (j - cx) * (j - cx))
    for i in range(rows):
        begin = hash3(i, key, 0x5EED) % (len(deviates) - width)
        noise = deviates[begin : begin + width]
        row, pixels = light[i].reshape(width), out[i].reshape(width)
        high = np.float32(gain * scale * (i - cy) * (i - cy))
        for j in range(width):
            signal = row[j] * (fall[j] - high)
            positive = signal if signal > zero else zero
            value = signal + noise[j] * np.sqrt(read + shot * positive) + half
            value = value if value > zero else zero
            value = value if value < full else full
            pixels[j] = np.uint8(np.int32(value))
