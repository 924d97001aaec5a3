"""Scores of frames: what they are for, what they must not do, and their invariances."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgeguard.detect.chroma import chroma_features, left_out_scores, teach, with_random_signs
from edgeguard.detect.disagreement import jensen_shannon, low_margin, squeezed_shift, two_sided
from edgeguard.detect.fingerprints import QueryDetector
from edgeguard.detect.patch import cover, find_windows, verify_patch
from edgeguard.detect.vote import median_log_odds
from edgeguard.errors import CalibrationError, ConfigError


def camera_frame(seed: int, height: int = 160, width: int = 192) -> np.ndarray:
    """A picture as a camera makes it: full resolution in luma, half of it in chroma, JPEG behind."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 215, (height // 32, width // 32, 3)).astype(np.uint8)
    frame = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    frame += rng.normal(0, 3, (height, width, 1))
    return cv2.imdecode(
        cv2.imencode(".jpg", np.clip(frame, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])[1], 1
    )


def test_chroma_learns_from_clean_frames_alone_and_finds_what_it_was_never_shown() -> None:
    """Taught with random signs of one level; a smooth-masked gradient-like perturbation of two levels stands out."""
    rng = np.random.default_rng(0)
    frames = [camera_frame(seed) for seed in range(40)]
    clean = np.array([chroma_features(frame) for frame in frames[:30]])
    signs = np.array([chroma_features(with_random_signs(frame, 1, rng)) for frame in frames[:30]])
    model = teach(clean, signs)
    held = [model.score(chroma_features(frame)) for frame in frames[30:]]
    mask = rng.random((160, 192, 1)) < 0.6
    attacked = [
        np.clip(frame + mask * rng.choice([-2, 2], (160, 192, 3)), 0, 255).astype(np.uint8) for frame in frames[30:]
    ]
    assert min(model.score(chroma_features(frame)) for frame in attacked) > max(held)
    folds = left_out_scores(clean, signs, np.arange(30) % 5)
    assert np.median(folds) == pytest.approx(np.median(held), abs=2.0 * np.std(folds) + 0.5)


def test_teaching_needs_frames() -> None:
    """Nineteen are refused, and so is what is no frame."""
    with pytest.raises(CalibrationError, match="19 clean frames"):
        teach(np.zeros((19, 10)), np.ones((19, 10)))
    with pytest.raises(ConfigError):
        chroma_features(np.zeros((40, 40), np.uint8))


def test_disagreement_is_zero_for_equals_one_for_opposites_and_symmetric() -> None:
    """Bounds of the Jensen-Shannon divergence in bits, and answers that are no distributions."""
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.1, 0.8])
    assert jensen_shannon(p, p) == pytest.approx(0.0, abs=1e-12)
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1.0)
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))
    assert np.isfinite(jensen_shannon(np.array([np.nan, np.inf]), np.array([0.0, 0.0])))
    assert low_margin(np.array([0.5, 0.5])) == pytest.approx(1.0)
    assert low_margin(np.array([1.0, 0.0])) == pytest.approx(0.0)
    assert squeezed_shift(p, q) == pytest.approx(1.4)
    clean = np.linspace(0.0, 1.0, 101)
    assert two_sided(0.5, clean) == pytest.approx(0.0, abs=0.02)
    assert two_sided(-1.0, clean) == two_sided(2.0, clean) == pytest.approx(1.0)


def test_one_confident_liar_does_not_win_the_vote() -> None:
    """Two members at 60 % for the truth beat one at certainty for something else; the mean of two would not."""
    truth, liar = np.array([0.6, 0.3, 0.1]), np.array([0.0, 0.0, 1.0])
    assert median_log_odds([truth, truth, liar]).argmax() == 0
    assert np.mean([truth, liar], axis=0).argmax() == 2
    assert median_log_odds([truth]).sum() == pytest.approx(1.0)


def patched(frame: np.ndarray) -> np.ndarray:
    """The frame with 48 x 48 random pixels at (100, 60)."""
    out = frame.copy()
    out[60:108, 100:148] = np.random.default_rng(3).integers(0, 256, (48, 48, 3))
    return out


def test_a_patch_is_found_covered_and_verified() -> None:
    """The first window lies on it; the model that falls for it comes back to the other one's answer."""
    frame = camera_frame(5, 224, 224)
    attacked = patched(frame)
    first = find_windows(attacked)[0]
    inside = max(0, min(first.right, 148) - max(first.left, 100)) * max(0, min(first.bottom, 108) - max(first.top, 60))
    assert inside > 0.7 * 48 * 48
    rough = [
        np.abs(np.diff(f[60:108, 100:148].astype(float), axis=0)).mean() for f in (cover(attacked, first), attacked)
    ]
    assert rough[0] < 0.3 * rough[1]
    np.testing.assert_array_equal(cover(attacked, first)[:40], attacked[:40])
    calls = []

    def classify(pixels: np.ndarray) -> np.ndarray:
        """Falls for anything noisy where the patch is."""
        calls.append(1)
        fooled = np.abs(np.diff(pixels[60:108, 100:148].astype(float), axis=0)).mean() > 30
        return np.array([0.02, 0.98]) if fooled else np.array([0.97, 0.03])

    second = np.array([0.9, 0.1])
    found = verify_patch(attacked, classify, classify(attacked), second, differ=jensen_shannon)
    assert found.score > 0.5
    assert found.answer is not None
    assert found.answer.argmax() == 0
    assert len(calls) <= 4
    calls.clear()
    assert (
        verify_patch(frame, classify, classify(frame), second, differ=jensen_shannon, min_disagreement_bit=0.2).score
        == 0.0
    )
    assert len(calls) == 1  # nothing to resolve, nobody asked


def test_windows_do_not_overlap_and_small_frames_have_none() -> None:
    """Three places, apart from each other, inside the frame."""
    windows = find_windows(camera_frame(6, 240, 320))
    assert len(windows) == 3
    for number, a in enumerate(windows):
        assert 0 <= a.left < a.right <= 320
        assert 0 <= a.top < a.bottom <= 240
        for b in windows[number + 1 :]:
            shared = max(0, min(a.right, b.right) - max(a.left, b.left)) * max(
                0, min(a.bottom, b.bottom) - max(a.top, b.top)
            )
            assert shared < 0.55 * (a.right - a.left) * (a.bottom - a.top)
    assert find_windows(camera_frame(7, 32, 32)[:24]) == ()


def test_queries_around_one_picture_are_noticed_within_25_and_different_pictures_are_not() -> None:
    """Square-like changes of one frame alarm; a stream of different frames never does."""
    rng = np.random.default_rng(8)
    quiet = QueryDetector(b"a" * 32)
    assert not any(quiet.push(camera_frame(seed)) for seed in range(40))
    guard = QueryDetector(b"b" * 32)
    frame = camera_frame(99)

    def query() -> np.ndarray:
        out = frame.astype(np.int16)
        y, x = rng.integers(0, 120), rng.integers(0, 150)
        out[y : y + 30, x : x + 30] += rng.choice([-8, 8], 3)
        return np.clip(out, 0, 255).astype(np.uint8)

    assert next(k for k in range(100) if guard.push(query())) < 25
    np.testing.assert_array_equal(guard.fingerprint(frame), guard.fingerprint(frame))
    assert not np.isin(guard.fingerprint(frame), QueryDetector(b"c" * 32).fingerprint(frame)).any()
