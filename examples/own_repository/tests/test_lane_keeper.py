"""What this product promises, held against drives that a seed decides."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
from lane_keeper.check import TurnIsFelt

from edgeguard.config import load_config
from edgeguard.runtime.pipeline import Pipeline

CONFIG = load_config(Path(__file__).parent.parent / "edgeguard.toml")
SCENARIOS = Path(__file__).parent / "scenarios"


@pytest.mark.edgeguard_scenario("scenarios/roundabout.egsim.toml", seed=3)
def test_our_check_sees_what_the_gyro_makes_up(attacked_rig, scenario):
    """Within two seconds of the attack, and only then."""
    rang = []
    with Pipeline(CONFIG, attacked_rig.sources, attacked_rig.clock, extra_checks=[TurnIsFelt()]) as pipeline:
        for frame in pipeline.run(attacked_rig.ticks()):
            rang += [frame.synced.stamp_ns / 1e9 for found in frame.anomalies if found.check == TurnIsFelt.name]
    attack = scenario.attacks[0]
    assert rang
    assert attack.start_s <= min(rang) <= attack.start_s + 2.0


@pytest.mark.edgeguard_scenario("clean_bridge", seed=2)
def test_the_receiver_loses_satellites_under_the_bridge(world, rig):
    """Sensors alone, without a pipeline: what they measure against the truth of the drive."""
    gnss = rig.sources["gnss"]
    gnss.open()
    heard = {True: [], False: []}
    for tick in rig.ticks():
        rig.clock.wait_until_ns(tick.stamp_ns)
        while (fix := gnss.read(0.0)) is not None:
            heard[world.sky_share(fix.stamp_ns / 1e9) < 1.0].append(fix.satellites)
    assert fmean(heard[True]) < fmean(heard[False]) - 2.0


@pytest.mark.edgeguard_false_alarms(per_hour=60.0, over_s=40.0, check=TurnIsFelt.name)
@pytest.mark.parametrize("twin", ["clean_hills"])
def test_our_check_is_quiet_where_nobody_attacks(edgeguard_sim, twin):
    """Two streets are a smoke test; give the nightly run an hour."""
    for seed in (1, 2):
        edgeguard_sim(twin, seed, require=False, config=CONFIG, extra_checks=[TurnIsFelt()])


def test_a_jump_of_the_position_does_not_reach_the_motors(edgeguard_sim):
    """The whole chain, with the device's own configuration."""
    outcome = edgeguard_sim("gnss_jump", seed=3, config=CONFIG)
    assert outcome.report.attacks[0].named == ("gnss",)
