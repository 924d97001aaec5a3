"""The detector that ships with the simulator is the one its record describes, and finds what it should."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import onnxruntime
import pytest

from edgeguard.bundle.manifest import ModelIo
from edgeguard.infer.adapter import ImageModel
from edgeguard.scan.onnx_gate import check_model
from edgeguard.sim.actors import LABELS
from edgeguard.sim.camera import DEFAULT_CAMERA

if TYPE_CHECKING:
    from conftest import Device

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "edgeguard" / "sim" / "models"
ONNX = MODELS / "obstacle_detector.onnx"
SEEDS = range(940_000, 940_012)  # neither training, nor validation, nor the record's test worlds
FRAMES_PER_SEED = 2
# The record says what the model reaches on 300 frames; on 24 the recall varies by about 0.03 (one sigma), so that a
# floor a tenth below it is only crossed when something broke.
MARGIN = 0.10


def load_example(name: str) -> ModuleType:
    """Import a file of the example by its path; the folder is no package."""
    spec = importlib.util.spec_from_file_location(
        f"obstacle_detector_{name}", ROOT / "examples" / "obstacle_detector" / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def frames() -> list[Any]:
    return list(load_example("frames").simulated_frames(SEEDS, FRAMES_PER_SEED))


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return msgspec.json.decode((MODELS / "obstacle_detector.json").read_bytes())


@pytest.fixture(scope="module")
def io() -> ModelIo:
    return msgspec.toml.decode((MODELS / "obstacle_detector.toml").read_bytes(), type=ModelIo)


@pytest.fixture(scope="module")
def model(io: ModelIo) -> Iterator[ImageModel]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return ImageModel(onnxruntime.InferenceSession(ONNX, options, providers=["CPUExecutionProvider"]), io)


def test_the_file_is_the_one_in_the_record(record: dict[str, Any]) -> None:
    """Digest, size and limits: whoever retrains writes all three files."""
    content = ONNX.read_bytes()

    assert hashlib.sha256(content).hexdigest() == record["sha256"]
    assert len(content) == record["bytes"] <= 1_000_000


def test_the_model_passes_the_gate(record: dict[str, Any]) -> None:
    """One image in, one grid out, no external data."""
    summary = check_model(ONNX.read_bytes(), {})

    assert [p.shape for p in summary.inputs] == [(1, 3, 192, 320)]
    assert [p.shape for p in summary.outputs] == [(1, 5 + len(LABELS), 24, 40)]


def test_the_description_is_that_of_the_simulator(io: ModelIo, record: dict[str, Any]) -> None:
    """Labels of the simulator's road users; half the camera's size, so that nothing is distorted."""
    assert io.decoder.labels == LABELS
    assert io.decoder.score_threshold == record["score_threshold"]
    assert (io.input.size_px[0] * 2, io.input.size_px[1] * 2) == (DEFAULT_CAMERA.width_px, DEFAULT_CAMERA.height_px)


def test_it_finds_road_users_in_unseen_streets(model: ImageModel, frames: list[Any], record: dict[str, Any]) -> None:
    """Precision and recall at IoU 0.5 stay near the record's, on worlds that nothing was chosen on."""
    counted = load_example("evaluate").tally(model.detect, frames)

    assert sum(counted.objects.values()) > 100
    assert counted.recall() >= record["test"]["recall"] - MARGIN
    assert counted.precision() >= record["test"]["precision"] - MARGIN
    assert counted.recall(["car"]) >= record["test"]["per_label"]["car"]["recall"] - MARGIN


def test_it_sees_nothing_in_a_blank_frame(model: ImageModel, frames: list[Any]) -> None:
    """Detections come from the picture, not from where cars usually are."""
    for grey in (0, 90, 255):
        blank = type(frames[0].image)(np.full((384, 640, 3), grey, np.uint8), stamp_ns=0)
        assert model.detect(blank) == ()


def test_it_detects_the_same_when_protected(device: Device, io: ModelIo, model: ImageModel, frames: list[Any]) -> None:
    """Packed, granted, verified, decrypted: the same detections to the last bit, described by the signed manifest."""
    with device.session(device.protect(ONNX, io)) as session:
        protected = ImageModel.of(session)
        assert protected.io == io
        assert protected.model_id == "detector"
        for frame in frames[:4]:
            tensor = {"image": model.tensor(frame.image)}
            plain = model._session.run(None, tensor)[0]
            assert session.run(None, tensor)[0].tobytes() == plain.tobytes()
            assert protected.detect(frame.image) == model.detect(frame.image) != ()
