"""A serial port as a `Source`: pyserial for the device, a sans-IO decoder for bytes, the injected clock for stamps."""

from __future__ import annotations

import errno
import fcntl
import select
import struct
import termios
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

import serial

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import SensorDisconnectedError, SensorOpenError
from edgeguard.sensors.line_diagnosis import LineDiagnosis, LineWatch
from edgeguard.types import GnssFix, LineStats, Sample, SourceInfo

# One read takes at most what the kernel's line discipline holds; the records in it bound the queue of samples.
MAX_READ_BYTES = 4096
WRITE_TIMEOUT_S = 0.2  # requests are a few bytes: what takes longer is a line that nobody empties
# Linux: counters of the UART itself, as eleven and nine spare integers.
_TIOCGICOUNT = 0x545D
_ICOUNT = struct.Struct("20i")
_FRAME, _OVERRUN, _PARITY, _BREAK, _BUFFER_OVERRUN = 6, 7, 8, 9, 10

FRAMING_ERROR = "framing error on the line"
OVERRUN = "byte lost in the UART"


class Record(Protocol):
    """What a decoder gives: it knows how to become a sample once the time of arrival is known."""

    def sample(self, stamp_ns: int, sensor: str) -> Sample: ...


class Decoder(Protocol):
    """Bytes in, records out; bounded; never raises on the bytes' account. May have `drops`, totals per reason."""

    @property
    def line_stats(self) -> LineStats: ...

    def feed(self, data: bytes) -> Sequence[Record]: ...


class SerialSource:
    """Reads samples from a serial port or pseudo-terminal.

    Args:
        port: device path, best a stable one from /dev/serial/by-id: it is resolved anew at every `open`.
        baud: line rate; pseudo-terminals ignore it.
        decoder: keeps its state over `close` and `open`, so that replays stay refused across a reconnect.
        info: what the source is. clock: every sample is stamped with its time when the bytes were read; see `spread`
            for several in one read.
        hello, goodbye: written after opening and before closing, for sensors that speak only when asked.
        dtr: state of the DTR line while open (some adapters stop a motor with it); None leaves it alone.
        stop_after_silence_s: None never; else `read` raises when no byte came for so long, so that who opens again says
            `hello` again. A sensor that lost power behind an adapter that kept it is away without a hang-up.
    """

    def __init__(
        self,
        port: str,
        baud: int,
        decoder: Decoder,
        info: SourceInfo,
        clock: Clock,
        *,
        hello: bytes = b"",
        goodbye: bytes = b"",
        dtr: bool | None = None,
        stop_after_silence_s: float | None = None,
    ) -> None:
        self._path, self._baud = port, baud
        self._decoder, self._info, self._clock = decoder, info, clock
        self._hello, self._goodbye, self._dtr = hello, goodbye, dtr
        self._port: serial.Serial | None = None
        self._poll = select.poll()
        self._ready: deque[Sample] = deque()
        self._watch = LineWatch(baud)
        self._counts: dict[str, int] = {}
        self._uart: tuple[int, int] | None = None
        self._silence_ns = None if stop_after_silence_s is None else round(stop_after_silence_s * NS_PER_S)
        self._heard_ns = 0

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
        """What did not become a sample, by reason: the decoder's totals and the UART's own error counters."""
        decoded: Mapping[str, int] = getattr(self._decoder, "drops", {})
        self._count_uart_errors()
        return MappingProxyType({**decoded, **self._counts})

    @property
    def diagnosis(self) -> LineDiagnosis | None:
        """What seems to be wrong with the line; None while it is fine or too short to tell."""
        return self._watch.diagnosis

    def open(self) -> None:
        """Open the port in raw mode, for this process alone; bytes from before are discarded.

        Raises:
            SensorOpenError: EG-N001 when there is no such device or it is no serial port, EG-N021 when it is forbidden,
                EG-N022 when another process holds it.
        """
        if self._port is not None:
            return
        try:
            port = serial.Serial(self._path, self._baud, timeout=0, exclusive=True)
            descriptor = port.fileno()
        except (serial.SerialException, OSError, ValueError) as error:
            raise self._refused(error) from error
        with suppress(OSError):  # not every driver has it
            # The lock above binds those who ask for it; this one binds everybody but root.
            fcntl.ioctl(descriptor, termios.TIOCEXCL)
        self._port = port
        self._uart = _uart_errors(descriptor)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._heard_ns = self._clock.now_ns()
        self._say(self._hello)

    def read(self, timeout_s: float) -> Sample | None:
        """Return the next sample, or None when none is complete within `timeout_s`.

        Raises:
            SensorDisconnectedError: EG-N002 when the device went away or the source is not open; EG-N024 when it was
                silent for longer than allowed.
        """
        if not self._ready:
            self._receive(timeout_s)
        return self._ready.popleft() if self._ready else None

    def close(self) -> None:
        """Close the port; a second call does nothing."""
        if self._port is not None:
            self._say(self._goodbye)
            self._count_uart_errors()
            port, self._port = self._port, None
            with suppress(serial.SerialException, OSError):  # the device is gone, or never had it
                fcntl.ioctl(port.fileno(), termios.TIOCNXCL)
            with suppress(serial.SerialException, OSError):  # the device is gone: nothing is left to close
                port.close()

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
            self._check_silence()
            return
        state = events[0][1]
        if not state & select.POLLIN:  # hang-up or error, and nothing left to read
            raise self._gone("went away")
        try:
            data = bytes(self._port.read(MAX_READ_BYTES))
        except (serial.SerialException, OSError, TypeError) as error:
            raise self._gone("went away") from error
        before_ns, self._heard_ns = self._heard_ns, self._clock.now_ns()
        samples = [record.sample(self._heard_ns, self._info.sensor) for record in self._decoder.feed(data)]
        self._ready.extend(spread(samples, before_ns))
        # Only receivers' times are one clock: nodes that share a line each have their own.
        moments = [sample.device_stamp_ns for sample in samples if isinstance(sample, GnssFix)]
        self._watch.note(data, self._decoder.line_stats, moments)

    def _check_silence(self) -> None:
        if self._silence_ns is not None and self._clock.now_ns() - self._heard_ns > self._silence_ns:
            raise SensorDisconnectedError(
                f"serial port {self._path} of sensor {self._info.sensor} is silent",
                code="EG-N024",
                hint="check the sensor's power and its rate: edgeguard find --listen 3",
            )

    def _say(self, words: bytes) -> None:
        """Write a request; a sensor that does not take it is found out by its silence."""
        if self._port is None:
            return
        with suppress(serial.SerialException, OSError):
            if self._dtr is not None:
                self._port.dtr = self._dtr
        if words:
            with suppress(serial.SerialException, OSError):
                self._port.write_timeout = WRITE_TIMEOUT_S
                self._port.write(words)

    def _count_uart_errors(self) -> None:
        port, before = self._port, self._uart  # another thread may ask while the reading one closes
        if port is None or before is None:
            return
        try:
            now = _uart_errors(port.fileno())
        except (serial.SerialException, OSError):
            return
        if now is None:
            return
        for reason, last, total in zip((FRAMING_ERROR, OVERRUN), before, now, strict=True):
            if total > last:
                self._counts[reason] = self._counts.get(reason, 0) + total - last
        self._uart = now

    def _refused(self, error: Exception) -> SensorOpenError:
        number = getattr(error, "errno", None)
        cause = error.__context__
        if number is None and isinstance(cause, OSError):
            number = cause.errno
        what = f"cannot open serial port {self._path} of sensor {self._info.sensor}"
        if number in {errno.EACCES, errno.EPERM}:
            return SensorOpenError(
                what + ": permission denied",
                code="EG-N021",
                hint=f"add the user to the group that owns it (usually dialout), then log in again: ls -l {self._path}",
            )
        # pyserial wraps the failed lock without a number of its own.
        if number in {errno.EBUSY, errno.EAGAIN} or "lock" in str(error):
            return SensorOpenError(
                what + ": another process holds it",
                code="EG-N022",
                hint="stop the other reader (gpsd, ModemManager, a terminal); see who it is: edgeguard find",
            )
        return SensorOpenError(what, hint="check the cable and the path: edgeguard find")

    def _gone(self, what: str) -> SensorDisconnectedError:
        return SensorDisconnectedError(
            f"serial port {self._path} of sensor {self._info.sensor} {what}",
            hint="check the cable, then open the source again",
        )


def spread(samples: Sequence[Sample], before_ns: int) -> list[Sample]:
    """Give samples that one read brought together the times at which they came.

    A USB adapter hands over what came in 16 ms at once. All but the last came earlier: by as much as the sensor's own
    clock says, but after the read before (`before_ns`); without such a clock, by a nanosecond each, so that they stay
    samples of their own.
    """
    spaced = list(samples)
    for i in range(len(spaced) - 2, -1, -1):
        one, later = spaced[i], spaced[i + 1]
        step_ns = 1
        if one.device_stamp_ns is not None and later.device_stamp_ns is not None:
            room_ns = later.stamp_ns - before_ns - i - 1  # each later than the read before, and than one another
            step_ns = max(1, min(later.device_stamp_ns - one.device_stamp_ns, room_ns))
        spaced[i] = replace(one, stamp_ns=later.stamp_ns - step_ns)
    return spaced


def _uart_errors(descriptor: int) -> tuple[int, int] | None:
    """Return framing errors and lost bytes as the driver counts them; None where it does not (pseudo-terminals)."""
    try:
        counts = _ICOUNT.unpack(fcntl.ioctl(descriptor, _TIOCGICOUNT, bytes(_ICOUNT.size)))
    except OSError:
        return None
    return counts[_FRAME] + counts[_PARITY] + counts[_BREAK], counts[_OVERRUN] + counts[_BUFFER_OVERRUN]
