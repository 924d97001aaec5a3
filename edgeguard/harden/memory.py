"""Memory for secrets: anonymous, private, not in core dumps, wiped in forked children, locked where allowed.

Claimed, and no more: the bytes of these mappings are zero after `wipe`. Copies that a library makes on its way
(immutable bytes, cipher state) are short-lived and not ours to clear. A locked page is not swapped; a page that could
not be locked may be, which is why `lock` tells and `swap_is_on` exists.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from edgeguard.errors import EnvironmentMissingError

_MADV_WIPEONFORK = 18  # Linux 4.14; the mmap module does not name it
_HUGE_FROM_BYTES = 4 * 1024 * 1024  # above this, huge pages make the first touch about three times cheaper
_SWAPS = Path("/proc/swaps")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mlock.restype = ctypes.c_int
_MLOCK_ONFAULT = 1  # lock each page as it comes into being, instead of making all of them first
_bytes_address = ctypes.pythonapi.PyBytes_AsString
_bytes_address.argtypes = (ctypes.py_object,)
_bytes_address.restype = ctypes.c_void_p


def private_mapping(size_bytes: int) -> mmap.mmap:
    """Return a zeroed anonymous mapping that core dumps and forked children do not get.

    Raises:
        EnvironmentMissingError: EG-E011, the machine has not enough memory.
    """
    try:
        mapping = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, ValueError, MemoryError):
        mapping = None
    if mapping is None:
        raise EnvironmentMissingError(
            f"cannot get {size_bytes} bytes of private memory",
            code="EG-E011",
            hint="free memory, or use a smaller model",
        )
    advices = [mmap.MADV_DONTDUMP, _MADV_WIPEONFORK]
    if size_bytes >= _HUGE_FROM_BYTES:
        advices.append(mmap.MADV_HUGEPAGE)
    for advice in advices:
        with suppress(OSError):  # an old kernel refuses; the mapping is still private
            mapping.madvise(advice)
    return mapping


def lock(mapping: mmap.mmap) -> bool:
    """Try to keep `mapping` out of swap; return whether it worked (the default limit is 8 MiB per process).

    Pages are locked as they are first written, so that a large mapping costs its page faults where it is filled and
    not here; the limit is charged for the whole mapping at once all the same.
    """
    first = ctypes.c_char.from_buffer(mapping)
    address, size = ctypes.addressof(first), len(mapping)
    if hasattr(_libc, "mlock2"):
        arguments = ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_uint(_MLOCK_ONFAULT)
        if int(_libc.mlock2(*arguments)) == 0:
            return True
        if ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL):
            return False
    return int(_libc.mlock(address, size)) == 0


def wipe(mapping: mmap.mmap) -> None:
    """Zero `mapping` and unmap it; when a view still exists it stays mapped, zeroed, until the view is dropped."""
    if mapping.closed:
        return
    first = ctypes.c_char.from_buffer(mapping)
    ctypes.memset(ctypes.addressof(first), 0, len(mapping))
    del first
    with suppress(BufferError):
        mapping.close()


def wipe_bytes(secret: bytes) -> None:
    """Zero an immutable object that a library returned and that only the caller still holds.

    Works where objects have addresses (CPython). Empty and one-byte objects are shared by the interpreter and left
    alone. The object must not be used afterwards, as a key of a mapping least of all.
    """
    if len(secret) > 1:
        ctypes.memset(_bytes_address(secret), 0, len(secret))


def swap_is_on() -> bool:
    """Return whether the kernel has any swap area; True when that cannot be told."""
    try:
        return len(_SWAPS.read_text().splitlines()) > 1
    except OSError:
        return True


class SecretBuffer:
    """A secret of fixed size in wiped memory. Use as a context manager; `view` is writable and dies with it."""

    __slots__ = ("_mapping", "_size", "locked", "view")

    def __init__(self, size_bytes: int) -> None:
        self._mapping = private_mapping(size_bytes)
        self._size = size_bytes
        self.locked = lock(self._mapping)
        self.view = memoryview(self._mapping)

    @classmethod
    def copy_of(cls, secret: bytes | bytearray | memoryview) -> Self:
        """Return a buffer holding a copy of `secret`; the original stays with the caller."""
        buffer = cls(len(secret))
        buffer.view[:] = secret
        return buffer

    def close(self) -> None:
        """Zero and release; calling it again does nothing."""
        self.view.release()
        wipe(self._mapping)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<SecretBuffer of {self._size} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not copied or pickled")
