"""GNSS, IMU and wheels against the truth of the drive they measured."""

from __future__ import annotations

from math import cos, hypot, radians

import numpy as np
import pytest
from pynmeagps import NMEAReader

from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.sim.gnss import Gnss, radii_m
from edgeguard.sim.inertial import Imu, ImuModel
from edgeguard.sim.rig import _send_gnss
from edgeguard.sim.wheels import WheelModel, Wheels, true_wheel_speeds
from edgeguard.sim.world import World


@pytest.fixture(scope="module")
def world() -> World:
    """One drive of half a minute."""
    return World(6, 30.0)


def test_the_gyro_integrates_back_to_the_heading(world: World) -> None:
    """Summed over 20 s, z rate gives the true turn within bias and noise (0.1 deg/s is 2 degrees)."""
    imu = Imu(world, 6)
    turned = sum(imu.sample(k).gyro_rad_s[2] for k in range(100, 2100)) / 100.0
    truth = world.ego(21.0).yaw_rad - world.ego(1.0).yaw_rad
    assert turned == pytest.approx(truth, abs=20.0 * 3 * ImuModel().gyro_bias_rad_s + 0.01)


def test_imu_noise_has_the_published_density(world: World) -> None:
    """White noise of the x gyro, which measures nothing else, is EuRoC's density times the root of the rate."""
    values = np.array([Imu(world, 6).sample(k).gyro_rad_s[0] for k in (0,)])
    assert np.isfinite(values).all()
    imu = Imu(world, 6)
    x = np.array([imu.sample(k).gyro_rad_s[0] for k in range(3000)])
    assert np.diff(x).std() / np.sqrt(2) == pytest.approx(1.7e-4 * 10.0, rel=0.05)


def test_the_accelerometer_feels_gravity_and_the_drive(world: World) -> None:
    """Averaged over half a second, forward and sideways force follow the truth and up reads gravity."""
    imu = Imu(world, 6)
    for start in (200, 1200, 2400):
        mean = np.mean([imu.sample(k).accel_m_s2 for k in range(start, start + 50)], axis=0)
        truth = [world.ego(k / 100) for k in range(start, start + 50)]
        assert mean[0] == pytest.approx(np.mean([e.accel_forward_m_s2 for e in truth]), abs=0.2)
        assert mean[1] == pytest.approx(np.mean([e.accel_left_m_s2 for e in truth]), abs=0.2)
        assert mean[2] == pytest.approx(9.81, abs=0.25)


def test_wheel_speed_follows_the_vehicle_within_its_scale_error(world: World) -> None:
    """Each wheel's mean over the drive is its true rolling speed times its own scale, to a tenth of a per mille."""
    wheels, model = Wheels(world, 6), WheelModel()
    samples = [wheels.sample(k) for k in range(1, 1400)]
    truth = [true_wheel_speeds(world.ego((k - 0.5) / 50), model) for k in range(1, 1400)]
    for wheel in range(4):
        ratio = sum(s.wheel_speeds_m_s[wheel] for s in samples if s.wheel_speeds_m_s) / sum(t[wheel] for t in truth)
        assert ratio == pytest.approx(wheels.scales[wheel], abs=1e-4)
        assert abs(ratio - 1.0) < 0.025
    step = model.rate_hz / model.ticks_per_m
    first = samples[0].wheel_speeds_m_s
    assert first is not None
    assert all(v / step == pytest.approx(round(v / step), abs=1e-6) for v in first)


def test_left_and_right_wheels_tell_the_turn(world: World) -> None:
    """The rear axle's speed difference over the track is the yaw rate, on average over a second."""
    wheels, model = Wheels(world, 6), WheelModel()
    for start in (100, 400, 900):
        four = np.mean([wheels.sample(k).wheel_speeds_m_s for k in range(start, start + 50)], axis=0)
        rate = (four[3] / wheels.scales[3] - four[2] / wheels.scales[2]) / model.track_m
        truth = np.mean([world.ego(k / 50).yaw_rate_rad_s for k in range(start, start + 50)])
        assert rate == pytest.approx(truth, abs=0.02)


def test_gnss_position_wanders_slowly_around_the_truth(world: World) -> None:
    """Errors are metres, but within ten seconds they move only by decimetres."""
    gnss = Gnss(world, 6)
    per_latitude, per_longitude = radii_m(48.137)
    errors = []
    for k in range(300):
        fix, ego = gnss.sample(k), world.ego(k / 10)
        north = radians(fix.latitude_deg - 48.137) * per_latitude - ego.north_m
        east = radians(fix.longitude_deg - 11.575) * per_longitude - ego.east_m
        errors.append((east, north))
    error = np.array(errors)
    assert np.abs(error).max() < 6.0
    moved = error[100:] - error[:-100]
    assert 0.05 < moved.std() < 0.6
    assert np.abs(np.diff(error, axis=0)).max() < 0.3


def test_gnss_velocity_is_doppler_quiet(world: World) -> None:
    """Speed is within a few times 0.05 m/s of the truth and course points along the heading."""
    gnss = Gnss(world, 6)
    difference = [gnss.sample(k).speed_m_s - world.ego(k / 10).speed_m_s for k in range(300)]  # type: ignore[operator]
    assert np.std(difference) == pytest.approx(0.05, rel=0.25)
    fix, ego = gnss.sample(77), world.ego(7.7)
    assert fix.course_deg is not None
    course = radians(90.0 - fix.course_deg)
    assert cos(course - ego.yaw_rad) > 0.999


def test_what_the_receiver_sends_is_nmea_for_others_too(world: World) -> None:
    """pynmeagps reads our GGA and RMC, and what it and our decoder read is what was measured, to a millimetre."""
    fix = Gnss(world, 6).sample(55)
    data = _send_gnss(fix)
    lines = data.decode().splitlines()
    assert [line[3:6] for line in lines] == ["GGA", "RMC"]
    for line in lines:
        message = NMEAReader.parse(line + "\r\n", validate=1)
        assert message.lat == pytest.approx(fix.latitude_deg, abs=1e-8)
        assert message.lon == pytest.approx(fix.longitude_deg, abs=1e-8)
    (record,) = GnssDecoder(ends=["RMC"]).feed(data)
    assert record.latitude_deg is not None
    assert record.longitude_deg is not None
    assert record.utc_ns == fix.device_stamp_ns
    assert hypot(record.latitude_deg - fix.latitude_deg, record.longitude_deg - fix.longitude_deg) < 1e-8
    assert record.speed_m_s == pytest.approx(fix.speed_m_s, abs=3e-4)
    assert record.course_deg == pytest.approx(fix.course_deg, abs=6e-4)
