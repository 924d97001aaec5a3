"""The window over a recording gives the pipeline exactly what the recording's own sources give."""

from __future__ import annotations

import json

from edgeguard.clock import ManualClock
from edgeguard.config import Config
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.record import public_record
from edgeguard.sim.detection.playback import BEHIND_S, Playback
from edgeguard.sim.soak.lean import LeanDrive


def test_a_run_through_the_window_is_the_run_without_it(drive: LeanDrive) -> None:
    """Every tick's public record is equal, read ahead or not."""
    ticks = list(drive.ticks())[:80]

    def records(ahead_ns: int | None) -> list[str]:
        clock = ManualClock(ticks[0].stamp_ns - 1)
        playback = Playback(drive, clock, ticks[0].stamp_ns - 1) if ahead_ns is not None else None
        sources = playback.sources if playback is not None else drive.sources(clock)
        found = []
        with Pipeline(Config(), sources, clock) as pipeline:
            for tick in ticks:
                if playback is not None:
                    playback.load_until(tick.stamp_ns + (ahead_ns or 0))
                found.append(json.dumps(public_record(pipeline.step(tick)), sort_keys=True))
        return found

    assert records(None) == records(3_000_000_000)


def test_the_window_remembers_the_last_seconds_only(drive: LeanDrive) -> None:
    """What replays need, and no more: memory does not grow with the drive."""
    ticks = list(drive.ticks())[:100]
    clock = ManualClock(ticks[0].stamp_ns - 1)
    playback = Playback(drive, clock, ticks[0].stamp_ns - 1)
    with Pipeline(Config(), playback.sources, clock) as pipeline:
        for tick in ticks:
            playback.load_until(tick.stamp_ns)
            pipeline.step(tick)
    past = playback.past("imu")
    assert (past[-1].stamp_ns - past[0].stamp_ns) / 1e9 <= BEHIND_S
    assert len(past) > 0.9 * BEHIND_S * 50
