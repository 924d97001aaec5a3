"""Injected time: monotonic nanoseconds for stamps, wall time only where a date is meant.

Nothing outside this module reads the machine's clock. A pipeline on a device gets `SystemClock`; replay and
simulation get `ManualClock`, which moves only when somebody moves it, so that a run is a function of its seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """Where a stage gets its time from."""

    def now_ns(self) -> int:
        """Return monotonic nanoseconds; the zero point is arbitrary."""
        ...

    def wall_ns(self) -> int:
        """Return nanoseconds since 1970-01-01 UTC, as far as the machine knows."""
        ...

    def wait_until_ns(self, stamp_ns: int) -> None:
        """Return once `now_ns()` has reached `stamp_ns`; at once if it already has."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()

    def wait_until_ns(self, stamp_ns: int) -> None:
        while (remaining_ns := stamp_ns - time.monotonic_ns()) > 0:
            time.sleep(remaining_ns / NS_PER_S)


class ManualClock:
    """Time that is moved by hand.

    `wait_until_ns` jumps there; every callable in `on_advance` is then called with the new time, in order.
    The simulator registers itself so: waiting *is* what makes its world go on.
    """

    def __init__(self, start_ns: int = 0, wall_start_ns: int = 0) -> None:
        self._now_ns = start_ns
        self._wall_offset_ns = wall_start_ns - start_ns
        self.on_advance: list[Callable[[int], None]] = []

    def now_ns(self) -> int:
        return self._now_ns

    def wall_ns(self) -> int:
        return self._now_ns + self._wall_offset_ns

    def wait_until_ns(self, stamp_ns: int) -> None:
        if stamp_ns <= self._now_ns:
            return
        self._now_ns = stamp_ns
        for advanced in self.on_advance:
            advanced(stamp_ns)


class Stopwatch:
    """How long each stage of one tick took, in `lap_ns`.

    A measurement of ourselves: it reads the machine's performance counter and never decides anything.
    """

    def __init__(self) -> None:
        self.lap_ns: dict[str, int] = {}
        self._last_ns = time.perf_counter_ns()

    def lap(self, stage: str) -> None:
        now_ns = time.perf_counter_ns()
        self.lap_ns[stage] = now_ns - self._last_ns
        self._last_ns = now_ns
