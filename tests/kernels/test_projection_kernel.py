"""Projection: the cull in single precision loses nothing that double precision would keep."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.kernels import _reference as twin
from edgeguard.kernels.projection import depth_image, project_points

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.floats(50.0, 20_000.0), st.floats(1.0, 3_000.0), st.integers(1, 3_000))
def test_what_is_inside_is_what_double_precision_says(seed: int, focal: float, reach_m: float, count: int) -> None:
    """Any lens and mount; points thrown onto and just beside the image's border, some absurd, some not finite."""
    rng = np.random.default_rng(seed)
    width, height = int(rng.integers(1, 400)), int(rng.integers(1, 300))
    K = np.array([[focal, 0, rng.uniform(0, width)], [0, focal, rng.uniform(0, height)], [0, 0, 1]])
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    P = np.ascontiguousarray(K @ np.column_stack((turn, rng.normal(0, 2, 3))))
    # pixels within two of the border or anywhere, at any depth, back into the lidar's frame
    u = np.where(rng.random(count) < 0.5, rng.choice((-0.5, width - 0.5), count) + rng.normal(0, 1e-3, count),
                 rng.uniform(-2, width + 2, count))  # fmt: skip
    v = rng.uniform(-2, height + 2, count)
    w = rng.uniform(0.0, reach_m, count)
    xyz = np.linalg.solve(P[:, :3], np.stack((u * w, v * w, w)) - P[:, 3:]).T.astype(np.float32)
    xyz[rng.random(count) < 0.05] *= np.float32(1e12)
    xyz[rng.random(count) < 0.02] = rng.choice((np.nan, np.inf, -np.inf, 1e38))

    got = project_points(xyz, P, width, height)

    with np.errstate(all="ignore"):
        want = twin.project_points(xyz, P, width, height)
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    depth, inside = depth_image(xyz, P, width, height)
    np.testing.assert_array_equal(depth, want[0])
    assert inside == want[3]
