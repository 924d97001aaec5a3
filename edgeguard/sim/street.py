"""Scenery along a road that nobody labels: kerbs, buildings, trees, lamp posts."""

from __future__ import annotations

from math import cos, sin

import numpy as np

from edgeguard.sim.primitives import BUILDING, CONCRETE, FOLIAGE, KERB, LAMP, Colour, PrimitiveList
from edgeguard.sim.road import Road
from edgeguard.sim.weather import BRIDGE_M, TUNNEL_M, Conditions

LANE_M = 3.5  # lane width; two lanes, one each way
KERB_M = 5.9  # kerb from the centreline: lane and a strip where cars park
WALK_M = 9.4  # outer edge of the pavement
_KERB_STONE_M = 4.0  # long enough to be few, short enough to follow a 60 m radius within 4 cm

_FACADES: tuple[Colour, ...] = (
    (196, 178, 150),
    (178, 120, 96),
    (208, 200, 188),
    (150, 150, 152),
    (186, 160, 120),
    (168, 96, 78),
    (214, 206, 170),
    (140, 152, 160),
)


def add_street(
    out: PrimitiveList, road: Road, rng: np.random.Generator, *, keep_clear: tuple[float, float] | None = None
) -> None:
    """Append the scenery of the whole road; nothing but kerbs between the arc lengths of `keep_clear`."""
    for side in (1.0, -1.0):
        _kerbs(out, road, side)
        for add, length_m in ((_buildings, 24.0), (_trees_and_lamps, 3.0)):
            found = PrimitiveList()
            add(found, road, rng, side)
            if keep_clear is not None:
                _drop(found, road, (keep_clear[0] - length_m, keep_clear[1] + length_m))
            out.rows += found.rows
            out.codes += found.codes


def _drop(out: PrimitiveList, road: Road, stretch: tuple[float, float]) -> None:
    middles = [road.place(s, 0.0)[:2] for s in np.arange(*stretch, 3.0)]
    away = [min((row[0] - x) ** 2 + (row[1] - y) ** 2 for x, y in middles) > 19.0**2 for row in out.rows]
    out.rows = [row for row, stays in zip(out.rows, away, strict=True) if stays]
    out.codes = [code for code, stays in zip(out.codes, away, strict=True) if stays]


def add_structures(out: PrimitiveList, road: Road, conditions: Conditions) -> None:
    """Append the tunnel or the bridge that the conditions ask for."""
    if conditions.tunnel:
        first, last = TUNNEL_M
        for s in np.arange(first, last, 5.0):
            for side in (1.0, -1.0):
                x, y, heading = road.place(float(s) + 2.5, side * 6.5)
                stretch = 5.0 * (1.0 - side * 6.5 * road.curvature(float(s) + 2.5)) + 0.1
                out.box(
                    (x, y, heading), (-0.5, 5.4), (stretch, 0.6), (152, 148, 140), material=CONCRETE, reflectance=0.35
                )
            place = road.place(float(s) + 2.5, 0.0)
            out.box(place, (5.3, 5.9), (5.6, 13.6), (120, 118, 114), material=CONCRETE, reflectance=0.3)
            out.box(place, (5.2, 5.3), (1.2, 0.3), (245, 238, 214), material=LAMP, reflectance=0.5)
        for s in (first, last):  # portals
            out.box(road.place(s, 0.0), (5.3, 8.6), (0.8, 30.0), (138, 134, 126), material=CONCRETE, reflectance=0.35)
            for side in (1.0, -1.0):
                out.box(
                    road.place(s, side * 10.6),
                    (-0.5, 5.4),
                    (0.8, 8.0),
                    (138, 134, 126),
                    material=CONCRETE,
                    reflectance=0.35,
                )
    if conditions.bridge:
        first, last = BRIDGE_M
        place = road.place((first + last) / 2, 0.0)
        out.box(place, (5.2, 6.4), (last - first, 60.0), (140, 138, 134), material=CONCRETE, reflectance=0.35)
        for side in (1.0, -1.0):
            pier = road.place((first + last) / 2, side * 8.6)
            out.box(pier, (-0.5, 5.2), (last - first - 2.0, 1.2), (132, 130, 126), material=CONCRETE, reflectance=0.35)


def _kerbs(out: PrimitiveList, road: Road, side: float) -> None:
    s = road.start_m
    while s < road.end_m:
        place = road.place(s + _KERB_STONE_M / 2, side * (KERB_M + 0.1))
        stretch = 1.0 - side * KERB_M * road.curvature(s)
        out.box(
            place, (0.0, 0.13), (_KERB_STONE_M * stretch + 0.05, 0.2), (168, 166, 160), material=KERB, reflectance=0.4
        )
        s += _KERB_STONE_M


def _buildings(out: PrimitiveList, road: Road, rng: np.random.Generator, side: float) -> None:
    s = road.start_m + float(rng.uniform(0.0, 8.0))
    while s < road.end_m - 25.0:
        length, depth = float(rng.uniform(12.0, 24.0)), float(rng.uniform(9.0, 13.0))
        floors = int(rng.integers(2, 6))
        place = road.place(s + length / 2, side * (WALK_M + 0.6 + float(rng.uniform(0.0, 1.5)) + depth / 2))
        tint = rng.uniform(0.9, 1.08)
        base = _FACADES[int(rng.integers(len(_FACADES)))]
        colour = (base[0] * tint, base[1] * tint, base[2] * tint)
        out.box(
            place,
            (0.0, 3.2 * floors + 0.9),
            (length, depth),
            colour,
            material=BUILDING,
            reflectance=0.4,
            grain=float(rng.integers(1, 1 << 20)),
        )
        gap = 0.0 if rng.random() < 0.6 else float(rng.uniform(3.0, 14.0))
        s += length + gap


def _trees_and_lamps(out: PrimitiveList, road: Road, rng: np.random.Generator, side: float) -> None:
    s = road.start_m + float(rng.uniform(0.0, 10.0))
    while s < road.end_m:
        x, y, heading = road.place(s, side * (KERB_M + 0.7))
        if rng.random() < 0.6:
            top, crown = float(rng.uniform(4.8, 7.0)), float(rng.uniform(1.3, 1.9))
            green = float(rng.uniform(0.85, 1.15))
            out.cylinder((x, y), (0.0, top - crown), 0.14, (92, 74, 58), reflectance=0.3)
            out.ellipsoid(
                (x, y),
                (2.4, top),
                crown,
                (70 * green, 104 * green, 48 * green),
                material=FOLIAGE,
                reflectance=0.35,
                grain=float(rng.integers(1, 1 << 20)),
            )
        else:
            out.cylinder((x, y), (0.0, 6.5), 0.08, (95, 98, 102), reflectance=0.45)
            reach = -side * 0.9
            arm = (x - reach * sin(heading), y + reach * cos(heading), heading)
            out.box(arm, (6.4, 6.52), (0.25, 2.0), (95, 98, 102), material=LAMP, reflectance=0.45)
        s += float(rng.uniform(9.0, 17.0))
