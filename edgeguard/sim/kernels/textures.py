"""Procedural textures of a street: ground, walls, leaves, sky, in forms the compiler can do eight at a time.

Everything is in float32 and 32-bit integers and without branches where it is called per pixel of a long run. The value
noise lives in one table of 64 by 64 cells that repeats; a cell's four corners are packed in one word, so that a look-up
is one load.

What is known of the pixels of a stretch of one row lies in one array, `lines`, one quantity after the other, each at a
place known at compile time: the compiler then sees that no quantity overlaps another. Pixel k of the stretch has its
distance at `lines[REACH + k]`. A run is pixels `begin` to `end` of one surface.
"""

from __future__ import annotations

import numpy as np
from numba import njit

F = np.float32
LINE_F4 = "float32[::1]"
LANES = 16  # runs are lengthened to whole vectors, or their ends would be worked on pixel by pixel
STRETCH = 640  # most pixels of a row that are worked on at once
_ROOM = STRETCH + LANES
LINES = 22
# Rays, distance along them, share of contrast left; colour, light, share of lamp, cosine towards the ray; world x and y
# (less whole repeats), arc length, offset and a pixel's length on the ground, share of sun on the ground; place on a
# solid and its face; sine of elevation of the sky. Unsigned: a signed index is tested for counting from the end.
(DX, DY, DZ, REACH, CLEAR, BLUE, GREEN, RED, LIT, EMIT, TOWARDS, WX, WY, ARC, OFFSET, FOOT, SUNLIT, AT_X, AT_Y, AT_Z,
 FACE, UP) = (np.uint64(_ROOM * k) for k in range(LINES))  # fmt: skip
RUN = f"uint64, uint64, {LINE_F4}"  # begin, end, lines
# A solid's row, the rays' start seen from its place on the ground, the ground's height, the sun, ambient and direct
# light.
SOLID = "float64[:,::1], uint64, float64, float64, float64, float64, float64[::1], float32, float32"


def _packed() -> np.ndarray:
    corner = np.round(np.random.default_rng(0x711E).random((64, 64), dtype=np.float32) * 255.0).astype(np.uint32)
    right, below = np.roll(corner, -1, axis=1), np.roll(corner, -1, axis=0)
    words = corner | (right << 8) | (below << 16) | (np.roll(below, -1, axis=1) << 24)
    return np.ascontiguousarray(words.astype(np.uint32).view(np.int32).reshape(-1))


_TILE = _packed()


@njit(inline="always")
def noise(x, y, seed):  # type: ignore[no-untyped-def]
    """Value noise in 0..1 at float32 (x, y), smooth between the integers; repeats every 64, shifted by int32 `seed`."""
    fx, fy = np.floor(x), np.floor(y)
    u, v = x - fx, y - fy
    u, v = u * u * (F(3.0) - F(2.0) * u), v * v * (F(3.0) - F(2.0) * v)
    # Sums of 32-bit integers are 64 bits wide until they are cut off, and so would be the vectors.
    row = np.int32((np.int32(fy) + np.int32(seed * 29 + (seed >> 5))) & 63)
    column = np.int32((np.int32(fx) + np.int32(seed * 17)) & 63)
    word = _TILE[np.int32(np.int32(row << 6) | column)]
    a, b = F(np.int32(word & 255)), F(np.int32((word >> 8) & 255))
    c, d = F(np.int32((word >> 16) & 255)), F(np.int32((word >> 24) & 255))
    top, low = a + u * (b - a), c + u * (d - c)
    return (top + v * (low - top)) * F(1.0 / 255.0)


@njit(inline="always")
def band(x, low, high, sharp):  # type: ignore[no-untyped-def]
    """1 inside low..high, 0 outside, with edges 1 / `sharp` wide: stripes that do not alias when a pixel gets large."""
    rise, fall = (x - low) * sharp + F(0.5), (high - x) * sharp + F(0.5)
    return min(max(rise, F(0.0)), F(1.0)) * min(max(fall, F(0.0)), F(1.0))


@njit(inline="always")
def wrap(x, period):  # type: ignore[no-untyped-def]
    """x modulo period, 0 <= result < period."""
    return x - period * np.floor(x * (F(1.0) / period))


@njit(inline="always")
def mix(a, b, c):  # type: ignore[no-untyped-def]
    """Mix three integers into 24 bits, for texture alone."""
    h = np.uint32(
        np.uint32(a) * np.uint32(374761393) + np.uint32(b) * np.uint32(668265263) + np.uint32(c) * np.uint32(974711)
    )
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(1274126177))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(1103515245))
    return np.int32((h ^ (h >> np.uint32(16))) & np.uint32(0xFFFFFF))


@njit(inline="always")
def lit_by(facing, height, ambient, strength):  # type: ignore[no-untyped-def]
    """Light on a surface: `facing` is the cosine towards the sun. Walls darken towards the ground, which hides sky."""
    dim = F(0.78) + F(0.22) * min(F(1.0), height * F(1.0 / 0.7))
    return (ambient * (F(1.0) + F(0.12) * facing) + strength * max(facing, F(0.0))) * dim


@njit(f"void({RUN}, float32, float32)", cache=True, nogil=True, error_model="numpy")
def asphalt(begin: int, end: int, lines: np.ndarray, ambient: float, direct: float) -> None:
    """Worn tracks, patches, grain, lane paint and gutters. `foot` is a pixel's length on the ground in metres."""
    for k in range(begin, end):
        x, y, s, blur = lines[WX + k], lines[WY + k], lines[ARC + k], lines[FOOT + k]
        offset = lines[OFFSET + k]
        coarse = noise(x * F(0.5), y * F(0.5), np.int32(11)) - F(0.5)
        fine = noise(x * F(16.0), y * F(16.0), np.int32(12)) - F(0.5)
        side = abs(offset)
        sharp = F(1.0) / (F(0.02) + F(0.35) * blur)
        grey = F(84.0) + F(16.0) * coarse + F(26.0) * fine * min(F(1.0), F(0.03) / blur)
        grey -= F(5.0) * band(abs(side - F(1.75)), F(0.55), F(1.0), F(2.5))
        patch = mix(np.int32(np.floor(s * F(1.0 / 7.0))), np.int32(np.floor(offset * F(1.0 / 1.75))), 13)
        grey -= (F(11.0) if patch < np.int32(0xFFFFFF // 9) else F(0.0)) * band(
            wrap(s, F(7.0)), F(0.8), F(5.9), F(1.0) / (F(0.15) + blur)
        )
        # Broken centre line, 3 m dash and 3 m gap; edge line.
        dash = band(side, F(-1.0), F(0.07), sharp) * band(wrap(s, F(6.0)), F(0.0), F(3.0), F(1.0) / (F(0.05) + blur))
        paint = dash + band(side, F(3.43), F(3.57), sharp)
        paint *= F(0.88) - F(0.35) * max(F(0.0), noise(x * F(3.0), y * F(3.0), np.int32(14)) - F(0.5))
        gutter = F(14.0) * band(side, F(5.55), F(5.95), sharp)
        lines[BLUE + k] = grey * F(1.02) + paint * (F(208.0) - grey * F(1.02)) - gutter
        lines[GREEN + k] = grey + paint * (F(214.0) - grey) - gutter
        lines[RED + k] = grey + paint * (F(214.0) - grey) - gutter
        lines[LIT + k] = ambient + direct * lines[SUNLIT + k]


@njit(f"void({RUN}, float32, float32)", cache=True, nogil=True, error_model="numpy")
def paving(begin: int, end: int, lines: np.ndarray, ambient: float, direct: float) -> None:
    """Paving stones of 0.6 m."""
    for k in range(begin, end):
        x, y, s, blur = lines[WX + k], lines[WY + k], lines[ARC + k], lines[FOOT + k]
        offset = lines[OFFSET + k]
        coarse = noise(x * F(0.5), y * F(0.5), np.int32(11)) - F(0.5)
        fine = noise(x * F(16.0), y * F(16.0), np.int32(12)) - F(0.5)
        side = abs(offset)
        edge = F(1.0) / (F(0.02) + blur)
        joint = F(1.0) - min(
            band(wrap(s, F(0.6)), F(0.03), F(0.57), edge), band(wrap(side - F(6.0), F(0.6)), F(0.03), F(0.57), edge)
        )
        cell = mix(np.int32(np.floor(s * F(1.0 / 0.6))), np.int32(np.floor(side * F(1.0 / 0.6))), 15)
        stone = (F(cell) * F(1.0 / 0xFFFFFF) - F(0.5)) * min(F(1.0), F(0.15) / blur)
        grey = F(148.0) + F(10.0) * coarse + F(16.0) * stone + F(14.0) * fine * min(F(1.0), F(0.03) / blur)
        grey -= F(34.0) * joint * min(F(1.0), F(0.08) / blur)
        lines[BLUE + k], lines[GREEN + k], lines[RED + k] = grey * F(0.95), grey, grey * F(1.02)
        lines[LIT + k] = ambient + direct * lines[SUNLIT + k]


@njit(f"void({RUN}, float32, float32)", cache=True, nogil=True, error_model="numpy")
def grass(begin: int, end: int, lines: np.ndarray, ambient: float, direct: float) -> None:
    """What lies beyond the pavement."""
    for k in range(begin, end):
        coarse = noise(lines[WX + k] * F(0.5), lines[WY + k] * F(0.5), np.int32(11)) - F(0.5)
        blade = noise(lines[WX + k] * F(7.0), lines[WY + k] * F(7.0), np.int32(16)) - F(0.5)
        blade *= min(F(1.0), F(0.1) / lines[FOOT + k])
        lines[BLUE + k] = F(62.0) + F(12.0) * coarse + F(18.0) * blade
        lines[GREEN + k] = F(116.0) + F(24.0) * coarse + F(30.0) * blade
        lines[RED + k] = F(88.0) + F(22.0) * coarse + F(26.0) * blade
        lines[LIT + k] = ambient + direct * lines[SUNLIT + k]


@njit(f"void({RUN}, {SOLID}, float32)", cache=True, nogil=True, error_model="numpy")
def wall(
    begin: int, end: int, lines: np.ndarray, values: np.ndarray, n: int, px: float, py: float, pz: float,
    ground_z: float, sun: np.ndarray, ambient: float, strength: float, scale: float,
) -> None:  # fmt: skip
    """A building's walls: plaster, a window per 2.8 m and floor, shops below, a cornice above.

    (px, py, pz) is the rays' start seen from the building's place on the ground; `emit` out: share of a pixel that is
    a window lit at night; `towards` out: cosine between the wall's normal and the ray back.
    """
    c, s, half_x, half_y = F(values[n, 6]), F(values[n, 7]), F(values[n, 4]), F(values[n, 5])
    start_x, start_y, start_z = (
        F(values[n, 6] * px + values[n, 7] * py),
        F(values[n, 6] * py - values[n, 7] * px),
        F(pz),
    )
    sun_x, sun_y = F(values[n, 6] * sun[0] + values[n, 7] * sun[1]), F(values[n, 6] * sun[1] - values[n, 7] * sun[0])
    top, above, grain = F(values[n, 3] - values[n, 2]), F(values[n, 2] - ground_z), np.int32(values[n, 14])
    plain_r, plain_g, plain_b = F(values[n, 10]), F(values[n, 11]), F(values[n, 12])
    wide = grain % np.int32(3) == 0
    upper_left, upper_right = F(0.4) if wide else F(0.8), F(2.4) if wide else F(2.0)
    upper_low, upper_high = F(0.9) if wide else F(0.75), F(2.5) if wide else F(2.55)
    for k in range(begin, end):
        t, blur = lines[REACH + k], lines[REACH + k] * scale
        dx, dy = lines[DX + k], lines[DY + k]
        ex, ey = c * dx + s * dy, c * dy - s * dx
        lx, ly, z = start_x + t * ex, start_y + t * ey, start_z + t * lines[DZ + k]
        flank = abs(half_y - abs(ly)) < abs(half_x - abs(lx))
        across = ly if flank else lx
        sign = F(1.0) if across > F(0.0) else F(-1.0)
        facing = sign * (sun_y if flank else sun_x)
        lines[TOWARDS + k] = -sign * (ey if flank else ex)
        along, half = (lx if flank else ly), (half_x if flank else half_y)
        face = np.int32(0 if flank else 2) + np.int32(0 if sign > F(0.0) else 1)
        blotch = (noise(along * F(0.7), z * F(0.7), grain) - F(0.5)) * F(14.0)
        fade = min(max(F(0.08) / blur - F(0.4), F(0.0)), F(1.0)) * F(18.0)
        blotch += (noise(along * F(9.0), z * F(9.0), grain + np.int32(1)) - F(0.5)) * fade
        r_, g_, b_ = plain_r + blotch, plain_g + blotch, plain_b + blotch
        u = along + half
        level, column = np.floor(z * F(1.0 / 3.2)), np.floor(u * F(1.0 / 2.8))
        uu, zz = u - F(2.8) * column, z - F(3.2) * level
        pick = mix(np.int32(column), np.int32(level), grain + np.int32(7) * face)
        shop, door = level < F(1.0), (pick & np.int32(3)) == 0
        left = (F(0.9) if door else F(0.25)) if shop else upper_left
        right = (F(1.95) if door else F(2.55)) if shop else upper_right
        low = (F(0.0) if door else F(0.35)) if shop else upper_low
        high = (F(2.3) if door else F(2.7)) if shop else upper_high
        sharp = F(1.0) / (F(0.03) + blur)
        cornice = z > top - F(0.9)
        open_ = F(0.0) if cornice | (column >= np.floor(F(2.0) * half * F(1.0 / 2.8))) else F(1.0)
        frame = F(0.7) * open_ * band(uu, left - F(0.12), right + F(0.12), sharp)
        frame *= band(zz, low - F(0.12), high + F(0.12), sharp)
        glass = open_ * band(uu, left, right, sharp) * band(zz, low, high, sharp)
        middle = F(0.5) * (left + right)
        glass -= glass * band(uu, middle - F(0.04), middle + F(0.04), sharp) * min(F(1.0), F(0.08) / blur)
        shine = F(np.int32((pick >> 8) & 127)) * F(1.0 / 127.0)
        glow = F(34.0) + F(60.0) * shine + F(26.0) * (zz - low) / (high - low)
        shade = (F(0.82) if z < top - F(0.7) else F(1.08)) if cornice else F(1.0)
        r_, g_, b_ = r_ * shade, g_ * shade, b_ * shade
        r_, g_, b_ = r_ + frame * (F(222.0) - r_), g_ + frame * (F(220.0) - g_), b_ + frame * (F(214.0) - b_)
        lines[BLUE + k] = b_ + glass * (glow * F(1.14) - b_)
        lines[GREEN + k] = g_ + glass * (glow * F(0.98) - g_)
        lines[RED + k] = r_ + glass * (glow * F(0.86) - r_)
        lines[EMIT + k] = glass if shine > F(0.72) else F(0.0)
        lines[LIT + k] = lit_by(facing, z + above, ambient, strength)


@njit(f"void({RUN}, {SOLID})", cache=True, nogil=True, error_model="numpy")
def leaves(
    begin: int, end: int, lines: np.ndarray, values: np.ndarray, n: int, px: float, py: float, pz: float,
    ground_z: float, sun: np.ndarray, ambient: float, strength: float,
) -> None:  # fmt: skip
    """The crown of a tree; arguments as in `wall`."""
    half = 0.5 * (values[n, 3] - values[n, 2])
    c, s, grain = F(values[n, 6]), F(values[n, 7]), np.int32(values[n, 14])
    x0, y0, z0, middle = F(px), F(py), F(pz), F(half)
    flat, tall, above = F(1.0 / (values[n, 4] * values[n, 4])), F(1.0 / (half * half)), F(values[n, 2] - ground_z)
    sun_x, sun_y, sun_z = F(sun[0]), F(sun[1]), F(sun[2])
    r_, g_, b_ = F(values[n, 10]), F(values[n, 11]), F(values[n, 12])
    for k in range(begin, end):
        t = lines[REACH + k]
        x, y, z = x0 + t * lines[DX + k], y0 + t * lines[DY + k], z0 + t * lines[DZ + k]
        nx, ny, nz = x * flat, y * flat, (z - middle) * tall
        scale = F(1.0) / np.sqrt(nx * nx + ny * ny + nz * nz + F(1e-12))
        nx, ny, nz = nx * scale, ny * scale, nz * scale
        gain = F(0.62) + F(0.76) * noise(
            F(5.0) * (c * x + s * y) + F(3.0) * z, F(5.0) * (c * y - s * x) + F(4.0) * z, grain
        )
        lines[BLUE + k], lines[GREEN + k], lines[RED + k] = b_ * gain, g_ * gain, r_ * gain
        facing = nx * sun_x + ny * sun_y + nz * sun_z
        lines[LIT + k] = lit_by(facing, z + above, ambient, strength)
        lines[EMIT + k] = F(0.0)
        lines[TOWARDS + k] = -(nx * lines[DX + k] + ny * lines[DY + k] + nz * lines[DZ + k])


@njit(f"void({RUN}, float64, float64, float32, float32)", cache=True, nogil=True, error_model="numpy")
def sky(
    begin: int, end: int, lines: np.ndarray, cosine: float, sine: float, overcast: float, gain: float,
) -> None:  # fmt: skip
    """Sky along rays of the level frame; its heading is given so that clouds stay put. `up` out: sine of elevation."""
    c, s = F(cosine), F(sine)
    for k in range(begin, end):
        x, y, z = lines[DX + k], lines[DY + k], lines[DZ + k]
        norm = F(1.0) / np.sqrt(x * x + y * y + z * z)
        x, y, z = x * norm, y * norm, max(z * norm, F(0.0))
        wx, wy, far = c * x - s * y, s * x + c * y, F(1.0) / (z + F(0.12))
        cloud = F(0.68) * noise(wx * far * F(1.1), wy * far * F(1.1), np.int32(21))
        cloud += F(0.32) * noise(wx * far * F(3.1), wy * far * F(3.1), np.int32(22))
        cover = min(max((cloud - F(0.48)) * F(3.6), F(0.0)), F(1.0)) * min(F(1.0), z * F(8.0))
        cover = max(cover, overcast)
        grey = F(240.0) - F(34.0) * overcast
        r_, g_, b_ = F(214.0) - F(110.0) * z, F(224.0) - F(74.0) * z, F(236.0) - F(26.0) * z
        lines[BLUE + k] = (b_ + cover * (grey + F(3.0) - b_)) * gain
        lines[GREEN + k] = (g_ + cover * (grey + F(1.0) - g_)) * gain
        lines[RED + k] = (r_ + cover * (grey - r_)) * gain
        lines[UP + k] = z
