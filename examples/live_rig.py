"""A live rig: every sensor supervised, so that the one that hangs or is unplugged costs nobody else a sample.

No hardware is needed. Four senders stand in for it, on the interfaces a device has: a GNSS receiver and an IMU node on
pseudo-terminals, a 2-D lidar on a third, a capture process on a frame socket. What is opened, read and judged is what
runs on a device; there, the ports are /dev/serial/by-id/... and the socket is in /run/edgeguard. In the middle of the
run the receiver is unplugged, noise comes over the lidar's line, and the receiver is plugged in again.
"""

from __future__ import annotations

import os
import tempfile
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from edgeguard.clock import NS_PER_S, SystemClock
from edgeguard.config import load_config
from edgeguard.errors import SensorDisconnectedError
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.ld06 import Ld06Packet, encode_packet
from edgeguard.protocols.link import ImuReading, LinkEncoder
from edgeguard.protocols.nmea_write import NmeaFix, epoch
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sensors.frame_sender import FrameSender
from edgeguard.sensors.frame_socket import FrameSocket
from edgeguard.sensors.frame_wire import PixelFormat
from edgeguard.sensors.link import LinkSource
from edgeguard.sensors.scan2d import Ld06Source
from edgeguard.sensors.serial import SerialSource
from edgeguard.sensors.supervised import SupervisedSource
from edgeguard.types import GNSS, IMU, FrameResult, GnssFix, ImuSample, SourceInfo

TICKS, TICK_NS = 40, NS_PER_S // 10
UNPLUGGED, PLUGGED = 12, 20  # ticks
NODE, NODE_KEY = 7, bytes(range(32))  # on a device: 32 random bytes, one key per node
UTC_NS = 1_767_225_600 * NS_PER_S


class Port:
    """A device behind a stable name, as udev makes them: it can be pulled and plugged in again."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._master = self._slave = -1

    def plug(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)  # a line does not wait for its reader
        self.path.symlink_to(os.ttyname(self._slave))

    def pull(self) -> None:
        if self._master >= 0:
            self.path.unlink()
            master, self._master = self._master, -1
            os.close(self._slave)
            os.close(master)

    def write(self, data: bytes) -> None:
        with suppress(OSError):  # pulled out, or nobody reads: a sender's wire does not tell it either
            os.write(self._master, data)


def supervised_rig(folder: Path, clock: SystemClock) -> dict[str, SupervisedSource]:
    """What a program on a device writes: one source per sensor, each in a thread of its own."""
    gnss, node, lidar = (str(folder / name) for name in ("usb-receiver-if00", "usb-node-if00", "usb-lidar-if00"))
    sources = (
        SerialSource(gnss, 115_200, GnssDecoder(), SourceInfo(GNSS, GnssFix, NS_PER_S // 10, gnss), clock),
        LinkSource(node, 921_600, {NODE: NODE_KEY}, SourceInfo(IMU, ImuSample, NS_PER_S // 100, node), clock),
        Ld06Source(lidar, clock),
        FrameSocket(folder / "camera.sock", 10.0, clock),
    )
    rng = np.random.default_rng(1)
    return {source.info.sensor: SupervisedSource(source, clock, rng) for source in sources}


@contextmanager
def senders(folder: Path) -> Iterator[dict[str, Port]]:
    """The four devices, each sending at its own rate until the end."""
    ports = {name: Port(folder, f"usb-{name}-if00") for name in ("receiver", "node", "lidar")}
    stop, link = threading.Event(), LinkEncoder(NODE, NODE_KEY)
    camera: list[FrameSender] = []

    def receiver(k: int) -> None:
        fix = NmeaFix(UTC_NS + k * NS_PER_S // 10, 48.137, 11.575, 520.0, 0.02, 90.0, 12, 0.8)
        ports["receiver"].write(epoch(fix))

    def node(k: int) -> None:
        x, y, z, *rates = np.random.default_rng(k).normal(0.0, 0.01, 6).tolist()
        ports["node"].write(link.frame(k * 10_000, ImuReading((rates[0], rates[1], rates[2]), (x, y, 9.81 + z))))

    def lidar(k: int) -> None:
        start, stop_deg = round(k * 9.6 % 360, 2), round((k * 9.6 + 8.8) % 360, 2)
        packet = Ld06Packet(3600, start, stop_deg, int(k * 12 / 4.5) % 30_000, (3.0,) * 12, (100,) * 12)
        ports["lidar"].write(encode_packet(packet))

    def frames(k: int) -> None:
        pixels = np.random.default_rng(k).integers(90, 160, (96, 128, 3), dtype=np.uint8)
        try:
            if not camera:
                camera.append(FrameSender(folder / "camera.sock"))
            camera[0].send(pixels, PixelFormat.BGR, (128, 96))
        except SensorDisconnectedError:  # nobody listens yet, or any more: try again with the next frame
            while camera:
                camera.pop().close()

    def send(period_s: float, device: Callable[[int], None]) -> None:
        k = 0
        while not stop.wait(period_s):
            device(k)
            k += 1

    plan = ((0.1, receiver), (0.01, node), (12 / 4500, lidar), (0.1, frames))
    threads = [threading.Thread(target=send, args=one, daemon=True) for one in plan]
    for port in ports.values():
        port.plug()
    for thread in threads:
        thread.start()
    try:
        yield ports
    finally:
        stop.set()
        for thread in threads:
            thread.join(5.0)
        for port in ports.values():
            port.pull()
        for sender in camera:
            sender.close()


def trouble(tick: int, ports: dict[str, Port]) -> None:
    """What happens to cables."""
    if tick == UNPLUGGED:
        ports["receiver"].pull()
        ports["lidar"].write(np.random.default_rng(2).integers(0, 256, 2000, dtype=np.uint8).tobytes())
    elif tick == PLUGGED:
        ports["receiver"].plug()


def told(frame: FrameResult, sources: dict[str, SupervisedSource]) -> str:
    states = "  ".join(f"{name} {sources[name].state.value}" for name in sources)
    return f"{frame.synced.tick.frame:3d}  {frame.verdict.value:8s}  {states}  ({frame.verdict_reason})"


def main() -> None:
    clock = SystemClock()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sources = supervised_rig(folder, clock)
        ports = stack.enter_context(senders(folder))
        pipeline = stack.enter_context(Pipeline(load_config(), sources, clock))
        frame = None
        for frame in pipeline.run(periodic_ticks(clock.now_ns() + TICK_NS, TICK_NS, TICKS)):
            trouble(frame.synced.tick.frame, ports)
            if frame.synced.tick.frame % 8 == 7:
                print(told(frame, sources))
        assert frame is not None
        for name, health in frame.synced.health.items():
            drops = ", ".join(f"{reason}: {count}" for reason, count in sorted(health.dropped.items()))
            line = health.line
            print(
                f"{name:7s} {health.received:4d} samples, opened {sources[name].connections} times, "
                f"{line.bytes_skipped} bytes skipped; dropped: {drops or 'none'}"
            )


if __name__ == "__main__":
    main()
