"""Earth-centred coordinates and WGS84: what a receiver solves in, and what people read."""

from __future__ import annotations

import math

# WGS84 (NIMA TR8350.2)
_A = 6_378_137.0
_F = 1.0 / 298.257223563
_E2 = _F * (2.0 - _F)


def geodetic(x_m: float, y_m: float, z_m: float) -> tuple[float, float, float]:
    """Return latitude and longitude in degrees and height in metres above WGS84 of an Earth-centred position.

    Bowring's method (1976), iterated; good to a micrometre from the ground to orbit.
    """
    longitude = math.atan2(y_m, x_m)
    p = math.hypot(x_m, y_m)
    latitude = math.atan2(z_m, p * (1.0 - _E2))
    height = 0.0
    for _ in range(6):
        n = _A / math.sqrt(1.0 - _E2 * math.sin(latitude) ** 2)
        # Near the poles p vanishes, near the equator z: each height formula where it is well conditioned.
        if abs(latitude) < math.pi / 4:
            height = p / math.cos(latitude) - n
        else:
            height = z_m / math.sin(latitude) - n * (1.0 - _E2)
        latitude = math.atan2(z_m, p * (1.0 - _E2 * n / (n + height)))
    return math.degrees(latitude), math.degrees(longitude), height


def east_north_up(
    latitude_deg: float, longitude_deg: float, vx: float, vy: float, vz: float
) -> tuple[float, float, float]:
    """Turn an Earth-centred velocity into the local level frame."""
    latitude, longitude = math.radians(latitude_deg), math.radians(longitude_deg)
    sin_lat, cos_lat, sin_lon, cos_lon = (
        math.sin(latitude),
        math.cos(latitude),
        math.sin(longitude),
        math.cos(longitude),
    )
    along = cos_lon * vx + sin_lon * vy
    return cos_lon * vy - sin_lon * vx, cos_lat * vz - sin_lat * along, sin_lat * vz + cos_lat * along
