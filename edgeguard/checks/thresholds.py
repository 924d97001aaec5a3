"""The false-alarm rate of the whole system, shared out: how far each statistic's own threshold is moved.

A check's shipped threshold, and the limit that a fit derives for one monitor, err to the quiet side, each by its own
amount. What a user states is how often *anything* may cry wolf, so the statistics as they come out, with all
fits in use, are held against it: every one gets an equal part of the rate, and those that have no use for theirs leave
it to the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeguard.checks.tails import Tail

# A recording shows what is common on it. For what is not (a bridge, a hard stop, a wet road) the shipped threshold was
# made, so none falls below a third of it; nor rises above where the sums, which stop at twice theirs, could pass it.
LOWEST, HIGHEST = 1.0 / 3.0, 1.6
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Threshold:
    """One statistic's threshold as a share of the shipped one, and what that rests on.

    per_hour: alarms expected of it, 0 where nothing was seen to expect any from. peaks: that carry its tail; 0 where
    there were too few, and the shipped threshold stays. log_sd: standard deviation of the rate's logarithm.
    """

    scale: float = 1.0
    per_hour: float = 0.0
    peaks: int = 0
    log_sd: float = 0.0


def share_rate(tails: Mapping[str, Tail | None], per_hour: float, *, sure: bool = False) -> dict[str, Threshold]:
    """Thresholds with which all statistics together alarm `per_hour` times an hour.

    Args:
        tails: by name, None where a statistic showed next to nothing. sure: see `Tail.level`.

    The expected rates add up to less where bounds hold all thresholds up, and to more where bounds hold them down.
    Alarms of several statistics at once count once, so the sum is an upper bound.
    """
    known = {name: tail for name, tail in tails.items() if tail is not None}
    # A clamped statistic takes less than its part; raising the part of all others makes up for it, as far as it can.
    low, high = 0.0, per_hour
    for _ in range(_HALVINGS):
        part = 0.5 * (low + high)
        total = sum(tail.per_hour(_level(tail, part, sure), sure=sure) for tail in known.values())
        low, high = (part, high) if total < per_hour else (low, part)
    part = max(high, 1e-9)
    found = {name: Threshold() for name in tails}
    for name, tail in known.items():
        level = _level(tail, part, sure)
        expected = tail.per_hour(level, sure=sure)
        found[name] = Threshold(level, expected, tail.peaks, tail.log_sd(level))
    return found


def _level(tail: Tail, part: float, sure: bool) -> float:
    return min(max(tail.level(part, sure=sure), LOWEST), HIGHEST) if part > 0.0 else HIGHEST
