"""C5.overlay: something appears in the picture from one frame to the next and does not move with the scene.

Two kinds. Opaque: dirt and drops on the lens, a board that is carried ahead. Blocks change at once, show texture, and
then stand still on the sensor to within its noise while the street goes by; nothing real that has texture does.
Light: a lamp or laser that dazzles. A large region turns brighter at once and keeps what was added.

A parked camera sees still things honestly (NOT_OBSERVABLE), a change of the whole picture is exposure or a tunnel, what
saturates well above the horizon may be the sun, and what was as bright right beside may have moved: behind the edge of
a tunnel's mouth comes the sky.
"""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.camera_evidence import CameraEvidence, CameraFrame
from edgeguard.kernels.blocks import BLOCK_PX
from edgeguard.types import CheckResult, Level, RigCalibration, SyncedSet

STILL_FRAMES = 4  # 0.4 s at 10 Hz: what lies far ahead stands still for a frame or two
BEFORE_FRAMES = 5
JUMP_DN = 12.0  # of a block within one frame; read noise of a block's mean is below 1
JUMP_FACTOR = 1.5  # over what the block did before
TEXTURE_SIGMA = 8.0  # range of brightness within a block, in sigma of noise: 16 noisy pixels of one shade span four
MIN_BLOCKS = 9  # connected; clean drives reach six, at the vanishing point
MIN_SIDE_BLOCKS = 3
GLARE_FACTOR = 2.0  # light added over what the block's mean did before
GLARE_STAY = 0.35  # of the added light that may come and go afterwards
BESIDE_BLOCKS = (
    4  # a twentieth of the width: nearly what a wall 3 m aside moves at the picture's rim at 10 m/s and 10 Hz
)
MIN_GLARE_SHARE = 0.05  # of the picture; a lorry that fills as much does not enter within a frame
MAX_SHARE = 0.8  # of the picture: beyond, the light changed
MIN_MOVING_SHARE = 0.15  # of the blocks that change more than noise does: else the vehicle stands
SUN_DEG = 4.0
SATURATED_DN = 250.0
DEFAULT_FOCAL_SHARE = 0.65  # focal length per width without a calibration: 75 deg of view
HOLD_S = 1.0


class OverlayCheck:
    """C5.overlay. statistic: size of the region over the least that counts; threshold 1."""

    name = "C5.overlay"

    def __init__(self, evidence: CameraEvidence, calibration: RigCalibration | None = None) -> None:
        self.sensors: tuple[str, ...] = (evidence.camera,)
        self._evidence = evidence
        self._calibration = calibration
        self._past: deque[CameraFrame] = deque(maxlen=BEFORE_FRAMES + 2 + STILL_FRAMES)
        self._alarm_s = -np.inf
        self._alarm: tuple[float, str] = (0.0, "")

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        frame = self._evidence.frame(synced)
        if frame is None:
            return self._result(Level.NOT_OBSERVABLE, 0.0, "no new frame at this tick")
        if frame.change is None:
            self._past.clear()
        self._past.append(frame)
        if len(self._past) < BEFORE_FRAMES + 2 + STILL_FRAMES:
            return self._held(frame, Level.NOT_OBSERVABLE, 0.0, "too few frames yet")
        share, what, moving = self._appeared()
        if share > 1.0:
            self._alarm_s, self._alarm = frame.time_s, (share, what)
        if not moving:
            return self._held(frame, Level.NOT_OBSERVABLE, 0.0, "nothing moves: all regions stand still")
        return self._held(frame, Level.OK, min(share, 1.0), "")

    def _held(self, frame: CameraFrame, level: Level, statistic: float, reason: str) -> CheckResult:
        if 0.0 <= frame.time_s - self._alarm_s <= HOLD_S:
            return self._result(Level.ANOMALY, *self._alarm)
        return self._result(level, statistic, reason)

    def _appeared(self) -> tuple[float, str, bool]:
        """Share, words, and whether the scene moves, for what appeared STILL_FRAMES ago."""
        frames = list(self._past)
        now, born = frames[-1], frames[-1 - STILL_FRAMES]
        changes = [f.change for f in frames[1:] if f.change is not None]
        if len(changes) < len(frames) - 1:
            return 0.0, "", False
        before, jump, after = changes[:BEFORE_FRAMES], changes[BEFORE_FRAMES], changes[BEFORE_FRAMES + 1 :]
        quiet = 1.5 * now.noise_dn + 1.0  # two noisy pixels of one shade differ by 1.13 sigma on average
        if float(np.mean(after[-1] > 2.0 * quiet)) < MIN_MOVING_SHARE:
            return 0.0, "", False
        jumped = jump > JUMP_DN
        if not MIN_BLOCKS <= np.count_nonzero(jumped) <= MAX_SHARE * jumped.size:
            return 0.0, "", True
        opaque = jumped & (np.maximum.reduce(after) < quiet)
        size = 0
        if np.count_nonzero(opaque) >= MIN_BLOCKS:
            opaque &= jump > JUMP_FACTOR * np.median(before, axis=0)
        if np.count_nonzero(opaque) >= MIN_BLOCKS:
            size, region = _largest(_textured(born, opaque, TEXTURE_SIGMA * now.noise_dn))
            if size and min(np.ptp(at) for at in np.nonzero(region)) < MIN_SIDE_BLOCKS - 1:
                size = 0  # the edge of a far house or a pole
        glare = self._glare([f.mean for f in frames], now)
        share = max(size / (MIN_BLOCKS - 0.5), glare / (MIN_GLARE_SHARE * jumped.size))
        kind = "light" if glare > MIN_GLARE_SHARE * jumped.size else "something"
        return share, f"{kind} appeared at once and stands still while the scene moves", True

    def _glare(self, means: list[NDArray[np.float32]], now: CameraFrame) -> int:
        """Size of the largest region that light was added to, and stayed; 0 where that may be the sun."""
        added = means[BEFORE_FRAMES + 1] - means[BEFORE_FRAMES]
        bright = added > JUMP_DN
        if np.count_nonzero(bright) < MIN_GLARE_SHARE * bright.size:
            return 0
        usual = np.abs(np.diff(means[: BEFORE_FRAMES + 1], axis=0)).max(axis=0)
        drift = np.abs(np.array(means[BEFORE_FRAMES + 2 :]) - means[BEFORE_FRAMES + 1]).max(axis=0)
        beside = cv2.dilate(means[BEFORE_FRAMES], np.ones((2 * BESIDE_BLOCKS + 1,) * 2, np.uint8))
        bright &= means[BEFORE_FRAMES + 1] > beside + JUMP_DN
        size, region = _largest(bright & (added > GLARE_FACTOR * usual) & (drift < GLARE_STAY * added))
        return 0 if self._may_be_sun(now, region & (means[BEFORE_FRAMES] < SATURATED_DN)) else size

    def _may_be_sun(self, frame: CameraFrame, region: NDArray[np.bool_]) -> bool:
        bright = region & (frame.mean > SATURATED_DN)
        if not bright.any():
            return False
        height, width = frame.image.pixels.shape[:2]
        focal, horizon = DEFAULT_FOCAL_SHARE * width, 0.5 * height
        if self._calibration is not None and self._calibration.image_size_px == (width, height):
            focal, horizon = self._calibration.camera_matrix[1, 1], self._calibration.camera_matrix[1, 2]
        row = float(np.percentile(np.nonzero(bright)[0], 75)) * height / region.shape[0]
        return bool(np.degrees(np.arctan2(horizon - row, focal)) > SUN_DEG)

    def _result(self, level: Level, statistic: float, reason: str) -> CheckResult:
        power = float("inf") if level is Level.NOT_OBSERVABLE else float(MIN_BLOCKS)
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "blocks", "image", reason)


def _largest(mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.bool_]]:
    """Blocks in the largest connected region of a mask, and that region."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return 0, np.zeros(mask.shape, np.bool_)
    label = int(np.argmax(stats[1:, cv2.CC_STAT_AREA])) + 1
    return int(stats[label, cv2.CC_STAT_AREA]), np.asarray(labels == label, np.bool_)


def _textured(frame: CameraFrame, mask: NDArray[np.bool_], least_dn: float) -> NDArray[np.bool_]:
    """Those blocks of a mask whose range of brightness is larger than `least_dn`."""
    rows, columns = mask.shape
    cells = frame.grey[: rows * BLOCK_PX, : columns * BLOCK_PX].reshape(rows, BLOCK_PX, columns, BLOCK_PX)
    at = np.nonzero(mask)
    chosen = cells[at[0], :, at[1], :].reshape(len(at[0]), -1).astype(np.int16)
    kept = mask.copy()
    kept[at] = chosen.max(axis=1) - chosen.min(axis=1) > least_dn
    return kept
