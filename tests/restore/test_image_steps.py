"""Image steps: pure, of one shape, and by their definitions."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edgeguard.errors import ConfigError
from edgeguard.restore.chain_file import read_chain_file
from edgeguard.restore.draw import Draw, fresh_key
from edgeguard.restore.image_chain import STANDARD_CHAINS, ChainChoice, ImageChain
from edgeguard.restore.image_filters import inpaint, luma_range, upper_median_2x2
from edgeguard.restore.image_steps import (
    Bilateral,
    BitDepth,
    Crop,
    Dehaze,
    ImageStep,
    Jpeg,
    Median,
    NonLocalMeans,
    ResizePad,
    RowMedian,
    Sharpen,
    Stretch,
    TotalVariation,
)

STEPS: tuple[ImageStep, ...] = (
    BitDepth(),
    Median(size_px=2),
    Median(size_px=3),
    Median(size_px=5),
    RowMedian(),
    Jpeg(),
    Jpeg(quality=(30, 70)),
    Bilateral(),
    NonLocalMeans(),
    TotalVariation(),
    ResizePad(),
    Crop(),
    Stretch(),
    Dehaze(),
    Sharpen(),
)


def picture(height: int = 60, width: int = 80, noise: float = 4.0) -> np.ndarray:
    """A frame with an edge, a ramp and noise."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(60, 190, width)[None, :, None] * np.ones((height, 1, 3))
    ramp[height // 2 :] *= np.array([0.5, 0.8, 1.0])
    return np.clip(ramp + rng.normal(0, noise, ramp.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
@pytest.mark.parametrize("shape", [(60, 80), (8, 8), (31, 9)])
def test_every_step_is_pure_and_keeps_shape_and_type(step: ImageStep, shape: tuple[int, int]) -> None:
    """Equal keys, equal pixels; the input is not written to; small and odd frames work."""
    frame = picture(*shape)
    before = frame.copy()
    once, again = step.apply(frame, Draw(9)), step.apply(frame, Draw(9))
    np.testing.assert_array_equal(frame, before)
    np.testing.assert_array_equal(once, again)
    assert once.shape == frame.shape
    assert once.dtype == np.uint8


def test_the_2x2_median_is_the_upper_median_of_the_pixel_and_its_upper_left_neighbours() -> None:
    """By brute force over sorted neighbourhoods with repeated borders."""
    frame = np.random.default_rng(1).integers(0, 256, (13, 17, 3)).astype(np.uint8)
    got = upper_median_2x2(frame)
    for y in range(13):
        for x in range(17):
            rows, columns = [max(y - 1, 0), y], [max(x - 1, 0), x]
            window = frame[np.ix_(rows, columns)].reshape(4, 3)
            np.testing.assert_array_equal(got[y, x], np.sort(window, axis=0)[2])


def test_the_row_median_is_the_median_of_five_neighbours_in_the_row() -> None:
    """By sorting, borders repeated."""
    frame = np.random.default_rng(2).integers(0, 256, (9, 14, 3)).astype(np.uint8)
    wide = np.pad(frame, ((0, 0), (2, 2), (0, 0)), mode="edge")
    expected = np.median(np.stack([wide[:, k : k + 14] for k in range(5)]), axis=0)
    np.testing.assert_array_equal(RowMedian.of(frame), expected)


@pytest.mark.parametrize("bits", range(1, 8))
def test_bit_depth_keeps_the_ends_and_so_many_levels(bits: int) -> None:
    """0 and 255 stay; 2^bits values remain; none moves further than half a step."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    out = BitDepth(bits=bits).apply(ramp, Draw(0))
    assert (out.min(), out.max(), len(np.unique(out))) == (0, 255, 2**bits)
    assert np.abs(out.astype(int) - ramp).max() <= 255 / (2**bits - 1) / 2 + 1


def test_smoothing_steps_bring_a_noisy_frame_nearer_to_the_clean_one() -> None:
    """Mean squared error against the frame without noise falls by a third at least."""
    clean, noisy = picture(noise=0.0), picture(noise=12.0)
    before = float(((noisy.astype(float) - clean) ** 2).mean())
    for step in (Median(size_px=3), Bilateral(), NonLocalMeans(strength=20.0), TotalVariation(weight=0.1)):
        after = float(((step.apply(noisy, Draw(0)).astype(float) - clean) ** 2).mean())
        assert after < before * 2 / 3, type(step).__name__


def test_stretch_undoes_a_lost_contrast_and_leaves_a_flat_frame() -> None:
    """The percentiles reach the ends; nothing is divided by a range of zero."""
    dull = (picture(noise=2.0) * 0.15 + 90).astype(np.uint8)
    out = Stretch().apply(dull, Draw(0))
    low, high = luma_range(cv2.cvtColor(out, cv2.COLOR_BGR2GRAY), 0.01)
    assert low <= 8
    assert high >= 247
    flat = np.full((20, 20, 3), 77, dtype=np.uint8)
    np.testing.assert_array_equal(Stretch().apply(flat, Draw(0)), flat)


def test_dehazing_brings_contrast_back() -> None:
    """A frame seen through even haze regains most of its spread."""
    clear = picture(96, 128, noise=2.0)
    hazy = (clear * 0.4 + 230 * 0.6).astype(np.uint8)
    assert Dehaze().apply(hazy, Draw(0)).std() > 1.5 * hazy.std()


def test_inpainting_touches_the_mask_alone() -> None:
    """Outside the mask nothing changes; inside, the hole takes its surroundings' colour."""
    frame = np.full((40, 40, 3), 100, dtype=np.uint8)
    frame[10:16, 10:16] = 255
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:16, 10:16] = True
    out = inpaint(frame, mask)
    np.testing.assert_array_equal(out[~mask], frame[~mask])
    assert abs(out[mask].astype(int) - 100).max() <= 2


def test_keys_are_fresh_and_a_key_repeats_chain_and_pixels() -> None:
    """Keys differ; the same key draws the same chain, another key draws others too."""
    frame = picture()
    choice = ChainChoice()
    assert len({fresh_key() for _ in range(100)}) == 100
    results = [choice.apply(frame, key) for key in range(40)]
    assert {result.chain for result in results} == {chain.name for chain in STANDARD_CHAINS}
    for result in results[:5]:
        np.testing.assert_array_equal(choice.apply(frame, result.key).pixels, result.pixels)
    drawn = {result.pixels.tobytes() for result in results if result.chain == "bilateral-jpeg"}
    assert len(drawn) > 5  # the quality is drawn too


def test_chains_are_data(tmp_path: Path) -> None:
    """A chain written as TOML is the chain; its digest hangs on every number."""
    path = tmp_path / "chains.toml"
    path.write_text(
        '[[chains]]\nname = "mine"\nsteps = [{ op = "bilateral", diameter_px = 7 }, '
        '{ op = "jpeg", quality = [40, 60] }]\n'
    )
    (chain,) = read_chain_file(path)
    assert chain == ImageChain("mine", (Bilateral(diameter_px=7), Jpeg(quality=(40, 60))))
    assert msgspec.convert(msgspec.to_builtins(chain), ImageChain) == chain
    other = ImageChain("mine", (Bilateral(diameter_px=7), Jpeg(quality=(40, 61))))
    assert ChainChoice([chain]).digest != ChainChoice([other]).digest


@pytest.mark.parametrize(
    "text",
    [
        "chains = []",
        '[[chains]]\nname = "a"\nsteps = []',
        '[[chains]]\nname = "a"\nsteps = [{ op = "melt" }]',
        '[[chains]]\nname = "a"\nsteps = [{ op = "jpeg", quality = 0 }]',
        '[[chains]]\nname = "a"\nsteps = [{ op = "jpeg", quality = [60, 40] }]',
        '[[chains]]\nname = "a"\nsteps = [{ op = "median", size_px = 4 }]',
        '[[chains]]\nname = "a"\nsteps = [{ op = "crop", share = [0.1, 0.5] }]',
        '[[chains]]\nname = "A b"\nsteps = [{ op = "jpeg" }]',
        '[[chains]]\nname = "a"\nsteps = [{ op = "jpeg", speed = 3 }]',
        '[[chains]]\nname = "a"\nsteps = [{ op = "jpeg" }]\n[[chains]]\nname = "a"\nsteps = [{ op = "jpeg" }]',
        '[[chains]]\nname = "a"\nsteps = [' + '{ op = "jpeg" },' * 9 + "]",
    ],
)
def test_a_wrong_chain_file_is_refused_with_a_reason(tmp_path: Path, text: str) -> None:
    """Unknown steps, impossible numbers, empty and doubled names."""
    path = tmp_path / "chains.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_chain_file(path)
    assert refused.value.code in {"EG-C003", "EG-C004"}


@pytest.mark.parametrize(
    "frame", [np.zeros((20, 20, 3), np.float32), np.zeros((20, 20), np.uint8), np.zeros((4, 20, 3), np.uint8)]
)
def test_what_is_not_a_frame_is_refused(frame: np.ndarray) -> None:
    """Floats, grey pictures and slivers."""
    with pytest.raises(ConfigError) as refused:
        STANDARD_CHAINS[0].apply(frame, Draw(0))
    assert refused.value.code == "EG-C140"
    with pytest.raises(ConfigError) as refused:
        ChainChoice([])
    assert refused.value.code == "EG-C141"
