"""When the pipeline decides: every tick of a period on a live or simulated rig; a recording brings its own."""

from __future__ import annotations

from collections.abc import Iterator

from edgeguard.types import Tick


def periodic_ticks(start_ns: int, period_ns: int, count: int) -> Iterator[Tick]:
    """Yield `count` ticks; the first one is a period after `start_ns`, frame numbers start at 0."""
    for frame in range(count):
        yield Tick(frame=frame, stamp_ns=start_ns + (frame + 1) * period_ns)
