"""Corners followed from frame to frame: where the same points of the scene were seen over the last second.

Works on a reduced grey image, some 400 pixels wide: optical flow is exact to a few hundredths of its pixels, and a
camera of any size costs the same. Corners: Shi & Tomasi; flow: Lucas & Kanade on pyramids (Bouguet).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

WORK_WIDTH_PX = 400
MAX_TRACKS = 120
REFILL_BELOW = 85
# Corners nearer than this to each other share their errors.
SPACING_PX = 12
MARGIN_PX = 6
QUALITY = 0.01
# Mean difference of patch and match, in grey levels (7 % of the scale): beyond it something else is seen.
MAX_PATCH_ERROR = 18.0
# There and back, of the reduced image: three sigma of a good track (0.1 px each way) on either axis.
MAX_ASTRAY_PX = 0.4
WINDOW_PX = (17, 17)
LEVELS = 3
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 12, 0.005)


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFrame:
    """One exposure: identity and place of every point that is followed.

    ids: (N,) int64, rising. bearings: (N, 3) float64 unit vectors, camera optical frame.
    """

    t_s: float
    ids: NDArray[np.int64]
    bearings: NDArray[np.float64]


class FeatureTracks:
    """Follows up to `MAX_TRACKS` corners.

    Args:
        camera_matrix: (3, 3) float64. distortion: OpenCV's order (k1, k2, p1, p2[, k3]), empty for none.
        keep: how many frames are remembered.
    """

    def __init__(self, camera_matrix: NDArray[np.float64], distortion: tuple[float, ...], keep: int) -> None:
        self._K = np.ascontiguousarray(camera_matrix, dtype=np.float64)
        self._distortion = np.array(distortion, dtype=np.float64) if distortion else None
        self.frames: deque[TrackedFrame] = deque(maxlen=keep)
        self._next_id = 0
        self.reset()

    @property
    def focal_px(self) -> float:
        """Focal length in pixels of the reduced image."""
        return float(self._K[0, 0]) / self._scale

    def reset(self) -> None:
        """Forget everything; the next frame is a first one."""
        self.frames.clear()
        self._grey: NDArray[np.uint8] | None = None
        self._points = np.zeros((0, 1, 2), np.float32)
        self._ids = np.zeros(0, np.int64)
        self._scale = 1

    def push(self, t_s: float, pixels: NDArray[np.uint8]) -> TrackedFrame:
        """Take one frame, (H, W, 3) uint8 BGR or (H, W) grey."""
        scale = max(1, round(pixels.shape[1] / WORK_WIDTH_PX))
        grey = _reduced(pixels, scale)
        if self._grey is None or grey.shape != self._grey.shape:
            self.reset()
        else:
            self._follow(grey)
        self._scale = scale
        if len(self._ids) < REFILL_BELOW:
            self._refill(grey)
        self._grey = grey
        frame = TrackedFrame(t_s, self._ids, self._bearings())
        self.frames.append(frame)
        return frame

    def drop(self, ids: NDArray[np.int64]) -> None:
        """Stop following these points: they move by themselves, or were mistaken."""
        keep = ~np.isin(self._ids, ids)
        self._ids, self._points = self._ids[keep], self._points[keep]

    def _follow(self, grey: NDArray[np.uint8]) -> None:
        if not len(self._ids) or self._grey is None:
            return
        moved, found, error = cv2.calcOpticalFlowPyrLK(
            self._grey, grey, self._points, None, winSize=WINDOW_PX, maxLevel=LEVELS, criteria=_CRITERIA
        )
        # And back again (Kalal, Mikolajczyk & Matas, ICPR 2010): noise on a bare wall has no place to return to.
        back, returned, _ = cv2.calcOpticalFlowPyrLK(
            grey, self._grey, moved, None, winSize=WINDOW_PX, maxLevel=LEVELS, criteria=_CRITERIA
        )
        astray = np.abs(back - self._points).max(axis=(1, 2))
        x, y = moved[:, 0, 0], moved[:, 0, 1]
        height, width = grey.shape
        inside = (x > MARGIN_PX) & (y > MARGIN_PX) & (x < width - MARGIN_PX) & (y < height - MARGIN_PX)
        keep = (
            (found[:, 0] > 0)
            & (returned[:, 0] > 0)
            & (astray < MAX_ASTRAY_PX)
            & (error[:, 0] < MAX_PATCH_ERROR)
            & inside
        )
        self._points, self._ids = np.ascontiguousarray(moved[keep]), self._ids[keep]

    def _refill(self, grey: NDArray[np.uint8]) -> None:
        mask = np.full(grey.shape, 255, np.uint8)
        for x, y in self._points[:, 0].astype(int).tolist():
            mask[max(0, y - SPACING_PX) : y + SPACING_PX, max(0, x - SPACING_PX) : x + SPACING_PX] = 0
        mask[:MARGIN_PX], mask[-MARGIN_PX:], mask[:, :MARGIN_PX], mask[:, -MARGIN_PX:] = 0, 0, 0, 0
        fresh = cv2.goodFeaturesToTrack(grey, MAX_TRACKS - len(self._ids), QUALITY, SPACING_PX, mask=mask)
        if fresh is None:
            return
        self._points = np.concatenate((self._points, fresh.astype(np.float32)))
        self._ids = np.concatenate((self._ids, np.arange(self._next_id, self._next_id + len(fresh), dtype=np.int64)))
        self._next_id += len(fresh)

    def _bearings(self) -> NDArray[np.float64]:
        if not len(self._ids):
            return np.zeros((0, 3))
        # The centre of a reduced pixel lies in the middle of the block that it stands for.
        full = self._points.astype(np.float64) * self._scale + 0.5 * (self._scale - 1)
        if self._distortion is None:
            plane = (full[:, 0] - self._K[:2, 2]) / np.array((self._K[0, 0], self._K[1, 1]))
        else:
            plane = cv2.undistortPoints(full, self._K, self._distortion)[:, 0]
        bearings = np.column_stack((plane, np.ones(len(plane))))
        bearings /= np.sqrt(np.einsum("ij,ij->i", bearings, bearings))[:, None]
        return bearings


def _reduced(pixels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Grey image, each pixel the mean of a block of scale x scale."""
    small = pixels
    if scale > 1:
        height, width = pixels.shape[0] // scale, pixels.shape[1] // scale
        whole = pixels[: height * scale, : width * scale]
        small = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    if small.ndim == 3:
        small = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    return np.ascontiguousarray(small, dtype=np.uint8)


def common(early: TrackedFrame, late: TrackedFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places, in each of two frames, of the points that both saw."""
    _, here, there = np.intersect1d(early.ids, late.ids, assume_unique=True, return_indices=True)
    return here, there
