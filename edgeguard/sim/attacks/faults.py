"""Faults that need no attacker: a stream that stops, a cable that comes out; glare and a hung camera."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from edgeguard.sim.attacks.base import AttackBase, End, Moment, Start
from edgeguard.types import CAMERA, Image, Sample


class CameraBlind(AttackBase, frozen=True, tag="camera_blind"):
    """Glare everywhere: every pixel is lifted by a share of full scale."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0041", "AML.T0029")
    knob: ClassVar[str] = "strength"

    start_s: Start
    end_s: End
    strength: Annotated[float, msgspec.Meta(gt=0.0, le=4.0, description="share of full scale; 1 saturates")] = 1.0
    sensor: str = CAMERA

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


class CameraFreeze(AttackBase, frozen=True, tag="camera_freeze"):
    """The last frame again and again under fresh stamps: a hung driver."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0029",)

    start_s: Start
    end_s: End
    sensor: str = CAMERA

    @property
    def size(self) -> str:
        return "last frame repeated"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return the held frame with the new stamps."""
        if not isinstance(sample, Image) or not isinstance(moment.held, Image):
            return sample
        return replace(sample, pixels=moment.held.pixels)


class Silence(AttackBase, frozen=True, tag="silence"):
    """Nothing arrives from a sensor for a while; the line itself stays open."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0029",)

    start_s: Start
    end_s: End
    sensor: str

    @property
    def size(self) -> str:
        return "all samples lost"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Lose the sample."""
        del sample, moment
        return None


class Unplug(AttackBase, frozen=True, tag="unplug"):
    """The cable of a sensor comes out and stays out: the device goes away for good."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0029",)
    unplugs: ClassVar[bool] = True

    start_s: Start
    sensor: str
    end_s: End = 86_400.0

    @property
    def size(self) -> str:
        return "device gone"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Lose the sample; the source also goes away."""
        del sample, moment
        return None
