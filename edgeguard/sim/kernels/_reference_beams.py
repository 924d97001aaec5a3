"""NumPy twins of what a beam of some width meets, and of where in a sweep a solid can be: plain, as test oracle.

Neither shares code with the kernels: a split beam is cast through `_reference.intersect`, and bounds are not computed
but looked for, by moving a solid's corners through a whole turn in small steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.kernels import _reference as plain

Floats = NDArray[np.float64]
Rays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
MIN_APART_M, SAME_WAY, FAR_APART = 0.15, 1e-9, 0.05
QUARTER = 0.25
_NEIGHBOURS = ((1, 0), (-1, 0), (0, 1), (0, -1))


def split(
    rays: Rays, starts: Floats, seen: tuple[NDArray[np.float32], NDArray[np.int32]],
    scene: tuple[Floats, Floats, NDArray[np.int64]], beam_rad: float, pulse_m: float,
) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """Return distance, second distance (inf: none) and the second's share of the spot, each (L, B).

    rays: unit vectors x, y, z, each (L, B). starts: (L, 4), where each line's beams start and when. seen: distance and
    hit. scene: values, velocity and codes of the primitives.

    A beam's four neighbours (lines wrap around, rays do not) are asked in the order of the kernel, which decides what
    its own earlier changes of `distance` mean for later beams: a mixed pixel is compared as what it became.
    """
    way = np.stack([plane.astype(np.float64) for plane in rays], axis=-1)
    distance, hit = seen[0].astype(np.float64), seen[1]
    second, share = np.full(distance.shape, np.inf), np.zeros(distance.shape)
    for i, j in np.ndindex(*distance.shape):
        own, there = int(hit[i, j]), []
        if own < 0:
            continue
        for down, right in _NEIGHBOURS:
            a, b = (i + down) % len(distance), j + right
            if not 0 <= b < distance.shape[1] or int(hit[a, b]) == own:
                continue
            if abs(distance[a, b] - distance[i, j]) < MIN_APART_M:
                continue
            side = way[a, b] - way[i, j]
            apart = float(np.linalg.norm(side))
            if not SAME_WAY <= apart <= FAR_APART:
                continue
            ray = way[i, j] + min(QUARTER * beam_rad / apart, 0.5) * side
            if np.isfinite(_reach(scene, starts[i], own, ray)):
                continue
            other = int(hit[a, b])
            reach = float(distance[a, b]) if other < 0 else _reach(scene, starts[i], other, ray)
            there += [reach] if np.isfinite(reach) else []
        if not there:
            continue
        part = 0.2 * len(there)
        if abs(min(there) - distance[i, j]) < pulse_m:
            distance[i, j] = np.float32((1.0 - part) * distance[i, j] + part * min(there))
        else:
            second[i, j], share[i, j] = min(there), part
    return distance, second, share


def _reach(scene: tuple[Floats, Floats, NDArray[np.int64]], start: Floats, index: int, ray: Floats) -> float:
    """Distance along one ray to one primitive, where it stands when the ray leaves."""
    values, velocity, codes = scene
    origin = np.array([[start[0], start[1], start[2]]])
    origin[0, :2] -= velocity[index, :2] * start[3]
    kind, material = int(codes[index, 0]), int(codes[index, 1])
    return float(plain.intersect(values[index], kind, material, origin, ray[None])[0])


def seen_in_turn(
    points: Floats, velocity: Floats, motion: Floats, period_s: float, steps: int = 720
) -> tuple[Floats, Floats, Floats]:
    """Return azimuth, elevation and distance in plan of (P, 3) points whenever the turning beam passes them.

    The beam looks along azimuth pi at time 0 and turns clockwise for `period_s`; the sensor moves and turns as `motion`
    says (forward, left, up, yaw rate) and the points with `velocity` (east, north). A point is seen in the step in
    which the beam's azimuth passes it; NaN where that never happens. Three arrays, (P,).
    """
    azimuth, elevation, plan = (np.full(len(points), np.nan) for _ in range(3))
    before = None
    # The beam stands for time 0 in the middle of its turn, ahead: the sweep is stamped there.
    for k in range(steps + 1):
        beam = np.pi - 2.0 * np.pi * k / steps
        time_s = (k / steps - 0.5) * period_s
        x = points[:, 0] + (velocity[0] - motion[0]) * time_s
        y = points[:, 1] + (velocity[1] - motion[1]) * time_s
        z = points[:, 2] - motion[2] * time_s
        turned = motion[3] * time_s
        ahead = np.cos(turned) * x + np.sin(turned) * y
        left = np.cos(turned) * y - np.sin(turned) * x
        off = (np.arctan2(left, ahead) - beam + np.pi) % (2.0 * np.pi) - np.pi
        if before is not None:
            passed = np.isnan(azimuth) & (before <= 0.0) & (off >= 0.0) & (np.abs(off - before) < 1.0)
            azimuth[passed] = np.arctan2(left, ahead)[passed]
            elevation[passed] = np.arctan2(z, np.hypot(ahead, left))[passed]
            plan[passed] = np.hypot(ahead, left)[passed]
        before = off
    return azimuth, elevation, plan
