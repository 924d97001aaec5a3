"""Faults that need no attacker: a blinded or frozen camera, a stream that stops, a cable that comes out."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from edgeguard.sim.attacks.base import Moment
from edgeguard.types import CAMERA, Image, Sample


class CameraBlind(msgspec.Struct, frozen=True, tag="camera_blind", forbid_unknown_fields=True):
    """Glare: `strength` of full scale is added everywhere, so that 1.0 saturates the whole sensor."""

    start_s: float
    end_s: float
    strength: float = 1.0

    @property
    def name(self) -> str:
        return "camera_blind"

    @property
    def sensor(self) -> str:
        return CAMERA

    @property
    def size(self) -> str:
        return f"{100 * self.strength:g} % of full scale"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Lift all pixels, clipped as a sensor clips."""
        del moment
        if not isinstance(sample, Image):
            return sample
        lifted = sample.pixels.astype(np.float32) + np.float32(255.0 * self.strength)
        return replace(sample, pixels=np.clip(lifted, 0, 255).astype(np.uint8))


class CameraFreeze(msgspec.Struct, frozen=True, tag="camera_freeze", forbid_unknown_fields=True):
    """The last frame again and again under fresh stamps: a hung driver, or a looped recording."""

    start_s: float
    end_s: float

    @property
    def name(self) -> str:
        return "camera_freeze"

    @property
    def sensor(self) -> str:
        return CAMERA

    @property
    def size(self) -> str:
        return "last frame repeated"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return the held frame with the new stamps."""
        if not isinstance(sample, Image) or not isinstance(moment.held, Image):
            return sample
        return replace(sample, pixels=moment.held.pixels)


class Silence(msgspec.Struct, frozen=True, tag="silence", forbid_unknown_fields=True):
    """Nothing arrives from `sensor` for a while; the line itself stays open."""

    start_s: float
    end_s: float
    sensor: str

    @property
    def name(self) -> str:
        return "silence"

    @property
    def size(self) -> str:
        return "all samples lost"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Lose the sample."""
        del sample, moment
        return None


class Unplug(msgspec.Struct, frozen=True, tag="unplug", forbid_unknown_fields=True):
    """The cable of `sensor` comes out at `start_s` and stays out: the simulated device goes away for good."""

    start_s: float
    sensor: str
    end_s: float = 86_400.0

    @property
    def name(self) -> str:
        return "unplug"

    @property
    def size(self) -> str:
        return "device gone"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Lose the sample; `SimRig` also closes the line."""
        del sample, moment
        return None
