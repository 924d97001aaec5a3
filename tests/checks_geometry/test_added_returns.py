"""L6.firings and L8.density: returns that were added to a sweep, and all the honest reasons for two in one place."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgeguard.checks.lidar_density import DensityCheck
from edgeguard.checks.lidar_evidence import LidarEvidence
from edgeguard.checks.lidar_firings import FiringsCheck, firing_step
from edgeguard.clock import ManualClock
from edgeguard.sensors.kitti import KittiRecording
from edgeguard.sim.attacks.base import Injector
from edgeguard.sim.attacks.insertion import LidarInsertion
from edgeguard.sim.lidar import sweep
from edgeguard.sim.presets import LIDARS
from edgeguard.sim.weather import WORLD_PRESETS
from edgeguard.sim.world import World
from edgeguard.types import CheckResult, Level, PointCloud, RigCalibration, SyncedSet, Tick

CALIBRATION = RigCalibration(np.eye(3), np.eye(4), (1242, 375))
ONSET, SWEEPS = 10, 13
SEED = 7301  # nothing was developed on worlds of this one or the next


@cache
def _drive(lidar: str, preset: str = "clear", seed: int = SEED, count: int = SWEEPS) -> tuple[PointCloud, ...]:
    world = World(seed, 0.1 * count + 2.0, WORLD_PRESETS[preset][0])
    return tuple(sweep(world, 1.0 + 0.1 * k, LIDARS[lidar][0]) for k in range(count))


def _run(sweeps) -> tuple[list[CheckResult], list[CheckResult]]:
    evidence = LidarEvidence(CALIBRATION)
    checks = (FiringsCheck(evidence), DensityCheck(evidence))
    out: tuple[list[CheckResult], list[CheckResult]] = ([], [])
    for k, cloud in enumerate(sweeps):
        synced = SyncedSet(Tick(k, cloud.stamp_ns, False), {"lidar": cloud}, {}, {})
        for results, check in zip(out, checks, strict=True):
            results.append(check.evaluate(synced))
    return out


def _alarms(results: list[CheckResult]) -> list[int]:
    return [k for k, r in enumerate(results) if r.level is Level.ANOMALY]


def _attacked(sweeps, attack: LidarInsertion) -> list[PointCloud]:
    injector = Injector([attack], seed=3)
    return [s if k < ONSET else injector.apply(s) for k, s in enumerate(sweeps)]


def _azimuth_of_free_road(cloud: PointCloud, range_m: float) -> float:
    """Degrees of the direction in which most beams pass a plate at that range and meet something farther."""
    best, most = 0.0, -1
    for azimuth in range(-180, 180, 10):
        off = (np.degrees(np.arctan2(cloud.xyz[:, 1], cloud.xyz[:, 0])) - azimuth + 180.0) % 360.0 - 180.0
        here = (np.abs(off) < 5.0) & (np.hypot(cloud.xyz[:, 0], cloud.xyz[:, 1]) > range_m + 2.0)
        below = here & (cloud.xyz[:, 2] < 0.0)
        if np.count_nonzero(below) > most:
            best, most = float(azimuth), np.count_nonzero(below)
    return best


@pytest.mark.parametrize(("lidar", "preset"), [("street", "busy"), ("hdl64", "trucks"), ("vlp32c", "hills")])
@pytest.mark.parametrize("on_beams", [True, False])
def test_returns_that_were_added_are_found_in_the_second_sweep(lidar: str, preset: str, on_beams: bool) -> None:
    """A hundred of them on the beams of genuine ones, or anywhere between; nothing before."""
    sweeps = _drive(lidar, preset)
    azimuth = _azimuth_of_free_road(sweeps[ONSET], 9.0)
    attack = LidarInsertion(0.0, 9.0, points=100, range_m=9.0, azimuth_deg=azimuth, on_beams=on_beams)

    firings, _ = _run(_attacked(sweeps, attack))

    assert _alarms(firings)[:1] == [ONSET + 1]
    assert firings[ONSET - 1].level is Level.OK
    assert firings[ONSET - 1].power == pytest.approx(24.0)
    found = float(firings[-1].reason.split("around ")[1].split(" deg")[0])
    assert abs((found - azimuth + 180.0) % 360.0 - 180.0) < 15.0


@pytest.mark.parametrize(("lidar", "preset"), [("street", "busy"), ("hdl64", "trucks"), ("os1_64", "clear")])
def test_a_dense_body_among_genuine_returns_is_too_many_without_any_rings(lidar: str, preset: str) -> None:
    """A thousand beams of a plate answer twice: more returns than the sensor fires there."""
    sweeps = [replace(s, ring=None) for s in _drive(lidar, preset, SEED + 1)]
    azimuth = _azimuth_of_free_road(sweeps[ONSET], 9.0)
    attack = LidarInsertion(0.0, 9.0, points=1000, range_m=9.0, azimuth_deg=azimuth)

    firings, density = _run(_attacked(sweeps, attack))

    assert all(r.level is Level.NOT_OBSERVABLE for r in firings)
    assert "rings" in firings[0].reason
    assert _alarms(density)[:1] == [ONSET + 1]
    assert density[ONSET - 1].level is Level.OK
    assert 0 < density[ONSET - 1].power < 200


def test_a_sensor_of_two_returns_is_not_judged() -> None:
    """Depth edges give pairs all round: that is its mode, whatever is added."""
    firings, density = _run(_drive("vlp16_dual"))

    for results in (firings, density):
        assert all(r.level is Level.NOT_OBSERVABLE for r in results)
        assert results[-1].power == float("inf")
    assert "several returns" in firings[-1].reason


def test_the_seam_of_a_turn_is_no_addition() -> None:
    """Drivers that cut by packets give some degrees of the turn before once more."""
    sweeps = _drive("vlp32c", "busy")
    joined = []
    for before, cloud in pairwise(sweeps):
        again = np.degrees(np.arctan2(before.xyz[:, 1], before.xyz[:, 0])) < -176.0
        joined.append(
            replace(
                cloud,
                xyz=np.concatenate([cloud.xyz, before.xyz[again]]),
                intensity=np.concatenate([cloud.intensity, before.intensity[again]]),
                ring=np.concatenate([cloud.ring, before.ring[again]]),
                time_offset_ns=None,
            )
        )

    firings, density = _run(joined)

    assert firings[-1].level is Level.OK
    assert _alarms(firings) == _alarms(density) == []


def test_clouds_turned_to_one_instant_are_not_judged() -> None:
    """Motion compensation moves near returns in front of others' directions, in proportion to speed."""
    sweeps = []
    for cloud in _drive("hdl64", "busy"):
        moved = cloud.xyz.copy()
        moved[:, 0] += np.float32(10.0) * cloud.time_offset_ns.astype(np.float32) / np.float32(1e9)
        sweeps.append(replace(cloud, xyz=moved))

    firings, density = _run(sweeps)

    assert _alarms(firings) == _alarms(density) == []
    assert firings[-1].level is Level.NOT_OBSERVABLE


def test_nothing_is_learned_from_a_vehicle_at_rest() -> None:
    """The same sweep again and again says nothing about what a driver does to moving ones."""
    cloud = _drive("street")[0]
    still = [replace(cloud, stamp_ns=cloud.stamp_ns + k * 100_000_000) for k in range(6)]

    for results in _run(still):
        assert all(r.level is Level.NOT_OBSERVABLE for r in results)
        assert "learning" in results[-1].reason


@pytest.mark.parametrize("lidar", ["street", "hdl64", "vlp16", "vlp32c", "os1_64"])
def test_the_step_between_firings_is_read_off_the_fullest_rings(lidar: str) -> None:
    """Also of a sensor with two returns; none of rings with a handful of returns."""
    cloud = _drive(lidar)[0]

    assert firing_step(cloud.xyz, cloud.ring) == pytest.approx(2 * np.pi / LIDARS[lidar][0].columns, rel=0.02)
    assert firing_step(cloud.xyz[:50], cloud.ring[:50]) is None


def test_broken_rings_and_points_are_no_reason_to_fail() -> None:
    """Ring numbers out of range, NaN and short arrays: not observable or fine, and no exception."""
    rng = np.random.default_rng(5)
    sweeps = []
    for cloud in _drive("street"):
        xyz, ring = cloud.xyz.copy(), cloud.ring.copy()
        ring[rng.random(len(ring)) < 0.01] = -7
        ring[rng.random(len(ring)) < 0.01] = 32767
        xyz[rng.random(len(ring)) < 0.01] = np.nan
        ring.flags.writeable = False
        sweeps.append(replace(cloud, xyz=xyz, ring=ring[: len(ring) - 5]))

    for results in _run(sweeps):
        assert _alarms(results) == []


@pytest.mark.realdata
def test_recorded_sweeps_are_clean_and_added_bodies_are_found_in_them(realdata: Path) -> None:
    """The KITTI drive has no rings: the density alone is judged, in 26 of 32 sweeps, and never by two thirds."""
    recording = KittiRecording(realdata / "kitti_drive")
    clock = ManualClock()
    source = recording.sources(clock)["lidar"]
    sweeps = []
    for tick in recording.ticks():
        clock.wait_until_ns(tick.stamp_ns)
        sweeps.append(source.read(0))

    firings, density = _run(sweeps)
    attack = LidarInsertion(0.0, 9e3, points=1500, range_m=9.0, azimuth_deg=5.0)
    injector = Injector([attack], seed=3)
    _, attacked = _run([s if k < ONSET else injector.apply(s) for k, s in enumerate(sweeps[: ONSET + 2])])

    assert all(r.level is Level.NOT_OBSERVABLE for r in firings)
    assert sum(r.level is Level.OK for r in density) >= 20
    assert max(r.statistic for r in density) < 0.67
    assert _alarms(attacked) == [ONSET + 1]
