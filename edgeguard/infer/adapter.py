"""`ImageModel`: camera frames in, detections out, around any session with the onnxruntime calls.

What is done to the frame and to the output is not code that travels with the model but the `ModelIo` of the signed
manifest, so what runs is what was evaluated. A model without one gets a description derived from its input and hands
its output on raw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeguard.bundle.manifest import DecoderSpec, InputSpec, ModelIo
from edgeguard.errors import InferenceError
from edgeguard.infer.classifier import class_probabilities
from edgeguard.infer.grid_detector import decode
from edgeguard.infer.preprocess import image_tensor, place
from edgeguard.types import ClassScore, Detection, Image, ModelAnswer

if TYPE_CHECKING:
    from edgeguard.infer.session import InferenceSession

_ELEMENT_TYPES: Final[Mapping[str, type[np.generic]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
SHOWN_CLASSES: Final = 5  # of an answer: what people compare classifiers by
MAX_SIDE_PX: Final = 16384  # the bound InputSpec has


class Port(Protocol):
    """An input or output as onnxruntime describes it: `shape` holds numbers, symbols and None."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def shape(self) -> Sequence[int | str | None]: ...


class Session(Protocol):
    """The part of an inference session the adapter uses."""

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> Sequence[Any]: ...

    def get_inputs(self) -> Sequence[Port]: ...

    def get_outputs(self) -> Sequence[Port]: ...


class ImageModel:
    """A model that takes one image.

    Args:
        session: an `edgeguard.InferenceSession`, or anything with its three calls.
        io: how frames go in and detections come out; None derives the input (RGB in 0..1, stretched) from the model.
        model_id: what frame records name.

    Raises:
        InferenceError: EG-I021, the model does not take one image, or not the one that `io` describes.
    """

    def __init__(self, session: Session, io: ModelIo | None = None, *, model_id: str = "") -> None:
        self._session = session
        self.model_id = model_id
        self.io = io or ModelIo(derive_input(session.get_inputs()), DecoderSpec("raw"))
        self._element_type = _checked_input(session.get_inputs(), self.io.input)
        self._outputs = [port.name for port in session.get_outputs()]
        if self.io.decoder.kind != "raw" and len(self._outputs) != 1:
            kind = self.io.decoder.kind
            raise InferenceError(f"a {kind} has one output, this model has {len(self._outputs)}", code="EG-I021")

    @classmethod
    def of(cls, session: InferenceSession) -> ImageModel:
        """Return the model of a protected session, fed and read as its signed manifest says."""
        return cls(session, session.io, model_id=session.model_id)

    def tensor(self, image: Image) -> NDArray[Any]:
        """Return the model's input for a frame, in the element type that the model takes."""
        return self._tensor(image.pixels)

    def _tensor(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        return image_tensor(pixels, self.io.input).astype(self._element_type, copy=False)

    def run(self, image: Image) -> dict[str, NDArray[Any]]:
        """Return the raw output tensors by name."""
        return self._run(image.pixels)

    def _run(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        values = self._session.run(self._outputs, {self.io.input.name: self._tensor(pixels)})
        return dict(zip(self._outputs, values, strict=True))

    def ask(self, image: Image) -> ModelAnswer:
        """Return what the signed decoder makes of the frame: boxes, classes, or nothing where it is raw.

        Raises:
            InferenceError: the model failed, or its output is not what the decoder expects.
        """
        if self.io.decoder.kind == "classifier/v1":
            return ModelAnswer(classes=class_scores(self.classify(image), self.io.decoder.labels))
        return ModelAnswer(detections=self.detect(image) if self.io.decoder.kind != "raw" else None)

    def classify(self, image: Image) -> NDArray[np.float64]:
        """Return the probability of each class, (C,) float64. Raises as `classify_pixels`."""
        return self.classify_pixels(image.pixels)

    def classify_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the probability of each class, (C,) float64, of a frame of (H, W, 3) uint8 BGR.

        Raises:
            InferenceError: EG-I022 the model is no classifier; EG-I020 its output is not what the decoder expects.
        """
        if self.io.decoder.kind != "classifier/v1":
            raise InferenceError(
                "the model is not described as a classifier",
                code="EG-I022",
                hint='pack it with [decoder] kind = "classifier/v1"',
            )
        (output,) = self._run(pixels).values()
        return class_probabilities(output, self.io.decoder)

    def detect(self, image: Image) -> tuple[Detection, ...]:
        """Return the detections in frame pixels, best first. Raises as `detect_pixels`."""
        return self.detect_pixels(image.pixels)

    def detect_pixels(self, pixels: NDArray[np.uint8]) -> tuple[Detection, ...]:
        """Return the detections of a frame of (H, W, 3) uint8 BGR, in its pixels, best first; none when the model is no
        detector.

        Raises:
            InferenceError: the model failed, or its output is not what the decoder expects.
        """
        if self.io.decoder.kind != "grid-detector/v1":
            return ()
        (output,) = self._run(pixels).values()
        size = self.io.input.size_px
        boxes, scores, labels = decode(output, self.io.decoder, size)
        frame_size = (pixels.shape[1], pixels.shape[0])
        boxes = place(frame_size, self.io.input).to_frame(boxes, frame_size)
        names = self.io.decoder.labels
        return tuple(
            Detection(names[int(label)], float(score), (float(b[0]), float(b[1]), float(b[2]), float(b[3])))
            for b, score, label in zip(boxes, scores, labels, strict=True)
            if b[2] > b[0] and b[3] > b[1]
        )


def class_scores(probabilities: NDArray[np.float64], labels: Sequence[str]) -> tuple[ClassScore, ...]:
    """Return the `SHOWN_CLASSES` likeliest of (C,) probabilities, best first; a class without a label is its number."""
    best = np.argsort(-probabilities, kind="stable")[:SHOWN_CLASSES]
    return tuple(ClassScore(labels[k] if k < len(labels) else str(k), float(probabilities[k])) for k in best.tolist())


def derive_input(ports: Sequence[Port]) -> InputSpec:
    """Describe the input of a model that takes exactly one image of a fixed size with three channels.

    Raises:
        InferenceError: EG-I021, there is no such input, or more than one input.
    """
    if len(ports) != 1 or len(ports[0].shape) != 4:
        raise _not_an_image_model("it does not have exactly one input with four dimensions")
    shape = list(ports[0].shape)
    if (shape[1] == 3) == (shape[3] == 3):
        raise _not_an_image_model("it is not clear which dimension holds the three colours")
    height, width = shape[2:4] if shape[1] == 3 else shape[1:3]
    if not isinstance(height, int) or not isinstance(width, int) or not min(height, width) >= 1:
        raise _not_an_image_model("its input has no fixed height and width")
    if max(height, width) > MAX_SIDE_PX:
        raise _not_an_image_model(f"its input is larger than {MAX_SIDE_PX} pixels")
    return InputSpec(
        name=ports[0].name,
        layout="NCHW" if shape[1] == 3 else "NHWC",
        size_px=(width, height),
        color="RGB",
        scale=1.0 / 255.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        resize="stretch",
    )


def _checked_input(ports: Sequence[Port], spec: InputSpec) -> type[np.generic]:
    """Return the element type of the one input, which must be the one that `spec` describes."""
    if len(ports) != 1 or ports[0].name != spec.name:
        names = ", ".join(port.name for port in ports)
        raise _not_an_image_model(f"its inputs are {names}, the description names {spec.name} alone")
    width, height = spec.size_px
    expected = (1, spec.channels, height, width) if spec.layout == "NCHW" else (1, height, width, spec.channels)
    shape = tuple(ports[0].shape)
    fits = len(shape) == 4 and all(
        dim == wanted for dim, wanted in zip(shape, expected, strict=True) if isinstance(dim, int) and dim > 0
    )
    if not fits:
        raise _not_an_image_model(f"its input has shape {shape}, the description says {expected}")
    if ports[0].type not in _ELEMENT_TYPES:
        raise _not_an_image_model(f"its input holds {ports[0].type}")
    return _ELEMENT_TYPES[ports[0].type]


def _not_an_image_model(why: str) -> InferenceError:
    return InferenceError(
        f"the model does not take one image: {why}",
        code="EG-I021",
        hint="pack it with a description of its input, or call run() on the session yourself",
    )
