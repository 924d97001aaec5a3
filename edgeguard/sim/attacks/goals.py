"""What an attack wants of a model: a score that it lowers (reached below zero), and a gain that gradients climb.

Labels are indices into the model's own output; models with a background class count from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeguard.infer.grid_detector import BOX_CHANNELS

Labels = NDArray[np.intp]
Outputs = Sequence[NDArray[np.float32]]


class Asked(Protocol):
    """What answers questions: a model, or a device that has one."""

    def run(self, images: NDArray[np.uint8]) -> Outputs: ...


class Goal(Protocol):
    """What counts as success. `labels`: (N,), what the goal needs to know of each image."""

    def score(self, outputs: Outputs, labels: Labels) -> NDArray[np.float64]:
        """Return (N,): lower is better for the attacker, below zero is success."""
        ...

    def gain(self, torch: Any, outputs: Sequence[Any], labels: Labels) -> Any:
        """Return (N,) with gradients: higher is better for the attacker."""
        ...


@dataclass(frozen=True, slots=True)
class Misclassify:
    """Any class but `label`; or, where `targeted`, exactly the class `label`.

    The gain is the cross entropy (Goodfellow 2015, Madry 2018), or with `margin` the difference between the label's
    score and the best other one (Carlini and Wagner 2017), which does not vanish where a model is very sure.
    """

    targeted: bool = False
    margin: bool = False

    def score(self, outputs: Outputs, labels: Labels) -> NDArray[np.float64]:
        """Return how far the label's score lies above the best other one, or below it where targeted."""
        scores = as_scores(outputs).astype(np.float64)
        rows = np.arange(len(scores))
        own = scores[rows, labels]
        others = scores.copy()
        others[rows, labels] = -np.inf
        lead = own - others.max(axis=1)
        return np.asarray(-lead if self.targeted else lead, dtype=np.float64)

    def gain(self, torch: Any, outputs: Sequence[Any], labels: Labels) -> Any:
        """Return cross entropy, or the margin, towards another class."""
        flat = outputs[0].reshape(outputs[0].shape[0], -1)
        if ends_in_softmax(flat.detach().numpy()):
            flat = torch.log(torch.clamp(flat, min=1e-12))
        wanted = torch.from_numpy(np.asarray(labels, dtype=np.int64))
        if self.margin:
            own = flat.gather(1, wanted[:, None])[:, 0]
            lead = own - flat.scatter(1, wanted[:, None], float("-inf")).max(dim=1).values
            return lead if self.targeted else -lead
        loss = torch.nn.functional.cross_entropy(flat, wanted, reduction="none")
        return -loss if self.targeted else loss


@dataclass(frozen=True, slots=True)
class Objects:
    """On a `grid-detector/v1`: no object is found any more (`hide`), or objects are found everywhere (`appear`).

    threshold: of the decoder; `hide` is reached when no cell comes up to it. `appear` is never done.
    """

    want: str = "hide"
    threshold: float = 0.6

    def score(self, outputs: Outputs, labels: Labels) -> NDArray[np.float64]:
        """Return what is left of the cells' scores, or what they lack."""
        del labels
        flat = outputs[0].reshape(*outputs[0].shape[:2], -1).astype(np.float64)
        classes = flat[:, BOX_CHANNELS:]
        sure = 1.0 / np.exp(classes - classes.max(axis=1, keepdims=True)).sum(axis=1)
        cells = sure / (1.0 + np.exp(-np.clip(flat[:, 0], -60.0, 60.0)))
        if self.want == "appear":
            return np.asarray((1.0 - cells).sum(axis=1))
        left = np.maximum(cells - 0.5 * self.threshold, 0.0).sum(axis=1)
        return np.where(cells.max(axis=1) < self.threshold, -1.0, left)

    def gain(self, torch: Any, outputs: Sequence[Any], labels: Labels) -> Any:
        """Return the log likelihood that every cell is empty, or that every cell holds an object."""
        del labels
        objectness = outputs[0][:, 0].reshape(outputs[0].shape[0], -1)
        sign = 1.0 if self.want == "hide" else -1.0
        return -torch.nn.functional.softplus(sign * objectness).sum(dim=1)


def as_scores(outputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return (N, C) class scores whose differences mean the same whether the model ends in logits or in a softmax:
    probabilities become their logarithms."""
    flat = outputs[0].reshape(len(outputs[0]), -1)
    return np.log(np.maximum(flat, 1e-12)) if ends_in_softmax(flat) else flat


def ends_in_softmax(flat: NDArray[np.float32]) -> bool:
    """Whether (N, C) scores are probabilities: none below 0 and each row sums to 1, but for float16."""
    return bool(flat.size and (flat >= 0.0).all() and (np.abs(flat.sum(axis=1) - 1.0) < 1e-2).all())
