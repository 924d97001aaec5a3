"""`FrameSender`: the other end of the frame socket, for a capture script of its own (picamera2, a vendor's library).

It needs only NumPy and the standard library; examples/picamera2_sender.py shows it in use.
"""

from __future__ import annotations

import socket
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import ConfigError, SensorDisconnectedError
from edgeguard.sensors.frame_wire import FrameHeader, PixelFormat, expected_payload_bytes


class FrameSender:
    """Sends frames to an EdgeGuard that listens on `path`, or to a pipe. A context manager.

    Args:
        target: the socket's path, or a binary stream such as ``sys.stdout.buffer``.
        checksum: send a CRC-32 with every payload; about 1 ms per megabyte.

    Raises:
        SensorDisconnectedError: EG-N002 when nobody listens, or the receiver went away or refused us.
    """

    def __init__(self, target: str | Path | BinaryIO, *, checksum: bool = True) -> None:
        self._checksum = checksum
        self._sequence = 0
        self._socket: socket.socket | None = None
        self._stream: BinaryIO | None = None
        if isinstance(target, str | Path):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(str(target))
            except OSError as error:
                connection.close()
                raise SensorDisconnectedError(
                    f"nobody listens on {target}: {error.strerror}", hint="start edgeguard first, as the same user"
                ) from None
            self._socket = connection
        else:
            self._stream = target

    def send(
        self,
        pixels: NDArray[np.uint8] | bytes,
        pixel_format: PixelFormat,
        size_px: tuple[int, int],
        *,
        stamp_ns: int = 0,
        exposure_ns: int = 0,
        device_stamp_ns: int = 0,
    ) -> None:
        """Send one frame.

        Args:
            pixels: (rows, stride) or (H, W, 3) uint8, or the bytes of one JPEG. size_px: (width, height).
            stamp_ns: CLOCK_MONOTONIC of the exposure (`time.monotonic_ns()`), 0 when not known.

        Raises:
            ConfigError: EG-C121 when pixels, format and size do not fit each other.
            SensorDisconnectedError: EG-N002 when the receiver went away.
        """
        width, height = size_px
        stride, payload = 0, pixels if isinstance(pixels, bytes) else b""
        if not isinstance(pixels, bytes):
            rows = np.ascontiguousarray(pixels, np.uint8)
            stride = int(rows[0].size) if rows.ndim >= 2 and len(rows) else 0
            payload = rows.tobytes()
        crc = zlib.crc32(payload) if self._checksum else 0
        header = FrameHeader(
            int(pixel_format), width, height, stride, len(payload), crc, self._sequence, stamp_ns, exposure_ns,
            device_stamp_ns,
        )  # fmt: skip
        if expected_payload_bytes(header) != len(payload):
            raise ConfigError(
                f"{len(payload)} bytes are no {width}x{height} frame of format {pixel_format}", code="EG-C121",
                hint="docs/formats/frame-socket.md lists the formats",
            )  # fmt: skip
        self._sequence += 1
        try:
            if self._socket is not None:
                self._socket.sendall(header.pack())
                self._socket.sendall(payload)
            elif self._stream is not None:
                self._stream.write(header.pack())
                self._stream.write(payload)
                self._stream.flush()
        except (OSError, ValueError):
            raise SensorDisconnectedError("the receiver of the frames went away", hint="connect again") from None

    def close(self) -> None:
        """Close the socket; a stream stays its owner's."""
        if self._socket is not None:
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
