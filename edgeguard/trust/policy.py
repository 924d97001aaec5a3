"""policy.json: what the offline targets keys say about a fleet. docs/formats/trust.md section 3.

Local configuration may tighten what stands here and never loosen it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgeguard.trust.dates import Date

POLICY_SCHEMA = "edgeguard/fleet-policy/v1"
SCHEME_P256 = "ecdsa-sha2-nistp256"

Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
# Counters are decimal strings below 2^63: tools that pass JSON through doubles would round a number.
Count = Annotated[str, msgspec.Meta(pattern=r"\A(0|[1-9][0-9]{0,17})\Z")]


class Counter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A security counter; epochs are reset by offline keys alone."""

    epoch: Count
    number: Count

    @property
    def value(self) -> tuple[int, int]:
        """(epoch, number), which compare in that order."""
        return int(self.epoch), int(self.number)


class SignatureGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At least `threshold` distinct release keys of one scheme must have signed a bundle."""

    scheme: Literal["ecdsa-sha2-nistp256"]
    threshold: Annotated[int, msgspec.Meta(ge=1, le=16)]


class FleetPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of policy.json.

    `issued` is a signed time and so a floor for the device's clock. `floors` are security counters per model below
    which a bundle is refused. `enrol_key` is the raw X25519 key against which devices prove possession of theirs.
    """

    schema: Literal["edgeguard/fleet-policy/v1"]
    fleet_id: Hex64
    fleet_name: Name
    issued: Date
    channels: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=16)]
    signature_groups: Annotated[tuple[SignatureGroup, ...], msgspec.Meta(min_length=1, max_length=4)]
    floors: dict[Name, Counter]
    unlocked_memory: Literal["refuse-with-swap", "allow"]
    enrol_key: Hex64

    def __post_init__(self) -> None:
        schemes = [g.scheme for g in self.signature_groups]
        if len(set(schemes)) != len(schemes):
            raise ValueError("one signature group per scheme")
