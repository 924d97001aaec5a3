"""One recording as an MCAP file that a crash cannot take away: docs/recording.md.

Messages go into small chunks that are handed to the system as soon as they are full, so that a process that dies
loses at most `CHUNK_BYTES`; once a second the file is forced to the disk, for the power cut.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeguard import __version__
from edgeguard.clock import NS_PER_S
from edgeguard.errors import EnvironmentMissingError, RecordingError
from edgeguard.sensors.mcap_codec import (
    LOG_ERROR,
    LOG_INFO,
    LOG_WARNING,
    encode_camera_calibration,
    encode_frame,
    encode_json,
    encode_log,
    encode_pose,
    encode_sample,
    encode_transform,
    schema_of,
)
from edgeguard.sensors.mcap_schemas import SCHEMAS
from edgeguard.types import FrameResult, RigCalibration, Sample, SourceInfo, Verdict

if TYPE_CHECKING:
    from mcap.writer import Writer

FORMAT_VERSION = 1
METADATA = "edgeguard.recording"
FRAME_TOPIC = "/edgeguard/frame"
CHUNK_BYTES = 64 * 1024
SYNC_NS = NS_PER_S
IMAGE_CODINGS = ("png", "raw", "jpeg")
_LOG_LEVEL = {Verdict.PASS: LOG_INFO, Verdict.DEGRADE: LOG_WARNING}


class McapSink:
    """Writes samples and results to a new file.

    Args:
        path: must not exist; made readable for its owner only, because it is a recording of a place and its people.
        infos: of every source that is recorded. calibration: of camera and lidar, or None.
        start_ns: the pipeline's time now. shift_ns: what is added to the pipeline's time to give the file's wall time.
        images: ``png`` or ``raw`` (lossless), ``jpeg`` (not).

    Raises:
        EnvironmentMissingError: EG-E050 without the package mcap.
        RecordingError: EG-N078 when the file exists or cannot be made.
    """

    def __init__(
        self,
        path: Path,
        infos: Sequence[SourceInfo],
        calibration: RigCalibration | None = None,
        *,
        start_ns: int = 0,
        shift_ns: int = 0,
        images: str = "png",
    ) -> None:
        try:
            from mcap.writer import CompressionType, Writer
        except ImportError:
            raise EnvironmentMissingError(
                "recording needs the package mcap", code="EG-E050", hint="pip install 'edgeguard[record]'"
            ) from None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(path, flags, 0o600), "wb")
        except OSError as error:
            raise RecordingError(
                f"cannot record to {path}: {error.strerror}",
                code="EG-N078",
                hint="name a new file in a writable folder",
            ) from None
        self._shift_ns, self._images = shift_ns, images
        self._writer: Writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.ZSTD)
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._sequence: dict[int, int] = {}
        self._synced_ns: int | None = None
        self._verdict: Verdict | None = None
        self._writer.start(profile="", library=f"edgeguard {__version__}")
        self._infos = {info.sensor: info for info in infos}
        self._writer.add_metadata(METADATA, self._about(calibration))
        if calibration is not None:
            for topic, schema, encode in (
                ("/camera/calibration", "foxglove.CameraCalibration", encode_camera_calibration),
                ("/tf", "foxglove.FrameTransform", encode_transform),
            ):
                self._add(topic, schema, start_ns, start_ns + shift_ns, encode(calibration, start_ns + shift_ns))
        self._file.flush()

    @property
    def size_bytes(self) -> int:
        """How long the file is now."""
        return self._file.tell()

    def write_sample(self, arrival_ns: int, sample: Sample) -> None:
        schema = schema_of(sample, self._images)
        data = encode_sample(sample, self._shift_ns, self._images)
        about = {"sensor": sample.sensor}
        self._add(f"/{sample.sensor}", schema, arrival_ns, sample.stamp_ns + self._shift_ns, data, about)

    def write_frame(self, frame: FrameResult, source_drops: Mapping[str, Mapping[str, int]]) -> None:
        stamp_ns = frame.synced.stamp_ns
        wall_ns = stamp_ns + self._shift_ns
        data = encode_frame(frame, source_drops, self._shift_ns)
        self._add(FRAME_TOPIC, "edgeguard.Frame", stamp_ns, wall_ns, data)
        if frame.fused.ego is not None:
            self._add("/ego", "foxglove.PoseInFrame", stamp_ns, wall_ns, encode_pose(frame.fused.ego, wall_ns))
        if frame.verdict is not self._verdict:
            self._verdict = frame.verdict
            level = _LOG_LEVEL.get(frame.verdict, LOG_ERROR)
            text = f"{frame.verdict.value}: {frame.verdict_reason}"
            self._add("/log", "foxglove.Log", stamp_ns, wall_ns, encode_log(wall_ns, level, text))

    def flush(self, now_ns: int) -> None:
        """Hand what is in whole chunks to the system; once a second, force it to the disk."""
        self._file.flush()
        if self._synced_ns is None or now_ns - self._synced_ns >= SYNC_NS:
            os.fdatasync(self._file.fileno())
            self._synced_ns = now_ns

    def close(self) -> None:
        """Write the summary and close; the descriptor is closed even when the disk refuses.

        Raises:
            OSError: what could not be written stays out; everything before is readable.
        """
        try:
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the descriptor without another byte, as a crash would."""
        try:
            self._file.close()
        except OSError:
            return  # the buffer could not be written, and is gone with it

    def _about(self, calibration: RigCalibration | None) -> dict[str, str]:
        about: dict[str, str] = {
            "version": str(FORMAT_VERSION),
            "shift_ns": str(self._shift_ns),
            "images": self._images,
            "sensors": encode_json({
                name: {"kind": info.kind.__name__, "period_ns": info.period_ns} for name, info in self._infos.items()
            }).decode(),
        }  # fmt: skip
        if calibration is not None:
            rig: dict[str, Any] = {
                "camera_matrix": calibration.camera_matrix.tolist(),
                "T_cam_lidar": calibration.T_cam_lidar.tolist(),
                "image_size_px": list(calibration.image_size_px),
                "lidar_height_m": calibration.lidar_height_m,
                "distortion": list(calibration.distortion),
                "R_cam_imu": None if calibration.R_cam_imu is None else calibration.R_cam_imu.tolist(),
            }
            about["calibration"] = encode_json(rig).decode()
        return about

    def _add(
        self, topic: str, schema: str, log_ns: int, publish_ns: int, data: bytes, about: dict[str, str] | None = None
    ) -> None:
        channel = self._channels.get(topic)
        if channel is None:
            if schema not in self._schemas:
                self._schemas[schema] = self._writer.register_schema(schema, "jsonschema", SCHEMAS[schema])
            channel = self._writer.register_channel(topic, "json", self._schemas[schema], about or {})
            self._channels[topic] = channel
        number = self._sequence.get(channel, 0)
        self._sequence[channel] = (number + 1) & 0xFFFFFFFF
        # MCAP times are unsigned: a shift that makes one negative would only come from a broken wall clock.
        self._writer.add_message(channel, max(0, log_ns + self._shift_ns), data, max(0, publish_ns), number)
