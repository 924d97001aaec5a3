"""Sigstore bundle v0.3 around one DSSE envelope, and who signed it. docs/formats/bundle.md section 2.

A small reader of our own: the public tool takes 700 ms to import, and it accepts an older encoding that we refuse.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from edgeguard.bundle.dsse import STATEMENT_TYPE, from_base64, pae
from edgeguard.bundle.manifest import Hex64
from edgeguard.bundle.storage import BundleStorage
from edgeguard.errors import BundleFormatError, SignatureError
from edgeguard.trust.role_keys import SCHEME_P256, RoleKey
from edgeguard.trust.store import RELEASE, KeySignature, TrustStore
from edgeguard.trust.strict_json import canonical, convert, parse

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNATURE_FILE = "model.sig"
SIGNATURES_FOLDER = "signatures"
MAX_SIGNATURE_BYTES = 1024 * 1024  # read before any signature is known


@dataclass(frozen=True, slots=True)
class SignedPayload:
    """What an envelope claims: these payload bytes, signed by that key. Nothing is verified yet."""

    payload: bytes
    payload_type: str
    claimed: KeySignature

    @property
    def message(self) -> bytes:
        """The bytes that were signed."""
        return pae(self.payload_type, self.payload)


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: Literal[""]
    sig: str


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    payload: str
    payload_type: str
    signatures: Annotated[tuple[_Signature, ...], msgspec.Meta(min_length=1, max_length=1)]


class _PublicKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hint: Hex64


class _Material(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    public_key: _PublicKey
    tlog_entries: Annotated[tuple[str, ...], msgspec.Meta(max_length=0)]


class _SigstoreBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    dsse_envelope: _Envelope
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: _Material


def encode_signed(payload: bytes, payload_type: str, keyid: str, signature: bytes) -> bytes:
    """Return the file content that `parse_signed` reads."""
    bundle = _SigstoreBundle(
        dsse_envelope=_Envelope(
            payload=base64.b64encode(payload).decode(),
            payload_type=payload_type,
            signatures=(_Signature(keyid="", sig=base64.b64encode(signature).decode()),),
        ),
        media_type=MEDIA_TYPE,  # type: ignore[arg-type] # the literal, by its name
        verification_material=_Material(public_key=_PublicKey(hint=keyid), tlog_entries=()),
    )
    return canonical(msgspec.to_builtins(bundle))


def parse_signed(raw: bytes, payload_type: str, *, what: str) -> SignedPayload:
    """Read a Sigstore bundle; verifies nothing but its form.

    Raises:
        BundleFormatError: EG-B003, EG-B004.
    """
    bundle = convert(parse(raw, what=what), _SigstoreBundle, what=what)
    envelope = bundle.dsse_envelope
    if envelope.payload_type != payload_type:
        raise BundleFormatError(f"{what} holds another kind of payload", code="EG-B004")
    return SignedPayload(
        payload=from_base64(envelope.payload, what=what),
        payload_type=payload_type,
        claimed=KeySignature(
            keyid=bundle.verification_material.public_key.hint,
            signature=from_base64(envelope.signatures[0].sig, what=what),
        ),
    )


def read_release_signed(
    storage: BundleStorage, trust: TrustStore, is_revoked: Callable[[str, bytes], bool]
) -> tuple[bytes, tuple[RoleKey, ...]]:
    """Return the payload bytes of model.sig and the release keys that signed them.

    Further signatures are opened by the names of known keys, only while a group of the role is not met by keys that
    are not revoked: `is_revoked(keyid, identity)`. Those that are may be among the keys returned.

    Raises:
        SignatureError: EG-S001, EG-S002, EG-S003.
        BundleFormatError: EG-B002, EG-B003, EG-B004.
    """
    raw = storage.read_small(SIGNATURE_FILE, MAX_SIGNATURE_BYTES)
    first = parse_signed(raw, STATEMENT_TYPE, what=SIGNATURE_FILE)
    signer = trust.key(RELEASE, first.claimed.keyid)
    if signer is not None and signer.scheme != SCHEME_P256:
        raise SignatureError(f"{SIGNATURE_FILE} is not by a P-256 key", code="EG-S001")
    claimed = {first.claimed.keyid: first.claimed}
    identity = hashlib.sha256(first.payload).digest()
    for group in trust.groups[RELEASE]:
        for key in group.keys:
            if sum(k.keyid in claimed and not is_revoked(k.keyid, identity) for k in group.keys) >= group.threshold:
                break
            if key.keyid in claimed or is_revoked(key.keyid, identity):
                continue
            further = _read_further(storage, key, first.payload)
            if further is not None:
                claimed[key.keyid] = further
    return first.payload, trust.verify(RELEASE, first.message, tuple(claimed.values()))


def _read_further(storage: BundleStorage, key: RoleKey, payload: bytes) -> KeySignature | None:
    name = f"{SIGNATURES_FOLDER}/{key.keyid}.sig"
    raw = storage.read_optional(name, MAX_SIGNATURE_BYTES)
    if raw is None:
        return None
    signed = parse_signed(raw, STATEMENT_TYPE, what=name)
    if signed.payload != payload:
        raise SignatureError(f"{name} signs other bytes than {SIGNATURE_FILE}", code="EG-S003")
    if signed.claimed.keyid != key.keyid:
        raise SignatureError(f"{name} is not by the key it is named after", code="EG-S001")
    return signed.claimed
