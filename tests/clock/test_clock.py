"""Injected time."""

from __future__ import annotations

from edgeguard.clock import ManualClock, SystemClock


def test_manual_time_moves_only_when_waited_for() -> None:
    """A run under a manual clock cannot depend on how fast the machine is."""
    clock = ManualClock(start_ns=5)
    seen: list[int] = []
    clock.on_advance.append(seen.append)

    clock.wait_until_ns(20)
    clock.wait_until_ns(10)

    assert clock.now_ns() == 20
    assert seen == [20]


def test_manual_wall_time_keeps_its_offset() -> None:
    """Wall time and stamps advance together."""
    clock = ManualClock(start_ns=100, wall_start_ns=1_000)
    clock.wait_until_ns(150)
    assert clock.wall_ns() == 1_050


def test_system_clock_waits_at_least_as_long_as_asked() -> None:
    """Returning early would make a poll loop spin."""
    clock = SystemClock()
    target_ns = clock.now_ns() + 2_000_000
    clock.wait_until_ns(target_ns)
    assert clock.now_ns() >= target_ns
