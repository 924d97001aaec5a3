"""UBX navigation messages to one record per epoch, of old and new u-blox receivers.

Frames come checked from `gnss_frames`. Messages of one epoch share `iTOW`; NAV-EOE ends it where the receiver sends
one, otherwise the message that stood last before iTOW changed, learned as in `gnss_nmea`.

Position: NAV-HPPOSLLH, NAV-PVT, NAV-POSLLH, or the Earth-centred one of NAV-SOL and NAV-POSECEF. Time: NAV-PVT,
NAV-TIMEUTC, or the GPS week of NAV-SOL and NAV-TIMEGPS. Mode: NAV-PVT, NAV-SOL, NAV-STATUS. A solution outside the
receiver's own limits (gnssFixOK not set) keeps its mode and is not `confirmed`. HNR-PVT, the high-rate output of
dead-reckoning receivers, is an epoch by itself.

The fixed layouts below are those of the u-blox protocol specifications (Antaris 4 to F9 and X20). pyubx2 reads the
same messages and is the oracle of the tests; it is not used here because it drops the day from iTOW and takes 3 ms for
one NAV-SAT.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from struct import Struct

from edgeguard.protocols.geodesy import east_north_up, geodetic
from edgeguard.protocols.gnss_epoch import EpochEnd
from edgeguard.protocols.gnss_record import FixMode, FixStatus, GnssRecord, Satellite
from edgeguard.protocols.gnss_time import NS_PER_S, WEEK_S, gps_utc_ns, unroll, utc_ns
from edgeguard.protocols.nmea_fields import calendar_day
from edgeguard.protocols.ubx_satellites import nav_sat, nav_svinfo

# Messages that belong to a solution: class 1 and these ids. All begin with iTOW in milliseconds.
POSECEF, POSLLH, STATUS, DOP, SOL, PVT, VELECEF, VELNED, HPPOSLLH = 0x01, 0x02, 0x03, 0x04, 0x06, 0x07, 0x11, 0x12, 0x14
TIMEGPS, TIMEUTC, SVINFO, SAT, EOE = 0x20, 0x21, 0x30, 0x35, 0x61
_NAV, _MON, _HNR = 0x01, 0x0A, 0x28
MON_HW, MON_RF = 0x09, 0x38
_FRONT_END = frozenset((MON_HW, MON_RF))
_AGC_FULL = 8191.0
HNR = "UBX-HNR"
MAX_TOW_MS = WEEK_S * 1000
MAX_SPEED_M_S = 1000.0
# The receiver computes all of an epoch's messages at one time; old ones print iTOW differing by its rounding.
SAME_EPOCH_MS = 5

_MINIMUM = {
    POSECEF: 20, POSLLH: 28, STATUS: 16, DOP: 18, SOL: 52, PVT: 84, VELECEF: 20, VELNED: 36, HPPOSLLH: 36, TIMEGPS: 16,
    TIMEUTC: 20, SVINFO: 8, SAT: 8, EOE: 4,
}  # fmt: skip
_TOW = Struct("<I")
_PVT = Struct("<IHBBBBBBIiBBBBiiiiIIiiiiiIIH")
_POSLLH = Struct("<IiiiiII")
_HPPOSLLH = Struct("<BBBBIiiiibbbbII")
_SOL = Struct("<IihBBiiiIiiiIHBB")
_HNR_PVT = Struct("<IHBBBBBBiBBHiiiiiiiiIIII")
_HNR_PVT_BYTES = 72
_DOP = Struct("<IHHHHHHH")
_VELNED = Struct("<IiiiIIiII")
_ECEF = Struct("<IiiiI")
_TIMEGPS = Struct("<IihbBI")
_TIMEUTC = Struct("<IIiHBBBBBB")
_TIME_VALID = 0x03
_UNKNOWN_DOP = 9999

_MIN_RADIUS_M, _MAX_RADIUS_M = 6.0e6, 1.0e8


@dataclass(slots=True)
class _Epoch:
    tow_ms: int = -1
    given: bool = False
    solved: bool = False
    mode: FixMode | None = None
    mode_rank: int = 0
    not_ok: bool = False
    status: FixStatus = FixStatus.UNKNOWN
    utc_ns: int | None = None
    time_rank: int = 0
    place: tuple[float, float] | None = None
    place_rank: int = 0
    msl_m: float | None = None
    ellipsoid_m: float | None = None
    speed_m_s: float | None = None
    course_deg: float | None = None
    climb_m_s: float | None = None
    motion_rank: int = 0
    ecef_velocity: tuple[float, float, float] | None = None
    used: int | None = None
    dops: dict[str, float] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)


class UbxEpochs:
    """Checked frames in (class, id, length, payload), records out.

    Args:
        not_before: a date that has certainly passed; earlier dates are moved forward by 1024-week periods.
    """

    def __init__(self, not_before: date | None = None) -> None:
        self._not_before = not_before
        self._now = _Epoch()
        self._leap: int | None = None
        self._satellites: tuple[Satellite, ...] = ()
        self._spoof: int | None = None
        self._jam: int | None = None
        self._agc: float | None = None
        self._ends_marked = False
        self._end = EpochEnd()
        self.malformed = 0
        self.unread = 0

    def take(self, frame: bytes) -> list[GnssRecord]:
        """Return the records that a frame (from class to the end of its payload) completes."""
        ident, payload = frame[1], frame[4:]
        if frame[0] == _HNR and ident == 0:
            return self._high_rate(payload)
        if frame[0] == _MON and ident in _FRONT_END:
            self._front_end(ident, payload)
            return []
        if frame[0] != _NAV or ident not in _MINIMUM:
            self.unread += 1
            return []
        if len(payload) < _MINIMUM[ident]:
            self.malformed += 1
            return []
        tow_ms = _TOW.unpack_from(payload, 4 if ident == HPPOSLLH else 0)[0]
        if tow_ms >= MAX_TOW_MS:
            self.malformed += 1
            return []
        if ident in {SVINFO, SAT}:  # slower than the solution on old receivers: they begin no epoch
            self._satellites = nav_sat(payload) if ident == SAT else nav_svinfo(payload)
            return []
        records = self._turn(tow_ms)
        if ident == EOE:
            self._ends_marked = True
            return records + self._close()
        _READERS[ident](self, payload)
        self._now.solved = True
        if self._now.given:
            self._end.went_on()
        if not self._ends_marked and self._end.ends(hex(ident)):
            records += self._close()
        return records

    def finish(self) -> list[GnssRecord]:
        """Return the epoch that was still open at the end of the stream."""
        return self._close()

    def _turn(self, tow_ms: int) -> list[GnssRecord]:
        now = self._now
        if now.tow_ms >= 0 and abs(tow_ms - now.tow_ms) <= SAME_EPOCH_MS:
            return []
        self._end.turned()
        records = self._close()
        self._now = _Epoch(tow_ms=tow_ms)
        return records

    def _close(self) -> list[GnssRecord]:
        now = self._now
        if now.given or not now.solved or now.mode is None:
            return []
        now.given = True
        fix = now.mode > FixMode.NONE and now.place is not None
        if fix and now.motion_rank == 0 and now.ecef_velocity is not None:
            self._motion_from_ecef(now)
        solid = fix and now.mode is FixMode.FIX_3D
        both = solid and now.msl_m is not None and now.ellipsoid_m is not None
        return [
            GnssRecord(
                protocol="UBX",
                mode=now.mode,
                status=now.status if fix else FixStatus.UNKNOWN,
                utc_ns=now.utc_ns,
                latitude_deg=now.place[0] if fix and now.place else None,
                longitude_deg=now.place[1] if fix and now.place else None,
                altitude_msl_m=now.msl_m if solid else None,
                altitude_ellipsoid_m=now.ellipsoid_m if solid else None,
                geoid_separation_m=(now.ellipsoid_m or 0.0) - (now.msl_m or 0.0) if both else None,
                speed_m_s=now.speed_m_s if fix else None,
                course_deg=now.course_deg if fix else None,
                climb_m_s=now.climb_m_s if fix else None,
                satellites_used=now.used,
                hdop=now.dops.get("h"),
                vdop=now.dops.get("v"),
                pdop=now.dops.get("p"),
                horizontal_accuracy_m=now.accuracy.get("h"),
                vertical_accuracy_m=now.accuracy.get("v"),
                speed_accuracy_m_s=now.accuracy.get("s"),
                leap_seconds=self._leap,
                satellites=self._satellites,
                confirmed=not now.not_ok,
                spoof_state=self._spoof,
                jam_state=self._jam,
                agc_share=self._agc,
            )
        ]

    def _high_rate(self, payload: bytes) -> list[GnssRecord]:
        if len(payload) < _HNR_PVT_BYTES:
            self.malformed += 1
            return []
        (_, year, month, day, hour, minute, second, valid, nano, fix_type, flags, _, lon, lat, height, msl, ground, _,
         heading, _, h_acc, v_acc, s_acc, _) = _HNR_PVT.unpack_from(payload)  # fmt: skip
        mode = _MODES.get(fix_type, FixMode.NONE)
        fix = mode > FixMode.NONE and abs(lat) <= 900_000_000 and abs(lon) <= 1_800_000_000
        solid = fix and mode is FixMode.FIX_3D
        moving = fix and 0 <= ground * 1e-3 <= MAX_SPEED_M_S
        return [
            GnssRecord(
                protocol=HNR,
                mode=mode,
                status=_STATUS.get(fix_type, FixStatus.UNKNOWN),
                utc_ns=self._calendar(year, month, day, hour, minute, second, nano)
                if valid & _TIME_VALID == _TIME_VALID
                else None,
                latitude_deg=lat * 1e-7 if fix else None,
                longitude_deg=lon * 1e-7 if fix else None,
                altitude_msl_m=msl * 1e-3 if solid else None,
                altitude_ellipsoid_m=height * 1e-3 if solid else None,
                geoid_separation_m=(height - msl) * 1e-3 if solid else None,
                speed_m_s=ground * 1e-3 if moving else None,
                course_deg=heading * 1e-5 % 360.0 if moving else None,
                horizontal_accuracy_m=h_acc * 1e-3,
                vertical_accuracy_m=v_acc * 1e-3,
                speed_accuracy_m_s=s_acc * 1e-3,
                leap_seconds=self._leap,
                satellites=self._satellites,
                confirmed=bool(flags & 1),
                spoof_state=self._spoof,
                jam_state=self._jam,
                agc_share=self._agc,
            )
        ]

    def _calendar(self, year: int, month: int, day: int, hour: int, minute: int, second: int, nano: int) -> int | None:
        """Return UTC of calendar fields; None when they name no moment."""
        when = calendar_day(year, month, day)
        if when is None or hour > 23 or minute > 59 or second > 60 or abs(nano) > NS_PER_S:
            return None
        return utc_ns(unroll(when, self._not_before), ((hour * 60 + minute) * 60 + second) * NS_PER_S + nano)

    def _set_mode(self, rank: int, fix_type: int, ok: bool, status: FixStatus | None = None) -> None:
        now = self._now
        now.not_ok |= not ok
        if rank < now.mode_rank:
            return
        now.mode_rank = rank
        now.mode = _MODES.get(fix_type, FixMode.NONE)
        now.status = status if status is not None else _STATUS.get(fix_type, FixStatus.UNKNOWN)

    def _set_place(self, rank: int, latitude: float, longitude: float, ellipsoid: float, msl: float | None) -> None:
        now = self._now
        if rank < now.place_rank or not (abs(latitude) <= 90.0 and abs(longitude) <= 180.0):
            return
        now.place_rank, now.place, now.ellipsoid_m, now.msl_m = rank, (latitude, longitude), ellipsoid, msl

    def _set_time(self, rank: int, moment_ns: int | None) -> None:
        if moment_ns is not None and rank >= self._now.time_rank:
            self._now.time_rank, self._now.utc_ns = rank, moment_ns

    def _set_motion(self, rank: int, speed_m_s: float, course_deg: float, climb_m_s: float) -> None:
        if rank >= self._now.motion_rank and 0.0 <= speed_m_s <= MAX_SPEED_M_S:
            now = self._now
            now.motion_rank, now.speed_m_s, now.course_deg, now.climb_m_s = (
                rank,
                speed_m_s,
                course_deg % 360.0,
                climb_m_s,
            )

    def _pvt(self, p: bytes) -> None:
        (_, year, month, day, hour, minute, second, valid, _t_acc, nano, fix_type, flags, _flags2, used, lon, lat,
         height, msl, h_acc, v_acc, _vn, _ve, vel_d, speed, heading, s_acc, _h, pdop) = _PVT.unpack_from(p)  # fmt: skip
        rtk = flags >> 6
        status = None
        if fix_type in {2, 3, 4}:
            status = {1: FixStatus.RTK_FLOAT, 2: FixStatus.RTK_FIXED}.get(rtk)
            if status is None:
                status = FixStatus.DIFFERENTIAL if flags & 2 else _STATUS[fix_type]
        self._set_mode(3, fix_type, bool(flags & 1) or fix_type == 0, status)
        if valid & _TIME_VALID == _TIME_VALID:
            self._set_time(4, self._calendar(year, month, day, hour, minute, second, nano))
        self._set_place(3, lat * 1e-7, lon * 1e-7, height * 1e-3, msl * 1e-3)
        self._set_motion(3, speed * 1e-3, heading * 1e-5, -vel_d * 1e-3)
        self._now.used = used
        self._now.accuracy |= {"h": h_acc * 1e-3, "v": v_acc * 1e-3, "s": s_acc * 1e-3}
        if pdop < _UNKNOWN_DOP:
            self._now.dops["p"] = pdop * 0.01

    def _posllh(self, p: bytes) -> None:
        _, lon, lat, height, msl, h_acc, v_acc = _POSLLH.unpack_from(p)
        self._set_place(2, lat * 1e-7, lon * 1e-7, height * 1e-3, msl * 1e-3)
        self._now.accuracy |= {"h": h_acc * 1e-3, "v": v_acc * 1e-3}

    def _hpposllh(self, p: bytes) -> None:
        (_, _, _, flags, _, lon, lat, height, msl, lon_hp, lat_hp, height_hp, msl_hp, h_acc, v_acc) = (
            _HPPOSLLH.unpack_from(p)
        )
        if flags & 1:  # invalidLlh
            return
        self._set_place(
            4, lat * 1e-7 + lat_hp * 1e-9, lon * 1e-7 + lon_hp * 1e-9, height * 1e-3 + height_hp * 1e-4,
            msl * 1e-3 + msl_hp * 1e-4,
        )  # fmt: skip
        self._now.accuracy |= {"h": h_acc * 1e-4, "v": v_acc * 1e-4}

    def _sol(self, p: bytes) -> None:
        tow, ftow, week, fix_type, flags, x, y, z, _p_acc, vx, vy, vz, s_acc, pdop, _, used = _SOL.unpack_from(p)
        status = FixStatus.DIFFERENTIAL if flags & 2 and fix_type in {2, 3, 4} else None
        self._set_mode(2, fix_type, bool(flags & 1) or fix_type == 0, status)
        if flags & 0x0C == 0x0C and week > 0:
            self._set_time(2, gps_utc_ns(week, tow * 1_000_000 + ftow, self._leap, self._not_before))
        self._now.used = used
        self._now.accuracy.setdefault("s", s_acc * 1e-2)
        if pdop < _UNKNOWN_DOP:
            self._now.dops.setdefault("p", pdop * 0.01)
        self._ecef_place(x, y, z)
        self._now.ecef_velocity = (vx * 1e-2, vy * 1e-2, vz * 1e-2)

    def _posecef(self, p: bytes) -> None:
        _, x, y, z, _ = _ECEF.unpack_from(p)
        self._ecef_place(x, y, z)

    def _velecef(self, p: bytes) -> None:
        _, vx, vy, vz, _ = _ECEF.unpack_from(p)
        self._now.ecef_velocity = (vx * 1e-2, vy * 1e-2, vz * 1e-2)

    def _ecef_place(self, x_cm: int, y_cm: int, z_cm: int) -> None:
        if self._now.place_rank <= 1 and _MIN_RADIUS_M < math.hypot(x_cm, y_cm, z_cm) * 1e-2 < _MAX_RADIUS_M:
            latitude, longitude, height = geodetic(x_cm * 1e-2, y_cm * 1e-2, z_cm * 1e-2)
            self._set_place(1, latitude, longitude, height, None)

    def _motion_from_ecef(self, now: _Epoch) -> None:
        if now.place is None or now.ecef_velocity is None:
            return
        east, north, up = east_north_up(*now.place, *now.ecef_velocity)
        self._set_motion(1, math.hypot(east, north), math.degrees(math.atan2(east, north)), up)

    def _front_end(self, ident: int, p: bytes) -> None:
        """What the radio says of itself: MON-HW of series 6 to 8, MON-RF after; the worst of several bands."""
        if ident == MON_HW and len(p) >= 60:
            self._jam, self._agc = p[22] >> 2 & 3, int.from_bytes(p[18:20], "little") / _AGC_FULL
        elif ident == MON_RF and len(p) >= 28 and len(p) >= 4 + 24 * p[1] and p[1]:
            blocks = [p[4 + 24 * i : 28 + 24 * i] for i in range(p[1])]
            self._jam = max(block[1] & 3 for block in blocks)
            self._agc = min(int.from_bytes(block[14:16], "little") for block in blocks) / _AGC_FULL
        else:
            self.unread += 1  # of a series that lays it out otherwise

    def _status(self, p: bytes) -> None:
        flags = p[5]
        # 0 says that the receiver does not look for spoofing.
        self._spoof = p[7] >> 3 & 3 or None
        status = FixStatus.DIFFERENTIAL if flags & 2 and p[4] in {2, 3, 4} else None
        # NAV-STATUS comes last in an epoch: when it takes the fix back, no other message has the right to keep it.
        if flags & 1 or p[4] == 0:
            self._set_mode(1, p[4], True, status)
        else:
            self._set_mode(9, 0, False)

    def _dop(self, p: bytes) -> None:
        _, _g, pdop, _t, vdop, hdop, _n, _e = _DOP.unpack_from(p)
        for name, value in (("p", pdop), ("v", vdop), ("h", hdop)):
            if value < _UNKNOWN_DOP:
                self._now.dops[name] = value * 0.01

    def _velned(self, p: bytes) -> None:
        _, _n, _e, down, _speed, ground, heading, s_acc, _c = _VELNED.unpack_from(p)
        self._set_motion(2, ground * 1e-2, heading * 1e-5, -down * 1e-2)
        self._now.accuracy["s"] = s_acc * 1e-2

    def _timegps(self, p: bytes) -> None:
        tow, ftow, week, leap, valid, _acc = _TIMEGPS.unpack_from(p)
        if valid & 4:
            self._leap = leap
        if valid & 3 == 3 and week > 0:
            self._set_time(1, gps_utc_ns(week, tow * 1_000_000 + ftow, self._leap, self._not_before))

    def _timeutc(self, p: bytes) -> None:
        _, _acc, nano, year, month, day, hour, minute, second, valid = _TIMEUTC.unpack_from(p)
        if valid & 4:
            self._set_time(3, self._calendar(year, month, day, hour, minute, second, nano))


# fixType 1 is dead reckoning alone, 4 is GNSS with dead reckoning, 5 is a surveyed receiver that solves for time only.
_MODES = {1: FixMode.FIX_2D, 2: FixMode.FIX_2D, 3: FixMode.FIX_3D, 4: FixMode.FIX_3D, 5: FixMode.FIX_3D}
_STATUS = {
    1: FixStatus.DEAD_RECKONING,
    2: FixStatus.SINGLE,
    3: FixStatus.SINGLE,
    4: FixStatus.SINGLE,
    5: FixStatus.SURVEYED,
}
_READERS: dict[int, Callable[[UbxEpochs, bytes], None]] = {
    POSECEF: UbxEpochs._posecef,
    POSLLH: UbxEpochs._posllh,
    STATUS: UbxEpochs._status,
    DOP: UbxEpochs._dop,
    SOL: UbxEpochs._sol,
    PVT: UbxEpochs._pvt,
    VELECEF: UbxEpochs._velecef,
    VELNED: UbxEpochs._velned,
    HPPOSLLH: UbxEpochs._hpposllh,
    TIMEGPS: UbxEpochs._timegps,
    TIMEUTC: UbxEpochs._timeutc,
}
