"""Snow is taken out of sweeps; clean sweeps, thin things and people are not, whoever tries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeguard.kernels.dbscan import dbscan
from edgeguard.kernels.ground import height_above_ground
from edgeguard.kernels.scatter import COLUMNS, count_neighbours, image_of
from edgeguard.restore.cloud_chain import SCATTERED_RETURNS, CloudRestorer
from edgeguard.restore.cloud_cut import REGIONS, Cap, cut_within
from edgeguard.restore.cloud_scatter import (
    BINS,
    MOST_NEAR,
    MOST_NEIGHBOURS,
    REACH_M,
    find_scatter,
    may_be_flake,
    most_asked,
    neighbours_asked,
)
from edgeguard.restore.cloud_steps import Snow
from edgeguard.sim.actors import PEDESTRIAN
from edgeguard.sim.lidar import LidarModel, sweep, view
from edgeguard.sim.presets import LIDARS
from edgeguard.sim.restoration.snow import fall, scatter
from edgeguard.sim.weather import WORLD_PRESETS
from edgeguard.sim.world import World
from edgeguard.types import Image, PointCloud

Mask = NDArray[np.bool_]
SMALL = LidarModel(columns=1024)


def taken(cloud: PointCloud, **settings: float) -> Mask:
    """Which returns the step takes out, within its caps."""
    step = Snow(**settings)  # type: ignore[arg-type]
    mask = np.zeros(len(cloud.xyz), np.bool_)
    mask[cut_within(cloud, step.find(cloud), step.cap).removed] = True
    return mask


def merged(cloud: PointCloud, xyz: NDArray[np.float64], ring: NDArray[np.int64], intensity: float) -> PointCloud:
    """The sweep with more returns behind its own."""
    assert cloud.ring is not None
    return replace(
        cloud,
        xyz=np.concatenate([cloud.xyz, xyz.astype(np.float32)]),
        intensity=np.concatenate([cloud.intensity, np.full(len(xyz), intensity, np.float32)]),
        ring=np.concatenate([cloud.ring, ring.astype(np.int16)]),
        time_offset_ns=None,
    )


@pytest.mark.parametrize("sensor", ["street", "vlp16", "vlp32c", "os1_64", "hdl64"])
def test_clean_sweeps_come_back_as_the_same_object(sensor: str) -> None:
    """Five sensors, from 16 to 64 beams, in streets with people and cars."""
    for seed in (21, 22):
        before = sweep(World(seed, conditions=WORLD_PRESETS["busy"][0]), 7.0, LIDARS[sensor][0])

        after, done = CloudRestorer(SCATTERED_RETURNS).apply(before, 0)

        assert after is before
        assert done.changed_share == 0.0


@pytest.mark.parametrize("sensor", ["vlp16", "vlp32c", "os1_64"])
@pytest.mark.parametrize("rate_mm_h", [0.5, 2.0])
def test_snow_goes_and_the_street_stays(sensor: str, rate_mm_h: float) -> None:
    """Nine in ten flakes go, nine in ten that go are flakes, and one street return in two hundred at most."""
    before = sweep(World(31), 6.0, LIDARS[sensor][0])
    snowy = fall(before, rate_mm_h, np.random.default_rng(5))

    gone = taken(snowy.cloud)

    assert (gone & snowy.scatter).sum() > 0.9 * snowy.scatter.sum()
    assert (gone & snowy.scatter).sum() > 0.9 * gone.sum()
    assert (gone & ~snowy.scatter).sum() < 0.005 * (~snowy.scatter).sum()


def test_people_in_heavy_snow_keep_their_returns() -> None:
    """Of the returns that the snow itself left on people nearer than 30 m, hardly one in a hundred goes."""
    lost = there = 0
    for seed in (41, 42, 43):
        world = World(seed, conditions=WORLD_PRESETS["busy"][0])
        seen = view(world, 8.0, SMALL)
        snowy = fall(seen.cloud, 2.0, np.random.default_rng(seed))
        people = np.isin(seen.object_id, people_of(world, 8.0))
        kept = people & ~snowy.scatter & (np.linalg.norm(seen.cloud.xyz, axis=1) < REACH_M)
        gone = taken(snowy.cloud)
        lost, there = lost + int((gone & kept).sum()), there + int(kept.sum())
    assert there > 300
    assert lost <= 0.01 * there


def people_of(world: World, time_s: float) -> list[int]:
    """Numbers of the pedestrians."""
    return [thing.number for thing in world.objects(time_s) if thing.label == PEDESTRIAN]


@pytest.mark.parametrize("attack", ["everywhere", "around", "shell"])
def test_an_attacker_cannot_make_the_filter_delete_a_person(attack: str) -> None:
    """Scatter everywhere raises what is asked for; scatter around the person, in front and behind, makes the place look
    like snow. The beams that the attacker takes are gone; of all others on the person one in a hundred at most goes."""
    world = World(51, conditions=WORLD_PRESETS["busy"][0])
    seen = view(world, 8.0, SMALL)
    reach = np.linalg.norm(seen.cloud.xyz, axis=1)
    lost = there = 0
    for person in people_of(world, 8.0):
        mine = (seen.object_id == person) & (reach < REACH_M)
        if mine.sum() < 12:
            continue
        # as dark as clothes get: nothing but neighbours protects it
        dark = replace(seen.cloud, intensity=np.where(mine, np.float32(0.01), seen.cloud.intensity))
        rng = np.random.default_rng(person)
        attacked = scatter(dark, 0.3, rng, 20.0, 0.02)
        cloud, false = attacked.cloud, attacked.scatter
        if attack != "everywhere":
            azimuth = np.arctan2(cloud.xyz[:, 1], cloud.xyz[:, 0])
            middle = float(np.median(azimuth[mine & ~false]))
            near = np.abs((azimuth - middle + np.pi) % (2 * np.pi) - np.pi) < np.deg2rad(6.0)
            hit = near & ~false & (rng.random(len(near)) < 0.4)
            at = float(np.median(reach[mine]))
            to = at + (rng.uniform(-2.0, 2.0, hit.sum()) if attack == "around" else 1.02 * (0.1 + 0.02 * at))
            xyz = cloud.xyz.copy()
            xyz[hit] *= (np.maximum(to, 1.0) / np.linalg.norm(xyz[hit], axis=1))[:, None].astype(np.float32)
            cloud, false = replace(cloud, xyz=xyz), false | hit
        honest = mine & ~false
        gone = taken(cloud)
        lost, there = lost + int((gone & honest).sum()), there + int(honest.sum())
    assert there > 100
    assert lost <= 0.01 * there


@given(seed=st.integers(0, 2**31), added=st.integers(0, 400))
def test_a_return_with_its_neighbours_stays_whatever_is_added(seed: int, added: int) -> None:
    """The promise: with as many others around as are ever asked for, no injected return makes it go."""
    rng = np.random.default_rng(seed)
    base = scatter(CLEAN, 0.2, rng, 12.0).cloud
    image = image_of(base.xyz, base.ring, REACH_M * 1.02 + 0.1)
    window = (2, int(np.clip(round(3 * COLUMNS / image.beams), 2, 15)))
    everything = np.ones(len(base.xyz), np.bool_)
    support = count_neighbours(image, everything, (2, window[1] - 1), (0.1, 0.02, 0.1, 0.02), MOST_NEAR)
    safe = np.flatnonzero(support >= MOST_NEAR)
    ring = rng.integers(0, 16, added)
    elevation, azimuth = np.deg2rad(2.0 * ring - 15.0), rng.uniform(-np.pi, np.pi, added)
    r = rng.uniform(1.0, 20.0, added)
    flat = r * np.cos(elevation)
    xyz = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), r * np.sin(elevation)], 1)

    gone = find_scatter(merged(base, xyz, ring, 0.0)).indices

    assert not np.intersect1d(gone, safe).size


def test_poles_and_wires_stay_in_heavy_snow() -> None:
    """An upright rod of 3 cm at 6 m and a wire of 1 cm at 8 m, both dark, one beam wide, ends included."""
    street = sweep(World(61), 5.0, LIDARS["os1_64"][0])
    beams = np.unique(np.round(np.linspace(22.5, -22.5, 64), 6))[::-1]
    rows = np.flatnonzero(np.abs(beams) < 8.0)
    rod = 6.0 * np.stack([np.ones(len(rows)), np.full(len(rows), 0.3), np.tan(np.deg2rad(beams[rows]))], 1)
    columns = np.deg2rad(np.arange(-9.0, 9.0, 360.0 / 2048))
    level = int(np.argmin(np.abs(beams - 6.0)))
    wire = 8.0 * np.stack([np.cos(columns) * -1.0, np.sin(columns), np.full(len(columns), np.tan(np.deg2rad(6.0)))], 1)
    for number in range(3):
        snowy = fall(street, 2.5, np.random.default_rng(number))
        cloud = merged(snowy.cloud, rod, rows, 0.02)
        cloud = merged(cloud, wire, np.full(len(wire), level), 0.02)
        gone = taken(cloud)

        on_rod = gone[len(street.xyz) : len(street.xyz) + len(rod)]
        on_wire = gone[len(street.xyz) + len(rod) :]
        assert on_rod[2:-2].sum() == 0
        assert on_rod.sum() <= 2
        assert on_wire.sum() == 0


def test_bright_and_far_returns_are_never_flakes() -> None:
    """A flake fills a part of the beam: the farther, the dimmer it is, and beyond 30 m it is not heard."""
    r = np.array([2.0, 10.0, 10.0, 25.0, 25.0, 30.5], np.float32)
    intensity = np.array([0.9, 0.15, 0.25, 0.04, 0.1, 0.0], np.float32)

    assert may_be_flake(r, intensity).tolist() == [True, True, False, True, False, False]


def test_as_many_neighbours_as_a_thin_rod_has_are_always_enough() -> None:
    """Whatever the density: half of what an upright rod of 5 cm has, two at least and eight at most."""
    for step_deg in (0.1, 0.2, 0.35):
        most = most_asked(float(np.deg2rad(step_deg)))
        for density in (0.0, 1e-3, 0.1, 10.0, np.inf):
            enough = neighbours_asked(np.full(BINS, density), 35.0, most)
            assert (enough >= 1).all()
            assert (enough <= most).all()
        assert most[-1] == MOST_NEIGHBOURS
        assert most.max() <= MOST_NEAR


def test_more_scatter_asks_for_more_neighbours_and_loses_as_little_as_it_says() -> None:
    """Monte Carlo: with exponentially distributed density, two in a hundred have that many neighbours by chance."""
    rng = np.random.default_rng(9)
    most = np.full(BINS, 100, np.int8)
    before = np.ones(BINS, np.int8)
    for expected in (0.02, 0.1, 0.4, 1.0):
        beams, at = 35.0, 9
        room = beams * 2.0 * (0.1 + 0.02 * (at + 0.5))
        density = np.full(BINS, expected / room)
        found = rng.poisson(expected * rng.exponential(1.0, 200_000))
        lone = density * (found == 0).mean()  # what is seen of it
        enough = neighbours_asked(lone, beams, most)
        assert (enough >= before).all()
        assert (found >= enough[at]).mean() < 0.025
        before = enough


@given(seed=st.integers(0, 2**31), whole=st.floats(0.0, 0.5), region=st.floats(0.0, 0.8))
def test_caps_hold_for_the_sweep_and_for_every_direction(seed: int, whole: float, region: float) -> None:
    """Whatever was found; a direction over its cap keeps everything, and the dimmest go first."""
    rng = np.random.default_rng(seed)
    azimuth = rng.choice([0.1, 0.2, 2.0, -3.0], 500) + rng.uniform(0.0, 0.1, 500)
    xyz = np.stack([5 * np.cos(azimuth), 5 * np.sin(azimuth), rng.random(500)], 1).astype(np.float32)
    cloud = PointCloud(xyz, rng.random(500).astype(np.float32), 0)
    found = np.flatnonzero(rng.random(500) < rng.random())

    cut = cut_within(cloud, found, Cap(whole, region))

    place = ((np.arctan2(xyz[:, 1], xyz[:, 0]) + np.pi) * (REGIONS / (2 * np.pi))).astype(int) % REGIONS
    total, gone = np.bincount(place, minlength=REGIONS), np.bincount(place[cut.removed], minlength=REGIONS)
    asked = np.bincount(place[found], minlength=REGIONS)
    assert len(cut.removed) <= whole * 500
    assert (gone <= region * total).all()
    assert (gone[asked > region * total] == 0).all()
    assert cut.spared == len(found) - len(cut.removed)
    assert np.isin(cut.removed, found).all()
    spared = np.setdiff1d(found[asked[place[found]] <= region * total[place[found]]], cut.removed)
    if len(spared) and len(cut.removed):
        assert cloud.intensity[cut.removed].max() <= cloud.intensity[spared].min()


def test_a_note_says_what_a_cap_spared() -> None:
    """Half of the sweep is scatter: no more than the cap goes, and the evidence tells."""
    snowy = scatter(sweep(World(71), 5.0, SMALL), 0.5, np.random.default_rng(2), 8.0)

    after, done = CloudRestorer(SCATTERED_RETURNS).apply(snowy.cloud, 0)

    assert isinstance(after, PointCloud)
    assert 0.0 < done.changed_share <= 0.4
    assert "snow:" in done.note
    assert len(done.chain_sha256) == 64


def test_hostile_sweeps_are_no_errors() -> None:
    """Nothing, not finite, all in one place, beam numbers out of range; pictures pass."""
    nowhere = np.full((50, 3), np.nan, np.float32)
    restorer = CloudRestorer(SCATTERED_RETURNS)
    for xyz in (nowhere, np.zeros((50, 3), np.float32), np.full((50, 3), 3.0, np.float32), nowhere[:0]):
        for ring in (None, np.full(len(xyz), -3, np.int16), np.full(len(xyz), 32_000, np.int16)):
            cloud = PointCloud(xyz, np.zeros(len(xyz), np.float32), 0, ring=ring)
            assert restorer.apply(cloud, 0)[0] is cloud
    image = Image(np.zeros((9, 9, 3), np.uint8), 0)
    assert restorer.apply(image, 0)[0] is image


@pytest.mark.realdata
def test_real_sweeps_are_untouched_and_lose_their_snow(realdata: Path) -> None:
    """64 beams of a street, without beam numbers: same object when clean; 0.9 and 0.85 in snow of 1 mm/h."""
    for file in sorted((realdata / "kitti_drive/velodyne").glob("*.bin"))[::6]:
        raw = np.fromfile(file, np.float32).reshape(-1, 4)
        before = PointCloud(np.ascontiguousarray(raw[:, :3]), np.ascontiguousarray(raw[:, 3]), 0)
        assert CloudRestorer(SCATTERED_RETURNS).apply(before, 0)[0] is before

        snowy = fall(before, 1.0, np.random.default_rng(3))
        gone = taken(snowy.cloud)

        assert (gone & snowy.scatter).sum() > 0.85 * snowy.scatter.sum()
        assert (gone & snowy.scatter).sum() > 0.9 * gone.sum()


def thin_bodies(cloud: PointCloud) -> NDArray[np.bool_]:
    """Which returns are of bodies half a metre wide at most, a metre high at least, nearer than 30 m: poles, people."""
    upright = np.flatnonzero(height_above_ground(np.ascontiguousarray(cloud.xyz), 1.73) > 0.3)
    labels, _, count = dbscan(np.ascontiguousarray(cloud.xyz[upright]), 0.5, 5)
    thin = np.zeros(len(cloud.xyz), np.bool_)
    for k in range(count):
        members = upright[labels == k]
        size = np.ptp(cloud.xyz[members], axis=0)
        near = np.linalg.norm(cloud.xyz[members], axis=1).max() < REACH_M
        thin[members] = max(size[0], size[1]) <= 0.5 and size[2] >= 1.0 and near
    return thin


@pytest.mark.realdata
def test_real_poles_and_people_survive_an_attack(realdata: Path) -> None:
    """Three beams in ten report dim scatter, and the bodies are made as dark as they get: one of a hundred of their
    other returns goes at most."""
    lost = there = 0
    for number in (26, 31, 36, 41):
        raw = np.fromfile(realdata / f"kitti_drive/velodyne/{number:010d}.bin", np.float32).reshape(-1, 4)
        cloud = PointCloud(np.ascontiguousarray(raw[:, :3]), np.ascontiguousarray(raw[:, 3]), 0)
        thin = thin_bodies(cloud)
        dark = replace(cloud, intensity=np.where(thin, np.float32(0.01), cloud.intensity))
        attacked = scatter(dark, 0.3, np.random.default_rng(number), 20.0, 0.02)
        honest = thin & ~attacked.scatter
        lost, there = lost + int((taken(attacked.cloud) & honest).sum()), there + int(honest.sum())
    assert there > 200
    assert lost <= 0.01 * there


CLEAN = sweep(World(81), 5.0, replace(LIDARS["vlp16"][0], columns=600))
