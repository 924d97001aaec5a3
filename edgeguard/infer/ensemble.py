"""Several classifiers behind one answer: the median of their log-odds (MITRE ATLAS AML.M0006)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeguard.detect.vote import median_log_odds
from edgeguard.errors import ConfigError
from edgeguard.infer.adapter import ImageModel
from edgeguard.types import Image

MAX_MEMBERS = 8  # every member costs a pass on each alarm: the time of an alarm has to stay bounded


class EnsembleSession:
    """Classifiers over the same classes, each from a bundle of its own.

    Args:
        members: described as `classifier/v1`, with equal labels in equal order. Different architectures: a perturbation
            made for one mostly leaves the others alone, and one made for its quantised twin does not.

    Raises:
        ConfigError: EG-C142: none or too many members, one that is no classifier, or labels that differ.
    """

    def __init__(self, members: Sequence[ImageModel]) -> None:
        self.members = checked_members(members)
        for member in self.members:
            if member.io.decoder.kind != "classifier/v1":
                raise ConfigError(
                    f"{member.model_id or 'a member'} is not described as a classifier",
                    code="EG-C142",
                    hint='pack it with [decoder] kind = "classifier/v1"',
                )

    def answers(self, image: Image) -> tuple[NDArray[np.float64], ...]:
        """Return each member's probabilities, (C,) float64, in the members' order. Raises as `ImageModel.classify`."""
        return tuple(member.classify(image) for member in self.members)

    def classify(self, image: Image) -> NDArray[np.float64]:
        """Return the vote, (C,) float64 with sum one. Raises as `ImageModel.classify`, and ConfigError EG-C142 where
        the members have different numbers of classes."""
        answers = self.answers(image)
        if len({answer.size for answer in answers}) != 1:
            raise ConfigError("the members have different numbers of classes", code="EG-C142")
        return median_log_odds(answers)


def checked_members(members: Sequence[ImageModel]) -> tuple[ImageModel, ...]:
    """Return models whose answers can be held against each other.

    Raises:
        ConfigError: EG-C142: none or too many, of different kinds, of raw outputs, or with different labels.
    """
    if not 1 <= len(members) <= MAX_MEMBERS:
        raise ConfigError(f"an ensemble has 1 to {MAX_MEMBERS} members, not {len(members)}", code="EG-C142")
    kinds = {member.io.decoder.kind for member in members}
    if len(kinds) > 1 or "raw" in kinds:
        raise ConfigError(
            "the members are not described as models of one kind",
            code="EG-C142",
            hint='pack all with [decoder] kind = "classifier/v1", or all with "grid-detector/v1"',
        )
    if len({member.io.decoder.labels for member in members}) != 1:
        raise ConfigError(
            "the members' labels differ", code="EG-C142", hint="an ensemble votes over the same classes in one order"
        )
    return tuple(members)
