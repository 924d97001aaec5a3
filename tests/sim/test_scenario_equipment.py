"""Scenarios name their world, sensors and board; a planar lidar comes back through its own line."""

from __future__ import annotations

from dataclasses import replace
from math import pi

import numpy as np
import pytest

from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.errors import ScenarioError
from edgeguard.sensors.serial import spread
from edgeguard.sim.clocks import ClockModel, SensorClock
from edgeguard.sim.equipment import conditions_of, fitted
from edgeguard.sim.lidar2d import scan
from edgeguard.sim.presets import BOARDS, CAMERAS, CLOCKS, IMUS, LIDARS, LIDARS2D, RECEIVERS
from edgeguard.sim.rig import SerialModels, SimRig
from edgeguard.sim.scenario import Scenario, builtin_scenarios, load_scenario, parse_scenario
from edgeguard.sim.weather import QUEUE_S, WORLD_PRESETS, Conditions
from edgeguard.sim.world import World
from edgeguard.types import ImuSample, Scan2d

EQUIPPED = """
name = "equipped"
summary = "everything named"
duration_s = 12.0
board = "pi5_rover"
twin_of = ["gnss_jam"]

[world]
preset = "tunnel"
rain_mm_h = 4.0

[sensors.gnss]
preset = "zed_f9p"

[sensors.imu]
clock = "crystal"

[sensors.wheels]
clock = { preset = "usb", jitter_s = 0.002 }

[sensors.scan2d]
"""


def test_a_scenario_becomes_the_rig_that_it_describes() -> None:
    """Board, single sensors, clocks and weather reach the rig; what is not named stays the board's."""
    scenario = parse_scenario(EQUIPPED, "equipped")
    assert scenario.sensors == ("gnss", "imu", "wheels", "scan2d")
    found = fitted(scenario.board, scenario.equipment, "x")
    assert found["camera"] is CAMERAS["imx219"][0]
    assert found["lidar"] is LIDARS["vlp16"][0]
    assert found["models"].gnss is RECEIVERS["zed_f9p"][0]
    assert found["models"].imu is IMUS["mpu6050"][0]
    assert found["clocks"]["imu"] == CLOCKS["crystal"][0]
    assert found["clocks"]["wheels"] == replace(CLOCKS["usb"][0], jitter_s=0.002)
    assert conditions_of(scenario.world, "x") == replace(WORLD_PRESETS["tunnel"][0], rain_mm_h=4.0)
    with scenario.rig(ManualClock(), 1) as rig:
        assert set(rig.sources) == {"gnss", "imu", "wheels", "scan2d"}
        assert rig.world.conditions.tunnel
        assert rig.sources["imu"].info.period_ns == NS_PER_S // 200
        assert len(rig.ticks()) == 120


@pytest.mark.parametrize("board", BOARDS)
def test_every_board_names_models_that_exist(board: str) -> None:
    """For each sensor that a rig can have."""
    assert fitted(board, {}, "x")["camera"] is CAMERAS[BOARDS[board][0]["camera"]][0]


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (('"tunnel"', '"tunel"'), "did you mean tunnel?"),
        (('"zed_f9p"', '"zed_f9"'), "did you mean zed_f9p?"),
        (('"crystal"', '"cristal"'), "did you mean crystal?"),
        (('"usb"', '"ubs"'), "did you mean usb?"),
        (('"pi5_rover"', '"pi5rover"'), "did you mean pi5_rover?"),
        (("sensors.scan2d", "sensors.scand2"), "did you mean scan2d?"),
        (("rain_mm_h", "rain_mmh"), "did you mean rain_mm_h?"),
        (("jitter_s", "jiter_s"), "did you mean jitter_s?"),
        (('clock = "c', 'clok = "c'), "did you mean clock?"),
        (('"gnss_jam"', '"gnss_jmp"'), "did you mean gnss_jump?"),
        (("= 4.0", "= -4.0"), ""),
        (("[sensors.scan2d]", "[sensors]\nscan2d = 3"), ""),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_known_one(change: tuple[str, str], hint: str) -> None:
    """Every preset, table and key."""
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(EQUIPPED.replace(*change, 1), "mine.toml")
    assert caught.value.code in {"EG-X011", "EG-X012"}
    assert caught.value.hint == hint or not hint


def test_every_family_of_sensor_attacks_has_a_drive_on_which_nobody_attacks() -> None:
    """Benign twins point at scenarios with attacks and attack nothing themselves."""
    scenarios = [load_scenario(name) for name in builtin_scenarios()]
    twins = [s for s in scenarios if s.twin_of]
    attacked = {a.sensor for s in scenarios for a in s.sensor_attacks}
    watched = {a.sensor for s in twins for name in s.twin_of for a in load_scenario(name).sensor_attacks}
    assert attacked == watched
    assert not any(s.attacks for s in twins)
    assert {s.world for s in twins} | {"clear"} >= {name for name in WORLD_PRESETS if name != "rough"}


@pytest.mark.parametrize("name", LIDARS2D)
def test_a_planar_lidar_comes_back_through_the_production_source(name: str) -> None:
    """Whole turns at the sensor's rate, without a failed checksum, at the ranges that the world has."""
    model, clock, world = LIDARS2D[name][0], ManualClock(start_ns=NS_PER_S), World(1, 4.0)
    found: list[Scan2d] = []
    with SimRig(world, clock, 1, sensors=("scan2d",), models=SerialModels(scan2d=model)) as rig:
        source = rig.sources["scan2d"]
        source.open()
        while not rig.finished:
            clock.wait_until_ns(clock.now_ns() + 2_000_000)
            sample = source.read(0.0)
            if isinstance(sample, Scan2d):
                found.append(sample)
        assert source.line_stats.checksum_failures == source.line_stats.bytes_skipped == 0
        assert not source.drops
    assert len(found) == 4 * model.rate_hz - 2
    steps = np.diff([s.stamp_ns for s in found])
    assert set(steps.tolist()) == {NS_PER_S // model.rate_hz}
    # The half of a turn before the beam looks ahead is measured by the scan that is centred there.
    third, stamp_s = found[2], (found[2].stamp_ns - NS_PER_S) / NS_PER_S
    truth = scan(world, round(stamp_s * model.rate_hz) / model.rate_hz, model, noise_seed=1)
    seen = (truth.range_m > 0) & (truth.angle_rad > 0.05) & (truth.angle_rad < pi - 0.05)
    angles = third.angle_rad % (2 * pi)
    for angle, range_m in list(zip(truth.angle_rad[seen], truth.range_m[seen], strict=True))[::7]:
        nearest = int(np.abs(angles - angle).argmin())
        assert third.range_m[nearest] == pytest.approx(range_m, abs=0.002)


def test_an_rplidar_is_silent_until_it_is_asked() -> None:
    """The simulated one listens on its line as the real one does, and stops when told to."""
    model, clock = LIDARS2D["rplidar_a1"][0], ManualClock()
    with SimRig(World(1, 6.0), clock, 1, sensors=("scan2d",), models=SerialModels(scan2d=model)) as rig:
        source = rig.sources["scan2d"]
        clock.wait_until_ns(NS_PER_S)
        source.open()
        clock.wait_until_ns(2 * NS_PER_S)
        assert isinstance(source.read(0.0), Scan2d)
        source.close()
        clock.wait_until_ns(4 * NS_PER_S)
        sent = source.line_stats.bytes_received
        assert sent > 0


def test_bytes_on_a_line_keep_their_order_whatever_the_jitter() -> None:
    """A serial line cannot overtake itself; values may."""
    model = ClockModel(jitter_s=0.02)
    line, values = SensorClock(model, 1, "imu"), SensorClock(model, 1, "imu")
    on_line = [line.arrivals(k, k * 10_000_000, size=40)[0] for k in range(500)]
    free = [values.arrivals(k, k * 10_000_000)[0] for k in range(500)]
    assert on_line == sorted(on_line)
    assert free != sorted(free)
    assert all(late >= early for late, early in zip(on_line, free, strict=True))


def test_a_queue_brakes_stands_and_sets_off_without_a_jump() -> None:
    """Speed is the way's derivative and acceleration the speed's; the car ahead stops ahead."""
    world, h = World(2, 30.0, Conditions(queue=True)), 1e-4
    for t in np.arange(0.5, 29.5, 0.37):
        early, now, late = (world.ego(float(x)) for x in (t - h, t, t + h))
        assert (world.arc_of_ego(t + h) - world.arc_of_ego(t - h)) / (2 * h) == pytest.approx(
            now.speed_m_s / (1.0 + 1.75 * now.curvature_1_m / (1.0 - 1.75 * now.curvature_1_m)), abs=0.05
        )
        assert (late.speed_m_s - early.speed_m_s) / (2 * h) == pytest.approx(now.accel_forward_m_s2, abs=0.02)
        assert abs(now.accel_forward_m_s2) < 6.0
    standing = [world.ego(t) for t in (QUEUE_S[1], QUEUE_S[2])]
    assert standing[0].speed_m_s == standing[1].speed_m_s == 0.0
    assert standing[0].east_m == standing[1].east_m
    assert World(2, 30.0).ego(5.0) == world.ego(5.0)
    ego = world.ego(14.0)
    ahead = min(
        (o.x_m - ego.east_m) * np.cos(ego.yaw_rad) + (o.y_m - ego.north_m) * np.sin(ego.yaw_rad)
        for o in world.objects(14.0)
        if o.label == "car" and o.speed_m_s == 0.0 and abs(
            -(o.x_m - ego.east_m) * np.sin(ego.yaw_rad) + (o.y_m - ego.north_m) * np.cos(ego.yaw_rad)
        ) < 1.5 and (o.x_m - ego.east_m) * np.cos(ego.yaw_rad) + (o.y_m - ego.north_m) * np.sin(ego.yaw_rad) > 0
    )  # fmt: skip
    assert 8.0 < ahead < 45.0


def test_an_unattacked_scenario_is_the_same_drive() -> None:
    """World, sensors and length stay; attacks and what was expected of them go."""
    scenario = load_scenario("gnss_jump")
    clean = scenario.unattacked
    assert isinstance(clean, Scenario)
    assert (clean.attacks, clean.attack_expect) == ((), ())
    assert (clean.sensors, clean.duration_s, clean.world) == (scenario.sensors, scenario.duration_s, scenario.world)


def test_a_burst_soon_after_the_read_before_gets_stamps_of_its_own() -> None:
    """Jitter brings several readings in one read, shortly after another: none may share the stamp of the one before."""
    before_ns, now_ns = 1_000_000_000, 1_005_000_000
    burst = [ImuSample(now_ns, (0.0, 0.0, 0.0), (0.0, 0.0, 9.81), "imu", k * 10_000_000) for k in range(4)]
    for count in (1, 2, 3, 4):
        stamps = [sample.stamp_ns for sample in spread(burst[:count], before_ns)]
        assert before_ns < stamps[0]
        assert stamps == sorted(set(stamps))
        assert stamps[-1] == now_ns
