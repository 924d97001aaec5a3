"""The vehicle's way in a local east-north plane: what fusion says, and what the GNSS receiver said."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeguard.types import GNSS, FrameResult, GnssFix, TrustState

# WGS-84 ellipsoid.
EQUATOR_RADIUS_M = 6_378_137.0
ECCENTRICITY_SQUARED = 6.694379990141e-3


@dataclass(frozen=True, slots=True)
class TrackPoint:
    """A place at a time; metres east and north of the first fix."""

    time_s: float
    east_m: float
    north_m: float


@dataclass(frozen=True, slots=True)
class FixPoint:
    """A raw GNSS fix, and whether the receiver was trusted at the tick that took it in."""

    time_s: float
    east_m: float
    north_m: float
    trusted: bool


@dataclass(frozen=True, slots=True)
class Track:
    """fused: path of the fused ego state, one part per stretch without a jump in time. fixes: raw, oldest first."""

    fused: tuple[tuple[TrackPoint, ...], ...]
    fixes: tuple[FixPoint, ...]


class LocalPlane:
    """Tangent plane at the first fix; good to centimetres over the kilometres of one drive."""

    def __init__(self, latitude_deg: float, longitude_deg: float) -> None:
        self._latitude_deg, self._longitude_deg = latitude_deg, longitude_deg
        sin2 = math.sin(math.radians(latitude_deg)) ** 2
        normal_m = EQUATOR_RADIUS_M / math.sqrt(1 - ECCENTRICITY_SQUARED * sin2)
        meridian_m = normal_m * (1 - ECCENTRICITY_SQUARED) / (1 - ECCENTRICITY_SQUARED * sin2)
        self._north_m_per_deg = math.radians(meridian_m)
        self._east_m_per_deg = math.radians(normal_m * math.cos(math.radians(latitude_deg)))

    def to_local(self, latitude_deg: float, longitude_deg: float) -> tuple[float, float]:
        """Return (east_m, north_m); the short way round at the date line."""
        turn_deg = (longitude_deg - self._longitude_deg + 180.0) % 360.0 - 180.0
        return turn_deg * self._east_m_per_deg, (latitude_deg - self._latitude_deg) * self._north_m_per_deg


class TrackBuilder:
    """Collects path and fixes tick by tick."""

    def __init__(self) -> None:
        self._plane: LocalPlane | None = None
        self._fused: list[list[TrackPoint]] = [[]]
        self._fixes: dict[int, FixPoint] = {}

    def add(self, frame: FrameResult, time_s: float) -> None:
        """Take in one tick. Values that are not finite are left out."""
        if frame.synced.tick.discontinuity and self._fused[-1]:
            self._fused.append([])
        ego = frame.fused.ego
        if ego is not None and math.isfinite(ego.east_m) and math.isfinite(ego.north_m):
            self._fused[-1].append(TrackPoint(time_s, float(ego.east_m), float(ego.north_m)))
        belief = frame.fused.trust.get(GNSS)
        trusted = belief is None or belief.state is TrustState.TRUSTED
        latest = frame.synced.samples.get(GNSS)
        for sample in (*frame.synced.series.get(GNSS, ()), *((latest,) if latest is not None else ())):
            if isinstance(sample, GnssFix) and math.isfinite(sample.latitude_deg + sample.longitude_deg):
                self._plane = self._plane or LocalPlane(sample.latitude_deg, sample.longitude_deg)
                east_m, north_m = self._plane.to_local(sample.latitude_deg, sample.longitude_deg)
                self._fixes.setdefault(sample.stamp_ns, FixPoint(time_s, float(east_m), float(north_m), trusted))

    def build(self) -> Track | None:
        """Return the track, or None when there was neither a fix nor an ego state."""
        fused = tuple(tuple(part) for part in self._fused if part)
        return Track(fused, tuple(self._fixes.values())) if fused or self._fixes else None
