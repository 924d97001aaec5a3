"""Packing: a plain ONNX model becomes a signed, encrypted bundle. docs/formats/bundle.md, build order in section 1.

The CEK is made here, used once, and rests only as a wrap to the fleet's grant key; nobody can bring one along.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from edgeguard.bundle.chunked import encryptor_of
from edgeguard.bundle.dsse import STATEMENT_TYPE, pae
from edgeguard.bundle.manifest import (
    CHUNK_BYTES,
    HEADER_BYTES,
    SPAN_BYTES,
    TAG_BYTES,
    Cipher,
    CipherName,
    Library,
    Manifest,
    ModelIo,
    Payload,
    ciphertext_size,
)
from edgeguard.bundle.payload import cipher_context, decrypt_payloads, plaintext_mac
from edgeguard.bundle.signature import SIGNATURE_FILE, SIGNATURES_FOLDER, encode_signed
from edgeguard.bundle.statement import Policy, build_statement
from edgeguard.bundle.storage import DirectoryStorage
from edgeguard.bundle.verify import verify_signed_parts
from edgeguard.errors import BundleFormatError, ProvisioningError
from edgeguard.harden.memory import SecretBuffer, wipe
from edgeguard.keys.context import CEK_BYTES
from edgeguard.scan.onnx_gate import check_model
from edgeguard.trust.dates import ns_to_date
from edgeguard.trust.policy import Counter
from edgeguard.trust.store import RELEASE, TrustStore
from edgeguard.trust.strict_json import canonical, convert
from firmware_tools.attest import attestation_files
from firmware_tools.boards import CipherChoice, cipher_for
from firmware_tools.files import folder_in_the_making, write_atomic, write_synced
from firmware_tools.fleet import Fleet
from firmware_tools.grant import seal_cek
from firmware_tools.onnx_split import SplitModel, split_model
from firmware_tools.revoke import put_list_into
from firmware_tools.sign import Missing, missing_signatures, one_signature_enough

MIN_RUNTIME = "0.1.0"  # the first version that reads bundle v1

Progress = Callable[[int, int], None]
PayloadRole = Literal["graph", "weights", "golden"]
_NAME = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")  # `Identifier` of the format, to say it in words


@dataclass(frozen=True, slots=True)
class Release:
    """What the release keys say about a model.

    counter: (epoch, number); raise it when older releases must no longer run. boards: empty means any. valid_from_ns
    and expires_ns: None takes the fleet policy's issue time and the fleet metadata's expiry, so that a board without
    a clock battery is not locked out. cipher: `auto` goes by the boards; see `boards.cipher_for`.
    """

    model_id: str
    release: str
    counter: tuple[int, int] = (0, 1)
    boards: Sequence[str] = ()
    channel: str = "production"
    min_revocation_version: tuple[int, int] = (0, 0)
    valid_from_ns: int | None = None
    expires_ns: int | None = None
    min_runtime: str = MIN_RUNTIME
    confidentiality: Literal["classical", "pq-required"] = "classical"
    min_key_class: Literal["file", "device-bound", "hardware"] = "file"
    cipher: CipherChoice = "auto"


@dataclass(frozen=True, slots=True)
class PackedBundle:
    """What came out. identity: hex. notes: what the split had to say. missing: signatures of a partial pack."""

    path: Path
    identity: str
    bundle_id: str
    notes: tuple[str, ...]
    missing: tuple[Missing, ...] = ()


def pack_model(
    fleet: Fleet,
    model: Path | str,
    out: Path | str,
    *,
    release: Release,
    wall_ns: int,
    io: ModelIo | None = None,
    inputs: Mapping[str, Any] | None = None,
    libraries: Sequence[Path | str] = (),
    operator_domains: Sequence[str] = (),
    partial: bool = False,
    golden: bytes = b"",
    predicates: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    progress: Progress | None = None,
) -> PackedBundle:
    """Split, gate, encrypt and sign a model; `out` appears complete or not at all.

    Args:
        model: an ONNX file; external data beside it is included.
        io: how frames go in and answers come out. inputs: the `input_policy` of the manifest, from
            `firmware_tools.input_policy`.
        libraries: custom-operator libraries that devices may load with the model; signed by digest, not packed.
        operator_domains: domains of the operators that those libraries bring; the gate lets no others through.
        partial: sign with the release keys that are here; others add theirs with `sign` before devices accept it.
        golden: what `encode_golden` made, for the health check of devices; encrypted with the rest.
        predicates: by in-toto predicate type, what the fleet's `attest` keys are to say about this model.
        progress: called with (bytes done, bytes in all).

    Raises:
        ProvisioningError: EG-P003 a value cannot be used, EG-P005 keys missing, EG-P020 `out` exists, EG-P030 cannot
            write. ModelStructureError: the gate or the split refuses the model.
    """
    trust = fleet.trust(wall_ns)
    _require_names(release)
    split = split_model(Path(model))
    check_model(
        split.graph,
        {location: len(blob) for location, blob in split.weights.items()},
        operator_domains=operator_domains,
    )
    native = sign_libraries(libraries), tuple(sorted(set(operator_domains)))
    with folder_in_the_making(Path(out), code="EG-P020") as new, SecretBuffer(CEK_BYTES) as cek:
        cek.view[:] = os.urandom(CEK_BYTES)
        try:
            manifest_digest, digests, bundle_id = _write_contents(
                new, trust, split, release, (io, inputs), native, golden, cek, progress
            )
            for name, content in attestation_files(fleet, trust, predicates, release.model_id, manifest_digest).items():
                (new / name).parent.mkdir(exist_ok=True)
                write_synced(new / name, content)
                digests[name] = hashlib.sha256(content).hexdigest()
            statement = build_statement(_policy(release, trust, bundle_id, manifest_digest), digests)
        except BundleFormatError as error:
            raise ProvisioningError(error.message, code="EG-P003") from None
        _sign(new, fleet, trust, statement, partial)
        if trust.revocation is not None:
            put_list_into(fleet.trust_folder, new)
        identity = hashlib.sha256(statement).digest()
        judged_by = one_signature_enough(trust) if partial else trust
        _prove(new, judged_by, release.model_id, max(wall_ns, release.valid_from_ns or 0), cek)
        grant_der = fleet.grant_key().public_key()
        wrap = seal_cek(cek, grant_der, identity=identity, fleet_id=fleet.fleet_id, model_id=release.model_id)
        write_atomic(fleet.cek_wrap(identity), wrap, mode=0o600)
    return PackedBundle(Path(out), identity.hex(), bundle_id, split.notes, missing_signatures(out, trust))


def _require_names(release: Release) -> None:
    named = [("model id", release.model_id), ("release", release.release), ("channel", release.channel)]
    for what, text in [*named, *(("board", board) for board in release.boards)]:
        if not _NAME.match(text):
            raise ProvisioningError(
                f"{text[:80]!a} cannot be a {what}",
                code="EG-P003",
                hint="use letters, digits, dots, dashes and underscores, at most 64, a letter or digit first",
            )


def sign_libraries(paths: Sequence[Path | str]) -> tuple[Library, ...]:
    """Return name and digest of each library, sorted by name.

    Raises:
        ProvisioningError: EG-P003, two of one name; EG-P031, one cannot be read.
    """
    found: dict[str, Library] = {}
    for path in map(Path, paths):
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ProvisioningError(
                f"cannot read the library {path}: {(error.strerror or 'unknown').lower()}", code="EG-P031"
            ) from None
        if path.name in found:
            raise ProvisioningError(f"two libraries are named {path.name}", code="EG-P003", hint="rename one")
        found[path.name] = Library(path.name, digest)
    return tuple(found[name] for name in sorted(found))


def _write_contents(
    folder: Path,
    trust: TrustStore,
    split: SplitModel,
    release: Release,
    fed: tuple[ModelIo | None, Mapping[str, Any] | None],
    native: tuple[tuple[Library, ...], tuple[str, ...]],
    golden: bytes,
    cek: SecretBuffer,
    progress: Progress | None,
) -> tuple[str, dict[str, str], str]:
    """Write payloads and manifest; return the manifest's digest, the digest of every file so far, and the bundle id."""
    bundle_id = secrets.token_hex(16)
    parts: list[tuple[PayloadRole, str, bytes]] = [("graph", "", split.graph)]
    parts += [("weights", location, blob) for location, blob in split.weights.items()]
    if golden:
        parts.append(("golden", "", golden))
    meter = _Meter(sum(len(data) for _, _, data in parts), progress)
    cipher = cipher_for(release.cipher, release.boards)
    (folder / "payload").mkdir()
    encrypted = [
        _encrypt(
            folder / "payload" / f"{index:03d}.egc",
            role,
            location,
            data,
            cipher,
            cek,
            (trust.fleet_id, release.model_id, bundle_id),
            meter,
        )
        for index, (role, location, data) in enumerate(parts)
    ]
    try:
        manifest = Manifest(
            schema="edgeguard/manifest/v1",
            bundle_id=bundle_id,
            fleet_id=trust.fleet_id,
            model_id=release.model_id,
            cipher=Cipher(name=cipher, chunk_bytes=16384, span_bytes=4194304),
            payloads=tuple(payload for payload, _ in encrypted),
            io=fed[0],
            input_policy=None if fed[1] is None else dict(fed[1]),
            libraries=native[0],
            operator_domains=native[1],
        )
    except ValueError as error:
        raise ProvisioningError(str(error), code="EG-P003") from None
    fields = msgspec.to_builtins(manifest)
    convert(fields, Manifest, what="the manifest")
    manifest_raw = canonical(fields)
    write_synced(folder / "manifest.json", manifest_raw)
    digests = {f"payload/{payload.name}": digest for payload, digest in encrypted}
    digests["manifest.json"] = hashlib.sha256(manifest_raw).hexdigest()
    return digests["manifest.json"], digests, bundle_id


def _policy(release: Release, trust: TrustStore, bundle_id: str, manifest_digest: str) -> Policy:
    from_ns = trust.effective_ns(0) if release.valid_from_ns is None else release.valid_from_ns
    expires_ns = trust.expires_ns if release.expires_ns is None else release.expires_ns
    epoch, number = release.counter
    fields = {
        "schema": "edgeguard/policy/v1",
        "bundle_id": bundle_id,
        "fleet_id": trust.fleet_id,
        "model_id": release.model_id,
        "release": release.release,
        "channel": release.channel,
        "boards": sorted(set(release.boards)),
        "security_counter": msgspec.to_builtins(Counter(str(epoch), str(number))),
        "min_revocation_version": msgspec.to_builtins(Counter(*map(str, release.min_revocation_version))),
        "manifest": manifest_digest,
        "valid_from": ns_to_date(from_ns),
        "expires": ns_to_date(expires_ns),
        "min_runtime": release.min_runtime,
        "confidentiality": release.confidentiality,
        "min_key_class": release.min_key_class,
    }
    return convert(fields, Policy, what="the release")


def _sign(folder: Path, fleet: Fleet, trust: TrustStore, statement: bytes, partial: bool) -> None:
    (folder / SIGNATURES_FOLDER).mkdir()
    for name, content in signature_files(fleet, trust, statement, partial=partial).items():
        write_synced(folder / name, content)


def signature_files(fleet: Fleet, trust: TrustStore, statement: bytes, *, partial: bool = False) -> dict[str, bytes]:
    """Sign the same payload bytes by as many release keys as devices ask for, in every family; return file contents.

    partial: by those keys that are here, at least one of them P-256; others sign later.
    """
    message = pae(STATEMENT_TYPE, statement)
    files: dict[str, bytes] = {}
    for index, signer in enumerate(fleet.signing_set(RELEASE, trust, partial=partial)):
        keyid = signer.public_key().keyid
        name = f"{SIGNATURES_FOLDER}/{keyid}.sig" if index else SIGNATURE_FILE
        files[name] = encode_signed(statement, STATEMENT_TYPE, keyid, signer.sign(message))
    return files


def _prove(folder: Path, trust: TrustStore, model_id: str, wall_ns: int, cek: SecretBuffer) -> None:
    """Read the bundle back as a device would: signatures, policy, digests, and that it decrypts to what went in."""
    with DirectoryStorage(folder) as storage:
        verified = verify_signed_parts(storage, trust, expect_model=model_id, board=None, wall_ns=wall_ns)
        plaintexts = decrypt_payloads(storage, verified.manifest, verified.digests, cek, "allow", deep=True)
    for plaintext in plaintexts.values():
        wipe(plaintext)


def _encrypt(
    path: Path,
    role: PayloadRole,
    location: str,
    data: bytes,
    cipher: CipherName,
    cek: SecretBuffer,
    ids: tuple[str, str, str],
    meter: _Meter,
) -> tuple[Payload, str]:
    """Write one payload file; return its manifest entry and the SHA-256 of the file."""
    encryptor = encryptor_of(cipher, cek.view, cipher_context(ids, path.name, role))
    mac = plaintext_mac(cek.view, ids, path.name, role)
    spans = _SpanDigests()
    source = memoryview(data)
    # The encryptor may give one held-back chunk and the header on top of what it was given.
    buffer = memoryview(
        bytearray(ciphertext_size(min(len(source), SPAN_BYTES)) + CHUNK_BYTES + TAG_BYTES + HEADER_BYTES)
    )
    with path.open("xb") as file:
        for start in range(0, len(source), SPAN_BYTES):
            piece = source[start : start + SPAN_BYTES]
            mac.update(piece)
            written = encryptor.update_into(piece, buffer)
            spans.update(buffer[:written])
            file.write(buffer[:written])
            meter.add(len(piece))
        last = encryptor.finalize()
        spans.update(memoryview(last))
        file.write(last)
        file.flush()
        os.fsync(file.fileno())
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    payload = Payload(
        name=path.name,
        role=role,
        location=location,
        plaintext_bytes=len(data),
        ciphertext_bytes=path.stat().st_size,
        salt=header[:24].hex(),
        commitment=header[24:].hex(),
        spans=spans.finish(),
        plaintext_hmac=mac.hexdigest(),
    )
    return payload, spans.whole.hexdigest()


class _SpanDigests:
    """SHA-256 of the whole and of each started 4 MiB of a stream."""

    def __init__(self) -> None:
        self.whole = hashlib.sha256()
        self._done: list[str] = []
        self._span = hashlib.sha256()
        self._room = SPAN_BYTES

    def update(self, data: memoryview) -> None:
        self.whole.update(data)
        while len(data):
            if not self._room:
                self._close_span()
            piece = data[: self._room]
            self._span.update(piece)
            self._room -= len(piece)
            data = data[len(piece) :]

    def finish(self) -> tuple[str, ...]:
        self._close_span()
        return tuple(self._done)

    def _close_span(self) -> None:
        self._done.append(self._span.hexdigest())
        self._span = hashlib.sha256()
        self._room = SPAN_BYTES


class _Meter:
    def __init__(self, total_bytes: int, progress: Progress | None) -> None:
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._progress = progress

    def add(self, done_bytes: int) -> None:
        self._done_bytes += done_bytes
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes)
