"""Shared weights: the same answers from memory that is ours, zero when the session closes, and never dangling."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeguard.errors import ConfigError, InferenceError
from edgeguard.infer.runtime import version_of
from edgeguard.infer.session import InferenceSession

if TYPE_CHECKING:
    from conftest import Device

pytestmark = pytest.mark.skipif(version_of(onnxruntime) < (1, 32), reason="this onnxruntime always copies")

X = np.random.default_rng(5).random((4, 256), dtype=np.float32)


@pytest.fixture(scope="module")
def matmul_path(device: Device) -> Path:
    """Two products with 512 KiB of weights, and an output that is a weight itself."""
    rng = np.random.default_rng(9)
    weights = [numpy_helper.from_array(rng.normal(size=(256, 256)).astype(np.float32), f"w{i}") for i in range(2)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node("MatMul", ["h", "w1"], ["y"]),
        helper.make_node("Identity", ["w1"], ["weight"]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (
        ("x", ["n", 256]), ("y", ["n", 256]), ("weight", [256, 256])
    )]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    path = device.root / "matmul.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def matmul_bundle(device: Device, matmul_path: Path) -> Path:
    return device.protect(matmul_path)


def test_answers_are_those_of_the_plain_model_without_packing(
    device: Device, matmul_path: Path, matmul_bundle: Path
) -> None:
    """Byte for byte; packed kernels may differ in the last digits."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    plain = onnxruntime.InferenceSession(matmul_path, options)

    with device.session(matmul_bundle, weights="shared") as session:
        for expected, answer in zip(plain.run(None, {"x": X}), session.run(None, {"x": X}), strict=True):
            assert answer.tobytes() == expected.tobytes()


def test_the_runtime_reads_our_memory_and_close_zeroes_it(device: Device, matmul_bundle: Path) -> None:
    """Changing a weight in place changes the answer, which proves that there is no second copy that counts."""
    model = device.open(matmul_bundle)
    views = [memoryview(data) for data in model.weights.values()]
    session = InferenceSession(model, weights="shared")
    before = session.run(["y"], {"x": X})[0]
    assert any(any(view) for view in views)

    for view in views:
        np.frombuffer(view, np.float32)[:] *= 2
    after = session.run(["y"], {"x": X})[0]
    session.close()

    assert np.allclose(after, before * 4, rtol=1e-4)
    assert not any(any(view) for view in views)


def test_what_still_points_to_closed_weights_reads_zeros(device: Device, matmul_bundle: Path) -> None:
    """An output that is a weight, and a binding that is run again: no crash, no weights, no stranger's memory."""
    session = device.session(matmul_bundle, weights="shared")
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    inner = session._session
    (weight,) = session.run(["weight"], {"x": X})
    genuine = weight.copy()
    session.close()
    del session
    gc.collect()

    inner.run_with_iobinding(binding)  # past our interface, as a thread in the middle of a run would

    assert genuine.any()
    assert not binding.copy_outputs_to_cpu()[0].any()
    assert not weight.any() or np.array_equal(weight, genuine)  # a view of zeros, or a copy of its own


def test_a_failed_session_leaves_zeros(device: Device, matmul_bundle: Path) -> None:
    """Sharing has not begun, so the model is wiped as ever."""
    model = device.open(matmul_bundle)
    views = [memoryview(data) for data in model.weights.values()]

    with pytest.raises(InferenceError):
        InferenceSession(model, weights="shared", providers=["CUDAExecutionProvider"])

    assert not any(any(view) for view in views)


def test_there_are_two_ways_to_hold_weights(device: Device, matmul_bundle: Path) -> None:
    """A misspelled one is not taken for the default."""
    with pytest.raises(ConfigError) as caught:
        device.session(matmul_bundle, weights="Shared")

    assert caught.value.code == "EG-C025"


def test_a_session_that_is_dropped_is_wiped(device: Device, matmul_bundle: Path) -> None:
    """Without a close."""
    model = device.open(matmul_bundle)
    views = [memoryview(data) for data in model.weights.values()]
    session = InferenceSession(model, weights="shared")
    del model
    assert any(any(view) for view in views)

    del session
    gc.collect()

    assert not any(any(view) for view in views)


def test_closing_gives_the_memory_back(
    device: Device, matmul_bundle: Path, conv_model: Callable[..., onnx.ModelProto]
) -> None:
    """Thirty sessions one after the other do not grow; in a process of its own, so that nothing else counts."""
    program = f"""
import resource
from edgeguard.infer.session import InferenceSession
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.store import TrustStore
from pathlib import Path
root = Path({str(device.root)!r})
trust = TrustStore.load(root / "fleet" / "trust", {1_790_000_000_000_000_000})
key = FileKeyProvider(root / "device.pem")
def once():
    InferenceSession({str(matmul_bundle)!r}, trust=trust, key=key, expect_model="detector", weights="shared",
                     wall_ns={1_790_000_000_000_000_000}).close()
def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
for _ in range(5):
    once()
before = rss()
for _ in range(30):
    once()
print(rss() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)

    assert int(done.stdout) < 30 * 2 * 256 * 256 * 4 / 4
