"""The long tracks: silent on honest drives; an offset stays seen, however slowly it came, however long it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgeguard.checks.heading_filter import wrap
from edgeguard.checks.lidar_evidence import ScanMotion
from edgeguard.checks.motion_history import metres_per_degree
from edgeguard.fusion.ego import EgoFilter
from edgeguard.fusion.fusion import Fusion
from edgeguard.fusion.track import TrackCheck
from edgeguard.types import (
    GNSS,
    IMU,
    LIDAR,
    WHEELS,
    CheckResult,
    GnssFix,
    ImuSample,
    Level,
    Sample,
    SyncedSet,
    Tick,
    TrustState,
    WheelOdometry,
)

S = 1_000_000_000
ALL = frozenset({GNSS, WHEELS, IMU, LIDAR})
EAST, NORTH = metres_per_degree(48.0)
Tamper = Callable[[float, Sample | ScanMotion], "Sample | ScanMotion"]


def honest(t: float, sample: Sample | ScanMotion) -> Sample | ScanMotion:
    return sample


def drive(seed: int, seconds: float, tamper: Tamper = honest) -> list[tuple[SyncedSet, ScanMotion]]:
    """12 m/s in bends, a good receiver, a gyro with a bias, wheels 1 % off, a lidar that falls short by 1 cm."""
    rng = np.random.default_rng(seed)
    e = n = 0.0
    yaw = float(rng.uniform(-3, 3))
    wander = rng.normal(0, 1.5, 2)
    out = []
    for i in range(int(seconds * 10)):
        series: dict[str, list[Sample]] = {GNSS: [], WHEELS: [], IMU: []}
        before = yaw
        v = 12 + 2 * np.sin(i / 60)
        for k in range(5):
            t = i / 10 + (k + 1) / 50
            w = 0.08 * np.sin(t / 5 + seed)
            yaw += w / 50
            e, n = e + v * np.cos(yaw) / 50, n + v * np.sin(yaw) / 50
            stamp = S + round(t * S)
            imu = ImuSample(stamp, (0.0, 0.0, w + 0.004 + rng.normal(0, 0.003)), (0.04 * np.cos(i / 60), 0.0, 9.81))
            series[IMU].append(tamper(t, imu))
            series[WHEELS].append(tamper(t, WheelOdometry(stamp, v * 1.01 + rng.normal(0, 0.03))))
        wander = 0.9997 * wander + rng.normal(0, 1.5 * np.sqrt(1 - 0.9997**2), 2)
        velocity = v * np.array([np.cos(yaw), np.sin(yaw)]) + rng.normal(0, 0.07, 2)
        fix = GnssFix(
            stamp, 48 + (n + wander[1]) / NORTH, 11 + (e + wander[0]) / EAST,
            speed_m_s=float(np.hypot(*velocity)),
            course_deg=float(np.degrees(np.arctan2(velocity[0], velocity[1])) % 360),
        )  # fmt: skip
        series[GNSS].append(tamper(t, fix))
        turn = wrap(yaw - before) + rng.normal(0, 4e-4)
        motion = ScanMotion(
            v / 10 - 0.01 + rng.normal(0, 0.015), 0, turn, 0.02, 0.02, 5e-4, 0.6, stamp - S // 10, stamp
        )
        out.append((SyncedSet(Tick(i, stamp), {}, series, {}), tamper(t, motion)))
    return out


def shares(steps: list[tuple[SyncedSet, ScanMotion]]) -> dict[str, float]:
    """Largest share of each check over the drive, everything believed throughout."""
    ego, track, most = EgoFilter(), TrackCheck(tuple(ALL)), dict.fromkeys(TrackCheck.names, 0.0)
    for synced, motion in steps:
        ego.update(synced, ALL, motion)
        for r in track.update(synced, ego, ALL):
            most[r.check] = max(most[r.check], r.statistic)
    return most


def creep(rate_m_s: float, start_s: float = 40.0, stop_s: float = 1e9) -> Tamper:
    """The position walks north at a rate, its velocity unchanged, and then stands."""

    def apply(t: float, sample: Sample | ScanMotion) -> Sample | ScanMotion:
        if not isinstance(sample, GnssFix) or t < start_s:
            return sample
        return replace(sample, latitude_deg=sample.latitude_deg + rate_m_s * (min(t, stop_s) - start_s) / NORTH)

    return apply


@pytest.mark.parametrize("seed", range(4))
def test_honest_drives_stay_below_half_of_the_threshold(seed: int):
    """100 s each; 5 sigma is far away from what honest errors do."""
    assert max(shares(drive(seed, 100.0)).values()) < 0.5


def test_a_creeping_position_is_seen_by_the_track_and_by_nobody_elses():
    """0.3 m/s: F1 only, for wheels, gyro and lidar agree."""
    most = shares(drive(1, 110.0, creep(0.5)))
    assert max(most["F1.along"], most["F1.across"]) > 1.0
    assert max(most["F2.along"], most["F2.across"]) < 0.5


def test_a_wheel_scale_is_seen_against_gnss_and_against_the_lidar():
    """5 % from 40 s on: both along, none across."""

    def scale(t: float, sample: Sample | ScanMotion) -> Sample | ScanMotion:
        slow = isinstance(sample, WheelOdometry) and t > 40
        return replace(sample, speed_m_s=sample.speed_m_s * 1.05) if slow else sample  # type: ignore[union-attr]

    most = shares(drive(2, 80.0, scale))
    assert most["F1.along"] > 1.0
    assert most["F2.along"] > 1.0
    assert most["F2.across"] < 0.5


def test_a_gyro_bias_is_seen_against_gnss_and_against_the_lidar():
    """0.4 deg/s from 40 s on: both across."""

    def bias(t: float, sample: Sample | ScanMotion) -> Sample | ScanMotion:
        if not isinstance(sample, ImuSample) or t < 40:
            return sample
        return replace(sample, gyro_rad_s=(0.0, 0.0, sample.gyro_rad_s[2] + 0.007))

    most = shares(drive(3, 90.0, bias))
    assert most["F1.across"] > 1.0
    assert most["F2.across"] > 1.0
    assert most["F2.along"] < 0.5


class Evidence:
    """Gives each tick's scan match as the lidar's evidence does."""

    def __init__(self) -> None:
        self.now: ScanMotion | None = None

    def motion(self, synced: SyncedSet) -> ScanMotion | None:
        return self.now

    def frame(self, synced: SyncedSet) -> None:
        return None


def test_an_offset_that_stands_still_is_not_forgotten_and_gnss_is_who_is_named():
    """30 m of offset, reached after 30 s and then constant for a minute: GNSS is rejected on the long tracks alone and
    stays so, while wheels, gyro and lidar stay trusted; no short-window check says anything here."""
    evidence, states = Evidence(), []
    fusion = Fusion(tuple(sorted(ALL)), None, evidence)
    calm = [
        CheckResult(name, sensors, Level.OK, 0.1, 1.0, power, unit, quantity)
        for name, sensors, power, unit, quantity in (
            ("X8", (GNSS, WHEELS), 0.4, "m/s", "speed"),
            ("X6", (LIDAR, IMU), 0.03, "rad/s", "yaw_rate"),
            ("X12", (LIDAR, WHEELS), 0.6, "m/s", "speed"),
        )
    ]
    for synced, motion in drive(5, 130.0, creep(1.0, 40.0, 70.0)):
        evidence.now = motion
        states.append(fusion.update(synced, calm).trust)
    rejected = [i / 10 for i, s in enumerate(states) if s[GNSS].state is TrustState.REJECTED]
    assert rejected
    assert 45.0 < rejected[0] < 75.0
    assert states[-1][GNSS].state is not TrustState.TRUSTED
    assert {s[x].state for s in states for x in (WHEELS, IMU, LIDAR)} <= {TrustState.TRUSTED, TrustState.SUSPECT}
    assert states[-1][WHEELS].state is TrustState.TRUSTED


def test_a_jump_of_time_forgets_all_anchors():
    """Nothing is bridged."""
    ego, track = EgoFilter(), TrackCheck(tuple(ALL))
    steps = drive(6, 60.0)
    for i, (synced, motion) in enumerate(steps):
        if i == 500:
            synced = replace(synced, tick=replace(synced.tick, discontinuity=True))  # noqa: PLW2901
        ego.update(synced, ALL, motion)
        found = track.update(synced, ego, ALL)
        if i == 499:
            assert found
        if i == 500:
            assert not found
