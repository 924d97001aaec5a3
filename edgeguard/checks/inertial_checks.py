"""Registry of the checks of inertial units: against themselves, a camera, each other, and of planar scans."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from edgeguard.checks.imu_gravity import GravityCheck
from edgeguard.checks.imu_pair import ImuPairCheck
from edgeguard.checks.imu_self import NoiseCheck, RailsCheck
from edgeguard.types import CAMERA, IMU, WHEELS, ImuSample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeguard.checks.scores import SensorFits
    from edgeguard.types import Check, RigCalibration, SourceInfo

SCAN2D = "scan2d"


def build_inertial_checks(
    infos: Sequence[SourceInfo], calibration: RigCalibration | None, fits: SensorFits | None = None
) -> list[Check]:
    """Every I check, X7.gravity, X5 and the planar X12 that a rig's streams can feed."""
    sensors = {info.sensor for info in infos}
    units = [info.sensor for info in infos if info.kind is ImuSample]
    checks: list[Check] = []
    for unit in units:
        checks += [NoiseCheck(fits, unit), RailsCheck(unit), GravityCheck(fits, unit)]
    checks += [ImuPairCheck(one, other, fits) for one, other in combinations(units, 2)]
    if {IMU, CAMERA} <= sensors and calibration is not None:
        from edgeguard.checks.camera_rotation import RotationCheck  # loads cv2 and numba, for rigs with a camera only

        checks.append(RotationCheck(calibration, fits))
    if SCAN2D in sensors and sensors & {IMU, WHEELS}:
        from edgeguard.checks.scan2d_motion import PlanarEvidence, ScanSpeedCheck, ScanYawCheck

        evidence = PlanarEvidence(SCAN2D)
        if WHEELS in sensors:
            checks.append(ScanSpeedCheck(evidence, fits))
        if IMU in sensors:
            checks.append(ScanYawCheck(evidence, fits))
    return checks
