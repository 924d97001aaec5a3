"""The same injectors on recordings of real sensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeguard.clock import ManualClock
from edgeguard.errors import ScenarioError
from edgeguard.sensors.car import CarRecording
from edgeguard.sensors.kitti import KittiRecording
from edgeguard.sim.attacked import AttackedRecording
from edgeguard.sim.attacks.gnss import GnssJump
from edgeguard.sim.attacks.lidar import GhostPoints, LidarRemoval
from edgeguard.sim.attacks.motion import WheelScale
from edgeguard.sim.run import run_scenario
from edgeguard.sim.scenario import Scenario
from edgeguard.types import LIDAR, PointCloud

pytestmark = pytest.mark.realdata


def test_attacks_on_a_real_drive_change_what_the_pipeline_says(realdata: Path) -> None:
    """A real car: clean without; a jump of 30 m is found and named; fast wheels are found; too late is an error."""

    def drive(*attacks: object) -> Scenario:
        return Scenario("real", "", 60.0, attacks=tuple(attacks))  # type: ignore[arg-type]

    recording = CarRecording(realdata / "car_60s" / "car.npz")
    clean = run_scenario(drive(), 1, recording=recording)
    assert clean.report.clean_blames == ()
    jumped = run_scenario(drive(GnssJump(14.0, 20.0, offset_m=30.0)), 1, recording=recording)
    (outcome,) = jumped.report.attacks
    assert outcome.detected
    assert outcome.named == ("gnss",)
    assert {label.effect for label in jumped.labels} == {"changed"}
    fast = run_scenario(drive(WheelScale(14.0, 20.0, scale=1.2)), 1, recording=recording)
    assert fast.report.attacks[0].detected
    assert "wheels" in fast.report.attacks[0].named
    with pytest.raises(ScenarioError) as caught:
        run_scenario(drive(GnssJump(30.0, 40.0)), 1, recording=recording)
    assert caught.value.code == "EG-X017"


def test_a_ghost_takes_the_beams_of_a_real_lidar(realdata: Path) -> None:
    """Real sweeps without ring numbers: directions stay, ranges change, counts stay; removal empties the sector."""
    attacks = [GhostPoints(0.3, 0.6, points=300, range_m=10.0), LidarRemoval(0.8, 1.2, width_deg=30.0, share=1.0)]
    recording = KittiRecording(realdata / "kitti_drive")
    attacked = AttackedRecording(recording, attacks, seed=1)
    ticks = list(attacked.ticks())[:14]
    clocks = [ManualClock(ticks[0].stamp_ns - 1) for _ in range(2)]
    honest_source = recording.sources(clocks[0])[LIDAR]
    source = attacked.sources(clocks[1])[LIDAR]
    moved = removed = 0
    honest_source.open()
    source.open()
    for tick in ticks:
        for clock in clocks:
            clock.wait_until_ns(tick.stamp_ns)
        honest, given = honest_source.read(0.0), source.read(0.0)
        if not isinstance(honest, PointCloud) or not isinstance(given, PointCloud):
            continue
        elapsed_s = (honest.stamp_ns - ticks[0].stamp_ns) / 1e9
        if 0.3 <= elapsed_s < 0.6:
            assert given.xyz.shape == honest.xyz.shape
            changed = np.any(given.xyz != honest.xyz, axis=1)
            assert 100 < changed.sum() <= 300
            assert abs(float(np.median(given.xyz[changed, 0])) - 10.0) < 1.5
            moved += 1
        elif 0.8 <= elapsed_s < 1.2:
            azimuth = np.rad2deg(np.arctan2(given.xyz[:, 1], given.xyz[:, 0]))
            assert not np.any(np.abs(azimuth) < 14.9)
            removed += 1
        else:
            assert given is honest or np.array_equal(given.xyz, honest.xyz)
    assert moved >= 2
    assert removed >= 2
