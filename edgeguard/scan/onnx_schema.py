"""The messages of onnx.proto (IR versions 3 to 13) as tables, and a reader that holds a message to its table.

A protobuf parser skips what it does not know, lets the last of two values win and *merges* two copies of a
sub-message. Each of these lets a scanner and a runtime see different models in the same bytes, so `parse` refuses all
three: unknown fields, fields with another wire type than the schema's, and a second copy of a singular field.

The tests hold every table against the descriptors of the `onnx` package.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Final, NamedTuple

from edgeguard.errors import ModelStructureError
from edgeguard.scan.protobuf import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    Buffer,
    fields,
    malformed,
    packed_varints,
    read_varint,
    signed64,
    varint_count,
)

Span = tuple[int, int]


class Kind(Enum):
    """How a field's payload is read."""

    INT = "varint"
    FLOAT = "fixed32"
    DOUBLE = "fixed64"
    BYTES = "string, bytes or an embedded message"


class Slot(NamedTuple):
    """One field of a message."""

    name: str
    kind: Kind
    repeated: bool = False

    @property
    def packable(self) -> bool:
        return self.repeated and self.kind is not Kind.BYTES


_WIRE_TYPE: Final = {Kind.INT: VARINT, Kind.FLOAT: FIXED32, Kind.DOUBLE: FIXED64, Kind.BYTES: LENGTH}
_I, _F, _D, _B = Kind.INT, Kind.FLOAT, Kind.DOUBLE, Kind.BYTES

Schema = dict[int, Slot]
Held = tuple[int, int, int, int]  # payload from and to, the number of a varint, the wire type
_Plan = dict[int, tuple[str, int, bool]]  # by tag: name, wire type, repeated
_ONE_BYTE: Final = 0x7F  # the largest number that a varint holds in one byte
_FIXED_BYTES: Final = {FIXED64: 8, FIXED32: 4}

MODEL: Final[Schema] = {
    1: Slot("ir_version", _I),
    2: Slot("producer_name", _B),
    3: Slot("producer_version", _B),
    4: Slot("domain", _B),
    5: Slot("model_version", _I),
    6: Slot("doc_string", _B),
    7: Slot("graph", _B),
    8: Slot("opset_import", _B, True),
    14: Slot("metadata_props", _B, True),
    20: Slot("training_info", _B, True),
    25: Slot("functions", _B, True),
    26: Slot("configuration", _B, True),
}
GRAPH: Final[Schema] = {
    1: Slot("node", _B, True),
    2: Slot("name", _B),
    5: Slot("initializer", _B, True),
    10: Slot("doc_string", _B),
    11: Slot("input", _B, True),
    12: Slot("output", _B, True),
    13: Slot("value_info", _B, True),
    14: Slot("quantization_annotation", _B, True),
    15: Slot("sparse_initializer", _B, True),
    16: Slot("metadata_props", _B, True),
}
NODE: Final[Schema] = {
    1: Slot("input", _B, True),
    2: Slot("output", _B, True),
    3: Slot("name", _B),
    4: Slot("op_type", _B),
    5: Slot("attribute", _B, True),
    6: Slot("doc_string", _B),
    7: Slot("domain", _B),
    8: Slot("overload", _B),
    9: Slot("metadata_props", _B, True),
    10: Slot("device_configurations", _B, True),
}
ATTRIBUTE: Final[Schema] = {
    1: Slot("name", _B),
    2: Slot("f", _F),
    3: Slot("i", _I),
    4: Slot("s", _B),
    5: Slot("t", _B),
    6: Slot("g", _B),
    7: Slot("floats", _F, True),
    8: Slot("ints", _I, True),
    9: Slot("strings", _B, True),
    10: Slot("tensors", _B, True),
    11: Slot("graphs", _B, True),
    13: Slot("doc_string", _B),
    14: Slot("tp", _B),
    15: Slot("type_protos", _B, True),
    20: Slot("type", _I),
    21: Slot("ref_attr_name", _B),
    22: Slot("sparse_tensor", _B),
    23: Slot("sparse_tensors", _B, True),
}
TENSOR: Final[Schema] = {
    1: Slot("dims", _I, True),
    2: Slot("data_type", _I),
    3: Slot("segment", _B),
    4: Slot("float_data", _F, True),
    5: Slot("int32_data", _I, True),
    6: Slot("string_data", _B, True),
    7: Slot("int64_data", _I, True),
    8: Slot("name", _B),
    9: Slot("raw_data", _B),
    10: Slot("double_data", _D, True),
    11: Slot("uint64_data", _I, True),
    12: Slot("doc_string", _B),
    13: Slot("external_data", _B, True),
    14: Slot("data_location", _I),
    16: Slot("metadata_props", _B, True),
}
VALUE_INFO: Final[Schema] = {
    1: Slot("name", _B),
    2: Slot("type", _B),
    3: Slot("doc_string", _B),
    4: Slot("metadata_props", _B, True),
}
TYPE: Final[Schema] = {
    1: Slot("tensor_type", _B),
    4: Slot("sequence_type", _B),
    5: Slot("map_type", _B),
    6: Slot("denotation", _B),
    7: Slot("opaque_type", _B),
    8: Slot("sparse_tensor_type", _B),
    9: Slot("optional_type", _B),
}
TENSOR_TYPE: Final[Schema] = {1: Slot("elem_type", _I), 2: Slot("shape", _B)}
CONTAINER_TYPE: Final[Schema] = {1: Slot("elem_type", _B)}  # TypeProto.Sequence and TypeProto.Optional
MAP_TYPE: Final[Schema] = {1: Slot("key_type", _I), 2: Slot("value_type", _B)}
SHAPE: Final[Schema] = {1: Slot("dim", _B, True)}
DIMENSION: Final[Schema] = {1: Slot("dim_value", _I), 2: Slot("dim_param", _B), 3: Slot("denotation", _B)}
OPSET: Final[Schema] = {1: Slot("domain", _B), 2: Slot("version", _I)}
ENTRY: Final[Schema] = {1: Slot("key", _B), 2: Slot("value", _B)}
ANNOTATION: Final[Schema] = {1: Slot("tensor_name", _B), 2: Slot("quant_parameter_tensor_names", _B, True)}
FUNCTION: Final[Schema] = {
    1: Slot("name", _B),
    4: Slot("input", _B, True),
    5: Slot("output", _B, True),
    6: Slot("attribute", _B, True),
    7: Slot("node", _B, True),
    8: Slot("doc_string", _B),
    9: Slot("opset_import", _B, True),
    10: Slot("domain", _B),
    11: Slot("attribute_proto", _B, True),
    12: Slot("value_info", _B, True),
    13: Slot("overload", _B),
    14: Slot("metadata_props", _B, True),
}

# TensorProto.DataType: name and bits per element; strings have none.
ELEMENT_TYPES: Final[dict[int, tuple[str, int]]] = {
    1: ("float", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    8: ("string", 0),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("double", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    14: ("complex64", 64),
    15: ("complex128", 128),
    16: ("bfloat16", 16),
    17: ("float8e4m3fn", 8),
    18: ("float8e4m3fnuz", 8),
    19: ("float8e5m2", 8),
    20: ("float8e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
    23: ("float4e2m1", 4),
    24: ("float8e8m0", 8),
    25: ("uint2", 2),
    26: ("int2", 2),
    27: ("float6e2m3", 6),
    28: ("float6e3m2", 6),
}
INT64: Final = 7
STRING: Final = 8


class Message:
    """A parsed message: numbers and spans by field name. Values of absent fields are the schema's defaults."""

    __slots__ = ("_buffer", "_values")

    def __init__(self, buffer: Buffer, values: dict[str, list[Held]]) -> None:
        self._buffer = buffer
        self._values = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def spans(self, name: str) -> list[Span]:
        """Return the payload spans of a BYTES field, in order."""
        return [(start, end) for start, end, _, _ in self._values.get(name, ())]

    def number(self, name: str) -> int:
        """Return a singular INT field as a signed number; 0 when absent."""
        held = self._values.get(name)
        return signed64(held[0][2]) if held else 0

    def numbers(self, name: str, limit: int) -> list[int]:
        """Return a repeated INT field, packed or not, as signed numbers; at most `limit` of them.

        Raises:
            ModelStructureError: it holds more than `limit`.
        """
        found: list[int] = []
        for start, end, number, wire_type in self._values.get(name, ()):
            if wire_type == VARINT:
                found.append(signed64(number))
            else:
                for value in packed_varints(self._buffer, start, end):
                    found.append(signed64(value))
                    if len(found) > limit:
                        break
            if len(found) > limit:
                raise ModelStructureError(f"a list of {name} has more than {limit} entries", code="EG-G003")
        return found

    def floats(self, name: str) -> tuple[float, ...]:
        """Return a repeated FLOAT field, packed or not; whoever calls has looked at its size."""
        return tuple(
            value
            for start, end, _, _ in self._values.get(name, ())
            for (value,) in struct.iter_unpack("<f", self._buffer[start : end - (end - start) % 4])
        )

    def size(self, name: str) -> int:
        """Return the payload bytes of a field, summed over its occurrences."""
        return sum(end - start for start, end, _, _ in self._values.get(name, ()))

    def varints(self, name: str) -> int:
        """Return how many numbers an INT field holds, packed or not, without making them.

        Raises:
            ModelStructureError: the last of them is cut short.
        """
        return sum(
            1 if wire_type == VARINT else varint_count(self._buffer, start, end)
            for start, end, _, wire_type in self._values.get(name, ())
        )

    def text(self, name: str, limit: int) -> str:
        """Return a singular string field; "" when absent.

        Raises:
            ModelStructureError: it is longer than `limit` bytes, no UTF-8, or holds a NUL.
        """
        held = self._values.get(name)
        return text_at(self._buffer, held[0][:2], limit) if held else ""

    def texts(self, name: str, limit: int) -> list[str]:
        """Return a repeated string field, each held to `limit` as `text` does."""
        return [text_at(self._buffer, span, limit) for span in self.spans(name)]


def text_at(buffer: Buffer, span: Span, limit: int) -> str:
    """Return the UTF-8 text in `span`; refuse more than `limit` bytes, other encodings and NUL."""
    start, end = span
    if end - start > limit:
        raise ModelStructureError(f"a name in the model is longer than {limit} bytes", code="EG-G003")
    try:
        text = str(buffer[start:end], "utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ModelStructureError(f"a name in the model is no clean UTF-8 text at byte {start}", code="EG-G001")
    return text


class Reader:
    """Parses messages out of one buffer, within a budget of fields for the whole of it.

    A two-byte field costs two hundred bytes as a Python object and half a microsecond; without the budget a file of
    junk fields would be an attack on memory and time.
    """

    def __init__(self, buffer: Buffer, max_fields: int) -> None:
        self.buffer = buffer
        self._fields_left = max_fields
        self._plans: dict[int, _Plan] = {}

    def parse(self, span: Span, schema: Schema, what: str) -> Message:
        """Read the message in `span` and hold it to `schema`; `what` names it in errors.

        This loop is the gate's running time, so the common field (one byte of tag, one of length) is read in place;
        whatever is uncommon goes through `protobuf.fields`, which knows why it is wrong.

        Raises:
            ModelStructureError: malformed bytes, an unknown field, a wrong wire type, a singular field given twice,
                or the budget is spent.
        """
        plan = self._plans.get(id(schema)) or self._make_plan(schema)
        buffer = self.buffer
        position, end = span
        values: dict[str, list[Held]] = {}
        while position < end:
            begin = position
            tag = buffer[position]
            position += 1
            if tag > _ONE_BYTE:
                tag, position = read_varint(buffer, begin, end)
            slot = plan.get(tag)
            if slot is None:
                raise self._refusal(begin, end, schema, what)
            name, wire_type, repeated = slot
            start, value = position, 0
            if wire_type == LENGTH:
                length, start = _short_varint(buffer, position, end)
                position = start + length
            elif wire_type == VARINT:
                value, position = _short_varint(buffer, position, end)
            else:
                position += _FIXED_BYTES[wire_type]
            if position > end:
                raise malformed("a field reaches past the end of its message", begin)
            held = values.get(name)
            if held is None:
                values[name] = [(start, position, value, wire_type)]
            elif repeated:
                held.append((start, position, value, wire_type))
            else:
                raise ModelStructureError(f"the {what} has more than one {name}", code="EG-G002")
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ModelStructureError("the model has more fields than the gate reads", code="EG-G003")
        return Message(buffer, values)

    def _make_plan(self, schema: Schema) -> _Plan:
        plan: _Plan = {}
        for number, slot in schema.items():
            wire_types = {_WIRE_TYPE[slot.kind], LENGTH} if slot.packable else {_WIRE_TYPE[slot.kind]}
            for wire_type in wire_types:
                plan[number << 3 | wire_type] = (slot.name, wire_type, slot.repeated)
        return self._plans.setdefault(id(schema), plan)

    def _refusal(self, begin: int, end: int, schema: Schema, what: str) -> ModelStructureError:
        """Return the error for a field that is not in the plan; raise it where the bytes are no field at all."""
        field = next(fields(self.buffer, begin, end))
        slot = schema.get(field.number)
        if slot is not None:
            return ModelStructureError(f"the {what} has a {slot.name} of the wrong wire type", code="EG-G002")
        return ModelStructureError(
            f"the {what} has an unknown field {field.number} at byte {field.start}",
            code="EG-G002",
            hint="export the model again with a released version of its exporter",
        )


def _short_varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """Return what `read_varint` does, sooner where the number has one byte."""
    if position < end:
        value = buffer[position]
        if value <= _ONE_BYTE:
            return value, position + 1
    return read_varint(buffer, position, end)
