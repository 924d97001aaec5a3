"""C5.body and X3.object: is there a body where the model draws a box?

Both take the model's boxes as values, after inference. For each box the sweep is asked what its beams met there:

* **a body**: upright returns no farther than the object can be, in the box or beside it. The object is confirmed;
* **nothing**: the beams go through and come back from behind or from the road, or all lie in the very plane of the wall
  around. The figure has no body: projected light, a print, an injected picture (Nassi et al., CCS 2020; Lovisotto et
  al., "SLAP", USENIX Security 2021). Physics is one-sided here: **C5.body** speaks against the camera;
* **no returns** where the sweep has some everywhere else on the road: the body, or its echoes, were taken away (Cao et
  al., USENIX Security 2023), or there is none. **X3.object** speaks against both.

Evidence is summed per box over frames as a log-likelihood ratio and held against the logarithm of the run length
between false alarms (Wald; Bernoulli filter as in `objects`). It starts at the odds that the model is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.fusion.objects import Box, overlap
from edgeguard.types import CAMERA, LIDAR, CheckResult, Detection, Image, Level, RigCalibration, SyncedSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeguard.checks.lidar_evidence import LidarFrame

    Gather = Callable[[LidarFrame, RigCalibration], "Beams"]

BODY, NOTHING, GONE = "a body", "nothing", "no returns"

MIN_HEIGHT_PX, MAX_RANGE_M, REACH_M = 24.0, 35.0, 70.0
EDGE_PX = 3.0  # a box at the edge of the picture is cut: its size says nothing
MAX_BOXES = 24  # of one frame, the surest first: the budget is per frame
# Largest height of what bears a label, m: an upper bound of its range by its height in the picture.
TALL_M, PERSON_M = 4.2, 2.2
PERSONS = frozenset({"pedestrian", "person", "cyclist", "bicycle", "rider"})
# How far a box's lower edge may lie below the object's foot: of its height, and half a degree of pitch.
FOOT_SHARE, FOOT_RAD = 0.1, 0.009
RANGE_RATIO, RANGE_M = 1.1, 1.0
UPRIGHT_M, TOP_M, GROUND_M = 0.25, 4.5, 0.2
# The inner part of a box, by shares of its width and height: a body fills it, the road before its feet is below it.
CORE = (0.2, 0.1, 0.8, 0.75)
BESIDE_M, BESIDE_SHARE = 0.75, 0.25  # a body is looked for as far beside: what moves across, and what the box misses
MAX_STRAY = 2  # returns that make no body
MIN_THROUGH, MIN_THROUGH_SHARE = 8, 0.9
# In the plane of the wall: relief below this, or twice what the wall itself shows. A person has 0.15 m.
FLAT_M, FLAT_RATIO, MIN_FLAT, MAX_WALL_M = 0.06, 2.0, 15, 0.05
# An attack that removes echoes leaves about a tenth; a dark car in the rain returns a third.
MIN_EXPECTED, GONE_SHARE = 15.0, 0.2
BLOCK_PX = 8
MAX_APART_NS = 60_000_000
# Chance of each answer, without a body and with one. Beams go through a body in 13 of 10 000 boxes of clean simulated
# drives; a real mount, lens and model get fifteen times as much. Dark bodies lose their echoes more often.
P_NOTHING, P_BODY, P_GONE = (0.8, 0.02), (0.05, 0.8), (0.8, 0.1)
START = -2.0  # the log-odds that a box of the shipped model is none: its precision is 0.88
DECORRELATION = 1.5  # frames that count as one: the same box in the next frame errs alike
ARL_FRAMES = 36_000.0  # an hour at 10 Hz
MEMORY_S = 0.35  # a box that the model loses for longer is another one
HOLD_S = 1.0


@dataclass(slots=True)
class _Followed:
    """One box from frame to frame. phantom, missing: log-likelihood ratios against "there is a body"."""

    box: Box
    label: str
    seen_s: float
    phantom: float = START
    missing: float = START


@dataclass(frozen=True, slots=True, eq=False)
class Beams:
    """Returns ahead in the picture: u, v px; depth_m, height_m; xyz (N, 3). expected: (R,) typical returns per block
    of `BLOCK_PX` by block row; below: first block row that looks at near road."""

    u: NDArray[np.float32]
    v: NDArray[np.float32]
    depth_m: NDArray[np.float32]
    height_m: NDArray[np.float32]
    xyz: NDArray[np.float32]
    expected: NDArray[np.float64]
    below: int


class ObjectChecks:
    """Both checks of one rig.

    Args:
        calibration: of camera and lidar; None makes both NOT_OBSERVABLE.
    """

    names: tuple[str, ...] = ("C5.body", "X3.object")

    def __init__(self, calibration: RigCalibration | None) -> None:
        self._calibration = calibration
        self._followed: list[_Followed] = []
        self._alarms: dict[str, tuple[float, float, str, float]] = {}

    def reset(self) -> None:
        """Time jumped: no box is the one it was."""
        self._followed = []
        self._alarms = {}

    def update(
        self,
        synced: SyncedSet,
        frame: LidarFrame | None,
        detections: Sequence[Detection] | None,
        gather: Gather | None = None,
    ) -> tuple[CheckResult, CheckResult]:
        """Take one tick.

        frame: the prepared sweep, None without one. detections: the model's boxes on this tick's image, None when it
        was not asked. gather: in place of `gather_beams`, where another check of this tick asks it too.
        """
        now_s = synced.stamp_ns / NS_PER_S
        self._followed = [f for f in self._followed if now_s - f.seen_s <= MEMORY_S]
        why_not = self._why_not(synced, frame, detections)
        seen = 0
        if not why_not and frame is not None and detections:
            calibration = self._calibration
            assert calibration is not None  # noqa: S101 - `_why_not` has asked
            chosen = [d for d in sorted(detections, key=lambda d: -d.score) if self._eligible(d)][:MAX_BOXES]
            beams = (gather or gather_beams)(frame, calibration) if chosen else None
            for detection in chosen:
                assert beams is not None  # noqa: S101 - there is something chosen
                answer = ask_beams(beams, detection, calibration)
                followed = self._follow(detection, now_s)
                if answer is not None:
                    seen += 1
                    self._weigh(followed, answer)
            why_not = "" if seen else "no box of which the sweep can say something"
        return self._result("C5.body", (CAMERA,), "phantom", now_s, why_not), self._result(
            "X3.object", (CAMERA, LIDAR), "missing", now_s, why_not
        )

    def _why_not(self, synced: SyncedSet, frame: LidarFrame | None, detections: Sequence[Detection] | None) -> str:
        image = synced.samples.get(CAMERA)
        if self._calibration is None or not isinstance(image, Image):
            return "no image with a geometry at this tick"
        if frame is None:
            return "no sweep at this tick"
        if detections is None:
            return "no model was asked"
        if abs(image.stamp_ns - frame.stamp_ns) > MAX_APART_NS:
            return "camera and lidar are apart in time"
        return "" if detections else "the model sees nothing"

    def _eligible(self, detection: Detection) -> bool:
        if self._calibration is None or not all(math.isfinite(v) for v in detection.box_xyxy):
            return False
        width, height = self._calibration.image_size_px
        left, top, right, bottom = detection.box_xyxy
        inside = left > EDGE_PX and top > EDGE_PX and right < width - EDGE_PX and bottom < height - EDGE_PX
        return inside and bottom - top >= MIN_HEIGHT_PX and right - left >= MIN_HEIGHT_PX / 4

    def _follow(self, detection: Detection, now_s: float) -> _Followed:
        free = [f for f in self._followed if f.seen_s < now_s and overlap(f.box, detection.box_xyxy) > 0.5]
        best = max(free, key=lambda f: _agreement(f.box, detection.box_xyxy), default=None)
        if best is None or _agreement(best.box, detection.box_xyxy) < 0.3:
            best = _Followed(detection.box_xyxy, detection.label, now_s)
            self._followed.append(best)
        best.box, best.label, best.seen_s = detection.box_xyxy, detection.label, now_s
        return best

    @staticmethod
    def _weigh(followed: _Followed, answer: str) -> None:
        none, body = {NOTHING: P_NOTHING, BODY: P_BODY, GONE: P_GONE}[answer]
        step = math.log(none / body) / DECORRELATION
        if answer != GONE:
            followed.phantom = min(max(START, followed.phantom + step), 2.0 * math.log(ARL_FRAMES))
        if answer != NOTHING:
            followed.missing = min(max(START, followed.missing + step), 2.0 * math.log(ARL_FRAMES))

    def _result(self, name: str, sensors: tuple[str, ...], part: str, now_s: float, why_not: str) -> CheckResult:
        limit = math.log(ARL_FRAMES)
        fresh = [f for f in self._followed if f.seen_s == now_s]
        worst = max(fresh, key=lambda f: float(getattr(f, part)), default=None)
        value = max(0.0, float(getattr(worst, part))) if worst is not None else 0.0
        if worst is not None and value > limit:
            count = float(sum(float(getattr(f, part)) > limit for f in fresh))
            what = worst.label or "box"
            said = (
                f"{what}: beams pass through it, or it lies in the plane of a wall"
                if part == "phantom"
                else f"{what}: no echo where the road around has them"
            )
            self._alarms[name] = (now_s, value, said, count)
        alarm = self._alarms.get(name)
        if alarm is not None and 0.0 <= now_s - alarm[0] <= HOLD_S:
            return CheckResult(
                name, sensors, Level.ANOMALY, alarm[1], limit, 1.0, "objects", "object", alarm[2], alarm[3]
            )
        if why_not:
            return CheckResult(name, sensors, Level.NOT_OBSERVABLE, 0.0, limit, reason=why_not)
        return CheckResult(name, sensors, Level.OK, min(value, limit), limit, 1.0, "objects", "object")


def gather_beams(frame: LidarFrame, calibration: RigCalibration) -> Beams:
    """The returns of a sweep that fall into the picture, and how many are usual in each row of it."""
    xyz = frame.xyz
    wide = 0.3 + calibration.image_size_px[0] / (2.0 * float(calibration.camera_matrix[0, 0]))
    ahead = np.flatnonzero((xyz[:, 0] > 1.0) & (np.abs(xyz[:, 1]) < wide * xyz[:, 0]) & (frame.range_m < REACH_M))
    points = xyz[ahead]
    P = (calibration.camera_matrix @ calibration.T_cam_lidar[:3]).astype(np.float32)
    p = points @ P[:, :3].T + P[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = p[:, 0] / p[:, 2], p[:, 1] / p[:, 2]
    width, height = calibration.image_size_px
    inside = (p[:, 2] > 1.0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    rows, columns = height // BLOCK_PX, width // BLOCK_PX
    u, v = u[inside], v[inside]
    at = (v / BLOCK_PX).astype(np.intp).clip(0, rows - 1) * columns
    at += (u / BLOCK_PX).astype(np.intp).clip(0, columns - 1)
    counts = np.bincount(at, minlength=rows * columns).reshape(rows, columns)
    return Beams(
        u, v, p[inside, 2], frame.height_m[ahead][inside], points[inside], np.percentile(counts, 70, axis=1),
        math.ceil(_row_at(REACH_M, calibration) / BLOCK_PX),
    )  # fmt: skip


def ask_beams(beams: Beams, detection: Detection, calibration: RigCalibration) -> str | None:
    """What the beams met in a box: BODY, NOTHING or GONE; None where they cannot tell."""
    left, top, right, bottom = detection.box_xyxy
    width, height = right - left, bottom - top
    limit_m = farthest(detection, calibration)
    if limit_m > MAX_RANGE_M * RANGE_RATIO + RANGE_M:
        return None
    aside = max(BESIDE_SHARE * width, BESIDE_M * float(calibration.camera_matrix[0, 0]) / limit_m)
    u, v = beams.u, beams.v
    around = np.flatnonzero((u > left - aside) & (u < right + aside) & (v > top - aside / 2) & (v < bottom + 2.0))
    u, v, depth, up = u[around], v[around], beams.depth_m[around], beams.height_m[around]
    x0, y0, x1, y1 = (left + CORE[0] * width, top + CORE[1] * height, left + CORE[2] * width, top + CORE[3] * height)
    core = (u > x0) & (u < x1) & (v > y0) & (v < y1)
    # A return of which nobody knows how high it lies may be a body.
    body = (depth < limit_m) & ~((up < UPRIGHT_M) | (up > TOP_M))
    first, last = max(beams.below, int(y0 // BLOCK_PX) + 1), int(y1 // BLOCK_PX)
    expected = float(beams.expected[first:last].sum()) * (x1 - x0) / BLOCK_PX
    found = int(np.count_nonzero(core & (v >= first * BLOCK_PX) & (v < last * BLOCK_PX)))
    if expected >= MIN_EXPECTED and found <= GONE_SHARE * expected:
        return GONE
    if np.count_nonzero(body) > MAX_STRAY:
        lies_flat = _flat(beams.xyz[around], core, (u < left) | (u > right), body, v < y1)
        return NOTHING if lies_flat else BODY
    through = int(np.count_nonzero(core & ((depth > limit_m) | (np.abs(up) < GROUND_M))))
    enough = through >= max(MIN_THROUGH, MIN_THROUGH_SHARE * np.count_nonzero(core))
    return NOTHING if enough else None


def farthest(detection: Detection, calibration: RigCalibration) -> float:
    """Upper bound of how far what fills the box can be, m along the optical axis: by its size and by its foot.

    Both hold as well where a part of the object is hidden: what is hidden makes the box smaller and its lower edge
    higher, and the bound larger.
    """
    _, top, _, bottom = detection.box_xyxy
    focal = float(calibration.camera_matrix[1, 1])
    tall = PERSON_M if detection.label.lower() in PERSONS else TALL_M
    by_size = focal * tall / max(bottom - top, 1.0)
    row = bottom - FOOT_SHARE * (bottom - top) - FOOT_RAD * focal
    drop = (row - float(calibration.camera_matrix[1, 2])) / focal
    by_foot = _eye_m(calibration) / drop if drop > 1e-3 else math.inf
    return min(by_size, by_foot) * RANGE_RATIO + RANGE_M


def _eye_m(calibration: RigCalibration) -> float:
    """Height of the camera over a level road, m."""
    T = calibration.T_cam_lidar
    return calibration.lidar_height_m - float(T[:3, 2] @ T[:3, 3])


def _row_at(range_m: float, calibration: RigCalibration) -> float:
    """Row of the picture that looks at a level road this far ahead."""
    return float(calibration.camera_matrix[1, 2] + calibration.camera_matrix[1, 1] * _eye_m(calibration) / range_m)


def _flat(
    xyz: NDArray[np.float32],
    core: NDArray[np.bool_],
    flank: NDArray[np.bool_],
    body: NDArray[np.bool_],
    above: NDArray[np.bool_],
) -> bool:
    """Whether the core's returns lie in the plane of those to the left and right of the box."""
    wall, inner = xyz[flank & above & body].astype(np.float64), xyz[core & body].astype(np.float64)
    if len(wall) < MIN_FLAT or len(inner) < MIN_FLAT:
        return False
    centre = wall.mean(axis=0)
    _, sizes, axes = np.linalg.svd(wall - centre, full_matrices=False)
    relief = float(sizes[2]) / math.sqrt(len(wall))
    # A line of returns fixes no plane.
    if relief > MAX_WALL_M or float(sizes[1]) / math.sqrt(len(wall)) < 4.0 * max(relief, 0.02):
        return False
    stands = float(np.sqrt(np.mean(((inner - centre) @ axes[2]) ** 2)))
    return stands < max(FLAT_M, FLAT_RATIO * relief)


def _agreement(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
