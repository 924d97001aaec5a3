"""Files that survive a power cut: a new one is on the medium before anything names it, and so is the name."""

from __future__ import annotations

import os
from pathlib import Path


def write_synced(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that does not exist yet and flush it to the medium; no link is followed.

    Raises:
        OSError: as the system says; EEXIST where something lies there already. ValueError: the path holds a NUL.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the medium; raises OSError as the system says."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
