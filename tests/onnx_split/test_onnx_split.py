"""Splitting keeps every answer of a model to the last bit."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeguard.errors import ModelStructureError, ProvisioningError
from edgeguard.scan.onnx_gate import check_model
from firmware_tools import onnx_split
from firmware_tools.onnx_split import ALIGNMENT_BYTES, MIN_EXTERNAL_BYTES, SplitModel, split_model

RNG = np.random.default_rng(20)
REAL_MODELS = [
    "mobilenet_v1_075_192.onnx",
    "mobilenet_v2.onnx",
    "nanodet_m.onnx",
    "squeezenet_fp16.onnx",
    "version-RFB-320.onnx",
]
ELEMENT = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def make_model(
    initializers: list[TensorProto],
    *,
    nodes: list[onnx.NodeProto] | None = None,
    as_inputs: bool = False,
    element_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Return y = x @ w (+ more); `w` is (64, 32)."""
    inputs = [helper.make_tensor_value_info("x", element_type, [1, 64])]
    if as_inputs:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in initializers]
    graph = helper.make_graph(
        nodes or [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        inputs,
        [helper.make_tensor_value_info("y", element_type, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight(name: str = "w", dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(RNG.normal(size=(64, 32)).astype(dtype), name)


def options() -> onnxruntime.SessionOptions:
    chosen = onnxruntime.SessionOptions()
    chosen.log_severity_level = 3
    chosen.intra_op_num_threads = 1
    return chosen


def run_split(split: SplitModel, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run the parts as the device does: weights from memory, wiped before the first run."""
    chosen = options()
    buffers = {location: mmap.mmap(-1, len(blob)) for location, blob in split.weights.items()}
    for location, buffer in buffers.items():
        buffer[:] = split.weights[location]
    if buffers:
        sizes = [len(buffer) for buffer in buffers.values()]
        chosen.add_external_initializers_from_files_in_memory(list(buffers), list(buffers.values()), sizes)
    session = onnxruntime.InferenceSession(split.graph, chosen, providers=["CPUExecutionProvider"])
    for buffer in buffers.values():
        buffer[:] = bytes(len(buffer))
    return session.run(None, feeds)


def assert_same_answers(path: Path) -> SplitModel:
    split = split_model(path)
    check_model(split.graph, {location: len(blob) for location, blob in split.weights.items()})
    session = onnxruntime.InferenceSession(path, options(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    feeds = {
        port.name: rng.random([d if isinstance(d, int) else 1 for d in port.shape]).astype(ELEMENT[port.type])
        for port in session.get_inputs()
    }
    for whole, parts in zip(session.run(None, feeds), run_split(split, feeds), strict=True):
        assert whole.dtype == parts.dtype
        assert whole.tobytes() == parts.tobytes()
    return split


def save(tmp_path: Path, model: onnx.ModelProto) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL_MODELS)
def test_real_models_answer_the_same_after_splitting(realdata: Path, name: str) -> None:
    """Outputs are byte-identical, and nearly all of the file has left the graph."""
    path = realdata / "vision" / name

    split = assert_same_answers(path)

    assert len(split.graph) < 0.15 * path.stat().st_size
    assert sum(map(len, split.weights.values())) > 0.85 * path.stat().st_size


def test_a_large_model_gets_several_blobs_that_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed blob is at least as long as its step; sizes double, and the answers stay the same."""
    monkeypatch.setattr(onnx_split, "BLOB_BYTES", 2 * weight().ByteSize())
    names = [f"w{i}" for i in range(40)]
    total = [helper.make_node("Sum", names, ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])]

    split = assert_same_answers(save(tmp_path, make_model([weight(name) for name in names], nodes=total)))

    sizes = [len(blob) for blob in split.weights.values()]
    assert list(split.weights)[:3] == ["weights.bin", "weights-1.bin", "weights-2.bin"]
    assert sum(sizes) == 40 * 64 * 32 * 4
    assert set(sizes[:8]) == {3 * 64 * 32 * 4}
    assert sizes[8] > sizes[7]


@pytest.mark.parametrize("as_inputs", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_big_initializers_leave_the_graph(tmp_path: Path, dtype: type, as_inputs: bool) -> None:
    """Also those listed as inputs, and half precision; offsets are aligned."""
    element_type = TensorProto.FLOAT if dtype is np.float32 else TensorProto.FLOAT16
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["x", "v"], ["k"]),
             helper.make_node("Add", ["h", "k"], ["y"])]  # fmt: skip
    tensors = [weight("w", dtype), weight("v", dtype)]

    split = assert_same_answers(
        save(tmp_path, make_model(tensors, nodes=nodes, as_inputs=as_inputs, element_type=element_type))
    )

    located = [{e.key: e.value for e in t.external_data} for t in onnx.load_from_string(split.graph).graph.initializer]
    assert [int(entry["offset"]) % ALIGNMENT_BYTES for entry in located] == [0, 0]
    assert tensors[1].raw_data == split.weights["weights.bin"][int(located[1]["offset"]) :][: int(located[1]["length"])]


def test_small_initializers_stay(tmp_path: Path) -> None:
    """A shape must stay readable for shape inference; a model of small tensors has no blob."""
    shape = numpy_helper.from_array(np.array([32, 2], np.int64), "s")
    tensor = numpy_helper.from_array(np.ones((64, 1), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Expand", ["h", "s"], ["y"])]

    split = assert_same_answers(save(tmp_path, make_model([tensor, shape], nodes=nodes)))

    assert tensor.ByteSize() < MIN_EXTERNAL_BYTES
    assert not split.weights


@pytest.mark.parametrize(
    ("data_type", "field"),
    [
        (TensorProto.FLOAT, "float_data"),
        (TensorProto.DOUBLE, "double_data"),
        (TensorProto.INT64, "int64_data"),
        (TensorProto.INT32, "int32_data"),
        (TensorProto.INT8, "int32_data"),
        (TensorProto.UINT8, "int32_data"),
        (TensorProto.UINT64, "uint64_data"),
        (TensorProto.FLOAT16, "int32_data"),
        (TensorProto.BFLOAT16, "int32_data"),
    ],
)
def test_typed_fields_become_the_same_bytes(tmp_path: Path, data_type: int, field: str) -> None:
    """The `onnx` package reads the same array from the blob as from the typed field, negative values included."""
    values = RNG.integers(-100, 100, 2048)
    values = np.abs(values) if data_type in (TensorProto.UINT8, TensorProto.UINT64) else values
    tensor = helper.make_tensor("w", data_type, [64, 32], values.astype(np.float64).tolist() if "INT" not in
                                TensorProto.DataType.Name(data_type) else values.tolist())  # fmt: skip
    assert len(getattr(tensor, field)) > 0

    split = split_model(save(tmp_path, make_model([tensor], element_type=data_type)))

    external = onnx.load_from_string(split.graph).graph.initializer[0]
    entries = {e.key: e.value for e in external.external_data}
    external.ClearField("external_data")
    external.data_location = TensorProto.DEFAULT
    external.raw_data = split.weights["weights.bin"][int(entries["offset"]) :][: int(entries["length"])]
    assert np.array_equal(numpy_helper.to_array(external), numpy_helper.to_array(tensor))
    assert "converted 1 initializers" in split.notes[0]


def test_subgraphs_keep_their_tensors_inline_and_work(tmp_path: Path) -> None:
    """Initializers of an If branch and big Constant nodes stay, and the note says that they cannot be wiped."""
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "inner"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 32])],
        [weight("inner")],
    )
    other = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=weight("c")), helper.make_node("MatMul", ["x", "c"], ["o"])],
        "other",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [1, 32])],
    )
    nodes = [
        helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=other),
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "z"], ["y"]),
    ]
    flag = numpy_helper.from_array(np.array(True), "flag")

    split = assert_same_answers(save(tmp_path, make_model([weight(), flag], nodes=nodes)))

    assert len(split.weights["weights.bin"]) == 64 * 32 * 4
    assert "2 tensors of 1024 bytes or more stay in the graph" in split.notes[0]


def test_data_files_beside_the_model_are_pulled_in(tmp_path: Path) -> None:
    """A model saved with external data becomes one graph and one blob."""
    model = make_model([weight("w"), weight("v")], nodes=[
        helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["x", "v"], ["k"]),
        helper.make_node("Add", ["h", "k"], ["y"])])  # fmt: skip
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)

    split = assert_same_answers(path)

    assert split.notes == (f"pulled {2 * 64 * 32 * 4} bytes in from model.data",)
    assert b"model.data" not in split.graph


def test_data_files_of_attributes_are_pulled_into_the_graph(tmp_path: Path) -> None:
    """A Constant node whose tensor lies beside the model; the gate admits external data for initializers only."""
    nodes = [helper.make_node("Constant", [], ["w"], value=weight()), helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = tmp_path / "model.onnx"
    onnx.save(make_model([], nodes=nodes), path, save_as_external_data=True, location="model.data", size_threshold=0,
              convert_attribute=True)  # fmt: skip
    assert (tmp_path / "model.data").stat().st_size == 64 * 32 * 4

    split = assert_same_answers(path)

    assert not split.weights
    assert "pulled 8192 bytes in from model.data" in split.notes


def external(location: str, **entries: str) -> onnx.ModelProto:
    """A model whose weight lies in `location`."""
    model = make_model([weight()])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return model


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/passwd", "a/b", "a\\b", "..", "", "*/_ORT_MEM_ADDR_/*", "C:x", "nul\0"]
)
def test_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    """No name in a model reaches another folder, not even on the host."""
    (tmp_path / "secret.bin").write_bytes(bytes(8192))
    (tmp_path / "in").mkdir()

    with pytest.raises(ProvisioningError, match="no plain file name"):
        split_model(save(tmp_path / "in", external(location)))


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    """A link could point anywhere; a pipe would block for ever."""
    (tmp_path / "real.bin").write_bytes(bytes(8192))
    (tmp_path / "link.bin").symlink_to(tmp_path / "real.bin")
    os.mkfifo(tmp_path / "pipe.bin")

    for name in ("link.bin", "pipe.bin", "missing.bin"):
        with pytest.raises(ProvisioningError):
            split_model(save(tmp_path, external(name)))


@pytest.mark.parametrize(
    "entries",
    [{"offset": "1"}, {"offset": "-1"}, {"length": "999999999999"}, {"offset": "٣"}, {"length": "8"}, {"offset": " 0"}],
)
def test_ranges_outside_the_file_are_refused(tmp_path: Path, entries: dict[str, str]) -> None:
    """Offsets and lengths are checked against the file and the shape, and are plain digits."""
    (tmp_path / "w.bin").write_bytes(bytes(64 * 32 * 4))

    with pytest.raises((ProvisioningError, ModelStructureError)):
        split_model(save(tmp_path, external("w.bin", **entries)))


def test_unknown_fields_are_kept(tmp_path: Path) -> None:
    """What a newer exporter wrote survives: field 1000 of the model, of the graph and of a moved initializer."""
    junk = b"\xc2\x3e\x03abc"
    model = make_model([weight()])
    tensor = model.graph.initializer[0].SerializeToString() + junk
    model.graph.ClearField("initializer")
    graph = model.graph.SerializeToString() + onnx_field(5, tensor) + junk
    model.ClearField("graph")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString() + onnx_field(7, graph) + junk)

    split = split_model(path)

    assert split.graph.count(junk) == 3
    assert len(split.weights["weights.bin"]) == 64 * 32 * 4


def onnx_field(number: int, payload: bytes) -> bytes:
    from edgeguard.scan.protobuf import length_delimited

    return length_delimited(number, payload)


def test_splitting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """A split is a function of the file, so that packing can be repeated."""
    path = save(tmp_path, make_model([weight()]))

    assert split_model(path) == split_model(path)


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x3a\x05ab", b"not a model", b"\x0a" * 100])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    """Damaged files give our error, not a crash."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)

    with pytest.raises(ModelStructureError):
        split_model(path)
