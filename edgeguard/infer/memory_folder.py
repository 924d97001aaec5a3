"""A private directory that is in memory and nowhere else, wiped when done with, also after a process was killed.

Execution providers insist on files. Theirs hold the model, so they get a directory of mode 0700 on tmpfs or ramfs. The
process holds a lock on it; a directory whose lock is free belongs to nobody alive and is wiped by the next process.

ATLAS: AML.M0012 (encrypt sensitive information).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import stat
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from edgeguard.errors import EnvironmentMissingError
from edgeguard.harden.memory import swap_is_on

DEFAULT_MEMORY_FOLDER: Final = Path("/dev/shm")  # noqa: S108  # the one place that is tmpfs on every Linux
_TMPFS_MAGIC: Final = 0x01021994
_RAMFS_MAGIC: Final = 0x858458F6
_STATFS_ROOM: Final = 256  # struct statfs takes 120 bytes on 64-bit Linux; f_type is its first word everywhere
_PREFIX: Final = "edgeguard-ep-"
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WIPE_STEP_BYTES: Final = 1024 * 1024
_MAX_WIPE_DEPTH: Final = 32  # a provider's directory is flat; a deeper one is left to the error of rmdir

_libc = ctypes.CDLL(None, use_errno=True)


class MemoryFolder:
    """A directory on a memory file system. Use as a context manager; the end wipes it.

    Args:
        parent: a directory on tmpfs or ramfs.
        allow_swap: accept tmpfs pages that the kernel may write to swap.

    Raises:
        EnvironmentMissingError: EG-E021, `parent` is not in memory or cannot be used; EG-E022, it may be swapped out.
    """

    def __init__(self, parent: Path | str = DEFAULT_MEMORY_FOLDER, *, allow_swap: bool = False) -> None:
        self._parent = Path(parent)
        require_memory(self._parent, allow_swap=allow_swap)
        wipe_abandoned(self._parent)
        self._fd = -1
        reason = ""
        hidden = self._parent / f".{_PREFIX}{secrets.token_hex(8)}"
        self.path = self._parent / hidden.name[1:]
        try:
            hidden.mkdir(mode=0o700)
            self._fd = os.open(hidden, _FOLDER_FLAGS)
            os.fchmod(self._fd, 0o700)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(self.path)  # only now does wipe_abandoned look at it, and it is locked
        except OSError as error:
            reason = (error.strerror or "unknown").lower()
        if reason:
            if self._fd >= 0:
                os.close(self._fd)
            with suppress(OSError):
                hidden.rmdir()
            raise EnvironmentMissingError(
                f"cannot make a directory in {self._parent}: {reason}",
                code="EG-E021",
                hint="give the cache a memory_folder on tmpfs that this user can write",
            )
        self._remove = weakref.finalize(self, _wipe_and_remove, self._fd, self.path, os.getpid())
        # A file system mounted over `parent` in between would be another one.
        if not _in_memory(self._fd):
            self.close()
            raise _not_memory(self._parent)

    @property
    def descriptor(self) -> int:
        """The open directory, for calls that take `dir_fd`."""
        return self._fd

    def clear(self) -> None:
        """Wipe what is in the directory and leave it empty."""
        if self._fd >= 0:
            _wipe_inside(self._fd, _mapped_files(), 0)

    def close(self) -> None:
        """Wipe and remove the directory; calling it again does nothing. Dropping the object does it too."""
        self._remove()
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_memory(folder: Path, *, allow_swap: bool) -> None:
    """Refuse a directory that is not on tmpfs or ramfs, or that may be swapped out.

    Raises:
        EnvironmentMissingError: EG-E021, EG-E022.
    """
    kind = 0
    device = 0
    with suppress(OSError):
        fd = os.open(folder, _FOLDER_FLAGS)
        try:
            kind = _file_system(fd)
            device = os.fstat(fd).st_dev
        finally:
            os.close(fd)
    if kind not in (_TMPFS_MAGIC, _RAMFS_MAGIC):
        raise _not_memory(folder)
    if kind == _TMPFS_MAGIC and not allow_swap and swap_is_on() and not _mounted_noswap(device):
        raise EnvironmentMissingError(
            f"{folder} may be written to swap, where the compiled model would lie in the clear",
            code="EG-E022",
            hint="turn swap off, or mount a memory_folder with: mount -t tmpfs -o noswap,mode=1777 tmpfs DIR",
        )


def wipe_abandoned(parent: Path) -> int:
    """Wipe this user's directories under `parent` whose process is gone; return how many."""
    wiped = 0
    for path in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            fd = os.open(path, _FOLDER_FLAGS)
            try:
                if os.fstat(fd).st_uid != os.geteuid():
                    continue
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _wipe_inside(fd, _mapped_files(), 0)
                path.rmdir()
                wiped += 1
            finally:
                os.close(fd)
    return wiped


def _wipe_and_remove(fd: int, path: Path, owner_pid: int) -> None:
    """End of a directory's life; a forked child that exits leaves its parent's directory alone."""
    if os.getpid() == owner_pid:
        with suppress(OSError):
            _wipe_inside(fd, _mapped_files(), 0)
            path.rmdir()
    os.close(fd)


def _wipe_inside(fd: int, mapped: frozenset[tuple[int, int]], depth: int) -> None:
    """Remove everything in a directory, regular files after zeroing them unless somebody here has them mapped."""
    with os.scandir(fd) as found:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    for name, is_folder in entries:
        with suppress(OSError):
            if is_folder:
                if depth < _MAX_WIPE_DEPTH:
                    inner = os.open(name, _FOLDER_FLAGS, dir_fd=fd)
                    try:
                        _wipe_inside(inner, mapped, depth + 1)
                    finally:
                        os.close(inner)
                os.rmdir(name, dir_fd=fd)
            else:
                with suppress(OSError):
                    _zero(name, fd, mapped)
                os.unlink(name, dir_fd=fd)


def _zero(name: str, folder_fd: int, mapped: frozenset[tuple[int, int]]) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        status = os.fstat(fd)
        # A provider that maps its cache runs from these very pages; unlinked, they go when it lets go of them.
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) in mapped:
            return
        zeros = bytes(_WIPE_STEP_BYTES)
        for start in range(0, status.st_size, len(zeros)):
            os.pwrite(fd, zeros[: status.st_size - start], start)
    finally:
        os.close(fd)


def _mapped_files() -> frozenset[tuple[int, int]]:
    """Return (device, inode) of every file that this process has mapped."""
    found: set[tuple[int, int]] = set()
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        _, _, _, device, inode, *_ = line.split(maxsplit=5)
        if inode != "0":
            major, _, minor = device.partition(":")
            found.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
    return frozenset(found)


def _file_system(fd: int) -> int:
    """Return f_type of the file system of `fd`, 0 when it cannot be told."""
    room = ctypes.create_string_buffer(_STATFS_ROOM)
    if _libc.fstatfs(fd, room) != 0:
        return 0
    return int(ctypes.c_ulong.from_buffer(room).value) & 0xFFFFFFFF


def _in_memory(fd: int) -> bool:
    return _file_system(fd) in (_TMPFS_MAGIC, _RAMFS_MAGIC)


def _mounted_noswap(device: int) -> bool:
    """Return whether the tmpfs with this device number was mounted with noswap (Linux 6.4)."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            fields = line.split()
            if fields[2] == number:
                return "noswap" in fields[-1].split(",")
    return False


def _not_memory(folder: Path) -> EnvironmentMissingError:
    return EnvironmentMissingError(
        f"{folder} is not on tmpfs or ramfs, and compiled models are written to memory only",
        code="EG-E021",
        hint="give the cache a memory_folder on tmpfs, such as /dev/shm or /run/edgeguard",
    )
