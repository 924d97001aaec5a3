"""Every attack of the library does on its sensor what its physics says, in its window, and nothing elsewhere."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from math import cos, hypot, radians, sin
from typing import Any

import numpy as np
import pytest

from edgeguard.errors import ScenarioError
from edgeguard.sim.attacks.base import DAMAGED, AttackBase, Injector
from edgeguard.sim.attacks.camera import CameraBanding, CameraDirt, CameraPatch, CameraPhantom
from edgeguard.sim.attacks.gnss import GnssJam, GnssJump, GnssMeacon, GnssTwoStage
from edgeguard.sim.attacks.lidar import GhostFrustum, LidarBlockage, LidarHfr, LidarMirror, LidarRemoval
from edgeguard.sim.attacks.link import (
    BitFlips,
    ClockDrift,
    LinkDelay,
    LoopReplay,
    RogueSource,
    StaleData,
    Truncate,
    WireReplay,
)
from edgeguard.sim.attacks.motion import ImuResonance, ImuSaturation, WheelScale, WheelSlip, WheelStuck
from edgeguard.sim.attacks.registry import ATTACKS, attack_class, attack_info
from edgeguard.sim.attacks.system import SYSTEM_PARTS
from edgeguard.sim.camera import render
from edgeguard.sim.gnss import Gnss, radii_m
from edgeguard.sim.inertial import Imu
from edgeguard.sim.lidar import sweep
from edgeguard.sim.wheels import Wheels
from edgeguard.sim.world import World
from edgeguard.types import GnssFix, Image, ImuSample, PointCloud, Sample, WheelOdometry

NEEDED: dict[str, dict[str, Any]] = {"gnss_drift": {"rate_m_s": 1.0, "bearing_deg": 30.0}}
NO_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="the extra eval is not installed: no torch")
SENSOR_ATTACKS = [
    pytest.param(name, marks=NO_TORCH) if name == "camera_pgd" else name
    for name in ATTACKS
    if attack_info(name).sensor not in SYSTEM_PARTS
]


@pytest.fixture(scope="module")
def world() -> World:
    """One short drive."""
    return World(8, 12.0)


@pytest.fixture(scope="module")
def samples(world: World) -> dict[str, list[Sample]]:
    """A second and a half of every sensor around second 2: frames at 10 Hz, the others at their rates."""
    gnss, imu, wheels = Gnss(world, 1), Imu(world, 1), Wheels(world, 1)
    return {
        "camera": [render(world, k / 10) for k in range(15, 27, 3)],
        "lidar": [sweep(world, k / 10) for k in range(15, 27, 3)],
        "gnss": [gnss.sample(k) for k in range(15, 31)],
        "imu": [imu.sample(k) for k in range(150, 301, 5)],
        "wheels": [wheels.sample(k) for k in range(75, 151, 5)],
    }


def made(name: str, **more: Any) -> AttackBase:
    """Return an attack with its defaults, from second 2 to 2.6, on its own sensor or the IMU."""
    known = {p.name: p for p in attack_info(name).parameters}
    arguments: dict[str, Any] = {"start_s": 2.0, **NEEDED.get(name, {}), **more}
    if name != "unplug":
        arguments.setdefault("end_s", 2.6)
    if known["sensor"].required:
        arguments.setdefault("sensor", "imu")
    return attack_class(name)(**arguments)


def fingerprint(sample: object) -> object:
    """Return what a sample holds, comparable."""
    if isinstance(sample, Image):
        return sample.pixels.tobytes()
    if isinstance(sample, PointCloud):
        return sample.xyz.tobytes() + sample.intensity.tobytes()
    return repr(sample)


@pytest.mark.parametrize("name", SENSOR_ATTACKS)
def test_an_attack_acts_in_its_window_on_its_sensor_and_repeats_with_its_seed(
    name: str, samples: dict[str, list[Sample]]
) -> None:
    """Outside the window the very same object leaves; inside, something is different; twice the same seed is equal."""
    attack = made(name)
    runs = []
    for _ in range(2):
        injector = Injector([attack], 5)
        given = [(s, injector.deliver(s, s.stamp_ns)) for s in samples[attack.sensor]]
        runs.append([[(fingerprint(p), at) for p, at in arrivals] for _, arrivals in given])
        touched = 0
        for sample, arrivals in given:
            inside = attack.start_s <= sample.stamp_ns / 1e9 < attack.end_s
            untouched = arrivals == [(sample, sample.stamp_ns)]
            assert untouched or inside
            touched += not untouched
            for payload, at in arrivals:
                assert at >= sample.stamp_ns
                assert payload is DAMAGED or isinstance(payload, type(sample))
        assert touched > 0
        assert {label.attack for label in injector.labels} <= {name}
        assert bool(injector.labels) == bool(touched)
    assert runs[0] == runs[1]
    other = next(sensor for sensor in samples if sensor != attack.sensor)
    bystander = samples[other][-1]
    assert Injector([attack], 5).deliver(bystander, 0) == [(bystander, 0)]


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_says_what_it_is_and_what_its_parameters_mean(name: str) -> None:
    """One line, a size in words, a knob that exists, ATLAS identifiers in their form."""
    info = attack_info(name)
    assert 10 < len(info.summary) < 130
    assert info.summary.endswith(".")
    assert not info.knob or info.knob in {p.name for p in info.parameters}
    assert all(identifier.startswith("AML.T") for identifier in info.atlas)
    assert made(name).size


def test_an_unknown_attack_gets_the_nearest_name() -> None:
    """A typing error is answered."""
    with pytest.raises(ScenarioError) as caught:
        attack_class("gnss_drfit")
    assert caught.value.hint == "did you mean gnss_drift?"


# ---- lidar ---------------------------------------------------------------------------------------------------------


def spoofed(attack: AttackBase, cloud: PointCloud) -> PointCloud:
    """Apply one lidar attack."""
    out = Injector([attack], 3).apply(cloud)
    assert isinstance(out, PointCloud)
    return out


def azimuth_deg(cloud: PointCloud) -> np.ndarray:
    """Return (N,) degrees, left positive."""
    return np.rad2deg(np.arctan2(cloud.xyz[:, 1], cloud.xyz[:, 0]))


def test_removal_empties_its_sector_and_leaves_the_rest(world: World) -> None:
    """Of the sector the share is gone; every other point stays bit for bit, ring by ring."""
    honest = sweep(world, 2.0)
    out = spoofed(LidarRemoval(1.0, 3.0, width_deg=40.0, share=0.9), honest)
    hit = np.abs(azimuth_deg(honest)) <= 20.0
    left = np.abs(azimuth_deg(out)) <= 20.0
    assert left.sum() == pytest.approx(0.1 * hit.sum(), rel=0.15)
    np.testing.assert_array_equal(out.xyz[~left], honest.xyz[~hit])
    assert out.ring is not None
    assert honest.ring is not None
    np.testing.assert_array_equal(out.ring[~left], honest.ring[~hit])


def test_high_frequency_pulses_win_only_against_later_echoes(world: World) -> None:
    """The first pulse wins: false ranges lie below the pulse spacing and below the genuine range of their beam."""
    honest = sweep(world, 2.0)
    attack = LidarHfr(1.0, 3.0, width_deg=60.0, pulse_mhz=5.0)
    out = spoofed(attack, honest)
    before, after = np.linalg.norm(honest.xyz, axis=1), np.linalg.norm(out.xyz, axis=1)
    moved = ~np.isclose(before, after, rtol=1e-4)
    assert moved.sum() > 1000
    assert np.all(after[moved] < before[moved])
    assert after[moved].max() <= 149.9 / 5.0 + attack.least_range_m
    assert np.abs(azimuth_deg(honest)[moved]).max() <= 30.0


def test_dirt_blocks_the_same_directions_in_every_sweep(world: World) -> None:
    """Half of the directions: which ones does not change from sweep to sweep."""
    attack = LidarBlockage(1.0, 5.0, width_deg=360.0, share=0.5)
    honest = sweep(world, 2.0)
    injector = Injector([attack], 3)
    first = injector.apply(honest)
    later = injector.apply(PointCloud(honest.xyz, honest.intensity, honest.stamp_ns + 10**9))
    assert isinstance(first, PointCloud)
    assert isinstance(later, PointCloud)
    assert 0.3 < len(first.xyz) / len(honest.xyz) < 0.7
    np.testing.assert_array_equal(first.xyz, later.xyz)


def test_a_mirror_folds_beams_without_turning_them(world: World) -> None:
    """Folded returns keep their beam's direction and lie behind the mirror; the others stay bit for bit."""
    # Facing the lidar squarely it sends beams back: what is seen then stands behind the lidar itself.
    honest = sweep(world, 2.0)
    out = spoofed(LidarMirror(1.0, 3.0, range_m=6.0, tilt_deg=60.0, loss=0.0), honest)
    genuine = {row.tobytes() for row in honest.xyz}
    folded = np.array([row for row in out.xyz if row.tobytes() not in genuine])
    assert 20 < len(folded) < 3000
    directions = honest.xyz / np.linalg.norm(honest.xyz, axis=1, keepdims=True)
    for point in folded[::20]:
        reach = np.linalg.norm(point)
        assert reach > 5.0
        assert (directions @ (point / reach)).max() > 1 - 1e-6
    assert len(out.xyz) <= len(honest.xyz)


def test_a_mirror_shows_the_virtual_image_where_optics_puts_it() -> None:
    """A wall to the left appears straight ahead, behind a mirror at 45 degrees, at the folded path's length."""
    across, height = (grid.ravel() for grid in np.meshgrid(np.linspace(5.0, 15.0, 101), np.linspace(-2.0, 0.0, 21)))
    wall = np.column_stack([across, np.full_like(across, 8.0), height])
    ahead = np.column_stack([np.full(41, 30.0), np.linspace(-0.6, 0.6, 41), np.full(41, -1.0)])
    cloud = PointCloud(np.vstack([wall, ahead]).astype(np.float32), np.ones(2162, np.float32), 2 * 10**9)
    attack = LidarMirror(1.0, 3.0, range_m=10.0, tilt_deg=-45.0, height_m=3.0, loss=0.0)
    out = spoofed(attack, cloud)
    folded = out.xyz[2121:]
    # The beam along the axis: 10 m to the mirror, then 8 m sideways to the wall.
    middle = folded[np.argmin(np.abs(folded[:, 1]))]
    assert np.linalg.norm(middle) == pytest.approx(18.0, abs=0.3)


def test_a_frustum_ghost_keeps_the_directions_of_a_real_object(world: World) -> None:
    """The object's beams report another range; no other beam changes."""
    for time_s in (2.0, 4.0, 6.0):
        honest = sweep(world, time_s)
        out = spoofed(GhostFrustum(0.5, 9.0, shift_m=-4.0, frame_jitter_m=0.0, farthest_m=60.0), honest)
        moved = np.flatnonzero(np.any(out.xyz != honest.xyz, axis=1))
        assert 5 <= len(moved) <= 200
        before, after = np.linalg.norm(honest.xyz[moved], axis=1), np.linalg.norm(out.xyz[moved], axis=1)
        assert np.mean(before - after) == pytest.approx(4.0, abs=0.1)
        np.testing.assert_allclose(out.xyz[moved] / after[:, None], honest.xyz[moved] / before[:, None], atol=1e-5)


# ---- camera --------------------------------------------------------------------------------------------------------


def shown(attack: AttackBase, frame: Image) -> np.ndarray:
    """Apply one camera attack; return the pixels as float."""
    out = Injector([attack], 3).apply(frame)
    assert isinstance(out, Image)
    assert out.pixels.shape == frame.pixels.shape
    assert out.pixels.dtype == np.uint8
    return out.pixels.astype(np.float64)


def test_banding_has_the_period_that_flicker_and_row_time_give() -> None:
    """400 Hz read out at 30 us a row: a stripe pair every 83 rows."""
    grey = Image(np.full((480, 64, 3), 200, np.uint8), 2 * 10**9)
    rows = shown(CameraBanding(1.0, 3.0, depth=0.6, exposure_us=100.0), grey).mean(axis=(1, 2))
    spectrum = np.abs(np.fft.rfft(rows - rows.mean()))
    assert 480 / int(np.argmax(spectrum)) == pytest.approx(1 / (400 * 30e-6), rel=0.06)
    assert rows.min() == pytest.approx(80, abs=2)
    assert rows.max() == pytest.approx(200, abs=2)


def test_dirt_stays_on_the_lens_and_covers_what_it_says(world: World) -> None:
    """The same pixels are dirty in two frames."""
    attack, frames = CameraDirt(1.0, 5.0, cover=0.3), [render(world, 2.0), render(world, 2.5)]
    injector = Injector([attack], 3)
    dirty = []
    for frame in frames:
        out = injector.apply(frame)
        assert isinstance(out, Image)
        mud = np.abs(out.pixels.astype(int) - np.array([38, 52, 66])).max(axis=2) < 16
        dirty.append(mud)
    assert 0.15 < dirty[0].mean() < 0.5
    assert (dirty[0] & dirty[1]).sum() > 0.8 * dirty[0].sum()


def test_a_patch_is_where_the_pinhole_puts_it_and_grows_as_it_comes_near(world: World) -> None:
    """Width in pixels is focal length times width over distance."""
    frame = render(world, 2.0)
    widths = []
    for distance in (20.0, 10.0):
        out = shown(CameraPatch(1.0, 3.0, width_m=2.0, distance_m=distance), frame)
        changed = np.abs(out - frame.pixels).max(axis=2) > 25
        columns = np.flatnonzero(changed.sum(axis=0) > 3)
        widths.append(columns.max() - columns.min() + 1)
    assert widths[0] == pytest.approx(420 * 2.0 / 20.0, abs=3)
    assert widths[1] == pytest.approx(420 * 2.0 / 10.0, abs=4)


def test_a_phantom_only_adds_light(world: World) -> None:
    """No pixel gets darker; a person-high figure gets brighter."""
    frame = render(world, 2.0)
    change = shown(CameraPhantom(1.0, 3.0, light=0.3), frame) - frame.pixels
    assert change.min() >= 0.0
    rows = np.flatnonzero((change.max(axis=2) > 20).any(axis=1))
    assert rows.max() - rows.min() == pytest.approx(420 * 1.75 / 12.0, rel=0.15)


# ---- navigation ----------------------------------------------------------------------------------------------------


def offset_m(honest: GnssFix, out: Sample | None) -> tuple[float, float]:
    """Return how far east and north the fix was moved."""
    assert isinstance(out, GnssFix)
    per_latitude, per_longitude = radii_m(honest.latitude_deg)
    east = radians(out.longitude_deg - honest.longitude_deg) * per_longitude
    return east, radians(out.latitude_deg - honest.latitude_deg) * per_latitude


def test_the_two_stages_probe_and_then_grow_to_the_left(world: World) -> None:
    """0.6 m for three seconds, then x1.5 a second; always across the course."""
    gnss, injector = Gnss(world, 1), Injector([GnssTwoStage(2.0, 12.0)], 1)
    for k, expected in ((30, 0.6), (60, 0.6 * 1.5), (100, 0.6 * 1.5**5)):
        fix = gnss.sample(k)
        east, north = offset_m(fix, injector.apply(fix))
        assert hypot(east, north) == pytest.approx(expected, rel=1e-6)
        assert fix.course_deg is not None
        course = radians(fix.course_deg)
        assert east * sin(course) + north * cos(course) == pytest.approx(0.0, abs=1e-6)
        assert -east * cos(course) + north * sin(course) > 0


def test_a_jump_moves_the_place_and_not_the_speed(world: World) -> None:
    """The step is there at once."""
    fix = Gnss(world, 1).sample(25)
    out = Injector([GnssJump(2.0, 3.0, offset_m=30.0)], 1).apply(fix)
    assert hypot(*offset_m(fix, out)) == pytest.approx(30.0, rel=1e-6)
    assert isinstance(out, GnssFix)
    assert out.speed_m_s == fix.speed_m_s


def test_meaconing_gives_old_fixes_with_old_time(world: World) -> None:
    """Two seconds ago, receiver clock included; nothing until there is something to replay."""
    gnss, injector = Gnss(world, 1), Injector([GnssMeacon(4.0, 9.0, delay_s=2.0)], 1)
    honest = [gnss.sample(k) for k in range(70)]
    given = [injector.apply(fix) for fix in honest]
    late = given[65]
    assert isinstance(late, GnssFix)
    assert late.latitude_deg == honest[45].latitude_deg
    assert late.device_stamp_ns == honest[45].device_stamp_ns
    assert late.stamp_ns == honest[65].stamp_ns


def test_a_jammer_takes_satellites_before_it_takes_the_fix(world: World) -> None:
    """Satellites fall, then nothing arrives; strengths fall where the receiver lists them."""
    gnss, injector = Gnss(world, 1), Injector([GnssJam(2.0, 9.0, loss_db=25.0, rise_s=4.0)], 1)
    counts: list[int] = []
    for k in range(20, 80):
        fix = gnss.sample(k)
        out = injector.apply(fix)
        assert out is None or isinstance(out, GnssFix)
        counts.append(0 if out is None or out.satellites is None else out.satellites)
    # Those at the edge of hearing come and go; over a second the number only falls.
    assert all(later <= earlier + 3 for earlier, later in itertools.pairwise(counts))
    assert counts[::10] == sorted(counts[::10], reverse=True)
    assert counts[0] >= 11
    assert counts[-1] == 0
    listed = GnssFix(3_000_000_000, 48.0, 11.0, satellites=6, cn0_dbhz=(48.0, 46.0, 44.0, 42.0, 40.0, 30.0))
    weak = injector.apply(listed)
    assert isinstance(weak, GnssFix)
    assert weak.cn0_dbhz == pytest.approx((41.75, 39.75, 37.75, 35.75, 33.75))


# ---- motion --------------------------------------------------------------------------------------------------------


def test_resonance_aliases_as_sampling_dictates(world: World) -> None:
    """2003 Hz seen at 100 Hz swings at 3 Hz; 2000 Hz becomes a constant bias."""
    imu = Imu(world, 1)
    for tone_hz, seen_hz in ((2003.0, 3.0), (2000.0, 0.0)):
        injector = Injector([ImuResonance(1.0, 5.0, amplitude=2.0, tone_hz=tone_hz)], 3)
        added = []
        for k in range(100, 500):
            honest = imu.sample(k)
            out = injector.apply(honest)
            assert isinstance(out, ImuSample)
            added.append(out.gyro_rad_s[2] - honest.gyro_rad_s[2])
        spectrum = np.abs(np.fft.rfft(added))
        assert np.fft.rfftfreq(400, 0.01)[int(np.argmax(spectrum))] == pytest.approx(seen_hz, abs=0.13)


def test_saturation_ends_at_the_rails(world: World) -> None:
    """Readings never leave the range and often sit on it."""
    injector, imu = Injector([ImuSaturation(1.0, 3.0)], 3), Imu(world, 1)
    given = [injector.apply(imu.sample(k)) for k in range(100, 300)]
    accel = np.array([g.accel_m_s2 for g in given if isinstance(g, ImuSample)])
    assert np.abs(accel).max() == 19.6
    assert (np.abs(accel) == 19.6).mean() > 0.4


def test_wheels_scale_stick_and_slip_one_or_all(world: World) -> None:
    """The mean follows the wheels that turn differently; a sensor without single wheels works too."""
    honest = Wheels(world, 1).sample(120)
    assert honest.wheel_speeds_m_s is not None
    scaled = Injector([WheelScale(2.0, 3.0, scale=1.2, wheel="front_left")], 1).apply(honest)
    assert isinstance(scaled, WheelOdometry)
    assert scaled.wheel_speeds_m_s is not None
    assert scaled.wheel_speeds_m_s[0] == pytest.approx(1.2 * honest.wheel_speeds_m_s[0])
    assert scaled.wheel_speeds_m_s[1:] == honest.wheel_speeds_m_s[1:]
    assert scaled.speed_m_s == pytest.approx(sum(scaled.wheel_speeds_m_s) / 4)
    bare = WheelOdometry(2_400_000_000, 8.0)
    for attack, expected in ((WheelScale(2.0, 3.0, scale=1.2), 9.6), (WheelSlip(1.9, 3.0, burst_s=1.0), 11.0)):
        out = Injector([attack], 1).apply(bare)
        assert isinstance(out, WheelOdometry)
        assert out.speed_m_s == pytest.approx(expected, abs=0.01)
    injector = Injector([WheelStuck(2.0, 3.0)], 1)
    injector.apply(WheelOdometry(1_900_000_000, 7.0))
    stuck = injector.apply(bare)
    assert isinstance(stuck, WheelOdometry)
    assert stuck.speed_m_s == 7.0


# ---- links and clocks ----------------------------------------------------------------------------------------------


def fixes(count: int) -> list[GnssFix]:
    """Return fixes at 10 Hz that differ."""
    return [GnssFix(k * 10**8, 48.0 + k * 1e-5, 11.0, device_stamp_ns=k * 10**8) for k in range(count)]


def test_late_stale_and_looped_are_three_things() -> None:
    """Late: true stamp, later arrival. Stale: fresh stamp, old content. Loop: fresh stamps, the last second again."""
    given = fixes(60)
    late = Injector([LinkDelay(2.0, 6.0, "gnss", delay_s=0.5)], 1)
    ((payload, at),) = late.deliver(given[30], 3_000_000_000)
    assert payload is given[30]
    assert at == 3_500_000_000
    stale = Injector([StaleData(2.0, 6.0, "gnss", delay_s=0.5)], 1)
    old = [stale.apply(fix) for fix in given][30]
    assert isinstance(old, GnssFix)
    assert (old.stamp_ns, old.latitude_deg) == (3_000_000_000, given[25].latitude_deg)
    loop = Injector([LoopReplay(2.0, 6.0, "gnss", loop_s=1.0)], 1)
    shown_latitudes = [fix.latitude_deg for fix in map(loop.apply, given) if isinstance(fix, GnssFix)]
    assert set(shown_latitudes[20:]) <= {fix.latitude_deg for fix in given[9:20]}
    assert shown_latitudes[20] != shown_latitudes[25]
    assert len(set(shown_latitudes[20:])) >= 10


def test_bytes_are_flipped_cut_and_replayed_bit_for_bit() -> None:
    """A flip changes exactly the bits it says; a cut keeps a prefix; a replay sends the very bytes of then."""
    flips = Injector([BitFlips(0.0, 9.0, "imu", share=1.0, bits=1)], 1)
    ((spoilt, _),) = flips.route("imu", 10**9, b"abcdef", 5)
    assert isinstance(spoilt, bytes)
    assert sum((a ^ b).bit_count() for a, b in zip(spoilt, b"abcdef", strict=True)) == 1
    cut = Injector([Truncate(0.0, 9.0, "imu", share=1.0)], 1)
    ((short, _),) = cut.route("imu", 10**9, b"abcdef", 5)
    assert isinstance(short, bytes)
    assert b"abcdef".startswith(short)
    assert len(short) < 6
    replay = Injector([WireReplay(1.0, 9.0, "imu", age_s=0.5)], 1)
    sent = [replay.route("imu", k * 10**8, f"frame {k}".encode(), k * 10**8) for k in range(20)]
    assert sent[5] == [(b"frame 5", 5 * 10**8)]
    assert [payload for payload, _ in sent[15]] == [b"frame 15", b"frame 10"]
    ((damaged, _),) = flips.route("imu", 10**9, fixes(1)[0], 5)
    assert damaged is DAMAGED


def test_a_rogue_speaks_beside_the_genuine_source() -> None:
    """The genuine message arrives untouched; the forged one comes after it and lies elsewhere."""
    injector = Injector([RogueSource(1.0, 5.0, offset_m=20.0)], 1)
    fix = fixes(30)[20]
    (genuine, first), (forged, second) = injector.deliver(fix, 2_000_000_000, 50_000_000)
    assert genuine is fix
    assert (first, second) == (2_000_000_000, 2_050_000_000)
    assert isinstance(forged, GnssFix)
    assert hypot(*offset_m(fix, forged)) == pytest.approx(20.0, rel=1e-6)
    assert [label.effect for label in injector.labels] == ["forged"]


def test_a_clock_runs_away_from_the_moment_it_is_attacked() -> None:
    """Device stamps only: 1000 ppm make 2 ms in two seconds, on top of the step."""
    injector = Injector([ClockDrift(1.0, 9.0, "gnss", drift_ppm=1000.0, step_s=0.5)], 1)
    fix = fixes(40)[30]
    out = injector.apply(fix)
    assert isinstance(out, GnssFix)
    assert out.stamp_ns == fix.stamp_ns
    assert out.device_stamp_ns == fix.stamp_ns + 502_000_000
