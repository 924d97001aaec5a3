"""The models under test: plain ONNX files, each described in a .toml beside it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeguard.bundle.manifest import ModelIo
from edgeguard.config import read_toml
from edgeguard.errors import ConfigError
from edgeguard.infer.classifier import class_probabilities
from edgeguard.sim.attacks.victims import Victim, open_victim

Pixels = NDArray[np.uint8]


class Member:
    """One classifier that takes the frames of the evaluation whole.

    The frames are cut as the first model wants them, so each model stretches them to its own input: a centre crop on
    top would show the models different places.
    """

    def __init__(self, victim: Victim) -> None:
        self.victim = victim
        self.name = victim.name
        self.offset = victim.io.decoder.class_offset

    def classify(self, pixels: Pixels) -> NDArray[np.float64]:
        """Return (C,) float64 probabilities of a frame, (H, W, 3) uint8 BGR."""
        return class_probabilities(self.victim.run(pixels[None])[0], self.victim.io.decoder)


def open_member(model: Path, preprocess: Path | None = None, *, threads: int = 2) -> Member:
    """Open one model; `preprocess` stands in for the .toml beside it.

    Raises:
        ConfigError: EG-C144: no description, or not one of a classifier. ScenarioError: EG-X018: not a usable model.
    """
    described = preprocess or model.with_suffix(".toml")
    if not described.exists():
        raise ConfigError(
            f"{model.name} has no description: {described.name} is missing",
            code="EG-C144",
            hint='write [input] and [decoder] kind = "classifier/v1" into it; docs/restoration.md shows one',
        )
    io = read_toml(described, ModelIo)
    if io.decoder.kind != "classifier/v1":
        raise ConfigError(
            f"{described.name} does not describe a classifier", code="EG-C144", hint="see docs/restoration.md"
        )
    whole = msgspec.structs.replace(io, input=msgspec.structs.replace(io.input, resize="stretch"))
    return Member(open_victim(model, whole, threads=threads))
