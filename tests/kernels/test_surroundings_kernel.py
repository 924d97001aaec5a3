"""What the cells around a place say equals its twin, and means what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.kernels import _reference_surroundings as twin
from edgeguard.kernels.ranges import (
    HIDDEN,
    HIT,
    SEEN_THROUGH,
    UNKNOWN,
    ask_surroundings,
    ask_sweep,
    find_seen_through,
    look_around,
    range_image,
    to_spherical,
)
from edgeguard.kernels.sweeps import choose_near


def _image(seed: int, points: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    far = (rng.standard_normal((points, 3)) * (1, 1, 0.4) * rng.uniform(2, 40, (points, 1))).astype(np.float32)
    y, z = np.meshgrid(np.linspace(-4, 4, 300), np.linspace(-1.5, 1.5, 150))
    wall = np.stack((np.full(y.size, 5.0), y.ravel(), z.ravel()), axis=1).astype(np.float32)
    return range_image(*to_spherical(np.concatenate((far, wall))))


def _pose(forward: float, yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0, forward], [s, c, 0, 0.1], [0, 0, 1, -0.1], [0, 0, 0, 1.0]])


def _places(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    places = (rng.standard_normal((count, 3)) * (1, 1, 0.5) * rng.uniform(1, 60, (count, 1))).astype(np.float32)
    places[::50] = np.nan
    return places


@given(st.integers(0, 2**31), st.integers(0, 20_000))
def test_the_cells_around_each_cell_equal_their_twin(seed: int, points: int) -> None:
    """Nearest, farthest and number, across the seam and at the image's edges."""
    image = _image(seed, points)
    got = look_around(image)
    low, high, count = twin.look_around(image)

    np.testing.assert_array_equal(got.low, low)
    np.testing.assert_array_equal(got.high, high)
    np.testing.assert_array_equal(got.count, count)


@pytest.mark.parametrize("whole", [False, True])
def test_places_are_judged_as_by_the_twin(whole: bool) -> None:
    """Every answer is among the results; what is found seen through is what is dense and all beyond."""
    image, T, places = _image(1, 20_000), _pose(0.7, 0.1), _places(2, 2_500)
    around = look_around(image)

    got = ask_surroundings(places, T, around, 0.5, 0.02, whole=whole)

    np.testing.assert_array_equal(got, twin.ask_surroundings(places, T, image, 0.5, 0.02, whole=whole))
    assert set(got.tolist()) == {SEEN_THROUGH, HIT, HIDDEN, UNKNOWN}
    through = find_seen_through(places, T, around, 0.5, 0.02)
    np.testing.assert_array_equal(through, twin.find_seen_through(places, T, image, 0.5, 0.02))
    assert 0 < through.size < np.count_nonzero(got == SEEN_THROUGH)


def test_inside_the_image_the_answers_are_those_of_asking_the_sweep() -> None:
    """One question asked of a prepared and of a plain image."""
    image, T, places = _image(3, 20_000), _pose(-1.0, -0.05), _places(4, 9_000)
    plain, _ = ask_sweep(places, T, image, 0.3, 0.015)
    prepared = ask_surroundings(places, T, look_around(image), 0.3, 0.015)

    inside = prepared != UNKNOWN
    np.testing.assert_array_equal(prepared[inside], plain[inside])
    assert inside.sum() > 1_000


def test_a_surface_seen_at_a_flat_angle_is_not_wholly_at_any_place_on_it() -> None:
    """Some cell is always near a place on it; all of them only on a surface that is faced."""
    x, z = np.meshgrid(np.linspace(3, 30, 4000), np.linspace(-1.5, 0.5, 60))
    side = np.stack((x.ravel(), np.full(x.size, 1.0), z.ravel()), axis=1).astype(np.float32)
    y, z = np.meshgrid(np.linspace(-6, 6, 900), np.linspace(-1.5, 0.5, 60))
    faced = np.stack((np.full(y.size, -10.0), y.ravel(), z.ravel()), axis=1).astype(np.float32)
    around = look_around(range_image(*to_spherical(np.concatenate((side, faced)))))
    places = np.array([[20.0, 1.0, -0.4], [-10.0, 0.5, -0.4]], np.float32)

    assert ask_surroundings(places, np.eye(4), around, 0.3, 0.015).tolist() == [HIT, HIT]
    assert ask_surroundings(places, np.eye(4), around, 0.3, 0.015, whole=True).tolist() == [HIDDEN, HIT]


@given(st.integers(0, 2**31), st.floats(0.0, 20.0))
def test_points_near_either_of_two_places_are_those_of_the_twin(seed: int, reach_m: float) -> None:
    """Also for no reach at all, and for points that are nowhere."""
    places = _places(seed, 500)

    got = choose_near(places, (3.0, -2.0), (-8.0, 1.0), reach_m)

    np.testing.assert_array_equal(got, twin.choose_near(places, (3.0, -2.0), (-8.0, 1.0), reach_m))
