"""What lidar checks and object clusters make of filtered sweeps: the same as of the sweeps themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeguard.clock import ManualClock
from edgeguard.config import Config
from edgeguard.kernels.dbscan import dbscan
from edgeguard.kernels.ground import height_above_ground
from edgeguard.restore.cloud_chain import CloudChain, CloudRestorer
from edgeguard.restore.cloud_steps import Snow
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.sensors.kitti import KittiRecording
from edgeguard.sim.lidar import LidarModel, sweep
from edgeguard.sim.restoration.snow import fall
from edgeguard.sim.world import World
from edgeguard.types import CheckResult, Level, LineStats, PointCloud, Sample, Source, SourceInfo, Tick

Filter = Callable[[PointCloud], PointCloud]


def forced(cloud: PointCloud) -> PointCloud:
    """Filtered as in snow, though there is none: the diagnosis is off."""
    out = CloudRestorer(CloudChain("forced", (Snow(min_share=0.0),))).apply(cloud, 0)[0]
    assert isinstance(out, PointCloud)
    return out


class Filtered:
    """A source whose sweeps are filtered before anybody sees them."""

    def __init__(self, source: Source, what: Filter) -> None:
        self._source, self._what = source, what

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

    def close(self) -> None:
        self._source.close()

    def read(self, timeout_s: float) -> Sample | None:
        sample = self._source.read(timeout_s)
        return self._what(sample) if isinstance(sample, PointCloud) else sample


def evidence(recording: KittiRecording, ticks: Iterable[Tick], what: Filter) -> list[tuple[CheckResult, ...]]:
    """What the lidar checks say, tick after tick."""
    ticks = list(ticks)
    clock = ManualClock(start_ns=ticks[0].stamp_ns - 1)
    sources = {name: Filtered(source, what) for name, source in recording.sources(clock).items()}
    with Pipeline(Config(), sources, clock, calibration=recording.calibration) as pipeline:
        found = [frame.results for frame in pipeline.run(ticks)]
    return [tuple(r for r in results if r.check.startswith("L")) for results in found]


@pytest.mark.realdata
def test_lidar_checks_say_the_same_of_a_filtered_drive(realdata: Path) -> None:
    """20 frames of a street, filtered though they are clean: every level as before, no statistic moves by more than a
    twentieth of its threshold."""
    recording = KittiRecording(realdata / "kitti_drive")
    ticks = list(recording.ticks())[12:]

    before, after = (evidence(recording, ticks, what) for what in (lambda cloud: cloud, forced))

    apart = []
    for old, new in zip(before, after, strict=True):
        assert [(r.check, r.level) for r in old] == [(r.check, r.level) for r in new]
        apart += [
            abs(a.statistic - b.statistic) / a.threshold
            for a, b in zip(old, new, strict=True)
            if a.level is not Level.NOT_OBSERVABLE and 0.0 < a.threshold < np.inf and np.isfinite(a.statistic)
        ]
    assert len(apart) > 40
    assert max(apart) <= 0.05


def bodies(cloud: PointCloud) -> tuple[int, NDArray[np.bool_]]:
    """How many bodies stand up, and which returns are theirs."""
    upright = np.flatnonzero(height_above_ground(np.ascontiguousarray(cloud.xyz), 1.73) > 0.3)
    labels, _, count = dbscan(np.ascontiguousarray(cloud.xyz[upright]), 0.5, 10)
    held = np.zeros(len(cloud.xyz), np.bool_)
    held[upright[labels >= 0]] = True
    return count, held


@pytest.mark.parametrize("seed", [91, 92])
def test_clusters_of_clean_sweeps_stay(seed: int) -> None:
    """Filtered though clean: as many bodies, and a thousandth of their returns at most is gone."""
    clean = sweep(World(seed), 6.0, LidarModel(columns=1024))

    count, held = bodies(clean)
    count_kept, held_kept = bodies(forced(clean))

    assert count_kept == count
    assert held_kept.sum() >= 0.999 * held.sum()


@pytest.mark.parametrize("seed", [91, 92])
def test_snow_is_no_part_of_bodies_after_it(seed: int) -> None:
    """2.5 mm/h: thousands of flakes near the sensor are dense enough for clusters; nine in ten of those are gone."""
    snowy = fall(sweep(World(seed), 6.0, LidarModel(columns=1024)), 2.5, np.random.default_rng(seed))
    count, held = bodies(snowy.cloud)
    gone = np.zeros(len(held), np.bool_)
    gone[Snow().find(snowy.cloud)] = True

    count_after, held_after = bodies(forced(snowy.cloud))

    flakes = int((held & snowy.scatter).sum())
    assert flakes > 1000
    assert held_after.sum() - (held & ~snowy.scatter & ~gone).sum() < 0.1 * flakes
    assert abs(count_after - count) <= 0.1 * count
