"""White-box attacks by gradients: FGSM (Goodfellow 2015), PGD (Madry 2018), through defences by BPDA (Athalye 2018) and
EOT (Athalye 2018), luma alone, patches, several models at once.

Every step is taken on images rounded to 8 bits, so what is returned is what was tried, within the budget to the last
level. Needs the extra `eval`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import ScenarioError
from edgeguard.sim.attacks.goals import Goal, Labels
from edgeguard.sim.attacks.onnx_torch import TorchGraph, load_torch
from edgeguard.sim.attacks.torch_input import TorchInput
from edgeguard.sim.attacks.victims import Victim

Pixels = NDArray[np.uint8]
# A defence as the attacker knows it: one (H, W, 3) image and a seed in, one of the same shape out.
Defence = Callable[[Pixels, int], Pixels]
# Added to the gain: (N, 3, H, W) float32 BGR pixels in, (N,) out, with gradients; for attacks on detectors too.
Penalty = Callable[[Any], Any]

MAX_EPS: Final = 255
STEP_SHARE: Final = 2.5  # of eps, spread over all steps: reaches the border and can come back (Madry 2018)


@dataclass(frozen=True, slots=True)
class WhiteBox:
    """How a white-box attack goes.

    eps: largest change of a channel, in levels of 255; of a patch it is 255. steps: gradient steps a start. step: of
    one step in levels; None for 2.5 eps / steps, and eps for a single one. random_start: begin anywhere within eps.
    restarts: how many starts; the best counts. luma_only: all three channels of a pixel change alike. block_px: blocks
    of this many pixels change alike: low frequencies, or what can be printed. patch: pixels (x1, y1, x2, y2) that may
    take any value; nothing else then changes. defence: what stands before the model, differentiated as the identity
    (BPDA). draws: gradients averaged over a step, each with a fresh seed of the defence (EOT). penalty: added to the
    gain.
    """

    eps: int = 8
    steps: int = 10
    step: float | None = None
    random_start: bool = True
    restarts: int = 1
    luma_only: bool = False
    block_px: int = 1
    patch: tuple[int, int, int, int] | None = None
    defence: Defence | None = None
    draws: int = 1
    penalty: Penalty | None = None

    def __post_init__(self) -> None:
        counts = (self.steps, self.restarts, self.block_px, self.draws)
        if not 0 <= self.eps <= MAX_EPS or min(counts) < 1 or (self.step is not None and self.step <= 0.0):
            raise ScenarioError("an attack needs eps in 0..255 and counts of 1 or more", code="EG-X016")


class GradientAttack:
    """A white-box attack on one or more models, ready for any number of images of one size.

    Args:
        victims: their gains are added up. goal: what is wanted of each. how: budget and means. frame_size_px: (width,
            height).

    Raises:
        EnvironmentMissingError: EG-E055. ScenarioError: EG-X016, EG-X019.
    """

    def __init__(self, victims: Sequence[Victim], goal: Goal, how: WhiteBox, frame_size_px: tuple[int, int]) -> None:
        self._torch = load_torch()
        self._goal, self._how, self._size = goal, how, frame_size_px
        self._models = [
            (TorchGraph(v.content), TorchInput(self._torch, v.spec, frame_size_px), _fixed_batch(v)) for v in victims
        ]
        self._mask = self._patch_mask()

    def __call__(self, images: Pixels, labels: Labels, rng: np.random.Generator) -> Pixels:
        """Return (N, H, W, 3) uint8 attacked images: of each the one that came furthest, in all steps and starts."""
        best, best_score = images.copy(), np.full(len(images), np.inf)
        for _ in range(self._how.restarts):
            self._start(images, labels, rng, best, best_score)
        return best

    def _start(
        self, images: Pixels, labels: Labels, rng: np.random.Generator, best: Pixels, best_score: NDArray[np.float64]
    ) -> None:
        torch, how = self._torch, self._how
        clean = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))
        reach = float(MAX_EPS if how.patch is not None else how.eps)
        step = how.step or (reach if how.steps == 1 else STEP_SHARE * reach / how.steps)
        theta = self._first(clean, rng, reach)
        for number in range(how.steps + 1):
            theta.requires_grad_(requires_grad=True)
            pixels = self._pixels(theta, clean)
            gain, score = self._evaluate(pixels, labels, rng)
            better = score < best_score
            if better.any():
                shown = pixels.detach().numpy().transpose(0, 2, 3, 1)
                best[better] = np.rint(shown[better]).astype(np.uint8)
                best_score[better] = score[better]
            if number == how.steps:
                return
            (slope,) = torch.autograd.grad(gain.sum(), theta)
            with torch.no_grad():
                theta = torch.clamp(theta + step * torch.sign(slope), *self._limits(reach))

    def _limits(self, reach: float) -> tuple[float, float]:
        return (0.0, 255.0) if self._how.patch is not None else (-reach, reach)

    def _first(self, clean: Any, rng: np.random.Generator, reach: float) -> Any:
        """Return where a start begins: per block and channel, a change within the budget, or a patch's own values."""
        how, (width, height) = self._how, self._size
        shape = (
            len(clean), 1 if how.luma_only else 3, -(-height // how.block_px), -(-width // how.block_px)
        )  # fmt: skip
        low, high = self._limits(reach)
        if how.random_start:
            drawn = rng.uniform(low, high, shape)
        else:
            drawn = np.full(shape, 127.0 if how.patch is not None else 0.0)
        return self._torch.from_numpy(drawn.astype(np.float32))

    def _pixels(self, theta: Any, clean: Any) -> Any:
        """Return the 8-bit image of a parameter, as float; its rounding passes gradients straight through."""
        torch, how, (width, height) = self._torch, self._how, self._size
        if how.block_px > 1:
            theta = theta.repeat_interleave(how.block_px, 2).repeat_interleave(how.block_px, 3)[:, :, :height, :width]
        whole = theta + (torch.round(theta) - theta).detach()
        if self._mask is not None:
            return torch.where(self._mask, whole.expand(-1, 3, -1, -1), clean)
        if how.luma_only:
            # As far as all three channels can follow, so that no clipping turns brightness into colour.
            low, high = (-clean).amax(dim=1, keepdim=True), (255.0 - clean).amin(dim=1, keepdim=True)
            return clean + torch.minimum(torch.maximum(whole, low), high)
        return torch.clamp(clean + whole, 0.0, 255.0)

    def _evaluate(self, pixels: Any, labels: Labels, rng: np.random.Generator) -> tuple[Any, NDArray[np.float64]]:
        """Return the gain with gradients and the score, both means over the draws of the defence."""
        how, draws = self._how, self._how.draws if self._how.defence is not None else 1
        gains, scores = [], []
        for _ in range(draws):
            seen = pixels if how.defence is None else self._defended(pixels, how.defence, rng)
            for graph, prepare, alone in self._models:
                fed = prepare(seen)
                parts = fed.split(1) if alone else (fed,)
                outputs = [self._torch.cat(same) for same in zip(*(graph(p) for p in parts), strict=True)]
                gains.append(self._goal.gain(self._torch, outputs, labels))
                scores.append(self._goal.score([o.detach().numpy() for o in outputs], labels))
        gain = sum(gains) / draws
        if how.penalty is not None:
            gain = gain + how.penalty(pixels)
        # All members must fall: the image is as good as the model that it fools least.
        per_model = np.array(scores).reshape(draws, len(self._models), -1).mean(axis=0)
        return gain, np.asarray(per_model.max(axis=0))

    def _defended(self, pixels: Any, defence: Defence, rng: np.random.Generator) -> Any:
        shown = np.rint(pixels.detach().numpy().transpose(0, 2, 3, 1)).astype(np.uint8)
        out = np.stack([defence(np.ascontiguousarray(image), int(rng.integers(2**31))) for image in shown])
        if out.shape != shown.shape:
            raise ScenarioError("a defence must keep the size of the image", code="EG-X016")
        through = self._torch.from_numpy(out.transpose(0, 3, 1, 2).astype(np.float32))
        return pixels + (through - pixels).detach()

    def _patch_mask(self) -> Any:
        if self._how.patch is None:
            return None
        (x1, y1, x2, y2), (width, height) = self._how.patch, self._size
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise ScenarioError(f"the patch does not lie within {width} x {height} pixels", code="EG-X016")
        mask = self._torch.zeros((1, 1, height, width), dtype=self._torch.bool)
        mask[:, :, y1:y2, x1:x2] = True
        return mask


def _fixed_batch(victim: Victim) -> bool:
    return not victim.batched
