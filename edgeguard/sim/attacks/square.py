"""Square attack: random squares, kept when they help; asks the model for scores and needs no gradient.

Source: Andriushchenko, Croce, Flammarion, Hein, ECCV 2020, the L-infinity variant: vertical stripes first, then squares
whose area follows a schedule, each one of +-eps per channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.attacks.goals import Asked, Goal, Labels
from edgeguard.sim.attacks.gradient import Defence, Pixels

FIRST_SHARE: Final = 0.05  # of the image that the first square covers; the paper's default
# The share is halved at these queries of 10,000, stretched to the budget at hand; the paper's schedule.
HALVED_AT: Final = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
MAX_BATCH: Final = 64  # images asked about at once: bounds memory


def square_attack(
    victims: Sequence[Asked],
    goal: Goal,
    images: Pixels,
    labels: Labels,
    *,
    eps: int,
    queries: int,
    rng: np.random.Generator,
    defence: Defence | None = None,
) -> tuple[Pixels, NDArray[np.int64]]:
    """Return attacked images, (N, H, W, 3) uint8, and how many queries each took.

    Args:
        eps: largest change of a channel, in levels of 255. queries: most questions per image; the clean image is not
            asked about. defence: stands before the model; each question meets it with a fresh seed.

    An image that is done asks no more. Several victims answer each question; the best defended one counts.
    """
    count, height, width = images.shape[:3]
    ask = _asker(victims, goal, labels, rng, defence)
    clean = images.astype(np.int16)
    everybody = np.arange(count)
    stripes = rng.choice(np.array([-eps, eps], dtype=np.int16), (count, 1, width, 3))
    best = _within(clean + stripes)
    score, used = ask(best, everybody), np.ones(count, dtype=np.int64)
    for query in range(1, queries):
        active = np.flatnonzero(score >= 0.0)
        if not len(active):
            break
        side = max(1, round(sqrt(_share(query, queries) * height * width)))
        side = min(side, height, width)
        tried = best[active]
        for row, index in enumerate(active):
            y, x = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
            window = (slice(y, y + side), slice(x, x + side))
            colour = rng.choice(np.array([-eps, eps], dtype=np.int16), 3)
            tried[row][window] = _within(clean[index][window] + colour)
        found = ask(tried, active)
        used[active] += 1
        better = found < score[active]
        best[active[better]], score[active[better]] = tried[better], found[better]
    return best, used


def _share(query: int, queries: int) -> float:
    of_paper = query / queries * 10_000
    return FIRST_SHARE / float(2 ** sum(of_paper > mark for mark in HALVED_AT))


def _within(values: NDArray[np.int16]) -> Pixels:
    return np.clip(values, 0, 255).astype(np.uint8)


def _asker(
    victims: Sequence[Asked], goal: Goal, labels: Labels, rng: np.random.Generator, defence: Defence | None
) -> Callable[[Pixels, NDArray[np.intp]], NDArray[np.float64]]:
    def ask(images: Pixels, who: NDArray[np.intp]) -> NDArray[np.float64]:
        if defence is not None:
            images = np.stack([defence(image, int(rng.integers(2**31))) for image in images])
        parts = []
        for start in range(0, len(images), MAX_BATCH):
            some = slice(start, start + MAX_BATCH)
            parts.append(np.max([goal.score(v.run(images[some]), labels[who[some]]) for v in victims], axis=0))
        return np.concatenate(parts)

    return ask
