"""T4.freeze for camera and lidar: the same payload again under a fresh stamp, at once or from half a minute ago.

Read noise changes some of a million pixels in every exposure, and some of 100 000 ranges in every sweep: for a payload
with noise the chance of an honest repeat is nil, so one repeat is enough. A frame without any noise (a covered,
saturated or synthetic camera) can repeat honestly and is NOT_OBSERVABLE.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.types import CheckResult, Image, Level, PointCloud, SyncedSet

LOOP_NS = 30 * NS_PER_S  # how far back a replayed loop is recognised
MAX_HASHES = 4_096  # half a minute at over 100 Hz
MIN_STEPS = 200  # neighbouring values that differ: fewer means a payload too plain to carry noise
THRESHOLD = 0.5
# One in so many rows or points is hashed. A quarter repeats by chance as little as all of it; whoever changes the rest
# could as well change one bit of a whole hash, and is C3.replay's.
HASHED_EVERY = 4


class PayloadFreezeCheck:
    """T4.freeze on whole payloads. statistic: repeats in a row, threshold 0.5."""

    name = "T4.freeze"

    def __init__(self, sensor: str) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._seen: OrderedDict[bytes, int] = OrderedDict()
        self._last_ns: int | None = None
        self._run = 0

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        if synced.tick.discontinuity:
            self._last_ns, self._run = None, 0  # the hashes stay: a loop bridges a jump of time
        sample = synced.samples.get(self.sensors[0])
        if not isinstance(sample, Image | PointCloud):
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no sample at this tick")
        if sample.stamp_ns == self._last_ns:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no new sample at this tick")
        self._last_ns = sample.stamp_ns
        values: NDArray[np.uint8] | NDArray[np.float32] = sample.pixels if isinstance(sample, Image) else sample.xyz
        if not _carries_noise(values):
            self._run = 0
            return self._result(Level.NOT_OBSERVABLE, 0.0, "the payload is too plain to tell a repeat")
        digest = hashlib.blake2b(np.ascontiguousarray(values[::HASHED_EVERY]).data, digest_size=8).digest()
        before_ns = self._seen.pop(digest, None)
        self._seen[digest] = sample.stamp_ns
        while len(self._seen) > MAX_HASHES:
            self._seen.popitem(last=False)
        if before_ns is None or not 0 < sample.stamp_ns - before_ns <= LOOP_NS:
            self._run = 0
            return self._result(Level.OK, 0.0, "")
        self._run += 1
        age_s = (sample.stamp_ns - before_ns) / NS_PER_S
        return self._result(Level.ANOMALY, float(self._run), f"the payload of {age_s:.2f} s ago under a fresh stamp")

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else 1.0
        return CheckResult(self.name, self.sensors, level, statistic, THRESHOLD, power, "samples", "payload", reason)


def _carries_noise(values: NDArray[np.uint8] | NDArray[np.float32]) -> bool:
    """Whether enough neighbouring values differ; a sparse look suffices."""
    flat = values.reshape(-1)
    thin = flat[:: max(1, flat.size // 20_000)]
    return bool(np.count_nonzero(thin[1:] != thin[:-1]) >= min(MIN_STEPS, max(1, thin.size // 4)))
