"""A street that a seed describes completely: geometry, road users and the drive of the ego vehicle, at any time.

There is no state and no clock: every question names its time, in seconds since the start. The same primitives feed
camera and lidar, so their edges agree. Frames: world x east, y north, z up; the vehicle's own frame sits at the
centre of the rear axle on the ground, x forward, y left, z up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import atan, cos, exp, pi, sin

import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import ScenarioError
from edgeguard.sim.actors import BARRIER, CAR, CYCLIST, PEDESTRIAN, Look, add_actor, draw_look
from edgeguard.sim.primitives import Z0, Z1, PrimitiveList, Primitives, X, Y, joined
from edgeguard.sim.road import Road, make_road
from edgeguard.sim.street import add_street, add_structures
from edgeguard.sim.weather import BRIDGE_M, CLEAR_DAY, TUNNEL_M, Conditions, Ground, queue_time

EGO_OFFSET_M = -1.75  # right-hand traffic: the middle of the right lane
MAX_DURATION_S = 600.0  # ten minutes is 8 km of street, about 12 000 primitives: still a few megabytes
MAX_REACH_M = 200.0  # beyond every sensor of the rig
_BEHIND_M = 130.0
_AHEAD_M = 160.0
_MEAN_SPEED_M_S = 9.5
_WALK_M_S = 1.6
_SPEED_WAVES = ((2.9, 19.0), (1.4, 8.7))  # m/s and seconds: 5.2 to 13.8 m/s, at most 2 m/s^2


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


@dataclass(frozen=True, slots=True)
class _Actor:
    """A road user on rails: arc length s0 + v*t (or the ego's own drive, `lead_s` seconds ahead of it).

    One who crosses stands at the kerb until `crosses_at_s` and then walks straight over.
    """

    look: Look
    s0_m: float
    offset_m: float
    speed_m_s: float
    turned: bool
    phase_rad: float
    lead_s: float = 0.0
    crosses_at_s: float | None = None


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
        self._phases = (float(rng.uniform(0, 2 * pi)), float(rng.uniform(0, 2 * pi)))
        self.sun_azimuth_rad = float(rng.uniform(-pi, pi))
        self.sun_elevation_rad = float(rng.uniform(0.65, 1.0))
        self.exposure = float(rng.uniform(0.92, 1.12))
        end_m = self._progress(duration_s + 6.0) + _AHEAD_M
        self.road: Road = make_road(rng, -_BEHIND_M, float(np.ceil(end_m)))
        scenery = PrimitiveList()
        self.ground = Ground(conditions, seed, _MEAN_SPEED_M_S)
        if conditions.low_sun:  # ahead, ten degrees aside, seven above the horizon
            self.sun_azimuth_rad = self.road.heading(self._progress(duration_s / 2)) + 0.17
            self.sun_elevation_rad = 0.12
        add_street(scenery, self.road, rng, keep_clear=TUNNEL_M if conditions.tunnel else None)
        add_structures(scenery, self.road, conditions)
        self._still, self._moving = self._draw_actors(rng)
        for number, actor in enumerate(self._still):
            add_actor(scenery, actor.look, self._pose(actor, 0.0), actor.phase_rad, number)
        self._static = self._lifted(scenery.arrays())

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
        return self._progress(time_s)

    def _drive(self, time_s: float) -> EgoTruth:
        s, u, du = self._progress(time_s), self._rate(time_s), self._rate_change(time_s)
        x, y, yaw = self.road.place(s, EGO_OFFSET_M)
        kappa, dkappa = self.road.curvature(s), self.road.curvature_rate(s)
        shrink = 1.0 - kappa * EGO_OFFSET_M
        speed, yaw_rate = u * shrink, kappa * u
        forward = du * shrink - u * u * dkappa * EGO_OFFSET_M
        truth = EgoTruth(time_s, x, y, yaw, speed, yaw_rate, forward, speed * yaw_rate, kappa / shrink)
        if self.ground.flat and self.ground.smooth:
            return truth
        up, roll, pitch = self._body(time_s)
        h = 2e-3  # seconds; the body moves at a few hertz, so differences are right to a millionth
        before, after = self._body(time_s - h), self._body(time_s + h)
        return replace(
            truth,
            up_m=up,
            roll_rad=roll,
            pitch_rad=pitch,
            roll_rate_rad_s=(after[1] - before[1]) / (2 * h),
            pitch_rate_rad_s=(after[2] - before[2]) / (2 * h),
            accel_up_m_s2=(after[0] - 2 * up + before[0]) / (h * h),
        )

    def _body(self, time_s: float) -> tuple[float, float, float]:
        """Return height, roll and pitch of the vehicle's body: the slope it stands on, and its springs."""
        s = self._progress(time_s)
        x, y, yaw = self.road.place(s, EGO_OFFSET_M)
        heave, pitch, roll = self.ground.shake(s)
        east, north = self.ground.slope(x, y)
        ahead, left = east * cos(yaw) + north * sin(yaw), north * cos(yaw) - east * sin(yaw)
        rise = float(self.ground.height(np.float64(x), np.float64(y)))  # type: ignore[arg-type]
        return rise + heave, atan(left) + roll, pitch - atan(ahead)

    def _progress(self, t: float, ahead_s: float = 0.0) -> float:
        """Return the arc length at `t` of who drives as the ego does, `ahead_s` seconds before it."""
        t = self._pace(t)[0] + ahead_s
        total = _MEAN_SPEED_M_S * t
        for (amplitude, period), phase in zip(_SPEED_WAVES, self._phases, strict=True):
            w = 2 * pi / period
            total -= amplitude / w * (cos(w * t + phase) - cos(phase))
        return total

    def _rate(self, t: float, ahead_s: float = 0.0) -> float:
        t, pace, _ = self._pace(t)
        return pace * self._free_rate(t + ahead_s)

    def _rate_change(self, t: float) -> float:
        t, pace, change = self._pace(t)
        waves = zip(_SPEED_WAVES, self._phases, strict=True)
        free = sum(a * 2 * pi / period * cos(2 * pi / period * t + phase) for (a, period), phase in waves)
        return pace * pace * free + change * self._free_rate(t)

    def _free_rate(self, t: float) -> float:
        waves = zip(_SPEED_WAVES, self._phases, strict=True)
        return _MEAN_SPEED_M_S + sum(a * sin(2 * pi / period * t + phase) for (a, period), phase in waves)

    def _pace(self, t: float) -> tuple[float, float, float]:
        return queue_time(t) if self.conditions.queue else (t, 1.0, 0.0)

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
        found = []
        for number, actor in enumerate((*self._still, *self._moving)):
            if not self._on_road(actor, time_s):
                continue
            x, y, yaw = self._pose(actor, time_s)
            found.append(
                WorldObject(number, actor.look.label, x, y, yaw, self._speed(actor, time_s), actor.look.size_m)
            )
        return tuple(found)

    def primitives(self, time_s: float, reach_m: float = MAX_REACH_M) -> Primitives:
        """Return the solids in the world frame at `time_s`; object numbers as in `objects`.

        Moving road users further from the ego vehicle than `reach_m` are left out.
        """
        self._require(time_s)
        ego_s = self._progress(time_s)
        moving = PrimitiveList()
        speeds: list[tuple[float, float]] = []
        for index, actor in enumerate(self._moving):
            if not self._on_road(actor, time_s) or abs(self._arc(actor, time_s) - ego_s) > reach_m:
                continue
            stride = actor.phase_rad + 2.2 * abs(actor.speed_m_s) * time_s
            pose = self._pose(actor, time_s)
            add_actor(moving, actor.look, pose, stride, len(self._still) + index)
            speed = self._speed(actor, time_s)
            speeds += [(speed * cos(pose[2]), speed * sin(pose[2]))] * (len(moving.rows) - len(speeds))
        found = self._lifted(moving.arrays())
        return joined(self._static, Primitives(found.values, found.codes, np.array(speeds).reshape(-1, 2)))

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
        s = self._progress(time_s)
        if self.conditions.tunnel and TUNNEL_M[0] + 2.0 < s < TUNNEL_M[1] - 2.0:
            return 0.0
        if self.conditions.bridge and BRIDGE_M[0] < s < BRIDGE_M[1]:
            return 0.45
        return 1.0

    def label_of(self, number: int) -> str:
        """Return the label of the road user with this object number."""
        still = len(self._still)
        return (self._still[number] if number < still else self._moving[number - still]).look.label

    def _arc(self, actor: _Actor, time_s: float) -> float:
        if actor.lead_s:
            return self._progress(time_s, actor.lead_s)
        return actor.s0_m + actor.speed_m_s * time_s

    def _on_road(self, actor: _Actor, time_s: float) -> bool:
        return self.road.start_m < self._arc(actor, time_s) < self.road.end_m - 1.0

    def _pose(self, actor: _Actor, time_s: float) -> tuple[float, float, float]:
        if actor.crosses_at_s is not None:
            walked = min(max(time_s - actor.crosses_at_s, 0.0) * _WALK_M_S, 2 * abs(actor.offset_m))
            side = 1.0 if actor.offset_m > 0 else -1.0
            x, y, yaw = self.road.place(actor.s0_m, actor.offset_m - side * walked)
            return x, y, yaw - side * pi / 2
        x, y, yaw = self.road.place(self._arc(actor, time_s), actor.offset_m)
        return x, y, yaw + (pi if actor.turned else 0.0)

    def _speed(self, actor: _Actor, time_s: float) -> float:
        if actor.crosses_at_s is not None:
            under_way = 0.0 < (time_s - actor.crosses_at_s) * _WALK_M_S < 2 * abs(actor.offset_m)
            return _WALK_M_S if under_way else 0.0
        return self._rate(time_s, actor.lead_s) if actor.lead_s else abs(actor.speed_m_s)

    def _draw_actors(self, rng: np.random.Generator) -> tuple[tuple[_Actor, ...], tuple[_Actor, ...]]:
        end = self.road.end_m
        still = [*self._parked(rng, 1.0, end), *self._parked(rng, -1.0, end)]
        moving = [_Actor(draw_look(rng, CAR), 0.0, EGO_OFFSET_M, 0.0, False, 0.0, lead_s=float(rng.uniform(1.9, 2.8)))]
        s = 40.0
        while s < 2.1 * end:  # oncoming: they meet the ego at about twice its own speed
            speed = 9.0  # one speed for all, so that none drives through another
            moving.append(_Actor(draw_look(rng, CAR), s, 1.75, -speed, True, 0.0))
            s += float(rng.uniform(28.0, 90.0))
        for side in (1.0, -1.0):
            s = 15.0
            while s < end + 60.0:
                speed = -side * 4.3
                moving.append(
                    _Actor(draw_look(rng, CYCLIST), s, side * 3.55, speed, side > 0, float(rng.uniform(0, 6)))
                )
                s += float(rng.uniform(45.0, 110.0))
            s = -20.0
            while s < end:
                back = rng.random() < 0.5
                speed = float(rng.uniform(0.9, 1.6)) * (-1 if back else 1)
                offset = side * (7.4 if back else 8.3) + float(rng.uniform(-0.25, 0.25))
                moving.append(_Actor(draw_look(rng, PEDESTRIAN), s, offset, speed, back, float(rng.uniform(0, 6))))
                s += float(rng.uniform(7.0, 24.0))
        if self.conditions.tunnel:
            still = [a for a in still if not TUNNEL_M[0] - 4.0 < a.s0_m < TUNNEL_M[1] + 4.0]
        extra = np.random.default_rng([self.seed, 0x3A5])  # apart, so that the rest of the street stays as it is
        if self.conditions.trucks:
            still = [self._lorry(extra, a) if a.look.label == CAR and extra.random() < 0.45 else a for a in still]
        if self.conditions.crossings:
            for number in range(int(self.duration_s / 4.0)):
                at_s = 3.0 + 4.0 * number
                # They go when the vehicle is 35 m away, and are over before it comes.
                side = 6.4 if extra.random() < 0.5 else -6.4
                where = self._progress(min(at_s + 9.0, self.duration_s + 6.0))
                look = draw_look(extra, PEDESTRIAN)
                moving.append(_Actor(look, where, side, 0.0, False, float(extra.uniform(0, 6)), crosses_at_s=at_s))
        return tuple(still), tuple(moving)

    def _lorry(self, rng: np.random.Generator, parked: _Actor) -> _Actor:
        size = (float(rng.uniform(5.6, 6.1)), float(rng.uniform(2.1, 2.3)), float(rng.uniform(2.6, 3.4)))
        return replace(parked, look=replace(parked.look, size_m=size))

    def _parked(self, rng: np.random.Generator, side: float, end_m: float) -> list[_Actor]:
        found, s = [], -60.0
        while s < end_m - 5.0:
            draw = rng.random()
            if draw < 0.62:
                found.append(_Actor(draw_look(rng, CAR), s, side * 4.85, 0.0, side > 0, 0.0))
                s += float(rng.uniform(6.2, 8.5))
            elif draw < 0.74:
                found.append(_Actor(draw_look(rng, BARRIER), s, side * 4.8, 0.0, side > 0, 0.0))
                s += float(rng.uniform(3.0, 7.0))
            elif draw < 0.86:
                found.append(_Actor(draw_look(rng, PEDESTRIAN), s, side * 5.2, 0.0, side > 0, float(rng.uniform(0, 6))))
                s += float(rng.uniform(4.0, 8.0))
            else:
                s += float(rng.uniform(8.0, 22.0))
        return found
