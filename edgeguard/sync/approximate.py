"""Approximate-time pairing: the best set of one sample per stream, by stamps alone.

The published algorithm of ROS message_filters (wiki.ros.org/message_filters/ApproximateTime): every sample is used at
most once, sets never cross, consecutive sets are contiguous, each set is of minimal size among those contiguous to the
last one, and the result depends on stamps, not on the order of arrival across streams. Without a bound
(`max_interval_ns=None`) the sets are those of ROS 2. What ROS lacks: a bound that is chosen, a reason for every
sample that is dropped, a callback for it, a warning when one stream starves the others, and stamps that are checked.

Sans-IO and bounded: at most `queue` samples wait per stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from edgeguard.clock import NS_PER_S
from edgeguard.errors import ConfigError
from edgeguard.sync.reasons import (
    AFTER_LOSS,
    BACKWARDS,
    DUPLICATE,
    FUTURE,
    LATE,
    OVERFLOW,
    SUPERSEDED,
    UNKNOWN_SENSOR,
    UNPAIRED,
    ZERO_STAMP,
)

DEFAULT_QUEUE = 10
# A later set must be this much smaller to be preferred: it costs latency. The value that ROS ships.
DEFAULT_AGE_PENALTY = 0.1
# Two seconds of silence of one stream while the others go on is not jitter.
DEFAULT_STARVE_AFTER_NS = 2 * NS_PER_S
# Stamps further from our clock than this were made by another clock, not by a queue.
DEFAULT_MAX_SKEW_NS = 5 * NS_PER_S


class Stamped(Protocol):
    """What is paired: a value with a sensor name and a stamp in nanoseconds."""

    @property
    def stamp_ns(self) -> int: ...

    @property
    def sensor(self) -> str: ...


T = TypeVar("T", bound=Stamped)
OnDrop = Callable[[Stamped, str], None]
OnStarved = Callable[[str, int], None]


@dataclass(slots=True)
class _Queue(Generic[T]):
    """Samples of one stream; those before `head` were looked at for the set in the making and may come back."""

    name: str
    spacing_ns: int
    samples: list[T] = field(default_factory=list)
    head: int = 0
    lost: bool = False
    newest_ns: int | None = None
    starved: bool = False

    @property
    def has_head(self) -> bool:
        return self.head < len(self.samples)

    def head_ns(self) -> int:
        return self.samples[self.head].stamp_ns

    def earliest_ns(self, position: int, pivot_ns: int) -> int:
        """Stamp at `position`, or the earliest that a sample still to come there can have."""
        if position < len(self.samples):
            return self.samples[position].stamp_ns
        return max(self.samples[-1].stamp_ns + self.spacing_ns, pivot_ns)


class ApproximateTime(Generic[T]):
    """Pairs the streams of `sensors`.

    Args:
        sensors: names of the streams, two or more.
        max_interval_ns: largest size of a set (latest minus earliest stamp), or None for no bound.
        queue: samples that wait per stream; the oldest goes when one more comes.
        age_penalty: how much smaller a later set must be, as a share.
        spacing_ns: per stream, how close two of its samples can be at most; lets sets out earlier, changes none.
        on_drop: called with each sample that will not be used and the reason (`edgeguard.sync.reasons`).
        on_starved: called once per silence with the stream's name and its length in ns, when a stream has said
            nothing for `starve_after_ns` while another went on.
        max_skew_ns: largest distance of a stamp from our clock, where `push` is told the time.

    Raises:
        ConfigError: EG-C112: fewer than two streams, a name twice, or a limit that is not positive.
    """

    def __init__(
        self,
        sensors: Sequence[str],
        *,
        max_interval_ns: int | None,
        queue: int = DEFAULT_QUEUE,
        age_penalty: float = DEFAULT_AGE_PENALTY,
        spacing_ns: Mapping[str, int] = MappingProxyType({}),
        on_drop: OnDrop | None = None,
        on_starved: OnStarved | None = None,
        starve_after_ns: int = DEFAULT_STARVE_AFTER_NS,
        max_skew_ns: int = DEFAULT_MAX_SKEW_NS,
    ) -> None:
        limits = (queue, starve_after_ns, max_skew_ns, 1 if max_interval_ns is None else max_interval_ns)
        if len(set(sensors)) != len(sensors) or len(sensors) < 2 or min(limits) < 1 or age_penalty < 0.0:
            raise ConfigError(
                "pairing needs two or more streams of different names, and limits above zero", code="EG-C112"
            )
        self._queues: dict[str, _Queue[T]] = {name: _Queue(name, spacing_ns.get(name, 0)) for name in sensors}
        self._order = list(self._queues.values())
        self._max_interval_ns, self._queue = max_interval_ns, queue
        self._later = 1.0 + age_penalty
        self._on_drop, self._on_starved = on_drop, on_starved
        self._starve_after_ns, self._max_skew_ns = starve_after_ns, max_skew_ns
        self._dropped: dict[str, Counter[str]] = {name: Counter() for name in sensors}
        self._newest_ns: int | None = None
        self._candidate: tuple[int, int] | None = None  # earliest and latest stamp; its samples lead their queues
        self._pivot: _Queue[T] | None = None
        self._pivot_ns = 0
        self._sets: list[dict[str, T]] = []

    @property
    def dropped(self) -> Mapping[str, Mapping[str, int]]:
        """How many samples were dropped so far, per stream and reason."""
        return {name: dict(counts) for name, counts in self._dropped.items()}

    @property
    def waiting(self) -> int:
        """How many samples wait, over all streams."""
        return sum(len(q.samples) for q in self._order)

    def push(self, sample: T, now_ns: int | None = None) -> list[dict[str, T]]:
        """Take one sample; return the sets that it completes (mostly none or one), oldest first.

        Args:
            now_ns: our clock's time; with it, stamps far from it are refused.
        """
        queue = self._queues.get(sample.sensor)
        reason = UNKNOWN_SENSOR if queue is None else self._fault(queue, sample.stamp_ns, now_ns)
        if reason or queue is None:
            self._drop(sample, reason)
            return []
        queue.newest_ns = sample.stamp_ns
        self._watch_starving(queue, sample.stamp_ns)
        waited = queue.has_head
        queue.samples.append(sample)
        if not waited:
            self._pair()
        if len(queue.samples) > self._queue:
            self._overflow(queue)
        sets, self._sets = self._sets, []
        return sets

    def _fault(self, queue: _Queue[T], stamp_ns: int, now_ns: int | None) -> str:
        if now_ns is not None and abs(stamp_ns - now_ns) > self._max_skew_ns:
            return ZERO_STAMP if stamp_ns == 0 else FUTURE if stamp_ns > now_ns else LATE
        if stamp_ns < 0:
            return ZERO_STAMP
        if queue.newest_ns is None or stamp_ns > queue.newest_ns:
            return ""
        return DUPLICATE if stamp_ns == queue.newest_ns else BACKWARDS

    def _watch_starving(self, speaking: _Queue[T], stamp_ns: int) -> None:
        speaking.starved = False
        if self._newest_ns is None:
            self._first_ns = stamp_ns
        self._newest_ns = stamp_ns if self._newest_ns is None else max(self._newest_ns, stamp_ns)
        if self._on_starved is None:
            return
        for queue in self._order:
            since_ns = self._first_ns if queue.newest_ns is None else queue.newest_ns
            silent_ns = self._newest_ns - since_ns
            if silent_ns > self._starve_after_ns and not queue.starved:
                queue.starved = True
                self._on_starved(queue.name, silent_ns)

    def _overflow(self, queue: _Queue[T]) -> None:
        """Start the search again without the oldest sample of `queue`."""
        for other in self._order:
            other.head = 0
        self._drop(queue.samples.pop(0), OVERFLOW)
        queue.lost = True
        if self._pivot is not None:
            self._pivot = self._candidate = None
            self._pair()

    def _pair(self) -> None:
        while all(q.has_head for q in self._order):
            first = min(self._order, key=_Queue.head_ns)
            last = max(self._order, key=_Queue.head_ns)
            start_ns, end_ns = first.head_ns(), last.head_ns()
            for queue in self._order:
                if queue is not last:
                    queue.lost = False  # nothing that was lost here could have fitted better than the head
            if self._candidate is None:
                unfit = self._unfit(last, end_ns - start_ns)
                if unfit:
                    self._drop(first.samples.pop(0), unfit)
                    continue
                self._pivot, self._pivot_ns = last, end_ns
                self._keep(start_ns, end_ns)
            elif (end_ns - self._candidate[1]) * self._later < start_ns - self._candidate[0]:
                self._keep(start_ns, end_ns)
            first.head += 1
            if first is self._pivot or self._no_better(end_ns) or self._none_to_come():
                self._publish()

    def _unfit(self, last: _Queue[T], size_ns: int) -> str:
        if self._max_interval_ns is not None and size_ns > self._max_interval_ns:
            return UNPAIRED
        return AFTER_LOSS if last.lost else ""

    def _keep(self, start_ns: int, end_ns: int) -> None:
        """The heads are the best set so far; what lies before them cannot be part of a better one."""
        self._candidate = (start_ns, end_ns)
        for queue in self._order:
            for sample in queue.samples[: queue.head]:
                self._drop(sample, SUPERSEDED)
            del queue.samples[: queue.head]
            queue.head = 0

    def _no_better(self, end_ns: int) -> bool:
        """Whether every later set, which must reach from the pivot to `end_ns`, is larger than the candidate."""
        return self._candidate is not None and (
            (end_ns - self._candidate[1]) * self._later >= self._pivot_ns - self._candidate[0]
        )

    def _none_to_come(self) -> bool:
        """Whether no sample still to come can make a better set: search on with the earliest that are possible."""
        if self._candidate is None or all(q.has_head for q in self._order):
            return False
        heads = [q.head for q in self._order]
        while True:
            stamps = [q.earliest_ns(head, self._pivot_ns) for q, head in zip(self._order, heads, strict=True)]
            start_ns, end_ns = min(stamps), max(stamps)
            if self._no_better(end_ns):
                return True
            if (end_ns - self._candidate[1]) * self._later < start_ns - self._candidate[0]:
                return False
            heads[stamps.index(start_ns)] += 1

    def _publish(self) -> None:
        chosen: dict[str, T] = {}
        for queue in self._order:
            chosen[queue.name] = queue.samples.pop(0)
            queue.head = 0
        self._sets.append(chosen)
        self._candidate = self._pivot = None

    def _drop(self, sample: T, reason: str) -> None:
        self._dropped.setdefault(sample.sensor if reason != UNKNOWN_SENSOR else "", Counter())[reason] += 1
        if self._on_drop is not None:
            self._on_drop(sample, reason)
