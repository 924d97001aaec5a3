"""Bodies that arrived from nowhere and went nowhere: free space carved on both sides of a moment.

A body that is born in space seen to be free moved there, and moves on. Every displacement that could have brought it
(`lidar_paths.possible_motions`) says where it must be one and two sweeps later. When each of these places is seen
through, and as many returns as before stay near the birth, no body does what was seen: a ghost (ADoPT, 3D-TC2 follow
tracks instead; here nothing has to be tracked or segmented again).

Slices of slow bodies are born too, as they step forward; their motions are small, and such births are not judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarFrame
from edgeguard.checks.lidar_paths import MARGIN_M, MARGIN_RATIO, MOST_SAMPLES, PosedFrame, carried
from edgeguard.kernels.ranges import SEEN_THROUGH, ask_sweep
from edgeguard.kernels.regions import within_reach

LEAST_MOVE_M = 1.2  # per sweep: nothing slower than 12 m/s is judged; people, cyclists and creeping cars are not
SLICE_M = 0.8  # smaller births may be slices of people, who turn and swing: they are judged from twice as much on
ONWARD_MARGIN_M, ONWARD_GROWTH_M = 0.3, 0.2  # the displacements' spacing, and it again for every sweep that follows
MIN_ONWARD_SHARE = 0.5  # of a body's points that must not be seen through where it went
LEAST_STAY, MOST_STAY = 0.5, 1.8  # returns near the birth over those born: what comes into view grows faster
STAY_M = 1.5  # three sigma of the difference of two spoofed ranges
SWEEPS = 2  # that an arrival is followed for


@dataclass(slots=True, eq=False)
class Arrival:
    """A born body and the motions that could still explain it.

    sample: (S, 3) float32 of its points, sensor frame of the birth; back: (K, 2) displacements per interval in that
    frame, to where it came from; pose: sensor to world at the birth; reference: the sweep before.
    """

    sample: NDArray[np.float32]
    back: NDArray[np.float64]
    pose: NDArray[np.float64]
    reference: PosedFrame
    stamp_ns: int
    step_ns: int
    points: int
    extent_m: float
    range_m: float
    swift: bool
    stays: int = 0

    @property
    def impossible(self) -> bool:
        """No motion explains it, and it stayed through all sweeps that it was followed for."""
        return self.swift and self.stays >= SWEEPS and self.back.shape[0] == 0

    def follow(self, frame: LidarFrame, pose: NDArray[np.float64], xyz: NDArray[np.float32]) -> bool:
        """Look again in a later sweep; False when the arrival is explained.

        frame, pose: that sweep and its sensor in the world; xyz: (N, 3) float32, its upright returns.
        """
        T = np.linalg.inv(pose) @ self.pose
        if self.back.shape[0]:
            steps = (frame.stamp_ns - self.stamp_ns) / self.step_ns
            places = carried(self.sample, -self.back * steps)
            margin_m = ONWARD_MARGIN_M + ONWARD_GROWTH_M * steps
            status, _ = ask_sweep(places, T, frame.image, margin_m, MARGIN_RATIO)
            there = (status != SEEN_THROUGH).reshape(self.back.shape[0], -1).mean(axis=1)
            # what stays near the birth is not the body, when the body has left by as much as both are long
            moved, ridden = -self.back * steps, T[:2, 3] @ T[:2, :2]
            from_birth, from_sensor = np.hypot(*moved.T), np.hypot(*(moved + ridden).T)
            near = np.minimum(from_birth, from_sensor) <= self.extent_m + STAY_M
            self.back = self.back[(there >= MIN_ONWARD_SHARE) & near]
        stay = self._near(pose, T, xyz)
        if not LEAST_STAY * self.points <= stay <= MOST_STAY * self.points:
            return False
        self.stays += 1
        return True

    def _near(self, pose: NDArray[np.float64], T: NDArray[np.float64], xyz: NDArray[np.float32]) -> int:
        """Returns near the birth, in the world or carried with the sensor, where the sweep before it saw through."""
        there = np.median(self.sample[:, :2], axis=0).astype(np.float64)
        here = T[:2, :2] @ there + T[:2, 3]
        reach_m = self.extent_m / 2 + STAY_M
        chosen = within_reach(xyz, here[0], here[1], reach_m) | within_reach(xyz, there[0], there[1], reach_m)
        near = np.ascontiguousarray(xyz[chosen])
        if near.shape[0] < LEAST_STAY * self.points:
            return 0
        status, _ = ask_sweep(
            near,
            np.linalg.inv(self.reference.T_world_sensor) @ pose,
            self.reference.frame.image,
            MARGIN_M,
            MARGIN_RATIO,
        )
        return int(np.count_nonzero(status == SEEN_THROUGH))


def arrive(
    frame: LidarFrame,
    members: NDArray[np.intp],
    motions: NDArray[np.float64],
    pose: NDArray[np.float64],
    reference: PosedFrame,
    extent_m: float,
) -> Arrival:
    """Return the arrival of a born cluster.

    members: its returns in the sweep; motions: (K, 2) of `possible_motions`; pose: sensor to world; reference: the
    sweep before.
    """
    points = frame.xyz[members]
    back = -motions @ pose[:2, :2]
    least_m = float(np.hypot(back[:, 0], back[:, 1]).min()) if back.shape[0] else np.inf
    return Arrival(
        sample=np.ascontiguousarray(points[:: max(1, points.shape[0] // MOST_SAMPLES)]),
        back=back,
        pose=pose.copy(),
        reference=reference,
        stamp_ns=frame.stamp_ns,
        step_ns=max(frame.stamp_ns - reference.frame.stamp_ns, 1),
        points=points.shape[0],
        extent_m=extent_m,
        range_m=float(np.median(np.linalg.norm(points, axis=1))),
        swift=least_m >= (LEAST_MOVE_M if extent_m >= SLICE_M else 2.0 * LEAST_MOVE_M),
    )
