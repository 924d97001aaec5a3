"""Where a sensor's rays start and point while it exposes or turns: poses of its lines in one level frame.

A line is what a sensor takes at one moment: an image row, the beams of a lidar that fire together. The level frame
stands at the sensor's place at the stamp; its x axis points along the vehicle's heading, its z axis straight up.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.kernels.cast import cast_hills, cast_plane, turn
from edgeguard.sim.world import EgoTruth, World

Planes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
_CELL_M = 4.0  # of the height field: hills are over a hundred metres long, so 2 cm at most
_KNOTS = 9  # poses along a sweep; in between, 12.5 ms of 0.1 s, a straight line is right to 0.04 mm at 2 m/s^2


@dataclass(frozen=True, slots=True, eq=False)
class Aim:
    """rays: three (L, B) planes in the level frame. starts: (L, 4) place and time of each line against the stamp.

    frame: x, y, z and heading of the level frame in the world. rotations: (L, 3, 3) from sensor to level frame, or
    None where the sensor stands level and still.
    """

    rays: Planes
    starts: NDArray[np.float64]
    frame: tuple[float, float, float, float]
    rotations: NDArray[np.float64] | None


def attitude(ego: EgoTruth, yaw_rad: float = 0.0) -> NDArray[np.float64]:
    """Return the (3, 3) rotation from the vehicle's frame into a level one whose heading is `yaw_rad` less."""
    cr, sr, cp, sp = cos(ego.roll_rad), sin(ego.roll_rad), cos(ego.pitch_rad), sin(ego.pitch_rad)
    cy, sy = cos(yaw_rad), sin(yaw_rad)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def sensor_pose(ego: EgoTruth, mount_m: tuple[float, float, float]) -> tuple[float, float, float, float]:
    """Return x, y, z, yaw in the world of a sensor mounted without rotation."""
    x, y, z = attitude(ego, ego.yaw_rad) @ np.array(mount_m)
    return ego.east_m + float(x), ego.north_m + float(y), ego.up_m + float(z), ego.yaw_rad


def aim(
    world: World,
    time_s: float,
    mount_m: tuple[float, float, float],
    rays: Planes,
    offsets_s: NDArray[np.float64] | None = None,
    out: Planes | None = None,
) -> Aim:
    """Return a sensor's rays (three planes in its own frame) as they leave the moving vehicle.

    offsets_s: (L,) when each line is taken, against `time_s`; None: all at once. Times outside the drive are cut.
    out: planes to use where the rays have to be turned; None: new ones.
    """
    ego = world.ego(time_s)
    frame = sensor_pose(ego, mount_m)
    lines = rays[0].shape[0]
    starts = np.zeros((lines, 4))
    if offsets_s is None:
        if ego.roll_rad == 0.0 and ego.pitch_rad == 0.0:
            return Aim(rays, starts, frame, None)
        rotations = np.broadcast_to(attitude(ego), (lines, 3, 3))
        return Aim(_turned(rays, rotations, out), starts, frame, np.ascontiguousarray(rotations))
    knots = np.linspace(float(offsets_s.min()), float(offsets_s.max()), _KNOTS)
    places, turns = np.empty((_KNOTS, 3)), np.empty((_KNOTS, 9))
    c, s = cos(frame[3]), sin(frame[3])
    for k, lag in enumerate(knots):
        then = world.ego(min(max(time_s + float(lag), 0.0), world.duration_s))
        x, y, z, yaw = sensor_pose(then, mount_m)
        x, y = x - frame[0], y - frame[1]
        places[k] = c * x + s * y, c * y - s * x, z - frame[2]
        turns[k] = attitude(then, yaw - frame[3]).ravel()
    place = (offsets_s - knots[0]) * ((_KNOTS - 1) / max(float(knots[-1] - knots[0]), 1e-12))
    knot = np.minimum(place.astype(np.int64), _KNOTS - 2)
    share = (place - knot)[:, None]
    path = np.concatenate([places, turns], axis=1)
    between = path[knot] + share * (path[1:] - path[:-1])[knot]
    starts[:, :3], starts[:, 3] = between[:, :3], offsets_s
    rotations = np.ascontiguousarray(between[:, 3:]).reshape(lines, 3, 3)
    return Aim(_turned(rays, rotations, out), starts, frame, rotations)


def cast_ground(
    world: World,
    aimed: Aim,
    reach_m: float,
    distance: NDArray[np.float32],
    hit: NDArray[np.int32],
) -> None:
    """Start `distance` and `hit` with the world's ground, a plane or hills."""
    x, y, z, yaw = aimed.frame
    if world.ground.flat:
        cast_plane(aimed.rays[2], aimed.starts, z, distance, hit)
        return
    cells = 2 * int(reach_m / _CELL_M) + 2
    axis = _CELL_M * (np.arange(cells) - cells / 2 + 0.5)
    ahead, left = np.meshgrid(axis, axis)
    c, s = cos(yaw), sin(yaw)
    heights = world.ground.height(x + c * ahead - s * left, y + s * ahead + c * left) - z
    cast_hills(*aimed.rays, aimed.starts, heights, float(axis[0]), float(axis[0]), _CELL_M, distance, hit)


def _turned(rays: Planes, rotations: NDArray[np.float64], out: Planes | None) -> Planes:
    out = out or (np.empty_like(rays[0]), np.empty_like(rays[1]), np.empty_like(rays[2]))
    turn(*rays, np.ascontiguousarray(rotations), *out)
    return out
