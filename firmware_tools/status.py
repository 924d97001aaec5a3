"""What a fleet folder holds, every line of it verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeguard.bundle.verify import verify_bundle
from edgeguard.trust.dates import ns_to_date
from edgeguard.trust.role_keys import SCHEME_MLDSA65, SCHEME_P256
from edgeguard.trust.store import TrustStore
from firmware_tools.enroll import device_records
from firmware_tools.fleet import Fleet

FAMILIES = {SCHEME_P256: "P-256", SCHEME_MLDSA65: "ML-DSA-65"}


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One enrolled device."""

    name: str
    kid: str
    board: str
    key_class: str
    suite: str
    enrolled: str


@dataclass(frozen=True, slots=True)
class BundleStatus:
    """One bundle and the names of enrolled devices that have a wrap in it."""

    path: str
    model_id: str
    release: str
    counter: str
    granted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """One role in one key family: `threshold` of `keys` must sign, `here` of them lie in this folder."""

    role: str
    family: str
    keys: int
    threshold: int
    here: int


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """All of it. expires: per piece of metadata."""

    name: str
    fleet_id: str
    root_version: int
    targets_version: int
    signatures: str
    expires: Mapping[str, str]
    roles: tuple[RoleStatus, ...]
    devices: tuple[DeviceStatus, ...]
    bundles: tuple[BundleStatus, ...]


def fleet_status(fleet: Fleet, bundles: Sequence[Path], *, wall_ns: int) -> FleetStatus:
    """Return the state of a fleet.

    Raises:
        TrustError, ModelError, ProvisioningError: something does not verify.
    """
    trust = fleet.trust(wall_ns)
    records = tuple(device_records(fleet, trust))
    found = []
    for path in bundles:
        statement = verify_bundle(path, trust, wall_ns=wall_ns).statement
        granted = tuple(r.device_name for r in records if (path / "recipients" / f"{r.kid}.hpke").is_file())
        counter = f"{statement.counter[0]}:{statement.counter[1]}"
        found.append(BundleStatus(str(path), statement.model_id, statement.release, counter, granted))
    return FleetStatus(
        name=fleet.name,
        fleet_id=fleet.fleet_id,
        root_version=trust.root_version,
        targets_version=trust.targets_version,
        signatures=trust.policy.signatures,
        expires={v.name: ns_to_date(v.expires_ns) for v in trust.validities},
        roles=_roles(fleet, trust),
        devices=tuple(DeviceStatus(r.device_name, r.kid, r.board, r.key_class, r.suite, r.enrolled) for r in records),
        bundles=tuple(found),
    )


def _roles(fleet: Fleet, trust: TrustStore) -> tuple[RoleStatus, ...]:
    groups = [g for every in (trust.top_groups, trust.groups) for found in every.values() for g in found]
    return tuple(
        RoleStatus(g.role, FAMILIES[g.scheme], len(g.keys), g.threshold, len(fleet.key_files_of([g]))) for g in groups
    )
