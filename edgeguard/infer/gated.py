"""The gate in front of models, as a pipeline asks it: a frame in, an answer and its evidence out.

MITRE ATLAS AML.M0006, AML.M0008, AML.M0010, AML.M0015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeguard.detect.answers import AnswerKind, BoxAnswers, ClassAnswers
from edgeguard.detect.calibration import InputsSection
from edgeguard.detect.conformal import StreamAlarm
from edgeguard.detect.drift import DriftWatch
from edgeguard.detect.fingerprints import QueryDetector
from edgeguard.detect.gate import Action, GatedAnswer, InputGate
from edgeguard.detect.scalars import FRAME_SCALARS, frame_scalars
from edgeguard.infer.adapter import ImageModel, class_scores
from edgeguard.infer.ensemble import checked_members
from edgeguard.infer.input_policy import InputPolicy
from edgeguard.restore.draw import fresh_key
from edgeguard.restore.image_chain import ChainChoice
from edgeguard.types import Image, InputEvidence, ModelAnswer

Pixels = NDArray[np.uint8]


class GatedModel:
    """Models of one kind, classifiers or detectors, and what watches their inputs.

    Args:
        members: the first one's answers leave unless a frame is suspicious.
        calibration: fitted by `edgeguard calibrate inputs` on the same members and chains.
        policy: of the first member's signed manifest.
        action: what an alarm leads to. stream: see `InputGate`.
        queries: also alarms on many requests about one picture; for endpoints, a video repeats itself.
        drift_every: hold every so many frames against the release's drift reference: neighbours look alike.
        new_key: of the keyed choice of chains; the system's secure generator unless a simulation wants its own.

    Raises:
        ConfigError: EG-C142: as `checked_members`. CalibrationError: EG-L025, EG-L020: as `InputGate`. EG-L023: as
            `DriftWatch`.
    """

    def __init__(
        self,
        members: Sequence[ImageModel],
        calibration: InputsSection,
        policy: InputPolicy,
        *,
        action: Action = "restore",
        stream: StreamAlarm | None = None,
        queries: QueryDetector | None = None,
        drift_every: int = 10,
        new_key: Callable[[], int] = fresh_key,
    ) -> None:
        checked = checked_members(members)
        self._choice = ChainChoice(policy.chains)
        self._labels = checked[0].io.decoder.labels
        self.model_id = checked[0].model_id
        self._passes = 0
        self._queries = queries
        self._drift = (
            None if policy.drift is None else DriftWatch(policy.drift, FRAME_SCALARS, np.random.default_rng(0))
        )
        self._drift_every, self._frame = max(1, drift_every), 0
        kind, asked = how_asked(checked)
        self._gate: InputGate[Any] = InputGate(
            [(name, self._counted(ask)) for name, ask in asked],
            calibration,
            kind=kind,
            restore=self._choice.restore,
            squeeze=self._choice.squeeze,
            fresh_key=new_key,
            chains=self._choice.digest,
            action=action,
            stream=stream,
            mirror=policy.mirror,
        )

    def ask(self, image: Image) -> ModelAnswer:
        """Return the answer and its evidence. Raises as `ImageModel.ask`, and ConfigError EG-C140: no frame."""
        self._passes = 0
        repeated = self._queries is not None and self._queries.push(image.pixels)
        judged = self._gate.judge(image.pixels, suspect=repeated)
        evidence, answer = self._evidence(judged, self._drifted(image.pixels)), judged.answer
        if isinstance(answer, np.ndarray):
            return ModelAnswer(classes=class_scores(answer, self._labels), inputs=evidence)
        return ModelAnswer(detections=answer if isinstance(answer, tuple) else None, inputs=evidence)

    def _evidence(self, judged: GatedAnswer[Any], drifted: tuple[str, ...]) -> InputEvidence:
        window = judged.window
        return InputEvidence(
            alarm=judged.alarm,
            restored=judged.restored,
            refused=judged.refused,
            p_value=judged.p_value,
            level=self._gate.level,
            parts=judged.parts,
            chains=judged.chains,
            keys=judged.keys,
            chains_sha256=self._choice.digest,
            window=None if window is None else (window.left, window.top, window.right, window.bottom),
            passes=self._passes,
            drifted=drifted,
        )

    def _drifted(self, pixels: Pixels) -> tuple[str, ...]:
        if self._drift is None:
            return ()
        if self._frame % self._drift_every == 0:
            self._drift.push(frame_scalars(pixels))
        self._frame += 1
        return self._drift.drifted

    def _counted(self, ask: Callable[[Pixels], Any]) -> Callable[[Pixels], Any]:
        def counted(pixels: Pixels) -> Any:
            self._passes += 1
            return ask(pixels)

        return counted


def how_asked(
    members: Sequence[ImageModel],
) -> tuple[AnswerKind[Any], list[tuple[str, Callable[[Pixels], Any]]]]:
    """Return the kind of the members' answers, and each one's identifier with the call that asks it."""
    if members[0].io.decoder.kind == "classifier/v1":
        return ClassAnswers(), [(member.model_id, member.classify_pixels) for member in members]
    return BoxAnswers(), [(member.model_id, member.detect_pixels) for member in members]
