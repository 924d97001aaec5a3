"""A tracked object's sightings, and what each of them says for and against its being real.

Terms are log-likelihood ratios, ghost against solid body, each clipped so that one odd measurement decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.lidar_evidence import LidarFrame
from edgeguard.checks.lidar_paths import PosedFrame
from edgeguard.clock import NS_PER_S
from edgeguard.kernels.ranges import COLUMNS
from edgeguard.kernels.regions import count_behind

JITTER_SD_M = 0.86  # sqrt(6) * 0.35: second difference of the measured injection jitter
GENUINE_SD_M = 0.18  # 10 m/s^2 over 0.1 s, and 6 cm of what changing visibility does to a median range
MOTION_SD_M = 0.4
MAX_ACCELERATION_M_S2 = 10.0
MIN_FREE = 0.6  # of a sighting's points: what stays where it appeared stays in the space that was seen to be free
OUTLINE_M = 0.1  # what beam spacing does to the quantiles of an outline
MAX_STAY_M = 1.5  # three sigma of the difference of two spoofed ranges, for world- and sensor-fixed ghosts
MOTION_CAPS = (0.0, 4.0, 9.0)  # after 0, 1, 2 or more sweeps of following
MIN_LIKENESS = 0.55  # of points and outline between birth and now: what comes into view piece by piece grows faster
NOWHERE_BONUS = 1.5  # no possible past at all: the contradiction does not rest on how the object was followed
ROUGH_GENUINE_M, ROUGH_GENUINE_LN = 0.02, 0.6
ROUGH_GHOST_M, ROUGH_GHOST_LN = 0.10, 0.35
ROUGH_NEUTRAL_M = 0.2  # foliage and nets: rougher than either model, so the term abstains
MIN_TRIPLES = 12
SOLID_ROUGHNESS_M = 0.045  # painted, glazed and clothed surfaces measure 0.01 to 0.03
OPAQUE_PENETRATION = 0.8  # genuine clusters: 95 % below 0.57
RECENT = 7  # sightings that the surface is judged by: a track that goes on to a real body forgets the ghost in four
MAX_JITTER_LLR = 6.5  # a long ghost must not outweigh the seconds after it
MAX_SWERVE_M = 0.35  # spoofed jitter is in range only; a change across the beam means that another body was followed


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """One look at a tracked cluster.

    xy_m, local_m: world- and sensor-frame median; across: unit vector across the beam, world frame; near_m, mid_m:
    range quantiles in the sensor frame; outline_m: (S, 2) world places of some of its points;
    free: share of its points where the sweep
    before the birth saw through.
    """

    stamp_ns: int
    points: int
    xy_m: NDArray[np.float64]
    local_m: NDArray[np.float64]
    across: NDArray[np.float64]
    near_m: float
    mid_m: float
    roughness_m: float
    penetration: float
    outline_m: NDArray[np.float64]
    free: float


@dataclass(slots=True, eq=False)
class Track:
    """A born cluster and what speaks for and against its being real.

    motions: (K, 2) possible displacements per `step_ns`, world frame.
    """

    reference: PosedFrame
    motions: NDArray[np.float64]
    step_ns: int
    extent_m: float
    sightings: list[Sighting] = field(default_factory=list)
    motion_llr: float = 0.0
    jitter_llr: float = 0.0
    stays: int = 0
    explained: bool = False
    misses: int = 0
    age: int = 0
    over: int = 0

    @property
    def roughness_m(self) -> float:
        rough = [s.roughness_m for s in self.sightings[-RECENT:] if np.isfinite(s.roughness_m)]
        return float(np.median(rough)) if rough else float("nan")

    @property
    def penetration(self) -> float:
        return float(np.median([s.penetration for s in self.sightings[-RECENT:]]))

    @property
    def llr(self) -> float:
        surface = roughness_llr(self.roughness_m) + 1.5 * max(0.0, self.penetration - 0.7) / 0.3
        return self.motion_llr + self.jitter_llr + surface

    def weigh(self, sighting: Sighting, carried: NDArray[np.float64]) -> None:
        """Add one sighting and the evidence it brings. carried: the last one, had it moved with the sensor."""
        past = self.sightings
        past.append(sighting)
        moved = sighting.xy_m - past[-2].xy_m
        stays_m = min(float(np.hypot(*moved)), float(np.hypot(*(sighting.xy_m - carried))))
        swerve_m = min(abs(float(np.dot(d, past[-2].across))) for d in (moved, sighting.xy_m - carried))
        turned = swerve_m > MAX_SWERVE_M + 0.1 * self.extent_m
        if turned or stays_m > MAX_STAY_M or self._likeness(sighting) < MIN_LIKENESS or sighting.free < MIN_FREE:
            self.explained = True  # it moved on, or grew, or came from where nothing was known: a body comes into view
            return
        self.stays += 1
        misfit_m = self._misfit(sighting)
        llr = motion_llr(misfit_m, self.stays)
        if self.motions.shape[0] == 0:
            llr += NOWHERE_BONUS
        self.motion_llr = llr
        if len(past) >= 3:
            self._add_jitter(*past[-3:])

    def _likeness(self, sighting: Sighting) -> float:
        """Least ratio, 0..1, of points and of outlines between the birth and now."""
        first = self.sightings[0]
        sizes = []
        for seen in (first, sighting):
            away = seen.outline_m - seen.xy_m
            sizes.append((float(seen.points), 0.2 + float(np.quantile(np.hypot(away[:, 0], away[:, 1]), 0.9))))
        return float(min(min(a / b, b / a) for a, b in zip(*sizes, strict=True)))

    def _misfit(self, sighting: Sighting) -> float:
        """Distance in metres from what the object did since its birth to the nearest of its possible motions."""
        if self.motions.shape[0] == 0:
            return np.inf
        first = self.sightings[0]
        elapsed_ns = sighting.stamp_ns - first.stamp_ns
        axes = np.stack((np.array((first.across[1], -first.across[0])), first.across), axis=1)
        edges = [np.quantile(s.outline_m @ axes, (0.1, 0.5, 0.9), axis=0) for s in (first, sighting)]
        change = edges[1] - edges[0]  # of each edge: what comes into view moves one edge and not the other
        slack_m = OUTLINE_M + 0.5 * MAX_ACCELERATION_M_S2 * (elapsed_ns / NS_PER_S) ** 2
        expected = self.motions @ axes * (elapsed_ns / self.step_ns)
        low, high = change.min(axis=0) - slack_m, change.max(axis=0) + slack_m
        gap = np.maximum(np.maximum(expected - high, low - expected), 0.0)
        return float(np.hypot(gap[:, 0], gap[:, 1]).min())

    def _add_jitter(self, a: Sighting, b: Sighting, c: Sighting) -> None:
        first_s, second_s = b.stamp_ns - a.stamp_ns, c.stamp_ns - b.stamp_ns
        if not 0.6 < second_s / first_s < 1.6:
            return  # a missed sweep in between: not a second difference
        near = c.near_m - 2.0 * b.near_m + a.near_m
        mid = c.mid_m - 2.0 * b.mid_m + a.mid_m
        swerve = c.xy_m - 2.0 * b.xy_m + a.xy_m
        if abs(float(np.dot(swerve, c.across))) > MAX_SWERVE_M or not 0.4 < c.points / b.points < 2.5:
            return
        # what moves both quantiles moves the object; what moves one moves only what is visible of it
        self.jitter_llr = min(self.jitter_llr + jitter_llr(min(abs(near), abs(mid))), MAX_JITTER_LLR)


def sight(
    frame: LidarFrame,
    members: NDArray[np.intp],
    pose: NDArray[np.float64],
    free: float,
) -> Sighting:
    """Return one look at the points `members` of a sweep taken at `pose`, (4, 4) sensor to world.

    free: as in `Sighting`.
    """
    points = frame.xyz[members]
    near_m, mid_m = np.quantile(frame.range_m[members], (0.15, 0.5))
    centre = np.median(points[:, :2], axis=0)
    some = points[:: max(1, members.size // 200), :2].astype(np.float64)
    return Sighting(
        stamp_ns=frame.stamp_ns,
        points=members.size,
        xy_m=pose[:2, :2] @ centre + pose[:2, 3],
        local_m=centre.astype(np.float64),
        across=pose[:2, :2] @ np.array([-centre[1], centre[0]]) / max(float(np.hypot(*centre)), 1e-6),
        near_m=float(near_m),
        mid_m=float(mid_m),
        roughness_m=_roughness(points, frame.range_m[members]),
        penetration=_penetration(frame, members),
        outline_m=some @ pose[:2, :2].T + pose[:2, 3],
        free=free,
    )


def roughness_llr(sigma_m: float) -> float:
    """Log-likelihood ratio, ghost against solid surface, of a range noise between neighbouring beams."""
    if not sigma_m <= ROUGH_NEUTRAL_M:
        return 0.0
    value = np.log(max(sigma_m, 1e-3))
    ghost = -0.5 * ((value - np.log(ROUGH_GHOST_M)) / ROUGH_GHOST_LN) ** 2 - np.log(ROUGH_GHOST_LN)
    solid = -0.5 * ((value - np.log(ROUGH_GENUINE_M)) / ROUGH_GENUINE_LN) ** 2 - np.log(ROUGH_GENUINE_LN)
    return float(np.clip(ghost - solid, -2.5, 3.0))


def jitter_llr(second_difference_m: float) -> float:
    """Log-likelihood ratio of one second difference of range; three sweeps share noise, hence the factor."""
    q = second_difference_m**2
    llr = np.log(GENUINE_SD_M / JITTER_SD_M) + 0.5 * q * (1.0 / GENUINE_SD_M**2 - 1.0 / JITTER_SD_M**2)
    return float(np.clip(0.8 * llr, -1.2, 2.0))


def motion_llr(contradiction_m: float, sweeps: int) -> float:
    """Log-likelihood ratio of the distance between the observed and the nearest possible displacement."""
    cap = MOTION_CAPS[min(sweeps, len(MOTION_CAPS) - 1)]
    return float(np.clip(0.5 * (contradiction_m / MOTION_SD_M) ** 2 - 1.0, -2.0, cap))


def _roughness(points: NDArray[np.float32], range_m: NDArray[np.float32]) -> float:
    """Range noise sigma in metres from second differences of neighbouring beams; NaN with too few of them.

    Neighbours are consecutive in the cloud's order and within the angles that neighbours have, so that clouds in
    ring order and in firing order both work and shuffled clouds abstain.
    """
    az = np.arctan2(points[:, 1], points[:, 0])
    el = np.arcsin(np.clip(points[:, 2] / range_m, -1.0, 1.0))
    step = (np.abs(np.diff(az)) < np.radians(1.2)) & (np.abs(np.diff(el)) < np.radians(0.7))
    triple = step[:-1] & step[1:]
    if np.count_nonzero(triple) < MIN_TRIPLES:
        return float("nan")
    second = np.abs(range_m[2:] - 2.0 * range_m[1:-1] + range_m[:-2])[triple]
    return float(np.median(second) / (0.6745 * np.sqrt(6.0)))


def _penetration(frame: LidarFrame, members: NDArray[np.intp]) -> float:
    """Share of the returns within the cluster's inner angular box that come from well behind it."""
    row, col = frame.row[members].astype(np.int64), frame.col[members].astype(np.int64)
    shift = int(col[0]) - 450
    col = (col - shift) % COLUMNS  # away from the seam
    low_row, high_row = np.quantile(row, (0.1, 0.9))
    low_col, high_col = np.quantile(col, (0.1, 0.9))
    window = np.array((low_row, high_row, low_col, high_col), dtype=np.float64)
    beyond_m = float(np.quantile(frame.range_m[members], 0.95) + 1.0)
    inside, behind = count_behind(frame.row, frame.col, frame.range_m, shift, COLUMNS, window, beyond_m)
    return float(behind / max(inside, 1))
