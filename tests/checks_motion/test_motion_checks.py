"""Motion checks on an independent, seeded drive: quiet when honest, quick when not, silent when blind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from edgeguard.checks.motion import build_motion_checks
from edgeguard.types import GnssFix, ImuSample, Level, Sample, SourceInfo, WheelOdometry

ONSET_S = 30.0
Tamper = Callable[[Sample, float], "Sample | None"]


def drift(along: float, across: float, coherent: bool = True) -> Tamper:
    """GNSS drifts along and across its course at onset; coherently also in speed and course."""
    heading: list[float] = []

    def tamper(sample: Sample, t: float) -> Sample | None:
        if not isinstance(sample, GnssFix) or t < ONSET_S:
            return sample
        course = math.radians(90 - (sample.course_deg or 0.0))
        heading.append(course)
        h, dt, v = heading[0], t - ONSET_S, sample.speed_m_s or 0.0
        ve, vn = along * math.cos(h) - across * math.sin(h), along * math.sin(h) + across * math.cos(h)
        new = dataclasses.replace(
            sample,
            latitude_deg=sample.latitude_deg + vn * dt / 110_977.0,
            longitude_deg=sample.longitude_deg + ve * dt / 89_012.0,
        )
        if not coherent:
            return new
        e, n = v * math.cos(course) + ve, v * math.sin(course) + vn
        return dataclasses.replace(new, speed_m_s=math.hypot(e, n), course_deg=math.degrees(math.atan2(e, n)) % 360)

    return tamper


def jump(sample: Sample, t: float) -> Sample | None:
    """30 m to the east at onset."""
    if isinstance(sample, GnssFix) and t >= ONSET_S:
        return dataclasses.replace(sample, longitude_deg=sample.longitude_deg + 30 / 89_012.0)
    return sample


def bias(deg_s: float) -> Tamper:
    def tamper(sample: Sample, t: float) -> Sample | None:
        if isinstance(sample, ImuSample) and t >= ONSET_S:
            x, y, z = sample.gyro_rad_s
            return dataclasses.replace(sample, gyro_rad_s=(x, y, z + math.radians(deg_s)))
        return sample

    return tamper


def push(a: float) -> Tamper:
    def tamper(sample: Sample, t: float) -> Sample | None:
        if isinstance(sample, ImuSample) and t >= ONSET_S:
            x, y, z = sample.accel_m_s2
            return dataclasses.replace(sample, accel_m_s2=(x + a, y, z))
        return sample

    return tamper


def scaled_wheels(k: float) -> Tamper:
    def tamper(sample: Sample, t: float) -> Sample | None:
        if isinstance(sample, WheelOdometry) and t >= ONSET_S:
            w = sample.wheel_speeds_m_s or (0.0,) * 4
            four = (w[0] * k, w[1] * k, w[2] * k, w[3] * k)
            return dataclasses.replace(sample, speed_m_s=sample.speed_m_s * k, wheel_speeds_m_s=four)
        return sample

    return tamper


def freeze(kind: type) -> Tamper:
    last: list[Any] = []

    def tamper(sample: Sample, t: float) -> Sample | None:
        if not isinstance(sample, kind):
            return sample
        if t < ONSET_S or not last:
            last[:] = [sample]
            return sample
        return dataclasses.replace(last[0], stamp_ns=sample.stamp_ns, device_stamp_ns=sample.device_stamp_ns)

    return tamper


def silence(kind: type) -> Tamper:
    return lambda sample, t: None if isinstance(sample, kind) and t >= ONSET_S else sample


HONEST = [
    # seed, seconds, style, noise, receiver's own time, white noise of each fix in m
    (1, 150, "city", 1.0, True, 0.05),
    (2, 150, "highway", 1.0, True, 0.05),
    (3, 120, "city", 1.5, True, 0.05),
    (11, 120, "highway", 1.5, True, 0.05),
    (4, 100, "city", 1.0, False, 0.7),
]


@pytest.mark.parametrize("case", HONEST, ids=str)
def test_an_honest_drive_raises_no_alarm(drives: Any, find: Any, case: tuple[Any, ...]):
    """More than ten minutes in all: stops, starts, corners, bends at 30 m/s, bursts, wander, jitter."""
    assert find(drives(*case)) == {}


ATTACKS: list[tuple[str, Tamper, set[str], float]] = [
    ("drift 0.5 m/s along", drift(0.5, 0.0), {"X8.speed gnss+wheels"}, 2.5),
    ("drift -0.5 m/s along", drift(-0.5, 0.0), {"X8.speed gnss+wheels"}, 2.5),
    ("drift 1 m/s along", drift(1.0, 0.0), {"X8.speed gnss+wheels"}, 1.0),
    ("drift 2 m/s along", drift(2.0, 0.0), {"X8.speed gnss+wheels"}, 0.7),
    ("drift 2 m/s across", drift(0.0, 2.0), {"X9.course gnss+imu", "X10.displacement gnss+wheels+imu"}, 2.0),
    ("drift 2 m/s, position only", drift(1.4, 1.4, coherent=False), {"G1.doppler gnss"}, 5.0),
    ("jump of 30 m", jump, {"G1.doppler gnss"}, 0.6),
    ("gyro bias 3 deg/s", bias(3.0), {"X9.course gnss+imu", "X11.wheels imu+wheels"}, 2.5),
    ("accelerometer bias 4 m/s^2", push(4.0), {"X7.accel imu+wheels"}, 2.0),
    ("wheels read 10 % more", scaled_wheels(1.1), {"X8.speed gnss+wheels"}, 1.0),
    ("wheels read zero", scaled_wheels(0.0), {"X8.speed gnss+wheels", "X7.accel imu+wheels"}, 1.5),
    ("GNSS frozen", freeze(GnssFix), {"T4.freeze gnss"}, 2.0),
    ("wheels frozen", freeze(WheelOdometry), {"T4.freeze wheels"}, 2.0),
    ("IMU frozen", freeze(ImuSample), {"T4.freeze imu"}, 0.6),
    ("GNSS dead", silence(GnssFix), {"T1.rate gnss"}, 1.4),
    ("wheels dead", silence(WheelOdometry), {"T1.rate wheels"}, 0.6),
    ("IMU dead", silence(ImuSample), {"T1.rate imu"}, 0.6),
]


@pytest.mark.parametrize(("tamper", "checks", "within_s"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
def test_an_attack_is_found_by_the_right_check_in_time(
    drives: Any, find: Any, tamper: Tamper, checks: set[str], within_s: float
):
    """Onset after 30 s of a highway drive; nothing before, the named checks within their time after."""
    found = find(drives(7, 45, "highway"), tamper, ONSET_S + within_s)
    assert all(t >= ONSET_S for t in found.values()), found
    assert checks & set(found), found


def test_a_parked_car_is_not_observable_and_never_frozen(drives: Any, run: Any):
    """Standstill is no evidence: constant values repeat honestly."""
    drive = drives(5, 20, "city")

    def park(sample: Sample, t: float) -> Sample | None:
        if isinstance(sample, GnssFix):
            return dataclasses.replace(sample, latitude_deg=37.0, longitude_deg=-122.0, speed_m_s=0.0, course_deg=None)
        if isinstance(sample, WheelOdometry):
            return dataclasses.replace(sample, speed_m_s=0.0, wheel_speeds_m_s=(0.0,) * 4)
        if isinstance(sample, ImuSample):
            return dataclasses.replace(sample, gyro_rad_s=(0.0, 0.0, sample.gyro_rad_s[0] / 20))
        return sample

    levels: dict[str, set[Level]] = {}
    for now_s, _, results in run(drive, park):
        for r in results:
            if now_s > 3:
                levels.setdefault(f"{r.check} {r.sensors[0]}", set()).add(r.level)
    for name in ("X8.speed gnss", "X10.displacement gnss", "X9.course gnss", "X11.wheels imu", "T4.freeze gnss"):
        assert levels[name] == {Level.NOT_OBSERVABLE}, name
    assert levels["T4.freeze wheels"] == {Level.NOT_OBSERVABLE}


def test_course_needs_a_turn(drives: Any, run: Any):
    """On a straight road agreement about turning says nothing; in a bend it does."""
    seen: set[Level] = set()
    for _, synced, results in run(drives(2, 60, "highway")):
        imu = synced.samples["imu"]
        course = next(r for r in results if r.check == "X9.course")
        seen.add(course.level)
        if course.level is Level.OK:
            assert isinstance(imu, ImuSample)
            assert math.isfinite(course.power)
    assert seen == {Level.OK, Level.NOT_OBSERVABLE}


def test_a_change_below_the_stated_power_is_not_promised_and_one_above_it_is_kept(drives: Any, run: Any):
    """`power` is honest: twice the power at onset is found within the horizon."""
    powers = [
        r.power
        for now_s, _, results in run(drives(7, 45, "highway"), None, ONSET_S)
        for r in results
        if r.check == "X8.speed" and now_s > ONSET_S - 1 and r.level is Level.OK
    ]
    assert powers
    size = 2 * max(powers)
    assert 0.2 < size < 2.0
    hits = [
        now_s
        for now_s, _, results in run(drives(7, 45, "highway"), drift(size, 0.0), ONSET_S + 2.0)
        for r in results
        if r.check == "X8.speed" and r.level is Level.ANOMALY
    ]
    assert hits


def test_an_attacker_cannot_teach_the_scale(drives: Any, run: Any):
    """A drift that lasts is still an anomaly after ten seconds: calibration is frozen under suspicion."""
    last = [
        r.level
        for now_s, _, results in run(drives(7, 45, "highway"), drift(1.5, 0.0), ONSET_S + 10.0)
        for r in results
        if r.check == "X8.speed" and now_s > ONSET_S + 8
    ]
    assert set(last) == {Level.ANOMALY}


def test_checks_are_built_for_what_is_there():
    """A rig without wheels has no wheel checks."""
    only = [SourceInfo("gnss", GnssFix, 10**8, "x"), SourceInfo("imu", ImuSample, 10**7, "x")]
    names = {c.name for c in build_motion_checks(only)}
    timing = {"T1.rate", "T2.stamp", "T3.clock", "T4.freeze", "T4.replay", "T5.source", "S1.integrity", "S2.plausible"}
    receiver = {"G1.doppler", "G2.clock", "G3.signal", "G4.raim", "G5.flags"}
    assert timing | receiver | {"X9.course"} <= names
    assert not names & {"X8.speed", "X9.wheels", "X10.displacement", "X7.accel", "X11.wheels"}
