"""Hostile bytes against the frame socket's decoder: `python tests/fuzz/fuzz_frame_socket.py 0 100000`."""

from __future__ import annotations

import sys

import numpy as np

from edgeguard.sensors.frame_wire import HEADER_BYTES, FrameDecoder, FrameHeader, PixelFormat
from edgeguard.types import Image

NOW_NS = 10_000_000_000


def frame(rng: np.random.Generator, sequence: int) -> bytes:
    """A valid small frame of a random raw format."""
    width, height = 2 * int(rng.integers(1, 9)), 2 * int(rng.integers(1, 5))
    fmt = PixelFormat(int(rng.integers(1, 5)))
    stride = width * (3 if fmt <= PixelFormat.RGB else 1) + int(rng.integers(0, 5))
    size = stride * height * 3 // 2 if fmt == PixelFormat.NV12 else stride * height
    header = FrameHeader(fmt, width, height, stride, size, 0, sequence, NOW_NS - int(rng.integers(0, 10**9)))
    return header.pack() + rng.bytes(size)


def mutate(rng: np.random.Generator, data: bytearray) -> None:
    """Flip, cut, insert or repeat, in place."""
    at = int(rng.integers(0, max(1, len(data))))
    match int(rng.integers(0, 5)):
        case 0 if data:
            data[at % len(data)] ^= 1 << int(rng.integers(0, 8))
        case 1:
            del data[at : at + int(rng.integers(1, 80))]
        case 2:
            data[at:at] = rng.bytes(int(rng.integers(1, 80)))
        case 3:
            data[at:at] = data[at : at + int(rng.integers(1, HEADER_BYTES))]
        case _:
            data[at:at] = b"EGF1" * int(rng.integers(1, 9))


def fuzz(seed: int, cases: int) -> int:
    """Feed `cases` damaged streams in random pieces; returns how many images came out. Raises on any broken promise."""
    rng = np.random.default_rng(seed)
    images = 0
    for _ in range(cases):
        data = bytearray(b"".join(frame(rng, k) for k in range(int(rng.integers(1, 5)))))
        for _ in range(int(rng.integers(0, 6))):
            mutate(rng, data)
        decoder = FrameDecoder()
        at = 0
        while at < len(data):
            step = int(rng.integers(1, 400))
            for image in decoder.feed(bytes(data[at : at + step]), NOW_NS):
                assert isinstance(image, Image)
                assert image.pixels.ndim == 3
                assert 0 < image.stamp_ns <= NOW_NS
                images += 1
            at += step
        assert decoder.line_stats.bytes_received == len(data)
        assert decoder.line_stats.bytes_skipped <= len(data)
        assert all(count > 0 for count in decoder.drops.values())
        decoder.restart()
        assert not decoder.in_frame
        whole = frame(rng, 0)  # whatever came before, a new connection starts clean
        assert len(decoder.feed(whole, NOW_NS)) == 1
    return images


if __name__ == "__main__":
    print(fuzz(int(sys.argv[1]), int(sys.argv[2])))  # noqa: T201
