"""TUF metadata as this fleet uses it: parsed twice, signed by typed groups, delegated in one shape.

python-tuf reads the metadata and checks each signature; how many of which family must sign is decided here, because
its threshold counts keys and not families. docs/formats/trust.md sections 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from tuf.api.metadata import (  # type: ignore[attr-defined] # documented re-exports
    Metadata,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from edgeguard.errors import EdgeGuardError, TrustError
from edgeguard.trust.role_keys import KeyGroup, groups_of_role, typed_key
from edgeguard.trust.strict_json import parse

RELEASE = "release"
RELEASE_PQ = "release-pq"
REVOCATION = "revocation"
ENROL = "enrol"
ATTEST = "attest"
# Every delegation a fleet may have, with the one path pattern it covers. `release-pq` exists in hybrid fleets alone.
DELEGATED_PATHS = MappingProxyType({
    RELEASE: "bundles/*",
    RELEASE_PQ: "bundles-pq/*",
    REVOCATION: "revocation/*",
    ENROL: "devices/*",
    ATTEST: "attestations/*",
})  # fmt: skip
TOP_ROLES = ("root", "targets", "snapshot", "timestamp")
HINT = "copy the fleet's trust folder to the device again"

S = TypeVar("S", Root, Targets, Snapshot, Timestamp)


def parse_metadata(raw: bytes, kind: type[S], what: str) -> Metadata[S]:
    """Parse twice: once strictly, because the TUF library lets duplicate keys pass, once as metadata.

    Raises:
        TrustError: EG-T002.
    """
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
    raise TrustError(reason, code="EG-T002", hint=HINT)


def groups(delegator: Root | Targets, role: str) -> tuple[KeyGroup, ...]:
    """Return what must sign for `role`, as its delegator says.

    Raises:
        TrustError: EG-T005, no such delegation, not terminating, other paths, or keys that will not do.
    """
    if isinstance(delegator, Root):
        top = delegator.roles[role]
        return groups_of_role(role, top.keyids, top.threshold, delegator.keys)
    roles = delegator.delegations.roles if delegator.delegations else None
    delegated = roles.get(role) if roles else None
    keys = delegator.delegations.keys if delegator.delegations else {}
    if delegated is None or not delegated.terminating or delegated.paths != [DELEGATED_PATHS[role]]:
        raise TrustError(f"targets does not delegate {role} as it must", code="EG-T005", hint=HINT)
    return groups_of_role(role, delegated.keyids, delegated.threshold, keys)


def require_signed(delegator: Root | Targets, role: str, metadata: Metadata[Any], what: str) -> None:
    """Check that every group of `role` has signed `metadata`.

    Raises:
        TrustError: EG-T003 not signed, EG-T005 the delegation itself will not do.
    """
    required = groups(delegator, role)
    signed: Sequence[bytes] = ()
    try:
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        if result.verified:
            signed = [typed_key(role, key).public_der for key in result.signed.values()]
    except Exception:  # unknown key type, broken key, broken signature: one refusal
        signed = ()
    if not all(group.is_met_by(signed) for group in required):
        raise TrustError(f"{what} is not signed by the keys that must sign it", code="EG-T003", hint=HINT)


def require_known_delegations(targets: Targets) -> tuple[str, ...]:
    """Return the names of the delegated roles: all of section 1, `release-pq` only where present, no other.

    Raises:
        TrustError: EG-T005.
    """
    found = frozenset(targets.delegations.roles or {}) if targets.delegations else frozenset()
    if found | {RELEASE_PQ} != frozenset(DELEGATED_PATHS):
        raise TrustError("targets does not delegate exactly the roles of a fleet", code="EG-T005", hint=HINT)
    return tuple(name for name in DELEGATED_PATHS if name in found)
