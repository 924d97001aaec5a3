"""The few file operations that a device's store is made of, behind a seam, so that a power cut can be put at each.

Names are relative to the store, with `/`. docs/formats/slots.md
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

from edgeguard.errors import UpdateError
from edgeguard.harden.durable import sync_folder
from edgeguard.keys.regular_file import open_regular, read_up_to

LOCK_FILE: Final = "lock"
PARTIAL: Final = ".new"
_HINT: Final = "is the store's folder writable, and is there space for one more bundle?"


class StoreFiles(Protocol):
    """One folder. Methods raise OSError as the system says."""

    def path(self, name: str) -> Path:
        """Return where `name` lies."""
        ...

    def size(self, name: str) -> int:
        """Return the size of a regular file; -1 when there is none."""
        ...

    def read_at(self, name: str, start: int, length: int) -> bytes:
        """Return a part of a regular file, shorter where it ends."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none when it is not there."""
        ...

    def make_folder(self, folder: str) -> None:
        """Make a folder and those above it."""
        ...

    def write_whole(self, name: str, content: bytes) -> None:
        """Put a file in place: written aside, flushed, renamed, names flushed."""
        ...

    def write_at(self, name: str, start: int, content: bytes) -> None:
        """Write a part of a file that grows, cut what lies behind it, and flush."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, link or whole folder; one that is not there is no error."""
        ...

    def point(self, link: str, target: str) -> None:
        """Make `link` name its sibling `target`, in one instant, and flush."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Keep other updaters out while the block runs; UpdateError (EG-R004) when one is at work."""
        ...


class FolderStore:
    """`StoreFiles` on a real folder, made for its owner alone."""

    def __init__(self, folder: Path | str) -> None:
        """Make the folder where it is missing.

        Raises:
            UpdateError: EG-R004.
        """
        self._folder = Path(folder)
        with store_errors():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        return self._folder / name

    def size(self, name: str) -> int:
        try:
            with open_regular(self.path(name)) as file:
                return os.fstat(file.fileno()).st_size
        except (FileNotFoundError, NotADirectoryError):
            return -1

    def read_at(self, name: str, start: int, length: int) -> bytes:
        with open_regular(self.path(name)) as file:
            file.seek(start)
            return read_up_to(file, length)

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.path(folder)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def make_folder(self, folder: str) -> None:
        self.path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(self.path(folder).parent)

    def write_whole(self, name: str, content: bytes) -> None:
        path = self.path(name)
        partial = path.with_name(path.name + PARTIAL)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)

    def write_at(self, name: str, start: int, content: bytes) -> None:
        path = self.path(name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "r+b", buffering=0) as file:
            file.truncate(start)
            file.seek(start)
            view = memoryview(content)
            while view:
                view = view[file.write(view) or 0 :]
            os.fsync(file.fileno())
        if start == 0:
            sync_folder(path.parent)

    def remove(self, name: str) -> None:
        path = self.path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync_folder(path.parent)

    def point(self, link: str, target: str) -> None:
        path = self.path(link)
        partial = path.with_name(path.name + PARTIAL)
        partial.unlink(missing_ok=True)
        partial.symlink_to(target)
        partial.replace(path)
        sync_folder(path.parent)

    @contextmanager
    def locked(self) -> Iterator[None]:
        fd = os.open(self.path(LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        busy = False
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy = True
            if busy:
                raise UpdateError("another updater is at work on this store", code="EG-R004", hint="try again later")
            yield
        finally:
            os.close(fd)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn what the system says into UpdateError (EG-R004)."""
    reason = ""
    try:
        yield
        return
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
    raise UpdateError(f"the store cannot be read or written: {reason}", code="EG-R004", hint=_HINT)
