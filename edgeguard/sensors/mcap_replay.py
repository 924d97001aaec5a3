"""An MCAP recording of ours as sources: the same samples, at the same ticks, with the same stream totals.

A file that is cut, by a crash or by a copy that was stopped, plays up to the cut and says so in `notes`. Of other
people's MCAP files nothing is read: their channels do not say what our samples need.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from edgeguard.clock import Clock
from edgeguard.errors import RecordingError
from edgeguard.sensors.mcap_codec import FrameMessage, decode_frame, decode_sample
from edgeguard.sensors.mcap_file import Channel, McapFile
from edgeguard.sensors.mcap_write import FORMAT_VERSION, FRAME_TOPIC, METADATA
from edgeguard.sensors.recorded import RecordedSource, RecordedStream, recorded_ticks
from edgeguard.types import (
    GnssFix,
    Image,
    ImuSample,
    LineStats,
    PointCloud,
    RigCalibration,
    Sample,
    Scan2d,
    SourceInfo,
    Tick,
    WheelOdometry,
)

UNREADABLE = "unreadable"
_KINDS: Mapping[str, type] = {
    kind.__name__: kind for kind in (Image, PointCloud, ImuSample, GnssFix, WheelOdometry, Scan2d)
}
_KIND_OF_SCHEMA: Mapping[str, type] = {
    "foxglove.CompressedImage": Image,
    "foxglove.RawImage": Image,
    "foxglove.PointCloud": PointCloud,
    "edgeguard.Imu": ImuSample,
    "foxglove.LocationFix": GnssFix,
    "edgeguard.WheelOdometry": WheelOdometry,
    "foxglove.LaserScan": Scan2d,
}
_MAX_SHIFT_NS = 2**62
_HINT = "edgeguard reads the .mcap files it wrote: edgeguard replay --record FILE.mcap"


class _About(msgspec.Struct):
    kind: str
    period_ns: int


class _Rig(msgspec.Struct):
    camera_matrix: list[list[float]]
    T_cam_lidar: list[list[float]]
    image_size_px: tuple[int, int]
    lidar_height_m: float
    distortion: tuple[float, ...] = ()
    R_cam_imu: list[list[float]] | None = None


class McapRecording:
    """One file, samples read lazily; it stays open as long as the object lives.

    Raises:
        RecordingError: EG-N079 no MCAP file, or none of ours and of this version.

    Attributes:
        calibration: of camera and lidar, where the file has it.
        notes: what a reader of results should know about the file, one mapping each with a `kind`.
    """

    def __init__(self, path: Path) -> None:
        self._file = McapFile(path)
        self.notes: list[dict[str, Any]] = []
        try:
            about = self._file.metadata.get(METADATA, {})
            if about.get("version") != str(FORMAT_VERSION):
                raise self._bad("is no EdgeGuard recording of a version that is read")
            self._shift_ns = _integer(about.get("shift_ns", "0"))
            self.calibration = _calibration(about.get("calibration", ""))
            self._streams = self._find_streams(_sensors(about.get("sensors", "")))
            self._frames = self._find_frames()
        except (msgspec.DecodeError, ValueError) as error:
            self._file.close()
            raise self._bad("has a head that does not make sense") from error
        except BaseException:
            self._file.close()
            raise
        if self._file.cut_at is not None:
            self.notes.append({"kind": "truncated", "reason": f"the file ends at byte {self._file.cut_at}"})
        if self._file.damaged_chunks:
            self.notes.append({"kind": "damaged", "chunks": self._file.damaged_chunks, "reason": "bad checksum"})

    def ticks(self) -> list[Tick]:
        """The ticks that were recorded; of a file without any, one per frame of the slowest camera or lidar."""
        if not self._frames:
            return recorded_ticks([s for s in self._streams.values() if len(s.stamps_ns)])
        return [Tick(f.frame, f.stamp_ns, f.discontinuity, frozenset(f.recording_gap)) for f in self._frames]

    def sources(self, clock: Clock) -> dict[str, McapSource]:
        """Fresh sources that replay on `clock`, by sensor."""
        return {name: McapSource(stream, clock, self._frames) for name, stream in self._streams.items()}

    # ---- finding ------------------------------------------------------------------------------------------------

    def _find_streams(self, sensors: Mapping[str, _About]) -> dict[str, RecordedStream]:
        streams: dict[str, RecordedStream] = {}
        for channel in self._file.channels.values():
            sensor = channel.metadata.get("sensor", "")
            about = sensors.get(sensor)
            kind = _KIND_OF_SCHEMA.get(channel.schema)
            if about is None or kind is None or sensor in streams or _KINDS.get(about.kind) is not kind:
                continue
            streams[sensor] = self._stream(sensor, kind, about.period_ns, channel)
        for sensor, about in sensors.items():  # a sensor that never spoke is part of the rig all the same
            if sensor not in streams and about.kind in _KINDS:
                kind = _KINDS[about.kind]
                streams[sensor] = self._stream(sensor, kind, about.period_ns, Channel("", "", {}))
        if not streams:
            raise self._bad("has no sensor")
        return streams

    def _stream(self, sensor: str, kind: type, period_ns: int, channel: Channel) -> RecordedStream:
        arrivals = np.array(channel.log_ns, np.uint64).astype(np.int64) - self._shift_ns
        # Messages stand in the file in the order they arrived; a file that says otherwise was edited.
        arrivals = np.maximum.accumulate(arrivals) if len(arrivals) else arrivals

        def load(i: int) -> Sample | str:
            data = self._file.message(channel, i)
            return UNREADABLE if data is None else decode_sample(channel.schema, sensor, data)

        info = SourceInfo(sensor, kind, max(1, period_ns), f"{self._file.name}:{channel.topic}")
        return RecordedStream(info, arrivals, load)

    def _find_frames(self) -> list[FrameMessage]:
        frames: list[FrameMessage] = []
        damaged = 0
        for channel in self._file.channels.values():
            if channel.topic != FRAME_TOPIC:
                continue
            for i in range(len(channel.log_ns)):
                data = self._file.message(channel, i)
                try:
                    frame = decode_frame(data or b"")
                except (msgspec.DecodeError, RecursionError):
                    damaged += 1
                    continue
                if not frames or frame.stamp_ns > frames[-1].stamp_ns:
                    frames.append(frame)
        if damaged:
            self.notes.append({"kind": "damaged", "frames": damaged, "reason": "ticks that cannot be read"})
        return frames

    def _bad(self, what: str) -> RecordingError:
        return RecordingError(f"{self._file.name} {what}", code="EG-N079", hint=_HINT)


class McapSource(RecordedSource):
    """One recorded stream. `line_stats` and `drops` are what the real source said at the tick the clock has reached,
    plus what the recording itself could not give."""

    def __init__(self, stream: RecordedStream, clock: Clock, frames: Sequence[FrameMessage]) -> None:
        super().__init__(stream.info, stream.stamps_ns, stream.load, clock)
        self._now_ns = clock.now_ns
        with_it = [(f.stamp_ns, f.streams[stream.info.sensor]) for f in frames if stream.info.sensor in f.streams]
        self._moments = array("q", [stamp for stamp, _ in with_it])
        self._told = [told for _, told in with_it]

    @property
    def line_stats(self) -> LineStats:
        told = self._current()
        mine = super().line_stats
        if told is None:
            return mine
        line = told.line_stats
        return LineStats(
            line.bytes_received,
            line.frames,
            line.checksum_failures + mine.checksum_failures,
            line.bytes_skipped,
            line.sequence_gaps,
        )

    @property
    def drops(self) -> Mapping[str, int]:
        told = self._current()
        total = dict(told.source_drops) if told is not None else {}
        for reason, count in super().drops.items():
            total[reason] = total.get(reason, 0) + count
        return MappingProxyType(total)

    def _current(self) -> FrameMessage.Stream | None:
        i = bisect.bisect_right(self._moments, self._now_ns())
        return self._told[i - 1] if i else None


def _integer(text: str) -> int:
    value = int(text)
    if abs(value) > _MAX_SHIFT_NS:
        raise ValueError(text)
    return value


def _sensors(text: str) -> dict[str, _About]:
    return msgspec.json.decode(text or "{}", type=dict[str, _About])


def _calibration(text: str) -> RigCalibration | None:
    if not text:
        return None
    rig = msgspec.json.decode(text, type=_Rig)
    K, T = np.array(rig.camera_matrix, np.float64), np.array(rig.T_cam_lidar, np.float64)
    width, height = rig.image_size_px
    if K.shape != (3, 3) or T.shape != (4, 4) or abs(np.linalg.det(K)) < 1e-6 or not 0 < width * height < 10**9:
        raise ValueError("calibration")
    turn = None if rig.R_cam_imu is None else np.array(rig.R_cam_imu, np.float64)
    if (turn is not None and turn.shape != (3, 3)) or len(rig.distortion) not in (0, 4, 5):
        raise ValueError("calibration")
    return RigCalibration(K, T, (width, height), rig.lidar_height_m, rig.distortion, turn)
