"""Adversarial perturbation of camera frames on their way to a model: by gradients, or by asking.

The attacker sits between camera and model (a cable, a driver, a compromised ISP), knows the model or can ask it, and
changes each pixel by at most `eps` levels. The same on batches of images: `edgeguard.sim.attacks.perturb`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec
import numpy as np

from edgeguard.errors import ScenarioError
from edgeguard.sim.attacks.base import AttackBase, End, Moment, Start
from edgeguard.types import CAMERA, Image, Sample

if TYPE_CHECKING:
    from edgeguard.sim.attacks.goals import Goal
    from edgeguard.sim.attacks.gradient import GradientAttack, WhiteBox
    from edgeguard.sim.attacks.victims import Victim

Want = Literal["hide", "appear", "misclassify"]
Levels = Annotated[int, msgspec.Meta(ge=1, le=255, description="largest change of a channel, of 255 levels")]
Model = Annotated[str, msgspec.Meta(min_length=1, description="obstacle_detector, or an .onnx with a .toml beside it")]
Wanted = Annotated[Want, msgspec.Meta(description="hide or appear on a grid detector, misclassify on a classifier")]


class CameraPgd(AttackBase, frozen=True, tag="camera_pgd"):
    """White-box perturbation: gradient steps on every frame against the model itself; FGSM with one step.

    Needs the extra `eval`.
    """

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043", "AML.T0015")
    source: ClassVar[str] = "Madry et al., ICLR 2018; Goodfellow et al., ICLR 2015; Athalye et al., ICML 2018"
    knob: ClassVar[str] = "eps"

    start_s: Start
    end_s: End
    eps: Levels = 8
    steps: Annotated[int, msgspec.Meta(ge=1, le=1000, description="1 is FGSM")] = 10
    luma_only: Annotated[bool, msgspec.Meta(description="no change of colour, only of brightness")] = False
    block_px: Annotated[int, msgspec.Meta(ge=1, le=256, description="blocks of pixels that change alike")] = 1
    patch_share: Annotated[
        float, msgspec.Meta(ge=0.0, le=1.0, description="a square of any pixels in mid frame, side per height; 0: none")
    ] = 0.0
    want: Wanted = "hide"
    model: Model = "obstacle_detector"
    sensor: str = CAMERA

    @property
    def size(self) -> str:
        if self.patch_share > 0.0:
            return f"patch of {100 * self.patch_share:g} % of the height, {self.steps} steps"
        kind = ", luma alone" if self.luma_only else ""
        return f"{self.eps} of 255 levels, {self.steps} steps{kind}"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Perturb the frame against what the model makes of it."""
        if not isinstance(sample, Image):
            return sample
        height, width = sample.pixels.shape[:2]
        attack, victim, goal = _gradient(self.model, self.want, self._how(width, height), (width, height))
        images = sample.pixels[None]
        return replace(sample, pixels=attack(images, _own_answer(victim, goal, images), moment.rng)[0])

    def _how(self, width: int, height: int) -> WhiteBox:
        from edgeguard.sim.attacks.gradient import WhiteBox

        patch = None
        if self.patch_share > 0.0:
            side = max(1, min(round(self.patch_share * height), width, height))
            left, top = (width - side) // 2, (height - side) // 2
            patch = (left, top, left + side, top + side)
        return WhiteBox(
            self.eps, self.steps, random_start=self.steps > 1, luma_only=self.luma_only, block_px=self.block_px,
            patch=patch,
        )  # fmt: skip


class CameraSquare(AttackBase, frozen=True, tag="camera_square"):
    """Black-box perturbation: random squares, kept when the model's scores say that they help; no gradient."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.001", "AML.T0043", "AML.T0015")
    source: ClassVar[str] = "Andriushchenko et al., Square Attack, ECCV 2020"
    knob: ClassVar[str] = "eps"

    start_s: Start
    end_s: End
    eps: Levels = 16
    queries: Annotated[int, msgspec.Meta(ge=1, le=100_000, description="most questions to the model per frame")] = 100
    want: Wanted = "hide"
    model: Model = "obstacle_detector"
    sensor: str = CAMERA

    @property
    def size(self) -> str:
        return f"{self.eps} of 255 levels, {self.queries} queries"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Search for a perturbation of the frame within the budget."""
        if not isinstance(sample, Image):
            return sample
        from edgeguard.sim.attacks.square import square_attack

        victim, goal = _victim(self.model, self.want)
        images = sample.pixels[None]
        labels = _own_answer(victim, goal, images)
        found, _ = square_attack([victim], goal, images, labels, eps=self.eps, queries=self.queries, rng=moment.rng)
        return replace(sample, pixels=found[0])


class CameraLabels(AttackBase, frozen=True, tag="camera_labels"):
    """Black-box perturbation by answers alone: only whether the goal is reached is known, no score and no gradient."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.001", "AML.T0043", "AML.T0015")
    source: ClassVar[str] = "Chen, Gu, RayS, KDD 2020"
    knob: ClassVar[str] = "eps"

    start_s: Start
    end_s: End
    eps: Levels = 32
    queries: Annotated[int, msgspec.Meta(ge=1, le=100_000, description="most questions to the model per frame")] = 100
    want: Annotated[
        Literal["hide", "misclassify"],
        msgspec.Meta(description="hide on a grid detector, misclassify on a classifier; nothing says when all appears"),
    ] = "hide"
    model: Model = "obstacle_detector"
    sensor: str = CAMERA

    @property
    def size(self) -> str:
        return f"{self.eps} of 255 levels, {self.queries} queries"

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Search for the nearest frame that reaches the goal; what is farther than eps is not worth showing."""
        if not isinstance(sample, Image):
            return sample
        from edgeguard.sim.attacks.rays import rays_attack

        victim, goal = _victim(self.model, self.want)
        images = sample.pixels[None]
        labels = _own_answer(victim, goal, images)
        near = rays_attack([victim], goal, images, labels, queries=self.queries, rng=moment.rng, eps=self.eps)
        return replace(sample, pixels=near.images[0]) if near.radius[0] <= self.eps else sample


@lru_cache(maxsize=4)
def _victim(model: str, want: Want) -> tuple[Victim, Goal]:
    """Open a model once for all frames of a drive, with what is wanted of it."""
    from edgeguard.sim.attacks.goals import Misclassify, Objects
    from edgeguard.sim.attacks.victims import open_victim

    victim = open_victim(model)
    decoder = victim.io.decoder
    if (want == "misclassify") == (decoder.kind == "grid-detector/v1"):
        raise ScenarioError(
            f"{victim.name} cannot be made to {want}", code="EG-X018", hint="hide and appear want a grid detector"
        )
    return victim, Misclassify() if want == "misclassify" else Objects(want, decoder.score_threshold)


@lru_cache(maxsize=4)
def _gradient(
    model: str, want: Want, how: WhiteBox, frame_size_px: tuple[int, int]
) -> tuple[GradientAttack, Victim, Goal]:
    from edgeguard.sim.attacks.gradient import GradientAttack

    victim, goal = _victim(model, want)
    return GradientAttack([victim], goal, how, frame_size_px), victim, goal


def _own_answer(victim: Victim, goal: Goal, images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> np.ndarray[
    tuple[int, ...], np.dtype[np.intp]
]:  # fmt: skip
    """Return what the model says of the genuine frame: the attacker on a cable has no other truth."""
    from edgeguard.sim.attacks.goals import Misclassify, as_scores

    if not isinstance(goal, Misclassify):
        return np.zeros(len(images), dtype=np.intp)
    return np.asarray(as_scores(victim.run(images)).argmax(axis=1))
