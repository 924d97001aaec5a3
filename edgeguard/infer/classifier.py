"""The `classifier/v1` decoder: one value per class to a probability per class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeguard.bundle.manifest import DecoderSpec
from edgeguard.errors import InferenceError


def class_probabilities(output: NDArray[np.floating], spec: DecoderSpec) -> NDArray[np.float64]:
    """Return (C,) float64 with sum one: the output without the first `class_offset` values.

    output: float, one value per class in any shape of which one axis is longer than one. Logits go through a softmax
    over the classes that remain; probabilities are scaled to a sum of one. What is not finite counts as impossible.

    Raises:
        InferenceError: EG-I020: fewer values than the offset and two classes, or more than the labels name.
    """
    values = np.asarray(output, dtype=np.float64).ravel()[spec.class_offset :]
    if (
        max(np.shape(output), default=0) != np.size(output)
        or values.size < 2
        or values.size != (len(spec.labels) or values.size)
    ):
        raise InferenceError(
            f"the model's output has shape {np.shape(output)}, the signed decoder expects one value per class",
            code="EG-I020",
            hint="pack the model again with the input and output description that belongs to it",
        )
    if spec.activation == "logits":
        finite = np.isfinite(values)
        values = np.where(finite, values, -np.inf)
        if not finite.any():
            return np.full(values.size, 1.0 / values.size)
        values = np.exp(values - values.max())
    values = np.where(np.isfinite(values) & (values > 0.0), values, 0.0)
    total = values.sum()
    return values / total if total > 0.0 else np.full(values.size, 1.0 / values.size)
