"""A street that a seed describes completely: geometry, road users and the drive of the ego vehicle, at any time.

There is no state and no clock: every question names its time, in seconds since the start. The same primitives feed
camera and lidar, so their edges agree. Frames: world x east, y north, z up; the vehicle's own frame sits at the
centre of the rear axle on the ground, x forward, y left, z up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, pi

import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import ScenarioError
from edgeguard.sim.pace import MEAN_SPEED_M_S, Pace
from edgeguard.sim.primitives import Z0, Z1, PrimitiveList, Primitives, X, Y, joined
from edgeguard.sim.road import Road, make_road
from edgeguard.sim.street import add_street, add_structures
from edgeguard.sim.traffic import EGO_OFFSET_M, Traffic, draw_actors
from edgeguard.sim.weather import BRIDGE_M, CLEAR_DAY, TUNNEL_M, Conditions, Ground

MAX_DURATION_S = 600.0  # ten minutes is 8 km of street, about 12 000 primitives: still a few megabytes
MAX_REACH_M = 200.0  # beyond every sensor of the rig
_BEHIND_M = 130.0
_AHEAD_M = 160.0
_STEP_S = 2e-3  # the body moves at a few hertz, so differences over this are right to a millionth

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EgoTruth:
    """The ego vehicle at one moment. Accelerations are of the rear axle, in the vehicle's frame.

    up_m: height of the vehicle's frame over where the drive began. Roll and pitch turn about the vehicle's x and y axes
    (pitch positive: nose down), after yaw. `accel_up_m_s2` is along the vertical.
    """

    time_s: float
    east_m: float
    north_m: float
    yaw_rad: float
    speed_m_s: float
    yaw_rate_rad_s: float
    accel_forward_m_s2: float
    accel_left_m_s2: float
    curvature_1_m: float
    up_m: float = 0.0
    roll_rad: float = 0.0
    pitch_rad: float = 0.0
    roll_rate_rad_s: float = 0.0
    pitch_rate_rad_s: float = 0.0
    accel_up_m_s2: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """How the ego vehicle moves at N moments: (N,) arrays, of the same meaning as in `EgoTruth`."""

    speed_m_s: Floats
    yaw_rate_rad_s: Floats
    accel_forward_m_s2: Floats
    accel_left_m_s2: Floats
    accel_up_m_s2: Floats
    roll_rad: Floats
    pitch_rad: Floats
    roll_rate_rad_s: Floats
    pitch_rate_rad_s: Floats


@dataclass(frozen=True, slots=True)
class WorldObject:
    """A labelled road user. `size_m` is full length, width, height; (x, y) is the middle of its footprint."""

    number: int
    label: str
    x_m: float
    y_m: float
    yaw_rad: float
    speed_m_s: float
    size_m: tuple[float, float, float]


class World:
    """One street and one drive.

    Args:
        seed: any non-negative integer; equal seeds give equal worlds.
        duration_s: how long the ego vehicle drives; times outside 0..duration_s are refused.
        conditions: weather, light, ground and structures; a clear day on a flat street without.

    Raises:
        ScenarioError: EG-X001 when the duration is not in 1..600 s.
    """

    def __init__(self, seed: int, duration_s: float = 60.0, conditions: Conditions = CLEAR_DAY) -> None:
        if not 1.0 <= duration_s <= MAX_DURATION_S:
            raise ScenarioError(
                f"a world lasts 1 to {MAX_DURATION_S:.0f} seconds, not {duration_s:g}",
                code="EG-X001",
                hint="choose a shorter duration",
            )
        self.seed, self.conditions = seed, conditions
        self.duration_s = duration_s
        rng = np.random.default_rng([seed, 0x77])
        self._pace = Pace((float(rng.uniform(0, 2 * pi)), float(rng.uniform(0, 2 * pi))), conditions.queue)
        self.sun_azimuth_rad = float(rng.uniform(-pi, pi))
        self.sun_elevation_rad = float(rng.uniform(0.65, 1.0))
        self.exposure = float(rng.uniform(0.92, 1.12))
        end_m = self._pace.progress(duration_s + 6.0) + _AHEAD_M
        self.road: Road = make_road(rng, -_BEHIND_M, float(np.ceil(end_m)))
        scenery = PrimitiveList()
        self.ground = Ground(conditions, seed, MEAN_SPEED_M_S)
        if conditions.low_sun:  # ahead, ten degrees aside, seven above the horizon
            self.sun_azimuth_rad = self.road.heading(self._pace.progress(duration_s / 2)) + 0.17
            self.sun_elevation_rad = 0.12
        add_street(scenery, self.road, rng, keep_clear=TUNNEL_M if conditions.tunnel else None)
        add_structures(scenery, self.road, conditions)
        extra = np.random.default_rng([seed, 0x3A5])
        still, moving = draw_actors(rng, extra, self.road, self._pace, conditions, duration_s)
        self._still = Traffic(still, self.road, self._pace, 0)
        self._moving = Traffic(moving, self.road, self._pace, len(still))
        self._static = self._lifted(joined(scenery.arrays(), self._still.primitives(0.0)))

    # ---- the drive -------------------------------------------------------------------------------------------

    def ego(self, time_s: float) -> EgoTruth:
        """Return where the ego vehicle is and how it moves.

        Raises:
            ScenarioError: EG-X002 when `time_s` is outside the drive.
        """
        self._require(time_s)
        return self._drive(time_s)

    def arc_of_ego(self, time_s: float) -> float:
        """Return how far along the centreline the ego vehicle is, metres."""
        return self._pace.progress(time_s)

    def _drive(self, time_s: float) -> EgoTruth:
        s, u, du = self._pace.progress(time_s), self._pace.rate(time_s), self._pace.rate_change(time_s)
        x, y, yaw = self.road.place(s, EGO_OFFSET_M)
        kappa, dkappa = self.road.curvature(s), self.road.curvature_rate(s)
        shrink = 1.0 - kappa * EGO_OFFSET_M
        speed, yaw_rate = u * shrink, kappa * u
        forward = du * shrink - u * u * dkappa * EGO_OFFSET_M
        truth = EgoTruth(time_s, x, y, yaw, speed, yaw_rate, forward, speed * yaw_rate, kappa / shrink)
        if self.ground.flat and self.ground.smooth:
            return truth
        up, roll, pitch = self._body(np.array([time_s - _STEP_S, time_s, time_s + _STEP_S])).tolist()
        return replace(
            truth,
            up_m=up[1],
            roll_rad=roll[1],
            pitch_rad=pitch[1],
            roll_rate_rad_s=(roll[2] - roll[0]) / (2 * _STEP_S),
            pitch_rate_rad_s=(pitch[2] - pitch[0]) / (2 * _STEP_S),
            accel_up_m_s2=(up[2] - 2 * up[1] + up[0]) / (_STEP_S * _STEP_S),
        )

    def motion(self, times_s: Floats) -> Motion:
        """Return how the ego vehicle moves at (N,) times within the drive, as `ego` does at one."""
        s, u, du = self._pace.at(times_s)
        kappa, dkappa = self.road.bends(s)
        shrink = 1.0 - kappa * EGO_OFFSET_M
        speed, yaw_rate = u * shrink, kappa * u
        forward = du * shrink - u * u * dkappa * EGO_OFFSET_M
        none = np.zeros_like(s)
        if self.ground.flat and self.ground.smooth:
            return Motion(speed, yaw_rate, forward, speed * yaw_rate, none, none, none, none, none)
        before, now, after = (self._body(times_s + step) for step in (-_STEP_S, 0.0, _STEP_S))
        rates = (after - before) / (2 * _STEP_S)
        lift = (after[0] - 2 * now[0] + before[0]) / (_STEP_S * _STEP_S)
        return Motion(speed, yaw_rate, forward, speed * yaw_rate, lift, now[1], now[2], rates[1], rates[2])

    def _body(self, times_s: Floats) -> Floats:
        """Return (3, N) height, roll and pitch of the vehicle's body: the slope it stands on, and its springs."""
        s = self._pace.at(times_s)[0]
        x, y, yaw = self.road.places(s, np.full_like(s, EGO_OFFSET_M))
        heave, pitch, roll = self.ground.shake(s)
        east, north = self.ground.slope(x, y)
        c, sine = np.cos(yaw), np.sin(yaw)
        ahead, left = east * c + north * sine, north * c - east * sine
        return np.stack([self.ground.height(x, y) + heave, np.arctan(left) + roll, pitch - np.arctan(ahead)])

    def _require(self, time_s: float) -> None:
        if not 0.0 <= time_s <= self.duration_s:
            raise ScenarioError(
                f"time {time_s:g} s is outside the drive of {self.duration_s:g} s",
                code="EG-X002",
                hint="make the world with a longer duration",
            )

    # ---- what is around it -----------------------------------------------------------------------------------

    def objects(self, time_s: float) -> tuple[WorldObject, ...]:
        """Return every labelled road user on the street; `number` is what id buffers and boxes refer to."""
        self._require(time_s)
        found: list[WorldObject] = []
        first = 0
        for group in (self._still, self._moving):
            at = group.places(time_s)
            for k in np.flatnonzero(at.on_road).tolist():
                look, x, y, yaw = group.actors[k].look, float(at.x_m[k]), float(at.y_m[k]), float(at.yaw_rad[k])
                found.append(WorldObject(first + k, look.label, x, y, yaw, float(at.speed_m_s[k]), look.size_m))
            first += len(group.actors)
        return tuple(found)

    def primitives(self, time_s: float, reach_m: float = MAX_REACH_M) -> Primitives:
        """Return the solids in the world frame at `time_s`; object numbers as in `objects`.

        Moving road users further from the ego vehicle than `reach_m` are left out.
        """
        self._require(time_s)
        ego_m = self._pace.progress(time_s)
        moving = self._moving.primitives(time_s, (ego_m - reach_m, ego_m + reach_m))
        return joined(self._static, self._lifted(moving))

    def _lifted(self, found: Primitives) -> Primitives:
        """Stand primitives on the ground; scenery's feet go a little into it, so that no gap shows on a slope."""
        if not self.ground.flat:
            rise = self.ground.height(found.values[:, X], found.values[:, Y])
            found.values[:, Z0] += rise
            found.values[:, Z1] += rise
        return found

    def fixed(self, material: int) -> NDArray[np.float64]:
        """Return the rows of `Primitives.values` of all scenery of one material."""
        return np.asarray(self._static.values[self._static.codes[:, 1] == material])

    def daylight_share(self, s_m: float) -> float:
        """Return how bright the street is at arc length `s_m`, as a share of outside: less in the tunnel."""
        if not self.conditions.tunnel:
            return 1.0
        depth = min(s_m - TUNNEL_M[0], TUNNEL_M[1] - s_m)
        return 1.0 if depth < 0.0 else 0.03 + 0.97 * exp(-depth / 6.0)

    def sky_share(self, time_s: float) -> float:
        """Return which share of the sky a GNSS antenna sees: none in a tunnel, half under a bridge."""
        s = self._pace.progress(time_s)
        if self.conditions.tunnel and TUNNEL_M[0] + 2.0 < s < TUNNEL_M[1] - 2.0:
            return 0.0
        if self.conditions.bridge and BRIDGE_M[0] < s < BRIDGE_M[1]:
            return 0.45
        return 1.0

    def label_of(self, number: int) -> str:
        """Return the label of the road user with this object number."""
        return (*self._still.actors, *self._moving.actors)[number].look.label
