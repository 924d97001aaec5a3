"""The few file operations that the device state is made of, behind a seam, so that a power cut can be put at each.

Writing is: `write_new` a temporary, `replace` the old by it, `sync_names`. Every step leaves the old or the new file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

from edgeguard.clock import NS_PER_S, SystemClock
from edgeguard.harden.durable import sync_folder, write_synced
from edgeguard.keys.regular_file import open_regular, read_up_to

LOCK_WAIT_NS: Final = 5 * NS_PER_S  # a hundred writes to a slow card
_RETRY_NS: Final = 5_000_000


class StateFiles(Protocol):
    """One folder. Every method raises OSError as the system says."""

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a regular file's first `limit` bytes, or None when there is none."""
        ...

    def names(self) -> list[str]:
        """Return the names in the folder."""
        ...

    def write_new(self, name: str, content: bytes) -> None:
        """Write a file and flush it to the medium; what an earlier power cut left under that name goes."""
        ...

    def replace(self, name: str, final: str) -> None:
        """Rename `name` to `final`, which disappears in the same instant."""
        ...

    def sync_names(self) -> None:
        """Flush the folder itself."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes out while the block runs."""
        ...


class FolderFiles:
    """`StateFiles` on a real folder; it is made, for its owner alone, when `make` says so."""

    def __init__(self, folder: Path | str, *, make: bool = False) -> None:
        self._folder = Path(folder)
        if make:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_folder(self._folder.parent)

    def read(self, name: str, limit: int) -> bytes | None:
        try:
            with open_regular(self._folder / name) as file:
                return read_up_to(file, limit)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self._folder))

    def write_new(self, name: str, content: bytes) -> None:
        self.remove(name)  # rather than writing into it: a name that was linked elsewhere would take that along
        write_synced(self._folder / name, content)

    def replace(self, name: str, final: str) -> None:
        (self._folder / name).replace(self._folder / final)

    def sync_names(self) -> None:
        sync_folder(self._folder)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        fd = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd)
            yield
        finally:
            os.close(fd)


def _lock(fd: int) -> None:
    """Take the lock, or fail after a while: nobody may stop a device by holding it."""
    clock = SystemClock()
    deadline_ns = clock.now_ns() + LOCK_WAIT_NS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if clock.now_ns() >= deadline_ns:
                raise
            clock.wait_until_ns(clock.now_ns() + _RETRY_NS)
