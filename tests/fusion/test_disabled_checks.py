"""Checks that fusion runs itself are left out by name like all others."""

from __future__ import annotations

import numpy as np
import pytest

from edgeguard.clock import ManualClock
from edgeguard.config import ChecksConfig, Config
from edgeguard.errors import ConfigError
from edgeguard.fusion.fusion import names_of_checks
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sim.rig import SimRig
from edgeguard.sim.world import World
from edgeguard.types import CAMERA, GNSS, IMU, LIDAR, WHEELS

TICK_NS = 100_000_000


def _seen(disabled: tuple[str, ...], sensors: tuple[str, ...], seconds: float) -> tuple[set[str], tuple[str, ...]]:
    clock = ManualClock()
    config = Config(checks=ChecksConfig(disabled=disabled))
    with (
        SimRig(World(3, seconds + 1.0), clock, 3, sensors=sensors) as rig,
        Pipeline(config, rig.sources, clock, calibration=rig.calibration) as pipeline,
    ):
        frames = pipeline.run(periodic_ticks(clock.now_ns(), TICK_NS, int(10 * seconds)))
        return {r.check for frame in frames for r in frame.results}, pipeline.checks


def test_checks_on_boxes_are_left_out_by_name() -> None:
    """One of the two goes, the other stays."""
    both, listed = _seen((), (CAMERA, LIDAR), 0.4)
    one, fewer = _seen(("X3.object",), (CAMERA, LIDAR), 0.4)

    assert {"C5.body", "X3.object"} <= both & set(listed)
    assert both - one == {"X3.object"}
    assert set(listed) - set(fewer) == {"X3.object"}


def test_long_tracks_are_left_out_by_name() -> None:
    """Half a minute of wheels, gyro and GNSS gives the part of F1 that is not named, and that alone."""
    seen, listed = _seen(("F1.along",), (GNSS, IMU, WHEELS), 28.0)

    assert {each for each in seen if each.startswith("F")} == {"F1.across"}
    assert "F1.along" not in listed


@pytest.mark.parametrize(("name", "sensors"), [("C5.body", (GNSS, WHEELS)), ("F2.along", (GNSS, IMU, WHEELS))])
def test_a_name_that_the_rig_cannot_have_is_refused(name: str, sensors: tuple[str, ...]) -> None:
    """As for every other check: a misspelt or idle name is no silent nothing."""
    with pytest.raises(ConfigError) as caught:
        _seen((name,), sensors, 0.1)

    assert caught.value.code == "EG-C010"


def test_the_names_follow_the_sensors() -> None:
    """Every result that fusion can give has a name, and no rig has one that it cannot give."""
    assert names_of_checks((CAMERA, LIDAR)) == ("C5.body", "X3.object", "X4.contact")
    assert names_of_checks((IMU, WHEELS, LIDAR)) == ("F2.along", "F2.across")
    assert names_of_checks((IMU, GNSS, LIDAR)) == ()
    assert np.unique(names_of_checks((CAMERA, LIDAR, IMU, WHEELS, GNSS))).size == 7
