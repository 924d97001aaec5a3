"""Where a body could have come from, or have gone to: paths through what the lidar saw to be empty.

A solid body moves at up to `V_MAX_M_S` and through no place that a sweep saw to be free at that time. Every
displacement per sweep is tried against up to `DEPTH` sweeps; those that survive are the body's possible motions. For
an object injected into free space hardly any survives, and none that agrees with how it moves afterwards.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarFrame
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.ranges import HIT, SEEN_THROUGH, ask_sweep, range_image

DEPTH = 3  # sweeps that a path is followed through: further back a constant velocity is no longer a fair guess
V_MAX_M_S = 42.0  # oncoming traffic on a motorway, in the world frame
MARGIN_M, MARGIN_RATIO = 0.5, 0.02  # ego-motion error, footprint, and 1 deg of pitch over the height of a car
STEP_M = 0.4  # between displacements; less than the margin, so that nothing slips between two of them
ANGLES = 24
MIN_SHARE = 0.6  # of a body's points that must fit on the path: it may have been partly in view, partly hidden
MOST_SAMPLES = 48
BODY_M = 0.7  # a cyclist at full speed is new by a third of the body; the rest of it does not stand in its way


@dataclass(frozen=True, slots=True, eq=False)
class PosedFrame:
    """A prepared sweep and its sensor pose in a common world frame, (4, 4)."""

    frame: LidarFrame
    T_world_sensor: NDArray[np.float64]


class SweepHistory:
    """The last `DEPTH` sweeps with poses, newest last."""

    def __init__(self) -> None:
        self._past: deque[PosedFrame] = deque(maxlen=DEPTH)
        self.pose = np.eye(4)

    def __len__(self) -> int:
        return len(self._past)

    def forget(self) -> None:
        """Drop everything; the next sweep is a first one."""
        self._past.clear()
        self.pose = np.eye(4)

    def advance(self, T_previous_current: NDArray[np.float64]) -> None:
        """Move on by one sweep's ego-motion."""
        self.pose = self.pose @ T_previous_current

    def add(self, frame: LidarFrame) -> None:
        """Remember a sweep at the current pose."""
        self._past.append(PosedFrame(frame, self.pose))

    def newest_first(self) -> tuple[PosedFrame, ...]:
        """Return the remembered sweeps."""
        return tuple(reversed(self._past))


def displacements(reach_m: float) -> NDArray[np.float64]:
    """Rest and rings of displacements up to `reach_m`, (K, 2) metres."""
    radii = np.arange(STEP_M, reach_m + STEP_M, STEP_M)
    angles = np.arange(ANGLES) * (2.0 * np.pi / ANGLES)
    rings = np.stack((np.outer(radii, np.cos(angles)), np.outer(radii, np.sin(angles))), axis=-1).reshape(-1, 2)
    return np.vstack((np.zeros((1, 2)), rings))


def possible_motions(
    frame: LidarFrame,
    members: NDArray[np.intp],
    pose: NDArray[np.float64],
    past: tuple[PosedFrame, ...],
) -> NDArray[np.float64]:
    """Displacements per sweep that could have brought a body where it is.

    Args:
        frame: the sweep in which the body is seen; members: its points there. pose: (4, 4), its sensor in the world.
        past: earlier sweeps, newest first, at least one.

    Returns (K, 2) float64 metres in the world frame, per interval between the two newest sweeps. A displacement is
    possible when, moved back along it, most of the body lies where each of the past sweeps saw no emptiness, and
    where no other thing stood then and stands still.
    """
    step_ns = max(frame.stamp_ns - past[0].frame.stamp_ns, 1)
    back = displacements(V_MAX_M_S * step_ns / NS_PER_S)
    sample = frame.xyz[members[:: max(1, members.size // MOST_SAMPLES)]].astype(np.float64)
    now = _scenery(frame, members)
    for depth, sweep in enumerate(past):
        steps = (frame.stamp_ns - sweep.frame.stamp_ns) / step_ns
        places = carried(sample, back * steps)
        T = np.linalg.inv(sweep.T_world_sensor) @ pose
        margin_m = MARGIN_M if depth else 0.5 * MARGIN_M
        before, _ = ask_sweep(places, T, sweep.frame.image, margin_m, MARGIN_RATIO)
        possible = before != SEEN_THROUGH
        if depth == 0:
            today, _ = ask_sweep(places, np.eye(4), now, margin_m, MARGIN_RATIO)
            possible &= ~((before == HIT) & (today == HIT))
        back = back[possible.reshape(back.shape[0], -1).mean(axis=1) >= MIN_SHARE]
        if back.shape[0] == 0:
            break
    motions: NDArray[np.float64] = -back @ pose[:2, :2].T
    return motions


def _scenery(frame: LidarFrame, members: NDArray[np.intp]) -> NDArray[np.float32]:
    """Range image of a sweep without a body and what may be the rest of it. members: indices of its points."""
    others = ~_around(frame.xyz, members)
    image: NDArray[np.float32] = range_image(
        np.ascontiguousarray(frame.range_m[others]), np.ascontiguousarray(frame.row[others]),
        np.ascontiguousarray(frame.col[others]),
    )  # fmt: skip
    return image


def _around(xyz: NDArray[np.float32], members: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which points lie within `BODY_M` of the box around a body: possibly the rest of it."""
    low, high = np.quantile(xyz[members, :2], (0.02, 0.98), axis=0)
    inside = (xyz[:, 0] > low[0] - BODY_M) & (xyz[:, 0] < high[0] + BODY_M)
    inside &= (xyz[:, 1] > low[1] - BODY_M) & (xyz[:, 1] < high[1] + BODY_M)
    inside[members] = True
    return np.asarray(inside, dtype=np.bool_)


def carried(sample: NDArray[np.floating], by: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a sample (S, 3) at every displacement `by` (K, 2), (K * S, 3) float32 metres."""
    places = np.repeat(sample[None].astype(np.float64), by.shape[0], axis=0)
    places[:, :, :2] += by[:, None, :]
    return np.ascontiguousarray(places.reshape(-1, 3), dtype=np.float32)
