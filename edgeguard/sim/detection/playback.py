"""A recording as a sliding window in memory: behind the present for attacks that replay, ahead of it for trials.

A trial runs in a copy of the process; what it will need is in memory before it starts, so no two processes ever read
one open file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Self

from edgeguard.clock import NS_PER_S, Clock, ManualClock
from edgeguard.errors import SensorError
from edgeguard.sensors.recorded import Recording
from edgeguard.sim.attacked import AttackedSource
from edgeguard.sim.attacks.base import Attack, Injector, Payload, SampleTruth
from edgeguard.types import LineStats, Sample, Source, SourceInfo

BEHIND_S = 3.0  # genuine samples kept for attacks that replay; loops of the library are a second long
MAX_PIECE = 100_000  # samples of one sensor read in one go: a stamp that stands still must not fill the memory


class Slot(Injector):
    """An injector that lets everything pass until it is armed."""

    def __init__(self) -> None:
        super().__init__((), 0)
        self._armed: Injector | None = None

    def arm(self, attacks: Sequence[Attack], seed: int, origin_ns: int, past: Sequence[Sample]) -> None:
        """From now on apply these; `past`: genuine samples from before, oldest first, for attacks with a memory."""
        self._armed = Injector(attacks, seed, origin_ns)
        for sample in past:
            self._armed.apply(sample)

    @property
    def labels(self) -> tuple[SampleTruth, ...]:
        return self._armed.labels if self._armed is not None else ()

    def unplugged(self, sensor: str, now_ns: int) -> bool:
        """As the armed one says."""
        return self._armed is not None and self._armed.unplugged(sensor, now_ns)

    def deliver(self, sample: Sample, at_ns: int, forged_after_ns: int = 0) -> list[tuple[Payload, int]]:
        """As the armed one says; the sample itself before."""
        return [(sample, at_ns)] if self._armed is None else self._armed.deliver(sample, at_ns, forged_after_ns)


class _Feed:
    """One sensor of the recording on a clock of its own, which jumps from sample to sample."""

    def __init__(self, recording: Recording, sensor: str, start_ns: int) -> None:
        self._clock = ManualClock(start_ns)
        self.source: Source = recording.sources(self._clock)[sensor]
        self.source.open()

    def read_until(self, stamp_ns: int) -> list[_Held]:
        """Return the samples that become readable up to then, each with its moment and the totals after it."""
        found: list[_Held] = []
        while not self.source.exhausted and len(found) < MAX_PIECE:
            left_ns = stamp_ns - self._clock.now_ns()
            try:
                sample = self.source.read(max(0.0, left_ns / NS_PER_S))
            except SensorError:
                break  # the recording's device is gone: it says nothing more
            if sample is None:
                break
            found.append((self._clock.now_ns(), sample, self.source.line_stats, self.source.drops))
        return found


_Held = tuple[int, Sample, LineStats, Mapping[str, int]]


class WindowSource:
    """A `Source` that gives what the window holds once the clock has reached it."""

    def __init__(self, info: SourceInfo, clock: Clock) -> None:
        self._info, self._clock = info, clock
        self.ahead: deque[_Held] = deque()
        self.past: deque[Sample] = deque()
        self.over = False
        self._stats, self._drops = LineStats(), MappingProxyType[str, int]({})

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def exhausted(self) -> bool:
        return self.over and not self.ahead

    @property
    def line_stats(self) -> LineStats:
        return self._stats

    @property
    def drops(self) -> Mapping[str, int]:
        return self._drops

    def open(self) -> None:
        """Nothing to do: the window is filled from outside."""

    def close(self) -> None:
        """Nothing to do."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next sample that is due; never waits, the pipeline's clock moves by itself."""
        del timeout_s
        if not self.ahead or self.ahead[0][0] > self._clock.now_ns():
            return None
        _, sample, self._stats, drops = self.ahead.popleft()
        self._drops = MappingProxyType(dict(drops))
        self.past.append(sample)
        while self.past[0].stamp_ns < sample.stamp_ns - BEHIND_S * NS_PER_S:
            self.past.popleft()
        return sample


class Playback:
    """All sensors of a recording, behind one slot for attacks.

    Args:
        recording: read from its beginning. clock: of the pipeline; nothing is read by it. start_ns: its time then.
    """

    def __init__(self, recording: Recording, clock: Clock, start_ns: int) -> None:
        probe = recording.sources(ManualClock(start_ns))
        self.slot = Slot()
        self._feeds = {name: _Feed(recording, name, start_ns) for name in probe}
        self._windows = {name: WindowSource(feed.source.info, clock) for name, feed in self._feeds.items()}
        self.sources: Mapping[str, Source] = MappingProxyType(
            {name: AttackedSource(window, self.slot, clock) for name, window in self._windows.items()}
        )

    def load_until(self, stamp_ns: int) -> None:
        """Hold everything up to this moment in memory."""
        for name, feed in self._feeds.items():
            window = self._windows[name]
            window.ahead.extend(feed.read_until(stamp_ns))
            window.over = feed.source.exhausted

    def past(self, sensor: str) -> Sequence[Sample]:
        """Genuine samples of the last `BEHIND_S` that the pipeline has been given, oldest first."""
        return tuple(self._windows[sensor].past)

    def close(self) -> None:
        """Close the recording's sources."""
        for feed in self._feeds.values():
            feed.source.close()
