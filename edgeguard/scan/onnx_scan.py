"""Scan of ONNX models: the gate that `open_model` applies, and a look at the data files beside the model.

The gate itself opens no file. Here the files beside the model are looked at without being followed: a link, a device or
a file of the wrong length is a finding, and their content is never read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from edgeguard.errors import ModelStructureError
from edgeguard.scan import onnx_schema as schema
from edgeguard.scan.content import Content, Context, shown
from edgeguard.scan.onnx_gate import check_model
from edgeguard.scan.onnx_tensors import is_flat
from edgeguard.scan.protobuf import LENGTH, VARINT, fields

_MAX_TOP_FIELDS: Final = 2000  # opsets, metadata and functions of real models; enough to tell a model from other bytes
_CODE_OPERATORS: Final = ("PyOp", "PyCustomOp", "PythonOp", "EPContext")


class BesideModel(Mapping[str, int]):
    """Sizes of the files that a model names, looked up when it names them; what may not be used is reported."""

    def __init__(self, folder: Path | None, content: Content, context: Context) -> None:
        self._folder = folder
        self._content = content
        self._context = context
        self._sizes: dict[str, int] = {}
        self.explained = False  # whether a finding already says why a location was refused

    def __getitem__(self, location: str) -> int:
        if location not in self._sizes:
            self._look(location)
        return self._sizes[location]

    def __contains__(self, location: object) -> bool:
        try:
            return isinstance(location, str) and self[location] >= 0
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def _look(self, location: str) -> None:
        if not is_flat(location):
            self._explain("EG-SCAN-302", f"data in {shown(location)}")
            return
        if self._folder is None:
            self._explain("EG-SCAN-305", f"data in {shown(location)}, which cannot be looked at from inside an archive")
            return
        try:
            facts = os.lstat(self._folder / location)
        except (OSError, ValueError):
            self._explain("EG-SCAN-305", f"data in {shown(location)}")
            return
        if not stat.S_ISREG(facts.st_mode):
            self._explain("EG-SCAN-303", f"{shown(location)} is no regular file")
        elif facts.st_nlink > 1:
            self._explain("EG-SCAN-303", f"{shown(location)} has {facts.st_nlink} names; another may be outside")
        else:
            self._sizes[location] = facts.st_size

    def _explain(self, rule_id: str, message: str) -> None:
        self.explained = True
        self._context.report(rule_id, self._content, message)


def scan_onnx(content: Content, context: Context, folder: Path | None) -> str:
    """Pass the model through the gate; `folder` is where its data files are, None inside an archive."""
    beside = BesideModel(folder, content, context)
    try:
        check_model(content.data, beside)
    except ModelStructureError as refused:
        if beside.explained and refused.code == "EG-G004":
            return "ONNX"
        code = any(name in refused.message for name in _CODE_OPERATORS) and refused.code == "EG-G006"
        context.report("EG-SCAN-304" if code else "EG-SCAN-301", content, str(refused))
    return "ONNX"


def is_onnx(data: memoryview) -> bool:
    """Tell whether `data` reads like a ModelProto: known fields of known types, a graph, a version."""
    seen: set[int] = set()
    try:
        for count, field in enumerate(fields(data, 0, len(data))):
            slot = schema.MODEL.get(field.number)
            if slot is None or field.wire_type != (VARINT if slot.kind is schema.Kind.INT else LENGTH):
                break
            seen.add(field.number)
            if count >= _MAX_TOP_FIELDS:
                break
    except ModelStructureError:
        pass
    return {1, 7} <= seen or {7, 8} <= seen
