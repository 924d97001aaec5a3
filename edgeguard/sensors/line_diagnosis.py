"""What is wrong with a serial line, told from the bytes that arrive: wrong rate, two senders, noise, overload.

The line watch is sans-IO. It sees every chunk together with the decoder's totals and forms an opinion per window of
`WINDOW_BYTES`; the opinion comes with the next thing to try. It never decides what is a sample: checksums do that.

Wrong rate. A receiver that is set faster than the sender sees each of its bits several times over: few bit changes per
byte, and the shortest run of equal bits is the ratio of the rates. One that is set slower sees several bits in one:
framing errors, which Linux delivers as zero bytes, and changes everywhere; the ratio cannot be told then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from edgeguard.types import LineStats

STANDARD_BAUDS = (4800, 9600, 19_200, 38_400, 57_600, 115_200, 230_400, 460_800, 921_600)
# Rates receivers and lidars leave the factory with, most common first.
COMMON_BAUDS = (9600, 115_200, 38_400, 4800, 230_400, 57_600, 460_800, 921_600, 19_200)

WINDOW_BYTES = 1024  # one second of a 9600 baud line; enough for ten sentences
# Lines that work lose less than one byte in a hundred; at a wrong rate nearly nothing frames.
MAX_GOOD_SHARE_AT_WRONG_RATE = 0.05
NOISE_SHARE = 0.2
MIN_BROKEN = 4
# NMEA is text, and two texts mixed are still text; a noisy wire flips bits out of it.
PRINTABLE_SHARE_OF_MIXED_TEXT = 0.98
# A time that goes back once is a restart; three times inside the last records are two clocks.
MAX_STEPS_BACK = 2
RECENT_RECORDS = 16
# A sentence that begins neither at a line's start nor after a checksum. Noise and lost bytes seldom make one.
_START_INSIDE = re.compile(rb"(?<![\r\n])(?<!\*[0-9A-F]{2})\$", re.DOTALL)
CHARACTER_BITS = 10.0  # start, eight data, stop


class LineFault(Enum):
    """What the bytes look like."""

    WRONG_RATE = "wrong baud rate"
    TWO_SENDERS = "two senders on one line"
    NOISE = "noisy line"
    UNKNOWN_PROTOCOL = "unknown protocol"


@dataclass(frozen=True, slots=True)
class LineDiagnosis:
    """One opinion. `likely_bauds`: rates to try, best first; empty when the rate is not the trouble."""

    fault: LineFault
    reason: str
    hint: str
    likely_bauds: tuple[int, ...] = ()


class LineWatch:
    """Forms an opinion about a line that is read at `baud`."""

    def __init__(self, baud: int) -> None:
        self._baud = baud
        self._window = bytearray()
        self._start = LineStats()
        self._moments: list[int] = []
        self._diagnosis: LineDiagnosis | None = None
        self._clocks: LineDiagnosis | None = None

    @property
    def diagnosis(self) -> LineDiagnosis | None:
        """The opinion on the last full window; None while the line is fine or too short to tell."""
        return self._clocks or self._diagnosis

    def note(self, data: bytes, stats: LineStats, moments_ns: Iterable[int | None] = ()) -> None:
        """Take a chunk, the decoder's totals after it, and the sender's own times in it (UTC)."""
        self._window += data[: 4 * WINDOW_BYTES]
        for moment in moments_ns:
            if moment is not None:
                self._moments.append(moment)
                self._clocks = self._two_clocks()
        if len(self._window) >= WINDOW_BYTES:
            self._diagnosis = self._judge(bytes(self._window), stats)
            self._window.clear()
            self._start = stats
            del self._moments[:-RECENT_RECORDS]

    def _two_clocks(self) -> LineDiagnosis | None:
        recent = self._moments[-RECENT_RECORDS:]
        back = sum(later < earlier for earlier, later in pairwise(recent))
        if back <= MAX_STEPS_BACK:
            return None
        return _two_senders(f"the sender's time went back {back} times in {len(recent)} records")

    def _judge(self, window: bytes, stats: LineStats) -> LineDiagnosis | None:
        frames = stats.frames - self._start.frames
        received = stats.bytes_received - self._start.bytes_received
        skipped = stats.bytes_skipped - self._start.bytes_skipped
        failures = stats.checksum_failures - self._start.checksum_failures
        good_share = 1.0 - skipped / received if frames and received else 0.0
        if good_share > 1.0 - NOISE_SHARE and failures < MIN_BROKEN:
            return None
        printable = sum(0x20 <= byte <= 0x7E or byte in b"\r\n\t" for byte in window) / len(window)
        inside = len(_START_INSIDE.findall(window))
        if printable > PRINTABLE_SHARE_OF_MIXED_TEXT and inside >= max(MIN_BROKEN, window.count(b"$") // 4):
            return _two_senders(f"{inside} sentences began inside another one in {len(window)} bytes of clean text")
        if good_share <= MAX_GOOD_SHARE_AT_WRONG_RATE:
            return self._rate(window) or LineDiagnosis(
                LineFault.UNKNOWN_PROTOCOL,
                f"{received} bytes held no frame, and their bits look like a sender at this rate",
                "check that the device speaks what this sensor is configured for: edgeguard find --listen 3",
            )
        return LineDiagnosis(
            LineFault.NOISE,
            f"{skipped} of {received} bytes belonged to no good frame",
            "check cable, ground and connector; shorten the cable or lower the rate",
        )

    def _rate(self, window: bytes) -> LineDiagnosis | None:
        ratio = oversampling(window)
        zeros = window.count(0) / len(window)
        if ratio >= CHARACTER_BITS:
            likely = [b for b in COMMON_BAUDS if b * (CHARACTER_BITS - 1) <= self._baud]
            what = f"one bit outlasts a character of {self._baud} baud"
        elif ratio >= 1.5:
            likely = sorted((b for b in STANDARD_BAUDS if b < self._baud), key=lambda b: abs(self._baud / ratio - b))
            what = f"the bits change {ratio:.0f} times slower than {self._baud} baud"
        elif zeros > 0.04 or sum(byte >= 0x80 for byte in window) / len(window) > 0.25:
            # A ratio of three to two leaves no run pattern: it is tried last.
            near = [b for b in STANDARD_BAUDS if 1.2 < self._baud / b < 1.8]
            likely = [b for b in COMMON_BAUDS if b > self._baud] + near
            what = f"the bits change faster than {self._baud} baud"
        else:
            return None
        if not likely:
            return None
        return LineDiagnosis(
            LineFault.WRONG_RATE,
            what + ", or a protocol that is not known",
            f"set baud = {likely[0]}, or try them all: edgeguard find --listen 3",
            tuple(likely),
        )


def _two_senders(reason: str) -> LineDiagnosis:
    return LineDiagnosis(
        LineFault.TWO_SENDERS, reason, "disconnect the second transmitter: only one device may drive the line"
    )


def oversampling(data: bytes) -> float:
    """Return how many of our bit times one bit of the sender seems to last; 1 when that cannot be told.

    The runs of equal bits that begin and end inside a character, its start bit included: at the right rate many are one
    bit long, whatever is sent. Characters that read as zero broke in the middle and tell nothing, unless all do: then a
    single bit outlasts a whole character.
    """
    runs: list[int] = []
    for byte in data:
        if byte == 0:
            continue
        bits = byte << 1  # start bit first, then least significant first
        edges = bits ^ (bits >> 1 | 0x100)
        last = -1
        for position in range(9):
            if edges >> position & 1:
                runs.append(position - last)
                last = position
    if data.count(0) > 0.97 * len(data):
        return CHARACTER_BITS
    if len(runs) < 32:
        return 1.0
    runs.sort()
    return float(runs[len(runs) // 12])
