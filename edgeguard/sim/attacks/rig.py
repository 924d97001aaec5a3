"""Faults and attacks of the rig itself: a sensor that is knocked out of place, and sources that are exchanged."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.attacks.base import AttackBase, End, Moment, Start
from edgeguard.types import LIDAR, Image, ImuSample, PointCloud, Sample, WheelOdometry

Turn = Literal["roll", "pitch", "yaw"]
View = Literal["mirrored", "rear"]


def turn_matrix(axis: Turn, angle_deg: float) -> NDArray[np.float64]:
    """Return the (3, 3) rotation about x (roll), y (pitch) or z (yaw) of a frame with x forward and z up."""
    i, j = {"roll": (1, 2), "pitch": (2, 0), "yaw": (0, 1)}[axis]
    matrix = np.eye(3)
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    matrix[i, i] = matrix[j, j] = c
    matrix[i, j], matrix[j, i] = -s, s
    return matrix


class ExtrinsicsShift(AttackBase, frozen=True, tag="extrinsics_shift"):
    """A knock or a slow creep of the mount: the sensor looks in another direction than its calibration says."""

    atlas: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "0.5 deg moves a return at 40 m by 0.35 m, a pedestrian's width"
    knob: ClassVar[str] = "angle_deg"

    start_s: Start
    end_s: End
    angle_deg: Annotated[float, msgspec.Meta(ge=-180.0, le=180.0, description="of the sensor, right-handed")] = 0.5
    axis: Turn = "yaw"
    ramp_s: Annotated[float, msgspec.Meta(ge=0.0, le=3600.0, description="0 for a knock")] = 0.0
    focal_share: Annotated[float, msgspec.Meta(gt=0.1, le=10.0, description="a camera's focal length per width")] = (
        0.65625
    )
    sensor: str = LIDAR

    @property
    def size(self) -> str:
        creep = f" over {self.ramp_s:g} s" if self.ramp_s else ""
        return f"{self.angle_deg:g} deg of {self.axis}{creep}"

    def amount(self, elapsed_s: float) -> float:
        """Return the angle then."""
        return self.angle_deg * (min(1.0, elapsed_s / self.ramp_s) if self.ramp_s else 1.0)

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Measure in the turned sensor's frame what the true one measured in its own."""
        back = turn_matrix(self.axis, -self.amount(moment.elapsed_s))
        if isinstance(sample, PointCloud):
            return replace(sample, xyz=np.ascontiguousarray(sample.xyz @ back.T.astype(np.float32)))
        if isinstance(sample, ImuSample):
            return _imu_turned(sample, back)
        return self._turned(sample, back) if isinstance(sample, Image) else sample

    def _turned(self, image: Image, back: NDArray[np.float64]) -> Image:
        height, width = image.pixels.shape[:2]
        focal = self.focal_share * width
        K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
        optical = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0.0]])  # from x forward, z up to z forward, y down
        warp = K @ optical @ back @ optical.T @ np.linalg.inv(K)
        pixels = cv2.warpPerspective(image.pixels, warp, (width, height), borderMode=cv2.BORDER_REPLICATE)
        return replace(image, pixels=np.asarray(pixels, dtype=np.uint8))


class SourceSwap(AttackBase, frozen=True, tag="source_swap"):
    """Another sensor of the same kind in place of this one: the other side's, or the one that looks to the rear.

    Stands in for exchanged cables or topics where the recording has only the one sensor: a mirrored view for the other
    side, a sweep turned by half a circle for the other end of the vehicle, an IMU that lies on its back.
    """

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0041", "AML.T0015")
    knob: ClassVar[str] = ""

    start_s: Start
    end_s: End
    sensor: str
    view: View = "mirrored"

    @property
    def size(self) -> str:
        return "the other side's" if self.view == "mirrored" else "the one to the rear"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return the other view; a camera has no view to the rear to give, its mirrored one is taken."""
        del moment
        if isinstance(sample, Image):
            return replace(sample, pixels=np.ascontiguousarray(sample.pixels[:, ::-1]))
        signs = {"mirrored": (1.0, -1.0, 1.0), "rear": (-1.0, -1.0, 1.0)}[self.view]
        if isinstance(sample, PointCloud):
            return replace(sample, xyz=np.ascontiguousarray(sample.xyz * np.array(signs, dtype=np.float32)))
        if isinstance(sample, ImuSample):
            # No mirror makes an IMU: the other one lies on its back, or faces the rear.
            turn = turn_matrix("roll" if self.view == "mirrored" else "yaw", 180.0)
            return _imu_turned(sample, turn)
        if isinstance(sample, WheelOdometry) and sample.wheel_speeds_m_s is not None:
            a, b, c, d = sample.wheel_speeds_m_s
            return replace(sample, wheel_speeds_m_s=(b, a, d, c) if self.view == "mirrored" else (d, c, b, a))
        return sample


def _imu_turned(sample: ImuSample, turn: NDArray[np.float64]) -> ImuSample:
    gyro, accel = (turn @ np.array(three) for three in (sample.gyro_rad_s, sample.accel_m_s2))
    return replace(
        sample,
        gyro_rad_s=(float(gyro[0]), float(gyro[1]), float(gyro[2])),
        accel_m_s2=(float(accel[0]), float(accel[1]), float(accel[2])),
    )
