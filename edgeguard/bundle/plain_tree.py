"""The files of a plain directory: a walk that follows no link, and digests of files or parts of them.

Everything is opened relative to descriptors of the directories above it, so that a link put in place of a folder
between the walk and the hash leads nowhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from edgeguard.errors import BundleFormatError
from edgeguard.keys.regular_file import OPEN_FLAGS, open_regular

MAX_FILES: Final = 100_000  # a dataset belongs elsewhere; each file costs memory before its digest is known
MAX_DEPTH: Final = 32
_READ_BYTES: Final = 512 * 1024  # fits the cache of one core between reading and hashing


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `start` to `end` of a file; -1 as the end is the end of the file."""

    name: str
    start: int = 0
    end: int = -1


class _Alternate:
    """Two buffers: while one is hashed, the next step is read into the other."""

    def __init__(self, digest: hashlib._Hash) -> None:
        self._digest = digest
        self._buffers = [memoryview(bytearray(_READ_BYTES)) for _ in range(2)]
        self._pool = ThreadPoolExecutor(1, "edgeguard-hash")
        self._pending: Future[None] | None = None

    def room(self, missing: int) -> memoryview:
        """Return where to read the next step; `missing` is negative when the end is not known."""
        return self._buffers[0][:missing] if 0 < missing < _READ_BYTES else self._buffers[0]

    def hash(self, size: int) -> None:
        """Hash what was read, while the caller goes on with the other buffer."""
        self._wait()
        self._pending = self._pool.submit(self._digest.update, self._buffers[0][:size])
        self._buffers.reverse()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wait()
        self._pool.shutdown()


class PlainTree:
    """A directory held open."""

    def __init__(self, path: Path | str) -> None:
        """Raises BundleFormatError (EG-B001) for what is no directory that can be read."""
        self._fd = -1
        reason = ""
        try:
            self._fd = os.open(path, OPEN_FLAGS | os.O_DIRECTORY)
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or "not a path").lower()
        if reason:
            raise BundleFormatError(f"cannot open the folder {path}: {reason}", code="EG-B001")

    def files(self, ignored: frozenset[str]) -> tuple[dict[str, int], tuple[str, ...]]:
        """Return the sizes of all files by name, and which of the `ignored` names exist.

        Raises:
            BundleFormatError: EG-B002 a link, device, pipe or socket; EG-B005 too many files or too deep.
        """
        sizes: dict[str, int] = {}
        passed_over: list[str] = []
        for entry, name in self._walk(self._fd, "", ignored, passed_over, MAX_DEPTH):
            sizes[name] = entry.stat(follow_symlinks=False).st_size
            if len(sizes) > MAX_FILES:
                raise BundleFormatError(f"the folder holds more than {MAX_FILES} files", code="EG-B005")
        return sizes, tuple(sorted(passed_over))

    def digests(self, pieces: Sequence[Piece], new_hash: Callable[[], hashlib._Hash]) -> list[str]:
        """Return the digest (hex) of each piece, hashed on all cores; each byte is read once.

        Raises:
            BundleFormatError: EG-B002, a file has gone, has changed its kind, or is shorter than the piece.
        """
        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "edgeguard-hash") as pool:
            return list(pool.map(lambda piece: self._digest(piece, new_hash()), pieces))

    def close(self) -> None:
        """Give the descriptor back; calling it again does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _walk(
        self, folder: int, prefix: str, ignored: frozenset[str], passed_over: list[str], levels: int
    ) -> Iterator[tuple[os.DirEntry[str], str]]:
        if not levels:
            raise BundleFormatError(f"the folder is nested deeper than {MAX_DEPTH} levels", code="EG-B005")
        reason = ""
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if name in ignored:
                        passed_over.append(name)
                    elif entry.is_dir(follow_symlinks=False):
                        below = os.open(entry.name, OPEN_FLAGS | os.O_DIRECTORY, dir_fd=folder)
                        try:
                            yield from self._walk(below, name + "/", ignored, passed_over, levels - 1)
                        finally:
                            os.close(below)
                    elif entry.is_file(follow_symlinks=False):
                        yield entry, name
                    else:
                        raise BundleFormatError(f"{name!a} is a link or no regular file", code="EG-B002")
        except OSError as error:
            reason = (error.strerror or "unknown").lower()
        if reason:
            raise BundleFormatError(f"cannot list {prefix or 'the folder'!a}: {reason}", code="EG-B002")

    def _digest(self, piece: Piece, digest: hashlib._Hash) -> str:
        reason = ""
        try:
            with self._open(piece.name) as file:
                file.seek(piece.start)
                missing = piece.end - piece.start if piece.end >= 0 else -1
                with _Alternate(digest) as steps:
                    while missing and (got := file.readinto(steps.room(missing))):
                        steps.hash(got)
                        missing -= got if missing > 0 else 0
                if missing > 0:
                    reason = "it is cut short"
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or "not a name").lower()
        if reason:
            raise BundleFormatError(f"cannot read {piece.name!a}: {reason}", code="EG-B002")
        return digest.hexdigest()

    def _open(self, name: str) -> FileIO:
        *folders, base = name.split("/")
        with ExitStack() as stack:
            holder = self._fd
            for folder in folders:
                holder = os.open(folder, OPEN_FLAGS | os.O_DIRECTORY, dir_fd=holder)
                stack.callback(os.close, holder)
            return open_regular(base, dir_fd=holder)
