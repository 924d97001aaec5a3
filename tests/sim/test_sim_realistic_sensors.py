"""What sensors do besides seeing: noise by IEEE 952, clocks, satellites, planar lidars, shutters, mixed pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pynmeagps import NMEAReader
from pyubx2 import UBXReader

from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.ld06 import Ld06Decoder
from edgeguard.protocols.rplidar import RplidarDecoder
from edgeguard.sim import camera as sim_camera
from edgeguard.sim import lidar as sim_lidar
from edgeguard.sim.camera import CameraModel
from edgeguard.sim.clocks import ClockModel, SensorClock
from edgeguard.sim.gnss import Gnss, GnssModel
from edgeguard.sim.inertial import GRAVITY_M_S2, Imu, ImuModel, error_series, true_motion
from edgeguard.sim.lidar import LidarModel
from edgeguard.sim.lidar2d import DEFAULT_LIDAR2D, RPLIDAR_DESCRIPTOR, ld06_bytes, rplidar_bytes, scan
from edgeguard.sim.optics import distorted, undistorted
from edgeguard.sim.presets import BOARDS, CAMERAS, CLOCKS, IMUS, LIDARS, RECEIVERS, WHEELS
from edgeguard.sim.receiver import nmea_epoch, ubx_epoch
from edgeguard.sim.rig import SerialModels, SimRig
from edgeguard.sim.weather import WORLD_PRESETS, Conditions
from edgeguard.sim.wheels import Wheels
from edgeguard.sim.world import World


@pytest.fixture(scope="module")
def world() -> World:
    """One street for the whole module."""
    return World(3, 30.0)


def allan(series: np.ndarray, count: int) -> np.ndarray:
    """Allan deviation of (N, 6) at `count` samples, without overlap."""
    groups = len(series) // count
    means = series[: groups * count].reshape(groups, count, -1).mean(axis=1)
    return np.sqrt(0.5 * np.mean(np.square(np.diff(means, axis=0)), axis=0))


def test_the_allan_deviation_of_the_euroc_unit_has_its_slopes_and_densities() -> None:
    """White noise falls with slope -1/2 and reads N at one second; random walk rises with +1/2 and reads K at three."""
    model = IMUS["euroc"][0]
    errors = np.concatenate([error_series(model, np.random.default_rng(k), 500_000) for k in range(3)], axis=1)
    short, long = [4, 8, 16], [16_000, 32_000]
    found = {n: allan(errors, n).reshape(3, 2, 3).mean(axis=(0, 2)) for n in (*short, *long)}
    for unit, (noise, walk) in enumerate(((1.70e-4, 1.94e-5), (2.0e-3, 3.0e-3))):
        slope = np.polyfit(np.log(short), np.log([found[n][unit] for n in short]), 1)[0]
        assert slope == pytest.approx(-0.5, abs=0.06 if unit == 0 else 0.2)
        assert found[4][unit] * np.sqrt(4 / 200) == pytest.approx(noise, rel=0.08)
        assert np.log2(found[32_000][unit] / found[16_000][unit]) == pytest.approx(0.5, abs=0.25)
        assert found[16_000][unit] / np.sqrt(16_000 / 200 / 3) == pytest.approx(walk, rel=0.3)


def test_bias_instability_is_a_flat_floor() -> None:
    """Without the other terms, the Allan deviation stays at the stated figure from one to fifty seconds."""
    still = ImuModel(gyro_noise=0, gyro_walk=0, accel_noise=0, accel_walk=0, gyro_bias_rad_s=0, accel_bias_m_s2=0)
    errors = error_series(
        replace(still, gyro_instability=1e-4, accel_instability=2e-3), np.random.default_rng(1), 60_000
    )
    for count in (100, 500, 2500):
        deviation = allan(errors, count)
        assert deviation[:3].mean() == pytest.approx(1e-4, rel=0.25)
        assert deviation[3:].mean() == pytest.approx(2e-3, rel=0.25)


def test_counts_rails_and_crossed_axes_show_in_a_cheap_unit(world: World) -> None:
    """Readings are whole counts, stop at the rails, and gravity leaks into the other axes."""
    cheap = Imu(world, 1, IMUS["mpu6050"][0])
    read = [cheap.sample(k) for k in range(200)]
    counts = np.array([s.accel_m_s2 for s in read]) * 16384 / 9.81
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
    railed = Imu(world, 1, ImuModel(accel_range_m_s2=5.0)).sample(50)
    assert railed.accel_m_s2[2] == 5.0
    tilted = ImuModel(misalignment_rad=0.05, accel_noise=0, vibration_m_s2=(0, 0, 0), accel_bias_m_s2=0, accel_walk=0)
    plain = replace(tilted, misalignment_rad=0.0)
    gap = np.array(Imu(world, 1, tilted).sample(10).accel_m_s2) - np.array(Imu(world, 1, plain).sample(10).accel_m_s2)
    assert np.abs(gap[:2]).max() > 0.05


def test_a_leaning_vehicle_feels_gravity_and_its_own_turning() -> None:
    """Rates integrate to the attitude that the truth has; force is gravity plus acceleration in the leaning frame."""
    hilly = World(2, 30.0, WORLD_PRESETS["hills"][0])
    pitch, roll, step = hilly.ego(5.0).pitch_rad, hilly.ego(5.0).roll_rad, 1e-3
    for k in range(5000):
        ego = hilly.ego(5.0 + (k + 0.5) * step)
        wx, wy, wz = true_motion(ego)[0]
        cr, sr = np.cos(ego.roll_rad), np.sin(ego.roll_rad)
        pitch += (cr * wy - sr * wz) * step
        roll += (wx + np.tan(ego.pitch_rad) * (sr * wy + cr * wz)) * step
    end = hilly.ego(10.0)
    assert pitch == pytest.approx(end.pitch_rad, abs=1e-4)
    assert roll == pytest.approx(end.roll_rad, abs=1e-4)
    force = np.array(true_motion(end)[1])
    level = [end.accel_forward_m_s2, end.accel_left_m_s2, end.accel_up_m_s2 + GRAVITY_M_S2]
    assert np.linalg.norm(force) == pytest.approx(np.linalg.norm(level), rel=1e-9)
    assert abs(force[0] - end.accel_forward_m_s2) > 0.02  # gravity along a slope


def test_the_ground_under_the_lidar_is_the_hill_that_the_world_has() -> None:
    """Ground returns, put into the world by the true attitude, lie on the height field."""
    hilly = World(2, 30.0, Conditions(grade=0.05, roughness="B"))
    exact = LidarModel(range_sigma_m=0.0)
    seen = sim_lidar.view(hilly, 6.0, exact)
    ego = hilly.ego(6.0)
    cr, sr, cp, sp = np.cos(ego.roll_rad), np.sin(ego.roll_rad), np.cos(ego.pitch_rad), np.sin(ego.pitch_rad)
    cy, sy = np.cos(ego.yaw_rad), np.sin(ego.yaw_rad)
    rotation = (
        np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
        @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
        @ np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    )
    placed = (seen.cloud.xyz.astype(float) + exact.mount_m) @ rotation.T + [ego.east_m, ego.north_m, ego.up_m]
    above = placed[:, 2] - hilly.ground.height(placed[:, 0], placed[:, 1])
    low = above < 0.08
    assert low.mean() > 0.3
    assert np.abs(above[low]).max() < 0.08
    assert np.median(np.abs(above[low])) < 0.01
    assert abs(ego.pitch_rad) + abs(ego.roll_rad) > 0.003


def test_satellites_are_heard_through_third_party_parsers_and_weaken_together() -> None:
    """GSV and UBX of one epoch say the same; independent parsers and our own decoder read them."""
    gnss = Gnss(World(1, 10.0), 1, GnssModel(constellation=True))
    fix = gnss.sample(30)
    assert len(fix.signals) >= 12
    high = [s.cn0_dbhz for s in fix.signals if (s.elevation_deg or 0) > 50]
    low = [s.cn0_dbhz for s in fix.signals if (s.elevation_deg or 0) < 20]
    if high and low:
        assert np.mean(high) > np.mean(low) + 3
    text = nmea_epoch(fix, gnss.azimuths(), with_sky=True)
    parsed = [NMEAReader.parse(line + b"\r\n") for line in text.split(b"\r\n") if line]
    views = [m for m in parsed if m.msgID == "GSV"]
    heard = [getattr(m, f"cno_{k:02d}") for m in views for k in range(1, 5) if hasattr(m, f"cno_{k:02d}")]
    assert sorted(heard) == sorted(round(s.cn0_dbhz) for s in fix.signals)
    ubx = ubx_epoch(fix, gnss.azimuths(), with_sky=True)
    length = 8 + 8 + 12 * len(fix.signals)
    sky, place = UBXReader.parse(ubx[:length]), UBXReader.parse(ubx[length:])
    assert sky.identity == "NAV-SAT"
    assert place.identity == "NAV-PVT"
    assert place.lat == pytest.approx(fix.latitude_deg, abs=1e-6)
    assert place.gSpeed / 1000 == pytest.approx(fix.speed_m_s, abs=2e-3)
    assert sorted(getattr(sky, f"cno_{k:02d}") for k in range(1, sky.numSvs + 1)) == sorted(heard)
    weaker = replace(fix, cn0_dbhz=tuple(c - 10 for c in fix.cn0_dbhz))
    decoder = GnssDecoder(ends=["RMC"])
    records = decoder.feed(nmea_epoch(weaker, gnss.azimuths(), with_sky=True))
    told = [s.cn0_dbhz for s in records[-1].satellites if s.cn0_dbhz]
    assert np.mean(told) == pytest.approx(np.mean(heard) - 10, abs=0.6)


def test_a_tunnel_takes_the_satellites_and_gives_them_back() -> None:
    """Inside there is no fix; before and after there is, as loud as in the open: no jammer."""
    under = World(1, 30.0, WORLD_PRESETS["tunnel"][0])
    gnss = Gnss(under, 1, GnssModel(constellation=True))
    fixes = [gnss.sample(k) for k in range(300)]
    inside = np.array([under.sky_share(k / 10) == 0.0 for k in range(300)])
    assert 20 < inside.sum() < 150
    assert all((fix.fix_quality == 0) == bool(hidden) for fix, hidden in zip(fixes, inside, strict=True))
    before = np.mean([np.mean(f.cn0_dbhz) for f in fixes[:40]])
    after = np.mean([np.mean(f.cn0_dbhz) for f in fixes[-40:]])
    assert after == pytest.approx(before, abs=2.0)
    lost = next(f for f, hidden in zip(fixes, inside, strict=True) if hidden)
    text = nmea_epoch(lost, gnss.azimuths(), with_sky=True)
    assert b",V," in text
    assert GnssDecoder(ends=["RMC"]).feed(text) == []


def test_planar_scans_come_back_out_of_ld06_and_rplidar_bytes(world: World) -> None:
    """Our decoders read the bytes without a failure; ranges return to a millimetre, angles to a sixty-fourth degree."""
    scans = [scan(world, 2.0 + k / 10) for k in range(3)]
    ld06, rplidar = Ld06Decoder(), RplidarDecoder()
    turns = [t for s in scans for t in ld06.feed(ld06_bytes(s))]
    assert ld06.line_stats.checksum_failures == 0
    assert ld06.line_stats.bytes_skipped == 0
    assert ld06.line_stats.frames == 3 * DEFAULT_LIDAR2D.points // 12
    assert len(turns) >= 2
    nodes = rplidar.feed(RPLIDAR_DESCRIPTOR + b"".join(rplidar_bytes(s) for s in scans))
    assert rplidar.line_stats.bytes_skipped == 0
    first, seen = nodes[0], scans[0].range_m > 0
    assert len(first.range_m) == seen.sum()
    truth = sorted(zip(scans[0].angle_rad[seen] % (2 * np.pi), scans[0].range_m[seen], strict=True))
    found = sorted(zip(first.angle_rad % (2 * np.pi), first.range_m, strict=True))
    np.testing.assert_allclose(found, truth, atol=2e-3)


def test_an_independent_checksum_agrees_on_ld06_packets(world: World) -> None:
    """The CRC-8 with polynomial 0x4D, bit by bit."""
    for packet in np.frombuffer(ld06_bytes(scan(world, 4.0)), np.uint8).reshape(-1, 47):
        crc = 0
        for byte in packet[:-1]:
            crc ^= int(byte)
            for _ in range(8):
                crc = ((crc << 1) ^ 0x4D if crc & 0x80 else crc << 1) & 0xFF
        assert crc == packet[-1]
        assert tuple(packet[:2]) == (0x54, 0x2C)


def test_clocks_drift_lose_repeat_and_wait_for_the_line() -> None:
    """Offset and drift are exact, shares are met, and a slow line delivers at its own rate."""
    clock = SensorClock(ClockModel(offset_s=0.5, drift_ppm=100.0), 1, "imu")
    assert clock.device_ns(10 * NS_PER_S) == 10 * NS_PER_S + NS_PER_S // 2 + 1_000_000
    rough = SensorClock(ClockModel(jitter_s=0.01, loss=0.1, duplication=0.05, reorder=0.05), 1, "gnss")
    every = [rough.arrivals(k, k * NS_PER_S) for k in range(3000)]
    assert np.mean([len(a) == 0 for a in every]) == pytest.approx(0.1, abs=0.02)
    assert np.mean([len(a) == 2 for a in every]) == pytest.approx(0.05 * 0.9, abs=0.015)
    late = [a[0] - k * NS_PER_S for k, a in enumerate(every) if len(a) == 1]
    assert np.mean(late) == pytest.approx((0.01 + 0.05 * 0.1) * NS_PER_S, rel=0.15)
    assert every[5] == rough.arrivals(5, 5 * NS_PER_S)
    line = SensorClock(ClockModel(baud=9600), 1, "gnss")
    done = [line.arrivals(k, k * 100_000_000, size=480)[0] for k in range(10)]
    assert np.diff(done).min() == 480 * 10 * NS_PER_S // 9600


def test_a_rig_delivers_by_its_sensors_clocks_and_tells_its_satellites() -> None:
    """Through the pseudo-terminals: a drifting unit's stamps run ahead, lost samples are missing, strengths arrive."""
    clock = ManualClock()
    models = SerialModels(gnss=GnssModel(constellation=True))
    clocks = {"imu": ClockModel(drift_ppm=200.0, loss=0.2)}
    with SimRig(World(1, 6.0), clock, 1, sensors=("imu", "gnss"), models=models, clocks=clocks) as rig:
        for source in rig.sources.values():
            source.open()
        imu, fixes = [], []
        while not rig.finished:
            clock.wait_until_ns(clock.now_ns() + 5_000_000)
            while (sample := rig.sources["imu"].read(0.0)) is not None:
                imu.append(sample)
            while (sample := rig.sources["gnss"].read(0.0)) is not None:
                fixes.append(sample)
    assert 600 * 0.7 < len(imu) < 600 * 0.9
    gained = (imu[-1].device_stamp_ns - imu[0].device_stamp_ns) / (imu[-1].stamp_ns - imu[0].stamp_ns) - 1.0
    assert gained * 1e6 == pytest.approx(200.0, abs=100.0)  # stamps on the wire are whole microseconds
    heard = [fix.cn0_dbhz for fix in fixes if fix.cn0_dbhz]
    assert len(heard) >= 3
    assert all(len(strengths) >= 8 for strengths in heard)


def test_distortion_is_undone_to_a_billionth() -> None:
    """Distorting what was undistorted gives the place back, for every preset lens, over the whole picture."""
    for camera, _ in CAMERAS.values():
        if not camera.distortion:
            continue
        v, u = np.mgrid[0 : camera.height_px : 20, 0 : camera.width_px : 20]
        x, y = (u - camera.cx_px) / camera.focal_px, (v - camera.cy_px) / camera.focal_px
        back = distorted(*undistorted(x, y, camera.distortion), camera.distortion)
        np.testing.assert_allclose(back, (x, y), atol=1e-7)


def test_lidar_points_land_on_the_same_objects_through_a_distorted_rolling_lens() -> None:
    """Edges agree to the pixel: points of an instant sweep hit the same object in the rows taken at that instant."""
    world = World(3, 30.0, WORLD_PRESETS["hills"][0])
    camera = CameraModel(640, 480, 500.0, 319.5, 239.5, distortion=(0.16, -0.30, 0.0, 0.0), readout_s=0.020)
    seen, swept = sim_camera.view(world, 8.0, camera), sim_lidar.view(world, 8.0, LidarModel(range_sigma_m=0.0))
    optical = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    at = (swept.cloud.xyz.astype(float) + swept_mount() - np.array(camera.mount_m)) @ optical.T
    front = at[:, 2] > 1.0
    u, v = distorted(at[front, 0] / at[front, 2], at[front, 1] / at[front, 2], camera.distortion)
    wide = np.abs(at[front, 0] / at[front, 2]) < 0.65
    column, row = np.round(u * 500 + 319.5).astype(int), np.round(v * 500 + 239.5).astype(int)
    # Away from the middle row the picture is of another moment; there the agreement is looser.
    inside = wide & (column >= 0) & (column < 640) & (row >= 180) & (row < 300)
    same = seen.object_id[row[inside], column[inside]] == swept.object_id[front][inside]
    assert inside.sum() > 3000
    assert same.mean() > 0.96


def swept_mount() -> np.ndarray:
    return np.array(LidarModel().mount_m)


def test_a_rolling_shutter_leans_what_moves_across(world: World) -> None:
    """Top and bottom of a scene are taken 20 ms apart: close things shift against an instant picture, at the ends."""
    still, rolling = CameraModel(), CameraModel(readout_s=0.04)
    one, two = sim_camera.view(world, 5.0, still), sim_camera.view(world, 5.0, rolling)
    middle = np.mean(one.object_id[180:204] != two.object_id[180:204])
    bottom = np.abs(one.depth_m[-60:] - two.depth_m[-60:])
    assert middle < 0.03
    assert np.median(bottom) < 1e-3  # flat ground looks the same from everywhere
    assert np.mean(one.object_id[300:] != two.object_id[300:]) > middle


def test_beams_on_an_edge_see_both_surfaces() -> None:
    """With a wide beam some ranges hang between two surfaces; with two returns the one behind is told too."""
    world = World(1, 10.0)
    thin = sim_lidar.view(world, 5.0, LidarModel(range_sigma_m=0.0))
    wide = sim_lidar.view(world, 5.0, LidarModel(range_sigma_m=0.0, beam_rad=0.006))
    dual = sim_lidar.view(world, 5.0, LidarModel(range_sigma_m=0.0, beam_rad=0.006, dual_return=True))
    changed = np.setdiff1d(np.round(wide.true_range_m, 3), np.round(thin.true_range_m, 3))
    assert 0.0005 < len(changed) / len(thin.true_range_m) < 0.15
    assert len(dual.cloud.xyz) > len(wide.cloud.xyz) + 100


@pytest.mark.parametrize("name", sorted(WORLD_PRESETS))
def test_every_world_preset_is_seen_by_camera_and_lidar_and_repeats(name: str) -> None:
    """Pictures are exposed, clouds are full, and a second world gives the same bytes."""
    conditions, words = WORLD_PRESETS[name]
    assert words
    pairs = []
    for _ in range(2):
        world = World(4, 12.0, conditions)
        pairs.append((sim_camera.render(world, 6.0).pixels, sim_lidar.sweep(world, 6.0).xyz))
    np.testing.assert_array_equal(pairs[0][0], pairs[1][0])
    np.testing.assert_array_equal(pairs[0][1], pairs[1][1])
    assert 40 < pairs[0][0].mean() < 215
    assert pairs[0][0].std() > 15
    assert len(pairs[0][1]) > 40_000


def test_fog_and_rain_answer_pulses_and_take_range() -> None:
    """Drops appear near the sensor, far returns go missing, and far contrast falls."""
    clear, foggy = (World(4, 12.0, WORLD_PRESETS[name][0]) for name in ("clear", "fog"))
    one, two = sim_lidar.view(clear, 6.0), sim_lidar.view(foggy, 6.0)
    assert np.isinf(two.true_range_m).mean() > 0.02
    assert not np.isinf(one.true_range_m).any()
    assert np.sum(two.true_range_m[np.isfinite(two.true_range_m)] > 40) < 0.6 * np.sum(one.true_range_m > 40)
    rainy = sim_lidar.view(World(4, 12.0, WORLD_PRESETS["rain"][0]), 6.0)
    assert 0.001 < np.isinf(rainy.true_range_m).mean() < 0.05


def test_every_preset_of_a_board_exists_and_every_sensor_preset_works(world: World) -> None:
    """Boards name presets that exist; each gives a sample."""
    tables = {"camera": CAMERAS, "lidar": LIDARS, "imu": IMUS, "gnss": RECEIVERS, "wheels": WHEELS}
    for parts, _ in BOARDS.values():
        assert all(parts[sensor] in table for sensor, table in tables.items())
    for lidar, _ in LIDARS.values():
        cloud = sim_lidar.sweep(world, 3.0, replace(lidar, columns=256))
        assert cloud.ring is not None
        assert len(np.unique(cloud.ring)) > 0.6 * len(lidar.elevations_deg)
    for imu, _ in IMUS.values():
        assert abs(Imu(world, 1, imu).sample(100).accel_m_s2[2] - 9.81) < 2.5
    for wheels, _ in WHEELS.values():
        assert 4.0 < Wheels(world, 1, wheels).sample(50).speed_m_s < 15.0
    assert all(SensorClock(clock, 1, "x").arrivals(0, 5) is not None for clock, _ in CLOCKS.values())
