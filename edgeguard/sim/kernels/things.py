"""Colours of solids other than walls and crowns, a run of pixels at a time: cars, kerbs, posts, people.

First where on the solid each pixel lies and how that place is lit, then its colour by what it is made of; both without
branches, in float32.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numba import njit

from edgeguard.sim.kernels.textures import (
    AT_X,
    AT_Y,
    AT_Z,
    BLUE,
    DX,
    DY,
    DZ,
    EMIT,
    FACE,
    GREEN,
    LIT,
    REACH,
    RED,
    RUN,
    SOLID,
    TOWARDS,
    F,
    band,
    lit_by,
    noise,
    wrap,
)
from edgeguard.sim.primitives import BOX, CAR_BODY, CAR_CABIN, CONCRETE, CYLINDER, KERB, LAMP, STRIPES

_FRONT, _BACK, _CAP = F(2.0), F(3.0), F(4.0)  # faces; the left is 0, the right 1


@njit(f"void({RUN}, {SOLID})", cache=True, nogil=True, error_model="numpy")
def on_box(
    begin: int, end: int, lines: np.ndarray, values: np.ndarray, n: int, px: float, py: float, pz: float,
    ground_z: float, sun: np.ndarray, ambient: float, strength: float,
) -> None:  # fmt: skip
    """Fill light, cosine towards the ray, place in the box's own axes and face (0 left, 1 right, 2 front, 3 back, 4).

    (px, py, pz) is the rays' start seen from the middle of the box's foot.
    """
    c, s, half_x, half_y, top = (
        F(values[n, 6]),
        F(values[n, 7]),
        F(values[n, 4]),
        F(values[n, 5]),
        F(values[n, 3] - values[n, 2]),
    )
    x0, y0, z0, above = (
        F(values[n, 6] * px + values[n, 7] * py),
        F(values[n, 6] * py - values[n, 7] * px),
        F(pz),
        F(values[n, 2] - ground_z),
    )
    sun_x, sun_y = F(values[n, 6] * sun[0] + values[n, 7] * sun[1]), F(values[n, 6] * sun[1] - values[n, 7] * sun[0])
    sun_z = F(sun[2])
    lean_front, lean_back = F(values[n, 8]), F(values[n, 9])
    front, back = F(1.0 / sqrt(1.0 + values[n, 8] * values[n, 8])), F(1.0 / sqrt(1.0 + values[n, 9] * values[n, 9]))
    for k in range(begin, end):
        t, dx, dy, ez = lines[REACH + k], lines[DX + k], lines[DY + k], lines[DZ + k]
        ex, ey = c * dx + s * dy, c * dy - s * dx
        lx, ly, lz = x0 + t * ex, y0 + t * ey, z0 + t * ez
        at_front, at_back = abs(half_x - lean_front * lz - lx), abs(half_x - lean_back * lz + lx)
        flank, ends, cap = abs(half_y - abs(ly)), min(at_front, at_back), min(abs(top - lz), abs(lz))
        on_cap, on_end = cap < min(flank, ends), ends < flank
        ahead = at_front <= at_back
        nx = front if ahead else -back
        nz = lean_front * front if ahead else lean_back * back
        ny = F(1.0) if ly > F(0.0) else F(-1.0)
        up = F(1.0) if abs(top - lz) < abs(lz) else F(-1.0)
        nx, ny, nz = nx if on_end else F(0.0), F(0.0) if on_end else ny, nz if on_end else F(0.0)
        nx, ny, nz = F(0.0) if on_cap else nx, F(0.0) if on_cap else ny, up if on_cap else nz
        which = F(0.0) if ly > F(0.0) else F(1.0)
        which = (_FRONT if ahead else _BACK) if on_end else which
        facing = nx * sun_x + ny * sun_y + nz * sun_z
        lines[LIT + k] = lit_by(facing, lz + above, ambient, strength)
        lines[TOWARDS + k] = -(nx * ex + ny * ey + nz * ez)
        lines[AT_X + k], lines[AT_Y + k], lines[AT_Z + k], lines[FACE + k] = lx, ly, lz, _CAP if on_cap else which


@njit(f"void({RUN}, {SOLID}, int64)", cache=True, nogil=True, error_model="numpy")
def on_round(
    begin: int, end: int, lines: np.ndarray, values: np.ndarray, n: int, px: float, py: float, pz: float,
    ground_z: float, sun: np.ndarray, ambient: float, strength: float, kind: int,
) -> None:  # fmt: skip
    """As `on_box` for a cylinder or an ellipsoid, but with the place in the level frame's axes."""
    half = 0.5 * (values[n, 3] - values[n, 2])
    x0, y0, z0, above, middle = F(px), F(py), F(pz), F(values[n, 2] - ground_z), F(half)
    flat, tall = F(1.0 / (values[n, 4] * values[n, 4])), F(0.0 if kind == CYLINDER else 1.0 / (half * half))
    sun_x, sun_y, sun_z = F(sun[0]), F(sun[1]), F(sun[2])
    for k in range(begin, end):
        t = lines[REACH + k]
        lx, ly, lz = x0 + t * lines[DX + k], y0 + t * lines[DY + k], z0 + t * lines[DZ + k]
        nx, ny, nz = lx * flat, ly * flat, (lz - middle) * tall
        scale = F(1.0) / np.sqrt(nx * nx + ny * ny + nz * nz + F(1e-12))
        facing = (nx * sun_x + ny * sun_y + nz * sun_z) * scale
        lines[LIT + k] = lit_by(facing, lz + above, ambient, strength)
        lines[TOWARDS + k] = -(nx * lines[DX + k] + ny * lines[DY + k] + nz * lines[DZ + k]) * scale
        lines[AT_X + k], lines[AT_Y + k], lines[AT_Z + k] = lx, ly, lz


@njit(f"void({RUN}, float64[:,::1], uint64, float32)", cache=True, nogil=True, error_model="numpy")
def car_body(begin: int, end: int, lines: np.ndarray, values: np.ndarray, n: int, scale: float) -> None:
    """A car below its windows: wheels, sills and a door's seam at the sides, lamps and plates at the ends."""
    r_, g_, b_, wide, top = (
        F(values[n, 10]),
        F(values[n, 11]),
        F(values[n, 12]),
        F(values[n, 5]),
        F(values[n, 3] - values[n, 2]),
    )
    axle, middle = F(0.61 * values[n, 4]), F(0.01 * values[n, 4])
    for k in range(begin, end):
        lx, lz, beside, foot = lines[AT_X + k], lines[AT_Z + k], abs(lines[AT_Y + k]), lines[REACH + k] * scale
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
        front = lines[FACE + k] == _FRONT
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
        side, cap = lines[FACE + k] < _FRONT, lines[FACE + k] == _CAP
        lines[RED + k] = r_ if cap else (side_r if side else end_r)
        lines[GREEN + k] = g_ if cap else (side_g if side else end_g)
        lines[BLUE + k] = b_ if cap else (side_b if side else end_b)
        lines[EMIT + k] = lamp if (lines[FACE + k] == _FRONT) | (lines[FACE + k] == _BACK) else F(0.0)


@njit(f"void({RUN}, float64[:,::1], uint64, float32)", cache=True, nogil=True, error_model="numpy")
def car_cabin(begin: int, end: int, lines: np.ndarray, values: np.ndarray, n: int, scale: float) -> None:
    """A car's roof and windows."""
    r_, g_, b_, half, wide, top = (
        F(values[n, 10]),
        F(values[n, 11]),
        F(values[n, 12]),
        F(values[n, 4]),
        F(values[n, 5]),
        F(values[n, 3] - values[n, 2]),
    )
    lean_front, lean_back, grain, inverse = (
        F(0.9 * values[n, 8]),
        F(values[n, 9]),
        np.int32(values[n, 14]),
        F(1.0 / (values[n, 3] - values[n, 2])),
    )
    for k in range(begin, end):
        lx, ly, lz = lines[AT_X + k], lines[AT_Y + k], lines[AT_Z + k]
        sharp = F(1.0) / (F(0.015) + F(0.7) * lines[REACH + k] * scale)
        flank = band(lx, -half + F(0.10) + lean_back * lz, half - F(0.12) - lean_front * lz, sharp)
        flank *= band(lz, F(0.02), top - F(0.07), sharp) * (F(1.0) - band(lx, F(-0.12), F(0.0), sharp))
        screen = band(ly, -wide + F(0.07), wide - F(0.07), sharp) * band(lz, F(0.03), top - F(0.05), sharp)
        glass = flank if lines[FACE + k] < _FRONT else screen
        glass = F(0.0) if lines[FACE + k] == _CAP else glass
        shine = F(40.0) + F(46.0) * lz * inverse + F(14.0) * (noise(lx * F(2.0) + F(9.0), lz * F(2.0), grain) - F(0.5))
        lines[RED + k] = r_ + glass * (shine * F(0.9) - r_)
        lines[GREEN + k] = g_ + glass * (shine - g_)
        lines[BLUE + k] = b_ + glass * (shine * F(1.1) - b_)


@njit(f"void({RUN}, float64[:,::1], uint64, int64, float32)", cache=True, nogil=True, error_model="numpy")
def plain_box(
    begin: int, end: int, lines: np.ndarray, values: np.ndarray, n: int, material: int, scale: float
) -> None:  # fmt: skip
    """Boxes that are no cars: kerbs, concrete, striped barriers, and whatever has but one colour."""
    r_, g_, b_ = F(values[n, 10]), F(values[n, 11]), F(values[n, 12])
    for k in range(begin, end):
        lines[RED + k], lines[GREEN + k], lines[BLUE + k] = r_, g_, b_
    if material == STRIPES:
        for k in range(begin, end):
            sharp = F(1.0) / (F(0.02) + lines[REACH + k] * scale)
            stripe = band(wrap(lines[AT_Y + k] + lines[AT_Z + k], F(0.5)), F(0.0), F(0.25), sharp)
            lines[RED + k] += stripe * (F(240.0) - r_)
            lines[GREEN + k] += stripe * (F(240.0) - g_)
            lines[BLUE + k] += stripe * (F(238.0) - b_)
    elif material == KERB:
        for k in range(begin, end):
            grit = (noise(lines[AT_X + k] * F(8.0), lines[AT_Z + k] * F(8.0), np.int32(n)) - F(0.5)) * F(20.0)
            grit *= min(F(1.0), F(0.05) / (lines[REACH + k] * scale))
            lines[RED + k], lines[GREEN + k], lines[BLUE + k] = r_ + grit, g_ + grit, b_ + grit
    elif material == CONCRETE:
        for k in range(begin, end):
            foot = lines[REACH + k] * scale
            joint = F(1.0) - band(wrap(lines[AT_X + k], F(5.0)), F(0.03), F(4.97), F(1.0) / (F(0.02) + foot))
            stain = F(1.0) - F(0.16) * noise(
                lines[AT_X + k] * F(0.4), lines[AT_Z + k] * F(1.3) + lines[AT_Y + k] * F(0.4), np.int32(41)
            )
            stain -= F(0.25) * joint * min(F(1.0), F(0.08) / foot)
            stain *= F(1.12) if (lines[AT_Z + k] < F(2.2)) & (lines[FACE + k] < _FRONT) else F(1.0)
            lines[RED + k], lines[GREEN + k], lines[BLUE + k] = r_ * stain, g_ * stain, b_ * stain


@njit(f"void({RUN}, float64[:,::1], uint64, int64, float32)", cache=True, nogil=True, error_model="numpy")
def plain_round(begin: int, end: int, lines: np.ndarray, values: np.ndarray, n: int, kind: int, scale: float) -> None:
    """Posts have one colour; ellipsoids, which people are made of, have folds of cloth."""
    r_, g_, b_, grain = F(values[n, 10]), F(values[n, 11]), F(values[n, 12]), F(values[n, 14] % 64.0)
    deep = F(0.0 if kind == CYLINDER else 0.22)
    for k in range(begin, end):
        foot = lines[REACH + k] * scale
        fold = (noise(lines[AT_Y + k] * F(6.0) + grain, lines[AT_Z + k] * F(7.0), np.int32(31)) - F(0.5)) * deep
        fold = F(1.0) + (fold * min(F(1.0), F(0.05) / foot) if foot < F(0.2) else F(0.0))
        lines[RED + k], lines[GREEN + k], lines[BLUE + k] = r_ * fold, g_ * fold, b_ * fold


@njit(f"void({RUN}, {SOLID}, int64, int64, float32)", cache=True, nogil=True, error_model="numpy")
def thing(
    begin: int, end: int, lines: np.ndarray, values: np.ndarray, n: int, px: float, py: float, pz: float,
    ground_z: float, sun: np.ndarray, ambient: float, strength: float,
    kind: int, material: int, scale: float,
) -> None:  # fmt: skip
    """Colour and light of a run of any solid but walls and crowns; `scale` is a pixel's width at one metre.

    `emit` out: share of a pixel that is lamp. x, y, z, face: scratch. The rest as in `textures.wall`.
    """
    shines = F(1.0 if material == LAMP else 0.0)
    for k in range(begin, end):
        lines[EMIT + k] = shines
    if kind != BOX:
        on_round(begin, end, lines, values, n, px, py, pz, ground_z, sun, ambient, strength, kind)
        plain_round(begin, end, lines, values, n, kind, scale)
        return
    on_box(begin, end, lines, values, n, px, py, pz, ground_z, sun, ambient, strength)
    if material == CAR_BODY:
        car_body(begin, end, lines, values, n, scale)
    elif material == CAR_CABIN:
        car_cabin(begin, end, lines, values, n, scale)
    else:
        plain_box(begin, end, lines, values, n, material, scale)
