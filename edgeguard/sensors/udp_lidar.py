"""Lidars that send UDP, live (`UdpLidarSource`) and from a capture file (`CaptureLidarSource`).

UDP is not authenticated: whoever reaches the port can send packets. The source therefore holds on to the first sender
whose packets decode (or to the one it was told), refuses every other and names it. That is no proof of identity; put
the sensor on a network of its own.
"""

from __future__ import annotations

import select
import socket
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import RecordingError, SensorDisconnectedError, SensorOpenError
from edgeguard.protocols.pcap import CaptureReader, CaptureState
from edgeguard.protocols.udp import Datagram, UdpReader
from edgeguard.types import LineStats, Sample, SourceInfo

MAX_DATAGRAM_BYTES = 65_535
RECEIVE_BUFFER_BYTES = 8 * 1024 * 1024  # a quarter of a second of the fastest sensor; the kernel may grant less
MAX_DATAGRAMS_PER_READ = 2048  # a flood may not keep `read` from returning
MAX_READY = 64  # samples that wait to be read; beyond, the oldest goes
MAX_NAMED_SENDERS = 16
MAX_KERNEL_DELAY_NS = NS_PER_S  # between arrival and read; more means that somebody set the wall clock meanwhile
CAPTURE_CHUNK_BYTES = 1 << 20
# SO_TIMESTAMPNS and SO_RXQ_OVFL of Linux; the socket module does not name them.
_TIMESTAMPNS, _OVERFLOW = 35, 40
ANCILLARY_BYTES = socket.CMSG_SPACE(16) + socket.CMSG_SPACE(4)
_STAMP = struct.Struct("@ll")
_COUNT = struct.Struct("@I")


class Record(Protocol):
    """What a decoder gives: it knows how to become a sample once the time of arrival is known."""

    def sample(self, stamp_ns: int, sensor: str) -> Sample: ...


class PacketDecoder(Protocol):
    """One datagram in, records out; bounded; never raises on the bytes' account."""

    @property
    def line_stats(self) -> LineStats: ...

    @property
    def drops(self) -> Mapping[str, int]: ...

    @property
    def accepted(self) -> int: ...

    def feed(self, data: bytes) -> Sequence[Record]: ...

    def flush(self) -> Sequence[Record]: ...


class SenderGuard:
    """Holds on to one sender's address. `sender` is it, None before one was learned; `refused` counts the packets of
    every other by address, the first 16 by name and the rest as "others"."""

    def __init__(self, sender: str | None = None) -> None:
        self.sender = sender
        self.refused: Counter[str] = Counter()

    def admits(self, address: str) -> bool:
        """Whether a packet from there may be decoded; a refused one is counted."""
        if self.sender is None or address == self.sender:
            return True
        known = address in self.refused or len(self.refused) < MAX_NAMED_SENDERS
        self.refused[address if known else "others"] += 1
        return False

    def learn(self, address: str) -> None:
        """Take the sender of a packet that decoded, if none is known; garbage makes no sender."""
        if self.sender is None:
            self.sender = address


class _LidarSource:
    """What both sources share: samples of one kind, stamped, with everything else counted."""

    def __init__(self, decoder: PacketDecoder, info: SourceInfo, sender: str | None) -> None:
        self._decoder, self._info = decoder, info
        self._guard = SenderGuard(sender)
        self._ready: deque[Sample] = deque()
        self._drops: Counter[str] = Counter()

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def line_stats(self) -> LineStats:
        """Totals of the packets; refused ones of other senders are not among them."""
        return self._decoder.line_stats

    @property
    def drops(self) -> Mapping[str, int]:
        """What did not become a sample, by reason, in totals: the decoder's reasons, and other_sender, queue_full,
        kernel_overflow, partial_sweep, other_kind, other_port."""
        own = self._drops + Counter(other_sender=self._guard.refused.total())
        return {**self._decoder.drops, **own}

    @property
    def sender(self) -> str | None:
        """Address of the sensor, None before its first packet."""
        return self._guard.sender

    @property
    def refused_senders(self) -> Mapping[str, int]:
        """Packets refused per foreign address; the first 16 are named, the rest count as "others"."""
        return dict(self._guard.refused)

    def _decode(self, payload: bytes, address: str, stamp_ns: int) -> None:
        before = self._decoder.accepted
        records = self._decoder.feed(payload)
        if self._decoder.accepted > before:
            self._guard.learn(address)
        self._queue(records, stamp_ns)

    def _queue(self, records: Sequence[Record], stamp_ns: int) -> None:
        for record in records:
            if getattr(record, "partial", False):
                self._drops["partial_sweep"] += 1
                continue
            sample = record.sample(stamp_ns, self._info.sensor)
            if not isinstance(sample, self._info.kind):
                self._drops["other_kind"] += 1
                continue
            if len(self._ready) >= MAX_READY:
                self._ready.popleft()
                self._drops["queue_full"] += 1
            self._ready.append(sample)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class UdpLidarSource(_LidarSource):
    """Reads samples from a UDP port.

    Args:
        port: where the sensor sends to; 0 takes a free one (`address` tells which).
        decoder: keeps its state over `close` and `open`. info: what the source is; records that become another kind
            of sample than `info.kind` are counted and left out (a lidar's IMU needs a source of its own).
        clock: samples are stamped with its time of arrival, corrected by the kernel's own receive stamp.
        bind_address: local address, "0.0.0.0" for all. sender: the sensor's address; None takes the first that
            decodes. stop_after_silence_s: None never; else `read` raises when the sensor was silent for so long.
    """

    def __init__(
        self,
        port: int,
        decoder: PacketDecoder,
        info: SourceInfo,
        clock: Clock,
        *,
        bind_address: str = "0.0.0.0",  # noqa: S104 - a sensor may sit on any interface; the sender is what is checked
        sender: str | None = None,
        stop_after_silence_s: float | None = None,
    ) -> None:
        super().__init__(decoder, info, sender)
        self._port, self._bind, self._clock = port, bind_address, clock
        self._silence_ns = None if stop_after_silence_s is None else round(stop_after_silence_s * NS_PER_S)
        self._heard_ns = 0
        self._socket: socket.socket | None = None
        self._poll = select.poll()
        self._buffer = bytearray(MAX_DATAGRAM_BYTES)
        self._overflow = 0
        self.receive_buffer_bytes = 0

    @property
    def exhausted(self) -> bool:
        """A device never is."""
        return False

    @property
    def address(self) -> tuple[str, int]:
        """Local address and port.

        Raises:
            SensorOpenError: EG-N140 when the source is not open.
        """
        if self._socket is None:
            raise SensorOpenError(f"the source of sensor {self._info.sensor} is not open", code="EG-N140")
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def open(self) -> None:
        """Bind the port.

        Raises:
            SensorOpenError: EG-N140 when the address is none of this machine's, or the port is taken or forbidden.
        """
        if self._socket is not None:
            return
        family = socket.AF_INET6 if ":" in self._bind else socket.AF_INET
        port = socket.socket(family, socket.SOCK_DGRAM)
        try:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            port.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
            port.setsockopt(socket.SOL_SOCKET, _OVERFLOW, 1)
            port.bind((self._bind, self._port))
        except (OSError, OverflowError, UnicodeError) as error:
            port.close()
            raise SensorOpenError(
                f"cannot listen on {self._bind} port {self._port} for sensor {self._info.sensor}",
                code="EG-N140",
                hint="check that no other program listens there: ss -lunp",
            ) from error
        port.setblocking(False)
        self.receive_buffer_bytes = port.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self._socket, self._poll, self._overflow = port, select.poll(), 0
        self._poll.register(port, select.POLLIN)
        self._heard_ns = self._clock.now_ns()

    def close(self) -> None:
        """Close the port; a second call does nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next sample, or None when none is complete within `timeout_s`.

        Raises:
            SensorDisconnectedError: EG-N141 when the source is not open, the network went away, or the sensor was
                silent for longer than allowed.
        """
        if self._socket is None:
            raise self._gone("is not open")
        deadline_ns = self._clock.now_ns() + round(max(0.0, timeout_s) * NS_PER_S)
        budget = MAX_DATAGRAMS_PER_READ
        while not self._ready and budget > 0:
            taken = self._drain(self._socket, budget)
            budget -= taken
            remaining_ns = deadline_ns - self._clock.now_ns()
            if self._ready or remaining_ns <= 0:
                break
            if taken == 0 and not self._poll.poll(remaining_ns / 1e6):
                break
        if not self._ready:
            self._check_silence()
        return self._ready.popleft() if self._ready else None

    def _drain(self, port: socket.socket, budget: int) -> int:
        """Take what has arrived, up to the first sample; return how many datagrams that were."""
        taken = 0
        while taken < budget and not self._ready:
            try:
                size, ancillary, flags, address = port.recvmsg_into([self._buffer], ANCILLARY_BYTES)
            except BlockingIOError:
                return taken
            except OSError as error:
                raise self._gone("cannot be received any more") from error
            taken += 1
            stamp_ns = self._clock.now_ns() - self._kernel_delay_ns(ancillary)
            if not self._guard.admits(str(address[0])):
                continue
            if flags & socket.MSG_TRUNC:
                self._drops["wrong_size"] += 1
                continue
            self._heard_ns = stamp_ns
            self._decode(bytes(memoryview(self._buffer)[:size]), str(address[0]), stamp_ns)
        return taken

    def _kernel_delay_ns(self, ancillary: Sequence[tuple[int, int, bytes]]) -> int:
        """How long ago the kernel took the datagram, as its wall-clock stamp tells; 0 where it cannot be true. Also
        notes how many the kernel had no room for since the port was opened."""
        delay_ns = 0
        for level, kind, data in ancillary:
            if level != socket.SOL_SOCKET:
                continue
            if kind == _TIMESTAMPNS and len(data) >= _STAMP.size:
                seconds, nanoseconds = _STAMP.unpack_from(data)
                delay_ns = self._clock.wall_ns() - (seconds * NS_PER_S + nanoseconds)
            elif kind == _OVERFLOW and len(data) >= _COUNT.size:
                (lost,) = _COUNT.unpack_from(data)
                self._drops["kernel_overflow"] += max(0, lost - self._overflow)
                self._overflow = lost
        return delay_ns if 0 <= delay_ns <= MAX_KERNEL_DELAY_NS else 0

    def _check_silence(self) -> None:
        if self._silence_ns is not None and self._clock.now_ns() - self._heard_ns > self._silence_ns:
            raise self._gone("is silent")

    def _gone(self, what: str) -> SensorDisconnectedError:
        return SensorDisconnectedError(
            f"UDP port {self._port} of sensor {self._info.sensor} {what}",
            code="EG-N141",
            hint="check cable, address and destination of the sensor, then open the source again",
        )


class CaptureLidarSource(_LidarSource):
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
    while True:
        try:
            piece = file.read(CAPTURE_CHUNK_BYTES)
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
