"""Split beams and the bounds of solids in a sweep against their plain NumPy twins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeguard.sim import lidar as sim_lidar
from edgeguard.sim.kernels import _reference_beams as reference
from edgeguard.sim.kernels import echo
from edgeguard.sim.kernels.bounds import spinning_bounds
from edgeguard.sim.lines import sensor_pose
from edgeguard.sim.presets import LIDARS
from edgeguard.sim.primitives import corners
from edgeguard.sim.weather import WORLD_PRESETS
from edgeguard.sim.world import World


@pytest.mark.parametrize("name", ["clear", "busy", "tunnel"])
def test_split_beams_agree_with_their_twin(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same beams lie on two surfaces, with the same share on the second, at the same distance to a millimetre."""
    world, caught, split = World(3, 20.0, WORLD_PRESETS[name][0]), [], echo.split

    def watch(*arguments: np.ndarray) -> None:
        caught.append(tuple(a.copy() if isinstance(a, np.ndarray) else a for a in arguments[:11]))
        split(*arguments)
        caught.append(tuple(a.copy() for a in (arguments[4], arguments[11], arguments[12])))

    monkeypatch.setattr(echo, "split", watch)
    sim_lidar.view(world, 7.0, replace(LIDARS["vlp16"][0], columns=400, beam_rad=0.01))
    (dx, dy, dz, starts, before, hit, values, velocity, codes, beam_rad, pulse_m), found = caught
    scene = (values, velocity, codes)
    expected = reference.split((dx, dy, dz), starts, (before, hit), scene, beam_rad, pulse_m)
    second, share = found[1:]
    assert ((share > 0) != (expected[2] > 0)).mean() < 1e-3  # a ray that grazes an edge, in the last digit
    both = (share > 0) & (expected[2] > 0)
    assert both.sum() > 20
    np.testing.assert_allclose(share[both], expected[2][both], atol=0.2 + 1e-6)
    assert np.isclose(share[both], expected[2][both], atol=1e-6).mean() > 0.98
    np.testing.assert_allclose(second[both], expected[1][both], rtol=1e-3)
    mixed = expected[0] != before
    assert mixed.any()
    assert np.mean(np.abs(found[0][mixed] - expected[0][mixed]) < 1e-3) > 0.95
    np.testing.assert_array_equal(found[0][~mixed & (share == 0)], before[~mixed & (share == 0)])


@pytest.mark.parametrize("motion", [(0.0, 0.0, 0.0, 0.0), (12.0, 0.3, 0.2, 0.4), (-8.0, 0.0, -0.3, -0.6)])
def test_a_turning_sweep_meets_no_solid_outside_its_bounds(motion: tuple[float, float, float, float]) -> None:
    """All corners of all solids, wherever the beam passes them; and the bounds leave out most of the sky."""
    world, period_s = World(3, 20.0, WORLD_PRESETS["busy"][0]), 0.1
    scene = world.primitives(6.0, 80.0).seen_from(*sensor_pose(world.ego(6.0), (1.4, 0.0, 1.7)), 80.0)
    values, velocity = scene.values, scene.velocities()
    found = spinning_bounds(values, velocity, np.array(motion), period_s, 0.0)
    points, passed = corners(values), 0
    for n in range(len(values)):
        azimuth, elevation, plan = reference.seen_in_turn(points[n], velocity[n], np.array(motion), period_s)
        known = np.isfinite(azimuth)
        passed += int(known.sum())
        low, high, bottom, top, nearest = found[n]
        if high - low < 2.0 * np.pi - 1e-6:
            turned = (azimuth[known] - 0.5 * (low + high) + np.pi) % (2.0 * np.pi) - np.pi
            assert (np.abs(turned) <= 0.5 * (high - low) + 1e-3).all()
        assert (elevation[known] <= top + 1e-3).all()
        assert (elevation[known] >= bottom - 1e-3).all()
        assert (plan[known] >= nearest - 1e-3).all()
    assert passed > 6 * len(values)
    assert np.median(found[:, 1] - found[:, 0]) < 0.5
