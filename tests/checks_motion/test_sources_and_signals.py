"""Clocks, second sources, replays, impossible values, and what a receiver says of its signals: tick by tick."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeguard.checks.clock_model import ClockCheck
from edgeguard.checks.gnss_receiver import FlagCheck, RaimCheck, SignalCheck, chi_square_limit
from edgeguard.checks.motion import build_motion_checks
from edgeguard.checks.protocol_plausibility import PlausibilityCheck, fix_fault, imu_fault, wheel_fault
from edgeguard.checks.rogue_source import ReplayCheck, SourceCheck
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.sync.synchronizer import Synchronizer
from edgeguard.types import (
    GNSS,
    IMU,
    WHEELS,
    Check,
    CheckResult,
    GnssFix,
    GnssSignal,
    ImuSample,
    Level,
    Sample,
    SourceInfo,
    Tick,
    WheelOdometry,
)

MS = 1_000_000
S = 1_000 * MS
FIX = SourceInfo(GNSS, GnssFix, 100 * MS, "test")
INERTIAL = SourceInfo(IMU, ImuSample, 10 * MS, "test")
ODOMETRY = SourceInfo(WHEELS, WheelOdometry, 20 * MS, "test")


def play(check: Check, info: SourceInfo, samples: list[Sample], seconds: float) -> list[tuple[float, CheckResult]]:
    """Run one check over 10 Hz ticks; samples arrive at their stamps."""
    sync, out, waiting = Synchronizer([info]), [], sorted(samples, key=lambda s: s.stamp_ns)
    index = 0
    for i in range(int(seconds * 10)):
        now_ns = S + (i + 1) * 100 * MS
        while index < len(waiting) and waiting[index].stamp_ns <= now_ns:
            sync.push(waiting[index])
            index += 1
        out.append((now_ns / S - 1, check.evaluate(sync.tick(Tick(i, now_ns)))))
    return out


def first(results: list[tuple[float, CheckResult]]) -> float | None:
    return next((t for t, r in results if r.level is Level.ANOMALY), None)


def readings(seconds: float, device: Callable[[float], float], jitter_ms: float = 1.0, seed: int = 0) -> list[Sample]:
    """An IMU at 100 Hz on a line with exponential jitter; `device(t)` is what its clock says at `t`."""
    rng, out, last = np.random.default_rng(seed), list[Sample](), 0
    for k in range(int(seconds * 100)):
        t = k / 100
        arrival = S + max(last + 1, int((t + rng.exponential(jitter_ms * 1e-3)) * S))
        last = arrival - S
        g = tuple(float(v) for v in rng.normal(0, 0.01, 3))
        out.append(ImuSample(arrival, (g[0], g[1], g[2]), (0.0, 0.0, 9.81), device_stamp_ns=int(device(t) * S)))
    return out


@pytest.mark.parametrize("jitter_ms", [0.1, 1.0, 10.0])
def test_an_honest_clock_raises_no_alarm(jitter_ms: float):
    """T3 over two minutes at 80 ppm, which a crystal may have, with the jitter of a UART and of a bad USB hub."""
    results = play(ClockCheck(IMU), INERTIAL, readings(120, lambda t: 5.0 + t * (1 + 80e-6), jitter_ms), 120)
    assert first(results) is None
    assert results[-1][1].level is Level.OK


@pytest.mark.parametrize(("step_s", "within_s"), [(0.2, 0.7), (-0.2, 0.7), (3.0, 0.5)])
def test_a_clock_that_is_set_is_found_at_once(step_s: float, within_s: float):
    """T3: forwards shows with the next samples, backwards once half a second has no quicker sample."""
    samples = readings(30, lambda t: 10.0 + t + (step_s if t >= 20 else 0.0))
    found = first(play(ClockCheck(IMU), INERTIAL, samples, 30))
    assert found is not None
    assert 20.0 <= found <= 20.0 + within_s


@pytest.mark.parametrize("ppm", [500.0, -500.0])
def test_a_clock_that_begins_to_drift_is_found_in_seconds(ppm: float):
    """T3: half a millisecond a second against least delays that lie within a tenth."""
    samples = readings(60, lambda t: 10.0 + t + max(0.0, t - 30.0) * ppm * 1e-6)
    found = first(play(ClockCheck(IMU), INERTIAL, samples, 60))
    assert found is not None
    assert 30.0 < found <= 36.0


def fixes(seconds: float, rate_hz: float = 10.0, seed: int = 0, device: bool = True) -> list[Sample]:
    """A receiver on a car at 15 m/s to the east; centimetres of noise, milliseconds of jitter."""
    rng, out = np.random.default_rng(seed), list[Sample]()
    for k in range(1, int(seconds * rate_hz)):
        t = k / rate_hz
        arrival = S + int((t + 0.02 + rng.exponential(0.005)) * S)
        north, east = rng.normal(0, 0.02), 15.0 * t + rng.normal(0, 0.02)
        out.append(
            GnssFix(
                arrival, 48.0 + north / 111_132, 11.0 + east / 74_500, 500.0, 15.0, 90.0, 12, 0.8,
                device_stamp_ns=int(t * S) + 10**18 if device else None,
            )
        )  # fmt: skip
    return out


@pytest.mark.parametrize("device", [True, False])
def test_a_second_receiver_on_the_line_is_found_within_a_second(device: bool):
    """T5: twenty metres aside, half a period later, with and without times of its own."""
    honest = fixes(20, device=device)
    assert first(play(SourceCheck(FIX), FIX, honest, 20)) is None
    rogue: list[Sample] = [
        dataclasses.replace(f, stamp_ns=f.stamp_ns + 50 * MS, longitude_deg=f.longitude_deg + 20 / 74_500)
        for f in honest
        if isinstance(f, GnssFix) and f.stamp_ns > 11 * S
    ]
    found = first(play(SourceCheck(FIX), FIX, honest + rogue, 20))
    assert found is not None
    assert 10.0 <= found <= 11.0


def test_a_host_that_stalls_is_no_second_source():
    """T5: a third of a second late, all at once, every five seconds."""
    late = [
        dataclasses.replace(f, stamp_ns=max(f.stamp_ns, (f.stamp_ns // (5 * S)) * 5 * S + 330 * MS + i))
        for i, f in enumerate(fixes(60))
    ]
    assert first(play(SourceCheck(FIX), FIX, late, 60)) is None


@given(st.integers(0, 1000), st.floats(0.5, 8.0))
@settings(max_examples=15, deadline=None)
def test_a_loop_of_recorded_readings_is_found_and_an_honest_stream_is_not(seed: int, loop_s: float):
    """T4.replay: the last seconds again, under fresh stamps, found half a second after it begins."""
    honest = [s for s in readings(12, lambda t: t, seed=seed) if isinstance(s, ImuSample)]
    assert first(play(ReplayCheck(INERTIAL), INERTIAL, list(honest), 12)) is None
    start = 1000
    past = honest[start - int(loop_s * 100) : start]
    looped: list[Sample] = [
        s if i < start else dataclasses.replace(past[(i - start) % len(past)], stamp_ns=s.stamp_ns)
        for i, s in enumerate(honest)
    ]
    found = first(play(ReplayCheck(INERTIAL), INERTIAL, looped, 12))
    assert found is not None
    assert 10.0 < found <= 10.8


def test_coarse_wheels_at_a_steady_speed_are_no_replay():
    """T4.replay knows quantisation: three possible values for minutes."""
    rng = np.random.default_rng(3)
    samples: list[Sample] = []
    for k in range(1, 6000):
        v = round(float(rng.normal(15.0, 0.1)) / 0.2) * 0.2
        samples.append(WheelOdometry(S + k * 20 * MS, v, (v, v, v, v)))
    assert first(play(ReplayCheck(ODOMETRY), ODOMETRY, samples, 119)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"latitude_deg": 0.0, "longitude_deg": 0.0},
        {"latitude_deg": math.nan},
        {"speed_m_s": 300.0},
        {"speed_m_s": -1.0},
        {"altitude_m": 40_000.0},
        {"course_deg": 400.0},
        {"satellites": 99},
        {"cn0_dbhz": (80.0,)},
    ],
)
def test_a_fix_that_no_receiver_gives_on_a_road_is_named(change: dict[str, object]):
    """S2 for GNSS, one limit at a time; one such fix is a glitch, two are an anomaly."""
    samples = fixes(5)
    good = samples[20]
    assert isinstance(good, GnssFix)
    assert fix_fault(good) == ""
    assert fix_fault(dataclasses.replace(good, **change)) != ""  # type: ignore[arg-type]
    one = [dataclasses.replace(s, **change) if i == 20 else s for i, s in enumerate(samples)]  # type: ignore[arg-type]
    two = [dataclasses.replace(s, **change) if i in (20, 25) else s for i, s in enumerate(samples)]  # type: ignore[arg-type]
    assert first(play(PlausibilityCheck(FIX), FIX, one, 5)) is None
    assert first(play(PlausibilityCheck(FIX), FIX, two, 5)) is not None


def test_inertial_and_wheel_values_have_limits_too():
    """S2: rails of the widest ranges; a jump of the wheels that tyres cannot make."""
    still = ImuSample(S, (0.0, 0.0, 0.0), (0.0, 0.0, 9.81))
    assert imu_fault(still) == ""
    assert imu_fault(dataclasses.replace(still, gyro_rad_s=(0.0, 90.0, 0.0))) != ""
    assert imu_fault(dataclasses.replace(still, accel_m_s2=(0.0, math.nan, 0.0))) != ""
    wheels = WheelOdometry(2 * S, 10.0, (10.0, 10.0, 10.0, 10.0))
    assert wheel_fault(wheels, WheelOdometry(2 * S - 20 * MS, 9.8)) == ""
    assert wheel_fault(wheels, WheelOdometry(2 * S - 20 * MS, 0.0)) != ""
    assert wheel_fault(dataclasses.replace(wheels, wheel_speeds_m_s=(10.0, 10.0, 40.0, 10.0)), None) != ""


def sky(t: float, seed: int, loss_db: float = 0.0, spread: float = 4.0, fault_m: float = 0.0) -> GnssFix:
    """One fix a second with twelve named satellites."""
    steady, rng = np.random.default_rng(seed), np.random.default_rng([seed, int(t * 10)])
    levels = 42.0 + spread * steady.standard_normal(12) - loss_db + rng.normal(0, 0.7, 12)
    residuals = rng.normal(0, 2.0, 12)
    residuals[3] += fault_m
    signals = tuple(
        GnssSignal("G", n, round(float(c)), 15.0 + 6.0 * n, float(r), True)
        for n, (c, r) in enumerate(zip(levels, residuals, strict=True))
    )
    return GnssFix(S + int(t * S), 48.0 + t * 1e-6, 11.0, 500.0, 10.0, 0.0, 12, 0.9, signals=signals)


SLOW = SourceInfo(GNSS, GnssFix, S, "test")


@pytest.mark.parametrize(
    ("check", "attack"),
    [
        (SignalCheck, {"loss_db": 12.0}),
        (SignalCheck, {"spread": 0.3}),
        (RaimCheck, {"fault_m": 80.0}),
    ],
    ids=["jamming", "one antenna", "one wrong range"],
)
def test_signals_that_change_as_nature_does_not_are_found(check: type[Check], attack: dict[str, float]):
    """G3 and G4: quiet for a minute, loud within three seconds and a half of the change."""
    honest: list[Sample] = [sky(t, 5) for t in range(60)]
    assert first(play(check(), SLOW, honest, 60)) is None
    attacked: list[Sample] = [sky(t, 5, **(attack if t >= 40 else {})) for t in range(60)]
    found = first(play(check(), SLOW, attacked, 60))
    assert found is not None
    assert 40.0 <= found <= 43.5


def test_a_bridge_that_takes_half_the_sky_is_no_jammer():
    """G3: half of the satellites fall by 15 dB, the others stay."""
    out: list[Sample] = []
    for t in range(60):
        fix = sky(t, 6)
        if 40 <= t < 43:
            weak = tuple(
                dataclasses.replace(s, cn0_dbhz=s.cn0_dbhz - (15.0 if i % 2 else 0.0))
                for i, s in enumerate(fix.signals)
            )
            fix = dataclasses.replace(fix, signals=weak)
        out.append(fix)
    assert first(play(SignalCheck(), SLOW, out, 60)) is None


def test_a_receivers_own_suspicion_is_half_of_an_alarm():
    """G5: a flag alone stays below the threshold; with signals that bear it out it does not."""
    signal = SignalCheck()
    flags = FlagCheck((signal,))
    alone: list[Sample] = [dataclasses.replace(sky(t, 7), spoof_state=2) for t in range(30)]
    results = play(flags, SLOW, alone, 30)
    assert first(results) is None
    assert max(r.statistic for _, r in results) == pytest.approx(0.5)
    signal.share = 0.6
    assert flags._take(dataclasses.replace(sky(1, 7), spoof_state=2), 1.0)
    assert flags.share > 1.0


def test_the_quantile_of_chi_square_is_that_of_the_tables():
    """Abramowitz & Stegun 26.8 to two percent: chance 1e-3 at 5 and 10 degrees of freedom."""
    assert chi_square_limit(5, 1e-3) == pytest.approx(20.515, rel=0.02)
    assert chi_square_limit(10, 1e-3) == pytest.approx(29.588, rel=0.02)


@pytest.mark.realdata
def test_real_receivers_are_quiet(realdata: Path):
    """Every check of a lone receiver over every log that gives three fixes; a fuzz log of cut sentences is left out."""
    played = 0
    for path in sorted((realdata / "gnss_logs").glob("*.log")):
        decoder = GnssDecoder(unchecked=True)
        records = decoder.feed(path.read_bytes()) + decoder.finish()
        if len(records) < 3 or "fuzzy" in path.name:
            continue
        steps = [b.utc_ns - a.utc_ns for a, b in itertools.pairwise(records) if a.utc_ns and b.utc_ns]
        period = int(np.median([s for s in steps if 0 < s < 10 * S] or [S]))
        t, before, samples = S, None, list[Sample]()
        for record in records:
            step = record.utc_ns - before if record.utc_ns and before else period
            t += step if 0 < step <= 3 * S else period  # a log that was cut is no gap of the receiver
            before = record.utc_ns or before
            samples.append(record.sample(t, GNSS))
        info = SourceInfo(GNSS, GnssFix, period, path.name)
        sync, checks, index = Synchronizer([info]), build_motion_checks([info]), 0
        for i in range((t - S) // (100 * MS)):
            now = S + (i + 1) * 100 * MS
            while index < len(samples) and samples[index].stamp_ns <= now:
                sync.push(samples[index])
                index += 1
            synced = sync.tick(Tick(i, now))
            for check in checks:
                result = check.evaluate(synced)
                assert result.level is not Level.ANOMALY, (path.name, now / S - 1, result.check, result.reason)
        played += 1
    assert played >= 20
