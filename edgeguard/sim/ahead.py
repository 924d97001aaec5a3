"""The next frame is rendered while the pipeline works on this one.

A frame is a function of its index alone (noise is keyed by it, the world does not change after construction), so which
thread renders it, and when, cannot show in it. The kernels release the interpreter lock.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from edgeguard.types import Sample


class RenderAhead:
    """Wraps `measure(index)` of a stream whose samples are asked for in order.

    Args:
        measure: pure in `index`. worker: one thread for all streams of a rig. last_index: nothing is rendered beyond.
    """

    def __init__(self, measure: Callable[[int], Sample], worker: ThreadPoolExecutor, last_index: int) -> None:
        self._measure, self._worker, self._last_index = measure, worker, last_index
        self._next: tuple[int, Future[Sample]] | None = None

    def __call__(self, index: int) -> Sample:
        """Return sample `index` and start on the one after it."""
        ready, self._next = self._next, None
        sample = ready[1].result() if ready is not None and ready[0] == index else self._measure(index)
        if index < self._last_index:
            self._next = (index + 1, self._worker.submit(self._measure, index + 1))
        return sample
