"""The scan match, and its cross-checks against gyro and wheels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeguard.checks.lidar_evidence import LidarEvidence
from edgeguard.checks.lidar_motion import SpeedCheck, YawCheck
from edgeguard.sensors.kitti import decode_sweep
from edgeguard.types import ImuSample, Level, PointCloud, RigCalibration, SyncedSet, Tick, WheelOdometry

CALIBRATION = RigCalibration(np.eye(3), np.eye(4), (1242, 375))


def _lines(speed: float, *, gyro_bias: float = 0.0, wheel_factor: float = 1.0, from_s: float = 0.0):
    """IMU at 100 Hz and wheels at 50 Hz of a straight drive, wrong from `from_s` on."""

    def series(start_ns: int, end_ns: int) -> dict:
        imu, wheels = [], []
        for t in range(-(-start_ns // 10_000_000) * 10_000_000 + 10_000_000, end_ns + 10_000_001, 10_000_000):
            wrong = t >= from_s * 1e9
            imu.append(ImuSample(t, (0.0, 0.0, gyro_bias if wrong else 0.0), (0.0, 0.0, 9.81)))
            if t % 20_000_000 == 0:
                wheels.append(WheelOdometry(t, speed * (wheel_factor if wrong else 1.0)))
        return {"imu": imu, "wheels": wheels}

    return series


def _run(scenes, speed: float, **wrong):
    evidence = LidarEvidence(CALIBRATION)
    checks = [YawCheck(evidence), SpeedCheck(evidence)]
    sweeps = [{"lidar": s} for s in scenes.drive(speed, 12)]
    return scenes.run(checks, sweeps, series=_lines(speed, **wrong))


@pytest.mark.parametrize("speed", [3.0, 12.0, 30.0])
def test_an_honest_drive_agrees(scenes, speed) -> None:
    """From walking pace to motorway: OK from the third sweep on, far from the threshold."""
    results = _run(scenes, speed)

    for yaw, forward in results[3:]:
        assert yaw.level is Level.OK
        assert forward.level is Level.OK
        assert max(yaw.statistic, forward.statistic) < 0.7
    assert results[-1][0].quantity == "yaw_rate"
    assert results[-1][1].quantity == "speed"
    assert np.isfinite(results[-1][1].power)


def test_a_wrong_wheel_speed_is_told_from_a_wrong_gyro(scenes) -> None:
    """Each fault alarms its own check within six sweeps and leaves the other alone."""
    wheels = _run(scenes, 12.0, wheel_factor=1.4, from_s=0.4)
    gyro = _run(scenes, 12.0, gyro_bias=0.15, from_s=0.4)

    assert any(r[1].level is Level.ANOMALY for r in wheels[4:10])
    assert all(r[0].level is not Level.ANOMALY for r in wheels)
    assert any(r[0].level is Level.ANOMALY for r in gyro[4:10])
    assert all(r[1].level is not Level.ANOMALY for r in gyro)


@pytest.mark.parametrize("bias_deg_s", [1.5, -3.0])
def test_a_gyro_offset_at_switching_on_is_learned_and_no_fault(scenes, bias_deg_s: float) -> None:
    """As data sheets allow, from the first sample: nobody is blamed, and after two seconds it is known to 0.5 deg/s."""
    bias = float(np.radians(bias_deg_s))
    evidence = LidarEvidence(CALIBRATION)
    yaw = YawCheck(evidence)
    sweeps = [{"lidar": s} for s in scenes.drive(8.0, 20)]
    results = scenes.run([yaw], sweeps, series=_lines(8.0, gyro_bias=bias))

    assert {r[0].level for r in results[3:]} == {Level.OK}
    assert np.degrees(yaw.bias_rad_s) == pytest.approx(bias_deg_s, abs=0.5)


def test_standing_still_or_hearing_nothing_is_no_evidence(scenes) -> None:
    """At rest a dead sensor would read the same; without the other line nothing is compared."""
    still = _run(scenes, 0.0)
    evidence = LidarEvidence(CALIBRATION)
    alone = scenes.run(SpeedCheck(evidence), [{"lidar": s} for s in scenes.drive(8.0, 6)])

    assert {r.level for pair in still for r in pair} == {Level.NOT_OBSERVABLE}
    assert {r.level for r in alone} == {Level.NOT_OBSERVABLE}


def test_the_match_is_computed_once_per_tick(scenes) -> None:
    """Asking again at the same tick returns the same object."""
    evidence = LidarEvidence(CALIBRATION)
    synced = SyncedSet(Tick(0, 0), {"lidar": scenes.street(0.0)}, {}, {})

    assert evidence.frame(synced) is evidence.frame(synced)


@pytest.mark.realdata
def test_the_real_displacement_is_recovered_through_a_queue_of_traffic(realdata: Path) -> None:
    """Eleven single matches add up to the one match over all of them within 15 cm of 2.6 m."""
    folder = realdata / "kitti_drive" / "velodyne"
    clouds = [decode_sweep((folder / f"{n:010d}.bin").read_bytes(), k * 100_000_000) for k, n in enumerate(range(12))]
    evidence = LidarEvidence(CALIBRATION)
    total = 0.0
    for k, (cloud, _) in enumerate(clouds):
        assert isinstance(cloud, PointCloud)
        motion = evidence.motion(SyncedSet(Tick(k, cloud.stamp_ns), {"lidar": cloud}, {}, {}))
        total += motion.dx_m if motion else 0.0

    assert total == pytest.approx(2.6, abs=0.15)
