"""The signed statement: OMS v1.0 with EdgeGuard's policy inside. docs/formats/bundle.md sections 2 and 3."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from edgeguard.bundle.manifest import MAX_PAYLOADS, Hex32, Hex64, Identifier
from edgeguard.errors import BundleFormatError
from edgeguard.trust.dates import Date
from edgeguard.trust.policy import Counter
from edgeguard.trust.strict_json import canonical, convert, parse

OMS_PREDICATE = "https://model_signing/signature/v1.0"
INTOTO_STATEMENT = "https://in-toto.io/Statement/v1"
POLICY_SCHEMA = "edgeguard/policy/v1"
IGNORE_PATHS = ("model.sig", "recipients", "signatures")
MAX_ATTESTATIONS = 64
MAX_RESOURCES = 1 + MAX_PAYLOADS + MAX_ATTESTATIONS

Version = Annotated[str, msgspec.Meta(pattern=r"\A(0|[1-9][0-9]{0,5})(\.(0|[1-9][0-9]{0,5})){2}\Z")]


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """predicate.edgeguard."""

    schema: Literal["edgeguard/policy/v1"]
    bundle_id: Hex32
    fleet_id: Hex64
    model_id: Identifier
    release: Identifier
    channel: Identifier
    boards: Annotated[tuple[Identifier, ...], msgspec.Meta(max_length=64)]
    security_counter: Counter
    min_revocation_version: Counter
    manifest: Hex64
    valid_from: Date
    expires: Date
    min_runtime: Version
    confidentiality: Literal["classical", "pq-required"]
    min_key_class: Literal["file", "device-bound", "hardware"]

    def __post_init__(self) -> None:
        if list(self.boards) != sorted(set(self.boards)):
            raise ValueError("boards are sorted and differ")
        if self.valid_from >= self.expires:
            raise ValueError("valid_from comes before expires")


class Resource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signed file."""

    name: Annotated[
        str,
        msgspec.Meta(
            pattern=r"\A(manifest\.json|payload/[0-9]{3}\.egc|attestations/[a-z0-9][a-z0-9._-]{0,63}\.json)\Z"
        ),
    ]
    algorithm: Literal["sha256"]
    digest: Hex64


class _Serialization(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: bool
    ignore_paths: tuple[str, ...]


class _Predicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    serialization: _Serialization
    resources: Annotated[tuple[Resource, ...], msgspec.Meta(min_length=2, max_length=MAX_RESOURCES)]
    edgeguard: Policy


class _Digest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: Hex64


class _Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Identifier
    digest: _Digest


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An in-toto Statement v1 with the OMS v1.0 predicate."""

    type_: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: Annotated[tuple[_Subject, ...], msgspec.Meta(min_length=1, max_length=1)]
    predicate_type: Literal["https://model_signing/signature/v1.0"] = msgspec.field(name="predicateType")
    predicate: _Predicate

    @property
    def policy(self) -> Policy:
        return self.predicate.edgeguard

    @property
    def digests(self) -> Mapping[str, str]:
        """Signed SHA-256 (hex) by file name."""
        return {r.name: r.digest for r in self.predicate.resources}


def build_statement(policy: Policy, digests: Mapping[str, str]) -> bytes:
    """Return the canonical payload bytes that release keys sign."""
    resources = tuple(Resource(name, "sha256", digests[name]) for name in sorted(digests))
    statement = Statement(
        type_="https://in-toto.io/Statement/v1",
        subject=(_Subject(policy.model_id, _Digest(_root_digest(resources))),),
        predicate_type="https://model_signing/signature/v1.0",
        predicate=_Predicate(_Serialization("files", "sha256", False, IGNORE_PATHS), resources, policy),
    )
    payload = canonical(msgspec.to_builtins(statement))
    parse_statement(payload)
    return payload


def parse_statement(payload: bytes) -> Statement:
    """Read payload bytes whose signature has been verified.

    Raises:
        BundleFormatError: EG-B003, EG-B004, EG-B006 inconsistent in itself, EG-B007 another ignore set.
    """
    statement = convert(parse(payload, what="the statement"), Statement, what="the statement")
    serialization = statement.predicate.serialization
    if serialization.ignore_paths != IGNORE_PATHS or serialization.allow_symlinks:
        raise BundleFormatError("the statement ignores other files than this format allows", code="EG-B007")
    resources = statement.predicate.resources
    names = [r.name for r in resources]
    if names != sorted(set(names)):
        raise BundleFormatError("the statement's files are not sorted or not distinct", code="EG-B006")
    if statement.subject[0].digest.sha256 != _root_digest(resources):
        raise BundleFormatError("the statement's subject is not the digest of its files", code="EG-B006")
    if statement.subject[0].name != statement.policy.model_id:
        raise BundleFormatError("the statement's subject is not its model", code="EG-B006")
    if statement.digests.get("manifest.json") != statement.policy.manifest:
        raise BundleFormatError("the statement names two manifests", code="EG-B006")
    return statement


def _root_digest(resources: tuple[Resource, ...]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(r.digest) for r in resources)).hexdigest()
