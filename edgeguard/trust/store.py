"""TrustStore: whom a device believes. docs/formats/trust.md.

* The root is pinned by the directory that the device was provisioned with; there is no default trust.
* Top-level `targets` is offline and k-of-n. All other roles are disjoint, terminating delegations of it.
* Every key belongs to one role and one family, whatever its encoding; every signature counts once.
* A hybrid fleet asks each role for classical *and* post-quantum signatures; a chain of roots never goes back.
* Expiry is checked against the time that the caller gives, never below a signed time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Self

from tuf.api.metadata import DelegatedRole, Root, Targets  # type: ignore[attr-defined] # documented re-exports

from edgeguard.clock import NS_PER_S
from edgeguard.errors import EdgeGuardError, SignatureError, TrustError
from edgeguard.trust.dates import date_to_ns
from edgeguard.trust.files import read_directory_file
from edgeguard.trust.metadata import (
    ATTEST,
    DELEGATED_PATHS,
    ENROL,
    HINT,
    RELEASE,
    RELEASE_PQ,
    REVOCATION,
    TOP_ROLES,
    groups,
    parse_metadata,
    require_known_delegations,
    require_signed,
)
from edgeguard.trust.policy import HYBRID, Counter, FleetPolicy
from edgeguard.trust.revocation import LIST_FILE, MAX_LIST_BYTES, METADATA_FILE, RevocationList, verified_list
from edgeguard.trust.role_keys import SCHEME_MLDSA65, SCHEME_P256, SCHEMES, KeyGroup, RoleKey
from edgeguard.trust.signed_time import effective_ns
from edgeguard.trust.strict_json import convert, parse

__all__ = ["ATTEST", "DELEGATED_PATHS", "ENROL", "RELEASE", "RELEASE_PQ", "REVOCATION", "KeySignature", "TrustStore"]

# Limits of the TUF reference client.
MAX_ROOT_BYTES = 512_000
MAX_TARGETS_BYTES = 5_000_000
MAX_ROOT_ROTATIONS = 256
MAX_POLICY_BYTES = 256 * 1024  # floors for a few thousand models
MAX_VERSION = 2**53  # the device state keeps versions as JSON numbers, which other tools read as doubles
_RETIRED_HINT = f"{HINT}; after a rotation sign the bundle again: edgeguard-provision resign FLEET BUNDLE"


@dataclass(frozen=True, slots=True)
class KeySignature:
    """One claimed signature: by the key that `keyid` names, over bytes the verifier knows."""

    keyid: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class _Validity:
    """Until when each piece of metadata holds, in nanoseconds since 1970 UTC."""

    name: str
    expires_ns: int


@dataclass(frozen=True, slots=True)
class TrustStore:
    """Verified trust of one fleet. Make one with `load`.

    fleet_id: SHA-256 of root v1, hex. root_version, root_digest, targets_version, targets_digest: what a device
    remembers to notice older metadata; digests are SHA-256, hex, over the signed part in its canonical form. groups,
    top_groups: per delegated and top-level role, the typed groups that must all sign; those of `release-pq` are part
    of `release`. revocation: the list that lies in the folder, None when there is none; `revocation_refusal` says why
    one that lies there is not obeyed. Which list is in force is for the device state to say (revocation.md section 3).
    """

    fleet_id: str
    policy: FleetPolicy
    root_version: int
    root_digest: str
    targets_version: int
    targets_digest: str
    groups: Mapping[str, tuple[KeyGroup, ...]]
    top_groups: Mapping[str, tuple[KeyGroup, ...]]
    validities: tuple[_Validity, ...]
    _targets: Targets = field(repr=False)
    revocation: RevocationList | None = None
    revocation_refusal: str = ""

    @classmethod
    def load(cls, directory: Path | str, wall_ns: int, *, expect_fleet: str = "", require_hybrid: bool = False) -> Self:
        """Read and verify `1.root.json` ... `N.root.json`, `targets.json` and `policy.json`.

        Args:
            wall_ns: now, nanoseconds since 1970 UTC.
            expect_fleet: refuse any other fleet.
            require_hybrid: refuse a fleet whose signed policy is `classical`; local configuration may only tighten.

        Raises:
            TrustError: EG-T001 unreadable, EG-T002 malformed, EG-T003 not signed as its delegator asks, EG-T004
                expired, EG-T005 roles not disjoint or not as they must be, EG-T006 signatures weaker than asked,
                EG-T010 another fleet than `expect_fleet`.
        """
        folder = Path(directory)
        root, root_digest, fleet_id = _load_roots(folder)
        if expect_fleet and fleet_id != expect_fleet:
            raise TrustError(f"{folder} belongs to another fleet", code="EG-T010", hint=HINT)
        targets, digest = _load_targets(folder, root)
        policy = _load_policy(folder, targets, fleet_id)
        top = {name: groups(root, name) for name in TOP_ROLES}
        delegated = {name: groups(targets, name) for name in require_known_delegations(targets)}
        _require_disjoint({**top, **delegated})
        _require_families(policy, top, delegated)
        if require_hybrid and policy.signatures != HYBRID:
            raise TrustError("this device asks for hybrid signatures and its fleet has none", code="EG-T006", hint=HINT)
        post_quantum = delegated.pop(RELEASE_PQ, ())
        delegated[RELEASE] += post_quantum
        store = cls(
            fleet_id=fleet_id,
            policy=policy,
            root_version=root.version,
            root_digest=root_digest,
            targets_version=targets.version,
            targets_digest=digest,
            groups=MappingProxyType(delegated),
            top_groups=MappingProxyType(top),
            validities=(
                _Validity("root", int(root.expires.timestamp()) * NS_PER_S),
                _Validity("targets", int(targets.expires.timestamp()) * NS_PER_S),
            ),
            _targets=targets,
        )
        store.require_valid(wall_ns)
        return store._with_list_of(folder)

    def _with_list_of(self, folder: Path) -> Self:
        """Return this trust with the folder's list; one that does not verify is no list, and the reason is kept."""
        metadata = read_directory_file(folder, METADATA_FILE, MAX_TARGETS_BYTES, hint=HINT, optional=True)
        content = read_directory_file(folder, LIST_FILE, MAX_LIST_BYTES, hint=HINT, optional=True)
        if metadata is None and content is None:
            return self
        if metadata is None or content is None:
            return replace(self, revocation_refusal="one of the revocation list's two files is missing")
        try:
            return replace(self, revocation=verified_list(self, metadata, content))
        except TrustError as error:
            return replace(self, revocation_refusal=error.message)

    @property
    def release_keys(self) -> tuple[RoleKey, ...]:
        """Keys that may sign models, of all families."""
        return self.role_keys(RELEASE)

    def role_keys(self, role: str) -> tuple[RoleKey, ...]:
        """Return the keys of a delegated role, of all families; those of `release` include `release-pq`."""
        return tuple(key for group in self.groups[role] for key in group.keys)

    @property
    def expires_ns(self) -> int:
        """When the first piece of metadata expires, nanoseconds since 1970 UTC."""
        return min(v.expires_ns for v in self.validities)

    def effective_ns(self, wall_ns: int) -> int:
        """Return the time to judge by: the clock, but never before a signed time (a board without a battery)."""
        listed_ns = self.revocation.issued_ns if self.revocation is not None else 0
        return effective_ns(wall_ns, date_to_ns(self.policy.issued, what="issued"), listed_ns)

    def require_valid(self, wall_ns: int) -> None:
        """Check expiry again, for long-running processes.

        Raises:
            TrustError: EG-T004.
        """
        now_ns = self.effective_ns(wall_ns)
        for validity in self.validities:
            if now_ns >= validity.expires_ns:
                raise TrustError(f"the fleet's {validity.name} metadata has expired", code="EG-T004", hint=HINT)

    def floor(self, model_id: str) -> tuple[int, int]:
        """Return the signed counter floor (epoch, number) of a model; (0, 0) where none is set."""
        return self.policy.floors.get(model_id, Counter("0", "0")).value

    def key(self, role: str, keyid: str) -> RoleKey | None:
        """Return the key of `role` with that id, or None."""
        return next((k for k in self.role_keys(role) if k.keyid == keyid), None)

    def verify(self, role: str, message: bytes, signatures: Sequence[KeySignature]) -> tuple[RoleKey, ...]:
        """Check that enough keys of `role` signed `message`; return those that did.

        Every signature must be by a key of the role and correct; each key counts once, and every group of the role
        must be met. In a hybrid fleet `release` stands for `release` and `release-pq` together.

        Raises:
            SignatureError: EG-S001 a key is not in the role, EG-S002 a signature is wrong, EG-S003 too few.
        """
        signed: dict[bytes, RoleKey] = {}
        for claimed in signatures:
            key = self.key(role, claimed.keyid)
            if key is None:
                hint = _RETIRED_HINT if role == RELEASE else HINT
                raise SignatureError(f"the signer is no {role} key of this fleet", code="EG-S001", hint=hint)
            key.verify(claimed.signature, message)
            signed[key.public_der] = key
        for group in self.groups[role]:
            if not group.is_met_by(signed):
                raise SignatureError(
                    f"not enough {group.role} keys have signed ({group.scheme})",
                    code="EG-S003",
                    hint="sign it further with: edgeguard-provision sign BUNDLE --trust DIR --key FILE"
                    if role == RELEASE
                    else "",
                )
        return tuple(signed.values())

    def verify_delegated(self, role: str, raw: bytes) -> Targets:
        """Return the TUF Targets metadata that `role` has signed, such as the revocation list.

        Checked: form, signatures by every group of the role, that its targets lie on the role's own path and that it
        delegates nothing further. *Not* checked: version and expiry, which the caller holds against its state and
        time (`effective_ns`).

        Raises:
            TrustError: EG-T002 malformed or too large, EG-T003 not signed by the role, EG-T005 reaches beyond it.
        """
        if role not in self.groups or {group.role for group in self.groups[role]} != {role}:
            # A hybrid fleet's release metadata would carry one family only; bundles carry both themselves.
            raise TrustError(f"{role} metadata is not accepted on its own", code="EG-T005", hint=HINT)
        what = f"the {role} metadata"
        if len(raw) > MAX_TARGETS_BYTES:
            raise TrustError(f"{what} is larger than {MAX_TARGETS_BYTES} bytes", code="EG-T002", hint=HINT)
        metadata = parse_metadata(raw, Targets, what)
        require_signed(self._targets, role, metadata, what)
        signed = metadata.signed
        own = self._targets.get_delegated_role(role)
        within = isinstance(own, DelegatedRole) and all(own.is_delegated_path(path) for path in signed.targets)
        if not within or signed.delegations is not None:
            raise TrustError(f"{what} speaks for more than its role", code="EG-T005", hint=HINT)
        return signed


def _load_roots(folder: Path) -> tuple[Root, str, str]:
    """Walk the chain: root N+1 is signed by the keys of N and by its own, and never drops a key family."""
    raw = read_directory_file(folder, "1.root.json", MAX_ROOT_BYTES, hint=HINT)
    fleet_id = hashlib.sha256(raw).hexdigest()
    current = parse_metadata(raw, Root, "root 1")
    require_signed(current.signed, "root", current, "root 1")
    if current.signed.version != 1:
        raise TrustError("1.root.json is not version 1", code="EG-T002", hint=HINT)
    for version in range(2, MAX_ROOT_ROTATIONS + 3):  # one beyond the last that may be there
        following = read_directory_file(folder, f"{version}.root.json", MAX_ROOT_BYTES, hint=HINT, optional=True)
        if following is None:
            return current.signed, hashlib.sha256(current.signed_bytes).hexdigest(), fleet_id
        newer = parse_metadata(following, Root, f"root {version}")
        require_signed(current.signed, "root", newer, f"root {version}")
        require_signed(newer.signed, "root", newer, f"root {version}")
        if newer.signed.version != version:
            raise TrustError(f"{version}.root.json is not version {version}", code="EG-T002", hint=HINT)
        for name in TOP_ROLES:
            if not _families(groups(current.signed, name)) <= _families(groups(newer.signed, name)):
                raise TrustError(f"root {version} weakens the signatures of {name}", code="EG-T006", hint=HINT)
        current = newer
    raise TrustError(f"more than {MAX_ROOT_ROTATIONS} root rotations", code="EG-T002", hint=HINT)


def _load_targets(folder: Path, root: Root) -> tuple[Targets, str]:
    raw = read_directory_file(folder, "targets.json", MAX_TARGETS_BYTES, hint=HINT)
    metadata = parse_metadata(raw, Targets, "targets")
    require_signed(root, "targets", metadata, "targets")
    if metadata.signed.version > MAX_VERSION:
        raise TrustError("targets.json has a version that no device can remember", code="EG-T002", hint=HINT)
    return metadata.signed, hashlib.sha256(metadata.signed_bytes).hexdigest()


def _load_policy(folder: Path, targets: Targets, fleet_id: str) -> FleetPolicy:
    raw = read_directory_file(folder, "policy.json", MAX_POLICY_BYTES, hint=HINT)
    target = targets.targets.get("policy.json")
    listed = target is not None and target.length == len(raw)
    if target is None or not listed or target.hashes.get("sha256") != hashlib.sha256(raw).hexdigest():
        raise TrustError("policy.json is not the one that targets signs", code="EG-T003", hint=HINT)
    try:
        policy = convert(parse(raw, what="policy.json"), FleetPolicy, what="policy.json")
        date_to_ns(policy.issued, what="issued")
    except EdgeGuardError as error:
        reason = error.message
    else:
        if policy.fleet_id != fleet_id:
            raise TrustError("policy.json is for another fleet", code="EG-T010", hint=HINT)
        return policy
    raise TrustError(reason, code="EG-T002", hint=HINT)


def _families(role_groups: Sequence[KeyGroup]) -> frozenset[str]:
    return frozenset(group.scheme for group in role_groups)


def _require_disjoint(roles: Mapping[str, Sequence[KeyGroup]]) -> None:
    """Refuse a key that serves two roles, whatever id or encoding it has there."""
    seen: set[bytes] = set()
    for name, role_groups in roles.items():
        for key in (key for group in role_groups for key in group.keys):
            if key.public_der in seen:
                raise TrustError(f"a key of {name} is used twice", code="EG-T005", hint=HINT)
            seen.add(key.public_der)


def _require_families(
    policy: FleetPolicy, top: Mapping[str, Sequence[KeyGroup]], delegated: Mapping[str, Sequence[KeyGroup]]
) -> None:
    """Hold the keys of every role against the signed policy, in both directions: nothing half hybrid is accepted."""
    hybrid = policy.signatures == HYBRID
    if hybrid != (RELEASE_PQ in delegated):
        raise TrustError("release-pq and a hybrid policy go together", code="EG-T006", hint=HINT)
    both = frozenset(SCHEMES if hybrid else SCHEMES[:1])
    wanted = dict.fromkeys((*top, *delegated), both)
    # Split in two roles, so that model.sig stays what the public command verifies.
    wanted |= {RELEASE: frozenset({SCHEME_P256}), RELEASE_PQ: frozenset({SCHEME_MLDSA65})}
    for name, role_groups in (*top.items(), *delegated.items()):
        if _families(role_groups) != wanted[name]:
            raise TrustError(
                f"the keys of {name} are not of the families that {policy.signatures} asks for",
                code="EG-T006",
                hint=HINT,
            )
