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
    EG-G005  two initializers, inputs or attributes of one name, or nameless initializers and inputs
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
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from edgeguard.errors import ModelStructureError
from edgeguard.scan import onnx_limits as limits
from edgeguard.scan import onnx_schema as schema
from edgeguard.scan.onnx_fills import Constants, Numbers, check_node_memory
from edgeguard.scan.onnx_functions import Body, CallTree, FunctionKey
from edgeguard.scan.onnx_schema import Message, Reader, Span
from edgeguard.scan.onnx_tensors import ExternalRanges, check_tensor, shown
from edgeguard.scan.onnx_types import TensorPort, TypeReader

__all__ = ["GraphSummary", "TensorPort", "check_model"]


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


def check_model(
    graph: bytes | memoryview, external_sizes: Mapping[str, int], *, operator_domains: Collection[str] = ()
) -> GraphSummary:
    """Let the serialized ModelProto `graph` through, or raise.

    Args:
        graph: the whole of the message; a memoryview is read in place.
        external_sizes: the external data that belongs to the model: location to size in bytes.
        operator_domains: domains whose operators come from libraries that were signed with the model.

    Raises:
        ModelStructureError: the model breaks one of the rules above.
    """
    if len(graph) > limits.MAX_GRAPH_BYTES:
        raise ModelStructureError("the graph is longer than any protobuf message can be", code="EG-G003")
    return _Gate(Reader(graph, limits.MAX_FIELDS), external_sizes, frozenset(operator_domains)).check()


class _Gate:
    def __init__(self, reader: Reader, external_sizes: Mapping[str, int], operator_domains: frozenset[str]) -> None:
        self._reader = reader
        self._domains = limits.ONNX_DOMAINS | operator_domains
        self._external = ExternalRanges(external_sizes)
        self._types = TypeReader(reader)
        self._functions = CallTree()
        self._operators: set[str] = set()
        self._initializers = 0
        self._constant_bytes = 0
        self._body = Body()  # the one being read

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
        self._functions.check()
        main = self._body = Body()
        (span,) = model.spans("graph")
        graph = self._reader.parse(span, schema.GRAPH, "graph")
        initializers = self._check_graph(graph, ChainMap(), depth=0)
        inputs = [port for port in self._types.ports(graph, "input") if port.name not in initializers]
        node_count = self._functions.nodes(main)
        external_locations = self._external.locations()
        return GraphSummary(
            ir_version=ir_version,
            inputs=tuple(inputs),
            outputs=self._types.ports(graph, "output"),
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
        known = self._domains | limits.INERT_DOMAINS | {limits.MICROSOFT_DOMAIN}
        known |= {key.domain for key in self._functions.bodies}
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
            if domain in opsets or not 1 <= version <= limits.MAX_OPSET_VERSION:
                raise ModelStructureError(f"the {what} imports {shown(domain)} twice or in no version", code="EG-G010")
            opsets[domain] = version
        return opsets

    # -- functions ---------------------------------------------------------------------------------------------

    def _declare_functions(self, model: Message) -> dict[FunctionKey, Message]:
        declared: dict[FunctionKey, Message] = {}
        for span in model.spans("functions"):
            function = self._reader.parse(span, schema.FUNCTION, "function")
            key = FunctionKey(*(function.text(part, limits.MAX_NAME_BYTES) for part in FunctionKey._fields))
            if key in declared or not key.name:
                raise ModelStructureError(f"the function {shown(key.name)} is declared twice", code="EG-G007")
            if not key.domain or key.domain.startswith(limits.RESERVED_PREFIXES):
                raise ModelStructureError(
                    f"the function {shown(key.name)} redefines an operator of {shown(key.domain)}", code="EG-G007"
                )
            declared[key] = function
            self._functions.bodies[key] = Body()
        return declared

    def _read_function(self, key: FunctionKey, function: Message) -> None:
        self._opsets(function, "function")
        self._body = self._functions.bodies[key]
        constants: Constants = ChainMap()
        for span in function.spans("attribute_proto"):
            self._check_attribute(span, constants, 0)
        for span in function.spans("value_info"):
            self._types.port(span, "value")
        for span in function.spans("node"):
            self._check_node(span, constants, 0)

    # -- graphs ------------------------------------------------------------------------------------------------

    def _check_graph(self, graph: Message, outer: Constants, depth: int) -> set[str]:
        """Check a graph and all below it; return the names of its initializers."""
        if depth > limits.MAX_NESTING:
            raise ModelStructureError(f"subgraphs are nested deeper than {limits.MAX_NESTING}", code="EG-G003")
        if "sparse_initializer" in graph:
            raise ModelStructureError("the graph has sparse initializers", code="EG-G002")
        constants = outer.new_child()
        names = self._check_initializers(graph, constants, depth)
        inputs = [port.name for port in self._types.ports(graph, "input")]
        if len(set(inputs)) != len(inputs) or "" in inputs:
            raise ModelStructureError("the graph has two inputs of one name or a nameless one", code="EG-G005")
        self._types.ports(graph, "output")
        self._types.ports(graph, "value_info")
        for span in graph.spans("quantization_annotation"):
            annotation = self._reader.parse(span, schema.ANNOTATION, "quantization annotation")
            for entry in annotation.spans("quant_parameter_tensor_names"):
                self._reader.parse(entry, schema.ENTRY, "quantization annotation entry")
        for span in graph.spans("node"):
            self._check_node(span, constants, depth)
        return names

    def _check_initializers(self, graph: Message, constants: Constants, depth: int) -> set[str]:
        names: set[str] = set()
        external = self._external if depth == 0 else None
        for span in graph.spans("initializer"):
            facts = check_tensor(self._reader, span, external, "initializer")
            if not facts.name or facts.name in names:
                raise ModelStructureError(f"two initializers have the name {shown(facts.name)}", code="EG-G005")
            names.add(facts.name)
            constants[facts.name] = facts.numbers
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

    def _check_node(self, span: Span, constants: Constants, depth: int) -> None:
        node = self._reader.parse(span, schema.NODE, "node")
        if "device_configurations" in node:
            raise ModelStructureError("a node is laid out for several devices", code="EG-G002")
        self._body.nodes += 1
        if self._body.nodes > limits.MAX_NODES:
            raise ModelStructureError(f"the model has more than {limits.MAX_NODES} nodes", code="EG-G003")
        domain, op_type = node.text("domain", limits.MAX_NAME_BYTES), node.text("op_type", limits.MAX_NAME_BYTES)
        self._check_operator(FunctionKey(domain, op_type, node.text("overload", limits.MAX_NAME_BYTES)))
        attributes: dict[str, Numbers] = {}
        names: set[str] = set()
        for attribute in node.spans("attribute"):
            name, numbers = self._check_attribute(attribute, constants, depth)
            if name in names:
                raise ModelStructureError(f"a node has the attribute {shown(name)} twice", code="EG-G005")
            names.add(name)
            if numbers is not None:
                attributes[name] = numbers
        if domain not in limits.DEFAULT_DOMAINS:
            return
        if op_type == "Constant":
            if len(names) != 1:
                raise ModelStructureError("a Constant has no value or several", code="EG-G009")
            numbers = next(iter(attributes.values()), None)
            for output in node.texts("output", limits.MAX_NAME_BYTES):
                constants[output] = numbers
        else:
            check_node_memory(op_type, node, attributes, constants)

    def _check_operator(self, key: FunctionKey) -> None:
        if key in self._functions.bodies:
            self._body.calls[key] = self._body.calls.get(key, 0) + 1
        elif key.name in limits.PYTHON_OPS or (
            key.domain not in self._domains
            and not (key.domain == limits.MICROSOFT_DOMAIN and key.name in limits.MICROSOFT_OPS)
        ):
            raise ModelStructureError(
                f"the operator {shown(key.name)} of {shown(key.domain)} is not one that models may use",
                code="EG-G006",
                hint="export the model with standard ONNX operators",
            )
        self._operators.add(f"{key.domain or 'ai.onnx'}::{key.name}")

    def _check_attribute(self, span: Span, constants: Constants, depth: int) -> tuple[str, Numbers | None]:
        """Check an attribute and all below it; return its name, and its value if it is a short list of numbers."""
        attribute = self._reader.parse(span, schema.ATTRIBUTE, "attribute")
        if "sparse_tensor" in attribute or "sparse_tensors" in attribute:
            raise ModelStructureError("an attribute holds a sparse tensor", code="EG-G002")
        numbers: Numbers | None = None
        for tensor in (*attribute.spans("t"), *attribute.spans("tensors")):
            facts = check_tensor(self._reader, tensor, None, "attribute tensor")
            self._count_constant(facts.byte_size)
            numbers = facts.numbers
        for subgraph in (*attribute.spans("g"), *attribute.spans("graphs")):
            self._check_graph(self._reader.parse(subgraph, schema.GRAPH, "subgraph"), constants, depth + 1)
        for value_type in (*attribute.spans("tp"), *attribute.spans("type_protos")):
            self._types.check(value_type)
        if "i" in attribute:
            numbers = (attribute.number("i"),)
        elif "ints" in attribute and attribute.size("ints") <= 10 * limits.MAX_RANK:
            numbers = tuple(attribute.numbers("ints", 10 * limits.MAX_RANK))
        elif "floats" in attribute and attribute.size("floats") <= 4 * limits.MAX_RANK:
            numbers = attribute.floats("floats")
        return attribute.text("name", limits.MAX_NAME_BYTES), numbers
