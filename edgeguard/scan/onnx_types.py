"""Inputs, outputs and declared shapes of an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeguard.errors import ModelStructureError
from edgeguard.scan import onnx_limits as limits
from edgeguard.scan import onnx_schema as schema
from edgeguard.scan.onnx_schema import Message, Reader, Span
from edgeguard.scan.onnx_tensors import element_count

Dimension = int | str | None
_Type = tuple[str, tuple[Dimension, ...] | None]

_MAX_REMEMBERED_BYTES: Final = 256  # of a type; those of real models have about thirty
_MAX_REMEMBERED: Final = 4096
_CONTAINERS: Final = (
    ("sequence_type", schema.CONTAINER_TYPE, "elem_type"),
    ("optional_type", schema.CONTAINER_TYPE, "elem_type"),
    ("map_type", schema.MAP_TYPE, "value_type"),
)


@dataclass(frozen=True, slots=True)
class TensorPort:
    """An input or output of the graph.

    `element_type` is the ONNX name in lower case ("float", "float16", "int64"), "" for values that are no tensors.
    `shape` holds a number, a symbol or None (unknown) per axis, and is None when the rank itself is unknown.
    """

    name: str
    element_type: str
    shape: tuple[Dimension, ...] | None


class TypeReader:
    """Reads ValueInfo and Type messages. Equal types are read once: a graph declares hundreds and few differ."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: dict[bytes, _Type] = {}

    def ports(self, holder: Message, field: str) -> tuple[TensorPort, ...]:
        """Return the values that a repeated field of ValueInfo messages declares."""
        return tuple(self.port(span, field) for span in holder.spans(field))

    def port(self, span: Span, what: str) -> TensorPort:
        """Return the value that one ValueInfo declares."""
        value = self._reader.parse(span, schema.VALUE_INFO, what)
        name = value.text("name", limits.MAX_NAME_BYTES)
        for type_span in value.spans("type"):
            return TensorPort(name, *self.check(type_span))
        return TensorPort(name, "", None)

    def check(self, span: Span) -> _Type:
        """Return element type and shape of a type, having checked all of it.

        Raises:
            ModelStructureError: nested too deep, of a kind no plain model has, or a shape larger than any tensor.
        """
        start, end = span
        if end - start > _MAX_REMEMBERED_BYTES:
            return self._check(span, 0)
        raw = bytes(self._reader.buffer[start:end])
        known = self._known.get(raw)
        if known is None:
            known = self._check(span, 0)
            if len(self._known) < _MAX_REMEMBERED:
                self._known[raw] = known
        return known

    def _check(self, span: Span, depth: int) -> _Type:
        if depth > limits.MAX_TYPE_DEPTH:
            raise ModelStructureError(f"types are nested deeper than {limits.MAX_TYPE_DEPTH}", code="EG-G003")
        value = self._reader.parse(span, schema.TYPE, "type")
        for field, table, inner in _CONTAINERS:
            for container_span in value.spans(field):
                container = self._reader.parse(container_span, table, field)
                for inner_span in container.spans(inner):
                    self._check(inner_span, depth + 1)
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
