"""A frame is diagnosed by what is wrong with it, and left alone when nothing is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgeguard.errors import ConfigError
from edgeguard.restore.diagnose import Diagnosis, Limits, choose_step, diagnose, fit_limits, noise_levels
from edgeguard.restore.image_steps import Bilateral, Dehaze, RowMedian, Stretch
from edgeguard.sim.attacks.corruptions import CORRUPTIONS, SEVERITIES, corrupt, dirt, dirt_mask


def scene(seed: int) -> np.ndarray:
    """A lit street of coarse shapes with a camera's noise of two levels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(10, 245, (8, 10, 3)).astype(np.uint8)
    frame = cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return np.clip(frame + rng.normal(0, 2, frame.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_a_healthy_frame_is_left_alone(seed: int) -> None:
    """No step for a frame with contrast and little noise."""
    assert choose_step(diagnose(scene(seed)), Limits()) is None


@pytest.mark.parametrize(("corruption", "step"), [("gaussian", Bilateral), ("rain", RowMedian), ("contrast", Dehaze)])
@pytest.mark.parametrize("seed", range(3))
def test_each_symptom_gets_its_step(corruption: str, step: type, seed: int) -> None:
    """Noise is smoothed, streaks are taken out along the rows, lost contrast comes back."""
    frame = corrupt(corruption, scene(seed), 4, np.random.default_rng(seed))
    assert isinstance(choose_step(diagnose(frame), Limits()), step)


def test_impulses_are_left_to_the_selective_median() -> None:
    """Whatever else a frame full of salt and pepper seems to have."""
    frame = corrupt("impulse", scene(1), 3, np.random.default_rng(1))
    found = diagnose(frame)
    assert found.impulse_share > 0.05
    assert choose_step(found, Limits()) is None


def test_haze_without_anything_dark_is_stretched() -> None:
    """A bright veil over a frame that still has a range of more than a third."""
    assert isinstance(choose_step(Diagnosis(1.0, 0.0, 0.0, 120.0, 0.7), Limits()), Stretch)


def test_noise_is_measured_in_levels_whatever_the_scene() -> None:
    """A known standard deviation comes back within a sixth, on a flat and on a textured frame."""
    rng = np.random.default_rng(3)
    for base in (np.full((240, 320, 3), 120.0), scene(2).astype(np.float64) * 0.5 + 60):
        noisy = np.clip(base + rng.normal(0, 10, base.shape), 0, 255).astype(np.uint8)
        assert noise_levels(noisy) == pytest.approx(10.0, rel=0.17)


def test_limits_widen_for_a_noisy_camera_and_never_narrow() -> None:
    """Clean frames beyond the defaults move the limits out; frames far inside move nothing."""
    quiet = fit_limits([Diagnosis(1.0, 0.0, 0.0, 200.0, 0.1)] * 50, 0.01)
    assert quiet == Limits()
    noisy = fit_limits([Diagnosis(20.0, 0.0, 0.02, 60.0, 0.6)] * 50, 0.01)
    assert (noisy.noise_levels, noisy.streak_share, noisy.range_levels, noisy.haze_share) == (20.0, 0.02, 60.0, 0.6)
    assert fit_limits([], 0.01) == Limits()


def test_what_is_no_frame_is_refused() -> None:
    """Grey pictures have another shape."""
    with pytest.raises(ConfigError):
        diagnose(np.zeros((40, 40), np.uint8))


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_a_corruption_repeats_and_grows_with_its_severity(name: str) -> None:
    """Equal generators, equal frames; severity five is further from the clean frame than severity one."""
    frame = scene(5)
    far = []
    for severity in SEVERITIES:
        once = corrupt(name, frame, severity, np.random.default_rng(9))
        np.testing.assert_array_equal(once, corrupt(name, frame, severity, np.random.default_rng(9)))
        assert once.shape == frame.shape
        assert once.dtype == np.uint8
        far.append(float(np.abs(once.astype(float) - frame).mean()))
    assert far[-1] > far[0] > 0.0


def test_the_mask_of_the_dirt_is_where_the_dirt_is() -> None:
    """Drawn from an equal generator it covers exactly what changed."""
    frame = scene(6)
    changed = np.abs(dirt(frame, 2, np.random.default_rng(4)).astype(int) - frame).max(axis=2)
    cover = dirt_mask(240, 320, 2, np.random.default_rng(4))
    assert changed[cover < 0.002].max() <= 1
    assert (cover > 0.5).any()
