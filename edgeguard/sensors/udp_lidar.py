"""Lidars that send UDP, live; `capture_lidar` plays them from a file.

UDP is not authenticated: whoever reaches the port can send packets. The source therefore holds on to the first sender
whose packets decode (or to the one it was told), refuses every other and names it. That is no proof of identity; put
the sensor on a network of its own.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Sequence

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import SensorDisconnectedError, SensorOpenError
from edgeguard.sensors.lidar_source import LidarSource, PacketDecoder
from edgeguard.types import Sample, SourceInfo

MAX_DATAGRAM_BYTES = 65_535
RECEIVE_BUFFER_BYTES = 8 * 1024 * 1024  # a quarter of a second of the fastest sensor; the kernel may grant less
MAX_DATAGRAMS_PER_READ = 2048  # a flood may not keep `read` from returning
MAX_KERNEL_DELAY_NS = NS_PER_S  # between arrival and read; more means that somebody set the wall clock meanwhile
# SO_TIMESTAMPNS and SO_RXQ_OVFL of Linux; the socket module does not name them.
_TIMESTAMPNS, _OVERFLOW = 35, 40
ANCILLARY_BYTES = socket.CMSG_SPACE(16) + socket.CMSG_SPACE(4)
_STAMP = struct.Struct("@ll")
_COUNT = struct.Struct("@I")


class UdpLidarSource(LidarSource):
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
