"""The grid decoder gives the boxes that its format says, whatever the numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeguard.bundle.manifest import DecoderSpec
from edgeguard.errors import InferenceError
from edgeguard.infer.grid_detector import MAX_DETECTIONS, decode, iou, suppress

SPEC = DecoderSpec("grid-detector/v1", ("car", "person", "sign"), 8, 0.3, 0.5)
SIZE = (48, 32)  # 6 columns, 4 rows


def empty() -> np.ndarray:
    output = np.zeros((1, 8, 4, 6), np.float32)
    output[0, 0] = -20.0
    return output


def put(output: np.ndarray, row: int, column: int, values: tuple[float, ...], label: int) -> None:
    output[0, :5, row, column] = values
    output[0, 5 + label, row, column] = 10.0


def test_one_cell_gives_one_box_by_the_formula() -> None:
    """Centre, size, score and label of a cell worked out by hand."""
    output = empty()
    put(output, 2, 3, (1.0, 0.25, -0.5, math.log(2.0), math.log(1.5)), 1)

    boxes, scores, labels = decode(output, SPEC, SIZE)

    x, y = (3 + 0.5 + 0.25) * 8, (2 + 0.5 - 0.5) * 8
    assert np.allclose(boxes, [[x - 8, y - 6, x + 8, y + 6]])
    assert np.allclose(scores, 1 / (1 + math.exp(-1.0)) * 1 / (1 + 2 * math.exp(-10.0)))
    assert labels.tolist() == [1]


def test_an_empty_grid_gives_nothing() -> None:
    """No cell reaches the threshold."""
    boxes, scores, labels = decode(empty(), SPEC, SIZE)

    assert boxes.shape == (0, 4)
    assert len(scores) == len(labels) == 0


def test_overlapping_boxes_of_one_label_become_one() -> None:
    """The better score stays; another label at the same place stays too."""
    output = empty()
    put(output, 1, 1, (2.0, 0.5, 0.0, 1.0, 1.0), 0)
    put(output, 1, 2, (3.0, -0.5, 0.0, 1.0, 1.0), 0)
    put(output, 2, 2, (1.0, -0.5, -1.0, 1.0, 1.0), 2)

    _, scores, labels = decode(output, SPEC, SIZE)

    assert labels.tolist() == [0, 2]
    assert scores[0] > 0.9


def test_a_cell_that_is_no_number_gives_no_box() -> None:
    """NaN and infinity in any channel; the neighbours are untouched."""
    for bad in (np.nan, np.inf, -np.inf):
        for channel in range(8):
            output = empty()
            put(output, 0, 0, (2.0, 0.0, 0.0, 0.0, 0.0), 0)
            put(output, 3, 5, (2.0, 0.0, 0.0, 0.0, 0.0), 0)
            output[0, channel, 0, 0] = bad
            assert len(decode(output, SPEC, SIZE)[0]) == 1


def test_another_shape_is_refused() -> None:
    """A missing label channel, a transposed grid, a missing batch axis."""
    for shape in ((1, 7, 4, 6), (1, 8, 6, 4), (8, 4, 6), (2, 8, 4, 6)):
        with pytest.raises(InferenceError) as caught:
            decode(np.zeros(shape, np.float32), SPEC, SIZE)
        assert caught.value.code == "EG-I020"


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 100.0))
def test_any_numbers_give_finite_boxes(seed: int, spread: float) -> None:
    """Boxes are finite and ordered, scores in 0..1 and falling, and there are not too many."""
    rng = np.random.default_rng(seed)
    output = (rng.normal(size=(1, 8, 16, 24)) * spread).astype(np.float32)

    boxes, scores, labels = decode(output, SPEC, (192, 128))

    assert np.isfinite(boxes).all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert ((scores >= SPEC.score_threshold) & (scores <= 1)).all()
    assert (np.diff(scores) <= 0).all()
    assert ((labels >= 0) & (labels < 3)).all()
    assert len(boxes) <= MAX_DETECTIONS


def plain_iou(a: np.ndarray, b: np.ndarray) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0.0) * max(h, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.floats(0.0, 1.0))
def test_suppression_is_the_textbook_loop(seed: int, count: int, threshold: float) -> None:
    """Against the definition written out as two loops; what is kept overlaps no more than allowed."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 20, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 15, (count, 2))], axis=1)
    labels = rng.integers(0, 2, count)

    expected: list[int] = []
    for i in range(count):
        if all(labels[i] != labels[k] or plain_iou(boxes[k], boxes[i]) <= threshold for k in expected):
            expected.append(i)

    assert suppress(boxes, labels, threshold).tolist() == expected
    if count:
        assert np.allclose(iou(boxes[0], boxes), [plain_iou(boxes[0], b) for b in boxes])
