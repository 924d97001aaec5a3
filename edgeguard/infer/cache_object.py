"""A directory as one encrypted object and back, in bounded memory. docs/formats/sealed-cache.md sections 2 to 4.

Everything here works relative to open directories and follows no link. Bytes that reach the directory while opening
are authenticated chunk by chunk, but only `unseal_into` returning says that the object is whole; until then nobody may
read them.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag

from edgeguard.bundle.manifest import CHUNK_BYTES, HEADER_BYTES, SPAN_BYTES, TAG_BYTES, Hex64
from edgeguard.errors import BundleFormatError
from edgeguard.harden.durable import sync_folder
from edgeguard.harden.memory import SecretBuffer, private_mapping, wipe
from edgeguard.keys.regular_file import open_regular
from edgeguard.trust.strict_json import canonical, convert, parse

MAX_FILES: Final = 4096
MAX_INDEX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 8
DEFAULT_MAX_BYTES: Final = 4 * 1024**3
_LENGTH_BYTES: Final = 4
_STEP_BYTES: Final = 64 * (CHUNK_BYTES + TAG_BYTES)  # about a MiB: read, decrypted, hashed and written from cache
_SLACK_BYTES: Final = CHUNK_BYTES + TAG_BYTES + HEADER_BYTES  # a coder may give one held-back chunk and the header more
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Size = Annotated[str, msgspec.Meta(pattern=r"\A(0|[1-9][0-9]{0,12})\Z")]


class CacheRefusedError(Exception):
    """The object or the directory is not one we keep; never leaves edgeguard.infer."""


class CachedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the index."""

    name: str
    size: Size
    sha256: Hex64

    def __post_init__(self) -> None:
        if not is_safe_name(self.name):
            raise ValueError("not a relative name")


class CacheIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the object holds, in the order of the contents."""

    schema: Literal["edgeguard/ep-cache/v1"]
    files: Annotated[tuple[CachedFile, ...], msgspec.Meta(min_length=1, max_length=MAX_FILES)]

    def __post_init__(self) -> None:
        names = [file.name for file in self.files]
        if names != sorted(set(names)):
            raise ValueError("names are sorted and differ")
        known = set(names)
        if any("/".join(name.split("/")[:depth]) in known for name in names for depth in range(1, name.count("/") + 1)):
            raise ValueError("a name is a file and a folder at once")


@dataclass(frozen=True, slots=True)
class FileState:
    """One file as a directory listing shows it; a provider that writes it again changes this."""

    name: str
    size_bytes: int
    inode: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The regular files below a directory, by name."""

    files: tuple[FileState, ...]


def is_safe_name(name: str) -> bool:
    """Return whether `name` stays below the directory it is relative to."""
    parts = name.split("/")
    return len(parts) <= MAX_DEPTH and all(
        part not in ("", ".", "..") and "\0" not in part and 1 <= _encoded_length(part) <= 255 for part in parts
    )


def snapshot(folder_fd: int, max_bytes: int) -> Snapshot:
    """List the files below a directory.

    Raises:
        CacheRefusedError: links or devices, too many, too large or too deep. OSError: it cannot be read.
    """
    files = tuple(sorted(_walk(folder_fd, "", 1), key=lambda file: file.name))
    if len(files) > MAX_FILES:
        raise CacheRefusedError(f"more than {MAX_FILES} files")
    if sum(file.size_bytes for file in files) > max_bytes:
        raise CacheRefusedError(f"more than {max_bytes} bytes")
    return Snapshot(files)


def seal_directory(folder_fd: int, files: Snapshot, target: Path, key: SecretBuffer, context: bytes) -> None:
    """Write `target` as a whole: the files of a directory under one AEAD.

    Raises:
        CacheRefusedError: a file changed meanwhile, or has a name we do not keep. OSError: it cannot be written.
    """
    index = _index_of(folder_fd, files)
    head = canonical(msgspec.to_builtins(index))
    if len(head) > MAX_INDEX_BYTES:
        raise CacheRefusedError("the names are too long")
    for abandoned in target.parent.glob(f".{target.name}.*.new"):  # of a process that was killed while it wrote
        with suppress(OSError):
            abandoned.unlink()
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    encryptor = Cobblestone256Encryptor(key.view, context)
    done = False
    try:
        with open(os.open(partial, _WRITE_FLAGS, 0o600), "wb", buffering=0) as out:
            _encrypt_to(out.fileno(), encryptor, len(head).to_bytes(_LENGTH_BYTES, "big") + head, folder_fd, index)
            os.fsync(out.fileno())
        os.replace(partial, target)
        done = True
    finally:
        if not done:
            with suppress(OSError):
                partial.unlink()
    with suppress(OSError):
        sync_folder(target.parent)


def unseal_into(folder_fd: int, source: Path, key: SecretBuffer, context: bytes, max_bytes: int) -> None:
    """Recreate the files of an object in an empty directory.

    Raises:
        FileNotFoundError: there is no object. CacheRefusedError: it is not one of this key and context, damaged, or
            over a limit; what lies in the directory then is not to be read. OSError: it cannot be read or written.
    """
    with open_regular(source) as file:
        if os.fstat(file.fileno()).st_size > 2 * (max_bytes + MAX_INDEX_BYTES):
            raise CacheRefusedError("larger than any object we write")
        sink = _Sink(folder_fd, max_bytes)
        try:
            _decrypt_to(file, Cobblestone256Decryptor(key.view, context), sink)
        finally:
            sink.close()
    sink.require_whole()


def _encrypt_to(
    out_fd: int, encryptor: Cobblestone256Encryptor, head: bytes, folder_fd: int, index: CacheIndex
) -> None:
    plain = private_mapping(SPAN_BYTES)
    sealed = bytearray(SPAN_BYTES + (SPAN_BYTES // CHUNK_BYTES + 1) * TAG_BYTES + _SLACK_BYTES)
    try:
        with memoryview(plain) as view, memoryview(sealed) as room:
            for start in range(0, len(head), SPAN_BYTES):
                _write_all(out_fd, room[: encryptor.update_into(head[start : start + SPAN_BYTES], sealed)])
            for entry in index.files:
                digest = hashlib.sha256()
                for piece in _read_file(folder_fd, entry.name, int(entry.size), view):
                    digest.update(piece)
                    _write_all(out_fd, room[: encryptor.update_into(piece, sealed)])
                if digest.hexdigest() != entry.sha256:
                    raise CacheRefusedError("a file changed while it was sealed")
            _write_all(out_fd, memoryview(encryptor.finalize()))
    finally:
        wipe(plain)


def _decrypt_to(file: FileIO, decryptor: Cobblestone256Decryptor, sink: _Sink) -> None:
    """Read, decrypt and hand over step by step; the sink hashes one step while the next is decrypted."""
    sealed = bytearray(_STEP_BYTES)
    plain = private_mapping(2 * (_STEP_BYTES + _SLACK_BYTES))
    half = _STEP_BYTES + _SLACK_BYTES
    try:
        with memoryview(sealed) as span, memoryview(plain) as view:
            turn = 0
            while got := file.readinto(span):
                room = view[turn * half : (turn + 1) * half]
                turn = 1 - turn
                sink.take(room[: decryptor.update_into(span[:got], room)])
            sink.take(memoryview(decryptor.finalize()))
            return
    except (InvalidTag, ValueError):
        pass
    finally:
        sink.settle()
        wipe(plain)
    raise CacheRefusedError("it was made for another bundle, slot, option, version or machine, or is damaged")


class _Sink:
    """Takes the plaintext of an object piece by piece and writes its files."""

    def __init__(self, folder_fd: int, max_bytes: int) -> None:
        self._folder_fd = folder_fd
        self._max_bytes = max_bytes
        self._head = bytearray()
        self._index: CacheIndex | None = None
        self._next = 0
        self._fd = -1
        self._missing = 0
        self._digest = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, "edgeguard-cache")
        self._hashing: Future[None] | None = None

    def take(self, piece: memoryview) -> None:
        """Consume plaintext; raises CacheRefusedError as soon as it cannot belong to an object.

        The piece has to stay as it is until the next call returns, or `settle`.
        """
        if self._index is None:
            piece = self._take_head(piece)
        while len(piece):
            if self._fd < 0:
                raise CacheRefusedError("it goes on after its last file")
            part = piece[: self._missing]
            self.settle()
            self._hashing = self._hasher.submit(self._digest.update, part)
            _write_all(self._fd, part)
            self._missing -= len(part)
            piece = piece[len(part) :]
            if not self._missing:
                self._end_file()

    def require_whole(self) -> None:
        """Raise CacheRefusedError unless every file of the index has been written."""
        if self._index is None or self._next < len(self._index.files) or self._missing:
            raise CacheRefusedError("it is cut short")

    def settle(self) -> None:
        """Wait until what was taken has been hashed."""
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None

    def close(self) -> None:
        """Close the file being written, and let the hashing thread go."""
        self._close_file()
        self._hasher.shutdown(wait=True)

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _take_head(self, piece: memoryview) -> memoryview:
        wanted = _LENGTH_BYTES
        if len(self._head) >= _LENGTH_BYTES:
            wanted += self._index_bytes()
        while len(piece) and len(self._head) < wanted:
            part = piece[: wanted - len(self._head)]
            self._head += part
            piece = piece[len(part) :]
            if len(self._head) == _LENGTH_BYTES:
                wanted += self._index_bytes()
        if len(self._head) == wanted and wanted > _LENGTH_BYTES:
            self._index = _parse_index(bytes(self._head[_LENGTH_BYTES:]), self._max_bytes)
            self._begin_file()
        return piece

    def _index_bytes(self) -> int:
        length = int.from_bytes(self._head[:_LENGTH_BYTES], "big")
        if not 1 <= length <= MAX_INDEX_BYTES:
            raise CacheRefusedError("its index is out of bounds")
        return length

    def _begin_file(self) -> None:
        """Open the next file; empty ones are done at once."""
        index = self._index
        while index is not None and self._next < len(index.files):
            entry = index.files[self._next]
            self._fd = _create(self._folder_fd, entry.name)
            self._missing = int(entry.size)
            self._digest = hashlib.sha256()
            if self._missing:
                return
            self._finish_one(entry)

    def _end_file(self) -> None:
        if self._index is not None:
            self._finish_one(self._index.files[self._next])
            self._begin_file()

    def _finish_one(self, entry: CachedFile) -> None:
        self._close_file()
        self.settle()
        self._next += 1
        if self._digest.hexdigest() != entry.sha256:
            raise CacheRefusedError("a file is not the one of the index")


def _parse_index(raw: bytes, max_bytes: int) -> CacheIndex:
    try:
        index = convert(parse(raw, what="the index"), CacheIndex, what="the index")
    except BundleFormatError as error:
        reason = error.message
    else:
        if sum(int(file.size) for file in index.files) <= max_bytes:
            return index
        reason = f"more than {max_bytes} bytes"
    raise CacheRefusedError(reason)


def _index_of(folder_fd: int, files: Snapshot) -> CacheIndex:
    """Hash the files; names that the format does not allow are refused."""
    plain = private_mapping(SPAN_BYTES)
    entries: list[CachedFile] = []
    try:
        with memoryview(plain) as view:
            for file in files.files:
                digest = hashlib.sha256()
                for piece in _read_file(folder_fd, file.name, file.size_bytes, view):
                    digest.update(piece)
                entries.append(CachedFile(file.name, str(file.size_bytes), digest.hexdigest()))
    except (ValueError, UnicodeError):
        entries = []
    finally:
        wipe(plain)
    if not entries:
        raise CacheRefusedError("a file name cannot be kept")
    return CacheIndex("edgeguard/ep-cache/v1", tuple(entries))


def _read_file(folder_fd: int, name: str, size_bytes: int, view: memoryview) -> Iterator[memoryview]:
    """Give a file piece by piece; it must have exactly the size it had."""
    missing = size_bytes
    with open_regular(name, dir_fd=folder_fd) as file:
        while missing:
            got = file.readinto(view[: min(missing, len(view))])
            if not got:
                raise CacheRefusedError("a file changed while it was sealed")
            missing -= got
            yield view[:got]
        if file.read(1):
            raise CacheRefusedError("a file changed while it was sealed")


def _walk(folder_fd: int, prefix: str, depth: int) -> Iterator[FileState]:
    if depth > MAX_DEPTH:
        raise CacheRefusedError(f"more than {MAX_DEPTH} folders deep")
    with os.scandir(folder_fd) as found:
        entries = [(entry.name, entry.stat(follow_symlinks=False)) for entry in found]
    for name, status in entries:
        if stat.S_ISDIR(status.st_mode):
            inner = os.open(name, _FOLDER_FLAGS, dir_fd=folder_fd)
            try:
                yield from _walk(inner, f"{prefix}{name}/", depth + 1)
            finally:
                os.close(inner)
        elif stat.S_ISREG(status.st_mode):
            yield FileState(prefix + name, status.st_size, status.st_ino, status.st_mtime_ns)
        else:
            raise CacheRefusedError("something in it is neither a file nor a folder")


def _create(folder_fd: int, name: str) -> int:
    """Create a file below a directory, with the folders on its way."""
    *folders, base = name.split("/")
    holder = os.dup(folder_fd)
    try:
        for folder in folders:
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700, dir_fd=holder)
            inner = os.open(folder, _FOLDER_FLAGS, dir_fd=holder)
            os.close(holder)
            holder = inner
        return os.open(base, _WRITE_FLAGS, 0o600, dir_fd=holder)
    finally:
        os.close(holder)


def _write_all(fd: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(fd, data) :]


def _encoded_length(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:  # a surrogate: the name is not UTF-8
        return 0
