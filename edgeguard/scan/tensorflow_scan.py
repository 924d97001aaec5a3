"""Scan of TensorFlow files: the operators of a SavedModel or frozen graph, and the custom operators of TFLite.

A TensorFlow graph is a program with file access: `ReadFile`, `WriteFile` and `PyFunc` are ordinary operators, and there
are more than a thousand others. Operators that act on the machine are malicious or suspicious; a graph without them is
not called clean, because no list here says what all the others do.

Source: tensorflow/core/protobuf/{saved_model,meta_graph}.proto, framework/{graph,node_def,function}.proto;
tensorflow/lite/schema/schema.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from edgeguard.errors import ModelStructureError
from edgeguard.scan.content import Content, Context, shown
from edgeguard.scan.findings import ScanVerdict
from edgeguard.scan.protobuf import LENGTH, Buffer, fields

ACTING: Final = frozenset(
    {
        "EagerPyFunc", "LoadLibrary", "PyFunc", "PyFuncStateless", "WriteFile", "WriteAudioSummary", "SaveV2Slices",
        "DebugIdentityV2", "RemoteFusedGraphExecute", "RegisterDataset", "FileSystemSetConfiguration", "CopyFile",
        "DeleteFile", "RenameFile", "ShardedFilename", "RpcCall", "RpcClient", "RpcServer", "TPUCompile",
    }
)  # fmt: skip
REACHING: Final = frozenset(
    {
        "FixedLengthRecordDataset", "FixedLengthRecordReader", "FixedLengthRecordReaderV2", "ImmutableConst",
        "InitializeTableFromTextFile", "InitializeTableFromTextFileV2", "MatchingFiles", "MatchingFilesDataset",
        "ReadFile", "ReaderRead", "TFRecordDataset", "TFRecordDatasetV2", "TFRecordReader", "TFRecordReaderV2",
        "TextLineDataset", "TextLineReader", "TextLineReaderV2", "WholeFileReader", "WholeFileReaderV2", "LMDBReader",
        "SqlDataset", "SaveDataset", "LoadDataset", "SnapshotDataset", "SnapshotDatasetV2", "CacheDataset", "PrintV2",
        "Print", "GenerateVocabRemapping", "LoadAndRemapMatrix", "DataServiceDataset", "AssetFileDef",
    }
)  # fmt: skip
# Where nodes are, field by field. A GraphDef has nodes (1), and a library (2) of functions (1) with nodes of their own.
_PATHS: Final = ((2, 2, 1), (2, 2, 2, 1, 3), (1,), (2, 1, 3))  # two from a SavedModel, two from a GraphDef
_MAX_FIELDS: Final = 2_000_000
_PROBE_FIELDS: Final = 2000  # looked at to tell a graph from other bytes
_MAX_NAME: Final = 200


class _Budget:
    def __init__(self, fields: int = _MAX_FIELDS) -> None:
        self.left = fields


def scan_tensorflow(content: Content, context: Context) -> str:
    """Scan the operators of a SavedModel or GraphDef."""
    budget = _Budget()
    kind = "TensorFlow graph"
    try:
        for path in _PATHS:
            for start, end in _spans(content.data, 0, len(content.data), path, budget):
                _check_node(content, context, start, end, budget)
    except ModelStructureError as broken:
        context.report("EG-SCAN-401", content, f"not well-formed: {broken.message}")
    context.report("EG-SCAN-007", content, "operators that act were searched for; the others are not known here")
    return kind


def is_tensorflow(data: memoryview) -> bool:
    """Tell whether `data` is a SavedModel or a GraphDef whose first node has a name and an operator."""
    for path in _PATHS[:1] + _PATHS[2:3]:
        try:
            for start, end in _spans(data, 0, len(data), path, _Budget(_PROBE_FIELDS)):
                texts = [f for f in fields(data, start, end) if f.number in (1, 2) and f.wire_type == LENGTH]
                words = [bytes(data[f.value_start : min(f.end, f.value_start + _MAX_NAME)]) for f in texts]
                return len(words) == 2 and words[1].isalnum() and words[0].isascii()
        except ModelStructureError:
            continue
    return False


def _spans(data: Buffer, start: int, end: int, path: tuple[int, ...], budget: _Budget) -> Iterator[tuple[int, int]]:
    for field in fields(data, start, end):
        budget.left -= 1
        if budget.left < 0:
            raise ModelStructureError("the graph has more fields than are read", code="EG-G003")
        if field.number != path[0] or field.wire_type != LENGTH:
            continue
        if len(path) == 1:
            yield field.value_start, field.end
        else:
            yield from _spans(data, field.value_start, field.end, path[1:], budget)


def _check_node(content: Content, context: Context, start: int, end: int, budget: _Budget) -> None:
    for low, high in _spans(content.data, start, end, (2,), budget):
        op = bytes(content.data[low : min(high, low + _MAX_NAME)]).decode("utf-8", "replace")
        if op in ACTING:
            context.report("EG-SCAN-601", content, f"the operator {shown(op)}", offset=start)
        elif op in REACHING:
            context.report("EG-SCAN-602", content, f"the operator {shown(op)} reads or writes files", offset=start)


# -- TFLite ------------------------------------------------------------------------------------------------------------

_MAX_CODES: Final = 10_000
_KNOWN_CUSTOM: Final = frozenset({"TFLite_Detection_PostProcess", "edgetpu-custom-op", "Convolution2DTransposeBias"})
_CUSTOM: Final = 32  # BuiltinOperator.CUSTOM


class _Flat:
    """Reads a flatbuffer in place; every offset is checked."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def number(self, form: str, at: int) -> int:
        if at < 0 or at + struct.calcsize(form) > len(self.data):
            raise ValueError
        return int(struct.unpack_from(form, self.data, at)[0])

    def field(self, table: int, index: int) -> int:
        """Return where field `index` of a table lies, 0 when it is not set."""
        vtable = table - self.number("<i", table)
        if 4 + 2 * index + 2 > self.number("<H", vtable):
            return 0
        offset = self.number("<H", vtable + 4 + 2 * index)
        return table + offset if offset else 0

    def follow(self, at: int) -> int:
        return at + self.number("<I", at)


def scan_tflite(content: Content, context: Context) -> str:
    """Look for custom operators: code that comes with the application, or TensorFlow's own through Flex."""
    flat = _Flat(content.data)
    try:
        model = flat.follow(0)
        codes = flat.field(model, 1)
        vector = flat.follow(codes) if codes else 0
        count = flat.number("<I", vector) if codes else 0
        if count > _MAX_CODES:
            raise ValueError
        for index in range(count):
            _check_code(flat, flat.follow(vector + 4 + 4 * index), content, context)
    except (ValueError, struct.error):
        context.report("EG-SCAN-401", content, "a flatbuffer whose offsets lead out of it")
    return "TFLite"


def _check_code(flat: _Flat, table: int, content: Content, context: Context) -> None:
    old, custom, new = flat.field(table, 0), flat.field(table, 1), flat.field(table, 3)
    code = max(flat.number("<b", old) if old else 0, flat.number("<i", new) if new else 0)
    name = ""
    if custom:
        at = flat.follow(custom)
        length = flat.number("<I", at)
        if length > _MAX_NAME or at + 4 + length > len(flat.data):
            raise ValueError
        name = bytes(flat.data[at + 4 : at + 4 + length]).decode("utf-8", "replace")
    if name.startswith("Flex"):
        rule = "EG-SCAN-601" if name[4:] in ACTING else "EG-SCAN-602"
        context.report(rule, content, f"the TensorFlow operator {shown(name)}", offset=table)
    elif (name or code == _CUSTOM) and name not in _KNOWN_CUSTOM:
        context.report(
            "EG-SCAN-602", content, f"the custom operator {shown(name)}", offset=table, verdict=ScanVerdict.SUSPICIOUS
        )
