"""The UDP source on real loopback sockets, and the capture source on files."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from edgeguard.clock import ManualClock, SystemClock
from edgeguard.errors import RecordingError, SensorDisconnectedError, SensorOpenError
from edgeguard.protocols.ouster import OusterDecoder
from edgeguard.sensors import udp_lidar
from edgeguard.sensors.capture_lidar import CaptureLidarSource
from edgeguard.sensors.udp_lidar import UdpLidarSource
from edgeguard.types import ImuSample, PointCloud, SourceInfo

INFO = SourceInfo("lidar", PointCloud, 100_000_000, "loopback")


def open_source(sensor, **options) -> UdpLidarSource:
    decoder = OusterDecoder(sensor.metadata)
    source = UdpLidarSource(0, decoder, INFO, SystemClock(), bind_address="127.0.0.1", **options)
    source.open()
    return source


def send(source: UdpLidarSource, packets: list[bytes], sender: str = "127.0.0.1") -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind((sender, 0))
        for packet in packets:
            out.sendto(packet, source.address)


def test_a_sweep_sent_over_udp_arrives_as_a_cloud(make_sensor) -> None:
    """Same points as decoded directly, stamped with the time of arrival."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    packets = sensor.packets(sensor.frame(1, 1))
    direct = OusterDecoder(sensor.metadata)
    expected = next(r for p in packets for r in direct.feed(p)).sample(0, "lidar")
    with open_source(sensor) as source:
        before = time.monotonic_ns()
        send(source, packets)
        sample = source.read(2.0)
        after = time.monotonic_ns()
        assert isinstance(sample, PointCloud)
        np.testing.assert_array_equal(sample.xyz, expected.xyz)
        assert before <= sample.stamp_ns <= after
        assert source.sender == "127.0.0.1"
        assert source.line_stats.frames == 32
        assert not source.drops


def test_the_stamp_is_of_arrival_not_of_reading(make_sensor) -> None:
    """The kernel's receive stamp takes the waiting time out."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    with open_source(sensor) as source:
        send(source, sensor.packets(sensor.frame(1, 1)))
        sent_ns = time.monotonic_ns()
        time.sleep(0.2)
        sample = source.read(1.0)
        assert sample is not None
        assert sample.stamp_ns <= sent_ns + 20_000_000


def test_a_second_sender_is_refused_and_named(make_sensor) -> None:
    """It repeats the sensor's own frames with other content: not one of its packets is decoded."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    a, b = sensor.frame(1, 1), sensor.frame(99, 2)
    with open_source(sensor) as source:
        send(source, [b"garbage"], "127.0.0.3")
        send(source, sensor.packets(a))
        assert source.read(2.0) is not None
        send(source, sensor.packets(b), "127.0.0.2")
        assert source.read(0.2) is None
        assert source.sender == "127.0.0.1"
        assert source.refused_senders == {"127.0.0.2": 32}
        assert source.drops == {"wrong_size": 1, "other_sender": 32}
        send(source, sensor.packets(sensor.frame(3, 2)))
        assert source.read(2.0) is not None


def test_a_sender_can_be_required(make_sensor) -> None:
    """Then the first to speak is refused when it is another."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    with open_source(sensor, sender="127.0.0.7") as source:
        send(source, sensor.packets(sensor.frame(1, 1)))
        assert source.read(0.2) is None
        assert source.refused_senders == {"127.0.0.1": 32}
        send(source, sensor.packets(sensor.frame(1, 1)), "127.0.0.7")
        assert source.read(2.0) is not None


def test_a_flood_does_not_keep_read_from_returning(make_sensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read takes so many datagrams and no more; all of them are accounted for."""
    monkeypatch.setattr(udp_lidar, "MAX_DATAGRAMS_PER_READ", 50)
    sensor = make_sensor("RNG15_RFL8_NIR8")
    with open_source(sensor) as source:
        send(source, [b"x"] * 120)
        assert source.read(60.0) is None
        assert source.line_stats.bytes_skipped == 50
        assert source.read(0.05) is None
        assert source.read(0.05) is None
        assert source.drops == {"wrong_size": 120}


def test_what_the_kernel_had_no_room_for_is_counted(make_sensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody read for a while: the kernel tells how many it threw away, and nothing is missing from the books."""
    monkeypatch.setattr(udp_lidar, "RECEIVE_BUFFER_BYTES", 4096)
    sensor = make_sensor("RNG15_RFL8_NIR8")
    with open_source(sensor) as source:
        send(source, [b"x" * 1000] * 200)
        while source.read(0.0) is None and source.line_stats.bytes_received == 0:
            pass
        source.read(0.05)
        send(source, [b"x" * 1000])  # the count comes with the next datagram that fits
        source.read(0.2)
        assert source.drops["kernel_overflow"] + source.drops["wrong_size"] == 201
        assert source.drops["kernel_overflow"] > 100


def test_other_kinds_of_record_and_partial_sweeps_are_counted(make_sensor) -> None:
    """An IMU packet on the lidar's port is no cloud; a sweep joined in the middle is none either."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    imu = struct.pack("<3Q6f", 1, 2, 3, 0, 0, 1, 0, 0, 0)
    with open_source(sensor) as source:
        send(source, [imu, *sensor.packets(sensor.frame(1, 1))[10:], *sensor.packets(sensor.frame(2, 2))])
        sample = source.read(2.0)
        assert isinstance(sample, PointCloud)
        assert source.drops == {"other_kind": 1, "partial_sweep": 1}


def test_silence_is_a_disconnection_when_asked_for(make_sensor) -> None:
    """UDP has no hang-up."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    with open_source(sensor, stop_after_silence_s=0.05) as source:
        assert source.read(0.0) is None
        time.sleep(0.06)
        with pytest.raises(SensorDisconnectedError) as gone:
            source.read(0.0)
        assert gone.value.code == "EG-N141"


def test_a_port_in_use_and_a_closed_source_say_so(make_sensor) -> None:
    """Both with a code."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    with open_source(sensor) as source:
        port = source.address[1]
        second = UdpLidarSource(port, OusterDecoder(sensor.metadata), INFO, SystemClock(), bind_address="127.0.0.1")
        with pytest.raises(SensorOpenError) as taken:
            second.open()
        assert taken.value.code == "EG-N140"
    with pytest.raises(SensorDisconnectedError):
        source.read(0.0)
    nowhere = UdpLidarSource(1, OusterDecoder(sensor.metadata), INFO, SystemClock(), bind_address="no such host")
    with pytest.raises(SensorOpenError):
        nowhere.open()


def capture(path: Path, packets: list[tuple[int, str, bytes]]) -> Path:
    out = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 101)
    for stamp_ns, source, payload in packets:
        body = struct.pack(">4H", 7502, 7502, 8 + len(payload), 0) + payload
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0)
        ip += socket.inet_aton(source) + socket.inet_aton("10.0.0.9") + body
        out += struct.pack("<4I", *divmod(stamp_ns, 10**9), len(ip), len(ip)) + ip
    path.write_bytes(out)
    return path


def test_a_capture_plays_with_its_own_timing(make_sensor, tmp_path: Path) -> None:
    """Samples come when the clock reaches them, as far apart as they were captured."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    packets, at_ns = [], 1_700_000_000_000_000_000
    for frame_id in (1, 2, 3):
        for packet in sensor.packets(sensor.frame(frame_id, frame_id)):
            packets.append((at_ns, "10.0.0.1", packet))
            at_ns += 3_125_000
    path = capture(tmp_path / "a.pcap", packets)
    clock = ManualClock(start_ns=50)
    with CaptureLidarSource(path, OusterDecoder(sensor.metadata), INFO, clock) as source:
        assert source.read(0.0) is None
        stamps = []
        while not source.exhausted:
            sample = source.read(1.0)
            if sample is not None:
                stamps.append(sample.stamp_ns)
                assert clock.now_ns() == sample.stamp_ns
        assert np.diff(stamps).tolist() == [100_000_000, 100_000_000]
        assert stamps[0] == 50 + 31 * 3_125_000
        assert source.read(1.0) is None
        assert source.note == ""


def test_a_capture_of_two_senders_plays_the_first(make_sensor, tmp_path: Path) -> None:
    """As live: the other is refused and named; a cut file says so."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    good = sensor.packets(sensor.frame(1, 1))
    forged = sensor.packets(sensor.frame(2, 1))
    mixed = [
        (n, s, p)
        for n, (g, f) in enumerate(zip(good, forged, strict=True))
        for s, p in (("1.1.1.1", g), ("2.2.2.2", f))
    ]
    path = capture(tmp_path / "b.pcap", mixed)
    path.write_bytes(path.read_bytes()[:-7])
    with CaptureLidarSource(path, OusterDecoder(sensor.metadata), INFO, ManualClock()) as source:
        assert source.read(10.0) is not None
        while not source.exhausted:
            source.read(10.0)
        assert source.refused_senders == {"2.2.2.2": 31}
        assert "cut in the middle" in source.note


def test_imu_and_lidar_of_one_capture_have_a_source_each(make_sensor, tmp_path: Path) -> None:
    """The kind that is asked for decides."""
    sensor = make_sensor("RNG15_RFL8_NIR8")
    imu = struct.pack("<3Q6f", 1, 2, 3, 0, 0, 1, 0, 0, 0)
    path = capture(tmp_path / "c.pcap", [(5, "1.1.1.1", imu)])
    info = SourceInfo("imu", ImuSample, 10_000_000, "capture")
    with CaptureLidarSource(path, OusterDecoder(sensor.metadata), info, ManualClock()) as source:
        assert isinstance(source.read(1.0), ImuSample)


def test_a_file_that_is_no_capture_is_refused(make_sensor, tmp_path: Path) -> None:
    """With a hint how to make one."""
    path = tmp_path / "x.pcap"
    path.write_bytes(b"not a capture at all")
    sensor = make_sensor("RNG15_RFL8_NIR8")
    with CaptureLidarSource(path, OusterDecoder(sensor.metadata), INFO, ManualClock()) as source:
        with pytest.raises(RecordingError) as refused:
            source.read(1.0)
        assert refused.value.code == "EG-N142"
        assert "tcpdump" in refused.value.hint
    with pytest.raises(SensorOpenError):
        CaptureLidarSource(tmp_path / "none", OusterDecoder(sensor.metadata), INFO, ManualClock()).open()
