"""Scan of NPY files: the header is read by a parser that can only make data, an array of objects is a pickle.

Source: numpy/lib/_format_impl.py (NPY format 1.0 to 3.0). NumPy reads the header with `ast.literal_eval`; so that no
header means one thing here and another there, only the four word kinds numpy writes are accepted.
"""

from __future__ import annotations

import re
from typing import Final

from edgeguard.scan.content import Content, Context, shown
from edgeguard.scan.pickle_scan import scan_pickle

MAGIC: Final = b"\x93NUMPY"
MAX_HEADER: Final = 64 << 10  # numpy itself refuses more than 10,000 unless told otherwise
MAX_TOKENS: Final = 20_000
MAX_DEPTH: Final = 20
_MAX_RANK: Final = 64
_VERSIONS: Final = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
_TOKEN: Final = re.compile(r"\s*(?:('(?:[^'\\\n]*)')|(\d{1,19})L?|(True|False)|([{}()\[\],:]))")
_TYPE: Final = re.compile(r"([<>|=]?)([biufcSUVmMO?])(\d{0,10})(\[[^\[\]]{1,20}\])?")
_DEFAULT_BYTES: Final = {"b": 1, "?": 1, "i": 8, "u": 8, "f": 8, "c": 16, "m": 8, "M": 8, "O": 8}

Literal = str | int | bool | tuple["Literal", ...] | list["Literal"] | dict[str, "Literal"]


class _BadHeaderError(Exception):
    pass


def scan_npy(content: Content, context: Context) -> str:
    """Scan one NPY file."""
    data = content.data
    width = _VERSIONS.get((data[6], data[7])) if len(data) > 8 else None
    if width is None:
        context.report("EG-SCAN-401", content, "an NPY header of no version that exists", offset=6)
        return "NPY array"
    start = 8 + width
    length = int.from_bytes(data[8:start], "little")
    if length > MAX_HEADER or start + length > len(data):
        context.report("EG-SCAN-401", content, "an NPY header longer than the file or than any header", offset=8)
        return "NPY array"
    end = start + length
    try:
        count, item = _layout(bytes(data[start:end]).decode("utf-8", "replace"))
    except _BadHeaderError as bad:
        context.report("EG-SCAN-401", content, f"an NPY header that {bad}", offset=start)
        return "NPY array"
    if item is None:
        scan_pickle(content.part(end, len(data), "objects"), context)
        return "NPY array of objects"
    if count * item != len(data) - end:
        message = f"{len(data) - end} bytes of data where the header says {count * item}"
        context.report("EG-SCAN-401", content, message, offset=end)
    return "NPY array"


def _layout(text: str) -> tuple[int, int | None]:
    """Return how many elements and how many bytes each; None for objects."""
    words = _words(text)
    header, rest = _parse(words, 0, 0)
    if rest != len(words) or not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise _BadHeaderError("is no dictionary of descr, fortran_order and shape")
    shape = header["shape"]
    if not isinstance(shape, tuple) or len(shape) > _MAX_RANK or not isinstance(header["fortran_order"], bool):
        raise _BadHeaderError("has no shape")
    count = 1
    for dim in shape:
        if not isinstance(dim, int):
            raise _BadHeaderError("has a shape that is no row of numbers")
        count *= dim
    return count, _item_bytes(header["descr"], 0)


def _item_bytes(descr: Literal, depth: int) -> int | None:
    if depth > MAX_DEPTH:
        raise _BadHeaderError("has a type nested too deep")
    if isinstance(descr, str):
        matched = _TYPE.fullmatch(descr)
        if matched is None:
            raise _BadHeaderError(f"has the type {shown(descr)}")
        _, letter, digits, _ = matched.groups()
        if letter == "O":
            return None
        size = int(digits) if digits and letter not in "mM" else _DEFAULT_BYTES.get(letter, 0)
        return size * 4 if letter == "U" else size
    if isinstance(descr, tuple) and len(descr) == 2:  # (base type, shape)
        return _scaled(_item_bytes(descr[0], depth + 1), descr[1])
    if not isinstance(descr, list):
        raise _BadHeaderError("has no type")
    total = 0
    for entry in descr:
        if not isinstance(entry, tuple) or len(entry) not in (2, 3):
            raise _BadHeaderError("has a field that is no pair")
        item = _item_bytes(entry[1], depth + 1)
        item = _scaled(item, entry[2]) if len(entry) == 3 else item
        if item is None:
            return None
        total += item
    return total


def _scaled(item: int | None, shape: Literal) -> int | None:
    dims = shape if isinstance(shape, tuple) else (shape,)
    for dim in dims:
        if not isinstance(dim, int):
            raise _BadHeaderError("has a field whose shape is no row of numbers")
        item = None if item is None else item * dim
    return item


def _words(text: str) -> list[str]:
    found: list[str] = []
    at, text = 0, text.rstrip()
    while at < len(text):
        matched = _TOKEN.match(text, at)
        if matched is None or len(found) >= MAX_TOKENS:
            raise _BadHeaderError("holds more than names, numbers and brackets")
        found.append(matched.group(matched.lastindex or 0))
        at = matched.end()
    return found


def _parse(words: list[str], at: int, depth: int) -> tuple[Literal, int]:
    if at >= len(words) or depth > MAX_DEPTH:
        raise _BadHeaderError("ends inside a bracket or is nested too deep")
    word = words[at]
    if word[0] == "'":
        return word[1:-1], at + 1
    if word[0].isdigit():
        return int(word), at + 1
    if word in ("True", "False"):
        return word == "True", at + 1
    if word == "{":
        return _parse_dict(words, at + 1, depth)
    if word in ("(", "["):
        items, at, commas = _parse_items(words, at + 1, depth, ")" if word == "(" else "]")
        if word == "[":
            return items, at
        return (items[0] if len(items) == 1 and not commas else tuple(items)), at
    raise _BadHeaderError("has a bracket out of place")


def _parse_items(words: list[str], at: int, depth: int, closing: str) -> tuple[list[Literal], int, int]:
    items: list[Literal] = []
    commas = 0
    while at < len(words) and words[at] != closing:
        item, at = _parse(words, at, depth + 1)
        items.append(item)
        if at < len(words) and words[at] == ",":
            commas += 1
            at += 1
        elif at >= len(words) or words[at] != closing:
            raise _BadHeaderError("has two values without a comma")
    if at >= len(words):
        raise _BadHeaderError("ends inside a bracket")
    return items, at + 1, commas


def _parse_dict(words: list[str], at: int, depth: int) -> tuple[dict[str, Literal], int]:
    found: dict[str, Literal] = {}
    while at < len(words) and words[at] != "}":
        key, at = _parse(words, at, depth + 1)
        if not isinstance(key, str) or key in found or at >= len(words) or words[at] != ":":
            raise _BadHeaderError("has a key that is no name or is there twice")
        found[key], at = _parse(words, at + 1, depth + 1)
        if at < len(words) and words[at] == ",":
            at += 1
        elif at >= len(words) or words[at] != "}":
            raise _BadHeaderError("has two entries without a comma")
    if at >= len(words):
        raise _BadHeaderError("ends inside a bracket")
    return found, at + 1
