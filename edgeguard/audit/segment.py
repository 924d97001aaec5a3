"""Segment files on disk: names, listing, reading records in order (docs/formats/audit-log.md, sections 1, 2, 7)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from edgeguard.audit.chain import MAGIC, Torn, iter_frames, record_hash
from edgeguard.audit.record import Record, decode_record
from edgeguard.errors import AuditError

MAX_SEGMENT_INDEX = 1_000_000  # bounds the key evolution that a hostile file name could ask of a verifier
MAX_SEGMENT_BYTES = 64 * 1024 * 1024  # a segment is read whole

_NAME = re.compile(r"audit-([0-9]{8})\.egl")


@dataclass(frozen=True, slots=True)
class Entry:
    """A record where it lies: in which segment, from which byte on, with its chain hash."""

    segment: int
    offset: int
    size_bytes: int
    record: Record
    digest: str


def segment_path(directory: Path, index: int) -> Path:
    return directory / f"audit-{index:08d}.egl"


def list_segments(directory: Path) -> list[int]:
    """Return the indices present, ascending.

    Raises:
        AuditError: the folder cannot be read, an index is missing in between, or one is out of range.
    """
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise AuditError(f"cannot read the log folder: {error.strerror}", code="EG-A007") from None
    found = sorted(int(match.group(1)) for name in names if (match := _NAME.fullmatch(name)))
    for before, after in pairwise(found):
        if after != before + 1:
            raise AuditError(f"segment {before + 1} is missing", code="EG-A008")
    if found and found[-1] > MAX_SEGMENT_INDEX:
        raise AuditError(f"segment index {found[-1]} is out of range", code="EG-A008")
    return found


def read_segment_bytes(path: Path) -> bytes:
    """Return the whole file, bounded; a symbolic link is refused.

    Raises:
        AuditError: it cannot be read or is larger than any segment.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            data = file.read(MAX_SEGMENT_BYTES + 1)
    except OSError as error:
        raise AuditError(f"cannot read {path.name}: {error.strerror}", code="EG-A007") from None
    if len(data) > MAX_SEGMENT_BYTES:
        raise AuditError(f"{path.name} is larger than {MAX_SEGMENT_BYTES} bytes", code="EG-A008")
    return data


def read_entries(directory: Path, index: int, *, is_current: bool) -> Iterator[Entry | Torn]:
    """Yield the records of one segment, checking bytes and form but not the chain.

    Raises:
        AuditError: names the segment and the byte or record that is bad.
    """
    path = segment_path(directory, index)
    data = read_segment_bytes(path)
    if len(data) < len(MAGIC) and is_current and MAGIC.startswith(data.rstrip(b"\x00")):
        yield Torn(0, len(data))
        return
    if data[: len(MAGIC)] != MAGIC:
        raise AuditError(f"{path.name} is not an audit segment of version 1", code="EG-A008")
    seq: int | None = None
    try:
        for frame in iter_frames(data, len(MAGIC), may_be_torn=is_current):
            if isinstance(frame, Torn):
                yield frame
                return
            offset, payload = frame
            record = decode_record(payload)
            seq = record.seq
            yield Entry(index, offset, len(payload), record, record_hash(payload))
    except AuditError as error:
        where = "its first record" if seq is None else f"record {seq + 1}"
        raise AuditError(f"{path.name}, {where}: {error.message}", code=error.code) from None
