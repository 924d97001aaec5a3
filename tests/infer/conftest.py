"""A fleet with one device, and a way to protect any ONNX file for it, all through the public functions."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeguard.bundle.manifest import ModelIo
from edgeguard.bundle.model import VerifiedModel, open_model
from edgeguard.infer.session import InferenceSession
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.store import TrustStore
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model

NOW_NS = 1_790_000_000_000_000_000
MODEL_ID = "detector"


@dataclass
class Device:
    """An enrolled device and its fleet."""

    root: Path
    fleet: Fleet
    trust: TrustStore
    key: FileKeyProvider
    _numbers: itertools.count = field(default_factory=itertools.count)

    def protect(self, model: Path, io: ModelIo | None = None) -> Path:
        """Pack a model and grant it to the device; return the bundle."""
        bundle = self.root / f"bundle-{next(self._numbers)}"
        pack_model(self.fleet, model, bundle, release=Release(MODEL_ID, "1.0.0"), wall_ns=NOW_NS, io=io)
        grant(self.fleet, bundle, "cam-1", wall_ns=NOW_NS)
        return bundle

    def open(self, bundle: Path) -> VerifiedModel:
        return open_model(bundle, trust=self.trust, key=self.key, expect_model=MODEL_ID, wall_ns=NOW_NS)

    def session(self, bundle: Path, **more: object) -> InferenceSession:
        return InferenceSession(
            bundle, trust=self.trust, key=self.key, expect_model=MODEL_ID, wall_ns=NOW_NS, **more  # type: ignore[arg-type]
        )  # fmt: skip


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    root = tmp_path_factory.mktemp("device")
    fleet = Fleet.create(root / "fleet", name="test", wall_ns=NOW_NS - 10**9, device_state="optional")
    trust = fleet.trust(NOW_NS)
    key = FileKeyProvider.generate(root / "device.pem")
    (root / "request.json").write_bytes(make_request(key, trust, device_name="cam-1", board="rpi5"))
    enroll(fleet, root / "request.json", confirm=lambda _: True, wall_ns=NOW_NS)
    return Device(root, fleet, trust, key)


def _conv_model(seed: int = 3, *, op: tuple[str, str] = ("Relu", "")) -> onnx.ModelProto:
    """Return a convolution of a (1, 3, 16, 24) image, with its 9.6 KB of weights also listed as inputs."""
    rng = np.random.default_rng(seed)
    weights = numpy_helper.from_array(rng.normal(size=(32, 3, 5, 5)).astype(np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["h"], pads=[2, 2, 2, 2]),
            helper.make_node(op[0], ["h"], ["y"], domain=op[1]),
        ],
        "g",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 24]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [32, 3, 5, 5]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 16, 24])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def conv_model() -> Callable[..., onnx.ModelProto]:
    return _conv_model


@pytest.fixture(scope="session")
def conv_path(device: Device) -> Path:
    path = device.root / "conv.onnx"
    onnx.save(_conv_model(), path)
    return path


@pytest.fixture(scope="session")
def conv_bundle(device: Device, conv_path: Path) -> Path:
    return device.protect(conv_path)


@pytest.fixture(scope="session")
def evil_bundle(device: Device) -> Callable[[onnx.ModelProto, pytest.MonkeyPatch], Path]:
    """Pack as a compromised build machine would: signed by the right keys, without its own gate."""

    def make(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = device.root / "evil.onnx"
        path.write_bytes(model.SerializeToString())
        with monkeypatch.context() as patch:
            patch.setattr("firmware_tools.pack.check_model", lambda *_, **__: None)
            return device.protect(path)

    return make


VENVS = Path(os.environ.get("EDGEGUARD_VENVS", f"/tmp/edgeguard-venvs-{os.getuid()}"))
DEVICE_PATH_PACKAGES = ("numpy", "cryptography", "msgspec", "tuf", "securesystemslib")


@pytest.fixture(scope="session")
def other_runtime() -> Callable[[str], Path]:
    """Give the interpreter of an environment with another onnxruntime, made once and kept in EDGEGUARD_VENVS.

    Skips where it cannot be installed: no network, or no wheel for this machine.
    """

    def make(requirement: str) -> Path:
        folder = VENVS / f"{requirement}-py{sys.version_info.major}{sys.version_info.minor}"
        python, ready = folder / "bin" / "python", folder / "ready"
        if not ready.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, timeout=120)
            packages = [f"{name}=={version(name)}" for name in DEVICE_PATH_PACKAGES]
            install = [python, "-m", "pip", "install", "-q", requirement, *packages]
            done = subprocess.run(install, check=False, capture_output=True, text=True, timeout=600)
            if done.returncode:
                pytest.skip(f"cannot install {requirement}: {done.stderr.strip().splitlines()[-1:]}")
            ready.touch()
        return python

    return make
