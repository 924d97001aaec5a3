"""Light and air of a world, as the numbers that the shading kernel reads; and the exposure that follows them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, sin

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.kernels import light as place
from edgeguard.sim.primitives import LAMP, X, Y
from edgeguard.sim.weather import CLEAR_VISIBILITY_M, TUNNEL_M, Conditions, exposure_of
from edgeguard.sim.world import World

Floats = NDArray[np.float64]
_CELL_M = 2.0
_CELLS = 130  # 130 m to every side
_NO_MAP = np.empty((0, 0, 2), dtype=np.float32)
EXPOSURE_LAG_S = 0.35  # how fast an automatic exposure follows; assumed
_NIGHT_GAIN, _LOW_SUN_GAIN = 3.0, 1.35


@dataclass(frozen=True, slots=True, eq=False)
class Lighting:
    """numbers: see `kernels.light`. lamps: map of daylight and lamps, or empty. sun: unit vector in the level frame."""

    numbers: Floats
    lamps: NDArray[np.float32]
    sun: Floats


@lru_cache(maxsize=8)
def _air(conditions: Conditions) -> tuple[float, ...]:
    out = np.zeros(place.PLACES)
    out[[place.AMBIENT, place.SUN, place.SKY, place.MAP_CELL]] = 0.50, 0.62, 1.0, _CELL_M
    out[place.HAZE] = min(conditions.visibility_m, CLEAR_VISIBILITY_M) / 3.912
    out[[place.AIR_R, place.AIR_G, place.AIR_B]] = 214.0, 222.0, 230.0
    out[place.OVERCAST] = conditions.overcast
    out[[place.AMBIENT, place.SUN]] += np.array([0.22, -0.60]) * conditions.overcast
    out[[place.AIR_R, place.AIR_G, place.AIR_B]] -= np.array([20.0, 24.0, 28.0]) * conditions.overcast
    out[place.WET] = min(conditions.rain_mm_h / 5.0, 1.0)
    if conditions.visibility_m < 500.0:
        out[place.FOG] = conditions.visibility_m / 20.0
        out[place.FOG] = max(out[place.FOG], 2.0)
    if conditions.night:
        out[[place.AMBIENT, place.SUN, place.SKY]] = 0.035, 0.0, 0.045
        out[[place.AIR_R, place.AIR_G, place.AIR_B]] = 9.0, 10.0, 13.0
        out[[place.HEADLIGHT, place.EMIT]] = 0.55, 1.0
    elif conditions.tunnel:
        out[place.EMIT] = 1.0
    if conditions.low_sun:
        out[[place.AMBIENT, place.SUN, place.SUN_DISC]] = 0.40, 0.75, 1.0
    return tuple(float(v) for v in out)


def lighting(world: World, frame: tuple[float, float, float, float]) -> Lighting:
    """Return the light around a camera whose level frame is (x, y, z, heading)."""
    bearing, flat = world.sun_azimuth_rad - frame[3], cos(world.sun_elevation_rad)
    sun = np.array([flat * cos(bearing), flat * sin(bearing), sin(world.sun_elevation_rad)])
    numbers = np.array(_air(world.conditions))
    if not (world.conditions.night or world.conditions.tunnel):
        return Lighting(numbers, _NO_MAP, sun)
    corner = -_CELL_M * _CELLS / 2
    numbers[[place.MAP_X, place.MAP_Y]] = corner
    return Lighting(numbers, _map(world, frame, corner), sun)


def _map(world: World, frame: tuple[float, float, float, float], corner: float) -> NDArray[np.float32]:
    axis = corner + _CELL_M * np.arange(_CELLS)
    x, y = np.meshgrid(axis, axis)
    c, s = cos(frame[3]), sin(frame[3])
    out = np.empty((_CELLS, _CELLS, 2), dtype=np.float32)
    out[..., 0], out[..., 1] = 1.0, 0.0
    if world.conditions.tunnel:
        nodes = np.arange(TUNNEL_M[0], TUNNEL_M[1], _CELL_M)
        middle = np.array([world.road.place(float(at), 0.0)[:2] for at in nodes]) - np.array(frame[:2])
        middle = middle @ np.array([[c, -s], [s, c]])
        gap = np.square(x[..., None] - middle[:, 0]) + np.square(y[..., None] - middle[:, 1])
        nearest = gap.argmin(axis=2)
        inside = gap.min(axis=2) < 6.6**2
        share = np.array([world.daylight_share(float(at)) for at in nodes])
        out[..., 0] = np.where(inside, share[nearest], 1.0)
        out[..., 1] = np.where(inside, 0.24 * (1.0 - share[nearest]), 0.0)
    if world.conditions.night:
        lamps = world.fixed(LAMP)
        east, north = lamps[:, X] - frame[0], lamps[:, Y] - frame[1]
        near = np.hypot(east, north) < 150.0
        lx, ly = (c * east + s * north)[near], (c * north - s * east)[near]
        for at_x, at_y in zip(lx, ly, strict=True):
            r2 = np.square(x - at_x) + np.square(y - at_y)
            out[..., 1] += (0.42 / np.square(1.0 + r2 / 42.0)).astype(
                np.float32
            )  # a lamp 6.5 m up, cosine to the third
    return out


def exposure(world: World, time_s: float) -> float:
    """Return the gain of an automatic exposure that lags behind the street's brightness."""
    if world.conditions.night:
        return _NIGHT_GAIN
    gain = _LOW_SUN_GAIN if world.conditions.low_sun else 1.0
    if not world.conditions.tunnel:
        return gain
    step_s = 0.05
    times = np.clip(time_s + step_s * np.arange(-40, 1), 0.0, None)
    # What the lens sees lies ahead: half of the picture is brighter or darker already 8 m before the vehicle is.
    seen = [world.daylight_share(world.arc_of_ego(float(t)) + 8.0) for t in times]
    return gain * exposure_of(0.3 + 0.7 * np.array(seen), step_s, EXPOSURE_LAG_S)
