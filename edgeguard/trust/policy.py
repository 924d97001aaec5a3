"""policy.json: what the offline targets keys say about a fleet. docs/formats/trust.md section 3.

Local configuration may tighten what stands here and never loosen it.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from edgeguard.keys.context import SUITE_P256
from edgeguard.trust.dates import Date

POLICY_SCHEMA = "edgeguard/fleet-policy/v1"
CLASSICAL: Final = "classical"
HYBRID: Final = "hybrid-required"

Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
# Counters are decimal strings below 2^63: tools that pass JSON through doubles would round a number.
Count = Annotated[str, msgspec.Meta(pattern=r"\A(0|[1-9][0-9]{0,17})\Z")]
PredicateType = Annotated[str, msgspec.Meta(pattern=r"\Ahttps://[!-~]{1,247}\Z")]

Signatures = Literal["classical", "hybrid-required"]


class Counter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A security counter; epochs are reset by offline keys alone."""

    epoch: Count
    number: Count

    @property
    def value(self) -> tuple[int, int]:
        """(epoch, number), which compare in that order."""
        return int(self.epoch), int(self.number)


class RevocationPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How lists are obeyed: docs/formats/revocation.md sections 3 and 4.

    `epoch`: the one a list must carry; offline keys begin the next. `required`: whether a device without any list
    refuses every model. `install_max_age_s`, `run_max_age_s`: how old a list may be; null sets no limit.
    """

    epoch: Count = "0"
    required: bool = True
    install_max_age_s: Count | None = None
    run_max_age_s: Count | None = None


class EnrolKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fleet's enrolment keys by curve: 32 raw bytes of X25519, and an uncompressed P-256 point, in hex."""

    x25519: Hex64
    p256: Annotated[str, msgspec.Meta(pattern=r"\A04[0-9a-f]{128}\Z")]

    def point_for(self, suite: str) -> bytes:
        """Return the point of the curve that a device's suite uses; a hybrid key uses its X25519 half."""
        return bytes.fromhex(self.p256 if suite == SUITE_P256 else self.x25519)


class FleetPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole of policy.json.

    `signatures` says which families must sign: P-256 alone, or P-256 and ML-DSA-65 for every role. `issued` is a signed
    time and so a floor for the device's clock. `floors` are security counters per model below which a bundle is
    refused. `enrol_keys` are the keys against which devices prove possession of theirs. What is absent has the
    stricter meaning: `device_state` says whether a model opens only beside an authenticated state; `equal_counter`
    whether another bundle may follow a committed one under the same counter; `required_attestations` lists the
    in-toto predicate types that a bundle must carry, signed by `attest`.
    """

    schema: Literal["edgeguard/fleet-policy/v1"]
    fleet_id: Hex64
    fleet_name: Name
    issued: Date
    channels: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=16)]
    signatures: Signatures
    floors: dict[Name, Counter]
    unlocked_memory: Literal["refuse-with-swap", "allow"]
    enrol_keys: EnrolKeys
    device_state: Literal["required", "optional"] = "required"
    revocation: RevocationPolicy = RevocationPolicy()
    equal_counter: Literal["accept", "refuse"] = "accept"
    required_attestations: Annotated[tuple[PredicateType, ...], msgspec.Meta(max_length=16)] = ()
