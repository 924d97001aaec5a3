"""Any `Source` in a thread of its own: a bounded queue, reconnection, and trouble that stays its own.

A pipeline that reads ten sources in turn must not wait for the one that hangs in `open`, and must not lose the other
nine when one cable is pulled. `SupervisedSource` reads one source in one thread. Samples carry the stamp of their
arrival (the wrapped source sets it as it reads); when nobody takes them, the oldest go first, counted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType, TracebackType
from typing import Self

import numpy as np

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import EdgeGuardError, SensorDisconnectedError, SensorOpenError
from edgeguard.sensors.reconnect import Backoff, BackoffPolicy
from edgeguard.types import LineStats, Sample, Source, SourceInfo

DEFAULT_QUEUE = 64
# How long one read of the wrapped source may block; also how soon `close` is noticed.
POLL_S = 0.1
IDLE_S = 0.001
# Longer than any read blocks. A thread that outlives it sits in a driver call and is left behind: it is a daemon.
JOIN_S = 5.0

QUEUE_FULL = "reader too slow"
OPEN_FAILED = "could not be opened"
DISCONNECTED = "disconnected"


class LinkState(Enum):
    """Where a supervised source stands."""

    CLOSED = "closed"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting to reconnect"
    FAILED = "failed"


class SupervisedSource:
    """Gives the samples of `source`, through disconnections.

    Args:
        source: what to read; only this object's thread touches it between `open` and `close`, so that a source needs
            no lock of its own: its counts are those of its last read.
        clock: the pipeline's clock; it times the back-off. rng: jitter of the back-off.
        queue: how many samples may wait. policy: delays between attempts.

    `read` never raises for a device that is away: it gives None, and `state`, `last_error` and `drops` say why. That is
    what the timing check needs to see a dead sensor while the others go on.
    """

    def __init__(
        self,
        source: Source,
        clock: Clock,
        rng: np.random.Generator,
        *,
        queue: int = DEFAULT_QUEUE,
        policy: BackoffPolicy | None = None,
    ) -> None:
        if queue < 1:
            raise ValueError("the queue holds at least one sample")
        self._source, self._clock = source, clock
        self._backoff = Backoff(policy or BackoffPolicy(), rng)
        self._queue: deque[Sample] = deque(maxlen=queue)
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._counts: dict[str, int] = {}
        self._state = LinkState.CLOSED
        self._error: EdgeGuardError | None = None
        self._connections = 0
        self._over = source.exhausted
        self._line, self._lost = source.line_stats, dict(source.drops)

    @property
    def info(self) -> SourceInfo:
        return self._source.info

    @property
    def exhausted(self) -> bool:
        """Whether a recording is over and all of it was read; a device never is."""
        with self._arrived:
            return self._over and not self._queue

    @property
    def line_stats(self) -> LineStats:
        with self._arrived:
            return self._line

    @property
    def drops(self) -> Mapping[str, int]:
        """Samples and connections lost, by reason, together with the wrapped source's own."""
        with self._arrived:
            return MappingProxyType({**self._lost, **self._counts})

    @property
    def state(self) -> LinkState:
        """Where the connection stands now."""
        return self._state

    @property
    def last_error(self) -> EdgeGuardError | None:
        """Why it is not connected; None while it is."""
        return self._error

    @property
    def connections(self) -> int:
        """How often the source was opened with success."""
        return self._connections

    def open(self) -> None:
        """Start reading; returns at once, whether the device is there or not. A second call does nothing."""
        if self._thread is not None:
            return
        # A stop of its own for each thread: one that was left behind in a driver call must not come back to life.
        self._stop = threading.Event()
        self._state, self._error = LinkState.CONNECTING, None
        self._thread = threading.Thread(
            target=self._run, args=(self._stop,), name=f"sensor-{self.info.sensor}", daemon=True
        )
        self._thread.start()

    def read(self, timeout_s: float) -> Sample | None:
        """Return the oldest waiting sample, or None when none came within `timeout_s`.

        Raises:
            SensorDisconnectedError: EG-N002 when not open, EG-N023 when the reading thread itself failed.
        """
        with self._arrived:
            if not self._queue and timeout_s > 0.0 and self._state is not LinkState.CLOSED:
                self._arrived.wait_for(lambda: bool(self._queue) or self._state is LinkState.FAILED, timeout_s)
            if self._queue:
                return self._queue.popleft()
            if self._state is LinkState.FAILED:
                raise SensorDisconnectedError(
                    f"reading sensor {self.info.sensor} stopped for good: {self._error}",
                    code="EG-N023",
                    hint=(self._error.hint if self._error else "") or "not the cable's fault: report it with the log",
                )
            if self._thread is None:
                raise SensorDisconnectedError(f"sensor {self.info.sensor} is not open")
            return None

    def close(self) -> None:
        """Stop the thread and close the source; what was not read is dropped. A second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stop.set()
        thread.join(JOIN_S)
        with self._arrived:
            self._queue.clear()
            self._state = LinkState.CLOSED
            self._arrived.notify_all()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                if self._connect(stop):
                    self._pump(stop)
        except Exception as error:  # a thread that dies without a word would look like a silent sensor
            self._error = error if isinstance(error, EdgeGuardError) else EdgeGuardError(type(error).__name__)
            self._set_state(LinkState.FAILED)
        finally:
            self._source.close()
            self._look(None)

    def _connect(self, stop: threading.Event) -> bool:
        self._set_state(LinkState.CONNECTING)
        try:
            self._source.open()
        except SensorOpenError as error:
            self._lose(stop, OPEN_FAILED, error)
            return False
        self._error = None
        self._connections += 1
        self._set_state(LinkState.CONNECTED)
        return True

    def _pump(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                sample = self._source.read(POLL_S)
            except SensorDisconnectedError as error:
                self._source.close()
                self._look(None)
                self._lose(stop, DISCONNECTED, error)
                return
            self._look(sample)
            if sample is not None:
                self._backoff.reset()
            else:
                # Some sources do not block in `read`: without a pause this thread would eat a core.
                stop.wait(POLL_S if self._over else IDLE_S)

    def _look(self, sample: Sample | None) -> None:
        """Queue what was read, together with what the source says of itself after it."""
        over, line, lost = self._source.exhausted, self._source.line_stats, dict(self._source.drops)
        with self._arrived:
            self._over, self._line, self._lost = over, line, lost
            if sample is None:
                return
            if len(self._queue) == self._queue.maxlen:
                self._count(QUEUE_FULL)
            self._queue.append(sample)
            self._arrived.notify()

    def _lose(self, stop: threading.Event, reason: str, error: EdgeGuardError) -> None:
        with self._arrived:
            self._count(reason)
        self._error = error
        self._set_state(LinkState.WAITING)
        due_ns = self._clock.now_ns() + int(self._backoff.next_delay_s() * NS_PER_S)
        while (left_ns := due_ns - self._clock.now_ns()) > 0:
            if stop.wait(min(POLL_S, left_ns / NS_PER_S)):
                return

    def _count(self, reason: str) -> None:
        self._counts[reason] = self._counts.get(reason, 0) + 1

    def _set_state(self, state: LinkState) -> None:
        with self._arrived:
            self._state = state
            self._arrived.notify_all()
