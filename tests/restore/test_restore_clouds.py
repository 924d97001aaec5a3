"""IsolatedReturns: removes what stands alone, and cannot be made to remove a body."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeguard.errors import ConfigError
from edgeguard.restore.isolated import IsolatedReturns, find_isolated
from edgeguard.types import Image, PointCloud


def cloud(xyz: NDArray[np.floating], intensity: NDArray[np.floating] | None = None) -> PointCloud:
    count = len(xyz)
    return PointCloud(
        xyz.astype(np.float32),
        np.zeros(count, np.float32) if intensity is None else intensity.astype(np.float32),
        3,
        ring=np.arange(count, dtype=np.int16) % 64,
        time_offset_ns=np.arange(count, dtype=np.int32),
    )


def street_sweep() -> NDArray[np.float64]:
    """A 32-beam sweep over flat ground between two walls: every return has neighbours."""
    azimuth = np.deg2rad(np.arange(0, 360, 0.4))
    elevation = np.deg2rad(np.linspace(-24, 4, 32))
    a, e = (m.ravel() for m in np.meshgrid(azimuth, elevation))
    to_ground = np.where(e < 0, 1.73 / np.maximum(np.sin(-e), 1e-9), np.inf)
    to_wall = 8.0 / np.maximum(np.abs(np.sin(a)) * np.cos(e), 1e-9)
    r = np.minimum(np.minimum(to_ground, to_wall), 60.0)
    return np.stack([r * np.cos(e) * np.cos(a), r * np.cos(e) * np.sin(a), r * np.sin(e)], axis=1)


def brute_force_isolated(xyz: NDArray[np.float32]) -> set[int]:
    """The definition, point by point in float64; points within a hair of a cell border are left out by the caller."""
    x, y, z = xyz.astype(np.float64).T
    r = np.clip(np.sqrt(x * x + y * y + z * z), 0.5, 200.0)
    column = (np.rad2deg(np.arctan2(y, x)) % 360.0 // 2).astype(int)
    row = ((np.rad2deg(np.arctan2(z, np.hypot(x, y))) + 90.0) // 2).astype(int)
    shell = (np.log(r / 0.5) / 0.1).astype(int)
    around = np.abs(column[:, None] - column[None])
    near = np.minimum(around, 180 - around) <= 1
    near &= (np.abs(row[:, None] - row[None]) <= 1) & (np.abs(shell[:, None] - shell[None]) <= 1)
    return set(np.flatnonzero(near.sum(axis=1) == 1).tolist())


def centred(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Random points at the centres of cells, so that float32 and float64 agree on the cell."""
    a = np.deg2rad(rng.integers(0, 180, count) * 2 + 1.0)
    e = np.deg2rad(rng.integers(-20, 20, count) * 2 + 1.0)
    r = 0.5 * np.exp(rng.integers(10, 50, count) * 0.1 + 0.05)
    return np.stack([r * np.cos(e) * np.cos(a), r * np.cos(e) * np.sin(a), r * np.sin(e)], axis=1).astype(np.float32)


@given(seed=st.integers(0, 2**31), count=st.integers(1, 300))
def test_what_is_isolated_agrees_with_the_definition(seed: int, count: int) -> None:
    """The vectorised search against the pairwise definition."""
    xyz = centred(np.random.default_rng(seed), count)

    assert set(find_isolated(xyz).tolist()) == brute_force_isolated(xyz)


def test_a_clean_sweep_is_returned_as_the_same_object() -> None:
    """Ground and walls are no backscatter."""
    before = cloud(street_sweep())

    after, done = IsolatedReturns().apply(before, 0)

    assert after is before
    assert done.changed_share == 0.0


def test_scattered_returns_are_removed_and_the_street_stays() -> None:
    """Rain in free space goes; ground and walls stay to the last point; all columns stay aligned."""
    rng = np.random.default_rng(5)
    street = street_sweep()
    azimuth, radius = rng.uniform(0, 2 * np.pi, 120), rng.uniform(1.5, 4.0, 120)
    rain = np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), rng.uniform(0.5, 3.0, 120)], axis=1)
    before = cloud(np.concatenate([street, rain]))

    after, done = IsolatedReturns().apply(before, 0)

    assert isinstance(after, PointCloud)
    assert after.time_offset_ns is not None
    assert np.array_equal(after.time_offset_ns[: len(street)], np.arange(len(street)))
    removed = len(before.xyz) - len(after.xyz)
    assert removed > 60
    assert done.changed_share == removed / len(before.xyz)
    assert after.ring is not None
    assert len(after.ring) == len(after.intensity) == len(after.xyz)
    assert np.array_equal(after.ring, after.time_offset_ns % 64)


@given(seed=st.integers(0, 2**31), share=st.floats(0.0, 0.5))
def test_never_more_than_the_cap_is_removed_and_the_dimmest_go_first(seed: int, share: float) -> None:
    """A sweep of nothing but isolated points, the most an attacker can ask for."""
    rng = np.random.default_rng(seed)
    before = cloud(centred(rng, 400), rng.random(400))

    after, done = IsolatedReturns(max_removed_share=share).apply(before, 0)

    assert isinstance(after, PointCloud)
    removed = sorted(set(before.time_offset_ns.tolist()) - set(after.time_offset_ns.tolist()))  # type: ignore[union-attr]
    assert len(removed) <= share * 400
    assert done.changed_share <= share
    kept_isolated = [i for i in find_isolated(before.xyz) if i not in set(removed)]
    if removed and kept_isolated:
        assert before.intensity[removed].max() <= before.intensity[kept_isolated].min()


@given(seed=st.integers(0, 2**31), added=st.integers(0, 300))
def test_adding_points_never_isolates_a_point_that_had_neighbours(seed: int, added: int) -> None:
    """The attack by injection: whatever is added, what was kept before stays kept."""
    rng = np.random.default_rng(seed)
    scene = rng.uniform(-30, 30, (200, 3)).astype(np.float32)
    injected = rng.uniform(-30, 30, (added, 3)).astype(np.float32)

    alone_before = set(find_isolated(scene).tolist())
    alone_after = set(find_isolated(np.concatenate([scene, injected])).tolist())

    assert {i for i in alone_after if i < len(scene)} <= alone_before


@given(
    distance_m=st.floats(2.0, 80.0),
    azimuth_deg=st.floats(0.0, 360.0),
    seed=st.integers(0, 2**31),
)
def test_a_pedestrian_is_never_removed_even_from_a_sweep_full_of_noise(
    distance_m: float, azimuth_deg: float, seed: int
) -> None:
    """A body 1.7 m by 0.5 m sampled as a 64-beam lidar would, among 2000 isolated points."""
    rng = np.random.default_rng(seed)
    a = np.deg2rad(azimuth_deg) + np.deg2rad(np.arange(-0.5, 0.51, 0.2)) * min(1.0, 28.0 / distance_m)
    e = np.arctan2(np.arange(-1.6, 0.1, max(0.1, distance_m * 0.007)), distance_m)
    aa, ee = (m.ravel() for m in np.meshgrid(a, e))
    body = distance_m * np.stack([np.cos(ee) * np.cos(aa), np.cos(ee) * np.sin(aa), np.sin(ee)], axis=1)
    before = cloud(np.concatenate([body, centred(rng, 2000)]))

    after, _ = IsolatedReturns(max_removed_share=0.5).apply(before, 0)

    assert isinstance(after, PointCloud)
    assert after.time_offset_ns is not None
    assert np.array_equal(after.time_offset_ns[: len(body)], np.arange(len(body)))


def test_points_that_are_not_finite_are_left_for_the_checks() -> None:
    """No warning, no crash, no removal."""
    xyz = np.array([[np.nan, 0, 0], [np.inf, 1, 1], [-np.inf, 1, 1], [0, 0, 0]], np.float32)

    assert find_isolated(xyz).size == 0


def test_other_samples_and_empty_clouds_pass_through() -> None:
    """A restorer of clouds leaves images alone."""
    image = Image(np.zeros((2, 2, 3), np.uint8), 0)
    empty = cloud(np.zeros((0, 3)))

    assert IsolatedReturns().apply(image, 0)[0] is image
    assert IsolatedReturns().apply(empty, 0)[0] is empty


def test_a_cap_that_could_delete_half_the_world_is_a_config_error() -> None:
    """Settings are checked when made."""
    with pytest.raises(ConfigError):
        IsolatedReturns(max_removed_share=0.6)


@pytest.mark.realdata
def test_real_clean_sweeps_are_untouched(realdata: Path) -> None:
    """64-beam sweeps of a street: below the share from which the filter acts at all."""
    for file in sorted((realdata / "kitti_drive/velodyne").glob("*.bin"))[::4]:
        raw = np.fromfile(file, np.float32).reshape(-1, 4)
        before = PointCloud(raw[:, :3], raw[:, 3], 0)

        after, _ = IsolatedReturns().apply(before, 0)

        assert after is before
        assert find_isolated(before.xyz).size < 0.0003 * len(raw)
