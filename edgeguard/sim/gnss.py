"""A GNSS receiver on the simulated vehicle: slowly wandering position, quiet Doppler velocity, late answers.

With a constellation it also tells which satellites it hears, where they stand and how loud they are: carrier to noise
falls with elevation (antenna gain and air mass), wanders by fading, and is lost behind what hides the sky. That is a
tunnel's or a bridge's doing, not a jammer's, and the position coasts and returns as a receiver's does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import asin, atan2, cos, degrees, hypot, pi, radians, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.sim.receiver import NMEA
from edgeguard.sim.world import World
from edgeguard.types import GNSS, GnssFix, GnssSignal

ORIGIN_LATITUDE_DEG, ORIGIN_LONGITUDE_DEG, ORIGIN_ALTITUDE_M = 48.137, 11.575, 520.0
START_UTC_NS = 1_767_225_600 * NS_PER_S  # 2026-01-01T00:00:00Z: a drive begins at a fixed date, so bytes repeat

_A_M, _E2 = 6_378_137.0, 6.694379990141316e-3  # WGS 84


@dataclass(frozen=True, slots=True)
class GnssModel:
    """Noise of a good single-frequency receiver under open sky.

    The slow part is ionosphere and orbit (minutes), the fast part multipath (seconds). The figures are chosen so that
    over ten seconds the position moves by 0.2-0.3 m (1 sigma) against the truth: the size of a real drive's
    displacement residuals over one to five seconds.

    constellation: tell the satellites too, once a second; without it neither a tunnel nor a jammer shows in them.
    wire: `receiver.NMEA` or `receiver.UBX`.
    """

    rate_hz: int = 10
    latency_s: float = 0.12
    slow_sigma_m: float = 1.3
    slow_time_s: float = 600.0
    fast_sigma_m: float = 0.12
    fast_time_s: float = 8.0
    white_sigma_m: float = 0.02
    velocity_sigma_m_s: float = 0.05
    constellation: bool = True
    wire: str = NMEA
    open_sky_dbhz: float = 47.0
    fading_dbhz: float = 1.2


class Gnss:
    """Gives the k-th fix of a drive. Errors are drawn up front, so fixes may be asked for in any order."""

    def __init__(self, world: World, seed: int, model: GnssModel | None = None) -> None:
        self._world, self.model = world, model or GnssModel()
        m = self.model
        rng = np.random.default_rng([seed, 0x6155])
        count = int(world.duration_s * m.rate_hz) + 2
        step = 1.0 / m.rate_hz
        slow = gauss_markov(rng, count, step, m.slow_sigma_m, m.slow_time_s)
        fast = gauss_markov(rng, count, step, m.fast_sigma_m, m.fast_time_s)
        self._error = slow + fast + m.white_sigma_m * rng.standard_normal((count, 3))
        self._velocity = m.velocity_sigma_m_s * rng.standard_normal((count, 2))
        self._satellites = rng.integers(11, 15, size=count // 50 + 1)
        sky = np.random.default_rng([seed, 0x6156])
        self._sky = _draw_sky(sky)
        self._fading = np.repeat(gauss_markov(sky, count, step, m.fading_dbhz, 4.0)[:, :1], len(self._sky), axis=1)
        self._fading = self._fading * 0.3 + m.fading_dbhz * sky.standard_normal((count, len(self._sky)))

    def sample(self, index: int) -> GnssFix:
        """Return fix `index`, valid at index / rate seconds; `device_stamp_ns` is UTC."""
        m = self.model
        ego = self._world.ego(index / m.rate_hz)
        east, north, up = self._error[index]
        latitude, longitude = to_geodetic(ego.east_m + float(east), ego.north_m + float(north))
        v_east = ego.speed_m_s * cos(ego.yaw_rad) + float(self._velocity[index, 0])
        v_north = ego.speed_m_s * sin(ego.yaw_rad) + float(self._velocity[index, 1])
        stamp_ns = index * NS_PER_S // m.rate_hz
        satellites = int(self._satellites[index // 50])
        signals: tuple[GnssSignal, ...] = ()
        if m.constellation:
            signals = self._heard(index, self._world.sky_share(index / m.rate_hz))
            satellites = sum(signal.used for signal in signals)
            if satellites < 4:
                return self._lost(index, stamp_ns, signals)
        return GnssFix(
            stamp_ns=stamp_ns,
            latitude_deg=latitude,
            longitude_deg=longitude,
            altitude_m=ORIGIN_ALTITUDE_M + 1.5 * float(up),
            speed_m_s=hypot(v_east, v_north),
            course_deg=degrees(atan2(v_east, v_north)) % 360.0,
            satellites=satellites,
            hdop=round(9.6 / satellites, 2),
            sensor=GNSS,
            device_stamp_ns=START_UTC_NS + stamp_ns,
            cn0_dbhz=tuple(signal.cn0_dbhz for signal in signals),
            signals=signals,
        )

    def azimuths(self) -> dict[tuple[str, int], float]:
        """Return where each satellite stands, degrees from north, by system and number."""
        return {(system, number): azimuth for system, number, _, azimuth in self._sky}

    def _heard(self, index: int, sky_share: float) -> tuple[GnssSignal, ...]:
        """Return what is heard when only that share of the sky is seen: the rest is blocked from one side."""
        m, found = self.model, []
        heading = self._world.ego(index / m.rate_hz).yaw_rad
        for number, (system, prn, elevation, azimuth) in enumerate(self._sky):
            bearing = abs((radians(90.0 - azimuth) - heading + pi / 2) % pi - pi / 2)  # from the street's own line
            if sky_share <= 0.0 or (sky_share < 1.0 and elevation > 75.0 * sky_share and bearing > 0.4):
                continue
            loss = 12.0 * (1.0 - sin(radians(elevation))) ** 1.5 + (6.0 if sky_share < 1.0 else 0.0)
            strength = m.open_sky_dbhz - loss + float(self._fading[index, number])
            if strength > 18.0:
                found.append(GnssSignal(system, prn, round(strength), round(elevation), None, strength > 24.0))
        return tuple(found)

    def _lost(self, index: int, stamp_ns: int, signals: tuple[GnssSignal, ...]) -> GnssFix:
        """A fix that is none: the last place that was known, marked as invalid."""
        last = index
        while last > 0 and self._world.sky_share(last / self.model.rate_hz) < 1.0:
            last -= 1
        ego = self._world.ego(last / self.model.rate_hz)
        latitude, longitude = to_geodetic(ego.east_m, ego.north_m)
        return GnssFix(
            stamp_ns=stamp_ns,
            latitude_deg=latitude,
            longitude_deg=longitude,
            satellites=0,
            hdop=99.99,
            fix_quality=0,
            sensor=GNSS,
            device_stamp_ns=START_UTC_NS + stamp_ns,
            cn0_dbhz=tuple(signal.cn0_dbhz for signal in signals),
            signals=signals,
        )


def _draw_sky(rng: np.random.Generator) -> list[tuple[str, int, float, float]]:
    """Draw satellites above five degrees, even over the half sphere: system, number, elevation, azimuth in degrees."""
    found = []
    for system, count, numbers in (("G", 9, 32), ("R", 6, 24), ("E", 7, 36)):
        for prn in sorted(rng.choice(np.arange(1, numbers + 1), count, replace=False).tolist()):
            elevation = degrees(asin(float(rng.uniform(sin(radians(5.0)), 1.0))))
            found.append((system, int(prn), elevation, float(rng.uniform(0.0, 360.0))))
    return found


def gauss_markov(
    rng: np.random.Generator, count: int, step_s: float, sigma: float, time_s: float
) -> NDArray[np.float64]:
    """Return (count, 3) first-order Gauss-Markov series with standard deviation `sigma` from the first sample on."""
    keep = float(np.exp(-step_s / time_s))
    drive = sigma * sqrt(1.0 - keep * keep) * rng.standard_normal((count, 3))
    drive[0] = sigma * rng.standard_normal(3)
    for index in range(1, count):
        drive[index] += keep * drive[index - 1]
    return drive


def radii_m(latitude_deg: float) -> tuple[float, float]:
    """Return metres per radian of latitude and of longitude on WGS 84 at altitude zero."""
    sine = sin(radians(latitude_deg))
    w = 1.0 - _E2 * sine * sine
    return _A_M * (1.0 - _E2) / (w * sqrt(w)), _A_M / sqrt(w) * cos(radians(latitude_deg))


def to_geodetic(east_m: float, north_m: float) -> tuple[float, float]:
    """Return latitude and longitude in degrees of a place near the origin (plane approximation: 1 cm at 2 km)."""
    per_latitude, per_longitude = radii_m(ORIGIN_LATITUDE_DEG)
    return ORIGIN_LATITUDE_DEG + degrees(north_m / per_latitude), ORIGIN_LONGITUDE_DEG + degrees(east_m / per_longitude)
