"""What a camera pixel sees: materials, procedural texture, sun, haze and sky; then exposure and sensor noise."""

from __future__ import annotations

from math import exp, floor, sqrt

import numpy as np
from numba import njit

from edgeguard.sim.kernels.cast import CODES, GRID_F4, GRID_I4, GRID_U1, RAYS, TABLE, hash3, surface
from edgeguard.sim.primitives import (
    BICYCLE,
    BOX,
    BUILDING,
    CAR_BODY,
    CAR_CABIN,
    CYLINDER,
    FOLIAGE,
    KERB,
    STRIPES,
)
from edgeguard.sim.road import STEP_M

HAZE_M = 260.0  # clear town air: contrast falls to 1/e here
AMBIENT = 0.50
SUN = 0.62

# 16 KiB of noise stay in the first-level cache; four hashes per look-up cost twice as much.
_TILE = np.random.default_rng(0x711E).random((64, 64), dtype=np.float32)


@njit("float64(float64, float64, int64)", cache=True, nogil=True, error_model="numpy")
def noise2(x: float, y: float, seed: int) -> float:
    """Value noise in 0..1, smooth between the integers; repeats every 64, shifted by `seed`."""
    ix, iy = floor(x), floor(y)
    u, v = x - ix, y - iy
    u, v = u * u * (3.0 - 2.0 * u), v * v * (3.0 - 2.0 * v)
    left, low = (ix + seed * 17) & 63, (iy + seed * 29 + (seed >> 5)) & 63
    right, high = (left + 1) & 63, (low + 1) & 63
    a, b, c, d = _TILE[low, left], _TILE[low, right], _TILE[high, left], _TILE[high, right]
    return float((a * (1 - u) + b * u) * (1 - v) + (c * (1 - u) + d * u) * v)


@njit("float64(float64, float64)", cache=True, nogil=True, error_model="numpy")
def wrap(x: float, period: float) -> float:
    """x modulo period, 0 <= result < period; several times faster than the exact `%`."""
    return x - period * floor(x / period)


@njit("float64(float64, float64, float64, float64)", cache=True, nogil=True, error_model="numpy")
def band(x: float, low: float, high: float, blur: float) -> float:
    """1 inside low..high, 0 outside, with edges `blur` wide: stripes that do not alias when a pixel gets large."""
    rise = min(max((x - low) / blur + 0.5, 0.0), 1.0)
    fall = min(max((high - x) / blur + 0.5, 0.0), 1.0)
    return rise * fall


@njit("UniTuple(float64, 3)(float64, float64, float64, float64, float64)", cache=True, nogil=True, error_model="numpy")
def ground_colour(x: float, y: float, s: float, d: float, footprint: float) -> tuple[float, float, float]:
    """Colour of the ground at world (x, y), arc length s, offset d; `footprint` is a pixel's length there in metres."""
    fade = min(1.0, 0.03 / footprint)
    coarse = noise2(x * 0.45, y * 0.45, 11) - 0.5
    fine = (noise2(x * 16.0, y * 16.0, 12) - 0.5) * fade if fade > 0.1 else 0.0
    side = abs(d)
    if side < 6.0:  # asphalt: worn tracks, patches, grain
        grey = 84.0 + 16.0 * coarse + 26.0 * fine
        track = band(abs(side - 1.75), 0.55, 1.0, 0.4)
        grey -= 5.0 * track
        patch = hash3(floor(s / 7.0), floor(d / 1.75) + 64, 13)
        if patch % 9 == 0:
            grey -= 11.0 * band(wrap(s, 7.0), 0.8, 5.9, 0.15 + footprint)
        red, green, blue = grey * 1.0, grey * 1.0, grey * 1.02
        paint = 0.0
        if side < 0.5:  # broken centre line: 3 m dash, 3 m gap
            paint = band(side, -1.0, 0.07, 0.02 + 0.35 * footprint) * band(wrap(s, 6.0), 0.0, 3.0, 0.05 + footprint)
        elif 3.0 < side < 4.0:
            paint = band(side, 3.43, 3.57, 0.02 + 0.35 * footprint)
        if paint > 0.0:
            paint *= 0.88 - 0.35 * max(0.0, noise2(x * 3.0, y * 3.0, 14) - 0.5)
        gutter = band(side, 5.55, 5.95, 0.1 + 0.3 * footprint)
        red += paint * (214.0 - red) - 14.0 * gutter
        green += paint * (214.0 - green) - 14.0 * gutter
        blue += paint * (208.0 - blue) - 14.0 * gutter
        return red, green, blue
    if side < 9.6:  # paving stones, 0.6 m
        joint = max(
            1.0 - band(wrap(s, 0.6), 0.03, 0.57, 0.02 + footprint),
            1.0 - band(wrap(side - 6.0, 0.6), 0.03, 0.57, 0.02 + footprint),
        )
        joint *= min(1.0, 0.08 / footprint)
        stone = (hash3(floor(s / 0.6), floor(side / 0.6), 15) / 4294967296.0 - 0.5) * min(1.0, 0.15 / footprint)
        grey = 148.0 + 10.0 * coarse + 16.0 * stone + 14.0 * fine - 34.0 * joint
        return grey * 1.02, grey, grey * 0.95
    blade = (noise2(x * 7.0, y * 7.0, 16) - 0.5) * min(1.0, 0.1 / footprint)
    return (
        88.0 + 22.0 * coarse + 26.0 * blade,
        116.0 + 24.0 * coarse + 30.0 * blade,
        62.0 + 12.0 * coarse + 18.0 * blade,
    )


@njit(
    "UniTuple(float64, 3)(float64[:], float64, float64, float64, float64, int64)",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def facade_colour(
    p: np.ndarray, along: float, half: float, z: float, footprint: float, face: int
) -> tuple[float, float, float]:
    """Colour of a building's wall: plaster, a window per 2.8 m and floor, shops below, a cornice above."""
    grain = int(p[14])
    red, green, blue = p[10], p[11], p[12]
    blotch = (noise2(along * 0.7, z * 0.7, grain) - 0.5) * 14.0
    grit = 0.0
    if footprint < 0.3:
        grit = (noise2(along * 9.0, z * 9.0, grain + 1) - 0.5) * 18.0 * min(1.0, 0.06 / footprint)
    red, green, blue = red + blotch + grit, green + blotch + grit, blue + blotch + grit
    u, floor_number = along + half, floor(z / 3.2)
    top = p[3] - p[2]
    if z > top - 0.9:
        shade = 0.82 if z < top - 0.7 else 1.08
        return red * shade, green * shade, blue * shade
    column = floor(u / 2.8)
    wide = grain % 3 == 0
    if column >= floor(2 * half / 2.8):
        return red, green, blue
    uu, zz = u - 2.8 * column, z - 3.2 * floor_number
    pick = hash3(column, floor_number, grain + 7 * face)
    if floor_number == 0:
        left, right, low, high = (0.25, 2.55, 0.35, 2.7) if pick % 4 else (0.9, 1.95, 0.0, 2.3)
    elif wide:
        left, right, low, high = 0.4, 2.4, 0.9, 2.5
    else:
        left, right, low, high = 0.8, 2.0, 0.75, 2.55
    blur = 0.03 + footprint
    frame = band(uu, left - 0.12, right + 0.12, blur) * band(zz, low - 0.12, high + 0.12, blur)
    glass = band(uu, left, right, blur) * band(zz, low, high, blur)
    bar = band(uu, 0.5 * (left + right) - 0.04, 0.5 * (left + right) + 0.04, blur) * glass * min(1.0, 0.08 / footprint)
    lit = (pick >> 8) % 100 / 100.0
    glow = 34.0 + 60.0 * lit + 26.0 * (zz - low) / (high - low)
    red += frame * (222.0 - red) * 0.7
    green += frame * (220.0 - green) * 0.7
    blue += frame * (214.0 - blue) * 0.7
    red += (glass - bar) * (glow * 0.86 - red)
    green += (glass - bar) * (glow * 0.98 - green)
    blue += (glass - bar) * (glow * 1.14 - blue)
    return red, green, blue


@njit(
    "UniTuple(float64, 3)(float64[:], int64, float64, float64, float64, int64, float64)",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def car_colour(
    p: np.ndarray, material: int, lx: float, ly: float, z: float, face: int, footprint: float
) -> tuple[float, float, float]:
    """Colour of a car: wheels and sills below, glass above, lamps and plates at the ends; faces as in `surface`."""
    red, green, blue = p[10], p[11], p[12]
    blur = 0.015 + 0.7 * footprint
    half, top = p[4], p[3] - p[2]
    if material == CAR_CABIN:
        if face == 4:
            return red, green, blue
        if face <= 1:
            inset = 0.12 + 0.9 * p[8] * z
            glass = band(lx, -half + 0.10 + p[9] * z, half - inset, blur) * band(z, 0.02, top - 0.07, blur)
            glass *= 1.0 - band(lx, -0.12, 0.0, blur)
        else:
            glass = band(ly, -p[5] + 0.07, p[5] - 0.07, blur) * band(z, 0.03, top - 0.05, blur)
        shine = 40.0 + 46.0 * z / top + 14.0 * (noise2(lx * 2.0 + 9.0, z * 2.0, int(p[14])) - 0.5)
        return red + glass * (shine * 0.9 - red), green + glass * (shine - green), blue + glass * (shine * 1.1 - blue)
    if face <= 1:
        seam = band(abs(lx + 0.05), 0.44, 0.46, blur) * band(z, 0.25, top, blur) * min(1.0, 0.02 / footprint)
        sill = 1.0 - band(z, 0.26, 9.0, blur)
        dark = max(sill, 0.5 * seam)
        wheel, rim = 0.0, 0.0
        for at in (-0.60 * half, 0.62 * half):
            r = sqrt((lx - at) * (lx - at) + (z - 0.32) * (z - 0.32))
            wheel = max(wheel, band(r, -1.0, 0.37, blur))
            rim = max(rim, band(r, -1.0, 0.20, blur))
        dark = max(dark, wheel)
        red, green, blue = (
            red * (1 - dark) + 24.0 * dark,
            green * (1 - dark) + 24.0 * dark,
            blue * (1 - dark) + 26.0 * dark,
        )
        return red + rim * (140.0 - red), green + rim * (142.0 - green), blue + rim * (146.0 - blue)
    if face >= 4:
        return red, green, blue
    sill = 1.0 - band(z, 0.22, 9.0, blur)
    lamp = band(abs(ly), p[5] - 0.42, p[5] - 0.06, blur) * band(z, 0.52, 0.70, blur)
    plate = band(abs(ly), -1.0, 0.26, blur) * band(z, 0.36, 0.47, blur)
    tyre = band(abs(ly), p[5] - 0.26, p[5] - 0.04, blur) * band(z, -1.0, 0.24, blur)
    red, green, blue = red * (1 - 0.75 * sill), green * (1 - 0.75 * sill), blue * (1 - 0.75 * sill)
    red, green, blue = red * (1 - 0.8 * tyre), green * (1 - 0.8 * tyre), blue * (1 - 0.8 * tyre)
    if face == 2:
        grill = band(abs(ly), -1.0, 0.45, blur) * band(z, 0.52, 0.68, blur)
        red, green, blue = red * (1 - 0.8 * grill), green * (1 - 0.8 * grill), blue * (1 - 0.8 * grill)
        red, green, blue = red + lamp * (238.0 - red), green + lamp * (238.0 - green), blue + lamp * (228.0 - blue)
    else:
        red, green, blue = red + lamp * (176.0 - red), green + lamp * (22.0 - green), blue + lamp * (20.0 - blue)
    return red + plate * (232.0 - red), green + plate * (232.0 - green), blue + plate * (222.0 - blue)


@njit("UniTuple(float64, 3)(float64, float64, float64, float64, float64)", cache=True, nogil=True, error_model="numpy")
def sky_colour(dx: float, dy: float, dz: float, c: float, s: float) -> tuple[float, float, float]:
    """Sky along a unit ray in the body frame; `c`, `s` are of the body's heading, so that clouds stay put."""
    up = max(dz, 0.0)
    red, green, blue = 214.0 - 110.0 * up, 224.0 - 74.0 * up, 236.0 - 26.0 * up
    wx, wy = c * dx - s * dy, s * dx + c * dy
    k = 1.0 / (up + 0.12)
    cloud = 0.68 * noise2(wx * k * 1.1, wy * k * 1.1, 21) + 0.32 * noise2(wx * k * 3.1, wy * k * 3.1, 22)
    cover = min(max((cloud - 0.48) * 3.6, 0.0), 1.0) * min(1.0, up * 8.0)
    return red + cover * (240.0 - red), green + cover * (241.0 - green), blue + cover * (243.0 - blue)


@njit(
    f"void({RAYS}, {GRID_F4}, {GRID_I4}, {GRID_U1}, {TABLE}, {CODES}, {TABLE}, float64, float64, float64[::1],"
    f" float64[::1], float64, {RAYS})",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def shade(
    rays: np.ndarray,
    depth: np.ndarray,
    hit: np.ndarray,
    shadow: np.ndarray,
    values: np.ndarray,
    codes: np.ndarray,
    table: np.ndarray,
    table_start_m: float,
    first_s_m: float,
    pose: np.ndarray,
    sun: np.ndarray,
    focal_px: float,
    out: np.ndarray,
) -> None:
    """Colour every pixel of a cast grid.

    Args:
        rays: (H, W, 3), x = 1. depth, hit: from `cast`. shadow: from `cast_shadows`.
        table, table_start_m: the road's centreline (world frame). first_s_m: arc length near the camera.
        pose: x, y, z, yaw of the camera in the world. sun: unit vector towards it in the rays' frame.
        out: (H, W, 3) float32, BGR, 0..255 before exposure.
    """
    rows, columns = depth.shape
    c, s = np.cos(pose[3]), np.sin(pose[3])
    last = table.shape[0] - 2
    arcs = np.full(columns, first_s_m)
    for i in range(rows - 1, -1, -1):  # upwards: arc length along a column grows smoothly, so Newton starts close
        for j in range(columns):
            dx, dy, dz = rays[i, j, 0], rays[i, j, 1], rays[i, j, 2]
            norm = 1.0 / sqrt(dx * dx + dy * dy + dz * dz)
            index = hit[i, j]
            if index == -2:
                red, green, blue = sky_colour(dx * norm, dy * norm, dz * norm, c, s)
                out[i, j, 0], out[i, j, 1], out[i, j, 2] = blue, green, red
                continue
            t = depth[i, j]
            footprint = t / focal_px
            hx, hy, hz = t * dx, t * dy, t * dz
            lit = 1.0
            if index == -1:
                wx, wy = pose[0] + c * hx - s * hy, pose[1] + s * hx + c * hy
                if t < 170.0:
                    arc, d = arcs[j], 0.0
                    for _ in range(3):
                        node = min(max(int((arc - table_start_m) / STEP_M), 0), last)
                        f = arc - table_start_m - node * STEP_M
                        tx, ty = table[node, 2], table[node, 3]
                        rx, ry = wx - table[node, 0], wy - table[node, 1]
                        arc += rx * tx + ry * ty - f
                        d = ry * tx - rx * ty
                    arcs[j] = arc
                    red, green, blue = ground_colour(wx, wy, arc, d, footprint * max(1.0, 0.35 * t / pose[2]))
                else:
                    red, green, blue = 118.0, 124.0, 112.0
                lit = AMBIENT + (0.0 if shadow[i, j] else SUN * sun[2])
            else:
                p = values[index]
                kind, material = codes[index, 0], codes[index, 1]
                red, green, blue = p[10], p[11], p[12]
                z = hz - p[2]
                face, nx, ny, nz = surface(p, kind, hx, hy, hz)
                facing = nx * sun[0] + ny * sun[1] + nz * sun[2]
                textured = True
                if kind == BOX:
                    bc, bs = p[6], p[7]
                    lx, ly = bc * (hx - p[0]) + bs * (hy - p[1]), bc * (hy - p[1]) - bs * (hx - p[0])
                    if material == BUILDING:
                        along, half = (lx, p[4]) if face <= 1 else (ly, p[5])
                        red, green, blue = facade_colour(p, along, half, z, footprint, face)
                        textured = False
                    elif material in (CAR_BODY, CAR_CABIN):
                        red, green, blue = car_colour(p, material, lx, ly, z, face, footprint)
                        textured = False
                    elif material == STRIPES:
                        stripe = band(wrap(ly + z, 0.5), 0.0, 0.25, 0.02 + footprint)
                        red += stripe * (240.0 - red)
                        green += stripe * (240.0 - green)
                        blue += stripe * (238.0 - blue)
                    elif material == KERB:
                        grit = (noise2(lx * 8.0, z * 8.0, index) - 0.5) * 20.0 * min(1.0, 0.05 / footprint)
                        red, green, blue = red + grit, green + grit, blue + grit
                    elif material == BICYCLE:
                        textured = False
                elif material == FOLIAGE:
                    ux = 5.0 * (p[6] * (hx - p[0]) + p[7] * (hy - p[1]))
                    uy, uz = 5.0 * (p[6] * (hy - p[1]) - p[7] * (hx - p[0])), z
                    gain = 0.62 + 0.76 * noise2(ux + 3.0 * uz, uy + 4.0 * uz, int(p[14]))
                    red, green, blue = red * gain, green * gain, blue * gain
                if textured and kind != CYLINDER and footprint < 0.2:
                    fold = (
                        (noise2(hy * 6.0 - 6.0 * p[1] + p[14], z * 7.0, 31) - 0.5) * 0.22 * min(1.0, 0.05 / footprint)
                    )
                    red, green, blue = red * (1 + fold), green * (1 + fold), blue * (1 + fold)
                # Walls and bodies darken towards the ground, which hides part of the sky from them.
                near_ground = 0.78 + 0.22 * min(1.0, (hz + pose[2]) / 0.7)
                lit = (AMBIENT + 0.06 * facing + SUN * max(0.0, facing)) * near_ground
            haze = exp(-t / norm / HAZE_M)
            out[i, j, 0] = blue * lit * haze + 230.0 * (1.0 - haze)
            out[i, j, 1] = green * lit * haze + 222.0 * (1.0 - haze)
            out[i, j, 2] = red * lit * haze + 214.0 * (1.0 - haze)


@njit(
    "void(float32[:,:,::1], float64, float64, float64, float64, int64, uint8[:,:,::1])",
    cache=True,
    nogil=True,
    error_model="numpy",
)
def expose(
    light: np.ndarray, gain: float, vignette: float, read_dn: float, shot_dn: float, key: int, out: np.ndarray
) -> None:
    """Turn light into digital numbers: gain, vignetting (share `vignette` lost in the corners), shot and read noise.

    Noise is a sum of the four bytes of a hash of (key, pixel): counter-based, so a frame does not depend on which
    frames were made before it. Variance is read_dn^2 + shot_dn * signal, in digital numbers squared.
    """
    rows, columns = light.shape[0], light.shape[1]
    cy, cx = 0.5 * (rows - 1), 0.5 * (columns - 1)
    scale = 1.0 / (cy * cy + cx * cx)
    for i in range(rows):
        for j in range(columns):
            fall = gain * (1.0 - vignette * ((i - cy) * (i - cy) + (j - cx) * (j - cx)) * scale)
            for k in range(3):
                signal = light[i, j, k] * fall
                h = hash3(i * columns + j, k, key)
                total = (h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + (h >> 24)
                unit = (total - 510.0) / 147.8  # sd of a sum of four uniform bytes
                value = signal + unit * sqrt(read_dn * read_dn + shot_dn * max(signal, 0.0))
                out[i, j, k] = np.uint8(min(max(value + 0.5, 0.0), 255.0))
