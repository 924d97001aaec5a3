"""Kernels that were made faster: directions in single precision, holes in one pass, places of edges kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray

from edgeguard.kernels import _reference_whereabouts as twin
from edgeguard.kernels.angles import fast_atan2_single
from edgeguard.kernels.edges import locate, look_up, look_up_located
from edgeguard.kernels.ranges import COLUMNS, EL_OFFSET, EL_SCALE, ROWS, to_spherical
from edgeguard.kernels.whereabouts import least_returns


@njit("void(f4[::1], f4[::1], f4[::1])")
def _angles(y: NDArray[np.float32], x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    for i in range(out.shape[0]):
        out[i] = fast_atan2_single(y[i], x[i])


def test_angles_in_single_precision_are_within_a_millionth() -> None:
    """In all directions, along the axes and diagonals, and for lengths from a millimetre to a kilometre."""
    rng = np.random.default_rng(11)
    a = np.concatenate((rng.uniform(-np.pi, np.pi, 200_000), np.arange(-8, 9) * np.pi / 8))
    r = np.exp(rng.uniform(np.log(1e-3), np.log(1e3), a.size))
    x, y = (r * np.cos(a)).astype(np.float32), (r * np.sin(a)).astype(np.float32)
    out = np.empty(a.size, np.float32)
    _angles(y, x, out)
    off = np.abs(out.astype(np.float64) - np.arctan2(y.astype(np.float64), x.astype(np.float64)))
    assert np.minimum(off, 2 * np.pi - off).max() < 1e-6


def test_only_what_lies_on_a_border_of_cells_may_fall_into_the_next() -> None:
    """Against double precision: no return is in another row unless it is within a ten-thousandth of one."""
    rng = np.random.default_rng(12)
    xyz = rng.normal(0.0, (30.0, 30.0, 3.0), (100_000, 3)).astype(np.float32)
    _, row, col = to_spherical(xyz)
    p = xyz.astype(np.float64)
    k = np.arctan2(p[:, 2], np.hypot(p[:, 0], p[:, 1])) * EL_SCALE + EL_OFFSET
    c = (np.arctan2(p[:, 1], p[:, 0]) + np.pi) * COLUMNS / (2 * np.pi)
    known = row >= 0
    assert known.sum() > 90_000
    for exact, got in ((k[known], row[known]), (c[known], col[known])):
        moved = np.floor(exact) != got
        assert moved.sum() < 100
        assert (np.abs(exact - np.round(exact))[moved] < 1e-4).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(0, 40))
def test_the_emptiest_place_of_a_piece_is_that_of_its_twin(seed: int, cells: int, reach: int) -> None:
    """For pieces anywhere around the circle, across the seam too."""
    rng = np.random.default_rng(seed)
    count = rng.integers(0, 256, (ROWS, COLUMNS)).astype(np.uint8)
    row = rng.integers(0, ROWS, cells)
    column = rng.integers(-COLUMNS // 2, 3 * COLUMNS // 2, cells)
    assert least_returns(count, row, column, reach) == twin.least_returns(count, row, column, reach)


def test_edges_whose_places_are_known_find_what_they_find_when_asked_anew() -> None:
    """To the bit, inside and outside of the picture."""
    rng = np.random.default_rng(13)
    edges = np.column_stack((rng.normal(0, 5, (400, 2)), rng.uniform(0.5, 40, 400), rng.integers(0, 2, 400)))
    pose = np.eye(4)[:3]
    lens = np.array([300.0, 300.0, 160.0, 120.0, 0.01, -0.002, 0.001, 0.0, 0.0])
    field = rng.random((2, 120, 160)).astype(np.float32)
    points = edges.astype(np.float32)
    got = look_up_located(locate(points, pose, lens, 0.5, (120, 160)), field)
    expected = look_up(points, field, pose[None].copy(), lens, 0.5)[0]
    assert 0 < np.isnan(got).sum() < got.size
    np.testing.assert_array_equal(got, expected)
