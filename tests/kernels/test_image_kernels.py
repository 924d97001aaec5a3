"""Image kernels agree with their NumPy twins and with the definitions they are named after."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.kernels import _reference_images as twin
from edgeguard.kernels.image_noise import entropy_weights, entropy_windows, second_differences
from edgeguard.kernels.image_tensor import encode_levels, fill_pixels, fill_planes, thermometer_table
from edgeguard.kernels.total_variation import chambolle

GAIN = np.array([0.017, 0.018, 1.0], dtype=np.float32)
BIAS = np.array([-2.1, 0.0, 3.5], dtype=np.float32)
EDGE = np.array([-1.0, 0.5, 2.0], dtype=np.float32)


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth random picture with noise, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    plane = 120 + 60 * np.sin(x / 9.0 + seed)[..., None] * np.cos(y / 13.0)[..., None] * np.array([1.0, 0.7, -0.6])
    return np.clip(plane + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


@given(
    size=st.tuples(st.integers(1, 23), st.integers(1, 23)),
    corner=st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
    swap=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_tensor_equals_its_twin_to_the_bit_wherever_the_frame_lies(
    size: tuple[int, int], corner: tuple[int, int], swap: bool, seed: int
) -> None:
    """Frames larger, smaller, shifted and wholly outside of the input; both layouts."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    expected = twin.tensor_planes(pixels, corner, GAIN, BIAS, EDGE, swap=swap, size=(17, 11))
    planes = np.full((3, 11, 17), np.nan, dtype=np.float32)
    fill_planes(pixels, corner[0], corner[1], GAIN, BIAS, EDGE, swap, planes)
    np.testing.assert_array_equal(planes, expected)
    interleaved = np.full((11, 17, 3), np.nan, dtype=np.float32)
    fill_pixels(pixels, corner[0], corner[1], GAIN, BIAS, EDGE, swap, interleaved)
    np.testing.assert_array_equal(interleaved, expected.transpose(1, 2, 0))


def test_every_value_becomes_its_vector() -> None:
    """A table look-up per value and channel."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    table = rng.random((256, 4)).astype(np.float32)
    out = np.empty((5, 7, 3, 4), dtype=np.float32)
    encode_levels(pixels, table, out)
    np.testing.assert_array_equal(out, table[pixels])


def test_a_thermometer_fills_from_the_first_level_with_the_value() -> None:
    """Codes as published: black has one step, white has all, and no step is lost on the way up."""
    table = thermometer_table(10)
    assert [int(table[v].sum()) for v in (0, 10, 100, 128, 200, 255)] == [1, 1, 4, 6, 8, 10]
    assert (np.diff(table.sum(axis=1)) >= 0).all()
    assert (np.diff(table, axis=1) <= 0).all()


@pytest.mark.parametrize(("height", "width", "block"), [(48, 64, 16), (33, 50, 16), (9, 8, 3)])
def test_second_differences_equal_their_twin(height: int, width: int, block: int) -> None:
    """Blocks at the border and sizes that no block divides."""
    pixels = picture(2, height, width)
    got = np.empty((height // block, width // block, 3), dtype=np.float32)
    second_differences(pixels, block, np.empty(width * 3, np.float32), np.empty(width * 3, np.float32), got)
    np.testing.assert_allclose(got, twin.second_differences(pixels, block), rtol=1e-6)


def test_white_noise_has_the_second_difference_that_theory_gives() -> None:
    """Mean |second difference| of white noise of standard deviation s is 6 s sqrt(2 / pi) (Immerkaer, 1996)."""
    rng = np.random.default_rng(3)
    pixels = np.clip(np.rint(rng.normal(128, 5.0, (320, 320, 3))), 0, 255).astype(np.uint8)
    got = np.empty((20, 20, 3), dtype=np.float32)
    second_differences(pixels, 16, np.empty(960, np.float32), np.empty(960, np.float32), got)
    sigma = float(got.mean()) / 6.0 * np.sqrt(np.pi / 2.0)
    assert sigma == pytest.approx(np.sqrt(5.0**2 + 1.0 / 12.0), rel=0.02)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (40, 67), (64, 32)])
def test_entropy_equals_its_definition(height: int, width: int) -> None:
    """Every window's histogram, also of a flat and of a uniformly random picture."""
    rng = np.random.default_rng(4)
    for grey in (picture(5, height, width)[:, :, 0], np.zeros((height, width), np.uint8)):
        cells = np.empty((height // 8, width // 8, 32), dtype=np.uint16)
        out = np.empty((height // 8 - 2, width // 8 - 2), dtype=np.float32)
        entropy_windows(np.ascontiguousarray(grey), cells, entropy_weights(), out)
        np.testing.assert_allclose(out, twin.entropy_windows(grey), atol=1e-5)
    random = rng.integers(0, 256, (height, width)).astype(np.uint8)
    entropy_windows(random, cells, entropy_weights(), out)
    assert out.min() > 4.8  # of at most 5 bits


@pytest.mark.parametrize(("shape", "weight"), [((37, 21, 3), 0.06), ((16, 40, 1), 0.3), ((8, 8, 3), 0.01)])
def test_total_variation_equals_its_twin(shape: tuple[int, int, int], weight: float) -> None:
    """float32 against float64: the same level but for rounding."""
    pixels = np.ascontiguousarray(picture(6, shape[0], shape[1])[:, :, : shape[2]])
    n = shape[1] * shape[2]
    f, px, py = (np.empty((shape[0], n), np.float32) for _ in range(3))
    out = np.empty_like(pixels)
    chambolle(pixels, weight, 25, f, px, py, np.empty((2, n), np.float32), out)
    expected = np.clip(twin.chambolle(pixels, weight, 25), 0, 255)
    assert np.abs(out - expected).max() <= 0.51


def test_total_variation_falls_with_the_weight() -> None:
    """The sum of absolute gradients shrinks as lambda grows, and the mean stays."""
    pixels = picture(7, 48, 48)
    sums = []
    for weight in (0.001, 0.05, 0.2):
        out = np.empty_like(pixels)
        planes = [np.empty((48, 144), np.float32) for _ in range(3)]
        chambolle(pixels, weight, 60, *planes, np.empty((2, 144), np.float32), out)
        sums.append(float(np.abs(np.diff(out.astype(float), axis=0)).sum()))
        assert out.mean() == pytest.approx(pixels.mean(), abs=0.6)
    assert sums[0] > 2 * sums[1]
    assert sums[1] > 1.1 * sums[2]
