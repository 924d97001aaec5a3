"""C2.focus: the lens loses focus, fogs over, or the picture was re-scaled: fine steps go, coarse ones stay.

The score compares steps over one pixel with steps over eight, noise taken out. A sharp camera gives nearly the same
value on any scene, so that the frame's own recent past is a narrow reference. Motion blurs along its direction only:
the sharper of the two directions counts.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from edgeguard.checks.camera_evidence import CameraEvidence, CameraFrame
from edgeguard.checks.quantiles import quantile_of
from edgeguard.checks.scores import Prior, ScoreMonitor, SensorFits
from edgeguard.types import CheckResult, Level, SyncedSet

PAST_FRAMES = 40
MIN_PAST = 5
MIN_COARSE_DN = 3.0  # rms over eight pixels, noise taken out: a plain picture has no focus to lose
SIGMA = 0.06  # neper; what other scenes, trees and speeds change within seconds stays below two of them
HOLD_FRAMES = 100  # then the new sharpness is the normal one


class FocusCheck:
    """C2.focus. Raw score: by how much the sharpness fell below its own past, neper (0.36 is a blur of two pixels)."""

    name = "C2.focus"

    def __init__(self, evidence: CameraEvidence, fits: SensorFits | None = None) -> None:
        self.sensors: tuple[str, ...] = (evidence.camera,)
        self._evidence = evidence
        self._monitor = ScoreMonitor(self.name, Prior(0.0, SIGMA, "neper", one_sided=True), fits, cusum_k=4.0)
        self.monitors: tuple[ScoreMonitor, ...] = (self._monitor,)
        self._past: deque[float] = deque(maxlen=PAST_FRAMES)
        self._lost = 0

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        frame = self._evidence.frame(synced)
        if synced.tick.discontinuity:
            self._past.clear()
            self._monitor.restart()
        now_s = synced.tick.stamp_ns * 1e-9
        sharp = None if frame is None else _sharpness(frame)
        if sharp is None:
            self._monitor.skip(now_s)
            return self._result("no new frame at this tick" if frame is None else "the picture is too plain")
        if len(self._past) < MIN_PAST:
            self._past.append(sharp)
            return self._result("too few frames yet")
        fall = quantile_of(self._past, 0.5) - sharp
        self._monitor.push(now_s, fall, None if frame is None else frame.speed_m_s)
        if fall < 3.0 * SIGMA or self._lost >= HOLD_FRAMES:
            self._past.append(sharp)
        self._lost = self._lost + 1 if fall >= 3.0 * SIGMA else 0
        return self._result("")

    def _result(self, why_not: str) -> CheckResult:
        statistic = self._monitor.statistic
        power = float("inf") if why_not else self._monitor.power()
        why_not = why_not or ("too few frames yet" if power == float("inf") else "")
        if statistic > 1.0:
            level, reason = Level.ANOMALY, "fine detail is gone while coarse detail is there: out of focus"
        else:
            level, reason = (Level.NOT_OBSERVABLE if why_not else Level.OK), why_not
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "neper", "focus", reason)


def _sharpness(frame: CameraFrame) -> float | None:
    """Log ratio of fine to coarse steps in the sharper direction; None for a picture without coarse ones."""
    noise2 = 2.0 * frame.noise_dn**2
    fine_x, coarse_x, fine_y, coarse_y = frame.steps.mean(axis=0) - noise2
    values = [
        0.5 * np.log(max(fine, 0.05) / coarse)
        for fine, coarse in ((fine_x, coarse_x), (fine_y, coarse_y))
        if coarse > MIN_COARSE_DN**2
    ]
    return float(max(values)) if values else None
