"""Scan of files that hold tensors and no code: safetensors and GGUF. What is left to check is that they add up.

Source: huggingface/safetensors README (format) and its Rust reader; ggml docs/gguf.md, version 2 and 3.
"""

from __future__ import annotations

import struct
from typing import Final

from edgeguard.scan.content import Content, Context, shown
from edgeguard.scan.json_scan import BadJsonError, check_templates, read_json

MAX_HEADER: Final = 100 << 20  # the limit of the format's own reader
_DTYPE_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def is_safetensors(data: memoryview) -> bool:
    """Tell whether `data` has the length and the opening brace of a safetensors header."""
    if len(data) < 9:
        return False
    length = int.from_bytes(data[:8], "little")
    return 2 <= length <= min(len(data) - 8, MAX_HEADER) and bytes(data[8:10]) in (b'{"', b"{}", b"{ ")


def scan_safetensors(content: Content, context: Context) -> str:
    """Check the header, and that the tensors cover the data once and without holes."""
    data = content.data
    length = int.from_bytes(data[:8], "little")
    end = 8 + length
    if len(data) < 8 or end > len(data) or length > MAX_HEADER:
        context.report("EG-SCAN-401", content, "the header is longer than the file or than any header", offset=0)
        return "safetensors"
    try:
        header = read_json(bytes(data[8:end]))
    except BadJsonError as bad:
        context.report("EG-SCAN-401", content, f"the header {bad}", offset=8)
        return "safetensors"
    if not isinstance(header, dict):
        context.report("EG-SCAN-401", content, "the header is no object", offset=8)
        return "safetensors"
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        context.report("EG-SCAN-401", content, "the metadata is no table of texts", offset=8)
    check_templates(metadata, content, context)
    ranges: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        span = _tensor_range(entry)
        if span is None:
            context.report("EG-SCAN-401", content, f"the tensor {shown(name)} does not add up", offset=8)
        else:
            ranges.append((*span, name))
    at = 0
    for start, stop, name in sorted(ranges):
        if start != at:
            what = "shares bytes with another" if start < at else "leaves a hole before it"
            context.report("EG-SCAN-401", content, f"the tensor {shown(name)} {what}", offset=end + start)
        at = max(at, stop)
    if end + at != len(data):
        context.report(
            "EG-SCAN-401", content, "the data is not as long as the tensors", offset=min(end + at, len(data))
        )
    return "safetensors"


def _tensor_range(entry: object) -> tuple[int, int] | None:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return None
    bits, shape, offsets = _DTYPE_BITS.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
    if bits is None or not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2 or len(shape) > 64:
        return None
    for dim in shape:
        bits *= dim
    start, stop = offsets
    return (start, stop) if stop >= start and bits == 8 * (stop - start) else None


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


# -- GGUF --------------------------------------------------------------------------------------------------------------

GGUF_MAGIC: Final = b"GGUF"
MAX_ENTRIES: Final = 200_000
_SIMPLE: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MAX_TENSOR_RANK: Final = 4
_ALIGNMENT: Final = 32


class _BrokenError(Exception):
    pass


class _Gguf:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 4
        self.budget = 5 * MAX_ENTRIES

    def take(self, form: str) -> int:
        size = struct.calcsize(form)
        self.skip(size)
        return int(struct.unpack_from(form, self.data, self.at - size)[0])

    def skip(self, count: int) -> None:
        if count > len(self.data) - self.at:
            raise _BrokenError("ends inside its header")
        self.at += count

    def text(self) -> str:
        length = self.take("<Q")
        start = self.at
        self.skip(length)
        return bytes(self.data[start : min(self.at, start + (1 << 20))]).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> str:
        self.budget -= 1
        if self.budget < 0 or depth > 4:
            raise _BrokenError("has more entries than any model")
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.take("<I"), self.take("<Q")
            if inner in _SIMPLE:
                self.skip(count * _SIMPLE[inner])
                return ""
            for _ in range(count):
                self.value(inner, depth + 1)
            return ""
        if kind not in _SIMPLE:
            raise _BrokenError("has a value of no known type")
        self.skip(_SIMPLE[kind])
        return ""


def scan_gguf(content: Content, context: Context) -> str:
    """Walk the header: counts, keys once each, tensor places inside the file, templates without Python internals."""
    reader = _Gguf(content.data)
    try:
        version = reader.take("<I")
        tensors, entries = reader.take("<Q"), reader.take("<Q")
        if version not in (2, 3) or max(tensors, entries) > MAX_ENTRIES:
            raise _BrokenError("is of no known version or has more entries than any model")
        keys: dict[str, object] = {}
        for _ in range(entries):
            key = reader.text()
            if key in keys:
                raise _BrokenError(f"has {shown(key)} twice")
            keys[key] = reader.value(reader.take("<I"))
        check_templates(keys, content, context)
        names: set[str] = set()
        places: set[int] = set()
        for _ in range(tensors):
            name, rank = reader.text(), reader.take("<I")
            if name in names or rank > _MAX_TENSOR_RANK:
                raise _BrokenError(f"has the tensor {shown(name)} twice or of too many dimensions")
            names.add(name)
            elements = 1
            for _ in range(rank):
                elements *= reader.take("<Q")
            reader.take("<I")
            places.add(reader.take("<Q"))
            if elements > 8 * len(content.data) * _ALIGNMENT:  # the smallest type takes more than a bit per element
                raise _BrokenError(f"has the tensor {shown(name)} larger than the file")
    except _BrokenError as broken:
        context.report("EG-SCAN-401", content, f"the file {broken}", offset=min(reader.at, len(content.data)))
        return "GGUF"
    if any(place + reader.at > len(content.data) for place in places) or len(places) != tensors:
        context.report("EG-SCAN-401", content, "tensors share bytes or lie outside the file", offset=reader.at)
    return "GGUF"
