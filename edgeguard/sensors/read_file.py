"""`ReadFile`: a file that stays open as long as somebody reads from it, and is read at offsets."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

_STEP_BYTES = 1 << 26  # the kernel reads at most 2 GiB at once; less keeps a short read short


class ReadFile:
    """Opened on construction (OSError when it cannot be), closed by `close` or with its last reference.

    Recordings hand out sources that read lazily and may outlive them, so no `with` block can own the file.
    """

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self.descriptor)

    @property
    def size_bytes(self) -> int:
        return os.fstat(self.descriptor).st_size

    def close(self) -> None:
        """Close now; a second call does nothing."""
        self._close()

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes, or as many as there are; none when the offset is no place in a file or the disk fails."""
        if not self._close.alive or not 0 <= offset < 2**62 or size <= 0:
            return b""
        parts: list[bytes] = []
        try:
            while size > 0 and (part := os.pread(self.descriptor, min(size, _STEP_BYTES), offset)):
                parts.append(part)
                size -= len(part)
                offset += len(part)
        except OSError:
            return b""
        return parts[0] if len(parts) == 1 else b"".join(parts)
