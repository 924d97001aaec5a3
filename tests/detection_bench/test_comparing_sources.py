"""Who compares what was attacked: not how many streams there are."""

from __future__ import annotations

import pytest

from edgeguard.sim.detection.comparing import comparing_sources
from edgeguard.types import CheckResult, Level

OK, BAD, BLIND = Level.OK, Level.ANOMALY, Level.NOT_OBSERVABLE


def check(
    sensors: str, level: Level, quantity: str, power: float, unit: str = "m/s", size: float | None = None
) -> CheckResult:
    return CheckResult(quantity, tuple(sensors.split("+")), level, 0.1, 1.0, power, unit, quantity, "", size)


SPEED_OFF = check("gnss+wheels", BAD, "speed", 0.2, size=1.0)
STEP = check("gnss+wheels", BAD, "speed_step", 0.2, size=5.0)
COURSE_OFF = check("gnss+imu", BAD, "course", 0.5, "deg/s", 6.0)


@pytest.mark.parametrize(
    ("results", "sources"),
    [
        ([check("gnss+wheels", OK, "speed", 0.2)], 1),
        ([SPEED_OFF], 2),
        ([SPEED_OFF, check("imu+gnss", OK, "yaw_rate", 0.5, "deg/s")], 2),
        ([SPEED_OFF, check("lidar+wheels", OK, "speed", 0.5)], 3),
        ([SPEED_OFF, check("lidar+wheels", OK, "speed", 2.0)], 2),
        ([SPEED_OFF, check("lidar+wheels", BLIND, "speed", 0.5)], 2),
        ([STEP, check("imu+wheels", OK, "acceleration", 1.0, "m/s^2")], 3),
        ([STEP, check("imu+wheels", OK, "acceleration", 3.0, "m/s^2")], 2),
        ([SPEED_OFF, check("imu+wheels", OK, "acceleration", 0.1, "m/s^2")], 2),
        ([COURSE_OFF, check("imu+wheels", OK, "yaw_rate", 2.0, "deg/s")], 3),
        ([check("gnss+wheels+imu", BAD, "position", 1.5, "m", 9.0)], 2),
    ],
    ids=[
        "nobody is accused",
        "two compare speeds",
        "a third stream compares something else",
        "a third speed",
        "a third speed too blunt for it",
        "a third speed that sees nothing now",
        "an accelerometer sees a step",
        "and not one so small",
        "nor a speed that is off without a step",
        "a left-right difference compares yaw",
        "one equation of three sensors",
    ],
)
def test_sources_are_those_that_compare_the_attacked_quantity_at_its_size(
    results: list[CheckResult], sources: int
) -> None:
    """The truth table of the count."""
    assert comparing_sources(results, "gnss") == sources
