"""How many sources compared what was attacked: the number that says whether a name could have come out."""

from __future__ import annotations

from collections.abc import Sequence

from edgeguard.fusion.signatures import canonical, channels
from edgeguard.types import CheckResult, Level

# A check of another quantity sees a step only while it passes through its window, about half of the two seconds that
# a power is about.
PASSING = 2.0


def comparing_sources(results: Sequence[CheckResult], sensor: str) -> int:
    """Return how many independent sources compare what `sensor` is accused of now; 1 where only it speaks of itself.

    A cross-check that accuses the sensor says of which quantity, and by how much. Every observable cross-check that
    a fault in this quantity of one of the accused would have to disturb, and whose power is no worse than that,
    compares it too. So many sensors as these checks hold are sources, but never more than one above the number of
    different comparisons: one equation of three sensors is no more than two sources.
    """
    most = 1
    for accusation in results:
        if accusation.level is Level.ANOMALY and sensor in accusation.sensors and len(accusation.sensors) > 1:
            most = max(most, _compare(accusation, results, sensor))
    return most


def _compare(accusation: CheckResult, results: Sequence[CheckResult], sensor: str) -> int:
    own = _channels(accusation, only_named=True)
    size = float("inf") if accusation.size is None else canonical(accusation.size, accusation.power_unit)[0]
    groups = {accusation.sensors}
    for r in results:
        if len(r.sensors) < 2 or r.level is Level.NOT_OBSERVABLE or not own & _channels(r):
            continue
        power = canonical(r.power, r.power_unit)[0] * (1.0 if r.quantity == accusation.quantity else PASSING)
        if r.level is Level.ANOMALY or power <= size:
            groups.add(r.sensors)
    reached, joined = {sensor}, True
    while joined:
        more = {s for group in groups if reached & set(group) for s in group}
        joined = not more <= reached
        reached |= more
    used = {frozenset(group) for group in groups if reached & set(group)}
    return min(len(reached), len(used) + 1)


def _channels(result: CheckResult, *, only_named: bool = False) -> set[tuple[str, str]]:
    """Channels that a fault of one of the check's sensors cannot touch without disturbing it.

    only_named: of a sensor that has the check's own quantity, that alone.
    """
    named = result.quantity, canonical(0.0, result.power_unit)[1]
    found: set[tuple[str, str]] = set()
    for sensor in result.sensors:
        own = {channel for channel, gain in channels(*named, sensor).items() if gain == 0.0}
        found |= {named} if only_named and named in own else own
    return found
