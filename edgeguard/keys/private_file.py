"""Files that only their owner can read, and passphrases for the keys in them."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path

from edgeguard.errors import KeyUnavailableError
from edgeguard.harden.durable import write_synced
from edgeguard.keys.regular_file import open_regular, read_up_to

MAX_KEY_FILE_BYTES = 16 * 1024  # an expanded ML-DSA-65 key, as other tools write it, is 6 KiB of PEM
_ACL_VERSION = b"\x02\0\0\0"
_ACL_USER_OBJ, _ACL_USER, _ACL_MASK = 0x01, 0x02, 0x10


def write_private_file(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600 and flush it to disk.

    Raises:
        KeyUnavailableError: EG-K001, the file exists or cannot be written.
    """
    reason = ""
    try:
        write_synced(path, content)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not a path").lower()
    if reason:
        hint = "choose another name; a private file is never overwritten" if reason == "file exists" else ""
        raise KeyUnavailableError(f"cannot write {path}: {reason}", code="EG-K001", hint=hint)


def read_private_file(path: Path, hint: str = "make a key with: edgeguard-provision keygen") -> bytes:
    """Return the content of a key file that only its owner can read.

    Raises:
        KeyUnavailableError: EG-K001 missing or unreadable, EG-K002 open to others or owned by somebody else.
    """
    reason = ""
    content = b""
    try:
        with open_regular(path) as file:
            _require_private(path, file.fileno())
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


def _require_private(path: Path, fd: int) -> None:
    status = os.fstat(fd)
    if status.st_uid not in (0, os.geteuid()):
        raise KeyUnavailableError(f"the key {path} belongs to another user", code="EG-K002")
    if status.st_mode & 0o077 and not _acl_is_private(status.st_mode, fd):
        raise KeyUnavailableError(
            f"the key {path} is open to other users", code="EG-K002", hint=f"close it with: chmod 600 {path}"
        )


def _acl_is_private(mode: int, fd: int) -> bool:
    """Return whether the group bits of a mode are only the mask of an access list that names this user alone.

    systemd hands credentials to a service's user in that way: owner root, mode 0440, `user:<uid>:r--`. Linux
    include/uapi/linux/posix_acl_xattr.h: a version, then (tag, permissions, id) for each entry.
    """
    if mode & 0o037:  # others, or the group, may do more than read
        return False
    raw = b""
    with suppress(OSError):
        raw = os.getxattr(fd, "system.posix_acl_access")
    if len(raw) % 8 != 4 or raw[:4] != _ACL_VERSION:
        return False
    entries = list(struct.iter_unpack("<HHI", raw[4:]))
    named = {who for tag, permissions, who in entries if tag == _ACL_USER and permissions}
    others = any(permissions for tag, permissions, _ in entries if tag not in (_ACL_USER_OBJ, _ACL_USER, _ACL_MASK))
    return bool(named) and named <= {0, os.geteuid()} and not others
