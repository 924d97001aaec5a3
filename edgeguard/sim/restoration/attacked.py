"""Sets of attacked frames: made once, kept on disk, found again by what they were made of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeguard.restore.draw import Draw
from edgeguard.restore.image_chain import STANDARD_CHAINS, ChainChoice
from edgeguard.sim.attacks.gradient import WhiteBox
from edgeguard.sim.attacks.perturb import Method, attack_images
from edgeguard.sim.restoration.members import Member
from edgeguard.sim.restoration.pictures import Pictures

Pixels = NDArray[np.uint8]
Knowledge = Literal["unaware", "adaptive"]
MADE_AS: Final = 1  # counts up when a recipe changes: sets made before are not found again
PATCH_SHARE: Final = 0.214  # of the side: 48 of 224 pixels, 4.6 % of the frame


@dataclass(frozen=True, slots=True)
class Recipe:
    """One attacked set. all_members: all models are attacked at once. twin: the row of an attacker who knows the
    defence."""

    name: str
    knowledge: Knowledge
    method: Method
    how: WhiteBox
    all_members: bool = False
    patch_block_px: int = 0
    twin: str = ""


def _fixed(pixels: Pixels, seed: int) -> Pixels:  # noqa: ARG001 - the strongest chain, without its draw
    return STANDARD_CHAINS[0].apply(pixels, Draw(0))


def _drawn(pixels: Pixels, seed: int) -> Pixels:
    return ChainChoice().apply(pixels, seed).pixels


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType({
    recipe.name: recipe
    for recipe in (
        Recipe("fgsm-2", "unaware", "fgsm", WhiteBox(eps=2), twin="luma-4"),
        Recipe("fgsm-4", "unaware", "fgsm", WhiteBox(eps=4), twin="luma-4"),
        Recipe("pgd-2", "unaware", "pgd", WhiteBox(eps=2), twin="bpda-4"),
        Recipe("pgd-4", "unaware", "pgd", WhiteBox(eps=4), twin="bpda-4"),
        Recipe("patch-hard", "unaware", "pgd", WhiteBox(steps=50), patch_block_px=1, twin="patch-joint"),
        Recipe("patch-smooth", "unaware", "pgd", WhiteBox(steps=50), patch_block_px=4, twin="patch-joint"),
        Recipe("luma-4", "adaptive", "pgd", WhiteBox(eps=4, luma_only=True)),
        Recipe("bpda-4", "adaptive", "pgd", WhiteBox(eps=4, steps=15, defence=_fixed)),
        Recipe("eot-4", "adaptive", "pgd", WhiteBox(eps=4, steps=12, draws=10, defence=_drawn)),
        Recipe("joint-4", "adaptive", "pgd", WhiteBox(eps=4), all_members=True),
        Recipe("patch-joint", "adaptive", "pgd", WhiteBox(steps=50), all_members=True, patch_block_px=1),
    )
})  # fmt: skip


def attacked_set(
    recipe: Recipe,
    pictures: Pictures,
    members: Sequence[Member],
    *,
    cache: Path,
    seed: int,
    on_frame: Callable[[], None] = lambda: None,
) -> Pixels:
    """Return (N, S, S, 3) uint8 attacked frames, from `cache` where they were made before.

    Raises: as `attack_images`.
    """
    targets = [member.victim for member in (members if recipe.all_members else members[:1])]
    state = hashlib.sha256(f"{MADE_AS}/{recipe.name}/{seed}/{pictures.digest}".encode())
    for target in targets:
        state.update(hashlib.sha256(target.content).digest())
    path = cache / f"{recipe.name}-{state.hexdigest()[:32]}.npy"
    if path.is_file():
        kept = np.load(path, allow_pickle=False)
        if kept.shape == pictures.frames.shape and kept.dtype == np.uint8:
            return np.asarray(kept)
    rng = np.random.default_rng([seed, 1])
    made = np.empty_like(pictures.frames)
    for index in range(len(made)):
        one = slice(index, index + 1)
        how = recipe.how
        if recipe.patch_block_px:
            how = _with_patch(how, pictures.frames.shape[1], recipe.patch_block_px, rng)
        label = pictures.labels[one] + members[0].offset
        made[one] = attack_images(
            pictures.frames[one], label, targets, method=recipe.method, how=how, seed=seed + index
        ).images
        on_frame()
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.npy")
    np.save(partial, made, allow_pickle=False)
    partial.replace(path)
    return made


def _with_patch(how: WhiteBox, side_px: int, block_px: int, rng: np.random.Generator) -> WhiteBox:
    size = max(block_px, round(side_px * PATCH_SHARE) // block_px * block_px)
    x, y = (int(rng.integers(0, side_px - size + 1)) for _ in range(2))
    return WhiteBox(steps=how.steps, block_px=block_px, patch=(x, y, x + size, y + size), eps=how.eps)
