"""The gate lets real models through and refuses each thing a model could do beside inference."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeguard.errors import ModelStructureError
from edgeguard.scan import onnx_limits as limits
from edgeguard.scan import onnx_schema as schema
from edgeguard.scan.onnx_gate import GraphSummary, TensorPort, check_model
from edgeguard.scan.protobuf import length_delimited, varint_field

REAL_MODELS = [
    "mobilenet_v1_075_192.onnx",
    "mobilenet_v2.onnx",
    "nanodet_m.onnx",
    "squeezenet_fp16.onnx",
    "version-RFB-320.onnx",
]
Node = onnx.NodeProto


def model(nodes: list[Node] | None = None, initializers: list[TensorProto] | None = None) -> onnx.ModelProto:
    """Return a model that is fine: y = x + w, unless other nodes are given."""
    graph = helper.make_graph(
        nodes or [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(4, np.float32), "w")] if initializers is None else initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def check(proto: onnx.ModelProto, sizes: dict[str, int] | None = None) -> GraphSummary:
    return check_model(proto.SerializeToString(), sizes or {})


def refuse(proto: onnx.ModelProto | bytes, code: str, sizes: dict[str, int] | None = None) -> None:
    """Assert that the gate refuses with `code`, for the intended reason."""
    content = proto if isinstance(proto, bytes) else proto.SerializeToString()
    with pytest.raises(ModelStructureError) as caught:
        check_model(content, sizes or {})
    assert caught.value.code == code, caught.value


def external(
    location: str = "weights.bin", offset: str = "0", length: str = "16", name: str = "w", **more: str
) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": length, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


# -- what passes -----------------------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL_MODELS)
def test_real_models_pass_and_are_described(realdata: Path, name: str) -> None:
    """Ports, counts and sizes are those the `onnx` package sees."""
    path = realdata / "vision" / name
    proto = onnx.load(path)

    summary = check_model(memoryview(path.read_bytes()), {})

    constants = {t.name for t in proto.graph.initializer}
    assert [p.name for p in summary.inputs] == [i.name for i in proto.graph.input if i.name not in constants]
    assert [p.name for p in summary.outputs] == [o.name for o in proto.graph.output]
    assert summary.node_count == len(proto.graph.node)
    assert dict(summary.opsets) == {o.domain: o.version for o in proto.opset_import}
    inline = [a.t for n in proto.graph.node for a in n.attribute if a.HasField("t")]
    expected = sum(numpy_helper.to_array(t).nbytes for t in [*proto.graph.initializer, *inline])
    assert summary.initializer_bytes == expected


def test_a_plain_model_is_described() -> None:
    """Symbols stay symbols; nothing is external."""
    summary = check(model())

    assert summary.inputs == (TensorPort("x", "float", ("n", 4)),)
    assert summary.outputs == (TensorPort("y", "float", None),)
    assert summary.external_locations == ()
    assert summary.operators == {"ai.onnx::Add"}


def test_weights_that_belong_to_the_model_pass() -> None:
    """Two ranges of one listed buffer, side by side."""
    tensors = [external(), external(name="v", offset="16", checksum="0")]

    summary = check(model(initializers=tensors), {"weights.bin": 32})

    assert summary.external_locations == ("weights.bin",)
    assert summary.initializer_bytes == 32


def test_local_functions_pass_and_count_once_per_call() -> None:
    """A function of two nodes, called twice, is four nodes."""
    proto = model(
        [helper.make_node("F", ["x"], ["h"], domain="local"), helper.make_node("F", ["h"], ["y"], domain="local")]
    )
    add_function(proto, "F", [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Relu", ["b"], ["c"])])

    assert check(proto).node_count == 2 + 4


def test_the_tables_are_those_of_onnx_proto() -> None:
    """Field numbers, names, wire kinds and repetition agree with the descriptors of the `onnx` package."""
    kinds = {1: schema.Kind.DOUBLE, 2: schema.Kind.FLOAT, 3: schema.Kind.INT, 4: schema.Kind.INT, 5: schema.Kind.INT,
             9: schema.Kind.BYTES, 11: schema.Kind.BYTES, 12: schema.Kind.BYTES, 14: schema.Kind.INT}  # fmt: skip
    tables = {
        onnx.ModelProto: schema.MODEL,
        onnx.GraphProto: schema.GRAPH,
        onnx.NodeProto: schema.NODE,
        onnx.AttributeProto: schema.ATTRIBUTE,
        onnx.TensorProto: schema.TENSOR,
        onnx.ValueInfoProto: schema.VALUE_INFO,
        onnx.TypeProto: schema.TYPE,
        onnx.TypeProto.Tensor: schema.TENSOR_TYPE,
        onnx.TypeProto.Sequence: schema.CONTAINER_TYPE,
        onnx.TypeProto.Optional: schema.CONTAINER_TYPE,
        onnx.TypeProto.Map: schema.MAP_TYPE,
        onnx.TensorShapeProto: schema.SHAPE,
        onnx.TensorShapeProto.Dimension: schema.DIMENSION,
        onnx.OperatorSetIdProto: schema.OPSET,
        onnx.StringStringEntryProto: schema.ENTRY,
        onnx.TensorAnnotation: schema.ANNOTATION,
        onnx.FunctionProto: schema.FUNCTION,
    }
    for message, table in tables.items():
        expected = {f.number: schema.Slot(f.name, kinds[f.type], f.is_repeated) for f in message.DESCRIPTOR.fields}
        assert table == expected, message.DESCRIPTOR.name


def test_element_sizes_are_those_of_onnx() -> None:
    """Every element type that numpy can show has our width."""
    for number, (name, bits) in schema.ELEMENT_TYPES.items():
        if number in onnx.TensorProto.DataType.values() and bits >= 8:
            assert helper.tensor_dtype_to_np_dtype(number).itemsize * 8 == bits, name


# -- external data -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "/etc/passwd",
        "other.bin",
        "a/weights.bin",
        "",
        "*/_ORT_MEM_ADDR_/*",
        "Weights.bin",
        "weights.bin ",
    ],
)
def test_only_listed_locations_are_read(location: str) -> None:
    """What onnxruntime would open as a file, or as an address, is refused."""
    refuse(model(initializers=[external(location)]), "EG-G004", {"weights.bin": 16})


def test_a_listed_location_must_be_flat_too() -> None:
    """The caller's own table cannot open a door either."""
    for location in ("../x", "*/_ORT_MEM_ADDR_/*", ".."):
        refuse(model(initializers=[external(location)]), "EG-G004", {location: 16})


@pytest.mark.parametrize(
    ("offset", "length"), [("1", "16"), ("-1", "16"), ("+0", "16"), ("0 ", "16"), ("٠", "16"), ("9" * 25, "16")]
)
def test_ranges_stay_inside_the_buffer(offset: str, length: str) -> None:
    """A range that ends one byte late would be an out-of-bounds read inside onnxruntime."""
    refuse(model(initializers=[external(offset=offset, length=length)]), "EG-G004", {"weights.bin": 16})


def test_lengths_must_be_those_of_the_shape() -> None:
    """Longer or shorter data than the shape needs is no weight."""
    for length in ("15", "17", "0"):
        refuse(model(initializers=[external(length=length)]), "EG-G009", {"weights.bin": 64})


def test_tensors_may_not_share_bytes() -> None:
    """Overlap by one element is refused."""
    tensors = [external(), external(name="v", offset="12")]

    refuse(model(initializers=tensors), "EG-G004", {"weights.bin": 64})


def test_unused_weights_are_refused() -> None:
    """Names map one to one between bundle and graph."""
    refuse(model(), "EG-G004", {"weights.bin": 16})


def test_doubled_and_unknown_keys_are_refused() -> None:
    """Two offsets, of which one reader takes the first and another the last."""
    twice = external()
    twice.external_data.add(key="offset", value="0")

    refuse(model(initializers=[twice]), "EG-G004", {"weights.bin": 16})
    refuse(model(initializers=[external(basepath="/etc")]), "EG-G004", {"weights.bin": 16})


def test_only_initializers_of_the_main_graph_may_be_external() -> None:
    """Attributes and subgraphs resolve names by themselves, in the current directory."""
    inner = helper.make_graph([helper.make_node("Identity", ["v"], ["b"])], "b", [],
                              [helper.make_tensor_value_info("b", 1, None)], [external(name="v")])  # fmt: skip
    branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)

    refuse(model([helper.make_node("Constant", [], ["y"], value=external())]), "EG-G004", {"weights.bin": 16})
    refuse(model([branch]), "EG-G004", {"weights.bin": 16})


def test_a_tensor_is_inline_or_external_not_both() -> None:
    """Data beside an external entry would let two readers see two weights."""
    both, unmarked = external(), external()
    both.raw_data = bytes(16)
    unmarked.data_location = TensorProto.DEFAULT

    for tensor in (both, unmarked):
        refuse(model(initializers=[tensor]), "EG-G004", {"weights.bin": 16})


# -- operators and functions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "op"),
    [
        ("com.microsoft", "PyOp"),
        ("com.microsoft", "EPContext"),
        ("ai.onnx.contrib", "PyCustomOp"),
        ("pyopadd", "PyOp"),
        ("custom", "Relu"),
        ("com.microsoft.nchwc", "Conv"),
        ("ai.onnx ", "Relu"),
    ],
)
def test_operators_outside_the_list_are_refused(domain: str, op: str) -> None:
    """Custom code, Python callbacks and engine blobs have no place in a model."""
    refuse(model([helper.make_node(op, ["x"], ["y"], domain=domain)]), "EG-G006")


def test_the_quantizers_operators_pass() -> None:
    """The named part of com.microsoft is what onnxruntime's own tools write."""
    proto = model([helper.make_node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft")])

    assert check(proto).operators == {"com.microsoft::FusedConv"}


def test_importing_an_unknown_domain_is_refused() -> None:
    """Even without a node that uses it."""
    proto = model()
    proto.opset_import.add(domain="custom", version=1)

    refuse(proto, "EG-G006")


def add_function(proto: onnx.ModelProto, name: str, nodes: list[Node], domain: str = "local") -> None:
    proto.functions.append(helper.make_function(domain, name, ["a"], ["c"], nodes, [helper.make_opsetid("", 17)]))
    if domain not in {o.domain for o in proto.opset_import}:
        proto.opset_import.add(domain=domain, version=1)


def call(name: str) -> Node:
    return helper.make_node(name, ["a"], ["c"], domain="local")


def test_recursive_functions_are_refused() -> None:
    """onnxruntime up to 1.26 crashes on them; also when two call each other, or nothing calls them."""
    for bodies in ({"F": "F"}, {"F": "G", "G": "F"}):
        for called in (True, False):
            proto = model([helper.make_node("F", ["x"], ["y"], domain="local")] if called else None)
            for name, callee in bodies.items():
                add_function(proto, name, [call(callee)])
            refuse(proto, "EG-G007")


def test_functions_that_multiply_are_refused() -> None:
    """Seventeen lines that double each other are more nodes than fit: the billion laughs of ONNX."""
    proto = model([helper.make_node("F0", ["x"], ["y"], domain="local")])
    for level in range(15):
        add_function(proto, f"F{level}", [call(f"F{level + 1}")] * 3)
    add_function(proto, "F15", [helper.make_node("Relu", ["a"], ["c"])])

    refuse(proto, "EG-G003")


@pytest.mark.parametrize("backwards", [False, True])
def test_chains_of_functions_are_bounded(backwards: bool) -> None:
    """Runtimes inline by recursion; the order in which functions are declared does not matter."""
    proto = model()
    names = [f"F{level}" for level in range(limits.MAX_CALL_DEPTH + 5)]
    bodies = [*itertools.pairwise(names)]
    for name, callee in reversed(bodies) if backwards else bodies:
        add_function(proto, name, [call(callee)])
    add_function(proto, names[-1], [helper.make_node("Relu", ["a"], ["c"])])

    refuse(proto, "EG-G003")


def test_standard_operators_cannot_be_redefined() -> None:
    """A function called ai.onnx::Add would replace the kernel that the name promises."""
    for domain in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft"):
        proto = model()
        add_function(proto, "Add", [helper.make_node("Relu", ["a"], ["c"])], domain)
        refuse(proto, "EG-G007")


def test_a_function_is_declared_once() -> None:
    """Two bodies for one name."""
    proto = model()
    for _ in range(2):
        add_function(proto, "F", [helper.make_node("Relu", ["a"], ["c"])])

    refuse(proto, "EG-G007")


# -- structure ---------------------------------------------------------------------------------------------------------


def test_a_second_initializer_of_one_name_is_refused() -> None:
    """onnxruntime loads it and takes one of them."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")

    refuse(model(initializers=[tensor, tensor]), "EG-G005")


def test_trailing_bytes_are_refused() -> None:
    """onnxruntime skips junk after the model; a signature would cover it unseen."""
    content = model().SerializeToString()

    refuse(content + b"\x00", "EG-G001")
    refuse(content + b"junk behind the model", "EG-G001")
    refuse(content + length_delimited(1000, b"payload"), "EG-G002")


def test_a_second_graph_is_refused() -> None:
    """protobuf merges two copies of a message, so a scanner of the first would miss the second."""
    content = model().SerializeToString()

    refuse(content + length_delimited(7, model().graph.SerializeToString()), "EG-G002")


def test_unknown_fields_are_refused_at_every_level() -> None:
    """In the model, the graph, a node and an initializer."""
    proto = model()
    node = proto.graph.node[0].SerializeToString() + varint_field(999, 1)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    head = proto.SerializeToString()

    refuse(head + length_delimited(7, graph + varint_field(999, 1)), "EG-G002")
    refuse(head + length_delimited(7, graph + length_delimited(1, node)), "EG-G002")
    refuse(head + length_delimited(7, graph + length_delimited(5, varint_field(999, 1))), "EG-G002")


def test_runtime_configuration_in_metadata_is_refused() -> None:
    """onnxruntime can take session options from this key."""
    for key in ("ort_config", "ORT_Config", " ort_config"):
        proto = model()
        proto.metadata_props.add(key=key, value="{}")
        refuse(proto, "EG-G008")


def test_training_graphs_sparse_tensors_and_device_layouts_are_refused() -> None:
    """None of them is needed to run a model on a board."""
    training = model()
    training.training_info.add()
    sparse = model()
    sparse.graph.sparse_initializer.add()

    spread, placed = model(), model()
    spread.configuration.add(name="two", num_devices=2)
    placed.graph.node[0].device_configurations.add(configuration_id="two")

    for proto in (training, sparse, spread, placed):
        refuse(proto, "EG-G002")


def test_empty_and_versionless_models_are_refused() -> None:
    """No graph, no opset, no version."""
    no_graph, no_opset, no_version = model(), model(), model()
    no_graph.ClearField("graph")
    no_opset.ClearField("opset_import")
    no_version.ClearField("ir_version")

    for broken in (no_graph, no_opset, no_version):
        refuse(broken, "EG-G010")
    refuse(b"", "EG-G010")


# -- sizes -------------------------------------------------------------------------------------------------------------


def nested(depth: int) -> onnx.GraphProto:
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", 1, None)])
    for _ in range(depth):
        node = helper.make_node("If", ["x"], ["y"], then_branch=graph)
        graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", 1, None)])
    return graph


def test_nesting_is_bounded() -> None:
    """The deepest allowed passes, one more does not."""
    for depth, allowed in ((limits.MAX_NESTING, True), (limits.MAX_NESTING + 1, False), (20, False)):
        proto = model()
        proto.graph.CopyFrom(nested(depth))
        if allowed:
            assert check(proto).node_count == depth + 1
        else:
            refuse(proto, "EG-G003")


def test_node_count_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One node more than the limit is refused."""
    monkeypatch.setattr(limits, "MAX_NODES", 50)
    node = helper.make_node("Relu", ["x"], ["y"])

    assert check(model([node] * 50)).node_count == 50
    refuse(model([node] * 51), "EG-G003")


def test_junk_fields_run_into_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million two-byte fields cost memory and time out of proportion to the file."""
    monkeypatch.setattr(limits, "MAX_FIELDS", 1000)
    tensor = TensorProto(name="w", data_type=TensorProto.INT32, dims=[2000])
    unpacked = tensor.SerializeToString() + varint_field(5, 1) * 2000

    refuse(
        b"\x08\x08" + length_delimited(7, length_delimited(5, unpacked)) + length_delimited(8, varint_field(2, 17)),
        "EG-G003",
    )


def giant(name: str) -> TensorProto:
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1 << 20, 1 << 20])


@pytest.mark.parametrize(
    ("tensor", "code"),
    [
        (giant("w"), "EG-G003"),
        (TensorProto(name="w", data_type=1, dims=[1 << 62] * 16), "EG-G003"),
        (TensorProto(name="w", data_type=1, dims=[1] * 17), "EG-G003"),
        (TensorProto(name="w", data_type=1, dims=[-4], raw_data=bytes(16)), "EG-G009"),
        (TensorProto(name="w", data_type=1, dims=[4], raw_data=bytes(15)), "EG-G009"),
        (TensorProto(name="w", data_type=1, dims=[4]), "EG-G009"),
        (TensorProto(name="w", data_type=1, dims=[4], float_data=[1.0] * 3), "EG-G009"),
        (TensorProto(name="w", data_type=1, dims=[4], raw_data=bytes(16), float_data=[1.0] * 4), "EG-G009"),
        (TensorProto(name="w", data_type=99, dims=[4], raw_data=bytes(16)), "EG-G009"),
        (TensorProto(name="w", data_type=8, dims=[4], raw_data=bytes(16)), "EG-G009"),
        (TensorProto(name="w", data_type=8, dims=[2], string_data=[b"a"]), "EG-G009"),
        (TensorProto(name="w", data_type=6, dims=[400], int32_data=[1]), "EG-G009"),
        (TensorProto(name="w", data_type=6, dims=[2], int32_data=[1, 2, 3]), "EG-G009"),
        (TensorProto(name="w", data_type=22, dims=[5], int32_data=[1, 2]), "EG-G009"),
        (TensorProto(name="w", data_type=7, dims=[2], int32_data=[1, 2]), "EG-G009"),
        (TensorProto(name="w", data_type=11, dims=[1], float_data=[1.0, 2.0]), "EG-G009"),
        (TensorProto(name="", data_type=1, dims=[4], raw_data=bytes(16)), "EG-G005"),
    ],
)  # fmt: skip
def test_tensors_must_add_up(tensor: TensorProto, code: str) -> None:
    """Shape, type and data agree, and none of them is absurd."""
    refuse(model(initializers=[tensor]), code)


@pytest.mark.parametrize(
    "tensor",
    [
        helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("w", TensorProto.STRING, [2], [b"a", b"b"]),
        helper.make_tensor("w", TensorProto.INT8, [3], [-1, 2, 3]),
        helper.make_tensor("w", TensorProto.COMPLEX64, [2], [1 + 2j, 3 + 4j]),
        helper.make_tensor("w", TensorProto.INT4, [5], [1, 2, 3, 4, 5]),
        helper.make_tensor("w", TensorProto.BOOL, [2], [True, False]),
        helper.make_tensor("w", TensorProto.UINT32, [2], [1, 2**32 - 1]),
        helper.make_tensor("w", TensorProto.COMPLEX128, [1], [1 + 2j]),
        helper.make_tensor("w", TensorProto.BFLOAT16, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("w", TensorProto.FLOAT8E4M3FN, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("w", TensorProto.DOUBLE, [0], []),
        helper.make_tensor("w", TensorProto.FLOAT16, [2], [1.0, 2.0]),
        numpy_helper.from_array(np.array(7, np.int64), "w"),
    ],
)
def test_every_way_to_write_a_tensor_passes(tensor: TensorProto) -> None:
    """Typed fields, packed nibbles, scalars and empty tensors are ordinary."""
    assert check(model(initializers=[tensor])).initializer_count == 1


def shape_of(*dims: int) -> TensorProto:
    return numpy_helper.from_array(np.array(dims, np.int64), "w")


def constant(name: str, value: np.ndarray) -> Node:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("ConstantOfShape", ["w"], ["y"])],
        [helper.make_node("Expand", ["x", "w"], ["y"])],
        [
            helper.make_node("Constant", [], ["s"], value=shape_of(1 << 18, 1 << 18)),
            helper.make_node("Expand", ["x", "s"], ["y"]),
        ],
        [
            helper.make_node("Constant", [], ["s"], value_ints=[1 << 18, 1 << 18]),
            helper.make_node("ConstantOfShape", ["s"], ["y"]),
        ],
        [helper.make_node("RandomNormal", [], ["y"], shape=[1 << 18, 1 << 18])],
        [helper.make_node("Tile", ["x", "w"], ["y"])],
        [helper.make_node("Tile", ["x"], ["y"], repeats=[1 << 18, 1 << 18])],
        [helper.make_node("Resize", ["x", "", "", "w"], ["y"])],
        [helper.make_node("CenterCropPad", ["x", "w"], ["y"])],
        [helper.make_node("Upsample", ["x"], ["y"], scales=[1e5, 1e5])],
        [constant("s", np.array([1.0, 1e5, 1e5], np.float32)), helper.make_node("Resize", ["x", "", "s"], ["y"])],
        [constant("s", np.array([1e5, 1e5], np.float32)), helper.make_node("Upsample", ["x", "s"], ["y"])],
        [constant("s", np.array([1 << 15] * 4, np.int64)), helper.make_node("Pad", ["x", "s"], ["y"])],
        [helper.make_node("Pad", ["x"], ["y"], pads=[1 << 16, 1 << 16, 1 << 16, 1 << 16])],
        [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], pads=[0, 0, 0, 1 << 40])],
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], output_shape=[1 << 15, 1 << 15])],
        [constant("n", np.array(1 << 40, np.int64)), helper.make_node("OneHot", ["x", "n", "w"], ["y"])],
        [constant("n", np.array(1 << 40, np.int64)), helper.make_node("HannWindow", ["n"], ["y"])],
        [
            constant("a", np.array(0, np.int64)),
            constant("b", np.array(1 << 40, np.int64)),
            constant("d", np.array(1, np.int64)),
            helper.make_node("Range", ["a", "b", "d"], ["y"]),
        ],
    ],
)  # fmt: skip
def test_memory_out_of_nothing_is_refused(nodes: list[Node]) -> None:
    """Forty bytes that ask for 256 GiB when the model is loaded."""
    refuse(model(nodes, [shape_of(1 << 18, 1 << 18)]), "EG-G003")


def test_ordinary_fills_pass() -> None:
    """Small fills, and shapes computed while running, are what real models do."""
    check(model([helper.make_node("ConstantOfShape", ["w"], ["y"])], [shape_of(8, 8)]))
    check(model([helper.make_node("Shape", ["x"], ["s"]), helper.make_node("ConstantOfShape", ["s"], ["y"])]))


def test_ordinary_resizing_passes() -> None:
    """What detectors do: double an image, pad a border, tile a row, count to a thousand."""
    check(
        model(
            [
                constant("scales", np.array([1, 1, 2, 2], np.float32)),
                helper.make_node("Resize", ["x", "", "scales"], ["a"]),
                constant("sizes", np.array([1, 3, 4096, 4096], np.int64)),
                helper.make_node("Resize", ["a", "", "", "sizes"], ["b"]),
                constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)),
                helper.make_node("Pad", ["b", "pads"], ["c"]),
                constant("repeats", np.array([1, 1, 1, 100], np.int64)),
                helper.make_node("Tile", ["c", "repeats"], ["d"]),
                *(constant(name, np.array(value, np.int64)) for name, value in (("i", 0), ("j", 1000), ("k", 1))),
                helper.make_node("Range", ["i", "j", "k"], ["e"]),
                helper.make_node("Slice", ["e"], ["y"], ends=[(1 << 63) - 1], starts=[0], axes=[0]),
            ]
        )
    )


def test_two_values_for_one_attribute_are_refused() -> None:
    """One reader takes the first, another the last; a Constant has one value by whatever name."""
    twice, several = helper.make_node("Cast", ["x"], ["y"], to=1), constant("y", np.zeros(1, np.int64))
    twice.attribute.append(helper.make_attribute("to", 7))
    several.attribute.append(helper.make_attribute("value_ints", [1 << 40]))

    refuse(model([twice]), "EG-G005")
    refuse(model([several]), "EG-G009")
    refuse(model([helper.make_node("Constant", [], ["y"])]), "EG-G009")


def test_opsets_from_the_far_future_are_refused() -> None:
    """A version that no runtime has is a way to make one guess."""
    for version in (0, -1, limits.MAX_OPSET_VERSION + 1, (1 << 63) - 1):
        proto = model()
        proto.opset_import[0].version = version
        refuse(proto, "EG-G010")


def test_absurd_declared_shapes_are_refused() -> None:
    """A runtime plans its memory from them."""
    proto = model()
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [1 << 40, 1 << 40]))

    refuse(proto, "EG-G003")


def test_names_are_clean_and_bounded() -> None:
    """A NUL ends a name for one reader and not for another."""
    nul, long = model(), model()
    nul.graph.node[0].op_type = "Re\0lu"
    long.graph.node[0].op_type = "R" * (limits.MAX_NAME_BYTES + 1)

    refuse(nul, "EG-G001")
    refuse(long, "EG-G003")


def test_messages_do_not_repeat_long_names() -> None:
    """What an attacker writes into a name does not fill the log."""
    proto = model([helper.make_node("E" * 3000, ["x"], ["y"], domain="evil\n")])

    with pytest.raises(ModelStructureError) as caught:
        check(proto)

    assert len(caught.value.message) < 300
    assert "\n" not in caught.value.message


# -- robustness and cost -----------------------------------------------------------------------------------------------


def rich_model() -> bytes:
    """A model with one of everything: functions, subgraphs, external and typed tensors, types, metadata."""
    proto = model(
        [
            helper.make_node("F", ["x"], ["h"], domain="local"),
            helper.make_node("If", ["x"], ["k"], then_branch=nested(2)),
            helper.make_node("Constant", [], ["s"], value=shape_of(2, 2)),
            helper.make_node("Expand", ["h", "s"], ["e"]),
            helper.make_node("Cast", ["e"], ["y"], to=1),
        ],
        [external(), helper.make_tensor("t", TensorProto.INT32, [3], [1, -2, 3]), shape_of(3)],
    )
    proto.graph.initializer[2].name = "s0"
    add_function(proto, "F", [helper.make_node("Relu", ["a"], ["c"])])
    proto.metadata_props.add(key="author", value="nobody")
    sequence = helper.make_tensor_sequence_value_info("q", TensorProto.FLOAT, [1, None])
    proto.graph.value_info.append(sequence)
    proto.graph.quantization_annotation.add(tensor_name="x").quant_parameter_tensor_names.add(key="k", value="v")
    return proto.SerializeToString()


RICH = rich_model()


def test_the_model_for_mutations_passes() -> None:
    """Else the fuzzing below would start from a refusal."""
    assert check_model(RICH, {"weights.bin": 16}).node_count > 5


def flip(content: bytes, at: int, byte: int) -> bytes:
    return content[:at] + bytes([byte]) + content[at + 1 :]


def cut(content: bytes, at: int, byte: int) -> bytes:
    return content[: max(0, at - byte)] + content[at:]


def double(content: bytes, at: int, byte: int) -> bytes:
    return content[:at] + content[max(0, at - byte) : at] + content[at:]


def truncate(content: bytes, at: int, byte: int) -> bytes:
    return content[:at]


@settings(max_examples=800)
@given(
    st.lists(
        st.tuples(st.sampled_from([flip, flip, cut, double, truncate]), st.integers(0, len(RICH)), st.integers(0, 255)),
        min_size=1,
        max_size=4,
    )
)
def test_mutated_models_are_read_or_refused(changes: list[tuple[Callable[..., bytes], int, int]]) -> None:
    """The gate answers with its own error, or with a summary that agrees with what protobuf reads."""
    content = RICH
    for change, at, byte in changes:
        content = change(content, min(at, len(content)), byte)

    try:
        summary = check_model(content, {"weights.bin": 16})
    except ModelStructureError:
        return  # any other exception fails the test
    try:
        seen = onnx.load_from_string(content)
    except DecodeError:
        return  # text the gate has no need to read is no UTF-8; what protobuf refuses runs nowhere
    constants = {t.name for t in seen.graph.initializer}
    assert [p.name for p in summary.inputs] == [i.name for i in seen.graph.input if i.name not in constants]
    assert summary.ir_version == seen.ir_version
    for tensor in tensors_in(seen):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if tensor.data_location == TensorProto.EXTERNAL or entries:
            assert entries["location"] == "weights.bin"
            assert int(entries.get("offset", 0)) + int(entries.get("length", 16)) <= 16


def tensors_in(message: Message) -> Iterator[TensorProto]:
    """Yield every tensor of a message, however deep."""
    if isinstance(message, TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from tensors_in(inner)


@given(st.binary(max_size=400))
def test_random_bytes_are_refused(content: bytes) -> None:
    """No random bytes make a model."""
    with pytest.raises(ModelStructureError):
        check_model(content, {})


def test_weights_are_not_read() -> None:
    """200 MB inside the graph cost no more than their tag and length: at most 20 ms."""
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[200_000_000]).SerializeToString()
    proto = model(initializers=[])
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    raw = length_delimited(9, bytes(200_000_000))
    content = proto.SerializeToString() + length_delimited(7, graph + length_delimited(5, tensor + raw))

    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        summary = check_model(content, {})
        seconds.append(time.perf_counter() - started)

    assert summary.initializer_bytes == 200_000_000
    assert min(seconds) < 0.020


def test_the_gate_opens_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted file with the right name changes nothing: only the caller's table counts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planted.bin").write_bytes(os.urandom(16))

    refuse(model(initializers=[external("planted.bin")]), "EG-G004")
