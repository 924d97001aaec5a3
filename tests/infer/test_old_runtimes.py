"""The same answers and the same refusals on onnxruntime 1.20 and 1.23, which load from paths only, and on 1.24.

Those two open whatever file a model names (`../x`, absolute paths, links); nothing that gets past the gate names one.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import external_data_helper

if TYPE_CHECKING:
    from conftest import Device

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
NOW_NS = 1_790_000_000_000_000_000
IMAGE = np.random.default_rng(5).random((1, 3, 16, 24), dtype=np.float32)

PROGRAM = """
import json, os, sys
from pathlib import Path
import numpy as np
import onnxruntime
from edgeguard.errors import EdgeGuardError
from edgeguard.infer.session import InferenceSession
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.store import TrustStore

device, bundle, now_ns = sys.argv[1:]
trust = TrustStore.load(Path(device) / "fleet" / "trust", int(now_ns))
answer = {"runtime": onnxruntime.__version__}
try:
    with InferenceSession(
        bundle, trust=trust, key=FileKeyProvider(Path(device) / "device.pem"), expect_model="detector",
        wall_ns=int(now_ns),
    ) as session:
        image = np.random.default_rng(5).random((1, 3, 16, 24), dtype=np.float32)
        answer["output"] = session.run(None, {"image": image})[0].tobytes().hex()
        answer["inputs"] = [port.name for port in session.get_inputs()]
        answer["descriptors"] = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                                 if os.path.islink(f"/proc/self/fd/{fd}")]
except EdgeGuardError as error:
    answer["error"] = error.code
print(json.dumps(answer))
"""

PLAIN = """
import sys
import onnxruntime
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
print("opened")
"""


@pytest.fixture(params=["1.20.1", "1.23.2", "1.24.1"])
def runtime(request: pytest.FixtureRequest, other_runtime: Callable[[str], Path]) -> tuple[str, Path]:
    return request.param, other_runtime(f"onnxruntime=={request.param}")


def run(python: Path, program: str, work: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    (work / "tmp").mkdir(exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(work / "tmp")}
    return subprocess.run(
        [python, "-c", program, *map(str, arguments)],
        check=False, capture_output=True, text=True, timeout=120, cwd=work, env=environment,
    )  # fmt: skip


def load(python: Path, work: Path, device: Device, bundle: Path) -> dict[str, Any]:
    done = run(python, PROGRAM, work, device.root, bundle, NOW_NS)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_answers_are_those_of_the_newest(
    runtime: tuple[str, Path], device: Device, conv_path: Path, conv_bundle: Path, tmp_path: Path
) -> None:
    """Same weights, same graph; a file of the weights' name in the working directory changes nothing."""
    name, python = runtime
    (tmp_path / "weights.bin").write_bytes(bytes(32 * 3 * 25 * 4))
    expected = onnxruntime.InferenceSession(conv_path).run(None, {"image": IMAGE})[0]

    answer = load(python, tmp_path, device, conv_bundle)

    assert answer["runtime"] == name
    output = np.frombuffer(bytes.fromhex(answer["output"]), np.float32).reshape(expected.shape)
    assert np.allclose(output, expected, atol=1e-5)
    assert answer["inputs"] == ["image"]
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not [target for target in answer["descriptors"] if "memfd" in target]


@pytest.mark.parametrize("escape", ["../secret.bin", "absolute"])
def test_a_model_that_names_a_file_outside_is_refused_before_it_is_opened(
    runtime: tuple[str, Path],
    escape: str,
    device: Device,
    conv_model: Callable[..., onnx.ModelProto],
    evil_bundle: Callable[[onnx.ModelProto, pytest.MonkeyPatch], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Signed by the right keys on a compromised machine. The control: that runtime alone opens it, before 1.24."""
    name, python = runtime
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(32 * 3 * 25 * 4))
    model = conv_model()
    (tensor,) = model.graph.initializer
    external_data_helper.set_external_data(tensor, str(secret) if escape == "absolute" else escape)
    tensor.ClearField("raw_data")
    (tmp_path / "work").mkdir()
    plain = tmp_path / "work" / "plain.onnx"
    plain.write_bytes(model.SerializeToString())
    opened = run(python, PLAIN, tmp_path / "work", plain).stdout == "opened\n"
    assert opened == (name != "1.24.1")

    # The packer would never let it through; put the graph there as if it had.
    monkeypatch.setattr("firmware_tools.pack.split_model", lambda _: _Split(plain.read_bytes()))
    bundle = evil_bundle(model, monkeypatch)

    assert load(python, tmp_path / "work", device, bundle).get("error") == "EG-G004"


class _Split:
    """What the packer works on: a graph as it stands, and no weights."""

    def __init__(self, graph: bytes) -> None:
        self.graph = graph
        self.weights: dict[str, bytes] = {}
        self.notes: tuple[str, ...] = ()
