"""A road drive in one ``.npz``: GNSS, wheel speeds and IMU on one clock (the layout of comma2k19 extracts).

Keys are ``<name>_t`` (seconds) and ``<name>_value``. Needed: ``gnss`` (latitude deg, longitude deg, speed m/s, utc ms,
altitude m, bearing deg). Used where present: ``wheel_speed`` (4 wheels m/s) or ``speed``, ``gyro`` rad/s and
``accelerometer`` m/s^2, both in axes forward, right, down; turned here into forward, left, up (REP-103).
``steering_angle`` is the angle of the steering *wheel*; without the car's ratio it is no road-wheel angle, so it is
noted and not used. The file is hostile until read: sizes are checked in the zip directory before any byte is unpacked.
"""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeguard.clock import NS_PER_S
from edgeguard.errors import RecordingError
from edgeguard.sensors.recorded import FIRST_STAMP_NS, RecordedSource, RecordedStream, recorded_ticks
from edgeguard.types import GNSS, IMU, WHEELS, GnssFix, ImuSample, Sample, SourceInfo, Tick, WheelOdometry

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeguard.clock import Clock

# A day at 100 Hz of the widest array here is 415 MB; an hour is 17 MB. 64 MiB per array is generous for one drive.
MAX_MEMBER_BYTES = 64 << 20
MAX_TOTAL_BYTES = 256 << 20
MAX_MEMBERS = 256
MIN_DURATION_S = 0.5
# A recording longer than a day in one file is a clock that jumped.
MAX_DURATION_S = 86_400.0

_GNSS_COLUMNS = 6
_HINT = "check it with: python -m zipfile -t FILE; docs/checks-motion.md lists the keys"

# What a value can be on a road vehicle; rows outside are damage, not driving.
_MAX_SPEED_M_S = 150.0
_MAX_RATE_RAD_S = 100.0
_MAX_ACCEL_M_S2 = 1000.0
_MAX_LATITUDE_DEG = 90.0
_MAX_LONGITUDE_DEG = 360.0


def _load(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read the arrays we know, refusing anything oversized, pickled, damaged or of another kind."""
    wanted = {
        f"{name}_{part}"
        for name in ("gnss", "wheel_speed", "speed", "gyro", "accelerometer", "steering_angle")
        for part in ("t", "value")
    }
    arrays: dict[str, NDArray[np.float64]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS or sum(m.file_size for m in members) > MAX_TOTAL_BYTES:
                raise RecordingError(f"{path.name} unpacks to more than a drive can hold", code="EG-N131", hint=_HINT)
            for member in members:
                key = member.filename.removesuffix(".npy")
                if key in wanted:
                    if key in arrays:
                        raise RecordingError(f"{path.name} holds {key!r} twice", code="EG-N134", hint=_HINT)
                    arrays[key] = _read_member(archive, member, path.name)
    except OSError as error:
        raise RecordingError(f"cannot read {path.name}: {error.strerror}", code="EG-N130", hint=_HINT) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise RecordingError(f"{path.name} is no readable npz, or is truncated", code="EG-N132", hint=_HINT) from error
    return arrays


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> NDArray[np.float64]:
    if member.file_size > MAX_MEMBER_BYTES:
        raise RecordingError(f"{member.filename} in {name} is oversized", code="EG-N131", hint=_HINT)
    with archive.open(member) as stream:
        data = stream.read(MAX_MEMBER_BYTES + 1)
    if len(data) != member.file_size:
        raise RecordingError(f"{member.filename} in {name} does not match its size", code="EG-N131", hint=_HINT)
    try:
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False, max_header_size=4096)
    except (ValueError, EOFError, TypeError, SyntaxError, MemoryError, tokenize.TokenError) as error:
        raise RecordingError(f"{member.filename} in {name} is no plain array", code="EG-N132", hint=_HINT) from error
    if array.dtype.kind not in "fiu":
        raise RecordingError(f"{member.filename} in {name} holds no numbers", code="EG-N134", hint=_HINT)
    return array.astype(np.float64)


class _Table:
    """One stream of the file: times (s), rows, how many rows were dropped and why."""

    def __init__(self, t: NDArray[np.float64], rows: NDArray[np.float64]) -> None:
        self.t = t
        self.rows = rows

    @property
    def period_s(self) -> float:
        return float(np.median(np.diff(self.t))) if len(self.t) > 1 else 1.0


def _table(
    arrays: dict[str, NDArray[np.float64]], name: str, columns: int, notes: list[str], file: str
) -> _Table | None:
    """Stream `name` with exactly `columns` columns, or None where the file has none of it."""
    t, values = arrays.get(f"{name}_t"), arrays.get(f"{name}_value")
    if t is None and values is None:
        return None
    if t is None or values is None:
        raise RecordingError(f"{file} has only one of {name}_t and {name}_value", code="EG-N133", hint=_HINT)
    if values.ndim == 1:
        values = values[:, None]
    if t.ndim != 1 or values.ndim != 2 or len(t) != len(values) or values.shape[1] != columns:
        raise RecordingError(
            f"{name} in {file} has shape {t.shape} and {values.shape}, expected (N,) and (N, {columns})",
            code="EG-N134",
            hint=_HINT,
        )
    good = np.isfinite(t) & np.isfinite(values).all(axis=1)
    if not good.all():
        notes.append(f"{name}: {int((~good).sum())} rows with no number dropped")
    t, values = t[good], values[good]
    if np.any(np.diff(t) < 0):
        raise RecordingError(
            f"times of {name} in {file} run backwards", code="EG-N135", hint="sort the rows by time when exporting"
        )
    fresh = np.concatenate([[True], np.diff(t) > 0]) if len(t) else np.zeros(0, dtype=bool)
    if not fresh.all():
        notes.append(f"{name}: {int((~fresh).sum())} rows with a repeated time dropped")
    return _Table(t[fresh], values[fresh]) if fresh.any() else None


def _plausible(table: _Table | None, name: str, keep: NDArray[Any], notes: list[str]) -> _Table | None:
    if table is None or keep.all():
        return table
    notes.append(f"{name}: {int((~keep).sum())} rows outside physical limits dropped")
    return _Table(table.t[keep], table.rows[keep]) if keep.any() else None


class CarRecording:
    """A drive read from `path`. Stamps are shifted so that the first sample is at 1 s of the pipeline's clock.

    Raises:
        RecordingError: EG-N130 unreadable, EG-N131 oversized, EG-N132 damaged, EG-N133 a key is missing, EG-N134 a
            wrong shape or kind, EG-N135 times run backwards, EG-N136 too short or too long.
    """

    def __init__(self, path: Path) -> None:
        arrays = _load(path)
        notes: list[str] = []
        name = path.name
        gnss = _table(arrays, "gnss", _GNSS_COLUMNS, notes, name)
        if gnss is None:
            raise RecordingError(f"{name} has no gnss_t and gnss_value", code="EG-N133", hint=_HINT)
        r = gnss.rows
        gnss = _plausible(
            gnss,
            "gnss",
            (np.abs(r[:, 0]) <= _MAX_LATITUDE_DEG)
            & (np.abs(r[:, 1]) <= _MAX_LONGITUDE_DEG)
            & (np.abs(r[:, 2]) <= _MAX_SPEED_M_S)
            & (np.abs(r[:, 3]) < 1e14),
            notes,
        )
        wheels = self._wheel_table(arrays, notes, name)
        imu = self._imu_table(arrays, notes, name)
        if "steering_angle_value" in arrays:
            notes.append("steering_angle is the steering wheel's; not used, the steering ratio is unknown")
        tables = {GNSS: gnss, WHEELS: wheels, IMU: imu}
        present = {sensor: table for sensor, table in tables.items() if table is not None and len(table.t) > 1}
        notes.extend(f"{sensor}: not in this recording" for sensor in tables if sensor not in present)
        if GNSS not in present:
            raise RecordingError(f"{name} has no usable gnss rows", code="EG-N133", hint=_HINT)
        self._origin_s = min(float(table.t[0]) for table in present.values())
        end_s = max(float(table.t[-1]) for table in present.values())
        if not MIN_DURATION_S <= end_s - self._origin_s <= MAX_DURATION_S:
            raise RecordingError(
                f"{name} spans {end_s - self._origin_s:.1f} s",
                code="EG-N136",
                hint="one drive of at least half a second",
            )
        self._infos: dict[str, SourceInfo] = {}
        self._samples: dict[str, list[Sample]] = {}
        kinds: dict[str, type] = {GNSS: GnssFix, WHEELS: WheelOdometry, IMU: ImuSample}
        builders = {GNSS: _gnss_sample, WHEELS: _wheel_sample, IMU: _imu_sample}
        for sensor, table in present.items():
            period_ns = max(1, int(table.period_s * NS_PER_S))
            self._infos[sensor] = SourceInfo(sensor, kinds[sensor], period_ns, f"{name}:{sensor}")
            build = builders[sensor]
            stamps = (np.round((table.t - self._origin_s) * NS_PER_S)).astype(np.int64) + FIRST_STAMP_NS
            self._samples[sensor] = [build(int(s), row) for s, row in zip(stamps, table.rows, strict=True)]
        self._end_ns = FIRST_STAMP_NS + int((end_s - self._origin_s) * NS_PER_S)
        self.calibration: None = None  # no camera, no lidar
        self.notes: list[dict[str, Any]] = [{"kind": "remark", "text": text} for text in notes]
        self.duration_s = end_s - self._origin_s

    @staticmethod
    def _wheel_table(arrays: dict[str, NDArray[np.float64]], notes: list[str], name: str) -> _Table | None:
        table = _table(arrays, "wheel_speed", 4, notes, name)
        if table is None:
            table = _table(arrays, "speed", 1, notes, name)
        if table is None:
            return None
        return _plausible(table, "wheels", np.all(np.abs(table.rows) <= _MAX_SPEED_M_S, axis=1), notes)

    @staticmethod
    def _imu_table(arrays: dict[str, NDArray[np.float64]], notes: list[str], name: str) -> _Table | None:
        gyro = _table(arrays, "gyro", 3, notes, name)
        accel = _table(arrays, "accelerometer", 3, notes, name)
        if gyro is None or accel is None:
            return None
        if not np.array_equal(gyro.t, accel.t):
            # Different clocks of one chip: the accelerometer is read at the gyro's times, inside its own span only.
            inside = (gyro.t >= accel.t[0]) & (gyro.t <= accel.t[-1])
            gyro = _Table(gyro.t[inside], gyro.rows[inside])
            accel = _Table(gyro.t, np.stack([np.interp(gyro.t, accel.t, accel.rows[:, i]) for i in range(3)], axis=1))
            notes.append("imu: accelerometer interpolated to the gyro's times")
        both = _Table(gyro.t, np.hstack([gyro.rows, accel.rows]))
        inside_limits = (np.abs(both.rows[:, :3]) <= _MAX_RATE_RAD_S) & (np.abs(both.rows[:, 3:]) <= _MAX_ACCEL_M_S2)
        return _plausible(both, "imu", np.all(inside_limits, axis=1), notes)

    @property
    def infos(self) -> tuple[SourceInfo, ...]:
        """One per stream the file has, in the order gnss, wheels, imu."""
        return tuple(self._infos.values())

    def sources(self, clock: Clock) -> dict[str, RecordedSource]:
        """Fresh sources that replay on `clock`, by sensor."""
        return {
            s: RecordedSource(info, [x.stamp_ns for x in self._samples[s]], self._samples[s].__getitem__, clock)
            for s, info in self._infos.items()
        }

    def ticks(self) -> list[Tick]:
        """10 Hz from the first stamp to the last, with what the file lacks at each."""
        return recorded_ticks(
            [
                RecordedStream(
                    info, np.array([x.stamp_ns for x in self._samples[s]], np.int64), self._samples[s].__getitem__
                )
                for s, info in self._infos.items()
            ]
        )


def _gnss_sample(stamp_ns: int, row: NDArray[np.float64]) -> Sample:
    return GnssFix(
        stamp_ns=stamp_ns,
        latitude_deg=float(row[0]),
        longitude_deg=float(row[1]),
        altitude_m=float(row[4]),
        speed_m_s=float(row[2]),
        course_deg=float(row[5]) % 360.0,
        device_stamp_ns=round(float(row[3]) * 1e6) if row[3] > 0 else None,
    )


def _wheel_sample(stamp_ns: int, row: NDArray[np.float64]) -> Sample:
    wheels = (float(row[0]), float(row[1]), float(row[2]), float(row[3])) if len(row) == 4 else None
    return WheelOdometry(stamp_ns=stamp_ns, speed_m_s=float(np.mean(row)), wheel_speeds_m_s=wheels)


def _imu_sample(stamp_ns: int, row: NDArray[np.float64]) -> Sample:
    """Forward, right, down becomes forward, left, up; the file's accelerometer reads -9.8 on "down" at rest, so the
    same sign change gives +9.8 up."""
    return ImuSample(
        stamp_ns=stamp_ns,
        gyro_rad_s=(float(row[0]), -float(row[1]), -float(row[2])),
        accel_m_s2=(float(row[3]), -float(row[4]), -float(row[5])),
    )
