"""Cameras whose frames another program writes to its standard output: GStreamer, or anything that writes our frames.

The child is started from an argument list, never through a shell, in its own session, with nothing on its input and
its messages thrown away; it is ended with the source. OpenCV's wheels have no GStreamer; the program has.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import subprocess
from abc import abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import ConfigError, EnvironmentMissingError, SensorOpenError
from edgeguard.sensors.camera import ThreadedCamera
from edgeguard.sensors.camera_decode import MAX_IMAGE_PIXELS
from edgeguard.sensors.frame_wire import FrameDecoder
from edgeguard.types import CAMERA, Image, LineStats, SourceInfo

READ_BYTES = 1 << 20
POLL_MS = 200  # how often a silent child is asked whether it lives
TERMINATE_TIMEOUT_S = 2.0
FIRST_FRAME_POLLS = 50  # ten seconds: some sensors take five to start
MAX_ARGUMENTS = 256
_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ is missing in Python 3.11's module on some platforms


class _ChildCamera(ThreadedCamera):
    """A child process and its pipe."""

    def __init__(self, argv: Sequence[str], info: SourceInfo, clock: Clock) -> None:
        super().__init__(info, clock)
        if not argv or len(argv) > MAX_ARGUMENTS or any("\0" in a for a in argv):
            raise ConfigError(
                "the camera's command is empty or no list of words", code="EG-C121", hint="argv as a list"
            )
        self._argv = list(argv)
        self._child: subprocess.Popen[bytes] | None = None
        self._ready: deque[Image] = deque()

    def _connect(self) -> None:
        program = shutil.which(self._argv[0])
        if program is None:
            raise EnvironmentMissingError(
                f"program {self._argv[0]} of sensor {self._info.sensor} is not installed", code="EG-E051",
                hint="apt install gstreamer1.0-tools gstreamer1.0-plugins-base for gst-launch-1.0",
            )  # fmt: skip
        try:
            child = subprocess.Popen(  # noqa: S603 - an argument list from the owner's configuration
                [program, *self._argv[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, start_new_session=True, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            raise self._refused(f"cannot be started: {error.strerror}") from None
        self._child = child
        self._ready.clear()
        with contextlib.suppress(OSError):  # a smaller pipe only means more reads
            fcntl.fcntl(self._descriptor(), _F_SETPIPE_SZ, READ_BYTES)
        self._restart()
        try:
            for _ in range(FIRST_FRAME_POLLS):
                self._receive()
                if self._ready:
                    return
                if child.poll() is not None:
                    raise self._refused(f"ended with status {child.returncode} before its first frame")
            raise self._refused("gives no frame")
        except BaseException:
            self._disconnect()
            raise

    def _next(self) -> Image | str | None:
        if not self._ready:
            child = self._child
            if child is None or (not self._receive() and child.poll() is not None):
                raise self._gone("has ended")
        return self._ready.popleft() if self._ready else None

    def _disconnect(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if child.stdout is not None:
            child.stdout.close()
        child.terminate()
        try:
            child.wait(TERMINATE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _receive(self) -> bool:
        """Wait a little for bytes and take them; False when none came."""
        descriptor = self._descriptor()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(POLL_MS):
            return False
        try:
            data = os.read(descriptor, READ_BYTES)
        except OSError:
            return False
        if data:
            self._ready.extend(self._take(data, self._clock.now_ns()))
        return bool(data)

    def _descriptor(self) -> int:
        assert self._child is not None  # noqa: S101 - between connect and disconnect
        assert self._child.stdout is not None  # noqa: S101
        return self._child.stdout.fileno()

    def _restart(self) -> None:
        """A new child: what an old one began is void."""

    @abstractmethod
    def _take(self, data: bytes, now_ns: int) -> Sequence[Image]:
        """Return the frames that `data` completes."""

    def _refused(self, what: str) -> SensorOpenError:
        return SensorOpenError(
            f"camera {self._info.origin} of sensor {self._info.sensor} {what}", code="EG-N053",
            hint="run the command by hand to see what it says",
        )  # fmt: skip


class GstPipeCamera(_ChildCamera):
    """A GStreamer pipeline, run by gst-launch-1.0, as a camera.

    Args:
        elements: the pipeline up to raw video, one word an item: ``["v4l2src", "device=/dev/video0", "!",
            "videoconvert"]``. What converts it to BGR of the given size and rate, and writes it out, is added here.
        size_px: (width, height), both fixed by caps. fps: likewise, a whole number.
        clock: frames are stamped when their last byte arrives.

    Raises:
        ConfigError: EG-C121 when size or rate cannot be.
        On open: EnvironmentMissingError EG-E051 without gst-launch-1.0, SensorOpenError EG-N053 when the pipeline
        does not give frames (`ended with status 1` means that it could not be built).
    """

    def __init__(
        self, elements: Sequence[str], size_px: tuple[int, int], fps: int, clock: Clock, *, sensor: str = CAMERA
    ) -> None:
        width, height = size_px
        if not (width > 0 and height > 0 and width * height <= MAX_IMAGE_PIXELS and 0 < fps <= 1000):
            raise ConfigError(
                f"no camera gives {width}x{height} at {fps} fps", code="EG-C121", hint="check size_px, fps"
            )
        caps = f"video/x-raw,format=BGR,width={width},height={height},framerate={fps}/1"
        argv = ["gst-launch-1.0", "-q", *elements, "!", caps, "!", "fdsink", "fd=1", "sync=false"]
        super().__init__(argv, SourceInfo(sensor, Image, NS_PER_S // fps, "gst-launch-1.0"), clock)
        self._size_px = size_px
        # GStreamer pads rows of packed RGB to four bytes.
        self._stride_bytes = (3 * width + 3) & ~3
        self._buffer = bytearray()

    def _restart(self) -> None:
        self._buffer.clear()

    def _take(self, data: bytes, now_ns: int) -> Sequence[Image]:
        width, height = self._size_px
        frame_bytes = self._stride_bytes * height
        self._buffer += data
        images = []
        while len(self._buffer) >= frame_bytes:
            rows = np.frombuffer(bytes(self._buffer[:frame_bytes]), np.uint8).reshape(height, self._stride_bytes)
            del self._buffer[:frame_bytes]
            pixels = np.ascontiguousarray(rows[:, : 3 * width].reshape(height, width, 3))
            images.append(Image(pixels, now_ns, self._info.sensor))
        return images


class ProgramCamera(_ChildCamera):
    """Any program that writes frames in the format of docs/formats/frame-socket.md to its standard output.

    Args:
        argv: the command, as a list. fps: nominal. clock: must be the machine's monotonic one for the stamps that the
            frames bear; a frame without one is stamped on arrival.

    Raises (open): as `GstPipeCamera`.
    """

    def __init__(self, argv: Sequence[str], fps: float, clock: Clock, *, sensor: str = CAMERA) -> None:
        super().__init__(argv, SourceInfo(sensor, Image, round(NS_PER_S / fps), argv[0] if argv else ""), clock)
        self._decoder = FrameDecoder(sensor)

    @property
    def drops(self) -> Mapping[str, int]:
        return joined_drops(super().drops, self._decoder.drops)

    @property
    def line_stats(self) -> LineStats:
        return self._decoder.line_stats

    def _restart(self) -> None:
        self._decoder.restart()

    def _take(self, data: bytes, now_ns: int) -> Sequence[Image]:
        return self._decoder.feed(data, now_ns)


def joined_drops(queue: Mapping[str, int], wire: Mapping[str, int]) -> Mapping[str, int]:
    """Totals of a camera's queue and of its decoder; they share no reason but by accident."""
    return MappingProxyType({**wire, **{k: v + wire.get(k, 0) for k, v in queue.items()}})
