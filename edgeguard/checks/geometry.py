"""Registry of the checks on camera and lidar: which of them a rig with given sensors gets.

Left out on purpose: camera-lidar edge alignment (time offset, extrinsics). On the one street measured it works, but its
threshold moves with the scene, and a check that is wrong on the next street is worse than none.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from edgeguard.checks.camera_blind import BlindCheck
from edgeguard.checks.camera_lidar_freeze import PayloadFreezeCheck
from edgeguard.checks.lidar_evidence import LidarEvidence
from edgeguard.checks.lidar_ghost import GhostCheck
from edgeguard.checks.lidar_health import JammingCheck, RemovalCheck
from edgeguard.checks.lidar_motion import SpeedCheck, YawCheck
from edgeguard.types import CAMERA, IMU, LIDAR, WHEELS, Check, RigCalibration


def build_geometry_checks(
    calibration: RigCalibration | None, sensors: Collection[str], evidence: LidarEvidence | None = None
) -> list[Check]:
    """Build the camera and lidar checks for the sensors a rig has.

    Args:
        calibration: None for a rig without one; the lidar's height then is the value type's default.
        sensors: names such as ``camera``, ``lidar``, ``imu``, ``wheels``; others are ignored.
        evidence: pass one to share the lidar's ego-motion (`evidence.motion(synced)`) with other checks.
    """
    checks: list[Check] = []
    if CAMERA in sensors:
        checks += [BlindCheck(), PayloadFreezeCheck(CAMERA)]
    if LIDAR in sensors:
        shared = evidence or LidarEvidence(calibration or RigCalibration(np.eye(3), np.eye(4), (1, 1)))
        checks += [PayloadFreezeCheck(LIDAR), RemovalCheck(shared), JammingCheck(shared), GhostCheck(shared)]
        if IMU in sensors:
            checks.append(YawCheck(shared))
        if WHEELS in sensors:
            checks.append(SpeedCheck(shared))
    return checks
