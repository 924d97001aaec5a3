"""One simulated second of all sensors with a ghost in the lidar, through the whole pipeline.

    second.py GIVEN MADE

GIVEN is not read: everything is made from the seed. MADE gets `second.npz` (what the sensors said) and `second.json`
(what the checks found in it).
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from edgeguard.clock import ManualClock
from edgeguard.config import Config
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.sim.attacks.lidar import GhostPoints
from edgeguard.sim.rig import SimRig
from edgeguard.sim.world import World
from edgeguard.types import FrameResult, Image, PointCloud, Sample

SEED = 3
DURATION_S = 1.0
GHOST = GhostPoints(start_s=0.5, end_s=0.9, points=300, range_m=12.0, width_m=1.8, height_m=1.5)


def main(made: Path) -> None:
    """Drive, and write down what was measured and what was made of it."""
    clock, arrays, ticks = ManualClock(), dict[str, Any](), []
    with (
        SimRig(World(SEED, DURATION_S), clock, SEED, [GHOST]) as rig,
        Pipeline(Config(), rig.sources, clock, calibration=rig.calibration) as pipeline,
    ):
        for frame in pipeline.run(rig.ticks()):
            for series in frame.synced.series.values():
                for sample in series:
                    arrays |= _arrays(sample)
            ticks.append(_tick(frame))
    np.savez(made / "second.npz", **arrays)
    (made / "second.json").write_text(json.dumps(ticks))


def _arrays(sample: Sample) -> dict[str, Any]:
    """Return what a sample says as arrays, under a name that holds sensor, stamp and quantity."""
    at = f"{sample.sensor}/{sample.stamp_ns}"
    if isinstance(sample, Image):
        return {f"{at}/pixels": sample.pixels}
    if isinstance(sample, PointCloud):
        assert sample.ring is not None  # noqa: S101 - the simulator always tells
        return {f"{at}/xyz": sample.xyz, f"{at}/intensity": sample.intensity, f"{at}/ring": sample.ring}
    skipped = {"sensor", "stamp_ns", "device_stamp_ns", "signals"}
    numbers = [
        number
        for field in fields(sample)
        if field.name not in skipped
        for number in np.ravel(getattr(sample, field.name) if getattr(sample, field.name) is not None else math.nan)
    ]
    return {f"{at}/numbers": np.array(numbers, float)}


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
