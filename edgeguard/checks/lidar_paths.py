"""Where a body could have come from, or have gone to: paths through what the lidar saw to be empty.

A solid body moves at up to `V_MAX_M_S` and through no place that a sweep saw to be free at that time. Every
displacement per sweep is tried against up to `DEPTH` sweeps; those that survive are the body's possible motions. For
an object injected into free space hardly any survives, and none that agrees with how it moves afterwards.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarFrame
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.ranges import HIT, SEEN_THROUGH, Surroundings, ask_surroundings, look_around

DEPTH = 3  # sweeps that a path is followed through: further back a constant velocity is no longer a fair guess
V_MAX_M_S = 42.0  # oncoming traffic on a motorway, in the world frame
MARGIN_M, MARGIN_RATIO = 0.5, 0.02  # ego-motion error, footprint, and 1 deg of pitch over the height of a car
STEP_M = 0.4  # between displacements; less than the margin, so that nothing slips between two of them
ANGLES = 24
SLOW_M = (0.1, 0.2, 0.3)
PATH_MARGIN_M, PATH_GROWTH_M = 0.15, 0.2  # ego-motion error; half of `STEP_M` for every sweep gone back
MIN_SHARE = 0.6  # of a body's points that must fit on the path: it may have been partly in view, partly hidden
MOST_SAMPLES = 16  # of a body's points: a share of 0.6 is then known to an eighth


@dataclass(frozen=True, slots=True, eq=False)
class PosedFrame:
    """A prepared sweep, what is around each cell of its range image, and its sensor's pose in a world frame.

    T_sensor_world: (4, 4).
    """

    frame: LidarFrame
    around: Surroundings
    T_sensor_world: NDArray[np.float64]


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
        self._past.append(PosedFrame(frame, look_around(frame.image), inverse(self.pose)))

    def newest_first(self) -> tuple[PosedFrame, ...]:
        """Return the remembered sweeps."""
        return tuple(reversed(self._past))


def inverse(T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a rigid transform, (4, 4)."""
    back = np.eye(4)
    back[:3, :3] = T[:3, :3].T
    back[:3, 3] = -back[:3, :3] @ T[:3, 3]
    return back


def displacements(reach_m: float) -> NDArray[np.float64]:
    """Rest and rings of displacements up to `reach_m`, (K, 2) metres."""
    radii = np.arange(STEP_M, reach_m + STEP_M, STEP_M)
    angles = np.arange(ANGLES) * (2.0 * np.pi / ANGLES)
    rings = np.stack((np.outer(radii, np.cos(angles)), np.outer(radii, np.sin(angles))), axis=-1).reshape(-1, 2)
    return np.vstack((np.zeros((1, 2)), rings))


@lru_cache(maxsize=8)
def _even_displacements(reach_m: float) -> NDArray[np.float64]:
    """Rest and rings of displacements up to `reach_m`, (K, 2) metres, no farther apart on a ring than rings are.

    Near rest they are closer: a walker moves by less than one step, and a slice of one by no more than it is wide.
    """
    found = [np.zeros((1, 2))]
    for radius in (*SLOW_M, *np.arange(STEP_M, reach_m + STEP_M, STEP_M)):
        angles = np.arange(0.0, 2.0 * np.pi, min(0.25 * np.pi, STEP_M / radius))
        found.append(radius * np.stack((np.cos(angles), np.sin(angles)), axis=-1))
    grid = np.concatenate(found)
    grid.setflags(write=False)
    return grid


def possible_origins(
    frame: LidarFrame,
    sample: NDArray[np.float32],
    pose: NDArray[np.float64],
    past: tuple[PosedFrame, ...],
) -> NDArray[np.float64]:
    """Displacements, per sweep, to where a body could have come from.

    Args:
        frame: the sweep in which the body is seen. sample: (S, 3) float32 of its points, metres, sensor frame. pose:
            (4, 4), the sensor in the world. past: earlier sweeps, newest first, at least one.

    Returns (K, 2) float64 metres in the sensor frame, per interval between the two newest sweeps. A displacement is
    possible when, moved along it, most of the body lies where each of the past sweeps saw no emptiness, and where
    nothing stood in both of the last two sweeps: what stood still for a sweep is not what then came at speed.
    """
    step_ns = max(frame.stamp_ns - past[0].frame.stamp_ns, 1)
    back = _even_displacements(V_MAX_M_S * step_ns / NS_PER_S)
    far_m = float(np.median(np.hypot(sample[:, 0], sample[:, 1])))
    for depth, sweep in enumerate(past):
        steps = (frame.stamp_ns - sweep.frame.stamp_ns) / step_ns
        margin_m = PATH_MARGIN_M + PATH_GROWTH_M * steps
        before = ask_surroundings(
            carried(sample, back * steps), sweep.T_sensor_world @ pose, sweep.around, margin_m, MARGIN_RATIO
        ).reshape(back.shape[0], -1)
        kept = (before != SEEN_THROUGH).mean(axis=1) >= MIN_SHARE
        back, before = back[kept], before[kept]
        if depth == 0 and len(past) > 1 and back.shape[0]:
            stood = ask_surroundings(
                carried(sample, back), past[1].T_sensor_world @ pose, past[1].around, margin_m, MARGIN_RATIO, whole=True
            ).reshape(before.shape)
            # nearer than both margins, a slow body is at both places at once
            apart = np.hypot(back[:, 0], back[:, 1]) > 2.0 * (margin_m + MARGIN_RATIO * far_m)
            still = (before == HIT) & (stood == HIT) & apart[:, None]
            back = back[((before != SEEN_THROUGH) & ~still).mean(axis=1) >= MIN_SHARE]
        if back.shape[0] == 0:
            break
    return back


def carried(sample: NDArray[np.float32], by: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a sample (S, 3) at every displacement `by` (K, 2), (K * S, 3) float32 metres."""
    places = np.empty((by.shape[0], sample.shape[0], 3), np.float32)
    places[:, :, :2] = sample[None, :, :2] + by.astype(np.float32)[:, None, :]
    places[:, :, 2] = sample[None, :, 2]
    return places.reshape(-1, 3)
