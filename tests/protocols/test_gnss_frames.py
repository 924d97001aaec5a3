"""The mixed-stream framer: what it gives, what it names, what it refuses, and that cuts change nothing."""

from __future__ import annotations

import random
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyubx2 import UBXMessage

from edgeguard.protocols.gnss_foreign import crc24q, fletcher8
from edgeguard.protocols.gnss_frames import MAX_FRAME_BYTES, MAX_SENTENCE_BYTES, NMEA, UBX, Frame, GnssFramer, xor
from edgeguard.protocols.nmea_write import sentence

GGA = sentence("GNGGA,120000.00,4808.2200,N,01134.5000,E,1,12,0.8,520.1,M,46.0,M,,")
DOP = UBXMessage("NAV", "NAV-DOP", 0, payload=struct.pack("<IHHHHHHH", 1000, 1, 2, 3, 4, 5, 6, 7)).serialize()


def rtcm3(payload: bytes) -> bytes:
    """Return an RTCM3 frame."""
    body = b"\xd3" + struct.pack(">H", len(payload)) + payload
    return body + crc24q(body).to_bytes(3, "big")


def sirf(payload: bytes) -> bytes:
    """Return a SiRF frame."""
    return (
        b"\xa0\xa2" + struct.pack(">H", len(payload)) + payload + struct.pack(">H", sum(payload) & 0x7FFF) + b"\xb0\xb3"
    )


def garmin(ident: int, payload: bytes) -> bytes:
    """Return a Garmin serial frame."""
    inner = bytes((ident, len(payload))) + payload
    inner += bytes((-sum(inner) & 0xFF,))
    return b"\x10" + inner[:1] + inner[1:].replace(b"\x10", b"\x10\x10") + b"\x10\x03"


def oncore(payload: bytes) -> bytes:
    """Return a Motorola frame."""
    value = 0
    for byte in payload:
        value ^= byte
    return b"@@" + payload + bytes((value,)) + b"\r\n"


def allystar(payload: bytes) -> bytes:
    """Return an ALLYSTAR frame."""
    body = b"\x01\x02" + struct.pack("<H", len(payload)) + payload
    return b"\xf1\xd9" + body + fletcher8(body)


def words(data: bytes) -> bytes:
    """Return the exclusive or of 32 bit words."""
    value = 0
    for start in range(0, len(data), 4):
        value ^= int.from_bytes(data[start : start + 4], "little")
    return value.to_bytes(4, "little")


def navcom(payload: bytes) -> bytes:
    """Return a NavCom frame."""
    body = b"\xb1" + struct.pack("<H", len(payload) + 4) + payload
    value = 0
    for byte in body:
        value ^= byte
    return b"\x02\x99\x66" + body + bytes((value, 3))


FOREIGN = {
    "NavCom binary": navcom(bytes(range(40))),
    "NovAtel SuperStar II": b"\x01\x14\xeb\x04abcd" + struct.pack("<H", 0x01 + 0x14 + 0xEB + 4 + sum(b"abcd")),
    "Geostar binary": b"PSGG\x13\x00\x02\x00abcdefgh" + words(b"PSGG\x13\x00\x02\x00abcdefgh"),
    "EverMore binary": b"\x10\x02\x06wxyz" + bytes((sum(b"wxyz") & 0xFF,)) + b"\x10\x03",
    "RTCM3": rtcm3(b"\x3e\xd0" + bytes(range(30))),
    "SiRF binary": sirf(b"\x29$GPGGA,1,2,3*00" + bytes(20)),
    "Garmin binary": garmin(51, b"$GPRMC,\x10\x10\x03" + bytes(40)),
    "Motorola Oncore": oncore(b"Ea" + bytes(range(60))),
    "ALLYSTAR binary": allystar(bytes(12)),
    "Trimble TSIP": b"\x10\x41abcdefghij\x10\x03\x10\x46\x00\x00\x10\x03",
    "AIVDM": b"!AIVDM,1,1,,B,177KQJ5000G?tO`K>RA1wUbN0TKH,0*5C\r\n",
}


def run(*parts: bytes, unchecked: bool = False) -> tuple[list[Frame], GnssFramer]:
    """Return all frames and the framer."""
    framer = GnssFramer(unchecked)
    frames = [f for part in parts for f in framer.feed(part)]
    return frames + framer.finish(), framer


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_a_protocol_that_is_not_ours_is_named_and_its_inside_is_not_read(name: str) -> None:
    """The frame is skipped whole: a sentence inside it is payload; those around it are found."""
    frames, framer = run(GGA + FOREIGN[name] + GGA + DOP)
    assert [f.kind for f in frames] == [NMEA, NMEA, UBX]
    assert framer.foreign[name] >= 1
    assert framer.checksum_failures == 0


@pytest.mark.parametrize("name", sorted(set(FOREIGN) - {"Trimble TSIP"}))
def test_a_damaged_foreign_frame_is_not_named(name: str) -> None:
    """The checksum decides, where the protocol has one."""
    damaged = bytearray(FOREIGN[name])
    damaged[len(damaged) // 2] ^= 0x40
    _, framer = run(bytes(damaged) + GGA)
    assert name not in framer.foreign


@given(st.binary(max_size=512))
def test_the_folded_exclusive_or_is_that_of_the_bytes(body: bytes) -> None:
    """Against one byte after the other."""
    value = 0
    for byte in body:
        value ^= byte
    assert xor(body) == value


def test_crc24q_is_that_of_the_standard() -> None:
    """The stationary antenna message printed in RTCM 10403.1 annex 4 ends in 36 0B 98."""
    message = bytes.fromhex("d300133ed7d30202980edeef34b4bd62ac0941986f33")
    assert crc24q(message) == 0x360B98


pieces = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [GGA, DOP, GGA[:-2], GGA.replace(b"\r\n", b"\n"), DOP[:20], b"#a comment\n", b"\n#", b"$", b"@@Ea"]
        ),
        st.sampled_from(sorted(FOREIGN.values())),
    ),
    min_size=1,
    max_size=8,
)


@given(pieces, st.data())
def test_cutting_the_stream_anywhere_changes_nothing(parts: list[bytes], data: st.DataObject) -> None:
    """Frames, names and counters are the same for one feed, random pieces and single bytes."""
    stream = b"".join(parts)
    frames, whole = run(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    cut, other = run(*(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)))
    single, bytewise = run(*(stream[i : i + 1] for i in range(len(stream))))
    assert cut == frames == single
    for framer in (other, bytewise):
        assert framer.foreign == whole.foreign
        assert (framer.bytes_skipped, framer.checksum_failures) == (whole.bytes_skipped, whole.checksum_failures)
        assert framer.refused == whole.refused


@given(st.binary(max_size=300))
def test_frames_behind_noise_are_found_at_the_latest_when_the_stream_ends(noise: bytes) -> None:
    """Whatever stands in front, nothing hides two good frames for good, except a whole foreign frame around them."""
    frames, framer = run(noise + GGA + DOP)
    assert framer.pending_bytes == 0
    if not framer.foreign:
        assert [f.kind for f in frames][-2:] == [NMEA, UBX]


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r", b"", b"\n\r", b"\r\r\n"])
def test_every_line_end_is_understood(end: bytes) -> None:
    """A sentence is complete with its checksum, whatever follows."""
    line = GGA.rstrip() + end
    frames, framer = run(line * 3)
    assert len(frames) == 3
    assert framer.bytes_skipped == 0


def test_sentences_without_a_checksum_need_a_policy() -> None:
    """Refused and counted by default, given where the caller says that the receiver sends none."""
    line = GGA.split(b"*")[0] + b"\r\n"
    frames, framer = run(line)
    assert frames == []
    assert framer.refused == {"sentence without checksum": 1}
    assert len(run(line, unchecked=True)[0]) == 1
    assert run(b"$GPGGA,1,2\x00,3\r\n", unchecked=True)[0] == []


def test_overlong_sentences_and_frames_are_refused() -> None:
    """Limits hold whatever the length field or the sender says."""
    frames, framer = run(b"$GPTXT," + b"A" * 1000 + b"\r\n" + GGA)
    assert len(frames) == 1
    assert framer.refused["sentence too long"] == 1
    assert MAX_SENTENCE_BYTES == 256
    frames, framer = run(b"\xb5\x62\x01\x07\xff\xff" + GGA)
    assert len(frames) == 1


def test_memory_is_one_frame_however_much_arrives() -> None:
    """Forty kilobytes in one piece leave no more behind than a frame."""
    for pattern in (b"\xb5\x62\x01\x07\xf0\x1f", b"$GPGGA,", b"\x10A", b"@@Ea", b"\xd3\x03", b"#", bytes(range(256))):
        framer = GnssFramer()
        framer.feed(pattern * (40_000 // len(pattern)))
        assert framer.pending_bytes <= MAX_FRAME_BYTES
        assert len(framer.refused) <= 3


@pytest.mark.parametrize(
    "pattern",
    [
        b"\xb5\x62\x01\x07\xf0\x1f",
        b"\xa0\xa2\x0f\x00",
        b"@@Ea",
        b"\xd3\x03\xff",
        b"\xff\x81\xff\xff",
        b"\x10A$",
        b"$!",
        b"\x01\x14\xeb\xff",
        b"\x02\x99\x66\xb1\xf0\x0f",
        b"PSGG\x13\x00\xf0\x03",
        b"\n#",
        b"::FFF",
        b"\xba\xce\xf0\x0f",
        b"$@ab12\xf0\x0f",
    ],
)
def test_a_line_of_false_starts_is_read_faster_than_it_can_arrive(pattern: bytes) -> None:
    """At 921600 baud 92 160 bytes come in a second; the worst patterns we know must take a fraction of one."""
    data = pattern * (92_160 // len(pattern))
    framer = GnssFramer()
    start = time.process_time()
    framer.feed(data)
    assert time.process_time() - start < 1.0
    assert framer.bytes_received == len(data)
    assert len(framer.feed(GGA * 200)) >= 100


def test_text_lines_are_named_and_their_contents_ignored() -> None:
    """A comment that quotes a sentence does not report a position; a hash inside a line is no comment."""
    frames, framer = run(b"# log of a receiver: " + GGA + GGA)
    assert len(frames) == 1
    assert framer.foreign == {"text line": 1}
    assert len(run(b"x# " + GGA)[0]) == 1


def test_rtcm2_is_named_by_its_word_parity() -> None:
    """Random bytes of the right six-bit shape are not RTCM2."""
    rng = random.Random(5)
    _, framer = run(bytes(0x40 | rng.randrange(64) for _ in range(20_000)))
    assert framer.foreign.get("RTCM2", 0) <= 1
