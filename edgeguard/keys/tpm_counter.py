"""A monotonic counter in a TPM 2.0: what makes an older image of a device's disk visible.

An NV index of type counter only grows: it cannot be written, and one that is deleted and defined again starts above
every value that a counter of this TPM has had (TPM 2.0 Library, Part 3, NV_Increment). Its authorisation value is
derived from the device's key, so other users of the TPM can neither push it nor, in front of a verifier that uses it,
answer in its place: each reply is authenticated with that value (HMAC session), also on a bus that somebody taps.

It shares its connection with a device key in the same TPM (`tpm_link`). What a TPM cannot stop: whoever owns its
storage hierarchy can delete the index, and the device then refuses until it is enrolled again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

from edgeguard.errors import TrustError
from edgeguard.keys.provider import KeyProvider
from edgeguard.keys.tpm_link import DEFAULT_TCTI, TpmLink, library

# In the owner's range (TCG registry of reserved handles: 0x01800000-0x01BFFFFF is the owner's).
DEFAULT_INDEX: Final = 0x0180E6D1
AUTH_LABEL: Final = "tpm-counter-auth/v1"
_COUNTER_BYTES: Final = 8


class TpmCounter:
    """`MonotonicCounter` on a TPM; use as a context manager, or close it.

    Args:
        key: the device's key; gives the authorisation value.
        tcti: how the TPM is reached, as in tpm2-tools, such as ``device:/dev/tpmrm0`` or ``swtpm:host=...,port=...``.
        index: NV index.

    Raises:
        EnvironmentMissingError: EG-E013, tpm2-pytss is not installed.
        TrustError: EG-T035, the TPM does not answer, or holds no such counter.
    """

    def __init__(self, key: KeyProvider, *, tcti: str = DEFAULT_TCTI, index: int = DEFAULT_INDEX) -> None:
        self._index = index
        self._link: TpmLink | None = None
        self._tss: Any = library()
        # First the key, whose own refusals say more, and which may be in the same TPM.
        with key.derive_secret(AUTH_LABEL) as secret, self._opened(tcti) as esys:
            self._handle = esys.tr_from_tpmpublic(index)
            esys.tr_set_auth(self._handle, bytes(secret.view))
            self._require_counter(esys)

    @classmethod
    def create(cls, key: KeyProvider, *, tcti: str = DEFAULT_TCTI, index: int = DEFAULT_INDEX) -> Self:
        """Define the index and count once, as a counter has no value before; at enrolment, with the owner's right.

        Raises:
            EnvironmentMissingError: EG-E013. TrustError: EG-T035, the index exists, or the TPM refuses.
        """
        made = cls.__new__(cls)
        made._index, made._link, made._tss = index, None, library()
        with key.derive_secret(AUTH_LABEL) as secret, made._opened(tcti) as esys:
            made._handle = esys.nv_define_space(bytes(secret.view), made._public())
        made.increment()
        return made

    def read(self) -> int:
        """Return the present value.

        Raises:
            TrustError: EG-T035.
        """
        with self._talking() as esys, self._session(esys) as session:
            value = esys.nv_read(self._handle, _COUNTER_BYTES, 0, self._handle, session1=session)
        return int.from_bytes(bytes(value), "big")

    def increment(self) -> int:
        """Add one, durably, and return the new value.

        Raises:
            TrustError: EG-T035.
        """
        with self._talking() as esys, self._session(esys) as session:
            esys.nv_increment(self._handle, self._handle, session1=session)
        return self.read()

    def close(self) -> None:
        """Let go of the TPM; calling it again does nothing."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TpmCounter at {self._index:#010x}>"

    @contextmanager
    def _opened(self, tcti: str) -> Iterator[Any]:
        with _Refusing(self):
            self._link = TpmLink(tcti)
        with self._talking() as esys:
            yield esys

    @contextmanager
    def _talking(self) -> Iterator[Any]:
        """Give the TPM; whatever goes wrong in the block is the one refusal, and closes the counter."""
        with _Refusing(self):
            if self._link is None:
                raise TrustError("the monotonic counter is closed", code="EG-T035", hint=_HINT)
            with self._link.use() as esys:
                yield esys

    @contextmanager
    def _session(self, esys: Any) -> Iterator[Any]:
        """Give an HMAC session for one command; TPMs have few, so it is flushed also when the command fails."""
        tss = self._tss
        none = tss.ESYS_TR.NONE
        symmetric = tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL)
        session = esys.start_auth_session(none, none, tss.TPM2_SE.HMAC, symmetric, tss.TPM2_ALG.SHA256)
        try:
            yield session
        finally:
            esys.flush_context(session)

    def _public(self) -> Any:
        tss = self._tss
        # NO_DA: a wrong value must not lock the whole TPM, and 256 random bits are not guessed.
        attributes = tss.TPMA_NV.AUTHREAD | tss.TPMA_NV.AUTHWRITE | tss.TPMA_NV.NO_DA
        attributes |= int(tss.TPM2_NT.COUNTER) << int(tss.TPMA_NV.TPM2_NT_SHIFT)
        return tss.TPM2B_NV_PUBLIC(
            nvPublic=tss.TPMS_NV_PUBLIC(
                nvIndex=self._index, nameAlg=tss.TPM2_ALG.SHA256, attributes=attributes, dataSize=_COUNTER_BYTES
            )
        )

    def _require_counter(self, esys: Any) -> None:
        """Refuse an ordinary index that somebody has put in the counter's place: it could be written."""
        public, _ = esys.nv_read_public(self._handle)
        found = int(public.nvPublic.attributes)
        kind = (found & int(self._tss.TPMA_NV.TPM2_NT_MASK)) >> int(self._tss.TPMA_NV.TPM2_NT_SHIFT)
        if kind != int(self._tss.TPM2_NT.COUNTER):
            raise TrustError("the TPM index is no counter", code="EG-T035", hint=_HINT)


class _Refusing:
    """Turns what the TPM library raises into one refusal, and closes a counter that could not be opened."""

    def __init__(self, counter: TpmCounter) -> None:
        self._counter = counter

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        with suppress(Exception):
            self._counter.close()
        if isinstance(error, TrustError) or not isinstance(error, Exception):
            return
        raise TrustError("the monotonic counter does not answer", code="EG-T035", hint=_HINT) from None


_HINT: Final = "is the TPM there and yours to use (/dev/tpmrm0, group tss)? without its counter no state is accepted"
