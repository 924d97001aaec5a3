"""The torch twin of an ONNX graph agrees with onnxruntime, operator by operator and on whole models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgeguard.errors import ScenarioError
from edgeguard.sim.attacks.onnx_torch import TorchGraph

torch = pytest.importorskip("torch", reason="white-box attacks need the extra eval: torch is not installed")
onnx = pytest.importorskip("onnx", reason="white-box attacks need the extra eval: onnx is not installed")

MODELS = Path(__file__).parents[2] / "edgeguard" / "sim" / "models"
MODEL_NAMES = (
    "mobilenet_v2.onnx", "mobilenet_v1_075_192.onnx", "squeezenet_fp16.onnx", "nanodet_m.onnx", "version-RFB-320.onnx",
)  # fmt: skip


def both(content: bytes, x: np.ndarray[Any, Any]) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return onnxruntime's outputs beside ours."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options)
    wanted = session.run(None, {session.get_inputs()[0].name: x})
    with torch.no_grad():
        got = TorchGraph(content)(torch.tensor(x.astype(np.float32)))
    return list(zip(wanted, [g.numpy() for g in got], strict=True))


def one_node(op: str, opset: int, constants: dict[str, Any], *, outputs: int = 1, **attributes: Any) -> bytes:
    """Return a model of one node behind an input (2, 4, 6, 5)."""
    helper = onnx.helper
    names = [f"y{k}" for k in range(outputs)]
    node = helper.make_node(op, ["x", *constants], names, **attributes)
    held = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", kind, [2, 4, 6, 5])],
        [helper.make_tensor_value_info(n, kind, None) for n in names], held,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(model.SerializeToString())


F, I64 = np.float32, np.int64
W = np.random.default_rng(3).normal(size=(8, 2, 3, 3)).astype(F)
BACKWARDS = {"s": [-1], "e": [-99], "a": [2], "t": [-2]}
FLOOR = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
CORNERS = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
CASES: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    ("Conv", 17, {"w": W, "b": np.arange(8, dtype=F)}, {"group": 2, "pads": [1, 1, 1, 1], "strides": [2, 1]}),
    ("Conv", 17, {"w": W}, {"group": 2, "pads": [0, 1, 1, 2], "dilations": [2, 1]}),
    ("Conv", 17, {"w": W}, {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", 17, {"w": W}, {"group": 2, "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("ConvTranspose", 17, {"w": W[:4]}, {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    ("MaxPool", 12, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", 12, {}, {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", 11, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", 11, {}, {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "count_include_pad": 1}),
    ("GlobalAveragePool", 11, {}, {}),
    ("GlobalMaxPool", 11, {}, {}),
    ("BatchNormalization", 15, {k: np.full(4, v, F) for k, v in zip("sbmv", (1.5, 0.2, -0.3, 2.0), strict=True)}, {}),
    ("Clip", 6, {}, {"min": -0.5, "max": 0.7}),
    ("Clip", 13, {"": None, "high": F(0.4)}, {}),
    ("LeakyRelu", 16, {}, {"alpha": 0.2}),
    ("PRelu", 16, {"s": np.full((4, 1, 1), 0.3, F)}, {}),
    ("HardSigmoid", 6, {}, {"alpha": 0.3}),
    ("HardSwish", 14, {}, {}),
    ("Elu", 6, {}, {"alpha": 0.7}),
    ("Softplus", 1, {}, {}),
    ("Softmax", 11, {}, {"axis": 1}),
    ("Softmax", 13, {}, {"axis": 1}),
    ("LogSoftmax", 13, {}, {}),
    ("Flatten", 13, {}, {"axis": 2}),
    ("Flatten", 13, {}, {"axis": -1}),
    ("Reshape", 13, {"s": np.array([0, -1, 3], I64)}, {}),
    ("Transpose", 13, {}, {"perm": [0, 2, 3, 1]}),
    ("Transpose", 13, {}, {}),
    ("Slice", 9, {}, {"starts": [1, -3], "ends": [99, -1], "axes": [1, 2]}),
    ("Slice", 13, {k: np.array(v, I64) for k, v in BACKWARDS.items()}, {}),
    ("Gather", 13, {"i": np.array([[0, -1]], I64)}, {"axis": 2}),
    ("Unsqueeze", 13, {"a": np.array([0, -1], I64)}, {}),
    ("Pad", 13, {"p": np.array([0, 0, 1, 2, 0, 0, 3, 0], I64), "v": F(0.5)}, {}),
    ("Resize", 13, {"": None, "s": np.array([1, 1, 2, 3], F)}, FLOOR),
    ("Resize", 13, {"": None, "s": np.array([1, 1, 2, 2], F)}, {"mode": "nearest"}),
    ("Resize", 13, {"": None, "s": np.array([1, 1, 1.5, 2], F)}, {"mode": "linear"}),
    ("Resize", 13, {"": None, "s": np.array([1, 1, 2, 2], F)}, CORNERS),
    ("Upsample", 9, {"s": np.array([1, 1, 2, 2], F)}, {"mode": "nearest"}),
    ("ReduceMean", 13, {}, {"axes": [2, 3], "keepdims": 0}),
    ("ReduceMax", 13, {}, {"axes": [1]}),
    ("ReduceSum", 13, {"a": np.array([1], I64)}, {}),
    ("Expand", 13, {"s": np.array([2, 4, 6, 5], I64)}, {}),
    ("DepthToSpace", 13, {}, {"blocksize": 2}),
    ("DepthToSpace", 13, {}, {"blocksize": 2, "mode": "CRD"}),
    ("MatMul", 13, {"w": np.ones((5, 3), F)}, {}),
    ("Div", 14, {"w": F(3.0)}, {}),
    ("Dropout", 13, {}, {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "opset", "constants", "attributes"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)]
)
def test_an_operator_agrees_with_onnxruntime(
    op: str, opset: int, constants: dict[str, Any], attributes: dict[str, Any]
) -> None:
    """To float32's last digits, on an input with both signs and no symmetry."""
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 5)).astype(F)
    ((wanted, got),) = both(one_node(op, opset, constants, **attributes), x)
    assert wanted.shape == got.shape
    assert np.abs(wanted - got).max() < 2e-5


def test_a_split_gives_its_parts_in_order() -> None:
    """By attribute, by input, and into equal parts."""
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 5)).astype(F)
    for opset, constants, more in ((11, {}, {"split": [1, 3]}), (13, {"s": np.array([1, 3], I64)}, {}), (13, {}, {})):
        pairs = both(one_node("Split", opset, constants, outputs=2, axis=1, **more), x)
        assert all(np.array_equal(wanted, got) for wanted, got in pairs)


def test_axes_of_one_are_taken_away() -> None:
    """By name, and all of them, behind a pooling that makes them."""
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 5)).astype(F)
    for constants in ({"a": np.array([2, -1], I64)}, {}):
        model = onnx.load_model_from_string(one_node("Squeeze", 13, constants))
        model.graph.node.insert(0, onnx.helper.make_node("GlobalAveragePool", ["x"], ["pooled"]))
        model.graph.node[1].input[0] = "pooled"
        ((wanted, got),) = both(bytes(model.SerializeToString()), x)
        assert wanted.shape == got.shape == (2, 4)
        assert np.abs(wanted - got).max() < 1e-6


def test_an_operator_or_mode_that_is_not_known_is_named() -> None:
    """At once, not as a wrong gradient."""
    with pytest.raises(ScenarioError, match="LSTM") as caught:
        TorchGraph(one_node("LSTM", 14, {"w": np.ones((1, 8, 5), F), "r": np.ones((1, 8, 2), F)}, hidden_size=2))
    assert caught.value.code == "EG-X019"
    with pytest.raises(ScenarioError) as caught:
        TorchGraph(b"\x00\xff no model")
    assert caught.value.code == "EG-X019"
    graph = TorchGraph(one_node("Pad", 13, {"p": np.zeros(8, I64)}, mode="reflect"))
    with pytest.raises(ScenarioError, match="Pad"):
        graph(torch.zeros((2, 4, 6, 5)))


def test_the_obstacle_detector_agrees_with_onnxruntime() -> None:
    """Every cell of the grid."""
    x = np.random.default_rng(2).normal(size=(1, 3, 192, 320)).astype(F)
    ((wanted, got),) = both((MODELS / "obstacle_detector.onnx").read_bytes(), x)
    assert np.abs(wanted - got).max() < 1e-4


@pytest.mark.realdata
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_real_model_agrees_with_onnxruntime(name: str, realdata: Path) -> None:
    """All outputs, relative to their largest value; half precision within half precision."""
    content = (realdata / "vision" / name).read_bytes()
    port = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).get_inputs()[0]
    half = "float16" in port.type
    shape = [d if isinstance(d, int) else 2 for d in port.shape]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float16 if half else F) * (60 if half else 1)
    for wanted, got in both(content, x):
        assert np.abs(wanted.astype(F) - got).max() <= (2e-3 if half else 2e-5) * np.abs(wanted.astype(F)).max()
