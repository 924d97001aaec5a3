"""NMEA 0183 position fixes out of a byte stream that may also hold UBX, RTCM, boot messages and noise.

`NmeaDecoder` is sans-IO. Its framer finds sentences with a correct checksum and never keeps more than one; field
decoding is pynmeagps's; GGA and RMC of one epoch become one record. It gives a fix with the second of the two, from the
first epoch on; `edgeguard.protocols.gnss` reads what real receivers send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from math import isfinite

from pynmeagps import NMEAReader

from edgeguard.types import GnssFix, LineStats

MAX_SENTENCE_BYTES = 200  # the standard says 82; real receivers send up to about 120 in proprietary sentences
KNOT_M_S = 1852.0 / 3600.0
# GGA and RMC print one solution; receivers differ by their last decimal (2 m at worst), never by 20 m.
MAX_EPOCH_SPREAD_DEG = 2e-4
MAX_SPEED_M_S = 1000.0  # beyond it, the field is damaged: receivers stop at 515 m/s by export law

_FIRST_PRINTABLE, _LAST_PRINTABLE = 0x20, 0x7E
_GGA, _RMC = "GGA", "RMC"
_BOTH = frozenset({_GGA, _RMC})


@dataclass(frozen=True, slots=True)
class NmeaFix:
    """One epoch with a valid fix. `utc_ns` is nanoseconds since 1970, None when no RMC told the date."""

    utc_ns: int | None
    latitude_deg: float
    longitude_deg: float
    altitude_m: float | None = None
    speed_m_s: float | None = None
    course_deg: float | None = None
    satellites: int | None = None
    hdop: float | None = None
    fix_quality: int = 1

    def sample(self, stamp_ns: int, sensor: str) -> GnssFix:
        """Return the value the pipeline works on, stamped with the receiver's time of arrival."""
        return GnssFix(
            stamp_ns,
            self.latitude_deg,
            self.longitude_deg,
            self.altitude_m,
            self.speed_m_s,
            self.course_deg,
            self.satellites,
            self.hdop,
            self.fix_quality,
            sensor,
            self.utc_ns,
        )


@dataclass(frozen=True, slots=True)
class NmeaStats:
    """Running totals. `sentences` have a correct checksum; `malformed` ones do but their fields make no sense;
    `without_fix` counts epochs in which the receiver itself said that it has none."""

    bytes_received: int = 0
    sentences: int = 0
    checksum_failures: int = 0
    malformed: int = 0
    without_fix: int = 0
    bytes_skipped: int = 0


@dataclass(frozen=True, slots=True)
class _Part:
    """What one GGA or RMC says. `fix` holds every field but the date."""

    kind: str
    at: time
    valid: bool
    day: date | None
    fix: NmeaFix | None


class NmeaFramer:
    """Cuts a byte stream into sentences with a correct checksum; what it gives does not depend on the cuts of input."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.bytes_received = 0
        self.checksum_failures = 0
        self.bytes_skipped = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return complete sentences from `$` to the checksum, without the line end."""
        self.bytes_received += len(data)
        sentences: list[bytes] = []
        for byte in data:
            self._push(byte, sentences)
        return sentences

    def _push(self, byte: int, sentences: list[bytes]) -> None:
        if byte == 0x24:  # "$" always starts anew: inside a sentence it means that the line end was lost
            self._drop()
            self._buffer.append(byte)
        elif not self._buffer:
            self.bytes_skipped += byte not in {0x0D, 0x0A}  # line ends between sentences are no loss
        elif byte in {0x0D, 0x0A}:
            self._close(sentences)
        elif not _FIRST_PRINTABLE <= byte <= _LAST_PRINTABLE or len(self._buffer) >= MAX_SENTENCE_BYTES:
            self._buffer.append(byte)
            self._drop()
        else:
            self._buffer.append(byte)

    def _close(self, sentences: list[bytes]) -> None:
        sentence = bytes(self._buffer)
        self._buffer.clear()
        star = len(sentence) - 3
        if star > 0 and sentence[star] == 0x2A and _is_hex(sentence[star + 1 :]):
            if int(sentence[star + 1 :], 16) == checksum(sentence[1:star]):
                sentences.append(sentence)
                return
            self.checksum_failures += 1
        self.bytes_skipped += len(sentence)

    def _drop(self) -> None:
        self.bytes_skipped += len(self._buffer)
        self._buffer.clear()


class NmeaDecoder:
    """Bytes in, fixes out.

    A fix is given as soon as its epoch is complete. Complete means: both GGA and RMC, or, when the epoch before had
    only one of them, that one. A sentence of a later epoch closes the one before.
    """

    def __init__(self) -> None:
        self._framer = NmeaFramer()
        self._stats = NmeaStats()
        self._expected = _BOTH
        self._parts: dict[str, _Part] = {}
        self._given = False

    @property
    def stats(self) -> NmeaStats:
        """Totals by cause."""
        f = self._framer
        return replace(
            self._stats,
            bytes_received=f.bytes_received,
            checksum_failures=f.checksum_failures,
            bytes_skipped=f.bytes_skipped,
        )

    @property
    def line_stats(self) -> LineStats:
        """Totals in the common shape; NMEA has no sequence numbers."""
        s = self.stats
        return LineStats(s.bytes_received, s.sentences, s.checksum_failures, s.bytes_skipped, 0)

    @property
    def drops(self) -> Mapping[str, int]:
        """What gave no fix, by reason; running totals."""
        s = self.stats
        totals = {"bad checksum": s.checksum_failures, "malformed message": s.malformed, "no fix": s.without_fix}
        return {reason: total for reason, total in totals.items() if total}

    def feed(self, data: bytes) -> list[NmeaFix]:
        """Return the fixes that `data` completes, in order. Never raises on the bytes' account."""
        fixes: list[NmeaFix] = []
        for sentence in self._framer.feed(data):
            self._stats = replace(self._stats, sentences=self._stats.sentences + 1)
            kind = sentence[3:6].decode("ascii")
            if kind not in _BOTH or sentence[6:7] != b"," or sentence[1:2] == b"P":
                continue
            part = _parse(kind, sentence)
            if part is None:
                self._stats = replace(self._stats, malformed=self._stats.malformed + 1)
            else:
                self._take(part, fixes)
        return fixes

    def _take(self, part: _Part, fixes: list[NmeaFix]) -> None:
        if self._parts and (part.kind in self._parts or any(p.at != part.at for p in self._parts.values())):
            self._finish(fixes)
            self._expected = frozenset(self._parts)
            self._parts, self._given = {}, False
        self._parts[part.kind] = part
        if self._parts.keys() >= self._expected:
            self._finish(fixes)

    def _finish(self, fixes: list[NmeaFix]) -> None:
        if self._given:
            return
        self._given = True
        parts = list(self._parts.values())
        if not all(part.valid for part in parts):
            self._stats = replace(self._stats, without_fix=self._stats.without_fix + 1)
            return
        fix = _merge(self._parts.get(_GGA), self._parts.get(_RMC))
        if fix is None:
            self._stats = replace(self._stats, malformed=self._stats.malformed + 1)
        else:
            fixes.append(fix)


def checksum(body: bytes) -> int:
    """Return the exclusive or of all bytes between `$` and `*`."""
    value = 0
    for byte in body:
        value ^= byte
    return value


def _is_hex(text: bytes) -> bool:
    return all(byte in b"0123456789ABCDEFabcdef" for byte in text)


def _parse(kind: str, sentence: bytes) -> _Part | None:
    """Return what the sentence says, or None when its fields make no sense."""
    try:
        message = NMEAReader.parse(sentence + b"\r\n")
        at = message.time
        valid = message.status == "A" if kind == _RMC else int(message.quality or 0) > 0
        if not isinstance(at, time):  # a receiver that just woke knows no time, and then no place either
            return _Part(kind, time.min, False, None, None) if not valid else None
        if not valid:
            return _Part(kind, at, False, None, None)
        fix = _rmc(message) if kind == _RMC else _gga(message)
        day = message.date if kind == _RMC and isinstance(message.date, date) else None
    except Exception:  # hostile fields make pynmeagps raise a wide and undocumented set
        return None
    return _Part(kind, at, True, day, fix) if _plausible(fix) else None


def _rmc(message: NMEAReader) -> NmeaFix:
    speed, course = _number(message.spd), _number(message.cog)
    return NmeaFix(
        utc_ns=None,
        latitude_deg=float(message.lat),
        longitude_deg=float(message.lon),
        speed_m_s=None if speed is None else speed * KNOT_M_S,
        course_deg=course,
    )


def _gga(message: NMEAReader) -> NmeaFix:
    satellites = _number(message.numSV)
    return NmeaFix(
        utc_ns=None,
        latitude_deg=float(message.lat),
        longitude_deg=float(message.lon),
        altitude_m=_number(message.alt),
        satellites=None if satellites is None else int(satellites),
        hdop=_number(message.HDOP),
        fix_quality=int(message.quality),
    )


def _number(field: object) -> float | None:
    """Return a field's number, None where the receiver left it empty."""
    return None if field in {"", None} else float(str(field))


def _plausible(fix: NmeaFix) -> bool:
    numbers = (fix.latitude_deg, fix.longitude_deg, fix.altitude_m, fix.speed_m_s, fix.course_deg, fix.hdop)
    return (
        all(n is None or isfinite(n) for n in numbers)
        and abs(fix.latitude_deg) <= 90.0
        and abs(fix.longitude_deg) <= 180.0
        and (fix.speed_m_s is None or 0.0 <= fix.speed_m_s <= MAX_SPEED_M_S)
        and (fix.course_deg is None or 0.0 <= fix.course_deg <= 360.0)
        and (fix.satellites is None or 0 <= fix.satellites <= 255)
    )


def _merge(gga: _Part | None, rmc: _Part | None) -> NmeaFix | None:
    """Join two parts of one epoch; None when they contradict each other."""
    utc_ns = None
    if rmc is not None and rmc.day is not None:
        moment = datetime.combine(rmc.day, rmc.at, UTC) - datetime(1970, 1, 1, tzinfo=UTC)
        utc_ns = (moment.days * 86_400 + moment.seconds) * 1_000_000_000 + moment.microseconds * 1000
    first = gga.fix if gga is not None else None
    second = rmc.fix if rmc is not None else None
    if first is None:
        return None if second is None else replace(second, utc_ns=utc_ns)
    if second is None:
        return replace(first, utc_ns=utc_ns)
    if (
        abs(first.latitude_deg - second.latitude_deg) > MAX_EPOCH_SPREAD_DEG
        or abs(first.longitude_deg - second.longitude_deg) > MAX_EPOCH_SPREAD_DEG
    ):
        return None
    return replace(first, utc_ns=utc_ns, speed_m_s=second.speed_m_s, course_deg=second.course_deg)
