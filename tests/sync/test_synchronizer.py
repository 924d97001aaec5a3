"""The synchroniser: every sample is used once or dropped with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import ConfigError
from edgeguard.sync.synchronizer import Synchronizer
from edgeguard.types import GNSS, IMU, LIDAR, GnssFix, ImuSample, LineStats, PointCloud, SourceInfo, Tick

MS = 1_000_000
INFOS = (
    SourceInfo(GNSS, GnssFix, 100 * MS, "test"),
    SourceInfo(IMU, ImuSample, 10 * MS, "test"),
    SourceInfo(LIDAR, PointCloud, 100 * MS, "test"),
)


def fix(stamp_ns: int) -> GnssFix:
    return GnssFix(stamp_ns, 48.0, 11.0)


def imu(stamp_ns: int) -> ImuSample:
    return ImuSample(stamp_ns, (0.0, 0.0, 0.0), (0.0, 0.0, 9.81))


def cloud(stamp_ns: int) -> PointCloud:
    return PointCloud(np.zeros((1, 3), np.float32), np.zeros(1, np.float32), stamp_ns)


MAKERS = {GNSS: fix, IMU: imu, LIDAR: cloud}

pushes = st.lists(
    st.tuples(st.sampled_from([GNSS, IMU, LIDAR]), st.integers(-50 * MS, 3_000 * MS), st.integers(0, 20)), max_size=80
)


@given(pushes)
def test_every_pushed_sample_is_used_once_or_dropped_with_a_reason_or_still_waits(batch: list[tuple[str, int, int]]):
    """Conservation over any stamps in any order."""
    sync = Synchronizer(INFOS)
    used = dict.fromkeys(MAKERS, 0)
    pushed = dict.fromkeys(MAKERS, 0)
    last = dict.fromkeys(MAKERS, -1)
    synced = None
    for frame in range(21):
        for sensor, stamp_ns, at in batch:
            if at == frame:
                pushed[sensor] += 1
                sync.push(MAKERS[sensor](stamp_ns))
        now_ns = (frame + 1) * 100 * MS
        synced = sync.tick(Tick(frame, now_ns))
        for sensor, series in synced.series.items():
            used[sensor] += len(series)
            stamps = [s.stamp_ns for s in series]
            assert stamps == sorted(set(stamps)), "a series runs forward"
            assert not stamps or stamps[0] > last[sensor], "and goes on where the last one ended"
            last[sensor] = stamps[-1] if stamps else last[sensor]
        chosen = synced.samples[LIDAR]
        assert chosen is None or (-50 * MS <= now_ns - chosen.stamp_ns <= 100 * MS and chosen in synced.series[LIDAR])
        for sensor in (GNSS, IMU):
            state = synced.samples[sensor]
            assert state is None or 0 <= now_ns - state.stamp_ns <= 250 * MS
    assert synced is not None
    for sensor in MAKERS:
        dropped = sum(synced.health[sensor].dropped.values())
        assert used[sensor] + dropped + sync.waiting(sensor) == pushed[sensor]
        assert synced.health[sensor].received == used[sensor]


@pytest.mark.parametrize(
    ("stamps_ms", "reason"),
    [([50, 40], "backwards"), ([50, 50], "duplicate"), ([900], "future"), ([-5], "zero_stamp")],
)
def test_each_bad_stamp_has_its_own_reason(stamps_ms: list[int], reason: str):
    """One reason code per kind of bad stamp."""
    sync = Synchronizer(INFOS)
    for stamp in stamps_ms:
        sync.push(fix(stamp * MS))
    health = sync.tick(Tick(0, 100 * MS)).health[GNSS]
    assert dict(health.dropped) == {reason: 1}


def test_a_stamp_of_zero_is_a_time_only_where_the_clock_starts_there():
    """A recording may begin at zero; on a running clock zero is a stamp that nobody set."""
    starting, running = Synchronizer(INFOS), Synchronizer(INFOS)
    for sync in (starting, running):
        sync.push(fix(0))
    assert starting.tick(Tick(0, 0)).health[GNSS].received == 1
    assert running.tick(Tick(0, 60_000 * MS)).health[GNSS].dropped == {"zero_stamp": 1}


def test_a_stale_sample_is_late_and_a_flood_overflows_oldest_first():
    """Bounded buffers drop the oldest and say so."""
    sync = Synchronizer(INFOS)
    sync.push(fix(1 * MS))
    for i in range(5000):
        sync.push(imu(4_000 * MS + i))
    synced = sync.tick(Tick(0, 5_000 * MS))
    assert synced.health[GNSS].dropped == {"late": 1}
    assert synced.health[IMU].dropped == {"overflow": 904}
    assert synced.series[IMU][-1].stamp_ns == 4_000 * MS + 4999


def test_a_future_stamp_does_not_make_the_honest_ones_after_it_run_backwards():
    """One bad stamp must not silence a stream."""
    sync = Synchronizer(INFOS)
    sync.push(fix(90_000 * MS))
    sync.push(fix(90 * MS))
    synced = sync.tick(Tick(0, 100 * MS))
    assert [s.stamp_ns for s in synced.series[GNSS]] == [90 * MS]
    assert synced.health[GNSS].dropped == {"future": 1}


def test_a_silent_stream_still_gets_a_tick_with_its_age():
    """A dead sensor is seen because the set is built without it."""
    sync = Synchronizer(INFOS)
    sync.push(fix(90 * MS))
    sync.tick(Tick(0, 100 * MS))
    synced = sync.tick(Tick(1, 1_100 * MS))
    assert synced.samples[GNSS] is None
    assert synced.health[GNSS].age_ns == 1_010 * MS
    assert synced.health[IMU].age_ns is None


def test_a_frame_is_chosen_once_even_if_the_next_is_missing():
    """The same frame twice would look frozen."""
    sync = Synchronizer(INFOS)
    sync.push(cloud(95 * MS))
    assert sync.tick(Tick(0, 100 * MS)).samples[LIDAR] is not None
    assert sync.tick(Tick(1, 180 * MS)).samples[LIDAR] is None


def test_wrong_kinds_unknown_sensors_and_callers_own_drops_are_counted():
    """Nothing vanishes."""
    sync = Synchronizer(INFOS)
    sync.push(GnssFix(50 * MS, 1.0, 1.0, sensor=IMU))
    sync.push(GnssFix(50 * MS, 1.0, 1.0, sensor="ghost"))
    sync.drop(GNSS, "EG-N003")
    synced = sync.tick(Tick(0, 100 * MS), {GNSS: LineStats(bytes_received=7)})
    assert synced.health[IMU].dropped == {"wrong_kind": 1}
    assert synced.health[GNSS].dropped == {"EG-N003": 1}
    assert synced.health[GNSS].line.bytes_received == 7
    assert sync.unknown == 1


def test_two_sources_of_one_name_and_a_zero_period_are_refused():
    """A rig that cannot be told apart is a configuration error."""
    with pytest.raises(ConfigError) as twice:
        Synchronizer([INFOS[0], INFOS[0]])
    assert twice.value.code == "EG-C110"
    with pytest.raises(ConfigError) as zero:
        Synchronizer([SourceInfo(GNSS, GnssFix, 0, "test")])
    assert zero.value.code == "EG-C111"
