"""npz recordings: docs/formats/npz-recording.md. Reading as sources, and writing a drive that fits in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import RecordingError
from edgeguard.sensors.npz_file import NpzArray, NpzFile
from edgeguard.sensors.recorded import RecordedSource, RecordedStream, median_period_ns, recorded_ticks
from edgeguard.types import (
    CAMERA,
    GNSS,
    IMU,
    LIDAR,
    WHEELS,
    GnssFix,
    GnssSignal,
    Image,
    ImuSample,
    PointCloud,
    RigCalibration,
    Sample,
    Scan2d,
    SourceInfo,
    Tick,
    WheelOdometry,
)

VERSION = 1
SCAN2D = "scan2d"
MAX_SAMPLES = 20_000_000  # of one sensor: half a day at 400 Hz
MAX_STAMP_NS = 2**62
UNKNOWN_NS = -(2**63)
# What a frame may be: the largest camera and the densest lidar in use, with room.
MAX_PIXELS = 64_000_000
MAX_POINTS = 4_000_000
NOT_FINITE, UNREADABLE = "not_finite", "unreadable"
# Of one fix; receivers track about a hundred signals.
MAX_CN0 = 512
_ANY_WIDTH = (-1,)
# Columns of a signal: system's letter, number, C/N0, elevation, residual, used.
_SIGNALS = (-1, 6)
# Numbers that count: -1 is "not known".
_COUNTS = ("satellites", "spoof_state", "jam_state")
# What `save_npz` holds in memory at most.
MAX_SAVED_BYTES = 4 << 30
_HINT = "docs/formats/npz-recording.md lists the arrays"


@dataclass(frozen=True, slots=True)
class _Layout:
    """kind, needed and optional arrays per sample: name -> trailing shape (None: checked by the loader); `rows`:
    arrays that hold many rows per sample, cut by `end`."""

    kind: type
    period_ns: int
    needed: Mapping[str, tuple[int, ...] | None]
    optional: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    optional_rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


LAYOUTS: Mapping[str, _Layout] = {
    CAMERA: _Layout(Image, NS_PER_S // 10, {"pixels": None}),
    LIDAR: _Layout(
        PointCloud, NS_PER_S // 10, {}, rows={"xyz": (3,), "intensity": ()},
        optional_rows={"ring": (), "time_offset_ns": ()},
    ),
    IMU: _Layout(ImuSample, NS_PER_S // 100, {"gyro_rad_s": (3,), "accel_m_s2": (3,)}),
    GNSS: _Layout(
        GnssFix, NS_PER_S // 10, {"latitude_deg": (), "longitude_deg": ()},
        optional={
            **dict.fromkeys(
                ("altitude_m", "speed_m_s", "course_deg", "hdop", "satellites", "fix_quality", "horizontal_accuracy_m",
                 "speed_accuracy_m_s", "spoof_state", "jam_state", "agc_share"), (),
            ),
            "cn0_dbhz": _ANY_WIDTH,
            "signals": _SIGNALS,
        },
    ),
    WHEELS: _Layout(
        WheelOdometry, NS_PER_S // 100, {"speed_m_s": ()}, optional={"wheel_speeds_m_s": (4,), "steering_rad": ()}
    ),
    SCAN2D: _Layout(Scan2d, NS_PER_S // 10, {}, rows={"range_m": (), "angle_rad": (), "intensity": ()}),
}  # fmt: skip


class NpzRecording:
    """One file, frames read lazily; it stays open as long as the object lives.

    Raises:
        RecordingError: EG-N074 not this format or version, EG-N075 a member that is not read, EG-N076 arrays that do
            not fit each other.

    Attributes:
        calibration: of camera and lidar, where the file has it.
        notes: what a reader of results should know about the file, one mapping each with a `kind`.
    """

    def __init__(self, path: Path) -> None:
        self._file = NpzFile(path)
        self.notes: list[dict[str, Any]] = []
        try:
            self._require_version()
            self.calibration = self._read_calibration()
            streams = [self._stream(sensor) for sensor in LAYOUTS]
        except BaseException:
            self._file.close()
            raise
        self._streams = {s.info.sensor: s for s in streams if s is not None}
        if self._file.truncated:
            self.notes.insert(0, {"kind": "truncated", "reason": "the file has no directory: it is cut"})
        if not self._streams:
            raise self._unfit("has no sensor with samples")

    def ticks(self) -> list[Tick]:
        """One per frame of the slowest camera or lidar, 10 Hz without any."""
        return recorded_ticks(list(self._streams.values()))

    def sources(self, clock: Clock) -> dict[str, RecordedSource]:
        """Fresh sources that replay on `clock`, by sensor."""
        return {name: stream.source(clock) for name, stream in self._streams.items()}

    # ---- reading --------------------------------------------------------------------------------------------

    def _require_version(self) -> None:
        array = self._file.arrays.get("edgeguard_npz")
        if array is None or array.dtype.kind not in "iu" or array.shape != (1,) or int(array.all()[0]) != VERSION:
            raise RecordingError(
                f"{self._file.name} is no EdgeGuard npz recording of version {VERSION}", code="EG-N074", hint=_HINT
            )

    def _stream(self, sensor: str) -> RecordedStream | None:
        arrays, layout = self._file.arrays, LAYOUTS[sensor]
        if f"{sensor}_stamp_ns" not in arrays:
            return None
        needed = {**layout.needed, **({"end": ()} if layout.rows else {}), **layout.rows}
        missing = [name for name in needed if f"{sensor}_{name}" not in arrays]
        if missing and self._file.truncated:
            self.notes.append({"kind": "truncated", "sensor": sensor, "reason": f"{', '.join(missing)} cut off"})
            return None
        if missing:
            raise self._unfit(f"has {sensor}_stamp_ns but not {sensor}_{missing[0]}")
        stamps = self._times(sensor, "stamp_ns")
        columns = self._columns(sensor, layout, len(stamps))
        ends, tables = self._tables(sensor, layout, len(stamps))
        whole = self._whole(sensor, len(stamps), columns, ends, tables)
        arrival = self._times(sensor, "arrival_ns")[:whole] if f"{sensor}_arrival_ns" in arrays else stamps[:whole]
        device = self._device(sensor)
        build = _BUILDERS[sensor]
        shown = min(whole, len(arrival))

        def load(i: int) -> Sample | str:
            try:
                cells = {name: column.read(i, i + 1)[0] for name, column in columns.items()}
                if ends is not None:
                    begin = int(ends[i - 1]) if i else 0
                    if int(ends[i]) - begin > MAX_POINTS:
                        return UNREADABLE
                    cells |= {name: table.read(begin, int(ends[i])) for name, table in tables.items()}
            except RecordingError:
                return UNREADABLE
            told = int(device[i]) if device is not None and i < len(device) else UNKNOWN_NS
            return build(int(stamps[i]), None if told == UNKNOWN_NS else told, cells)

        info = SourceInfo(
            sensor, layout.kind, median_period_ns(stamps[:shown], layout.period_ns), f"{self._file.name}:{sensor}"
        )
        return RecordedStream(info, arrival[:shown], load) if shown else None

    def _times(self, sensor: str, name: str) -> NDArray[np.int64]:
        array = self._file.arrays[f"{sensor}_{name}"]
        if array.dtype.kind not in "iu" or len(array.shape) != 1 or array.rows > MAX_SAMPLES:
            raise self._unfit(f"needs {sensor}_{name} as a list of at most {MAX_SAMPLES} integers")
        raw = array.all()
        if len(raw) and (raw.min() < 0 or raw.max() > MAX_STAMP_NS or (np.diff(raw.astype(np.int64)) < 0).any()):
            raise self._unfit(f"has times in {sensor}_{name} that are negative or run backwards")
        return raw.astype(np.int64)

    def _device(self, sensor: str) -> NDArray[np.int64] | None:
        array = self._file.arrays.get(f"{sensor}_device_stamp_ns")
        if array is None or array.dtype.kind != "i" or len(array.shape) != 1 or array.rows > MAX_SAMPLES:
            return None
        return array.all().astype(np.int64)

    def _columns(self, sensor: str, layout: _Layout, count: int) -> dict[str, NpzArray]:
        """Arrays with one row per sample. Small ones are what a state is made of: held in memory."""
        found: dict[str, NpzArray] = {}
        for name, shape in {**layout.needed, **layout.optional}.items():
            array = self._file.arrays.get(f"{sensor}_{name}")
            if array is None:
                continue
            claimed = array.shape[0]
            pixels = shape is None
            fits = _is_picture(array) if pixels else _fits(array.shape, shape or ())
            if not fits or (claimed != count and not self._file.truncated):
                raise self._unfit(f"has {sensor}_{name} of shape {array.shape} for {count} samples")
            found[name] = array if pixels else _held(array)
        return found

    def _tables(self, sensor: str, layout: _Layout, count: int) -> tuple[NDArray[np.int64] | None, dict[str, NpzArray]]:
        if not layout.rows:
            return None, {}
        ends = self._times(sensor, "end")
        if len(ends) != count and not self._file.truncated:
            raise self._unfit(f"has {sensor}_end of {len(ends)} for {count} samples")
        tables: dict[str, NpzArray] = {}
        for name, shape in {**layout.rows, **layout.optional_rows}.items():
            array = self._file.arrays.get(f"{sensor}_{name}")
            if array is None:
                continue
            short = len(ends) and array.shape[0] != int(ends[-1])
            if array.shape[1:] != shape or (short and not self._file.truncated):
                raise self._unfit(f"has {sensor}_{name} of shape {array.shape} that does not end with {sensor}_end")
            tables[name] = array
        return ends, tables

    def _whole(
        self,
        sensor: str,
        count: int,
        columns: Mapping[str, NpzArray],
        ends: NDArray[np.int64] | None,
        tables: Mapping[str, NpzArray],
    ) -> int:
        """How many samples have all their rows; fewer than `count` only when the file is cut."""
        whole = min((count, *(column.rows for column in columns.values())))
        if ends is not None:
            rows = min(table.rows for table in tables.values())
            whole = min(whole, int(np.searchsorted(ends, rows, side="right")))
        if whole < count:
            self.notes.append(
                {"kind": "truncated", "sensor": sensor, "reason": f"{whole} of {count} samples before the cut"}
            )
        return whole

    def _read_calibration(self) -> RigCalibration | None:
        arrays = self._file.arrays
        names = ("camera_matrix", "T_cam_lidar", "image_size_px", "lidar_height_m")
        if not all(name in arrays and arrays[name].whole for name in names):
            return None
        shapes = ((3, 3), (4, 4), (2,), (1,))
        K, T, size, height = (arrays[name].all().astype(np.float64) for name in names)
        fits = all(v.shape == s and np.isfinite(v).all() for v, s in zip((K, T, size, height), shapes, strict=True))
        if not fits or not (size > 0).all() or (size > 1e5).any() or abs(np.linalg.det(K)) < 1e-6:
            raise self._unfit("has a calibration that describes no camera")
        distortion = self._optional_geometry("distortion", ((4,), (5,)))
        turn = self._optional_geometry("R_cam_imu", ((3, 3),))
        lens = () if distortion is None else tuple(distortion.tolist())
        return RigCalibration(K, T, (int(size[0]), int(size[1])), float(height[0]), lens, turn)

    def _optional_geometry(self, name: str, shapes: tuple[tuple[int, ...], ...]) -> NDArray[np.float64] | None:
        array = self._file.arrays.get(name)
        if array is None or not array.whole:
            return None
        values = array.all().astype(np.float64)
        if values.shape not in shapes or not np.isfinite(values).all():
            raise self._unfit(f"has a {name} that is none")
        return values

    def _unfit(self, what: str) -> RecordingError:
        return RecordingError(f"{self._file.name} {what}", code="EG-N076", hint=_HINT)


def _is_picture(array: NpzArray) -> bool:
    shape = array.shape
    return len(shape) == 4 and shape[3] == 3 and array.dtype == np.uint8 and 0 < shape[1] * shape[2] <= MAX_PIXELS


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if wanted[:1] == _ANY_WIDTH:
        return len(shape) == 1 + len(wanted) and shape[1] <= MAX_CN0 and shape[2:] == wanted[1:]
    return shape[1:] == wanted


def _held(array: NpzArray) -> NpzArray:
    """The same array with its bytes in memory: a state of 100 Hz must not cost a disk access each."""
    rows = array.all()
    return NpzArray(rows.dtype, array.shape, array.rows, array.whole, None, 0, rows.tobytes())


Cells = Mapping[str, Any]


def _image(stamp_ns: int, device_ns: int | None, cells: Cells) -> Sample | str:
    return Image(cells["pixels"], stamp_ns, CAMERA, device_ns)


def _cloud(stamp_ns: int, device_ns: int | None, cells: Cells) -> Sample | str:
    ring, offset = cells.get("ring"), cells.get("time_offset_ns")
    return PointCloud(
        np.ascontiguousarray(cells["xyz"], np.float32),
        np.ascontiguousarray(cells["intensity"], np.float32),
        stamp_ns,
        LIDAR,
        None if ring is None else ring.astype(np.int16),
        None if offset is None else offset.astype(np.int32),
        device_ns,
    )


def _imu(stamp_ns: int, device_ns: int | None, cells: Cells) -> Sample | str:
    gyro, accel = (tuple(float(v) for v in cells[name]) for name in ("gyro_rad_s", "accel_m_s2"))
    if not all(math.isfinite(v) for v in (*gyro, *accel)):
        return NOT_FINITE
    return ImuSample(stamp_ns, (gyro[0], gyro[1], gyro[2]), (accel[0], accel[1], accel[2]), IMU, device_ns)


def _gnss(stamp_ns: int, device_ns: int | None, cells: Cells) -> Sample | str:
    latitude_deg, longitude_deg = float(cells["latitude_deg"]), float(cells["longitude_deg"])
    if not (abs(latitude_deg) <= 90.0 and abs(longitude_deg) <= 360.0):
        return NOT_FINITE
    names = (
        "altitude_m",
        "speed_m_s",
        "course_deg",
        "hdop",
        "horizontal_accuracy_m",
        "speed_accuracy_m_s",
        "agc_share",
    )
    told: dict[str, Any] = {name: _known(cells.get(name)) for name in names}
    for name in _COUNTS:
        count = _known(cells.get(name))
        told[name] = None if count is None or count < 0 else int(count)
    quality = _known(cells.get("fix_quality"))
    return GnssFix(
        stamp_ns, latitude_deg, longitude_deg, **told,
        fix_quality=1 if quality is None else int(quality), device_stamp_ns=device_ns,
        cn0_dbhz=tuple(float(v) for v in cells.get("cn0_dbhz", ()) if math.isfinite(v)),
        signals=tuple(signal for row in cells.get("signals", ()) if (signal := _signal(row)) is not None),
    )  # fmt: skip


def _signal(row: NDArray[Any]) -> GnssSignal | None:
    """One satellite; None for a row that only fills up, or that names no system and number."""
    letter, number, cn0, elevation, residual, used = (float(v) for v in row)
    if not (65 <= letter <= 90 and 0 <= number < 2**31 and math.isfinite(cn0)):
        return None
    return GnssSignal(chr(int(letter)), int(number), cn0, _known(elevation), _known(residual), used == 1.0)


def _wheels(stamp_ns: int, device_ns: int | None, cells: Cells) -> Sample | str:
    speed_m_s = float(cells["speed_m_s"])
    if not math.isfinite(speed_m_s):
        return NOT_FINITE
    wheels = [float(v) for v in cells.get("wheel_speeds_m_s", ())]
    four = (wheels[0], wheels[1], wheels[2], wheels[3]) if wheels and all(map(math.isfinite, wheels)) else None
    return WheelOdometry(stamp_ns, speed_m_s, four, _known(cells.get("steering_rad")), WHEELS, device_ns)


def _scan(stamp_ns: int, device_ns: int | None, cells: Cells) -> Sample | str:
    parts = (np.ascontiguousarray(cells[name], np.float32) for name in ("range_m", "angle_rad", "intensity"))
    range_m, angle_rad, intensity = parts
    return Scan2d(range_m, angle_rad, intensity, stamp_ns, SCAN2D, device_ns)


def _known(cell: Any) -> float | None:
    return None if cell is None or not math.isfinite(value := float(cell)) else value


_BUILDERS: Mapping[str, Callable[[int, int | None, Cells], Sample | str]] = {
    CAMERA: _image,
    LIDAR: _cloud,
    IMU: _imu,
    GNSS: _gnss,
    WHEELS: _wheels,
    SCAN2D: _scan,
}


def save_npz(
    path: Path, samples: Iterable[tuple[int, Sample]], calibration: RigCalibration | None = None
) -> dict[str, int]:
    """Write (arrival_ns, sample) pairs as one recording; returns the number of samples per sensor.

    Samples must bear the names of the table in the format document; the file appears whole or not at all.

    Raises:
        RecordingError: EG-N077 when a sensor cannot be told in this format, when its frames differ in size, or when
            the drive is larger than `MAX_SAVED_BYTES`: record MCAP then.
    """
    kept: dict[str, list[tuple[int, Sample]]] = {}
    size = 0
    for arrival_ns, sample in samples:
        layout = LAYOUTS.get(sample.sensor)
        if layout is None or not isinstance(sample, layout.kind):
            raise _unsaved(f"sensor {sample.sensor!r} has no place in an npz recording")
        size += sum(getattr(sample, name).nbytes for name in ("pixels", "xyz", "range_m") if hasattr(sample, name))
        if size > MAX_SAVED_BYTES:
            raise _unsaved("the drive does not fit in memory")
        kept.setdefault(sample.sensor, []).append((arrival_ns, sample))
    arrays: dict[str, Any] = {"edgeguard_npz": VERSION}
    for sensor, rows in kept.items():
        try:
            arrays |= {f"{sensor}_{name}": value for name, value in _packed(sensor, rows).items()}
        except OverflowError:
            raise _unsaved(f"a number of sensor {sensor!r} does not fit in 64 bits") from None
    if calibration is not None:
        arrays |= {name: getattr(calibration, name) for name in ("camera_matrix", "T_cam_lidar", "image_size_px")}
        arrays["lidar_height_m"] = calibration.lidar_height_m
        if calibration.distortion:
            arrays["distortion"] = np.array(calibration.distortion, np.float64)
        if calibration.R_cam_imu is not None:
            arrays["R_cam_imu"] = calibration.R_cam_imu
    part = path.with_name(path.name + ".part")
    try:
        # Readable for its owner only: it is a recording of a place and its people.
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _unsaved(f"cannot write {path}: {error.strerror}") from None
    return {sensor: len(rows) for sensor, rows in kept.items()}


def _packed(sensor: str, rows: list[tuple[int, Sample]]) -> dict[str, NDArray[Any]]:
    layout, samples = LAYOUTS[sensor], [sample for _, sample in rows]
    device = [s.device_stamp_ns for s in samples]
    out: dict[str, NDArray[Any]] = {
        "stamp_ns": np.array([s.stamp_ns for s in samples], np.int64),
        "arrival_ns": np.array([arrival for arrival, _ in rows], np.int64),
        "device_stamp_ns": np.array([UNKNOWN_NS if d is None else d for d in device], np.int64),
    }
    if layout.rows:
        first = next(iter(layout.rows))
        out["end"] = np.cumsum([len(getattr(s, first)) for s in samples], dtype=np.int64)
    for name in (*layout.rows, *layout.optional_rows):
        parts = [getattr(s, name) for s in samples]
        if all(p is not None for p in parts):
            out[name] = np.concatenate(parts)
        elif any(p is not None for p in parts):
            raise _unsaved(f"some {sensor} samples have {name} and some do not")
    for name in layout.needed:
        values = [getattr(s, name) for s in samples]
        if len({np.shape(v) for v in values}) != 1:
            raise _unsaved(f"{sensor} frames differ in size")
        out[name] = np.array(values)
    for name, row in layout.optional.items():
        values = [getattr(s, name) for s in samples]
        if row == _SIGNALS:
            values = [tuple(map(_signal_row, signals)) for signals in values]
        shape, values = _one_width(sensor, name, values, row) if row[:1] == _ANY_WIDTH else (row, values)
        blank = np.full(shape, math.nan) if name not in _COUNTS else -1
        if any(v is not None for v in values):
            out[name] = np.array([blank if v is None else v for v in values])
    return out


def _one_width(
    sensor: str, name: str, values: list[tuple[Any, ...]], row: tuple[int, ...]
) -> tuple[tuple[int, ...], list[tuple[Any, ...] | None]]:
    """Lists of different length as rows of one: filled up with NaN, None where a list is empty."""
    width = max(map(len, values))
    if width > MAX_CN0:
        raise _unsaved(f"a {sensor} sample has {width} values in {name}, more than {MAX_CN0}")
    blank: Any = math.nan if len(row) == 1 else (math.nan,) * row[1]
    return (width, *row[1:]), [(*v, *(blank,) * (width - len(v))) if v else None for v in values]


def _signal_row(signal: GnssSignal) -> tuple[float, ...]:
    if len(signal.system) != 1 or not "A" <= signal.system <= "Z" or not 0 <= signal.number < 2**31:
        raise _unsaved("a satellite has no letter of a system and number")
    if not math.isfinite(signal.cn0_dbhz):
        raise _unsaved("a satellite has no C/N0")
    told = (math.nan if v is None else v for v in (signal.elevation_deg, signal.residual_m))
    return (float(ord(signal.system)), float(signal.number), signal.cn0_dbhz, *told, float(signal.used))


def _unsaved(what: str) -> RecordingError:
    return RecordingError(what, code="EG-N077", hint="record to a .mcap file instead")
