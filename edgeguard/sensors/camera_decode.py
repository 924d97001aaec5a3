"""PNG and JPEG files and messages -> BGR pixels, bounded: the header's size is read before OpenCV allocates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_IMAGE_BYTES = 32 * 1024**2  # an uncompressed 1392 x 512 colour frame is 2 MB
MAX_IMAGE_PIXELS = 16_000_000
UNDECODABLE = "undecodable"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
# Start-of-frame markers of the codings OpenCV reads: baseline, extended, progressive.
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length


def decode_image(data: bytes) -> NDArray[np.uint8] | None:
    """Return (H, W, 3) uint8 BGR, or None when `data` is no whole PNG or JPEG of acceptable size. Never raises.

    A file that is cut is refused, although OpenCV would fill the rest with grey.
    """
    size = _png_size(data) if data.startswith(PNG_MAGIC) else _jpeg_size(data)
    if size is None or len(data) > MAX_IMAGE_BYTES or not 0 < size[0] * size[1] <= MAX_IMAGE_PIXELS:
        return None
    import cv2

    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    if pixels is None or (pixels.shape[1], pixels.shape[0]) != size:
        return None
    return np.ascontiguousarray(pixels, dtype=np.uint8)


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from IHDR, which must come first; None without IEND at the end."""
    if len(data) < 45 or data[12:16] != b"IHDR" or data[-8:-4] != b"IEND":
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the start-of-frame segment; None without an end marker in the last bytes."""
    # Cameras pad MJPEG frames to a transfer size with zeros after the end marker.
    if not data.startswith(_JPEG_MAGIC) or not data.rstrip(b"\0").endswith(_JPEG_END):
        return None
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _JPEG_ALONE or marker == 0xFF:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _JPEG_FRAMES:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None
