"""policy.json: what the offline targets keys say about a fleet. docs/formats/trust.md section 3.

Local configuration may tighten what stands here and never loosen it.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from edgeguard.trust.dates import Date

POLICY_SCHEMA = "edgeguard/fleet-policy/v1"
CLASSICAL: Final = "classical"
HYBRID: Final = "hybrid-required"

Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
# Counters are decimal strings below 2^63: tools that pass JSON through doubles would round a number.
Count = Annotated[str, msgspec.Meta(pattern=r"\A(0|[1-9][0-9]{0,17})\Z")]


Signatures = Literal["classical", "hybrid-required"]


class Counter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A security counter; epochs are reset by offline keys alone."""

    epoch: Count
    number: Count

    @property
    def value(self) -> tuple[int, int]:
        """(epoch, number), which compare in that order."""
        return int(self.epoch), int(self.number)


class FleetPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of policy.json.

    `signatures` says which families must sign: P-256 alone, or P-256 and ML-DSA-65 for every role. `issued` is a signed
    time and so a floor for the device's clock. `floors` are security counters per model below which a bundle is
    refused. `enrol_key` is the raw X25519 key against which devices prove possession of theirs.
    """

    schema: Literal["edgeguard/fleet-policy/v1"]
    fleet_id: Hex64
    fleet_name: Name
    issued: Date
    channels: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=16)]
    signatures: Signatures
    floors: dict[Name, Counter]
    unlocked_memory: Literal["refuse-with-swap", "allow"]
    enrol_key: Hex64
