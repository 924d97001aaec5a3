"""A serial port as a `Source`: pyserial for the device, a sans-IO decoder for bytes, the injected clock for stamps."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import serial

from edgeguard.clock import Clock
from edgeguard.errors import SensorDisconnectedError, SensorOpenError
from edgeguard.types import LineStats, Sample, SourceInfo

# One read takes at most what the kernel's line discipline holds; the records in it bound the queue of samples.
MAX_READ_BYTES = 4096


class Record(Protocol):
    """What a decoder gives: it knows how to become a sample once the time of arrival is known."""

    def sample(self, stamp_ns: int, sensor: str) -> Sample: ...


class Decoder(Protocol):
    """Bytes in, records out; bounded; never raises on the bytes' account."""

    @property
    def line_stats(self) -> LineStats: ...

    def feed(self, data: bytes) -> Sequence[Record]: ...


class SerialSource:
    """Reads samples from a serial port or pseudo-terminal.

    Args:
        port: device path. baud: line rate; pseudo-terminals ignore it.
        decoder: keeps its state over `close` and `open`, so that replays stay refused across a reconnect.
        info: what the source is. clock: every sample is stamped with its time when the bytes were read.
    """

    def __init__(self, port: str, baud: int, decoder: Decoder, info: SourceInfo, clock: Clock) -> None:
        self._path, self._baud = port, baud
        self._decoder, self._info, self._clock = decoder, info, clock
        self._port: serial.Serial | None = None
        self._poll = select.poll()
        self._ready: deque[Sample] = deque()

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def exhausted(self) -> bool:
        """A device never is."""
        return False

    @property
    def line_stats(self) -> LineStats:
        return self._decoder.line_stats

    @property
    def drops(self) -> Mapping[str, int]:
        """What the decoder refuses is counted in `line_stats`; the queue loses nothing."""
        return {}

    def open(self) -> None:
        """Open the port in raw mode, for this process alone; bytes from before are discarded.

        Raises:
            SensorOpenError: EG-N001 when there is no such device, or it is busy or forbidden.
        """
        if self._port is not None:
            return
        try:
            port = serial.Serial(self._path, self._baud, timeout=0, exclusive=True)
            descriptor = port.fileno()
        except (serial.SerialException, OSError, ValueError) as error:
            raise SensorOpenError(
                f"cannot open serial port {self._path} of sensor {self._info.sensor}",
                hint="check the cable, the path and that you are in the group dialout: edgeguard find",
            ) from error
        self._port = port
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next sample, or None when none is complete within `timeout_s`.

        Raises:
            SensorDisconnectedError: EG-N002 when the device went away or the source is not open.
        """
        if not self._ready:
            self._receive(timeout_s)
        return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """Close the port; a second call does nothing."""
        if self._port is not None:
            port, self._port = self._port, None
            try:
                port.close()
            except (serial.SerialException, OSError):
                return  # the device is gone: nothing is left to close

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, timeout_s: float) -> None:
        if self._port is None:
            raise self._gone("is not open")
        events = self._poll.poll(max(0.0, timeout_s) * 1000.0)
        if not events:
            return
        state = events[0][1]
        if not state & select.POLLIN:  # hang-up or error, and nothing left to read
            raise self._gone("went away")
        try:
            data = bytes(self._port.read(MAX_READ_BYTES))
        except (serial.SerialException, OSError, TypeError) as error:
            raise self._gone("went away") from error
        stamp_ns = self._clock.now_ns()
        self._ready.extend(record.sample(stamp_ns, self._info.sensor) for record in self._decoder.feed(data))

    def _gone(self, what: str) -> SensorDisconnectedError:
        return SensorDisconnectedError(
            f"serial port {self._path} of sensor {self._info.sensor} {what}",
            hint="check the cable, then open the source again",
        )
