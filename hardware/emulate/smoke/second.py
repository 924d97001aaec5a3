"""One simulated second of all sensors with a ghost in the lidar, through the whole pipeline.

    second.py GIVEN MADE

GIVEN is not read: everything is made from the seed. MADE gets `second.json`: what every check found at every tick.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sensors import DURATION_S, GHOST, SEED

from edgeguard.clock import ManualClock
from edgeguard.config import Config
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.sim.rig import SimRig
from edgeguard.sim.world import World
from edgeguard.types import FrameResult


def main(made: Path) -> None:
    """Drive, and write down what was decided."""
    clock = ManualClock()
    with (
        SimRig(World(SEED, DURATION_S), clock, SEED, [GHOST]) as rig,
        Pipeline(Config(), rig.sources, clock, calibration=rig.calibration) as pipeline,
    ):
        ticks = [_tick(frame) for frame in pipeline.run(rig.ticks())]
    (made / "second.json").write_text(json.dumps(ticks))


def _tick(frame: FrameResult) -> dict[str, Any]:
    results = [
        [r.check, list(r.sensors), r.level.value, float(r.statistic), float(r.threshold), float(r.power)]
        for r in frame.results
    ]
    return {
        "verdict": frame.verdict.value,
        "trust": {name: trust.state.value for name, trust in frame.fused.trust.items()},
        "log_odds": {name: float(trust.log_odds) for name, trust in frame.fused.trust.items()},
        "results": results,
        "objects": len(frame.fused.objects),
        "ego": _ego(frame),
    }


def _ego(frame: FrameResult) -> list[float]:
    ego = frame.fused.ego
    return [] if ego is None else [ego.east_m, ego.north_m, ego.yaw_rad, ego.speed_m_s]


if __name__ == "__main__":
    main(Path(sys.argv[2]))
