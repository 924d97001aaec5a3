"""Serial 2-D lidars: manual's example, twins, cuts, noise, losses; LD06/LD19 and RPLIDAR."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.kernels import _reference_serial_lidar as twin
from edgeguard.kernels import serial_lidar as kernel
from edgeguard.protocols.ld06 import (
    MAX_SCAN_PACKETS,
    Ld06Decoder,
    Ld06Framer,
    Ld06Packet,
    Ld06PacketDecoder,
    encode_packet,
)
from edgeguard.protocols.rplidar import (
    DESCRIPTORS,
    RplidarDecoder,
    RplidarHealth,
    RplidarInfo,
    RplidarPacketDecoder,
    RplidarPoints,
)
from edgeguard.types import Scan2d

# The example packet of the LD06 development manual.
MANUAL = bytes.fromhex("542c6808ab7ee000e4dc00e2d900e5d500e3d300e4d000e9cd00e4ca00e2c700e9c500e5c200e5c000e5be823a1a50")
MODES = {mode: raw for raw, mode in DESCRIPTORS.items()}


def ld06_stream(count: int, *, speed: int = 3600, seed: int = 0) -> list[bytes]:
    """Consecutive packets of a turning sensor at 4500 points a second."""
    rng = np.random.default_rng(seed)
    step_deg = speed / 4500.0
    packets = []
    for k in range(count):
        start = k * 12 * step_deg
        ranges = np.where(rng.random(12) < 0.1, 0.0, rng.uniform(0.1, 12.0, 12)).round(3)
        packets.append(
            encode_packet(
                Ld06Packet(
                    speed,
                    round(start % 360.0, 2),
                    round((start + 11 * step_deg) % 360.0, 2),
                    int(k * 12 / 4.5) % 30_000,
                    tuple(ranges.tolist()),
                    tuple(rng.integers(0, 256, 12).tolist()),
                )
            )
        )
    return packets


def node(angle_deg: float, range_mm: float, quality: int, *, first: bool = False) -> bytes:
    """One standard node, as the manual lays it out."""
    angle, distance = round(angle_deg * 64), round(range_mm * 4)
    flags = 1 if first else 2
    return bytes((quality << 2 | flags, (angle & 0x7F) << 1 | 1, angle >> 7, distance & 0xFF, distance >> 8))


def capsule(start_deg: float, ranges_mm: list[int], fine_q3: list[int], *, anew: bool = False) -> bytes:
    """One legacy express capsule."""
    start = round(start_deg * 64) | (0x8000 if anew else 0)
    body = bytearray(start.to_bytes(2, "little"))
    for k in range(16):
        one, two = 2 * k, 2 * k + 1
        body += (ranges_mm[one] << 2 | fine_q3[one] >> 4).to_bytes(2, "little")
        body += (ranges_mm[two] << 2 | fine_q3[two] >> 4).to_bytes(2, "little")
        body.append((fine_q3[one] & 15) | (fine_q3[two] & 15) << 4)
    return _sealed(body)


def dense_capsule(start_deg: float, ranges_mm: list[int]) -> bytes:
    """One dense express capsule."""
    body = bytearray(round(start_deg * 64).to_bytes(2, "little"))
    for value in ranges_mm:
        body += value.to_bytes(2, "little")
    return _sealed(body)


def _sealed(body: bytearray) -> bytes:
    total = 0
    for byte in body:
        total ^= byte
    return bytes((0xA0 | total & 15, 0x50 | total >> 4)) + bytes(body)


def test_the_manuals_example_packet_is_read_as_the_manual_says() -> None:
    """Speed 2152 deg/s, 324.27 to 334.70 deg, first point 224 mm with intensity 228."""
    (packet,) = Ld06PacketDecoder().feed(MANUAL)
    assert (packet.speed_deg_s, packet.start_angle_deg, packet.end_angle_deg) == (2152, 324.27, 334.70)
    assert (packet.timestamp_ms, packet.range_m[0], packet.intensity[0], packet.range_m[-1]) == (
        6714,
        0.224,
        228,
        0.192,
    )
    assert encode_packet(packet) == MANUAL


PIECES = [MANUAL, MANUAL[:30], b"\x54\x2c", MANUAL[:-1] + b"\0"]
noisy = st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(PIECES)), max_size=8).map(b"".join)


@given(noisy, st.integers(0, 60))
def test_the_ld06_kernels_agree_with_their_twins(data: bytes, quiet: int) -> None:
    """Any bytes, packets among them whole, cut and damaged."""
    raw = np.frombuffer(bytearray(data), dtype=np.uint8)
    starts = np.empty(len(raw) // 47 + 1, dtype=np.int64)
    count, failures, skipped, used, _ = kernel.find_ld06(raw, kernel.LD06_CRC_TABLES, quiet, starts)
    assert (starts[:count].tolist(), failures, skipped, used) == twin.find_ld06(data, quiet)
    for ours, theirs in zip(
        kernel.decode_ld06(raw, starts[:count]), twin.decode_ld06(raw, starts[:count]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@given(st.lists(st.tuples(*[st.integers(0, m) for m in (5000, 36_000, 36_000, 29_999)]), min_size=1, max_size=30))
def test_missing_packets_are_counted_as_the_twin_counts_them(rows: list[tuple[int, int, int, int]]) -> None:
    """Any heads, first without and then with a packet before."""
    head = np.array(rows, dtype=np.uint16)
    last = np.zeros(3, dtype=np.int64)
    assert kernel.count_missing_ld06(head, last) == twin.count_missing_ld06(head, None)
    before = (int(last[0]), int(last[1]))
    assert kernel.count_missing_ld06(head, last) == twin.count_missing_ld06(head, before)


CAPSULE = capsule(10.0, list(range(100, 132)), [k % 64 for k in range(32)])
capsules = st.lists(
    st.one_of(st.binary(max_size=40), st.sampled_from([CAPSULE, CAPSULE[:50], b"\xa5\x5a", CAPSULE[:-1] + b"\x7f"])),
    max_size=6,
).map(b"".join)


@given(capsules)
def test_the_capsule_and_node_kernels_agree_with_their_twins(data: bytes) -> None:
    """Any bytes."""
    raw = np.frombuffer(bytearray(data), dtype=np.uint8)
    starts = np.empty(len(raw) // 5 + 1, dtype=np.int64)
    count, failures, skipped, used, _ = kernel.find_capsules(raw, 0, starts)
    assert (starts[:count].tolist(), failures, skipped, used) == twin.find_capsules(data, 0)
    count, skipped, used = kernel.find_nodes(raw, starts)
    assert (starts[:count].tolist(), skipped, used) == twin.find_nodes(data)


@given(st.lists(st.integers(0, 1400), max_size=12), st.integers(0, 2**32))
def test_how_the_bytes_are_cut_does_not_matter(cuts: list[int], seed: int) -> None:
    """LD06, standard nodes and capsules, with damage, in one piece and in many."""
    rng = np.random.default_rng(seed)
    lines = {
        Ld06PacketDecoder: b"".join(ld06_stream(30, seed=seed % 7)),
        RplidarPacketDecoder: MODES["express"] + b"".join(capsule(k * 12.0, [900] * 32, [3] * 32) for k in range(16)),
    }
    for decoder, clean in lines.items():
        raw = bytearray(clean)
        for at in rng.integers(0, len(raw), 4):
            raw[at] ^= int(rng.integers(1, 256))
        whole, pieces = decoder(), decoder()
        expected = whole.feed(bytes(raw))
        edges = [0, *sorted(c for c in cuts if c < len(raw)), len(raw)]
        found = [r for a, b in pairwise(edges) for r in pieces.feed(bytes(raw[a:b]))]
        assert found == expected
        assert pieces.line_stats == whole.line_stats


def test_damaged_ld06_packets_are_each_counted_once() -> None:
    """Four packets with a wrong checksum among two hundred, and noise between others."""
    packets = ld06_stream(200)
    for k in (20, 21, 90, 150):
        packets[k] = packets[k][:20] + bytes((packets[k][20] ^ 0x10,)) + packets[k][21:]
    packets.insert(60, bytes(range(33)))
    decoder = Ld06PacketDecoder()
    assert len(decoder.feed(b"".join(packets))) == 196
    stats = decoder.line_stats
    assert (stats.frames, stats.checksum_failures, stats.bytes_skipped) == (196, 4, 4 * 47 + 33)
    assert stats.sequence_gaps == 4


def test_missing_ld06_packets_are_counted_through_whole_revolutions() -> None:
    """Single losses and 400 packets in a row, which is more than four turns."""
    packets = [p for k, p in enumerate(ld06_stream(3000)) if k % 97 != 50 and not 2000 <= k < 2400]
    framer = Ld06Framer()
    framer.packets(b"".join(packets))
    assert framer.line_stats.sequence_gaps == 3000 - len(packets)


def test_a_correct_checksum_over_an_impossible_angle_is_still_refused() -> None:
    """Eight bits of checksum are few."""
    bad = encode_packet(Ld06Packet(3600, 600.0, 8.8, 0, (1.0,) * 12, (9,) * 12))
    decoder = Ld06PacketDecoder()
    assert decoder.feed(bad) == []
    assert decoder.line_stats.checksum_failures == 1


def test_revolutions_are_whole_counter_clockwise_and_without_empty_points() -> None:
    """Half a degree clockwise of the front is a small negative angle, given as nearly two pi."""
    decoder = Ld06Decoder()
    scans = [s for packet in ld06_stream(200) for s in decoder.feed(packet)]
    assert 3 <= len(scans) <= 6
    for scan in scans:
        assert 380 <= scan.range_m.size <= 456
        assert float(scan.range_m.min()) > 0.0
        assert float(scan.angle_rad.min()) >= 0.0
        assert float(scan.angle_rad.max()) < 2 * np.pi + 1e-6
    front = scans[0].angle_rad[:5]
    assert np.all(np.diff(front) < 0)
    sample = scans[0].sample(5, "lidar2d")
    assert isinstance(sample, Scan2d)
    assert sample.device_stamp_ns == scans[0].device_ns


def test_a_sensor_that_never_turns_cannot_fill_the_memory() -> None:
    """The same packet ten thousand times."""
    decoder = Ld06Decoder()
    assert decoder.feed(MANUAL * 10_000) == []
    assert len(decoder._parts) <= MAX_SCAN_PACKETS


def test_a_standard_scan_is_read_node_by_node_and_cut_into_revolutions() -> None:
    """Three turns of 360 nodes, after a descriptor."""
    line = MODES["standard"] + b"".join(
        node(a, 1000 + a, 40, first=a == 0) for _ in range(3) for a in range(360)
    )  # fmt: skip
    packets = RplidarPacketDecoder()
    records = packets.feed(line) + packets.flush()
    assert len(records) == packets.line_stats.frames == 1080
    assert isinstance(records[7], RplidarPoints)
    assert (records[7].angle_deg, records[7].range_m, records[7].quality) == ((7.0,), (1.007,), (40,))
    assert packets.line_stats.bytes_skipped == 0
    scans = RplidarDecoder().feed(line)
    assert [scan.range_m.size for scan in scans] == [360] * len(scans)
    assert len(scans) >= 1
    assert scans[0].angle_rad[1] == pytest.approx(2 * np.pi - np.deg2rad(1.0), abs=1e-5)


@pytest.mark.parametrize("described", [True, False])
def test_an_express_scan_places_points_between_capsules_less_their_compensation(described: bool) -> None:
    """With and without the descriptor: a capture that begins in the middle is recognised."""
    fine = [k % 64 for k in range(32)]
    line = b"".join(capsule(k * 12.0 % 360, list(range(1000, 1032)), fine) for k in range(40))
    packets = RplidarPacketDecoder()
    records = packets.feed((MODES["express"] if described else b"") + line) + packets.flush()
    assert packets.mode == "express"
    assert len(records) == packets.line_stats.frames == 40
    points = records[3]
    assert isinstance(points, RplidarPoints)
    expected = [(36.0 + 12.0 / 32 * k - fine[k] / 8) % 360 for k in range(32)]
    assert points.angle_deg == pytest.approx(expected)
    assert points.range_m[:2] == (1.0, 1.001)
    turns = [k for k, r in enumerate(records) if isinstance(r, RplidarPoints) and r.turn is not None]
    assert turns[-1] == 30
    assert len(RplidarDecoder().feed(line)) >= 1 or len(turns) < 2


def test_a_lost_capsule_is_a_gap_and_does_not_stretch_the_one_before_it() -> None:
    """The step of the motor is known by then."""
    line = [capsule(k * 12.0 % 360, [500] * 32, [0] * 32) for k in range(30)]
    del line[20]
    decoder = RplidarPacketDecoder("express")
    records = decoder.feed(b"".join(line))
    assert decoder.line_stats.sequence_gaps == 1
    spans = [r.angle_deg[-1] - r.angle_deg[0] for r in records if isinstance(r, RplidarPoints)]
    assert max(spans) < 12.0


def test_a_dense_scan_has_forty_points_to_a_capsule() -> None:
    """By its descriptor; the frames look like legacy ones."""
    line = MODES["dense"] + b"".join(dense_capsule(k * 10.0, list(range(2000, 2040))) for k in range(5))
    records = RplidarPacketDecoder().feed(line)
    assert [len(r.range_m) for r in records if isinstance(r, RplidarPoints)] == [40] * 4
    assert isinstance(records[0], RplidarPoints)
    assert records[0].angle_deg[4] == pytest.approx(1.0)


def test_answers_are_read_wherever_they_come_and_unknown_modes_are_skipped() -> None:
    """Info and health around a scan; an ultra stream until the next descriptor."""
    info = MODES["info"] + bytes((0x28, 0x1D, 0x01, 0x07)) + bytes(range(16))
    health = MODES["health"] + bytes((1, 0x34, 0x12))
    ultra = MODES["ultra"] + bytes(132 * 3)
    line = info + health + ultra + MODES["standard"] + b"".join(node(a, 500, 10) for a in range(20))
    decoder = RplidarPacketDecoder()
    records = decoder.feed(line) + decoder.flush()
    assert records[0] == RplidarInfo(0x28, (1, 29), 7, bytes(range(16)).hex())
    assert records[1] == RplidarHealth("warning", 0x1234)
    assert len(records) == 22
    assert decoder.line_stats.bytes_skipped == 132 * 3


@given(st.binary(max_size=3000))
def test_no_bytes_whatsoever_raise(data: bytes) -> None:
    """Hostile lines cost counters, nothing else."""
    for decoder in (Ld06Decoder(), RplidarDecoder(), RplidarDecoder("express"), RplidarDecoder("standard")):
        decoder.feed(data)
        assert decoder.line_stats.bytes_received == len(data)
