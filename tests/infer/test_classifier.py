"""Classifiers and ensembles of them, described in the signed manifest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeguard.bundle.manifest import DecoderSpec, InputSpec, ModelIo
from edgeguard.errors import ConfigError, InferenceError
from edgeguard.infer.adapter import ImageModel
from edgeguard.infer.classifier import class_probabilities
from edgeguard.infer.ensemble import EnsembleSession
from edgeguard.types import Image

INPUT = InputSpec("image", "NCHW", (8, 8), "RGB", 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "stretch")
FRAME = Image(np.zeros((8, 8, 3), np.uint8), 1)


class _Port:
    """What a session says about an input or output."""

    def __init__(self, name: str, shape: list[Any]) -> None:
        self.name, self.shape, self.type = name, shape, "tensor(float)"


class _Session:
    """A session that answers with fixed logits."""

    def __init__(self, logits: list[float]) -> None:
        self._logits = np.array([logits], np.float32)

    def run(self, output_names: object, feeds: object) -> list[np.ndarray]:
        """Return the logits whatever is fed."""
        return [self._logits]

    def get_inputs(self) -> list[_Port]:
        """One image."""
        return [_Port("image", [1, 3, 8, 8])]

    def get_outputs(self) -> list[_Port]:
        """One vector."""
        return [_Port("logits", [1, self._logits.size])]


def model(logits: list[float], **decoder: Any) -> ImageModel:
    """A classifier with these logits."""
    return ImageModel(_Session(logits), ModelIo(INPUT, DecoderSpec("classifier/v1", **decoder)), model_id="m")


def test_logits_become_probabilities_without_the_background() -> None:
    """The softmax runs over the classes that remain."""
    got = model([9.0, 1.0, 2.0, 3.0], class_offset=1).classify(FRAME)
    np.testing.assert_allclose(got, np.exp([1.0, 2.0, 3.0]) / np.exp([1.0, 2.0, 3.0]).sum(), rtol=1e-6)


def test_probabilities_stay_what_they_are() -> None:
    """Scaled to a sum of one; nothing is exponentiated again."""
    got = class_probabilities(
        np.array([[0.2], [0.6]], np.float32), DecoderSpec("classifier/v1", activation="probabilities")
    )
    np.testing.assert_allclose(got, [0.25, 0.75], rtol=1e-6)


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [np.inf, 1.0], [np.nan, np.nan], [-np.inf, -np.inf]])
def test_numbers_that_are_none_are_impossible_classes(bad: list[float]) -> None:
    """Whatever the model gives, a distribution comes out."""
    got = class_probabilities(np.array(bad), DecoderSpec("classifier/v1"))
    assert np.isfinite(got).all()
    assert got.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (0,), (1, 4, 4)])
def test_an_output_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    """Maps, empty tensors and a lone number are no classes."""
    with pytest.raises(InferenceError) as refused:
        class_probabilities(np.zeros(shape), DecoderSpec("classifier/v1"))
    assert refused.value.code == "EG-I020"


def test_labels_and_classes_must_be_as_many() -> None:
    """Three labels do not name four classes."""
    with pytest.raises(InferenceError):
        model([1.0, 2.0, 3.0, 4.0], labels=("a", "b", "c")).classify(FRAME)


def test_a_model_of_another_kind_neither_classifies_nor_joins() -> None:
    """A raw model has no classes."""
    raw = ImageModel(_Session([1.0, 2.0]), ModelIo(INPUT, DecoderSpec("raw")))
    with pytest.raises(InferenceError) as refused:
        raw.classify(FRAME)
    assert refused.value.code == "EG-I022"
    with pytest.raises(ConfigError):
        EnsembleSession([raw])
    assert model([1.0, 2.0]).detect(FRAME) == ()


def test_an_ensemble_outvotes_one_liar() -> None:
    """The median of three; each member's own answer is there too."""
    ensemble = EnsembleSession([model([2.0, 1.0, 0.0]), model([2.0, 1.0, 0.0]), model([0.0, 0.0, 50.0])])
    assert ensemble.classify(FRAME).argmax() == 0
    assert [int(answer.argmax()) for answer in ensemble.answers(FRAME)] == [0, 0, 2]


def test_members_must_speak_of_the_same_classes() -> None:
    """None, too many, other labels, another number of classes."""
    with pytest.raises(ConfigError):
        EnsembleSession([])
    with pytest.raises(ConfigError):
        EnsembleSession([model([1.0, 2.0])] * 9)
    with pytest.raises(ConfigError):
        EnsembleSession([model([1.0, 2.0], labels=("a", "b")), model([1.0, 2.0], labels=("b", "a"))])
    with pytest.raises(ConfigError):
        EnsembleSession([model([1.0, 2.0]), model([1.0, 2.0, 3.0])]).classify(FRAME)
