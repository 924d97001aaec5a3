"""TrustStore: whom a device believes. docs/formats/trust.md.

* The root is pinned by the directory that the device was provisioned with; there is no default trust.
* Top-level `targets` is offline and k-of-n. `release` and `enrol` are disjoint, terminating delegations of it.
* Every key belongs to one role, whatever its encoding; every signature counts once.
* Expiry is checked against the time that the caller gives, never below a signed time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeVar

from tuf.api.metadata import Metadata, Root, Targets  # type: ignore[attr-defined] # documented re-exports

from edgeguard.clock import NS_PER_S
from edgeguard.errors import EdgeGuardError, SignatureError, TrustError
from edgeguard.trust.dates import date_to_ns
from edgeguard.trust.files import read_directory_file
from edgeguard.trust.policy import Counter, FleetPolicy
from edgeguard.trust.role_keys import RoleKey, keys_of_role
from edgeguard.trust.strict_json import convert, parse

# Limits of the TUF reference client.
MAX_ROOT_BYTES = 512_000
MAX_TARGETS_BYTES = 5_000_000
MAX_ROOT_ROTATIONS = 256
MAX_POLICY_BYTES = 256 * 1024  # floors for a few thousand models

RELEASE = "release"
ENROL = "enrol"
DELEGATED_PATHS = MappingProxyType({RELEASE: "bundles/*", ENROL: "devices/*"})
S = TypeVar("S", Root, Targets)
_TOP_ROLES = ("root", "targets", "snapshot", "timestamp")
_HINT = "copy the fleet's trust folder to the device again"


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

    fleet_id: SHA-256 of root v1, hex. role_keys: keys per delegated role. thresholds: signatures per delegated role.
    """

    fleet_id: str
    policy: FleetPolicy
    root_version: int
    targets_version: int
    role_keys: Mapping[str, tuple[RoleKey, ...]]
    thresholds: Mapping[str, int]
    validities: tuple[_Validity, ...]

    @classmethod
    def load(cls, directory: Path | str, wall_ns: int, *, expect_fleet: str = "") -> Self:
        """Read and verify `1.root.json` ... `N.root.json`, `targets.json` and `policy.json`.

        Raises:
            TrustError: EG-T001 unreadable, EG-T002 malformed, EG-T003 not signed as its delegator asks, EG-T004
                expired, EG-T005 roles not disjoint or not as they must be, EG-T010 another fleet than `expect_fleet`.
        """
        folder = Path(directory)
        root, fleet_id = _load_roots(folder)
        if expect_fleet and fleet_id != expect_fleet:
            raise TrustError(f"{folder} belongs to another fleet", code="EG-T010", hint=_HINT)
        targets = _load_targets(folder, root)
        policy = _load_policy(folder, targets, fleet_id)
        role_keys = _disjoint_role_keys(root, targets)
        store = cls(
            fleet_id=fleet_id,
            policy=policy,
            root_version=root.version,
            targets_version=targets.version,
            role_keys=MappingProxyType({name: role_keys[name] for name in DELEGATED_PATHS}),
            thresholds=MappingProxyType({name: _delegation(targets, name)[0] for name in DELEGATED_PATHS}),
            validities=(
                _Validity("root", int(root.expires.timestamp()) * NS_PER_S),
                _Validity("targets", int(targets.expires.timestamp()) * NS_PER_S),
            ),
        )
        _require_satisfiable_groups(store)
        store.require_valid(wall_ns)
        return store

    @property
    def release_keys(self) -> tuple[RoleKey, ...]:
        """Keys that may sign models."""
        return self.role_keys[RELEASE]

    @property
    def revocation_version(self) -> int:
        """Version of the revocation list in force; 0 while the fleet has none, which is not the same as empty."""
        return 0

    @property
    def expires_ns(self) -> int:
        """When the first piece of metadata expires, nanoseconds since 1970 UTC."""
        return min(v.expires_ns for v in self.validities)

    def effective_ns(self, wall_ns: int) -> int:
        """Return the time to judge by: the clock, but never before a signed time (a board without a battery)."""
        return max(wall_ns, date_to_ns(self.policy.issued, what="issued"))

    def require_valid(self, wall_ns: int) -> None:
        """Check expiry again, for long-running processes.

        Raises:
            TrustError: EG-T004.
        """
        now_ns = self.effective_ns(wall_ns)
        for validity in self.validities:
            if now_ns >= validity.expires_ns:
                raise TrustError(f"the fleet's {validity.name} metadata has expired", code="EG-T004", hint=_HINT)

    def floor(self, model_id: str) -> tuple[int, int]:
        """Return the signed counter floor (epoch, number) of a model; (0, 0) where none is set."""
        return self.policy.floors.get(model_id, Counter("0", "0")).value

    def key(self, role: str, keyid: str) -> RoleKey | None:
        """Return the key of `role` with that id, or None."""
        return next((k for k in self.role_keys[role] if k.keyid == keyid), None)

    def verify(self, role: str, message: bytes, signatures: Sequence[KeySignature]) -> tuple[RoleKey, ...]:
        """Check that enough keys of `role` signed `message`; return those that did.

        Every signature must be by a key of the role and correct; each key counts once. For `release` the typed
        signature groups of the policy must be met as well as the role's threshold.

        Raises:
            SignatureError: EG-S001 a key is not in the role, EG-S002 a signature is wrong, EG-S003 too few.
        """
        signed: dict[bytes, RoleKey] = {}
        for claimed in signatures:
            key = self.key(role, claimed.keyid)
            if key is None:
                raise SignatureError(f"the signer is no {role} key of this fleet", code="EG-S001", hint=_HINT)
            key.verify(claimed.signature, message)
            signed[key.public_der] = key
        keys = tuple(signed.values())
        enough = len(keys) >= self.thresholds[role]
        if role == RELEASE:
            enough = enough and self.meets_groups(keys)
        if not enough:
            raise SignatureError(f"not enough {role} keys have signed", code="EG-S003")
        return keys

    def meets_groups(self, keys: Sequence[RoleKey]) -> bool:
        """Return whether distinct `keys` meet each signature group of the policy."""
        return all(sum(k.scheme == g.scheme for k in keys) >= g.threshold for g in self.policy.signature_groups)


def _load_roots(folder: Path) -> tuple[Root, str]:
    """Walk the chain: root N+1 is signed by the keys of N and by its own."""
    raw = read_directory_file(folder, "1.root.json", MAX_ROOT_BYTES, hint=_HINT)
    fleet_id = hashlib.sha256(raw).hexdigest()
    current = _parse_metadata(raw, Root, "root 1")
    _require_signed(current.signed, "root", current, "root 1")
    if current.signed.version != 1:
        raise TrustError("1.root.json is not version 1", code="EG-T002", hint=_HINT)
    for version in range(2, MAX_ROOT_ROTATIONS + 2):
        following = read_directory_file(folder, f"{version}.root.json", MAX_ROOT_BYTES, hint=_HINT, optional=True)
        if following is None:
            return current.signed, fleet_id
        newer = _parse_metadata(following, Root, f"root {version}")
        _require_signed(current.signed, "root", newer, f"root {version}")
        _require_signed(newer.signed, "root", newer, f"root {version}")
        if newer.signed.version != version:
            raise TrustError(f"{version}.root.json is not version {version}", code="EG-T002", hint=_HINT)
        current = newer
    raise TrustError(f"more than {MAX_ROOT_ROTATIONS} root rotations", code="EG-T002", hint=_HINT)


def _load_targets(folder: Path, root: Root) -> Targets:
    raw = read_directory_file(folder, "targets.json", MAX_TARGETS_BYTES, hint=_HINT)
    metadata = _parse_metadata(raw, Targets, "targets")
    _require_signed(root, "targets", metadata, "targets")
    return metadata.signed


def _load_policy(folder: Path, targets: Targets, fleet_id: str) -> FleetPolicy:
    raw = read_directory_file(folder, "policy.json", MAX_POLICY_BYTES, hint=_HINT)
    target = targets.targets.get("policy.json")
    listed = target is not None and target.length == len(raw)
    if target is None or not listed or target.hashes.get("sha256") != hashlib.sha256(raw).hexdigest():
        raise TrustError("policy.json is not the one that targets signs", code="EG-T003", hint=_HINT)
    try:
        policy = convert(parse(raw, what="policy.json"), FleetPolicy, what="policy.json")
        date_to_ns(policy.issued, what="issued")
    except EdgeGuardError as error:
        reason = error.message
    else:
        if policy.fleet_id != fleet_id:
            raise TrustError("policy.json is for another fleet", code="EG-T010", hint=_HINT)
        return policy
    raise TrustError(reason, code="EG-T002", hint=_HINT)


def _parse_metadata(raw: bytes, kind: type[S], what: str) -> Metadata[S]:
    """Parse twice: once strictly, because the TUF library lets duplicate keys pass, once as metadata."""
    reason = f"{what} is not TUF metadata"
    try:
        parse(raw, what=what, require_canonical=False)
        metadata: Metadata[S] = Metadata.from_bytes(raw)
        if isinstance(metadata.signed, kind):
            return metadata
    except EdgeGuardError as error:
        reason = error.message
    except Exception:  # noqa: S110 - whatever the library raises on hostile metadata is one refusal
        pass
    raise TrustError(reason, code="EG-T002", hint=_HINT)


def _require_signed(
    delegator: Root | Targets, role: str, metadata: Metadata[Root] | Metadata[Targets], what: str
) -> None:
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        return
    except Exception:  # noqa: S110 - not signed, unknown key type, broken key: one refusal
        pass
    raise TrustError(f"{what} is not signed by the keys that must sign it", code="EG-T003", hint=_HINT)


def _delegation(targets: Targets, name: str) -> tuple[int, list[str]]:
    roles = targets.delegations.roles if targets.delegations else None
    role = roles.get(name) if roles else None
    if role is None or not role.terminating or role.paths != [DELEGATED_PATHS[name]]:
        raise TrustError(f"targets does not delegate {name} as it must", code="EG-T005", hint=_HINT)
    return role.threshold, role.keyids


def _disjoint_role_keys(root: Root, targets: Targets) -> dict[str, tuple[RoleKey, ...]]:
    """Return the keys of every role; refuse a key that serves two roles, or one role under two names."""
    delegated = targets.delegations.keys if targets.delegations else {}
    keys = {name: keys_of_role(name, root.roles[name].keyids, root.keys) for name in _TOP_ROLES}
    keys |= {name: keys_of_role(name, _delegation(targets, name)[1], delegated) for name in DELEGATED_PATHS}
    seen: set[bytes] = set()
    for name, members in keys.items():
        for key in members:
            if key.public_der in seen:
                raise TrustError(f"a key of {name} is used twice", code="EG-T005", hint=_HINT)
            seen.add(key.public_der)
    return keys


def _require_satisfiable_groups(store: TrustStore) -> None:
    if not store.meets_groups(store.release_keys):
        raise TrustError("the release keys can never meet the signature groups", code="EG-T005", hint=_HINT)
