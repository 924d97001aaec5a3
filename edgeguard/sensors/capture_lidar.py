"""A lidar's datagrams out of a pcap or pcapng file, with the capture's own timing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import RecordingError, SensorDisconnectedError, SensorOpenError
from edgeguard.protocols.pcap import CaptureReader, CaptureState
from edgeguard.protocols.udp import Datagram, UdpReader
from edgeguard.sensors.lidar_source import LidarSource, PacketDecoder
from edgeguard.types import Sample, SourceInfo

CAPTURE_CHUNK_BYTES = 1 << 20


class CaptureLidarSource(LidarSource):
    """Plays a pcap or pcapng file; every sample keeps the stamp of the capture, shifted to begin at `start_ns`.

    `read` gives a sample when the clock has reached its stamp, as a device would, and waits on the clock for it.

    Args:
        path: the file. decoder, info, clock: as in `UdpLidarSource`. start_ns: stamp of the first packet; None is the
            clock's time at `open`. port: take only datagrams to this port. sender: as in `UdpLidarSource`.
    """

    def __init__(
        self,
        path: Path,
        decoder: PacketDecoder,
        info: SourceInfo,
        clock: Clock,
        *,
        start_ns: int | None = None,
        port: int | None = None,
        sender: str | None = None,
    ) -> None:
        super().__init__(decoder, info, sender)
        self._path, self._clock, self._start_ns, self._port = path, clock, start_ns, port
        self._file: BinaryIO | None = None
        self._datagrams: Iterator[Datagram] = iter(())
        self._shift_ns: int | None = None
        self._last_ns = 0
        self._over = False
        self.note = ""

    @property
    def exhausted(self) -> bool:
        """Whether the file is over and every sample was read."""
        return self._over and not self._ready

    def open(self) -> None:
        """Open the file.

        Raises:
            SensorOpenError: EG-N001 when it cannot be read. RecordingError: EG-N142 when it is no capture.
        """
        if self._file is not None:
            return
        try:
            self._file = self._path.open("rb")
        except OSError as error:
            raise SensorOpenError(f"cannot open {self._path}: {error.strerror}") from error
        self._datagrams = read_capture(file_pieces(self._file), self._noted)
        self._shift_ns, self._over = None, False

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next sample whose stamp the clock reaches within `timeout_s`, else None.

        Raises:
            RecordingError: EG-N142 when the file is no capture. SensorDisconnectedError: EG-N141 when it is not open.
        """
        if self._file is None:
            raise SensorDisconnectedError(f"the capture of sensor {self._info.sensor} is not open", code="EG-N141")
        while not self._ready and not self._over:
            self._advance()
        if not self._ready:
            return None
        due_ns = self._ready[0].stamp_ns
        if due_ns > self._clock.now_ns() + round(max(0.0, timeout_s) * NS_PER_S):
            self._clock.wait_until_ns(self._clock.now_ns() + round(max(0.0, timeout_s) * NS_PER_S))
            return None
        self._clock.wait_until_ns(due_ns)
        return self._ready.popleft()

    def _advance(self) -> None:
        datagram = next(self._datagrams, None)
        if datagram is None:
            self._over = True
            self._queue(self._decoder.flush(), self._last_ns)
            return
        if self._port is not None and datagram.destination_port != self._port:
            self._drops["other_port"] += 1
            return
        if self._shift_ns is None:
            start_ns = self._clock.now_ns() if self._start_ns is None else self._start_ns
            self._shift_ns = start_ns - datagram.stamp_ns
        # A capture's wall clock can be set back while it runs; our stamps never go back.
        self._last_ns = max(self._last_ns, datagram.stamp_ns + self._shift_ns)
        if self._guard.admits(datagram.source):
            self._decode(datagram.payload, datagram.source, self._last_ns)

    def _noted(self, note: str) -> None:
        self.note = note


def file_pieces(file: BinaryIO, progress: Callable[[int], None] | None = None) -> Iterator[bytes]:
    """Yield a file's bytes in pieces; `progress` gets the size of each.

    Raises:
        RecordingError: EG-N143 when reading fails.
    """
    # A pipe gives what there is: somebody who watches a live line does not wait for a megabyte.
    read = getattr(file, "read1", file.read)
    while True:
        try:
            piece = read(CAPTURE_CHUNK_BYTES)
        except OSError as error:
            raise RecordingError(f"the recording cannot be read: {error.strerror}", code="EG-N143") from error
        if not piece:
            return
        yield piece
        if progress is not None:
            progress(len(piece))


def read_capture(pieces: Iterable[bytes], note: Callable[[str], None]) -> Iterator[Datagram]:
    """Yield the UDP datagrams of a capture file, in order; a file that was cut plays up to the cut.

    note: called once at the end with a sentence when the file was cut, is damaged, or lacks fragments.

    Raises:
        RecordingError: EG-N142 when the file is no capture.
    """
    reader, udp = CaptureReader(), UdpReader()
    for piece in pieces:
        for packet in reader.feed(piece):
            datagram = udp.feed(packet)
            if datagram is not None:
                yield datagram
        if reader.state is not CaptureState.READING:
            break
    if reader.state is CaptureState.FOREIGN or reader.bytes_received < 4:
        raise RecordingError(
            "the file is neither pcap nor pcapng",
            code="EG-N142",
            hint="capture with: tcpdump -i IFACE -w lidar.pcap udp",
        )
    lost = udp.pending + sum(udp.drops.get(reason, 0) for reason in ("cut", "fragments_lost", "fragments_overlap"))
    if reader.state is CaptureState.DAMAGED:
        note(f"the capture is damaged after {reader.packets} packets; what follows was not read")
    elif reader.torn_bytes:
        note(f"the capture was cut in the middle of a packet after {reader.packets} packets")
    elif lost:
        note(f"{lost} datagrams are incomplete in the capture")
