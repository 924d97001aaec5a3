"""Timing that survives a noisy machine: ours and the peer's in turns, best of several."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable


def best_s(call: Callable[[], object], rounds: int = 5) -> float:
    """Return the shortest of `rounds` wall times of `call`, after one that does not count."""
    call()
    return min(_once_s(call) for _ in range(rounds))


def paired_s(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 5) -> tuple[float, float]:
    """Return the best time of each; they run in turns, so that a slow spell hits both."""
    ours()
    peer()
    pairs = [(_once_s(ours), _once_s(peer)) for _ in range(rounds)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def best_cpu_s(call: Callable[[], object], rounds: int = 5) -> float:
    """Return the least processor time of `call`, all threads together; other processes hardly disturb it."""
    call()
    return min(_once_s(call, time.process_time) for _ in range(rounds))


def yardstick_s() -> float:
    """Return the best of five for SHA-256 over 64 MiB."""
    data = bytes(64 * 1024 * 1024)
    return best_s(lambda: hashlib.sha256(data).digest())


def _once_s(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    call()
    return clock() - start
