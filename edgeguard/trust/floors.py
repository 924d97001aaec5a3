"""Counter floors: they rise, one bounded step at a time, and only offline keys begin an epoch.

docs/formats/device-state.md section 5.
"""

from __future__ import annotations

from typing import Final

from edgeguard.errors import TrustError

Place = tuple[int, int]  # (epoch, number) of a counter or list; compares in that order

# A release a minute for two years. Whoever steals a release key can spend no more than this per committed bundle, and
# the numbers that a counter can hold (10^18) cannot be used up by accident or in one stroke.
MAX_COUNTER_JUMP: Final = 2**20


def require_counter(counter: Place, *, floor: Place, offline_epoch: int) -> None:
    """Check a bundle's counter against the highest floor known for its model.

    Args:
        counter, floor: (epoch, number).
        offline_epoch: epoch of the fleet policy's floor for the model; 0 where none is set.

    Raises:
        TrustError: EG-T015 below the floor, EG-T018 another epoch than the offline keys', or too far above.
    """
    if counter < floor:
        raise TrustError("the model is older than the fleet allows", code="EG-T015", hint="install a newer release")
    if counter[0] != offline_epoch or exceeds_step(counter, floor):
        raise TrustError(
            "the model's security counter jumps further than one release may",
            code="EG-T018",
            hint="if the release is genuine, the fleet's offline keys must begin a new epoch",
        )


def exceeds_step(value: Place, floor: Place) -> bool:
    """Return whether the number of `value` lies more than one step above the floor of the same epoch."""
    start = floor[1] if floor[0] == value[0] else 0
    return value[1] - start > MAX_COUNTER_JUMP
