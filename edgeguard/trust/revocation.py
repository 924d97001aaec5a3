"""The signed revocation list: what a fleet takes back. docs/formats/revocation.md.

TUF Targets metadata of the terminating role `revocation` names one target, the list. Signatures, thresholds and
typed groups are those of `TrustStore.verify_delegated`; what is added here is what a list may say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal, Protocol

import msgspec

from edgeguard.clock import NS_PER_S
from edgeguard.errors import EdgeGuardError, TrustError
from edgeguard.trust.dates import Date, date_to_ns
from edgeguard.trust.floors import Place, exceeds_step
from edgeguard.trust.policy import Count, Counter, FleetPolicy, Hex64, Name
from edgeguard.trust.strict_json import convert, parse

if TYPE_CHECKING:
    from tuf.api.metadata import Targets  # type: ignore[attr-defined] # documented re-export

LIST_SCHEMA: Final = "edgeguard/revocation/v1"
LIST_TARGET: Final = "revocation/list.json"
METADATA_FILE: Final = "revocation.json"
LIST_FILE: Final = "revocation-list.json"
MAX_METADATA_BYTES: Final = 512_000  # as root metadata
MAX_LIST_BYTES: Final = 4 * 1024 * 1024  # sixty thousand bundles, or a hundred thousand devices
_MAX_ENTRIES: Final = 100_000
_HINT: Final = "copy the fleet's newest trust folder or bundle to the device"

Kid = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]


class OfflineTrust(Protocol):
    """What a list is judged by: the verified trust of a fleet, without its lists (`TrustStore` is one)."""

    @property
    def fleet_id(self) -> str: ...

    @property
    def policy(self) -> FleetPolicy: ...

    @property
    def expires_ns(self) -> int: ...

    def floor(self, model_id: str, /) -> tuple[int, int]: ...

    def verify_delegated(self, role: str, raw: bytes, /) -> Targets: ...


class RevokedSigner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"still_good": "except"}):
    """A release key that no longer counts, except over the statements named in `still_good`."""

    keyid: Hex64
    still_good: Annotated[tuple[Hex64, ...], msgspec.Meta(max_length=_MAX_ENTRIES)] = ()


class RevocationListFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of revocation-list.json."""

    schema: Literal["edgeguard/revocation/v1"]
    fleet_id: Hex64
    epoch: Count
    version: Count
    issued: Date
    floors: dict[Name, Counter]
    bundles: Annotated[tuple[Hex64, ...], msgspec.Meta(max_length=_MAX_ENTRIES)]
    signers: Annotated[tuple[RevokedSigner, ...], msgspec.Meta(max_length=4096)]
    devices: Annotated[tuple[Kid, ...], msgspec.Meta(max_length=_MAX_ENTRIES)]

    def __post_init__(self) -> None:
        for names in (self.bundles, self.devices, [s.keyid for s in self.signers]):
            if list(names) != sorted(set(names)):
                raise ValueError("entries are sorted and differ")
        if any(list(s.still_good) != sorted(set(s.still_good)) for s in self.signers):
            raise ValueError("exceptions are sorted and differ")
        if self.version == "0":
            raise ValueError("versions begin at 1")


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list somebody entitled has signed.

    place: (epoch, version). digest: SHA-256 (hex) of `content`, the list's bytes. issued_ns: signed time;
    expires_ns: last moment for new installs; both nanoseconds since 1970 UTC. bundles: identities, hex. signers:
    key id to the identities still vouched for. devices: kids.
    """

    place: Place
    digest: str
    issued_ns: int
    expires_ns: int
    floors: Mapping[str, Place]
    bundles: frozenset[str]
    signers: Mapping[str, frozenset[str]]
    devices: frozenset[str]
    content: bytes

    def floor(self, model_id: str) -> Place:
        """Return the floor of a model; (0, 0) where the list sets none."""
        return self.floors.get(model_id, (0, 0))

    def revokes_signer(self, keyid: str, identity: bytes) -> bool:
        """Return whether a release key's signature over the statement `identity` no longer counts."""
        return keyid in self.signers and identity.hex() not in self.signers[keyid]

    def is_older_than(self, limit_s: str | None, now_ns: int) -> bool:
        """Return whether more than `limit_s` seconds (a decimal string) have passed since it was issued."""
        return limit_s is not None and now_ns - self.issued_ns > int(limit_s) * NS_PER_S


def parse_list(content: bytes, *, fleet_id: str, expires_ns: int) -> RevocationList:
    """Read list bytes whose origin has been established, by signature or by the device state's digest.

    Raises:
        TrustError: EG-T021 not a list, EG-T010 another fleet's.
    """
    file, issued_ns = _parsed(content)
    if file.fleet_id != fleet_id:
        raise TrustError("the revocation list belongs to another fleet", code="EG-T010", hint=_HINT)
    return RevocationList(
        place=(int(file.epoch), int(file.version)),
        digest=hashlib.sha256(content).hexdigest(),
        issued_ns=issued_ns,
        expires_ns=expires_ns,
        floors=MappingProxyType({name: counter.value for name, counter in file.floors.items()}),
        bundles=frozenset(file.bundles),
        signers=MappingProxyType({s.keyid: frozenset(s.still_good) for s in file.signers}),
        devices=frozenset(file.devices),
        content=content,
    )


def verified_list(trust: OfflineTrust, metadata: bytes, content: bytes) -> RevocationList:
    """Verify metadata and list as they lie in a trust folder or a bundle.

    Raises:
        TrustError: EG-T021 malformed, not signed by the revocation role, or it says what a list may not; EG-T010
            another fleet's.
    """
    if len(metadata) > MAX_METADATA_BYTES or len(content) > MAX_LIST_BYTES:
        raise TrustError("the revocation list is too large", code="EG-T021", hint=_HINT)
    signed = _signed(trust, metadata)
    target = signed.targets.get(LIST_TARGET)
    listed = target is not None and len(signed.targets) == 1 and target.length == len(content)
    if target is None or not listed or target.hashes.get("sha256") != hashlib.sha256(content).hexdigest():
        raise TrustError(f"{LIST_FILE} is not the one that {METADATA_FILE} signs", code="EG-T021", hint=_HINT)
    expires_ns = int(signed.expires.timestamp()) * NS_PER_S
    parsed = parse_list(content, fleet_id=trust.fleet_id, expires_ns=expires_ns)
    _require_within_bounds(trust, parsed, signed.version)
    return parsed


def _parsed(content: bytes) -> tuple[RevocationListFile, int]:
    try:
        file = convert(parse(content, what=LIST_FILE), RevocationListFile, what=LIST_FILE)
        return file, date_to_ns(file.issued, what="issued")
    except EdgeGuardError as error:
        reason = error.message
    raise TrustError(reason, code="EG-T021", hint=_HINT)


def _signed(trust: OfflineTrust, metadata: bytes) -> Targets:
    try:
        return trust.verify_delegated("revocation", metadata)
    except EdgeGuardError as error:
        reason = error.message
    raise TrustError(f"the revocation list is refused: {reason}", code="EG-T021", hint=_HINT)


def newest(trust: OfflineTrust, *lists: RevocationList | None) -> RevocationList | None:
    """Return the newest of the lists that are of the policy's epoch, or None.

    Raises:
        TrustError: EG-T022, two different lists under one place: whoever signs them equivocates.
    """
    best: RevocationList | None = None
    for one in lists:
        if one is None or one.place[0] != _offline_epoch(trust):
            continue
        if best is not None and one.place == best.place and one.digest != best.digest:
            raise TrustError(
                "two different revocation lists carry one version",
                code="EG-T022",
                hint="ask the fleet's owner for a list of the next version",
            )
        if best is None or one.place > best.place:
            best = one
    return best


def _require_within_bounds(trust: OfflineTrust, signed: RevocationList, metadata_version: int) -> None:
    """What the keys of this role may not say, because they are online: section 3 of the format."""
    reason = ""
    if signed.place[1] != metadata_version:
        reason = "its version is not its metadata's"
    elif signed.place[0] != _offline_epoch(trust):
        reason = "its epoch is not the fleet policy's"
    elif signed.issued_ns >= min(signed.expires_ns, trust.expires_ns):
        reason = "it is issued after it or the fleet's metadata has expired"
    for model_id, floor in signed.floors.items():
        offline = trust.floor(model_id)
        if floor[0] > offline[0] or (floor[0] == offline[0] and exceeds_step(floor, offline)):
            reason = "a floor jumps further than a list may raise it"
    if reason:
        raise TrustError(f"the revocation list is refused: {reason}", code="EG-T021", hint=_HINT)


def _offline_epoch(trust: OfflineTrust) -> int:
    return int(trust.policy.revocation.epoch)
