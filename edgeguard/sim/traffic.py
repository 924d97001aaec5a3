"""Road users: who drives, walks and stands on a street, where each is at any time, and the solids they consist of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import pi

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.actors import BARRIER, CAR, CYCLIST, PEDESTRIAN, Look, add_actor, draw_look
from edgeguard.sim.pace import Pace
from edgeguard.sim.primitives import BOX, COLUMNS, COS, SIN, PrimitiveList, Primitives, X, Y
from edgeguard.sim.road import Road
from edgeguard.sim.weather import TUNNEL_M, Conditions

EGO_OFFSET_M = -1.75  # right-hand traffic: the middle of the right lane
_WALK_M_S = 1.6
_STRIDE_RAD_M = 2.2  # how far a gait goes on per metre

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Actor:
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
    crosses_at_s: float = float("inf")


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where N road users are: arc_m, x_m, y_m, yaw_rad, speed_m_s, all (N,); on_road (N,) bool."""

    arc_m: Floats
    x_m: Floats
    y_m: Floats
    yaw_rad: Floats
    speed_m_s: Floats
    on_road: NDArray[np.bool_]


class Traffic:
    """Road users as arrays, so that a frame asks for all of them at once.

    Their solids are kept in each one's own frame. With a gait a solid moves by a multiple of the sine of the stride,
    so two lists of them, at strides of 0 and a quarter turn, say all.
    """

    def __init__(self, actors: Sequence[Actor], road: Road, pace: Pace, first_number: int) -> None:
        self.actors, self._road, self._pace = tuple(actors), road, pace
        self._s0_m, self._offset_m, self._speed_m_s, self._phase_rad, self._crosses_at_s = (
            np.array([getattr(a, name) for a in actors], dtype=np.float64)
            for name in ("s0_m", "offset_m", "speed_m_s", "phase_rad", "crosses_at_s")
        )
        self._turn_rad = np.array([pi * a.turned for a in actors], dtype=np.float64)
        self._leads = [(k, a.lead_s) for k, a in enumerate(actors) if a.lead_s]
        self._crossing = np.flatnonzero(np.isfinite(self._crosses_at_s))
        still, mid_stride = PrimitiveList(), PrimitiveList()
        owners: list[int] = []
        for k, actor in enumerate(actors):
            for out, stride in ((still, 0.0), (mid_stride, pi / 2)):
                add_actor(out, actor.look, (0.0, 0.0, 0.0), stride, first_number + k)
            owners += [k] * (len(still.rows) - len(owners))
        solids = still.arrays()
        self._solids, self._codes = solids.values, solids.codes
        self._swing = mid_stride.arrays().values - solids.values
        self._owner = np.array(owners, dtype=np.int64)
        self._turns = solids.codes[:, 0] == BOX  # round solids look the same from all sides

    def places(self, time_s: float) -> Places:
        """Return where everybody is at `time_s`."""
        arc, speed = self._s0_m + self._speed_m_s * time_s, np.abs(self._speed_m_s)
        for k, lead_s in self._leads:
            arc[k], speed[k] = self._pace.progress(time_s, lead_s), self._pace.rate(time_s, lead_s)
        offset, turn = self._offset_m, self._turn_rad
        if len(self._crossing):
            who, offset, turn = self._crossing, offset.copy(), turn.copy()
            side, width = np.sign(self._offset_m[who]), 2 * np.abs(self._offset_m[who])
            walked = (time_s - self._crosses_at_s[who]) * _WALK_M_S
            offset[who] -= side * np.clip(walked, 0.0, width)
            turn[who] = -side * pi / 2
            speed[who] = np.where((walked > 0.0) & (walked < width), _WALK_M_S, 0.0)
        x, y, heading = self._road.places(arc, offset)
        on_road = (arc > self._road.start_m) & (arc < self._road.end_m - 1.0)
        return Places(arc, x, y, heading + turn, speed, on_road)

    def primitives(self, time_s: float, stretch_m: tuple[float, float] = (-np.inf, np.inf)) -> Primitives:
        """Return the solids, in the world frame, of who is on the road between two arc lengths."""
        found = self.places(time_s)
        seen = found.on_road & (found.arc_m >= stretch_m[0]) & (found.arc_m <= stretch_m[1])
        row = np.flatnonzero(seen[self._owner])
        whose = self._owner[row]
        stride = np.sin(self._phase_rad + _STRIDE_RAD_M * np.abs(self._speed_m_s) * time_s)
        values = self._solids[row] + stride[whose, None] * self._swing[row]
        cosine, sine = np.cos(found.yaw_rad), np.sin(found.yaw_rad)
        c, s, ahead, left = cosine[whose], sine[whose], values[:, X].copy(), values[:, Y].copy()
        values[:, X] = found.x_m[whose] + c * ahead - s * left
        values[:, Y] = found.y_m[whose] + s * ahead + c * left
        turns = self._turns[row]
        values[:, COS], values[:, SIN] = np.where(turns, c, 1.0), np.where(turns, s, 0.0)
        velocity = np.stack([found.speed_m_s * cosine, found.speed_m_s * sine], axis=1)[whose]
        return Primitives(values.reshape(-1, COLUMNS), self._codes[row], velocity)


def draw_actors(
    rng: np.random.Generator,
    extra: np.random.Generator,
    road: Road,
    pace: Pace,
    conditions: Conditions,
    duration_s: float,
) -> tuple[tuple[Actor, ...], tuple[Actor, ...]]:
    """Draw who stands and who moves; what conditions add is drawn from `extra`, so that the rest stays as it is."""
    end = road.end_m
    still = [*_parked(rng, 1.0, end), *_parked(rng, -1.0, end)]
    moving = [Actor(draw_look(rng, CAR), 0.0, EGO_OFFSET_M, 0.0, False, 0.0, lead_s=float(rng.uniform(1.9, 2.8)))]
    s = 40.0
    while s < 2.1 * end:  # oncoming: they meet the ego at about twice its own speed
        speed = 9.0  # one speed for all, so that none drives through another
        moving.append(Actor(draw_look(rng, CAR), s, 1.75, -speed, True, 0.0))
        s += float(rng.uniform(28.0, 90.0))
    for side in (1.0, -1.0):
        s = 15.0
        while s < end + 60.0:
            speed = -side * 4.3
            moving.append(Actor(draw_look(rng, CYCLIST), s, side * 3.55, speed, side > 0, float(rng.uniform(0, 6))))
            s += float(rng.uniform(45.0, 110.0))
        s = -20.0
        while s < end:
            back = rng.random() < 0.5
            speed = float(rng.uniform(0.9, 1.6)) * (-1 if back else 1)
            offset = side * (7.4 if back else 8.3) + float(rng.uniform(-0.25, 0.25))
            moving.append(Actor(draw_look(rng, PEDESTRIAN), s, offset, speed, back, float(rng.uniform(0, 6))))
            s += float(rng.uniform(7.0, 24.0))
    if conditions.tunnel:
        still = [a for a in still if not TUNNEL_M[0] - 4.0 < a.s0_m < TUNNEL_M[1] + 4.0]
    if conditions.trucks:
        still = [_lorry(extra, a) if a.look.label == CAR and extra.random() < 0.45 else a for a in still]
    if conditions.crossings:
        moving += _crossing(extra, pace.progress, duration_s)
    return tuple(still), tuple(moving)


def _crossing(extra: np.random.Generator, progress: Callable[[float], float], duration_s: float) -> list[Actor]:
    found = []
    for number in range(int(duration_s / 4.0)):
        at_s = 3.0 + 4.0 * number
        # They go when the vehicle is 35 m away, and are over before it comes.
        side = 6.4 if extra.random() < 0.5 else -6.4
        where = progress(min(at_s + 9.0, duration_s + 6.0))
        look = draw_look(extra, PEDESTRIAN)
        found.append(Actor(look, where, side, 0.0, False, float(extra.uniform(0, 6)), crosses_at_s=at_s))
    return found


def _lorry(rng: np.random.Generator, parked: Actor) -> Actor:
    size = (float(rng.uniform(5.6, 6.1)), float(rng.uniform(2.1, 2.3)), float(rng.uniform(2.6, 3.4)))
    return replace(parked, look=replace(parked.look, size_m=size))


def _parked(rng: np.random.Generator, side: float, end_m: float) -> list[Actor]:
    found, s = [], -60.0
    while s < end_m - 5.0:
        draw = rng.random()
        if draw < 0.62:
            found.append(Actor(draw_look(rng, CAR), s, side * 4.85, 0.0, side > 0, 0.0))
            s += float(rng.uniform(6.2, 8.5))
        elif draw < 0.74:
            found.append(Actor(draw_look(rng, BARRIER), s, side * 4.8, 0.0, side > 0, 0.0))
            s += float(rng.uniform(3.0, 7.0))
        elif draw < 0.86:
            found.append(Actor(draw_look(rng, PEDESTRIAN), s, side * 5.2, 0.0, side > 0, float(rng.uniform(0, 6))))
            s += float(rng.uniform(4.0, 8.0))
        else:
            s += float(rng.uniform(8.0, 22.0))
    return found
