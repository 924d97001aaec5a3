"""One rig, several kinds of trouble at once: the others keep their rates, and the set's health tells every loss."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeguard.clock import NS_PER_S, ManualClock, SystemClock
from edgeguard.config import load_config
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.nmea_write import NmeaFix, epoch
from edgeguard.protocols.velodyne import VelodyneDecoder
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sensors import supervised
from edgeguard.sensors.camera_capture import RtspCamera
from edgeguard.sensors.fake import fake_source
from edgeguard.sensors.kitti import KittiRecording
from edgeguard.sensors.serial import SerialSource
from edgeguard.sensors.supervised import SupervisedSource
from edgeguard.sensors.udp_lidar import UdpLidarSource
from edgeguard.sim.pty_line import PtyLine
from edgeguard.types import FrameResult, GnssFix, PointCloud, Source, SourceInfo

T0 = 1_767_225_600 * NS_PER_S
SECONDS = 3
# A port that floods: VLP-16 sized packets of noise, as fast as one process can send.
FLOOD = """
import os, socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
packet = os.urandom(1206)
while True:
    out.sendto(packet, ("127.0.0.1", int(sys.argv[1])))
"""


@pytest.fixture
def ports() -> Iterator[list[tuple[int, str]]]:
    """Two pseudo-terminals: the device's end and the path of ours."""
    ends = [os.openpty() for _ in range(2)]
    for _, slave in ends:
        tty.setraw(slave)
    yield [(master, os.ttyname(slave)) for master, slave in ends]
    for end in ends:
        os.close(end[0])
        os.close(end[1])


@pytest.fixture
def stalling_server() -> Iterator[int]:
    """A network camera that takes the connection and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def free_udp_port() -> int:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_silent_line_a_stalled_camera_and_a_flood_cost_the_others_nothing(
    ports: list[tuple[int, str]], stalling_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four healthy sensors beside three sick ones for some seconds of real time: rates, ticks, and who is to blame."""
    monkeypatch.setattr(supervised, "JOIN_S", 0.2)
    clock, rng, port = SystemClock(), np.random.default_rng(1), free_udp_port()
    (talking, talking_path), (_, silent_path) = ports
    gnss = SerialSource(talking_path, 115_200, GnssDecoder(), SourceInfo("gnss", GnssFix, NS_PER_S // 10, "pty"), clock)
    quiet = SerialSource(silent_path, 9600, GnssDecoder(), SourceInfo("spare", GnssFix, NS_PER_S, "pty"), clock)
    flooded = SourceInfo("velodyne", PointCloud, NS_PER_S // 10, f"udp:{port}")
    inner: list[Source] = [
        gnss,
        quiet,
        RtspCamera(f"rtsp://127.0.0.1:{stalling_server}/x", clock, fps=10.0),
        UdpLidarSource(port, VelodyneDecoder(), flooded, clock, bind_address="127.0.0.1"),
        *(fake_source(kind, clock) for kind in ("imu", "wheels", "scan2d")),
    ]
    sources = {source.info.sensor: SupervisedSource(source, clock, rng) for source in inner}
    stop = threading.Event()

    def receiver() -> None:
        for k in range(10 * SECONDS + 50):
            if stop.wait(0.1):
                return
            os.write(talking, epoch(NmeaFix(T0 + k * NS_PER_S // 10, 48.1, 11.5, 500.0, 3.0, 90.0, 10, 0.9)))

    sender = threading.Thread(target=receiver, daemon=True)
    flood = subprocess.Popen([sys.executable, "-S", "-c", FLOOD, str(port)])
    try:
        with Pipeline(load_config(), sources, clock) as pipeline:
            sender.start()
            began = time.monotonic()
            frames = list(pipeline.run(periodic_ticks(clock.now_ns(), NS_PER_S // 10, 10 * SECONDS)))
            took_s = time.monotonic() - began
    finally:
        flood.kill()
        flood.wait()
        stop.set()
        sender.join(5.0)
    health = frames[-1].synced.health
    assert took_s < SECONDS + 2.0
    for sensor, rate_hz in (("imu", 100), ("wheels", 50), ("scan2d", 10), ("gnss", 10)):
        assert health[sensor].received >= 0.6 * rate_hz * SECONDS, (sensor, health[sensor])
        assert not set(health[sensor].dropped) & {supervised.DISCONNECTED, supervised.OPEN_FAILED}
    assert health["velodyne"].received == health["spare"].received == health["camera"].received == 0
    assert health["velodyne"].dropped["malformed"] > 1000
    assert health["velodyne"].line.bytes_skipped > 1_000_000


def test_noise_on_a_line_is_in_the_health_of_its_sensor() -> None:
    """What the decoder refused arrives with its reason where the checks and the audit look."""
    clock, line = ManualClock(start_ns=NS_PER_S), PtyLine()
    source = SerialSource(line.port, 9600, GnssDecoder(), SourceInfo("gnss", GnssFix, NS_PER_S // 10, "pty"), clock)
    damaged = bytearray(epoch(NmeaFix(T0, 48.1, 11.5, 500.0, 3.0, 90.0, 10, 0.9)))
    damaged[20] ^= 1
    damaged[-20] ^= 1
    frames: list[FrameResult] = []
    with Pipeline(load_config(), {"gnss": source}, clock) as pipeline:
        for tick in periodic_ticks(clock.now_ns(), NS_PER_S // 10, 20):
            fix = NmeaFix(T0 + tick.frame * NS_PER_S // 10, 48.1, 11.5, 500.0, 3.0, 90.0, 10, 0.9)
            line.write(epoch(fix) + (bytes(damaged) if tick.frame % 4 == 0 else b""))
            frames.append(pipeline.step(tick))
    health = frames[-1].synced.health["gnss"]
    assert dict(health.dropped) == {"bad checksum": 10}
    assert health.line.checksum_failures == 10
    assert health.received >= 18


def test_damaged_files_of_a_drive_are_in_the_health_of_their_sensors(tmp_path: Path) -> None:
    """A KITTI folder with a picture that is none and a sweep of half a point: counted at their tick."""
    (tmp_path / "image_02").mkdir()
    (tmp_path / "velodyne").mkdir()
    rng = np.random.default_rng(2)
    good = cv2.imencode(".png", rng.integers(0, 255, (64, 96, 3), dtype=np.uint8))[1].tobytes()
    for n in range(12):
        (tmp_path / "image_02" / f"{n:06d}.png").write_bytes(b"\x89PNG no picture" if n in {3, 5} else good)
        cloud = rng.uniform(1.0, 30.0, (500, 4)).astype("<f4").tobytes()
        (tmp_path / "velodyne" / f"{n:06d}.bin").write_bytes(cloud[:-7] if n == 6 else cloud)
    (tmp_path / "calib_cam_to_cam.txt").write_text(
        "P_rect_02: 50 0 48 0 0 50 32 0 0 0 1 0\nR_rect_00: 1 0 0 0 1 0 0 0 1\nS_rect_02: 96 64\n", encoding="ascii"
    )
    (tmp_path / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n", encoding="ascii")
    recording, clock = KittiRecording(tmp_path), ManualClock()
    with Pipeline(load_config(), recording.sources(clock), clock, calibration=recording.calibration) as pipeline:
        frames = list(pipeline.run(recording.ticks()))
    seen = {frame.synced.tick.frame: {n: dict(h.dropped) for n, h in frame.synced.health.items()} for frame in frames}
    assert seen[2] == {"camera": {}, "lidar": {}}
    assert seen[4] == {"camera": {"undecodable": 1}, "lidar": {}}
    assert seen[11] == {"camera": {"undecodable": 2}, "lidar": {"bad_size": 1}}
