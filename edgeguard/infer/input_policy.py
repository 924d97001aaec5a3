"""What a release says about its inputs: the chains that may restore them, and what they looked like.

`input_policy` of the signed manifest (docs/formats/bundle.md section 4). What ran is then what was evaluated: a device
cannot be given other chains than its release was measured with.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from edgeguard.detect.drift import DriftReference
from edgeguard.errors import ConfigError
from edgeguard.restore.chain_file import SensorChain, restorer_of
from edgeguard.restore.image_chain import MAX_CHAINS, STANDARD_CHAINS, ImageChain
from edgeguard.types import Restorer

SCHEMA: Final = "edgeguard/input-policy/v1"


class InputPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The content of `input_policy`. chains: what the gate may choose from on an alarm. mirror: whether a picture with
    left and right exchanged still is of its class; not for arrows and letters. drift: None watches nothing. sensors:
    chains that run on every point cloud and series of their sensor, after the configured restorers."""

    schema: Literal["edgeguard/input-policy/v1"]
    chains: Annotated[tuple[ImageChain, ...], Meta(min_length=1, max_length=MAX_CHAINS)] = STANDARD_CHAINS
    mirror: bool = True
    drift: DriftReference | None = None
    sensors: Annotated[tuple[SensorChain, ...], Meta(max_length=MAX_CHAINS)] = ()

    def __post_init__(self) -> None:
        names = [chain.name for chain in (*self.chains, *self.sensors)]
        if len(set(names)) != len(names):
            raise ValueError("two chains have the same name")

    @classmethod
    def of(cls, fields: dict[str, Any] | None) -> InputPolicy:
        """Read the manifest's field; without one the standard chains and no drift reference.

        Raises:
            ConfigError: EG-C146: not an input policy, or of a version that is not read here.
        """
        if fields is None:
            return cls(SCHEMA)
        try:
            return msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            reason = str(error)
        raise ConfigError(
            f"the model's input policy cannot be used: {reason}",
            code="EG-C146",
            hint="pack the model again with chains and a drift reference that this release reads",
        )

    def restorers(self) -> tuple[Restorer, ...]:
        """Return what runs the chains of `sensors`, in order."""
        return tuple(restorer_of(chain) for chain in self.sensors)

    def fields(self) -> dict[str, Any]:
        """Return what goes into the manifest."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        return content
