"""Steps 1 to 6 of loading: who signed it, for whom, and do the files belong together. No key is needed.

docs/formats/bundle.md section 8. `verify_bundle` adds the digests of the payload files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import edgeguard
from edgeguard.bundle.admission import Admission, gather
from edgeguard.bundle.attestations import require_attestations
from edgeguard.bundle.copies import check_payload_digest, on_all_cores
from edgeguard.bundle.manifest import Manifest
from edgeguard.bundle.signature import read_release_signed
from edgeguard.bundle.statement import MAX_ATTESTATIONS, Policy, Statement, parse_statement
from edgeguard.bundle.storage import BundleStorage, DirectoryStorage
from edgeguard.errors import BundleFormatError, SignatureError, TrustError
from edgeguard.keys.provider import PROVEN, VerifiedStatement
from edgeguard.trust.dates import date_to_ns
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import TrustStore
from edgeguard.trust.strict_json import convert, parse

MAX_MANIFEST_BYTES = 8 * 1024 * 1024  # span digests of 16 GiB are 0.3 MiB; the rest is labels and room
MAX_ATTESTATION_BYTES = 1024 * 1024
_MAX_TOP_ENTRIES = 16  # there are six
_TOP_FILES = frozenset({"model.sig", "manifest.json", "payload/"})
_TOP_OPTIONAL = frozenset({"attestations/", "recipients/", "signatures/"})


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A bundle whose signed parts are verified.

    `digests`: signed SHA-256 (hex) by file name. `admission`: what it was judged by.
    """

    statement: VerifiedStatement
    manifest: Manifest
    digests: Mapping[str, str]
    admission: Admission


def verify_bundle(
    path: Path | str,
    trust: TrustStore,
    *,
    expect_model: str | None = None,
    board: str | None = None,
    wall_ns: int | None = None,
    state: DeviceState | None = None,
) -> VerifiedBundle:
    """Verify signature, policy and every digest of a bundle; needs no device key and decrypts nothing.

    Args:
        expect_model: model id that the caller expects; None accepts any model of the fleet.
        board: board it is meant for; None does not check boards.
        wall_ns: nanoseconds since 1970 UTC; None asks the machine.
        state: what a device remembers, to judge as that device would; none on a host.

    Raises:
        ModelError: see section 9 of the format.
    """
    with DirectoryStorage(path) as storage:
        verified = verify_signed_parts(
            storage, trust, expect_model=expect_model, board=board, wall_ns=wall_ns, state=state
        )
        on_all_cores(
            verified.manifest.payloads,
            lambda payload, beside: check_payload_digest(
                storage, payload, verified.digests[f"payload/{payload.name}"], beside=beside
            ),
        )
    return verified


def verify_signed_parts(
    storage: BundleStorage,
    trust: TrustStore,
    *,
    expect_model: str | None,
    board: str | None,
    wall_ns: int | None,
    state: DeviceState | None = None,
) -> VerifiedBundle:
    """Verify everything but the payload files; raises as `verify_bundle`.

    A `state` takes over a newer revocation list, newer trust and signed times before the bundle is judged.
    """
    admission = gather(storage, trust, state, wall_ns)
    payload_bytes, signers = read_release_signed(storage, trust, admission.revokes_signer)
    identity = hashlib.sha256(payload_bytes).digest()
    admission.require_signers(signers, identity)
    statement = parse_statement(payload_bytes)
    verified = VerifiedStatement(
        identity=identity,
        bundle_id=statement.policy.bundle_id,
        fleet_id=statement.policy.fleet_id,
        model_id=statement.policy.model_id,
        release=statement.policy.release,
        channel=statement.policy.channel,
        boards=statement.policy.boards,
        counter=statement.policy.security_counter.value,
        min_revocation_version=statement.policy.min_revocation_version.value,
        confidentiality=statement.policy.confidentiality,
        min_key_class=statement.policy.min_key_class,
        valid_from_ns=date_to_ns(statement.policy.valid_from, what="valid_from"),
        expires_ns=date_to_ns(statement.policy.expires, what="expires"),
        signers=tuple(key.keyid for key in signers),
        proof=PROVEN,
    )
    _require_policy(verified, trust, expect_model, board)
    admission.require_statement(verified)
    _require_runtime(statement.policy)
    manifest = _read_manifest(storage, statement.policy)
    _require_one_to_one(storage, statement, manifest)
    require_attestations(
        trust,
        _read_attestations(storage, statement.digests),
        model_id=verified.model_id,
        manifest_digest=statement.policy.manifest,
        is_revoked=lambda keyid: admission.revokes_signer(keyid, identity),
    )
    return VerifiedBundle(verified, manifest, statement.digests, admission)


def _require_policy(
    statement: VerifiedStatement, trust: TrustStore, expect_model: str | None, board: str | None
) -> None:
    """Step 4: is this bundle for this fleet, model, channel and board? Time and counters: `Admission`."""
    if statement.fleet_id != trust.fleet_id:
        raise TrustError("the model belongs to another fleet", code="EG-T010")
    if expect_model is not None and statement.model_id != expect_model:
        raise TrustError(
            f"the bundle holds model {statement.model_id}, not {expect_model}",
            code="EG-T011",
            hint="name the model that belongs in this place",
        )
    if statement.channel not in trust.policy.channels:
        raise TrustError(f"channel {statement.channel} is not accepted by this fleet", code="EG-T012")
    if board is not None and statement.boards and board not in statement.boards:
        raise TrustError(
            f"the model is for {', '.join(statement.boards)} and this board is {board or 'not stated'}",
            code="EG-T013",
            hint="state the board in the configuration, or pack the model for it",
        )


def _require_runtime(policy: Policy) -> None:
    if _version(policy.min_runtime) > _version(edgeguard.__version__):
        raise TrustError(
            f"the model needs EdgeGuard {policy.min_runtime} or newer", code="EG-T017", hint="update EdgeGuard"
        )


def _version(text: str) -> tuple[int, ...]:
    """Return the three numbers of a version; a pre-release of ours (1.2.0rc1) counts as what it precedes."""
    leading = (re.match(r"[0-9]*", part) for part in text.split(".")[:3])
    return tuple(int(found[0] or 0) if found else 0 for found in leading)


def _read_manifest(storage: BundleStorage, policy: Policy) -> Manifest:
    raw = storage.read_small("manifest.json", MAX_MANIFEST_BYTES)
    if hashlib.sha256(raw).hexdigest() != policy.manifest:
        raise SignatureError("manifest.json is not the signed one", code="EG-S004")
    manifest = convert(parse(raw, what="manifest.json"), Manifest, what="manifest.json")
    same = (manifest.bundle_id, manifest.fleet_id, manifest.model_id)
    if same != (policy.bundle_id, policy.fleet_id, policy.model_id):
        raise BundleFormatError("manifest.json is about another bundle than the statement", code="EG-B006")
    return manifest


def _require_one_to_one(storage: BundleStorage, statement: Statement, manifest: Manifest) -> None:
    """Step 5: files, signed resources and manifest entries are the same set of names."""
    signed = frozenset(statement.digests)
    payloads = frozenset(f"payload/{p.name}" for p in manifest.payloads)
    attestations = frozenset(n for n in signed if n.startswith("attestations/"))
    if signed != payloads | attestations | {"manifest.json"}:
        raise BundleFormatError("the statement and manifest.json list different payloads", code="EG-B006")
    top = storage.entries("", _MAX_TOP_ENTRIES) or frozenset()
    _refuse_difference("the bundle", top - _TOP_OPTIONAL, _TOP_FILES)
    for folder, names in (("payload", payloads), ("attestations", attestations)):
        found = storage.entries(folder, len(names) + 1) or frozenset()
        _refuse_difference(folder, found, frozenset(n.partition("/")[2] for n in names))


def _refuse_difference(where: str, found: frozenset[str], listed: frozenset[str]) -> None:
    for name in sorted(found - listed):
        raise BundleFormatError(f"{where} holds {name!a}, which is not signed", code="EG-B005", hint="remove the file")
    for name in sorted(listed - found):
        raise BundleFormatError(f"{where} lacks {name}", code="EG-B005", hint="copy the bundle again")


def _read_attestations(storage: BundleStorage, digests: Mapping[str, str]) -> dict[str, bytes]:
    """Return the attestations by name, each read once and as signed."""
    names = [n for n in digests if n.startswith("attestations/")]
    if len(names) > MAX_ATTESTATIONS:
        raise BundleFormatError(f"more than {MAX_ATTESTATIONS} attestations", code="EG-B004")
    contents = {name: storage.read_small(name, MAX_ATTESTATION_BYTES) for name in names}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != digests[name]:
            raise SignatureError(f"{name} is not the signed one", code="EG-S004")
    return contents
