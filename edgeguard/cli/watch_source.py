"""Where `edgeguard watch` looks: a simulated drive, a recording, or the log that a running process writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edgeguard.cli.watch_state import Snapshot, of_frame, of_record
from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import AuditError, ConfigError

if TYPE_CHECKING:
    from edgeguard.audit.record import Record
    from edgeguard.config import Config
    from edgeguard.types import FrameResult

POLL_S = 0.25  # a log is flushed about once a second; four looks in that time cost nothing
OnFrame = Callable[["FrameResult"], None]


def kind_of(source: str) -> str:
    """Return "sim", "log" or "recording".

    Raises:
        ConfigError: EG-C020 when there is nothing at the path.
    """
    if source.startswith("sim:"):
        return "sim"
    path = Path(source)
    if not path.exists():
        raise ConfigError(
            f"nothing to watch at {source}", code="EG-C020",
            hint="sim:NAME (edgeguard sim list shows names), a recording, or the folder of an audit log",
        )  # fmt: skip
    return "log" if path.is_dir() and any(path.glob("audit-*.egl")) else "recording"


def watch_simulated(name: str, seed: int, config: Config, on_frame: OnFrame) -> Iterator[Snapshot]:
    """Drive a scenario and yield every tick as it is decided."""
    from edgeguard.clock import ManualClock
    from edgeguard.runtime.pipeline import Pipeline
    from edgeguard.runtime.ticks import periodic_ticks
    from edgeguard.sim.found import WatchedModel
    from edgeguard.sim.scenario import load_scenario

    scenario, clock = load_scenario(name), ManualClock()
    with ExitStack() as stack:
        rig = stack.enter_context(scenario.rig(clock, seed))
        start_ns, period_ns = clock.now_ns(), config.pipeline.tick_ms * 1_000_000
        ticks = periodic_ticks(start_ns, period_ns, round(scenario.duration_s * NS_PER_S) // period_ns)
        model = WatchedModel.open(scenario.model) if scenario.model else None
        pipeline = Pipeline(config, rig.sources, clock, calibration=rig.calibration, model=model)
        stack.enter_context(pipeline)
        for frame in pipeline.run(ticks):
            on_frame(frame)
            yield of_frame(frame, start_ns)


def watch_recording(path: Path, config: Config, on_frame: OnFrame) -> Iterator[Snapshot]:
    """Run the pipeline over a recording and yield every tick."""
    from edgeguard.clock import ManualClock
    from edgeguard.runtime.pipeline import Pipeline
    from edgeguard.sensors.recording import open_recording

    recording = open_recording(path)
    ticks = list(recording.ticks())
    start_ns = ticks[0].stamp_ns if ticks else 0
    clock = ManualClock(start_ns=start_ns - 1 if ticks else 0)
    with Pipeline(config, recording.sources(clock), clock, calibration=recording.calibration) as pipeline:
        for frame in pipeline.run(ticks):
            on_frame(frame)
            yield of_frame(frame, start_ns)


def watch_log(directory: Path, clock: Clock, *, follow: bool) -> Iterator[Snapshot | None]:
    """Yield every `frame` record of a log, and those that are appended; None each time that nothing is new.

    Bytes and form of each record are checked and that sequence numbers do not skip, not the whole chain: for that there
    is `edgeguard log verify`. A record torn at the end is waited for.

    Raises:
        AuditError: at the first record that is bad.
    """
    from edgeguard.audit.segment import list_segments, segment_path

    segment, size, next_seq, start_ns = -1, -1, 0, None
    while True:
        indices = list_segments(directory)
        # The oldest segments of a full log are dropped by its writer: go on with what is there.
        for index in [i for i in indices if i >= segment]:
            now = _size(segment_path(directory, index))
            if index == segment and now == size:
                continue
            segment, size = index, now
            for record in _records(directory, index, next_seq, is_current=index == indices[-1]):
                next_seq = record.seq + 1
                if record.kind == "frame":
                    stamp = record.body.get("stamp_ns")
                    start_ns = start_ns if start_ns is not None else int(stamp) if isinstance(stamp, int) else 0
                    yield of_record(record.body, start_ns)
        if not follow:
            return
        yield None
        clock.wait_until_ns(clock.now_ns() + round(POLL_S * NS_PER_S))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise AuditError(f"cannot read {path.name}: {error.strerror}", code="EG-A007") from None


def _records(directory: Path, index: int, next_seq: int, *, is_current: bool) -> Iterator[Record]:
    from edgeguard.audit.segment import Entry, read_entries

    for entry in read_entries(directory, index, is_current=is_current):
        if not isinstance(entry, Entry) or entry.record.seq < next_seq:
            continue
        if next_seq and entry.record.seq != next_seq:
            raise AuditError(f"record {next_seq} is missing", code="EG-A010", hint=f"edgeguard log verify {directory}")
        next_seq = entry.record.seq + 1
        yield entry.record
