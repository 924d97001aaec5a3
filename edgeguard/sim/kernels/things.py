"""Colours of solids other than walls and crowns, a run of pixels at a time: cars, kerbs, posts, people.

First where on the solid each pixel lies and how that place is lit, then its colour by what it is made of; both without
branches, in float32.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numba import njit

from edgeguard.sim.kernels.textures import LINE_F4, F, band, noise, wrap
from edgeguard.sim.primitives import BOX, CAR_BODY, CAR_CABIN, CONCRETE, CYLINDER, KERB, LAMP, STRIPES

LINE_I4 = "int32[::1]"
_LEFT, _FRONT, _BACK, _CAP = np.int32(0), np.int32(2), np.int32(3), np.int32(4)  # faces; the right is 1
_LINES = ", ".join([LINE_F4] * 4)


@njit(
    f"void(int64, int64, float64[::1], float64, float64, float64, float64, float64[::1], float32, float32, {_LINES},"
    f" {_LINES}, {LINE_F4}, {LINE_I4})",
    cache=True, nogil=True, error_model="numpy",
)  # fmt: skip
def on_box(
    begin: int, end: int,
    p: np.ndarray, px: float, py: float, pz: float, ground_z: float, sun: np.ndarray, ambient: float, strength: float,
    rx: np.ndarray, ry: np.ndarray, rz: np.ndarray, depth: np.ndarray,
    lit: np.ndarray, towards: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, face: np.ndarray,
) -> None:  # fmt: skip
    """Fill light, cosine towards the ray, place in the box's own axes and face (0 left, 1 right, 2 front, 3 back, 4).

    (px, py, pz) is the rays' start seen from the middle of the box's foot.
    """
    c, s, half_x, half_y, top = F(p[6]), F(p[7]), F(p[4]), F(p[5]), F(p[3] - p[2])
    x0, y0, z0, above = F(p[6] * px + p[7] * py), F(p[6] * py - p[7] * px), F(pz), F(p[2] - ground_z)
    sun_x, sun_y = F(p[6] * sun[0] + p[7] * sun[1]), F(p[6] * sun[1] - p[7] * sun[0])
    sun_z = F(sun[2])
    lean_front, lean_back = F(p[8]), F(p[9])
    front, back = F(1.0 / sqrt(1.0 + p[8] * p[8])), F(1.0 / sqrt(1.0 + p[9] * p[9]))
    for k in range(np.uint64(begin), np.uint64(end)):
        t, ex, ey, ez = depth[k], c * rx[k] + s * ry[k], c * ry[k] - s * rx[k], rz[k]
        lx, ly, lz = x0 + t * ex, y0 + t * ey, z0 + t * ez
        at_front, at_back = abs(half_x - lean_front * lz - lx), abs(half_x - lean_back * lz + lx)
        side, end, cap = abs(half_y - abs(ly)), min(at_front, at_back), min(abs(top - lz), abs(lz))
        on_cap, on_end = cap < min(side, end), end < side
        ahead = at_front <= at_back
        nx = front if ahead else -back
        nz = lean_front * front if ahead else lean_back * back
        ny = F(1.0) if ly > F(0.0) else F(-1.0)
        up = F(1.0) if abs(top - lz) < abs(lz) else F(-1.0)
        nx, ny, nz = nx if on_end else F(0.0), F(0.0) if on_end else ny, nz if on_end else F(0.0)
        nx, ny, nz = F(0.0) if on_cap else nx, F(0.0) if on_cap else ny, up if on_cap else nz
        which = np.int32(0 if ly > F(0.0) else 1)
        which = (_FRONT if ahead else _BACK) if on_end else which
        facing = nx * sun_x + ny * sun_y + nz * sun_z
        dim = F(0.78) + F(0.22) * min(F(1.0), (lz + above) * F(1.0 / 0.7))
        lit[k] = (ambient * (F(1.0) + F(0.12) * facing) + strength * max(facing, F(0.0))) * dim
        towards[k] = -(nx * ex + ny * ey + nz * ez)
        x[k], y[k], z[k], face[k] = lx, ly, lz, _CAP if on_cap else which


@njit(
    "void(int64, int64,"
    f" float64[::1], int64, float64, float64, float64, float64, float64[::1], float32, float32, {_LINES},"
    f" {_LINES}, {LINE_F4})",
    cache=True, nogil=True, error_model="numpy",
)  # fmt: skip
def on_round(
    begin: int, end: int,
    p: np.ndarray, kind: int, px: float, py: float, pz: float, ground_z: float, sun: np.ndarray, ambient: float,
    strength: float, rx: np.ndarray, ry: np.ndarray, rz: np.ndarray, depth: np.ndarray,
    lit: np.ndarray, towards: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray,
) -> None:  # fmt: skip
    """As `on_box` for a cylinder or an ellipsoid, but with the place in the level frame's axes."""
    half = 0.5 * (p[3] - p[2])
    x0, y0, z0, above, middle = F(px), F(py), F(pz), F(p[2] - ground_z), F(half)
    flat, tall = F(1.0 / (p[4] * p[4])), F(0.0 if kind == CYLINDER else 1.0 / (half * half))
    sun_x, sun_y, sun_z = F(sun[0]), F(sun[1]), F(sun[2])
    for k in range(np.uint64(begin), np.uint64(end)):
        t = depth[k]
        lx, ly, lz = x0 + t * rx[k], y0 + t * ry[k], z0 + t * rz[k]
        nx, ny, nz = lx * flat, ly * flat, (lz - middle) * tall
        scale = F(1.0) / np.sqrt(nx * nx + ny * ny + nz * nz + F(1e-12))
        facing = (nx * sun_x + ny * sun_y + nz * sun_z) * scale
        dim = F(0.78) + F(0.22) * min(F(1.0), (lz + above) * F(1.0 / 0.7))
        lit[k] = (ambient * (F(1.0) + F(0.12) * facing) + strength * max(facing, F(0.0))) * dim
        towards[k] = -(nx * rx[k] + ny * ry[k] + nz * rz[k]) * scale
        x[k], y[k], z[k] = lx, ly, lz


@njit(
    f"void(int64, int64, float64[::1], float32, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_I4}, {_LINES}, {LINE_F4})",
    cache=True, nogil=True, error_model="numpy",
)  # fmt: skip
def car_body(
    begin: int, end: int,
    p: np.ndarray, scale: float, x: np.ndarray, y: np.ndarray, z: np.ndarray, face: np.ndarray,
    depth: np.ndarray, blue: np.ndarray, green: np.ndarray, red: np.ndarray, emit: np.ndarray,
) -> None:  # fmt: skip
    """A car below its windows: wheels, sills and a door's seam at the sides, lamps and plates at the ends."""
    r_, g_, b_, wide, top = F(p[10]), F(p[11]), F(p[12]), F(p[5]), F(p[3] - p[2])
    axle, middle = F(0.61 * p[4]), F(0.01 * p[4])
    for k in range(np.uint64(begin), np.uint64(end)):
        lx, lz, beside, foot = x[k], z[k], abs(y[k]), depth[k] * scale
        sharp = F(1.0) / (F(0.015) + F(0.7) * foot)
        seam = band(abs(lx + F(0.05)), F(0.44), F(0.46), sharp) * band(lz, F(0.25), top, sharp)
        seam *= F(0.5) * min(F(1.0), F(0.02) / foot)
        hub = lx - (middle + (axle if lx > middle else -axle))
        r = np.sqrt(hub * hub + (lz - F(0.32)) * (lz - F(0.32)))
        wheel, rim = band(r, F(-1.0), F(0.37), sharp), band(r, F(-1.0), F(0.20), sharp)
        dark = max(F(1.0) - band(lz, F(0.26), F(9.0), sharp), seam, wheel)
        side_r, side_g, side_b = r_ + dark * (F(24.0) - r_), g_ + dark * (F(24.0) - g_), b_ + dark * (F(26.0) - b_)
        side_r += rim * (F(140.0) - side_r)
        side_g += rim * (F(142.0) - side_g)
        side_b += rim * (F(146.0) - side_b)
        front = face[k] == _FRONT
        lamp = band(beside, wide - F(0.42), wide - F(0.06), sharp) * band(lz, F(0.52), F(0.70), sharp)
        plate = band(beside, F(-1.0), F(0.26), sharp) * band(lz, F(0.36), F(0.47), sharp)
        tyre = band(beside, wide - F(0.26), wide - F(0.04), sharp) * band(lz, F(-1.0), F(0.24), sharp)
        grille = band(beside, F(-1.0), F(0.45), sharp) * band(lz, F(0.52), F(0.68), sharp)
        keep = (F(0.25) + F(0.75) * band(lz, F(0.22), F(9.0), sharp)) * (F(1.0) - F(0.8) * tyre)
        keep *= F(1.0) - (F(0.8) * grille if front else F(0.0))
        lamp_r = F(238.0) if front else F(176.0)
        lamp_g, lamp_b = F(238.0) if front else F(22.0), F(228.0) if front else F(20.0)
        end_r, end_g, end_b = r_ * keep, g_ * keep, b_ * keep
        end_r, end_g, end_b = (
            end_r + lamp * (lamp_r - end_r),
            end_g + lamp * (lamp_g - end_g),
            end_b + lamp * (lamp_b - end_b),
        )
        end_r += plate * (F(232.0) - end_r)
        end_g += plate * (F(232.0) - end_g)
        end_b += plate * (F(222.0) - end_b)
        side, cap = face[k] < _FRONT, face[k] == _CAP
        red[k] = r_ if cap else (side_r if side else end_r)
        green[k] = g_ if cap else (side_g if side else end_g)
        blue[k] = b_ if cap else (side_b if side else end_b)
        emit[k] = lamp if (face[k] == _FRONT) | (face[k] == _BACK) else F(0.0)


@njit(
    f"void(int64, int64, float64[::1], float32, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_I4}, {_LINES})",
    cache=True, nogil=True, error_model="numpy",
)  # fmt: skip
def car_cabin(
    begin: int, end: int,
    p: np.ndarray, scale: float, x: np.ndarray, y: np.ndarray, z: np.ndarray, face: np.ndarray,
    depth: np.ndarray, blue: np.ndarray, green: np.ndarray, red: np.ndarray,
) -> None:  # fmt: skip
    """A car's roof and windows."""
    r_, g_, b_, half, wide, top = F(p[10]), F(p[11]), F(p[12]), F(p[4]), F(p[5]), F(p[3] - p[2])
    lean_front, lean_back, grain, inverse = F(0.9 * p[8]), F(p[9]), np.int32(p[14]), F(1.0 / (p[3] - p[2]))
    for k in range(np.uint64(begin), np.uint64(end)):
        lx, ly, lz = x[k], y[k], z[k]
        sharp = F(1.0) / (F(0.015) + F(0.7) * depth[k] * scale)
        flank = band(lx, -half + F(0.10) + lean_back * lz, half - F(0.12) - lean_front * lz, sharp)
        flank *= band(lz, F(0.02), top - F(0.07), sharp) * (F(1.0) - band(lx, F(-0.12), F(0.0), sharp))
        screen = band(ly, -wide + F(0.07), wide - F(0.07), sharp) * band(lz, F(0.03), top - F(0.05), sharp)
        glass = flank if face[k] < _FRONT else screen
        glass = F(0.0) if face[k] == _CAP else glass
        shine = F(40.0) + F(46.0) * lz * inverse + F(14.0) * (noise(lx * F(2.0) + F(9.0), lz * F(2.0), grain) - F(0.5))
        red[k] = r_ + glass * (shine * F(0.9) - r_)
        green[k] = g_ + glass * (shine - g_)
        blue[k] = b_ + glass * (shine * F(1.1) - b_)


@njit(
    f"void(int64, int64, float64[::1], int64, int64, float32, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_I4}, {_LINES})",
    cache=True, nogil=True, error_model="numpy",
)  # fmt: skip
def plain_box(
    begin: int, end: int,
    p: np.ndarray, material: int, index: int, scale: float, x: np.ndarray, y: np.ndarray, z: np.ndarray,
    face: np.ndarray, depth: np.ndarray, blue: np.ndarray, green: np.ndarray, red: np.ndarray,
) -> None:  # fmt: skip
    """Boxes that are no cars: kerbs, concrete, striped barriers, and whatever has but one colour."""
    r_, g_, b_ = F(p[10]), F(p[11]), F(p[12])
    for k in range(np.uint64(begin), np.uint64(end)):
        red[k], green[k], blue[k] = r_, g_, b_
    if material == STRIPES:
        for k in range(np.uint64(begin), np.uint64(end)):
            sharp = F(1.0) / (F(0.02) + depth[k] * scale)
            stripe = band(wrap(y[k] + z[k], F(0.5)), F(0.0), F(0.25), sharp)
            red[k] += stripe * (F(240.0) - r_)
            green[k] += stripe * (F(240.0) - g_)
            blue[k] += stripe * (F(238.0) - b_)
    elif material == KERB:
        for k in range(np.uint64(begin), np.uint64(end)):
            grit = (noise(x[k] * F(8.0), z[k] * F(8.0), np.int32(index)) - F(0.5)) * F(20.0)
            grit *= min(F(1.0), F(0.05) / (depth[k] * scale))
            red[k], green[k], blue[k] = r_ + grit, g_ + grit, b_ + grit
    elif material == CONCRETE:
        for k in range(np.uint64(begin), np.uint64(end)):
            foot = depth[k] * scale
            joint = F(1.0) - band(wrap(x[k], F(5.0)), F(0.03), F(4.97), F(1.0) / (F(0.02) + foot))
            stain = F(1.0) - F(0.16) * noise(x[k] * F(0.4), z[k] * F(1.3) + y[k] * F(0.4), np.int32(41))
            stain -= F(0.25) * joint * min(F(1.0), F(0.08) / foot)
            stain *= F(1.12) if (z[k] < F(2.2)) & (face[k] < _FRONT) else F(1.0)
            red[k], green[k], blue[k] = r_ * stain, g_ * stain, b_ * stain


@njit(
    f"void(int64, int64, float64[::1], int64, float32, {LINE_F4}, {LINE_F4}, {_LINES})",
    cache=True, nogil=True, error_model="numpy",
)  # fmt: skip
def plain_round(
    begin: int, end: int,
    p: np.ndarray, kind: int, scale: float, y: np.ndarray, z: np.ndarray,
    depth: np.ndarray, blue: np.ndarray, green: np.ndarray, red: np.ndarray,
) -> None:  # fmt: skip
    """Posts have one colour; ellipsoids, which people are made of, have folds of cloth."""
    r_, g_, b_, grain = F(p[10]), F(p[11]), F(p[12]), F(p[14] % 64.0)
    deep = F(0.0 if kind == CYLINDER else 0.22)
    for k in range(np.uint64(begin), np.uint64(end)):
        foot = depth[k] * scale
        fold = (noise(y[k] * F(6.0) + grain, z[k] * F(7.0), np.int32(31)) - F(0.5)) * deep
        fold = F(1.0) + (fold * min(F(1.0), F(0.05) / foot) if foot < F(0.2) else F(0.0))
        red[k], green[k], blue[k] = r_ * fold, g_ * fold, b_ * fold


@njit(
    "void(int64, int64,"
    f" float64[::1], int64, int64, int64, float64, float64, float64, float64, float64[::1], float32, float32,"
    f" float32, {_LINES}, {_LINES}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_F4}, {LINE_I4})",
    cache=True, nogil=True, error_model="numpy",
)  # fmt: skip
def thing(
    begin: int, end: int,
    p: np.ndarray, kind: int, material: int, index: int, px: float, py: float, pz: float, ground_z: float,
    sun: np.ndarray, ambient: float, strength: float, scale: float,
    rx: np.ndarray, ry: np.ndarray, rz: np.ndarray, depth: np.ndarray,
    blue: np.ndarray, green: np.ndarray, red: np.ndarray, lit: np.ndarray, emit: np.ndarray, towards: np.ndarray,
    x: np.ndarray, y: np.ndarray, z: np.ndarray, face: np.ndarray,
) -> None:  # fmt: skip
    """Colour and light of a run of any solid but walls and crowns; `scale` is a pixel's width at one metre.

    `emit` out: share of a pixel that is lamp. x, y, z, face: scratch. The rest as in `textures.wall`.
    """
    shines = F(1.0 if material == LAMP else 0.0)
    for k in range(np.uint64(begin), np.uint64(end)):
        emit[k] = shines
    if kind != BOX:
        on_round(
            begin, end, p, kind, px, py, pz, ground_z, sun, ambient, strength, rx, ry, rz, depth, lit, towards, x, y, z
        )
        plain_round(begin, end, p, kind, scale, y, z, depth, blue, green, red)
        return
    on_box(begin, end, p, px, py, pz, ground_z, sun, ambient, strength, rx, ry, rz, depth, lit, towards, x, y, z, face)
    if material == CAR_BODY:
        car_body(begin, end, p, scale, x, y, z, face, depth, blue, green, red, emit)
    elif material == CAR_CABIN:
        car_cabin(begin, end, p, scale, x, y, z, face, depth, blue, green, red)
    else:
        plain_box(begin, end, p, material, index, scale, x, y, z, face, depth, blue, green, red)
