"""The pickle opcodes, read one by one as the C unpickler reads them, and no more than that.

`pickletools` is not used: it stops at the first thing it does not like (a name that is no ASCII, a frame that is too
long), and what it stops at is where a payload hides. Here every opcode of protocols 0 to 5 has a way to read its
argument that never fails but for the end of the data or an unknown byte.

Source: CPython Modules/_pickle.c and Lib/pickletools.py (the description of each opcode).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

MAX_KEPT_TEXT: Final = 4096  # of a string constant; a module path is never longer, and long text is only skipped
MAX_KEPT_BYTES: Final = 64 << 20  # of a bytes constant, looked at for pickles inside; longer ones are weights
MAX_KEPT_DIGITS: Final = 400  # of a number written as text; no memo index or size is longer
MAX_LINE: Final = 1 << 20  # of the text opcodes of protocol 0: a number or a short string


class Opaque(Enum):
    """A constant that exists but is not kept."""

    TEXT = "text"
    BYTES = "bytes"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Span:
    """A bytes constant in place: offsets into the pickle."""

    start: int
    end: int


Argument = str | int | float | bool | None | Opaque | Span | tuple[str, str]


class Opcode(NamedTuple):
    """One opcode with its argument; the next begins at `end`."""

    name: str
    argument: Argument
    start: int
    end: int


class LexError(Exception):
    """The bytes at `offset` are no whole opcode. Internal: the walker turns it into a finding."""

    def __init__(self, what: str, offset: int, *, cut: bool) -> None:
        super().__init__(what)
        self.what = what
        self.offset = offset
        self.cut = cut  # the data ends here, as opposed to: this byte is no opcode


# Given the data and where the argument begins: the argument, and where the next opcode does.
Reader = Callable[[memoryview, int], tuple[Argument, int]]


def _need(data: memoryview, at: int, count: int) -> int:
    end = at + count
    if end > len(data):
        raise LexError("the data ends inside an opcode", at, cut=True)
    return end


def _none(data: memoryview, at: int) -> tuple[Argument, int]:  # noqa: ARG001 - one signature for all readers
    return None, at


def _unsigned(count: int) -> Reader:
    def read(data: memoryview, at: int) -> tuple[Argument, int]:
        end = _need(data, at, count)
        return int.from_bytes(data[at:end], "little"), end

    return read


def _int4(data: memoryview, at: int) -> tuple[Argument, int]:
    end = _need(data, at, 4)
    return int.from_bytes(data[at:end], "little", signed=True), end


def _float8(data: memoryview, at: int) -> tuple[Argument, int]:
    return Opaque.NUMBER, _need(data, at, 8)


def _long(count: int) -> Reader:
    def read(data: memoryview, at: int) -> tuple[Argument, int]:
        start = _need(data, at, count)
        length = int.from_bytes(data[at:start], "little")
        end = _need(data, start, length)
        if length > 16:
            return Opaque.NUMBER, end
        return int.from_bytes(data[start:end], "little", signed=True), end

    return read


def _counted(count: int, kind: str) -> Reader:
    def read(data: memoryview, at: int) -> tuple[Argument, int]:
        start = _need(data, at, count)
        end = _need(data, start, int.from_bytes(data[at:start], "little"))
        if kind == "bytes":
            return Span(start, end), end
        return _text(bytes(data[start:end]) if end - start <= MAX_KEPT_TEXT else None), end

    return read


def _text(raw: bytes | None) -> Argument:
    if raw is None:
        return Opaque.TEXT
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return Opaque.TEXT


def _line(data: memoryview, at: int) -> tuple[bytes, int]:
    """Return the line at `at` without its newline, and where the next begins."""
    window = 256
    while True:
        raw = bytes(data[at : at + window])
        found = raw.find(b"\n")
        if found >= 0:
            return raw[:found], at + found + 1
        if at + window >= len(data):
            raise LexError("the data ends inside a line", at, cut=True)
        if window >= MAX_LINE:
            raise LexError("a line is too long", at, cut=False)
        window *= 16


def _two_lines(data: memoryview, at: int) -> tuple[Argument, int]:
    module, at = _line(data, at)
    name, end = _line(data, at)
    return (module.decode("utf-8", "surrogateescape"), name.decode("utf-8", "surrogateescape")), end


def _number_line(data: memoryview, at: int) -> tuple[Argument, int]:
    raw, end = _line(data, at)
    if len(raw) > MAX_KEPT_DIGITS:
        return Opaque.NUMBER, end
    try:
        return int(raw.strip().rstrip(b"L")), end
    except ValueError:
        return Opaque.NUMBER, end


def _skipped_line(data: memoryview, at: int) -> tuple[Argument, int]:
    raw, end = _line(data, at)
    return raw.decode("utf-8", "replace")[:MAX_KEPT_TEXT], end


_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.))", re.DOTALL)
_ESCAPED: Final = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


def _unescape(match: re.Match[bytes]) -> bytes:
    digits, octal, other = match.groups()
    if digits is not None:
        return bytes([int(digits, 16)])
    if octal is not None:
        return bytes([int(octal, 8) & 0xFF])
    if other in b"\\'\"":
        return bytes(other)
    return b"" if other == b"\n" else _ESCAPED.get(other, b"\\" + other)


def _quoted_line(data: memoryview, at: int) -> tuple[Argument, int]:
    raw, end = _line(data, at)
    raw = raw.strip()
    if len(raw) < 2 or raw[0] != raw[-1] or raw[:1] not in (b"'", b'"') or len(raw) > MAX_KEPT_TEXT:
        return Opaque.TEXT, end
    return _text(_ESCAPE.sub(_unescape, raw[1:-1])), end


def _raw_unicode_line(data: memoryview, at: int) -> tuple[Argument, int]:
    raw, end = _line(data, at)
    if len(raw) > MAX_KEPT_TEXT:
        return Opaque.TEXT, end
    try:
        return raw.decode("raw-unicode-escape"), end
    except UnicodeDecodeError:
        return Opaque.TEXT, end


def _boolean(value: bool) -> Reader:
    return lambda _data, at: (value, at)


_OPCODES: Final[dict[int, tuple[str, Reader]]] = {
    ord(code): (name, reader)
    for code, name, reader in (
        ("(", "MARK", _none), (".", "STOP", _none), ("0", "POP", _none), ("1", "POP_MARK", _none),
        ("2", "DUP", _none), ("F", "FLOAT", _number_line), ("I", "INT", _number_line), ("J", "BININT", _int4),
        ("K", "BININT1", _unsigned(1)), ("L", "LONG", _number_line), ("M", "BININT2", _unsigned(2)),
        ("N", "NONE", _none), ("P", "PERSID", _skipped_line), ("Q", "BINPERSID", _none), ("R", "REDUCE", _none),
        ("S", "STRING", _quoted_line), ("T", "BINSTRING", _counted(4, "text")),
        ("U", "SHORT_BINSTRING", _counted(1, "text")), ("V", "UNICODE", _raw_unicode_line),
        ("X", "BINUNICODE", _counted(4, "text")), ("a", "APPEND", _none), ("b", "BUILD", _none),
        ("c", "GLOBAL", _two_lines), ("d", "DICT", _none), ("}", "EMPTY_DICT", _none), ("e", "APPENDS", _none),
        ("g", "GET", _number_line), ("h", "BINGET", _unsigned(1)), ("i", "INST", _two_lines),
        ("j", "LONG_BINGET", _unsigned(4)), ("l", "LIST", _none), ("]", "EMPTY_LIST", _none), ("o", "OBJ", _none),
        ("p", "PUT", _number_line), ("q", "BINPUT", _unsigned(1)), ("r", "LONG_BINPUT", _unsigned(4)),
        ("s", "SETITEM", _none), ("t", "TUPLE", _none), (")", "EMPTY_TUPLE", _none), ("u", "SETITEMS", _none),
        ("G", "BINFLOAT", _float8), ("\x80", "PROTO", _unsigned(1)), ("\x81", "NEWOBJ", _none),
        ("\x82", "EXT1", _unsigned(1)), ("\x83", "EXT2", _unsigned(2)), ("\x84", "EXT4", _int4),
        ("\x85", "TUPLE1", _none), ("\x86", "TUPLE2", _none), ("\x87", "TUPLE3", _none),
        ("\x88", "NEWTRUE", _boolean(True)), ("\x89", "NEWFALSE", _boolean(False)), ("\x8a", "LONG1", _long(1)),
        ("\x8b", "LONG4", _long(4)), ("B", "BINBYTES", _counted(4, "bytes")),
        ("C", "SHORT_BINBYTES", _counted(1, "bytes")), ("\x8c", "SHORT_BINUNICODE", _counted(1, "text")),
        ("\x8d", "BINUNICODE8", _counted(8, "text")), ("\x8e", "BINBYTES8", _counted(8, "bytes")),
        ("\x8f", "EMPTY_SET", _none), ("\x90", "ADDITEMS", _none), ("\x91", "FROZENSET", _none),
        ("\x92", "NEWOBJ_EX", _none), ("\x93", "STACK_GLOBAL", _none), ("\x94", "MEMOIZE", _none),
        ("\x95", "FRAME", _unsigned(8)), ("\x96", "BYTEARRAY8", _counted(8, "bytes")), ("\x97", "NEXT_BUFFER", _none),
        ("\x98", "READONLY_BUFFER", _none),
    )
}  # fmt: skip


_TABLE: Final = [_OPCODES.get(code) for code in range(256)]


def opcode_at(data: memoryview, at: int, size: int) -> tuple[str, Reader]:
    """Return the name of the opcode at `at` and the function that reads its argument from the byte after it.

    Raises:
        LexError: the data ends, or the byte is no opcode.
    """
    if at >= size:
        raise LexError("the data ends before the pickle does", at, cut=True)
    entry = _TABLE[data[at]]
    if entry is None:
        raise LexError("a byte that is no opcode", at, cut=False)
    return entry
