"""Mutated serial frames: LD06, RPLIDAR and the authenticated link. Anything but records and counters is a failure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeguard.protocols.ld06 import Ld06Decoder, Ld06Packet, Ld06PacketDecoder, encode_packet
from edgeguard.protocols.link import ImuReading, LinkDecoder, LinkEncoder, WheelReading, encode_reading
from edgeguard.protocols.rplidar import DESCRIPTORS, RplidarDecoder, RplidarPacketDecoder

KEY = bytes(range(32))
FRAMES_PER_FEED = 20


def ld06(seed: int, cases: int) -> int:
    """Feed `cases` mutated packets; return how many were accepted."""
    rng = np.random.default_rng(seed)
    clean = [
        encode_packet(Ld06Packet(3600, k * 9.6 % 360, (k * 9.6 + 8.8) % 360, k * 3 % 30_000, (2.5,) * 12, (80,) * 12))
        for k in range(200)
    ]
    return _run(rng, cases, clean, [Ld06PacketDecoder(), Ld06Decoder()])


def rplidar(seed: int, cases: int) -> int:
    """As `ld06`, over descriptors, capsules and nodes mixed."""
    rng = np.random.default_rng(seed)
    capsule = bytearray(84)
    capsule[2:] = rng.integers(0, 256, 82, dtype=np.uint8).tobytes()
    total = int(np.bitwise_xor.reduce(np.frombuffer(capsule[2:], dtype=np.uint8)))
    capsule[0], capsule[1] = 0xA0 | total & 15, 0x50 | total >> 4
    node = bytes((0xA2, 0x41, 0x10, 0x20, 0x03))
    clean = [*DESCRIPTORS, *[bytes(capsule)] * 8, *[node * 4] * 8]
    return _run(rng, cases, clean, [RplidarPacketDecoder(), RplidarDecoder()])


def link(seed: int, cases: int) -> int:
    """As `ld06`, over authentic frames; returns what was accepted, which must all be authentic and in order."""
    rng = np.random.default_rng(seed)
    encoder = LinkEncoder(7, KEY)
    readings = (ImuReading((0.1, -0.2, 0.3), (0.0, 0.0, 9.81)), WheelReading((8.0, 8.1, 7.9, 8.0), None))
    sent = [encode_reading(reading) for reading in readings]
    decoder = LinkDecoder({7: KEY})
    accepted = 0
    last = -1
    for at in range(0, cases, FRAMES_PER_FEED):
        clean = [encoder.frame(at + k, readings[k % 2]) for k in range(FRAMES_PER_FEED)]
        for record in decoder.feed(_mutate(rng, clean)):
            assert encode_reading(record.reading) in sent, "a forged reading"
            assert record.counter > last, "a replay"
            last = record.counter
            accepted += 1
    return accepted


FUZZERS: dict[str, Callable[[int, int], int]] = {"ld06": ld06, "rplidar": rplidar, "link": link}


def _run(rng: np.random.Generator, cases: int, clean: list[bytes], decoders: list[object]) -> int:
    for _ in range(0, cases, FRAMES_PER_FEED):
        chosen = [clean[k] for k in rng.integers(0, len(clean), FRAMES_PER_FEED)]
        raw = _mutate(rng, chosen)
        for decoder in decoders:
            decoder.feed(raw)  # type: ignore[attr-defined]
    stats = decoders[0].line_stats  # type: ignore[attr-defined]
    assert stats.bytes_received >= stats.bytes_skipped
    return int(stats.frames)


def _mutate(rng: np.random.Generator, frames: list[bytes]) -> bytes:
    """Flip bits, cut, repeat, swap, and put noise between: each frame is hit about once in two."""
    pieces = list(frames)
    for k in np.flatnonzero(rng.random(len(pieces)) < 0.5):
        kind = int(rng.integers(0, 6))
        raw = bytearray(pieces[k])
        at = int(rng.integers(0, len(raw)))
        if kind == 0:
            raw[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            del raw[at:]
        elif kind == 2:
            raw[at:at] = rng.integers(0, 256, int(rng.integers(1, 40)), dtype=np.uint8).tobytes()
        elif kind == 3:
            raw = raw + raw
        elif kind == 4:
            other = pieces[int(rng.integers(0, len(pieces)))]
            raw = raw[:at] + bytearray(other[at:])
        else:
            raw[at] = int(rng.choice([0, 0xFF, 0xA5, 0x54]))
        pieces[k] = bytes(raw)
    return b"".join(pieces)
