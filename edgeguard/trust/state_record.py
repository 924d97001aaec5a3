"""device.state: its fields, and the MAC that binds them to one device and one fleet. docs/formats/device-state.md."""

from __future__ import annotations

import hmac
from typing import Annotated, Final, Literal

import msgspec

from edgeguard.errors import EdgeGuardError
from edgeguard.keys.context import length_prefixed
from edgeguard.keys.provider import KeyProvider
from edgeguard.trust.dates import Date
from edgeguard.trust.policy import Count, Counter, Hex64, Name
from edgeguard.trust.strict_json import canonical, convert, parse

STATE_SCHEMA: Final = "edgeguard/device-state/v1"
STATE_LABEL: Final = "device-state/v1"  # one label, one purpose: nothing else is derived under it
MAX_STATE_BYTES: Final = 4 * 1024 * 1024  # twenty thousand models with a floor each
MAX_NOTE_CHARS: Final = 4096
_CONTEXT: Final = "edgeguard/v1/device-state"

Kid = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Note = Annotated[str, msgspec.Meta(max_length=MAX_NOTE_CHARS)]


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Newest trust metadata of one kind that this device has obeyed."""

    version: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    digest: Hex64


class ListInForce(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which revocation list lies beside the state."""

    epoch: Count
    version: Count
    digest: Hex64
    expires: Date

    @property
    def place(self) -> tuple[int, int]:
        return int(self.epoch), int(self.version)


class ModelFloor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the device remembers of one model. `installed` is the identity of the committed bundle, hex, or empty."""

    floor: Counter
    installed: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")] = ""
    installed_counter: Counter | None = None


class StateRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole state. `counted`: whether a monotonic counter keeps step with the generation."""

    schema: Literal["edgeguard/device-state/v1"]
    kid: Kid
    fleet_id: Hex64
    generation: Count
    counted: bool
    time_floor: Date
    root: Seen
    targets: Seen
    revocation: ListInForce | None
    models: dict[Name, ModelFloor]
    notes: Annotated[dict[Name, Note], msgspec.Meta(max_length=16)]


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mac: Hex64
    state: StateRecord


def seal(record: StateRecord, key: KeyProvider) -> bytes:
    """Return the file content for a record."""
    fields = msgspec.to_builtins(record)
    return canonical({"mac": _mac(record, canonical(fields), key).hex(), "state": fields})


def unseal(raw: bytes, key: KeyProvider, fleet_id: str) -> StateRecord | None:
    """Return the record, or None when it is not this device's and fleet's own; the cause is deliberately not told."""
    if len(raw) > MAX_STATE_BYTES:
        return None
    try:
        tree = parse(raw, what="device.state")
        sealed = convert(tree, _Sealed, what="device.state")
    except EdgeGuardError:
        return None
    record = sealed.state
    expected = _mac(record, canonical(tree["state"]), key)
    genuine = hmac.compare_digest(expected, bytes.fromhex(sealed.mac))
    return record if genuine and record.kid == key.kid and record.fleet_id == fleet_id else None


def _mac(record: StateRecord, fields: bytes, key: KeyProvider) -> bytes:
    message = length_prefixed(_CONTEXT, record.kid, record.fleet_id, fields)
    with key.derive_secret(STATE_LABEL) as secret:
        return hmac.digest(secret.view, message, "sha256")
