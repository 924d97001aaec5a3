"""Reads the structure of a zip archive as the loaders do, and notes where two of them would see different archives.

Python's zipfile goes by the central directory and checks the CRC; miniz, which PyTorch uses, goes by it too but trusts
other fields; streaming readers go by the local headers. Scanners built on zipfile were led astray by flags, checksums
and headers that contradict each other. Here both headers are read, every contradiction is a finding, and the content is
read whatever the flags say.

Source: APPNOTE.TXT 6.3 sections 4.3 and 4.4.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from edgeguard.scan.content import Content, Context, shown

STORED: Final = 0
DEFLATED: Final = 8
ENCRYPTED: Final = 0x1
DESCRIPTOR: Final = 0x8  # sizes and CRC follow the data
STRONG_ENCRYPTION: Final = 0x40
UTF8: Final = 0x800
MAX_MEMBERS: Final = 20_000
MAX_COMMENT: Final = 65_535
MAX_RATIO: Final = 200  # deflate reaches 1032; weights and pickles stay below 20
RATIO_FROM_BYTES: Final = 8 << 20  # small runs of zeros are ordinary

_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL: Final = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END: Final = struct.Struct("<4sHHHHIIH")
_LOCATOR64: Final = struct.Struct("<4sIQI")
_END64: Final = struct.Struct("<4sQHHIIQQQQ")
_U16: Final = 0xFFFF
_U32: Final = 0xFFFFFFFF
_SYMLINK: Final = 0o120000
_REGULAR_TYPES: Final = (0, 0o100000, 0o040000)
_TYPE_BITS: Final = 0o170000
_UNIX: Final = 3


@dataclass(frozen=True, slots=True)
class ZipMember:
    """One member as the central directory has it; `start:end` is its stored data in the archive."""

    name: str
    method: int
    flags: int
    crc: int
    size: int
    start: int
    end: int
    header: int  # offset of the local header
    mode: int

    @property
    def is_folder(self) -> bool:
        """Whether the name says so."""
        return self.name.endswith("/")


class NoZipError(Exception):
    """There is no directory to read. Internal."""


def ends_as_zip(data: memoryview) -> bool:
    """Tell whether a reader that starts from the end, as Python's zipfile does, finds an archive in `data`."""
    tail = bytes(data[max(0, len(data) - MAX_COMMENT - _END.size) :])
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or found + _END.size > len(tail):
        return False
    size = _END.unpack_from(tail, found)[5]
    directory = len(data) - len(tail) + found - size
    return size in (0, _U32) or (directory >= 0 and bytes(data[directory : directory + 4]) == b"PK\x01\x02")


def read_members(content: Content, context: Context) -> list[ZipMember]:
    """Return the members, having reported everything that is odd about the archive as a whole.

    Raises:
        NoZipError: no central directory was found where one has to be.
    """
    data = content.data
    start, size, count, shift = _directory(content, context)
    members: list[ZipMember] = []
    at, stop = start + shift, start + shift + size
    while at < stop:
        if len(members) >= MAX_MEMBERS:
            context.report("EG-SCAN-210", content, f"more than {MAX_MEMBERS} members")
            break
        entry = _central_entry(data, at, stop)
        if entry is None:
            context.report("EG-SCAN-207", content, "the directory of the archive is damaged", offset=at)
            break
        fields, raw_name, extra, at_next = entry
        member = _member(content, context, fields, raw_name, extra, shift, at)
        if member is not None:
            members.append(member)
        at = at_next
    if len(members) != count and count != _U16:
        context.report("EG-SCAN-203", content, f"the archive counts {count} members and lists {len(members)}")
    _check_names(members, content, context)
    _check_gaps(members, start + shift, content, context)
    return members


def unpack(member: ZipMember, content: Content, context: Context) -> Content | None:
    """Return the bytes of a member, in place where they are stored; None, with a finding, where that cannot be."""
    part = content.part(member.start, member.end, member.name)
    context.read_left -= len(part.data)
    if context.read_left < 0:
        context.report("EG-SCAN-205", part, "the members are together many times the archive")
        return None
    if member.method == STORED:
        plain: Content | None = part
    elif member.method == DEFLATED:
        plain = _inflate(member, part, content, context)
    else:
        context.report("EG-SCAN-208", part, f"method {member.method}")
        return None
    if plain is not None and (zlib.crc32(plain.data) != member.crc or len(plain.data) != member.size):
        context.report("EG-SCAN-203", part, "the content is not what its checksum and size say")
    return plain


def _inflate(member: ZipMember, part: Content, content: Content, context: Context) -> Content | None:
    limit = min(max(context.unpacked_left, 0), max(MAX_RATIO * len(part.data), RATIO_FROM_BYTES))
    inflater = zlib.decompressobj(-15)
    try:
        raw = inflater.decompress(part.data, limit + 1)
    except zlib.error:
        context.unpacked_left -= min(limit, MAX_RATIO * len(part.data))  # may have been made before the damage
        context.report("EG-SCAN-207", part, "the compressed data is damaged")
        return None
    context.unpacked_left -= min(len(raw), limit)
    if len(raw) > limit:
        context.report("EG-SCAN-205", part, f"more than {limit} bytes out of {len(part.data)}")
        return None
    if not inflater.eof or inflater.unused_data:
        context.report("EG-SCAN-207", part, "the compressed data ends before or after its end")
    return content.unpacked(raw, member.name)


def _directory(content: Content, context: Context) -> tuple[int, int, int, int]:
    """Return offset, size and entries of the central directory, and how far all offsets are shifted."""
    data = content.data
    tail_at = max(0, len(data) - MAX_COMMENT - _END.size)
    tail = bytes(data[tail_at:])
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or found + _END.size > len(tail):
        raise NoZipError
    at = tail_at + found
    _, disk, first_disk, _here, count, size, offset, comment = _END.unpack_from(tail, found)
    if disk or first_disk:
        context.report("EG-SCAN-203", content, "the archive claims to span several disks")
    if at + _END.size + comment != len(data):
        context.report("EG-SCAN-204", content, "bytes follow the end of the archive", offset=at + _END.size + comment)
    if tail.find(b"PK\x05\x06", 0, found) >= 0 and comment:
        context.report("EG-SCAN-203", content, "the archive has two ends")
    directory_end = at
    locator_at = at - _LOCATOR64.size
    if locator_at >= 0 and bytes(data[locator_at : locator_at + 4]) == b"PK\x06\x07":
        _, _, end64_at, _ = _LOCATOR64.unpack_from(data, locator_at)
        if end64_at + _END64.size <= len(data) and bytes(data[end64_at : end64_at + 4]) == b"PK\x06\x06":
            values = _END64.unpack_from(data, end64_at)
            directory_end = end64_at
            for small, wide, limit in ((count, values[7], _U16), (size, values[8], _U32), (offset, values[9], _U32)):
                if small not in (limit, wide):
                    context.report("EG-SCAN-203", content, "the two ends of the archive contradict each other")
            count, size, offset = values[7], values[8], values[9]
    shift = directory_end - size - offset
    if shift < 0 or size > directory_end:
        raise NoZipError
    if shift:
        context.report("EG-SCAN-204", content, f"{shift} bytes stand before the archive", offset=0)
    return offset, size, count, shift


def _central_entry(data: memoryview, at: int, stop: int) -> tuple[tuple[int, ...], bytes, bytes, int] | None:
    if at + _CENTRAL.size > stop or bytes(data[at : at + 4]) != b"PK\x01\x02":
        return None
    fields = _CENTRAL.unpack_from(data, at)
    name_at = at + _CENTRAL.size
    extra_at = name_at + fields[10]
    comment_at = extra_at + fields[11]
    end = comment_at + fields[12]
    if end > stop:
        return None
    return fields, bytes(data[name_at:extra_at]), bytes(data[extra_at:comment_at]), end


def _member(
    content: Content, context: Context, fields: tuple[int, ...], raw_name: bytes, extra: bytes, shift: int, at: int
) -> ZipMember | None:
    made_by, flags, method, crc = fields[1], fields[3], fields[4], fields[7]
    compressed, size, external, offset = fields[8], fields[9], fields[15], fields[16]
    name = _name(raw_name, flags)
    size, compressed, offset = _wide(extra, size, compressed, offset)
    header = offset + shift
    data = content.data
    if header + _LOCAL.size > len(data) or bytes(data[header : header + 4]) != b"PK\x03\x04":
        context.report("EG-SCAN-203", content, f"{shown(name)} has no header of its own", offset=at)
        return None
    local = _LOCAL.unpack_from(data, header)
    name_at = header + _LOCAL.size
    start = name_at + local[9] + local[10]
    end = start + compressed
    if end > len(data):
        context.report("EG-SCAN-203", content, f"{shown(name)} reaches past the end of the archive", offset=at)
        return None
    local_name = bytes(data[name_at : name_at + local[9]])
    local_extra = bytes(data[name_at + local[9] : start])
    local_size, local_compressed, _ = _wide(local_extra, local[8], local[7], 0)
    contradictions = [
        what
        for what, here, there in (
            ("name", local_name, raw_name),
            ("method", local[3], method),
            ("flags", local[2] & ~UTF8, flags & ~UTF8),
        )
        if here != there
    ]
    if not flags & DESCRIPTOR or local[6] or local[7]:  # else the local header leaves them to the descriptor
        told = ((local[6], crc), (local_compressed, compressed), (local_size, size))
        contradictions += [what for what, (a, b) in zip(("checksum", "size", "size"), told, strict=True) if a != b]
    for what in dict.fromkeys(contradictions):
        context.report("EG-SCAN-203", content, f"{shown(name)} has two {what}s in the archive", offset=header)
    if flags & (ENCRYPTED | STRONG_ENCRYPTION):
        context.report("EG-SCAN-206", content.part(start, end, name), "marked as encrypted")
    mode = external >> 16 if made_by >> 8 == _UNIX else 0
    return ZipMember(name, method, flags, crc, size, start, end, header, mode)


def _name(raw: bytes, flags: int) -> str:
    if flags & UTF8:
        return raw.decode("utf-8", "replace")
    return raw.decode("ascii") if raw.isascii() else raw.decode("cp437")


def _wide(extra: bytes, size: int, compressed: int, offset: int) -> tuple[int, int, int]:
    """Return the three numbers with those that stand in the zip64 extra field put in."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + length]
        if tag == 1:
            numbers = iter(struct.unpack_from(f"<{len(body) // 8}Q", body))
            size = next(numbers, size) if size == _U32 else size
            compressed = next(numbers, compressed) if compressed == _U32 else compressed
            offset = next(numbers, offset) if offset == _U32 else offset
            break
        at += 4 + length
    return size, compressed, offset


def _check_names(members: list[ZipMember], content: Content, context: Context) -> None:
    seen: dict[str, str] = {}
    for member in members:
        check_member_name(member.name, content, context, member.header)
        kind = member.mode & _TYPE_BITS
        if kind == _SYMLINK or kind not in _REGULAR_TYPES:
            context.report("EG-SCAN-202", content, f"{shown(member.name)} is no file", offset=member.header)
        folded = member.name.casefold()
        if folded in seen:
            same = "twice" if seen[folded] == member.name else "twice, but for upper and lower case"
            context.report("EG-SCAN-203", content, f"{shown(member.name)} is there {same}", offset=member.header)
        seen[folded] = member.name


def check_member_name(name: str, content: Content, context: Context, offset: int) -> None:
    """Report a member name that leads out of the folder it would be unpacked into, on any system."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":" and name[0].isalpha()):
        context.report("EG-SCAN-201", content, f"{shown(name)} leads outside", offset=offset)
    elif "\\" in name or "\0" in name:
        context.report("EG-SCAN-203", content, f"{shown(name)} is another name on another system", offset=offset)


def _check_gaps(members: list[ZipMember], directory: int, content: Content, context: Context) -> None:
    """Report bytes between members that no header accounts for, and members that share bytes."""
    spans = sorted((member.header, member.end, member.flags) for member in members)
    at = 0
    for header, stop, flags in spans:
        if header < at:
            context.report("EG-SCAN-205", content, "two members share bytes of the archive", offset=header)
        elif header > at:
            _check_hidden(at, header, content, context)
        at = max(at, stop + _descriptor_bytes(content.data, stop, flags))
    if at < directory:
        _check_hidden(at, directory, content, context)


def _descriptor_bytes(data: memoryview, at: int, flags: int) -> int:
    if not flags & DESCRIPTOR:
        return 0
    marked = bytes(data[at : at + 4]) == b"PK\x07\x08"
    wide = 24 if marked else 20
    narrow = 16 if marked else 12
    # With 64-bit sizes the descriptor is 8 longer; what follows it is a header either way.
    follows_narrow = bytes(data[at + narrow : at + narrow + 2]) == b"PK"
    return wide if not follows_narrow and bytes(data[at + wide : at + wide + 2]) == b"PK" else narrow


def _check_hidden(start: int, end: int, content: Content, context: Context) -> None:
    if any(bytes(content.data[at : min(at + (1 << 20), end)]).strip(b"\0") for at in range(start, end, 1 << 20)):
        context.report("EG-SCAN-204", content, f"{end - start} bytes between the members", offset=start)
