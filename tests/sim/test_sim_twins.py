"""The kernels of shading, blur, culling, hills and echoes against their plain NumPy twins, in every world preset."""

from __future__ import annotations

import numpy as np
import pytest

from edgeguard.sim import camera as sim_camera
from edgeguard.sim.camera import CameraModel
from edgeguard.sim.kernels import _reference_shade as reference
from edgeguard.sim.kernels.shade import shade
from edgeguard.sim.weather import WORLD_PRESETS
from edgeguard.sim.world import World

# Cut out of a VGA picture, so that a pixel is as narrow as there: horizon, near road and kerb, a facade.
CUTS = [CameraModel(96, 64, 420.0, cx, cy) for cx, cy in ((47.5, 31.5), (200.0, -30.0), (-160.0, 90.0))]


@pytest.mark.parametrize("name", list(WORLD_PRESETS))
def test_shading_agrees_with_its_twin(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a digital number at full exposure, but for pixels on an edge of a texture (one in a hundred) or of a lamp."""
    world, caught = World(3, 20.0, WORLD_PRESETS[name][0]), []

    def watch(*arguments: object) -> None:
        shade(*arguments)
        caught.append(arguments)

    monkeypatch.setattr(sim_camera, "shade", watch)
    for time_s, cut in zip((4.0, 9.0, 9.0), CUTS, strict=True):
        sim_camera.render(world, time_s, cut)
        rx, ry, rz, starts, depth, hit, shadow, values, velocity, codes, table, start_m, _, pose, sun, focal, light = (
            caught[-1][:17]
        )
        lamps, found = caught[-1][17], np.empty((3, *hit.shape), np.float32)
        shade(*caught[-1][:18], found)  # what the camera was given has been worked on since
        expected = reference.shade(
            (rx, ry, rz), starts, depth, hit, shadow, (values, velocity, codes), (table, start_m), pose, sun, focal,
            light, lamps,
        )  # fmt: skip
        difference = np.abs(found - expected).max(axis=0)
        assert np.isfinite(found).all()
        assert np.quantile(difference, 0.98) < 0.5, (time_s, np.quantile(difference, [0.5, 0.9, 0.98, 1.0]))
        assert difference.mean() < 0.25
        assert expected.std() > 5.0
