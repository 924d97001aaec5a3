"""One file of chains for pictures, clouds and series, and what a pipeline makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from edgeguard.config import RestoreConfig
from edgeguard.errors import ConfigError
from edgeguard.infer.input_policy import InputPolicy
from edgeguard.restore.chain import RestoreChain, build_restorers
from edgeguard.restore.chain_digest import digest_of
from edgeguard.restore.chain_file import images_of, read_chain_file, sensors_of
from edgeguard.restore.cloud_chain import CloudChain, CloudRestorer
from edgeguard.restore.cloud_steps import DynamicRadius, Ghosts, Isolated, Snow, StatisticalOutlier
from edgeguard.restore.series_chain import Declip, Hampel, SeriesChain
from edgeguard.runtime.record import MAX_CHANGES, restoration_record
from edgeguard.types import CAMERA, IMU, LIDAR, Change, Image, ImuSample, PointCloud, Restoration, SyncedSet, Tick
from firmware_tools.input_policy import input_policy

TEXT = """
[[chains]]
name = "soft"
steps = [{ op = "median", size_px = 3 }]

[[chains]]
kind = "cloud"
name = "winter"
steps = [{ op = "snow", max_removed_share = 0.3 }, { op = "isolated" }, { op = "ghosts" }, { op = "dynamic-radius" }]

[[chains]]
kind = "series"
name = "imu-spikes"
sensor = "imu"
steps = [
  { op = "declip", channels = ["accel_x_m_s2", "accel_y_m_s2", "accel_z_m_s2"], full_scale = 39.2 },
  { op = "hampel", half = 5 },
]
"""


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    path = tmp_path / "chains.toml"
    path.write_text(TEXT)
    return path


def test_all_kinds_are_read_from_one_file(chains: Path) -> None:
    """A chain that says no kind is for pictures."""
    read = read_chain_file(chains)

    assert [chain.name for chain in read] == ["soft", "winter", "imu-spikes"]
    assert [chain.name for chain in images_of(read)] == ["soft"]
    winter, spikes = sensors_of(read)
    assert winter == CloudChain("winter", (Snow(max_removed_share=0.3), Isolated(), Ghosts(), DynamicRadius()), LIDAR)
    axes = ("accel_x_m_s2", "accel_y_m_s2", "accel_z_m_s2")
    assert spikes == SeriesChain("imu-spikes", IMU, (Declip(axes, 39.2), Hampel(half=5)))


def test_a_digest_is_that_of_what_a_chain_says() -> None:
    """Equal chains, equal digests; any other number gives another."""
    assert digest_of(CloudChain("a", (Snow(),))) == digest_of(CloudChain("a", (Snow(reach_m=30.0),)))
    assert digest_of(CloudChain("a", (Snow(),))) != digest_of(CloudChain("a", (Snow(reach_m=29.0),)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('kind = "cloud"', 'kind = "sound"'),
        ('kind = "cloud"', "kind = 3"),
        ('op = "snow"', 'op = "sleet"'),
        ("max_removed_share = 0.3", "max_removed_share = 0.9"),
        ("max_removed_share = 0.3", "max_removed_shares = 0.3"),
        ('name = "winter"', 'name = "soft"'),
        ('name = "winter"', 'name = "Winter Chain"'),
        ("full_scale = 39.2", "full_scale = -1.0"),
    ],
)
def test_a_wrong_file_is_a_config_error(tmp_path: Path, old: str, new: str) -> None:
    """With the path in it, and a hint."""
    path = tmp_path / "chains.toml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_chain_file(path)
    assert caught.value.code == "EG-C004"
    assert str(path) in str(caught.value)
    assert caught.value.hint


@given(
    raw=st.binary(max_size=200)
    | st.sampled_from([b"[[chains]]\n", b"chains = []\n", b"chains = [1]\n", b"chains = 3\n"])
)
def test_no_file_of_chains_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    """Any bytes are chains or a ConfigError."""
    path = tmp_path_factory.mktemp("chains") / "chains.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError):
        read_chain_file(path)


def test_a_configuration_names_chains_beside_built_in_restorers(chains: Path) -> None:
    """In its order."""
    names = ("winter", "impulse-median", "imu-spikes", "soft")

    assert tuple(r.name for r in build_restorers(RestoreConfig(chain=names, chains=str(chains)))) == names


def test_a_chain_may_not_take_the_name_of_a_built_in_restorer(tmp_path: Path) -> None:
    """Or nobody would know which of them ran."""
    path = tmp_path / "chains.toml"
    path.write_text(TEXT.replace('"winter"', '"scattered-returns"'))
    with pytest.raises(ConfigError) as caught:
        build_restorers(RestoreConfig(chains=str(path)))
    assert caught.value.code == "EG-C052"


def test_a_tick_is_restored_with_its_series_and_the_sample_follows(chains: Path) -> None:
    """The IMU's last reading is a spike: series and sample are repaired alike; what is untouched is the same object."""
    restorers = build_restorers(RestoreConfig(chain=("imu-spikes", "soft"), chains=str(chains)))
    chain = RestoreChain(restorers, seed=1)
    readings = tuple(
        ImuSample(k * 10_000_000, (0.0, 0.0, 9.0 if k == 19 else 0.0), (0.0, 0.0, 9.81)) for k in range(20)
    )
    image = Image(np.random.default_rng(1).integers(0, 255, (32, 32, 3)).astype(np.uint8), 0)
    synced = SyncedSet(
        Tick(0, 200_000_000),
        MappingProxyType({CAMERA: image, IMU: readings[-1], LIDAR: None}),
        MappingProxyType({CAMERA: (image,), IMU: readings}),
        MappingProxyType({}),
    )

    restored, done = chain.restore(synced)

    last = restored.samples[IMU]
    assert isinstance(last, ImuSample)
    assert last is restored.series[IMU][-1]
    assert abs(last.gyro_rad_s[2]) < 1e-9
    assert all(a is b for a, b in zip(restored.series[IMU][:-1], readings[:-1], strict=True))
    assert {r.restorer for r in done} == {"imu-spikes", "soft"}
    assert all(len(r.chain_sha256) == 64 for r in done)
    assert restored.samples[CAMERA] is not image
    quiet = replace(
        synced, samples={IMU: readings[3]}, series={IMU: readings[:10]}, tick=Tick(9, 9, discontinuity=True)
    )
    assert chain.restore(quiet)[0] is quiet


def test_what_was_changed_is_written_down() -> None:
    """For the log: bounded, JSON numbers only, also for a reading that was no number."""
    changes = tuple(Change("gyro_x_rad_s", k, float("nan"), 0.5) for k in range(MAX_CHANGES + 4))

    record = restoration_record(Restoration("imu-spikes", IMU, 0.25, changes, 3, "x", "ab" * 32))

    assert record["changes"][0] == ["gyro_x_rad_s", 0, pytest.approx(1.7e308), 0.5]
    assert len(record["changes"]) == MAX_CHANGES
    assert record["unlisted"] == 7
    assert (record["share"], record["note"], record["chain_sha256"]) == (0.25, "x", "ab" * 32)
    assert restoration_record(Restoration("r", LIDAR, 0.1)) == {"restorer": "r", "sensor": LIDAR, "share": 0.1}


def wall(seed: int) -> PointCloud:
    """A smooth wall around the sensor, 64 beams of 0.2 deg."""
    a, e = np.meshgrid(np.deg2rad(np.arange(0, 360, 0.2)), np.deg2rad(np.linspace(-12, 12, 64)))
    r = 10.0 + 0.02 * np.random.default_rng(seed).standard_normal(a.shape)
    xyz = np.stack([r * np.cos(e) * np.cos(a), r * np.cos(e) * np.sin(a), r * np.sin(e)], 2).reshape(-1, 3)
    ring = np.repeat(np.arange(64, dtype=np.int16), a.shape[1])
    return PointCloud(xyz.astype(np.float32), np.full(len(xyz), 0.5, np.float32), 0, ring=ring)


def test_lone_returns_behind_a_wall_are_ghosts_and_a_body_behind_it_is_none() -> None:
    """One return in two hundred is reflected to behind the wall; a patch of ten by ten beams stands there for real."""
    before, rng = wall(1), np.random.default_rng(2)
    xyz = before.xyz.copy()
    behind = rng.random(len(xyz)) < 0.005
    xyz[behind] *= rng.uniform(1.3, 3.0, (behind.sum(), 1)).astype(np.float32)
    body = np.zeros((64, 1800), np.bool_)
    body[20:30, 100:110] = True
    body = body.ravel() & ~behind
    xyz[body] *= np.float32(1.5)
    cloud = replace(before, xyz=xyz)

    found = Ghosts().find(cloud)
    clean = CloudRestorer(CloudChain("g", (Ghosts(),))).apply(before, 0)[0]

    assert np.isin(found, np.flatnonzero(behind)).mean() > 0.99
    assert np.isin(np.flatnonzero(behind), found).mean() > 0.9
    assert not body[found].any()
    assert clean is before


def test_dynamic_radius_is_the_published_filter() -> None:
    """DROR by SciPy's k-d tree: the same returns, but for those on the very edge of a radius."""
    rng = np.random.default_rng(3)
    cloud = wall(3)
    xyz = cloud.xyz[rng.random(len(cloud.xyz)) < 0.2].copy()
    xyz[::7] *= rng.uniform(0.2, 0.9, (len(xyz[::7]), 1)).astype(np.float32)
    sparse = PointCloud(xyz, np.zeros(len(xyz), np.float32), 0)
    radius = np.maximum(0.04, 4.0 * np.deg2rad(0.3) * np.linalg.norm(xyz.astype(np.float64), axis=1))
    tree = cKDTree(xyz.astype(np.float64))
    sure, maybe = (tree.query_ball_point(tree.data, radius * f, return_length=True) - 1 < 4 for f in (1.001, 0.999))

    found = DynamicRadius(angle_deg=0.3, factor=4.0, neighbours=4, dim=False).find(sparse)

    assert set(np.flatnonzero(sure)) <= set(found.tolist()) <= set(np.flatnonzero(maybe))
    assert 100 < len(found) < len(xyz)


def test_statistical_outliers_are_those_of_the_published_filter() -> None:
    """SOR by SciPy's k-d tree: the same returns."""
    rng = np.random.default_rng(5)
    cloud = wall(5)
    xyz = cloud.xyz[rng.random(len(cloud.xyz)) < 0.1].copy()
    xyz[::50] *= rng.uniform(0.2, 0.9, (len(xyz[::50]), 1)).astype(np.float32)
    mean = np.minimum(cKDTree(xyz.astype(np.float64)).query(xyz.astype(np.float64), k=9)[0][:, 1:], 5.0).mean(axis=1)
    wanted = np.flatnonzero(mean > mean.mean() + 2.0 * mean.std())

    found = StatisticalOutlier(neighbours=8).find(PointCloud(xyz, np.zeros(len(xyz), np.float32), 0))

    assert len(wanted) > 100
    assert len(np.setxor1d(found, wanted)) <= 1


def test_steps_run_one_after_the_other_each_within_its_cap() -> None:
    """Scatter over a wall: the second step sees what the first one left."""
    before = wall(4)
    rng = np.random.default_rng(4)
    xyz, intensity = before.xyz.copy(), before.intensity.copy()
    hit = rng.random(len(xyz)) < 0.1
    xyz[hit] *= rng.uniform(0.15, 0.9, (hit.sum(), 1)).astype(np.float32)
    intensity[hit] = 0.01
    cloud = replace(before, xyz=xyz, intensity=intensity)

    one, first = CloudRestorer(CloudChain("a", (Snow(),))).apply(cloud, 0)
    two, both = CloudRestorer(CloudChain("b", (Snow(), Snow(min_share=0.0)))).apply(cloud, 0)

    assert isinstance(one, PointCloud)
    assert isinstance(two, PointCloud)
    assert len(two.xyz) <= len(one.xyz) < len(cloud.xyz)
    assert both.changed_share >= first.changed_share > 0.08
    assert first.changed_share == pytest.approx(1.0 - len(one.xyz) / len(cloud.xyz))


def test_a_release_carries_its_chains_signed_and_a_device_runs_those(chains: Path) -> None:
    """Through the manifest's field and JSON: the same chains, in the same order, with the digests of the file's."""
    fields = input_policy(chains, None)
    policy = InputPolicy.of(json.loads(json.dumps(fields)))

    assert policy.chains == images_of(read_chain_file(chains))
    assert policy.sensors == sensors_of(read_chain_file(chains))
    assert [digest_of(c) for c in policy.sensors] == [digest_of(c) for c in sensors_of(read_chain_file(chains))]
    assert [r.name for r in policy.restorers()] == ["winter", "imu-spikes"]
    assert InputPolicy.of(None).restorers() == ()
    assert fields is not None
    with pytest.raises(ConfigError) as refused:
        InputPolicy.of(fields | {"sensors": [{"kind": "cloud", "name": "soft", "steps": [{"op": "snow"}]}]})
    assert refused.value.code == "EG-C146"


def test_the_documented_file_can_be_read(tmp_path: Path) -> None:
    """What docs/restoration.md shows is what this release takes."""
    page = (Path(__file__).parents[2] / "docs/restoration.md").read_text()
    blocks = [part.split("```")[0] for part in page.split("```toml")[1:]]
    shown = "\n".join(block for block in blocks if "[[chains]]" in block)
    path = tmp_path / "chains.toml"
    path.write_text(shown)

    assert [chain.name for chain in read_chain_file(path)] == ["smooth-and-requantise", "winter", "imu-spikes"]
