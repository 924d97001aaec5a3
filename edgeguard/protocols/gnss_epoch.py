"""Which message ends an epoch? No protocol says so (but for NAV-EOE of UBX), so it is learned."""

from __future__ import annotations

from collections.abc import Iterable

# A message that ended an epoch too early is not believed for so many turns, twice as many each time: a sentence lost on
# the line is soon forgiven, a receiver whose epochs differ in length is not asked again and again.
FIRST_PENALTY_TURNS = 32
MAX_PENALTY_TURNS = 1 << 14


class EpochEnd:
    """The message that stood last before the time changed ends epochs from then on, until one of them goes on.

    Args:
        known: names that are known to end epochs, so that already the first one is given with its last message.

    Names are few (kinds of sentences, message ids), so memory is bounded by the caller's table.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._ends = set(known)
        self._penalty: dict[str, int] = {}
        self._left: dict[str, int] = {}
        self._last = ""
        self._fired = ""

    def turned(self) -> None:
        """The time changed: the message before this one was its epoch's last."""
        last, self._fired = self._last, ""
        if not last:
            return
        if self._left.get(last, 0) > 0:
            self._left[last] -= 1
        else:
            self._ends.add(last)

    def went_on(self) -> None:
        """An epoch that was given as complete has another message: whoever ended it is not its end."""
        fired, self._fired = self._fired, ""
        if fired:
            self._ends.discard(fired)
            penalty = self._penalty.get(fired, FIRST_PENALTY_TURNS)
            self._left[fired] = penalty
            self._penalty[fired] = min(2 * penalty, MAX_PENALTY_TURNS)

    def ends(self, name: str) -> bool:
        """Note a message with a time; return whether it completes its epoch."""
        self._last = name
        if name in self._ends:
            self._fired = name
            return True
        return False
