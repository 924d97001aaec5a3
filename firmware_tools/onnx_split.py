"""Split an ONNX model into a small graph and one or more blobs of weights.

The device can wipe a mapping of weights after the session exists, but not the immutable bytes that a graph must be
(onnxruntime takes nothing else). So everything big leaves the graph: each initializer of the main graph with at least
`MIN_EXTERNAL_BYTES` becomes an `external_data` entry that points into a blob. A large model gets several blobs, because
a digest is computed on one core: of several files each core of the device takes its own.

The ModelProto is rewritten at wire level: what is not an initializer is copied byte for byte, unknown fields
included, so splitting neither needs the `onnx` package nor loses what a newer exporter wrote. Data that lies in files
beside the model is pulled in: into a blob for initializers of the main graph, into the graph elsewhere
(subgraphs, attributes), because a runtime resolves names found there in its own ways.

    split = split_model(Path("detector.onnx"))
    split.graph, split.weights["weights.bin"]

What the result may contain is not judged here; `edgeguard.scan.onnx_gate.check_model` does that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeguard.errors import ModelStructureError, ProvisioningError
from edgeguard.scan import protobuf
from edgeguard.scan.onnx_schema import ELEMENT_TYPES
from edgeguard.scan.protobuf import FIXED32, FIXED64, LENGTH, VARINT, Field

WEIGHTS_LOCATION: Final = "weights.bin"  # the first blob; then weights-1.bin, ...
BLOB_BYTES: Final = 16 << 20  # a blob at least this long is closed; shorter ones would cost more threads than they save
BLOBS_OF_A_SIZE: Final = 8  # then the size doubles: 8 GiB fit into 49 blobs, and a bundle holds at most 63
MIN_EXTERNAL_BYTES: Final = 1024  # below this sit shapes and axes, which shape inference must be able to read inline
ALIGNMENT_BYTES: Final = 64  # one cache line, and the widest vector load (AVX-512) a kernel may use in place
MAX_MODEL_BYTES: Final = (1 << 31) - 1  # no protobuf message can be longer
MAX_WEIGHTS_BYTES: Final = 8 << 30  # the memory of the largest board this is built for; the host holds it twice
MAX_NESTING: Final = 32  # subgraphs in subgraphs; the gate's own limit is lower

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _FUNCTION_NODE, _FUNCTION_ATTRIBUTE = 5, 7, 11
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 5, 10, 6, 11
_DIMS, _DATA_TYPE, _SEGMENT, _NAME, _RAW = 1, 2, 3, 8, 9
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_FLOAT_DATA, _INT32_DATA, _STRING_DATA, _INT64_DATA, _DOUBLE_DATA, _UINT64_DATA = 4, 5, 6, 7, 10, 11
_DATA_FIELDS: Final = frozenset(
    {_FLOAT_DATA, _INT32_DATA, _STRING_DATA, _INT64_DATA, _DOUBLE_DATA, _UINT64_DATA, _RAW, _EXTERNAL_DATA,
     _DATA_LOCATION}
)  # fmt: skip
_TYPED_WIRE_TYPE: Final = {
    _FLOAT_DATA: FIXED32,
    _DOUBLE_DATA: FIXED64,
    _INT32_DATA: VARINT,
    _INT64_DATA: VARINT,
    _UINT64_DATA: VARINT,
}
_EXTERNAL: Final = 1  # TensorProto.DataLocation
_MAX_LOCATION_BYTES: Final = 255  # the longest file name Linux knows


@dataclass(frozen=True, slots=True)
class SplitModel:
    """A model taken apart.

    graph: the ModelProto, small. weights: blobs by the location that the graph names; none when nothing was big
    enough. notes: for a person: what was pulled in, converted or left in the graph.
    """

    graph: bytes
    weights: Mapping[str, bytes]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A TensorProto taken apart: `fields` in file order, and what the rewriting asks about it."""

    fields: tuple[Field, ...]
    name: str
    data_type: int
    elements: int
    is_external: bool

    @property
    def byte_size(self) -> int:
        return (self.elements * ELEMENT_TYPES.get(self.data_type, ("", 0))[1] + 7) // 8


def split_model(model_path: Path) -> SplitModel:
    """Split the ONNX file at `model_path`; files with external data are looked for in its folder.

    Raises:
        ProvisioningError: a file cannot be read, or external data has an unsafe name or a range outside its file.
        ModelStructureError: the bytes are no well-formed ONNX model.
    """
    folder = model_path.parent
    data = _read_regular_file(folder, model_path.name, 0, None, MAX_MODEL_BYTES, follow_link=True)
    return _Splitter(data, folder).split()


class _Splitter:
    """State of one split: the source bytes, the blobs so far, the notes."""

    def __init__(self, data: bytes, folder: Path) -> None:
        self._data = memoryview(data)
        self._folder = folder
        self._blobs: list[list[bytes | memoryview]] = [[]]
        self._offset = 0
        self._in_closed_blobs = 0
        self._pulled: dict[str, int] = {}
        self._converted = 0
        self._big_attributes = 0

    def split(self) -> SplitModel:
        graphs = 0
        pieces: list[bytes | memoryview] = []
        for field in protobuf.fields(self._data, 0, len(self._data)):
            if field.number == _MODEL_GRAPH and field.wire_type == LENGTH:
                graphs += 1
                pieces.append(protobuf.length_delimited(field.number, self._graph(field, depth=0)))
            elif field.number == _MODEL_FUNCTIONS and field.wire_type == LENGTH:
                pieces.append(protobuf.length_delimited(field.number, self._function(field)))
            elif field.number == _MODEL_TRAINING:
                raise ModelStructureError(
                    "the model carries a training graph", code="EG-G002", hint="export it for inference"
                )
            else:
                pieces.append(self._data[field.start : field.end])
        if graphs != 1:
            raise ModelStructureError(f"the model has {graphs} graphs instead of one", code="EG-G010")
        weights = {_location(index): b"".join(blob) for index, blob in enumerate(self._blobs) if blob}
        return SplitModel(b"".join(pieces), weights, self._notes())

    def _notes(self) -> tuple[str, ...]:
        notes = [f"pulled {size} bytes in from {name}" for name, size in sorted(self._pulled.items())]
        if self._converted:
            notes.append(f"converted {self._converted} initializers from typed fields to raw bytes")
        if self._big_attributes:
            notes.append(
                f"{self._big_attributes} tensors of {MIN_EXTERNAL_BYTES} bytes or more stay in the graph "
                "(attributes and subgraphs); they cannot be wiped from memory after loading"
            )
        return tuple(notes)

    # -- walking down ------------------------------------------------------------------------------------------

    def _children(self, parent: Field) -> Iterator[Field]:
        return protobuf.fields(self._data, parent.value_start, parent.end)

    def _graph(self, graph: Field, depth: int) -> bytes:
        if depth > MAX_NESTING:
            raise ModelStructureError(f"the model nests subgraphs deeper than {MAX_NESTING}", code="EG-G003")
        pieces: list[bytes | memoryview] = []
        for field in self._children(graph):
            if field.number == _GRAPH_INITIALIZER and field.wire_type == LENGTH:
                tensor = self._initializer(field) if depth == 0 else self._inline(field)
                pieces.append(protobuf.length_delimited(field.number, tensor))
            elif field.number == _GRAPH_NODE and field.wire_type == LENGTH:
                pieces.append(protobuf.length_delimited(field.number, self._node(field, depth)))
            else:
                pieces.append(self._data[field.start : field.end])
        return b"".join(pieces)

    def _function(self, function: Field) -> bytes:
        pieces: list[bytes | memoryview] = []
        for field in self._children(function):
            if field.number == _FUNCTION_NODE and field.wire_type == LENGTH:
                pieces.append(protobuf.length_delimited(field.number, self._node(field, 0)))
            elif field.number == _FUNCTION_ATTRIBUTE and field.wire_type == LENGTH:
                pieces.append(protobuf.length_delimited(field.number, self._attribute(field, 0)))
            else:
                pieces.append(self._data[field.start : field.end])
        return b"".join(pieces)

    def _node(self, node: Field, depth: int) -> bytes:
        pieces: list[bytes | memoryview] = []
        for field in self._children(node):
            if field.number == _NODE_ATTRIBUTE and field.wire_type == LENGTH:
                pieces.append(protobuf.length_delimited(field.number, self._attribute(field, depth)))
            else:
                pieces.append(self._data[field.start : field.end])
        return b"".join(pieces)

    def _attribute(self, attribute: Field, depth: int) -> bytes:
        pieces: list[bytes | memoryview] = []
        for field in self._children(attribute):
            if field.number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS) and field.wire_type == LENGTH:
                pieces.append(protobuf.length_delimited(field.number, self._inline(field)))
            elif field.number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS) and field.wire_type == LENGTH:
                pieces.append(protobuf.length_delimited(field.number, self._graph(field, depth + 1)))
            else:
                pieces.append(self._data[field.start : field.end])
        return b"".join(pieces)

    # -- tensors -----------------------------------------------------------------------------------------------

    def _initializer(self, tensor_field: Field) -> bytes | memoryview:
        """Return an initializer of the main graph, pointing into a blob when it is big enough."""
        tensor = self._take_apart(tensor_field)
        if tensor.byte_size < MIN_EXTERNAL_BYTES:
            return self._inline(tensor_field)
        content = self._content(tensor)
        if content is None:
            return self._data[tensor_field.value_start : tensor_field.end]
        if len(content) != tensor.byte_size:
            raise ModelStructureError(
                f"initializer {tensor.name!r} holds {len(content)} bytes where its shape needs {tensor.byte_size}",
                code="EG-G009",
            )
        location, offset = self._append(content)
        entries = {"location": location, "offset": str(offset), "length": str(len(content))}
        pieces = self._without_data(tensor)
        pieces += [protobuf.length_delimited(_EXTERNAL_DATA, _entry(key, value)) for key, value in entries.items()]
        pieces.append(protobuf.varint_field(_DATA_LOCATION, _EXTERNAL))
        return b"".join(pieces)

    def _inline(self, tensor_field: Field) -> bytes | memoryview:
        """Return a tensor that keeps its data in the graph; data in a file beside the model is pulled in."""
        tensor = self._take_apart(tensor_field)
        self._big_attributes += tensor.byte_size >= MIN_EXTERNAL_BYTES
        if not tensor.is_external:
            return self._data[tensor_field.value_start : tensor_field.end]
        content = self._external_content(tensor)
        return b"".join([*self._without_data(tensor), protobuf.length_delimited(_RAW, content)])

    def _take_apart(self, tensor_field: Field) -> _Tensor:
        parts = tuple(self._children(tensor_field))
        elements, data_type, location, name = 1, 0, 0, ""
        for part in parts:
            if part.number == _DIMS:
                for dim in self._numbers(part):
                    elements *= dim
            elif part.number == _DATA_TYPE:
                data_type = part.value
            elif part.number == _DATA_LOCATION:
                location = part.value
            elif part.number == _NAME:
                name = str(self._data[part.value_start : part.end], "utf-8", "replace")
        return _Tensor(parts, name, data_type, elements, location == _EXTERNAL)

    def _numbers(self, field: Field) -> Iterator[int]:
        if field.wire_type == VARINT:
            yield field.value
        elif field.wire_type == LENGTH:
            yield from protobuf.packed_varints(self._data, field.value_start, field.end)

    def _without_data(self, tensor: _Tensor) -> list[bytes | memoryview]:
        return [self._data[part.start : part.end] for part in tensor.fields if part.number not in _DATA_FIELDS]

    def _content(self, tensor: _Tensor) -> bytes | memoryview | None:
        """Return the tensor's little-endian bytes, or None when they must stay as they are."""
        if tensor.is_external:
            return self._external_content(tensor)
        held = [part for part in tensor.fields if part.number in _DATA_FIELDS and part.number != _DATA_LOCATION]
        numbers = {part.number for part in held}
        if len(numbers) != 1 or any(part.number == _SEGMENT for part in tensor.fields):
            return None
        (number,) = numbers
        if number == _RAW:
            return self._data[held[-1].value_start : held[-1].end]
        if number in (_FLOAT_DATA, _DOUBLE_DATA):
            self._converted += 1  # packed floats are already the raw bytes
            return b"".join(self._data[part.value_start : part.end] for part in held)
        bits = ELEMENT_TYPES.get(tensor.data_type, ("", 0))[1]
        if number in _TYPED_WIRE_TYPE and bits in (8, 16, 32, 64):
            self._converted += 1
            return self._integers(held, bits // 8)
        return None

    def _integers(self, parts: list[Field], item_bytes: int) -> bytes:
        mask = (1 << 8 * item_bytes) - 1
        return b"".join(
            (value & mask).to_bytes(item_bytes, "little") for part in parts for value in self._numbers(part)
        )

    def _append(self, content: bytes | memoryview) -> tuple[str, int]:
        """Put a tensor at the end of the last blob; return where it lies."""
        if self._offset >= BLOB_BYTES << (len(self._blobs) - 1) // BLOBS_OF_A_SIZE:
            self._blobs.append([])
            self._in_closed_blobs += self._offset
            self._offset = 0
        padding = -self._offset % ALIGNMENT_BYTES
        offset = self._offset + padding
        if self._in_closed_blobs + offset + len(content) > MAX_WEIGHTS_BYTES:
            raise ProvisioningError(f"the weights are larger than {MAX_WEIGHTS_BYTES} bytes", code="EG-P041")
        self._blobs[-1] += [bytes(padding), content]
        self._offset = offset + len(content)
        return _location(len(self._blobs) - 1), offset

    # -- files beside the model --------------------------------------------------------------------------------

    def _external_content(self, tensor: _Tensor) -> bytes:
        entries = dict(self._entry_at(part) for part in tensor.fields if part.number == _EXTERNAL_DATA)
        location = _checked_location(entries.get("location", ""), tensor.name)
        offset = _natural(entries.get("offset", "0"), tensor.name)
        length = _natural(entries.get("length", str(tensor.byte_size)), tensor.name)
        if length != tensor.byte_size:
            raise ModelStructureError(
                f"initializer {tensor.name!r} names {length} bytes where its shape needs {tensor.byte_size}",
                code="EG-G009",
            )
        content = _read_regular_file(self._folder, location, offset, length, MAX_WEIGHTS_BYTES)
        self._pulled[location] = self._pulled.get(location, 0) + length
        return content

    def _entry_at(self, entry: Field) -> tuple[str, str]:
        texts = {1: "", 2: ""}
        for field in self._children(entry):
            if field.wire_type == LENGTH:
                texts[field.number] = str(self._data[field.value_start : field.end], "utf-8", "replace")
        return texts[1], texts[2]


def _location(blob: int) -> str:
    return WEIGHTS_LOCATION if blob == 0 else WEIGHTS_LOCATION.replace(".", f"-{blob}.")


def _entry(key: str, value: str) -> bytes:
    return protobuf.length_delimited(1, key.encode()) + protobuf.length_delimited(2, value.encode())


def _natural(text: str, name: str) -> int:
    """Read an offset or length: ASCII digits only, as `int` would also take signs, spaces and other scripts."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ModelStructureError(f"initializer {name!r} has an offset or length that is no number", code="EG-G004")
    return int(text)


def _checked_location(location: str, name: str) -> str:
    """Return `location` if it is the plain name of a file in the model's own folder."""
    # "*" opens onnxruntime's in-memory marker; a colon is a drive or stream on other systems.
    unsafe = not location or location in (".", "..") or any(c in location for c in "/\\:*\0")
    if unsafe or len(location.encode()) > _MAX_LOCATION_BYTES:
        raise ProvisioningError(
            f"initializer {name!r} has its data in {location!r}, which is no plain file name",
            code="EG-P042",
            hint="save the model so that its data lies in one file beside it",
        )
    return location


def _read_regular_file(
    folder: Path, name: str, offset: int, length: int | None, limit: int, *, follow_link: bool = False
) -> bytes:
    """Read `length` bytes at `offset` (the whole file when None) of a regular file in `folder`."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_link else os.O_NOFOLLOW)
    try:
        descriptor = os.open(folder / name, flags)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ProvisioningError(f"{name} is no regular file", code="EG-P040")
            wanted = status.st_size if length is None else length
            if wanted > limit:
                raise ProvisioningError(f"{name} is larger than {limit} bytes", code="EG-P041")
            if offset + wanted > status.st_size:
                raise ProvisioningError(
                    f"the model names bytes {offset} to {offset + wanted} of {name}, which has {status.st_size}",
                    code="EG-P043",
                    hint="the data file does not belong to this model or was cut short",
                )
            file.seek(offset)
            content = file.read(wanted)
    except OSError as error:
        raise ProvisioningError(
            f"{name} cannot be read: {(error.strerror or 'unknown reason').lower()}",
            code="EG-P040",
            hint="check the path",
        ) from error
    if len(content) != wanted:
        raise ProvisioningError(f"{name} changed while it was read", code="EG-P040")
    return content
