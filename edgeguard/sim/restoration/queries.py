"""An attacker who may only ask: the Square attack through the whole gate, and when the gate notices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeguard.detect.fingerprints import QueryDetector
from edgeguard.sim.attacks.goals import Misclassify
from edgeguard.sim.attacks.square import square_attack
from edgeguard.sim.restoration.measure import CrossFit, Share
from edgeguard.sim.restoration.pictures import Pictures

Pixels = NDArray[np.uint8]
EPS: Final = 8  # levels; what square papers use at this size is 12, what stays unseen is less
QUERIES: Final = 400


@dataclass(frozen=True, slots=True)
class Asking:
    """What questions about each photograph got out of the gate.

    queries: at most so many each. right: the gate's answer to the attacker's best frame is right. noticed: photographs
    for which the query detector fired. questions: median number of questions until then, the first one included; None
    where it never fired.
    """

    queries: int
    right: Share
    undefended: Share
    noticed: Share
    questions: float | None
    questions_p95: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "frames": self.right.trials,
            "queries": self.queries,
            "eps": EPS,
            "right": self.right.value,
            "right_interval": list(self.right.interval),
            "undefended": self.undefended.value,
            "noticed": self.noticed.value,
            "questions_median": self.questions,
            "questions_p95": self.questions_p95,
        }


class _Device:
    """The gate as an attacker meets it: probabilities, nothing where it refuses, and a memory of questions."""

    def __init__(self, fit: CrossFit, row: int, salt: bytes) -> None:
        self._gate = fit.gate(row)
        self._classes = fit.members[0].classify(fit.pictures.frames[row]).size
        self._queries = QueryDetector(salt)
        self.asked = 0
        self.noticed_at: int | None = None

    def run(self, images: Pixels) -> list[NDArray[np.float32]]:
        return [np.stack([self._answer(image) for image in images])]

    def _answer(self, image: Pixels) -> NDArray[np.float32]:
        self.asked += 1
        repeated = self._queries.push(image)
        if repeated and self.noticed_at is None:
            self.noticed_at = self.asked
        answer = self._gate.judge(image, suspect=repeated).answer
        # This gate restores; one that refused would tell nothing, which a flat answer says.
        return np.full(self._classes, 1.0 / self._classes, np.float32) if answer is None else answer.astype(np.float32)


class _Bare:
    """The first model alone."""

    def __init__(self, classify: Callable[[Pixels], NDArray[np.float64]]) -> None:
        self._classify = classify

    def run(self, images: Pixels) -> list[NDArray[np.float32]]:
        return [np.stack([self._classify(image) for image in images]).astype(np.float32)]


def ask_through_the_gate(
    pictures: Pictures,
    chosen: Sequence[int],
    fit: CrossFit,
    *,
    queries: int = QUERIES,
    seed: int = 0,
    on_frame: Callable[[], None] = lambda: None,
) -> Asking:
    """Attack each of `chosen` by questions, the bare model and the gate alike.

    The attacker lowers what the *gate* answers, restored answers included, and stops when he sees a wrong one. He is
    judged by a gate that has not seen his questions, so that its memory does not help.
    """
    right = bare = noticed = 0
    counts: list[int] = []
    goal, first = Misclassify(), fit.members[0]
    for row in chosen:
        frame, label = pictures.frames[row : row + 1], pictures.labels[row : row + 1].astype(np.intp)
        truth = int(label[0])
        rng = np.random.default_rng([seed, 5, row])
        device = _Device(fit, row, rng.bytes(32))
        best, _ = square_attack([device], goal, frame, label, eps=EPS, queries=queries, rng=rng)
        answer = fit.gate(row).judge(best[0]).answer
        right += answer is not None and int(answer.argmax()) == truth
        alone, _ = square_attack([_Bare(first.classify)], goal, frame, label, eps=EPS, queries=queries, rng=rng)
        bare += int(first.classify(alone[0]).argmax()) == truth
        if device.noticed_at is not None:
            noticed += 1
            counts.append(device.noticed_at)
        on_frame()
    n = len(chosen)
    return Asking(
        queries,
        Share(right, n),
        Share(bare, n),
        Share(noticed, n),
        float(np.median(counts)) if counts else None,
        float(np.quantile(counts, 0.95)) if counts else None,
    )
