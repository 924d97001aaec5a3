"""Plain directories signed by the OpenSSF Model Signing tool (OMS v1.0, `model_signing sign key`). No encryption.

What a good result says: one signature by the given key covers exactly the files that are there. It says nothing about
fleet, model, version, expiry or revocation; there is no rollback protection in such a signature. Bundles of a fleet
are for that. Stricter than the public tool: no encoding or predicate of version 0.2, no link, no ignored path beyond
the tool's own defaults, nothing unsigned.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NoReturn

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgeguard.bundle.dsse import STATEMENT_TYPE, from_base64, pae
from edgeguard.bundle.plain_tree import MAX_FILES, Piece, PlainTree
from edgeguard.bundle.statement import IGNORE_PATHS
from edgeguard.errors import BundleFormatError, KeyUnavailableError, SignatureError
from edgeguard.keys.regular_file import open_regular, read_up_to
from edgeguard.trust.strict_json import convert, parse

DEFAULT_SIGNATURE: Final = "model.sig"
MAX_SIGNATURE_BYTES: Final = 64 * 1024 * 1024  # 100,000 files of 300 bytes each, in base64
MAX_KEY_BYTES: Final = 64 * 1024
GIT_PATHS: Final = frozenset({".git", ".gitattributes", ".github", ".gitignore"})  # the tool ignores them by default
_HASHES: Final[Mapping[str, Callable[[], Any]]] = MappingProxyType(
    {"sha256": hashlib.sha256, "blake2b": hashlib.blake2b}
)
_CURVES: Final = MappingProxyType(
    {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
)
_SHARD: Final = re.compile(r"(.+):(0|[1-9][0-9]{0,18}):([1-9][0-9]{0,18})", re.DOTALL)

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
HexDigest = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64}|[0-9a-f]{128})\Z")]


@dataclass(frozen=True, slots=True)
class PlainVerified:
    """What was checked. model_name: what the signer called it. keyid: hex SHA-256 of the key's PEM text.

    uncovered: entries of the folder that the signature leaves out by agreement (Git's files, the signature itself).
    """

    model_name: str
    keyid: str
    curve: str
    method: str
    hash_type: str
    files: int
    size_bytes: int
    uncovered: tuple[str, ...]


class _Signature(msgspec.Struct, frozen=True):
    sig: str


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: Annotated[tuple[_Signature, ...], msgspec.Meta(min_length=1, max_length=1)]


class _PublicKey(msgspec.Struct, frozen=True):
    hint: str | None = None


class _Material(msgspec.Struct, frozen=True, rename="camel"):
    public_key: _PublicKey


class _SigstoreBundle(msgspec.Struct, frozen=True, rename="camel"):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: _Material
    dsse_envelope: _Envelope


class _Serialization(msgspec.Struct, frozen=True):
    method: Literal["files", "shards"]
    hash_type: str
    allow_symlinks: bool
    ignore_paths: tuple[str, ...] = ()
    shard_size: float | None = None  # the tool writes it by way of protobuf, which knows only doubles


class _Resource(msgspec.Struct, frozen=True):
    name: Name
    algorithm: str
    digest: HexDigest


class _Predicate(msgspec.Struct, frozen=True):
    serialization: _Serialization
    resources: Annotated[tuple[_Resource, ...], msgspec.Meta(min_length=1, max_length=16 * MAX_FILES)]


class _RootDigest(msgspec.Struct, frozen=True):
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _Subject(msgspec.Struct, frozen=True):
    name: str
    digest: _RootDigest


class _Statement(msgspec.Struct, frozen=True):
    type_: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: Annotated[tuple[_Subject, ...], msgspec.Meta(min_length=1, max_length=1)]
    predicate_type: Literal["https://model_signing/signature/v1.0"] = msgspec.field(name="predicateType")
    predicate: _Predicate


def verify_plain(folder: Path | str, public_key: Path | str, *, signature: Path | str | None = None) -> PlainVerified:
    """Verify that the OMS signature by `public_key` covers exactly the files in `folder`.

    Args:
        public_key: PEM file of an EC key on P-256, P-384 or P-521.
        signature: the signature file; `folder/model.sig` when not given.

    Raises:
        KeyUnavailableError: EG-K010, no such key. SignatureError: EG-S001 by another key, EG-S002 does not verify,
            EG-S004 a file is not the signed one. BundleFormatError: EG-B001 to EG-B007 as for bundles.
    """
    folder = Path(folder)
    signature_path = folder / DEFAULT_SIGNATURE if signature is None else Path(signature)
    key, keyid = _read_key(Path(public_key))
    payload = _verified_payload(_read_signature(signature_path), key, keyid)
    statement = _read_statement(payload)
    ignored = _accepted_ignores(statement.predicate.serialization, folder, signature_path)
    pieces = _pieces(statement.predicate)
    with PlainTree(folder) as tree:
        sizes, uncovered = tree.files(ignored)
        _require_same_names(pieces, sizes)
        serialization = statement.predicate.serialization
        found = tree.digests(list(pieces), _HASHES[serialization.hash_type])
    for (piece, signed), digest in zip(pieces.items(), found, strict=True):
        if digest != signed:
            where = f" between bytes {piece.start} and {piece.end}" if piece.end >= 0 else ""
            raise SignatureError(f"{piece.name!a} is not the signed one{where}", code="EG-S004")
    return PlainVerified(
        model_name=statement.subject[0].name,
        keyid=keyid,
        curve=key.curve.name,
        method=serialization.method,
        hash_type=serialization.hash_type,
        files=len(sizes),
        size_bytes=sum(sizes.values()),
        uncovered=uncovered,
    )


def _read_key(path: Path) -> tuple[ec.EllipticCurvePublicKey, str]:
    pem = _read(path, MAX_KEY_BYTES)
    key: object = None
    if pem is not None:
        try:
            key = serialization.load_pem_public_key(pem)
        except Exception:  # whatever the library makes of hostile PEM: there is no key
            key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise KeyUnavailableError(
            f"{path} holds no public key on P-256, P-384 or P-521",
            code="EG-K010",
            hint="give the PEM file that belongs to the signer's private key",
        )
    text = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key, hashlib.sha256(text).hexdigest()


def _read_signature(path: Path) -> _SigstoreBundle:
    raw = _read(path, MAX_SIGNATURE_BYTES)
    if raw is None:
        raise BundleFormatError(
            f"cannot read the signature {path}", code="EG-B002", hint="name the file with --signature"
        )
    value = parse(raw, what="the signature", require_canonical=False)
    material = value.get("verificationMaterial") if isinstance(value, dict) else None
    if isinstance(material, dict) and ("x509CertificateChain" in material or "certificate" in material):
        raise SignatureError(
            "the signature is by a certificate, and only keys are verified here",
            code="EG-S001",
            hint="use the public tool: model_signing verify certificate",
        )
    return convert(value, _SigstoreBundle, what="the signature")


def _read(path: Path, limit: int) -> bytes | None:
    """Return the content of a regular file of at most `limit` bytes, else None."""
    try:
        with open_regular(path) as file:
            raw = read_up_to(file, limit + 1)
    except (OSError, ValueError):
        return None
    return raw if len(raw) <= limit else None


def _verified_payload(bundle: _SigstoreBundle, key: ec.EllipticCurvePublicKey, keyid: str) -> bytes:
    hint = bundle.verification_material.public_key.hint
    if hint and hint != keyid:
        raise SignatureError(
            "the signature is by another key", code="EG-S001", hint=f"it names the key with the digest {hint[:64]!a}"
        )
    payload = from_base64(bundle.dsse_envelope.payload, what="the signature")
    signature = from_base64(bundle.dsse_envelope.signatures[0].sig, what="the signature")
    try:
        key.verify(signature, pae(STATEMENT_TYPE, payload), ec.ECDSA(_CURVES[key.curve.name]))
    except InvalidSignature:
        payload = b""
    if not payload:
        raise SignatureError("the signature does not verify", code="EG-S002")
    return payload


def _read_statement(payload: bytes) -> _Statement:
    statement = convert(parse(payload, what="the statement", require_canonical=False), _Statement, what="the statement")
    resources = statement.predicate.resources
    root = hashlib.sha256(b"".join(bytes.fromhex(resource.digest) for resource in resources)).hexdigest()
    if root != statement.subject[0].digest.sha256:
        raise BundleFormatError("the statement's subject is not the digest of its files", code="EG-B006")
    return statement


def _accepted_ignores(serialization: _Serialization, folder: Path, signature: Path) -> frozenset[str]:
    """Return what may lie in the folder unsigned; the signed list may name nothing else."""
    if serialization.hash_type not in _HASHES:
        _unsupported(f"the files are hashed with {serialization.hash_type!a}; sha256 and blake2b are supported")
    if serialization.allow_symlinks:
        _unsupported("the signature follows links, which say nothing about what they point to")
    own = os.path.relpath(signature.absolute(), folder.absolute())
    inside = frozenset() if own.startswith("..") else frozenset({own})
    listed = frozenset(serialization.ignore_paths)
    allowed = GIT_PATHS | {DEFAULT_SIGNATURE} | inside
    if listed == frozenset(IGNORE_PATHS):
        allowed |= listed
    if not listed <= allowed:
        _unsupported(f"the signature leaves out {sorted(listed - allowed)[0]!a}, so anything could be put there")
    return listed | inside


def _unsupported(message: str) -> NoReturn:
    raise BundleFormatError(message, code="EG-B007", hint="sign again without that option")


def _pieces(predicate: _Predicate) -> dict[Piece, str]:
    """Return the signed digest of each file, or of each shard of each file."""
    serialization = predicate.serialization
    algorithm = serialization.hash_type
    if serialization.method == "shards":
        size = serialization.shard_size
        if size is None or not 1 <= size <= 2**53 or size != int(size):
            raise BundleFormatError("the shard size is no natural number", code="EG-B004")
        algorithm += f"-sharded-{int(size)}"
    pieces: dict[Piece, str] = {}
    for resource in predicate.resources:
        if resource.algorithm != algorithm:
            _unsupported(f"{resource.name!a} is hashed with {resource.algorithm!a}, not {algorithm}")
        pieces[_piece(resource.name, serialization.method)] = resource.digest
    if len(pieces) != len(predicate.resources):
        raise BundleFormatError("the statement names a file twice", code="EG-B006")
    return pieces


def _piece(name: str, method: str) -> Piece:
    if method == "files":
        return Piece(name)
    parts = _SHARD.fullmatch(name)
    if parts is None or int(parts[2]) >= int(parts[3]):
        raise BundleFormatError(f"{name!a} names no shard", code="EG-B004")
    return Piece(parts[1], int(parts[2]), int(parts[3]))


def _require_same_names(pieces: Mapping[Piece, str], sizes: Mapping[str, int]) -> None:
    """Files that are signed and files that are there are the same, from their first byte to their last."""
    ends: dict[str, int] = {}
    for piece in sorted(pieces, key=lambda piece: (piece.name, piece.start)):
        if piece.end >= 0 and piece.start != ends.get(piece.name, 0):
            raise BundleFormatError(f"the signature does not cover all of {piece.name!a}", code="EG-B006")
        ends[piece.name] = piece.end
    for name in sorted(sizes.keys() - ends.keys()):
        raise BundleFormatError(f"{name!a} is not signed", code="EG-B005", hint="remove the file, or sign again")
    for name, end in sorted(ends.items()):
        if name not in sizes:
            raise BundleFormatError(f"{name!a} is signed and missing", code="EG-B005", hint="copy the folder again")
        if end >= 0 and end != sizes[name]:
            raise SignatureError(f"{name!a} is not as long as the signed one", code="EG-S004")
