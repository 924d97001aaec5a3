"""C5.light: a figure in the picture that the road does not carry, where the lidar sees nothing but road.

A phantom (Nassi et al., "Phantom of the ADAS", CCS 2020) is light without a body: projected, or injected into the
video. Beams pass through it and come back from the road behind, yet it does not move as that road must. The earlier
frame is drawn as the road's plane would look now (`road_plane`); what differs is held against four demands:

* the lidar returns ground there, and nothing upright within `CLEAR_M`: cars, their shadows, and what a late sweep shows
  beside its place are left out;
* it is brighter than the road around: shadows are not;
* it stays where it is in the picture while the road under it moves on: markings do not;
* the road was clean there a moment before: reflections on the windscreen are there all the time.

One-sided, hence against the camera alone: a lidar whose echoes were suppressed shows no ground behind.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.camera_evidence import CameraEvidence, CameraFrame
from edgeguard.checks.lidar_evidence import LidarEvidence, LidarFrame
from edgeguard.checks.road_plane import ASIDE_M, RoadPlane, fit_road, road_homography
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.road import Bands, follow_blocks, mark_beside, mark_blocks, points_ahead
from edgeguard.types import CheckResult, Level, RigCalibration, SyncedSet

BLOCK_PX = 4  # of the thinned frame
LOOK_BACK = 2  # frames: twice the motion of one, and still the same road
# Of the thinned frame, between the two frames: less does not tell light from road, and of more, the motion's error of
# some three per cent is more than the pixel that is forgiven.
MIN_MOVED_PX, MAX_MOVED_PX = 2.0, 30.0
NEAR_M, FAR_M = 3.0, 30.0
CLEAR_M, CELL_M = 1.5, 0.5
BANDS = Bands(below_m=-0.4, upright_m=0.25, ground_m=0.2, cell_m=CELL_M)
MAP_CELLS = int((FAR_M + 4.0) / CELL_M)
REACH_M = 2 * FAR_M  # what stands farther is above the road in sight
# What counts as different, whichever is most: absolute, in sensor noise, in what the road leaves, in the height of the
# edges around (a marking that is met half a pixel off leaves a share of its own contrast).
DIFFER_DN, DIFFER_SIGMA, DIFFER_ROAD, DIFFER_EDGE = 10.0, 6.0, 4.0, 0.25
BRIGHT_SHARE = 0.5  # of the difference that must stand out from the road beside
BESIDE_BLOCKS = 12
MIN_BLOCKS, MAX_SHARE = 2, 0.06  # of the road in sight: more is another exposure, another motion, other geometry
MIN_ROAD_BLOCKS = 150
CONFIRM = 4  # frames
PASS_BLOCKS = 2.0  # the road must have moved on by the width of the neighbourhood in which something counts as standing
CLEAN_S, CLEAN_FRAMES = 3.0, 8  # light is not seen in every frame: a frame without is not yet a clean road
MAX_APART_NS = 60_000_000
HOLD_S = 1.0
_SQUARE = np.ones((3, 3), np.uint8)
_REACH = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(CLEAR_M / CELL_M) + 1,) * 2)
_AFTER = np.ones((7, 7), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class _Lens:
    """The camera at one thinning: K (3, 3); P (3, 4), lidar frame to blocks; rays (R, C, 3) of the blocks' middles,
    lidar frame."""

    K: NDArray[np.float64]
    P: NDArray[np.float64]
    rays: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """One frame: rectified grey (H, W) uint8, the plane, (3, 3) pose since the first, and by block (R, C) what is near
    anything upright and what has returns from the ground."""

    grey: NDArray[np.uint8]
    plane: RoadPlane
    pose: NDArray[np.float64]
    upright: NDArray[np.bool_]
    ground: NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class _Stand:
    """By block (R, C) of the whole picture: for how many frames something has stood there (one frame without takes one
    back), how far the road went meanwhile (blocks), whether the road was clean before, for how many frames it is, and
    when it last was for `CLEAN_FRAMES` (s)."""

    frames: NDArray[np.int16]
    went: NDArray[np.float32]
    fresh: NDArray[np.bool_]
    clean: NDArray[np.int32]
    clean_s: NDArray[np.float64]

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> _Stand:
        counts, flags = np.zeros(shape, np.int16), np.zeros(shape, np.bool_)
        return cls(counts, np.zeros(shape, np.float32), flags, np.zeros(shape, np.int32), np.full(shape, -np.inf))


class RoadLightCheck:
    """C5.light. statistic: frames for which a figure has stood, over those that convince; threshold 1.

    Args:
        camera, lidar: shared evidence. calibration: of the two; must be that of the frames.
    """

    name = "C5.light"

    def __init__(self, camera: CameraEvidence, lidar: LidarEvidence, calibration: RigCalibration) -> None:
        self.sensors: tuple[str, ...] = (camera.camera,)
        self._camera, self._lidar, self._calibration = camera, lidar, calibration
        self._views: deque[_View] = deque(maxlen=LOOK_BACK + 1)
        self._stamp_ns = 0
        self._stand: _Stand | None = None
        self._lens: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        T = calibration.T_cam_lidar
        self._eye = -T[:3, :3].T @ T[:3, 3]
        self._at: dict[int, _Lens] = {}  # by thinning
        # Half of the picture's width per distance, for a camera that looks ahead, with room for one that squints.
        self._wide = 0.3 + calibration.image_size_px[0] / (2.0 * float(calibration.camera_matrix[0, 0]))
        self._alarm_s = -np.inf
        self._alarm: tuple[float, str] = (0.0, "")

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        frame, sweep = self._camera.frame(synced), self._lidar.frame(synced)
        time_s = synced.stamp_ns / NS_PER_S
        if synced.tick.discontinuity:
            self._forget()
        if frame is None or sweep is None:
            return self._held(time_s, Level.NOT_OBSERVABLE, 0.0, "no new pair of frame and sweep at this tick")
        if (frame.image.pixels.shape[1], frame.image.pixels.shape[0]) != tuple(self._calibration.image_size_px):
            return self._held(time_s, Level.NOT_OBSERVABLE, 0.0, "the image has not the size of the calibration")
        why_not = self._push(frame, sweep)
        if why_not:
            return self._held(time_s, Level.NOT_OBSERVABLE, 0.0, why_not)
        if len(self._views) <= LOOK_BACK:
            return self._held(time_s, Level.NOT_OBSERVABLE, 0.0, "too few frames yet")
        return self._judge(time_s, frame)

    def _judge(self, time_s: float, frame: CameraFrame) -> CheckResult:
        now, before = self._views[-1], self._views[0]
        moved = _between(before.pose, now.pose)
        K = self._at_step(frame.step).K
        H, plane = road_homography(K, self._calibration.T_cam_lidar, now.plane, before.plane, moved)
        top = _top(plane, K, now.grey.shape[0])
        if top >= now.grey.shape[0] - 4 * BLOCK_PX:
            return self._held(time_s, Level.NOT_OBSERVABLE, 0.0, "no road in the picture")
        seen = _Road(now.grey, before.grey, H, plane, K, top)
        ground = now.ground
        usable = seen.road & ~now.upright[seen.rows] & ~seen.carried(before.upright)
        usable &= cv2.dilate(ground.view(np.uint8), _SQUARE)[seen.rows] > 0
        count = int(np.count_nonzero(usable))
        if count < MIN_ROAD_BLOCKS:
            return self._held(time_s, Level.NOT_OBSERVABLE, 0.0, "too little free road in sight, or it hardly moves")
        limit = max(DIFFER_DN, DIFFER_SIGMA * frame.noise_dn, DIFFER_ROAD * float(np.median(seen.differ[usable])))
        marked = usable & (seen.differ > np.maximum(limit, DIFFER_EDGE * seen.edges))
        if np.count_nonzero(marked) > MAX_SHARE * count:
            return self._held(time_s, Level.NOT_OBSERVABLE, 0.0, "the road as a whole does not move as its plane must")
        share = self._follow(time_s, marked & ground[seen.rows], usable, seen)
        if share > 1.0:
            self._alarm_s = time_s
            self._alarm = (share, "light without a body: the road behind it moves on, and the lidar sees only road")
        return self._held(time_s, Level.OK, share, "", limit)

    def _held(
        self, time_s: float, level: Level, statistic: float, reason: str, power: float = float("inf")
    ) -> CheckResult:
        if 0.0 <= time_s - self._alarm_s <= HOLD_S:
            level, (statistic, reason) = Level.ANOMALY, self._alarm
        return CheckResult(self.name, self.sensors, level, statistic, 1.0, power, "DN", "image", reason)

    # ---- one view -----------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._views.clear()
        self._stand = None

    def _push(self, frame: CameraFrame, sweep: LidarFrame) -> str:
        """Take the pair in; the reason why not, "" when done."""
        dt_s = (frame.image.stamp_ns - self._stamp_ns) / NS_PER_S
        self._stamp_ns = frame.image.stamp_ns
        ahead = points_ahead(sweep, REACH_M, self._wide, ASIDE_M, FAR_M)
        plane = fit_road(ahead)
        motion = sweep.motion
        apart = abs(frame.image.stamp_ns - sweep.stamp_ns) > MAX_APART_NS
        if plane is None or motion is None or apart or not 0.5 < dt_s / motion.dt_s < 2.0:
            self._views.clear()
            if plane is None:
                return "the lidar sees no level road"
            return "camera and lidar are apart in time" if motion is not None else "the vehicle's motion is not known"
        grey = self._rectified(frame)
        scale = dt_s / motion.dt_s
        step = np.array([motion.dx_m, motion.dy_m, motion.yaw_rad]) * scale
        cos, sin = np.cos(step[2]), np.sin(step[2])
        pose = np.array([[cos, -sin, step[0]], [sin, cos, step[1]], [0.0, 0.0, 1.0]])
        if self._views and self._views[-1].grey.shape != grey.shape:
            self._views.clear()
        pose = self._views[-1].pose @ pose if self._views else np.eye(3)
        self._views.append(_View(grey, plane, pose, *self._masks(ahead, plane, frame.step)))
        return ""

    def _at_step(self, step: int) -> _Lens:
        """The camera as every `step`-th pixel sees it."""
        lens = self._at.get(step)
        if lens is None:
            K = self._calibration.camera_matrix.astype(np.float64, copy=True)
            K[:2] /= step
            P = K @ self._calibration.T_cam_lidar[:3]
            P[:2] /= BLOCK_PX
            rows, columns = self._shape(step)
            v, u = np.mgrid[0:rows, 0:columns] * BLOCK_PX + 0.5 * (BLOCK_PX - 1)
            rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(K).T
            lens = _Lens(K, P, np.ascontiguousarray(rays @ self._calibration.T_cam_lidar[:3, :3]))
            self._at = {step: lens}
        return lens

    def _rectified(self, frame: CameraFrame) -> NDArray[np.uint8]:
        distortion = self._calibration.distortion
        if not distortion:
            return frame.grey
        if self._lens is None or self._lens[0].shape != frame.grey.shape:
            K, size = self._at_step(frame.step).K, (frame.grey.shape[1], frame.grey.shape[0])
            maps = cv2.initUndistortRectifyMap(K, np.array(distortion), np.eye(3), K, size, cv2.CV_32FC1)
            self._lens = (np.asarray(maps[0], np.float32), np.asarray(maps[1], np.float32))
        return np.asarray(cv2.remap(frame.grey, *self._lens, cv2.INTER_LINEAR), np.uint8)

    def _masks(
        self, ahead: NDArray[np.float32], plane: RoadPlane, step: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Blocks near anything upright, here or within `CLEAR_M` of the road they look at; and those with a return from
        the ground; both (R, C)."""
        lens = self._at_step(step)
        upright, ground, cells = mark_blocks(ahead, lens.P, self._shape(step), self._wide, BANDS, MAP_CELLS)
        near = cv2.dilate(upright, _SQUARE)
        mark_beside(lens.rays, self._eye, plane.normal, plane.height_m, CELL_M, cv2.dilate(cells, _REACH), near)
        return np.asarray(near, np.uint8).view(np.bool_), ground.view(np.bool_)

    def _shape(self, step: int) -> tuple[int, int]:
        width, height = (-(-side // step) // BLOCK_PX for side in self._calibration.image_size_px)
        return height, width

    # ---- what stands out, from frame to frame -------------------------------------------------------------------

    def _follow(self, time_s: float, marked: NDArray[np.bool_], usable: NDArray[np.bool_], seen: _Road) -> float:
        """Count, block by block, for how long something bright stands; the largest share of what convinces."""
        if self._stand is None:
            self._stand = _Stand.empty(self._views[-1].upright.shape)
        stand, rows = self._stand, seen.rows
        frames, went, fresh, clean_s = stand.frames[rows], stand.went[rows], stand.fresh[rows], stand.clean_s[rows]
        bright = np.zeros(marked.shape, np.bool_)
        if marked.any():
            _, labels, stats, _ = cv2.connectedComponentsWithStats(marked.view(np.uint8), connectivity=8)
            for label in (np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= MIN_BLOCKS) + 1).tolist():
                region = labels == label
                if seen.bright(region, usable):
                    bright |= region
        near = cv2.dilate(bright.view(np.uint8), _SQUARE) > 0
        begins = near & (frames == 0)
        fresh[begins] = time_s - clean_s[begins] <= CLEAN_S
        frames += np.where(near, 1, -1).astype(np.int16)
        np.clip(frames, 0, 2 * CONFIRM, out=frames)
        went += seen.shift / (BLOCK_PX * LOOK_BACK)
        went[frames == 0] = 0.0
        clean = stand.clean[rows]
        clean[usable & ~marked] += 1
        clean[cv2.dilate(marked.view(np.uint8), _AFTER) > 0] = 0
        clean_s[clean >= CLEAN_FRAMES] = time_s
        share = np.where(fresh & bright, (frames + 0.5) / CONFIRM, 0.0)
        return float(np.where(went > PASS_BLOCKS, share, np.minimum(share, 0.9)).max(initial=0.0))


def _between(before: NDArray[np.float64], now: NDArray[np.float64]) -> NDArray[np.float64]:
    """Planar pose (3, 3) of `now` in the frame of `before`; both in one frame."""
    turn = before[:2, :2].T
    moved = np.eye(3)
    moved[:2, :2] = turn @ now[:2, :2]
    moved[:2, 2] = turn @ (now[:2, 2] - before[:2, 2])
    return moved


def _top(plane: NDArray[np.float64], K: NDArray[np.float64], height: int) -> int:
    """First row of whole blocks whose middle looks at the road nearer than `FAR_M`."""
    slope = plane[1] * (np.arange(height) - K[1, 2]) / K[1, 1] + plane[2]
    near = np.flatnonzero((slope < -1e-6) & (-plane[3] > FAR_M * slope))
    return height if not near.size else int(-(-near[0] // BLOCK_PX) * BLOCK_PX)


class _Road:
    """The comparison of two frames under the road's homography, in blocks below `top`.

    differ: (R, C) float32 root mean square difference, DN, where a shift by one pixel is forgiven.
    edges: (R, C) float32 mean range of brightness within a pixel's reach, DN.
    shift: (R, C) float32 how far the road moved, px.
    road: (R, C) bool blocks that look at the road, moved far enough, and are in both frames.
    """

    def __init__(
        self,
        now: NDArray[np.uint8],
        before: NDArray[np.uint8],
        H: NDArray[np.float64],
        plane: NDArray[np.float64],
        K: NDArray[np.float64],
        top: int,
    ) -> None:
        height, width = now.shape
        self.rows = slice(top // BLOCK_PX, height // BLOCK_PX)
        self._now = now[top : height // BLOCK_PX * BLOCK_PX, : width // BLOCK_PX * BLOCK_PX]
        # Homographies are smooth: their blocks' middles say enough about where and how far.
        self.shift, self.road, self._was_block = follow_blocks(
            H, plane, K, (self.rows.start, self.rows.stop), (width, height), BLOCK_PX, (NEAR_M, FAR_M),
            (MIN_MOVED_PX, MAX_MOVED_PX),
        )  # fmt: skip
        lift = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, float(top)], [0.0, 0.0, 1.0]])
        size = (self._now.shape[1], self._now.shape[0])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        self._was = np.asarray(cv2.warpPerspective(before, H @ lift, size, flags=flags), np.uint8)
        highest, lowest = cv2.dilate(self._was, _SQUARE), cv2.erode(self._was, _SQUARE)
        over, under = cv2.subtract(self._now, highest), cv2.subtract(lowest, self._now)
        steps = cv2.subtract(cv2.dilate(self._now, _SQUARE), cv2.erode(self._now, _SQUARE))
        steps = np.maximum(steps, cv2.subtract(highest, lowest))
        self.edges = _block_means(steps.astype(np.float32))
        self.differ = np.sqrt(_block_means(np.square(cv2.add(over, under), dtype=np.float32)))

    def carried(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the earlier frame's blocks, looked up where the road of each block was then."""
        return mask.reshape(-1).take(self._was_block)

    @cached_property
    def _means(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Brightness of each block now, and the brighter of now and then."""
        now = _block_means(self._now.astype(np.float32))
        return now, np.maximum(now, _block_means(self._was.astype(np.float32)))

    def bright(self, region: NDArray[np.bool_], usable: NDArray[np.bool_]) -> bool:
        """Whether what differs in a region is brighter, then or now, than the lighter part of the road beside it."""
        r, c = np.nonzero(region)
        rows = slice(max(0, r.min() - 1), r.max() + 2)
        columns = slice(max(0, c.min() - BESIDE_BLOCKS), c.max() + BESIDE_BLOCKS + 1)
        beside = (usable & ~region)[rows, columns]
        if np.count_nonzero(beside) < BESIDE_BLOCKS:
            return False
        means, brighter = self._means
        level = float(np.percentile(means[rows, columns][beside], 80))
        brightest = brighter[region]
        return bool(np.mean(brightest - level) > BRIGHT_SHARE * np.mean(self.differ[region]))


def _block_means(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns = pixels.shape[0] // BLOCK_PX, pixels.shape[1] // BLOCK_PX
    return np.asarray(cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)
