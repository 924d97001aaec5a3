"""Streams in, one `SyncedSet` per tick out, and a reason code for every sample that did not make it.

Sans-IO: nothing here reads a clock or a device. All judgement happens in `tick`, in arrival order, because only
there is "now" known; `push` only stores. message_filters' ApproximateTime drops silently (ros_comm #1059); here every
pushed sample is either in exactly one `series` or counted once in `StreamHealth.dropped`, or still waiting.
"""

from __future__ import annotations

from collections import Counter, deque
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgeguard.clock import NS_PER_S
from edgeguard.errors import ConfigError
from edgeguard.sync.reasons import (
    BACKWARDS,
    DUPLICATE,
    FUTURE,
    LATE,
    OVERFLOW,
    UNKNOWN_SENSOR,
    WRONG_KIND,
    ZERO_STAMP,
)
from edgeguard.sync.stream_clock import StreamClock
from edgeguard.types import Image, LineStats, PointCloud, Sample, Scan2d, SourceInfo, StreamHealth, SyncedSet, Tick

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Frames (camera, lidar) are paired with the tick; everything else is a state of which the newest value counts.
FRAME_KINDS = (Image, PointCloud, Scan2d)
# A frame may lie this far ahead of the tick, in periods; it may be a whole period old, because the newest frame of a
# free-running sensor is that old just before the next one comes.
FRAME_AHEAD_PERIODS = 0.5
FRAME_BEHIND_PERIODS = 1.0
# The newest state may be this old and still belong to the tick: one missed sample plus scheduling jitter.
STATE_BEHIND_PERIODS = 2.5
STATE_BEHIND_MIN_NS = NS_PER_S // 10
# A stamp further ahead of "now" than this cannot come from buffering: no source reads ahead of the clock.
FUTURE_MIN_NS = NS_PER_S // 5
FUTURE_PERIODS = 2.0
# Older than this is of no use to a decision now.
LATE_MIN_NS = NS_PER_S
LATE_PERIODS = 2.0
# Bounded memory: ten seconds of a 400 Hz stream for states; frames are megabytes each.
MAX_WAITING_STATES = 4096
MAX_WAITING_FRAMES = 32
# Rates are measured over this much time.
RATE_WINDOW_NS = 3 * NS_PER_S


class _Stream:
    """What is known of one sensor's stream."""

    def __init__(self, info: SourceInfo) -> None:
        self.info = info
        self.is_frame = issubclass(info.kind, FRAME_KINDS)
        self.waiting: deque[Sample] = deque()
        self.capacity = MAX_WAITING_FRAMES if self.is_frame else MAX_WAITING_STATES
        self.dropped: Counter[str] = Counter()
        self.newest: Sample | None = None
        self.received = 0
        self.recent: deque[int] = deque()
        self.window_start_ns: int | None = None
        self.line = LineStats()
        self.lost: Mapping[str, int] = MappingProxyType({})
        self.clock = StreamClock()

    def push(self, sample: Sample) -> None:
        if not isinstance(sample, self.info.kind):
            self.dropped[WRONG_KIND] += 1
        elif sample.stamp_ns < 0:
            self.dropped[ZERO_STAMP] += 1
        else:
            self.waiting.append(sample)
            if len(self.waiting) > self.capacity:
                self.waiting.popleft()
                self.dropped[OVERFLOW] += 1

    def accept(self, now_ns: int) -> list[Sample]:
        """Judge everything that waits; return what is accepted at this tick, oldest first."""
        period_ns = self.info.period_ns
        ahead_ns = int(FRAME_AHEAD_PERIODS * period_ns) if self.is_frame else 0
        future_ns = max(FUTURE_MIN_NS, int(FUTURE_PERIODS * period_ns))
        late_ns = LATE_MIN_NS + int(LATE_PERIODS * period_ns)
        accepted: list[Sample] = []
        keep: deque[Sample] = deque()
        for sample in self.waiting:
            stamp_ns = sample.stamp_ns
            # A stamp that was never set reads zero; only where the clock itself starts at zero is it a time.
            if stamp_ns == 0 and now_ns > late_ns:
                self.dropped[ZERO_STAMP] += 1
            elif stamp_ns > now_ns + future_ns:
                self.dropped[FUTURE] += 1
            elif stamp_ns > now_ns + ahead_ns:
                keep.append(sample)
            elif self.newest is not None and stamp_ns == self.newest.stamp_ns:
                self.dropped[DUPLICATE] += 1
            elif self.newest is not None and stamp_ns < self.newest.stamp_ns:
                self.dropped[BACKWARDS] += 1
            elif stamp_ns < now_ns - late_ns:
                self.dropped[LATE] += 1
            else:
                self.newest = sample
                accepted.append(sample)
                if sample.device_stamp_ns is not None:
                    self.clock.observe(sample.device_stamp_ns, stamp_ns)
        self.waiting = keep
        self.received += len(accepted)
        self.recent.extend(sample.stamp_ns for sample in accepted)
        return accepted

    def belonging(self, accepted: Sequence[Sample], now_ns: int) -> Sample | None:
        """The sample of this tick: the nearest new frame, or the newest state that is fresh."""
        period_ns = self.info.period_ns
        if self.is_frame:
            behind_ns = int(FRAME_BEHIND_PERIODS * period_ns)
            near = [s for s in accepted if s.stamp_ns >= now_ns - behind_ns]
            return min(near, key=lambda s: abs(s.stamp_ns - now_ns), default=None)
        behind_ns = max(STATE_BEHIND_MIN_NS, int(STATE_BEHIND_PERIODS * period_ns))
        if self.newest is None or self.newest.stamp_ns < now_ns - behind_ns:
            return None
        return self.newest

    def restart_rate(self, now_ns: int) -> None:
        self.recent = deque(s for s in self.recent if s > now_ns - self.info.period_ns)
        self.window_start_ns = now_ns - self.info.period_ns

    def health(self, now_ns: int) -> StreamHealth:
        if self.window_start_ns is None:
            self.window_start_ns = now_ns - self.info.period_ns
        window_start_ns = max(self.window_start_ns, now_ns - RATE_WINDOW_NS)
        while self.recent and self.recent[0] <= window_start_ns:
            self.recent.popleft()
        span_ns = max(now_ns - window_start_ns, 1)
        return StreamHealth(
            sensor=self.info.sensor,
            period_ns=self.info.period_ns,
            received=self.received,
            age_ns=None if self.newest is None else max(0, now_ns - self.newest.stamp_ns),
            rate_hz=len(self.recent) * NS_PER_S / span_ns,
            dropped=MappingProxyType(dict(self.dropped + Counter(self.lost))),
            line=self.line,
            clock=self.clock.estimate,
        )


class Synchronizer:
    """Holds the streams of one rig and cuts them into ticks.

    Args:
        infos: one per sensor; names must be unique and periods positive.

    Raises:
        ConfigError: EG-C110 for a repeated sensor, EG-C111 for a period that is not positive.
    """

    def __init__(self, infos: Sequence[SourceInfo]) -> None:
        self._streams: dict[str, _Stream] = {}
        for info in infos:
            if info.sensor in self._streams:
                raise ConfigError(
                    f"two sources are named {info.sensor!r}",
                    code="EG-C110",
                    hint="give every source its own sensor name",
                )
            if info.period_ns <= 0:
                raise ConfigError(
                    f"source {info.sensor!r} has a period of {info.period_ns} ns",
                    code="EG-C111",
                    hint="state the nominal period of the sensor",
                )
            self._streams[info.sensor] = _Stream(info)
        self._unknown: Counter[str] = Counter()

    @property
    def unknown(self) -> int:
        """Samples pushed under a sensor name that this rig does not have (reason ``unknown_sensor``)."""
        return self._unknown[UNKNOWN_SENSOR]

    def push(self, sample: Sample, line_stats: LineStats | None = None) -> None:
        """Store one sample in arrival order; `line_stats` are the running totals of its source, where it has any."""
        stream = self._streams.get(sample.sensor)
        if stream is None:
            self._unknown[UNKNOWN_SENSOR] += 1
            return
        stream.push(sample)
        if line_stats is not None:
            stream.line = line_stats

    def drop(self, sensor: str, reason: str) -> None:
        """Count a sample that the caller could not even build, under the reason code it gives."""
        stream = self._streams.get(sensor)
        if stream is None:
            self._unknown[UNKNOWN_SENSOR] += 1
        else:
            stream.dropped[reason] += 1

    def waiting(self, sensor: str) -> int:
        """How many samples of `sensor` wait for a later tick."""
        return len(self._streams[sensor].waiting)

    def tick(
        self,
        tick: Tick,
        line_stats: Mapping[str, LineStats] = MappingProxyType({}),
        drops: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    ) -> SyncedSet:
        """Cut here. Returns one set per tick, whether or not any stream spoke.

        Args:
            line_stats: running totals of each source's byte stream.
            drops: running totals, per reason, of what each source lost before it could give it.
        """
        samples: dict[str, Sample | None] = {}
        series: dict[str, tuple[Sample, ...]] = {}
        health: dict[str, StreamHealth] = {}
        for sensor, stream in self._streams.items():
            if tick.discontinuity or sensor in tick.recording_gap:
                stream.restart_rate(tick.stamp_ns)
            if sensor in line_stats:
                stream.line = line_stats[sensor]
            stream.lost = drops.get(sensor, stream.lost)
            accepted = stream.accept(tick.stamp_ns)
            samples[sensor] = stream.belonging(accepted, tick.stamp_ns)
            series[sensor] = tuple(accepted)
            health[sensor] = stream.health(tick.stamp_ns)
        return SyncedSet(
            tick=tick,
            samples=MappingProxyType(samples),
            series=MappingProxyType(series),
            health=MappingProxyType(health),
        )
