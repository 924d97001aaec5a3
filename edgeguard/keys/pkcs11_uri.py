"""Addresses of keys on PKCS#11 tokens (RFC 7512), as far as EdgeGuard uses them.

``pkcs11:token=eg;object=device?module-path=/usr/lib/softhsm/libsofthsm2.so&module-sha256=<64 hex>&pin-source=pin.txt``

An address holds no secret: `pin-value`, which the RFC allows, is refused, because addresses end up in process lists,
unit files and logs. `module-sha256` is ours: a module is code that runs with the key's rights, and is pinned.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from edgeguard.errors import ConfigError

SCHEME: Final = "pkcs11:"
MAX_URI_CHARACTERS: Final = 4096
_PATH_NAMES = ("token", "serial", "object")
_QUERY_NAMES = ("module-path", "module-sha256", "pin-source")
_SHA256 = re.compile(r"\A[0-9a-f]{64}\Z")
_SAFE = "-._~:[]@!$'()*+,=/"  # of RFC 7512's pk11-res-avail and unreserved, what needs no escape in both parts


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """Which key of which token, through which module. token or serial is given; pin_source may be empty."""

    token: str
    object: str
    module_path: Path
    module_sha256: str
    serial: str = ""
    pin_source: str = ""

    def __str__(self) -> str:
        """Return the address; parsing it gives an equal value."""
        path = [f"{n}={quote(v, safe=_SAFE)}" for n, v in zip(_PATH_NAMES, self._path(), strict=True) if v]
        query = [f"{n}={quote(v, safe=_SAFE)}" for n, v in zip(_QUERY_NAMES, self._query(), strict=True) if v]
        return f"{SCHEME}{';'.join(path)}?{'&'.join(query)}"

    def _path(self) -> tuple[str, ...]:
        return self.token, self.serial, self.object

    def _query(self) -> tuple[str, ...]:
        return str(self.module_path), self.module_sha256, self.pin_source


def parse_pkcs11_uri(text: str) -> Pkcs11Uri:
    """Return the parts of an address.

    Raises:
        ConfigError: EG-C060, not of this form; the message never repeats what could be a PIN.
    """
    path, _, query = text.removeprefix(SCHEME).partition("?")
    if not text.startswith(SCHEME) or len(text) > MAX_URI_CHARACTERS:
        raise _malformed("starts with pkcs11: and is not longer than 4096 characters")
    if "pin-value" in query:
        raise _malformed("holds no PIN: write it to a file of mode 600 and give pin-source")
    facts = _attributes(path, ";", _PATH_NAMES) | _attributes(query, "&", _QUERY_NAMES)
    if not facts["object"] or not (facts["token"] or facts["serial"]):
        raise _malformed("names token (or serial) and object")
    if not facts["module-path"].startswith("/") or "\0" in facts["module-path"]:
        raise _malformed("names its module by an absolute module-path")
    if not _SHA256.match(facts["module-sha256"]):
        raise _malformed("pins its module: module-sha256=<64 hex digits>, as sha256sum prints them")
    return Pkcs11Uri(
        token=facts["token"],
        object=facts["object"],
        serial=facts["serial"],
        module_path=Path(facts["module-path"]),
        module_sha256=facts["module-sha256"],
        pin_source=facts["pin-source"],
    )


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = dict.fromkeys(known, "")
    for part in text.split(separator) if text else ():
        name, equals, raw = part.partition("=")
        if name not in known or not equals or found[name]:
            raise _malformed(f"has no attributes but {', '.join(known)} there, each once")
        value = None
        with suppress(UnicodeDecodeError):
            value = unquote_to_bytes(raw).decode()
        if not value:
            raise _malformed(f"has an empty {name}, or one that is not UTF-8")
        found[name] = value
    return found


def _malformed(rule: str) -> ConfigError:
    return ConfigError(
        f"a token address {rule}",
        code="EG-C060",
        hint="pkcs11:token=LABEL;object=KEY?module-path=/usr/lib/...so&module-sha256=...&pin-source=FILE",
    )
