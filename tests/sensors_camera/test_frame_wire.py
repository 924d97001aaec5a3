"""The frame socket's bytes: the document's vector, every format, and every way to be wrong."""

from __future__ import annotations

import importlib.util
import struct
import time
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.sensors.frame_wire import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    FrameDecoder,
    FrameHeader,
    PixelFormat,
    expected_payload_bytes,
    parse_header,
)

NOW = 10_000_000_000
VECTOR = bytes.fromhex(
    "4547463104eeec700100000002000000010000000600000006000000000000000700000000000000"
    "00ca9a3b00000000404b4c00000000000000000000000000ff00000000ff"
)


def bgr(width: int = 4, height: int = 2, sequence: int = 0, **changes: int) -> bytes:
    payload = np.random.default_rng(sequence).bytes(3 * width * height)
    header = FrameHeader(PixelFormat.BGR, width, height, 3 * width, len(payload), zlib.crc32(payload), sequence)
    return replace(header, **changes).pack() + payload


def test_the_vector_of_the_document_is_one_blue_and_one_red_pixel() -> None:
    """The bytes printed in docs/formats/frame-socket.md decode to what it says, and encode back to the same."""
    text = Path("docs/formats/frame-socket.md").read_text(encoding="utf-8")
    printed = text.rsplit("```", 2)[1]
    assert bytes.fromhex(printed) == VECTOR

    (image,) = FrameDecoder().feed(VECTOR, 1_500_000_000)

    np.testing.assert_array_equal(image.pixels, [[[255, 0, 0], [0, 0, 255]]])
    assert image.stamp_ns == 1_000_000_000
    header = parse_header(VECTOR[:HEADER_BYTES])
    assert header is not None
    assert (header.sequence, header.exposure_ns) == (7, 5_000_000)
    assert header.pack() == VECTOR[:HEADER_BYTES]


@pytest.mark.parametrize("fmt", [PixelFormat.BGR, PixelFormat.RGB, PixelFormat.GRAY8, PixelFormat.NV12])
@pytest.mark.parametrize("padding", [0, 7])
def test_every_raw_format_gives_the_picture_that_opencv_makes_of_it(fmt: PixelFormat, padding: int) -> None:
    """Row padding is left out, channel order is BGR, NV12 is converted as OpenCV converts it."""
    rng = np.random.default_rng(int(fmt))
    channels = 3 if fmt <= PixelFormat.RGB else 1
    height = 9 if fmt == PixelFormat.NV12 else 6
    rows = rng.integers(0, 256, (height, 8 * channels + padding), dtype=np.uint8)
    used = rows[:, : 8 * channels]
    expected = {
        PixelFormat.BGR: lambda: used.reshape(6, 8, 3),
        PixelFormat.RGB: lambda: cv2.cvtColor(np.ascontiguousarray(used.reshape(6, 8, 3)), cv2.COLOR_RGB2BGR),
        PixelFormat.GRAY8: lambda: cv2.cvtColor(np.ascontiguousarray(used), cv2.COLOR_GRAY2BGR),
        PixelFormat.NV12: lambda: cv2.cvtColor(np.ascontiguousarray(used), cv2.COLOR_YUV2BGR_NV12),
    }[fmt]()
    header = FrameHeader(fmt, 8, 6, rows.shape[1], rows.size, zlib.crc32(rows.tobytes()))

    (image,) = FrameDecoder().feed(header.pack() + rows.tobytes(), NOW)

    np.testing.assert_array_equal(image.pixels, expected)
    assert image.stamp_ns == NOW  # a sender that does not know gets the time of arrival


def test_a_jpeg_is_decoded_and_one_of_another_size_is_not() -> None:
    """The header's size is a promise about the JPEG."""
    data = cv2.imencode(".jpg", np.full((32, 48, 3), 90, np.uint8))[1].tobytes()
    decoder = FrameDecoder()

    good = decoder.feed(FrameHeader(PixelFormat.MJPEG, 48, 32, 0, len(data)).pack() + data, NOW)
    bad = decoder.feed(FrameHeader(PixelFormat.MJPEG, 48, 33, 0, len(data), sequence=1).pack() + data, NOW)
    cut = decoder.feed(FrameHeader(PixelFormat.MJPEG, 48, 32, 0, 200, sequence=2).pack() + data[:200], NOW)

    assert good[0].pixels.shape == (32, 48, 3)
    assert bad == cut == []
    assert dict(decoder.drops) == {"undecodable": 2}
    assert decoder.line_stats.checksum_failures == 2


@given(st.integers(1, 300), st.integers(0, 3))
def test_frames_arrive_whole_however_the_bytes_are_cut(step: int, junk: int) -> None:
    """Any split of the stream gives the same images; junk in between costs itself and one `bad_header`."""
    frames = [bgr(sequence=k) for k in range(3)]
    stream = frames[0] + b"EGF\x00" * junk + frames[1] + frames[2]
    decoder = FrameDecoder()

    images = [i for at in range(0, len(stream), step) for i in decoder.feed(stream[at : at + step], NOW)]

    assert len(images) == 3
    assert decoder.line_stats.bytes_skipped == 4 * junk
    assert dict(decoder.drops) == ({"bad_header": 1} if junk else {})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pixel_format": 0}, "bad_format"),
        ({"pixel_format": 99}, "bad_format"),
        ({"width_px": 0}, "bad_size"),
        ({"height_px": 9000}, "bad_size"),
        ({"width_px": 8192, "height_px": 8192}, "bad_size"),
        ({"stride_bytes": 11}, "bad_size"),
        ({"stride_bytes": 2**31}, "bad_size"),
        ({"payload_bytes": 2**32 - 1}, "bad_size"),
        ({"stamp_ns": NOW + 1}, "bad_stamp"),
        ({"stamp_ns": NOW - 3 * 10**9}, "bad_stamp"),
        ({"stamp_ns": -1}, "bad_stamp"),
        ({"payload_crc": 1}, "bad_payload"),
    ],
)
def test_a_header_that_cannot_be_drops_its_frame_and_the_next_one_arrives(changes: dict[str, int], reason: str) -> None:
    """The reason is named, nothing is allocated on the header's word, and the stream goes on."""
    decoder = FrameDecoder()

    images = decoder.feed(bgr(sequence=0, **changes) + bgr(sequence=1) + bgr(sequence=2), NOW)

    assert decoder.drops[reason] == 1
    # A false but possible length takes the following frames' bytes with it; an impossible one is searched through.
    assert len(images) >= 1 or changes.get("payload_bytes", 0) <= MAX_PAYLOAD_BYTES


def test_numbers_that_are_missing_are_counted_and_old_ones_are_refused() -> None:
    """5, 6, 9, 9, 3, 10: two missing, two old."""
    decoder = FrameDecoder()

    images = decoder.feed(b"".join(bgr(sequence=n) for n in (5, 6, 9, 9, 3, 10)), NOW)

    assert len(images) == 4
    assert decoder.line_stats.sequence_gaps == 2
    assert dict(decoder.drops) == {"old_sequence": 2}


def test_a_connection_that_ends_inside_a_frame_is_cut_and_leaves_nothing_behind() -> None:
    """Bytes of the old connection never join those of the new one; its numbers start anew."""
    decoder = FrameDecoder()
    decoder.feed(bgr(sequence=9) + bgr(sequence=10)[:80], NOW)

    decoder.restart()

    assert dict(decoder.drops) == {"cut": 1}
    assert len(decoder.feed(bgr(sequence=0), NOW)) == 1


def test_magic_words_without_end_cost_linear_time() -> None:
    """A megabyte of nothing but magics is searched in well under a second, where the square would take minutes."""
    decoder = FrameDecoder()
    started = time.perf_counter()

    decoder.feed(b"EGF1" * 250_000, NOW)

    assert time.perf_counter() - started < 5.0
    assert decoder.line_stats.bytes_skipped > 990_000
    assert dict(decoder.drops) == {"bad_header": 1}


@given(st.binary(min_size=56, max_size=56))
def test_any_header_with_a_valid_checksum_is_judged_without_harm(body: bytes) -> None:
    """Random values under a correct CRC give a size within the caps, or None."""
    data = b"EGF1" + struct.pack("<I", zlib.crc32(body)) + body
    header = parse_header(data)

    if body[2:4] != b"\0\0":
        assert header is None
        return
    assert header is not None
    assert header.pack() == data
    decoder = FrameDecoder()
    assert decoder.feed(data, NOW) == []
    if header.pixel_format in list(PixelFormat):
        size = expected_payload_bytes(header)
        assert size is None or 0 < size <= MAX_PAYLOAD_BYTES


@given(st.binary(max_size=400))
def test_no_bytes_make_the_decoder_raise(data: bytes) -> None:
    """Bytes give images or counts, never an exception, and it still works afterwards."""
    decoder = FrameDecoder()
    decoder.feed(data, NOW)
    decoder.restart()

    assert len(decoder.feed(bgr(), NOW)) == 1


def test_a_thousand_damaged_streams_break_no_promise() -> None:
    """A short run of the fuzzer, so that it keeps working."""
    path = Path(__file__).parent.parent / "fuzz" / "fuzz_frame_socket.py"
    spec = importlib.util.spec_from_file_location("fuzz_frame_socket", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert module.fuzz(1, 1000) > 500
