"""What lidar sources over UDP share, live or from a capture: one sender, one kind of sample, the rest counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from edgeguard.types import LineStats, Sample, SourceInfo

MAX_READY = 64  # samples that wait to be read; beyond, the oldest goes
MAX_NAMED_SENDERS = 16


class Record(Protocol):
    """What a decoder gives: it knows how to become a sample once the time of arrival is known."""

    def sample(self, stamp_ns: int, sensor: str) -> Sample: ...


class PacketDecoder(Protocol):
    """One datagram in, records out; bounded; never raises on the bytes' account."""

    @property
    def line_stats(self) -> LineStats: ...

    @property
    def drops(self) -> Mapping[str, int]: ...

    @property
    def accepted(self) -> int: ...

    def feed(self, data: bytes) -> Sequence[Record]: ...

    def flush(self) -> Sequence[Record]: ...


class SenderGuard:
    """Holds on to one sender's address. `sender` is it, None before one was learned; `refused` counts the packets of
    every other by address, the first 16 by name and the rest as "others"."""

    def __init__(self, sender: str | None = None) -> None:
        self.sender = sender
        self.refused: Counter[str] = Counter()

    def admits(self, address: str) -> bool:
        """Whether a packet from there may be decoded; a refused one is counted."""
        if self.sender is None or address == self.sender:
            return True
        known = address in self.refused or len(self.refused) < MAX_NAMED_SENDERS
        self.refused[address if known else "others"] += 1
        return False

    def learn(self, address: str) -> None:
        """Take the sender of a packet that decoded, if none is known; garbage makes no sender."""
        if self.sender is None:
            self.sender = address


class LidarSource(ABC):
    """What both sources share: samples of one kind, stamped, with everything else counted."""

    def __init__(self, decoder: PacketDecoder, info: SourceInfo, sender: str | None) -> None:
        self._decoder, self._info = decoder, info
        self._guard = SenderGuard(sender)
        self._ready: deque[Sample] = deque()
        self._drops: Counter[str] = Counter()

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def line_stats(self) -> LineStats:
        """Totals of the packets; refused ones of other senders are not among them."""
        return self._decoder.line_stats

    @property
    def drops(self) -> Mapping[str, int]:
        """What did not become a sample, by reason, in totals: the decoder's reasons, and other_sender, queue_full,
        kernel_overflow, partial_sweep, other_kind, other_port."""
        own = self._drops + Counter(other_sender=self._guard.refused.total())
        return {**self._decoder.drops, **own}

    @property
    def sender(self) -> str | None:
        """Address of the sensor, None before its first packet."""
        return self._guard.sender

    @property
    def refused_senders(self) -> Mapping[str, int]:
        """Packets refused per foreign address; the first 16 are named, the rest count as "others"."""
        return dict(self._guard.refused)

    def _decode(self, payload: bytes, address: str, stamp_ns: int) -> None:
        before = self._decoder.accepted
        records = self._decoder.feed(payload)
        if self._decoder.accepted > before:
            self._guard.learn(address)
        self._queue(records, stamp_ns)

    def _queue(self, records: Sequence[Record], stamp_ns: int) -> None:
        for record in records:
            if getattr(record, "partial", False):
                self._drops["partial_sweep"] += 1
                continue
            sample = record.sample(stamp_ns, self._info.sensor)
            if not isinstance(sample, self._info.kind):
                self._drops["other_kind"] += 1
                continue
            if len(self._ready) >= MAX_READY:
                self._ready.popleft()
                self._drops["queue_full"] += 1
            self._ready.append(sample)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def open(self) -> None:
        """Begin."""

    @abstractmethod
    def close(self) -> None:
        """End; a second call does nothing."""
