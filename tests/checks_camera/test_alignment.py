"""X1 and X2: camera against lidar by their edges."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeguard.checks.alignment import ExtrinsicCheck, TimeOffsetCheck
from edgeguard.checks.alignment_evidence import AlignmentEvidence
from edgeguard.checks.lidar_evidence import LidarEvidence
from edgeguard.checks.scores import Fit, SensorFits
from edgeguard.clock import ManualClock
from edgeguard.sensors.kitti import KittiRecording
from edgeguard.sim.rig import rig_calibration
from edgeguard.types import Check, CheckResult, Level, PointCloud, RigCalibration, SyncedSet

COUNT, ONSET = 36, 18
AXES = {"pitch": 0, "yaw": 1, "roll": 2}
# What `edgeguard calibrate sensors` would find on clean drives: the spread of the estimates over one second.
FITS = SensorFits.of(
    {f"X1.extrinsics.{axis}": Fit(0.0, sigma, 600, 60.0, 12.0, 10.0) for axis, sigma in
     (("pitch", 0.04), ("yaw", 0.03), ("roll", 0.06))} | {"X2.time_offset": Fit(0.0, 0.1, 600, 60.0, 12.0, 5.0)}
)  # fmt: skip


def _turned(calibration: RigCalibration, axis: str, angle_deg: float) -> RigCalibration:
    turn = np.zeros(3)
    turn[AXES[axis]] = np.radians(angle_deg)
    T = calibration.T_cam_lidar.copy()
    T[:3] = cv2.Rodrigues(turn)[0] @ T[:3]
    return replace(calibration, T_cam_lidar=T)


def _checks(calibration: RigCalibration, fits: SensorFits | None = None) -> list[Check]:
    pairs = AlignmentEvidence(LidarEvidence(calibration), calibration)
    late = TimeOffsetCheck(pairs, fits)
    return [late, ExtrinsicCheck(pairs, late, fits)]


def _auroc(clean: list[float], bad: list[float]) -> float:
    a, b = np.array(clean), np.array(bad)
    return float((b[:, None] > a[None]).mean() + 0.5 * (b[:, None] == a[None]).mean())


def _anomalies(results: list[list[CheckResult]], number: int) -> list[CheckResult]:
    return [row[number] for row in results if row[number].level is Level.ANOMALY]


@pytest.mark.parametrize("axis", sorted(AXES))
@pytest.mark.parametrize("angle_deg", [0.5, -0.5])
def test_half_a_degree_is_found_within_a_second(rides, axis: str, angle_deg: float) -> None:
    """On a calibrated rig, from the first second on, with the right axis and sign in words."""
    results = rides.run(_checks(_turned(rig_calibration(), axis, angle_deg), FITS), rides.drive(31, COUNT, lidar=True))

    found = _anomalies(results, 1)
    assert found
    assert results[11][1].level is Level.ANOMALY
    assert f"{axis} by {'+' if angle_deg > 0 else '-'}0." in found[-1].reason
    assert set(found[0].sensors) == {"camera", "lidar"}


def test_the_angle_separates_turned_rigs_from_straight_ones(rides) -> None:
    """AUROC of the raw angle over one second, on streets nothing was developed on: at least 0.99 about every axis."""
    angles: dict[tuple[str, float], list[float]] = {}
    for seed in (32, 33):
        lidar = LidarEvidence(rig_calibration())  # what it gives hangs on the lidar's height alone
        rigs = [_Rig(axis, deg, angles, lidar) for axis in AXES for deg in (0.0, 0.5, -0.5)]
        rides.run(rigs, rides.drive(seed, COUNT, lidar=True))

    for axis in AXES:
        clean, bad = angles[axis, 0.0], angles[axis, 0.5] + angles[axis, -0.5]
        assert len(clean) > 40
        assert _auroc(clean, bad) >= 0.99, axis


class _Rig:
    """A turned rig that writes down the size of its raw angle about one axis, from the tenth tick on."""

    name, sensors = "rig", ("camera", "lidar")

    def __init__(self, axis: str, angle_deg: float, into: dict, lidar: LidarEvidence) -> None:
        calibration = _turned(rig_calibration(), axis, angle_deg)
        pairs = AlignmentEvidence(lidar, calibration)
        self._late = TimeOffsetCheck(pairs, FITS)
        self._turn = ExtrinsicCheck(pairs, self._late, FITS)
        self._monitor = self._turn.monitors[AXES[axis]]
        self._into = into.setdefault((axis, angle_deg), [])

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        self._late.evaluate(synced)
        result = self._turn.evaluate(synced)
        if synced.tick.frame >= 10 and self._monitor.last is not None:
            self._into.append(abs(self._monitor.last))
        return result


@pytest.mark.parametrize(("sensor", "frames"), [("lidar", 1), ("lidar", 3), ("camera", 1), ("camera", 3)])
@pytest.mark.parametrize("seed", [34, 35])
def test_the_late_sensor_is_found_and_named_within_a_second(rides, sensor: str, frames: int, seed: int) -> None:
    """One frame or three, without any calibration of the rig; nobody is blamed before."""
    ticks = rides.late(rides.drive(seed, COUNT, lidar=True), sensor, frames, ONSET)

    results = rides.run(_checks(rig_calibration()), ticks)

    delay = rides.delay(results, "X2.time_offset", ONSET)
    assert delay is not None
    assert delay <= 10
    assert {r.sensors for r in _anomalies(results, 0)} == {(sensor,)}
    assert f"the {sensor} is" in _anomalies(results, 0)[0].reason


def test_honest_drives_and_rests_blame_nobody(rides) -> None:
    """Clean streets are OK with a finite power; a parked rig and a rig without edges are NOT_OBSERVABLE."""
    drive = rides.drive(36, COUNT, lidar=True)
    results = rides.run(_checks(rig_calibration()), drive)
    parked = rides.run(_checks(rig_calibration()), [drive[0]] * 12)
    bare = [{**t, "lidar": _ground(t["lidar"])} for t in drive[:12]]
    empty = rides.run(_checks(rig_calibration()), bare)

    assert _anomalies(results, 0) == _anomalies(results, 1) == []
    assert sum(r[0].level is Level.OK for r in results) > 20
    assert sum(r[1].level is Level.OK for r in results) > 20
    assert all(np.isfinite(c.power) for r in results for c in r if c.level is Level.OK)
    assert {r[0].level for r in parked} == {Level.NOT_OBSERVABLE}
    assert {c.level for r in empty for c in r} == {Level.NOT_OBSERVABLE}


def test_a_picture_that_stands_still_tells_no_time(rides) -> None:
    """Every earlier frame is the same one, so none fits better; the freeze has a check of its own."""
    drive = rides.drive(36, 24, lidar=True)
    frozen = [{**t, "camera": drive[min(k, 8)]["camera"]} for k, t in enumerate(drive)]

    results = rides.run(_checks(rig_calibration()), frozen)

    assert {r[0].level for r in results[18:]} == {Level.NOT_OBSERVABLE}


def _ground(cloud: PointCloud) -> PointCloud:
    keep = (cloud.xyz[:, 2] < -1.5) & (np.hypot(cloud.xyz[:, 0], cloud.xyz[:, 1]) < 6.0)
    return PointCloud(np.ascontiguousarray(cloud.xyz[keep]), np.full(int(keep.sum()), 0.3, np.float32), 0)


def test_wrong_sizes_missing_samples_and_jumps_of_time_are_no_evidence(rides) -> None:
    """A calibration for another image size, half of a pair, and time that jumps: a reason and no claim."""
    drive = rides.drive(36, 14, lidar=True)
    other = replace(rig_calibration(), image_size_px=(1242, 375))
    halves = [{**t, "camera": None} if k % 2 else {**t, "lidar": None} for k, t in enumerate(drive)]

    for results in (rides.run(_checks(other), drive), rides.run(_checks(rig_calibration()), halves)):
        assert {c.level for r in results for c in r} == {Level.NOT_OBSERVABLE}
        assert all(c.reason for r in results for c in r)
    jumped = rides.run(_checks(rig_calibration()), drive, frozenset({8}))
    assert _anomalies(jumped, 0) == _anomalies(jumped, 1) == []
    assert jumped[8][0].level is Level.NOT_OBSERVABLE


@pytest.mark.realdata
def test_the_real_rig_is_aligned_and_a_knock_is_seen(realdata: Path) -> None:
    """KITTI: no anomaly as recorded; half a degree of yaw alarms without a fit; delays move the estimate their way."""
    recording = KittiRecording(realdata / "kitti_drive")
    assert recording.calibration is not None
    late: dict[str, float] = {}
    for name, calibration in (("clean", recording.calibration), ("yaw", _turned(recording.calibration, "yaw", 0.5))):
        levels = _kitti(recording, calibration, late, name, {})
        assert (Level.ANOMALY in levels) == (name == "yaw")
    _kitti(recording, recording.calibration, late, "lidar", {"lidar": 1})
    _kitti(recording, recording.calibration, late, "camera", {"camera": 1})
    print(late)  # noqa: T201 - the figures the docs quote
    assert late["lidar"] > late["clean"] + 0.2
    assert late["camera"] < late["clean"] - 0.2


def _kitti(recording, calibration, late: dict[str, float], name: str, delays: dict[str, int]) -> set[Level]:
    clock = ManualClock()
    sources = recording.sources(clock)
    checks = _checks(calibration)
    time_offset = checks[0]
    assert isinstance(time_offset, TimeOffsetCheck)
    past: list[dict] = []
    levels, frames = set(), []
    for tick in recording.ticks():
        clock.wait_until_ns(tick.stamp_ns)
        past.append({n: source.read(0) for n, source in sources.items()})
        samples = dict(past[-1])
        for sensor, by in delays.items():
            old = past[max(0, len(past) - 1 - by)][sensor]
            samples[sensor] = replace(old, stamp_ns=samples[sensor].stamp_ns)
        synced = SyncedSet(tick, samples, {}, {})
        levels |= {check.evaluate(synced).level for check in checks}
        if len(past) <= 12 and time_offset.monitors[0].last is not None:
            frames.append(time_offset.late_frames)
    late[name] = float(np.median(frames)) if frames else float("nan")  # a turned rig shows no time
    return levels
