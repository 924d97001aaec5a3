"""What if? A trial goes on from where the clean run stands, in a forked copy of this process.

The copy has every check's history as it is, and costs only what it changes; the clean run itself is never disturbed.
No thread may be needed in the copy (OpenCV is told to use none), and it leaves without running anybody's clean-up.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator

from edgeguard.clock import SystemClock
from edgeguard.errors import ScenarioError

# A trial of a few seconds of sensor data takes as many seconds on a slow board; one that takes this long hangs.
LIMIT_S = 300.0
_PIECE = 1 << 16


class Branches:
    """Runs callables in forked copies, at most `jobs` at a time, and hands over what they return.

    Use `start` as often as needed, then `finish`; results come in any order.
    """

    def __init__(self, jobs: int) -> None:
        if not hasattr(os, "fork"):
            raise ScenarioError("trials need a system with fork", code="EG-X040", hint="run on Linux")
        self._jobs = max(1, jobs)
        self._running: dict[int, tuple[int, bytearray, int, int]] = {}  # fd -> pid, bytes, tag, deadline
        self._clock = SystemClock()

    def start(self, tag: int, work: Callable[[], bytes]) -> Iterator[tuple[int, bytes | None]]:
        """Run `work` in a copy; yields results of earlier ones that had to be waited for. None: it failed or hung."""
        while len(self._running) >= self._jobs:
            yield from self._wait()
        reader, writer = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:  # the copy: whatever happens, it must not run on into the caller's code
            status = 1
            try:
                os.close(reader)
                _write_all(writer, work())
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        self._running[reader] = (pid, bytearray(), tag, self._clock.now_ns() + int(LIMIT_S * 1e9))

    def finish(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield what is still running, as it ends."""
        while self._running:
            yield from self._wait()

    def stop(self) -> None:
        """Kill what is still running."""
        for reader in list(self._running):
            self._end(reader, kill=True)

    def _wait(self) -> Iterator[tuple[int, bytes | None]]:
        ready, _, _ = select.select(list(self._running), [], [], 1.0)
        for reader in ready:
            piece = os.read(reader, _PIECE)
            if piece:
                self._running[reader][1].extend(piece)
            else:
                yield self._end(reader)
        now_ns = self._clock.now_ns()
        for reader in [fd for fd, (_, _, _, deadline_ns) in self._running.items() if now_ns > deadline_ns]:
            yield self._end(reader, kill=True)

    def _end(self, reader: int, *, kill: bool = False) -> tuple[int, bytes | None]:
        pid, said, tag, _ = self._running.pop(reader)
        os.close(reader)
        if kill:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        return tag, bytes(said) if status == 0 and not kill else None


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
