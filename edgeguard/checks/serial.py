"""S1.integrity: does the byte stream arrive intact? Checksum failures and skipped bytes, with a Wilson bound."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from edgeguard.clock import NS_PER_S
from edgeguard.types import CheckResult, Level, LineStats

if TYPE_CHECKING:
    from edgeguard.types import SyncedSet

WINDOW_S = 10.0
# Share of frames lost on the line. A real 230400 baud lidar cable lost 4 of 20 876; fifty times that is a fault.
MAX_LOSS_SHARE = 0.01
# Of whole frames none may be damaged; between zero and one, so that a count above it is one at least.
MAX_DAMAGED_FRAMES = 0.5
# Confidence of the bound: 4.26 sigma one-sided is 1e-5 per look.
WILSON_Z = 4.26
# Fewer frames than this say nothing about a share of a percent ... unless all of them are bad.
MIN_FRAMES = 10.0
# Length of a frame where no good one was seen: NMEA, UBX and lidar packets are 30..100 bytes.
DEFAULT_FRAME_BYTES = 64.0
# A sum of likelihood ratios beside the window sees a fault as soon as it is there: a clean line may lose ten times as
# much as that real cable did, a faulty one loses a frame in twenty; between them it balances at 1.5 %. One hole in the
# line counts as so many frames at most. Limit: e^15 frames between false alarms, four hours of 200 a second.
CLEAN_SHARE, FAULTY_SHARE = 0.002, 0.05
BAD_WEIGHT = math.log(FAULTY_SHARE / CLEAN_SHARE)
GOOD_WEIGHT = math.log((1.0 - FAULTY_SHARE) / (1.0 - CLEAN_SHARE))
EVIDENCE_LIMIT = 15.0
MOST_PER_HOLE = 2.0
# The start of a stream is cut anywhere: what is skipped before the first good frame is nobody's fault, up to this.
START_BYTES = 512


def wilson_lower(bad: float, total: float, z: float) -> float:
    """Lower end of the Wilson score interval of a share (Wilson 1927). 0 for an empty sample."""
    if total <= 0:
        return 0.0
    share = bad / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, (centre - spread) / (1 + z * z / total))


class IntegrityCheck:
    """S1 of one sensor. NOT_OBSERVABLE for sources that are no byte stream."""

    name: str = "S1.integrity"

    def __init__(self, sensor: str) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._sensor = sensor
        self._history: deque[tuple[int, LineStats]] = deque()
        self._started: LineStats | None = None
        self._before: LineStats | None = None
        self._evidence = 0.0

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        health = synced.health.get(self._sensor)
        if health is None or health.line.bytes_received == 0:
            return self._result(Level.NOT_OBSERVABLE, 0.0, math.inf, "no byte stream")
        line = health.line
        # Totals that shrink mean a reopened line.
        if synced.tick.discontinuity or (self._history and line.bytes_received < self._history[-1][1].bytes_received):
            self._history.clear()
            self._started = self._before = None
            self._evidence = 0.0
        if self._started is None and (line.frames > 0 or line.bytes_received > START_BYTES):
            self._started = line if line.frames > 0 else LineStats(bytes_received=1)
        if self._started is None:
            return self._result(Level.NOT_OBSERVABLE, 0.0, math.inf, "too few bytes yet")
        if not self._history:
            self._history.append((synced.stamp_ns, self._started))
        self._history.append((synced.stamp_ns, line))
        self._weigh(self._before or self._started, line)
        self._before = line
        while self._history[0][0] < synced.stamp_ns - WINDOW_S * NS_PER_S and len(self._history) > 2:
            self._history.popleft()
        return self._judge(self._history[0][1], line)

    @staticmethod
    def _counts(old: LineStats, new: LineStats) -> tuple[float, float]:
        """Good and lost frames between two totals."""
        good = float(new.frames - old.frames)
        skipped_bytes = float(new.bytes_skipped - old.bytes_skipped)
        arrived = float(new.bytes_received - old.bytes_received)
        frame_bytes = max(1.0, (arrived - skipped_bytes) / good) if good > 0 else DEFAULT_FRAME_BYTES
        # A failed frame's bytes are usually skipped too: the larger count, not the sum.
        failed = float(new.checksum_failures - old.checksum_failures)
        bad = max(failed, skipped_bytes / frame_bytes)
        return good, bad + float(new.sequence_gaps - old.sequence_gaps)

    def _weigh(self, old: LineStats, new: LineStats) -> None:
        good, bad = self._counts(old, new)
        gained = min(bad, MOST_PER_HOLE) * BAD_WEIGHT + max(good, 0.0) * GOOD_WEIGHT
        self._evidence = min(max(0.0, self._evidence + gained), 2.0 * EVIDENCE_LIMIT)

    def _judge(self, old: LineStats, new: LineStats) -> CheckResult:
        good, bad = self._counts(old, new)
        if good <= 0:
            # No frame came through at all: whatever arrived is loss.
            bad = max(bad, float(new.bytes_received - old.bytes_received) / DEFAULT_FRAME_BYTES)
        total = good + bad
        if total < MIN_FRAMES:
            return self._result(Level.NOT_OBSERVABLE, 0.0, math.inf, "too few frames to tell a share")
        statistic = max(wilson_lower(bad, total, WILSON_Z), MAX_LOSS_SHARE * self._evidence / EVIDENCE_LIMIT)
        power = self._smallest_share(total)
        if statistic > MAX_LOSS_SHARE:
            reason = f"{self._sensor} line loses {100 * bad / total:.1f} % of its frames"
            return self._result(Level.ANOMALY, statistic, power, reason)
        return self._result(Level.OK, statistic, power, "")

    @staticmethod
    def _smallest_share(total: float) -> float:
        """Smallest loss share whose Wilson bound would exceed the limit with this many frames."""
        low, high = MAX_LOSS_SHARE, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (
                (low, middle) if wilson_lower(middle * total, total, WILSON_Z) > MAX_LOSS_SHARE else (middle, high)
            )
        return high

    def _result(self, level: Level, statistic: float, power: float, reason: str) -> CheckResult:
        return CheckResult(
            check=self.name,
            sensors=self.sensors,
            level=level,
            statistic=statistic,
            threshold=MAX_LOSS_SHARE,
            power=power,
            power_unit="share of frames",
            quantity="line_integrity",
            reason=reason,
        )


class FrameIntegrityCheck:
    """S1 of a sensor whose samples are whole frames: pictures and sweeps carry no expected share of damaged ones."""

    name: str = "S1.integrity"

    def __init__(self, sensor: str) -> None:
        self.sensors: tuple[str, ...] = (sensor,)
        self._sensor = sensor
        self._failures = 0

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick: how many frames since the last one arrived but could not be decoded."""
        health = synced.health.get(self._sensor)
        line = health.line if health is not None else LineStats()
        damaged = max(0, line.checksum_failures - self._failures)
        self._failures = line.checksum_failures
        seen = damaged > 0 or line.frames > 0
        return CheckResult(
            check=self.name,
            sensors=self.sensors,
            level=Level.ANOMALY if damaged else Level.OK if seen else Level.NOT_OBSERVABLE,
            statistic=float(damaged),
            threshold=MAX_DAMAGED_FRAMES,
            power=1.0 if seen else math.inf,
            power_unit="frames",
            quantity="line_integrity",
            reason=f"{self._sensor} gave {damaged} damaged frame(s)" if damaged else "",
        )
