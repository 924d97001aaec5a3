"""`Recorder`: every sample that the sources give, and every decision, into one file, without slowing the pipeline.

The pipeline's thread only puts references into a bounded queue; encoding, compressing and writing happen in a thread
of its own. What does not fit is counted under its reason and lost for the recording, never for the pipeline::

    with Recorder(path, sources, clock, calibration) as recorder:
        with Pipeline(config, recorder.sources, clock, calibration=calibration) as pipeline:
            for frame in pipeline.run(ticks):
                recorder.frame(frame)
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

from edgeguard.clock import Clock
from edgeguard.errors import ConfigError, EdgeGuardError, RecordingError
from edgeguard.sensors.mcap_write import IMAGE_CODINGS, McapSink
from edgeguard.sensors.npz import save_npz
from edgeguard.types import (
    FrameResult,
    Image,
    LineStats,
    PointCloud,
    RigCalibration,
    Sample,
    Scan2d,
    Source,
    SourceInfo,
)

# A second and a half of a 2 MP camera and a dense lidar at 20 Hz.
QUEUE_BYTES = 256 << 20
NICENESS = 10  # behind the pipeline, before what only runs on idle machines
LINGER_S = 0.2  # the longest that anything waits for its tick to be decided
STATE_BYTES = 512  # of a reading or a tick, for the queue's account
DEFAULT_MAX_BYTES = 64 << 30  # what most SD cards of a device hold; a recording must not fill the system's disk
CLOSE_TIMEOUT_S = 30.0  # for a disk that hangs; the process must come to its end
QUEUE_FULL, WRITE_FAILED, FILE_FULL, NOT_ENCODABLE = "queue_full", "write_failed", "file_full", "not_encodable"


class Sink(Protocol):
    """One file being written."""

    @property
    def size_bytes(self) -> int: ...

    def write_sample(self, arrival_ns: int, sample: Sample) -> None: ...

    def write_frame(self, frame: FrameResult, source_drops: Mapping[str, Mapping[str, int]]) -> None: ...

    def flush(self, now_ns: int) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


_Sample = tuple[int, Sample]
_Frame = tuple[FrameResult, Mapping[str, Mapping[str, int]]]


class Recorder:
    """A context manager; inside it, `sources` are to be given to the pipeline in place of the real ones.

    Args:
        path: a new ``.mcap`` file, or ``.npz`` for a drive that fits in memory.
        sources: the real ones. clock: the pipeline's. calibration: of camera and lidar, or None.
        images: ``png`` or ``raw`` (both lossless; raw costs disk, png costs processor time) or ``jpeg``.
        wait: wait for the writer instead of dropping; for replays and simulations, which have the time.
        max_bytes: the file grows no further.

    Raises:
        ConfigError: EG-C120 for another file suffix or image coding.
        RecordingError: EG-N078 when the file exists or cannot be made (on entry), EG-N077 when an npz cannot be
            written (on exit).
        EnvironmentMissingError: EG-E050 without the package mcap (on entry).
    """

    def __init__(
        self,
        path: Path,
        sources: Mapping[str, Source],
        clock: Clock,
        calibration: RigCalibration | None = None,
        *,
        images: str = "png",
        wait: bool = False,
        queue_bytes: int = QUEUE_BYTES,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        if path.suffix not in (".mcap", ".npz") or images not in IMAGE_CODINGS:
            raise ConfigError(
                f"cannot record to {path.name} with images as {images}", code="EG-C120",
                hint=f"a .mcap or .npz file; images: {', '.join(IMAGE_CODINGS)}",
            )  # fmt: skip
        self.path = path
        self._real, self._clock, self._calibration = dict(sources), clock, calibration
        self._images, self._wait, self._queue_bytes, self._max_bytes = images, wait, queue_bytes, max_bytes
        self._queue: deque[tuple[int, _Sample | _Frame]] = deque()
        self._queued_bytes = 0
        self._released = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._drops: Counter[str] = Counter()
        self._written: Counter[str] = Counter()
        self._failure: EdgeGuardError | OSError | None = None
        self._sink: Sink | None = None
        self._thread: threading.Thread | None = None
        self._taps: dict[str, Source] = {name: TappedSource(source, self) for name, source in sources.items()}

    @property
    def sources(self) -> Mapping[str, Source]:
        """The real sources, each with a tap: what is read from one is recorded."""
        return MappingProxyType(self._taps)

    @property
    def drops(self) -> Mapping[str, int]:
        """What is missing in the recording, by reason: queue_full, write_failed, file_full, not_encodable."""
        with self._changed:
            return MappingProxyType(dict(self._drops))

    @property
    def written(self) -> Mapping[str, int]:
        """Samples written so far, by sensor, and ``frames``."""
        with self._changed:
            return MappingProxyType(dict(self._written))

    def sample(self, sample: Sample) -> None:
        """Record a sample that arrived now. Returns at once unless `wait`."""
        self._put(_size(sample), (self._clock.now_ns(), sample))

    def frame(self, frame: FrameResult) -> None:
        """Record what the pipeline decided at a tick. Returns at once unless `wait`."""
        drops = {name: dict(source.drops) for name, source in self._real.items()}
        self._put(STATE_BYTES * (1 + len(frame.results)), (frame, drops))
        with self._changed:
            self._released = len(self._queue)
            self._changed.notify_all()

    def __enter__(self) -> Self:
        infos = [source.info for source in self._real.values()]
        now_ns = self._clock.now_ns()
        if self.path.suffix == ".npz":
            self._sink = _NpzSink(self.path, self._calibration)
        else:
            shift_ns = self._clock.wall_ns() - now_ns
            self._sink = McapSink(
                self.path, infos, self._calibration, start_ns=now_ns, shift_ns=shift_ns, images=self._images
            )
        self._thread = threading.Thread(target=self._work, args=(self._sink,), name="edgeguard-record", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
            self._thread = None
        if isinstance(self._failure, EdgeGuardError) and kind is None:
            raise self._failure

    # ---- the pipeline's side --------------------------------------------------------------------------------------

    def _put(self, size: int, item: _Sample | _Frame) -> None:
        with self._changed:
            if self._wait and self._queued_bytes + size > self._queue_bytes:
                self._released = len(self._queue)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queued_bytes + size <= self._queue_bytes or not self._queue)
            elif self._queued_bytes + size > self._queue_bytes:
                self._drops[QUEUE_FULL] += 1
                return
            self._queue.append((size, item))
            self._queued_bytes += size
            if self._queued_bytes > self._queue_bytes // 2:
                self._released = len(self._queue)
                self._changed.notify_all()

    # ---- the writer's side ----------------------------------------------------------------------------------------

    def _work(self, sink: Sink) -> None:
        # Linux gives every thread its own niceness: where processors are scarce, the pipeline comes first.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        now_ns = 0
        while (taken := self._take()) is not None:
            size, item = taken
            try:
                now_ns = max(now_ns, self._write(sink, item))
                if not self._released:
                    sink.flush(now_ns)
            except (OSError, EdgeGuardError) as error:
                self._fail(error)
            except Exception:  # a sample of a user's own source may fail in any way; the recording goes on without it
                self._count(NOT_ENCODABLE)
            with self._changed:
                self._queued_bytes -= size
                self._changed.notify_all()
        self._finish(sink)

    def _take(self) -> tuple[int, _Sample | _Frame] | None:
        """The next item once its tick is decided: the time after a decision is when the pipeline needs the machine
        least. Without ticks, or when the queue fills, nothing waits longer than `LINGER_S`."""
        with self._changed:
            while True:
                if not self._released:
                    self._changed.wait_for(lambda: self._released or self._stopping, LINGER_S)
                if not self._released:
                    self._released = len(self._queue)
                if self._queue:
                    self._released -= 1
                    return self._queue.popleft()
                if self._stopping:
                    return None

    def _write(self, sink: Sink, item: _Sample | _Frame) -> int:
        """Write one item; returns its time."""
        first, second = item
        name = "frames" if isinstance(first, FrameResult) else second.sensor  # type: ignore[union-attr]
        if self._failure is not None:
            self._count(WRITE_FAILED)
            return 0
        if sink.size_bytes > self._max_bytes:
            self._count(FILE_FULL)
            return 0
        if isinstance(first, FrameResult):
            assert isinstance(second, Mapping)  # noqa: S101 - an item is one of two pairs
            sink.write_frame(first, second)
            now_ns = first.synced.stamp_ns
        else:
            assert not isinstance(second, Mapping)  # noqa: S101
            sink.write_sample(first, second)
            now_ns = first
        with self._changed:
            self._written[name] += 1
        return now_ns

    def _finish(self, sink: Sink) -> None:
        if self._failure is not None:
            sink.abandon()
            return
        try:
            sink.close()
        except (OSError, EdgeGuardError) as error:
            self._fail(error)

    def _fail(self, error: EdgeGuardError | OSError) -> None:
        if self._failure is None:
            self._failure = error
        self._count(WRITE_FAILED)

    def _count(self, reason: str) -> None:
        with self._changed:
            self._drops[reason] += 1


class TappedSource:
    """A source whose samples are also recorded; everything else is the real one's."""

    def __init__(self, source: Source, recorder: Recorder) -> None:
        self._source, self._recorder = source, recorder

    @property
    def info(self) -> SourceInfo:
        return self._source.info

    @property
    def exhausted(self) -> bool:
        return self._source.exhausted

    @property
    def line_stats(self) -> LineStats:
        return self._source.line_stats

    @property
    def drops(self) -> Mapping[str, int]:
        return self._source.drops

    def open(self) -> None:
        self._source.open()

    def read(self, timeout_s: float) -> Sample | None:
        sample = self._source.read(timeout_s)
        if sample is not None:
            self._recorder.sample(sample)
        return sample

    def close(self) -> None:
        self._source.close()


class _NpzSink:
    """Keeps everything and writes it at the end; decisions have no place in an npz."""

    def __init__(self, path: Path, calibration: RigCalibration | None) -> None:
        if path.exists():
            raise RecordingError(f"cannot record to {path}: it exists", code="EG-N078", hint="name a new file")
        self._path, self._calibration = path, calibration
        self._kept: list[tuple[int, Sample]] = []
        self.size_bytes = 0

    def write_sample(self, arrival_ns: int, sample: Sample) -> None:
        self._kept.append((arrival_ns, sample))
        self.size_bytes += _size(sample)

    def write_frame(self, frame: FrameResult, source_drops: Mapping[str, Mapping[str, int]]) -> None:
        """Nothing."""

    def flush(self, now_ns: int) -> None:
        """Nothing."""

    def close(self) -> None:
        save_npz(self._path, self._kept, self._calibration)

    def abandon(self) -> None:
        self._kept.clear()


def _size(sample: Sample) -> int:
    """Bytes a sample holds on to."""
    if isinstance(sample, Image):
        return sample.pixels.nbytes
    if isinstance(sample, PointCloud):
        return sample.xyz.nbytes + 10 * len(sample.xyz)
    return STATE_BYTES + 12 * len(sample.range_m) if isinstance(sample, Scan2d) else STATE_BYTES
