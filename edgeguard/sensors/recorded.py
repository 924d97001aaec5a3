"""What all recordings share: a stream that plays when the clock says so, and the ticks of a recording."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.types import Image, LineStats, PointCloud, RigCalibration, Sample, Scan2d, Source, SourceInfo, Tick

TICK_NS = NS_PER_S // 10  # of recordings without frames
# Stamps start here: zero means "no stamp" to the synchroniser.
FIRST_STAMP_NS = NS_PER_S
# The file holds nothing of a sensor around a tick when its last sample is older than this many periods (at least
# 0.25 s): a fact about the file, stated in `Tick.recording_gap`, not a fault of the sensor.
GAP_PERIODS = 3.0
GAP_MIN_NS = NS_PER_S // 4
# A frame stream that steps over this many periods has a hole.
HOLE_PERIODS = 1.5
LEAD_PERIODS = 0.5
FRAME_KINDS = (Image, PointCloud, Scan2d)
MAX_TICKS = 4_000_000  # four days at 10 Hz; a stamp that claims more is damage


class Recording(Protocol):
    """What a replay needs: the rig's geometry, its sources, its ticks, and notes about the state of the file."""

    @property
    def calibration(self) -> RigCalibration | None: ...

    @property
    def notes(self) -> Sequence[Mapping[str, Any]]: ...

    def ticks(self) -> Iterable[Tick]: ...

    def sources(self, clock: Clock) -> Mapping[str, Source]: ...


@dataclass(frozen=True, slots=True, eq=False)
class RecordedStream:
    """One sensor of a recording.

    stamps_ns: (N,) int64, not decreasing: when each sample becomes readable. load: index -> the sample, or the drop
    reason of one that cannot be read; it never raises.
    """

    info: SourceInfo
    stamps_ns: NDArray[np.int64]
    load: Callable[[int], Sample | str]

    @property
    def is_frame(self) -> bool:
        return issubclass(self.info.kind, FRAME_KINDS)

    def source(self, clock: Clock) -> RecordedSource:
        return RecordedSource(self.info, self.stamps_ns, self.load, clock)


class RecordedSource:
    """Replays one stream: a sample can be read once the clock has reached its stamp.

    Args:
        info: what the source is. stamps_ns: (N,) not decreasing. load: as in `RecordedStream`. clock: injected.
    """

    def __init__(
        self,
        info: SourceInfo,
        stamps_ns: Sequence[int] | NDArray[np.int64],
        load: Callable[[int], Sample | str],
        clock: Clock,
    ) -> None:
        self._info, self._stamps_ns, self._load, self._clock = info, stamps_ns, load, clock
        self._next = self._frames = 0
        self._drops: dict[str, int] = {}

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def exhausted(self) -> bool:
        return self._next >= len(self._stamps_ns)

    @property
    def drops(self) -> Mapping[str, int]:
        """Samples that could not be read, by reason, since the source was made."""
        return MappingProxyType(dict(self._drops))

    @property
    def line_stats(self) -> LineStats:
        """Whole frames that decoded and those that did not; a table of numbers has no integrity to state."""
        if not issubclass(self._info.kind, FRAME_KINDS):
            return LineStats()
        return LineStats(frames=self._frames, checksum_failures=sum(self._drops.values()))

    def open(self) -> None:
        """Start at the first sample."""
        self._next = 0

    def close(self) -> None:
        """Give no more."""
        self._next = len(self._stamps_ns)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def read(self, timeout_s: float) -> Sample | None:
        """The next sample whose time has come, waiting up to `timeout_s` on the injected clock. A sample that cannot
        be read is counted and skipped; nothing raises."""
        deadline_ns = self._clock.now_ns() + int(max(timeout_s, 0.0) * NS_PER_S)
        while not self.exhausted:
            stamp_ns = int(self._stamps_ns[self._next])
            if stamp_ns > self._clock.now_ns():
                self._clock.wait_until_ns(min(stamp_ns, deadline_ns))
                if stamp_ns > deadline_ns:
                    return None
            loaded = self._load(self._next)
            self._next += 1
            if not isinstance(loaded, str):
                self._frames += 1
                return loaded
            self._drops[loaded] = self._drops.get(loaded, 0) + 1
        return None


def recorded_ticks(streams: Sequence[RecordedStream]) -> list[Tick]:
    """One tick per frame of the slowest frame stream (camera, lidar, 2D lidar), and on its beat through its holes;
    at 10 Hz where there are no frames. `recording_gap` names what the file lacks around each tick.

    A damaged file can hold any stamp: ticks stop at `MAX_TICKS`.
    """
    playing = [s for s in streams if len(s.stamps_ns)]
    if not playing:
        return []
    start_ns = min(int(s.stamps_ns[0]) for s in playing)
    end_ns = max(int(s.stamps_ns[-1]) for s in playing)
    frames = [s for s in playing if s.is_frame]
    lead = max(frames, key=lambda s: s.info.period_ns, default=None)
    moments = (
        _beat(lead, end_ns) if lead is not None else range(start_ns + TICK_NS, end_ns + 1, TICK_NS)
    )  # states first, then a decision
    ticks: list[Tick] = []
    for number, stamp_ns in enumerate(itertools.islice(moments, MAX_TICKS)):
        gap = frozenset(s.info.sensor for s in playing if _absent(s, stamp_ns, s is lead))
        silent = len(gap) == len(playing)
        if not silent:
            jumped = bool(ticks) and stamp_ns - ticks[-1].stamp_ns > GAP_MIN_NS + 3 * TICK_NS
            ticks.append(Tick(number, stamp_ns, discontinuity=jumped, recording_gap=gap))
    return ticks


def _beat(lead: RecordedStream, end_ns: int) -> Iterable[int]:
    """The lead's own stamps; where it pauses or has ended and others go on, its nominal period."""
    period_ns = max(lead.info.period_ns, 1)
    previous: int | None = None
    for stamp in (*(int(s) for s in lead.stamps_ns), end_ns + 1):
        if previous is not None:
            hole = range(previous + period_ns, stamp, period_ns) if stamp - previous > HOLE_PERIODS * period_ns else ()
            yield from (moment for moment in hole if stamp - moment >= period_ns // 2)
        if stamp <= end_ns and stamp != previous:
            yield stamp
        previous = stamp


def _absent(stream: RecordedStream, now_ns: int, leads: bool) -> bool:
    """Whether the file holds nothing of this sensor around `now_ns`: a frame that belongs here, or a fresh state."""
    i = int(np.searchsorted(stream.stamps_ns, now_ns, side="right"))
    if i == 0:
        return True
    age_ns = now_ns - int(stream.stamps_ns[i - 1])
    period_ns = stream.info.period_ns
    if stream.is_frame:
        # Ticks are the lead's own moments: one without a frame of it lies in a hole.
        return age_ns > (LEAD_PERIODS if leads else HOLE_PERIODS) * period_ns
    return age_ns > max(GAP_MIN_NS, int(GAP_PERIODS * period_ns))


def median_period_ns(stamps_ns: NDArray[np.int64], default_ns: int) -> int:
    """The nominal period of a stream that does not state one."""
    return max(1, int(np.median(np.diff(stamps_ns)))) if len(stamps_ns) > 1 else default_ns
