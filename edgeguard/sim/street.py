"""Scenery along a road that nobody labels: kerbs, buildings, trees, lamp posts."""

from __future__ import annotations

from math import cos, sin

import numpy as np

from edgeguard.sim.primitives import BUILDING, FOLIAGE, KERB, Colour, PrimitiveList
from edgeguard.sim.road import Road

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


def add_street(out: PrimitiveList, road: Road, rng: np.random.Generator) -> None:
    """Append the scenery of the whole road."""
    for side in (1.0, -1.0):
        _kerbs(out, road, side)
        _buildings(out, road, rng, side)
        _trees_and_lamps(out, road, rng, side)


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
            out.box(arm, (6.4, 6.52), (0.25, 2.0), (95, 98, 102), reflectance=0.45)
        s += float(rng.uniform(9.0, 17.0))
