"""Road users as arrays: the same places and solids as one by one."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest

from edgeguard.sim.actors import add_actor
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
