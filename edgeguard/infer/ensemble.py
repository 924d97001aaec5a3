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
        self.members = tuple(members)
        if not 1 <= len(self.members) <= MAX_MEMBERS:
            raise ConfigError(f"an ensemble has 1 to {MAX_MEMBERS} members, not {len(self.members)}", code="EG-C142")
        for member in self.members:
            if member.io.decoder.kind != "classifier/v1":
                raise ConfigError(
                    f"{member.model_id or 'a member'} is not described as a classifier",
                    code="EG-C142",
                    hint='pack it with [decoder] kind = "classifier/v1"',
                )
        if len({member.io.decoder.labels for member in self.members}) != 1:
            raise ConfigError(
                "the members' labels differ",
                code="EG-C142",
                hint="an ensemble votes over the same classes in one order",
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
