"""How well the edges of sweep and image coincide: now, if the camera were turned a little, and against what was before.

Computed once per tick for X1 and X2. After Levinson & Thrun, "Automatic Online Calibration of Cameras and Lasers" (RSS
2013), with two changes: what is judged is where the score peaks, which does not hang on the scene as its height does,
and flat edges are used as well, since nothing else fixes pitch and roll.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.camera_evidence import CameraEvidence
from edgeguard.checks.lidar_evidence import LidarEvidence, LidarFrame
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.edges import (
    Places,
    depth_edges,
    edge_field,
    hide,
    locate,
    look_up,
    look_up_located,
    moments,
    sum_in_view,
)
from edgeguard.types import CAMERA, Image, RigCalibration, SyncedSet

PIXEL_DEG = 0.25  # of the edge field: finer shows texture, coarser hides half a degree
FADE = 0.7  # per field pixel
CELL_DEG = 0.2  # the azimuth step of a spinning lidar is 0.1 to 0.4 deg
MAX_EDGES = 1_500  # each costs 20 ns per pose
MIN_EDGES = 60  # fewer are one object
ANGLES_DEG = (-1.2, -0.8, -0.4, 0.0, 0.4, 0.8, 1.2)
CLIPPED_DN = (3, 250)  # of 255: as dark or as bright as a camera tells, with whatever is there hidden
LOOK_BACK = 3  # frames: three tenths of a second at 10 Hz
MAX_GAP_NS = 450_000_000
_AROUND = np.ones((3, 3), np.uint8)
AXES = ("pitch", "yaw", "roll")  # about the camera's x, y and z


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """What one pair of image and sweep says.

    turned: (3, 7) float64, summed field value for each axis and angle of ANGLES_DEG, over `count` edges that stay in
    view. shifted: (2 * LOOK_BACK + 1,) float64, mean difference of field values to the present pair: negative places
    are the sweeps before against this image, positive ones the images before against this sweep; `noise` their standard
    errors, NaN where there is no such frame. period_s: of the pairs.
    """

    turned: NDArray[np.float64]
    count: int
    shifted: NDArray[np.float64]
    noise: NDArray[np.float64]
    period_s: float
    displacement_m: float | None
    stamp_ns: int


class AlignmentEvidence:
    """The shared computation. `pair` is idempotent within a tick."""

    def __init__(
        self,
        lidar: LidarEvidence,
        calibration: RigCalibration,
        camera: str = CAMERA,
        thinned: CameraEvidence | None = None,
    ) -> None:
        """Args:
        thinned: what other checks have of the same camera; its thinned image is taken where the step is the same.
        """
        self._lidar, self._camera, self._thinned = lidar, camera, thinned
        K, self._T = calibration.camera_matrix, calibration.T_cam_lidar[:3]
        self._P = np.ascontiguousarray(K @ self._T, dtype=np.float64)
        d = (*getattr(calibration, "distortion", ()), 0.0, 0.0, 0.0, 0.0, 0.0)
        self._lens = np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2], d[0], d[1], d[2], d[3], d[4]], np.float64)
        self._step = max(1, round(float(K[0, 0]) * np.radians(PIXEL_DEG)))
        self._size = calibration.image_size_px
        self._poses = np.array([_turn(axis, deg) @ self._T for axis in range(3) for deg in ANGLES_DEG])
        self._here = np.ascontiguousarray(self._T, dtype=np.float64)
        self._tick: tuple[int, int] | None = None
        self._pair: Alignment | None = None
        self.why_not = ""
        self._image_ns: int | None = None
        self._fields: deque[tuple[int, NDArray[np.float32]]] = deque(maxlen=LOOK_BACK + 1)
        self._places: deque[Places] = deque(maxlen=LOOK_BACK + 1)  # of each frame's edges, as the camera is mounted

    def pair(self, synced: SyncedSet) -> Alignment | None:
        """What this tick's pair says, or None and `why_not`."""
        key = (synced.tick.frame, synced.tick.stamp_ns)
        if key != self._tick:
            self._tick = key
            if synced.tick.discontinuity:
                self._fields.clear()
                self._places.clear()
            self._pair, self.why_not = self._look(synced)
        return self._pair

    def _look(self, synced: SyncedSet) -> tuple[Alignment | None, str]:
        image = synced.samples.get(self._camera)
        frame = self._lidar.frame(synced)
        if not isinstance(image, Image) or image.stamp_ns == self._image_ns:
            return None, "no new image at this tick"
        if frame is None:
            return None, "no new sweep at this tick"
        if image.pixels.ndim != 3 or image.pixels.shape[1::-1] != tuple(self._size):
            return None, "the image has not the size that the calibration is for"
        self._image_ns = image.stamp_ns
        if self._fields and not 0 < synced.tick.stamp_ns - self._fields[-1][0] <= MAX_GAP_NS:
            self._fields.clear()
            self._places.clear()
        per_px = 1.0 / self._step
        grey = self._grey(image, synced)
        field, seen = edge_field(grey, FADE), _seen(grey)
        shown, edges = field, self._find(frame)
        if seen is not None:  # an edge within is there, and not in the picture: it would find the next one beside it
            shown = hide(field, seen)
            found = locate(edges, self._here, self._lens, per_px, grey.shape)
            edges = edges[~np.isnan(look_up_located(found, shown))]
        self._fields.append((synced.tick.stamp_ns, shown))
        self._places.append(locate(edges, self._here, self._lens, per_px, grey.shape))
        if edges.shape[0] < MIN_EDGES:
            return None, "too few depth edges in view"
        turned, count = self._turned(edges, field, per_px)
        if count < MIN_EDGES:
            return None, "too few depth edges in view"
        shifted, noise = self._shifted()
        stamps = [at for at, _ in self._fields]
        period_s = (stamps[-1] - stamps[0]) / NS_PER_S / max(1, len(stamps) - 1)
        motion = frame.motion
        moved = None if motion is None else float(np.hypot(motion.dx_m, motion.dy_m))
        return Alignment(turned, count, shifted, noise, period_s, moved, synced.tick.stamp_ns), ""

    def _grey(self, image: Image, synced: SyncedSet) -> NDArray[np.uint8]:
        shared = None if self._thinned is None else self._thinned.frame(synced)
        if shared is not None and shared.image is image and shared.step == self._step:
            return shared.grey
        return np.ascontiguousarray(image.pixels[:: self._step, :: self._step, 1])

    def _find(self, frame: LidarFrame) -> NDArray[np.float32]:
        ink = np.ascontiguousarray(frame.cloud.intensity, dtype=np.float32)
        if ink.shape[0] != frame.xyz.shape[0]:  # some returns were unusable: depth alone
            ink = np.zeros(frame.xyz.shape[0], np.float32)
        cell_px = float(self._lens[0]) * np.radians(CELL_DEG)
        return depth_edges(
            frame.xyz, ink, frame.row, self._P, self._size[0], cell_px, 8 * MAX_EDGES, MAX_EDGES
        )  # fmt: skip

    def _turned(
        self, edges: NDArray[np.float32], field: NDArray[np.float32], per_px: float
    ) -> tuple[NDArray[np.float64], int]:
        sums, count = sum_in_view(look_up(edges, field, self._poses, self._lens, per_px))
        return sums.reshape(3, len(ANGLES_DEG)), count

    def _shifted(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        shifted = np.full(2 * LOOK_BACK + 1, np.nan)
        noise = np.full(2 * LOOK_BACK + 1, np.nan)
        shifted[LOOK_BACK] = noise[LOOK_BACK] = 0.0
        now = self._values(-1, -1)
        count, mean, square = moments(now, now, False)
        for back in range(1, len(self._fields)):
            # the same edges in both fields: their differences are what scatters
            there, change, scatter = moments(self._values(-1, -1 - back), now, True)
            if there:
                shifted[LOOK_BACK + back] = change
                noise[LOOK_BACK + back] = np.sqrt(scatter / there)
            known, before, before2 = moments(self._values(-1 - back, -1), now, False)
            if known >= MIN_EDGES and count:
                shifted[LOOK_BACK - back] = before - mean
                variance = (before2 - before * before) / known + (square - mean * mean) / count
                noise[LOOK_BACK - back] = np.sqrt(max(variance, 0.0))
        return shifted, noise

    def _values(self, edges: int, field: int) -> NDArray[np.float32]:
        """What one frame's edges find in one frame's field, as the camera is mounted."""
        return look_up_located(self._places[edges], self._fields[field][1])


def _seen(grey: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """(H, W) uint8: 0 where a pixel and all around it are clipped, else 255; None where there is no such place.

    The rim of a clipped region stays: there an edge is seen, as of a roof against a bright sky.
    """
    told = cv2.inRange(grey, np.array(CLIPPED_DN[0] + 1), np.array(CLIPPED_DN[1] - 1))
    seen = np.asarray(cv2.dilate(told, _AROUND, borderType=cv2.BORDER_REPLICATE), np.uint8)
    return None if cv2.countNonZero(seen) == seen.size else seen


def _turn(axis: int, angle_deg: float) -> NDArray[np.float64]:
    turn = np.zeros(3)
    turn[axis] = np.radians(angle_deg)
    return np.asarray(cv2.Rodrigues(turn)[0], dtype=np.float64)
