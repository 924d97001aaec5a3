"""A second, independent world for the motion checks: a seeded road drive with realistic, correlated sensor errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from edgeguard.checks.motion import build_motion_checks
from edgeguard.sync.synchronizer import Synchronizer
from edgeguard.types import (
    GNSS,
    IMU,
    WHEELS,
    CheckResult,
    GnssFix,
    ImuSample,
    Level,
    Sample,
    SourceInfo,
    SyncedSet,
    Tick,
    WheelOdometry,
)

S = 1_000_000_000
Tamper = Callable[[Sample, float], "Sample | None"]
DT = 0.02


@dataclass(frozen=True)
class Drive:
    """Samples of one drive by arrival, and how long it is."""

    samples: list[Sample]
    seconds: float
    infos: tuple[SourceInfo, ...]

    def ticks(self) -> list[Tick]:
        return [Tick(i, S + (i + 1) * S // 10) for i in range(int(self.seconds * 10) - 1)]


def _ou(rng: np.random.Generator, n: int, sd: float, tau_s: float) -> np.ndarray:
    """First-order Gauss-Markov noise on the DT grid."""
    a = math.exp(-DT / tau_s)
    steps = rng.normal(0.0, sd * math.sqrt(1 - a * a), n)
    out = np.empty(n)
    x = rng.normal(0.0, sd)
    for i in range(n):
        x = a * x + steps[i]
        out[i] = x
    return out


def _speed_profile(rng: np.random.Generator, n: int, style: str) -> np.ndarray:
    """Speed m/s: targets change every 6..20 s, approached with 1..3.5 m/s^2; 'city' stops, 'highway' stays near 30."""
    v = np.empty(n)
    now, target, limit, until = (28.0 if style == "highway" else 0.0), 0.0, 2.0, 0
    accel = 0.0
    for i in range(n):
        if i >= until:
            until = i + int(rng.uniform(6, 20) / DT)
            choices = [26.0, 29.0, 32.0] if style == "highway" else [0.0, 5.0, 9.0, 14.0, 18.0]
            target, limit = float(rng.choice(choices)), float(rng.uniform(1.0, 3.5))
        wanted = max(-limit, min(limit, (target - now) * 0.8))
        accel += max(-4 * DT, min(4 * DT, wanted - accel))  # jerk 4 m/s^3
        now = max(0.0, now + accel * DT)
        if now == 0.0 and accel < 0:
            accel = 0.0
        v[i] = now
    return v


def _turn_profile(rng: np.random.Generator, v: np.ndarray) -> np.ndarray:
    """Yaw rate rad/s: now and then a bend or a corner, lateral acceleration below 3 m/s^2."""
    n = len(v)
    curvature = np.zeros(n)
    i = 0
    while i < n:
        i += int(rng.uniform(2, 12) / DT)
        length = int(rng.uniform(2, 7) / DT)
        end = min(n, i + length)
        if end - i < 20:
            break
        speed = max(float(v[i:end].max()), 3.0)
        peak = min(0.12, 3.0 / speed**2) * rng.uniform(0.2, 1.0) * rng.choice([-1, 1])
        curvature[i:end] = peak * np.sin(np.linspace(0, math.pi, end - i)) ** 2
        i = end
    return curvature * v


def make_drive(
    seed: int, seconds: float, style: str = "city", noise: float = 1.0, device_time: bool = True, white_m: float = 0.05
) -> Drive:
    """One honest drive. `noise` scales GNSS and IMU noise, `white_m` is what each fix adds of its own."""
    rng = np.random.default_rng(seed)
    n = int(seconds / DT) + 200
    v, _t = _speed_profile(rng, n, style), np.arange(n) * DT
    w = _turn_profile(rng, v)
    yaw = rng.uniform(-3, 3) + np.cumsum(w) * DT
    a = np.gradient(v, DT)
    lever = rng.uniform(0.0, 1.5)
    ve, vn = v * np.cos(yaw) - lever * w * np.sin(yaw), v * np.sin(yaw) + lever * w * np.cos(yaw)
    east, north = (
        np.cumsum(v * np.cos(yaw)) * DT + lever * np.cos(yaw),
        np.cumsum(v * np.sin(yaw)) * DT + lever * np.sin(yaw),
    )
    samples: list[tuple[float, Sample]] = []
    samples += _gnss(rng, (ve, vn, east, north), seconds, noise, device_time, white_m)
    samples += _wheels(rng, v, w, a, seconds)
    samples += _imu(rng, v, w, a, seconds, noise)
    samples.sort(key=lambda s: s[0])
    infos = (
        SourceInfo(GNSS, GnssFix, S // 10, "drive"),
        SourceInfo(WHEELS, WheelOdometry, S // 50, "drive"),
        SourceInfo(IMU, ImuSample, S // 50, "drive"),
    )
    return Drive([s for _, s in samples], seconds, infos)


def _gnss(
    rng: np.random.Generator,
    truth: tuple[np.ndarray, ...],
    seconds: float,
    noise: float,
    device_time: bool,
    white_m: float,
) -> list[tuple[float, Sample]]:
    ve, vn, east, north = truth
    n = len(ve)
    lag = rng.uniform(0.05, 0.25)
    wander = [_ou(rng, n, 1.5 * noise, 40.0) for _ in range(2)]
    vnoise = [_ou(rng, n, 0.06 * noise, 0.4) for _ in range(2)]
    out: list[tuple[float, Sample]] = []
    last = 0.0
    for k in range(1, int(seconds * 10)):
        if rng.random() < 0.02:
            continue
        t_device = k / 10
        # The line is late by a few milliseconds, sometimes by forty.
        t_host = max(last + 0.01, t_device + 0.01 + float(rng.gamma(1.0, 0.012)))
        last = t_host
        i = int((t_device - lag) / DT)
        if i < 0:
            continue
        burst = 0.35 * noise * rng.normal() if rng.random() < 0.003 else 0.0
        e = east[i] + wander[0][i] + rng.normal(0, white_m * noise)
        north_m = north[i] + wander[1][i] + rng.normal(0, white_m * noise)
        v_e, v_n = ve[i] + vnoise[0][i] + burst, vn[i] + vnoise[1][i]
        fix = GnssFix(
            stamp_ns=S + int(t_host * S),
            latitude_deg=37.0 + north_m / 110_977.0,
            longitude_deg=-122.0 + e / 89_012.0,
            altitude_m=10.0,
            speed_m_s=round(math.hypot(v_e, v_n), 3),
            course_deg=math.degrees(math.atan2(v_e, v_n)) % 360,
            device_stamp_ns=(1_500_000_000 * S + int(t_device * S)) if device_time else None,
        )
        out.append((t_host, fix))
    return out


def _wheels(
    rng: np.random.Generator, v: np.ndarray, w: np.ndarray, a: np.ndarray, seconds: float
) -> list[tuple[float, Sample]]:
    scale, track = rng.normal(1.0, 0.012), rng.uniform(1.45, 1.65)
    radius = rng.normal(1.0, 0.0015, 4)
    lag = rng.uniform(0.0, 0.04)
    out: list[tuple[float, Sample]] = []
    for k in range(1, int(seconds * 50)):
        t = k / 50 + float(rng.uniform(0, 0.004))
        i = max(0, int((t - lag) / DT))
        slip = 1 + 0.002 * a[i]
        sides = np.array([-1, 1, -1, 1]) * w[i] * track / 2
        speeds = (v[i] + sides) * scale * slip * radius + rng.normal(0, 0.02, 4)
        speeds = np.where(v[i] < 0.4, 0.0, np.round(np.maximum(speeds, 0.0) * 360) / 360)
        q = (float(speeds[0]), float(speeds[1]), float(speeds[2]), float(speeds[3]))
        out.append((t, WheelOdometry(S + int(t * S), float(np.mean(q)), q)))
    return out


def _imu(
    rng: np.random.Generator, v: np.ndarray, w: np.ndarray, a: np.ndarray, seconds: float, noise: float
) -> list[tuple[float, Sample]]:
    n = len(v)
    gyro_bias, accel_bias = rng.normal(0, 0.004), rng.normal(0, 0.8)
    gyro_scale, mount = 1 + rng.normal(0, 0.01), rng.normal(0, 0.03)
    grade = _ou(rng, n, 0.25, 25.0)
    out: list[tuple[float, Sample]] = []
    for k in range(1, int(seconds * 50)):
        t = k / 50 + 0.003
        i = int(t / DT)
        rough = 0.3 + 0.04 * v[i]
        forward = a[i] * 1.06 + mount * w[i] * v[i] + grade[i] + accel_bias + rng.normal(0, rough * noise)
        rate = w[i] * gyro_scale + gyro_bias + rng.normal(0, 0.004 * noise)
        gyro = (float(rng.normal(0, 0.02)), float(rng.normal(0, 0.02)), float(rate))
        accel = (float(forward), float(w[i] * v[i] + rng.normal(0, 0.3)), float(9.81 + rng.normal(0, 0.3)))
        out.append((t, ImuSample(S + int(t * S), gyro, accel)))
    return out


def run_drive(
    drive: Drive, tamper: Tamper | None = None, until_s: float = math.inf
) -> Iterator[tuple[float, SyncedSet, list[CheckResult]]]:
    """Run every motion check over a drive; yields (seconds, set, results) per tick."""
    sync, checks = Synchronizer(drive.infos), build_motion_checks(drive.infos)
    waiting = iter(drive.samples)
    sample = next(waiting, None)
    for tick in drive.ticks():
        now_s = tick.stamp_ns / S - 1
        if now_s > until_s:
            return
        while sample is not None and sample.stamp_ns <= tick.stamp_ns:
            changed = tamper(sample, sample.stamp_ns / S - 1) if tamper is not None else sample
            if changed is not None:
                sync.push(changed)
            sample = next(waiting, None)
        synced = sync.tick(tick)
        yield now_s, synced, [check.evaluate(synced) for check in checks]


def anomalies(drive: Drive, tamper: Tamper | None = None, until_s: float = math.inf) -> dict[str, float]:
    """First time of each anomaly: check name and sensors -> seconds."""
    first: dict[str, float] = {}
    for now_s, _, results in run_drive(drive, tamper, until_s):
        for r in results:
            if r.level is Level.ANOMALY:
                first.setdefault(f"{r.check} {'+'.join(r.sensors)}", now_s)
    return first


@pytest.fixture(scope="session")
def drives() -> Callable[..., Drive]:
    """Maker of honest drives."""
    return make_drive


@pytest.fixture(scope="session")
def run() -> Callable[..., Iterator[tuple[float, SyncedSet, list[CheckResult]]]]:
    """Runs the checks over a drive."""
    return run_drive


@pytest.fixture(scope="session")
def find() -> Callable[..., dict[str, float]]:
    """First time of each anomaly of a drive."""
    return anomalies
