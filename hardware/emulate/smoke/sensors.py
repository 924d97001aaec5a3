"""One simulated second of all sensors with a ghost in the lidar, as the sources hand it over.

    sensors.py GIVEN MADE

GIVEN is not read: everything is made from the seed. MADE gets `sensors.npz`. Camera and lidar come as values, the rest
as bytes over pseudo-terminals and through the decoders.
"""

from __future__ import annotations

import math
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from edgeguard.clock import ManualClock
from edgeguard.sim.attacks.lidar import GhostPoints
from edgeguard.sim.rig import SimRig
from edgeguard.sim.world import World
from edgeguard.types import Image, PointCloud, Sample

SEED = 3
DURATION_S = 1.0
POLL_NS = 10_000_000
GHOST = GhostPoints(start_s=0.5, end_s=0.9, points=300, range_m=12.0, width_m=1.8, height_m=1.5)


def main(made: Path) -> None:
    """Drive, and write down every sample."""
    clock, arrays = ManualClock(), dict[str, Any]()
    with SimRig(World(SEED, DURATION_S), clock, SEED, [GHOST]) as rig:
        for source in rig.sources.values():
            source.open()
        while not rig.finished:
            clock.wait_until_ns(clock.now_ns() + POLL_NS)
            for source in rig.sources.values():
                while (sample := source.read(0.0)) is not None:
                    arrays |= _arrays(sample)
    np.savez(made / "sensors.npz", **arrays)


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


if __name__ == "__main__":
    main(Path(sys.argv[2]))
