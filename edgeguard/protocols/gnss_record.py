"""What a GNSS receiver says about one epoch, whatever the protocol it said it in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from edgeguard.types import GnssFix, GnssSignal


class FixMode(IntEnum):
    """How many dimensions are solved for; the numbers of NMEA GSA."""

    NONE = 1
    FIX_2D = 2
    FIX_3D = 3


class FixStatus(Enum):
    """How the fix was made. The value is the quality digit of NMEA GGA."""

    UNKNOWN = 0
    SINGLE = 1
    DIFFERENTIAL = 2
    PPS = 3
    RTK_FIXED = 4
    RTK_FLOAT = 5
    DEAD_RECKONING = 6
    SURVEYED = 7
    SIMULATED = 8


@dataclass(frozen=True, slots=True)
class Satellite:
    """One satellite in view. `system` is a letter of RINEX: G GPS, R GLONASS, E Galileo, C BeiDou, J QZSS, S SBAS,
    I NavIC, or ? where the sentence does not tell. `cn0_dbhz` is None when it is not tracked."""

    system: str
    number: int
    elevation_deg: int | None
    azimuth_deg: int | None
    cn0_dbhz: float | None
    used: bool = False
    residual_m: float | None = None


@dataclass(frozen=True, slots=True)
class GnssRecord:
    """One epoch. Position, speed and course are None where the receiver gave none, and always without a fix.

    utc_ns: nanoseconds since 1970-01-01 UTC, None while the date is not known. altitude_msl_m is above mean sea level,
    altitude_ellipsoid_m above WGS84. Accuracies are one figure each, as the receiver estimates them (metres, m/s).
    course_deg: clockwise from true north. satellites: those in view, as last reported; empty when never. confirmed:
    False when the receiver itself calls the solution outside its limits (gnssFixOK of UBX not set). spoof_state,
    jam_state, agc_share: as in `GnssFix`, of UBX NAV-STATUS, MON-HW and MON-RF; None where they are not sent.
    """

    protocol: str
    mode: FixMode
    status: FixStatus = FixStatus.UNKNOWN
    utc_ns: int | None = None
    latitude_deg: float | None = None
    longitude_deg: float | None = None
    altitude_msl_m: float | None = None
    altitude_ellipsoid_m: float | None = None
    geoid_separation_m: float | None = None
    speed_m_s: float | None = None
    course_deg: float | None = None
    climb_m_s: float | None = None
    satellites_used: int | None = None
    hdop: float | None = None
    vdop: float | None = None
    pdop: float | None = None
    horizontal_accuracy_m: float | None = None
    vertical_accuracy_m: float | None = None
    speed_accuracy_m_s: float | None = None
    leap_seconds: int | None = None
    satellites: tuple[Satellite, ...] = ()
    confirmed: bool = True
    spoof_state: int | None = None
    jam_state: int | None = None
    agc_share: float | None = None

    @property
    def has_position(self) -> bool:
        """Whether this record can become a sample."""
        return self.mode > FixMode.NONE and self.latitude_deg is not None and self.longitude_deg is not None

    def sample(self, stamp_ns: int, sensor: str) -> GnssFix:
        """Return the value the pipeline works on, stamped with the time of arrival.

        Raises:
            ValueError: the record has no position; `GnssDecoder.feed` gives none of those.
        """
        if self.latitude_deg is None or self.longitude_deg is None or self.mode is FixMode.NONE:
            raise ValueError("a record without a position is no sample")
        return GnssFix(
            stamp_ns,
            self.latitude_deg,
            self.longitude_deg,
            self.altitude_msl_m if self.altitude_msl_m is not None else self.altitude_ellipsoid_m,
            self.speed_m_s,
            self.course_deg,
            self.satellites_used,
            self.hdop,
            self.status.value or FixStatus.SINGLE.value,
            sensor,
            self.utc_ns,
            self.horizontal_accuracy_m,
            self.speed_accuracy_m_s,
            tuple(s.cn0_dbhz for s in self.satellites if s.cn0_dbhz),
            tuple(
                GnssSignal(s.system, s.number, s.cn0_dbhz, s.elevation_deg, s.residual_m, s.used)
                for s in self.satellites
                if s.cn0_dbhz
            ),
            self.spoof_state,
            self.jam_state,
            self.agc_share,
        )
