"""Scan of safetensors files: tensors and no code. What is left to check is that header and data add up.

Source: huggingface/safetensors README (format) and its Rust reader.
"""

from __future__ import annotations

from typing import Final

from edgeguard.scan.content import Content, Context, shown
from edgeguard.scan.json_scan import MAX_JSON, BadJsonError, check_templates, read_json

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
    if length > MAX_JSON:
        context.report("EG-SCAN-003", content, f"a header of more than {MAX_JSON} bytes")
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
