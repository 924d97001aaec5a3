"""The street and the drive: repeatable, smooth, and turning both ways."""

from __future__ import annotations

from math import hypot

import numpy as np
import pytest

from edgeguard.errors import ScenarioError
from edgeguard.sim.actors import LABELS
from edgeguard.sim.world import World


def test_equal_seeds_give_equal_worlds_and_others_differ() -> None:
    """A world is a function of its seed."""
    first, again, other = World(4), World(4), World(5)
    assert first.ego(17.3) == again.ego(17.3)
    assert first.objects(9.0) == again.objects(9.0)
    np.testing.assert_array_equal(first.primitives(9.0).values, again.primitives(9.0).values)
    assert first.ego(17.3) != other.ego(17.3)


@pytest.mark.parametrize("seed", range(6))
def test_the_drive_changes_speed_and_turns_both_ways(seed: int) -> None:
    """Every seed makes speed and yaw rate observable within 30 seconds, at accelerations a car has."""
    world = World(seed)
    drive = [world.ego(t) for t in np.arange(0.0, 60.0, 0.25)]
    speeds = [e.speed_m_s for e in drive]
    half_minute = [e.yaw_rate_rad_s for e in drive[:120]]
    assert min(speeds) > 4.5
    assert max(speeds) < 14.5
    assert max(speeds) - min(speeds) > 4.0
    assert max(half_minute) > 0.04
    assert min(half_minute) < -0.04
    assert max(hypot(e.accel_forward_m_s2, e.accel_left_m_s2) for e in drive) < 4.5


def test_rates_are_the_derivatives_of_the_path() -> None:
    """Speed, yaw rate and accelerations agree with differences of position and heading."""
    world, step = World(2), 1e-4
    for t in (3.0, 12.5, 41.0):
        before, now, after = world.ego(t - step), world.ego(t), world.ego(t + step)
        v_east = (after.east_m - before.east_m) / (2 * step)
        v_north = (after.north_m - before.north_m) / (2 * step)
        assert hypot(v_east, v_north) == pytest.approx(now.speed_m_s, abs=1e-4)
        assert np.arctan2(v_north, v_east) == pytest.approx(np.angle(np.exp(1j * now.yaw_rad)), abs=1e-4)
        assert (after.yaw_rad - before.yaw_rad) / (2 * step) == pytest.approx(now.yaw_rate_rad_s, abs=1e-6)
        assert (after.speed_m_s - before.speed_m_s) / (2 * step) == pytest.approx(now.accel_forward_m_s2, abs=1e-5)
        assert now.accel_left_m_s2 == pytest.approx(now.speed_m_s * now.yaw_rate_rad_s)


def test_the_ego_vehicle_meets_nobody_bodily() -> None:
    """No road user's footprint comes within the vehicle's half-width and length: the drive is collision-free."""
    for seed in range(4):
        world = World(seed, 40.0)
        for t in np.arange(0.0, 40.0, 0.5):
            ego = world.ego(t)
            for other in world.objects(t):
                dx, dy = other.x_m - ego.east_m, other.y_m - ego.north_m
                ahead = dx * np.cos(ego.yaw_rad) + dy * np.sin(ego.yaw_rad) - 1.4
                left = -dx * np.sin(ego.yaw_rad) + dy * np.cos(ego.yaw_rad)
                clear_ahead = abs(ahead) - 2.2 - other.size_m[0] / 2
                clear_aside = abs(left) - 0.9 - other.size_m[1] / 2
                assert max(clear_ahead, clear_aside) > 0.0, (seed, t, other)


def test_a_street_has_all_kinds_of_road_users() -> None:
    """Each label occurs, so that a detector can learn each."""
    labels = {o.label for o in World(1).objects(0.0)}
    assert labels == set(LABELS)


def test_times_outside_the_drive_and_absurd_durations_are_refused() -> None:
    """A question about no time is an error, not an extrapolation."""
    world = World(0, 10.0)
    for t in (-0.01, 10.01, float("nan")):
        with pytest.raises(ScenarioError) as caught:
            world.ego(t)
        assert caught.value.code == "EG-X002"
    for duration in (0.0, 601.0, float("nan")):
        with pytest.raises(ScenarioError) as caught:
            World(0, duration)
        assert caught.value.code == "EG-X001"
