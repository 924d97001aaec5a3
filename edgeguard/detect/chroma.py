"""Noise where a camera has none: the chroma planes.

Cameras interpolate colour and JPEG halves its resolution, so the second differences of Cr and Cb are nearly zero in
the quietest tenth of a frame. A perturbation that follows a model's gradient does not know that and adds noise to each
channel. What is looked at is how the block noise of both planes is distributed, not its mean: texture fills the upper
end, a perturbation lifts the lower one.

The weights are learned from the user's clean frames alone: each frame against itself with random signs added
(`teach`). No attack, and no model, takes part. MITRE ATLAS AML.M0015.

Blind to perturbations of luma only, to what went through another JPEG, and on cameras with noisy raw chroma.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import cv2
import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeguard.errors import CalibrationError
from edgeguard.kernels.frame import require_image
from edgeguard.kernels.image_noise import block_noise

SHARES = (0.05, 0.25, 0.5, 0.9)
FEATURES = 2 * (len(SHARES) + 1)
FLOOR_LEVELS = 0.05  # a mean second difference below it is rounding
TAUGHT_LEVELS = 1  # the smallest perturbation a frame of whole levels can carry: what tells it apart tells larger ones
MIN_FRAMES = 20
RIDGE = 1e-3  # on standardised features: keeps the weights of ten strongly related numbers bounded


class ChromaModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Linear weights on the features; score = (features - location) . weights."""

    location: Annotated[tuple[float, ...], Meta(min_length=FEATURES, max_length=FEATURES)]
    weights: Annotated[tuple[float, ...], Meta(min_length=FEATURES, max_length=FEATURES)]

    def score(self, features: NDArray[np.float64]) -> float:
        """Return the suspicion of a frame's features, log-odds up to a constant."""
        return float((features - np.asarray(self.location)) @ np.asarray(self.weights))


def chroma_features(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return (10,) float64: logarithms of the block noise of Cr and Cb at four shares, and of its mean.

    pixels: (H, W, 3) uint8 BGR, at least 16 pixels a side. Raises ConfigError EG-C140 for anything else.
    """
    require_image(pixels)
    blocks = block_noise(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2YCrCb), dtype=np.uint8))
    if not blocks.size:
        return np.zeros(FEATURES)
    out = np.empty(FEATURES)
    for plane in (0, 1):
        values = np.sort(blocks[:, :, plane + 1], axis=None)
        at = plane * (len(SHARES) + 1)
        out[at : at + len(SHARES)] = np.quantile(values, SHARES)
        out[at + len(SHARES)] = values.mean()
    return np.asarray(np.log(out + FLOOR_LEVELS))


def with_random_signs(pixels: NDArray[np.uint8], levels: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the frame with +-levels added to every value, (H, W, 3) uint8."""
    signs = rng.integers(0, 2, pixels.shape, dtype=np.int16) * np.int16(2 * levels) - np.int16(levels)
    return np.asarray(np.clip(pixels.astype(np.int16) + signs, 0, 255), dtype=np.uint8)


def teach(clean: NDArray[np.float64], disturbed: NDArray[np.float64]) -> ChromaModel:
    """Return the weights of a ridge-regularised logistic regression of disturbed against clean.

    clean, disturbed: (N, 10) float64 features of the same frames without and with random signs.

    Raises:
        CalibrationError: EG-L020: fewer than 20 frames, or features that are no numbers.
    """
    values = np.concatenate((clean, disturbed))
    if len(clean) < MIN_FRAMES or not np.isfinite(values).all():
        raise CalibrationError(
            f"{len(clean)} clean frames; at least {MIN_FRAMES} are needed",
            code="EG-L020",
            hint="give more clean frames",
        )
    label = np.concatenate((np.zeros(len(clean)), np.ones(len(disturbed))))
    location, spread = values.mean(axis=0), values.std(axis=0) + 1e-9
    design = np.column_stack(((values - location) / spread, np.ones(len(values))))
    ridge = np.append(np.full(FEATURES, RIDGE), 1e-6)
    w = np.zeros(FEATURES + 1)
    for _ in range(50):  # Newton's method on a strictly convex function; a dozen steps suffice
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ w, -30.0, 30.0)))
        gradient = design.T @ (p - label) / len(label) + ridge * w
        curvature = (design * (p * (1.0 - p))[:, None]).T @ design / len(label) + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        w -= step
        if np.abs(step).max() < 1e-8:
            break
    return ChromaModel(tuple(location.tolist()), tuple((w[:-1] / spread).tolist()))


def left_out_scores(
    clean: NDArray[np.float64], disturbed: NDArray[np.float64], folds: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return (N,) scores of the clean frames, each by weights that were learned without its fold."""
    which = np.asarray(folds)
    scores = np.empty(len(clean))
    for fold in np.unique(which):
        held = which == fold
        model = teach(clean[~held], disturbed[~held])
        scores[held] = [model.score(features) for features in clean[held]]
    return scores
