"""NMEA sentences to one record per epoch: GGA, RMC, GLL, GNS, GSA, GSV, VTG, ZDA, GBS of any talker, and the makers'
own positions: PASHR,POS (Ashtech), PGRMF (Garmin), PSTI,030 (SkyTraq).

No sentence says where an epoch ends, so it is learned: the sentence with a time that stood last before the time
changed ends the epoch from then on, and the record is given as soon as it arrives. When that turns out wrong (another
sentence of the same time follows), epochs are given when the time changes instead: complete, one epoch late.

Which sentence decides the fix mode follows what gpsd does with the same receivers: GSA says it; without GSA, GGA and
GNS by altitude and number of satellites; RMC and GLL alone know two dimensions, and keep three when the epoch before
had three. RMC or GLL with status V, and GGA with a time that stands still, are no fix. Beyond gpsd, a GGA whose quality
is 0 or missing is no fix even when it prints a position.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from edgeguard.protocols.gnss_epoch import EpochEnd
from edgeguard.protocols.gnss_record import FixMode, FixStatus, GnssRecord
from edgeguard.protocols.gnss_time import NS_PER_S, unroll, utc_ns
from edgeguard.protocols.nmea_fields import (
    MAX_SPEED_M_S,
    altitude,
    calendar_day,
    count,
    course,
    day_of,
    dop,
    number,
    position,
    speed,
    time_of_day_ns,
    within,
)
from edgeguard.protocols.nmea_satellites import SatelliteView

# Receivers print one epoch's time alike to the last digit; 10 ms keeps a rounded GLL with its GGA.
SAME_EPOCH_NS = 10_000_000
HALF_DAY_NS = 43_200 * NS_PER_S
MIN_SATELLITES_3D = 4
MIN_SATELLITES_2D = 3

# Fewest fields, the tag included, of a sentence that is read at all.
_MIN_FIELDS = {
    "GGA": 12, "RMC": 8, "GLL": 7, "GNS": 10, "GSA": 3, "GSV": 4, "VTG": 5, "ZDA": 5, "GBS": 7,
    "PASHR": 3, "PGRMF": 14, "PSTI030": 14,
}  # fmt: skip
_SOLUTION = frozenset({"GGA", "RMC", "GLL", "GNS", "PASHR", "PGRMF", "PSTI030"})
_UNTIMED = frozenset({"GSA", "VTG"})
_TIME_FIELD = {"GLL": 5, "PASHR": 4, "PGRMF": 4, "PSTI030": 2}
# Sent only with a fix by some receivers, and by others with a time of its own: it dates epochs, it does not bound them.
_DATE_ONLY = "ZDA"
_PADDING = [""] * 40
_GGA_STATUS = {s.value: s for s in FixStatus}
_FAA_STATUS = {
    "A": FixStatus.SINGLE,
    "D": FixStatus.DIFFERENTIAL,
    "E": FixStatus.DEAD_RECKONING,
    "F": FixStatus.RTK_FLOAT,
    "M": FixStatus.SURVEYED,
    "P": FixStatus.PPS,
    "R": FixStatus.RTK_FIXED,
    "S": FixStatus.SIMULATED,
}
_PASHR_STATUS = {
    "0": FixStatus.SINGLE,
    "1": FixStatus.DIFFERENTIAL,
    "2": FixStatus.RTK_FLOAT,
    "3": FixStatus.RTK_FIXED,
}


@dataclass(slots=True)
class _Epoch:
    """What is known of the epoch so far. `mode` 0 means that nothing was said about a fix."""

    tod_ns: int | None = None
    utc_ns: int | None = None
    mode: int = 0
    status: FixStatus = FixStatus.UNKNOWN
    place: tuple[float, float] | None = None
    altitude_m: float | None = None
    ellipsoid_m: float | None = None
    climb_m_s: float | None = None
    separation_m: float | None = None
    speed_m_s: float | None = None
    course_deg: float | None = None
    satellites: int | None = None
    hdop: float | None = None
    vdop: float | None = None
    pdop: float | None = None
    given: bool = False


class NmeaEpochs:
    """Sentences in, records out.

    Args:
        not_before: a date that has certainly passed; earlier dates are moved forward by 1024-week periods.
        ends: kinds of sentences ("RMC") that are known to end an epoch.
    """

    def __init__(self, not_before: date | None = None, ends: Iterable[str] = ()) -> None:
        self._not_before = not_before
        self._now = _Epoch()
        self._seen: set[str] = set()
        self._last_mode = 0
        self._altitude_epochs_ago = 99
        self._day: date | None = None
        self._tod_ns: int | None = None
        self._end = EpochEnd(ends)
        self._last_gga = ("", "")
        self._stuck = False
        self._view = SatelliteView()
        self._other_gsa = False
        self.malformed = 0
        self.unread = 0

    def take(self, body: bytes) -> list[GnssRecord]:
        """Return the records that a sentence (from `$` to before `*`) completes."""
        fields = body.decode("ascii", "replace").split(",")
        tag = fields[0][1:]
        kind = _kind(tag, fields)
        if kind not in _MIN_FIELDS:
            self.unread += 1
            return []
        if len(fields) < _MIN_FIELDS[kind]:
            self.malformed += 1
            return []
        if kind == "GSV":
            self.malformed += not self._view.gsv(tag, fields)
            return []
        if kind != "GSA":
            self._view.gsa_over()
        size = len(fields)
        return self._sentence(kind, tag, fields + _PADDING, size)

    def finish(self) -> list[GnssRecord]:
        """Return the epoch that was still open at the end of the stream."""
        return self._close()

    def _sentence(self, kind: str, tag: str, fields: list[str], size: int) -> list[GnssRecord]:
        tod_ns = time_of_day_ns(fields[_TIME_FIELD.get(kind, 1)]) if kind not in _UNTIMED else None
        if kind == _DATE_ONLY:
            self._zda(fields, tod_ns)
            return []
        records: list[GnssRecord] = []
        if self._begins(kind, tag, tod_ns):
            # Void RMCs carry wrong times on some receivers; they may open an epoch but never date one.
            before = self._now
            records += self._close()
            self._now = _Epoch(tod_ns=tod_ns)
            self._seen.clear()
            self._last_mode = before.mode or self._last_mode
            self._altitude_epochs_ago = 0 if before.altitude_m is not None else self._altitude_epochs_ago + 1
            shown = before
        else:
            shown = self._now
            if tod_ns is not None and self._now.tod_ns is None:
                self._now.tod_ns = tod_ns
            if tod_ns is not None and self._now.given:
                self._end.went_on()
        if kind in _SOLUTION:
            self._seen.add(tag)
        mode = _READERS[kind](self, tag, fields, size, tod_ns, shown)
        if mode is not None:
            held = mode == FixMode.FIX_2D and shown.mode == FixMode.FIX_3D and self._altitude_epochs_ago < 2
            self._now.mode = FixMode.FIX_3D if held else mode
        if tod_ns is not None and self._end.ends(kind):
            records += self._close()
        return records

    def _begins(self, kind: str, tag: str, tod_ns: int | None) -> bool:
        """Whether a sentence opens an epoch; learns which one ended the last."""
        now = self._now
        if tod_ns is not None and now.tod_ns is not None:
            if abs(tod_ns - now.tod_ns) > SAME_EPOCH_NS:
                self._end.turned()
                return True
            return kind == "GGA" and tag in self._seen
        return kind in _SOLUTION and tag in self._seen

    def _close(self) -> list[GnssRecord]:
        now = self._now
        if now.given or not now.mode:
            return []
        now.given = True
        self._view.turned()
        fix = now.mode > FixMode.NONE and now.place is not None
        mode = FixMode(min(max(now.mode, 1), 3))
        solid = fix and mode is FixMode.FIX_3D
        above_ellipsoid = now.ellipsoid_m
        if above_ellipsoid is None and now.altitude_m is not None and now.separation_m is not None:
            above_ellipsoid = now.altitude_m + now.separation_m
        return [
            GnssRecord(
                protocol="NMEA",
                mode=mode,
                status=now.status if mode > FixMode.NONE else FixStatus.UNKNOWN,
                utc_ns=now.utc_ns,
                latitude_deg=now.place[0] if fix and now.place else None,
                longitude_deg=now.place[1] if fix and now.place else None,
                altitude_msl_m=now.altitude_m if solid else None,
                altitude_ellipsoid_m=above_ellipsoid if solid else None,
                geoid_separation_m=now.separation_m if fix else None,
                speed_m_s=now.speed_m_s if fix else None,
                course_deg=now.course_deg if fix else None,
                climb_m_s=now.climb_m_s if fix else None,
                satellites_used=now.satellites if now.satellites is not None else self._view.used_count or None,
                hdop=now.hdop,
                vdop=now.vdop,
                pdop=now.pdop,
                satellites=self._view.satellites(),
            )
        ]

    def _date(self, tod_ns: int | None, day: date | None = None) -> None:
        """Put the date to the epoch's time; a time without a date takes the day known so far, past midnight too."""
        if tod_ns is None:
            return
        if day is not None:
            self._day = unroll(day, self._not_before)
        elif self._day is not None and self._tod_ns is not None and self._tod_ns - tod_ns > HALF_DAY_NS:
            self._day += timedelta(days=1)
        if self._day is not None:
            self._tod_ns = tod_ns
            self._now.utc_ns = utc_ns(self._day, tod_ns)

    def _forget_date(self) -> None:
        self._day = self._tod_ns = None
        self._now.utc_ns = None

    def _rmc(self, tag: str, f: list[str], size: int, tod_ns: int | None, shown: _Epoch) -> int:
        del tag
        now = self._now
        if f[2] not in {"A", "D"}:
            if not f[1] or not f[9]:
                self._forget_date()
            now.status = FixStatus.UNKNOWN
            return FixMode.NONE
        day = day_of(f[9])
        if tod_ns is not None and day is not None:
            self._date(tod_ns, day)
        place = position(f, 3)
        now.speed_m_s = speed(f[7]) if f[7] else now.speed_m_s
        now.course_deg = course(f[8]) if f[8] else now.course_deg
        now.status = FixStatus.DIFFERENTIAL if f[2] == "D" else FixStatus.SINGLE
        if size > 12 and f[12]:
            now.status = _FAA_STATUS.get(f[12][0], FixStatus.UNKNOWN)
        return self._flat(place, shown, keep=True)

    def _gll(self, tag: str, f: list[str], size: int, tod_ns: int | None, shown: _Epoch) -> int:
        del tag
        self._date(tod_ns)
        if f[6] != "A" or (size > 7 and f[7] == "N"):
            self._now.status = FixStatus.UNKNOWN
            return FixMode.NONE
        if self._now.status is FixStatus.UNKNOWN:
            self._now.status = _FAA_STATUS.get(f[7][:1], FixStatus.SINGLE)
        return self._flat(position(f, 1), shown, keep=False)

    def _flat(self, place: tuple[float, float] | None, shown: _Epoch, keep: bool) -> int:
        """Mode of a sentence that knows no height."""
        if place is None:
            return FixMode.NONE
        self._now.place = place
        three = self._view.used_count >= MIN_SATELLITES_3D or shown.altitude_m is not None
        if three or (keep and self._last_mode == FixMode.FIX_3D):
            return FixMode.FIX_3D
        return FixMode.FIX_2D

    def _gga(self, tag: str, f: list[str], size: int, tod_ns: int | None, shown: _Epoch) -> int:
        del size, shown
        now = self._now
        talker, stamp = tag[:2], f[1]
        self._stuck = bool(stamp) and (talker, stamp) == self._last_gga
        self._last_gga = (talker, stamp)
        quality = count(f[6])
        if quality == 0 and not stamp:
            self._forget_date()
        self._date(tod_ns)
        now.status = _GGA_STATUS.get(quality or 0, FixStatus.UNKNOWN)
        now.hdop = dop(f[8]) or now.hdop
        satellites = count(f[7])
        now.satellites = satellites
        place = position(f, 2)
        if not quality or place is None or self._stuck or (satellites or 0) < MIN_SATELLITES_2D:
            return FixMode.NONE
        now.place = place
        now.altitude_m = altitude(f[9])
        now.separation_m = number(f[11])
        return self._solid(satellites)

    def _gns(self, tag: str, f: list[str], size: int, tod_ns: int | None, shown: _Epoch) -> int | None:
        del tag, size, shown
        now = self._now
        self._date(tod_ns)
        if not f[6] or f[6][0] == "N":
            return FixMode.NONE
        if f[13] in {"U", "V"}:
            return None
        place = position(f, 2)
        if place is None:
            return FixMode.NONE
        now.place = place
        now.status = _FAA_STATUS.get(f[6][0], FixStatus.UNKNOWN)
        now.hdop = dop(f[8]) or now.hdop
        now.satellites = count(f[7])
        now.altitude_m = altitude(f[9])
        now.separation_m = number(f[10])
        return self._solid(now.satellites)

    def _solid(self, satellites: int | None) -> int:
        """Mode of a sentence that knows height and satellites."""
        high = self._now.altitude_m is not None and (satellites or 0) >= MIN_SATELLITES_3D
        return FixMode.FIX_3D if high else FixMode.FIX_2D

    def _vtg(self, tag: str, f: list[str], size: int, tod_ns: int | None, shown: _Epoch) -> None:
        del tag, tod_ns, shown
        if not f[1] or not f[5] or (size > 9 and f[9] in {"E", "N"}):
            return
        self._now.course_deg = course(f[1])
        self._now.speed_m_s = speed(f[5])

    def _zda(self, f: list[str], tod_ns: int | None) -> None:
        parts = [count(text) for text in f[2:5]]
        day = None if None in parts else calendar_day(parts[2] or 0, parts[1] or 0, parts[0] or 0)
        if day is None or tod_ns is None:
            return
        self._day, self._tod_ns = unroll(day, self._not_before), tod_ns
        now = self._now
        if now.tod_ns is not None and abs(tod_ns - now.tod_ns) <= SAME_EPOCH_NS:
            now.utc_ns = utc_ns(self._day, now.tod_ns)

    def _pashr(self, tag: str, f: list[str], size: int, tod_ns: int | None, shown: _Epoch) -> int | None:
        """Ashtech's position; its height is above the ellipsoid, its speed in knots as the maker's manual has it."""
        del tag, size, shown
        if f[1] != "POS":
            return None
        now = self._now
        self._date(tod_ns)
        place = position(f, 5)
        if not f[2] or place is None:
            return FixMode.NONE
        now.place, now.satellites = place, count(f[3])
        now.status = _PASHR_STATUS.get(f[2], FixStatus.UNKNOWN)
        now.ellipsoid_m = altitude(f[9])
        now.course_deg, now.speed_m_s, now.climb_m_s = course(f[11]), speed(f[12]), number(f[13])
        now.pdop, now.hdop, now.vdop = dop(f[14]), dop(f[15]), dop(f[16])
        return FixMode.FIX_3D

    def _pgrmf(self, tag: str, f: list[str], size: int, tod_ns: int | None, shown: _Epoch) -> int | None:
        """Garmin's position; speed in km/h."""
        del tag, size, shown
        self._date(tod_ns, day_of(f[3]))
        place = position(f, 6)
        if f[10] != "A" or place is None:
            return FixMode.NONE
        self._now.place, self._now.status = place, FixStatus.SINGLE
        kmh = number(f[12])
        self._now.speed_m_s = None if kmh is None else within(kmh / 3.6, 0.0, MAX_SPEED_M_S)
        self._now.course_deg = course(f[13])
        self._now.pdop = dop(f[14])
        return {"1": FixMode.FIX_2D, "2": FixMode.FIX_3D}.get(f[11], FixMode.NONE)

    def _psti030(self, tag: str, f: list[str], size: int, tod_ns: int | None, shown: _Epoch) -> int | None:
        """SkyTraq's position with its velocity east, north and up."""
        del tag, size, shown
        now = self._now
        if f[3] != "A" or f[13][:1] == "N":
            now.status = FixStatus.UNKNOWN
            return FixMode.NONE
        self._date(tod_ns, day_of(f[12]))
        place = position(f, 4)
        if place is None:
            return None
        now.place, now.status = place, _FAA_STATUS.get(f[13][:1], FixStatus.UNKNOWN)
        now.altitude_m = altitude(f[8])
        east, north = number(f[9]), number(f[10])
        now.climb_m_s = number(f[11])
        if east is not None and north is not None and now.speed_m_s is None:
            now.speed_m_s = within(math.hypot(east, north), 0.0, MAX_SPEED_M_S)
            now.course_deg = math.degrees(math.atan2(east, north)) % 360.0
        return FixMode.FIX_2D if now.altitude_m is None else FixMode.FIX_3D

    def _gbs(self, tag: str, f: list[str], size: int, tod_ns: int | None, shown: _Epoch) -> None:
        """Only its time matters here: it may be the sentence that ends the epoch."""
        del tag, f, size, tod_ns, shown

    def _gsa(self, tag: str, f: list[str], size: int, tod_ns: int | None, shown: _Epoch) -> int | None:
        del tod_ns, shown
        if size < 18 or self._stuck:  # some receivers print a short GSA when they have no fix
            return None
        self._view.gsa(tag, f, size)
        if size <= 19:  # wider ones carry their dilutions elsewhere
            self._now.pdop, self._now.hdop, self._now.vdop = dop(f[15]), dop(f[16]), dop(f[17])
        if tag[:2] != "GP":
            self._other_gsa = True
        elif self._other_gsa:
            return None  # the mode of the combined solution comes with the others
        mode = count(f[2])
        return mode if mode in {1, 2, 3} else None


def _kind(tag: str, fields: list[str]) -> str:
    """Return the sentence's kind without its talker; makers' own sentences keep their name."""
    if tag == "PSTI":
        return "PSTI" + fields[1] if len(fields) > 1 else ""
    if tag[:1] == "P" and not tag.startswith("PQ"):
        return tag
    return tag[2:] if len(tag) == 5 else ""


_READERS = {
    "RMC": NmeaEpochs._rmc,
    "GLL": NmeaEpochs._gll,
    "GGA": NmeaEpochs._gga,
    "GNS": NmeaEpochs._gns,
    "VTG": NmeaEpochs._vtg,
    "PASHR": NmeaEpochs._pashr,
    "PGRMF": NmeaEpochs._pgrmf,
    "PSTI030": NmeaEpochs._psti030,
    "GBS": NmeaEpochs._gbs,
    "GSA": NmeaEpochs._gsa,
}
