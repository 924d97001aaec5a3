"""Memory of kernels that is kept between calls: what is lent stays its holder's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeguard.checks.quantiles import quantile_of
from edgeguard.kernels.projection import depth_image
from edgeguard.kernels.scratch import Scratch
from edgeguard.kernels.sweeps import prepare_sweep


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30), st.booleans()), max_size=60))
def test_what_somebody_holds_is_never_lent_again(steps: list[tuple[int, int, bool]]) -> None:
    """Arrays are kept and let go in any order, some by a view of them alone; each keeps the number written into it."""
    scratch = Scratch()
    kept: list[tuple[int, NDArray[np.float64]]] = []
    for number, (size, drop, view) in enumerate(steps):
        lent = scratch.lend("a", (size, 2), np.float64)
        assert lent.shape == (size, 2)
        assert lent.flags.c_contiguous
        assert lent.flags.writeable
        lent[:] = number
        kept.append((number, lent[::2, 1] if view else lent))
        del lent
        if drop < len(kept):
            del kept[drop]
        for value, array in kept:
            assert (array == value).all()


def test_what_was_let_go_is_lent_again() -> None:
    """A result of each frame costs no new memory once nobody holds the last one."""
    scratch = Scratch()
    first = scratch.lend("a", (100, 10), np.float32)
    address = first.ctypes.data
    second = scratch.lend("a", (100, 10), np.float32)
    assert second.ctypes.data != address
    del first
    assert scratch.lend("a", (10, 100), np.float32).ctypes.data == address


def test_a_kept_result_of_a_frame_is_not_overwritten_by_the_next() -> None:
    """Depth images and prepared sweeps of earlier frames stay what they were, however many are kept."""
    rng = np.random.default_rng(5)
    P = np.array([[50.0, 0.0, 32.0, 0.0], [0.0, 50.0, 24.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    kept = []
    for k in range(20):
        xyz = rng.uniform(1.0 + k, 2.0 + k, (500, 3)).astype(np.float32)
        depth, sweep = depth_image(xyz, P, 64, 48)[0], prepare_sweep(xyz, 1.7)
        kept.append((depth, depth.copy(), sweep, sweep.image.copy(), sweep.range_m.copy(), sweep.height_m.copy()))
    for depth, was, sweep, image, range_m, height_m in kept:
        np.testing.assert_array_equal(depth, was)
        np.testing.assert_array_equal(sweep.image, image)
        np.testing.assert_array_equal(sweep.range_m, range_m)
        np.testing.assert_array_equal(sweep.height_m, height_m)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0.0, 1.0))
def test_a_quantile_of_a_few_values_is_that_of_numpy(values: list[float], share: float) -> None:
    """Between the two values next to it, to rounding."""
    assert np.isclose(quantile_of(values, share), np.quantile(values, share), rtol=1e-9, atol=1e-6)
