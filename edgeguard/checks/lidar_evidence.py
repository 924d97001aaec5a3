"""What the lidar checks share: computed once per tick, handed to whoever asks.

`LidarEvidence` turns each new sweep into a `LidarFrame` (heights over ground, range image) and matches it against the
sweep before (`ScanMotion`). Several checks hold the same object; the first that asks at a tick pays.

Observability is part of the answer: a motion is `None` when there is no earlier sweep within `MAX_GAP_NS`, when the
scene has too little structure, or when the match did not converge. Nobody then gets a number to be wrong with.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.kernels.motion import Normals, build_normals, refine_pose, score_poses
from edgeguard.kernels.ranges import MIN_RANGE_M
from edgeguard.kernels.sweeps import PreparedSweep, choose_points, prepare_sweep, take_points
from edgeguard.kernels.voxels import thin_points
from edgeguard.types import LIDAR, PointCloud, RigCalibration, SyncedSet

MAX_GAP_NS = 350_000_000  # three sweeps at 10 Hz; beyond that too much of the scene is new to match or to compare
MAX_POINTS = 2_000_000  # four times the largest automotive sweep; more is not a sweep and is thinned before use
MIN_POINTS = 2_000  # a 16-beam sweep has ten times as many
MIN_HEIGHT_M, MAX_HEIGHT_M = 0.4, 3.5  # the band of walls, trunks and vehicles: same cut from any pitch
MATCH_RANGE_M = 60.0
THIN_M = 0.25  # one vote per area: a lorry alongside has half of the points and says nothing about speed
MATCH_POINTS = 4_000  # noise falls with the root; this many put the yaw sigma below a hundredth of a degree
COARSE_POINTS = 500
COARSE_CELL_M, FINE_CELL_M = 2.0, 1.0
COARSE_SIGMA_M, FINE_SIGMA_M = 0.5, 0.3
COARSE_SIDE = int(2 * (MATCH_RANGE_M + 10) / COARSE_CELL_M)
FINE_SIDE = int(2 * (MATCH_RANGE_M + 10) / FINE_CELL_M)
COARSE_STEPS, FINE_STEPS = 15, 20
SETTLED_M, SETTLED_RAD = 0.01, 1e-4  # of the coarse grid, whose answer is only the fine one's start
MODE_SHARE = 0.8  # of the best score: in a queue, street and traffic each explain the larger part of the points
MAX_SPEED_M_S = 60.0  # no road vehicle's sweep-to-sweep search goes further
MIN_SCORE = 0.25  # typical matches score 0.5 to 0.7; a quarter means that the surfaces were not found again
MIN_MATCHED = 300
SIGMA_FLOOR_M = 0.02  # the beam pattern moves with the sensor and pulls each match one or two centimetres to rest
SIGMA_FLOOR_RAD = 5e-4
HESSIAN_INFLATION = 5.0  # points in a cell share its surface's error: the effective sample is some 25 times smaller
MAX_SIGMA_X_M = 0.15  # a corridor slides: above this the along-track answer is not an answer


@dataclass(frozen=True, slots=True)
class ScanMotion:
    """Motion between two sweeps: pose of the current sensor in the previous sensor frame.

    dx_m forward, dy_m left, yaw_rad counter-clockwise; sigmas are 1-sigma from the match's Hessian, with floors.
    score: mean NDT score, 0..1. `start_ns`, `end_ns`: stamps of the two sweeps.
    """

    dx_m: float
    dy_m: float
    yaw_rad: float
    sigma_x_m: float
    sigma_y_m: float
    sigma_yaw_rad: float
    score: float
    start_ns: int
    end_ns: int

    @property
    def dt_s(self) -> float:
        return (self.end_ns - self.start_ns) / NS_PER_S

    @property
    def speed_m_s(self) -> float:
        """Signed speed along the vehicle's x axis."""
        return self.dx_m / self.dt_s

    @property
    def yaw_rate_rad_s(self) -> float:
        return self.yaw_rad / self.dt_s

    def matrix(self) -> NDArray[np.float64]:
        """T_prev_cur, (4, 4)."""
        c, s = np.cos(self.yaw_rad), np.sin(self.yaw_rad)
        return np.array([[c, -s, 0.0, self.dx_m], [s, c, 0.0, self.dy_m], [0, 0, 1, 0], [0, 0, 0, 1]], np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class LidarFrame:
    """One sweep, prepared. Arrays are per valid point, in the cloud's order.

    xyz (N, 3) float32 m sensor frame; range_m (N,) float32; row, col (N,) int16 of the range image; height_m (N,)
    float32 over ground, NaN unknown; image: range image; motion: since the sweep before, or None with `why_not`.
    """

    cloud: PointCloud
    xyz: NDArray[np.float32]
    range_m: NDArray[np.float32]
    row: NDArray[np.int16]
    col: NDArray[np.int16]
    height_m: NDArray[np.float32]
    image: NDArray[np.float32]
    motion: ScanMotion | None
    why_not: str

    @property
    def stamp_ns(self) -> int:
        return self.cloud.stamp_ns


class LidarEvidence:
    """The shared computation. `frame` is idempotent within a tick."""

    def __init__(self, calibration: RigCalibration, sensor: str = LIDAR) -> None:
        self.sensor = sensor
        self._lidar_height_m = calibration.lidar_height_m
        self._tick: tuple[int, int] | None = None
        self._frame: LidarFrame | None = None
        self._last: LidarFrame | None = None
        self._structure: NDArray[np.float32] | None = None
        self._prior = np.zeros(3)
        self._pairs: deque[tuple[int, Normals, NDArray[np.float32]]] = deque(maxlen=6)

    def frame(self, synced: SyncedSet) -> LidarFrame | None:
        """The prepared sweep of this tick; None when there is no (new, usable) sweep at this tick."""
        key = (synced.tick.frame, synced.tick.stamp_ns)
        if key != self._tick:
            self._tick = key
            if synced.tick.discontinuity:
                self.reset()
            self._frame = self._prepare(synced.samples.get(self.sensor))
        return self._frame

    def motion(self, synced: SyncedSet) -> ScanMotion | None:
        """Ego-motion since the sweep before, where it is observable."""
        frame = self.frame(synced)
        return frame.motion if frame is not None else None

    def mode_near(self, motion: ScanMotion, dx_m: float) -> float:
        """Forward displacement of the best match near `dx_m`, if it is nearly as good as `motion`; else motion's own.

        Only the pair of sweeps of the last few ticks can be asked; for older ones the answer is motion's own.
        """
        for pair_ns, fine, points in self._pairs:
            if pair_ns == motion.end_ns:
                start = np.array([dx_m, motion.dy_m, motion.yaw_rad])
                pose, _, score = refine_pose(points, start, fine, FINE_STEPS)
                good = score > MODE_SHARE * motion.score and abs(pose[1] - motion.dy_m) < 0.3
                return float(pose[0]) if good and abs(pose[0] - dx_m) < abs(motion.dx_m - dx_m) else motion.dx_m
        return motion.dx_m

    def reset(self) -> None:
        """Forget all history; the next sweep is a first one."""
        self._last = None
        self._structure = None
        self._prior = np.zeros(3)

    def _prepare(self, sample: object) -> LidarFrame | None:
        if not isinstance(sample, PointCloud):
            return None
        if self._last is not None and sample.stamp_ns <= self._last.stamp_ns:
            return None  # the same sweep again, or one from the past: no new evidence
        xyz = np.ascontiguousarray(sample.xyz[:MAX_POINTS], dtype=np.float32)
        sweep = prepare_sweep(xyz, self._lidar_height_m)
        if sweep.xyz.shape[0] < MIN_POINTS:
            return None
        structure = _structure(sweep)
        motion, why_not = self._match(sample.stamp_ns, structure)
        frame = LidarFrame(
            sample, sweep.xyz, sweep.range_m, sweep.row, sweep.col, sweep.height_m, sweep.image, motion, why_not
        )
        self._last, self._structure = frame, structure
        self._prior = np.zeros(3) if motion is None else np.array([motion.dx_m, motion.dy_m, motion.yaw_rad])
        return frame

    def _match(self, stamp_ns: int, structure: NDArray[np.float32]) -> tuple[ScanMotion | None, str]:
        if self._last is None or self._structure is None:
            return None, "no earlier sweep"
        gap_ns = stamp_ns - self._last.stamp_ns
        if gap_ns > MAX_GAP_NS:
            return None, "the last sweep is too old"
        if min(structure.shape[0], self._structure.shape[0]) < MIN_MATCHED:
            return None, "too little structure to match"
        fine = build_normals(self._structure, FINE_CELL_M, FINE_SIDE, FINE_SIGMA_M)
        points = _few(structure, MATCH_POINTS)
        self._pairs.append((stamp_ns, fine, points))
        return match_sweeps(self._structure, fine, points, self._prior, self._last.stamp_ns, stamp_ns)


def _structure(sweep: PreparedSweep) -> NDArray[np.float32]:
    """Points of upright things, (M, 2) float32: what a planar match can hold on to."""
    band = (MIN_HEIGHT_M, MAX_HEIGHT_M, 4 * MIN_RANGE_M, MATCH_RANGE_M)
    upright = take_points(sweep.xyz, choose_points(sweep.height_m, sweep.range_m, band))
    return np.ascontiguousarray(thin_points(upright, THIN_M)[:, :2])


_YAWS_RAD = np.radians(np.arange(-6.0, 6.1, 1.5))
_NEAR = np.array([(x, y, a) for x in (-0.5, 0.0, 0.5) for y in (-0.3, 0.0, 0.3) for a in np.radians((-1.0, 0.0, 1.0))])


def _search_grid(prior: NDArray[np.float64], dt_s: float) -> NDArray[np.float64]:
    """Start poses: around the last motion, around rest, and forward up to highway speed."""
    reach_m = MAX_SPEED_M_S * dt_s
    forward = np.arange(-0.25 * reach_m, reach_m, 0.5 * COARSE_CELL_M)
    near = 1 + _NEAR.shape[0]
    starts = np.zeros((near + forward.size * _YAWS_RAD.size, 3))
    starts[:near] = prior
    starts[1:near] += _NEAR
    wide = starts[near:].reshape(forward.size, _YAWS_RAD.size, 3)
    wide[:, :, 0] = forward[:, None]
    wide[:, :, 2] = _YAWS_RAD
    return starts


def match_sweeps(
    previous_xy: NDArray[np.float32],
    fine: Normals,
    points: NDArray[np.float32],
    prior: NDArray[np.float64],
    start_ns: int,
    end_ns: int,
) -> tuple[ScanMotion | None, str]:
    """Planar motion between two sets of upright points.

    previous_xy: (M, 2) float32 m and `fine`, their normals of `FINE_CELL_M`; points: (N, 2) float32 m of the current
    sweep; each in its own sensor frame. prior: (3,) expected x, y, yaw.
    Returns the motion, or None and the reason why it is not observable.
    """
    dt_s = (end_ns - start_ns) / NS_PER_S
    coarse = build_normals(previous_xy, COARSE_CELL_M, COARSE_SIDE, COARSE_SIGMA_M)
    few = _few(points, COARSE_POINTS)
    starts = _search_grid(prior, dt_s)
    scores = score_poses(few, starts, coarse)
    best = [starts[i] for i in np.argsort(-scores)[:4]]
    settled = [refine_pose(few, start, coarse, COARSE_STEPS, SETTLED_M, SETTLED_RAD)[0] for start in best]
    refined = [refine_pose(points, start, fine, FINE_STEPS) for start in _distinct(settled)]
    pose, H, score = max(refined, key=lambda r: r[2])
    if not score > MIN_SCORE:
        return None, "the scan match did not converge"
    if abs(pose[0]) > 1.1 * MAX_SPEED_M_S * dt_s or abs(pose[1]) > 1.0 + 5.0 * dt_s or abs(pose[2]) > 0.2:
        return None, "the scan match left the range of a road vehicle"
    try:
        covariance = np.linalg.inv(H)
    except np.linalg.LinAlgError:
        return None, "the scene does not fix the motion"
    sigma = HESSIAN_INFLATION * np.sqrt(np.maximum(np.diag(covariance), 0.0))
    sigma_x, sigma_y = np.hypot(sigma[:2], SIGMA_FLOOR_M)
    if not (np.isfinite(sigma).all() and max(sigma_x, sigma_y) < MAX_SIGMA_X_M):
        return None, "the scene does not fix the motion"
    return (
        ScanMotion(
            float(pose[0]), float(pose[1]), float(pose[2]), float(sigma_x), float(sigma_y),
            float(np.hypot(sigma[2], SIGMA_FLOOR_RAD)), float(score), start_ns, end_ns,
        ),
        "",
    )  # fmt: skip


def _few(points: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """About `count` points, evenly spread over the sweep."""
    return np.ascontiguousarray(points[:: max(1, points.shape[0] // count)])


def _distinct(poses: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Drop start poses that settled at the same place."""
    kept: list[NDArray[np.float64]] = []
    for pose in poses:
        if all(np.abs(pose - other).max() > 0.05 for other in kept):
            kept.append(pose)
    return kept
