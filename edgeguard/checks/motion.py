"""The registry of timing, serial and motion checks: which ones a rig's streams can feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeguard.checks.clock_model import ClockCheck
from edgeguard.checks.gnss import CourseCheck, DisplacementCheck, DopplerCheck, GnssWheelSpeedCheck
from edgeguard.checks.gnss_receiver import build_receiver_checks
from edgeguard.checks.inertial import AccelerationCheck, LateralCheck, WheelCourseCheck, WheelTurnCheck
from edgeguard.checks.motion_history import MotionHistory
from edgeguard.checks.protocol_plausibility import PlausibilityCheck
from edgeguard.checks.rogue_source import ReplayCheck, SourceCheck, repeats
from edgeguard.checks.serial import FrameIntegrityCheck, IntegrityCheck
from edgeguard.checks.timing import build_timing_checks
from edgeguard.types import GNSS, IMU, WHEELS, Image, PointCloud

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeguard.checks.scores import SensorFits
    from edgeguard.types import Check, SourceInfo


def build_motion_checks(infos: Sequence[SourceInfo], fits: SensorFits | None = None) -> list[Check]:
    """Every T, S, G and X check of this file's rooms for the given streams.

    Names repeat per sensor for T1, T2, T4 and S1; (name, sensors) is unique. The motion checks of one call share one
    `MotionHistory`, so they must all be given the same ticks.
    """
    sensors = {info.sensor for info in infos}
    checks: list[Check] = build_timing_checks(infos)
    checks.extend(
        FrameIntegrityCheck(info.sensor) if info.kind in (Image, PointCloud) else IntegrityCheck(info.sensor)
        for info in infos
    )
    for info in infos:
        checks += [ClockCheck(info.sensor, fits), SourceCheck(info), PlausibilityCheck(info)]
        if repeats(info):
            checks.append(ReplayCheck(info))
    history = MotionHistory(fits)
    if GNSS in sensors:
        checks.append(DopplerCheck(history))
        checks.extend(build_receiver_checks())
    if {GNSS, WHEELS} <= sensors:
        checks += [GnssWheelSpeedCheck(history, fits), DisplacementCheck(history, has_imu=IMU in sensors)]
        checks.append(WheelCourseCheck(history))
    if {GNSS, IMU} <= sensors:
        checks += [CourseCheck(history, fits), LateralCheck(history, GNSS)]
    if {IMU, WHEELS} <= sensors:
        checks += [AccelerationCheck(history), WheelTurnCheck(history), LateralCheck(history, WHEELS)]
    return checks
