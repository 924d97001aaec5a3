"""The false-alarm rate of the whole system, shared out: how far each statistic's own threshold is moved.

A check's shipped threshold, and the limit that a fit derives for one monitor, err to the quiet side, each by its own
amount. What a user states is how often *anything* may cry wolf, so the statistics as they come out, with all
fits in use, are held against it: every one gets an equal part of the rate, and those that have no use for theirs leave
it to the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeguard.checks.tails import Tail

# A recording shows what is common on it. For what is not (a bridge, a hard stop, a wet road) the shipped threshold was
# made, so none falls below a third of it; nor rises above where the sums, which stop at twice theirs, could pass it.
LOWEST, HIGHEST = 1.0 / 3.0, 1.6
# With `sure`, a statistic keeps its part of the rate with this probability, given what was seen.
CONFIDENCE = 0.95
# Above the shipped threshold only what was seen may lift one, not how little that was: then the median decides.
MEDIAN = 0.5
_HALVINGS = 40
_WIDEST = 3.0  # of a logarithm: beyond it, not known


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
        tails: by name, None where a statistic showed next to nothing. sure: each keeps its part of the rate with 95 %,
            and passes on nothing.

    Where bounds hold thresholds up, the expected rates add up to less than was asked for; where they hold them down, or
    too little was seen, to more. Alarms of several statistics at once count once, so the sum is an upper bound.
    """
    known = {name: tail for name, tail in tails.items() if tail is not None}
    part = per_hour / max(1, len(known)) if sure else _part(tuple(known.values()), per_hour)
    found = {name: Threshold() for name in tails}
    for name, tail in known.items():
        level = _level(tail, part, sure)
        found[name] = Threshold(level, tail.per_hour(level), tail.peaks, tail.log_sd(level))
    return found


def _part(tails: Sequence[Tail], per_hour: float) -> float:
    """What each may take. One that is held up takes less; the others make up for it, as far as any can."""
    low, high = 0.0, per_hour
    for _ in range(_HALVINGS):
        part = 0.5 * (low + high)
        # One that is held down, and takes more, takes it from nobody.
        taken = sum(min(part, tail.per_hour(_level(tail, part, sure=False))) for tail in tails)
        low, high = (part, high) if taken < per_hour else (low, part)
    return max(high, 1e-9)


def _level(tail: Tail, part: float, sure: bool) -> float:
    level = tail.level(part, CONFIDENCE if sure else None)
    if level > 1.0 and not sure:
        level = max(1.0, min(level, tail.level(part, MEDIAN)))
    return min(max(level, LOWEST), HIGHEST)


def total(thresholds: Mapping[str, Threshold]) -> tuple[float, float]:
    """Alarms an hour that are expected of all together, and the standard deviation of the logarithm of that."""
    per_hour = sum(each.per_hour for each in thresholds.values())
    if per_hour == 0.0:
        return 0.0, 0.0
    # A rate whose logarithm is Gaussian, with this mean: what they leave open adds up as variances do.
    variance = sum(each.per_hour**2 * math.expm1(min(each.log_sd, _WIDEST) ** 2) for each in thresholds.values())
    return per_hour, math.sqrt(math.log1p(variance / per_hour**2))
