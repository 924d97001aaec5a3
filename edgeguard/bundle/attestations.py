"""Attestations that the fleet policy requires: who vouches for a model beside those who release it.

Each is a Sigstore bundle with a DSSE envelope and an in-toto Statement v1, signed by the role `attest`, about exactly
this manifest. docs/formats/bundle.md section 2a; MITRE ATLAS AML.M0016, M0023, M0025.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from edgeguard.bundle.dsse import STATEMENT_TYPE
from edgeguard.bundle.manifest import Hex64, Identifier
from edgeguard.bundle.signature import SignedPayload, parse_signed
from edgeguard.errors import EdgeGuardError, TrustError
from edgeguard.trust.policy import PredicateType
from edgeguard.trust.store import ATTEST, TrustStore
from edgeguard.trust.strict_json import canonical, convert, parse

ATTESTATIONS_FOLDER: Final = "attestations"


class _Digest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: Hex64


class _Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Identifier
    digest: _Digest


class Attestation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An in-toto Statement v1 about one model. The subject's digest is that of manifest.json, which binds all of it."""

    type_: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: Annotated[tuple[_Subject, ...], msgspec.Meta(min_length=1, max_length=1)]
    predicate_type: PredicateType = msgspec.field(name="predicateType")
    predicate: dict[str, Any]


def attestation_payload(
    predicate_type: str, predicate: Mapping[str, Any], *, model_id: str, manifest_digest: str
) -> bytes:
    """Return the canonical payload bytes that `attest` keys sign.

    Raises:
        BundleFormatError: EG-B003, EG-B004, no such statement can be made.
    """
    fields = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": model_id, "digest": {"sha256": manifest_digest}}],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
    convert(fields, Attestation, what="the attestation")
    payload = canonical(fields)
    parse(payload, what="the attestation")
    return payload


def require_attestations(
    trust: TrustStore,
    contents: Mapping[str, bytes],
    *,
    model_id: str,
    manifest_digest: str,
    is_revoked: Callable[[str], bool],
) -> None:
    """Check that every predicate type of the fleet policy is there, about this manifest and signed by `attest`.

    Args:
        contents: attestation files by name, digests already verified. Several files over the same payload bytes carry
            the signatures of several keys.
        is_revoked: whether a key no longer counts.

    Raises:
        TrustError: EG-T040, one is missing, about another model, or not signed as it must be.
    """
    wanted = trust.policy.required_attestations
    if not wanted:
        return
    signed: dict[bytes, list[SignedPayload]] = {}
    for name in sorted(contents):
        claimed = _claimed(name, contents[name])
        if claimed is not None and not is_revoked(claimed.claimed.keyid):
            signed.setdefault(claimed.payload, []).append(claimed)
    vouched = {
        statement.predicate_type
        for payload, claims in signed.items()
        if (statement := _about(payload, model_id, manifest_digest)) is not None and _is_signed(trust, claims)
    }
    for predicate_type in wanted:
        if predicate_type not in vouched:
            raise TrustError(
                f"the model carries no attestation {predicate_type} that this fleet accepts",
                code="EG-T040",
                hint="pack it again with: edgeguard-provision pack --attest TYPE=FILE",
            )


def _claimed(name: str, content: bytes) -> SignedPayload | None:
    """Return what a file claims; one of another format vouches for nothing and does no harm."""
    try:
        return parse_signed(content, STATEMENT_TYPE, what=name)
    except EdgeGuardError:
        return None


def _about(payload: bytes, model_id: str, manifest_digest: str) -> Attestation | None:
    try:
        statement = convert(parse(payload, what="the attestation"), Attestation, what="the attestation")
    except EdgeGuardError:
        return None
    subject = statement.subject[0]
    return statement if (subject.name, subject.digest.sha256) == (model_id, manifest_digest) else None


def _is_signed(trust: TrustStore, claims: Sequence[SignedPayload]) -> bool:
    try:
        trust.verify(ATTEST, claims[0].message, [claim.claimed for claim in claims])
    except EdgeGuardError:
        return False
    return True
