"""Serial 2-D lidars over real pseudo-terminals: requests, revolutions, reopening."""

from __future__ import annotations

import os
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from edgeguard.clock import ManualClock
from edgeguard.errors import SensorDisconnectedError
from edgeguard.protocols.ld06 import Ld06Packet, encode_packet
from edgeguard.protocols.rplidar import DESCRIPTORS, START_EXPRESS, START_STANDARD, STOP
from edgeguard.sensors.scan2d import SILENCE_S, Ld06Source, RplidarSource
from edgeguard.sim.pty_line import PtyLine
from edgeguard.types import Sample, Scan2d

STANDARD = next(raw for raw, mode in DESCRIPTORS.items() if mode == "standard")


def node(angle_deg: int, *, first: bool) -> bytes:
    angle, distance = angle_deg * 64, 2000 * 4
    return bytes((40 << 2 | (1 if first else 2), (angle & 0x7F) << 1 | 1, angle >> 7, distance & 0xFF, distance >> 8))


@contextmanager
def rplidar() -> Iterator[tuple[str, list[bytes]]]:
    """A sensor that answers a start request with four turns of 90 points; what it hears is noted."""
    master, slave = os.openpty()
    tty.setraw(slave)
    heard: list[bytes] = []

    def live() -> None:
        while True:
            try:
                words = os.read(master, 64)
            except OSError:
                return
            if not words:
                return
            heard.append(words)
            if words.endswith((START_STANDARD, START_EXPRESS)):
                turn = b"".join(node(a, first=a == 0) for a in range(0, 360, 4))
                os.write(master, STANDARD + turn * 4)

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield os.ttyname(slave), heard
    finally:
        os.close(slave)
        thread.join(timeout=5.0)
        os.close(master)


def test_an_rplidar_is_asked_on_opening_gives_revolutions_and_is_stopped_on_closing() -> None:
    """Over a terminal, with a sensor that is silent until asked."""
    with rplidar() as (port, heard):
        clock = ManualClock(start_ns=5_000_000_000)
        with RplidarSource(port, clock, mode="standard") as source:
            scans: list[Sample] = []
            for _ in range(40):
                scans += [scan] if (scan := source.read(0.1)) is not None else []
                if len(scans) == 2:
                    break
        for _ in range(100):
            if heard[-1].endswith(STOP):
                break
            threading.Event().wait(0.02)
    assert b"".join(heard) == STOP + START_STANDARD + STOP
    assert len(scans) >= 2
    for scan in scans:
        assert isinstance(scan, Scan2d)
        assert scan.range_m.size == 90
        assert scan.range_m[0] == pytest.approx(2.0)
    assert 5_000_000_000 - 4 <= scans[0].stamp_ns < scans[1].stamp_ns <= 5_000_000_000  # one read, samples of their own


def test_a_sensor_that_lost_its_power_is_asked_again() -> None:
    """The adapter stays, the lidar forgets that it was asked: silence ends the connection, opening asks anew."""
    with rplidar() as (port, heard):
        clock = ManualClock(start_ns=5_000_000_000)
        source = RplidarSource(port, clock, mode="standard")
        source.open()
        while source.read(0.2) is not None:
            pass
        clock.wait_until_ns(clock.now_ns() + int(SILENCE_S * 1e9) + 1)
        with pytest.raises(SensorDisconnectedError) as caught:
            source.read(0.0)
        assert caught.value.code == "EG-N024"
        source.close()
        source.open()
        assert source.read(5.0) is not None
        source.close()
    assert b"".join(heard).count(START_STANDARD) == 2


def test_an_ld06_talks_at_once() -> None:
    """Half a second of packets gives whole revolutions with the sensor's own time."""
    line = PtyLine()
    with Ld06Source(line.port, ManualClock(start_ns=1)) as source:
        scans = []
        for k in range(190):
            start, stop = round(k * 9.6 % 360, 2), round((k * 9.6 + 8.8) % 360, 2)
            line.write(encode_packet(Ld06Packet(3600, start, stop, int(k * 12 / 4.5), (3.0,) * 12, (100,) * 12)))
            while (scan := source.read(0.0)) is not None:
                scans.append(scan)
        assert len(scans) == 4
        assert source.line_stats.frames == 190
        moments = [scan.device_stamp_ns for scan in scans if isinstance(scan, Scan2d)]
        assert all(90e6 < (b or 0) - (a or 0) < 110e6 for a, b in pairwise(moments))
