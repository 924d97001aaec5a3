"""`ThreadedCamera`: what every live camera shares. A thread waits for the device, the pipeline never does.

Frames are stamped in that thread, when the device gives them, with the injected clock. A few wait to be read; when the
pipeline is slower than the camera the oldest go first, counted as ``overflow``.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Self

from edgeguard.clock import Clock
from edgeguard.errors import SensorDisconnectedError, SensorError
from edgeguard.types import Image, LineStats, SourceInfo

MAX_WAITING_FRAMES = 4
JOIN_TIMEOUT_S = 2.0  # a driver that hangs keeps its thread, a daemon; the process goes on
OVERFLOW = "overflow"


class ThreadedCamera(ABC):
    """A live camera as a `Source`.

    Subclasses open the device in `_connect` (in the caller's thread, so that errors reach `open`), give one frame, one
    drop reason or None from `_next` (in the camera's thread, which may wait there up to about half a second), and let
    go in `_disconnect` (in the camera's thread).
    """

    def __init__(self, info: SourceInfo, clock: Clock) -> None:
        self._info, self._clock = info, clock
        self._changed = threading.Condition()
        self._waiting: deque[Image] = deque()
        self._dropped: Counter[str] = Counter()
        self._frames = 0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._failure: SensorError | None = None

    @abstractmethod
    def _connect(self) -> None:
        """Open the device.

        Raises:
            SensorOpenError: when it is missing, busy, forbidden, or does not do what was asked.
        """

    @abstractmethod
    def _next(self) -> Image | str | None:
        """The next frame, the reason a frame was lost, or None when there is none yet.

        Raises:
            SensorDisconnectedError: when the device is gone.
        """

    @abstractmethod
    def _disconnect(self) -> None:
        """Let go of the device; never raises."""

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def exhausted(self) -> bool:
        """A device never is."""
        return False

    @property
    def drops(self) -> Mapping[str, int]:
        """Frames that could not be given, by reason, since the source was made."""
        with self._changed:
            return MappingProxyType(dict(self._dropped))

    @property
    def line_stats(self) -> LineStats:
        """`frames` given by the device, and as `checksum_failures` those that did not decode."""
        with self._changed:
            lost = sum(count for reason, count in self._dropped.items() if reason != OVERFLOW)
            return LineStats(frames=self._frames, checksum_failures=lost)

    def open(self) -> None:
        """Open the device and start its thread; a second call does nothing.

        Raises:
            SensorOpenError: see the class of camera.
        """
        if self._thread is not None and self._thread.is_alive() and not self._stopping.is_set():
            return
        self._connect()
        self._failure = None
        self._stopping = threading.Event()
        self._waiting.clear()
        self._thread = threading.Thread(
            target=self._work, args=(self._stopping,), name=f"edgeguard-{self._info.sensor}", daemon=True
        )
        self._thread.start()

    def read(self, timeout_s: float) -> Image | None:
        """The oldest frame that waits, or None when none comes within `timeout_s` of real time.

        Raises:
            SensorDisconnectedError: EG-N002 when the device went away or the source is not open.
        """
        with self._changed:
            if not self._waiting and self._failure is None and timeout_s > 0:
                self._changed.wait_for(lambda: self._waiting or self._failure is not None, timeout_s)
            if self._waiting:
                return self._waiting.popleft()
            if self._failure is not None:
                code = self._failure.code if isinstance(self._failure, SensorDisconnectedError) else None
                raise SensorDisconnectedError(self._failure.message, code=code, hint=self._failure.hint)
        if self._thread is None:
            raise self._gone("is not open")
        return None

    def close(self) -> None:
        """Stop the thread and let go of the device; a second call does nothing."""
        thread, self._thread = self._thread, None
        self._stopping.set()
        if thread is not None:
            thread.join(JOIN_TIMEOUT_S)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _gone(self, what: str) -> SensorDisconnectedError:
        return SensorDisconnectedError(
            f"camera {self._info.origin} of sensor {self._info.sensor} {what}",
            hint="check the cable and power, then open the source again",
        )

    def _work(self, stopping: threading.Event) -> None:
        try:
            while not stopping.is_set():
                self._deliver(self._next())
        except SensorError as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        except Exception as error:  # a thread that dies without a word would look like a camera that is silent
            with self._changed:
                self._failure = SensorDisconnectedError(
                    f"reading camera {self._info.origin} of sensor {self._info.sensor} failed: {type(error).__name__}",
                    code="EG-N023",
                    hint="not the cable's fault: report it with the log",
                )
                self._changed.notify_all()
        finally:
            self._disconnect()

    def _deliver(self, item: Image | str | None) -> None:
        if item is None:
            return
        with self._changed:
            if isinstance(item, str):
                self._dropped[item] += 1
                return
            self._frames += 1
            self._waiting.append(item)
            if len(self._waiting) > MAX_WAITING_FRAMES:
                self._waiting.popleft()
                self._dropped[OVERFLOW] += 1
            self._changed.notify_all()
