"""What a model finds in attacked frames, beside what it finds in the same frames when nobody attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from edgeguard.infer.adapter import ImageModel
from edgeguard.sim.attacks.base import AttackBase, SampleTruth
from edgeguard.types import CAMERA, Detection, Image


class WatchedModel(ImageModel):
    """An unprotected model that remembers how many objects it found in the frame of which stamp."""

    found: dict[int, int]

    @classmethod
    def open(cls, where: str) -> Self:
        """Open a scenario's model; raises ScenarioError EG-X018."""
        from edgeguard.sim.attacks.victims import open_victim

        victim = open_victim(where)
        model = cls(victim.session, victim.io, model_id=victim.name)
        model.found = {}
        return model

    def detect(self, image: Image) -> tuple[Detection, ...]:
        """Return the detections, and count them."""
        detections = super().detect(image)
        self.found[image.stamp_ns] = len(detections)
        return detections


@dataclass(frozen=True, slots=True)
class FoundCounts:
    """Objects found in the frames that one attack changed and that the model was shown in both runs.

    frames: how many those are. withheld: attacked frames that the model was not shown, because the camera was
    rejected. attacked, calm: objects found with the attack, and without.
    """

    attack: str
    frames: int
    withheld: int
    attacked: int
    calm: int

    @property
    def share(self) -> float | None:
        """Objects found, of those without the attack; None where nothing can be compared."""
        return self.attacked / self.calm if self.calm else None

    def record(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "attack": self.attack,
            "frames": self.frames,
            "withheld": self.withheld,
            "attacked": self.attacked,
            "calm": self.calm,
        }


def count_found(
    attacks: Sequence[AttackBase], labels: Sequence[SampleTruth], model: WatchedModel, calm: WatchedModel
) -> tuple[FoundCounts, ...]:
    """Return one count per attack on the camera, from the truths of an attacked run and the models of both."""
    counts = []
    for name in dict.fromkeys(a.name for a in attacks if a.sensor == CAMERA):
        stamps = {label.stamp_ns for label in labels if label.attack == name and label.effect == "changed"}
        both = [s for s in stamps if s in model.found and s in calm.found]
        counts.append(
            FoundCounts(
                name, len(both), sum(s not in model.found for s in stamps),
                sum(model.found[s] for s in both), sum(calm.found[s] for s in both),
            )
        )  # fmt: skip
    return tuple(counts)
