"""What is on this line? A list of recognisers, each a decoder that counts what it understood.

A protocol is recognised when enough of its frames with good checksums came and most bytes belong to them. The list is
open: append a `Recogniser` to `RECOGNISERS` and `edgeguard find --listen` knows it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeguard.errors import PacketError
from edgeguard.protocols import cobs
from edgeguard.protocols.gnss_frames import NMEA, TEXT, UBX, GnssFramer
from edgeguard.protocols.ld06 import Ld06PacketDecoder
from edgeguard.protocols.link import MAX_ENCODED_BYTES, TAG_BYTES
from edgeguard.protocols.rplidar import RplidarPacketDecoder

MIN_FRAMES = 3
# Of the bytes heard, so many must belong to the frames; the line may be cut anywhere at both ends.
MIN_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Recogniser:
    """One protocol. `decoder`: the name for settings, empty when we cannot use it. `bauds`: its usual rates."""

    name: str
    decoder: str
    bauds: tuple[int, ...]
    listen: Callable[[bytes], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Recognition:
    """What was heard: `frames` whole frames that make up `share` of the bytes."""

    name: str
    decoder: str
    frames: int
    share: float


def recognise(data: bytes, recognisers: Sequence[Recogniser] | None = None) -> list[Recognition]:
    """Return every protocol that is on the line, the one with most bytes first."""
    found = []
    for one in RECOGNISERS if recognisers is None else recognisers:
        frames, inside = one.listen(data)
        if frames >= MIN_FRAMES:
            found.append(Recognition(one.name, one.decoder, frames, min(1.0, inside / len(data))))
    total = sum(one.share for one in found)
    # A receiver may speak two protocols in turns: together they must explain the line.
    return sorted(found, key=lambda one: -one.share) if total >= MIN_SHARE else []


def _nmea(data: bytes) -> tuple[int, int]:
    return _gnss(data, NMEA, 5)


def _ubx(data: bytes) -> tuple[int, int]:
    return _gnss(data, UBX, 4)


def _gnss(data: bytes, kind: str, rest: int) -> tuple[int, int]:
    framer = GnssFramer()
    frames = [f for f in framer.feed(data) + framer.finish() if f.kind == kind]
    return len(frames), sum(len(f.data) + rest for f in frames)


def foreign_protocols(data: bytes) -> dict[str, int]:
    """Return the protocols that are heard but not spoken here, with the number of their frames."""
    framer = GnssFramer()
    framer.feed(data)
    framer.finish()
    return {name: frames for name, frames in framer.foreign.items() if name != TEXT and frames >= MIN_FRAMES}


def _ld06(data: bytes) -> tuple[int, int]:
    decoder = Ld06PacketDecoder()
    decoder.feed(data)
    return decoder.line_stats.frames, decoder.line_stats.frames * 47


def _rplidar(data: bytes) -> tuple[int, int]:
    """Heard only while it turns and was told to measure: it is silent until asked."""
    decoder = RplidarPacketDecoder()
    decoder.feed(data)
    stats = decoder.line_stats
    return stats.frames, stats.bytes_received - stats.bytes_skipped if stats.frames else 0


def _link(data: bytes) -> tuple[int, int]:
    """Our nodes' link, without their keys: stuffing and CRC-32 are right."""
    frames = inside = 0
    for piece in data.split(b"\0"):
        if not TAG_BYTES + 4 < len(piece) <= MAX_ENCODED_BYTES:
            continue
        try:
            body = cobs.decode(piece)
        except PacketError:
            continue
        covered, crc = body[: -TAG_BYTES - 4], body[-TAG_BYTES - 4 : -TAG_BYTES]
        if covered and zlib.crc32(covered) == int.from_bytes(crc, "little"):
            frames += 1
            inside += len(piece) + 1
    return frames, inside


RECOGNISERS: list[Recogniser] = [
    Recogniser("NMEA 0183", "gnss", (9600, 4800, 38_400, 115_200), _nmea),
    Recogniser("UBX", "gnss", (9600, 38_400, 115_200, 460_800), _ubx),
    Recogniser("LD06 lidar", "ld06", (230_400,), _ld06),
    Recogniser("RPLIDAR", "rplidar", (115_200, 256_000, 460_800, 1_000_000), _rplidar),
    Recogniser("EdgeGuard link", "link", (921_600, 115_200), _link),
]
