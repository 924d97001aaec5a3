"""EuRoC recordings (ETH ASL layout) as sources: a camera and an IMU with nanosecond stamps.

Layout: ``cam0/data/<ns>.png``, ``imu0/data.csv``, and in each folder an optional ``sensor.yaml``; ``cam0/data.csv``
(stamp, file name) where it is kept; the whole may lie in ``mav0``. Further cameras are played when asked for.

Stamps are shifted so that the first sample is at 1 s of the pipeline's clock; ``device_stamp_ns`` keeps the file's.
IMU axes are turned into forward, left, up of the *camera's* view (REP-103), with the extrinsics of ``sensor.yaml``: a
mount within 10 degrees of a signed permutation is treated as one, so that the values stay the file's own digits.

The recording's fault or the sensor's: a last picture or csv line that is cut, and listed pictures missing at the end,
are the end of the recording (a note); damage in the middle is counted under its reason in the source's `drops`.
Reference: Burri et al., "The EuRoC micro aerial vehicle datasets", IJRR 2016.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import RecordingError
from edgeguard.sensors.camera_decode import MAX_IMAGE_BYTES, PNG_MAGIC, UNDECODABLE, decode_image
from edgeguard.sensors.recorded import (
    FIRST_STAMP_NS,
    RecordedSource,
    RecordedStream,
    median_period_ns,
    recorded_ticks,
)
from edgeguard.types import CAMERA, IMU, Image, ImuSample, RigCalibration, Sample, SourceInfo, Tick

MAX_CSV_BYTES = 256 * 1024**2  # two hours of 200 Hz
MAX_LINE_BYTES = 1024  # seven numbers are 160
MAX_YAML_BYTES = 64 * 1024
MAX_IMAGES = 500_000  # seven hours at 20 Hz
IMU_COLUMNS = 7
SNAP_DEG = 10.0
CAMERA_PERIOD_NS, IMU_PERIOD_NS = NS_PER_S // 20, NS_PER_S // 200  # of the VI sensor, where one sample tells none

MALFORMED, NOT_FINITE, BACKWARDS, MISSING, UNREADABLE = "malformed", "not_finite", "backwards", "missing", "unreadable"

_HINT = "name the folder that holds cam0 and imu0"
_STAMP = re.compile(r"\d{1,19}")
# camera optical axes (right, down, forward) to forward, left, up
_FLU_CAM = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True, slots=True, eq=False)
class EurocCamera:
    """What ``camN/sensor.yaml`` says. camera_matrix: (3, 3) float64. distortion: (k1, k2, p1, p2). T_body_cam:
    (4, 4) float64, maps camera to body. image_size_px: (width, height)."""

    camera_matrix: NDArray[np.float64]
    distortion: tuple[float, ...]
    image_size_px: tuple[int, int]
    T_body_cam: NDArray[np.float64]
    rate_hz: float


@dataclass(frozen=True, slots=True)
class EurocImu:
    """What ``imu0/sensor.yaml`` says: continuous noise densities and random walks, in rad/s and m/s^2 per sqrt(Hz)."""

    gyro_noise_rad_s_sqrt_hz: float
    gyro_walk_rad_s2_sqrt_hz: float
    accel_noise_m_s2_sqrt_hz: float
    accel_walk_m_s3_sqrt_hz: float
    rate_hz: float


class EurocRecording:
    """One sequence, pictures read lazily.

    Args:
        directory: the sequence's folder, or the one that holds ``mav0``.
        cameras: folders to play; the first becomes ``camera``, a further ``camN`` keeps its folder's name.

    Raises:
        RecordingError: EG-N070 no such layout, EG-N071 no samples or too many, EG-N072 a csv that cannot be read.

    Attributes:
        camera: calibration of the first camera, or None where the file has none that can be read.
        imu: noise figures, or None.
        calibration: intrinsics, distortion and the rotation from the delivered IMU axes, or None without `camera`.
        notes: what a reader of results should know about the file, one mapping each with a `kind`.
    """

    def __init__(self, directory: Path, cameras: Sequence[str] = ("cam0",)) -> None:
        root = euroc_root(Path(directory))
        if root is None:
            raise RecordingError(f"{directory} is not a EuRoC sequence", code="EG-N070", hint=_HINT)
        self.notes: list[dict[str, Any]] = []
        self.camera = self._camera_calibration(root / cameras[0])
        self.imu = self._imu_noise(root / "imu0")
        pictures = {
            CAMERA if i == 0 else name: self._pictures(root / name, CAMERA if i == 0 else name)
            for i, name in enumerate(cameras)
        }
        readings = self._readings(root / "imu0")
        self._axes, exact = self._imu_axes(root)
        self.calibration = self._rig_calibration(exact)
        stamps = [int(t[0]) for t in (*(p.stamps_ns for p in pictures.values()), readings.stamps_ns) if len(t)]
        if not stamps:
            raise RecordingError(f"no samples in {directory}", code="EG-N071", hint=_HINT)
        shift_ns = FIRST_STAMP_NS - min(stamps)
        streams = [p.stream(name, shift_ns) for name, p in pictures.items() if len(p.stamps_ns)]
        if len(readings.stamps_ns):
            streams.append(readings.stream(self._axes, shift_ns))
        self._streams = {s.info.sensor: s for s in streams}
        self._sources: Mapping[str, RecordedSource] = {}

    @property
    def drops(self) -> Mapping[str, Mapping[str, int]]:
        """Per sensor, how many samples were lost for which reason so far, over the sources last made."""
        return {name: source.drops for name, source in self._sources.items()}

    def ticks(self) -> list[Tick]:
        """One per picture of the first camera."""
        return recorded_ticks(list(self._streams.values()))

    def sources(self, clock: Clock) -> dict[str, RecordedSource]:
        """Fresh sources that replay on `clock`, by sensor."""
        self._sources = {name: stream.source(clock) for name, stream in self._streams.items()}
        return dict(self._sources)

    # ---- reading --------------------------------------------------------------------------------------------

    def _pictures(self, folder: Path, sensor: str) -> _Pictures:
        present = _numbered(folder / "data")
        listed = self._listed(folder / "data.csv", folder / "data") if (folder / "data.csv").is_file() else {}
        files = {**listed, **{stamp: path for stamp, path in present.items() if stamp not in listed}}
        ordered = sorted(files)
        if len(ordered) > MAX_IMAGES:
            raise RecordingError(f"more than {MAX_IMAGES} pictures in {folder}", code="EG-N071", hint="split it")
        while ordered and (why := _cut_end(files[ordered[-1]])):
            last = ordered.pop()
            self._truncated(sensor, why, stamp_ns=last)
        return _Pictures(np.array(ordered, np.int64), [files[s] for s in ordered])

    def _listed(self, csv: Path, folder: Path) -> dict[int, Path]:
        """Stamp -> file of ``data.csv``; names that leave the folder are not followed."""
        rows: dict[int, Path] = {}
        for line in self._lines(csv, CAMERA):
            stamp, _, name = line.partition(",")
            name = name.strip()
            if _STAMP.fullmatch(stamp.strip()) and name and Path(name).name == name:
                rows[int(stamp)] = folder / name
        return rows

    def _readings(self, folder: Path) -> _Readings:
        path = folder / "data.csv"
        if not path.is_file():
            return _Readings(np.zeros(0, np.int64), [])
        stamps: list[int] = []
        values: list[tuple[float, ...] | str] = []
        newest = -1
        for line in self._lines(path, IMU):
            stamp_ns, row = _imu_row(line)
            if stamp_ns is None or stamp_ns <= newest:
                stamp_ns, row = max(newest, 0), row if isinstance(row, str) else BACKWARDS
            newest = max(newest, stamp_ns)
            stamps.append(stamp_ns)
            values.append(row)
        while values and values[0] == MALFORMED:  # nothing says when it was
            del values[0], stamps[0]
        return _Readings(np.array(stamps, np.int64), values)

    def _lines(self, path: Path, sensor: str) -> list[str]:
        """The data lines of a csv; a last one without its line end is cut, and left out with a note."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_CSV_BYTES + 1)
        except OSError as error:
            raise RecordingError(f"cannot read {path}: {error.strerror}", code="EG-N072", hint=_HINT) from None
        if len(data) > MAX_CSV_BYTES:
            raise RecordingError(f"{path} is larger than {MAX_CSV_BYTES} bytes", code="EG-N072", hint="split it")
        lines = data.decode("utf-8", "replace").replace("\r", "").split("\n")
        if lines and lines.pop():
            self._truncated(sensor, "the last line has no end", file=path.name)
        return [line for line in lines if line and not line.startswith("#")]

    def _truncated(self, sensor: str, reason: str, **more: object) -> None:
        self.notes.append({"kind": "truncated", "sensor": sensor, "reason": reason, **more})

    # ---- calibration ----------------------------------------------------------------------------------------

    def _camera_calibration(self, folder: Path) -> EurocCamera | None:
        entries = _yaml(folder / "sensor.yaml")
        try:
            fu, fv, cu, cv = _numbers(entries, "intrinsics", 4)
            width, height = _numbers(entries, "resolution", 2)
            calibration = EurocCamera(
                camera_matrix=np.array([[fu, 0.0, cu], [0.0, fv, cv], [0.0, 0.0, 1.0]]),
                distortion=_numbers(entries, "distortion_coefficients", 4),
                image_size_px=(int(width), int(height)),
                T_body_cam=_rigid(_numbers(entries, "data", 16)),
                rate_hz=_numbers(entries, "rate_hz", 1)[0],
            )
        except ValueError as error:
            self.notes.append({"kind": "calibration", "file": f"{folder.name}/sensor.yaml", "reason": str(error)})
            return None
        return calibration

    def _imu_noise(self, folder: Path) -> EurocImu | None:
        entries = _yaml(folder / "sensor.yaml")
        names = (
            "gyroscope_noise_density",
            "gyroscope_random_walk",
            "accelerometer_noise_density",
            "accelerometer_random_walk",
            "rate_hz",
        )
        try:
            return EurocImu(*(_numbers(entries, name, 1)[0] for name in names))
        except ValueError as error:
            self.notes.append({"kind": "calibration", "file": f"{folder.name}/sensor.yaml", "reason": str(error)})
            return None

    def _imu_axes(self, root: Path) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """(3, 3) twice: the IMU's own axes to what is delivered (near forward, left, up of the camera's view), and
        what is delivered to the camera's optical axes; None where the file does not say."""
        if self.camera is None:
            self.notes.append({"kind": "axes", "reason": "no camera extrinsics: IMU axes are taken as they are"})
            return np.eye(3), None
        body_imu = np.eye(3)
        try:
            body_imu = _rigid(_numbers(_yaml(root / "imu0" / "sensor.yaml"), "data", 16))[:3, :3]
        except ValueError:
            self.notes.append({"kind": "axes", "reason": "no IMU extrinsics: the IMU is taken as the body"})
        cam_imu: NDArray[np.float64] = self.camera.T_body_cam[:3, :3].T @ body_imu
        axes: NDArray[np.float64] = _FLU_CAM @ cam_imu
        snapped = _nearest_permutation(axes)
        delivered = axes if snapped is None else snapped
        return delivered, cam_imu @ delivered.T

    def _rig_calibration(self, cam_imu: NDArray[np.float64] | None) -> RigCalibration | None:
        if self.camera is None:
            return None
        cam_vehicle = np.eye(4)
        cam_vehicle[:3, :3] = _FLU_CAM.T
        return RigCalibration(
            self.camera.camera_matrix,
            cam_vehicle,
            self.camera.image_size_px,
            distortion=self.camera.distortion,
            R_cam_imu=cam_imu,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Pictures:
    stamps_ns: NDArray[np.int64]
    paths: list[Path]

    def stream(self, sensor: str, shift_ns: int) -> RecordedStream:
        stamps = self.stamps_ns + shift_ns

        def load(i: int) -> Sample | str:
            try:
                with self.paths[i].open("rb") as file:
                    data = file.read(MAX_IMAGE_BYTES + 1)
            except FileNotFoundError:
                return MISSING
            except OSError:
                return UNREADABLE
            pixels = decode_image(data)
            if pixels is None:
                return UNDECODABLE
            return Image(pixels, int(stamps[i]), sensor, int(self.stamps_ns[i]))

        period_ns = median_period_ns(stamps, CAMERA_PERIOD_NS)
        return RecordedStream(SourceInfo(sensor, Image, period_ns, str(self.paths[0].parent)), stamps, load)


@dataclass(frozen=True, slots=True, eq=False)
class _Readings:
    stamps_ns: NDArray[np.int64]
    rows: list[tuple[float, ...] | str]

    def stream(self, axes: NDArray[np.float64], shift_ns: int) -> RecordedStream:
        stamps = self.stamps_ns + shift_ns
        turn = [[float(v) for v in row] for row in axes]

        def load(i: int) -> Sample | str:
            row = self.rows[i]
            if isinstance(row, str):
                return row
            return ImuSample(
                int(stamps[i]), _turned(turn, row[:3]), _turned(turn, row[3:]), device_stamp_ns=int(self.stamps_ns[i])
            )

        period_ns = median_period_ns(stamps, IMU_PERIOD_NS)
        return RecordedStream(SourceInfo(IMU, ImuSample, period_ns, "imu0/data.csv"), stamps, load)


def euroc_root(directory: Path) -> Path | None:
    """The folder that holds ``cam0`` or ``imu0``: `directory` or its ``mav0``; None when there is none."""
    for root in (directory, directory / "mav0"):
        if (root / "cam0" / "data").is_dir() or (root / "imu0" / "data.csv").is_file():
            return root
    return None


def _imu_row(line: str) -> tuple[int | None, tuple[float, ...] | str]:
    """One csv line as stamp and (gyro xyz, accel xyz), or the reason why not."""
    parts = line.split(",") if len(line) <= MAX_LINE_BYTES else []
    if len(parts) != IMU_COLUMNS or not _STAMP.fullmatch(parts[0].strip()):
        return None, MALFORMED
    stamp_ns = int(parts[0])
    if stamp_ns >= 2**62:
        return None, MALFORMED
    try:
        row = tuple(float(p) for p in parts[1:])
    except ValueError:
        return stamp_ns, MALFORMED
    return stamp_ns, row if all(math.isfinite(v) for v in row) else NOT_FINITE


def _turned(axes: list[list[float]], v: tuple[float, ...]) -> tuple[float, float, float]:
    x, y, z = (row[0] * v[0] + row[1] * v[1] + row[2] * v[2] for row in axes)
    return (x, y, z)


def _numbered(folder: Path) -> dict[int, Path]:
    files: dict[int, Path] = {}
    try:
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.suffix == ".png" and _STAMP.fullmatch(path.stem) and int(path.stem) < 2**62:
                files[int(path.stem)] = path
                if len(files) > MAX_IMAGES:
                    raise RecordingError(
                        f"more than {MAX_IMAGES} pictures in {folder}", code="EG-N071", hint="split it"
                    )
    except OSError as error:
        raise RecordingError(f"cannot list {folder}: {error.strerror}", code="EG-N070", hint=_HINT) from None
    return files


def _cut_end(path: Path) -> str:
    """Why the last picture is no picture of this recording any more, or an empty string."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except FileNotFoundError:
        return "the picture is listed but not there"
    except OSError:
        return ""
    if data == b"" or (data.startswith(PNG_MAGIC) and data[-8:-4] != b"IEND"):
        return f"the picture stops after {len(data)} bytes"
    return ""


def _yaml(path: Path) -> str:
    """The text of a ``sensor.yaml`` without comments; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
    except OSError:
        return ""
    text = data.decode("utf-8", "replace") if len(data) <= MAX_YAML_BYTES else ""
    return "\n".join(line.partition("#")[0] for line in text.splitlines())


def _numbers(text: str, key: str, count: int) -> tuple[float, ...]:
    """The numbers of one entry, ``key: 20`` or ``key: [1, 2]``; a ValueError names what is wrong."""
    found = re.search(rf"^\s*{key}:\s*(?:\[([^\]]*)\]|([^\s\[]+))", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"{key} is missing")
    words = (found.group(1) or found.group(2) or "").replace(",", " ").split()
    try:
        values = tuple(float(w) for w in words)
    except ValueError:
        raise ValueError(f"{key} is not numbers") from None
    if len(values) != count or not all(math.isfinite(v) and abs(v) < 1e9 for v in values):
        raise ValueError(f"{key} is not {count} finite numbers")
    return values


def _rigid(values: tuple[float, ...]) -> NDArray[np.float64]:
    matrix = np.array(values, np.float64).reshape(4, 4)
    R = matrix[:3, :3]
    if np.abs(R @ R.T - np.eye(3)).max() > 1e-3 or np.linalg.det(R) < 0 or (matrix[3] != (0, 0, 0, 1)).any():
        raise ValueError("T_BS is no rigid transform")
    return matrix


def _nearest_permutation(R: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The signed permutation within `SNAP_DEG` of rotation `R`, or None."""
    for order in itertools.permutations(range(3)):
        P = np.zeros((3, 3))
        for row, column in enumerate(order):
            P[row, column] = math.copysign(1.0, R[row, column])
        angle = math.degrees(math.acos(min(1.0, max(-1.0, (float(np.trace(P.T @ R)) - 1.0) / 2.0))))
        if np.linalg.det(P) > 0 and angle <= SNAP_DEG:
            return P
    return None
