"""Registry of the checks on camera and lidar: which of them a rig with given sensors gets."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from edgeguard.checks.alignment import ExtrinsicCheck, TimeOffsetCheck
from edgeguard.checks.alignment_evidence import AlignmentEvidence
from edgeguard.checks.camera_banding import BandingCheck
from edgeguard.checks.camera_blind import BlindCheck
from edgeguard.checks.camera_evidence import CameraEvidence
from edgeguard.checks.camera_focus import FocusCheck
from edgeguard.checks.camera_lidar_freeze import PayloadFreezeCheck
from edgeguard.checks.camera_light import RoadLightCheck
from edgeguard.checks.camera_overlay import OverlayCheck
from edgeguard.checks.camera_replay import CutCheck, ReplayCheck
from edgeguard.checks.lidar_density import DensityCheck
from edgeguard.checks.lidar_evidence import LidarEvidence
from edgeguard.checks.lidar_firings import FiringsCheck
from edgeguard.checks.lidar_ghost import GhostCheck
from edgeguard.checks.lidar_health import JammingCheck, RemovalCheck
from edgeguard.checks.lidar_motion import SpeedCheck, YawCheck
from edgeguard.checks.lidar_vanished import build_vanished_checks
from edgeguard.checks.scores import SensorFits
from edgeguard.types import CAMERA, IMU, LIDAR, WHEELS, Check, RigCalibration


def build_geometry_checks(
    calibration: RigCalibration | None,
    sensors: Collection[str],
    evidence: LidarEvidence | None = None,
    fits: SensorFits | None = None,
) -> list[Check]:
    """Build the camera and lidar checks for the sensors a rig has.

    Args:
        calibration: None for a rig without one; the lidar's height then is the value type's default.
        sensors: names such as ``camera``, ``lidar``, ``imu``, ``wheels``; others are ignored.
        evidence: pass one to share the lidar's ego-motion (`evidence.motion(synced)`) with other checks.
        fits: what clean data of this rig look like, for the checks that have a monitor.
    """
    checks: list[Check] = []
    seen = CameraEvidence()
    if CAMERA in sensors:
        checks += [BlindCheck(), PayloadFreezeCheck(CAMERA), FocusCheck(seen, fits), BandingCheck(seen, fits)]
        checks += [ReplayCheck(seen), CutCheck(seen), OverlayCheck(seen, calibration)]
    if LIDAR in sensors:
        shared = evidence or LidarEvidence(calibration or RigCalibration(np.eye(3), np.eye(4), (1, 1)))
        checks += [PayloadFreezeCheck(LIDAR), RemovalCheck(shared), JammingCheck(shared), GhostCheck(shared)]
        checks += [*build_vanished_checks(shared), FiringsCheck(shared), DensityCheck(shared)]
        if IMU in sensors:
            checks.append(YawCheck(shared))
        if WHEELS in sensors:
            checks.append(SpeedCheck(shared))
        if CAMERA in sensors and calibration is not None:
            checks.append(RoadLightCheck(seen, shared, calibration))
            pairs = AlignmentEvidence(shared, calibration, thinned=seen)
            late = TimeOffsetCheck(pairs, fits)
            checks += [late, ExtrinsicCheck(pairs, late, fits)]
    return checks
