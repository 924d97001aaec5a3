"""`scan_file`, `scan_bytes`, `files_below`: the ways in. Files are opened without following links and only read.

Not for content that changes meanwhile: a file that is cut while it is mapped ends the process (SIGBUS), which no caller
can take for clean.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from edgeguard.errors import ConfigError
from edgeguard.scan.content import Content, Context
from edgeguard.scan.findings import FileReport
from edgeguard.scan.sniff import make_dispatch

MAX_FILE_BYTES: Final = 64 << 30  # a map of it costs nothing; longer than any model for a board
READ_BYTES: Final = 64 << 20  # read at once; longer files are mapped
MAX_FILES: Final = 100_000
MAX_FOLDER_DEPTH: Final = 32


def scan_file(path: Path) -> FileReport:
    """Scan one file. Hostile content is reported, never raised."""
    context = Context(make_dispatch(path.parent))
    empty = Content(memoryview(b""), path.name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        link = path.is_symlink()
        why = "a symbolic link" if link else (error.strerror or "not readable").lower()
        context.report("EG-SCAN-005" if link else "EG-SCAN-004", empty, why)
        return context.to_report(str(path), 0, "unread")
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            context.report("EG-SCAN-005", empty, "no regular file")
            return context.to_report(str(path), 0, "unread")
        if facts.st_size > MAX_FILE_BYTES:
            context.report("EG-SCAN-003", empty, f"{facts.st_size} bytes")
            return context.to_report(str(path), facts.st_size, "unread")
        return _scan_open(descriptor, facts.st_size, path, context)
    except OSError as error:
        context.report("EG-SCAN-004", empty, (error.strerror or "not readable").lower())
        return context.to_report(str(path), 0, "unread")
    finally:
        os.close(descriptor)


def scan_bytes(content: bytes, name: str) -> FileReport:
    """Scan bytes as if they were a file of that name, with no files beside it."""
    context = Context(make_dispatch(None))
    context.allow(len(content))
    kind = context.scan(Content(memoryview(content), name))
    return context.to_report(name, len(content), kind)


def _scan_open(descriptor: int, size: int, path: Path, context: Context) -> FileReport:
    if size <= READ_BYTES:
        with open(descriptor, "rb", closefd=False) as stream:
            held = stream.read(READ_BYTES + 1)
        context.allow(len(held))
        kind = context.scan(Content(memoryview(held), path.name))
        return context.to_report(str(path), len(held), kind)
    mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)  # unmapped when the last view of it is gone
    context.allow(size)
    kind = context.scan(Content(memoryview(mapped), path.name))
    return context.to_report(str(path), size, kind)


def files_below(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files named and the files in the folders named, sorted, following no link below a named folder.

    Raises:
        ConfigError: a path is not there, or there are more files than a scan is for.
    """
    count = 0
    for path in paths:
        if not os.path.lexists(path):
            raise ConfigError(f"there is no {path}", code="EG-C080", hint="name model files or folders that exist")
        for found in _walk(path, 0) if path.is_dir() and not path.is_symlink() else iter((path,)):
            count += 1
            if count > MAX_FILES:
                raise ConfigError(
                    f"more than {MAX_FILES} files", code="EG-C081", hint="scan the folders one after the other"
                )
            yield found


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        yield folder  # reported as unreadable by scan_file
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and depth < MAX_FOLDER_DEPTH:
            yield from _walk(Path(entry.path), depth + 1)
        else:
            yield Path(entry.path)
