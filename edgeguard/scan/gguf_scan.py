"""Scan of GGUF files: tensors, and metadata that may hold a chat template, which is a program.

Source: ggml docs/gguf.md, versions 2 and 3; block sizes from ggml's type table.
"""

from __future__ import annotations

import struct
from typing import Final

from edgeguard.scan.content import Content, Context, shown
from edgeguard.scan.json_scan import check_templates

GGUF_MAGIC: Final = b"GGUF"
MAX_ENTRIES: Final = 200_000
MAX_VALUES: Final = 1_000_000  # of arrays of texts: the largest vocabularies have a quarter of that
_SIMPLE: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MAX_ARRAY_DEPTH: Final = 4
_MAX_TENSOR_RANK: Final = 4
_MAX_KEPT_TEXT: Final = 1 << 20
_DEFAULT_ALIGNMENT: Final = 32
# Tensor type: elements and bytes of a block.
_BLOCKS: Final = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


class _BrokenError(Exception):
    pass


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 4
        self._values_left = MAX_VALUES

    def take(self, form: str) -> int:
        size = struct.calcsize(form)
        self._skip(size)
        return int(struct.unpack_from(form, self.data, self.at - size)[0])

    def _skip(self, count: int) -> None:
        if count > len(self.data) - self.at:
            raise _BrokenError("ends inside its header")
        self.at += count

    def text(self) -> str:
        length = self.take("<Q")
        start = self.at
        self._skip(length)
        return bytes(self.data[start : min(self.at, start + _MAX_KEPT_TEXT)]).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> str | int:
        """Step over a value; return it if it is a text or an unsigned 32-bit number."""
        self._values_left -= 1
        if self._values_left < 0 or depth > _MAX_ARRAY_DEPTH:
            raise _BrokenError("has more values than any model")
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.take("<I"), self.take("<Q")
            if inner in _SIMPLE:
                self._skip(count * _SIMPLE[inner])
            else:
                for _ in range(count):
                    self.value(inner, depth + 1)
            return ""
        if kind not in _SIMPLE:
            raise _BrokenError("has a value of no known type")
        if kind == 4:
            return self.take("<I")
        self._skip(_SIMPLE[kind])
        return ""


def scan_gguf(content: Content, context: Context) -> str:
    """Walk the header: keys once each, tensors inside the file and apart, templates without Python internals."""
    reader = _Reader(content.data)
    try:
        version = reader.take("<I")
        tensors, entries = reader.take("<Q"), reader.take("<Q")
        if version not in (2, 3) or max(tensors, entries) > MAX_ENTRIES:
            raise _BrokenError("is of no known version or has more entries than any model")
        keys = _keys(reader, entries)
        check_templates(keys, content, context)
        alignment = keys.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            raise _BrokenError("has an alignment that is none")
        ranges = _tensors(reader, tensors)
        start = reader.at + -reader.at % alignment
        end = _covered(ranges, alignment)
        if start + end > len(content.data) or len(content.data) > start + end + -end % alignment:
            raise _BrokenError("is not as long as its tensors")
    except _BrokenError as broken:
        context.report("EG-SCAN-401", content, f"the file {broken}", offset=min(reader.at, len(content.data)))
    return "GGUF"


def _keys(reader: _Reader, count: int) -> dict[str, str | int]:
    keys: dict[str, str | int] = {}
    for _ in range(count):
        key = reader.text()
        if key in keys:
            raise _BrokenError(f"has {shown(key)} twice")
        keys[key] = reader.value(reader.take("<I"))
    return keys


def _tensors(reader: _Reader, count: int) -> list[tuple[int, int]]:
    names: set[str] = set()
    ranges: list[tuple[int, int]] = []
    for _ in range(count):
        name, rank = reader.text(), reader.take("<I")
        if name in names or rank > _MAX_TENSOR_RANK:
            raise _BrokenError(f"has the tensor {shown(name)} twice or of too many dimensions")
        names.add(name)
        elements = 1
        for _ in range(rank):
            elements *= reader.take("<Q")
        kind, offset = reader.take("<I"), reader.take("<Q")
        if kind not in _BLOCKS or elements % _BLOCKS[kind][0]:
            raise _BrokenError(f"has the tensor {shown(name)} of no known type or of part of a block")
        ranges.append((offset, offset + elements // _BLOCKS[kind][0] * _BLOCKS[kind][1]))
    return ranges


def _covered(ranges: list[tuple[int, int]], alignment: int) -> int:
    """Return where the last tensor ends, having checked that they stand one behind the other, padding between."""
    at = 0
    for start, end in sorted(ranges):
        if start < at or start > at + -at % alignment:
            raise _BrokenError("has tensors that share bytes or leave a hole")
        at = end
    return at
