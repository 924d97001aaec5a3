"""Bytes of the frame socket <-> images, no I/O: docs/formats/frame-socket.md is the contract.

The sender may be anybody: nothing is allocated on the header's word, nothing raises, and every frame that is not given
has a reason.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgeguard.sensors.camera_decode import MAX_IMAGE_PIXELS, UNDECODABLE, decode_image
from edgeguard.types import CAMERA, Image, LineStats

MAGIC = b"EGF1"
HEADER_BYTES = 64
MAX_SIDE_PX = 8192
MAX_STRIDE_BYTES = 4 * MAX_SIDE_PX  # three bytes a pixel, with the padding of any device
MAX_PAYLOAD_BYTES = MAX_STRIDE_BYTES * 4096  # of the largest raw frame
MAX_JPEG_BYTES = 32 << 20
MAX_AGE_NS = 2_000_000_000  # older than that, a frame is of no use to a decision now

BAD_HEADER, BAD_FORMAT, BAD_SIZE, BAD_STAMP = "bad_header", "bad_format", "bad_size", "bad_stamp"
BAD_PAYLOAD, OLD_SEQUENCE, CUT = "bad_payload", "old_sequence", "cut"

_BODY = struct.Struct("<HHIIIIIQqqq")


class PixelFormat(IntEnum):
    BGR = 1
    RGB = 2
    GRAY8 = 3
    NV12 = 4
    MJPEG = 5


_ROW_BYTES = {PixelFormat.BGR: 3, PixelFormat.RGB: 3, PixelFormat.GRAY8: 1, PixelFormat.NV12: 1}


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """One header; field names and units as in the format document."""

    pixel_format: int
    width_px: int
    height_px: int
    stride_bytes: int
    payload_bytes: int
    payload_crc: int = 0
    sequence: int = 0
    stamp_ns: int = 0
    exposure_ns: int = 0
    device_stamp_ns: int = 0

    def pack(self) -> bytes:
        body = _BODY.pack(
            self.pixel_format, 0, self.width_px, self.height_px, self.stride_bytes, self.payload_bytes,
            self.payload_crc, self.sequence, self.stamp_ns, self.exposure_ns, self.device_stamp_ns,
        )  # fmt: skip
        return MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def parse_header(data: bytes) -> FrameHeader | None:
    """The header in 64 bytes whose magic, checksum and reserved field hold, or None. Values are not judged here."""
    body = data[8:HEADER_BYTES]
    if len(data) < HEADER_BYTES or data[:4] != MAGIC or zlib.crc32(body) != int.from_bytes(data[4:8], "little"):
        return None
    pixel_format, reserved, *rest = _BODY.unpack(body)
    return None if reserved else FrameHeader(pixel_format, *rest)


def expected_payload_bytes(header: FrameHeader) -> int | None:
    """What format, stride and height give; the header's own word for a JPEG; None when the values cannot be."""
    fmt, width, height, stride = header.pixel_format, header.width_px, header.height_px, header.stride_bytes
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX and width * height <= MAX_IMAGE_PIXELS):
        return None
    if fmt == PixelFormat.MJPEG:
        return header.payload_bytes if stride == 0 and 0 < header.payload_bytes <= MAX_JPEG_BYTES else None
    if not width * _ROW_BYTES[PixelFormat(fmt)] <= stride <= MAX_STRIDE_BYTES:
        return None
    if fmt == PixelFormat.NV12:
        return stride * height * 3 // 2 if width % 2 == 0 and height % 2 == 0 else None
    return stride * height


class FrameDecoder:
    """Bytes in, images out.

    Args:
        sensor: the name images get. lossy bytes never raise; see `drops` and `line_stats`.
    """

    def __init__(self, sensor: str = CAMERA) -> None:
        self._sensor = sensor
        self._buffer = bytearray()
        self._at = 0
        self._header: FrameHeader | None = None
        self._skip = 0
        self._searching = False
        self._sequence: int | None = None
        self._drops: Counter[str] = Counter()
        self._received = self._frames = self._failures = self._skipped = self._gaps = 0

    @property
    def drops(self) -> Mapping[str, int]:
        """Frames that were not given, by reason; kept over reconnects."""
        return MappingProxyType(dict(self._drops))

    @property
    def line_stats(self) -> LineStats:
        return LineStats(self._received, self._frames, self._failures, self._skipped, self._gaps)

    @property
    def in_frame(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return bool(self._buffer) or self._header is not None or self._skip > 0

    def restart(self) -> None:
        """A new connection: what was begun is cut, sequence numbers start anew."""
        if self.in_frame:
            self._drops[CUT] += 1
        self._buffer.clear()
        self._at = 0
        self._header, self._skip, self._sequence, self._searching = None, 0, None, False

    def feed(self, data: bytes, now_ns: int) -> list[Image]:
        """Take bytes that arrived at `now_ns`; return the images they complete, oldest first."""
        self._received += len(data)
        self._buffer += data
        images: list[Image] = []
        while self._step(images, now_ns):
            pass
        # Once per call: taking every piece off the front would make hostile bytes cost the square of their number.
        del self._buffer[: self._at]
        self._at = 0
        return images

    def _step(self, images: list[Image], now_ns: int) -> bool:
        """Take one piece; False when more bytes are needed."""
        if self._skip:
            gone = min(self._skip, len(self._buffer) - self._at)
            self._at += gone
            self._skip -= gone
            return self._skip == 0 and gone > 0
        if self._header is not None:
            return self._payload(images, now_ns)
        return self._find_header(now_ns)

    def _find_header(self, now_ns: int) -> bool:
        found = self._buffer.find(MAGIC, self._at)
        if found != self._at:
            # Without a magic, its first three bytes may still be at the end.
            end = found if found >= 0 else max(self._at, len(self._buffer) - 3)
            self._lost(end - self._at)
            if found < 0:
                return False
        if len(self._buffer) - self._at < HEADER_BYTES:
            return False
        header = parse_header(bytes(self._buffer[self._at : self._at + HEADER_BYTES]))
        if header is None:
            self._lost(1)
            return True
        self._at += HEADER_BYTES
        self._searching = False
        reason = self._judge(header, now_ns)
        if not reason:
            self._header = header
        else:
            self._drops[reason] += 1
            self._skip = header.payload_bytes if header.payload_bytes <= MAX_PAYLOAD_BYTES else 0
        return True

    def _lost(self, count: int) -> None:
        """Bytes that are no frame: one `bad_header` for each stretch of them."""
        if count:
            self._at += count
            self._skipped += count
            if not self._searching:
                self._searching = True
                self._drops[BAD_HEADER] += 1
                self._failures += 1

    def _judge(self, header: FrameHeader, now_ns: int) -> str:
        """Why this frame cannot be, or an empty string."""
        if header.pixel_format not in PixelFormat.__members__.values():
            return BAD_FORMAT
        if expected_payload_bytes(header) != header.payload_bytes:
            return BAD_SIZE
        if header.stamp_ns and not now_ns - MAX_AGE_NS <= header.stamp_ns <= now_ns:
            return BAD_STAMP
        if self._sequence is not None:
            if header.sequence <= self._sequence:
                return OLD_SEQUENCE
            self._gaps += header.sequence - self._sequence - 1
        self._sequence = header.sequence
        return ""

    def _payload(self, images: list[Image], now_ns: int) -> bool:
        header = self._header
        assert header is not None  # noqa: S101 - the caller looked
        if len(self._buffer) - self._at < header.payload_bytes:
            return False
        with memoryview(self._buffer) as view:  # let go before the buffer is cut
            data = bytes(view[self._at : self._at + header.payload_bytes])
        self._at += header.payload_bytes
        self._header = None
        if header.payload_crc and zlib.crc32(data) != header.payload_crc:
            self._failed(BAD_PAYLOAD)
            return True
        pixels = to_bgr(header, data)
        if pixels is None:
            self._failed(UNDECODABLE)
            return True
        self._frames += 1
        stamp_ns = header.stamp_ns or now_ns
        images.append(Image(pixels, stamp_ns, self._sensor, header.device_stamp_ns or None))
        return True

    def _failed(self, reason: str) -> None:
        self._drops[reason] += 1
        self._failures += 1


def to_bgr(header: FrameHeader, data: bytes) -> NDArray[np.uint8] | None:
    """(H, W, 3) uint8 BGR of a payload that has its expected size; None when a JPEG is not what the header says."""
    import cv2

    width, height, stride = header.width_px, header.height_px, header.stride_bytes
    if header.pixel_format == PixelFormat.MJPEG:
        pixels = decode_image(data)
        return pixels if pixels is not None and pixels.shape[:2] == (height, width) else None
    rows = np.frombuffer(data, np.uint8).reshape(-1, stride)
    if header.pixel_format == PixelFormat.GRAY8:
        return np.repeat(rows[:, :width, None], 3, axis=2)
    if header.pixel_format == PixelFormat.NV12:
        packed = np.ascontiguousarray(rows[:, :width])
        return np.asarray(cv2.cvtColor(packed, cv2.COLOR_YUV2BGR_NV12), np.uint8)
    pixels = rows[:, : 3 * width].reshape(height, width, 3)
    return np.ascontiguousarray(pixels if header.pixel_format == PixelFormat.BGR else pixels[:, :, ::-1])
