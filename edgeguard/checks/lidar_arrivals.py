"""Bodies that arrived from nowhere and went nowhere: free space carved on both sides of a moment.

A body that is born in space seen to be free moved there, and moves on. Every displacement that could have brought it
(`lidar_paths.possible_origins`) says where it must be one and two sweeps later. When each of these places is seen
through, no body does what was seen (ADoPT, 3D-TC2 follow tracks instead; here nothing is tracked or segmented again).
Errors of ego-motion and the slices by which people and cars step forward leave now and then no motion either. That
is why the surface is heard as well: injected returns are rough or porous (`lidar_sightings`), and what has neither
must have come at speed and stay for two sweeps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarFrame
from edgeguard.checks.lidar_paths import MARGIN_RATIO, MOST_SAMPLES, PosedFrame, carried, inverse, possible_origins
from edgeguard.checks.lidar_sightings import (
    MAX_ROUGH_LLR,
    jitter_llr,
    penetration,
    penetration_llr,
    roughness,
    roughness_llr,
)
from edgeguard.kernels.ranges import SEEN_THROUGH, Surroundings, ask_surroundings
from edgeguard.kernels.sweeps import choose_near

BIRTH_MARGIN_M, BIRTH_MARGIN_RATIO = 0.3, 0.015  # ego-motion error and footprint; nearer to a surface it is of it
SMOOTH_POINTS = 60  # of a smooth body, of which only the path speaks: the share of it that is hidden is then known
LEAST_MOVE_M = 1.2  # per sweep: of smooth bodies nothing slower than 12 m/s is judged, nor a slice of anything slower
SLICE_M = 0.8  # smaller births may be slices of people, who turn and swing
ONWARD_MARGIN_M, ONWARD_GROWTH_M = 0.3, 0.2  # the displacements' spacing, and it again for every sweep that follows
MIN_ONWARD_SHARE = 0.5  # of a body's points that must not be seen through where it went
LEAST_STAY, MOST_STAY = 0.5, 1.8  # returns near the birth over those born: what comes into view grows faster
STAY_M = 1.5  # three sigma of the difference of two spoofed ranges
SWEEPS = 2  # that an arrival is followed for
NOWHERE_LLR = 4.0  # of no motion left: one in fifty of the clean births that leave none, for odds of one to one
STAYS_LLR = 1.0  # of as many returns still being there a sweep later
ROUGH_LLR, ROUGH_POINTS = 2.0, 60  # at most, for each sweep in which so many returns were rough
SWERVE_M = 0.35  # spoofed jitter is in range only; a change across the beam means that another body was followed


@dataclass(slots=True, eq=False)
class Arrival:
    """A born body and the motions that could still explain it.

    sample: (S, 3) float32 of its points, sensor frame of the birth; back: (K, 2) displacements per interval in that
    frame, to where it came from; least_m: the shortest of them at the birth; pose: sensor to world at the birth;
    reference: the sweep before; frame, members: the sweep of the birth and its returns in it; rough_m, places_m: of the
    birth and each sweep that the returns stayed for; sweeps: followed for; stays: in how many of them as many returns
    were near.
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
    least_m: float
    frame: LidarFrame
    members: NDArray[np.int32]
    rough_m: list[float]
    places_m: list[tuple[float, float]] = field(default_factory=list)
    sweeps: int = 0
    stays: int = 0
    _porous: float = -1.0

    @property
    def nowhere(self) -> bool:
        """No motion explains it, and it is no slice: those are as wide as their body steps; people turn and swing."""
        large = self.extent_m >= LEAST_MOVE_M or self.least_m >= 2.0 * LEAST_MOVE_M
        large = large or (self.extent_m >= SLICE_M and self.stays > 0)
        return self.sweeps > 0 and self.back.shape[0] == 0 and large

    @property
    def impossible(self) -> bool:
        """No motion explains it although it must have been fast, and it stayed for all sweeps it was followed for."""
        swift = min(self.least_m, self.extent_m) >= LEAST_MOVE_M
        return self.nowhere and swift and self.stays >= SWEEPS and self.points >= SMOOTH_POINTS

    @property
    def stuck(self) -> bool:
        """It is too large for a slice, so it was fast, and yet it stayed for all sweeps it was followed for."""
        return self.extent_m >= LEAST_MOVE_M and self.stays >= SWEEPS

    @property
    def llr(self) -> float:
        """Log-likelihood ratio, ghost against body; 0 while nothing speaks against its having moved here."""
        if not (self.nowhere or self.stuck):
            return 0.0
        most = ROUGH_LLR * min(1.0, self.points / ROUGH_POINTS)
        rough = sum(min(roughness_llr(r), most) for r in self.rough_m)
        surface = min(max(rough, -MAX_ROUGH_LLR), MAX_ROUGH_LLR) + penetration_llr(self.porous)
        path = NOWHERE_LLR if self.nowhere else 0.0
        if surface <= 0.0:
            return path + surface
        return path + STAYS_LLR * self.stays + surface + self._jitter_llr()

    @property
    def porous(self) -> float:
        """Share of returns from behind through it, at its birth; worked out when first asked for."""
        if self._porous < 0.0:
            self._porous = penetration(self.frame, self.members)
        return self._porous

    def _jitter_llr(self) -> float:
        if len(self.places_m) < 3 or self.stays < SWEEPS:
            return 0.0
        range_m, across_m = np.diff(np.array(self.places_m), n=2, axis=0)[-1]
        return jitter_llr(abs(float(range_m))) if abs(float(across_m)) < SWERVE_M else 0.0

    def follow(
        self, frame: LidarFrame, around: Surroundings, pose: NDArray[np.float64], xyz: NDArray[np.float32],
        range_m: NDArray[np.float32],
    ) -> None:  # fmt: skip
        """Look again in a later sweep.

        frame, around, pose: that sweep, what is around its cells, and its sensor in the world; xyz (N, 3), range_m
        (N,) float32: its upright returns.
        """
        self.sweeps += 1
        T = inverse(pose) @ self.pose
        self._carry_on(frame, around, T)
        near = self._near(pose, T, xyz)
        if LEAST_STAY * self.points <= near.size <= MOST_STAY * self.points:
            self.stays += 1
            self.rough_m.append(roughness(xyz[near], range_m[near]))
            self.places_m.append(place_of(xyz[near], range_m[near]))

    def _carry_on(self, frame: LidarFrame, around: Surroundings, T: NDArray[np.float64]) -> None:
        """Drop the motions that would have taken the body to where this sweep sees emptiness, or out of its own way."""
        if self.back.shape[0] == 0:
            return
        steps = (frame.stamp_ns - self.stamp_ns) / self.step_ns
        moved, ridden = -self.back * steps, T[:2, 3] @ T[:2, :2]
        status = ask_surroundings(
            carried(self.sample, moved), T, around, ONWARD_MARGIN_M + ONWARD_GROWTH_M * steps, MARGIN_RATIO
        )
        there = (status != SEEN_THROUGH).reshape(self.back.shape[0], -1).mean(axis=1)
        # what stays near the birth is not the body, when the body has left by as much as both are long
        from_birth, from_sensor = np.hypot(*moved.T), np.hypot(*(moved + ridden).T)
        near = np.minimum(from_birth, from_sensor) <= self.extent_m + STAY_M
        self.back = self.back[(there >= MIN_ONWARD_SHARE) & near]

    def _near(self, pose: NDArray[np.float64], T: NDArray[np.float64], xyz: NDArray[np.float32]) -> NDArray[np.int32]:
        """Returns near the birth, in the world or carried with the sensor, where the sweep before it saw through."""
        there = np.array((middle(self.sample[:, 0]), middle(self.sample[:, 1])))
        here = T[:2, :2] @ there + T[:2, 3]
        reach_m = self.extent_m / 2 + STAY_M
        near = choose_near(xyz, (here[0], here[1]), (there[0], there[1]), reach_m).copy()
        if near.size < LEAST_STAY * self.points:
            return near[:0]
        T_ref = self.reference.T_sensor_world @ pose
        status = ask_surroundings(
            np.ascontiguousarray(xyz[near]), T_ref, self.reference.around, BIRTH_MARGIN_M, BIRTH_MARGIN_RATIO
        )
        found: NDArray[np.int32] = near[status == SEEN_THROUGH]
        return found


def middle(values: NDArray[np.float32]) -> float:
    """Median, the upper one of two."""
    return float(np.partition(values, values.shape[0] // 2)[values.shape[0] // 2])


def place_of(points: NDArray[np.float32], range_m: NDArray[np.float32]) -> tuple[float, float]:
    """Median range, and how far aside of the x axis in metres of arc, of some points."""
    mid_m = middle(range_m)
    return mid_m, float(np.arctan2(middle(points[:, 1]), middle(points[:, 0]))) * mid_m


def arrive(
    frame: LidarFrame,
    members: NDArray[np.int32],
    pose: NDArray[np.float64],
    past: tuple[PosedFrame, ...],
    extent_m: float,
    rough_m: float,
) -> Arrival:
    """Return the arrival of a born cluster.

    members: its returns in the sweep; pose: sensor to world; past: earlier sweeps, newest first; extent_m: its size;
    rough_m: of `roughness`.
    """
    points, range_m = frame.xyz[members], frame.range_m[members]
    sample = np.ascontiguousarray(points[:: max(1, points.shape[0] // MOST_SAMPLES)])
    back = possible_origins(frame, sample, pose, past)
    least_m = float(np.hypot(back[:, 0], back[:, 1]).min()) if back.shape[0] else np.inf
    place = place_of(points, range_m)
    return Arrival(
        sample=sample,
        back=back,
        pose=pose.copy(),
        reference=past[0],
        stamp_ns=frame.stamp_ns,
        step_ns=max(frame.stamp_ns - past[0].frame.stamp_ns, 1),
        points=points.shape[0],
        extent_m=extent_m,
        range_m=place[0],
        least_m=least_m,
        frame=frame,
        members=members,
        rough_m=[rough_m],
        places_m=[place],
    )
