"""RayS: a label-only attack; it learns nothing of a model but whether the goal is reached, yes or no.

Source: Chen, Gu, "RayS: A Ray Searching Method for Hard-label Adversarial Attack", KDD 2020. Directions are corners of
the L-infinity ball, every channel up or down; blocks of them are flipped, halves first, then quarters and so on, and a
flip stays where the decision boundary is nearer that way. No gradient, no step size, no parameter.

Images have 8 bits. A step of less than a level moves a share of the channels, always the same ones first: else small
gains, which is what single flips bring, would be rounded away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.attacks.goals import Asked, Goal, Labels
from edgeguard.sim.attacks.gradient import Defence, Pixels

FULL_SCALE: Final = 255
NOT_REACHED: Final = 256  # a radius that no 8-bit image has
STEPS: Final = 4  # per level


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """What the search found, per image.

    images: (N, H, W, 3) uint8, at their radius; unchanged where the goal was not reached at any. radius: (N,) int64,
    largest change of a channel in levels, `NOT_REACHED` where there is none. queries: (N,) int64, questions asked.
    """

    images: Pixels
    radius: NDArray[np.int64]
    queries: NDArray[np.int64]


def rays_attack(
    victims: Sequence[Asked],
    goal: Goal,
    images: Pixels,
    labels: Labels,
    *,
    queries: int,
    rng: np.random.Generator,
    eps: int = 0,
    defence: Defence | None = None,
) -> Nearest:
    """Return the nearest images that reach the goal, found with at most `queries` questions each.

    Args:
        goal: only the sign of its score is used; one that has no success ("appear") is never reached. eps: the search
            ends once a radius is no larger. defence: stands before the model; each question meets it with a fresh seed.

    Several victims answer each question, and all must fall.
    """
    found = images.copy()
    radius = np.full(len(images), NOT_REACHED, dtype=np.int64)
    used = np.zeros(len(images), dtype=np.int64)
    for index, image in enumerate(images):
        one = labels[index : index + 1]

        def reached(asked: Pixels, label: Labels = one) -> bool:
            if defence is not None:
                asked = defence(asked, int(rng.integers(2**31)))
            return all(goal.score(victim.run(asked[None]), label)[0] < 0.0 for victim in victims)

        search = _Search(image, reached, queries, rng)
        search.run(eps)
        radius[index], used[index] = search.levels, search.used
        if search.levels < NOT_REACHED:
            found[index] = search.at(search.signs, search.radius)
    return Nearest(found, radius, used)


class _Search:
    """One image. signs: (H * W * 3,) int16 of +-1, channel by channel; radius: the least known to reach, in steps."""

    def __init__(
        self, image: Pixels, reached: Callable[[Pixels], bool], queries: int, rng: np.random.Generator
    ) -> None:
        self._clean = np.ascontiguousarray(image.transpose(2, 0, 1)).reshape(-1).astype(np.int16)
        self._shape = (image.shape[2], *image.shape[:2])
        self._reached, self._queries = reached, queries
        self.signs = np.ones(self._clean.size, dtype=np.int16)
        self._turn = rng.integers(0, STEPS, self._clean.size).astype(np.int16)
        self.radius = NOT_REACHED * STEPS
        self.used = 0

    @property
    def levels(self) -> int:
        """The largest change of a channel at `radius`."""
        return -(-self.radius // STEPS)

    def at(self, signs: NDArray[np.int16], radius: int) -> Pixels:
        """The image that lies `radius` steps away in a direction."""
        levels, part = divmod(radius, STEPS)
        moved = np.clip(self._clean + (levels + (self._turn < part)) * signs, 0, FULL_SCALE).astype(np.uint8)
        return np.ascontiguousarray(moved.reshape(self._shape).transpose(1, 2, 0))

    def run(self, eps: int) -> None:
        """Search until the budget is spent, the radius is at most `eps`, or every channel stands alone."""
        self._try(self.signs.copy())
        blocks = 1
        while self._goes_on(eps):
            edges = np.linspace(0, self.signs.size, blocks + 1).astype(np.intp)
            for start, end in pairwise(edges):
                if not self._goes_on(eps):
                    return
                flipped = self.signs.copy()
                flipped[start:end] *= -1
                self._try(flipped)
            if blocks >= self.signs.size:
                return
            blocks = min(2 * blocks, self.signs.size)

    def _goes_on(self, eps: int) -> bool:
        return self.used < self._queries and self.levels > eps

    def _try(self, signs: NDArray[np.int16]) -> None:
        """Keep a direction where the boundary is nearer than known; one question where it is not."""
        high = min(self.radius - 1, FULL_SCALE * STEPS)
        if high < 1 or not self._ask(signs, high):
            return
        low = 0  # the image itself is taken not to reach: asking about it is the caller's business
        while high - low > 1 and self.used < self._queries:
            middle = (low + high) // 2
            if self._ask(signs, middle):
                high = middle
            else:
                low = middle
        self.signs, self.radius = signs, high

    def _ask(self, signs: NDArray[np.int16], radius: int) -> bool:
        self.used += 1
        return self._reached(self.at(signs, radius))
