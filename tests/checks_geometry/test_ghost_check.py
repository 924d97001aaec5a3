"""L2.ghost finds spoofed objects within a few sweeps and leaves genuine traffic alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeguard.checks.lidar_evidence import LidarEvidence
from edgeguard.checks.lidar_ghost import ALARM_LLR, MOST_BIRTHS, MOST_FOLLOWED, GhostCheck
from edgeguard.sensors.kitti import decode_sweep
from edgeguard.types import Level, PointCloud, RigCalibration

CALIBRATION = RigCalibration(np.eye(3), np.eye(4), (1242, 375))
ONSET = 3


def _check() -> GhostCheck:
    return GhostCheck(LidarEvidence(CALIBRATION))


def _run(scenes, sweeps) -> list:
    return scenes.run(_check(), [{"lidar": s} for s in sweeps])


def _delay(results) -> int | None:
    """Sweeps from onset to alarm; None without one; an alarm before the onset fails."""
    alarms = [k for k, r in enumerate(results) if r.level is Level.ANOMALY]
    assert not alarms or alarms[0] >= ONSET
    return alarms[0] - ONSET if alarms else None


@pytest.mark.parametrize("speed", [0.0, 8.0, 20.0])
@pytest.mark.parametrize(("range_m", "points", "width_m"), [(7.0, 300, 1.8), (12.0, 200, 0.7), (18.0, 250, 1.8)])
def test_a_ghost_in_open_street_is_found_within_five_sweeps(scenes, speed, range_m, points, width_m) -> None:
    """Car- and pedestrian-sized, near and far, parked and driving."""
    sweeps = scenes.drive(speed, 10)
    for k in range(ONSET, len(sweeps)):
        sweeps[k] = scenes.ghost(sweeps[k], range_m, 0.0, points, width_m, seed=k)

    results = _run(scenes, sweeps)

    delay = _delay(results)
    assert delay is not None
    assert delay <= 5
    assert "appeared where" in next(r.reason for r in results if r.level is Level.ANOMALY)


@pytest.mark.parametrize("speed", [0.0, 8.0])
def test_a_smooth_ghost_that_no_motion_explains_is_found_in_the_third_sweep(scenes, speed) -> None:
    """No jitter, no noise beyond the lidar's own: it came from nowhere, goes nowhere, and stays."""
    sweeps = scenes.drive(speed, 8)
    for k in range(ONSET, len(sweeps)):
        sweeps[k] = scenes.body(sweeps[k], (12.0, 0.0), 1.57, (1.8, 0.3, 1.5), seed=k)

    results = _run(scenes, sweeps)

    assert _delay(results) == 2
    assert "no motion brought it there" in results[ONSET + 2].reason


@pytest.mark.parametrize("ego", [0.0, 10.0, 30.0])
@pytest.mark.parametrize("other", [-36.0, -15.0, 25.0])
def test_fast_genuine_traffic_is_no_ghost(scenes, ego, other) -> None:
    """Oncoming and overtaking cars, seen from a parked, a town and a motorway vehicle."""
    start = 35.0 if other < 0 else -15.0
    sweeps = [
        scenes.body(s, (start + (other - ego) * k * 0.10315, 3.0), 0.0, (4.2, 1.8, 1.5), seed=k)
        for k, s in enumerate(scenes.drive(ego, 10))
    ]

    results = _run(scenes, sweeps)

    assert [r for r in results if r.level is Level.ANOMALY] == []
    assert max(r.statistic for r in results) < 0.8 * ALARM_LLR


def test_a_pedestrian_who_runs_out_between_parked_cars_is_no_ghost(scenes) -> None:
    """Sudden, near, rough and partly hidden: everything but a contradiction."""
    sweeps = [
        scenes.body(s, (5.5 - 0.6 * k, 6.0 - 0.45 * k), 0.0, (0.4, 0.5, 1.7), seed=k, noise_m=0.05)
        for k, s in enumerate(scenes.drive(6.0, 12))
    ]

    assert [r for r in _run(scenes, sweeps) if r.level is Level.ANOMALY] == []


@pytest.mark.parametrize("speed", [0.0, 8.0])
def test_a_rough_ghost_that_lasts_for_one_sweep_is_found_in_the_next(scenes, speed) -> None:
    """It came from nowhere and has gone nowhere: nothing has to stay for that to be impossible."""
    sweeps = scenes.drive(speed, 7)
    sweeps[ONSET] = scenes.ghost(sweeps[ONSET], 12.0, 0.0, 300, 1.8, seed=1)

    assert _delay(_run(scenes, sweeps)) == 1


def test_the_returns_of_a_parked_car_that_come_nearer_at_once_are_found(scenes) -> None:
    """Camera-consistent: the box in the picture stays true, the beams on it report 5 m less, 0.10 and 0.35 m jitter."""
    sweeps = []
    for k, plain in enumerate(scenes.drive(8.0, 8)):
        rng = np.random.default_rng(k)
        seen = scenes.body(plain, (14.0 - 0.825 * k, -0.5), 0.0, (4.2, 1.8, 1.5), seed=k)
        on_it = np.any(seen.xyz != plain.xyz, axis=1)
        r = np.linalg.norm(seen.xyz[on_it], axis=1)
        shift = -5.0 + 0.35 * rng.standard_normal() + 0.10 * rng.standard_normal(r.size)
        if k >= ONSET:
            seen.xyz[on_it] *= ((r + shift) / r)[:, None].astype(np.float32)
        sweeps.append(seen)

    delay = _delay(_run(scenes, sweeps))

    assert delay is not None
    assert delay <= 2


def test_a_walker_seen_slice_by_slice_is_no_ghost(scenes) -> None:
    """At each pace and side, rough as clothes are: what steps aside by less than its width was always there."""
    for pace in (0.8, 1.6, 3.0):
        for side in (-1.0, 1.0):
            sweeps = [
                scenes.body(s, (6.0, side * (1.5 + pace * k * 0.103)), 0.0, (0.4, 0.5, 1.7), seed=k, noise_m=0.06)
                for k, s in enumerate(scenes.drive(0.0, 10))
            ]
            assert [r for r in _run(scenes, sweeps) if r.level is Level.ANOMALY] == []


def test_rings_that_are_far_apart_make_nothing_observable(scenes) -> None:
    """Every fourth ring of the street: between them nobody knows what is empty."""
    sweeps = []
    for s in scenes.drive(8.0, 6):
        row = np.round(np.degrees(np.arcsin(s.xyz[:, 2] / np.linalg.norm(s.xyz, axis=1))) / (24 / 39)).astype(int)
        keep = row % 4 == 0
        sweeps.append(PointCloud(np.ascontiguousarray(s.xyz[keep]), s.intensity[keep], 0))

    results = _run(scenes, sweeps)

    assert {r.level for r in results} == {Level.NOT_OBSERVABLE}
    assert "rings" in results[-1].reason


def test_however_much_is_born_only_the_most_suspect_are_followed(scenes) -> None:
    """Twelve ghosts at once: work is bounded, and one of the followed is enough to alarm."""
    check = _check()
    sweeps = scenes.drive(8.0, 7)
    for k in range(ONSET, len(sweeps)):
        for n in range(12):
            sweeps[k] = scenes.ghost(sweeps[k], 5.5, np.radians(30 * n), 150, 1.0, seed=100 * k + n)

    levels = [r.level for r in scenes.run(check, [{"lidar": s} for s in sweeps])]

    assert Level.ANOMALY in levels[ONSET : ONSET + 3]
    assert 0 < len(check._arrivals) <= MOST_FOLLOWED + MOST_BIRTHS


def test_without_history_or_motion_nothing_is_claimed(scenes) -> None:
    """First sweep, after a jump of time, a missing sweep, a featureless plain: NOT_OBSERVABLE with a reason."""
    plain = scenes.street(0.0)
    flat = PointCloud(plain.xyz[plain.xyz[:, 2] < -1.6], plain.intensity[plain.xyz[:, 2] < -1.6], 0)
    sweeps = [scenes.street(0.0), scenes.street(0.5), None, scenes.street(1.5), scenes.street(2.0)]

    results = scenes.run(_check(), [{"lidar": s} for s in sweeps], jumps=frozenset({4}))
    levels = [r.level for r in results]

    assert levels == [Level.NOT_OBSERVABLE, Level.OK, Level.NOT_OBSERVABLE, Level.OK, Level.NOT_OBSERVABLE]
    assert all(r.reason and r.power == float("inf") for r in results if r.level is Level.NOT_OBSERVABLE)
    assert {r.level for r in _run(scenes, [flat] * 4)} == {Level.NOT_OBSERVABLE}


def test_hostile_clouds_never_crash_the_check(scenes) -> None:
    """Empty, NaN, coincident, absurdly far points and a cloud that shrinks to one point."""
    n = 5000
    clouds = [
        scenes.street(0.0).xyz, np.zeros((0, 3)), np.full((n, 3), np.nan), np.full((n, 3), 3e38), np.ones((n, 3)),
        scenes.street(0.2).xyz, np.array([[5.0, 0, 0]]), np.repeat([[5.0, 1, 0]], n, axis=0), scenes.street(0.3).xyz,
    ]  # fmt: skip
    sweeps = [PointCloud(c.astype(np.float32), np.zeros(len(c), np.float32), 0) for c in clouds]

    assert [r for r in _run(scenes, sweeps) if r.level is Level.ANOMALY] == []


# ---- real sweeps -------------------------------------------------------------------------------------------------


def _real(realdata: Path, numbers) -> list[PointCloud]:
    folder = realdata / "kitti_drive" / "velodyne"
    return [decode_sweep((folder / f"{n:010d}.bin").read_bytes(), 0)[0] for n in numbers]


def _mirrored(c: PointCloud) -> PointCloud:
    return PointCloud(np.ascontiguousarray(c.xyz * np.array([1, -1, 1], np.float32)), c.intensity, 0)


def _every_other_ring(c: PointCloud) -> PointCloud:
    az = np.arctan2(c.xyz[:, 1], c.xyz[:, 0]) % (2 * np.pi)
    keep = np.concatenate(([0], np.cumsum(np.diff(az) < -np.pi))) % 2 == 0
    return PointCloud(np.ascontiguousarray(c.xyz[keep]), c.intensity[keep], 0)


def _half(c: PointCloud) -> PointCloud:
    return PointCloud(np.ascontiguousarray(c.xyz[::2]), c.intensity[::2], 0)


def _front(c: PointCloud) -> PointCloud:
    keep = c.xyz[:, 0] > 0
    return PointCloud(np.ascontiguousarray(c.xyz[keep]), c.intensity[keep], 0)


def _turned(c: PointCloud) -> PointCloud:
    R = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]], np.float32)
    return PointCloud(np.ascontiguousarray(c.xyz @ R.T), c.intensity, 0)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("step", "change"),
    [
        *((step, None) for step in (1, 2, 5, -1)),
        *((1, change) for change in (_mirrored, _every_other_ring, _half, _front, _turned)),
    ],
)
def test_real_clean_sweeps_never_alarm_whatever_the_pace_or_pattern(scenes, realdata, step, change) -> None:
    """Skipped, reversed, mirrored, thinned, cropped and turned: the largest statistic keeps a clear margin."""
    for run in (range(12), range(24, 44)):
        sweeps = _real(realdata, list(run)[::step])
        results = _run(scenes, [change(s) for s in sweeps] if change else sweeps)

        assert [r for r in results if r.level is Level.ANOMALY] == []
        assert max(r.statistic for r in results) < 0.6 * ALARM_LLR
        assert sum(r.level is Level.OK for r in results) >= 0.6 * (len(results) - 1)


@pytest.mark.realdata
def test_ghosts_on_real_sweeps_are_found_where_the_street_is_free(scenes, realdata) -> None:
    """Replaced returns on real beams, 0.10 m and 0.35 m jitter: three of four alarm within five sweeps."""
    delays = {}
    for range_m in (6.5, 14.0):
        for points in (150, 400):
            for seed in range(4):
                sweeps = _real(realdata, range(9))
                for k in range(ONSET, len(sweeps)):
                    own = int(range_m * 1e6) + points * 1000 + seed * 100 + k
                    sweeps[k] = scenes.ghost(sweeps[k], range_m, np.radians(-150), points, 1.8, seed=own)
                delays[range_m, points, seed] = _delay(_run(scenes, sweeps))
    print(delays)  # noqa: T201 - the figures the docs quote
    found = [d for d in delays.values() if d is not None and d <= 5]

    assert len(found) >= 12
    assert np.median(found) <= 3
