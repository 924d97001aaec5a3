"""Attacks change what they say they change, when they say so, and nothing else."""

from __future__ import annotations

from math import atan2, cos, degrees, hypot, radians, sin

import numpy as np
import pytest

from edgeguard.sim.attacks.base import Injector
from edgeguard.sim.attacks.faults import CameraBlind, CameraFreeze, Silence, Unplug
from edgeguard.sim.attacks.gnss import GnssDrift
from edgeguard.sim.attacks.lidar import GhostPoints
from edgeguard.sim.camera import render
from edgeguard.sim.gnss import Gnss, radii_m
from edgeguard.sim.inertial import Imu
from edgeguard.sim.lidar import sweep
from edgeguard.sim.world import World
from edgeguard.types import GnssFix, Image, PointCloud


@pytest.fixture(scope="module")
def world() -> World:
    """One short drive."""
    return World(8, 20.0)


def test_samples_outside_an_attack_are_the_very_same_objects(world: World) -> None:
    """Before onset, after the end, and on other sensors, nothing is copied or changed; the end is exclusive."""
    injector = Injector([GnssDrift(2.0, 4.0, 1.0, 0.0)], seed=1)
    gnss, imu = Gnss(world, 1), Imu(world, 1)
    for k in range(60):
        fix = gnss.sample(k)
        attacked = 2.0 <= k / 10 < 4.0
        out = injector.apply(fix)
        assert (out is fix) is not attacked
    reading = imu.sample(300)
    assert injector.apply(reading) is reading


def test_gnss_drift_moves_position_and_velocity_together(world: World) -> None:
    """Position error grows by the rate, and the change of velocity is its derivative: no self-contradiction."""
    rate, bearing = 1.5, 40.0
    injector = Injector([GnssDrift(2.0, 12.0, rate, bearing)], seed=1)
    gnss = Gnss(world, 1)
    for k in (25, 60, 115):
        honest = gnss.sample(k)
        spoofed = injector.apply(honest)
        assert isinstance(spoofed, GnssFix)
        per_latitude, per_longitude = radii_m(honest.latitude_deg)
        north = radians(spoofed.latitude_deg - honest.latitude_deg) * per_latitude
        east = radians(spoofed.longitude_deg - honest.longitude_deg) * per_longitude
        assert hypot(north, east) == pytest.approx(rate * (k / 10 - 2.0), abs=1e-6)
        assert degrees(atan2(east, north)) == pytest.approx(bearing, abs=1e-4)
        for part, unit in ((sin, radians(bearing)), (cos, radians(bearing))):
            before = honest.speed_m_s * part(radians(honest.course_deg))  # type: ignore[operator,arg-type]
            after = spoofed.speed_m_s * part(radians(spoofed.course_deg))  # type: ignore[operator,arg-type]
            assert after - before == pytest.approx(rate * part(unit), abs=1e-9)


def test_ghost_points_displace_genuine_returns_of_the_same_beams(world: World) -> None:
    """Beams keep their directions and number; moved ones form a plate at the range, others stay bit for bit."""
    attack = GhostPoints(1.0, 3.0, points=200, range_m=12.0)
    honest = sweep(world, 2.0)
    spoofed = Injector([attack], seed=1).apply(honest)
    assert isinstance(spoofed, PointCloud)
    assert spoofed.xyz.shape == honest.xyz.shape
    moved = np.flatnonzero(np.any(spoofed.xyz != honest.xyz, axis=1))
    assert 150 <= len(moved) <= 200
    unit = spoofed.xyz[moved] / np.linalg.norm(spoofed.xyz[moved], axis=1, keepdims=True)
    genuine = honest.xyz[moved] / np.linalg.norm(honest.xyz[moved], axis=1, keepdims=True)
    np.testing.assert_allclose(unit, genuine, atol=1e-6)
    x, y, z = spoofed.xyz[moved].T
    assert abs(x.mean() - 12.0) < 1.2
    assert x.std() == pytest.approx(0.10, rel=0.25)
    assert np.abs(y).max() <= 0.95
    assert z.max() < 1.5 - 1.73 + 0.1
    assert spoofed.ring is honest.ring


def test_the_ghost_jumps_from_frame_to_frame_as_published(world: World) -> None:
    """The cluster's mean range scatters by 0.35 m over frames, and closing speed moves its trend."""
    steady = Injector([GhostPoints(0.0, 20.0, points=200, range_m=12.0)], seed=2)
    closing = Injector([GhostPoints(0.0, 20.0, points=200, range_m=30.0, closing_m_s=2.0)], seed=2)
    ranges, nearer = [], []
    for time_s in np.arange(1.0, 9.0, 0.2):
        honest = sweep(world, float(time_s))
        for injector, found in ((steady, ranges), (closing, nearer)):
            out = injector.apply(honest)
            assert isinstance(out, PointCloud)
            moved = np.any(out.xyz != honest.xyz, axis=1)
            found.append(out.xyz[moved, 0].mean())
    assert np.std(ranges) == pytest.approx(0.35, rel=0.35)
    slope = np.polyfit(np.arange(1.0, 9.0, 0.2), nearer, 1)[0]
    assert slope == pytest.approx(-2.0, abs=0.25)


def test_a_recording_without_rings_can_be_attacked_too(world: World) -> None:
    """Attacks need only what every value has."""
    honest = sweep(world, 2.0)
    bare = PointCloud(honest.xyz, honest.intensity, honest.stamp_ns + 5_000_000_000)
    out = Injector([GhostPoints(1.0, 3.0)], seed=1, origin_ns=5_000_000_000).apply(bare)
    assert isinstance(out, PointCloud)
    assert np.any(out.xyz != bare.xyz)
    assert out.ring is None


def test_a_frozen_camera_repeats_the_last_frame_under_new_stamps(world: World) -> None:
    """The pixels are those before onset; stamps go on."""
    injector = Injector([CameraFreeze(0.2, 0.4)], seed=1)
    frames = [injector.apply(render(world, k / 10)) for k in range(5)]
    assert all(isinstance(f, Image) for f in frames)
    pixels = [f.pixels for f in frames if isinstance(f, Image)]
    assert np.array_equal(pixels[2], pixels[1])
    assert np.array_equal(pixels[3], pixels[1])
    assert not np.array_equal(pixels[4], pixels[1])
    assert [f.stamp_ns for f in frames if f is not None] == [k * 100_000_000 for k in range(5)]


def test_glare_saturates_the_camera(world: World) -> None:
    """At full strength every pixel is white."""
    out = Injector([CameraBlind(0.0, 1.0)], seed=1).apply(render(world, 0.5))
    assert isinstance(out, Image)
    assert np.all(out.pixels == 255)


def test_silence_and_unplug_lose_samples_of_their_sensor_only(world: World) -> None:
    """None stands for a lost sample."""
    fix, reading = Gnss(world, 1).sample(30), Imu(world, 1).sample(300)
    assert Injector([Silence(2.0, 4.0, "gnss")], seed=1).apply(fix) is None
    assert Injector([Silence(2.0, 4.0, "gnss")], seed=1).apply(reading) is reading
    assert Injector([Unplug(2.0, "gnss")], seed=1).apply(fix) is None


def test_an_attack_repeats_with_its_seed_in_any_order(world: World) -> None:
    """Randomness hangs on seed and stamp, not on call order."""
    cloud = sweep(world, 2.0)
    first, second = Injector([GhostPoints(1.0, 3.0)], seed=1), Injector([GhostPoints(1.0, 3.0)], seed=1)
    second.apply(sweep(world, 1.5))
    a, b = first.apply(cloud), second.apply(cloud)
    assert isinstance(a, PointCloud)
    assert isinstance(b, PointCloud)
    np.testing.assert_array_equal(a.xyz, b.xyz)
    other = Injector([GhostPoints(1.0, 3.0)], seed=2).apply(cloud)
    assert isinstance(other, PointCloud)
    assert not np.array_equal(a.xyz, other.xyz)


def test_truth_names_target_and_times_on_the_clock() -> None:
    """Labels are stamps, shifted by the origin."""
    (truth,) = Injector([GnssDrift(2.0, 4.0, 1.0, 90.0)], seed=1, origin_ns=7).truths
    assert (truth.attack, truth.sensor, truth.start_ns, truth.end_ns) == (
        "gnss_drift",
        "gnss",
        2_000_000_007,
        4_000_000_007,
    )
    assert truth.size == "1 m/s towards 90 deg"
