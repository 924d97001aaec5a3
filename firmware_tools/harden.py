"""Making a classical fleet hybrid: the same fleet, the same devices, ML-DSA-65 keys beside every P-256 key.

One new root, signed by the old keys and by both families; one new targets with the hybrid policy; the revocation list
and every device record signed by both. After this there is no way back: roots never drop a family, and devices remember
the newest root they have seen. docs/formats/trust.md section 1
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import (  # type: ignore[attr-defined] # documented re-exports
    DelegatedRole,
    Metadata,
    Root,
    TargetFile,
    Targets,
)

from edgeguard.errors import ProvisioningError
from edgeguard.trust.dates import ns_to_date
from edgeguard.trust.metadata import ATTEST, DELEGATED_PATHS, ENROL, RELEASE, RELEASE_PQ, REVOCATION, TOP_ROLES
from edgeguard.trust.policy import HYBRID
from edgeguard.trust.role_keys import SCHEME_MLDSA65
from edgeguard.trust.store import TrustStore
from edgeguard.trust.strict_json import canonical
from firmware_tools.enroll import device_records, sign_again
from firmware_tools.files import write_synced
from firmware_tools.fleet import Fleet
from firmware_tools.revocation_list import Entries
from firmware_tools.revoke import revoke
from firmware_tools.rotate import new_trust
from firmware_tools.signer import Signer
from firmware_tools.trust_metadata import signed_metadata, tuf_key

Signers = Mapping[str, Sequence[Signer]]


@dataclass(frozen=True, slots=True)
class Hardened:
    """What `harden` did. keys: new key files; devices: records signed again."""

    root_version: int
    targets_version: int
    keys: tuple[Path, ...]
    devices: int


def harden(fleet: Fleet, *, wall_ns: int) -> Hardened:
    """Make a classical fleet hybrid; bundles are signed again with `resign`.

    Every role gets as many ML-DSA-65 keys as it has P-256 keys, and the same threshold in each family. Needs the keys
    of root, targets, revocation and enrol.

    Raises:
        ProvisioningError: EG-P005 keys missing, EG-P014 a device record does not verify, EG-P030 cannot write, EG-P062
            no device would accept the result, EG-P063 the fleet is hybrid already.
        EnvironmentMissingError: EG-E012, no ML-DSA here.
    """
    trust = fleet.trust(wall_ns)
    if trust.policy.signatures == HYBRID:
        raise ProvisioningError("this fleet is hybrid already", code="EG-P063")
    classical = {role: fleet.offline_set(role, trust) for role in ("root", "targets")}
    for role in (REVOCATION, ENROL):
        fleet.signing_set(role, trust)
    records = list(device_records(fleet, trust))
    made: list[Path] = []
    try:
        fresh = _new_keys(fleet, trust, made)
        with new_trust(fleet, wall_ns) as new:
            _write_root(new, trust, fresh, [*classical["root"], *fresh["root"]])
            _write_targets(new, trust, fresh, [*classical["targets"], *fresh["targets"]], wall_ns)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    for number, signer in enumerate(fresh[RELEASE_PQ], start=1):
        write_synced(fleet.folder / "public" / f"{RELEASE_PQ}-{number}.pem", signer.public_pem())
    after = fleet.trust(wall_ns)
    revoke(fleet, Entries(), wall_ns=wall_ns)
    devices = sign_again(fleet, after, records)
    return Hardened(after.root_version, after.targets_version, tuple(made), devices)


def _new_keys(fleet: Fleet, trust: TrustStore, made: list[Path]) -> dict[str, list[Signer]]:
    """Make the ML-DSA keys of every role, and note their files in `made` as they appear."""
    fresh: dict[str, list[Signer]] = {}
    for role, groups in (*trust.top_groups.items(), *trust.groups.items()):
        name = RELEASE_PQ if role == RELEASE else role
        fresh[name] = []
        for _ in groups[0].keys:
            path, signer = fleet.new_signer(name, SCHEME_MLDSA65)
            made.append(path)
            fresh[name].append(signer)
    return fresh


def _write_root(trust: Path, before: TrustStore, fresh: Signers, signers: Sequence[Signer]) -> None:
    root: Root = Metadata[Root].from_bytes((trust / f"{before.root_version}.root.json").read_bytes()).signed
    for role in TOP_ROLES:
        for signer in fresh[role]:
            root.add_key(tuf_key(signer), role)
        root.roles[role].threshold *= 2
    root.version += 1
    write_synced(trust / f"{root.version}.root.json", signed_metadata(root, signers))


def _write_targets(trust: Path, before: TrustStore, fresh: Signers, signers: Sequence[Signer], wall_ns: int) -> None:
    targets: Targets = Metadata[Targets].from_bytes((trust / "targets.json").read_bytes()).signed
    roles = targets.delegations.roles if targets.delegations else None
    if roles is None:
        raise ProvisioningError("targets delegates nothing", code="EG-P062")
    roles[RELEASE_PQ] = DelegatedRole(
        RELEASE_PQ, [], roles[RELEASE].threshold, terminating=True, paths=[DELEGATED_PATHS[RELEASE_PQ]]
    )
    for role in (REVOCATION, ENROL, ATTEST):
        roles[role].threshold *= 2
    for role in (RELEASE_PQ, REVOCATION, ENROL, ATTEST):
        for signer in fresh[role]:
            targets.add_key(tuf_key(signer), role)
    issued = ns_to_date(before.effective_ns(wall_ns))
    content = canonical(json.loads((trust / "policy.json").read_bytes()) | {"signatures": HYBRID, "issued": issued})
    digest = hashlib.sha256(content).hexdigest()
    targets.targets["policy.json"] = TargetFile(len(content), {"sha256": digest}, "policy.json")
    targets.version += 1
    for name, raw in (("policy.json", content), ("targets.json", signed_metadata(targets, signers))):
        (trust / name).unlink()
        write_synced(trust / name, raw)
