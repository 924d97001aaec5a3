"""The gate on clean, attacked and corrupted frames, calibrated on other photographs than it is judged on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeguard.detect.answers import ClassAnswers
from edgeguard.detect.calibration import InputsSection, fit_inputs
from edgeguard.detect.gate import InputGate
from edgeguard.restore.diagnose import Diagnosis, Limits, diagnose, fit_limits
from edgeguard.restore.image_chain import ChainChoice
from edgeguard.sim.detection.metrics import auroc, wilson
from edgeguard.sim.restoration.members import Member
from edgeguard.sim.restoration.pictures import Pictures

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Judged:
    """One frame through the gate. suspicion: -ln p, larger is more suspicious. undefended: the first model alone."""

    alarm: bool
    right: bool
    undefended: bool
    suspicion: float


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its 95 % Wilson interval."""

    hits: int
    trials: int

    @property
    def value(self) -> float:
        """The share itself; NaN without trials."""
        return self.hits / self.trials if self.trials else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Its bounds."""
        return wilson(self.hits, self.trials) if self.trials else (0.0, 1.0)


class CrossFit:
    """Gates fitted on all photographs but one fold each; frames go to the gate that has not seen their photograph.

    Args:
        pictures: clean photographs, right and wrong ones alike: a calibration does not know which are right.
        members: the models, the one whose answers leave first.
        folds: number of fits. level: as for `fit_inputs`. seed: of the folds and of the restorers' draws.

    Raises: as `fit_inputs`.
    """

    def __init__(
        self,
        pictures: Pictures,
        members: Sequence[Member],
        *,
        folds: int = 5,
        level: float | None = None,
        seed: int = 0,
        on_fold: Callable[[], None] = lambda: None,
    ) -> None:
        self.pictures = pictures
        self.members = tuple(members)
        self.fold = np.random.default_rng([seed, 2]).permutation(len(pictures.names)) % folds
        self._keys = np.random.default_rng([seed, 3])
        self._chains = ChainChoice()
        self.sections: list[InputsSection] = []
        self._gates: list[InputGate[NDArray[np.float64]]] = []
        named = [(member.name, member.classify) for member in self.members]
        found = [diagnose(frame) for frame in pictures.frames]
        for number in range(folds):
            others = pictures.frames[self.fold != number]
            section = fit_inputs(
                others,
                named,
                self._chains.squeeze,
                kind=ClassAnswers(),
                chains=self._chains.digest,
                level=level,
                limits=_limits_of([one for one, of in zip(found, self.fold, strict=True) if of != number]),
            )
            self.sections.append(section)
            self._gates.append(
                InputGate(
                    named,
                    section,
                    kind=ClassAnswers(),
                    restore=self._chains.restore,
                    squeeze=self._chains.squeeze,
                    fresh_key=self._fresh_key,
                    chains=self._chains.digest,
                )
            )
            on_fold()

    def gate(self, row: int) -> InputGate[NDArray[np.float64]]:
        """Return the gate that was fitted without this photograph."""
        return self._gates[int(self.fold[row])]

    def limits(self, row: int) -> Limits:
        """Return the limits of diagnosis that were fitted without this photograph."""
        return msgspec.convert(self.sections[int(self.fold[row])].limits, Limits)

    def judge(self, frames: Pixels, rows: Sequence[int], on_frame: Callable[[], None] = lambda: None) -> list[Judged]:
        """Judge frames made from the photographs `rows`, one each."""
        judged = []
        for frame, row in zip(frames, rows, strict=True):
            truth = int(self.pictures.labels[row])
            answer = self.gate(int(row)).judge(frame)
            right = answer.answer is not None and int(answer.answer.argmax()) == truth
            undefended = answer.first is not None and int(answer.first.argmax()) == truth
            judged.append(Judged(answer.alarm, right, undefended, -float(np.log(answer.p_value))))
            on_frame()
        return judged

    def _fresh_key(self) -> int:
        return int(self._keys.integers(0, 2**63))


def _limits_of(found: list[Diagnosis]) -> Callable[[float], dict[str, float]]:
    def limits(level: float) -> dict[str, float]:
        fitted: dict[str, float] = msgspec.to_builtins(fit_limits(found, level))
        return fitted

    return limits


def right_share(judged: Sequence[Judged]) -> Share:
    """Share of frames whose released answer is the photograph's class."""
    return Share(sum(one.right for one in judged), len(judged))


def alarm_share(judged: Sequence[Judged]) -> Share:
    """Share of frames that alarmed."""
    return Share(sum(one.alarm for one in judged), len(judged))


def separation(clean: Sequence[Judged], attacked: Sequence[Judged]) -> float:
    """Area under the ROC curve of the suspicion, clean against attacked."""
    return auroc(np.array([one.suspicion for one in clean]), np.array([one.suspicion for one in attacked]))
