"""Sensor clocks as the decoders tell them, over their wraps and damaged stamps, into the synchronizer's estimate."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.protocols.ld06 import Ld06Decoder, Ld06Packet, encode_packet
from edgeguard.protocols.link import ImuReading, LinkDecoder, LinkEncoder
from edgeguard.sensors.serial import spread
from edgeguard.sync.synchronizer import Synchronizer
from edgeguard.types import IMU, LIDAR, ClockEstimate, ImuSample, PointCloud, Sample, Scan2d, SourceInfo, Tick

MS = 1_000_000
S = 1000 * MS
STILL = ImuReading((0.0, 0.0, 0.0), (0.0, 0.0, 9.81))


def estimate(samples: Iterable[Sample], kind: type, period_ns: int) -> tuple[ClockEstimate, dict[str, int]]:
    """What the synchronizer makes of a stream that arrives at its stamps, a tick every 100 ms."""
    listed = list(samples)
    sensor = listed[0].sensor
    sync = Synchronizer([SourceInfo(sensor, kind, period_ns, "test")])
    at, tick_ns = 0, listed[0].stamp_ns
    while at < len(listed):
        tick_ns += S // 10
        while at < len(listed) and listed[at].stamp_ns <= tick_ns:
            sync.push(listed[at])
            at += 1
        health = sync.tick(Tick(at, tick_ns)).health[sensor]
    assert health.clock is not None
    return health.clock, dict(health.dropped)


def ld06_scans(seconds: float, drift_ppm: float, damaged: frozenset[int] = frozenset()) -> list[Scan2d]:
    """Revolutions of a lidar at 10 Hz whose clock drifts; each arrives with its last packet, 0.2 ms later at most."""
    decoder, rng = Ld06Decoder(), np.random.default_rng(3)
    scans: list[Scan2d] = []
    for k in range(int(seconds * 375)):
        host_ns = 5 * S + k * 12 * S // 4500
        device_ms = int((host_ns - 5 * S) / (1.0 + drift_ppm * 1e-6) / MS) + 12_345
        told_ms = int(rng.integers(0, 65_536)) if k in damaged else device_ms % 30_000
        start = round(k * 9.6 % 360, 2)
        packet = Ld06Packet(3600, start, round((start + 8.8) % 360, 2), told_ms, (3.0,) * 12, (100,) * 12)
        for scan in decoder.feed(encode_packet(packet)):
            sample = scan.sample(host_ns + int(rng.exponential(0.1 * MS)), "scan2d")
            scans.append(sample)
    return scans


@pytest.mark.parametrize("drift_ppm", [-300.0, 80.0])
def test_an_ld06_clock_is_one_clock_over_its_wraps(drift_ppm: float) -> None:
    """A hundred seconds are three wraps: no jump, no outlier, and the drift to the resolution of its milliseconds."""
    clock, dropped = estimate(ld06_scans(100.0, drift_ppm), Scan2d, S // 10)
    assert (clock.jumps, clock.outliers, dropped) == (0, 0, {})
    assert clock.drift_ppm == pytest.approx(drift_ppm, abs=15.0)


def test_damaged_stamps_do_not_turn_the_clock_on() -> None:
    """One packet in forty has a random time behind a good checksum: the estimate stays where it was."""
    damaged = frozenset(np.random.default_rng(5).choice(22_500, 560, replace=False).tolist())
    scans = ld06_scans(60.0, 40.0, damaged)
    clock, dropped = estimate(scans, Scan2d, S // 10)
    assert (clock.jumps, dropped) == (0, {})
    assert clock.drift_ppm == pytest.approx(40.0, abs=40.0)
    steps = np.diff([scan.device_stamp_ns or 0 for scan in scans])
    assert ((steps > 40 * MS) & (steps < 160 * MS)).all()


@pytest.mark.parametrize("gap_s", [0.03, 0.5, 5.0, 14.0])
def test_a_gap_on_an_ld06_line_is_time_that_passed(gap_s: float) -> None:
    """Less than half a wrap is told by the clock itself."""
    decoder, stamps = Ld06Decoder(), []
    for k in range(600):
        gap_ms = gap_s * 1000 if k >= 300 else 0.0
        start = round(k * 9.6 % 360, 2)
        told_ms = int(29_000 + k * 12 / 4.5 + gap_ms) % 30_000
        packet = Ld06Packet(3600, start, round((start + 8.8) % 360, 2), told_ms, (3.0,) * 12, (1,) * 12)
        stamps += [scan.device_ns for scan in decoder.feed(encode_packet(packet))]
    assert stamps[-1] - stamps[0] == pytest.approx((len(stamps) - 1) * 100 * MS + gap_s * S, abs=3 * MS)


def node_samples(first_us: int, wrap_us: int | None, seconds: float, drift_ppm: float) -> list[ImuSample]:
    """A node's frames through encoder and decoder; its microseconds start at `first_us` and may wrap."""
    encoder, decoder, rng = LinkEncoder(7, bytes(32)), LinkDecoder({7: bytes(32)}), np.random.default_rng(1)
    samples: list[ImuSample] = []
    for k in range(int(seconds * 100)):
        device_us = first_us + int(k * 10_000 / (1.0 + drift_ppm * 1e-6))
        frame = encoder.frame(device_us % wrap_us if wrap_us else device_us, STILL)
        arrival_ns = 9 * S + k * 10 * MS + int(rng.exponential(0.2 * MS))
        samples += [r.sample(arrival_ns, IMU) for r in decoder.feed(frame)]  # type: ignore[misc]
    return samples


def test_a_node_near_the_end_of_its_64_bits_is_read_exactly() -> None:
    """Nanoseconds beyond 2^63 are numbers like others to the estimate."""
    clock, dropped = estimate(node_samples(2**64 - 60_000_000, None, 50.0, 25.0), ImuSample, 10 * MS)
    assert (clock.jumps, clock.outliers, dropped) == (0, 0, {})
    assert clock.drift_ppm == pytest.approx(25.0, abs=1.0)


def test_a_node_that_sends_a_32_bit_timer_is_followed_over_its_wrap() -> None:
    """Microseconds of a 32-bit timer start over after 71 minutes: one jump, counted, and the drift is learned again."""
    clock, dropped = estimate(node_samples(2**32 - 20_000_000, 2**32, 60.0, -60.0), ImuSample, 10 * MS)
    assert (clock.jumps, dropped) == (1, {})
    assert clock.drift_ppm == pytest.approx(-60.0, abs=2.0)


def test_a_lidar_that_restarts_is_one_jump() -> None:
    """Nanoseconds since power-on (Ouster, internal oscillator) begin at zero again; PTP beginning is the other way."""
    empty = (np.zeros((0, 3), np.float32), np.zeros(0, np.float32))
    for before_ns, after_ns in ((7_200 * S, 0), (30 * S, 1_767_225_600 * S)):
        clouds = [
            PointCloud(
                *empty, 10 * S + k * S // 10, LIDAR,
                device_stamp_ns=(before_ns if k < 300 else after_ns - 30 * S) + k * S // 10,
            )
            for k in range(900)
        ]  # fmt: skip
        clock, dropped = estimate(clouds, PointCloud, S // 10)
        assert (clock.jumps, dropped) == (1, {})
        assert clock.host_ns(clouds[-1].device_stamp_ns or 0) == pytest.approx(clouds[-1].stamp_ns, abs=MS)


@given(
    st.lists(st.integers(-(2**70), 2**70) | st.none(), min_size=1, max_size=30),
    st.integers(0, 10**6),
    st.integers(0, 10**9),
)
def test_samples_of_one_read_never_share_a_stamp_and_never_leave_the_read(
    device: list[int | None], before_ns: int, passed_ns: int
) -> None:
    """Whatever a sensor's clock claims: in order, distinct, not after the read, and not before the one before it."""
    now_ns = before_ns + passed_ns
    given_ = [ImuSample(now_ns, (0, 0, 0), (0, 0, 0), IMU, d) for d in device]

    stamps = [sample.stamp_ns for sample in spread(given_, before_ns)]

    assert stamps[-1] == now_ns
    assert all(a < b for a, b in pairwise(stamps))
    assert stamps[0] >= before_ns - len(device)


def test_a_usb_adapter_that_collects_frames_costs_none() -> None:
    """100 Hz in handfuls of 16 ms: every sample arrives at the checks, spaced as the node measured it."""
    encoder, decoder = LinkEncoder(7, bytes(32)), LinkDecoder({7: bytes(32)})
    sync = Synchronizer([SourceInfo(IMU, ImuSample, 10 * MS, "usb")])
    waiting, received, stamps, before_ns = b"", 0, [], 0
    for ms in range(4000):
        if ms % 10 == 0:
            waiting += encoder.frame(ms * 1000, STILL)
        if ms % 32 == 31:
            now_ns = S + ms * MS
            samples = [record.sample(now_ns, IMU) for record in decoder.feed(waiting)]
            for sample in spread(samples, before_ns):
                sync.push(sample)
            waiting, before_ns = b"", now_ns
        if ms % 100 == 99:
            cut = sync.tick(Tick(ms, S + ms * MS))
            received, stamps = cut.health[IMU].received, stamps + [s.stamp_ns for s in cut.series[IMU]]
            assert dict(cut.health[IMU].dropped) == {}
    assert received >= 390
    assert np.median(np.diff(stamps)) == 10 * MS
