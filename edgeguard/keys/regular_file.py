"""Opening a file that a stranger may have prepared: no link is followed, a pipe does not block, folders are refused."""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path

OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_regular(path: Path | str, dir_fd: int | None = None) -> FileIO:
    """Return an unbuffered reader of a regular file, relative to `dir_fd` where given.

    Raises:
        OSError: as the system says, or EINVAL "not a regular file". ValueError: the path holds a NUL.
    """
    fd = os.open(path, OPEN_FLAGS, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return FileIO(fd, "rb")


def read_up_to(file: FileIO, limit: int) -> bytes:
    """Return the rest of `file`, or its first `limit` bytes."""
    parts: list[bytes] = []
    missing = limit
    while missing and (part := file.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
