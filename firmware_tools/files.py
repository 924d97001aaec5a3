"""Writing so that a power cut leaves the old state or the new one, and never something between."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeguard.errors import ProvisioningError
from edgeguard.harden import durable
from edgeguard.harden.durable import sync_folder


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace `path` as a whole.

    Raises:
        ProvisioningError: EG-P030.
    """
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    reason = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_synced(partial, content, mode)
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
        partial.unlink(missing_ok=True)
    if reason:
        raise ProvisioningError(f"cannot write {path}: {reason}", code="EG-P030")


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file that everybody may read, and flush it to the medium."""
    durable.write_synced(path, content, 0o644)


@contextmanager
def folder_in_the_making(final: Path, *, code: str, mode: int = 0o755) -> Iterator[Path]:
    """Give a hidden sibling of `final` to build in; it becomes `final` when the block ends well, else it is removed.

    Raises:
        ProvisioningError: `code` when `final` exists; EG-P030 when it cannot be written.
    """
    if final.exists() or final.is_symlink():
        raise ProvisioningError(f"{final} exists already", code=code, hint="choose another name, or move it away")
    partial = final.with_name(f".{final.name}.partial-{secrets.token_hex(4)}")
    reason = ""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(mode=mode)
        yield partial
        for folder in [partial, *(p for p in partial.rglob("*") if p.is_dir())]:
            sync_folder(folder)
        partial.rename(final)
        sync_folder(final.parent)
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if reason:
        raise ProvisioningError(f"cannot write {final}: {reason}", code="EG-P030")
