"""X4.contact: does what comes nearer grow?

A body at depth Z has a size in the picture that goes as 1 / Z: its corners spread by ds/s while the sweep's returns
from it come nearer by dZ/Z, and the sum of the two rates is nought (time to contact: Lee, Perception 5, 1976). The
picture needs no range for its half and the sweep no picture, so a range that somebody invented, or a figure that only
grows, does not fit the other sensor. Objects are the model's boxes; the corners in them are followed by optical flow,
and the depth is that of the returns around these very corners.

Heights are compared, where widths grow alike: a vehicle that turns grows or shrinks in width at any distance. A body
whose returns lie at several depths, or whose corners do not move as one, is not compared.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.fusion.object_checks import (
    GROUND_M,
    MAX_APART_NS,
    MAX_RANGE_M,
    PERSONS,
    TOP_M,
    UPRIGHT_M,
    Beams,
    gather_beams,
)
from edgeguard.fusion.objects import Box, overlap
from edgeguard.kernels.cusum import cusum_step
from edgeguard.types import CAMERA, LIDAR, CheckResult, Detection, Image, Level, RigCalibration, SyncedSet

if TYPE_CHECKING:
    from edgeguard.checks.lidar_evidence import LidarFrame
    from edgeguard.fusion.object_checks import Gather

WORK_WIDTH_PX = 640.0
MAX_OBJECTS, MAX_CORNERS, MIN_CORNERS = 4, 48, 8
MIN_HEIGHT_PX, EDGE_PX = 24.0, 6.0  # of the reduced picture
# A corner has to be one both ways: what lies on an edge slides along it.
QUALITY, SPACING_PX = 0.01, 3
# There and back, px of the reduced picture: three sigma of a good track (0.1 px each way) on either axis.
MAX_ASTRAY_PX = 0.4
WINDOW_PX = (15, 15)
# A corner's place is exact to this; grosser misfits show in the fit itself.
CORNER_PX = 0.12
MAX_MISFIT_PX, MIN_KEPT = 0.6, 0.75
STEPS, STRIPS = 6, 4
ALIKE_SIGMA = 3.0
RIDGE = 1e-6 * np.eye(3)  # keeps corners in one line solvable; their growth is then known to nobody
# The inner part of a box: beside and below it is what stands around.
CORE = (0.15, 0.08, 0.85, 0.85)
# Rates over this time: an error of a corner or a return counts by 1 / T, a change of speed by T.
SPAN_S, MIN_SPAN_S, MIN_SWEEPS = 0.6, 0.35, 4
# Returns around the corners: so many, and three quarters of them in one layer as deep as a car's rear is not flat.
MIN_RETURNS, LAYER_M, MIN_LAYER = 6, 1.0, 0.75
# A corner is the body's where it has returns of that layer on its left and on its right, so near: at an outline it may
# be what is behind, and beside a pole or in a tree's crown it mostly is.
BESIDE_M, ABOVE_M = 0.3, 0.4
# The middle of some ten returns: 2 cm range noise each, and other returns of a curved rear at every sweep.
DEPTH_M = 0.06
# Both rates scale with what nobody knows exactly: focal length, stamps, and where on the body a corner sits. One that
# is nearer than the others leaves the centre of the picture faster, which looks like growth. RELIEF_M: of a flat rear.
SCALE, RELIEF_M, FLOOR_PER_S = 0.06, 0.15, 0.02
# Below this both say that nothing comes nearer: two sensors that made it up would as well. 1 m/s at 20 m.
CLOSING_PER_S = 0.05
# No power, no answer: a body that comes nearer with 10 m/s at 20 m.
MAX_POWER_PER_S = 0.5
# Looks within a span share their ends. Six sigma for half a second, or the sums: k = 1, h = 8 (Siegmund: a run length
# of 4e7 spans for white residuals).
GATE_SIGMA, GATE_S, CUSUM_K, CUSUM_H, CEILING = 6.0, 0.5, 1.0, 8.0, 2.0
MEMORY_S, MAX_GAP_S, HOLD_S = 0.35, 0.35, 1.0


@dataclass(slots=True)
class _Followed:
    """One object: its corners now (N, 2) px, where each was at the ticks of the last span, and its depths.

    depths: seconds, depth and relief, m.
    """

    points: NDArray[np.float32]
    confirmed_s: float
    places: deque[tuple[float, NDArray[np.float32]]] = field(default_factory=deque)
    depths: deque[tuple[float, float, float]] = field(default_factory=deque)
    scores: deque[tuple[float, float]] = field(default_factory=deque)
    up: float = 0.0
    down: float = 0.0
    judged_s: float = -math.inf

    def box(self) -> Box:
        """What the corners span, px."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def keep(self, which: NDArray[np.bool_]) -> None:
        """Forget corners, now and then."""
        self.points = self.points[which]
        self.places = deque((t, p[which]) for t, p in self.places)


@dataclass(frozen=True, slots=True)
class Closing:
    """One comparison, 1/s: how fast the picture of a body grows, how fast its depth shrinks, and one sigma."""

    grows_per_s: float
    nears_per_s: float
    sigma_per_s: float


class ContactCheck:
    """X4 of one camera and one lidar. Statistic: share of the threshold, threshold 1; power and size in 1/s.

    Args:
        calibration: of camera and lidar; None makes it NOT_OBSERVABLE.
    """

    name: str = "X4.contact"
    sensors: tuple[str, ...] = (CAMERA, LIDAR)

    def __init__(self, calibration: RigCalibration | None) -> None:
        self._calibration = calibration
        self._followed: list[_Followed] = []
        self._grey: NDArray[np.uint8] | None = None
        self._seen_s = -math.inf
        self._scale = 1.0
        self._power = math.inf
        self._alarm: tuple[float, float, float, str] | None = None

    def reset(self) -> None:
        """Time jumped: no object is the one it was."""
        self._followed, self._grey, self._alarm = [], None, None
        self._seen_s = -math.inf

    def update(
        self,
        synced: SyncedSet,
        frame: LidarFrame | None,
        detections: Sequence[Detection] | None,
        gather: Gather | None = None,
    ) -> CheckResult:
        """Take one tick; the arguments are those of `ObjectChecks.update`."""
        now_s = synced.stamp_ns / NS_PER_S
        image = synced.samples.get(CAMERA)
        if self._calibration is None or not isinstance(image, Image):
            return self._result(now_s, "no image with a geometry at this tick")
        height, width = image.pixels.shape[:2]
        if (width, height) != self._calibration.image_size_px:
            return self._result(now_s, "the picture's size is not the calibration's")
        image_s = image.stamp_ns / NS_PER_S
        if detections is None and not self._followed:
            self._grey = None
            return self._result(now_s, "no model was asked")
        if image_s > self._seen_s:
            self._follow(image_s, image.pixels, detections or ())
        if frame is None or abs(image.stamp_ns - frame.stamp_ns) > MAX_APART_NS:
            return self._result(now_s, "no sweep at this tick")
        if self._followed:
            beams = (gather or gather_beams)(frame, self._calibration)
            for one in self._followed:
                self._judge(one, beams, frame.stamp_ns / NS_PER_S, image_s)
            self._followed = [f for f in self._followed if len(f.points) >= MIN_CORNERS]
        return self._result(now_s, "nothing that both see comes nearer")

    # ---- the picture ------------------------------------------------------------------------------------------

    def _follow(self, t_s: float, pixels: NDArray[np.uint8], detections: Sequence[Detection]) -> None:
        import cv2  # a rig without a camera never needs it

        small = pixels
        self._scale = max(1.0, round(pixels.shape[1] / WORK_WIDTH_PX))
        if self._scale > 1.0:
            size = (int(pixels.shape[1] / self._scale), int(pixels.shape[0] / self._scale))
            small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        before, gap_s = self._grey, t_s - self._seen_s
        self._grey, self._seen_s = grey, t_s
        if before is None or before.shape != grey.shape or gap_s > MAX_GAP_S:
            self._followed = []
        elif self._followed:
            self._flow(before, grey)
        # Who walks does not move as one.
        rigid = sorted((d for d in detections if d.label.lower() not in PERSONS), key=lambda d: -d.score)
        boxes = [tuple(v / self._scale for v in d.box_xyxy) for d in rigid]
        for box in boxes:
            self._meet(t_s, grey, (box[0], box[1], box[2], box[3]))
        self._followed = [f for f in self._followed if t_s - f.confirmed_s <= MEMORY_S]
        for one in self._followed:
            one.places.append((t_s, one.points))
            while one.places[0][0] < t_s - 1.05 * SPAN_S:
                one.places.popleft()

    def _flow(self, before: NDArray[np.uint8], grey: NDArray[np.uint8]) -> None:
        """Carry all corners over to the new picture, there and back (Kalal, Mikolajczyk & Matas, ICPR 2010)."""
        import cv2

        start = np.concatenate([f.points for f in self._followed])[:, None]
        moved, found, _ = cv2.calcOpticalFlowPyrLK(before, grey, start, None, winSize=WINDOW_PX, maxLevel=3)
        back, returned, _ = cv2.calcOpticalFlowPyrLK(grey, before, moved, None, winSize=WINDOW_PX, maxLevel=3)
        place, astray = moved[:, 0], np.abs(back - start).max(axis=(1, 2))
        size = np.array((grey.shape[1], grey.shape[0])) - EDGE_PX
        good = (found[:, 0] > 0) & (returned[:, 0] > 0) & (astray < MAX_ASTRAY_PX)
        good &= ((place > EDGE_PX) & (place < size)).all(axis=1)
        at, kept = 0, []
        for one in self._followed:
            part = slice(at, at + len(one.points))
            at += len(one.points)
            one.points = np.ascontiguousarray(place[part])
            one.keep(good[part])
            if len(one.points) >= MIN_CORNERS:
                kept.append(one)
        self._followed = kept

    def _meet(self, t_s: float, grey: NDArray[np.uint8], box: Box) -> None:
        """A box confirms the object whose corners lie in it, or begins one."""
        import cv2

        if not all(math.isfinite(v) for v in box) or box[3] - box[1] < MIN_HEIGHT_PX:
            return
        mine = [f for f in self._followed if overlap(f.box(), box) > 0.5]
        if mine:
            for one in mine:
                one.confirmed_s = t_s
            return
        if len(self._followed) >= MAX_OBJECTS:
            return
        left, top = max(box[0], EDGE_PX), max(box[1], EDGE_PX)
        right, bottom = min(box[2], grey.shape[1] - EDGE_PX), min(box[3], grey.shape[0] - EDGE_PX)
        wide, tall = right - left, bottom - top
        x0, y0, x1, y1 = (
            int(left + CORE[0] * wide), int(top + CORE[1] * tall), int(left + CORE[2] * wide), int(top + CORE[3] * tall)
        )  # fmt: skip
        if x1 - x0 < SPACING_PX or y1 - y0 < MIN_HEIGHT_PX / 2:
            return
        patch = np.ascontiguousarray(grey[y0:y1, x0:x1])
        corners = cv2.goodFeaturesToTrack(patch, MAX_CORNERS, QUALITY, SPACING_PX)
        if corners is not None and len(corners) >= MIN_CORNERS:
            self._followed.append(_Followed(corners[:, 0] + np.array((x0, y0), np.float32), t_s))

    # ---- the comparison ---------------------------------------------------------------------------------------

    def _judge(self, one: _Followed, beams: Beams, sweep_s: float, image_s: float) -> None:
        layer = self._depth(one, beams)
        if layer is None:
            one.scores.clear()
            return
        depth_m = layer[0]
        if one.depths and sweep_s <= one.depths[-1][0]:
            return
        one.depths.append((sweep_s, *layer))
        while one.depths[0][0] < sweep_s - 1.05 * SPAN_S:
            one.depths.popleft()
        found = self._compare(one)
        if found is None:
            return
        power = GATE_SIGMA * found.sigma_per_s
        if power > MAX_POWER_PER_S or max(abs(found.grows_per_s), abs(found.nears_per_s)) < CLOSING_PER_S:
            one.scores.clear()
            return
        self._power = min(self._power, power)
        z = (found.nears_per_s - found.grows_per_s) / found.sigma_per_s
        dt_s = min(max(image_s - one.judged_s, 0.0), SPAN_S)
        clipped = min(max(z, -GATE_SIGMA), GATE_SIGMA)
        one.up = cusum_step(one.up, clipped, CUSUM_K, dt_s / (SPAN_S * CUSUM_H), CEILING)
        one.down = cusum_step(one.down, -clipped, CUSUM_K, dt_s / (SPAN_S * CUSUM_H), CEILING)
        one.scores.append((image_s, z))
        while one.scores[0][0] < image_s - GATE_S - 0.05:
            one.scores.popleft()
        one.judged_s = image_s
        share = max(one.up, one.down, _gate(one.scores))
        if share > 1.0:
            rates = f"nears by {found.nears_per_s:.2f}/s and grows by {found.grows_per_s:.2f}/s"
            said = f"a body {depth_m:.0f} m ahead {rates}"
            self._alarm = (image_s, share, abs(found.nears_per_s - found.grows_per_s), said)

    def _depth(self, one: _Followed, beams: Beams) -> tuple[float, float] | None:
        """Depth and relief (sd) of the layer that most returns around the corners belong to, m; None without one."""
        left, top, right, bottom = (v * self._scale for v in one.box())
        inside = (beams.u > left) & (beams.u < right) & (beams.v > top) & (beams.v < bottom)
        up = beams.height_m[inside]
        upright = ~((up < UPRIGHT_M) | (up > TOP_M))
        depth = beams.depth_m[inside][upright]
        # Where the road shows among the corners the box holds more than its body.
        if len(depth) < MIN_RETURNS or np.count_nonzero(np.abs(up) < GROUND_M) > len(depth):
            return None
        middle = float(np.median(depth))
        layer = np.abs(depth - middle) < 0.5 * LAYER_M
        if np.count_nonzero(layer) < max(MIN_RETURNS, MIN_LAYER * len(depth)) or middle > MAX_RANGE_M:
            return None
        one.keep(self._covered(one.points * np.float32(self._scale), beams, middle))
        if len(one.points) < MIN_CORNERS:
            return None
        return float(np.mean(depth[layer])), max(RELIEF_M, float(np.std(depth[layer])))

    def _covered(self, corners: NDArray[np.float32], beams: Beams, depth_m: float) -> NDArray[np.bool_]:
        """(N,) which corners (N, 2) px lie between returns of the layer at this depth."""
        assert self._calibration is not None  # noqa: S101 - `update` has asked
        px_per_m = float(self._calibration.camera_matrix[0, 0]) / depth_m
        low, high = corners.min(axis=0) - ABOVE_M * px_per_m, corners.max(axis=0) + ABOVE_M * px_per_m
        near = (beams.u > low[0]) & (beams.u < high[0]) & (beams.v > low[1]) & (beams.v < high[1])
        near &= (np.abs(beams.depth_m - depth_m) < 0.5 * LAYER_M) & ~(beams.height_m < UPRIGHT_M)
        aside = beams.u[near][None] - corners[:, :1]
        beside = np.abs(beams.v[near][None] - corners[:, 1:]) < ABOVE_M * px_per_m
        beside &= np.abs(aside) < BESIDE_M * px_per_m
        return np.asarray((beside & (aside <= 0)).any(axis=1) & (beside & (aside >= 0)).any(axis=1))

    def _compare(self, one: _Followed) -> Closing | None:
        begun_s, before = one.places[0]
        span_s = one.places[-1][0] - begun_s
        if span_s < MIN_SPAN_S or len(one.depths) < MIN_SWEEPS:
            return None
        grown = growth(before.astype(np.float64), one.points.astype(np.float64))
        t_s, depth_m, relief_m = np.array(one.depths).T
        if grown is None or t_s[-1] - t_s[0] < MIN_SPAN_S:
            return None
        off_s = t_s - t_s.mean()
        spread = float(off_s @ off_s)
        log_depth = np.log(depth_m)
        nears = -float(off_s @ log_depth) / spread
        left = log_depth - log_depth.mean() + nears * off_s
        noise = max(DEPTH_M / float(depth_m.mean()), float(np.sqrt(left @ left / (len(left) - 2))))
        grows = math.log(grown[0]) / span_s
        assert self._calibration is not None  # noqa: S101 - `update` has asked
        rows = before[:, 1]
        leaves = abs(float(rows.mean()) - float(self._calibration.camera_matrix[1, 2]) / self._scale)
        lever = math.hypot(1.0, leaves / max(float(rows.std()), 1.0))
        unlike = math.hypot(SCALE, lever * float(relief_m.mean() / depth_m.mean()))
        systematic = unlike * max(abs(grows), abs(nears))
        sigma = math.hypot(grown[1] / span_s, noise / math.sqrt(spread), systematic, FLOOR_PER_S)
        return Closing(grows, nears, sigma)

    # ---- result -----------------------------------------------------------------------------------------------

    def _result(self, now_s: float, why_not: str) -> CheckResult:
        if self._alarm is not None and 0.0 <= now_s - self._alarm[0] <= HOLD_S:
            _, share, size, said = self._alarm
            power = self._power if math.isfinite(self._power) else MAX_POWER_PER_S
            return self._said(Level.ANOMALY, share, power, said, size)
        fresh = [f for f in self._followed if now_s - f.judged_s <= MEMORY_S]
        power, self._power = self._power, math.inf
        if not fresh or not math.isfinite(power):
            return self._said(Level.NOT_OBSERVABLE, 0.0, math.inf, why_not)
        share = max(max(f.up, f.down, _gate(f.scores)) for f in fresh)
        return self._said(Level.OK, min(share, 1.0), power, "")

    def _said(self, level: Level, share: float, power: float, reason: str, size: float | None = None) -> CheckResult:
        return CheckResult(self.name, self.sensors, level, share, 1.0, power, "1/s", "contact", reason, size)


def growth(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, float] | None:
    """By what factor a body grew, and its standard deviation; None where the corners do not move as one.

    before, after: (N, 2) px of the same corners. ``y' = s y + r x + c``: c is the way of the whole, r a roll. Weighted
    least squares with Geman-McClure weights (as `kernels.tracks`). What parts of the body do not share is noise: solved
    again without each of four strips, upright and level (grouped jackknife: Efron & Stein, Ann. Statistics 9, 1981).
    """
    if len(before) < MIN_CORNERS:
        return None
    tall, wide = _along(before, after, 1), _along(before, after, 0)
    if tall is None or wide is None:
        return None
    # A vehicle that turns grows in one direction only, and so does what slides along an edge: neither tells a distance.
    return tall if abs(tall[0] - wide[0]) < ALIKE_SIGMA * math.hypot(tall[1], wide[1]) else None


def _along(before: NDArray[np.float64], after: NDArray[np.float64], axis: int) -> tuple[float, float] | None:
    """Growth along one axis of the picture and its standard deviation."""
    middle = before.mean(axis=0)
    A = np.column_stack((before[:, axis] - middle[axis], before[:, 1 - axis] - middle[1 - axis], np.ones(len(before))))
    y = after[:, axis] - middle[axis]
    solved, weight = _fit(A, y)
    left = np.abs(y - A @ solved)
    if np.count_nonzero(left < MAX_MISFIT_PX) < max(MIN_CORNERS, MIN_KEPT * len(y)) or not 0.3 < solved[0] < 3.0:
        return None
    misfit = max(CORNER_PX * math.sqrt(2.0), 1.4826 * float(np.median(left)))
    covariance = np.linalg.inv((A * weight[:, None]).T @ A + RIDGE)
    apart = max(_apart(A, y, before[:, k]) for k in (0, 1))
    return float(solved[0]), max(misfit * math.sqrt(float(covariance[0, 0])), apart)


def _fit(A: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3,) solution and (N,) weights."""
    weight: NDArray[np.float64] = np.ones(len(y))
    solved: NDArray[np.float64] = np.zeros(3)
    for _ in range(STEPS):
        weighted = (A * weight[:, None]).T
        solved = np.asarray(np.linalg.solve(weighted @ A + RIDGE, weighted @ y), np.float64)
        left = np.abs(y - A @ solved)
        scale = max(3.0 * CORNER_PX, 2.0 * 1.4826 * float(np.median(left)))
        weight = 1.0 / (1.0 + (left / scale) ** 2) ** 2
    return solved, weight


def _apart(A: NDArray[np.float64], y: NDArray[np.float64], along: NDArray[np.float64]) -> float:
    """Jackknife's standard deviation of the growth over strips of equally many corners."""
    strip = np.argsort(np.argsort(along)) * STRIPS // len(y)
    found = [_fit(A[strip != number], y[strip != number])[0][0] for number in range(STRIPS)]
    return float(np.std(found) * math.sqrt(STRIPS - 1.0))


def _gate(scores: Sequence[tuple[float, float]]) -> float:
    """Share of the gate that all scores of the last half second reached on one side."""
    if len(scores) < MIN_SWEEPS or scores[-1][0] - scores[0][0] < GATE_S - 0.15:
        return 0.0
    z = [score for _, score in scores]
    return max(0.0, min(z), -max(z)) / GATE_SIGMA
