"""The gate in front of classifiers, as a pipeline asks it: a frame in, an answer and its evidence out.

MITRE ATLAS AML.M0006, AML.M0008, AML.M0010, AML.M0015.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeguard.detect.calibration import InputsSection
from edgeguard.detect.conformal import StreamAlarm
from edgeguard.detect.drift import DriftWatch
from edgeguard.detect.fingerprints import QueryDetector
from edgeguard.detect.gate import Action, GatedAnswer, InputGate
from edgeguard.detect.scalars import ANSWER_SCALARS, FRAME_SCALARS, all_scalars
from edgeguard.infer.adapter import class_scores
from edgeguard.infer.ensemble import EnsembleSession
from edgeguard.infer.input_policy import InputPolicy
from edgeguard.restore.draw import fresh_key
from edgeguard.restore.image_chain import ChainChoice
from edgeguard.types import Image, InputEvidence, ModelAnswer

Pixels = NDArray[np.uint8]


class GatedClassifier:
    """Classifiers over the same classes, and what watches their inputs.

    Args:
        ensemble: the first member's answers leave unless a frame is suspicious.
        calibration: fitted by `edgeguard calibrate inputs` on the same members and chains.
        policy: of the first member's signed manifest.
        action: what an alarm leads to. stream: see `InputGate`.
        queries: also alarms on many requests about one picture; for endpoints, a video repeats itself.
        drift_every: hold every so many frames against the release's drift reference: neighbours look alike.
        new_key: of the keyed choice of chains; the system's secure generator unless a simulation wants its own.

    Raises:
        CalibrationError: EG-L025, EG-L020: as `InputGate`. EG-L023: as `DriftWatch`.
    """

    def __init__(
        self,
        ensemble: EnsembleSession,
        calibration: InputsSection,
        policy: InputPolicy,
        *,
        action: Action = "restore",
        stream: StreamAlarm | None = None,
        queries: QueryDetector | None = None,
        drift_every: int = 10,
        new_key: Callable[[], int] = fresh_key,
    ) -> None:
        self._choice = ChainChoice(policy.chains)
        self._labels = ensemble.members[0].io.decoder.labels
        self.model_id = ensemble.members[0].model_id
        self._passes = 0
        self._queries = queries
        self._drift = None
        if policy.drift is not None:
            watched = [*FRAME_SCALARS, *(name for name in ANSWER_SCALARS if name in policy.drift.scalars)]
            self._drift = DriftWatch(policy.drift, watched, np.random.default_rng(0))
            self._answer_too = len(watched) > len(FRAME_SCALARS)
        self._drift_every, self._frame = max(1, drift_every), 0
        self._gate = InputGate(
            [(member.model_id, self._counted(member.classify_pixels)) for member in ensemble.members],
            calibration,
            restore=self._restore,
            squeeze=self._choice.squeeze,
            fresh_key=new_key,
            chains=self._choice.digest,
            action=action,
            stream=stream,
            mirror=policy.mirror,
        )

    def ask(self, image: Image) -> ModelAnswer:
        """Return the answer and its evidence. Raises as `ImageModel.classify`, and ConfigError EG-C140: no frame."""
        self._passes = 0
        repeated = self._queries is not None and self._queries.push(image.pixels)
        judged = self._gate.judge(image.pixels, suspect=repeated)
        answer = judged.probabilities
        return ModelAnswer(
            classes=() if answer is None else class_scores(answer, self._labels),
            inputs=self._evidence(judged, self._drifted(image.pixels, judged)),
        )

    def _evidence(self, judged: GatedAnswer, drifted: tuple[str, ...]) -> InputEvidence:
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

    def _drifted(self, pixels: Pixels, judged: GatedAnswer) -> tuple[str, ...]:
        if self._drift is None:
            return ()
        if self._frame % self._drift_every == 0:
            self._drift.push(all_scalars(pixels, judged.first if self._answer_too else None))
        self._frame += 1
        return self._drift.drifted

    def _counted(self, classify: Callable[[Pixels], NDArray[np.float64]]) -> Callable[[Pixels], NDArray[np.float64]]:
        def counted(pixels: Pixels) -> NDArray[np.float64]:
            self._passes += 1
            return classify(pixels)

        return counted

    def _restore(self, pixels: Pixels, key: int) -> tuple[Pixels, str]:
        done = self._choice.apply(pixels, key)
        return done.pixels, done.chain
