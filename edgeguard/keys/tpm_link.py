"""One connection to a TPM, shared by everything in this process that uses it, and one meaning for each refusal.

A device node without resource manager and a simulator take one connection at a time; a second one would wait for ever.
What talks to the TPM therefore takes a `TpmLink`, which counts its users, and holds its lock while it talks.

Needs tpm2-pytss (extra `tpm`), which is imported when a link is opened.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from edgeguard.errors import EdgeGuardError, EnvironmentMissingError, KeyUnavailableError

DEFAULT_TCTI: Final = "device:/dev/tpmrm0"  # the kernel's resource manager, which several processes may share

# TPM 2.0 Library, Part 2, TPM_RC, as `TSS2_Exception.error` gives them: format one without handle or parameter number.
_AUTH_FAIL, _BAD_AUTH, _POLICY_FAIL, _INTEGRITY = 0x8E, 0xA2, 0x9D, 0x9F
_PCR_CHANGED, _LOCKOUT = 0x128, 0x921
_ROOM = frozenset({0x902, 0x903, 0x904, 0x905, 0x906, 0x909, 0x922})  # no memory, no handle, no session, try again
_LAYER_SHIFT = 16  # of a response code: 0 is the TPM itself, 10 the way to it


@dataclass(slots=True)
class _Connection:
    esys: Any
    users: int = 1
    lock: threading.RLock = field(default_factory=threading.RLock)


_connections: dict[str, _Connection] = {}
_table_lock = threading.Lock()


def _forget_connections() -> None:
    """Leave a parent's connections to the parent: two processes on one of them would mix their commands."""
    global _table_lock  # noqa: PLW0603 - another thread of the parent may have held it
    _table_lock = threading.Lock()
    _connections.clear()


os.register_at_fork(after_in_child=_forget_connections)


def library() -> Any:
    """Return tpm2_pytss.

    Raises:
        EnvironmentMissingError: EG-E013, it is not installed.
    """
    # The library prints each refusal of the TPM to stderr; ours says it once, with a code.
    os.environ.setdefault("TSS2_LOG", "all+none")
    try:
        import tpm2_pytss  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        tpm2_pytss = None
    if tpm2_pytss is None:
        raise EnvironmentMissingError(
            "a TPM needs the package tpm2-pytss", code="EG-E013", hint="pip install edgeguard[tpm]"
        )
    return tpm2_pytss


class TpmLink:
    """A share of the connection to one TPM; use as a context manager, or close it.

    Args:
        tcti: how the TPM is reached, as in tpm2-tools, such as ``device:/dev/tpmrm0`` or ``swtpm:host=...,port=...``.

    Raises:
        EnvironmentMissingError: EG-E013; EG-E014, the TPM does not answer.
    """

    def __init__(self, tcti: str = DEFAULT_TCTI) -> None:
        self.tss: Any = library()
        self.tcti = tcti
        self._pid = os.getpid()
        with _table_lock:
            shared = _connections.get(tcti)
            if shared is None:
                shared = _connections[tcti] = _Connection(self._connect())
            else:
                shared.users += 1
        self._shared: _Connection | None = shared

    def _connect(self) -> Any:
        esys = None
        with suppress(Exception):  # a missing node, a closed port, a TCTI that is none: it is not there
            esys = self.tss.ESAPI(self.tcti)
        if esys is None:
            raise EnvironmentMissingError(
                f"no TPM answers at {self.tcti}",
                code="EG-E014",
                hint="is it there and yours to use (/dev/tpmrm0, group tss), and is libtss2-tcti-* installed?",
            )
        return esys

    @contextmanager
    def use(self) -> Iterator[Any]:
        """Give the ESAPI object; other threads wait until the block ends.

        Raises:
            KeyUnavailableError: the codes of `refusal`; EG-K014, the link is closed or was opened before a fork.
            EnvironmentMissingError: EG-E014, the TPM went away.
        """
        shared = self._shared
        if shared is None or os.getpid() != self._pid:
            raise KeyUnavailableError(
                "the TPM connection is closed, or belongs to the process before a fork", code="EG-K014",
                hint="open the key again in this process",
            )  # fmt: skip
        failure: EdgeGuardError | None = None
        with shared.lock:
            try:
                yield shared.esys
            except self.tss.TSS2_Exception as error:
                failure = refusal(error)
        if failure is not None:
            raise failure from None

    def close(self) -> None:
        """Give the share back; calling it again does nothing."""
        shared, self._shared = self._shared, None
        if shared is None or os.getpid() != self._pid:
            return
        with _table_lock:
            shared.users -= 1
            if shared.users:
                return
            if _connections.get(self.tcti) is shared:
                del _connections[self.tcti]
            with shared.lock:
                shared.esys.close()

    def __enter__(self) -> TpmLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TpmLink to {self.tcti}>"


def refusal(error: Any) -> EdgeGuardError:
    """Return what a TSS2_Exception means to the caller.

    EG-K011 wrong authorisation value, EG-K012 lockout, EG-K013 policy not met, EG-K014 busy or no room, EG-K015 the
    object is not this TPM's, EG-E014 the way to the TPM is broken, EG-K001 anything else.
    """
    rc = int(error.rc)
    if rc >> _LAYER_SHIFT == 10:
        return EnvironmentMissingError(
            "the TPM no longer answers", code="EG-E014", hint="is it still there? open the key again"
        )
    reason = int(error.error)
    if error.fmt1 and reason in (_AUTH_FAIL, _BAD_AUTH):
        return KeyUnavailableError(
            "the TPM does not accept the key's authorisation value", code="EG-K011",
            hint="give the file or credential that the key was made with: ...?auth=",
        )  # fmt: skip
    if reason == _LOCKOUT:
        return KeyUnavailableError(
            "the TPM is locked after too many wrong authorisation values", code="EG-K012",
            hint="wait for it to recover, or its owner runs: tpm2_dictionarylockout --clear-lockout",
        )  # fmt: skip
    if reason == _PCR_CHANGED or (error.fmt1 and reason == _POLICY_FAIL):
        return KeyUnavailableError(
            "the machine has started in another state than the key was made for", code="EG-K013",
            hint="start the software that the PCRs were measured with, or make a new key and enrol it",
        )  # fmt: skip
    if not error.fmt1 and reason in _ROOM:
        return KeyUnavailableError(
            "the TPM has no room or is busy", code="EG-K014",
            hint="use device:/dev/tpmrm0, which shares it, or flush what others left there",
        )  # fmt: skip
    if error.fmt1 and reason == _INTEGRITY:
        return KeyUnavailableError(
            "the key file was changed or belongs to another TPM", code="EG-K015",
            hint="make a key on this device with: edgeguard-provision keygen",
        )  # fmt: skip
    return KeyUnavailableError(f"the TPM refuses (TPM_RC {rc:#x})", code="EG-K001", hint="see: tpm2_rc_decode")
