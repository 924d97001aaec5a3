"""What Ouster packets become: a sweep with all its channels, IMU samples, and the tables that make points of ranges."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import hypot

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels import ouster as kernels
from edgeguard.protocols.ouster_metadata import ChannelField, OusterMetadata
from edgeguard.protocols.sweeps import Points, range_summary
from edgeguard.types import ImuSample, PointCloud


@dataclass(frozen=True, slots=True)
class OusterStatus:
    """What the packet header says about the sensor itself. Countdowns in seconds; 0 is normal everywhere."""

    alert_flags: int = 0
    thermal_shutdown: int = 0
    shot_limiting: int = 0
    countdown_thermal_shutdown_s: int = 0
    countdown_shot_limiting_s: int = 0


@dataclass(frozen=True, slots=True)
class OusterImu:
    """One IMU packet, in the IMU's axes; `sample` turns it into the sensor frame. Stamps are device nanoseconds."""

    accel_stamp_ns: int
    gyro_stamp_ns: int
    accel_m_s2: tuple[float, float, float]
    gyro_rad_s: tuple[float, float, float]
    imu_to_sensor: tuple[float, ...]

    def sample(self, stamp_ns: int, sensor: str) -> ImuSample:
        """Return the value the pipeline works on; `stamp_ns` is the packet's time of arrival."""
        return ImuSample(
            stamp_ns, self._rotated(self.gyro_rad_s), self._rotated(self.accel_m_s2), sensor, self.gyro_stamp_ns
        )

    def summary(self) -> dict[str, object]:
        """Return what was measured, for people and for JSON."""
        return {
            "accel_stamp_ns": self.accel_stamp_ns,
            "gyro_stamp_ns": self.gyro_stamp_ns,
            "accel_m_s2": list(self.accel_m_s2),
            "gyro_rad_s": list(self.gyro_rad_s),
        }

    def _rotated(self, v: tuple[float, float, float]) -> tuple[float, float, float]:
        m = self.imu_to_sensor
        return (
            m[0] * v[0] + m[1] * v[1] + m[2] * v[2],
            m[4] * v[0] + m[5] * v[1] + m[6] * v[2],
            m[8] * v[0] + m[9] * v[1] + m[10] * v[2],
        )


class OusterGeometry:
    """The tables that turn ranges into points, and channels into arrays, for one metadata file."""

    def __init__(self, metadata: OusterMetadata) -> None:
        width, self.layout = metadata.columns_per_frame, metadata.layout
        turn = 2.0 * np.pi * (1.0 - np.arange(width) / width)
        self.encoder = np.ascontiguousarray(np.stack([np.cos(turn), np.sin(turn)], axis=1))
        azimuth = -np.radians(np.array(metadata.beam_azimuth_deg))
        altitude = np.radians(np.array(metadata.beam_altitude_deg))
        forward, left = np.cos(azimuth) * np.cos(altitude), np.sin(azimuth) * np.cos(altitude)
        T = np.array(metadata.lidar_to_sensor).reshape(4, 4)
        along, up = metadata.beam_to_lidar[3], metadata.beam_to_lidar[11]
        self.distance_mm = hypot(along, up) if up != 0.0 else along
        # In the lidar frame x = c * forward - s * left and y = s * forward + c * left; T turns that into the sensor's.
        x, y, z = (T[:3, k, None] for k in range(3))
        beams = np.stack([x * forward + y * left, y * forward - x * left, z * np.sin(altitude)], axis=1)
        self.beams = np.ascontiguousarray(beams * 1e-3)
        origin = np.stack([along * T[:3, 0], along * T[:3, 1], up * T[:3, 2] + T[:3, 3]], axis=1)
        self.origin = np.ascontiguousarray(origin * 1e-3)
        self.height = metadata.pixels_per_column
        self.pixel_words = self.layout.pixel_bytes // 4
        self.shifts = metadata.pixel_shift_by_row

    def field(self, name: str) -> NDArray[np.int64]:
        """Return (word, right shift, mask, left shift) of a channel, as the kernels take it."""
        f: ChannelField = self.layout.channels[name]
        return np.array([f.word, f.shift, f.mask, f.up], dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class OusterSweep:
    """One sweep, as sent. Arrays are staggered (column = measurement id), H beams by W columns.

    raw: (W, H * words) uint32. column_stamp_ns: (W,) int64 device time, 0 where `column_state` is not VALID.
    missing_columns: columns of the azimuth window that did not come or came invalid. partial: the recording or the
    connection began or ended inside this sweep. crc_checked: every packet carried a correct CRC.
    """

    frame_id: int
    raw: NDArray[np.uint32]
    column_stamp_ns: NDArray[np.int64]
    column_state: NDArray[np.uint8]
    missing_columns: int
    partial: bool
    crc_checked: bool
    status: OusterStatus
    geometry: OusterGeometry

    @property
    def channels(self) -> tuple[str, ...]:
        """Names that `channel` takes."""
        return tuple(self.geometry.layout.channels)

    def channel(self, name: str) -> NDArray[np.uint32]:
        """Return one channel as (H, W) uint32: `range` and `range2` in millimetres, 0 is no return.

        Raises:
            KeyError: the packet profile has no such channel.
        """
        f = self.geometry.layout.channels[name]
        words = self.raw[:, f.word :: self.geometry.pixel_words]
        values = ((words >> np.uint32(f.shift)) & np.uint32(f.mask)) << np.uint32(f.up)
        return np.ascontiguousarray(values.T)

    def destaggered(self, name: str) -> NDArray[np.uint32]:
        """Return one channel as a picture: (H, W) uint32, every row shifted so that columns are directions."""
        image = self.channel(name)
        return np.stack([np.roll(row, shift) for row, shift in zip(image, self.geometry.shifts, strict=True)])

    @property
    def stamp_range_ns(self) -> tuple[int, int]:
        """Device time of the first and the last column; (0, 0) when no column is valid."""
        stamps = self.column_stamp_ns[self.column_state == kernels.VALID]
        return (int(stamps.min()), int(stamps.max())) if len(stamps) else (0, 0)

    def points(self, which: int = 0) -> Points:
        """Return xyz (N, 3), intensity, ring and offset of return 0 or 1, in the order they were measured.

        Offsets count nanoseconds from the last column of the sweep, so they are never positive.

        Raises:
            KeyError: `which` is 1 and the profile has one return.
        """
        g, mark = self.geometry, "" if which == 0 else "2"
        most = int(np.count_nonzero(self.column_state == kernels.VALID)) * g.height + 1
        xyz = np.empty((most, 3), dtype=np.float32)
        intensity = np.empty(most, dtype=np.float32)
        ring = np.empty(most, dtype=np.int16)
        offset_ns = np.empty(most, dtype=np.int32)
        count = kernels.sweep_points(
            self.raw,
            g.pixel_words,
            g.field("range" + mark),
            g.field("reflectivity" + mark),
            self.column_state,
            self.column_stamp_ns,
            self.stamp_range_ns[1],
            g.encoder,
            g.beams,
            g.origin,
            g.distance_mm,
            xyz,
            intensity,
            ring,
            offset_ns,
        )
        return xyz[:count], intensity[:count], ring[:count], offset_ns[:count]

    def summary(self) -> dict[str, object]:
        """Return what matters of a sweep in a few numbers, for people and for JSON."""
        first_ns, last_ns = self.stamp_range_ns
        row: dict[str, object] = {
            "frame_id": self.frame_id,
            "first_column_device_ns": first_ns,
            "last_column_device_ns": last_ns,
            "columns": len(self.column_state),
            "missing_columns": self.missing_columns,
            "partial": self.partial,
            "crc_checked": self.crc_checked,
        }
        for which in range(self.geometry.layout.returns):
            row |= range_summary(self.points(which)[0], "2" if which else "")
        return row | asdict(self.status)

    def sample(self, stamp_ns: int, sensor: str) -> PointCloud:
        """Return the first returns as the value the pipeline works on.

        `stamp_ns` is when the last packet arrived; point offsets count back from it.
        """
        xyz, intensity, ring, offset_ns = self.points()
        return PointCloud(xyz, intensity, stamp_ns, sensor, ring, offset_ns, self.stamp_range_ns[1])
