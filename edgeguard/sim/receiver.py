"""What a GNSS receiver puts on the wire: NMEA GGA, GSV and RMC, or UBX NAV-PVT and NAV-SAT."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import cos, radians, sin
from struct import pack

from edgeguard.protocols.nmea_write import NmeaFix, epoch, sentence
from edgeguard.types import GnssFix, GnssSignal

NMEA, UBX = "nmea", "ubx"
_TALKERS = {"G": "GP", "R": "GL", "E": "GA", "C": "GB"}
_NMEA_BASE = {"R": 64}  # GLONASS slot 1 is satellite 65
_UBX_SYSTEMS = {"G": 0, "E": 2, "C": 3, "R": 6}
_EPOCH_1980_NS = 315_964_800 * 1_000_000_000
_LEAP_S = 18  # GPS ahead of UTC, since 2017

Azimuths = dict[tuple[str, int], float]


def nmea_epoch(fix: GnssFix, azimuths: Azimuths, *, with_sky: bool) -> bytes:
    """Return GGA, the satellites in view where `with_sky`, and RMC: what ends an epoch comes last."""
    if fix.fix_quality == 0:
        place, end = _no_fix(fix)
    else:
        both = epoch(
            NmeaFix(
                fix.device_stamp_ns,
                fix.latitude_deg,
                fix.longitude_deg,
                fix.altitude_m,
                fix.speed_m_s,
                fix.course_deg,
                fix.satellites,
                fix.hdop,
                fix.fix_quality,
            )
        )
        cut = both.index(b"$GNRMC")
        place, end = both[:cut], both[cut:]
    return place + (gsv(loudest(fix), azimuths) if with_sky else b"") + end


def loudest(fix: GnssFix) -> tuple[GnssSignal, ...]:
    """Return the satellites with the strengths of `fix.cn0_dbhz`: who weakens a fix changes only those.

    Where fewer are left than there were, the loudest stay.
    """
    if not fix.cn0_dbhz:
        return ()
    ranked = sorted(fix.signals, key=lambda signal: -signal.cn0_dbhz)
    strengths = sorted(fix.cn0_dbhz, reverse=True)
    kept = zip(ranked, strengths, strict=False)
    return tuple(GnssSignal(s.system, s.number, cn0, s.elevation_deg, s.residual_m, s.used) for s, cn0 in kept)


def gsv(signals: tuple[GnssSignal, ...], azimuths: Azimuths) -> bytes:
    """Return GSV sentences, four satellites each, constellation by constellation."""
    out = b""
    for system, talker in _TALKERS.items():
        group = [s for s in signals if s.system == system]
        parts = -(-len(group) // 4)
        for part in range(parts):
            body = f"{talker}GSV,{parts},{part + 1},{len(group):02d}"
            for s in group[4 * part : 4 * part + 4]:
                number = s.number + _NMEA_BASE.get(system, 0)
                elevation = round(s.elevation_deg or 0.0)
                azimuth = round(azimuths.get((system, s.number), 0.0)) % 360
                body += f",{number:02d},{elevation:02d},{azimuth:03d},{round(s.cn0_dbhz):02d}"
            out += sentence(body)
    return out


def ubx_epoch(fix: GnssFix, azimuths: Azimuths, *, with_sky: bool) -> bytes:
    """Return NAV-SAT where `with_sky`, then NAV-PVT (u-blox series 8 and later)."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=(fix.device_stamp_ns or 0) // 1000)
    tow_ms = (((fix.device_stamp_ns or 0) - _EPOCH_1980_NS) // 1_000_000 + _LEAP_S * 1000) % 604_800_000
    course, speed = radians(fix.course_deg or 0.0), fix.speed_m_s or 0.0
    valid, height = fix.fix_quality > 0, round((fix.altitude_m or 0.0) * 1000)
    pvt = pack(
        "<IHBBBBBBIiBBBBiiiiIIiiiiiIIHHIiHH",
        tow_ms, moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second, 0x07, 30,
        moment.microsecond * 1000, 3 if valid else 0, 0x01 if valid else 0x00, 0, fix.satellites or 0,
        round(fix.longitude_deg * 1e7), round(fix.latitude_deg * 1e7), height + 47_000, height, 900, 1500,
        round(speed * cos(course) * 1000), round(speed * sin(course) * 1000), 0, round(speed * 1000),
        round((fix.course_deg or 0.0) * 1e5), 90, 200_000, min(round((fix.hdop or 1.0) * 150), 9999), 0, 0, 0, 0, 0,
    )  # fmt: skip
    out = b""
    if with_sky:
        signals = loudest(fix)
        sky = pack("<IBBH", tow_ms, 1, len(signals), 0)
        for s in signals:
            azimuth = round(azimuths.get((s.system, s.number), 0.0)) % 360
            flags = 0x0F if s.used else 0x04
            system = _UBX_SYSTEMS.get(s.system, 4)
            sky += pack("<BBBbhhI", system, s.number, round(s.cn0_dbhz), round(s.elevation_deg or 0), azimuth, 0, flags)
        out = ubx_frame(0x01, 0x35, sky)
    return out + ubx_frame(0x01, 0x07, pvt)


def ubx_frame(message_class: int, message_id: int, payload: bytes) -> bytes:
    """Return a UBX frame: sync, class, number, length, payload, Fletcher's checksum."""
    body = pack("<BBH", message_class, message_id, len(payload)) + payload
    first, second = 0, 0
    for byte in body:
        first = (first + byte) & 0xFF
        second = (second + first) & 0xFF
    return b"\xb5\x62" + body + bytes((first, second))


def _no_fix(fix: GnssFix) -> tuple[bytes, bytes]:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=(fix.device_stamp_ns or 0) // 1000)
    clock = moment.strftime("%H%M%S.") + f"{moment.microsecond // 1000:03d}"
    gga = sentence(f"GNGGA,{clock},,,,,0,00,99.99,,,,,,")
    return gga, sentence(f"GNRMC,{clock},V,,,,,,,{moment.strftime('%d%m%y')},,,N")
