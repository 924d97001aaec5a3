"""One login to a PKCS#11 token, shared by everything in this process that uses it, and one meaning for each refusal.

A login belongs to the process, not to a session: whoever logs out, logs out everybody. What uses a token therefore
takes a `TokenLink`, which counts its users, and holds its lock while it works.

A module is a library that runs with the rights of this process (ATLAS M0011), so it is loaded only when root alone can
write it, and when its SHA-256 is the one that the key's address pins. Needs python-pkcs11 (extra `pkcs11`).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgeguard.errors import EdgeGuardError, EnvironmentMissingError, KeyUnavailableError
from edgeguard.keys.pkcs11_uri import Pkcs11Uri
from edgeguard.keys.regular_file import open_regular

MAX_MODULE_BYTES: Final = 256 * 1024 * 1024  # vendors' modules are tens of MB
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_CHUNK_BYTES = 1 << 20

_WRONG_PIN = ("PinIncorrect", "PinInvalid", "PinLenRange")
_LOCKED = ("PinLocked", "PinExpired", "UserPinNotInitialized")
_GONE = ("NoSuchToken", "MultipleTokensReturned", "TokenNotPresent", "TokenNotRecognised", "DeviceRemoved")
_FULL = ("SessionCount", "DeviceMemory", "HostMemory")


@dataclass(slots=True)
class _Login:
    session: Any
    users: int = 1
    lock: threading.RLock = field(default_factory=threading.RLock)


_logins: dict[tuple[str, str, str], _Login] = {}
_table_lock = threading.RLock()  # a garbage collection inside the lock may give a share back


def _forget_logins() -> None:
    """Leave a parent's sessions to the parent: PKCS#11 gives a child none."""
    global _table_lock  # noqa: PLW0603 - another thread of the parent may have held it
    _table_lock = threading.RLock()
    _logins.clear()


os.register_at_fork(after_in_child=_forget_logins)


def _give_back(name: tuple[str, str, str], shared: _Login, pid: int) -> None:
    if os.getpid() != pid:
        return
    with _table_lock:
        shared.users -= 1
        if shared.users:
            return
        if _logins.get(name) is shared:
            del _logins[name]
        with shared.lock, suppress(Exception):  # a token that was pulled out has logged us out
            shared.session.close()


def library() -> Any:
    """Return python-pkcs11.

    Raises:
        EnvironmentMissingError: EG-E015, it is not installed.
    """
    found: Any = None
    with suppress(ImportError):
        import pkcs11  # type: ignore[import-not-found,unused-ignore]

        found = pkcs11
    if found is None:
        raise EnvironmentMissingError(
            "a PKCS#11 token needs the package python-pkcs11", code="EG-E015", hint="pip install edgeguard[pkcs11]"
        )
    return found


def trusted_module(path: Path, sha256: str) -> Path:
    """Return the real path of a module that may be loaded.

    The digest alone would not do: between hashing and loading, somebody who can write the file or a folder above it
    could put another one there. Where only root can, root would have to.

    Raises:
        KeyUnavailableError: EG-K016, missing, writable by others than root, or not the pinned one.
    """
    reason = ""
    digest = hashlib.sha256()
    real = Path(os.path.realpath(path))
    try:
        for place in (real, *real.parents):
            facts = place.lstat()
            if facts.st_uid != 0 or facts.st_mode & _OTHERS_WRITE:
                reason = f"{place} can be written by others than root"
        with open_regular(real) as file:
            if os.fstat(file.fileno()).st_size > MAX_MODULE_BYTES:
                reason = "is not a module: too large"
            while not reason and (chunk := file.read(_CHUNK_BYTES)):
                digest.update(chunk)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not a path").lower()
    if not reason and not hmac.compare_digest(digest.hexdigest(), sha256):
        reason = "is not the one that the address pins"
    if reason:
        raise KeyUnavailableError(
            f"the PKCS#11 module {path} is not loaded: {reason}", code="EG-K016",
            hint=f"install it from its package, check it, and pin it: sha256sum {real}",
        )  # fmt: skip
    return real


class TokenLink:
    """A share of the login to one token; use as a context manager, or close it.

    Args:
        uri: which token, through which module.
        pin: gives the PIN; called only where this process has not logged in yet.

    Raises:
        KeyUnavailableError: EG-K016 as in `trusted_module`; EG-K011 wrong PIN, EG-K012 locked, EG-K014 no room.
        EnvironmentMissingError: EG-E015; EG-E016, the module does not load or the token is not there.
    """

    def __init__(self, uri: Pkcs11Uri, pin: Callable[[], bytes]) -> None:
        self.pkcs11: Any = library()
        module = trusted_module(uri.module_path, uri.module_sha256)
        self.uri = uri
        self._pid = os.getpid()
        self._name = str(module), uri.token, uri.serial
        with _table_lock:
            shared = _logins.get(self._name)
            if shared is None:
                shared = _logins[self._name] = _Login(self._log_in(str(module), pin))
            else:
                shared.users += 1
        self._shared: _Login | None = shared
        # A key provider has no close: when nobody holds it any more, its share of the login goes with it.
        self._release = weakref.finalize(self, _give_back, self._name, shared, self._pid)

    def _log_in(self, module: str, pin: Callable[[], bytes]) -> Any:
        session = None
        with self._refusing():
            token = self._loaded(module).get_token(
                token_label=self.uri.token or None, token_serial=self.uri.serial.encode() or None
            )
            try:
                session = token.open(user_pin=pin().decode("utf-8", "replace"))
            except self.pkcs11.UserAlreadyLoggedIn:  # through an address that names the token in another way
                session = token.open()
        return session

    def _loaded(self, module: str) -> Any:
        loaded = None
        with suppress(Exception):  # no library, no entry point, its own refusal to start: it does not load
            loaded = self.pkcs11.lib(module)
        if loaded is None:
            raise EnvironmentMissingError(
                f"the PKCS#11 module {module} does not load", code="EG-E016",
                hint="is it a module for this machine, and is its own configuration there (such as SOFTHSM2_CONF)?",
            )  # fmt: skip
        return loaded

    @property
    def hardware(self) -> bool:
        """Whether the token says that its slot is hardware (CKF_HW_SLOT); a token in files, as SoftHSM, does not."""
        return bool(int(self._login().session.token.slot.flags) & int(self.pkcs11.SlotFlag.HW_SLOT))

    @contextmanager
    def use(self) -> Iterator[Any]:
        """Give the session; other threads wait until the block ends.

        Raises:
            EdgeGuardError: the codes of `refusal`. KeyUnavailableError: EG-K014, closed, or opened before a fork.
        """
        shared = self._login()
        with shared.lock, self._refusing():
            yield shared.session

    @contextmanager
    def writing(self) -> Iterator[Any]:
        """Give a session that may make keys, under the same login."""
        with self.use() as session:
            writable = session.token.open(rw=True)
            try:
                yield writable
            finally:
                writable.close()

    def close(self) -> None:
        """Give the share back, and log out with the last one; calling it again does nothing."""
        self._shared = None
        self._release()

    def _login(self) -> _Login:
        if self._shared is None or os.getpid() != self._pid:
            raise KeyUnavailableError(
                "the token session is closed, or belongs to the process before a fork", code="EG-K014",
                hint="open the key after the fork: PKCS#11 modules do not survive one",
            )  # fmt: skip
        return self._shared

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        failure: EdgeGuardError | None = None
        try:
            yield
        except self.pkcs11.PKCS11Error as error:
            failure = refusal(error)
        if failure is not None:
            raise failure from None

    def __enter__(self) -> TokenLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TokenLink to {self.uri.token or self.uri.serial}>"


def refusal(error: Exception) -> EdgeGuardError:
    """Return what a PKCS11Error means to the caller.

    EG-K011 wrong PIN, EG-K012 locked, EG-K014 no room, EG-E016 the token is not there, EG-K001 anything else.
    """
    kind = type(error).__name__
    if kind in _WRONG_PIN:
        return KeyUnavailableError(
            "the token does not accept the PIN", code="EG-K011",
            hint="check pin-source; most tokens lock after a few wrong ones",
        )  # fmt: skip
    if kind in _LOCKED:
        return KeyUnavailableError(
            "the token's PIN is locked, expired or not set", code="EG-K012",
            hint="its security officer sets a new one, with pkcs11-tool --init-pin or the vendor's tool",
        )  # fmt: skip
    if kind in _GONE:
        return EnvironmentMissingError(
            "the token is not there, or is not the only one of its name", code="EG-E016",
            hint="see: pkcs11-tool --module MODULE --list-token-slots; serial= tells tokens apart",
        )  # fmt: skip
    if kind in _FULL:
        return KeyUnavailableError(
            "the token has no room or no session left", code="EG-K014", hint="end other programs that use it"
        )
    return KeyUnavailableError(f"the token refuses ({kind})", code="EG-K001", hint="see the token's own log")
