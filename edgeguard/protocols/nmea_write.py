"""NMEA 0183 sentences for a fix: what a receiver sends, for the simulator and for tests of the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from edgeguard.errors import PacketError
from edgeguard.protocols.gnss_frames import xor
from edgeguard.protocols.nmea_fields import KNOT_M_S


@dataclass(frozen=True, slots=True)
class NmeaFix:
    """What a receiver says of one epoch in GGA and RMC. `utc_ns` is nanoseconds since 1970."""

    utc_ns: int | None
    latitude_deg: float
    longitude_deg: float
    altitude_m: float | None = None
    speed_m_s: float | None = None
    course_deg: float | None = None
    satellites: int | None = None
    hdop: float | None = None
    fix_quality: int = 1


def epoch(fix: NmeaFix) -> bytes:
    """Return GGA and RMC of one epoch, talker GN, both with line end.

    Minutes have seven decimals (0.2 mm), speed three (0.5 mm/s), course three, time three: a simulated receiver is
    then limited by its noise, not by its printing.

    Raises:
        PacketError: EG-N035 when the fix has no time.
    """
    if fix.utc_ns is None:
        raise PacketError("an epoch needs a time", code="EG-N035")
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=fix.utc_ns // 1000)
    clock = moment.strftime("%H%M%S.") + f"{moment.microsecond // 1000:03d}"
    place = f"{_angle(fix.latitude_deg, 2, 'NS')},{_angle(fix.longitude_deg, 3, 'EW')}"
    satellites = "" if fix.satellites is None else f"{fix.satellites:02d}"
    hdop = "" if fix.hdop is None else f"{fix.hdop:.2f}"
    altitude = "" if fix.altitude_m is None else f"{fix.altitude_m:.3f}"
    speed = "" if fix.speed_m_s is None else f"{fix.speed_m_s / KNOT_M_S:.3f}"
    course = "" if fix.course_deg is None else f"{fix.course_deg % 360.0:.3f}"
    gga = f"GNGGA,{clock},{place},{fix.fix_quality},{satellites},{hdop},{altitude},M,0.0,M,,"
    rmc = f"GNRMC,{clock},A,{place},{speed},{course},{moment.strftime('%d%m%y')},,,A"
    return sentence(gga) + sentence(rmc)


def sentence(body: str) -> bytes:
    """Return `$body*hh` with line end."""
    raw = body.encode("ascii")
    return b"$" + raw + f"*{xor(raw):02X}\r\n".encode("ascii")


def _angle(value_deg: float, digits: int, signs: str) -> str:
    units = round(abs(value_deg) * 60.0 * 10_000_000)  # whole units, so that 59.99999999 carries into the degrees
    degrees, minutes = divmod(units, 600_000_000)
    whole, fraction = divmod(minutes, 10_000_000)
    return f"{degrees:0{digits}d}{whole:02d}.{fraction:07d},{signs[value_deg < 0]}"
