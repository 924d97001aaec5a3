"""Versions of the index that this device has seen, in a note of its state: a deleted cache forgets nothing.

docs/formats/repository.md section 4, step 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec

from edgeguard.errors import EdgeGuardError, TrustError
from edgeguard.trust.policy import Hex64
from edgeguard.trust.role_keys import KeyGroup
from edgeguard.trust.state import DeviceState
from edgeguard.trust.strict_json import canonical, convert, parse

NOTE: Final = "tuf"


class SeenVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Newest version of one role's metadata; `keys`: digest of the keys that could sign it."""

    keys: Hex64
    version: Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class _Versions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: Literal["edgeguard/index-versions/v1"]
    roles: Annotated[dict[str, SeenVersion], msgspec.Meta(max_length=8)]


def keys_digest(groups: Sequence[KeyGroup]) -> str:
    """Return what changes when a role's keys change."""
    return hashlib.sha256(b"".join(sorted(key.public_der for group in groups for key in group.keys))).hexdigest()


def require_not_older(state: DeviceState, found: Mapping[str, SeenVersion]) -> None:
    """Check the index's versions against what this device has seen.

    A role whose keys have changed starts afresh: only root or targets can change them, and it is how a fleet recovers
    from a thief who has signed a very high version.

    Raises:
        TrustError: EG-T052.
    """
    for role, known in _known(state).items():
        now = found.get(role)
        if now is None or (now.keys == known.keys and now.version < known.version):
            raise TrustError(
                f"the repository's {role} is older than this device has seen",
                code="EG-T052",
                hint="refresh the repository, or copy it to the stick again",
            )


def remember(state: DeviceState, found: Mapping[str, SeenVersion]) -> None:
    """Keep the versions; raises as `DeviceState.set_note`."""
    fields = {"schema": "edgeguard/index-versions/v1", "roles": msgspec.to_builtins(dict(found))}
    state.set_note(NOTE, canonical(fields).decode())


def _known(state: DeviceState) -> Mapping[str, SeenVersion]:
    text = state.note(NOTE)
    if not text:
        return {}
    try:
        return convert(parse(text.encode(), what="the note"), _Versions, what="the note").roles
    except EdgeGuardError as error:
        reason = error.message
    raise TrustError(f"the device state's note of the index is unreadable: {reason}", code="EG-T052")
