"""Satellites in view and in use as NMEA lists them: GSV and GSA, over several sentences and constellations."""

from __future__ import annotations

from collections import OrderedDict

from edgeguard.protocols.gnss_record import Satellite
from edgeguard.protocols.nmea_fields import count, number, within

MAX_VIEWS = 24  # constellations times signals
MAX_VIEW_SATELLITES = 64
MAX_VIEW_AGE_EPOCHS = 16
MAX_CN0_DBHZ = 99.0

_SYSTEM_OF_TALKER = {"GP": "G", "GL": "R", "GA": "E", "GB": "C", "BD": "C", "GQ": "J", "QZ": "J", "PQ": "J", "GI": "I"}
_SYSTEM_OF_GSA_ID = {1: "G", 2: "R", 3: "E", 4: "C", 5: "J", 6: "I"}


class SatelliteView:
    """What was last said about the sky. Bounded: `MAX_VIEWS` lists of `MAX_VIEW_SATELLITES`."""

    def __init__(self) -> None:
        self._used: dict[str, set[int]] = {}
        self._gsa_talker = ""
        self._views: OrderedDict[str, tuple[int, list[Satellite]]] = OrderedDict()
        self._partial: tuple[str, int, list[Satellite]] = ("", 0, [])
        self._epoch = 0

    @property
    def used_count(self) -> int:
        """How many satellites the last GSA of each constellation used."""
        return sum(len(numbers) for numbers in self._used.values())

    def turned(self) -> None:
        """An epoch is over: lists grow old."""
        self._epoch += 1

    def gsa_over(self) -> None:
        """Another sentence came: the next GSA starts a new list."""
        self._gsa_talker = ""

    def gsa(self, tag: str, f: list[str], size: int) -> None:
        """Take a GSA; several in a row belong together unless one constellation repeats itself."""
        talker = tag[:2]
        if not self._gsa_talker or (self._gsa_talker == talker and talker != "GN"):
            self._used.clear()
        self._gsa_talker = talker
        system = _SYSTEM_OF_TALKER.get(talker, "?")
        if size == 19:  # NMEA 4.10 names the constellation in the last field
            system = _SYSTEM_OF_GSA_ID.get(count(f[18]) or 0, system)
        for text in f[3 : size - 3]:
            satellite = count(text)
            if satellite and self.used_count < MAX_VIEW_SATELLITES:
                name, proper = satellite_name(talker, satellite, system)
                self._used.setdefault(name, set()).add(proper)

    def gsv(self, tag: str, f: list[str]) -> bool:
        """Take one part of a list; False when it makes no sense. A list with a part missing is dropped."""
        total, part = count(f[1]), count(f[2])
        rest = len(f) % 4
        if not total or not part or part > total or rest > 1:
            return False
        talker = tag[:2]
        key = talker + (f[-1] if rest == 1 else "")
        name, previous, found = self._partial
        if part == 1:
            found = []
        elif name != key or previous != part - 1:
            self._partial = ("", 0, [])
            return True
        for at in range(4, len(f) - rest, 4):
            satellite = count(f[at])
            cn0 = within(number(f[at + 3]), 0.0, MAX_CN0_DBHZ)
            if satellite and len(found) < MAX_VIEW_SATELLITES:
                system, proper = satellite_name(talker, satellite, _SYSTEM_OF_TALKER.get(talker, "?"))
                found.append(Satellite(system, proper, count(f[at + 1]), count(f[at + 2]), cn0))
        self._partial = (key, part, found)
        if part == total:
            self._partial = ("", 0, [])
            self._views.pop(key, None)
            self._views[key] = (self._epoch, found)
            while len(self._views) > MAX_VIEWS:
                self._views.popitem(last=False)
        return True

    def satellites(self) -> tuple[Satellite, ...]:
        """Return all in view, those of lists that stopped coming left out."""
        result: list[Satellite] = []
        for epoch, found in self._views.values():
            if self._epoch - epoch <= MAX_VIEW_AGE_EPOCHS:
                for s in found:
                    used = s.number in self._used.get(s.system, ()) or s.number in self._used.get("?", ())
                    result.append(Satellite(s.system, s.number, s.elevation_deg, s.azimuth_deg, s.cn0_dbhz, used))
        return tuple(result)


def satellite_name(talker: str, satellite: int, system: str) -> tuple[str, int]:
    """Return system letter and number of an NMEA satellite id; the ranges are those of NMEA 4.11 and of receivers that
    number their constellations apart (Galileo from 301, BeiDou from 201 or 401, QZSS from 193)."""
    if 301 <= satellite <= 399:
        return "E", satellite - 300
    if 401 <= satellite <= 499:
        return "C", satellite - 400
    if 193 <= satellite <= 202:
        return "J", satellite - 192
    if 201 <= satellite <= 299:
        return "C", satellite - 200
    if 65 <= satellite <= 96 and system in {"R", "?", "G"}:
        return "R", satellite - 64
    if (33 <= satellite <= 64 or 120 <= satellite <= 158) and (system in {"G", "?"} or talker == "GP"):
        return "S", satellite + 87 if satellite <= 64 else satellite
    if system == "?":
        return ("G" if satellite <= 32 else "?"), satellite
    return system, satellite
