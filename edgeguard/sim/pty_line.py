"""A serial line that exists: a pseudo-terminal whose far end production code opens like any other port."""

from __future__ import annotations

import array
import fcntl
import os
import select
import termios
import time
import tty

from edgeguard.errors import SensorDisconnectedError

# The kernel's line discipline holds 4096 bytes; staying below keeps every write whole.
KERNEL_ROOM_BYTES = 4000
MAX_BACKLOG_BYTES = 1 << 16  # about 8 s of an IMU line that nobody reads; then bytes are lost, as on a real wire
_NAP_S = 20e-6
_LISTEN_S = 0.05  # far more than the kernel takes to hand over a request
_MAX_NAPS = 30_000  # at least 0.6 s, in practice two: the kernel adds its timer slack to every nap


class PtyLine:
    """The device's end of a line. Give `port` to the reader.

    `write` returns once the bytes can be read at the other end, so that a run in lock-step does not depend on how
    fast the kernel hands them over. `lost_bytes` counts what overflowed; `late` counts hand-overs that outlast the wait
    (only a second reader thread can cause that).
    """

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.port = os.ttyname(self._slave)
        self._backlog = bytearray()
        self.lost_bytes = 0
        self.late = 0

    def write(self, data: bytes) -> None:
        """Send `data`; what the reader has no room for waits for the next write.

        Raises:
            SensorDisconnectedError: EG-N002 after `unplug`.
        """
        if self._master < 0:
            raise SensorDisconnectedError(f"the simulated line {self.port} is unplugged")
        room = MAX_BACKLOG_BYTES - len(self._backlog)
        self._backlog += data[:room]
        self.lost_bytes += max(0, len(data) - room)
        waiting = self._readable()
        chunk = bytes(self._backlog[: max(0, KERNEL_ROOM_BYTES - waiting)])
        if not chunk:
            return
        try:
            sent = os.write(self._master, chunk)
        except BlockingIOError:
            return
        del self._backlog[:sent]
        self._await(waiting + sent)

    def heard(self, wait: bool = False) -> bytes:
        """Return what the reader wrote since the last call; with `wait`, give it a moment to arrive."""
        if self._master < 0:
            return b""
        if wait:
            select.select([self._master], [], [], _LISTEN_S)
        try:
            return os.read(self._master, KERNEL_ROOM_BYTES)
        except OSError:  # nothing was said
            return b""

    def unplug(self) -> None:
        """Pull the cable: the reader sees the device go. A second call does nothing."""
        for descriptor in (self._master, self._slave):
            if descriptor >= 0:
                os.close(descriptor)
        self._master = self._slave = -1

    def _readable(self) -> int:
        count = array.array("i", [0])
        fcntl.ioctl(self._slave, termios.FIONREAD, count)
        return count[0]

    def _await(self, expected: int) -> None:
        # It is the kernel that is waited for, in real time; no result depends on how long it took.
        for _ in range(_MAX_NAPS):
            if self._readable() >= expected:
                return
            time.sleep(_NAP_S)
        self.late += 1
