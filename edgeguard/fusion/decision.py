"""Who is to blame: the signature matrix of the checks, turned into names or honest sets.

A self-check blames its own sensor. A cross-check blames a set; agreement *with power* on the quantity that a member
contributes exonerates it. One candidate left and three observable sources: a name. Otherwise every member is suspect
and nobody is rejected: with two sources the answer would only repeat the priors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgeguard.clock import NS_PER_S
from edgeguard.types import IMU, WHEELS, CheckResult, Level

# With fewer sources than this that can be seen, nobody is named on cross-evidence.
MIN_SOURCES = 3

# Agreement vouches for a sensor only while its own statistic is calm: near the threshold it may be about to accuse.
# Calm to this share, it excludes a fault of about this share of its power; a smaller one it cannot speak about.
CALM_SHARE = 0.5
# Powers and sizes are compared in one unit per dimension.
UNITS: Mapping[str, tuple[str, float]] = {"rad/s": ("rad/s", 1.0), "deg/s": ("rad/s", math.pi / 180.0)}
# A name found by elimination must hold this long, because checks differ in delay: the one that would have spread the
# blame may be a few samples behind the one that raised it.
CONFIRM_S = 0.5

# What a sensor contributes to a comparison of some quantity, where that is not the quantity itself: a displacement is
# reckoned from wheel speed and gyro yaw rate, an acceleration is compared with the change of wheel speed.
CONTRIBUTION: Mapping[tuple[str, str], str] = {
    ("position", WHEELS): "speed",
    ("position", IMU): "yaw_rate",
    ("acceleration", WHEELS): "speed",
}


@dataclass(frozen=True, slots=True)
class Attribution:
    """Outcome of one tick.

    named: sensors that the evidence singles out, with the check that did it. suspects: members of sets that could not
    be narrowed down. exonerated: sensors with calm, powerful cross-agreement and no accusation. observable: sensors
    that at least one cross-check could see. cases: for each sensor named by elimination, everybody who was accused
    with it. passed: self-checks that looked and found nothing, per sensor. cleared: sensors whose disagreements a
    known culprit explains.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    suspects: frozenset[str] = frozenset()
    exonerated: frozenset[str] = frozenset()
    observable: frozenset[str] = frozenset()
    cases: Mapping[str, frozenset[str]] = field(default_factory=dict)
    passed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    cleared: frozenset[str] = frozenset()


def contribution(quantity: str, sensor: str) -> str:
    """The quantity that `sensor` vouches for in a comparison of `quantity`."""
    return CONTRIBUTION.get((quantity, sensor), quantity)


def attribute(results: Sequence[CheckResult], rejected: frozenset[str] = frozenset()) -> Attribution:
    """Attribute one tick's results. Pure; the order of `results` does not matter.

    `rejected`: sensors already rejected. They explain every disagreement they take part in, which accuses them anew
    and nobody else; and what they agree with vouches for nobody.
    """
    named = {r.sensors[0]: r.check for r in results if r.level is Level.ANOMALY and len(r.sensors) == 1}
    for r in results:
        if r.level is Level.ANOMALY and len(r.sensors) > 1:
            named |= {s: r.check for s in r.sensors if s in rejected and s not in named}
    crossing = [r for r in results if len(r.sensors) > 1]
    observable = frozenset(s for r in crossing if _sees(r) for s in r.sensors)
    witnesses = [
        (r, s)
        for r in crossing
        if _agrees(r)
        for s in r.sensors
        # Only for the very quantity it compares: a displacement that fits says little about a small error of speed.
        if contribution(r.quantity, s) == r.quantity
        and not any(m in named or m in rejected for m in r.sensors if m != s)
    ]
    # A known culprit explains every disagreement it takes part in.
    open_cases = [r for r in crossing if r.level is Level.ANOMALY and not any(s in named for s in r.sensors)]
    left = {id(r): _candidates(r, witnesses) for r in open_cases}
    explained = frozenset(
        s for r in crossing if r.level is Level.ANOMALY and any(m in named for m in r.sensors) for s in r.sensors
    )
    suspects: frozenset[str] = frozenset()
    cases: dict[str, frozenset[str]] = {}
    for case in _connected(open_cases):
        culprits = _explain([left[id(r)] for r in case])
        if len(culprits) == 1 and len(observable) >= MIN_SOURCES:
            culprit = next(iter(culprits))
            named[culprit] = case[0].check
            cases[culprit] = frozenset().union(*(r.sensors for r in case))
        else:
            suspects |= culprits
    good = {s for r in crossing if _agrees(r) for s in r.sensors}
    accused = set(named) | suspects
    passed: dict[str, frozenset[str]] = {}
    for r in results:
        if len(r.sensors) == 1 and r.level is Level.OK:
            passed[r.sensors[0]] = passed.get(r.sensors[0], frozenset()) | {r.check}
    return Attribution(
        named=named,
        suspects=frozenset(suspects - set(named)),
        exonerated=frozenset(good - accused),
        observable=observable,
        cases=cases,
        passed=passed,
        cleared=explained - accused,
    )


class Confirmation:
    """Lets a name found by elimination through only after `CONFIRM_S`; until then its whole set is suspect."""

    def __init__(self) -> None:
        self._since_ns: dict[str, int] = {}

    def confirm(self, stamp_ns: int, found: Attribution) -> Attribution:
        """The attribution that may be acted upon now."""
        self._since_ns = {s: self._since_ns.get(s, stamp_ns) for s in found.cases}
        young = {s for s, since in self._since_ns.items() if stamp_ns - since < CONFIRM_S * NS_PER_S}
        if not young:
            return found
        spread = frozenset().union(*(found.cases[s] for s in young))
        named = {s: check for s, check in found.named.items() if s not in young}
        suspects = (found.suspects | spread) - set(named)
        return replace(found, named=named, suspects=suspects, exonerated=found.exonerated - suspects)


def _agrees(result: CheckResult) -> bool:
    calm = result.statistic <= CALM_SHARE * result.threshold
    return result.level is Level.OK and math.isfinite(result.power) and calm


def _sees(result: CheckResult) -> bool:
    return result.level is not Level.NOT_OBSERVABLE


def _candidates(case: CheckResult, witnesses: Sequence[tuple[CheckResult, str]]) -> frozenset[str]:
    """Members nobody vouches for in what they contribute here; all members when everyone is vouched for."""
    cleared = {s for w, s in witnesses if w.quantity == contribution(case.quantity, s) and _could_have_seen(w, case)}
    left = frozenset(case.sensors) - cleared
    return left or frozenset(case.sensors)


def _could_have_seen(witness: CheckResult, case: CheckResult) -> bool:
    """Would a fault as large as the case have disturbed the witness? Assumed where the two cannot be compared."""
    unit, factor = UNITS.get(witness.power_unit, (witness.power_unit, 1.0))
    case_unit, case_factor = UNITS.get(case.power_unit, (case.power_unit, 1.0))
    if case.size is None or unit != case_unit:
        return True
    return CALM_SHARE * witness.power * factor <= case.size * case_factor


def _connected(cases: Sequence[CheckResult]) -> list[list[CheckResult]]:
    """Group disagreements that share a sensor: one culprit may explain a group."""
    groups: list[tuple[set[str], list[CheckResult]]] = []
    for case in cases:
        members, joined = set(case.sensors), [case]
        rest = []
        for sensors, group in groups:
            if sensors & members:
                members |= sensors
                joined = group + joined
            else:
                rest.append((sensors, group))
        groups = [*rest, (members, joined)]
    return [group for _, group in groups]


def _explain(candidate_sets: Sequence[frozenset[str]]) -> frozenset[str]:
    """Sensors that alone explain every set; without such a one, everybody who explains any."""
    common = frozenset.intersection(*candidate_sets)
    return common or frozenset.union(*candidate_sets)
