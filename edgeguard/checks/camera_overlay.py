"""C5.overlay: something appears in the picture from one frame to the next and does not move with the scene.

Dirt and drops on the lens, a lamp that dazzles it, a projected phantom or a board that is carried ahead have this in
common: a compact region changes at once, everywhere in it and nowhere around it, and then stands still on the sensor
while the street goes by. Real things enter from an edge, cross borders, and move. Regions in which things come and go
anyway, changes of the whole picture (exposure, tunnels), and a sky that clears are left alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.camera_evidence import CameraEvidence, CameraFrame
from edgeguard.types import CheckResult, Level, RigCalibration, SyncedSet

PAST_FRAMES = 5
JUMP_DN = 12.0  # of a block within one frame; read noise of a block's mean is below 1
JUMP_FACTOR = 2.0  # over what the surroundings did in the last frames
MIN_BLOCKS = 8  # a traffic light or a brake light is less
MAX_SHARE = 0.6  # of the picture: beyond, the light or the picture changed, not a part of it
CONFIRM = 3  # frames that the region stands still
STILL_SHARE = 0.7
MIN_MOVING_SHARE = 0.15  # of the other blocks that have changed since: else the vehicle stands
MAX_AROUND_SHARE = 0.15  # of the blocks around that jump next: a shadow or a body that passes goes on
SUN_DEG = 4.0  # above the horizon: what saturates there may be the sun
SATURATED_DN = 250.0
DEFAULT_FOCAL_SHARE = 0.65  # focal length per width without a calibration: 75 deg of view
HOLD_S = 1.0
DESCRIBED = "region"


@dataclass(slots=True, eq=False)
class _Candidate:
    """Region that appeared: its blocks, those around it, the thinned frame of then, and frames since."""

    region: NDArray[np.bool_]
    around: NDArray[np.bool_]
    mean: NDArray[np.float32]
    still: NDArray[np.int16]
    moved: NDArray[np.bool_]
    jumps_around: int = 0
    age: int = 0


class OverlayCheck:
    """C5.overlay. statistic: share of the region that stands still, over what is needed; threshold 1."""

    name = "C5.overlay"

    def __init__(self, evidence: CameraEvidence, calibration: RigCalibration | None = None) -> None:
        self.sensors: tuple[str, ...] = (evidence.camera,)
        self._evidence = evidence
        self._calibration = calibration
        self._clear()

    def _clear(self) -> None:
        self._past: deque[NDArray[np.float32]] = deque(maxlen=PAST_FRAMES)
        self._candidates: list[_Candidate] = []
        self._last_mean: NDArray[np.float32] | None = None
        self._alarm_s = -np.inf
        self._alarm: tuple[float, str] = (0.0, "")

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        frame = self._evidence.frame(synced)
        if frame is None:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no new frame at this tick")
        if frame.change is None or self._last_mean is None or self._last_mean.shape != frame.mean.shape:
            self._clear()
            self._last_mean = frame.mean
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no frame just before")
        jump = self._jumps(frame)
        moving = self._follow(frame, jump)
        if len(self._past) == PAST_FRAMES:
            self._appear(frame, jump)
        self._past.append(cv2.dilate(frame.change, np.ones((5, 5), np.uint8)))
        self._last_mean = frame.mean
        if 0.0 <= frame.time_s - self._alarm_s <= HOLD_S:
            return self._result(Level.ANOMALY, *self._alarm)
        if len(self._past) < PAST_FRAMES:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "too few frames yet")
        if not moving:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "nothing moves: all regions stand still")
        return self._result(Level.OK, 0.0, "")

    def _jumps(self, frame: CameraFrame) -> NDArray[np.bool_]:
        if not self._past or frame.change is None:
            return np.zeros(frame.mean.shape, np.bool_)
        usual = np.max(np.array(self._past), axis=0)
        return np.asarray(frame.change > np.maximum(JUMP_DN, JUMP_FACTOR * usual), np.bool_)

    def _appear(self, frame: CameraFrame, jump: NDArray[np.bool_]) -> None:
        """Begin a candidate for each compact region of jumps."""
        if not MIN_BLOCKS <= np.count_nonzero(jump) <= MAX_SHARE * jump.size:
            return
        joined = cv2.morphologyEx(jump.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
        for label in np.argsort(-stats[1:count, cv2.CC_STAT_AREA])[:3] + 1:
            region = labels == label
            if np.count_nonzero(region & jump) < MIN_BLOCKS or self._may_be_sun(frame, region):
                continue
            around = cv2.dilate(region.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(np.bool_)
            around &= ~cv2.dilate(region.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)
            still = np.zeros(region.shape, np.int16)
            self._candidates.append(_Candidate(region, around, frame.mean, still, np.zeros(region.shape, np.bool_)))

    def _follow(self, frame: CameraFrame, jump: NDArray[np.bool_]) -> bool:
        """Age the candidates, judge the ripe ones; return whether the scene moves."""
        assert frame.change is not None  # noqa: S101 - the caller has looked
        quiet = 1.5 * frame.noise_dn + 1.0  # 1.13 sigma is the mean of the difference of two noisy pixels
        moving = float(np.mean(frame.change > 2.0 * quiet)) > MIN_MOVING_SHARE
        kept = []
        for candidate in self._candidates:
            candidate.age += 1
            candidate.still += frame.change < quiet
            candidate.moved |= np.abs(frame.mean - candidate.mean) > 2.0 * quiet
            candidate.jumps_around += int(np.count_nonzero(jump & candidate.around))
            if candidate.age < CONFIRM:
                kept.append(candidate)
            else:
                self._judge(candidate, frame)
        self._candidates = kept[-8:]
        return moving

    def _judge(self, candidate: _Candidate, frame: CameraFrame) -> None:
        region = candidate.region
        still = float(np.mean(candidate.still[region] >= CONFIRM))
        others = ~region & ~candidate.around
        moved = float(np.mean(candidate.moved[others])) if others.any() else 0.0
        passing = candidate.jumps_around / max(1, int(candidate.around.sum()))
        share = still / STILL_SHARE
        if share > 1.0 and moved > MIN_MOVING_SHARE and passing < MAX_AROUND_SHARE:
            size = 100.0 * float(region.mean())
            self._alarm_s = frame.time_s
            self._alarm = (share, f"{size:.1f} % of the picture appeared at once and stands still in it")

    def _may_be_sun(self, frame: CameraFrame, region: NDArray[np.bool_]) -> bool:
        bright = region & (frame.mean > SATURATED_DN)
        if not bright.any():
            return False
        height, width = frame.image.pixels.shape[:2]
        focal, horizon = DEFAULT_FOCAL_SHARE * width, 0.5 * height
        if self._calibration is not None and self._calibration.image_size_px == (width, height):
            focal, horizon = self._calibration.camera_matrix[1, 1], self._calibration.camera_matrix[1, 2]
        row = float(np.mean(np.nonzero(bright)[0])) * height / region.shape[0]
        return bool(np.degrees(np.arctan2(horizon - row, focal)) > SUN_DEG)

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else float(MIN_BLOCKS)
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "blocks", "image", reason)
