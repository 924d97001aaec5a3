"""Reading small files of the trust folder: bounded, no links, regular files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, overload

from edgeguard.errors import TrustError
from edgeguard.keys.regular_file import open_regular, read_up_to


@overload
def read_directory_file(folder: Path, name: str, limit: int, *, hint: str) -> bytes: ...


@overload
def read_directory_file(folder: Path, name: str, limit: int, *, hint: str, optional: Literal[True]) -> bytes | None: ...


def read_directory_file(folder: Path, name: str, limit: int, *, hint: str, optional: bool = False) -> bytes | None:
    """Return the content of `folder/name`, or None where it is optional and absent.

    Raises:
        TrustError: EG-T001, missing, a link, not a regular file, unreadable, or larger than `limit`.
    """
    path = folder / name
    reason = ""
    content = b""
    try:
        with open_regular(path) as file:
            content = read_up_to(file, limit + 1)
    except FileNotFoundError:
        if optional:
            return None
        reason = "no such file"
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not a path").lower()
    if len(content) > limit:
        reason = f"larger than {limit} bytes"
    if reason:
        raise TrustError(f"cannot read {path}: {reason}", code="EG-T001", hint=hint)
    return content
