"""The random choices of one frame: drawn from one key, and written down.

The key comes from the system's secure generator (`fresh_key`), never from the frame: whoever can compute the draw can
optimise through it. The evidence keeps the key, so that every frame can be restored again exactly.
"""

from __future__ import annotations

import secrets

import numpy as np

KEY_BITS = 64  # as many as a frame's record holds; guessing a draw is useless a frame later


def fresh_key() -> int:
    """Return a new key from the system's secure generator."""
    return secrets.randbits(KEY_BITS)


class Draw:
    """Numbers in the order they are asked for; equal keys give equal numbers."""

    def __init__(self, key: int) -> None:
        self.key = key
        self._generator = np.random.Generator(np.random.PCG64(key))

    def integer(self, bounds: int | tuple[int, int]) -> int:
        """Return a whole number from `bounds`, both ends included; a lone number is returned as it is."""
        if isinstance(bounds, int):
            return bounds
        return int(self._generator.integers(bounds[0], bounds[1], endpoint=True))

    def real(self, bounds: float | tuple[float, float]) -> float:
        """Return a number from `bounds`; a lone number is returned as it is."""
        if isinstance(bounds, tuple):
            return float(self._generator.uniform(bounds[0], bounds[1]))
        return float(bounds)
