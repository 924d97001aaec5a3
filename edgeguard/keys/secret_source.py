"""Where the secrets that open other keys come from: PINs, authorisation values. Never from an argument.

A source is a file that only its owner can read, or ``credential:NAME``, which systemd has put into the service's own
folder (systemd.exec, LoadCredential= and LoadCredentialEncrypted=).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from edgeguard.errors import KeyUnavailableError
from edgeguard.keys.private_file import read_private_file

VARIABLE: Final = "EDGEGUARD_KEY_PIN"
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"  # set by systemd
CREDENTIAL_SCHEME: Final = "credential:"
# systemd allows more; these cannot leave the folder and need no quoting.
_NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")

Ask = Callable[[str], bytes]


def credential_path(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the path of one of this service's credentials.

    Raises:
        KeyUnavailableError: EG-K009, no name, or this is no service with credentials.
    """
    folder = environ.get(CREDENTIALS, "")
    if not _NAME.match(name) or not folder.startswith("/"):
        raise KeyUnavailableError(
            f"there is no systemd credential {name!a} here", code="EG-K009",
            hint="load it in the unit: LoadCredentialEncrypted=NAME:/etc/credstore.encrypted/NAME",
        )  # fmt: skip
    return Path(folder) / name


def read_secret(source: str, *, what: str, ask: Ask | None = None, environ: Mapping[str, str] = os.environ) -> bytes:
    """Return a PIN or authorisation value without its line end.

    Args:
        source: a path, ``file:PATH`` or ``credential:NAME``; empty takes EDGEGUARD_KEY_PIN, else asks.
        what: for the question and the error, such as ``PIN of token eg``.
        ask: asks a person; None where nobody is there.

    Raises:
        KeyUnavailableError: EG-K001, EG-K002 the file; EG-K009 there is none, or it is empty.
    """
    if source.startswith(CREDENTIAL_SCHEME):
        raw = read_private_file(credential_path(source.removeprefix(CREDENTIAL_SCHEME), environ), _HINT)
    elif source:
        raw = read_private_file(Path(source.removeprefix("file:")), _HINT)
    elif VARIABLE in environ:
        raw = environ[VARIABLE].encode()
    else:
        raw = ask(what) if ask is not None else b""
    secret = raw.removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise KeyUnavailableError(
            f"nobody gave the {what}", code="EG-K009", hint=f"name a file of mode 600 in the key's address, or {_HINT}"
        )
    return secret


_HINT: Final = f"set {VARIABLE}, or use a systemd credential: credential:NAME"
