"""T4.freeze for camera and lidar: the same payload again under a fresh stamp, at once or from half a minute ago.

Read noise changes some of a million pixels in every exposure, and some of 100 000 ranges in every sweep: for a payload
with noise the chance of an honest repeat is nil, so one repeat is enough. A frame without any noise (a covered,
saturated or synthetic camera) can repeat honestly and is NOT_OBSERVABLE.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.kernels.payload_hash import differs, payload_hash, payload_keys
from edgeguard.types import CheckResult, Image, Level, PointCloud, SyncedSet

LOOP_NS = 30 * NS_PER_S  # how far back a replayed loop is recognised
MAX_HASHES = 4_096  # half a minute at over 100 Hz
MIN_STEPS = 200  # neighbouring values that differ: fewer means a payload too plain to carry noise
THRESHOLD = 0.5


class PayloadFreezeCheck:
    """T4.freeze on whole payloads. statistic: repeats in a row, threshold 0.5."""

    name = "T4.freeze"

    def __init__(self, sensor: str, seed: int | None = None) -> None:
        """Watch a sensor. seed: of the payloads' hash; a secret of this process where none is given."""
        self.sensors: tuple[str, ...] = (sensor,)
        self._keys = payload_keys(secrets.randbits(64) if seed is None else seed)
        self._seen: OrderedDict[int, int] = OrderedDict()
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
        values: NDArray[np.uint8] | NDArray[np.float32] = (
            np.ascontiguousarray(sample.pixels) if isinstance(sample, Image) else np.ascontiguousarray(sample.xyz)
        )
        if not _carries_noise(values):
            self._run = 0
            return self._result(Level.NOT_OBSERVABLE, 0.0, "the payload is too plain to tell a repeat")
        digest = payload_hash(values, self._keys)
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
    stride = max(1, values.size // 20_000)
    return differs(values, stride, min(MIN_STEPS, max(1, -(-values.size // stride) // 4)))
