"""Chains of image steps as data, and the keyed choice among them.

A file of chains is a part of what a release was evaluated with: its digest goes into the evidence, so that what ran can
be held against what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeguard.errors import ConfigError
from edgeguard.kernels.frame import require_image
from edgeguard.restore.chain_digest import digest_of
from edgeguard.restore.draw import Draw
from edgeguard.restore.image_steps import Bilateral, Crop, ImageStep, Jpeg, Median

MAX_CHAINS = 32  # more choices do not make a draw harder to foresee, and each has to be evaluated
MAX_STEPS = 8  # every step costs milliseconds on every alarm: the time of an alarm has to stay bounded


class ImageChain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Named steps in order."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    steps: Annotated[tuple[ImageStep, ...], Meta(min_length=1, max_length=MAX_STEPS)]

    def apply(self, pixels: NDArray[np.uint8], draw: Draw) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8 of the same shape.

        Raises:
            ConfigError: EG-C140: not a frame.
        """
        require_image(pixels)
        for step in self.steps:
            pixels = step.apply(pixels, draw)
        return pixels


# Measured on photographs (docs/restoration.md): the strongest training-free chains at a few milliseconds. Three kinds
# of smoothing, so that no single gradient goes through all of them, and a drawn JPEG quality behind each.
STANDARD_CHAINS = (
    ImageChain("bilateral-jpeg", (Bilateral(diameter_px=5), Jpeg(quality=(40, 60)))),
    ImageChain("median-jpeg", (Median(size_px=3), Jpeg(quality=(45, 60)))),
    ImageChain("crop-jpeg", (Crop(share=(0.85, 0.97)), Jpeg(quality=(35, 60)))),
)


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """A frame after a chain. key: gives the same pixels again from the same frame and chain."""

    pixels: NDArray[np.uint8]
    chain: str
    key: int


class ChainChoice:
    """Chooses one of several chains per frame.

    Raises:
        ConfigError: EG-C141: no chains, or too many.
    """

    def __init__(self, chains: Sequence[ImageChain] = STANDARD_CHAINS) -> None:
        if not 1 <= len(chains) <= MAX_CHAINS:
            raise ConfigError(f"one to {MAX_CHAINS} chains can be chosen from, not {len(chains)}", code="EG-C141")
        self.chains = tuple(chains)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the chains as canonical JSON, hex: what the evidence names."""
        return digest_of(self.chains)

    def squeeze(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the frame after the first chain without any draw: a fixed second look, (H, W, 3) uint8.

        Raises:
            ConfigError: EG-C140: not a frame.
        """
        return self.chains[0].apply(pixels, Draw(0))

    def restore(self, pixels: NDArray[np.uint8], key: int) -> tuple[NDArray[np.uint8], str]:
        """Return the pixels of `apply` and the name of the drawn chain, as a gate asks for them."""
        done = self.apply(pixels, key)
        return done.pixels, done.chain

    def apply(self, pixels: NDArray[np.uint8], key: int) -> Restored:
        """Restore a frame with a drawn chain. pixels: (H, W, 3) uint8; key: from `draw.fresh_key`.

        Raises:
            ConfigError: EG-C140: not a frame.
        """
        draw = Draw(key)
        chain = self.chains[draw.integer((0, len(self.chains) - 1))]
        return Restored(chain.apply(pixels, draw), chain.name, key)
