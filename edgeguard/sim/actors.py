"""Road users as they look: cars, pedestrians, cyclists, barriers, built from primitives."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin

import numpy as np

from edgeguard.sim.primitives import BICYCLE, CAR_BODY, CAR_CABIN, CLOTH, STRIPES, Colour, PrimitiveList

CAR, PEDESTRIAN, CYCLIST, BARRIER = "car", "pedestrian", "cyclist", "barrier"
LABELS = (CAR, PEDESTRIAN, CYCLIST, BARRIER)

_PAINTS: tuple[Colour, ...] = (
    (205, 208, 210),
    (60, 62, 66),
    (150, 155, 160),
    (172, 34, 34),
    (38, 66, 128),
    (235, 235, 230),
    (46, 92, 70),
    (196, 160, 60),
)
_CLOTHES: tuple[Colour, ...] = (
    (190, 50, 45),
    (50, 80, 150),
    (225, 190, 60),
    (70, 130, 85),
    (225, 225, 220),
    (120, 60, 130),
)
_TROUSERS: tuple[Colour, ...] = ((45, 50, 70), (70, 62, 55), (35, 35, 38), (120, 115, 105))
_SKIN: tuple[Colour, ...] = ((224, 180, 150), (165, 115, 85), (105, 72, 52))


@dataclass(frozen=True, slots=True)
class Look:
    """What one road user looks like: its label, full length, width, height in metres, and colours."""

    label: str
    size_m: tuple[float, float, float]
    colour: Colour
    second: Colour
    skin: Colour
    grain: float


def draw_look(rng: np.random.Generator, label: str) -> Look:
    """Draw a road user of class `label`."""
    grain = float(rng.integers(1, 1 << 20))
    skin = _SKIN[int(rng.integers(len(_SKIN)))]
    if label == CAR:
        van = rng.random() < 0.15
        size = (
            (rng.uniform(4.6, 5.2), rng.uniform(1.85, 2.0), rng.uniform(2.0, 2.3))
            if van
            else (rng.uniform(3.8, 4.7), rng.uniform(1.70, 1.85), rng.uniform(1.42, 1.60))
        )
        paint = _PAINTS[int(rng.integers(len(_PAINTS)))]
        return Look(label, (float(size[0]), float(size[1]), float(size[2])), paint, paint, skin, grain)
    if label == BARRIER:
        return Look(label, (0.25, 1.6, 1.05), (215, 60, 40), (240, 240, 238), skin, grain)
    cloth = _CLOTHES[int(rng.integers(len(_CLOTHES)))]
    trousers = _TROUSERS[int(rng.integers(len(_TROUSERS)))]
    height = float(rng.uniform(1.58, 1.88))
    size_m = (0.45, 0.55, height) if label == PEDESTRIAN else (1.75, 0.55, height)
    return Look(label, size_m, cloth, trousers, skin, grain)


def add_actor(out: PrimitiveList, look: Look, pose: tuple[float, float, float], stride: float, owner: int) -> None:
    """Append the primitives of one road user at `pose` (x, y, yaw); `stride` in radians is the phase of its gait."""
    {CAR: _car, PEDESTRIAN: _pedestrian, CYCLIST: _cyclist, BARRIER: _barrier}[look.label](
        out, look, pose, stride, owner
    )


def _ahead(pose: tuple[float, float, float], forward: float, left: float) -> tuple[float, float, float]:
    x, y, yaw = pose
    return x + forward * cos(yaw) - left * sin(yaw), y + forward * sin(yaw) + left * cos(yaw), yaw


def _car(out: PrimitiveList, look: Look, pose: tuple[float, float, float], stride: float, owner: int) -> None:
    del stride
    length, width, height = look.size_m
    belt = 0.56 * height if height < 1.8 else 0.5 * height
    out.box(
        pose,
        (0.0, belt),
        (length, width),
        look.colour,
        material=CAR_BODY,
        taper=(0.10, 0.06),
        reflectance=0.45,
        grain=look.grain,
        owner=owner,
    )
    van = height > 1.8
    share, back = (0.86, 0.04) if van else (0.62, 0.10)
    taper = (0.55, 0.06) if van else (0.95, 0.55)
    out.box(
        _ahead(pose, -back * length, 0.0),
        (belt, height),
        (share * length, 0.90 * width),
        look.colour,
        material=CAR_CABIN,
        taper=taper,
        reflectance=0.25,
        grain=look.grain,
        owner=owner,
    )


def _pedestrian(out: PrimitiveList, look: Look, pose: tuple[float, float, float], stride: float, owner: int) -> None:
    height = look.size_m[2]
    hip, neck = 0.48 * height, 0.84 * height
    swing = 0.16 * sin(stride)
    for side, step in ((0.10, swing), (-0.10, -swing)):
        x, y, _ = _ahead(pose, step, side)
        out.cylinder(
            (x, y), (0.0, hip), 0.085, look.second, material=CLOTH, reflectance=0.3, grain=look.grain, owner=owner
        )
    out.box(
        pose,
        (hip, neck),
        (0.26, 0.44),
        look.colour,
        material=CLOTH,
        taper=(-0.04, 0.05),
        reflectance=0.5,
        grain=look.grain,
        owner=owner,
    )
    for side in (0.26, -0.26):
        x, y, _ = _ahead(pose, -0.5 * swing if side > 0 else 0.5 * swing, side)
        out.cylinder(
            (x, y),
            (0.46 * height, neck - 0.03),
            0.055,
            look.colour,
            material=CLOTH,
            reflectance=0.5,
            grain=look.grain,
            owner=owner,
        )
    out.ellipsoid(pose[:2], (neck, height), 0.11, look.skin, reflectance=0.4, owner=owner)


def _cyclist(out: PrimitiveList, look: Look, pose: tuple[float, float, float], stride: float, owner: int) -> None:
    height = look.size_m[2]
    out.box(pose, (0.0, 1.05), (1.75, 0.06), (40, 42, 46), material=BICYCLE, reflectance=0.3, owner=owner)
    swing = 0.12 * sin(stride)
    for side, step in ((0.11, swing), (-0.11, -swing)):
        x, y, _ = _ahead(pose, step - 0.05, side)
        out.cylinder(
            (x, y),
            (0.28 + step, 0.95),
            0.08,
            look.second,
            material=CLOTH,
            reflectance=0.3,
            grain=look.grain,
            owner=owner,
        )
    # A rider leans forward: the back plane follows the front one.
    out.box(
        _ahead(pose, -0.16, 0.0),
        (0.92, height - 0.25),
        (0.30, 0.42),
        look.colour,
        material=CLOTH,
        taper=(-0.55, 0.45),
        reflectance=0.5,
        grain=look.grain,
        owner=owner,
    )
    x, y, _ = _ahead(pose, 0.16, 0.0)
    out.ellipsoid((x, y), (height - 0.27, height), 0.12, look.skin, reflectance=0.4, owner=owner)


def _barrier(out: PrimitiveList, look: Look, pose: tuple[float, float, float], stride: float, owner: int) -> None:
    del stride
    _, width, height = look.size_m
    for bottom in (0.45, 0.82):
        out.box(
            pose, (bottom, bottom + 0.22), (0.05, width), look.colour, material=STRIPES, reflectance=0.8, owner=owner
        )
    for side in (-0.42, 0.42):
        out.box(_ahead(pose, 0.0, side * width), (0.0, height), (0.06, 0.06), (60, 60, 62), owner=owner)
        out.box(_ahead(pose, 0.0, side * width), (0.0, 0.08), (0.5, 0.14), (50, 50, 52), owner=owner)
