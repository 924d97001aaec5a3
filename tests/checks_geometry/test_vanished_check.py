"""L1.object and L4.crossing: what vanishes although nothing covers it, and beams that pass through the ground."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeguard.checks.lidar_evidence import LidarEvidence
from edgeguard.checks.lidar_vanished import build_vanished_checks
from edgeguard.types import Level, PointCloud, RigCalibration

CALIBRATION = RigCalibration(np.eye(3), np.eye(4), (1242, 375))
ONSET = 5
CAR = (4.2, 1.8, 1.5)


def _run(scenes, sweeps) -> tuple[list, list]:
    results = scenes.run(list(build_vanished_checks(LidarEvidence(CALIBRATION))), [{"lidar": s} for s in sweeps])
    return [r[0] for r in results], [r[1] for r in results]


def _thinned(before: PointCloud, after: PointCloud, seed: int) -> PointCloud:
    """Drop 90 % of the returns that a body changed."""
    body = np.any(before.xyz != after.xyz, axis=1)
    gone = body & (np.random.default_rng(seed).random(len(body)) < 0.9)
    return PointCloud(np.ascontiguousarray(after.xyz[~gone]), after.intensity[~gone], 0)  # no second echo comes


@pytest.mark.parametrize(("ego", "ahead", "speed"), [(0.0, 11.0, 0.0), (8.0, 14.0, 0.0)])
def test_a_body_whose_returns_are_suppressed_is_missed_within_two_sweeps(scenes, ego, ahead, speed) -> None:
    """A standing car loses nine of ten returns at once, seen from a standing and a moving vehicle."""
    street = scenes.drive(ego, 10)
    sweeps = []
    for k, clean in enumerate(street):
        x = ahead + (speed - ego) * k * 0.10315
        full = scenes.body(clean, (x, 0.0), 0.0, CAR, seed=k)
        sweeps.append(full if k < ONSET else _thinned(clean, full, k))

    objects, _ = _run(scenes, sweeps)
    alarms = [k for k, r in enumerate(objects) if r.level is Level.ANOMALY]

    assert alarms
    assert ONSET <= alarms[0] <= ONSET + 2
    assert "gone" in objects[alarms[0]].reason


def test_an_alarm_of_what_is_gone_for_good_ends_after_a_second(scenes) -> None:
    """Nobody is blamed for ever for one event: the empty place becomes the new state of the street."""
    street = scenes.drive(0.0, ONSET + 14)
    sweeps = [scenes.body(s, (11.0, 0.0), 0.0, CAR, seed=k) if k < ONSET else s for k, s in enumerate(street)]

    objects, _ = _run(scenes, sweeps)
    alarms = [k for k, r in enumerate(objects) if r.level is Level.ANOMALY]

    assert alarms
    assert max(alarms) <= ONSET + 10
    assert objects[-1].level is Level.OK


@pytest.mark.parametrize("ego", [0.0, 10.0])
@pytest.mark.parametrize("other", [-20.0, -8.0, 12.0, 25.0])
def test_traffic_that_moves_on_is_not_missed(scenes, ego, other) -> None:
    """Oncoming, crossing and overtaking bodies leave their places and are seen at the next."""
    sweeps = [
        scenes.body(s, (12.0 + (other - ego) * k * 0.10315, 3.0), 0.0, CAR, seed=k)
        for k, s in enumerate(scenes.drive(ego, 10))
    ]

    objects, crossed = _run(scenes, sweeps)

    assert {r.level for r in objects + crossed} <= {Level.OK, Level.NOT_OBSERVABLE}


def test_a_body_that_drives_behind_another_is_covered_and_not_missed(scenes) -> None:
    """Something nearer stands in the beams."""
    sweeps = []
    for k, s in enumerate(scenes.drive(0.0, 10)):
        hidden = scenes.body(s, (16.0, 0.0), 0.0, CAR, seed=k)
        sweeps.append(scenes.body(hidden, (9.0, -5.0 + 1.2 * k), 1.57, (4.6, 1.9, 2.2), seed=k + 50))

    objects, _ = _run(scenes, sweeps)

    assert [r for r in objects if r.level is Level.ANOMALY] == []


def test_returns_from_below_closed_ground_are_a_crossing(scenes) -> None:
    """Beams that had met the road come back from far below it, as in front of a mirror."""
    sweeps = scenes.drive(0.0, 10)
    for k in range(ONSET, 10):
        xyz = sweeps[k].xyz.copy()
        road = (np.abs(xyz[:, 1]) < 2.0) & (xyz[:, 0] > 7.0) & (xyz[:, 0] < 14.0) & (xyz[:, 2] < -1.6)
        xyz[road] *= 1.7
        sweeps[k] = replace(sweeps[k], xyz=xyz)

    _, crossed = _run(scenes, sweeps)

    assert next(k for k, r in enumerate(crossed) if r.level is Level.ANOMALY) == ONSET + 1
    assert "ground" in crossed[ONSET + 1].reason


def test_without_an_earlier_sweep_nothing_is_claimed(scenes) -> None:
    """First sweep and no sweep: NOT_OBSERVABLE with a reason."""
    sweeps = [scenes.street(0.0), None, scenes.street(0.4)]

    objects, crossed = _run(scenes, sweeps)

    assert [r.level.value for r in objects] == ["NOT_OBSERVABLE", "NOT_OBSERVABLE", "OK"]
    assert all(r.reason for r in (objects + crossed) if r.level is Level.NOT_OBSERVABLE)
