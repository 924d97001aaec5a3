"""One bounded framer for everything a GNSS receiver puts on a line: NMEA, UBX, and what we can only name.

Sans-IO. What it gives, and what it counts, is a function of the bytes alone, not of how they were cut. Memory is one
frame: `MAX_FRAME_BYTES`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from edgeguard.protocols.gnss_foreign import (
    FOREIGN,
    MORE,
    NOT_A_FRAME,
    SYNC,
    SYNC_BYTES,
    Rtcm2Watcher,
    dle_framed,
    fletcher8,
    greis,
)

NMEA = "NMEA"
UBX = "UBX"
AIS = "AIVDM"
TEXT = "text line"

MAX_SENTENCE_BYTES = 256  # the standard says 82; proprietary sentences of real receivers reach about 200
MAX_UBX_BYTES = 8192  # the longest of a current receiver (RXM-RAWX with 92 signals) has 2960
MAX_TEXT_BYTES = 512
MAX_FRAME_BYTES = MAX_UBX_BYTES
# Checking a frame costs time in proportion to its length. Every byte of input buys this many bytes of checking, so
# that a line full of false starts cannot buy more; genuine streams need one.
CHECKED_BYTES_PER_BYTE = 16
MAX_CREDIT_BYTES = 1 << 18
_COST_BYTES = {"RTCM3": 1100, "Motorola Oncore": 1200, "DLE": 600}
_BINARY_COST_BYTES = 4096

_CR_LF = b"\r\n"
# A sentence ends with its checksum, or is broken off by what cannot be inside one.
_SENTENCE_END = re.compile(rb"\*[0-9A-Fa-f]{2}|[^\x20-\x7e]|[$!]")


def xor(body: bytes) -> int:
    """Return the exclusive or of up to 512 bytes: the halves of one long number are folded onto each other."""
    value = int.from_bytes(body, "little")
    for bits in (2048, 1024, 512, 256, 128, 64, 32, 16, 8):
        value = (value >> bits) ^ (value & ((1 << bits) - 1))
    return value


class Frame(NamedTuple):
    """One frame with good framing: `kind` is NMEA or UBX. `data` is the sentence from `$` to before `*`, or the UBX
    frame from class to before the checksum."""

    kind: str
    data: bytes


class GnssFramer:
    """Cuts a mixed stream.

    Args:
        unchecked: also give NMEA sentences that end without a checksum. Off by default: on a line, nothing else
            tells a damaged sentence from a good one.
    """

    def __init__(self, unchecked: bool = False) -> None:
        self._unchecked = unchecked
        self._buffer = bytearray()
        self._line_start = True
        self._rtcm2 = Rtcm2Watcher()
        self._named: Counter[str] = Counter()
        self._credit = MAX_CREDIT_BYTES
        self.bytes_received = 0
        self.bytes_skipped = 0
        self.frames = 0
        self.checksum_failures = 0
        self.refused: Counter[str] = Counter()

    @property
    def pending_bytes(self) -> int:
        """How many bytes wait for the rest of their frame."""
        return len(self._buffer)

    @property
    def foreign(self) -> dict[str, int]:
        """Frames of protocols that are not decoded, by name."""
        named = dict(self._named)
        if self._rtcm2.headers:
            named["RTCM2"] = self._rtcm2.headers
        return named

    def feed(self, data: bytes) -> list[Frame]:
        """Return the NMEA and UBX frames that `data` completes. Never raises on the bytes' account."""
        self.bytes_received += len(data)
        frames: list[Frame] = []
        # Piece by piece: however much arrives at once, no more than a frame and a piece is ever held.
        for start in range(0, len(data), MAX_FRAME_BYTES):
            self._buffer += data[start : start + MAX_FRAME_BYTES]
            self._scan(frames)
        return frames

    def finish(self) -> list[Frame]:
        """Return what the end of the stream completes: a false start must not hold back what stands behind it."""
        frames: list[Frame] = []
        while self._buffer:
            self._skip(1)
            self._scan(frames)
        return frames

    def _advance(self, count: int) -> None:
        self._credit = min(MAX_CREDIT_BYTES, self._credit + count * CHECKED_BYTES_PER_BYTE)

    def _scan(self, frames: list[Frame]) -> None:
        buffer = self._buffer
        position = 0
        view = bytes(buffer)
        end = len(view)
        while position < end:
            match = SYNC.search(view, position)
            if match is None:
                keep = max(position, end - SYNC_BYTES + 1)
                self._note_skipped(view[position:keep])
                position = keep
                break
            start = match.start()
            self._note_skipped(view[position:start])
            position = start
            length, frame = self._frame_at(view, position)
            if length == MORE:
                break
            if length == NOT_A_FRAME:
                self._note_skipped(view[position : position + 1])
                position += 1
                continue
            if frame is not None:
                frames.append(frame)
            self._line_start = view[position + length - 1] == 0x0A
            self._advance(length)
            position += length
        del buffer[:position]

    def _frame_at(self, view: bytes, position: int) -> tuple[int, Frame | None]:
        first = view[position]
        if first == 0x24 and view[position + 1 : position + 2] == b"@":
            return self._foreign(view, position, *FOREIGN[b"$@"])
        if first in {0x24, 0x21}:
            return self._sentence(view, position)
        if first == 0xB5:
            return self._ubx(view, position)
        if first == 0x23:
            return self._text(view, position)
        if first == 0x10:
            return self._foreign(view, position, "DLE", dle_framed)
        entry = FOREIGN.get(view[position : position + 2]) or FOREIGN.get(view[position : position + 1])
        return self._foreign(view, position, *(entry or ("JAVAD GREIS", greis)))

    def _foreign(
        self, view: bytes, position: int, name: str, recognise: Callable[[bytes], int | tuple[str, int]]
    ) -> tuple[int, None]:
        cost = _COST_BYTES.get(name, _BINARY_COST_BYTES)
        if cost > self._credit:
            self.refused["too many false starts"] += 1
            return NOT_A_FRAME, None
        answer = recognise(view[position : position + MAX_FRAME_BYTES])
        name, length = answer if isinstance(answer, tuple) else (name, answer)
        if length > 0:
            self._named[name] += 1
        elif length == NOT_A_FRAME:
            self._credit -= cost
        return length, None

    def _sentence(self, view: bytes, position: int) -> tuple[int, Frame | None]:
        limit = position + MAX_SENTENCE_BYTES
        end = _SENTENCE_END.search(view, position + 1, limit)
        if end is None:
            if len(view) < limit:
                return MORE, None
            self.refused["sentence too long"] += 1
            return NOT_A_FRAME, None
        at = end.start()
        if view[at] != 0x2A:
            return self._unfinished(view, position, at)
        return self._checked(view, position, at)

    def _checked(self, view: bytes, position: int, star: int) -> tuple[int, Frame | None]:
        body = view[position:star]
        if int(view[star + 1 : star + 3], 16) != xor(body[1:]):
            self.checksum_failures += 1
            return NOT_A_FRAME, None
        length = star + 3 - position
        if body[:1] == b"!":
            self._named[AIS if body[3:6] in {b"VDM", b"VDO"} else "encapsulated NMEA"] += 1
            return length, None
        self.frames += 1
        return length, Frame(NMEA, body)

    def _unfinished(self, view: bytes, position: int, at: int) -> tuple[int, Frame | None]:
        """A sentence that ends without a checksum."""
        body = view[position:at]
        if view[at] not in _CR_LF or len(body) < 7 or body[6:7] != b",":
            return NOT_A_FRAME, None
        if not self._unchecked:
            self.refused["sentence without checksum"] += 1
            return NOT_A_FRAME, None
        self.frames += 1
        return at - position, Frame(NMEA, body)

    def _ubx(self, view: bytes, position: int) -> tuple[int, Frame | None]:
        if len(view) < position + 6:
            return MORE, None
        total = int.from_bytes(view[position + 4 : position + 6], "little") + 8
        if total > MAX_UBX_BYTES:
            return NOT_A_FRAME, None
        if len(view) < position + total:
            return MORE, None
        if total > self._credit:
            self.refused["too many false starts"] += 1
            return NOT_A_FRAME, None
        body = view[position + 2 : position + total - 2]
        if fletcher8(body) != view[position + total - 2 : position + total]:
            self._credit -= total
            self.checksum_failures += 1
            return NOT_A_FRAME, None
        self.frames += 1
        return total, Frame(UBX, body)

    def _text(self, view: bytes, position: int) -> tuple[int, None]:
        """A line that begins with `#`: a comment in a log, or ASCII of a protocol that is not NMEA."""
        if not (self._line_start if position == 0 else view[position - 1] == 0x0A):
            return NOT_A_FRAME, None
        limit = min(len(view), position + MAX_TEXT_BYTES)
        for at in range(position + 1, limit):
            byte = view[at]
            if byte == 0x0A:
                self._named[TEXT] += 1
                return at + 1 - position, None
            if byte < 0x20 and byte not in {0x09, 0x0D}:
                return NOT_A_FRAME, None
        return (MORE if len(view) < position + MAX_TEXT_BYTES else NOT_A_FRAME), None

    def _skip(self, count: int) -> None:
        self._note_skipped(bytes(self._buffer[:count]))
        del self._buffer[:count]

    def _note_skipped(self, data: bytes) -> None:
        if not data:
            return
        self._line_start = data[-1] == 0x0A
        self._advance(len(data))
        rest = data.translate(None, _CR_LF)  # line ends between sentences are no loss
        self.bytes_skipped += len(rest)
        self._rtcm2.feed(rest)
