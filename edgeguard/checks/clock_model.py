"""Does a sensor's own clock run on as it did? T3.clock; G2.clock for a receiver, whose clock is that of the satellites.

A sample arrives later than its own stamp says by the clocks' offset plus a delay that is never negative. The least of
that over half a second is the offset, whatever the line's jitter, unless the line stalled for longer. Its steps are
clocks that were set, replays, or lines that began to hold samples back; its slope is drift (Moon, Skelly, Towsley,
INFOCOM 1999, who take the hull over the whole past: `edgeguard.sync.stream_clock` does, and is asked for the rate).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from edgeguard.clock import NS_PER_S
from edgeguard.types import GNSS, CheckResult, Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeguard.checks.scores import SensorFits
    from edgeguard.types import Sample, StreamHealth, SyncedSet

# The least delay is taken over so much time and so many samples.
BUCKET_S = 0.5
BUCKET_SAMPLES = 3
# The past that says what to expect: buckets, and how many of the newest are left out of it, so that what creeps in
# does not teach.
PAST_BUCKETS = 80
NEWEST_BUCKETS = 6
LEAST_BUCKETS = 8
# A crystal follows its temperature by 1 ppm per K, so that over half a minute the line bends by some 10 us; drivers'
# stamps come in whole milliseconds, and a line of 115200 baud takes 0.1 ms per byte.
BEND_MS = 1.0
# Early, nothing is but a clock; late, a busy line is now and then: so many of the least delays' own spreads, and so
# many buckets in a row.
EARLY_SPREADS, EARLY_RUN = 6.0, 2
LATE_SPREADS, LATE_RUN = 8.0, 3
# A bucket off by more than this is a step, and needs no second.
STEP_MS = 50.0
STEP_SPREADS = 20.0
# Crystals are good to 100 ppm; a resonator with 5000 ppm is told by a calibration.
MAX_DRIFT_PPM = 500.0
DRIFT_SIGMAS = 5.0
DRIFT_SPAN_S = 30.0
# An alarm stays up this long, so that checks with different delays overlap.
HOLD_S = 1.0
# After a step the new offset is the truth to expect from then on, but not at once: somebody has to see it.
BELIEVE_AGAIN_BUCKETS = 20


class ClockCheck:
    """T3 of one sensor. NOT_OBSERVABLE for one without a clock of its own. Size and power in milliseconds.

    Args:
        sensor: whose. fits: a calibration may know the drift of a cheap resonator, as ``T3.clock.<sensor>`` in ppm.
    """

    def __init__(self, sensor: str, fits: SensorFits | None = None) -> None:
        self.name = "G2.clock" if sensor == GNSS else "T3.clock"
        self.sensors: tuple[str, ...] = (sensor,)
        self._sensor = sensor
        fit = fits.get(f"T3.clock.{sensor}") if fits is not None else None
        self._usual_ppm = fit.location if fit is not None else 0.0
        self._restart()

    def _restart(self) -> None:
        self._zero: int | None = None
        self._least = math.inf
        self._count = 0
        self._bucket_ns = 0
        self._past: deque[tuple[float, float]] = deque(maxlen=PAST_BUCKETS + NEWEST_BUCKETS)
        self._line: tuple[float, float, float] | None = None
        self._spread = 0.0
        self._off = 0
        self._share, self._size_ms, self._why = 0.0, 0.0, ""
        self._alarm_ns: int | None = None
        self._alarm = (0.0, 0.0, "")

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        if synced.tick.discontinuity or self._sensor in synced.tick.recording_gap:
            self._restart()
        now_ns = synced.stamp_ns
        series = synced.series.get(self._sensor, ())
        if series:
            self._take(series)
        if now_ns - self._bucket_ns >= BUCKET_S * NS_PER_S and self._count >= BUCKET_SAMPLES:
            self._close(now_ns)
        share, size_ms, why = self._share, self._size_ms, self._why
        rate = self._rate_share(synced.health.get(self._sensor))
        if rate > share:
            share, size_ms, why = rate, 0.0, "runs at another rate than any crystal"
        if share > 1.0:
            self._alarm_ns, self._alarm = now_ns, (share, size_ms, why)
        elif self._alarm_ns is not None and now_ns - self._alarm_ns <= HOLD_S * NS_PER_S:
            share, size_ms, why = self._alarm
        if share > 1.0:
            return self._result(Level.ANOMALY, share, f"the clock of {self._sensor} {why}", size_ms)
        if self._line is None:
            return self._result(Level.NOT_OBSERVABLE, share, "no clock of its own, or not watched for long enough")
        return self._result(Level.OK, share, "")

    def _take(self, series: Sequence[Sample]) -> None:
        least, count = self._least, self._count
        for sample in series:
            device_ns = sample.device_stamp_ns
            if device_ns is None:
                continue
            if self._zero is None:
                self._zero = sample.stamp_ns - device_ns
                self._bucket_ns = sample.stamp_ns
            delay = (sample.stamp_ns - device_ns - self._zero) * 1e-6
            count += 1
            least = min(least, delay)
            if self._line is not None and delay < self._expected(sample.stamp_ns * 1e-9) - self._step_ms():
                # Earlier than the quickest way allows: nothing but a clock does that, so it need not wait.
                self._judge_early(sample.stamp_ns * 1e-9, delay)
        self._least, self._count = least, count

    def _expected(self, t: float) -> float:
        """Least delay at time `t` as the past has it, in ms."""
        if self._line is None:
            return 0.0
        t0, level, slope = self._line
        return level + slope * (t - t0)

    def _step_ms(self) -> float:
        return max(STEP_MS, STEP_SPREADS * self._spread)

    def _judge_early(self, t: float, delay: float) -> None:
        off = delay - self._expected(t)
        self._share = max(self._share, abs(off) / self._step_ms())
        self._size_ms, self._why = abs(off), f"was set by {-off:+.0f} ms"

    def _close(self, now_ns: int) -> None:
        t, least = now_ns * 1e-9, self._least
        self._least, self._count, self._bucket_ns = math.inf, 0, now_ns
        self._share, self._size_ms, self._why = 0.0, 0.0, ""
        if self._line is None:
            self._past.append((t, least))
            self._fit()
            return
        off = least - self._expected(t)
        spreads, needed = (EARLY_SPREADS, EARLY_RUN) if off < 0.0 else (LATE_SPREADS, LATE_RUN)
        limit = max(BEND_MS, spreads * self._spread)
        if abs(off) > limit:
            self._off = max(1, self._off + 1) if off > 0.0 else min(-1, self._off - 1)
            lasting = abs(off) / limit if abs(self._off) >= needed else 0.0
            self._share, self._size_ms = max(abs(off) / self._step_ms(), lasting), abs(off)
            kind = "runs away" if abs(off) < self._step_ms() else "was set, or its samples are held back"
            self._why = f"{kind}: {-off:+.1f} ms off"
            if abs(self._off) >= BELIEVE_AGAIN_BUCKETS:
                self._past.clear()
                self._line, self._off = None, 0
            return
        self._off = 0
        self._past.append((t, least))
        self._fit()

    def _fit(self) -> None:
        """Line through the past without the newest buckets (least squares), and how far its points lie from it."""
        points = list(self._past)[:-NEWEST_BUCKETS]
        if len(points) < LEAST_BUCKETS:
            return
        n = len(points)
        t0 = sum(t for t, _ in points) / n
        level = sum(d for _, d in points) / n
        spread_t = sum((t - t0) ** 2 for t, _ in points)
        slope = sum((t - t0) * (d - level) for t, d in points) / spread_t if spread_t > 0.0 else 0.0
        off = sorted(abs(d - level - slope * (t - t0)) for t, d in points)
        self._spread = 1.4826 * off[n // 2]
        # How badly the slope is known grows with the way from the middle of the past to now.
        reach = points[-1][0] - t0 + (NEWEST_BUCKETS + 1) * BUCKET_S
        self._spread *= math.sqrt(1.0 + 1.0 / n + reach * reach / spread_t) if spread_t > 0.0 else 2.0
        self._line = (t0, level, slope)

    def _rate_share(self, health: StreamHealth | None) -> float:
        clock = health.clock if health is not None else None
        if clock is None or clock.span_ns < DRIFT_SPAN_S * NS_PER_S:
            return 0.0
        limit = MAX_DRIFT_PPM + DRIFT_SIGMAS * clock.drift_sigma_ppm
        return abs(clock.drift_ppm - self._usual_ppm) / limit

    def _result(self, level: Level, share: float, reason: str, size_ms: float | None = None) -> CheckResult:
        power = max(BEND_MS, LATE_SPREADS * self._spread) if self._line is not None else math.inf
        return CheckResult(
            check=self.name,
            sensors=self.sensors,
            level=level,
            statistic=share,
            threshold=1.0,
            power=power if level is not Level.NOT_OBSERVABLE else math.inf,
            power_unit="ms",
            quantity="clock",
            reason=reason,
            size=size_ms,
        )
