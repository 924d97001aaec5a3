"""When to try a lost device again: exponential back-off with jitter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """Delays grow from `first_s` by `factor` to `longest_s`; each is drawn from the upper half of its range, so that
    several sensors lost at once (a hub unplugged) do not come back in step."""

    first_s: float = 0.1
    factor: float = 2.0
    longest_s: float = 10.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not (0.0 < self.first_s <= self.longest_s and self.factor >= 1.0 and 0.0 <= self.jitter < 1.0):
            raise ValueError("back-off wants 0 < first <= longest, factor >= 1 and 0 <= jitter < 1")


class Backoff:
    """The sequence of delays of one device."""

    def __init__(self, policy: BackoffPolicy, rng: np.random.Generator) -> None:
        self._policy, self._rng = policy, rng
        self._base_s = policy.first_s

    def next_delay_s(self) -> float:
        """Return how long to wait before the next attempt; longer each time until `reset`."""
        delay_s = self._base_s * (1.0 - self._policy.jitter * float(self._rng.random()))
        self._base_s = min(self._policy.longest_s, self._base_s * self._policy.factor)
        return delay_s

    def reset(self) -> None:
        """Start over: the device gave a sample."""
        self._base_s = self._policy.first_s
