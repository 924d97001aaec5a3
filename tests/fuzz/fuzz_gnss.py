"""Mutation fuzzer of the GNSS decoder: real-looking frames, cut, swapped, flipped and glued.

`fuzz(seed, cases)` is what a long run calls; `cases(rng, n)` yields the inputs alone.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterator

from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.gnss_foreign import crc24q, fletcher8
from edgeguard.protocols.gnss_frames import MAX_FRAME_BYTES
from edgeguard.protocols.nmea_write import sentence

_BODIES = (
    "GNGGA,120000.00,4808.2200000,N,01134.5000000,E,4,12,0.8,520.1,M,46.0,M,1.0,0000",
    "GPRMC,120000.00,A,4808.2200,S,01134.5000,W,10.0,90.0,010126,3.1,E,D,V",
    "GNGSA,A,3,01,02,03,04,,,,,,,,,2.0,1.0,1.7,1",
    "GPGSV,3,1,11,01,40,083,46,02,17,308,41,12,07,344,39,14,22,228,45,1",
    "GNGLL,4808.22,N,01134.50,E,120000.00,A,D",
    "GNGNS,120000.00,4808.22,N,01134.50,E,RDAA,22,0.5,520.1,46.0,,,S",
    "GPVTG,54.7,T,34.4,M,5.5,N,10.2,K,A",
    "GPZDA,235960.00,31,12,2016,00,00",
    "GNGBS,120000.00,1.0,1.0,2.0,,,,",
    "PUBX,00,120000.00,4808.22,N,01134.50,E,566.0,G3,2.1,2.0,0.0,0.0,0.0,,1.0,1.0,1.0,9,0,0",
)
_UBX = ((1, 7, 92), (1, 2, 28), (1, 3, 16), (1, 4, 18), (1, 6, 52), (1, 0x11, 20), (1, 0x12, 36), (1, 0x14, 36),
        (1, 0x20, 16), (1, 0x21, 20), (1, 0x30, 44), (1, 0x35, 44), (1, 0x61, 4), (1, 1, 20),
        (0x28, 0, 72))  # fmt: skip
_INTERESTING = (
    b"\x00",
    b"\xff",
    b"$",
    b"!",
    b"*",
    b",",
    b"\r\n",
    b"\xb5\x62",
    b"\xd3\x00",
    b"\x10\x03",
    b"-",
    b"9" * 12,
    b"nan",
)


def ubx(rng: random.Random, kind: tuple[int, int, int]) -> bytes:
    """Return a frame with a good checksum and a payload that is half plausible."""
    payload = bytearray(rng.randbytes(kind[2]) if rng.random() < 0.5 else bytes(kind[2]))
    payload[:4] = struct.pack("<I", rng.choice((0, 1000, 2000, 604_799_999, 2**32 - 1)))
    body = bytes(kind[:2]) + struct.pack("<H", len(payload)) + bytes(payload)
    return b"\xb5\x62" + body + fletcher8(body)


def nmea(rng: random.Random) -> bytes:
    """Return a sentence with a good checksum, some of its fields replaced."""
    fields = rng.choice(_BODIES).split(",")
    for _ in range(rng.randrange(3)):
        odd = ("", "-1", "9" * 15, "1e9", "nan", "A", "..", "235960", "000000", "-0.0", "٣", "0")
        fields[rng.randrange(1, len(fields))] = rng.choice(odd[:10] + odd[11:])
    if rng.random() < 0.2:
        del fields[rng.randrange(1, len(fields)) :]
    return sentence(",".join(fields))


def rtcm3(rng: random.Random) -> bytes:
    """Return an RTCM3 frame."""
    payload = rng.randbytes(rng.randrange(60))
    body = b"\xd3" + struct.pack(">H", len(payload)) + payload
    return body + crc24q(body).to_bytes(3, "big")


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Return the bytes after a few accidents."""
    out = bytearray(data)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(5):
            case 0 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 1:
                out[at:at] = rng.choice(_INTERESTING)
            case 2:
                del out[at : at + rng.randrange(20)]
            case 3:
                out[at:at] = rng.randbytes(rng.randrange(12))
            case _:
                other = rng.randrange(len(out) + 1)
                out[at:at] = out[min(at, other) : min(at, other) + rng.randrange(60)]
    return bytes(out)


def cases(rng: random.Random, n: int) -> Iterator[bytes]:
    """Yield `n` inputs of a few frames each."""
    for _ in range(n):
        parts = []
        for _ in range(rng.randrange(1, 5)):
            kind = rng.randrange(10)
            parts.append(nmea(rng) if kind < 5 else ubx(rng, rng.choice(_UBX)) if kind < 9 else rtcm3(rng))
        yield mutate(rng, b"".join(parts))


def fuzz(seed: int, cases_wanted: int) -> int:
    """Run the decoder over mutated streams; return how many fixes came out.

    Raises:
        AssertionError: a record breaks its contract. Any other exception is the decoder's, and as bad.
    """
    rng = random.Random(seed)
    decoder = GnssDecoder()
    fixes = 0
    for number, data in enumerate(cases(rng, cases_wanted)):
        if number % 50 == 0:
            decoder = GnssDecoder(unchecked=rng.random() < 0.3, unconfirmed=True, repeated=True)
        cut = rng.randrange(len(data) + 1)
        records = decoder.feed(data[:cut]) + decoder.feed(data[cut:])
        if rng.random() < 0.02:
            records += decoder.finish()
        for record in records:
            fixes += 1
            sample = record.sample(number, "gnss")
            assert abs(sample.latitude_deg) <= 90.0, data
            assert abs(sample.longitude_deg) <= 180.0, data
            values = (sample.altitude_m, sample.speed_m_s, sample.course_deg, sample.hdop, sample.horizontal_accuracy_m)
            assert all(value is None or math.isfinite(value) for value in values), data
            assert sample.course_deg is None or 0.0 <= sample.course_deg <= 360.0, data
        assert decoder._framer.pending_bytes <= MAX_FRAME_BYTES
        assert len(decoder._nmea._view._views) <= 24
    return fixes
