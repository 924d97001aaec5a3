"""From scores to alarms with a stated false-alarm rate: conformal p-values, e-values, and a detector over a stream.

p = (1 + #{calibration scores >= s}) / (n + 1) is never too small on exchangeable frames, whatever the score's
distribution (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005). An e-value k p^(k-1) has mean
at most one (Vovk and Wang, "E-values: calibration, combination and applications", Ann. Statist. 49, 2021), and the
running e-detector max(S, 1) * e alarms on clean frames not more often than once in `threshold` frames on average
(Shin, Ramdas and Rinaldo, "E-detectors", 2023). Frames of a video are not exchangeable from one to the next: the
stream takes every `every`-th only. MITRE ATLAS AML.M0015.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import CalibrationError

# A level is supported when so many calibration frames lie beyond it on average: with ten, the achieved rate lies
# within a factor of two of the stated one in 19 of 20 calibrations.
FRAMES_BEYOND_LEVEL = 10
MIN_FRAMES = 20  # with fewer not even one alarm in two frames could be stated
BET = 0.3  # exponent k of the e-value: small p-values count, and one at p = 0.01 does not decide alone
MAX_LOG_E = 60.0  # of the running sum: an attack of an hour must not take an hour to be forgotten


def lowest_level(frames: int) -> float:
    """Return the smallest false-alarm share that `frames` independent clean frames support: 1 % from 1,000 on."""
    return min(1.0, FRAMES_BEYOND_LEVEL / frames) if frames else 1.0


class Reference:
    """Scores of clean frames of one kind, larger being more suspicious.

    Raises:
        CalibrationError: EG-L020: too few scores, or one that is not a number.
    """

    def __init__(self, scores: Sequence[float] | NDArray[np.float64]) -> None:
        self.scores = np.sort(np.asarray(scores, dtype=np.float64))
        if self.scores.size < MIN_FRAMES or not np.isfinite(self.scores).all():
            raise CalibrationError(
                f"{self.scores.size} clean scores; at least {MIN_FRAMES} finite ones are needed",
                code="EG-L020",
                hint="calibrate on more clean frames: edgeguard calibrate inputs",
            )

    def p_value(self, score: float) -> float:
        """Return the conformal p-value, in (0, 1]; a score that is not a number is as suspicious as can be."""
        n = self.scores.size
        beyond = n - int(np.searchsorted(self.scores, score, side="left")) if np.isfinite(score) else 0
        return (1 + beyond) / (n + 1)

    def left_out(self) -> NDArray[np.float64]:
        """Return the p-value of each score among the others, in ascending order of the scores."""
        n = self.scores.size
        beyond = n - np.searchsorted(self.scores, self.scores, side="left")
        return np.asarray(beyond / n, dtype=np.float64)


def e_value(p: float) -> float:
    """Return k p^(k-1): large for small p-values, at most one on average."""
    return float(BET * p ** (BET - 1.0))


def suspicion(p_values: Mapping[str, float]) -> float:
    """Return the sum of -ln p: Fisher's statistic, here only a score that is calibrated again as a whole.

    The scores of one frame are not independent, so its chi-square distribution does not hold and is not used.
    """
    return float(-sum(np.log(p) for p in p_values.values()))


class Combined:
    """Several references and the one for their sum.

    Args:
        scores: name to scores of the same clean frames in the same order.

    Raises:
        CalibrationError: EG-L020: too few frames; EG-L021: the scores are not of the same frames.
    """

    def __init__(self, scores: Mapping[str, Sequence[float] | NDArray[np.float64]]) -> None:
        columns = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
        if not columns or len({len(values) for values in columns.values()}) != 1:
            raise CalibrationError(
                "the scores are not of the same frames", code="EG-L021", hint="calibrate them together"
            )
        self.references = {name: Reference(values) for name, values in columns.items()}
        total = np.zeros(len(next(iter(columns.values()))))
        for name, values in columns.items():
            # Among the others, not among all: the frame itself would make its own p-value one rank too large.
            reference = self.references[name]
            total -= np.log(reference.left_out()[np.searchsorted(reference.scores, values, side="left")])
        self.together = Reference(total)

    @property
    def frames(self) -> int:
        """How many clean frames it rests on."""
        return int(self.together.scores.size)

    def judge(self, scores: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """Return the p-value of a frame and that of each of its scores.

        Raises:
            CalibrationError: EG-L021: other scores than calibrated.
        """
        if scores.keys() != self.references.keys():
            known, given = ", ".join(sorted(self.references)), ", ".join(sorted(scores))
            raise CalibrationError(
                f"calibrated for {known}, asked about {given}",
                code="EG-L021",
                hint="calibrate again with the same models",
            )
        parts = {name: reference.p_value(scores[name]) for name, reference in self.references.items()}
        return self.together.p_value(suspicion(parts)), parts


class StreamAlarm:
    """One alarm over a stream of frames: the running e-detector.

    Args:
        frames_between_alarms: mean run of clean frames between two alarms, at least; counted in frames that are taken.
        every: take every so many frames, because neighbours look alike.

    Attributes:
        log_evidence: ln of the running value; the alarm is at ln of `frames_between_alarms`.
    """

    def __init__(self, frames_between_alarms: float, *, every: int = 1) -> None:
        self.threshold = float(np.log(max(frames_between_alarms, 1.0)))
        self.log_evidence = 0.0
        self._every = max(1, every)
        self._frame = 0

    def push(self, p: float) -> bool:
        """Take a frame's p-value; return whether the stream is in alarm."""
        if self._frame % self._every == 0:
            self.log_evidence = min(max(self.log_evidence, 0.0) + float(np.log(e_value(p))), MAX_LOG_E)
        self._frame += 1
        return self.log_evidence >= self.threshold
