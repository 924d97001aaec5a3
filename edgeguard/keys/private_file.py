"""Files that only their owner can read, and passphrases for the keys in them."""

from __future__ import annotations

import os
from pathlib import Path

from edgeguard.errors import KeyUnavailableError
from edgeguard.keys.regular_file import open_regular, read_up_to

MAX_KEY_FILE_BYTES = 16 * 1024  # an expanded ML-DSA-65 key, as other tools write it, is 6 KiB of PEM


def write_private_file(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600 and flush it to disk.

    Raises:
        KeyUnavailableError: EG-K001, the file exists or cannot be written.
    """
    reason = ""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not a path").lower()
    if reason:
        raise KeyUnavailableError(f"cannot write {path}: {reason}", code="EG-K001")


def read_private_file(path: Path, hint: str = "make a key with: edgeguard-provision keygen") -> bytes:
    """Return the content of a key file that only its owner can read.

    Raises:
        KeyUnavailableError: EG-K001 missing or unreadable, EG-K002 open to others or owned by somebody else.
    """
    reason = ""
    content = b""
    try:
        with open_regular(path) as file:
            _require_private(path, os.fstat(file.fileno()))
            content = read_up_to(file, MAX_KEY_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not a path").lower()
    if not reason and len(content) > MAX_KEY_FILE_BYTES:
        reason = f"larger than {MAX_KEY_FILE_BYTES} bytes"
    if reason:
        raise KeyUnavailableError(f"cannot read the key {path}: {reason}", code="EG-K001", hint=hint)
    return content


def passphrase_for(pem: bytes, passphrase: bytes | None) -> bytes | None:
    """Return the passphrase where `pem` is encrypted; libraries refuse one for a key that is not."""
    return passphrase if b"ENCRYPTED" in pem else None


def _require_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise KeyUnavailableError(f"the key {path} belongs to another user", code="EG-K002")
    if status.st_mode & 0o077:
        raise KeyUnavailableError(
            f"the key {path} is open to other users", code="EG-K002", hint=f"close it with: chmod 600 {path}"
        )
