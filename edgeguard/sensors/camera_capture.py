"""Cameras through OpenCV: V4L2 devices and RTSP streams. grab(), stamp, retrieve."""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import ConfigError, SensorOpenError
from edgeguard.sensors.camera import ThreadedCamera
from edgeguard.sensors.camera_decode import MAX_IMAGE_PIXELS, UNDECODABLE
from edgeguard.types import CAMERA, Image, SourceInfo

if TYPE_CHECKING:
    import cv2

WRONG_SIZE = "wrong_size"
# Drivers round frame intervals: 30 fps is 29.97 on many.
FPS_TOLERANCE = 0.02
OPEN_TIMEOUT_MS, READ_TIMEOUT_MS = 5000, 3000
DEFAULT_FPS = 30.0
_FOURCC = re.compile(r"[A-Z0-9]{4}")


class CaptureCamera(ThreadedCamera):
    """A `cv2.VideoCapture` of any backend.

    Args:
        target: what OpenCV opens. backend: such as cv2.CAP_V4L2. parameters: of VideoCapture, in pairs.
        info: its origin is what errors name, so it must hold no secret. clock: frames are stamped with it at grab.
        size_px: (width, height) to set, or None for the device's own; a device that gives another is refused.
        fps: likewise. fourcc: likewise, such as ``MJPG``.

    Raises (open):
        SensorOpenError: EG-N050 cannot be opened, EG-N051 does not take a setting, EG-N052 opened but gives no frame.
    """

    def __init__(
        self,
        target: int | str,
        backend: int,
        info: SourceInfo,
        clock: Clock,
        *,
        parameters: Sequence[int] = (),
        size_px: tuple[int, int] | None = None,
        fps: float | None = None,
        fourcc: str | None = None,
    ) -> None:
        super().__init__(info, clock)
        if fourcc is not None and not _FOURCC.fullmatch(fourcc):
            raise ConfigError(f"{fourcc!r} is no pixel format code", code="EG-C121", hint="such as MJPG or YUYV")
        self._target, self._backend, self._parameters = target, backend, list(parameters)
        self._size_px, self._fps, self._fourcc = size_px, fps, fourcc
        self._capture: cv2.VideoCapture | None = None
        self._first: Image | None = None

    def _connect(self) -> None:
        import cv2

        try:
            capture = cv2.VideoCapture(self._target, self._backend, self._parameters)
        except cv2.error:
            capture = None
        if capture is None or not capture.isOpened():
            raise self._refused("cannot be opened", "EG-N050", self._open_hint())
        try:
            self._apply(capture)
            first = self._grab(capture)
        except SensorOpenError:
            capture.release()
            raise
        if not isinstance(first, Image):
            capture.release()
            raise self._refused(f"opened but gives no frame ({first or 'none came'})", "EG-N052", "is it in use?")
        self._capture, self._first = capture, first

    def _next(self) -> Image | str | None:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        capture = self._capture
        frame = self._grab(capture) if capture is not None else None
        if frame is None:
            raise self._gone("went away")
        return frame

    def _disconnect(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _grab(self, capture: cv2.VideoCapture) -> Image | str | None:
        """One frame, a drop reason, or None when the device gives nothing any more."""
        import cv2

        try:
            if not capture.grab():
                return None
            stamp_ns = self._clock.now_ns()
            done, pixels = capture.retrieve()
        except cv2.error:
            return UNDECODABLE
        if not done or pixels is None or pixels.dtype != np.uint8 or pixels.size > 3 * MAX_IMAGE_PIXELS:
            return UNDECODABLE
        if pixels.ndim == 2:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
        height, width = pixels.shape[:2]
        if pixels.shape[2] != 3 or (self._size_px is not None and (width, height) != self._size_px):
            return WRONG_SIZE
        return Image(pixels, stamp_ns, self._info.sensor)

    def _apply(self, capture: cv2.VideoCapture) -> None:
        """Set what was asked, in the order drivers need it, and believe only what reads back."""
        import cv2

        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not the oldest; not every backend can
        if self._fourcc is not None:
            wanted = cv2.VideoWriter.fourcc(*self._fourcc)
            capture.set(cv2.CAP_PROP_FOURCC, wanted)
            self._require("pixel format", int(capture.get(cv2.CAP_PROP_FOURCC)) == wanted, self._fourcc)
        if self._size_px is not None:
            width, height = self._size_px
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
            given = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
            self._require("size", given == self._size_px, f"{width}x{height}, it gives {given[0]}x{given[1]}")
        if self._fps is not None:
            capture.set(cv2.CAP_PROP_FPS, self._fps)
            rate = capture.get(cv2.CAP_PROP_FPS)
            near = abs(rate - self._fps) <= FPS_TOLERANCE * self._fps
            self._require("frame rate", near, f"{self._fps:g} fps, it gives {rate:g}")

    def _require(self, what: str, held: bool, asked: str) -> None:
        if not held:
            raise self._refused(
                f"does not take the {what} {asked}", "EG-N051", "v4l2-ctl --list-formats-ext shows what"
            )

    def _refused(self, what: str, code: str, hint: str) -> SensorOpenError:
        return SensorOpenError(f"camera {self._info.origin} of sensor {self._info.sensor} {what}", code=code, hint=hint)

    def _open_hint(self) -> str:
        return "check the path and that no other program uses it"


class V4l2Camera(CaptureCamera):
    """A camera of this machine.

    Args:
        device: number, or path such as ``/dev/v4l/by-id/...-video-index0``, which stays the same over reboots.
        clock: frames are stamped with it when the driver hands them over; exposure was a frame time earlier at most.
        size_px, fps, fourcc: set on open and read back; a camera that does something else is an error, not a surprise.
        sensor: the sensor's name.

    Raises:
        ConfigError: EG-C121 when `device` is no path under /dev.
    """

    def __init__(
        self,
        device: int | str,
        clock: Clock,
        *,
        size_px: tuple[int, int] | None = None,
        fps: float | None = None,
        fourcc: str | None = None,
        sensor: str = CAMERA,
    ) -> None:
        import cv2

        path = f"/dev/video{device}" if isinstance(device, int) else device
        if not path.startswith("/dev/") or ".." in path:
            raise ConfigError(f"{path} is no camera device", code="EG-C121", hint="a number, or a path under /dev")
        self._path = path
        info = SourceInfo(sensor, Image, round(NS_PER_S / (fps or DEFAULT_FPS)), path)
        super().__init__(path, cv2.CAP_V4L2, info, clock, size_px=size_px, fps=fps, fourcc=fourcc)

    def _connect(self) -> None:
        # OpenCV only says no; the reason is worth having.
        try:
            mode = Path(self._path).stat().st_mode
        except PermissionError:
            raise self._refused("is not permitted", "EG-N050", "join the group video") from None
        except OSError:
            raise self._refused("is not there", "EG-N050", "edgeguard find lists cameras") from None
        if not stat.S_ISCHR(mode):
            raise self._refused("is no device", "EG-N050", "edgeguard find lists cameras")
        # A by-id link leads to the real node; OpenCV opens /dev/videoN only.
        self._target = str(Path(self._path).resolve())
        super()._connect()

    def _open_hint(self) -> str:
        return "is it a camera, is it in use, and are you in the group video? edgeguard find"


class RtspCamera(CaptureCamera):
    """A network camera, over TCP.

    Args:
        url: ``rtsp://`` or ``rtsps://``; a user name and password in it appear in no message, log or `info`.
        clock: frames are stamped on arrival: the network's delay is in the stamp, and nothing can tell it.
        fps: nominal; what the stream claims is not asked.
        open_timeout_ms, read_timeout_ms: how long a server may stay silent.

    Raises:
        ConfigError: EG-C121 when the URL is none.
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        fps: float = DEFAULT_FPS,
        size_px: tuple[int, int] | None = None,
        sensor: str = CAMERA,
        open_timeout_ms: int = OPEN_TIMEOUT_MS,
        read_timeout_ms: int = READ_TIMEOUT_MS,
    ) -> None:
        import cv2

        info = SourceInfo(sensor, Image, round(NS_PER_S / fps), _without_secrets(url))
        parameters = (
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, open_timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, read_timeout_ms,
        )  # fmt: skip
        super().__init__(url, cv2.CAP_FFMPEG, info, clock, parameters=parameters)
        self._expected_px = size_px

    def _grab(self, capture: cv2.VideoCapture) -> Image | str | None:
        frame = super()._grab(capture)
        if isinstance(frame, Image) and self._expected_px not in (None, (frame.pixels.shape[1], frame.pixels.shape[0])):
            return WRONG_SIZE
        return frame

    def _open_hint(self) -> str:
        return "check address, user name and password, and that the camera answers"


def _without_secrets(url: str) -> str:
    """Scheme, host, port and path; user, password and query are left out."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("rtsp", "rtsps") or not host or not url.isprintable() or " " in url:
        raise ConfigError("the camera's address is no rtsp URL", code="EG-C121", hint="rtsp://host:554/path")
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"
