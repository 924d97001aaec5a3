"""KITTI recordings as sources: the raw layout and a flat one.

Layouts read (camera 2 and the Velodyne; other cameras are ignored):

* raw: ``image_02/data/N.png``, ``velodyne_points/data/N.bin``, ``timestamps.txt`` in both folders;
* flat: ``image_02/N.png``, ``velodyne/N.bin``.

``calib_cam_to_cam.txt`` and ``calib_velo_to_cam.txt`` lie beside them or in one of the two folders above (raw KITTI
keeps them with the day). Without usable timestamps, frame N is at N * 103.15 ms, the device's measured period.

What is the recording's fault and what is the sensor's: a number missing in one stream is a recording gap; a *last*
file that is cut short is the end of the recording; a file in the middle that does not decode is that sensor's fault at
that tick: the sample is missing, the source counts it in `drops` and in `line_stats.checksum_failures`.
Reference: Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import RecordingError
from edgeguard.sensors.camera_decode import MAX_IMAGE_BYTES, PNG_MAGIC, UNDECODABLE, decode_image
from edgeguard.sensors.recorded import RecordedSource
from edgeguard.types import CAMERA, LIDAR, Image, PointCloud, RigCalibration, Sample, SourceInfo, Tick

PERIOD_NS = 103_150_000  # the Velodyne's own, which triggers the cameras
MAX_FRAMES = 200_000  # five and a half hours; a folder with more is not one drive
MAX_SWEEP_BYTES = 32 * 1024**2  # 2 M points; a KITTI sweep has 0.12 M
MAX_TEXT_BYTES = 16 * 1024**2  # timestamps of MAX_FRAMES frames, with room
POINT_BYTES = 16  # x, y, z, reflectance as float32
COMPARED_SWEEPS = 5  # earlier sweeps that say where a sweep ends
END_SLACK_DEG = 45.0  # ends differ by a few degrees between sweeps; 45 deg of one ring are 250 returns of 115 000
LIDAR_HEIGHT_M = 1.73  # sensor setup figure of the dataset
_NUMBER = re.compile(r"\d{1,12}")

BAD_SIZE, NOT_FINITE, UNREADABLE = "bad_size", "not_finite", "unreadable"


@dataclass(frozen=True, slots=True)
class _Stream:
    """One sensor's files: number -> path, and number -> stamp."""

    sensor: str
    files: Mapping[int, Path]
    stamps_ns: Mapping[int, int]


class KittiRecording:
    """One drive, read lazily.

    Args:
        directory: the drive's folder.

    Raises:
        RecordingError: EG-N010 no such layout, EG-N011 no or bad calibration, EG-N012 no frames or too many.

    Attributes:
        calibration: rectification, intrinsics and extrinsics folded into K and T_cam_lidar.
        notes: what a reader of results should know about the file, one mapping each with a `kind`.
    """

    def __init__(self, directory: Path) -> None:
        directory = Path(directory)
        images, sweeps = _stream_folders(directory)
        self.directory = directory
        self.notes: list[dict[str, Any]] = []
        self.calibration = read_calibration(directory)
        image_files, sweep_files = _numbered(images, ".png"), _numbered(sweeps, ".bin")
        if not image_files and not sweep_files:
            raise RecordingError(
                f"no frames in {directory}", code="EG-N012", hint="expected numbered .png and .bin files"
            )
        self._drop_cut_end(image_files, sweep_files)
        numbers = sorted(set(image_files) | set(sweep_files))
        camera_ns, lidar_ns = self._stamps(images, image_files, sweeps, sweep_files, numbers)
        self._streams = {
            CAMERA: _Stream(CAMERA, image_files, camera_ns),
            LIDAR: _Stream(LIDAR, sweep_files, lidar_ns),
        }
        self._numbers = numbers
        self._sources: dict[str, RecordedSource] = {}

    @property
    def frames(self) -> tuple[int, ...]:
        """Frame numbers in playing order."""
        return tuple(self._numbers)

    @property
    def drops(self) -> Mapping[str, Mapping[str, int]]:
        """Per sensor, how many samples were lost for which reason so far, over the sources last made."""
        return {name: dict(source.drops) for name, source in self._sources.items()}

    def ticks(self) -> Iterator[Tick]:
        """One tick per frame number, at the later of its stamps, so that both samples are readable then."""
        period_ns = self._period_ns()
        previous: int | None = None
        for number in self._numbers:
            present = [s for s in self._streams.values() if number in s.files]
            stamp_ns = max(s.stamps_ns[number] for s in present)
            if previous is not None:
                stamp_ns = max(stamp_ns, previous + 1)
            yield Tick(
                frame=number,
                stamp_ns=stamp_ns,
                discontinuity=previous is not None and stamp_ns - previous > 1.5 * period_ns,
                recording_gap=frozenset(s.sensor for s in self._streams.values() if number not in s.files),
            )
            previous = stamp_ns

    def sources(self, clock: Clock) -> dict[str, RecordedSource]:
        """Fresh sources for ``camera`` and ``lidar``; a sample can be read once `clock` has reached its stamp."""
        self._sources = {name: self._source(stream, clock) for name, stream in self._streams.items()}
        return dict(self._sources)

    def _source(self, stream: _Stream, clock: Clock) -> RecordedSource:
        numbers = sorted(stream.files)
        decode = _decode_image if stream.sensor == CAMERA else decode_sweep
        limit = MAX_IMAGE_BYTES if stream.sensor == CAMERA else MAX_SWEEP_BYTES

        def load(index: int) -> Sample | str:
            number = numbers[index]
            data = _read_bounded(stream.files[number], limit)
            if data is None:
                return UNREADABLE
            sample, reason = decode(data, stream.stamps_ns[number])
            return reason if sample is None else sample

        folder = stream.files[numbers[0]].parent if numbers else Path()
        kind = Image if stream.sensor == CAMERA else PointCloud
        info = SourceInfo(stream.sensor, kind, self._period_ns(), str(folder))
        return RecordedSource(info, [stream.stamps_ns[n] for n in numbers], load, clock)

    def _period_ns(self) -> int:
        steps = [
            stream.stamps_ns[b] - stream.stamps_ns[a]
            for stream in self._streams.values()
            for a, b in itertools.pairwise(sorted(stream.files))
            if b == a + 1
        ]
        return int(np.median(steps)) if steps else PERIOD_NS

    def _drop_cut_end(self, images: dict[int, Path], sweeps: dict[int, Path]) -> None:
        """Recordings end where the writer was stopped: a last file that is cut goes, and its tick with it."""
        whole = {CAMERA: images, LIDAR: sweeps}
        end = max((*images, *sweeps))
        for sensor, files in whole.items():
            if not files:
                continue
            last = max(files)
            earlier = [files[n] for n in sorted(files)[-1 - COMPARED_SWEEPS : -1]]
            why = _cut_image(files[last]) if sensor == CAMERA else _cut_sweep(files[last], earlier)
            if why:
                tick_dropped = last == end
                for other in whole.values() if tick_dropped else (files,):
                    other.pop(last, None)
                self.notes.append(
                    {"kind": "truncated", "sensor": sensor, "frame": last, "reason": why, "tick_dropped": tick_dropped}
                )

    def _stamps(
        self, images: Path, image_files: dict[int, Path], sweeps: Path, sweep_files: dict[int, Path], numbers: list[int]
    ) -> tuple[dict[int, int], dict[int, int]]:
        camera = _read_stamps(images, image_files)
        lidar = _read_stamps(sweeps, sweep_files)
        if camera is None or lidar is None:
            if (_stamp_file(images) or _stamp_file(sweeps)) is not None:
                self.notes.append(
                    {"kind": "timestamps", "reason": "not usable for both streams; the nominal period is used"}
                )
            nominal = {n: n * PERIOD_NS for n in numbers}
            return nominal, nominal
        start = min((*camera.values(), *lidar.values()))
        return {n: t - start for n, t in camera.items()}, {n: t - start for n, t in lidar.items()}


def decode_sweep(data: bytes, stamp_ns: int) -> tuple[PointCloud | None, str]:
    """One ``.bin`` file as a cloud, or None and the drop reason. Reflectance is clipped to 0..1."""
    if not data or len(data) % POINT_BYTES:
        return None, BAD_SIZE
    points = np.frombuffer(data, dtype="<f4").reshape(-1, 4)
    if not np.isfinite(points).all():
        return None, NOT_FINITE
    xyz = np.ascontiguousarray(points[:, :3], dtype=np.float32)
    intensity = np.clip(points[:, 3], 0.0, 1.0).astype(np.float32)
    return PointCloud(xyz, intensity, stamp_ns, device_stamp_ns=stamp_ns), ""


def _decode_image(data: bytes, stamp_ns: int) -> tuple[Image | None, str]:
    pixels = decode_image(data)
    return (None, UNDECODABLE) if pixels is None else (Image(pixels, stamp_ns, device_stamp_ns=stamp_ns), "")


def read_calibration(directory: Path) -> RigCalibration:
    """Fold P_rect_02 @ R_rect_00 @ Tr_velo_to_cam into K and T_cam_lidar.

    Raises:
        RecordingError: EG-N011 when a file or entry is missing or is not numbers.
    """
    camera = _calibration_file(directory, "calib_cam_to_cam.txt")
    velodyne = _calibration_file(directory, "calib_velo_to_cam.txt")
    P = _matrix(camera, "P_rect_02", (3, 4))
    rectify = np.eye(4)
    rectify[:3, :3] = _matrix(camera, "R_rect_00", (3, 3))
    T_cam_velo = np.eye(4)
    T_cam_velo[:3, :3] = _matrix(velodyne, "R", (3, 3))
    T_cam_velo[:3, 3] = _matrix(velodyne, "T", (3,))
    size = _matrix(camera, "S_rect_02", (2,))
    K = P[:, :3]
    if abs(np.linalg.det(K)) < 1e-6 or not (0 < size[0] < 1e5 and 0 < size[1] < 1e5):
        raise _bad_calibration("P_rect_02 or S_rect_02 describes no camera")
    shift = np.eye(4)
    shift[:3, 3] = np.linalg.solve(K, P[:, 3])
    return RigCalibration(
        camera_matrix=np.ascontiguousarray(K),
        T_cam_lidar=shift @ rectify @ T_cam_velo,
        image_size_px=(int(size[0]), int(size[1])),
        lidar_height_m=LIDAR_HEIGHT_M,
    )


def _bad_calibration(what: str) -> RecordingError:
    return RecordingError(
        what, code="EG-N011", hint="put calib_cam_to_cam.txt and calib_velo_to_cam.txt of the drive's day beside it"
    )


def _calibration_file(directory: Path, name: str) -> dict[str, str]:
    resolved = directory.resolve()
    for folder in (resolved, *list(resolved.parents)[:2]):
        path = folder / name
        if path.is_file():
            data = _read_bounded(path, MAX_TEXT_BYTES)
            if data is None:
                raise _bad_calibration(f"{name} cannot be read")
            lines = data.decode("utf-8", "replace").splitlines()
            return {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    raise _bad_calibration(f"{name} is missing")


def _matrix(entries: Mapping[str, str], key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        values = np.array([float(v) for v in entries[key].split()], dtype=np.float64).reshape(shape)
    except (KeyError, ValueError):
        raise _bad_calibration(f"calibration entry {key} is missing or malformed") from None
    if not np.isfinite(values).all():
        raise _bad_calibration(f"calibration entry {key} is not finite")
    return values


def _stream_folders(directory: Path) -> tuple[Path, Path]:
    for images, sweeps in (("image_02/data", "velodyne_points/data"), ("image_02", "velodyne")):
        if (directory / images).is_dir() and (directory / sweeps).is_dir():
            return directory / images, directory / sweeps
    raise RecordingError(
        f"{directory} is not a KITTI drive",
        code="EG-N010",
        hint="name the folder that holds image_02 and velodyne_points (raw) or velodyne (flat)",
    )


def _numbered(folder: Path, suffix: str) -> dict[int, Path]:
    files: dict[int, Path] = {}
    try:
        for path in folder.iterdir():
            if path.suffix == suffix and _NUMBER.fullmatch(path.stem) and path.is_file():
                files[int(path.stem)] = path
                if len(files) > MAX_FRAMES:
                    raise RecordingError(
                        f"more than {MAX_FRAMES} frames in {folder}", code="EG-N012", hint="split the recording"
                    )
    except OSError as error:
        raise RecordingError(f"cannot list {folder}", code="EG-N010", hint=error.strerror or "") from None
    return files


def _read_bounded(path: Path, limit_bytes: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError:
        return None
    return data if len(data) <= limit_bytes else None


def _stamp_file(folder: Path) -> Path | None:
    for path in (folder.parent / "timestamps.txt", folder / "timestamps.txt"):
        if path.is_file() and path.parent.name in ("image_02", "velodyne_points", "velodyne"):
            return path
    return None


def _read_stamps(folder: Path, files: Mapping[int, Path]) -> dict[int, int] | None:
    """Number -> ns since 1970, or None where the file is missing, malformed, or does not cover the frames.

    Line i belongs to frame i; an excerpt that kept the frame numbers but cut the file has one line per file instead.
    """
    path = _stamp_file(folder)
    data = _read_bounded(path, MAX_TEXT_BYTES) if path is not None else None
    if data is None:
        return None
    try:
        lines = [line for line in data.decode("ascii").splitlines() if line.strip()]
        numbers = sorted(files)
        if numbers and numbers[-1] < len(lines):
            stamps = {n: _parse_stamp(lines[n]) for n in numbers}
        elif len(numbers) == len(lines):
            stamps = {n: _parse_stamp(line) for n, line in zip(numbers, lines, strict=True)}
        else:
            return None
    except ValueError:
        return None
    ordered = [stamps[n] for n in numbers]
    return stamps if all(a < b for a, b in itertools.pairwise(ordered)) else None


def _parse_stamp(line: str) -> int:
    """``2011-09-26 13:02:25.964389445`` to ns since 1970, UTC, without the loss of a float."""
    whole, _, fraction = line.strip().partition(".")
    if fraction and not fraction.isdigit():
        raise ValueError(line)
    seconds = int((datetime.fromisoformat(whole) - datetime(1970, 1, 1)).total_seconds())
    return seconds * NS_PER_S + int((fraction + "000000000")[:9])


def _cut_image(last: Path) -> str:
    """Why the last image is cut, or an empty string."""
    data = _read_bounded(last, MAX_IMAGE_BYTES)
    if data == b"" or (data is not None and data.startswith(PNG_MAGIC) and data[-8:-4] != b"IEND"):
        return f"the picture stops after {len(data)} bytes"
    return ""


def _cut_sweep(last: Path, earlier: list[Path]) -> str:
    """Why the last sweep is cut, or an empty string."""
    data = _read_bounded(last, MAX_SWEEP_BYTES)
    if data is None:
        return ""
    if len(data) == 0 or len(data) % POINT_BYTES:
        return f"{len(data)} bytes are no whole number of points"
    turns = [turn for path in earlier if (turn := _turned_deg(_read_bounded(path, MAX_SWEEP_BYTES))) is not None]
    own = _turned_deg(data)
    if own is None or len(turns) < 2:
        return ""
    lowest, highest = min(turns), max(turns)
    regular = lowest > 300.0 and highest - lowest < 0.05 * highest + END_SLACK_DEG
    if regular and own < lowest - (highest - lowest) - END_SLACK_DEG:
        return f"it ends {(lowest - own) / 360.0:.1f} turns before where the sweeps before it end"
    return ""


def _turned_deg(data: bytes | None) -> float | None:
    """How far the beam turned over a sweep in file order: rings x 360 deg in ring order, 360 in firing order."""
    if data is None or len(data) < 2 * POINT_BYTES or len(data) % POINT_BYTES:
        return None
    points = np.frombuffer(data, dtype="<f4").reshape(-1, 4)
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    if not np.isfinite(azimuth).all():
        return None
    step = np.remainder(np.diff(azimuth) + np.pi, 2.0 * np.pi) - np.pi
    return float(abs(np.degrees(step.sum(dtype=np.float64))))
