"""Memory that kernels work in and answer with, kept between calls.

A sweep's intermediate arrays are megabytes. The C library hands such memory back to the system at once, and every call
would then pay for a thousand page faults, which here take longer than the arithmetic. Each thread has its own arrays;
they grow with the largest input seen and are freed with the thread.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_GROWTH = 1.25  # sweeps vary by some percent: room for that, so that the arrays settle after the first
_LENT = 12  # of a name: what is remembered of a few sweeps; of more, new memory is no worse than before


def _references(held: list[NDArray[Any]], at: int) -> int:
    return sys.getrefcount(held[at])


_ALONE = _references(
    [np.empty(0)], 0
)  # asked in the same way, since interpreters count their own borrowing differently


class Scratch(threading.local):
    """Named arrays of one thread. What `array` returns is overwritten by the next call with the same name."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, DTypeLike], NDArray[Any]] = {}
        self._lent: dict[tuple[str, DTypeLike], list[NDArray[Any]]] = {}

    def array(self, name: str, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """A (size,) array of whatever values were there last."""
        held = self._arrays.get((name, dtype))  # one of each type: comparing types takes longer than finding an array
        if held is None or held.size < size:
            held = np.empty(int(size * _GROWTH), dtype=dtype)
            self._arrays[name, dtype] = held
        return held[:size]

    def lend(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array of whatever values, for results: the caller's until nobody holds it or a view of it any more.

        What was lent and let go is lent again, so that a result of each frame does not cost new pages. Whoever keeps a
        result keeps its memory: views and buffers count as references. Raw addresses do not, as with any array.
        """
        size = 1
        for side in shape:
            size *= side
        held = self._lent.setdefault((name, dtype), [])
        for at in range(len(held)):
            if _references(held, at) == _ALONE and held[at].size >= size:
                return held[at][:size].reshape(shape)
        array = np.empty(int(size * _GROWTH), dtype=dtype)
        if len(held) >= _LENT:  # the oldest are kept by others, or too small
            del held[0]
        held.append(array)
        return array[:size].reshape(shape)
