"""Where the bytes of a bundle come from: a directory today, an archive or a network later, behind one seam.

A reader may ask for each byte once; whoever changes a file between two reads finds nobody reading twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edgeguard.errors import BundleFormatError, UnprotectedModelError
from edgeguard.keys.regular_file import OPEN_FLAGS, open_regular, read_up_to

PLAIN_MODEL_SUFFIXES = frozenset({".onnx", ".ort", ".pb", ".pt", ".tflite", ".engine", ".plan", ".safetensors"})


class ByteStream(Protocol):
    """A file being read from its start."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill at most `buffer`; return how many bytes, 0 at the end."""
        ...


class BundleStorage(Protocol):
    """The files of one bundle by their names relative to it, with `/`."""

    def read_small(self, name: str, limit: int) -> bytes:
        """Return a whole file of at most `limit` bytes; BundleFormatError (EG-B002) otherwise."""
        ...

    def read_optional(self, name: str, limit: int) -> bytes | None:
        """As `read_small`, but None when there is no such file."""
        ...

    def open_stream(self, name: str) -> AbstractContextManager[ByteStream]:
        """Open a large file for one pass, as a context manager. Different files are read on different threads."""
        ...

    def entries(self, folder: str, limit: int) -> frozenset[str] | None:
        """Return the names in `folder` ("" is the top), folders with a trailing `/`; None when there is none.

        More than `limit` names are refused (EG-B005).
        """
        ...


class DirectoryStorage:
    """A bundle directory, held open by descriptor: renaming the path later changes nothing."""

    def __init__(self, path: Path | str) -> None:
        """Open the directory.

        Raises:
            UnprotectedModelError: EG-U001, a model file.
            BundleFormatError: EG-B001, not a directory that can be read.
        """
        self._path = Path(path)
        refuse_plain_model(self._path)
        reason = ""
        self._fd = -1
        try:
            self._fd = os.open(self._path, OPEN_FLAGS | os.O_DIRECTORY)
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or "not a path").lower()
        if reason:
            raise BundleFormatError(
                f"cannot open the bundle {self._path}: {reason}",
                code="EG-B001",
                hint="a bundle is the directory that edgeguard-provision pack wrote",
            )

    def read_small(self, name: str, limit: int) -> bytes:
        content = self.read_optional(name, limit)
        if content is None:
            raise BundleFormatError(f"{name} is missing", code="EG-B002")
        return content

    def read_optional(self, name: str, limit: int) -> bytes | None:
        file = self._open(name)
        if file is None:
            return None
        with file:
            content = _guarded_read(file, limit + 1, name)
        if len(content) > limit:
            raise BundleFormatError(f"{name} is larger than {limit} bytes", code="EG-B002")
        return content

    @contextmanager
    def open_stream(self, name: str) -> Iterator[ByteStream]:
        file = self._open(name)
        if file is None:
            raise BundleFormatError(f"{name} is missing", code="EG-B002")
        with file:
            yield file

    def entries(self, folder: str, limit: int) -> frozenset[str] | None:
        names: set[str] = set()
        reason = ""
        try:
            fd = self._open_folder(folder) if folder else os.dup(self._fd)
            if fd is None:
                return None
            try:
                with os.scandir(fd) as found:
                    for entry in found:
                        names.add(entry.name + ("/" if entry.is_dir(follow_symlinks=False) else ""))
                        if len(names) > limit:
                            break
            finally:
                os.close(fd)
        except OSError as error:
            reason = (error.strerror or "unknown").lower()
        if reason:
            raise BundleFormatError(f"cannot list {folder or 'the bundle'}: {reason}", code="EG-B002")
        if len(names) > limit:
            raise BundleFormatError(f"{folder or 'the bundle'} holds too many files", code="EG-B005")
        return frozenset(names)

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

    def _open(self, name: str) -> FileIO | None:
        """Open a file at most one folder deep; None when it, or its folder, is not there."""
        folder, _, base = name.rpartition("/")
        holder = self._open_folder(folder) if folder else self._fd
        if holder is None:
            return None
        reason = ""
        try:
            return open_regular(base, dir_fd=holder)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or "not a name").lower()
        finally:
            if holder != self._fd:
                os.close(holder)
        raise BundleFormatError(f"cannot open {name}: {reason}", code="EG-B002")

    def _open_folder(self, folder: str) -> int | None:
        reason = ""
        try:
            return os.open(folder, OPEN_FLAGS | os.O_DIRECTORY, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = (error.strerror or "unknown").lower()
        raise BundleFormatError(f"cannot open {folder}: {reason}", code="EG-B002")


def refuse_plain_model(path: Path) -> None:
    """Refuse a model file where a bundle belongs.

    Raises:
        UnprotectedModelError: EG-U001.
    """
    if path.suffix.lower() in PLAIN_MODEL_SUFFIXES and not path.is_dir():
        raise UnprotectedModelError(
            f"{path} is a plain model; only signed and encrypted bundles are loaded",
            code="EG-U001",
            hint=f"protect it with: edgeguard-provision pack FLEET {path} --model-id ID --release VERSION",
        )


def _guarded_read(file: FileIO, limit: int, name: str) -> bytes:
    reason = ""
    try:
        return read_up_to(file, limit)
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
    raise BundleFormatError(f"cannot read {name}: {reason}", code="EG-B002")
