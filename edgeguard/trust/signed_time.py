"""The time to judge by: the clock, but never before a moment that somebody of the fleet has signed.

Only signed issue times enter; the clock itself is never remembered, so that a spoofed date passes when the spoofing
does. docs/formats/device-state.md section 4.
"""

from __future__ import annotations


def effective_ns(clock_ns: int, *signed_ns: int) -> int:
    """Return the latest of the clock and the signed moments, nanoseconds since 1970 UTC.

    A board without a battery starts in 1970 and still judges by the newest date its fleet has signed.
    """
    return max(clock_ns, *signed_ns) if signed_ns else clock_ns
