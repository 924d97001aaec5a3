"""A sensor of your own: anything with the six members of `Source` and `read` joins the rig.

Here a second GNSS receiver that lags behind stands in for the rig's own, and the pipeline judges it like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgeguard.clock import ManualClock
from edgeguard.config import load_config
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sim.rig import SimRig
from edgeguard.sim.world import World
from edgeguard.types import GNSS, GnssFix, LineStats, Sample, Source, SourceInfo


class StuckReceiver:
    """Wraps a receiver whose firmware hangs after some fixes: it repeats the last position under fresh stamps."""

    def __init__(self, receiver: Source, good_fixes: int) -> None:
        self._receiver, self._left = receiver, good_fixes
        self._last: GnssFix | None = None

    @property
    def info(self) -> SourceInfo:
        return self._receiver.info

    @property
    def exhausted(self) -> bool:
        return self._receiver.exhausted

    @property
    def line_stats(self) -> LineStats:
        return self._receiver.line_stats

    @property
    def drops(self) -> Mapping[str, int]:
        return self._receiver.drops

    def open(self) -> None:
        self._receiver.open()

    def close(self) -> None:
        self._receiver.close()

    def read(self, timeout_s: float) -> Sample | None:
        fix = self._receiver.read(timeout_s)
        if not isinstance(fix, GnssFix):
            return fix
        self._left -= 1
        if self._left >= 0 or self._last is None:
            self._last = fix
            return fix
        return replace(self._last, stamp_ns=fix.stamp_ns, device_stamp_ns=fix.device_stamp_ns)


def main() -> None:
    clock = ManualClock(start_ns=1_000_000_000)
    with SimRig(World(seed=5, duration_s=12.0), clock, 5) as rig:
        sources = dict(rig.sources)
        sources[GNSS] = StuckReceiver(sources[GNSS], good_fixes=60)
        with Pipeline(load_config(), sources, clock, calibration=rig.calibration) as pipeline:
            for frame in pipeline.run(periodic_ticks(clock.now_ns(), 100_000_000, 110)):
                if frame.synced.tick.frame % 10 == 9:
                    time_s = (frame.synced.stamp_ns - 1_000_000_000) / 1e9
                    print(f"{time_s:4.1f} s  {frame.verdict.value:8s} {frame.verdict_reason}")


if __name__ == "__main__":
    main()
