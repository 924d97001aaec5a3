"""Registry of the checks of inertial units: against themselves, a camera, each other, and of planar scans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeguard.types import CAMERA, IMU

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeguard.checks.scores import SensorFits
    from edgeguard.types import Check, RigCalibration, SourceInfo


def build_inertial_checks(
    infos: Sequence[SourceInfo], calibration: RigCalibration | None, fits: SensorFits | None = None
) -> list[Check]:
    """Every I check, X5 and the planar X12 that a rig's streams can feed."""
    sensors = {info.sensor for info in infos}
    checks: list[Check] = []
    if {IMU, CAMERA} <= sensors and calibration is not None:
        from edgeguard.checks.camera_rotation import RotationCheck  # loads cv2 and numba, for rigs with a camera only

        checks.append(RotationCheck(calibration, fits))
    return checks
