"""C3.replay: a picture that was there before, under fresh noise; C3.cut: a picture of another place.

T4.freeze finds payloads that repeat bit by bit. Here frames are compared by what they show: block means with the slow
shades taken out. A moving camera never sees the same again to a quarter of what it moves between two frames, so a match
that is much closer than the frames around it were to each other is a replay, and only where the scene moved then:
a parked vehicle honestly repeats itself and is NOT_OBSERVABLE.
"""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.camera_evidence import SCENE, CameraEvidence, CameraFrame
from edgeguard.checks.quantiles import quantile_of
from edgeguard.kernels.blocks import mean_distances
from edgeguard.types import CheckResult, Level, SyncedSet

RING_S = 30.0
MAX_RING = 900  # half a minute at 30 Hz
MIN_STEP_SIGMA = 6.0  # what frames must differ by to count as moving, in sigma of what noise alone does
CLOSE = 0.3  # of the step: the nearest a moving camera comes to an old place by chance is one half of a step
MIN_RUN = 3
STEADY = 0.5  # a step below this share of the last second's is a vehicle that brakes
CUT_SHARE = 0.5  # of the correlation that consecutive frames have, below which they are not of one place
ALIKE = 0.45  # what that must be: a street layout alone, mirrored or another, correlates to 0.1 to 0.3
HOLD_S = 1.0
PAST_FRAMES = 10


class ReplayCheck:
    """C3.replay. statistic: share of the replay criterion, over the least of the last three frames; threshold 1."""

    name = "C3.replay"

    def __init__(self, evidence: CameraEvidence) -> None:
        self.sensors: tuple[str, ...] = (evidence.camera,)
        self._evidence = evidence
        self._clear()

    def _clear(self) -> None:
        self._ring = np.empty((MAX_RING, SCENE[0] * SCENE[1]), np.float32)
        self._times: deque[float] = deque(maxlen=MAX_RING)
        self._steps: deque[float] = deque(maxlen=MAX_RING)
        self._count = 0
        self._run: deque[tuple[float, float]] = deque(maxlen=MIN_RUN)
        self._alarm_s = -np.inf
        self._alarm = (0.0, 0.0)

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        frame = self._evidence.frame(synced)
        if frame is None:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no new frame at this tick")
        look = frame.scene.reshape(-1)
        share, age_s, moving = self._match(look, frame)
        self._remember(look, frame)
        self._run.append((share, age_s))
        if len(self._run) == MIN_RUN and min(s for s, _ in self._run) > 1.0:
            self._alarm_s, self._alarm = frame.time_s, (min(s for s, _ in self._run), age_s)
        if 0.0 <= frame.time_s - self._alarm_s <= HOLD_S:
            share, age_s = self._alarm
            return self._result(Level.ANOMALY, share, f"the scene of {age_s:.1f} s ago, under fresh noise")
        if not moving:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "nothing moves: an honest frame repeats as well")
        return self._result(Level.OK, min(share, 1.0), "")

    def _match(self, look: NDArray[np.float32], frame: CameraFrame) -> tuple[float, float, bool]:
        """Share of the criterion, age of the best match, and whether the scene moves."""
        known = min(self._count, MAX_RING)
        if known < PAST_FRAMES:
            return 0.0, 0.0, False
        newest = (self._count - 1) % MAX_RING
        quiet = MIN_STEP_SIGMA * _noise_step(frame)
        steps = np.array(self._steps)
        usual = quantile_of(steps[-PAST_FRAMES:], 0.5)
        steps = np.roll(steps, newest + 1) if known == MAX_RING else steps
        ages = frame.time_s - np.array(self._times)
        ages = np.roll(ages, newest + 1) if known == MAX_RING else ages
        moved = np.where((ages > 0.0) & (ages <= RING_S), steps, 0.0)
        moved[moved < max(quiet, STEADY * self._typical(steps))] = 0.0
        away = mean_distances(self._ring[:known], look, moved > 0.0)
        shares = CLOSE * moved / np.maximum(away, 1e-3)
        best = int(np.argmax(shares))
        moving = usual > quiet or bool(self._run and self._run[-1][0] > 1.0)
        return float(shares[best]), float(ages[best]), moving

    @staticmethod
    def _typical(steps: NDArray[np.float64]) -> float:
        return quantile_of(steps, 0.75) if steps.size else 0.0

    def _remember(self, look: NDArray[np.float32], frame: CameraFrame) -> None:
        last = (self._count - 1) % MAX_RING
        step = float(np.abs(self._ring[last] - look).mean()) if self._count and frame.change is not None else 0.0
        # What repeats is not kept: its own steps would be those of the replay.
        self._ring[self._count % MAX_RING] = look
        self._times.append(frame.time_s)
        self._steps.append(step)
        self._count += 1

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else float(MIN_RUN)
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "frames", "scene", reason)


class CutCheck:
    """C3.cut: from one frame to the next everything is another: exchanged, mirrored or injected video.

    statistic: half of the correlation that consecutive frames have, over what these two have; threshold 1.
    """

    name = "C3.cut"

    def __init__(self, evidence: CameraEvidence) -> None:
        self.sensors: tuple[str, ...] = (evidence.camera,)
        self._evidence = evidence
        self._last: NDArray[np.float32] | None = None
        self._past: deque[float] = deque(maxlen=PAST_FRAMES)
        self._alarm_s = -np.inf
        self._alarm = 0.0

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        frame = self._evidence.frame(synced)
        if frame is None:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no new frame at this tick")
        look = frame.scene
        last, self._last = self._last, look
        if last is None or frame.change is None:
            self._past.clear()
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no frame just before")
        alike = _correlation(last, look)
        usual = quantile_of(self._past, 0.2) if len(self._past) >= 5 else 0.0
        self._past.append(alike)
        share = CUT_SHARE * usual / max(alike, 0.05)
        if share > 1.0 and usual > ALIKE:
            self._alarm_s, self._alarm = frame.time_s, share
            self._past.pop()
        if 0.0 <= frame.time_s - self._alarm_s <= HOLD_S:
            return self._result(Level.ANOMALY, self._alarm, "the picture is another one than a frame before")
        if usual <= ALIKE:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "consecutive frames have little in common anyway")
        return self._result(Level.OK, min(share, 1.0), "")

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else 1.0
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "frames", "scene", reason)


def _noise_step(frame: CameraFrame) -> float:
    """Mean absolute difference of two pictures of the same scene, from sensor noise alone."""
    pixels = frame.grey.size / (SCENE[0] * SCENE[1])
    return float(0.8 * np.sqrt(2.0) * frame.noise_dn / np.sqrt(pixels))


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Best normalised correlation under shifts of one cell."""
    inner = a[1:-1, 1:-1]
    scores = cv2.matchTemplate(b, inner, cv2.TM_CCOEFF_NORMED)
    return float(scores.max())
