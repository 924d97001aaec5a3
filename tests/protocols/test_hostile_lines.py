"""A line in the wrong hands: no bytes cost more than a bounded amount of work and memory each, and good frames come
through after them. Time is not measured here; work is counted."""

from __future__ import annotations

import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from edgeguard.errors import PacketError
from edgeguard.protocols import cobs
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.ld06 import Ld06Decoder, Ld06Packet, encode_packet
from edgeguard.protocols.link import ImuReading, LinkDecoder, LinkEncoder
from edgeguard.protocols.nmea_write import sentence
from edgeguard.protocols.rplidar import DESCRIPTORS, RplidarDecoder
from edgeguard.sensors.line_diagnosis import LineWatch
from edgeguard.types import LineStats

KEY, NEXT_KEY = bytes(range(32)), bytes(range(1, 33))
STILL = ImuReading((0.0, 0.0, 0.0), (0.0, 0.0, 9.81))


def _forged() -> bytes:
    """A link frame with a good CRC and a tag of zeros: the most that can be had without the key."""
    covered = struct.pack("<BBHIIQ", 1, 1, 7, 1, 5, 5) + bytes(24)
    return cobs.encode(covered + struct.pack("<I", zlib.crc32(covered)) + bytes(8)) + b"\0"


def _sky() -> bytes:
    return b"".join(
        sentence(f"{talker}GSV,9,{part},99" + ",11,11,111,40" * 4)
        for talker in ("GP", "GL", "GA", "GB")
        for part in range(1, 10)
    )


# Repeated without end: headers alone, lengths that lie, frames that never end, the dearest frames that are good.
HOSTILE: dict[str, bytes] = {
    "zeros": b"\0",
    "ones": b"\xff",
    "descriptor begins": b"\xa5\x5a",
    "descriptors": b"".join(DESCRIPTORS),
    "one descriptor": next(iter(DESCRIPTORS)),
    "capsule headers": b"\xa0\x50",
    "nodes that each turn": b"\x01\x01\x00\x00\x00",
    "ld06 headers": b"\x54\x2c",
    "dollars": b"$",
    "ubx headers": b"\xb5\x62",
    "ubx that claims 8 kB": b"\xb5\x62\x01\x07\xf0\x1f",
    "empty ubx": b"\xb5\x62\x01\x07\x00\x00",
    "rtcm3 that claims 1 kB": b"\xd3\x03\xff",
    "greis that claims 4 kB": b"RTFFF",
    "sirf that claims 4 kB": b"\xa0\xa2\x0f\xf0",
    "dle": b"\x10A",
    "dle without end": b"\x10A" + b"x" * 700,
    "oncore without end": b"@@Aa",
    "text without end": b"#" + b"x" * 600 + b"\n",
    "sentence without end": b"$GPGGA," + b"1" * 230,
    "satellites": _sky(),
    "empty link frames": b"\x01\0",
    "forged link frames": _forged(),
    "random": np.random.default_rng(1).integers(0, 256, 1 << 16, dtype=np.uint8).tobytes(),
}


def _link() -> LinkDecoder:
    return LinkDecoder({7: KEY}, next_keys={7: NEXT_KEY})


DECODERS: dict[str, Callable[[], Any]] = {
    "gnss": GnssDecoder, "ld06": Ld06Decoder, "rplidar": RplidarDecoder, "link": _link,
}  # fmt: skip


def stream(name: str, size: int) -> bytes:
    """The pattern, over and over."""
    pattern = HOSTILE[name]
    return (pattern * (size // len(pattern) + 1))[:size]


def calls(decoder: Any, pieces: list[bytes]) -> int:
    """How many functions, Python's and C's, are entered while the pieces are fed."""
    entered = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal entered
        entered += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        for piece in pieces:
            decoder.feed(piece)
    finally:
        sys.setprofile(None)
    return entered


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


# The dearest known has 29: GNSS, where every skipped bit is also tried as RTCM2, for the first 32 kB of a stream.
MAX_CALLS_PER_BYTE = 60


@pytest.mark.parametrize("which", DECODERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_stream_buys_more_than_a_bounded_number_of_calls_per_byte(which: str, name: str) -> None:
    """At once or in the handfuls a port gives; twice as many bytes are twice as much work, not four times."""
    data = stream(name, 1 << 13)
    for size in (1 << 13, 64):
        half = calls(DECODERS[which](), cut(data[: 1 << 12], size))
        whole = calls(DECODERS[which](), cut(data, size))
        assert whole <= MAX_CALLS_PER_BYTE * len(data)
        assert whole <= 2.5 * max(half, 10 * (1 << 12))  # a claimed length may hold all work back until it is there


@pytest.mark.parametrize("which", DECODERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_stream_fills_the_memory(which: str, name: str) -> None:
    """What stays is a frame, a turn of points, or the last sky."""
    decoder, data = DECODERS[which](), stream(name, 1 << 13)
    for _ in range(8):
        decoder.feed(data)
    tracemalloc.start()
    try:
        for _ in range(2):
            decoder.feed(data)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 1 << 19
    assert decoder.line_stats.bytes_received == 10 * len(data)


@pytest.mark.slow
@pytest.mark.parametrize(("which", "megabytes"), [("ld06", 100), ("rplidar", 100), ("link", 100), ("gnss", 20)])
def test_megabytes_of_garbage_leave_no_trace(which: str, megabytes: int) -> None:
    """The process is no larger than before, by more than the allocator's play."""
    decoder = DECODERS[which]()
    rng = np.random.default_rng(3)
    decoder.feed(rng.integers(0, 256, 1 << 20, dtype=np.uint8).tobytes())
    before = _resident_bytes()
    for _ in range(megabytes):
        decoder.feed(rng.integers(0, 256, 1 << 20, dtype=np.uint8).tobytes())
    assert _resident_bytes() - before < 48 << 20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def _good_gnss() -> list[bytes]:
    return [
        sentence(f"GNGGA,1200{k // 10:02d}.{k % 10}00,4808.2200000,N,01134.5000000,E,1,12,0.80,520.0,M,0.0,M,,")
        for k in range(200)
    ]


def _good_ld06() -> list[bytes]:
    return [
        encode_packet(
            Ld06Packet(3600, k * 960 % 36_000 / 100, (k * 960 + 880) % 36_000 / 100, k * 3, (3.0,) * 12, (9,) * 12)
        )
        for k in range(400)
    ]


def _good_rplidar() -> list[bytes]:
    nodes = []
    for k in range(4000):
        angle = k * 4 % 360 * 64
        nodes.append(bytes((162 if angle else 161, (angle & 0x7F) << 1 | 1, angle >> 7, 0x40, 0x1F)))
    return [next(raw for raw, mode in DESCRIPTORS.items() if mode == "standard"), *nodes]


def _good_link() -> list[bytes]:
    encoder = LinkEncoder(7, KEY)
    return [b"\0", *(encoder.frame(k * 10_000, STILL) for k in range(300))]


GOOD: dict[str, Callable[[], list[bytes]]] = {
    "gnss": _good_gnss, "ld06": _good_ld06, "rplidar": _good_rplidar, "link": _good_link,
}  # fmt: skip


@pytest.mark.parametrize("which", DECODERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_good_frames_come_through_after_any_of_it(which: str, name: str) -> None:
    """Whatever length was claimed before, it delays what follows and does not swallow it."""
    good = b"".join(GOOD[which]())
    clean = len(DECODERS[which]().feed(good))
    assert clean >= 5

    decoder = DECODERS[which]()
    decoder.feed(stream(name, 5003))
    assert len(decoder.feed(good)) >= clean // 3


def test_frames_of_one_node_are_nothing_on_the_line_of_another() -> None:
    """Recorded here, played there: another node's number, or its key, or its place in the count is wrong."""
    other_key = bytes(range(100, 132))
    here, there = LinkEncoder(7, KEY), LinkEncoder(8, other_key)
    recorded = [there.frame(k, STILL) for k in range(5)]

    alone = LinkDecoder({7: KEY})
    alone.feed(b"\0" + b"".join(recorded))
    assert (alone.stats.malformed, alone.stats.frames) == (5, 0)

    both = LinkDecoder({7: KEY, 8: other_key})
    assert len(both.feed(b"\0" + b"".join(recorded))) == 5
    renamed = [_renamed(frame, 7) for frame in recorded]
    assert both.feed(b"".join(recorded + renamed)) == []
    assert (both.stats.replayed, both.stats.forged) == (5, 5)
    assert len(both.feed(here.frame(9, STILL))) == 1


def _renamed(frame: bytes, node: int) -> bytes:
    """The frame under another node's number, its CRC made right again."""
    body = bytearray(cobs.decode(frame[:-1]))
    body[2:4] = struct.pack("<H", node)
    covered = bytes(body[:-12])
    return cobs.encode(covered + struct.pack("<I", zlib.crc32(covered)) + bytes(body[-8:])) + b"\0"


def test_counters_at_their_ends_are_read_and_then_refused() -> None:
    """The last frame of the last boot is accepted; nothing wraps to zero and begins again."""
    end = 2**32 - 1
    node = LinkEncoder(7, KEY, boot=end)
    node._counter = end - 1
    frames = [node.frame(2**64 - 1, STILL) for _ in range(2)]
    decoder = LinkDecoder({7: KEY})
    records = decoder.feed(b"\0" + b"".join(frames))
    assert [(r.boot, r.counter, r.device_time_us) for r in records] == [
        (end, end - 1, 2**64 - 1),
        (end, end, 2**64 - 1),
    ]
    assert dict(decoder.last_accepted) == {7: (end, end)}
    with pytest.raises(PacketError):
        node.frame(0, STILL)
    for boot, counter in ((0, 0), (end, 0), (end, end), (end - 1, end)):
        again = LinkEncoder(7, KEY, boot=boot)
        again._counter = counter
        assert decoder.feed(again.frame(0, STILL)) == []
    assert decoder.stats.replayed == 4


def test_the_line_watch_keeps_a_window_only() -> None:
    """Fed for hours it holds what it held after a second."""
    watch, data = LineWatch(115_200), stream("random", 4096)
    tracemalloc.start()
    try:
        for k in range(50):
            watch.note(data, LineStats(bytes_received=4096 * k, bytes_skipped=4096 * k), [k, None, k - 1])
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 1 << 17
