"""What the camera checks share: one thinned frame, its blocks, and what changed since the frame before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.quantiles import quantile_of
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.blocks import block_changes, brightness_steps
from edgeguard.types import CAMERA, Image, SyncedSet, WheelOdometry

THIN_WIDTH_PX = 400  # blocks of four of these pixels are a hundredth of the image's width
MIN_SIDE_PX = 64
STEP_ROWS = 24  # row pairs are looked at, evenly spread
MAX_GAP_S = 0.45  # four frames at 10 Hz; beyond, too much of the scene is new to compare
MIN_NOISE_DN = 0.5  # rounding alone
SMOOTH_BLOCKS = 9.0  # shades wider than this are light, not scene
SCENE = (16, 32)  # rows and columns of what frames of any camera are compared by


@dataclass(frozen=True, slots=True, eq=False)
class CameraFrame:
    """One new frame, prepared.

    grey: (H, W) uint8, every `step`-th pixel, green. mean: block means, and change: mean absolute change of each block
    since the frame before, None for a first one; both (R, C) float32. steps: as `kernels.blocks.brightness_steps`.
    noise_dn: 1 sigma of the sensor noise, from the flattest pieces of the frame. dt_s: since the frame before.
    speed_m_s: of the vehicle, None unknown. scene: (16, 32) float32, block means at one size for all cameras, slow
    shades taken out.
    """

    image: Image
    step: int
    grey: NDArray[np.uint8]
    mean: NDArray[np.float32]
    change: NDArray[np.float32] | None
    steps: NDArray[np.float64]
    noise_dn: float
    dt_s: float
    speed_m_s: float | None
    scene: NDArray[np.float32]

    @property
    def time_s(self) -> float:
        return self.image.stamp_ns / NS_PER_S


class CameraEvidence:
    """The shared computation. `frame` is idempotent within a tick."""

    def __init__(self, camera: str = CAMERA) -> None:
        self.camera = camera
        self._tick: tuple[int, int] | None = None
        self._frame: CameraFrame | None = None
        self._last: CameraFrame | None = None

    def frame(self, synced: SyncedSet) -> CameraFrame | None:
        """The prepared frame of this tick; None where there is no new, usable one."""
        key = (synced.tick.frame, synced.tick.stamp_ns)
        if key != self._tick:
            self._tick = key
            if synced.tick.discontinuity:
                self._last = None
            self._frame = self._prepare(synced)
            self._last = self._frame or self._last
        return self._frame

    def _prepare(self, synced: SyncedSet) -> CameraFrame | None:
        image = synced.samples.get(self.camera)
        if not isinstance(image, Image) or min(image.pixels.shape[:2]) < MIN_SIDE_PX:
            return None
        last = self._last
        if last is not None and image.stamp_ns <= last.image.stamp_ns:
            return None
        pixels = np.ascontiguousarray(image.pixels)
        step = max(1, round(pixels.shape[1] / THIN_WIDTH_PX))
        grey = np.ascontiguousarray(pixels[::step, ::step, 1])
        dt_s = 0.0 if last is None else (image.stamp_ns - last.image.stamp_ns) / NS_PER_S
        bridged = last is not None and dt_s <= MAX_GAP_S and last.grey.shape == grey.shape
        mean, change = block_changes(grey, last.grey if bridged and last is not None else grey)
        steps = brightness_steps(pixels, max(1, pixels.shape[0] // STEP_ROWS))
        # Half of the squared difference of two pixels that show the same is the noise of one.
        noise = math.sqrt(0.5 * quantile_of(np.minimum(steps[:, 0], steps[:, 2]), 0.1))
        return CameraFrame(
            image, step, grey, mean, change if bridged else None, steps, max(MIN_NOISE_DN, noise), dt_s, _speed(synced),
            _scene(mean),
        )  # fmt: skip


def _scene(mean: NDArray[np.float32]) -> NDArray[np.float32]:
    sharp = mean - cv2.GaussianBlur(mean, (0, 0), SMOOTH_BLOCKS / 3.0)
    return np.asarray(cv2.resize(sharp, SCENE[::-1], interpolation=cv2.INTER_AREA), np.float32)


def _speed(synced: SyncedSet) -> float | None:
    """Size of the newest wheel speed of this tick."""
    for samples in synced.series.values():
        if samples and isinstance(samples[-1], WheelOdometry):
            return abs(samples[-1].speed_m_s)
    return None
