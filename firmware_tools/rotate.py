"""Replacing keys: a new root signed by old and new, or new targets that delegate to new keys. docs/formats/trust.md

The new trust folder is made beside the old one and loaded as a device would load it before it takes its place.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Metadata, Root, TargetFile, Targets  # type: ignore[attr-defined] # documented re-exports

from edgeguard.clock import NS_PER_S
from edgeguard.errors import ProvisioningError, TrustError
from edgeguard.harden.durable import sync_folder
from edgeguard.trust.dates import ns_to_date, ns_to_datetime
from edgeguard.trust.metadata import ENROL, RELEASE, RELEASE_PQ, REVOCATION, TOP_ROLES
from edgeguard.trust.role_keys import SCHEME_P256, KeyGroup
from edgeguard.trust.store import TrustStore
from edgeguard.trust.strict_json import canonical
from firmware_tools.enroll import device_records, sign_again
from firmware_tools.files import write_synced
from firmware_tools.fleet import OLD_TRUST, Fleet
from firmware_tools.revocation_list import Entries
from firmware_tools.revoke import revoke
from firmware_tools.signer import ADDRESS_SUFFIX, Signer
from firmware_tools.trust_metadata import signed_metadata, tuf_key

RETIRED = "retired"
_S_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Rotated:
    """What `rotate` did. keys: new key files; retired: files that no longer count, now in `keys/retired`."""

    root_version: int
    targets_version: int
    keys: tuple[Path, ...]
    retired: tuple[Path, ...]


def rotate(
    fleet: Fleet, role: str, *, wall_ns: int, valid_days: int | None = None, token_keys: Sequence[str] = ()
) -> Rotated:
    """Give a role new keys, as many of each family as it had; thresholds stay.

    A top-level role takes a new root, signed by the old root keys and, where root itself is rotated, by the new ones,
    in every family. A delegated role takes new targets, and `targets` both. With new targets the policy is issued
    anew, so that devices' time floor rises with it. The revocation list and the device records of this folder are
    signed again by the new keys of their roles; bundles are signed again with `resign`.

    Args:
        valid_days: days until what is signed now must be renewed; as before when None.
        token_keys: addresses of new keys on tokens; a role whose keys are on tokens gets no new ones in files.

    Raises:
        ProvisioningError: EG-P003 no such role, EG-P005 keys missing that must sign, EG-P030 cannot write, EG-P062 no
            device would accept the result.
    """
    trust = fleet.trust(wall_ns)
    groups = _groups_of(trust, role)
    expires_ns = None if valid_days is None else wall_ns + valid_days * _S_PER_DAY * NS_PER_S
    retired = fleet.key_files_of(groups)
    on_tokens = sum(path.suffix == ADDRESS_SUFFIX for path in retired)
    if len(token_keys) < on_tokens or len(token_keys) > sum(len(g.keys) for g in groups if g.scheme == SCHEME_P256):
        raise ProvisioningError(
            f"{role} has {on_tokens} keys on tokens here, and {len(token_keys)} new ones are named", code="EG-P003",
            hint="make them with token-key and name each with --token-key",
        )  # fmt: skip
    records = list(device_records(fleet, trust)) if role == ENROL else []
    root_signers = fleet.offline_set("root", trust) if role in TOP_ROLES else []
    targets_signers = fleet.offline_set("targets", trust) if role not in TOP_ROLES else []
    fresh: list[tuple[Path, Signer]] = []
    try:
        for group in groups:
            kept = token_keys if group.scheme == SCHEME_P256 else ()
            for number in range(len(group.keys)):  # one by one, so that what is made is also removed after an error
                if number < len(kept):
                    fresh.append(fleet.adopt_token_key(group.role, kept[number]))
                else:
                    fresh.append(fleet.new_signer(group.role, group.scheme))
        signers = [signer for _, signer in fresh]
        if {s.public_key().keyid for s in signers} & {key.keyid for group in groups for key in group.keys}:
            raise ProvisioningError("a key cannot follow itself", code="EG-P003", hint="make another with token-key")
        with new_trust(fleet, wall_ns) as new:
            if role in TOP_ROLES:
                also = signers if role == "root" else []
                _write_root(new, trust.root_version, role, signers, [*root_signers, *also], expires_ns)
            targets_signers = signers if role == "targets" else targets_signers
            if targets_signers:
                _write_targets(new, role, signers, targets_signers, trust.effective_ns(wall_ns), expires_ns)
    except BaseException:
        for path, _ in fresh:
            path.unlink(missing_ok=True)
        raise
    (fleet.folder / "keys" / RETIRED).mkdir(mode=0o700, exist_ok=True)
    moved = tuple(path.rename(path.parent / RETIRED / path.name) for path in retired)
    for path, signer in fresh:
        if role in (RELEASE, RELEASE_PQ):
            write_synced(fleet.folder / "public" / f"{path.stem}.pem", signer.public_pem())
    made = fleet.trust(wall_ns)
    if role == REVOCATION:
        revoke(fleet, Entries(), wall_ns=wall_ns)
    sign_again(fleet, made, records)
    return Rotated(made.root_version, made.targets_version, tuple(path for path, _ in fresh), moved)


def _groups_of(trust: TrustStore, role: str) -> Sequence[KeyGroup]:
    every: dict[str, Sequence[KeyGroup]] = {**trust.top_groups, **trust.groups}
    for name in (RELEASE, RELEASE_PQ):
        every[name] = [group for group in trust.groups[RELEASE] if group.role == name]
    if not every.get(role):
        known = ", ".join(name for name, found in every.items() if found)
        raise ProvisioningError(f"this fleet has no role {role!a}", code="EG-P003", hint=f"roles: {known}")
    return every[role]


@contextmanager
def new_trust(fleet: Fleet, wall_ns: int) -> Iterator[Path]:
    """Give a copy of the trust folder to change; it takes the old one's place when a device would accept it.

    Raises:
        ProvisioningError: EG-P030 cannot write, EG-P062 no device would accept it.
    """
    new, old = fleet.folder / ".trust-new", fleet.folder / OLD_TRUST
    reason = ""
    try:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.copytree(fleet.trust_folder, new)
        yield new
        TrustStore.load(new, wall_ns, expect_fleet=fleet.fleet_id)
        fleet.trust_folder.rename(old)
        new.rename(fleet.trust_folder)
        sync_folder(fleet.folder)
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
    except TrustError as error:
        raise ProvisioningError(f"no device would accept the new trust: {error.message}", code="EG-P062") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if fleet.trust_folder.exists():
            shutil.rmtree(old, ignore_errors=True)
    if reason:
        raise ProvisioningError(f"cannot write {fleet.trust_folder}: {reason}", code="EG-P030")


def _write_root(
    trust: Path,
    version: int,
    role: str,
    fresh: Sequence[Signer],
    signers: Sequence[Signer],
    expires_ns: int | None,
) -> None:
    root: Root = Metadata[Root].from_bytes((trust / f"{version}.root.json").read_bytes()).signed
    _replace_keys(root, root.roles[role].keyids, role, fresh)
    root.version = version + 1
    root.expires = root.expires if expires_ns is None else ns_to_datetime(expires_ns)
    write_synced(trust / f"{version + 1}.root.json", signed_metadata(root, signers))


def _write_targets(
    trust: Path,
    role: str,
    fresh: Sequence[Signer],
    signers: Sequence[Signer],
    issued_ns: int,
    expires_ns: int | None,
) -> None:
    targets: Targets = Metadata[Targets].from_bytes((trust / "targets.json").read_bytes()).signed
    if role not in TOP_ROLES:
        _replace_keys(targets, targets.get_delegated_role(role).keyids, role, fresh)
    policy = json.loads((trust / "policy.json").read_bytes()) | {"issued": ns_to_date(issued_ns)}
    content = canonical(policy)
    targets.targets["policy.json"] = TargetFile(
        len(content), {"sha256": hashlib.sha256(content).hexdigest()}, "policy.json"
    )
    targets.version += 1
    targets.expires = targets.expires if expires_ns is None else ns_to_datetime(expires_ns)
    for name, raw in (("policy.json", content), ("targets.json", signed_metadata(targets, signers))):
        (trust / name).unlink()
        write_synced(trust / name, raw)


def _replace_keys(delegator: Root | Targets, keyids: Sequence[str], role: str, fresh: Sequence[Signer]) -> None:
    for keyid in list(keyids):
        delegator.revoke_key(keyid, role)
    for signer in fresh:
        delegator.add_key(tuf_key(signer), role)
