"""Draws and exponentials that the compiler does eight or sixteen at a time: 32-bit hashes of counters, exp of a square.

A draw is a hash of (key, line, place), so it hangs on nothing that was drawn before it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

F = np.float32
GOLDEN = np.uint32(0x9E3779B9)  # 2^32 over the golden ratio: neighbours in a line start far apart
SHARE = F(2.0**-24)


@njit(inline="always")
def scramble(word):  # type: ignore[no-untyped-def]
    """Mix a uint32 into a uint32 by two rounds of multiply-xorshift, a bijection; not for secrets."""
    low = np.uint32(word)  # sums and products of the callers are 64 bits wide
    h = np.uint32(low ^ (low >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x7FEB352D))
    h = np.uint32(h ^ (h >> np.uint32(15)))
    h = np.uint32(h * np.uint32(0x846CA68B))
    return np.uint32(h ^ (h >> np.uint32(16)))


@njit(inline="always")
def share_of(word):  # type: ignore[no-untyped-def]
    """Return the upper 24 bits of a uint32 as a float32 in 0..1, 1 excluded."""
    return F(np.int32(word >> np.uint32(8))) * SHARE


@njit("uint32(int64, int64)", cache=True, nogil=True, error_model="numpy")
def line_key(key: int, line: int) -> int:
    """Return where a line's draws begin: its place k is drawn from `scramble(line_key + k * GOLDEN)`."""
    return scramble(np.uint32(scramble(np.uint32(key & 0xFFFFFFFF)) + np.uint32(line & 0xFFFFFFFF)))  # type: ignore[no-any-return]


@njit(inline="always")
def decay(x):  # type: ignore[no-untyped-def]
    """Return exp(-x) of a float32 x >= 0, right to 2e-5 of itself below 20 and under 4e-9 beyond.

    exp(-x) is exp(-x / 256) to the 256th; the small exponent needs four terms, and eight squarings need no table.
    """
    y = min(x, F(32.0)) * F(-1.0 / 256.0)
    e = F(1.0) + y * (F(1.0) + y * (F(0.5) + y * (F(1.0 / 6.0) + y * F(1.0 / 24.0))))
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    e = e * e
    return e * e
