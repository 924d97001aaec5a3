"""The `grid-detector/v1` decoder: one tensor of a one-scale, anchor-free detector to boxes.

Output tensor, float: (1, 5 + C, H / stride, W / stride) for an input of W x H pixels and C labels. Per cell, with
column i and row j:

    channel 0      objectness logit o
    channels 1, 2  centre offsets a, b:   x = (i + 0.5 + a) * stride,  y = (j + 0.5 + b) * stride
    channels 3, 4  log sizes u, v:        w = exp(u) * stride,         h = exp(v) * stride
    channels 5...  class logits c:        label = argmax c,            score = sigmoid(o) * max softmax(c)

Boxes at or above the score threshold go through greedy non-maximum suppression per label. A cell whose numbers are
not finite gives no box. docs/example-model.md describes the model that ships with this output.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeguard.bundle.manifest import DecoderSpec
from edgeguard.errors import InferenceError

BOX_CHANNELS: Final = 5  # objectness, two offsets, two log sizes
MAX_CANDIDATES: Final = 512  # best cells that suppression, which is quadratic, gets to see
MAX_DETECTIONS: Final = 128  # no street has more road users that matter
_MAX_LOG_SIZE: Final = 8.0  # exp(8) cells is wider than any input; keeps exp from overflowing

Candidates = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]


def decode(output: NDArray[np.floating], spec: DecoderSpec, input_size_px: tuple[int, int]) -> Candidates:
    """Return boxes (N, 4) in input pixels, scores (N,) and label indices (N,), best first.

    Raises:
        InferenceError: EG-I020, the tensor has not the shape that spec and input size give.
    """
    expected = (
        1,
        BOX_CHANNELS + len(spec.labels),
        input_size_px[1] // spec.stride_px,
        input_size_px[0] // spec.stride_px,
    )
    if output.shape != expected:
        raise InferenceError(
            f"the model's output has shape {output.shape}, the signed decoder expects {expected}",
            code="EG-I020",
            hint="pack the model again with the input and output description that belongs to it",
        )
    cells = np.asarray(output[0], dtype=np.float64).reshape(expected[1], -1)
    finite = np.isfinite(cells).all(axis=0)
    cells = np.where(finite, cells, 0.0)
    scores, labels = _scores(cells)
    scores = np.where(finite, scores, 0.0)
    kept = np.flatnonzero((scores >= spec.score_threshold) & finite)
    # A stable order: equal scores must not come out differently on another machine.
    kept = kept[np.argsort(-scores[kept], kind="stable")][:MAX_CANDIDATES]
    boxes = _boxes(cells[1:5, kept], kept, expected[3], spec.stride_px)
    survivors = suppress(boxes, labels[kept], spec.iou_threshold)[:MAX_DETECTIONS]
    return boxes[survivors], scores[kept][survivors], labels[kept][survivors]


def _scores(cells: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    logits = cells[BOX_CHANNELS:]
    labels = logits.argmax(axis=0)
    certainty = 1.0 / np.exp(np.clip(logits - logits.max(axis=0), -60.0, 0.0)).sum(axis=0)
    return certainty / (1.0 + np.exp(-np.clip(cells[0], -60.0, 60.0))), labels


def _boxes(
    parts: NDArray[np.float64], cell_index: NDArray[np.intp], columns: int, stride_px: int
) -> NDArray[np.float64]:
    column, row = cell_index % columns, cell_index // columns
    x, y = (column + 0.5 + parts[0]) * stride_px, (row + 0.5 + parts[1]) * stride_px
    half_width = np.exp(np.minimum(parts[2], _MAX_LOG_SIZE)) * stride_px / 2
    half_height = np.exp(np.minimum(parts[3], _MAX_LOG_SIZE)) * stride_px / 2
    return np.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=1)


def suppress(boxes_xyxy: NDArray[np.float64], labels: NDArray[np.intp], iou_threshold: float) -> NDArray[np.intp]:
    """Return the indices, in order, of the boxes that no earlier kept box of the same label overlaps too much.

    boxes_xyxy: (N, 4), best first. Greedy non-maximum suppression.
    """
    alive = np.ones(len(boxes_xyxy), dtype=bool)
    for index in range(len(boxes_xyxy)):
        if alive[index]:
            later = slice(index + 1, None)
            same = labels[later] == labels[index]
            alive[later] &= ~(same & (iou(boxes_xyxy[index], boxes_xyxy[later]) > iou_threshold))
    return np.flatnonzero(alive)


def iou(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of one (4,) box with each of (N, 4); 0 where both are empty."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.prod(np.clip(high - low, 0.0, None), axis=1)
    area = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0.0, None), axis=1)
    union = np.prod(np.clip(box[2:] - box[:2], 0.0, None)) + area - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))
