"""The gate an ONNX model passes before an inference library may parse it.

A signature says who released a model, not that the model is harmless: a build machine can be led to sign a graph that
opens files, recurses until the runtime's stack is gone, or asks for 64 GiB with forty bytes. `check_model` reads the
graph in pure Python, in bounded time and memory, and lets through only what a plain inference model needs.

Refused (code, rule):

    EG-G001  not well-formed protobuf
    EG-G002  fields the schema does not know, singular fields given twice, training graphs, sparse tensors, layouts for
             several devices
    EG-G003  larger, deeper or more than `onnx_limits` allows
    EG-G004  external data outside the buffers that belong to the model or overlapping inside them; unused buffers
    EG-G005  two initializers or inputs of one name, or nameless ones
    EG-G006  operators outside ai.onnx, ai.onnx.ml and a named part of com.microsoft
    EG-G007  functions that call themselves, redefine standard operators, or exist twice
    EG-G008  metadata that configures the runtime
    EG-G009  tensors whose shape, type and data do not add up
    EG-G010  no graph, or no version

Not seen: shapes computed at run time. A memory limit on the process has to hold those.

ATLAS: AML.M0011 (restrict library loading), AML.M0016 (vulnerability scanning).
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from edgeguard.errors import ModelStructureError
from edgeguard.scan import onnx_limits as limits
from edgeguard.scan import onnx_schema as schema
from edgeguard.scan.onnx_schema import Message, Reader, Span
from edgeguard.scan.onnx_tensors import ExternalRanges, check_tensor, element_count, shown

Dimension = int | str | None


@dataclass(frozen=True, slots=True)
class TensorPort:
    """An input or output of the graph.

    `element_type` is the ONNX name in lower case ("float", "float16", "int64"), "" for values that are no tensors.
    `shape` holds a number, a symbol or None (unknown) per axis, and is None when the rank itself is unknown.
    """

    name: str
    element_type: str
    shape: tuple[Dimension, ...] | None


@dataclass(frozen=True, slots=True)
class GraphSummary:
    """What the gate learned about a model it let through.

    `inputs` leaves out initializers that are listed as inputs too. `node_count` counts subgraphs, and functions once
    per call. `initializer_bytes` is the size of all constant tensors, wherever they lie.
    """

    ir_version: int
    inputs: tuple[TensorPort, ...]
    outputs: tuple[TensorPort, ...]
    opsets: Mapping[str, int]
    node_count: int
    initializer_count: int
    initializer_bytes: int
    external_locations: tuple[str, ...]
    operators: frozenset[str]


def check_model(graph: bytes | memoryview, external_sizes: Mapping[str, int]) -> GraphSummary:
    """Let the serialized ModelProto `graph` through, or raise.

    Args:
        graph: the whole of the message; a memoryview is read in place.
        external_sizes: the external data that belongs to the model: location to size in bytes.

    Raises:
        ModelStructureError: the model breaks one of the rules above.
    """
    if len(graph) > limits.MAX_GRAPH_BYTES:
        raise ModelStructureError("the graph is longer than any protobuf message can be", code="EG-G003")
    return _Gate(Reader(graph, limits.MAX_FIELDS), external_sizes).check()


class _FunctionKey(NamedTuple):
    domain: str
    name: str
    overload: str


@dataclass(slots=True)
class _Body:
    """Nodes of the main graph or of a function: how many, and how often each function is called."""

    nodes: int
    calls: dict[_FunctionKey, int]


# Names of constants in scope, innermost graph first, and their values where they can be a shape and lie in the graph.
_Constants = ChainMap[str, tuple[int, ...] | None]


class _Expansion(NamedTuple):
    """A body with every call replaced by what it calls: how many nodes, how many calls in one another."""

    nodes: int
    height: int


class _Gate:
    def __init__(self, reader: Reader, external_sizes: Mapping[str, int]) -> None:
        self._reader = reader
        self._external = ExternalRanges(external_sizes)
        self._functions: dict[_FunctionKey, _Body] = {}
        self._operators: set[str] = set()
        self._initializers = 0
        self._constant_bytes = 0
        self._body = _Body(0, {})  # the one being read

    def check(self) -> GraphSummary:
        model = self._reader.parse((0, len(self._reader.buffer)), schema.MODEL, "model")
        ir_version = model.number("ir_version")
        if not limits.MIN_IR_VERSION <= ir_version <= limits.MAX_IR_VERSION:
            raise ModelStructureError(f"the model has IR version {ir_version}", code="EG-G010")
        if "training_info" in model:
            raise ModelStructureError("the model carries a training graph", code="EG-G002")
        if "configuration" in model:
            raise ModelStructureError("the model is laid out for several devices", code="EG-G002")
        self._check_metadata(model)
        functions = self._declare_functions(model)
        opsets = self._opsets(model, "model")
        if not opsets or "graph" not in model:
            raise ModelStructureError("the model has no graph or names no opset", code="EG-G010")
        for key, function in functions.items():
            self._read_function(key, function)
        expansions: dict[_FunctionKey, _Expansion] = {}
        for key, body in self._functions.items():  # also those nothing calls: a runtime may look at them
            self._expand(body, expansions, (key,))
        main = self._body = _Body(0, {})
        (span,) = model.spans("graph")
        graph = self._reader.parse(span, schema.GRAPH, "graph")
        initializers = self._check_graph(graph, ChainMap(), depth=0)
        inputs = [port for port in self._ports(graph, "input") if port.name not in initializers]
        node_count = self._expand(main, expansions, ()).nodes
        external_locations = self._external.locations()
        return GraphSummary(
            ir_version=ir_version,
            inputs=tuple(inputs),
            outputs=self._ports(graph, "output"),
            opsets=MappingProxyType(opsets),
            node_count=node_count,
            initializer_count=self._initializers,
            initializer_bytes=self._constant_bytes,
            external_locations=external_locations,
            operators=frozenset(self._operators),
        )

    # -- the model's own fields --------------------------------------------------------------------------------

    def _check_metadata(self, model: Message) -> None:
        spans = model.spans("metadata_props")
        if len(spans) > limits.MAX_METADATA:
            raise ModelStructureError(f"the model has more than {limits.MAX_METADATA} metadata", code="EG-G003")
        for span in spans:
            key = self._reader.parse(span, schema.ENTRY, "metadata entry").text("key", limits.MAX_NAME_BYTES)
            if key.strip().casefold() in limits.RUNTIME_METADATA_KEYS:
                raise ModelStructureError(f"the model configures its runtime through {shown(key)}", code="EG-G008")

    def _opsets(self, holder: Message, what: str) -> dict[str, int]:
        known = limits.ONNX_DOMAINS | limits.INERT_DOMAINS | {limits.MICROSOFT_DOMAIN}
        known |= {key.domain for key in self._functions}
        spans = holder.spans("opset_import")
        if len(spans) > limits.MAX_OPSETS:
            raise ModelStructureError(f"the {what} imports more than {limits.MAX_OPSETS} opsets", code="EG-G003")
        opsets: dict[str, int] = {}
        for span in spans:
            opset = self._reader.parse(span, schema.OPSET, "opset import")
            domain, version = opset.text("domain", limits.MAX_NAME_BYTES), opset.number("version")
            domain = "" if domain in limits.DEFAULT_DOMAINS else domain
            if domain not in known:
                raise ModelStructureError(f"the {what} imports operators of {shown(domain)}", code="EG-G006")
            if domain in opsets or version < 1:
                raise ModelStructureError(f"the {what} imports {shown(domain)} twice or in no version", code="EG-G010")
            opsets[domain] = version
        return opsets

    # -- functions ---------------------------------------------------------------------------------------------

    def _declare_functions(self, model: Message) -> dict[_FunctionKey, Message]:
        declared: dict[_FunctionKey, Message] = {}
        for span in model.spans("functions"):
            function = self._reader.parse(span, schema.FUNCTION, "function")
            key = _FunctionKey(*(function.text(part, limits.MAX_NAME_BYTES) for part in _FunctionKey._fields))
            if key in declared or not key.name:
                raise ModelStructureError(f"the function {shown(key.name)} is declared twice", code="EG-G007")
            if not key.domain or key.domain.startswith(limits.RESERVED_PREFIXES):
                raise ModelStructureError(
                    f"the function {shown(key.name)} redefines an operator of {shown(key.domain)}", code="EG-G007"
                )
            declared[key] = function
            self._functions[key] = _Body(0, {})
        return declared

    def _read_function(self, key: _FunctionKey, function: Message) -> None:
        self._opsets(function, "function")
        self._body = self._functions[key]
        constants: _Constants = ChainMap()
        for span in function.spans("attribute_proto"):
            self._check_attribute(span, constants, 0)
        for span in function.spans("value_info"):
            self._port(span, "value")
        for span in function.spans("node"):
            self._check_node(span, constants, 0)

    def _expand(self, body: _Body, done: dict[_FunctionKey, _Expansion], chain: tuple[_FunctionKey, ...]) -> _Expansion:
        """Return the size of `body` once calls are replaced; `chain` is the way here, `done` what is known."""
        nodes, height = body.nodes, 0
        for key, times in body.calls.items():
            if key in chain:
                raise ModelStructureError(f"the function {shown(key.name)} calls itself", code="EG-G007")
            if key not in done:
                if len(chain) > limits.MAX_CALL_DEPTH:  # bounds our own recursion
                    raise _too_deep()
                done[key] = self._expand(self._functions[key], done, (*chain, key))
            nodes += times * done[key].nodes
            height = max(height, 1 + done[key].height)
        if height > limits.MAX_CALL_DEPTH:
            raise _too_deep()
        if nodes > limits.MAX_NODES:
            raise ModelStructureError(f"the model has more than {limits.MAX_NODES} nodes", code="EG-G003")
        return _Expansion(nodes, height)

    # -- graphs ------------------------------------------------------------------------------------------------

    def _check_graph(self, graph: Message, outer: _Constants, depth: int) -> set[str]:
        """Check a graph and all below it; return the names of its initializers."""
        if depth > limits.MAX_NESTING:
            raise ModelStructureError(f"subgraphs are nested deeper than {limits.MAX_NESTING}", code="EG-G003")
        if "sparse_initializer" in graph:
            raise ModelStructureError("the graph has sparse initializers", code="EG-G002")
        constants = outer.new_child()
        names = self._check_initializers(graph, constants, depth)
        inputs = [port.name for port in self._ports(graph, "input")]
        if len(set(inputs)) != len(inputs) or "" in inputs:
            raise ModelStructureError("the graph has two inputs of one name or a nameless one", code="EG-G005")
        self._ports(graph, "output")
        self._ports(graph, "value_info")
        for span in graph.spans("quantization_annotation"):
            annotation = self._reader.parse(span, schema.ANNOTATION, "quantization annotation")
            for entry in annotation.spans("quant_parameter_tensor_names"):
                self._reader.parse(entry, schema.ENTRY, "quantization annotation entry")
        for span in graph.spans("node"):
            self._check_node(span, constants, depth)
        return names

    def _check_initializers(self, graph: Message, constants: _Constants, depth: int) -> set[str]:
        names: set[str] = set()
        external = self._external if depth == 0 else None
        for span in graph.spans("initializer"):
            facts = check_tensor(self._reader, span, external, "initializer")
            if not facts.name or facts.name in names:
                raise ModelStructureError(f"two initializers have the name {shown(facts.name)}", code="EG-G005")
            names.add(facts.name)
            constants[facts.name] = facts.integers
            self._initializers += 1
            self._count_constant(facts.byte_size)
        if self._initializers > limits.MAX_INITIALIZERS:
            raise ModelStructureError(f"more than {limits.MAX_INITIALIZERS} initializers", code="EG-G003")
        return names

    def _count_constant(self, byte_size: int) -> None:
        self._constant_bytes += byte_size
        if self._constant_bytes > limits.MAX_INITIALIZER_BYTES:
            raise ModelStructureError(
                f"the constants take more than {limits.MAX_INITIALIZER_BYTES} bytes", code="EG-G003"
            )

    # -- nodes -------------------------------------------------------------------------------------------------

    def _check_node(self, span: Span, constants: _Constants, depth: int) -> None:
        node = self._reader.parse(span, schema.NODE, "node")
        if "device_configurations" in node:
            raise ModelStructureError("a node is laid out for several devices", code="EG-G002")
        self._body.nodes += 1
        if self._body.nodes > limits.MAX_NODES:
            raise ModelStructureError(f"the model has more than {limits.MAX_NODES} nodes", code="EG-G003")
        domain, op_type = node.text("domain", limits.MAX_NAME_BYTES), node.text("op_type", limits.MAX_NAME_BYTES)
        self._check_operator(_FunctionKey(domain, op_type, node.text("overload", limits.MAX_NAME_BYTES)))
        integers: tuple[int, ...] | None = None
        for attribute in node.spans("attribute"):
            integers = self._check_attribute(attribute, constants, depth) or integers
        if domain not in limits.DEFAULT_DOMAINS:
            return
        if op_type == "Constant" and integers is not None:
            for output in node.texts("output", limits.MAX_NAME_BYTES):
                constants[output] = integers
        elif op_type in _FILL_SHAPE_INPUT:
            self._check_fill(node, op_type, constants)
        elif op_type in _FILL_SHAPE_ATTRIBUTE and integers is not None:
            _check_fill_shape(integers, op_type)

    def _check_operator(self, key: _FunctionKey) -> None:
        if key in self._functions:
            self._body.calls[key] = self._body.calls.get(key, 0) + 1
        elif key.domain not in limits.ONNX_DOMAINS and not (
            key.domain == limits.MICROSOFT_DOMAIN and key.name in limits.MICROSOFT_OPS
        ):
            raise ModelStructureError(
                f"the operator {shown(key.name)} of {shown(key.domain)} is not one that models may use",
                code="EG-G006",
                hint="export the model with standard ONNX operators",
            )
        self._operators.add(f"{key.domain or 'ai.onnx'}::{key.name}")

    def _check_fill(self, node: Message, op_type: str, constants: _Constants) -> None:
        """Refuse a constant shape that asks for more memory than any board has."""
        inputs = node.texts("input", limits.MAX_NAME_BYTES)
        position = _FILL_SHAPE_INPUT[op_type]
        if len(inputs) <= position or inputs[position] not in constants:
            return  # computed at run time
        shape = constants[inputs[position]]
        if shape is None:
            raise ModelStructureError(f"the shape of a {op_type} does not lie in the graph", code="EG-G009")
        _check_fill_shape(shape, op_type)

    def _check_attribute(self, span: Span, constants: _Constants, depth: int) -> tuple[int, ...] | None:
        """Check an attribute and all below it; return its value if it is a short list of integers."""
        attribute = self._reader.parse(span, schema.ATTRIBUTE, "attribute")
        if "sparse_tensor" in attribute or "sparse_tensors" in attribute:
            raise ModelStructureError("an attribute holds a sparse tensor", code="EG-G002")
        integers: tuple[int, ...] | None = None
        for tensor in (*attribute.spans("t"), *attribute.spans("tensors")):
            facts = check_tensor(self._reader, tensor, None, "attribute tensor")
            self._count_constant(facts.byte_size)
            integers = facts.integers
        for subgraph in (*attribute.spans("g"), *attribute.spans("graphs")):
            self._check_graph(self._reader.parse(subgraph, schema.GRAPH, "subgraph"), constants, depth + 1)
        for value_type in (*attribute.spans("tp"), *attribute.spans("type_protos")):
            self._check_type(value_type, 0)
        if attribute.size("ints") <= 10 * limits.MAX_RANK and "ints" in attribute:
            integers = tuple(attribute.numbers("ints", 10 * limits.MAX_RANK))
        return integers

    # -- types -------------------------------------------------------------------------------------------------

    def _ports(self, graph: Message, field: str) -> tuple[TensorPort, ...]:
        return tuple(self._port(span, field) for span in graph.spans(field))

    def _port(self, span: Span, what: str) -> TensorPort:
        value = self._reader.parse(span, schema.VALUE_INFO, what)
        name = value.text("name", limits.MAX_NAME_BYTES)
        for type_span in value.spans("type"):
            element_type, shape = self._check_type(type_span, 0)
            return TensorPort(name, element_type, shape)
        return TensorPort(name, "", None)

    def _check_type(self, span: Span, depth: int) -> tuple[str, tuple[Dimension, ...] | None]:
        if depth > limits.MAX_TYPE_DEPTH:
            raise ModelStructureError(f"types are nested deeper than {limits.MAX_TYPE_DEPTH}", code="EG-G003")
        value = self._reader.parse(span, schema.TYPE, "type")
        for field, table, inner in _CONTAINERS:
            for container_span in value.spans(field):
                container = self._reader.parse(container_span, table, field)
                for inner_span in container.spans(inner):
                    self._check_type(inner_span, depth + 1)
        for field in ("opaque_type", "sparse_tensor_type"):
            if field in value:
                raise ModelStructureError(f"a value has an {field}", code="EG-G002")
        for tensor_span in value.spans("tensor_type"):
            tensor = self._reader.parse(tensor_span, schema.TENSOR_TYPE, "tensor type")
            element_type = schema.ELEMENT_TYPES.get(tensor.number("elem_type"), ("", 0))[0]
            for shape_span in tensor.spans("shape"):
                return element_type, self._shape(shape_span)
            return element_type, None
        return "", None

    def _shape(self, span: Span) -> tuple[Dimension, ...]:
        dims: list[Dimension] = []
        for dim_span in self._reader.parse(span, schema.SHAPE, "shape").spans("dim"):
            dim = self._reader.parse(dim_span, schema.DIMENSION, "dimension")
            if "dim_value" in dim:
                dims.append(dim.number("dim_value"))
            else:
                dims.append(dim.text("dim_param", limits.MAX_NAME_BYTES) or None)
        known = [dim for dim in dims if isinstance(dim, int) and dim > 0]
        if len(dims) > limits.MAX_RANK or element_count(known, "a declared shape") > limits.MAX_TENSOR_BYTES:
            raise ModelStructureError("a declared shape is larger than any tensor may be", code="EG-G003")
        return tuple(dims)


def _check_fill_shape(shape: tuple[int, ...], op_type: str) -> None:
    if element_count([max(dim, 0) for dim in shape], op_type) > limits.MAX_FILL_ELEMENTS:
        raise ModelStructureError(f"a {op_type} makes more than {limits.MAX_FILL_ELEMENTS} elements", code="EG-G003")


def _too_deep() -> ModelStructureError:
    return ModelStructureError(f"functions call functions deeper than {limits.MAX_CALL_DEPTH}", code="EG-G003")


# Which input, or whether an attribute, of these operators is the shape of what they make.
_FILL_SHAPE_INPUT = {"ConstantOfShape": 0, "Expand": 1}
_FILL_SHAPE_ATTRIBUTE = frozenset({"RandomNormal", "RandomUniform"})
_CONTAINERS = (
    ("sequence_type", schema.CONTAINER_TYPE, "elem_type"),
    ("optional_type", schema.CONTAINER_TYPE, "elem_type"),
    ("map_type", schema.MAP_TYPE, "value_type"),
)
