"""Attacks on any `Source`: a recording, a device on the bench, the simulator; and on a whole recording.

What is lost, late, repeated or damaged here happens between the wrapped source and its reader, on the injected clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Any, Self

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import SensorDisconnectedError
from edgeguard.sensors.recorded import Recording
from edgeguard.sim.attacks.base import Attack, Damaged, Injector, Payload, SampleTruth
from edgeguard.sim.memory_source import DAMAGED_FRAME
from edgeguard.types import LineStats, RigCalibration, Sample, Source, SourceInfo, Tick, Truth

MAX_WAITING = 4096  # payloads on their way: a delay of 30 s on a fast IMU


class AttackedSource:
    """A `Source` that gives what attacks leave of another one's samples.

    Args:
        source: what is attacked; opened and closed with this one. injector: shared by the sources of one rig, so that
            its truths and labels cover all. clock: on which late payloads wait.
    """

    def __init__(self, source: Source, injector: Injector, clock: Clock) -> None:
        self._source, self._injector, self._clock = source, injector, clock
        self._waiting: list[tuple[int, int, Payload]] = []
        self._sent = self._damaged = 0

    @property
    def info(self) -> SourceInfo:
        return self._source.info

    @property
    def exhausted(self) -> bool:
        return self._source.exhausted and not self._waiting

    @property
    def line_stats(self) -> LineStats:
        """The wrapped source's, with what attacks damaged."""
        stats = self._source.line_stats
        return replace(stats, checksum_failures=stats.checksum_failures + self._damaged)

    @property
    def drops(self) -> Mapping[str, int]:
        drops = dict(self._source.drops)
        if self._damaged:
            drops[DAMAGED_FRAME] = drops.get(DAMAGED_FRAME, 0) + self._damaged
        return MappingProxyType(drops)

    def open(self) -> None:
        """Open what is wrapped; raises what it raises."""
        self._source.open()

    def close(self) -> None:
        """Close what is wrapped, and forget what was on its way."""
        self._waiting.clear()
        self._source.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next sample that arrives.

        Raises:
            SensorDisconnectedError: EG-N002 once an attack has unplugged the sensor; else what the source raises.
        """
        deadline_ns = self._clock.now_ns() + int(max(timeout_s, 0.0) * NS_PER_S)
        while True:
            if self._injector.unplugged(self.info.sensor, self._clock.now_ns()):
                raise SensorDisconnectedError(f"the attacked {self.info.sensor} is unplugged")
            ready = self._next()
            if ready is not None:
                return ready
            left_s = max(0.0, (deadline_ns - self._clock.now_ns()) / NS_PER_S)
            genuine = self._source.read(left_s)
            if genuine is None:
                return self._next()
            self._take(genuine)

    def _take(self, genuine: Sample) -> None:
        arrivals = self._injector.deliver(genuine, self._clock.now_ns(), self.info.period_ns // 2)
        for payload, at_ns in arrivals:
            if len(self._waiting) < MAX_WAITING:
                heapq.heappush(self._waiting, (at_ns, self._sent, payload))
                self._sent += 1

    def _next(self) -> Sample | None:
        while self._waiting and self._waiting[0][0] <= self._clock.now_ns():
            payload = heapq.heappop(self._waiting)[2]
            if not isinstance(payload, Damaged | bytes):
                return payload
            self._damaged += 1
        return None


class AttackedRecording:
    """A `Recording` with attacks on it; times count from its first tick.

    Args:
        recording: what was recorded. attacks: applied in order. seed: of their randomness.
    """

    def __init__(self, recording: Recording, attacks: Sequence[Attack], seed: int) -> None:
        self._recording = recording
        self._ticks = list(recording.ticks())
        origin_ns = self._ticks[0].stamp_ns if self._ticks else 0
        self._injector = Injector(attacks, seed, origin_ns)

    @property
    def calibration(self) -> RigCalibration | None:
        return self._recording.calibration

    @property
    def notes(self) -> Sequence[Mapping[str, Any]]:
        return self._recording.notes

    @property
    def truths(self) -> tuple[Truth, ...]:
        """Every attack with its stamps, cut at the end of the recording."""
        end_ns = self._ticks[-1].stamp_ns if self._ticks else 0
        return tuple(replace(truth, end_ns=min(truth.end_ns, end_ns)) for truth in self._injector.truths)

    @property
    def labels(self) -> tuple[SampleTruth, ...]:
        """Ground truth of every sample that an attack touched so far."""
        return self._injector.labels

    def ticks(self) -> Iterable[Tick]:
        """The recording's own."""
        return iter(self._ticks)

    def sources(self, clock: Clock) -> Mapping[str, Source]:
        """The recording's sources behind the attacks."""
        inner = self._recording.sources(clock)
        return {name: AttackedSource(source, self._injector, clock) for name, source in inner.items()}
