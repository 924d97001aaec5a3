"""Attacks on satellite navigation (MITRE ATLAS AML.T0015, evasion by sensor spoofing)."""

from __future__ import annotations

from dataclasses import replace
from math import atan2, cos, degrees, hypot, radians, sin

import msgspec

from edgeguard.sim.attacks.base import Moment
from edgeguard.sim.gnss import radii_m
from edgeguard.types import GNSS, GnssFix, Sample


class GnssDrift(msgspec.Struct, frozen=True, tag="gnss_drift", forbid_unknown_fields=True):
    """A spoofer that walks the position away: `rate_m_s` metres a second towards `bearing_deg` (clockwise from north).

    Position and Doppler velocity move together, as they do when a receiver tracks a coherent fake signal: neither
    contradicts the other, only other sensors do. At the end the receiver falls back to the true signal.
    """

    start_s: float
    end_s: float
    rate_m_s: float
    bearing_deg: float

    @property
    def name(self) -> str:
        return "gnss_drift"

    @property
    def sensor(self) -> str:
        return GNSS

    @property
    def size(self) -> str:
        return f"{self.rate_m_s:g} m/s towards {self.bearing_deg:g} deg"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Shift the fix and add the drift to its velocity."""
        if not isinstance(sample, GnssFix):
            return sample
        east = self.rate_m_s * sin(radians(self.bearing_deg))
        north = self.rate_m_s * cos(radians(self.bearing_deg))
        per_latitude, per_longitude = radii_m(sample.latitude_deg)
        moved = replace(
            sample,
            latitude_deg=sample.latitude_deg + degrees(north * moment.elapsed_s / per_latitude),
            longitude_deg=sample.longitude_deg + degrees(east * moment.elapsed_s / per_longitude),
        )
        if sample.speed_m_s is None or sample.course_deg is None:
            return moved
        v_east = sample.speed_m_s * sin(radians(sample.course_deg)) + east
        v_north = sample.speed_m_s * cos(radians(sample.course_deg)) + north
        return replace(moved, speed_m_s=hypot(v_east, v_north), course_deg=degrees(atan2(v_east, v_north)) % 360.0)
