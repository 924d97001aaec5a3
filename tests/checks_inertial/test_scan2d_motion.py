"""X12.scan2d and X6.scan2d: a planar lidar in a room against wheels and gyro."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgeguard.checks.scan2d_motion import PlanarEvidence, ScanSpeedCheck, ScanYawCheck
from edgeguard.types import ImuSample, Level, Sample, Scan2d, WheelOdometry

S = 1_000_000_000
# Walls as segments (x1, y1, x2, y2), metres: a room with a corner, a pillar and a table.
ROOM = np.array([
    (-4, -3, 6, -3), (6, -3, 6, 4), (6, 4, 1, 4), (1, 4, 1, 5.5), (1, 5.5, -4, 5.5), (-4, 5.5, -4, -3),
    (3, 0.5, 3.5, 0.5), (3.5, 0.5, 3.5, 1), (3.5, 1, 3, 1), (3, 1, 3, 0.5), (-2, 2, -1, 2.4),
], float)  # fmt: skip
CORRIDOR = np.array([(-60, -1.0, 60, -1.0), (-60, 1.0, 60, 1.0)], float)


def scan(walls: np.ndarray, x: float, y: float, yaw: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ranges and angles of one revolution of 450 beams; noise 1 cm, as an LD06 has."""
    angle = np.linspace(-np.pi, np.pi, 450, endpoint=False)
    d = np.stack((np.cos(angle + yaw), np.sin(angle + yaw)), axis=1)
    best = np.full(len(angle), np.inf)
    for x1, y1, x2, y2 in walls:
        e, o = np.array((x2 - x1, y2 - y1)), np.array((x1 - x, y1 - y))
        cross = d[:, 0] * e[1] - d[:, 1] * e[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (o[0] * e[1] - o[1] * e[0]) / cross
            u = (o[0] * d[:, 1] - o[1] * d[:, 0]) / cross
        best = np.where((t > 0) & (u >= 0) & (u <= 1) & (t < best), t, best)
    return best + rng.normal(0, 0.01, len(best)), angle


def drive(
    walls: np.ndarray = ROOM,
    scale: Callable[[float], float] = lambda t: 1.0,
    bias: Callable[[float], float] = lambda t: 0.0,
) -> list[Sample]:
    """Eighteen seconds in circles at 0.5 m/s; `scale` of the wheels and `bias` of the gyro over time."""
    rng, out = np.random.default_rng(8), []
    x = y = yaw = 0.0
    for i in range(1800):
        t = i / 100
        v, w = 0.5, 0.45 if walls is ROOM else 0.0
        stamp = S + i * S // 100
        if i % 10 == 0:
            ranges, angle = scan(walls, x, y, yaw, rng)
            out.append(Scan2d(ranges.astype(np.float32), angle.astype(np.float32), np.ones(450, np.float32), stamp))
        if i % 2 == 0:
            out.append(WheelOdometry(stamp, v * scale(t) + rng.normal(0, 0.01)))
        out.append(ImuSample(stamp, (0.0, 0.0, w + 0.02 + bias(t) + rng.normal(0, 0.002)), (0.0, v * w, 9.81)))
        x, y, yaw = x + v * np.cos(yaw) / 100, y + v * np.sin(yaw) / 100, yaw + w / 100
    return out


def test_a_robot_in_a_room_is_clean_and_seen(lab: Any) -> None:
    """A gyro bias of a degree per second is learned; both checks speak most of the time."""
    for make in (ScanSpeedCheck, ScanYawCheck):
        found = lab.judge(make(PlanarEvidence()), drive(), 10)
        assert lab.first_alarm(found) is None
        assert sum(r.level is Level.OK for _, r in found) > 0.8 * len(found)


def test_slipping_wheels_are_found_by_the_scans(lab: Any) -> None:
    """Wheels that roll half as fast again as the room goes by; the check names speed, and its size."""
    found = lab.judge(ScanSpeedCheck(PlanarEvidence()), drive(scale=lambda t: 1.0 if t < 9 else 2.0), 10)
    delay = lab.first_alarm(found, 9.0)
    assert delay is not None
    assert 0.0 < delay <= 6.0  # half a metre of unknown lever arm in a tight circle hides much
    alarm = next(r for _, r in found if r.level is Level.ANOMALY)
    assert (alarm.quantity, alarm.sensors) == ("speed", ("scan2d", "wheels"))


def test_a_gyro_that_drifts_is_found_by_the_scans(lab: Any) -> None:
    """A step of 0.15 rad/s."""
    found = lab.judge(ScanYawCheck(PlanarEvidence()), drive(bias=lambda t: 0.0 if t < 9 else 0.15), 10)
    delay = lab.first_alarm(found, 9.0)
    assert delay is not None
    assert 0.0 < delay <= 4.0


def test_a_corridor_without_an_end_tells_no_speed(lab: Any) -> None:
    """Two parallel walls slide along themselves: NOT_OBSERVABLE, not OK, not an anomaly."""
    found = lab.judge(ScanSpeedCheck(PlanarEvidence()), drive(CORRIDOR), 10)
    assert {r.level for _, r in found} == {Level.NOT_OBSERVABLE}
