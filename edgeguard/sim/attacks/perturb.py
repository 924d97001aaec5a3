"""Adversarial images for evaluation: a batch of 8-bit images in, attacked ones out, judged by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import ScenarioError
from edgeguard.sim.attacks.goals import Goal, Misclassify
from edgeguard.sim.attacks.gradient import Defence, GradientAttack, Pixels, WhiteBox
from edgeguard.sim.attacks.rays import rays_attack
from edgeguard.sim.attacks.square import square_attack
from edgeguard.sim.attacks.victims import Victim, open_victim

Method = Literal["fgsm", "pgd", "square", "rays"]
METHODS: Final = ("fgsm", "pgd", "square", "rays")
MISCLASSIFY: Final = Misclassify()
PGD: Final = WhiteBox()
_JUDGE = 1  # keeps the seeds of the last question apart from the attack's


@dataclass(frozen=True, slots=True, eq=False)
class Attacked:
    """What came of a batch.

    images: (N, H, W, 3) uint8 BGR. fooled: (N,) bool, whether the goal is reached on all victims, behind the defence
    where there is one, with randomness that the attack has not seen. score: (N,) float64 of that last question, below
    zero where reached. queries: (N,) int64 images that a query attack asked about, the last question not counted; 0 for
    a white-box attack, which computes for itself.
    """

    images: Pixels
    fooled: NDArray[np.bool_]
    score: NDArray[np.float64]
    queries: NDArray[np.int64]


def attack_images(
    images: Pixels,
    labels: NDArray[np.intp] | Sequence[int],
    model: Victim | str | Path | Sequence[Victim],
    *,
    method: Method = "pgd",
    goal: Goal = MISCLASSIFY,
    how: WhiteBox = PGD,
    queries: int = 400,
    seed: int = 0,
) -> Attacked:
    """Attack each image on its own: what comes of one does not hang on the others of the batch.

    Args:
        images: (N, H, W, 3) uint8, BGR; of any size, the model's own resize is part of what is attacked.
        labels: (N,), the true class of each as an index into the model's output; ignored by goals on objects.
        model: what is attacked; several are attacked at once, and all must fall.
        method: "fgsm" is `how` with one step of eps from the image itself; "square" and "rays" use of
            `how` eps and defence; "rays" learns labels alone, and leaves an image as it is where eps was not enough.
        queries: most questions of a query attack, per image. seed: of all randomness; one seed gives the same images on
            one machine and number of threads.

    Raises:
        EnvironmentMissingError: EG-E055, a white-box method without torch. ScenarioError: EG-X016 for arguments out of
            range, EG-X018 and EG-X019 for a model that cannot be used.
    """
    victims = _victims(model)
    truth = np.asarray(labels, dtype=np.intp)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or truth.shape != images.shape[:1]:
        raise ScenarioError("an attack takes (N, H, W, 3) uint8 images and N labels", code="EG-X016")
    if method not in METHODS or queries < 1 or not victims:
        raise ScenarioError(f"method {method!r} with {queries} queries is no attack", code="EG-X016")
    if method == "fgsm":
        how = replace(how, steps=1, step=None, random_start=False, restarts=1)
    attacked, used = images.copy(), np.zeros(len(images), dtype=np.int64)
    gradient = None
    if method in ("fgsm", "pgd") and len(images):
        gradient = GradientAttack(victims, goal, how, (images.shape[2], images.shape[1]))
    for index in range(len(images)):
        one, rng = slice(index, index + 1), np.random.default_rng([seed, index])
        if gradient is not None:
            attacked[one] = gradient(images[one], truth[one], rng)
        elif method == "rays":
            near = rays_attack(
                victims, goal, images[one], truth[one], queries=queries, rng=rng, eps=how.eps, defence=how.defence
            )
            used[one] = near.queries
            if near.radius[0] <= how.eps:
                attacked[one] = near.images
        else:
            attacked[one], used[one] = square_attack(
                victims, goal, images[one], truth[one], eps=how.eps, queries=queries, rng=rng, defence=how.defence
            )
    score = judge_images(attacked, truth, victims, goal=goal, defence=how.defence, seed=seed)
    return Attacked(attacked, score < 0.0, score, used)


def judge_images(
    images: Pixels,
    labels: NDArray[np.intp],
    victims: Sequence[Victim],
    *,
    goal: Goal = MISCLASSIFY,
    defence: Defence | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return (N,) scores of images as they are, of the victim that is fooled least; below zero is success."""
    if not len(images):
        return np.zeros(0)
    if defence is not None:
        rng = np.random.default_rng([seed, _JUDGE, len(images)])
        images = np.stack([defence(image, int(rng.integers(2**31))) for image in images])
    found = [[goal.score(v.run(images[i : i + 1]), labels[i : i + 1])[0] for i in range(len(images))] for v in victims]
    return np.asarray(np.max(found, axis=0), dtype=np.float64)


def _victims(model: Victim | str | Path | Sequence[Victim]) -> tuple[Victim, ...]:
    if isinstance(model, Victim):
        return (model,)
    if isinstance(model, str | Path):
        return (open_victim(model),)
    return tuple(model)
