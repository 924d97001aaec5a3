"""A device with two granted classifiers over the same colours, and frames as a camera makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time_ns

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeguard.bundle.manifest import DecoderSpec, InputSpec, ModelIo
from edgeguard.keys.file import FileKeyProvider
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model

COLOURS = ("blue", "green", "red")


def camera_frame(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A picture as a camera makes it: full resolution in luma, half of it in chroma, JPEG behind."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 215, (height // 32, width // 32, 3)).astype(np.uint8)
    frame = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    frame += rng.normal(0, 3, (height, width, 1))
    packed = cv2.imencode(".jpg", np.clip(frame, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    return cv2.imdecode(packed, 1)


def with_signs(frame: np.ndarray, seed: int, levels: int = 6) -> np.ndarray:
    """A perturbation of a few levels whose sign differs from pixel to pixel and colour to colour."""
    signs = np.random.default_rng(seed).choice(np.array([-levels, levels]), frame.shape)
    return np.clip(frame.astype(np.int64) + signs, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Site:
    """Fleet, device key, and two bundles: models of different weights that both name the strongest colour."""

    root: Path
    fleet: Fleet
    first: Path
    second: Path

    @property
    def model_options(self) -> list[str]:
        """What every verb that opens the first model needs."""
        return ["--bundle", str(self.first), "--trust", str(self.fleet.trust_folder),
                "--key", str(self.root / "device.pem"), "--model-id", "colours-a"]  # fmt: skip

    frame = staticmethod(camera_frame)
    attacked = staticmethod(lambda seed: with_signs(camera_frame(seed), seed))

    def config(self, path: Path, calibration: Path | str, gate: str = "restore") -> Path:
        """Write a configuration with both models behind a gate."""
        second = f'[{{ bundle = "{self.second}", model_id = "colours-b" }}]'
        path.write_text(
            f'[inputs]\ngate = "{gate}"\nevery = 1\nensemble = {second}\n'
            f'[calibration]\nfile = "{calibration}"\nkey = "{self.root / "device.pem"}"\n'
        )
        return path


def write_pictures(folder: Path, frames: Sequence[np.ndarray]) -> Path:
    """Write frames as pictures of a folder."""
    folder.mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number:04d}.png"), frame)
    return folder


def _classifier(path: Path, gain: float) -> Path:
    """The mean of each colour, as logits."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
            helper.make_node("Mul", ["mean", "gain"], ["logits"]),
        ],
        "g",
        [info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [info("logits", TensorProto.FLOAT, [1, 3, 1, 1])],
        [numpy_helper.from_array(np.float32([gain]).reshape(1, 1, 1, 1), "gain")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


IO = ModelIo(
    InputSpec("image", "NCHW", (32, 32), "BGR", 1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "stretch"),
    DecoderSpec("classifier/v1", labels=COLOURS),
)


@pytest.fixture(scope="session")
def clean_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty clean pictures."""
    return write_pictures(tmp_path_factory.mktemp("clean") / "frames", [camera_frame(seed) for seed in range(80)])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, clean_folder: Path) -> Site:
    """The first bundle carries a drift reference of the clean pictures."""
    from firmware_tools.input_policy import input_policy

    root, now_ns = tmp_path_factory.mktemp("site"), time_ns()
    fleet = Fleet.create(root / "fleet", name="t", wall_ns=now_ns - 10**9, device_state="optional")
    key = FileKeyProvider.generate(root / "device.pem")
    (root / "request.json").write_bytes(make_request(key, fleet.trust(now_ns), device_name="cam-1", board="rpi5"))
    enroll(fleet, root / "request.json", confirm=lambda _: True, wall_ns=now_ns)
    for name, gain in (("a", 12.0), ("b", 8.0)):
        plain = _classifier(root / f"{name}.onnx", gain)
        policy = input_policy(None, clean_folder) if name == "a" else None
        pack_model(fleet, plain, root / f"{name}.bundle", release=Release(f"colours-{name}", "1.0.0"),
                   wall_ns=now_ns, io=IO, inputs=policy)  # fmt: skip
        grant(fleet, root / f"{name}.bundle", "cam-1", wall_ns=now_ns)
    return Site(root, fleet, root / "a.bundle", root / "b.bundle")
