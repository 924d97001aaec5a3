"""Timing and serial checks, tick by tick."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeguard.checks.serial import IntegrityCheck, wilson_lower
from edgeguard.checks.timing import FreezeCheck, RateCheck, StampCheck
from edgeguard.protocols.gnss import NO_FIX, UNCONFIRMED
from edgeguard.sync.synchronizer import Synchronizer
from edgeguard.types import (
    GNSS,
    WHEELS,
    Check,
    CheckResult,
    GnssFix,
    Level,
    LineStats,
    SourceInfo,
    Tick,
    WheelOdometry,
)

MS = 1_000_000
S = 1_000 * MS
INFO = SourceInfo(GNSS, GnssFix, 100 * MS, "test")


def play(
    check: Check, seconds: float, stamps: Callable[[int], list[int]], gaps: dict[int, frozenset[str]] | None = None
) -> list[CheckResult]:
    """Run one check over 10 Hz ticks; `stamps(i)` are the fixes' stamps before tick i."""
    sync = Synchronizer([INFO])
    out = []
    for i in range(int(seconds * 10)):
        now_ns = S + (i + 1) * 100 * MS
        for stamp in stamps(i):
            sync.push(GnssFix(stamp, 48 + stamp / 1e15, 11.0, speed_m_s=10.0))
        gap = (gaps or {}).get(i, frozenset())
        out.append(check.evaluate(sync.tick(Tick(i, now_ns, recording_gap=gap))))
    return out


def now(i: int) -> int:
    return S + (i + 1) * 100 * MS - 7 * MS


def levels(results: list[CheckResult]) -> set[Level]:
    return {r.level for r in results}


def test_a_steady_stream_is_ok_and_its_death_is_found():
    """T1: OK while it lives; ANOMALY about a second after the last fix."""
    alive = play(RateCheck(INFO), 20, lambda i: [now(i)])
    assert levels(alive) == {Level.OK}
    dead = play(RateCheck(INFO), 8, lambda i: [now(i)] if i < 40 else [])
    first = next(i for i, r in enumerate(dead) if r.level is Level.ANOMALY)
    assert 48 <= first <= 51
    assert dead[-1].level is Level.ANOMALY


def test_a_stream_that_never_speaks_is_first_unseen_then_dead():
    """T1: drivers start slowly, but not for ever."""
    results = play(RateCheck(INFO), 6, lambda i: [])
    assert results[0].level is Level.NOT_OBSERVABLE
    assert results[-1].level is Level.ANOMALY


def test_half_the_rate_and_twice_the_rate_are_both_wrong():
    """T1: a lossy line and a second publisher."""
    slow = play(RateCheck(INFO), 10, lambda i: [now(i)] if i % 3 == 0 else [])
    fast = play(RateCheck(INFO), 10, lambda i: [now(i) - 50 * MS, now(i)])
    assert slow[-1].level is Level.ANOMALY
    assert fast[-1].level is Level.ANOMALY
    assert "two published" in fast[-1].reason


def answers(fixes: Callable[[int], int], others: Callable[[int], int], reason: str = NO_FIX) -> list[CheckResult]:
    """Run T1 over 20 s of 10 Hz ticks: so many fixes, and so many messages without one, come before tick i."""
    sync, check, out, told = Synchronizer([INFO]), RateCheck(INFO), [], 0
    for i in range(200):
        for k in range(fixes(i)):
            stamp = now(i) - k * 20 * MS
            sync.push(GnssFix(stamp, 48 + stamp / 1e15, 11.0, speed_m_s=10.0))
        told += others(i)
        out.append(check.evaluate(sync.tick(Tick(i, S + (i + 1) * 100 * MS), drops={GNSS: {reason: told}})))
    return out


@pytest.mark.parametrize("reason", [NO_FIX, UNCONFIRMED])
def test_a_receiver_that_says_it_has_no_fix_is_alive_and_not_vouched_for(reason: str):
    """T1: ten seconds in a tunnel blame nobody, count for nobody, and end without a trace."""
    results = answers(lambda i: not 60 <= i < 160, lambda i: 60 <= i < 160, reason)
    assert Level.ANOMALY not in levels(results)
    assert levels(results[75:158]) == {Level.NOT_OBSERVABLE}
    assert "no fix" in results[100].reason
    assert levels(results[161:]) == {Level.OK}


def test_a_receiver_that_starts_in_a_tunnel_is_not_taken_for_a_dead_one():
    """T1: it never gave a fix, and says so ten times a second."""
    results = answers(lambda i: 0, lambda i: 1)
    assert levels(results) == {Level.NOT_OBSERVABLE}


def test_a_receiver_that_stops_answering_in_a_tunnel_is_silent():
    """T1: found a second after the last message, not after the last fix."""
    results = answers(lambda i: i < 60, lambda i: 60 <= i < 120)
    first = next(i for i, r in enumerate(results) if r.level is Level.ANOMALY)
    assert 128 <= first <= 132
    assert levels(results[first:]) == {Level.ANOMALY}


def test_messages_without_a_fix_count_for_the_rate():
    """T1: every other epoch without a fix is the receiver's own rate; one beside every fix is a second talker."""
    shared = answers(lambda i: i % 2, lambda i: 1 - i % 2)
    doubled = answers(lambda i: 1, lambda i: 1)
    assert Level.ANOMALY not in levels(shared)
    assert doubled[-1].level is Level.ANOMALY
    assert "two published" in doubled[-1].reason


def test_a_gap_of_the_recording_is_not_a_fault_of_the_sensor():
    """T1: NOT_OBSERVABLE in the gap, OK right after it."""
    gap = {i: frozenset({GNSS}) for i in range(30, 60)}
    results = play(RateCheck(INFO), 9, lambda i: [] if 30 <= i < 60 else [now(i)], gap)
    assert levels(results[30:60]) == {Level.NOT_OBSERVABLE}
    assert levels(results[60:]) == {Level.OK}


@pytest.mark.parametrize("kind", ["backwards", "zero", "future", "duplicate"])
def test_repeated_bad_stamps_are_an_anomaly_and_a_single_one_is_not(kind: str):
    """T2: one glitch passes, a series does not."""

    def bad(i: int) -> int:
        return {"backwards": now(i) - 60 * MS, "zero": 0, "future": now(i) + 20 * S, "duplicate": now(i)}[kind]

    once = play(StampCheck(GNSS), 10, lambda i: [now(i), bad(i)] if i == 20 else [now(i)])
    often = play(StampCheck(GNSS), 10, lambda i: [now(i), bad(i)] if i >= 20 else [now(i)])
    assert levels(once) == {Level.OK}
    first = next(i for i, r in enumerate(often) if r.level is Level.ANOMALY)
    assert 20 <= first <= 24


def wheel_run(
    step: float, rate_hz: int, seconds: int, freeze_at: float, seed: int = 3
) -> list[tuple[float, CheckResult]]:
    """T4 on a wheel stream quantised to `step`, smoothly cruising near 20 m/s."""
    info = SourceInfo(WHEELS, WheelOdometry, S // rate_hz, "test")
    sync, check = Synchronizer([info]), FreezeCheck(info)
    rng = np.random.default_rng(seed)
    v, accel, held, out, k = 20.0, 0.0, None, [], 0
    for i in range(seconds * 10):
        tick_ns = S + (i + 1) * S // 10
        while S + k * S // rate_hz <= tick_ns:
            accel = 0.98 * accel + rng.normal(0, 0.03)
            v += (accel + 0.1 * (20 - v)) / rate_hz
            value = round(v / step) * step
            if k / rate_hz >= freeze_at:
                held = value if held is None else held
                value = held
            sync.push(WheelOdometry(S + k * S // rate_hz, value))
            k += 1
        out.append((i / 10, check.evaluate(sync.tick(Tick(i, tick_ns)))))
    return out


@pytest.mark.parametrize("step", [0.0028, 0.028, 0.1])
def test_freeze_knows_quantisation(step: float):
    """T4: a coarse sensor repeats honestly for long; the same number of repeats is an anomaly on a fine one."""
    honest = wheel_run(step, 50, 60, 1e9)
    assert not [t for t, r in honest if r.level is Level.ANOMALY]
    frozen = wheel_run(step, 50, 60, 20.0)
    hits = [t for t, r in frozen if r.level is Level.ANOMALY]
    assert hits
    assert 20.0 <= hits[0] <= 20.0 + max(1.0, 600 * step)


def test_integrity_needs_frames_and_finds_corruption_but_not_the_odd_loss():
    """S1: 4 failures in 20 876 frames pass; one in twenty does not; noise without any frame does not."""

    def run(line: Callable[[int], LineStats]) -> list[CheckResult]:
        sync, check = Synchronizer([INFO]), IntegrityCheck(GNSS)
        return [check.evaluate(sync.tick(Tick(i, S + i * 100 * MS), {GNSS: line(i)})) for i in range(100)]

    clean = run(lambda i: LineStats(4700 * (i + 1), 100 * (i + 1), i // 25, 47 * (i // 25)))
    assert levels(clean[5:]) == {Level.OK}
    corrupt = run(lambda i: LineStats(4700 * (i + 1), 95 * (i + 1), 5 * (i + 1), 235 * (i + 1)))
    assert corrupt[-1].level is Level.ANOMALY
    noise = run(lambda i: LineStats(400 * (i + 1), 0, 0, 400 * (i + 1)))
    assert noise[-1].level is Level.ANOMALY
    assert levels(run(lambda i: LineStats())) == {Level.NOT_OBSERVABLE}
    start = run(lambda i: LineStats(60 + 470 * (i + 1), 10 * (i + 1), 0, 60))
    assert Level.ANOMALY not in levels(start)


def test_the_wilson_bound_is_below_the_share_and_close_to_it_with_many_frames():
    """Against the closed form for zero and for large samples."""
    assert wilson_lower(0, 50, 4.0) == 0.0
    assert wilson_lower(500, 10_000, 1.96) == pytest.approx(0.0459, abs=2e-4)  # Wilson interval of 5 %, n = 10 000
    assert wilson_lower(5, 100, 4.0) < 0.05
