"""Road users as arrays: the same places and solids as one by one."""

from __future__ import annotations

from dataclasses import fields
from math import pi

import numpy as np
import pytest

from edgeguard.errors import ScenarioError
from edgeguard.sim.actors import add_actor
from edgeguard.sim.inertial import Imu, ImuModel
from edgeguard.sim.primitives import PrimitiveList
from edgeguard.sim.traffic import Traffic
from edgeguard.sim.weather import WORLD_PRESETS
from edgeguard.sim.world import World


@pytest.mark.parametrize(("name", "time_s"), [("clear", 7.0), ("busy", 12.3), ("queue", 14.0)])
def test_a_crowd_at_once_is_its_members_one_by_one(name: str, time_s: float) -> None:
    """Every solid of every moving road user is where `add_actor` puts it, and moves with its owner."""
    world = World(4, 30.0, WORLD_PRESETS[name][0])
    crowd: Traffic = world._moving
    found = crowd.primitives(time_s)
    expected, velocity = PrimitiveList(), []
    for obj in world.objects(time_s):
        number = obj.number - len(world._still.actors)
        if number < 0:
            continue
        actor = crowd.actors[number]
        stride = actor.phase_rad + 2.2 * abs(actor.speed_m_s) * time_s
        add_actor(expected, actor.look, (obj.x_m, obj.y_m, obj.yaw_rad), stride, obj.number)
        speed = obj.speed_m_s * np.array([np.cos(obj.yaw_rad), np.sin(obj.yaw_rad)])
        velocity += [speed] * (len(expected.rows) - len(velocity))
    wanted = expected.arrays()
    assert len(wanted.codes) > 100
    np.testing.assert_array_equal(found.codes, wanted.codes)
    np.testing.assert_allclose(found.values, wanted.values, rtol=0.0, atol=1e-9)
    np.testing.assert_allclose(found.velocities(), np.array(velocity), rtol=0.0, atol=1e-12)


def test_places_change_as_fast_as_they_say() -> None:
    """Speeds are the derivatives of places, also of who crosses the road."""
    world = World(4, 30.0, WORLD_PRESETS["busy"][0])
    step_s = 1e-4
    walked = 0
    for time_s in (5.0, 12.3, 20.1):
        at, after = world._moving.places(time_s), world._moving.places(time_s + step_s)
        moved = np.hypot(after.x_m - at.x_m, after.y_m - at.y_m) / step_s
        straight = np.array([a.offset_m == 0.0 or a.crosses_at_s < np.inf for a in world._moving.actors])
        np.testing.assert_allclose(moved[straight], at.speed_m_s[straight], atol=0.02)
        walked += int((at.speed_m_s[straight] == 1.6).sum())
        # Beside the centreline a curve is longer or shorter, by a tenth at most.
        np.testing.assert_allclose(moved[at.on_road], at.speed_m_s[at.on_road], rtol=0.2, atol=0.02)
    assert walked > 0


def test_many_points_of_a_road_are_those_found_one_by_one() -> None:
    """`places` is `place` of each."""
    road = World(9, 30.0).road
    rng = np.random.default_rng(0)
    arc, offset = rng.uniform(road.start_m, road.end_m - 1.0, 200), rng.uniform(-12.0, 12.0, 200)
    x, y, heading = road.places(arc, offset)
    one_by_one = np.array([road.place(float(s), float(d)) for s, d in zip(arc, offset, strict=True)])
    np.testing.assert_allclose(np.stack([x, y, heading], axis=1), one_by_one, rtol=0.0, atol=1e-10)
    assert np.ptp(heading) < 2 * pi


@pytest.mark.parametrize("name", ["clear", "queue", "hills", "rough"])
def test_many_moments_of_a_drive_are_those_asked_for_one_by_one(name: str) -> None:
    """`motion` is `ego` at each time, whatever the world."""
    world = World(6, 30.0, WORLD_PRESETS[name][0])
    times = np.linspace(0.0, 30.0, 91)
    motion, one_by_one = world.motion(times), [world.ego(float(t)) for t in times]
    for field in fields(motion):
        expected = np.array([getattr(ego, field.name) for ego in one_by_one])
        np.testing.assert_allclose(getattr(motion, field.name), expected, rtol=1e-9, atol=1e-8, err_msg=field.name)
    assert np.ptp(motion.accel_forward_m_s2) > 1.0


def test_inertial_samples_hang_on_nothing_asked_before() -> None:
    """Backwards, once more, and across the blocks they are made in: the same samples; outside the drive: refused."""
    world = World(6, 5.0, WORLD_PRESETS["rough"][0])
    model = ImuModel(rate_hz=200, misalignment_rad=0.01, scale_sigma=0.01, g_sensitivity=1e-3, accel_step_m_s2=1e-3)
    forwards = [Imu(world, 3, model).sample(k) for k in range(1001)]
    imu = Imu(world, 3, model)
    assert [imu.sample(k) for k in range(1000, -1, -1)] == forwards[::-1]
    assert [imu.sample(k) for k in (63, 64, 63, 128)] == [forwards[k] for k in (63, 64, 63, 128)]
    for outside in (-1, 1001):
        with pytest.raises(ScenarioError, match="EG-X002"):
            imu.sample(outside)
