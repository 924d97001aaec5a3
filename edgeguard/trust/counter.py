"""`MonotonicCounter`: what lets a device tell its newest state from an older image of its disk."""

from __future__ import annotations

from typing import Protocol


class MonotonicCounter(Protocol):
    """A number outside the file system that can only grow, such as a TPM NV counter.

    Implementations raise `TrustError` (EG-T035) when the counter does not answer; that is a refusal, never a zero.
    """

    def read(self) -> int:
        """Return the present value."""
        ...

    def increment(self) -> int:
        """Add one, durably, and return the new value."""
        ...
