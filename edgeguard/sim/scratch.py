"""Arrays that live for one frame, kept from frame to frame: fresh pages cost more than what is computed in them."""

from __future__ import annotations

import threading
from math import prod

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Scratch(threading.local):
    """Hands out uninitialised arrays by name, each thread its own; a name's memory is that of its largest array.

    What one call returns is overwritten by the next one with the same name: nothing of it may leave the frame's maker.
    """

    def __init__(self) -> None:
        self._held: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
        """Return a C-contiguous array of any content."""
        size = prod(shape) * np.dtype(dtype).itemsize
        held = self._held.get(name)
        if held is None or held.size < size:
            held = self._held[name] = np.empty(size, dtype=np.uint8)
        return held[:size].view(dtype).reshape(shape)

    def f4(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return a float32 array of any content."""
        return self.array(name, shape, np.float32)  # type: ignore[return-value]

    def i4(self, name: str, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """Return an int32 array of any content."""
        return self.array(name, shape, np.int32)  # type: ignore[return-value]

    def u1(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return a uint8 array of any content."""
        return self.array(name, shape, np.uint8)  # type: ignore[return-value]
