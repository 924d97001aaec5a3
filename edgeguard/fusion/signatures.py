"""The signature matrix: which fault of which sensor disturbs which check, and by how much.

A sensor has channels: the quantities that it contributes to comparisons. A check of a quantity sees the channel of that
name of each of its sensors, except where the table says that what a sensor contributes is something else: a
displacement is reckoned from wheel speed and gyro yaw rate, a change of speed from the wheels is their speed's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgeguard.types import GNSS, IMU, LIDAR, WHEELS

# Powers and sizes are compared in one unit per dimension: unit -> (canonical unit, factor).
UNITS: Mapping[str, tuple[str, float]] = {
    "deg/s": ("rad/s", math.pi / 180.0),
    "deg": ("rad", math.pi / 180.0),
    "ms": ("s", 1e-3),
}

SPEED, YAW_RATE = ("speed", "m/s"), ("yaw_rate", "rad/s")
# A speed that is suddenly off: of wheels, that is an acceleration over the second that accelerations are compared in.
SPEED_STEP = ("speed_step", "m/s")

# Where something other than the compared quantity is contributed, or as well: (quantity, sensor) -> (has it a channel
# of that quantity itself, {channel: largest gain from a fault of the channel to the check}). The gains are upper
# bounds: 5 s is the longest window of a displacement, 190 m per rad/s is v T^2 / 2 at 15 m/s in it; an acceleration is
# looked at over 1 s; a heading over the longest track, 120 s.
COUPLED: Mapping[tuple[str, str], tuple[bool, Mapping[tuple[str, str], float]]] = {
    ("position", WHEELS): (False, {SPEED: 5.0}),
    ("position", IMU): (False, {YAW_RATE: 190.0}),
    ("position", GNSS): (True, {SPEED: 5.0, YAW_RATE: 190.0}),
    ("speed", WHEELS): (True, {SPEED_STEP: 0.0}),
    ("speed_step", WHEELS): (False, {SPEED_STEP: 0.0}),
    ("acceleration", WHEELS): (False, {SPEED: 1.0, SPEED_STEP: 0.0}),
    ("speed_step", GNSS): (False, {SPEED: 0.0}),
    # The course left the gyro's heading, at this rate while it did. A course is off by itself; a gyro's heading only
    # by a rate, which every check of rates sees, that of lateral forces too.
    ("course", GNSS): (True, {YAW_RATE: 2.0}),
    ("course", IMU): (False, {YAW_RATE: 0.0}),
    ("course_step", GNSS): (True, {YAW_RATE: 2.0}),
    ("course_step", IMU): (False, {YAW_RATE: 0.0}),
    ("lateral", IMU): (True, {YAW_RATE: 0.0}),
    # What a distance over a long track says of speeds is their mean: a fault of late is larger than that.
    ("mean_speed", GNSS): (True, {SPEED: 1.0}),
    ("mean_speed", WHEELS): (True, {SPEED: 1.0}),
    ("mean_speed", LIDAR): (True, {SPEED: 1.0}),
    ("heading", IMU): (True, {YAW_RATE: 120.0}),
    ("heading", LIDAR): (True, {YAW_RATE: 120.0}),
    ("heading", GNSS): (True, {YAW_RATE: 120.0}),
}

# How rarely a sensor's fault has this shape, where others have it as a rule: (quantity, sensor) -> likelihood. A gyro
# that turned by some degrees too far and has been exact since was no bias, no scale, nothing stuck: one fault in five.
# Taken alone that names nobody (1 : 5 is below the 9 : 1 of a name).
RARE: Mapping[tuple[str, str], float] = {("course_step", IMU): 0.2}


# How well a check tells a size (natural log), where it is better than of a residual that has yet to grow: a speed that
# stepped is off by what the receiver said in three fixes in a row.
SIZE_SD: Mapping[str, float] = {"speed_step": 0.3}


def rarity(quantity: str, sensor: str) -> float:
    """Likelihood that a fault of `sensor` which disturbs a check of `quantity` has the shape that the name says."""
    return RARE.get((quantity, sensor), 1.0)


def canonical(value: float, unit: str) -> tuple[float, str]:
    """A size or power in the unit that its dimension is compared in."""
    name, factor = UNITS.get(unit, (unit, 1.0))
    return value * factor, name


def channels(quantity: str, unit: str, sensor: str) -> Mapping[tuple[str, str], float]:
    """Channels of `sensor` that a check of `quantity` sees; gain 0 marks its own channel, where sizes are equal."""
    own, coupled = COUPLED.get((quantity, sensor), (True, {}))
    return {**({(quantity, unit): 0.0} if own else {}), **coupled}
