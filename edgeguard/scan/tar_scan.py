"""Scan of tar archives: every header is read in place, nothing is extracted.

Source: POSIX.1-2017 pax, ustar interchange format; GNU long names. `tarfile` is not used: it follows its own rules on
what ends an archive, and a header it skips is a header some other reader takes.
"""

from __future__ import annotations

from typing import Final

from edgeguard.scan.content import Content, Context, shown
from edgeguard.scan.zip_reader import MAX_MEMBERS, check_member_name

BLOCK: Final = 512
_MAGIC_AT: Final = 257
_FOLDER: Final = b"5"
_MAX_META: Final = 1 << 20


def is_tar(data: memoryview) -> bool:
    """Tell whether `data` begins with a tar header: its magic word, or a checksum that is right."""
    if len(data) < BLOCK:
        return False
    return bytes(data[_MAGIC_AT : _MAGIC_AT + 5]) == b"ustar" or (data[0] != 0 and _checksum_fits(bytes(data[:BLOCK])))


def scan_tar(content: Content, context: Context) -> str:
    """Scan a tar archive and everything in it."""
    data, at, count = content.data, 0, 0
    long_name = ""
    seen: set[str] = set()
    while at + BLOCK <= len(data):
        header = bytes(data[at : at + BLOCK])
        if not any(header):
            break
        size = _number(header[124:136])
        if not _checksum_fits(header) or size is None:
            context.report("EG-SCAN-207", content, "a tar header is damaged", offset=at)
            return "tar archive"
        start, end = at + BLOCK, at + BLOCK + size
        if end > len(data):
            context.report("EG-SCAN-207", content, "a tar member reaches past the end", offset=at)
            return "tar archive"
        count += 1
        if count > MAX_MEMBERS:
            context.report("EG-SCAN-210", content, f"more than {MAX_MEMBERS} members")
            return "tar archive"
        kind = header[156:157]
        if kind in (b"x", b"g", b"L", b"K", b"X", b"N", b"V"):
            long_name = _meta_name(kind, bytes(data[start : min(end, start + _MAX_META)])) or long_name
        else:
            name, long_name = long_name or _plain_name(header), ""
            _scan_member(content.part(start, end, name), kind, name, seen, content, context, at)
        at = end + -end % BLOCK
    rest = data[at:]
    if any(bytes(rest[i : i + (1 << 20)]).strip(b"\0") for i in range(0, len(rest), 1 << 20)):
        context.report("EG-SCAN-204", content, "bytes follow the end of the archive", offset=at)
    return "tar archive"


def _scan_member(
    part: Content, kind: bytes, name: str, seen: set[str], content: Content, context: Context, at: int
) -> None:
    check_member_name(name, content, context, at)
    if name.casefold() in seen:
        context.report("EG-SCAN-203", content, f"{shown(name)} is there twice", offset=at)
    seen.add(name.casefold())
    if kind in (b"0", b"\0", b"7", b""):
        if len(part.data):
            context.scan(part)
    elif kind != _FOLDER:
        context.report("EG-SCAN-202", content, f"{shown(name)} is no file", offset=at)


def _plain_name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:262] == b"ustar" else b""
    return (prefix + b"/" + name if prefix and header[257:265] != b"ustar  \0" else name).decode("utf-8", "replace")


def _meta_name(kind: bytes, body: bytes) -> str:
    if kind == b"L":
        return body.split(b"\0", 1)[0].decode("utf-8", "replace")
    if kind != b"x":
        return ""
    for line in body.split(b"\n")[:1000]:
        _, _, entry = line.partition(b" ")
        if entry.startswith(b"path="):
            return entry[5:].decode("utf-8", "replace")
    return ""


def _number(field: bytes) -> int | None:
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << 95) - 1)
        return value if field[0] == 0x80 else None
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        return None


def _checksum_fits(header: bytes) -> bool:
    told = _number(header[148:156])
    return told is not None and told == sum(header[:148]) + 8 * 0x20 + sum(header[156:])
