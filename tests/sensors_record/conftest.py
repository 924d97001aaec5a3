"""A short simulated drive with a ghost in it, recorded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeguard.clock import ManualClock
from edgeguard.config import Config
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.record import public_record
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sensors.recorder import Recorder
from edgeguard.sim.attacks.faults import Silence
from edgeguard.sim.attacks.lidar import GhostPoints
from edgeguard.sim.rig import SimRig
from edgeguard.sim.world import World
from edgeguard.types import LineStats, Sample, Source, SourceInfo

START_NS = 7_000_000_000
WALL_NS = 1_800_000_000_123_456_789


class Listened:
    """A source that also keeps what was read from it: the oracle beside the recorder's tap."""

    def __init__(self, source: Source) -> None:
        self._source, self.heard = source, list[tuple[int, Sample]]()

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
        return {"tested": len(self.heard) // 10}

    def open(self) -> None:
        self._source.open()

    def read(self, timeout_s: float) -> Sample | None:
        sample = self._source.read(timeout_s)
        if sample is not None:
            self.heard.append((0, sample))
        return sample

    def close(self) -> None:
        self._source.close()


@dataclass(frozen=True)
class Drive:
    """A recorded drive and what really happened on it."""

    path: Path
    records: list[dict[str, Any]]
    heard: dict[str, list[Sample]]
    healths: list[dict[str, tuple[int, LineStats]]]
    calibration: Any
    written: Mapping[str, int]


@pytest.fixture(scope="session")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    path = tmp_path_factory.mktemp("drive") / "drive.mcap"
    clock = ManualClock(start_ns=START_NS, wall_start_ns=WALL_NS)
    attacks = [
        GhostPoints(start_s=0.6, end_s=2.0),
        Silence(start_s=0.4, end_s=2.0, sensor="gnss"),
    ]
    rig = SimRig(World(5, 2.0), clock, 5, attacks)
    records, healths = [], []
    with rig:
        listened = {name: Listened(source) for name, source in rig.sources.items()}
        with (
            Recorder(path, listened, clock, rig.calibration, wait=True) as recorder,
            Pipeline(Config(), recorder.sources, clock, calibration=rig.calibration) as pipeline,
        ):
            for frame in pipeline.run(periodic_ticks(START_NS, 10**8, 20)):
                recorder.frame(frame)
                records.append(public_record(frame))
                healths.append({n: (h.received, h.line) for n, h in frame.synced.health.items()})
        assert dict(recorder.drops) == {}
        written = recorder.written
        calibration = rig.calibration
    heard = {name: [s for _, s in source.heard] for name, source in listened.items()}
    return Drive(path, records, heard, healths, calibration, written)
