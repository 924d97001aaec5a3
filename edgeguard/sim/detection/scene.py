"""What a row knows when it plans its attack: the rig, the moment, and the genuine samples up to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeguard.clock import NS_PER_S
from edgeguard.sim.attacks.base import Moment
from edgeguard.sim.attacks.gnss import moved
from edgeguard.types import GnssFix, Image, PointCloud, RigCalibration, Sample, SourceInfo

_CAMERA_NOISE_DN = 2.0  # a machine-vision sensor at mid grey
_RANGE_NOISE = 1e-3  # 1 cm at 10 m


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The moment before an attack.

    sensors: by kind of sample, the first of its kind. past: genuine samples per sensor, oldest first. elsewhere:
    consecutive samples per frame sensor from the beginning of the recording. speed_m_s: None where nothing tells it.
    """

    infos: Mapping[str, SourceInfo]
    calibration: RigCalibration | None
    past: Mapping[str, Sequence[Sample]]
    elsewhere: Mapping[str, Sequence[Sample]]
    speed_m_s: float | None
    horizon_s: float
    rng: np.random.Generator

    def sensor(self, kind: type) -> str:
        """Name of the first sensor of this kind."""
        return next(name for name, info in self.infos.items() if info.kind is kind)

    def newest(self, sensor: str) -> Sample | None:
        """The last genuine sample."""
        samples = self.past.get(sensor, ())
        return samples[-1] if samples else None

    def period_s(self, sensor: str) -> float:
        """Nominal period."""
        return self.infos[sensor].period_ns / NS_PER_S

    @property
    def lidar_height_m(self) -> float:
        return self.calibration.lidar_height_m if self.calibration is not None else 1.73

    @property
    def sign(self) -> float:
        """Plus or minus one, by chance."""
        return float(self.rng.choice((-1.0, 1.0)))

    def half_view_deg(self) -> float:
        """Half the camera's horizontal field of view; 30 deg where no calibration says it."""
        if self.calibration is None:
            return 30.0
        focal, width = float(self.calibration.camera_matrix[0, 0]), self.calibration.image_size_px[0]
        return float(np.degrees(np.arctan2(width / 2, focal)))


class AlongTrackDrift:
    """A spoofer leads the fix along the vehicle's own course: the offset grows at a constant rate from the first fix.

    With `coherent` the Doppler speed says so too, as a receiver reports that tracks one fake signal; without it the
    position alone moves.
    """

    unplugs = False

    def __init__(self, rate_m_s: float, sensor: str, end_s: float, *, coherent: bool, course_deg: float) -> None:
        self.name, self.sensor, self.start_s, self.end_s = "along_track_drift", sensor, 0.0, end_s
        self.size = f"{rate_m_s:+g} m/s along track, {'position and speed' if coherent else 'position alone'}"
        self._rate, self._coherent, self._course_deg = rate_m_s, coherent, course_deg
        self._east_m = self._north_m = 0.0
        self._last_ns: int | None = None

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Shift the fix by what has come together since the first one."""
        if not isinstance(sample, GnssFix):
            return sample
        past_s = moment.elapsed_s if self._last_ns is None else (sample.stamp_ns - self._last_ns) / NS_PER_S
        self._last_ns = sample.stamp_ns
        if sample.course_deg is not None:
            self._course_deg = sample.course_deg
        angle = np.deg2rad(self._course_deg)
        east, north = float(self._rate * np.sin(angle)), float(self._rate * np.cos(angle))
        self._east_m += east * past_s
        self._north_m += north * past_s
        felt = (east, north) if self._coherent else (0.0, 0.0)
        return moved(sample, self._east_m, self._north_m, *felt)


class OtherPlace:
    """The same kind of sensor at another time and place: frames of the recording's beginning, played on in a circle.

    Each gets fresh sensor noise: another sensor's payloads are nobody's copies, so no memory of payloads finds them.
    """

    unplugs = False

    def __init__(self, frames: Sequence[Sample], sensor: str, end_s: float) -> None:
        self.name, self.sensor, self.start_s, self.end_s = "other_place", sensor, 0.0, end_s
        self.size = f"{len(frames)} frames of another time"
        self._frames, self._next = frames, 0

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return the next foreign frame under the stamps of this one."""
        frame = self._frames[self._next % len(self._frames)]
        self._next += 1
        stamp_ns, device_ns = sample.stamp_ns, sample.device_stamp_ns
        if isinstance(frame, Image) and isinstance(sample, Image):
            noise = _CAMERA_NOISE_DN * moment.rng.standard_normal(frame.pixels.shape, dtype=np.float32)
            pixels = np.clip(frame.pixels + noise + np.float32(0.5), 0, 255).astype(np.uint8)
            return replace(frame, pixels=pixels, stamp_ns=stamp_ns, device_stamp_ns=device_ns)
        if isinstance(frame, PointCloud) and isinstance(sample, PointCloud):
            noise = 1.0 + _RANGE_NOISE * moment.rng.standard_normal((len(frame.xyz), 1), dtype=np.float32)
            xyz = np.ascontiguousarray(frame.xyz * noise, dtype=np.float32)
            return replace(frame, xyz=xyz, stamp_ns=stamp_ns, device_stamp_ns=device_ns)
        return sample
