"""`FileCamera`: a video file or a folder of pictures as a camera, at its own pace."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import ConfigError, SensorOpenError
from edgeguard.sensors.camera_decode import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, UNDECODABLE, decode_image
from edgeguard.sensors.recorded import RecordedSource, median_period_ns
from edgeguard.types import CAMERA, Image, LineStats, Sample, SourceInfo

if TYPE_CHECKING:
    import cv2

MAX_PICTURES = 500_000
TRUNCATED, UNREADABLE = "truncated", "unreadable"
_SUFFIXES = (".png", ".jpg", ".jpeg")
# Names that are stamps: nanoseconds since 1970 have 19 digits, of a machine's uptime 10 at least.
_STAMP = re.compile(r"\d{10,19}")


class FileCamera:
    """A `Source` that gives each picture when the clock has come as far since `open` as the picture is into the file.

    Args:
        path: a video that OpenCV's FFmpeg reads, or a folder of .png and .jpg files. clock: injected.
        fps: of a folder whose file names are no nanosecond stamps; needed there, not used otherwise.

    `device_stamp_ns` is the file's own stamp. Raises (open): SensorOpenError EG-N055 when there is no picture in it;
    ConfigError EG-C122 when a folder needs `fps`.
    """

    def __init__(self, path: Path, clock: Clock, *, fps: float | None = None, sensor: str = CAMERA) -> None:
        self._path, self._clock, self._fps, self._sensor = path, clock, fps, sensor
        self._inner: RecordedSource | _Video | None = None
        self._info = SourceInfo(sensor, Image, round(NS_PER_S / (fps or 10.0)), str(path))

    @property
    def info(self) -> SourceInfo:
        """Its period is the file's own once open."""
        return self._info if self._inner is None else self._inner.info

    @property
    def exhausted(self) -> bool:
        return self._inner is not None and self._inner.exhausted

    @property
    def drops(self) -> Mapping[str, int]:
        return MappingProxyType({}) if self._inner is None else self._inner.drops

    @property
    def line_stats(self) -> LineStats:
        return LineStats() if self._inner is None else self._inner.line_stats

    def open(self) -> None:
        if self._inner is None:
            inner = self._folder() if self._path.is_dir() else self._video()
            inner.open()
            self._inner = inner

    def read(self, timeout_s: float) -> Sample | None:
        return None if self._inner is None else self._inner.read(timeout_s)

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _folder(self) -> RecordedSource:
        try:
            paths = sorted(p for p in self._path.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file())
        except OSError:
            paths = []
        if not paths or len(paths) > MAX_PICTURES:
            raise self._refused(f"holds no pictures, or more than {MAX_PICTURES}")
        stamps = self._stamps(paths)
        order = np.argsort(stamps, kind="stable")
        stamps, paths = stamps[order], [paths[i] for i in order]
        start_ns = self._clock.now_ns()

        def load(i: int) -> Sample | str:
            try:
                with paths[i].open("rb") as file:
                    pixels = decode_image(file.read(MAX_IMAGE_BYTES + 1))
            except OSError:
                return UNREADABLE
            if pixels is None:
                return UNDECODABLE
            stamp_ns = start_ns + int(stamps[i] - stamps[0])
            return Image(pixels, stamp_ns, self._sensor, int(stamps[i]))

        info = SourceInfo(self._sensor, Image, median_period_ns(stamps, self._info.period_ns), str(self._path))
        return RecordedSource(info, stamps - stamps[0] + start_ns, load, self._clock)

    def _stamps(self, paths: list[Path]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if all(_STAMP.fullmatch(p.stem) and int(p.stem) < 2**62 for p in paths):
            return np.array([int(p.stem) for p in paths], np.int64)
        if not self._fps or not 0.001 <= self._fps <= 10_000:
            raise ConfigError(
                f"file names in {self._path.name} are no nanosecond stamps", code="EG-C122", hint="state its frame rate"
            )
        period_ns = round(NS_PER_S / self._fps)
        return np.arange(len(paths), dtype=np.int64) * period_ns

    def _video(self) -> _Video:
        import cv2

        if not self._path.is_file():
            raise self._refused("is not there")
        try:
            capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        except cv2.error:
            capture = None
        if capture is None or not capture.isOpened():
            raise self._refused("is no video that OpenCV reads")
        width, height = (capture.get(p) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if not 0 < width * height <= MAX_IMAGE_PIXELS:
            capture.release()
            raise self._refused("has frames that are too large")
        rate = capture.get(cv2.CAP_PROP_FPS)
        period_ns = round(NS_PER_S / rate) if 0.001 < rate < 10_000 else self._info.period_ns
        return _Video(capture, SourceInfo(self._sensor, Image, period_ns, str(self._path)), self._clock)

    def _refused(self, what: str) -> SensorOpenError:
        return SensorOpenError(f"{self._path} {what}", code="EG-N055", hint="a video file, or a folder of .png or .jpg")


class _Video:
    """Frames in file order; each one is decoded when its time has come."""

    def __init__(self, capture: cv2.VideoCapture, info: SourceInfo, clock: Clock) -> None:
        self.info, self._clock = info, clock
        self._capture: cv2.VideoCapture | None = capture
        self._start_ns = clock.now_ns()
        self._offset_ns = -1
        self._frames = 0
        self._grabbed = False
        self.exhausted = False
        self._drops: Counter[str] = Counter()

    @property
    def drops(self) -> Mapping[str, int]:
        return MappingProxyType(dict(self._drops))

    @property
    def line_stats(self) -> LineStats:
        return LineStats(frames=self._frames, checksum_failures=self._drops[UNDECODABLE])

    def open(self) -> None:
        self._grab()

    def close(self) -> None:
        self.exhausted = True
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def read(self, timeout_s: float) -> Sample | None:
        deadline_ns = self._clock.now_ns() + int(max(timeout_s, 0.0) * NS_PER_S)
        while self._grabbed and self._capture is not None:
            stamp_ns = self._start_ns + self._offset_ns
            if stamp_ns > self._clock.now_ns():
                self._clock.wait_until_ns(min(stamp_ns, deadline_ns))
                if stamp_ns > deadline_ns:
                    return None
            done, pixels = self._capture.retrieve()
            told_ns = self._offset_ns
            self._grab()
            if done and pixels is not None and pixels.ndim == 3 and pixels.shape[2] == 3:
                self._frames += 1
                return Image(np.ascontiguousarray(pixels, np.uint8), stamp_ns, self.info.sensor, told_ns)
            self._drops[UNDECODABLE] += 1
        return None

    def _grab(self) -> None:
        """Step to the next frame and learn its time; at the end, count what the file promised and did not hold."""
        import cv2

        capture = self._capture
        assert capture is not None  # noqa: S101 - only `close` takes it away
        try:
            self._grabbed = capture.grab()
        except cv2.error:
            self._grabbed = False
        if self._grabbed:
            told_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            # Containers without usable times repeat one; frames still follow each other at the nominal rate.
            self._offset_ns = told_ns if told_ns > self._offset_ns else self._offset_ns + self.info.period_ns
            return
        self.exhausted = True
        promised = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        missing = promised - self._frames - self._drops[UNDECODABLE] - 1
        if missing > 0:
            self._drops[TRUNCATED] = missing
