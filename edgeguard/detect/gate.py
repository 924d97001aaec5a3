"""The gate: leave the answer alone unless the frame is suspicious; then restore, ask everybody, and say so.

No alarm: the first model's answer leaves untouched, the same object. Alarm: the first model sees restored views, the
other models see the frame as it is and mirrored, and what they say together leaves, marked as restored and with
the evidence; or nothing leaves, where the policy says so. The number of passes is fixed, so the time is bounded.

On an alarm the class that the first model gave at first is doubted: an attacker who did not know the gate has put it
there. The doubt is the product of the e-values of two signs, a picture that no camera makes and a second model that
disagrees, and needs both: noise alone does not make a right answer doubtful, nor does a hard picture.
MITRE ATLAS AML.M0010, AML.M0015, AML.M0006.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import cv2
import numpy as np

from edgeguard.detect.answers import AnswerKind
from edgeguard.detect.calibration import InputsSection, Pixels, ScoreName, judged
from edgeguard.detect.chroma import chroma_features
from edgeguard.detect.conformal import StreamAlarm, e_value
from edgeguard.detect.patch import PatchEvidence, Window, cover, verify_patch
from edgeguard.errors import CalibrationError
from edgeguard.kernels.frame import require_image

T = TypeVar("T")
Action = Literal["restore", "refuse"]
RESTORED_VIEWS = 2  # of the first model, each through a chain drawn anew, and mirrored
PATCH_P_VALUE = 0.05  # the place that was covered stays covered when covering it was as telling as this
CHROMA_P_VALUE = 0.2  # above it the picture itself shows nothing, and the first answer keeps its vote


@dataclass(frozen=True, slots=True, eq=False)
class GatedAnswer(Generic[T]):
    """What leaves, and why.

    answer: None when refused. p_value: of the frame as a whole; parts: of each score. chains and
    keys: of the restored views, so that each can be made again. window: the place taken for a patch. answers: of
    every member that was asked on alarm. first: the first model's own, never released on an alarm.
    """

    answer: T | None
    alarm: bool
    restored: bool
    p_value: float
    parts: Mapping[str, float]
    scores: Mapping[ScoreName, float]
    chains: tuple[str, ...] = ()
    keys: tuple[int, ...] = ()
    window: Window | None = None
    answers: tuple[T, ...] = field(default=(), repr=False)
    first: T | None = field(default=None, repr=False)

    @property
    def refused(self) -> bool:
        """Whether nothing leaves."""
        return self.answer is None


class InputGate(Generic[T]):
    """Judges frames for one ensemble.

    Args:
        members: identifier of each model and how it is asked, as calibrated; the first one's answers leave.
        kind: of their answers.
        calibration: of the same models and chains.
        restore: a frame and a fresh key to restored pixels and the chain's name.
        squeeze: as for `fit_inputs`; used when there is one model only.
        fresh_key: the system's secure generator.
        chains: digest of what `restore` chooses from.
        action: what an alarm leads to.
        stream: alarms also on many slightly suspicious frames; None judges each frame alone.
        mirror: show models the frame with left and right exchanged as well; not where that changes a class (arrows).

    Raises:
        CalibrationError: EG-L025: the calibration is of other models or chains; EG-L020: it rests on too few frames.
    """

    def __init__(
        self,
        members: Sequence[tuple[str, Callable[[Pixels], T]]],
        calibration: InputsSection,
        *,
        kind: AnswerKind[T],
        restore: Callable[[Pixels, int], tuple[Pixels, str]],
        squeeze: Callable[[Pixels], Pixels],
        fresh_key: Callable[[], int],
        chains: str,
        action: Action = "restore",
        stream: StreamAlarm | None = None,
        mirror: bool = True,
    ) -> None:
        if tuple(name for name, _ in members) != calibration.models or chains != calibration.chains:
            raise CalibrationError(
                "the calibration was made with other models or other chains",
                code="EG-L025",
                hint="calibrate again: edgeguard calibrate inputs",
            )
        self._members = tuple(ask for _, ask in members)
        self._kind = kind
        self._calibration = calibration
        self._combined, self._patch = calibration.combined(), calibration.patch()
        self._restore, self._squeeze, self._fresh_key = restore, squeeze, fresh_key
        self._action = action
        self._stream = stream
        self._mirror = mirror

    @property
    def level(self) -> float:
        """Share of clean frames that alarm."""
        return self._calibration.level

    def judge(self, pixels: Pixels, *, suspect: bool = False) -> GatedAnswer[T]:
        """Return the answer to a frame, (H, W, 3) uint8 BGR. suspect: something else has alarmed already.

        Raises:
            ConfigError: EG-C140: not a frame. What the models raise passes through.
        """
        require_image(pixels)
        first = self._members[0]
        answer = first(pixels)
        second = self._members[1](pixels) if len(self._members) > 1 else first(self._squeeze(pixels))
        scores: dict[ScoreName, float] = {
            "chroma": self._calibration.chroma.score(chroma_features(pixels)),
            "disagreement": self._kind.differ(answer, second),
        }
        patch = PatchEvidence(0.0)
        if self._patch is not None:
            patch = verify_patch(
                pixels, first, answer, second,
                differ=self._kind.differ, min_disagreement_bit=self._calibration.screen_bit,
            )  # fmt: skip
            scores["patch"] = patch.score
        p_value, parts = judged(self._combined, self._patch, scores)
        alarm = suspect or p_value <= self._calibration.level
        if self._stream is not None:
            alarm = self._stream.push(p_value) or alarm
        if not alarm or self._action == "refuse":
            released = None if alarm else answer
            return GatedAnswer(released, alarm, False, p_value, parts, scores, window=patch.window, first=answer)
        window = patch.window if parts.get("patch", 1.0) <= PATCH_P_VALUE else None
        return self._restored(pixels, answer, second, window, GatedAnswer(None, True, True, p_value, parts, scores))

    def _restored(
        self,
        pixels: Pixels,
        answer: T,
        second: T,
        window: Window | None,
        found: GatedAnswer[T],
    ) -> GatedAnswer[T]:
        base = pixels if window is None else cover(pixels, window)
        answers, chains, keys = [], [], []
        if window is None and found.parts["chroma"] > CHROMA_P_VALUE:
            answers.append(answer)
        for _ in range(RESTORED_VIEWS):
            key = self._fresh_key()
            restored, chain = self._restore(base, key)
            answers.append(self._turned(self._members[0], restored))
            chains.append(chain)
            keys.append(key)
        for number, member in enumerate(self._members[1:], start=1):
            answers.append(second if number == 1 and window is None else member(base))
            if self._mirror:
                answers.append(self._turned(member, base))
        doubt = _doubt([found.parts["patch"]] if window else [found.parts["chroma"], found.parts["disagreement"]])
        return GatedAnswer(
            self._kind.merge(answers, answer, doubt),
            found.alarm,
            True,
            found.p_value,
            found.parts,
            found.scores,
            tuple(chains),
            tuple(keys),
            window,
            tuple(answers),
            answer,
        )

    def _turned(self, member: Callable[[Pixels], T], pixels: Pixels) -> T:
        """Ask about the mirrored frame, where the release allows it."""
        if not self._mirror:
            return member(pixels)
        return self._kind.turned(member(mirrored(pixels)), pixels.shape[1])


def _doubt(p_values: Sequence[float]) -> float:
    """Return the logarithm of the product of their e-values; 0 where one of them says nothing."""
    signs = [float(np.log(e_value(p))) for p in p_values]
    return sum(signs) if min(signs) > 0.0 else 0.0


def mirrored(pixels: Pixels) -> Pixels:
    """Return the frame with left and right exchanged: natural classes stay, a perturbation loses its aim."""
    return np.asarray(cv2.flip(pixels, 1), dtype=np.uint8)
