"""Why a sample was not used: the codes that counters, callbacks, logs and reports share."""

from __future__ import annotations

from typing import Final

ZERO_STAMP: Final = "zero_stamp"  # never stamped
BACKWARDS: Final = "backwards"  # older than its predecessor
DUPLICATE: Final = "duplicate"  # stamped as its predecessor
FUTURE: Final = "future"  # further ahead of our clock than any buffer explains
LATE: Final = "late"  # too old to matter now
OVERFLOW: Final = "overflow"  # the queue was full; the oldest went
WRONG_KIND: Final = "wrong_kind"  # not what the source said it gives
UNKNOWN_SENSOR: Final = "unknown_sensor"
SUPERSEDED: Final = "superseded"  # a smaller set was made without it
UNPAIRED: Final = "unpaired"  # no partner within the allowed interval
AFTER_LOSS: Final = "after_loss"  # its better partner may be among those an overflow threw away
