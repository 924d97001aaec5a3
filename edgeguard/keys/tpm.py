"""A device key in a TPM 2.0. Class `hardware`: the private key is made in the chip and never leaves it.

Two objects, both made inside the TPM and bound to it: a P-256 key that only computes Diffie-Hellman and opens wraps,
and an HMAC key that derives local secrets. Their sealed forms rest in a file of mode 0600, which is worthless without
this TPM and the authorisation value; they are loaded for one operation and flushed after it, because a TPM has three
places. Commands and answers travel encrypted and authenticated between this process and the TPM (a session salted with
the storage key, whose name the file pins), so that a tap on the bus sees neither the authorisation value nor a shared
secret. docs/formats/device-keys.md section 2.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

from edgeguard.errors import KeyUnavailableError
from edgeguard.harden.memory import SecretBuffer
from edgeguard.keys.context import derive_message
from edgeguard.keys.dh import DhKeyProvider
from edgeguard.keys.private_file import read_private_file, write_private_file
from edgeguard.keys.public_key import of_p256
from edgeguard.keys.tpm_link import DEFAULT_TCTI, TpmLink
from edgeguard.keys.tpm_objects import (
    COORDINATE_BYTES,
    NO_DA,
    agreement_area,
    derivation_area,
    policy_of,
    primary_area,
    require_agreement,
    require_derivation,
)

SCHEMA: Final = "edgeguard/tpm-key/v1"
PERSISTENT: Final = range(0x81000000, 0x81800000)  # the owner's persistent handles
PCRS: Final = range(24)  # of the PC Client profile
# An authorisation value of that many bytes is not guessed, so it need not count towards the TPM's lockout, with which
# anybody who may talk to the TPM could lock out everybody else. Shorter ones (a PIN) need the lockout.
UNGUESSABLE_BYTES: Final = 32

Hex = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{2}){1,1024}\Z")]


class TpmObject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One object: TPMT_PUBLIC, and TPM2B_PRIVATE's buffer, which only its TPM can open."""

    private: Hex
    public: Hex


class TpmKeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key file. parent: 0, the owner's primary key made anew each time, or a persistent handle."""

    schema: Literal["edgeguard/tpm-key/v1"]
    parent: Annotated[int, msgspec.Meta(ge=0, le=PERSISTENT.stop - 1)]
    parent_name: Hex
    pcrs: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=PCRS.stop - 1)], ...], msgspec.Meta(max_length=24)]
    agreement: TpmObject
    derivation: TpmObject


@dataclass(frozen=True, slots=True)
class _Use:
    """What one operation works with. session: HMAC session salted with the parent."""

    tss: Any
    esys: Any
    parent: Any
    session: Any


class TpmKey:
    """`DhKey` in a TPM.

    Args:
        path: key file that `create` made.
        auth: the authorisation value, any bytes.
        tcti: how the TPM is reached.

    Raises:
        KeyUnavailableError: EG-K001, EG-K002 the file; EG-K011 to EG-K015 as in `tpm_link.refusal`; EG-K015, the file
            does not describe objects that were made in this TPM.
        EnvironmentMissingError: EG-E013, EG-E014.
    """

    key_class = "hardware"

    def __init__(self, path: Path | str, *, auth: bytes, tcti: str = DEFAULT_TCTI) -> None:
        self._tcti = tcti
        self._pid = os.getpid()
        self._auth = SecretBuffer.copy_of(_auth_value(auth))
        self._file, x, y = parse_key_file(read_private_file(Path(path)))
        public = None
        with suppress(ValueError):
            public = of_p256(EllipticCurvePublicKey.from_encoded_point(SECP256R1(), b"\x04" + x + y))
        if public is None:
            raise _foreign()
        self._public = public.der
        # Both load here, so that a file of another TPM is refused when the key is opened and not when it is needed.
        with self._operation() as use:
            for item in (self._file.agreement, self._file.derivation):
                with self._loaded(use, item):
                    pass

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        auth: bytes,
        tcti: str = DEFAULT_TCTI,
        pcrs: Sequence[int] = (),
        parent: int = 0,
    ) -> TpmKey:
        """Make a new key in the TPM and a new file for it; an existing file is never overwritten.

        Args:
            auth: authorisation value; below 32 bytes wrong guesses count towards the TPM's lockout.
            pcrs: SHA-256 PCRs whose present values must still hold whenever the key is used; none means any.
            parent: persistent handle of a storage key, 0 for the owner's primary key.

        Raises:
            KeyUnavailableError: EG-K001, the file exists; EG-K008, no authorisation value, or no such PCR or handle.
        """
        chosen = tuple(sorted(set(pcrs)))
        if not auth or any(p not in PCRS for p in chosen) or (parent and parent not in PERSISTENT):
            raise KeyUnavailableError(
                "a TPM key needs an authorisation value, PCRs from 0 to 23, and a persistent parent or none",
                code="EG-K008",
                hint="such as tpm:device.tpm?auth=device.auth&pcrs=0,7&parent=0x81000001",
            )
        path = Path(path)
        with TpmLink(tcti) as link, link.use() as esys, _parent_of(link.tss, esys, parent) as handle:
            name = bytes(esys.tr_get_name(handle))
            with _session(link.tss, esys, handle, link.tss.TPM2_SE.HMAC) as session:
                use = _Use(link.tss, esys, handle, session)
                policy = _present_policy(use, chosen)
                extra = NO_DA if len(auth) >= UNGUESSABLE_BYTES else 0
                areas = agreement_area(policy, extra), derivation_area(policy, extra)
                agreement, derivation = (_create(use, area, _auth_value(auth)) for area in areas)
        facts = TpmKeyFile(SCHEMA, parent, name.hex(), chosen, agreement, derivation)
        write_private_file(path, encode_key_file(facts))
        return cls(path, auth=auth, tcti=tcti)

    @property
    def tcti(self) -> str:
        """How the TPM is reached."""
        return self._tcti

    def public_key(self) -> bytes:
        """See `DhKey`."""
        return self._public

    def ecdh(self, point: bytes) -> bytes:
        """See `DhKey`. The point has been checked; the TPM checks it again."""
        with self._operation() as use, self._loaded(use, self._file.agreement) as key:
            tss = use.tss
            given = tss.TPM2B_ECC_POINT(
                point=tss.TPMS_ECC_POINT(x=point[1 : 1 + COORDINATE_BYTES], y=point[1 + COORDINATE_BYTES :])
            )
            with self._authorised(use) as session:
                shared = use.esys.ecdh_zgen(key, given, session1=session)
        return bytes(shared.point.x).rjust(COORDINATE_BYTES, b"\0")  # old chips drop leading zeros

    def derive_secret(self, label: str) -> SecretBuffer:
        """See `DhKey`. HMAC-SHA-256 in the TPM over the label."""
        message = derive_message(label)
        with (
            self._operation() as use,
            self._loaded(use, self._file.derivation) as key,
            self._authorised(use) as session,
        ):
            secret = use.esys.hmac(key, message, use.tss.TPM2_ALG.SHA256, session1=session)
        return SecretBuffer.copy_of(bytes(secret))

    @contextmanager
    def _operation(self) -> Iterator[_Use]:
        """Give the storage key and a session; both are flushed however the block ends."""
        if os.getpid() != self._pid:  # the kernel has wiped the authorisation value here; zeros would cost a try
            raise KeyUnavailableError(
                "the TPM key belongs to the process before a fork", code="EG-K014",
                hint="open the key again in this process",
            )  # fmt: skip
        with (
            TpmLink(self._tcti) as link,
            link.use() as esys,
            _parent_of(link.tss, esys, self._file.parent) as parent,
        ):
            if bytes(esys.tr_get_name(parent)).hex() != self._file.parent_name:
                raise _foreign()
            with _session(link.tss, esys, parent, link.tss.TPM2_SE.HMAC) as session:
                yield _Use(link.tss, esys, parent, session)

    @contextmanager
    def _loaded(self, use: _Use, item: TpmObject) -> Iterator[Any]:
        private = use.tss.TPM2B_PRIVATE(bytes.fromhex(item.private))
        handle = use.esys.load(use.parent, private, _public(use.tss, bytes.fromhex(item.public)), session1=use.session)
        with _flushed(use.esys, handle):
            use.esys.tr_set_auth(handle, bytes(self._auth.view))
            yield handle

    @contextmanager
    def _authorised(self, use: _Use) -> Iterator[Any]:
        """Give the session that may use a loaded key: the one at hand, or one that meets the PCR policy."""
        if not self._file.pcrs:
            yield use.session
            return
        with _session(use.tss, use.esys, use.parent, use.tss.TPM2_SE.POLICY) as session:
            _meet_policy(use, session, self._file.pcrs)
            yield session

    def __repr__(self) -> str:
        return f"<TpmKey at {self._tcti}>"


class TpmKeyProvider(DhKeyProvider):
    """KeyProvider on a key that `TpmKey.create` made; arguments and errors as for `TpmKey`."""

    def __init__(self, path: Path | str, *, auth: bytes, tcti: str = DEFAULT_TCTI) -> None:
        self.tcti = tcti
        super().__init__(TpmKey(path, auth=auth, tcti=tcti))

    @classmethod
    def generate(
        cls,
        path: Path | str,
        *,
        auth: bytes,
        tcti: str = DEFAULT_TCTI,
        pcrs: Sequence[int] = (),
        parent: int = 0,
    ) -> TpmKeyProvider:
        """Make a new key; see `TpmKey.create`."""
        TpmKey.create(path, auth=auth, tcti=tcti, pcrs=pcrs, parent=parent)
        return cls(path, auth=auth, tcti=tcti)


def encode_key_file(facts: TpmKeyFile) -> bytes:
    """Return the content of a key file: canonical JSON and a newline."""
    return msgspec.json.encode(facts, order="sorted") + b"\n"


def parse_key_file(raw: bytes) -> tuple[TpmKeyFile, bytes, bytes]:
    """Return (content, x, y) of a key file.

    Raises:
        KeyUnavailableError: EG-K015, not the one encoding of a key that this module would make.
    """
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        facts = msgspec.json.decode(raw, type=TpmKeyFile, strict=True)
        agreement, derivation = (bytes.fromhex(item.public) for item in (facts.agreement, facts.derivation))
        x, y = require_agreement(agreement)
        require_derivation(derivation)
        # One policy for both, and one exactly where PCRs are named: else PCRs would be asked for and not needed.
        agreed = policy_of(agreement) == policy_of(derivation) and bool(facts.pcrs) == bool(policy_of(agreement))
        rising = list(facts.pcrs) == sorted(set(facts.pcrs))
        parent = facts.parent == 0 or facts.parent in PERSISTENT
        if agreed and rising and parent and encode_key_file(facts) == raw:
            return facts, x, y
    raise _foreign()


def _foreign() -> KeyUnavailableError:
    return KeyUnavailableError(
        "the key file does not describe a key that was made in this TPM",
        code="EG-K015",
        hint="make a key on this device with: edgeguard-provision keygen",
    )


def _auth_value(auth: bytes) -> bytes:
    """Fit any value into the 32 bytes a TPM takes; the last one is not zero, because TPMs drop trailing zeros."""
    return hashlib.sha256(b"edgeguard/v1/tpm-auth" + auth).digest()[:31] + b"\x01"


def _public(tss: Any, area: bytes) -> Any:
    public, _ = tss.TPM2B_PUBLIC.unmarshal(len(area).to_bytes(2, "big") + area)
    return public


@contextmanager
def _flushed(esys: Any, handle: Any) -> Iterator[Any]:
    try:
        yield handle
    finally:
        with suppress(Exception):  # a TPM that went away has flushed it
            esys.flush_context(handle)


@contextmanager
def _parent_of(tss: Any, esys: Any, persistent: int) -> Iterator[Any]:
    """Give the storage key: a persistent one, or the owner's primary key, which comes out the same each time."""
    if persistent:
        handle = esys.tr_from_tpmpublic(persistent)
        try:
            yield handle
        finally:
            esys.tr_close(handle)
        return
    handle = None
    try:
        handle, *_ = esys.create_primary(None, _public(tss, primary_area()))
    except tss.TSS2_Exception as error:
        if int(error.error) not in (0x8E, 0xA2):
            raise
    if handle is None:
        raise KeyUnavailableError(
            "the TPM's owner has set a password", code="EG-K011",
            hint="have a storage key made persistent by the owner and name it: ...?parent=0x81000001",
        )  # fmt: skip
    with _flushed(esys, handle):
        yield handle


@contextmanager
def _session(tss: Any, esys: Any, parent: Any, kind: Any) -> Iterator[Any]:
    """Give a session whose keys only this process and the TPM know; first parameters travel encrypted both ways."""
    symmetric = tss.TPMT_SYM_DEF(
        algorithm=tss.TPM2_ALG.AES,
        keyBits=tss.TPMU_SYM_KEY_BITS(sym=128),
        mode=tss.TPMU_SYM_MODE(sym=tss.TPM2_ALG.CFB),
    )
    session = esys.start_auth_session(parent, tss.ESYS_TR.NONE, kind, symmetric, tss.TPM2_ALG.SHA256)
    with _flushed(esys, session):
        attributes = tss.TPMA_SESSION.DECRYPT | tss.TPMA_SESSION.ENCRYPT | tss.TPMA_SESSION.CONTINUESESSION
        esys.trsess_set_attributes(session, attributes)
        yield session


def _meet_policy(use: _Use, session: Any, pcrs: Sequence[int]) -> None:
    """PolicyPCR with the values of now, then PolicyAuthValue (TPM 2.0 Library, Part 3, 23.7 and 23.17)."""
    use.esys.policy_pcr(session, b"", "sha256:" + ",".join(map(str, pcrs)))
    use.esys.policy_auth_value(session)


def _present_policy(use: _Use, pcrs: Sequence[int]) -> bytes:
    if not pcrs:
        return b""
    with _session(use.tss, use.esys, use.parent, use.tss.TPM2_SE.TRIAL) as session:
        _meet_policy(use, session, pcrs)
        return bytes(use.esys.policy_get_digest(session))


def _create(use: _Use, area: bytes, auth: bytes) -> TpmObject:
    tss = use.tss
    sensitive = tss.TPM2B_SENSITIVE_CREATE(sensitive=tss.TPMS_SENSITIVE_CREATE(userAuth=tss.TPM2B_AUTH(auth)))
    private, public, *_ = use.esys.create(use.parent, sensitive, _public(tss, area), session1=use.session)
    return TpmObject(bytes(private).hex(), public.marshal()[2:].hex())
