"""Rules for tensors in a model: sizes that add up, and external data that can only mean our own buffers.

A runtime that resolves an external location by itself opens files: `../x`, absolute paths and symbolic links on
onnxruntime before 1.24, the current directory for a model given as bytes, and process memory for the marker
`*/_ORT_MEM_ADDR_/*`. Here a location is accepted only when it is one of the names the caller holds in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, NamedTuple

from edgeguard.errors import ModelStructureError
from edgeguard.scan import onnx_limits as limits
from edgeguard.scan import onnx_schema as schema
from edgeguard.scan.onnx_schema import Message, Reader, Span

_EXTERNAL: Final = 1  # TensorProto.DataLocation
_EXTERNAL_KEYS: Final = frozenset({"location", "offset", "length", "checksum"})
# Which element types a typed field may hold, as onnx.proto says; int32_data holds every type not named elsewhere.
_FIELD_OF_TYPE: Final = {
    1: "float_data",
    14: "float_data",
    11: "double_data",
    15: "double_data",
    7: "int64_data",
    12: "uint64_data",
    13: "uint64_data",
    8: "string_data",
}
_TYPED_FIELDS: Final = ("float_data", "int32_data", "int64_data", "uint64_data", "double_data", "string_data")
# Element types whose values are looked at: field and format.
_VECTOR_FORMATS: Final = {1: ("float_data", "<f"), 6: ("int32_data", "<i"), schema.INT64: ("int64_data", "<q")}
_MAX_NUMBER_DIGITS: Final = 19  # of a 63-bit number
_SHOWN_CHARACTERS: Final = 80  # of a name, in messages


class TensorFacts(NamedTuple):
    """What the graph rules ask about a tensor. `numbers`: its values when it is a short inline vector of them."""

    name: str
    byte_size: int
    numbers: tuple[int, ...] | tuple[float, ...] | None


def shown(name: str) -> str:
    """Return a name for a message: quoted, escaped and cut."""
    return repr(name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "...")


def element_count(dims: list[int], what: str) -> int:
    """Return the product of `dims`.

    Raises:
        ModelStructureError: too many dimensions or a negative one.
    """
    if len(dims) > limits.MAX_RANK:
        raise ModelStructureError(f"{what} has more than {limits.MAX_RANK} dimensions", code="EG-G003")
    count = 1
    for dim in dims:
        if dim < 0:
            raise ModelStructureError(f"{what} has a negative dimension", code="EG-G009")
        count *= dim
    return count


class ExternalRanges:
    """Which bytes of which external buffers the tensors read so far have claimed."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._claims: dict[str, list[tuple[int, int, str]]] = {}

    def claim(self, entries: dict[str, str], byte_size: int, name: str) -> None:
        """Record the range that `entries` give to the tensor `name`.

        Raises:
            ModelStructureError: the location is not held in memory, or the range does not fit it or the tensor.
        """
        location = entries.get("location", "")
        if location not in self._sizes or not is_flat(location):
            raise ModelStructureError(
                f"initializer {shown(name)} has its data in {shown(location)}, which is not part of the model",
                code="EG-G004",
                hint="pack the model again; packing pulls its data files in",
            )
        offset = _natural(entries.get("offset", "0"), name)
        length = _natural(entries.get("length", str(byte_size)), name)
        if length != byte_size:
            raise ModelStructureError(
                f"initializer {shown(name)} names {length} bytes where its shape needs {byte_size}", code="EG-G009"
            )
        if offset + length > self._sizes[location]:
            raise ModelStructureError(
                f"initializer {shown(name)} reaches past the end of {shown(location)}", code="EG-G004"
            )
        self._claims.setdefault(location, []).append((offset, offset + length, name))

    def locations(self) -> tuple[str, ...]:
        """Return the locations claimed, sorted.

        Raises:
            ModelStructureError: two tensors share bytes of one, or no tensor uses one.
        """
        unused = sorted(set(self._sizes) - set(self._claims))
        if unused:
            raise ModelStructureError(f"nothing in the graph uses {shown(unused[0])}", code="EG-G004")
        for claims in self._claims.values():
            claims.sort()
            end, owner = 0, ""
            for start, stop, name in claims:
                if start < end and start < stop:
                    raise ModelStructureError(
                        f"initializers {shown(owner)} and {shown(name)} share bytes of the weights", code="EG-G004"
                    )
                if stop > end:
                    end, owner = stop, name
        return tuple(sorted(self._claims))


def is_flat(location: str) -> bool:
    """Tell whether `location` is a plain file name on any system and none of a runtime's markers."""
    return bool(location) and location not in (".", "..") and not any(c in location for c in "/\\:*")


def check_tensor(reader: Reader, span: Span, external: ExternalRanges | None, what: str) -> TensorFacts:
    """Check one TensorProto; `external` is None where a tensor must hold its own data.

    Raises:
        ModelStructureError: see the module; also when shape, type and data do not add up.
    """
    tensor = reader.parse(span, schema.TENSOR, what)
    name = tensor.text("name", limits.MAX_NAME_BYTES)
    label = f"{what} {shown(name)}" if name else what
    dims = tensor.numbers("dims", limits.MAX_RANK)
    count = element_count(dims, label)
    data_type = tensor.number("data_type")
    if data_type not in schema.ELEMENT_TYPES:
        raise ModelStructureError(f"{label} has an unknown element type {data_type}", code="EG-G009")
    byte_size = (count * schema.ELEMENT_TYPES[data_type][1] + 7) // 8
    if max(count, byte_size) > limits.MAX_TENSOR_BYTES:
        raise ModelStructureError(f"{label} is larger than {limits.MAX_TENSOR_BYTES} bytes", code="EG-G003")
    if "segment" in tensor:
        raise ModelStructureError(f"{label} is given in segments, which no runtime reads", code="EG-G009")
    if tensor.number("data_location") == _EXTERNAL or "external_data" in tensor:
        _check_external(reader, tensor, external, byte_size, label, name)
    else:
        _check_inline(tensor, count, byte_size, data_type, label)
    return TensorFacts(name, byte_size, _numbers(reader, tensor, data_type, dims))


def _check_external(
    reader: Reader, tensor: Message, external: ExternalRanges | None, byte_size: int, label: str, name: str
) -> None:
    has_own = any(field in tensor for field in (*_TYPED_FIELDS, "raw_data"))
    if external is None or has_own or tensor.number("data_location") != _EXTERNAL or not name:
        raise ModelStructureError(f"{label} may not have external data here", code="EG-G004")
    if tensor.number("data_type") == schema.STRING:
        raise ModelStructureError(f"{label} holds strings outside the graph", code="EG-G004")
    entries: dict[str, str] = {}
    for span in tensor.spans("external_data"):
        entry = reader.parse(span, schema.ENTRY, "external data entry")
        key = entry.text("key", limits.MAX_NAME_BYTES)
        if key in entries or key not in _EXTERNAL_KEYS:
            raise ModelStructureError(f"{label} has an unexpected external data key {shown(key)}", code="EG-G004")
        entries[key] = entry.text("value", limits.MAX_NAME_BYTES)
    external.claim(entries, byte_size, name)


def _check_inline(tensor: Message, count: int, byte_size: int, data_type: int, label: str) -> None:
    held = [field for field in (*_TYPED_FIELDS, "raw_data") if field in tensor]
    if len(held) > 1:
        raise ModelStructureError(f"{label} holds its data twice", code="EG-G009")
    field = held[0] if held else "raw_data"
    if field == "raw_data":
        fits = tensor.size(field) == byte_size and (data_type != schema.STRING or count == 0)
    elif field != _FIELD_OF_TYPE.get(data_type, "int32_data"):
        fits = False
    elif field == "string_data":
        fits = len(tensor.spans(field)) == count
    elif field in ("float_data", "double_data"):
        fits = tensor.size(field) == byte_size
    else:  # elements below a byte share one
        fits = tensor.varints(field) == (byte_size if schema.ELEMENT_TYPES[data_type][1] < 8 else count)
    if not fits:
        raise ModelStructureError(f"{label} does not hold as much data as its shape says", code="EG-G009")


def _numbers(
    reader: Reader, tensor: Message, data_type: int, dims: list[int]
) -> tuple[int, ...] | tuple[float, ...] | None:
    """Return the values of an inline vector of int64, int32 or float no longer than pads can be, else None."""
    if data_type not in _VECTOR_FORMATS or len(dims) > 1 or (dims and dims[0] > 2 * limits.MAX_RANK):
        return None
    field, form = _VECTOR_FORMATS[data_type]
    for start, end in tensor.spans("raw_data"):
        return tuple(value for (value,) in struct.iter_unpack(form, reader.buffer[start:end]))
    if field in tensor:
        return tensor.floats(field) if field == "float_data" else tuple(tensor.numbers(field, 2 * limits.MAX_RANK))
    return () if dims == [0] else None


def _natural(text: str, name: str) -> int:
    """Read an offset or length: ASCII digits only, as `int` would also take signs, spaces and other scripts."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_NUMBER_DIGITS):
        raise ModelStructureError(f"initializer {shown(name)} has a range that is no number", code="EG-G004")
    return int(text)
