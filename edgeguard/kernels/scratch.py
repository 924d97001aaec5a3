"""Memory that kernels work in, kept between calls.

A sweep's intermediate arrays are megabytes. The C library hands such memory back to the system at once, and every call
would then pay for a thousand page faults, which here take longer than the arithmetic. Each thread has its own arrays;
they grow with the largest input seen and are freed with the thread.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_GROWTH = 1.25  # sweeps vary by some percent: room for that, so that the arrays settle after the first


class Scratch(threading.local):
    """Named arrays of one thread. What `array` returns is overwritten by the next call with the same name."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def array(self, name: str, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """A (size,) array of whatever values were there last."""
        held = self._arrays.get(name)
        if held is None or held.size < size or held.dtype != dtype:
            held = np.empty(int(size * _GROWTH), dtype=dtype)
            self._arrays[name] = held
        return held[:size]
