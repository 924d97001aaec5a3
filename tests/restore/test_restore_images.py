"""ImpulseMedian: repairs impulses, leaves everything else alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeguard.errors import ConfigError
from edgeguard.restore.impulse import MIN_SHARE, ImpulseMedian, find_impulses
from edgeguard.types import Image, PointCloud


def street(height: int = 120, width: int = 200) -> NDArray[np.uint8]:
    """Smooth gradients, saturated sky, a black tunnel mouth and hard edges: what a clean frame may hold."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([(x * 255 // width), (y * 255 // height), (x + y) * 255 // (width + height)], axis=2)
    pixels = pixels.astype(np.uint8)
    pixels[: height // 4] = 255
    pixels[height // 2 : height // 2 + 20, 50:90] = 0
    return pixels


def salt_and_pepper(pixels: NDArray[np.uint8], share: float, seed: int = 1) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    noisy = pixels.copy()
    hit = rng.random(pixels.shape[:2]) < share
    noisy[hit] = np.where(rng.random(hit.sum()) < 0.5, 0, 255)[:, None]
    return noisy


def apply(pixels: NDArray[np.uint8]) -> tuple[Image, Image, float]:
    before = Image(pixels, 7)
    after, done = ImpulseMedian().apply(before, seed=0)
    assert isinstance(after, Image)
    return before, after, done.changed_share


def psnr_db(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(cv2.PSNR(a, b))


def test_a_clean_frame_is_returned_as_the_same_object() -> None:
    """Saturated areas and hard edges are no impulses."""
    before, after, share = apply(street())

    assert after is before
    assert share == 0.0


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.10])
def test_salt_and_pepper_is_repaired(noise: float) -> None:
    """The repaired frame is nearer to the clean one by at least 10 dB, and the noisy input is not written to."""
    clean = street()
    noisy = salt_and_pepper(clean, noise)
    kept = noisy.copy()

    _, after, share = apply(noisy)

    assert psnr_db(after.pixels, clean) > psnr_db(noisy, clean) + 10
    assert 0.4 * noise < share < 1.1 * noise
    assert np.array_equal(noisy, kept)


def test_lettering_and_glints_are_structure_and_stay() -> None:
    """White text and thin lines reach 255 far from their median, as impulses do, but they hang together."""
    pixels = np.full((200, 400, 3), 60, np.uint8)
    for row in range(12, 200, 14):
        cv2.putText(pixels, "EXIT 42 km CITY CENTRE AIRPORT", (5, row), cv2.FONT_HERSHEY_PLAIN, 0.8, (255, 255, 255))
    assert find_impulses(pixels)[1].mean() > MIN_SHARE

    before, after, _ = apply(pixels)

    assert after is before


@given(seed=st.integers(0, 2**31), share=st.floats(0.0, 0.6), flat=st.booleans())
def test_only_impulses_change_and_shape_and_type_stay(seed: int, share: float, flat: bool) -> None:
    """For any noise: every changed value was 0 or 255 and far from its median."""
    clean = np.full((40, 50, 3), 120, np.uint8) if flat else street(40, 50)
    noisy = salt_and_pepper(clean, share, seed)

    _, after, _ = apply(noisy)

    changed = after.pixels != noisy
    assert after.pixels.shape == noisy.shape
    assert after.pixels.dtype == np.uint8
    assert set(np.unique(noisy[changed])) <= {0, 255}
    assert not (changed & ~find_impulses(noisy)[1]).any()


def test_the_same_sample_gives_the_same_result_whatever_the_seed() -> None:
    """Pure: nothing here is random."""
    noisy = Image(salt_and_pepper(street(), 0.05), 7)

    first, _ = ImpulseMedian().apply(noisy, seed=1)
    second, _ = ImpulseMedian().apply(noisy, seed=2)

    assert isinstance(first, Image)
    assert isinstance(second, Image)
    assert np.array_equal(first.pixels, second.pixels)


def test_other_samples_and_empty_images_pass_through() -> None:
    """A restorer of images leaves clouds alone."""
    cloud = PointCloud(np.zeros((1, 3), np.float32), np.zeros(1, np.float32), 0)
    empty = Image(np.zeros((0, 0, 3), np.uint8), 0)

    assert ImpulseMedian().apply(cloud, 0)[0] is cloud
    assert ImpulseMedian().apply(empty, 0)[0] is empty


def test_a_share_outside_its_range_is_a_config_error() -> None:
    """Settings are checked when made."""
    with pytest.raises(ConfigError):
        ImpulseMedian(min_share=2.0)


@pytest.mark.realdata
@pytest.mark.parametrize("folder", ["kitti_drive/image_02", "euroc/cam0/data"])
def test_real_clean_frames_are_untouched_and_noisy_ones_gain(realdata: Path, folder: str) -> None:
    """Every clean frame is returned as it is; with 5 % noise the repair gains at least 15 dB."""
    files = sorted((realdata / folder).glob("*.png"))[::5]
    assert files

    for file in files:
        clean = cv2.imread(str(file))
        before, after, _ = apply(clean)
        assert after is before
    noisy = salt_and_pepper(clean, 0.05)
    _, after, _ = apply(noisy)
    assert psnr_db(after.pixels, clean) > psnr_db(noisy, clean) + 15
