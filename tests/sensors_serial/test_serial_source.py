"""The serial source on a real pseudo-terminal: samples, silence, noise, disconnection."""

from __future__ import annotations

import os
import tty
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeguard.clock import ManualClock
from edgeguard.errors import SensorDisconnectedError, SensorOpenError
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.link import ImuReading, LinkDecoder, LinkEncoder
from edgeguard.protocols.nmea_write import NmeaFix, epoch
from edgeguard.sensors.line_diagnosis import LineFault
from edgeguard.sensors.serial import SerialSource
from edgeguard.sim.pty_line import KERNEL_ROOM_BYTES, MAX_BACKLOG_BYTES, PtyLine
from edgeguard.types import GnssFix, ImuSample, SourceInfo

KEY = bytes(range(32))


@pytest.fixture
def line() -> Iterator[PtyLine]:
    """A pseudo-terminal that is pulled out at the end."""
    line = PtyLine()
    yield line
    line.unplug()


def imu_source(line: PtyLine, clock: ManualClock) -> SerialSource:
    """Return a source that reads our link from the line."""
    return SerialSource(
        line.port, 921_600, LinkDecoder({1: KEY}), SourceInfo("imu", ImuSample, 10_000_000, line.port), clock
    )


def test_frames_become_samples_stamped_on_arrival(line: PtyLine) -> None:
    """Bytes through the kernel come out as samples with the clock's time and the device's own."""
    clock, encoder = ManualClock(50), LinkEncoder(1, KEY)
    with imu_source(line, clock) as source:
        assert source.read(0.0) is None
        line.write(encoder.frame(10, ImuReading((0.1, 0.2, 0.3), (1.0, 2.0, 9.8))))
        clock.wait_until_ns(777)
        sample = source.read(0.0)
        assert isinstance(sample, ImuSample)
        assert (sample.stamp_ns, sample.device_stamp_ns, sample.sensor) == (777, 10_000, "imu")
        assert sample.gyro_rad_s == pytest.approx((0.1, 0.2, 0.3))
        assert source.read(0.0) is None
        assert source.line_stats.frames == 1
        assert not source.exhausted


def test_half_a_frame_waits_for_the_other_half(line: PtyLine) -> None:
    """A read gives nothing until the delimiter has arrived."""
    clock = ManualClock()
    frame = LinkEncoder(1, KEY).frame(10, ImuReading((0.0, 0.0, 0.0), (0.0, 0.0, 9.8)))
    with imu_source(line, clock) as source:
        line.write(frame[:20])
        assert source.read(0.0) is None
        line.write(frame[20:])
        assert source.read(0.0) is not None


def test_noise_on_the_line_is_counted_and_survived(line: PtyLine) -> None:
    """Damaged frames cost themselves; the totals say so."""
    encoder = LinkEncoder(1, KEY)
    frames = [bytearray(encoder.frame(k, ImuReading((0.0, 0.0, 0.0), (0.0, 0.0, 9.8)))) for k in range(5)]
    frames[2][9] ^= 0x04
    with imu_source(line, ManualClock()) as source:
        line.write(b"".join(frames))
        found = [source.read(0.0) for _ in range(6)]
        assert [s.device_stamp_ns for s in found if s is not None] == [0, 1000, 3000, 4000]
        assert source.line_stats.checksum_failures == 1
        assert source.line_stats.sequence_gaps == 1


def test_a_gnss_receiver_is_read_through_the_same_source(line: PtyLine) -> None:
    """The decoder decides the protocol; baud changes nothing on a pseudo-terminal."""
    info = SourceInfo("gnss", GnssFix, 100_000_000, line.port)
    with SerialSource(line.port, 115_200, GnssDecoder(ends=["RMC"]), info, ManualClock(9)) as source:
        line.write(epoch(NmeaFix(1_767_225_600_000_000_000, 48.1, 11.5, 500.0, 3.0, 90.0, 10, 0.9)))
        sample = source.read(0.5)
        assert isinstance(sample, GnssFix)
        assert sample.latitude_deg == pytest.approx(48.1)
        assert source.info is info


def test_pulling_the_cable_raises_once_the_rest_is_read(line: PtyLine) -> None:
    """What had arrived is still given when it was read; then the loss is an error, again and again."""
    with imu_source(line, ManualClock()) as source:
        line.write(LinkEncoder(1, KEY).frame(1, ImuReading((0.0, 0.0, 0.0), (0.0, 0.0, 9.8))) * 1)
        assert source.read(0.0) is not None
        line.unplug()
        for _ in range(2):
            with pytest.raises(SensorDisconnectedError) as caught:
                source.read(0.0)
            assert caught.value.code == "EG-N002"
            assert "imu" in caught.value.message
    with pytest.raises(SensorDisconnectedError):
        line.write(b"x")


def test_opening_what_is_not_there_or_is_taken_fails_clearly(line: PtyLine) -> None:
    """No foreign exception: a missing path, a plain file and a second reader are all open errors."""
    info = SourceInfo("imu", ImuSample, 10_000_000, "nowhere")
    for path in ("/dev/edgeguard-has-no-such-port", os.devnull, "/"):
        with pytest.raises(SensorOpenError) as caught:
            SerialSource(path, 9600, GnssDecoder(ends=["RMC"]), info, ManualClock()).open()
        assert caught.value.code == "EG-N001"
        assert caught.value.hint
    with imu_source(line, ManualClock()), pytest.raises(SensorOpenError):
        imu_source(line, ManualClock()).open()


def test_reading_before_opening_or_after_closing_is_an_error(line: PtyLine) -> None:
    """The source says that it is not open instead of giving nothing for ever."""
    source = imu_source(line, ManualClock())
    with pytest.raises(SensorDisconnectedError):
        source.read(0.0)
    source.open()
    source.open()
    source.close()
    source.close()
    with pytest.raises(SensorDisconnectedError):
        source.read(0.0)


def test_a_replay_is_refused_even_after_reopening(line: PtyLine) -> None:
    """The decoder's memory outlives the connection."""
    frame = LinkEncoder(1, KEY).frame(10, ImuReading((0.0, 0.0, 0.0), (0.0, 0.0, 9.8)))
    source = imu_source(line, ManualClock())
    with source:
        line.write(frame)
        assert source.read(0.0) is not None
    with source:
        line.write(frame)
        assert source.read(0.0) is None


def test_a_line_nobody_reads_holds_a_bounded_backlog(line: PtyLine) -> None:
    """Beyond the kernel's buffer and the backlog, bytes are lost and counted, as on a wire; order is kept."""
    total = 0
    for _ in range(40):
        line.write(b"\x01" * 2048)
        total += 2048
    assert line.lost_bytes == total - KERNEL_ROOM_BYTES - MAX_BACKLOG_BYTES
    assert line.late == 0


def test_a_port_somebody_else_holds_is_told_apart_from_a_missing_one(line: PtyLine) -> None:
    """Busy, forbidden and absent have codes of their own; after the first closes, the second opens."""
    with imu_source(line, ManualClock()), pytest.raises(SensorOpenError) as caught:
        imu_source(line, ManualClock()).open()
    assert caught.value.code == "EG-N022"
    with imu_source(line, ManualClock()) as again:
        assert again.read(0.0) is None


def test_a_forbidden_port_names_the_group(line: PtyLine) -> None:
    """The commonest trouble of a new board. Root may open everything, so this is tried as somebody else."""
    os.chmod(line.port, 0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65_534)
        with pytest.raises(SensorOpenError) as caught:
            imu_source(line, ManualClock()).open()
    finally:
        if root:
            os.seteuid(0)
    assert caught.value.code == "EG-N021"
    assert "dialout" in caught.value.hint


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["rx210.log", "ublox-zed-f9r.log"])
def test_a_real_log_through_a_real_terminal_gives_what_its_bytes_give(realdata: Path, name: str) -> None:
    """The kernel cuts the stream as it likes; the fixes are those of one feed."""
    data = (realdata / "gnss_logs" / name).read_bytes()
    expected = GnssDecoder().feed(data)
    master, slave = os.openpty()
    tty.setraw(slave)
    info = SourceInfo("gnss", GnssFix, 10**9, name)
    found = []
    with SerialSource(os.ttyname(slave), 9600, GnssDecoder(), info, ManualClock(5)) as source:
        sent = 0
        while sent < len(data):
            sent += os.write(master, data[sent : sent + 1500])
            while (sample := source.read(0.02)) is not None:
                found.append(sample)
        while source.line_stats.bytes_received < len(data) or source._ready:
            sample = source.read(0.5)
            if sample is not None:
                found.append(sample)
    os.close(master)
    os.close(slave)
    # The clock stands still, so that fixes of one read are only told apart by a nanosecond each.
    assert all(5 - 50 < sample.stamp_ns <= 5 for sample in found)
    assert [replace(sample, stamp_ns=5) for sample in found] == [record.sample(5, "gnss") for record in expected]


def test_a_source_says_what_it_lost_and_what_is_wrong_with_its_line(line: PtyLine) -> None:
    """Reasons of the decoder come through; a line full of something else is diagnosed."""
    info = SourceInfo("gnss", GnssFix, 100_000_000, line.port)
    with SerialSource(line.port, 9600, GnssDecoder(), info, ManualClock(9)) as source:
        damaged = epoch(NmeaFix(1_767_225_600_000_000_000, 48.1, 11.5, 500.0, 3.0, 90.0, 10, 0.9)).replace(
            b"48", b"49", 1
        )
        line.write(damaged)
        assert source.read(0.1) is None
        assert source.drops["bad checksum"] == 1
        assert source.diagnosis is None
        for _ in range(4):
            line.write(b"temperature 21.5 humidity 40\r\n" * 30)
            source.read(0.1)
        assert source.diagnosis is not None
        assert source.diagnosis.fault is LineFault.UNKNOWN_PROTOCOL
