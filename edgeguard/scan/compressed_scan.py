"""Scan of single compressed streams (joblib's and others): unpacked into memory within a budget, then scanned.

joblib reads zlib, gzip, bz2, xz, lzma and lz4; all but lz4 are in the standard library. lz4, zstd and 7z are named and
not looked into, so they are never clean.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Final, Protocol

from edgeguard.scan.content import Content, Context

MAX_RATIO: Final = 1100  # a little above what deflate can reach; bz2 and xz reach more only for bombs
RATIO_FROM_BYTES: Final = 16 << 20
_CHUNK: Final = 1 << 20
_LZMA_MEMORY: Final = 256 << 20  # a header of a few bytes may ask for a dictionary of 4 GiB
_ERRORS: Final = (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError, MemoryError)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class _Zlib:
    """zlib's object with the interface of the other two."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)
        self._pending = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        made = self._inner.decompress(self._pending + data, max_length)
        self._pending = self._inner.unconsumed_tail
        return made


_MAKERS: Final[dict[str, Callable[[], _Decompressor]]] = {
    "gzip": lambda: _Zlib(31),
    "zlib": lambda: _Zlib(15),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY),
}
_MAGIC: Final = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x78\x01", "zlib"),
    (b"\x78\x5e", "zlib"),
    (b"\x78\x9c", "zlib"),
    (b"\x78\xda", "zlib"),
)


def compression(data: memoryview) -> str:
    """Return the name of the compression `data` begins with, "" for none. Short magic numbers are tried out."""
    head = bytes(data[:8])
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name if len(magic) > 3 or _starts(name, data) else ""
    return ""


def _starts(name: str, data: memoryview) -> bool:
    try:
        return bool(_MAKERS[name]().decompress(bytes(data[:4096]), 64)) or len(data) < 4096
    except _ERRORS:
        return False


def scan_compressed(content: Content, context: Context, name: str) -> str:
    """Unpack a stream, and every further one that follows it, and scan what comes out."""
    made: list[bytes] = []
    data = content.data
    limit = min(context.unpacked_left, max(MAX_RATIO * len(data), RATIO_FROM_BYTES))
    total = at = 0
    while at < len(data):
        try:
            used = _unpack_one(_MAKERS[name](), data, at, limit - total, made)
        except _ERRORS:
            context.report("EG-SCAN-207", content, f"the {name} stream is damaged", offset=at)
            break
        total = sum(map(len, made))
        if used is None or total > limit:
            rule = "EG-SCAN-205" if total > limit else "EG-SCAN-207"
            message = f"more than {limit} bytes out of {len(data)}" if total > limit else "the stream is cut short"
            context.report(rule, content, message, offset=at)
            break
        at += used
        if at < len(data) and compression(data[at:]) != name:
            context.report("EG-SCAN-204", content, f"{len(data) - at} bytes follow the compressed stream", offset=at)
            break
    total = sum(map(len, made))
    context.unpacked_left = max(0, context.unpacked_left - total)
    if not total:
        context.report("EG-SCAN-001", content, "nothing in the stream")
        return f"{name} stream"
    inner = context.scan(content.unpacked(b"".join(made), f"{name} content"))
    return f"{inner}, {name}"


def _unpack_one(unpacker: _Decompressor, data: memoryview, at: int, limit: int, made: list[bytes]) -> int | None:
    """Append what one stream holds to `made`, a byte over `limit` at most; return its length, None if it has no end."""
    left, fed = limit + 1, at
    while not unpacker.eof:
        chunk = bytes(data[fed : fed + _CHUNK])
        fed += len(chunk)
        piece = unpacker.decompress(chunk, max(left, 0))
        made.append(piece)
        left -= len(piece)
        if left <= 0 or (not chunk and not piece):
            return None
    return fed - at - len(unpacker.unused_data)
