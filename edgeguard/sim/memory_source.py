"""A `Source` whose samples the simulator puts in place: for sensors that are no serial line."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from edgeguard.clock import Clock
from edgeguard.errors import SensorDisconnectedError, SensorOpenError
from edgeguard.sim.attacks.base import Damaged, Payload
from edgeguard.sync.reasons import OVERFLOW
from edgeguard.types import LineStats, Sample, SourceInfo

DAMAGED_FRAME = "bad frame"
MAX_QUEUE = 16  # frames a driver would buffer; the oldest is lost first


class MemorySource:
    """Gives each sample once the clock has reached the time it becomes readable."""

    def __init__(self, info: SourceInfo, clock: Clock) -> None:
        self._info, self._clock = info, clock
        self._queue: deque[tuple[int, Sample]] = deque()
        self._open = self._gone = False
        self.finished = False
        self.lost = self.damaged = self._whole = 0

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def exhausted(self) -> bool:
        """Whether the drive is over and everything was read."""
        return self.finished and not self._queue

    @property
    def line_stats(self) -> LineStats:
        """Whole frames, and those that arrived damaged."""
        return LineStats(frames=self._whole, checksum_failures=self.damaged)

    @property
    def drops(self) -> Mapping[str, int]:
        """Frames that nobody read in time, and those that arrived damaged."""
        return {reason: n for reason, n in ((OVERFLOW, self.lost), (DAMAGED_FRAME, self.damaged)) if n}

    def open(self) -> None:
        """Start giving samples.

        Raises:
            SensorOpenError: EG-N001 when the simulated device was unplugged.
        """
        if self._gone:
            raise SensorOpenError(f"the simulated {self._info.sensor} is unplugged")
        self._open = True

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next readable sample or None at once: simulated time does not pass while waiting.

        Raises:
            SensorDisconnectedError: EG-N002 after `unplug`, or when not open.
        """
        del timeout_s
        if self._queue and self._queue[0][0] <= self._clock.now_ns():
            return self._queue.popleft()[1]
        if self._gone or not self._open:
            raise SensorDisconnectedError(
                f"the simulated {self._info.sensor} is {'gone' if self._gone else 'not open'}"
            )
        return None

    def close(self) -> None:
        """Stop; samples that were not read stay."""
        self._open = False

    def put(self, sample: Payload, readable_ns: int) -> None:
        """Queue a sample; count one that is damaged."""
        if isinstance(sample, Damaged | bytes):
            self.damaged += 1
            return
        self._whole += 1
        if len(self._queue) >= MAX_QUEUE:
            self._queue.popleft()
            self.lost += 1
        self._queue.append((readable_ns, sample))

    def unplug(self) -> None:
        """Make the device go away after what is queued."""
        self._gone = True

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
