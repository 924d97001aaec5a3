"""Offset and drift of a sensor's clock by the hull below the points, through jitter, jumps and nonsense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeguard.sync.stream_clock import MAX_BUCKETS, StreamClock
from edgeguard.sync.synchronizer import Synchronizer
from edgeguard.types import IMU, ClockEstimate, ImuSample, SourceInfo, Tick

MS = 1_000_000
WAY_NS = 2 * MS  # the shortest way from sensor to us


def drive(
    rate_hz: float, seconds: float, drift_ppm: float, jitter_ms: float, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """True host time, device stamp and arrival of every sample; the way takes its shortest time plus exponential."""
    rng = np.random.default_rng(seed)
    host_ns = np.arange(int(rate_hz * seconds)) / rate_hz * 1e9
    device_ns = (host_ns / (1.0 + drift_ppm * 1e-6)).astype(np.int64) + 123_456_789
    arrival_ns = (host_ns + WAY_NS + rng.exponential(jitter_ms * MS, host_ns.size)).astype(np.int64)
    return host_ns, device_ns, arrival_ns


def fed(device_ns: NDArray[np.int64], arrival_ns: NDArray[np.int64]) -> tuple[StreamClock, ClockEstimate]:
    clock = StreamClock()
    for device, arrival in zip(device_ns.tolist(), arrival_ns.tolist(), strict=True):
        clock.observe(device, arrival)
    estimate = clock.estimate
    assert estimate is not None
    return clock, estimate


@pytest.mark.parametrize("rate_hz", [1.0, 20.0, 200.0])
@pytest.mark.parametrize("drift_ppm", [-500.0, -40.0, 0.0, 3.0, 80.0, 3000.0])
@pytest.mark.parametrize("jitter_ms", [0.07, 1.0, 10.0])
def test_drift_and_offset_are_found_through_jitter_within_what_it_says(
    rate_hz: float, drift_ppm: float, jitter_ms: float
) -> None:
    """Two minutes; lidar-class, network-class and USB-class jitter; no clean stream is said to have jumped."""
    host_ns, device_ns, arrival_ns = drive(rate_hz, 120.0, drift_ppm, jitter_ms)
    _, estimate = fed(device_ns, arrival_ns)
    assert abs(estimate.drift_ppm - drift_ppm) <= 3.0 * estimate.drift_sigma_ppm + 0.01
    allowed_ns = 3.0 * estimate.jitter_ns + 1000
    assert abs(estimate.host_ns(int(device_ns[-1])) - host_ns[-1] - WAY_NS) <= allowed_ns
    assert estimate.jumps == 0
    assert 0.3 * jitter_ms < estimate.jitter_ns / MS < 1.5 * jitter_ms


@pytest.mark.parametrize("jump_ms", [-3_600_000, -2000, -60, 60, 2000, 3_600_000])
def test_a_clock_that_is_set_is_followed_and_counted_once(jump_ms: int) -> None:
    """Forward and backward steps of a device whose stamps are wall-clock time; the drift is learned again."""
    host_ns, device_ns, arrival_ns = drive(20.0, 200.0, -30.0, 0.5, seed=4)
    device_ns[2000:] += jump_ms * MS
    _, estimate = fed(device_ns, arrival_ns)
    assert estimate.jumps == 1
    assert estimate.drift_ppm == pytest.approx(-30.0, abs=1.0)
    assert abs(estimate.host_ns(int(device_ns[-1])) - host_ns[-1] - WAY_NS) < MS


def test_single_wild_stamps_are_outliers_and_move_nothing() -> None:
    """One sample in fifty claims another time."""
    _, device_ns, arrival_ns = drive(50.0, 60.0, 20.0, 1.0, seed=5)
    wild = device_ns.copy()
    wild[40::50] += 30_000 * MS
    _, clean = fed(device_ns, arrival_ns)
    _, estimate = fed(wild, arrival_ns)
    assert estimate.outliers == len(wild[40::50])
    assert estimate.jumps == 0
    assert estimate.drift_ppm == pytest.approx(clean.drift_ppm, abs=2.0)


def test_a_busy_line_is_not_a_clock_that_was_set_back() -> None:
    """Three seconds during which everything comes 40 ms late, with quick ones in between."""
    _, device_ns, arrival_ns = drive(50.0, 100.0, 0.0, 1.0, seed=6)
    busy = slice(2000, 2150)
    arrival_ns[busy] += np.where(np.arange(150) % 10 == 0, 0, 40 * MS)
    _, estimate = fed(device_ns, np.maximum.accumulate(arrival_ns))
    assert estimate.jumps == 0


def test_memory_stays_bounded_over_hours() -> None:
    """Only the quickest sample per bucket is kept."""
    clock = StreamClock()
    for second in range(20_000):
        clock.observe(second * 1_000 * MS, second * 1_000 * MS + 5 * MS)
    assert len(clock._buckets) == MAX_BUCKETS


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63), st.integers(-(2**63), 2**63)), max_size=60))
def test_no_stamps_whatsoever_raise(pairs: list[tuple[int, int]]) -> None:
    """Stamps are hostile input."""
    clock = StreamClock()
    for device_ns, arrival_ns in pairs:
        clock.observe(device_ns, arrival_ns)
    estimate = clock.estimate
    assert (estimate is None) == (not pairs)
    if estimate is not None:
        assert abs(estimate.drift_ppm) <= 10_000.0


def test_the_health_of_a_stream_says_where_its_clock_stands_and_what_its_source_lost() -> None:
    """Through the synchroniser: an IMU 200 ppm slow, and reasons the source counted itself."""
    sync = Synchronizer([SourceInfo(IMU, ImuSample, 10 * MS, "test")])
    _, device_ns, arrival_ns = drive(100.0, 60.0, 200.0, 0.2, seed=8)
    synced = None
    for at in range(0, device_ns.size, 10):
        for device, arrival in zip(device_ns[at : at + 10].tolist(), arrival_ns[at : at + 10].tolist(), strict=True):
            sync.push(ImuSample(arrival, (0.0, 0.0, 0.0), (0.0, 0.0, 9.8), IMU, device))
        synced = sync.tick(Tick(at, int(arrival_ns[at : at + 10].max()) + MS), {}, {IMU: {"malformed": 3, "late": 1}})
    assert synced is not None
    health = synced.health[IMU]
    assert health.clock is not None
    assert health.clock.drift_ppm == pytest.approx(200.0, abs=1.0)
    assert health.dropped["malformed"] == 3
    assert health.dropped["late"] == 1
