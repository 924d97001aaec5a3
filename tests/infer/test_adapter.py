"""Frames become the tensor that the signed description says, and boxes come back to where they were seen."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.bundle.manifest import DecoderSpec, InputSpec, ModelIo
from edgeguard.errors import InferenceError
from edgeguard.infer.adapter import ImageModel, derive_input
from edgeguard.infer.preprocess import LETTERBOX_GREY, image_tensor, place
from edgeguard.types import Image

RESIZES = ("stretch", "letterbox", "shorter-side-crop")


def spec(**changes: Any) -> InputSpec:
    facts = {
        "name": "image",
        "layout": "NCHW",
        "size_px": (32, 24),
        "color": "BGR",
        "scale": 1.0,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "resize": "stretch",
    }
    return InputSpec(**(facts | changes))


@dataclass
class Port:
    name: str = "image"
    shape: list[int | str | None] = field(default_factory=lambda: [1, 3, 24, 32])
    type: str = "tensor(float)"


@dataclass
class OneAnswer:
    """A session that always answers the same: a model, as far as the adapter can tell."""

    answer: np.ndarray
    port: Port = field(default_factory=Port)
    outputs: tuple[str, ...] = ("grid",)

    def run(self, names: Any, feeds: Any) -> list[np.ndarray]:
        assert list(feeds) == [self.port.name]
        return [self.answer for _ in names]

    def get_inputs(self) -> list[Port]:
        return [self.port]

    def get_outputs(self) -> list[Port]:
        return [Port(name) for name in self.outputs]


def frame(pixels: np.ndarray) -> Image:
    return Image(pixels, stamp_ns=0)


def test_the_tensor_follows_the_formula() -> None:
    """(pixel * scale - mean) / std per channel, in the colour order and layout named."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)

    bgr = image_tensor(pixels, spec(scale=1 / 255, mean=mean, std=std))
    rgb = image_tensor(pixels, spec(scale=1 / 255, mean=mean, std=std, color="RGB", layout="NHWC"))

    expected = (pixels / 255.0 - np.array(mean)) / np.array(std)
    assert np.allclose(bgr, expected.transpose(2, 0, 1)[None], atol=1e-5)
    assert np.allclose(rgb, ((pixels[:, :, ::-1] / 255.0 - np.array(mean)) / np.array(std))[None], atol=1e-5)
    assert bgr.dtype == rgb.dtype == np.float32


@pytest.mark.parametrize(("layout", "resize"), [("NCHW", "stretch"), ("NHWC", "letterbox")])
def test_a_thermometer_input_says_per_level_whether_the_pixel_exceeds_it(layout: str, resize: str) -> None:
    """Plane k of a colour is 1 above k / L of full scale, the first always; what is no frame is coded grey."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)

    tensor = image_tensor(
        pixels, spec(layout=layout, resize=resize, size_px=(32, 24), color="RGB", thermometer_levels=8)
    )

    planes = tensor[0] if layout == "NCHW" else tensor[0].transpose(2, 0, 1)
    assert planes.shape == (24, 24, 32)
    columns = slice(4, 28) if resize == "letterbox" else slice(0, 32)
    seen = pixels if resize == "letterbox" else cv2.resize(pixels, (32, 24), interpolation=cv2.INTER_LINEAR)
    for colour in range(3):
        for level in range(8):
            expected = (seen[:, :, 2 - colour] / 255.0 > level / 8) | (level == 0)
            assert np.array_equal(planes[colour * 8 + level][:, columns], expected.astype(np.float32))
    if resize == "letterbox":
        grey = (np.arange(8) / 8 < LETTERBOX_GREY / 255.0).astype(np.float32)
        assert np.array_equal(planes[:, 5, 0], np.tile(grey, 3))


def test_letterbox_keeps_the_aspect_ratio_and_fills_with_grey() -> None:
    """A square frame in a wide input has bars left and right."""
    tensor = image_tensor(np.full((100, 100, 3), 200, np.uint8), spec(resize="letterbox"))[0, 0]

    assert (tensor[:, 4:28] == 200).all()
    assert (tensor[:, :4] == LETTERBOX_GREY).all()
    assert (tensor[:, 28:] == LETTERBOX_GREY).all()


def test_crop_is_the_usual_classifier_evaluation() -> None:
    """Resize the shorter side to 256 and cut the middle 224: done by hand with OpenCV."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)

    tensor = image_tensor(pixels, spec(resize="shorter-side-crop", size_px=(224, 224)))[0]

    resized = cv2.resize(pixels, (341, 256), interpolation=cv2.INTER_AREA)
    assert np.array_equal(tensor.transpose(1, 2, 0), resized[16:240, 58:282].astype(np.float32))


@given(
    st.integers(2, 300), st.integers(2, 300), st.integers(2, 120), st.integers(2, 120), st.sampled_from(RESIZES),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_frame_size_gives_the_input_size_and_boxes_come_back(
    width: int, height: int, input_width: int, input_height: int, resize: str, seed: int
) -> None:
    """The tensor has the size named; a box put through the placement and back is itself."""
    described = spec(size_px=(input_width, input_height), resize=resize)

    tensor = image_tensor(np.zeros((height, width, 3), np.uint8), described)
    at = place((width, height), described)

    assert tensor.shape == (1, 3, input_height, input_width)
    corners = np.sort(np.random.default_rng(seed).uniform(0.0, 1.0, (2, 2)), axis=0)
    box = corners.reshape(1, 4) * [width, height, width, height]
    there = box * [at.scale_x, at.scale_y, at.scale_x, at.scale_y] + [at.offset_x, at.offset_y] * 2
    assert np.allclose(at.to_frame(there, (width, height)), box)


@pytest.mark.parametrize("resize", RESIZES)
def test_what_is_seen_in_the_tensor_maps_back_to_its_place(resize: str) -> None:
    """A white block is found in the tensor; its place there maps to its place in the frame within two pixels."""
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[90:150, 120:200] = 255
    described = spec(size_px=(160, 96), resize=resize)

    bright = image_tensor(pixels, described)[0, 0] > 200
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    found = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype=np.float64)

    back = place((320, 240), described).to_frame(found, (320, 240))[0]
    assert np.abs(back - [120, 90, 200, 150]).max() <= 3.0


def grid(row: int, column: int) -> np.ndarray:
    output = np.zeros((1, 6, 3, 4), np.float32)
    output[0, 0] = -20.0
    output[0, :5, row, column] = (5.0, 0.0, 0.0, 0.0, 0.0)
    return output


DETECTOR = DecoderSpec("grid-detector/v1", ("car",), 8, 0.5, 0.5)


def test_detections_are_in_frame_pixels() -> None:
    """A cell of the 32 x 24 input in a 320 x 240 frame."""
    model = ImageModel(OneAnswer(grid(1, 2)), ModelIo(spec(), DETECTOR), model_id="m")

    (found,) = model.detect(frame(np.zeros((240, 320, 3), np.uint8)))

    assert found.label == "car"
    assert found.box_xyxy == pytest.approx((160.0, 80.0, 240.0, 160.0))
    assert model.model_id == "m"


def test_boxes_in_the_letterbox_bars_are_dropped() -> None:
    """What lies outside the frame altogether is no detection."""
    model = ImageModel(OneAnswer(grid(1, 0)), ModelIo(spec(size_px=(32, 24), resize="letterbox"), DETECTOR))

    assert model.detect(frame(np.zeros((240, 80, 3), np.uint8))) == ()


def test_a_raw_decoder_gives_no_detections_but_runs() -> None:
    """Tensors come by name."""
    model = ImageModel(OneAnswer(np.ones((1, 10), np.float32)))

    assert model.detect(frame(np.zeros((24, 32, 3), np.uint8))) == ()
    assert model.run(frame(np.zeros((24, 32, 3), np.uint8)))["grid"].shape == (1, 10)
    assert model.io.decoder.kind == "raw"


@pytest.mark.parametrize(
    ("shape", "layout", "size"),
    [
        ([1, 3, 24, 32], "NCHW", (32, 24)),
        (["n", 3, 24, 32], "NCHW", (32, 24)),
        ([1, 24, 32, 3], "NHWC", (32, 24)),
        ([None, 224, 224, 3], "NHWC", (224, 224)),
    ],
)
def test_an_image_input_is_recognised(shape: list[Any], layout: str, size: tuple[int, int]) -> None:
    """By the one dimension that is three."""
    derived = derive_input([Port(shape=shape)])

    assert (derived.layout, derived.size_px, derived.color) == (layout, size, "RGB")


@pytest.mark.parametrize(
    "ports",
    [
        [],
        [Port(), Port("mask")],
        [Port(shape=[1, 10])],
        [Port(shape=[1, 4, 24, 32])],
        [Port(shape=[1, 3, 3, 3])],
        [Port(shape=[1, 3, "h", "w"])],
        [Port(shape=[1, 3, None, 32])],
        [Port(shape=[1, 3, 0, 32])],
        [Port(shape=[1, 3, 20000, 32])],
    ],
)
def test_other_inputs_are_refused_with_the_reason(ports: list[Port]) -> None:
    """No guess about which axis is which."""
    with pytest.raises(InferenceError) as caught:
        derive_input(ports)

    assert caught.value.code == "EG-I021"
    assert caught.value.hint


@pytest.mark.parametrize(
    "port", [Port("other"), Port(shape=[1, 3, 25, 32]), Port(shape=[1, 24, 32, 3]), Port(type="tensor(string)")]
)
def test_a_description_of_another_model_is_refused(port: Port) -> None:
    """Name, size, layout and element type must be the model's."""
    with pytest.raises(InferenceError):
        ImageModel(OneAnswer(grid(0, 0), port), ModelIo(spec(), DETECTOR))


def test_a_detector_with_two_outputs_is_refused() -> None:
    """The decoder reads one tensor."""
    with pytest.raises(InferenceError):
        ImageModel(OneAnswer(grid(0, 0), outputs=("a", "b")), ModelIo(spec(), DETECTOR))


def test_half_precision_models_get_half_precision() -> None:
    """The tensor has the element type of the port."""
    model = ImageModel(OneAnswer(grid(0, 0), Port(type="tensor(float16)")), ModelIo(spec(), DETECTOR))

    assert model.tensor(frame(np.zeros((24, 32, 3), np.uint8))).dtype == np.float16


@pytest.mark.realdata
def test_a_real_classifier_classifies_through_the_adapter(realdata: Path) -> None:
    """MobileNetV2 through `shorter-side-crop` and RGB is right on four photographs in five; 88 % is its record."""
    folder = realdata / "vision"
    described = spec(size_px=(224, 224), color="RGB", scale=1 / 255, resize="shorter-side-crop")
    session = onnxruntime.InferenceSession(folder / "mobilenet_v2.onnx", providers=["CPUExecutionProvider"])
    model = ImageModel(session, ModelIo(described, DecoderSpec("raw")))
    rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))[::6]

    right = 0
    for row in rows:
        pixels = cv2.imread(str(folder / "photos" / row["file"]))
        right += int(model.run(frame(pixels))["logits"].argmax()) == int(row["imagenet_class"]) + 1

    assert right / len(rows) >= 0.8
