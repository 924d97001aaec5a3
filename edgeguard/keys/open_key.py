"""The one place that turns an address into a key provider.

=====================================================  =====================================================
``device.pem`` or ``file:device.pem``                  a key file (class `file`)
``credential:NAME``                                    a key file that systemd hands to the service
``tpm:device.tpm?auth=SOURCE&tcti=TCTI``               a key in a TPM 2.0 (`hardware`)
``pkcs11:token=...;object=...?module-path=...&...``    a key on a token (`hardware` where its slot says so)
``rpi-otp:device.otp?program=PATH``                    a key bound to a Raspberry Pi (`device-bound`)
=====================================================  =====================================================

An address holds no secret. A path that begins like a scheme is written ``./tpm:...`` or ``file:tpm:...``.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

from edgeguard.errors import ConfigError
from edgeguard.keys.context import SUITE_P256, SUITE_X25519
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.pkcs11_uri import parse_pkcs11_uri
from edgeguard.keys.private_file import write_private_file
from edgeguard.keys.provider import EnrollingKey
from edgeguard.keys.secret_source import CREDENTIAL_SCHEME, Ask, credential_path, read_secret

PROVIDERS: Final = ("file", "credential", "tpm", "pkcs11", "rpi-otp")
# A chip's key has the one suite that the chip can do; where nobody says, a file has X25519.
CHIP_SUITES: Final[Mapping[str, str]] = MappingProxyType(
    {"tpm": SUITE_P256, "pkcs11": SUITE_P256, "rpi-otp": SUITE_X25519}
)
_SCHEME = re.compile(rf"\A({'|'.join(PROVIDERS)}):(.*)\Z", re.DOTALL)
_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"tpm": ("auth", "tcti", "pcrs", "parent"), "rpi-otp": ("program",)}
)
_AUTH_BYTES = 32


@dataclass(frozen=True, slots=True)
class KeyAddress:
    """A parsed address. rest: what follows the scheme, without options; for `pkcs11` all of it."""

    provider: str
    rest: str
    options: Mapping[str, str]

    @property
    def path(self) -> Path:
        """Where the key file is; a credential's place is known only to its service.

        Raises:
            KeyUnavailableError: EG-K009, no such credential.
        """
        if self.provider == "credential":
            return credential_path(self.rest)
        if self.rest.startswith(CREDENTIAL_SCHEME):
            return credential_path(self.rest.removeprefix(CREDENTIAL_SCHEME))
        return Path(self.rest)


def parse_address(where: str | Path) -> KeyAddress:
    """Return the parts of an address.

    Raises:
        ConfigError: EG-C061, options that its provider does not have, or no path.
    """
    match = _SCHEME.match(str(where)) if isinstance(where, str) else None
    if match is None:
        return KeyAddress("file", str(where), {})
    provider, rest = match[1], match[2]
    options: dict[str, str] = {}
    known = _OPTIONS.get(provider, ())
    if known:
        rest, _, query = rest.partition("?")
        for part in query.split("&") if query else ():
            name, equals, value = part.partition("=")
            if name not in known or not equals or name in options:
                raise ConfigError(
                    f"a {provider} address has no option {name!a} there", code="EG-C061",
                    hint=f"options: {', '.join(known)}, each once, as in {provider}:PATH?{known[0]}=...",
                )  # fmt: skip
            options[name] = unquote(value)
    if not rest:
        raise ConfigError(f"a {provider} address names nothing", code="EG-C061", hint="see docs/keys.md")
    return KeyAddress(provider, rest, options)


def open_key(where: str | Path, *, passphrase: bytes | None = None, ask: Ask | None = None) -> EnrollingKey:
    """Return the key at an address; a plain path is a key file.

    Args:
        where: see the table above; a `Path` is always a key file.
        passphrase: of an encrypted key file.
        ask: asks a person for a PIN or authorisation value where the address and the environment name none.

    Raises:
        ConfigError: EG-C060, EG-C061. KeyUnavailableError, EnvironmentMissingError: as the provider says.
    """
    address = parse_address(where)
    match address.provider:
        case "tpm":
            from edgeguard.keys.tpm import TpmKeyProvider

            _require_none(address, "pcrs", "parent")
            return TpmKeyProvider(address.path, auth=_auth(address, ask), tcti=_tcti(address))
        case "pkcs11":
            from edgeguard.keys.pkcs11 import Pkcs11KeyProvider

            uri = parse_pkcs11_uri(str(where))
            return Pkcs11KeyProvider(uri, pin_reader(uri.pin_source, uri.token or uri.serial, ask))
        case "rpi-otp":
            from edgeguard.keys.rpi_otp import OtpKeyProvider

            return OtpKeyProvider(address.path, read_otp=_reader(address))
    return FileKeyProvider(address.path, passphrase)


def generate_key(
    where: str | Path, *, suite: str | None = None, passphrase: bytes | None = None, ask: Ask | None = None
) -> EnrollingKey:
    """Make a new key at an address, where nothing is yet, and return it.

    A `tpm` address whose `auth` file does not exist gets one with 32 random bytes.

    Args:
        suite: X25519, P-256 or hybrid for a file; a chip has the suite it has. None: what suits the provider.

    Raises:
        ConfigError: EG-C060; EG-C061 also for a suite that the provider cannot do, and for `credential`.
        KeyUnavailableError, EnvironmentMissingError: as the provider says.
    """
    address = parse_address(where)
    fixed = CHIP_SUITES.get(address.provider)
    if address.provider == "credential" or (fixed is not None and suite not in (None, fixed)):
        raise ConfigError(
            f"a {address.provider} key cannot be made with this suite, or not here", code="EG-C061",
            hint="leave --suite out for keys in chips; a credential is made with systemd-creds encrypt",
        )  # fmt: skip
    match address.provider:
        case "tpm":
            from edgeguard.keys.tpm import TpmKeyProvider

            pcrs = [_number(text, "pcrs") for text in address.options.get("pcrs", "").split(",") if text]
            parent = _number(address.options.get("parent", "0"), "parent")
            _make_auth(address)
            return TpmKeyProvider.generate(
                address.path, auth=_auth(address, ask), tcti=_tcti(address), pcrs=pcrs, parent=parent
            )
        case "pkcs11":
            from edgeguard.keys.pkcs11 import Pkcs11KeyProvider

            uri = parse_pkcs11_uri(str(where))
            return Pkcs11KeyProvider.generate(uri, pin_reader(uri.pin_source, uri.token or uri.serial, ask))
        case "rpi-otp":
            from edgeguard.keys.rpi_otp import OtpKeyProvider

            return OtpKeyProvider.generate(address.path, read_otp=_reader(address))
    return FileKeyProvider.generate(address.path, passphrase, suite=suite or SUITE_X25519)


def pin_reader(source: str, token: str, ask: Ask | None) -> Callable[[], bytes]:
    """Return what gives the PIN of a token when it is needed."""
    return lambda: read_secret(source, what=f"PIN of token {token}", ask=ask)


def _auth(address: KeyAddress, ask: Ask | None) -> bytes:
    return read_secret(address.options.get("auth", ""), what="authorisation value of the TPM key", ask=ask)


def _make_auth(address: KeyAddress) -> None:
    source = address.options.get("auth", "")
    path = Path(source.removeprefix("file:"))
    if source and not source.startswith(CREDENTIAL_SCHEME) and not path.exists():
        write_private_file(path, secrets.token_hex(_AUTH_BYTES).encode() + b"\n")


def _tcti(address: KeyAddress) -> str:
    from edgeguard.keys.tpm_link import DEFAULT_TCTI

    return address.options.get("tcti", DEFAULT_TCTI)


def _reader(address: KeyAddress) -> Callable[[], bytes]:
    from edgeguard.keys.rpi_otp import MAILBOX, MailboxReader

    return MailboxReader(Path(address.options.get("program", str(MAILBOX))))


def _require_none(address: KeyAddress, *names: str) -> None:
    for name in names:
        if name in address.options:
            raise ConfigError(
                f"{name} is chosen when the key is made", code="EG-C061", hint="leave it out: the key file has it"
            )


def _number(text: str, name: str) -> int:
    value = None
    with suppress(ValueError):
        value = int(text, 0) if len(text) <= 10 else None
    if value is None:
        raise ConfigError(f"{name} takes numbers", code="EG-C061", hint="such as pcrs=0,7 or parent=0x81000001")
    return value
