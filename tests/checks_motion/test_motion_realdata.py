"""The real drive: silent as recorded and under honest changes, loud under attack. Prints margins and delays."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeguard.checks.motion import build_motion_checks
from edgeguard.clock import ManualClock
from edgeguard.fusion.fusion import Fusion
from edgeguard.sensors.car import CarRecording
from edgeguard.sync.synchronizer import Synchronizer
from edgeguard.types import CheckResult, FusedState, GnssFix, ImuSample, Level, Sample, TrustState, WheelOdometry

pytestmark = pytest.mark.realdata
S = 1_000_000_000
Tamper = Callable[[Sample, float], "Sample | None"]
Step = tuple[float, list[CheckResult], FusedState]
MOTION = ("G1", "X7", "X8", "X9", "X10", "X11", "T4")


@pytest.fixture(scope="module")
def car(realdata: Path) -> CarRecording:
    return CarRecording(realdata / "car_60s" / "car.npz")


def play(car: CarRecording, tamper: Tamper | None = None, start_s: float = 0.0, stop_s: float = 1e9) -> list[Step]:
    clock, sync, checks = ManualClock(), Synchronizer(car.infos), build_motion_checks(car.infos)
    fusion = Fusion([i.sensor for i in car.infos])
    sources, out = list(car.sources(clock).values()), []
    for tick in car.ticks():
        now_s = tick.stamp_ns / S - 1
        if now_s > stop_s:
            break
        clock.wait_until_ns(tick.stamp_ns)
        for source in sources:
            while (sample := source.read(0.0)) is not None:
                t = sample.stamp_ns / S - 1
                changed = tamper(sample, t) if tamper is not None else sample
                if changed is not None and t >= start_s:
                    sync.push(changed)
        if now_s < start_s:
            continue
        synced = sync.tick(tick)
        results = [check.evaluate(synced) for check in checks]
        out.append((now_s, results, fusion.update(synced, results)))
    return out


def alarms(steps: list[Step]) -> list[tuple[float, str, str]]:
    return [(t, r.check, r.reason) for t, results, _ in steps for r in results if r.level is Level.ANOMALY]


def margins(steps: list[Step]) -> dict[str, float]:
    """Largest statistic over threshold per check."""
    worst: dict[str, float] = {}
    for _, results, _ in steps:
        for r in results:
            if r.check.startswith(MOTION):
                worst[r.check] = max(worst.get(r.check, 0.0), r.statistic / r.threshold)
    return worst


def mirrored(sample: Sample, t: float) -> Sample | None:
    """Left becomes right."""
    if isinstance(sample, ImuSample):
        g, a = sample.gyro_rad_s, sample.accel_m_s2
        return dataclasses.replace(sample, gyro_rad_s=(-g[0], g[1], -g[2]), accel_m_s2=(a[0], -a[1], a[2]))
    if isinstance(sample, WheelOdometry) and sample.wheel_speeds_m_s is not None:
        w = sample.wheel_speeds_m_s
        return dataclasses.replace(sample, wheel_speeds_m_s=(w[1], w[0], w[3], w[2]))
    if isinstance(sample, GnssFix):
        course = (360 - (sample.course_deg or 0)) % 360
        return dataclasses.replace(sample, longitude_deg=-sample.longitude_deg, course_deg=course)
    return sample


def noisier(seed: int) -> Tamper:
    """Brings the noise measured on this drive to about 1.5 times."""
    rng = np.random.default_rng(seed)

    def tamper(sample: Sample, t: float) -> Sample | None:
        if isinstance(sample, GnssFix):
            return dataclasses.replace(
                sample,
                speed_m_s=(sample.speed_m_s or 0) + rng.normal(0, 0.083),
                course_deg=((sample.course_deg or 0) + rng.normal(0, 0.33)) % 360,
                latitude_deg=sample.latitude_deg + rng.normal(0, 0.1) / 111e3,
                longitude_deg=sample.longitude_deg + rng.normal(0, 0.1) / 88e3,
            )
        if isinstance(sample, ImuSample):
            x, y, z = sample.gyro_rad_s
            a, b, c = sample.accel_m_s2
            return dataclasses.replace(
                sample, gyro_rad_s=(x, y, z + rng.normal(0, 0.006)), accel_m_s2=(a + rng.normal(0, 0.4), b, c)
            )
        return sample

    return tamper


def stretched(k: float) -> Tamper:
    """The same road driven `k` times as fast over `k`-fold distances: speeds, accelerations and positions scale."""

    def tamper(sample: Sample, t: float) -> Sample | None:
        if isinstance(sample, GnssFix):
            return dataclasses.replace(
                sample,
                speed_m_s=(sample.speed_m_s or 0) * k,
                latitude_deg=37.72 + (sample.latitude_deg - 37.72) * k,
                longitude_deg=-122.47 + (sample.longitude_deg + 122.47) * k,
            )
        if isinstance(sample, WheelOdometry) and sample.wheel_speeds_m_s is not None:
            w = [x * k for x in sample.wheel_speeds_m_s]
            return dataclasses.replace(
                sample, speed_m_s=sample.speed_m_s * k, wheel_speeds_m_s=(w[0], w[1], w[2], w[3])
            )
        if isinstance(sample, ImuSample):
            a, b, c = sample.accel_m_s2
            return dataclasses.replace(sample, accel_m_s2=(a * k, b, c))
        return sample

    return tamper


def test_the_clean_drive_has_no_anomaly_and_a_wide_margin(car: CarRecording):
    """Zero alarms, every sensor trusted throughout, statistics below half of their thresholds.

    X8 accumulates what is left of its noise, and an honest sum of that kind is allowed to come further.
    """
    steps = play(car)
    worst = margins(steps)
    sys.stdout.write(
        "\nclean margins (statistic / threshold):" + f" { ({k: round(v, 2) for k, v in worst.items()}) }\n"
    )
    assert alarms(steps) == []
    assert max(share for check, share in worst.items() if check != "X8.speed") < 0.5
    assert worst["X8.speed"] < 0.8
    assert {t.state for _, _, fused in steps for t in fused.trust.values()} == {TrustState.TRUSTED}


@pytest.mark.parametrize("start_s", [0.0, 3.3, 6.6, 9.9, 13.2, 15.0])
def test_any_part_of_it_is_silent_too(car: CarRecording, start_s: float):
    """Segments of nine seconds starting anywhere, as recorded and mirrored."""
    assert alarms(play(car, None, start_s, start_s + 9)) == []
    assert alarms(play(car, mirrored, start_s, start_s + 9)) == []


@pytest.mark.parametrize(
    "change",
    [mirrored, noisier(1), noisier(2), stretched(1.5), stretched(0.4)],
    ids=["mirror", "n1", "n2", "x1.5", "x0.4"],
)
def test_honest_changes_raise_no_alarm(car: CarRecording, change: Tamper):
    """Turns the other way, 1.5 times the noise, 30 m/s and city speed."""
    steps = play(car, change)
    sys.stdout.write("\nmargins:" + f" { ({k: round(v, 2) for k, v in margins(steps).items()}) }\n")
    assert alarms(steps) == []


def drift(onset_s: float, along: float, across: float) -> Tamper:
    heading: list[float] = []

    def tamper(sample: Sample, t: float) -> Sample | None:
        if not isinstance(sample, GnssFix) or t < onset_s:
            return sample
        course, v = math.radians(90 - (sample.course_deg or 0)), sample.speed_m_s or 0.0
        heading.append(course)
        h, dt = heading[0], t - onset_s
        ve, vn = along * math.cos(h) - across * math.sin(h), along * math.sin(h) + across * math.cos(h)
        e, n = v * math.cos(course) + ve, v * math.sin(course) + vn
        return dataclasses.replace(
            sample,
            latitude_deg=sample.latitude_deg + vn * dt / 110_990.0,
            longitude_deg=sample.longitude_deg + ve * dt / 88_170.0,
            speed_m_s=math.hypot(e, n),
            course_deg=math.degrees(math.atan2(e, n)) % 360,
        )

    return tamper


def other(onset_s: float, what: str) -> Tamper:
    held: dict[str, Sample] = {}

    def tamper(sample: Sample, t: float) -> Sample | None:
        if t < onset_s:
            held[sample.sensor] = sample
            return sample
        if what == "jump" and isinstance(sample, GnssFix):
            return dataclasses.replace(sample, longitude_deg=sample.longitude_deg + 30 / 88_170.0)
        if what == "frozen" and isinstance(sample, GnssFix):
            old = held["gnss"]
            assert isinstance(old, GnssFix)
            return dataclasses.replace(old, stamp_ns=sample.stamp_ns, device_stamp_ns=sample.device_stamp_ns)
        if what == "dead wheels" and isinstance(sample, WheelOdometry):
            return None
        if what == "gyro" and isinstance(sample, ImuSample):
            x, y, z = sample.gyro_rad_s
            return dataclasses.replace(sample, gyro_rad_s=(x, y, z + math.radians(3)))
        return sample

    return tamper


ATTACKS: list[tuple[str, Callable[[float], Tamper], set[str], float, str]] = [
    # name, attack, acceptable checks, seconds, sensor that must be rejected ("" where the evidence allows a set only)
    ("along 0.5 m/s", lambda t: drift(t, 0.5, 0), {"X8.speed"}, 2.2, ""),
    ("along -0.5 m/s", lambda t: drift(t, -0.5, 0), {"X8.speed"}, 2.2, ""),
    ("along 1 m/s", lambda t: drift(t, 1, 0), {"X8.speed"}, 1.0, ""),
    ("along 5 m/s", lambda t: drift(t, 5, 0), {"X8.speed"}, 0.5, "gnss"),
    ("across 1 m/s", lambda t: drift(t, 0, 1), {"X9.course"}, 1.0, "gnss"),
    ("across 5 m/s", lambda t: drift(t, 0, 5), {"X9.course"}, 0.5, "gnss"),
    ("jump 30 m", lambda t: other(t, "jump"), {"G1.doppler"}, 0.6, "gnss"),
    ("frozen GNSS", lambda t: other(t, "frozen"), {"G1.doppler", "T4.freeze"}, 1.5, "gnss"),
    ("dead wheels", lambda t: other(t, "dead wheels"), {"T1.rate"}, 0.5, "wheels"),
    ("gyro bias 3 deg/s", lambda t: other(t, "gyro"), {"X9.course", "X11.wheels"}, 2.0, "imu"),
]


@pytest.mark.parametrize(
    ("attack", "checks", "within_s", "culprit"), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS]
)
def test_an_attack_on_the_real_drive_is_found_in_time_and_blames_as_evidence_allows(
    car: CarRecording, attack: Callable[[float], Tamper], checks: set[str], within_s: float, culprit: str
):
    """Onsets at 8 s (hard acceleration) and 15 s (cruise). Never a wrong name."""
    delays = []
    for onset_s in (8.0, 15.0):
        steps = play(car, attack(onset_s), 0.0, onset_s + 5.0)
        found = alarms(steps)
        assert min(t for t, _, _ in found) >= onset_s
        delays.append(min(t for t, check, _ in found if check in checks) - onset_s)
        rejected = {s for _, _, fused in steps for s, t in fused.trust.items() if t.state is TrustState.REJECTED}
        assert rejected == ({culprit} if culprit else set())
    sys.stdout.write("\ndelay s:" + f" {[round(d, 1) for d in delays]}\n")
    assert max(delays) <= within_s
