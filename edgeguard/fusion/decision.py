"""Who is to blame: a posterior over "nobody", each sensor and each pair, given which checks fired and which did not.

"Sensor s is faulty in a channel by b" predicts for each check that sees the channel how likely it fires, from b over
the check's power and the time it has had. A check that should have fired and did not exonerates; one that fired and
should not have is a false alarm at its price; a second faulty sensor costs a prior. Above 0.9, and with three sources
that see one another, a name; otherwise an honest set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgeguard.clock import NS_PER_S
from edgeguard.fusion.signatures import SIZE_SD as SIZE_SD_OF
from edgeguard.fusion.signatures import canonical, channels, rarity
from edgeguard.types import CheckResult, Level

# With fewer sources than this that see one another the answer would only repeat the priors.
MIN_SOURCES = 3
NAME_ABOVE = 0.9
# A sensor belongs to the set where it has at least this share of what is not chance.
SUSPECT_ABOVE = 0.05

# Share of the threshold up to which a statistic is calm; between it and 1 it may be about to accuse.
CALM_SHARE = 0.5
# An honest check: at most this often above its threshold (and rarer with the square of how far), and this often uneasy.
FALSE_ALARM, FALSE_UNEASE = 3e-4, 0.1
# Odds that a sensor is faulty when checks begin to fire; of one already rejected; of one that a self-check names now.
FAULT_ODDS, REJECTED_ODDS, SELF_NAMED_ODDS = 0.01, 1.0, 50.0
# A fault need not touch every channel of a sensor; each touched one costs this.
CHANNEL_COST = 0.5
# Power is defined as the smallest change found within this time, and no check is quicker than the dead time (windows,
# latency of the receiver).
HORIZON_S, DEAD_S = 2.0, 0.4
# A power is the check's own claim for white noise; dead bands and windows that must fill make it optimistic, by 1.4 to
# 2.5 for turns in simulated drives; slow sums find less than they claim. Silence vouches only against faults this much
# larger, and an alarm may be about one this much smaller.
POWER_DOUBT = 2.0
# Where a check says no size, a slow sum may have found less than its power: down to this share of it.
FOUND_SHARE = 0.2
# Steepness of detection in ln(size / power): half of the faults of twice the power that have had half of the horizon.
STEEPNESS = 3.0
# Even a huge fault may be missed, or found when it should not, for a reason that is not modelled.
MODEL_ERROR = 0.01
# How well a check tells a size (natural log): where it says one; where only its share of the threshold is known.
SIZE_SD, SHARE_SD = 0.7, 1.5
# Sizes that are tried, in canonical units, 17 % apart: from an arc second per second to the width of a city.
GRID = np.exp(np.linspace(math.log(5e-6), math.log(5e4), 150))
# Powers, shares and sizes are rounded to this step (natural log) and ages to a tenth of a second, far finer than they
# are known: most ticks then ask what was asked before.
STEP = 0.1
# What fired counts as evidence this long: checks differ in delay and hold.
LATCH_S = 2.0
# A check that sees two faulty sensors at once: they add up, and hardly ever cancel.
SHARED_FIRED, SHARED_CALM = 0.5, 0.25
# A name must hold this long: the check that would spread the blame may be a few samples behind the one that raised it.
CONFIRM_S = 0.5


@dataclass(frozen=True, slots=True)
class Attribution:
    """Outcome of one tick.

    named: sensors that the evidence singles out, with the check that did it. suspects: members of sets that could not
    be narrowed down. exonerated: sensors with calm, powerful cross-agreement and no accusation. observable: sensors
    that at least one cross-check could see. cases: for each sensor named by cross-evidence, everybody who was accused
    with it. passed: self-checks that looked and found nothing, per sensor. cleared: sensors whose disagreements a
    known culprit explains. posterior: of being faulty, per sensor that a cross-check accuses.
    """

    named: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    suspects: frozenset[str] = frozenset()
    exonerated: frozenset[str] = frozenset()
    observable: frozenset[str] = frozenset()
    cases: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    passed: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))
    cleared: frozenset[str] = frozenset()
    posterior: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Evidence:
    """One cross-check as evidence.

    share: of its threshold; above 1 it fired. sizes: what it said the fault is, in canonical units, when it fired and
    at its height; None where it cannot tell. A residual that accumulates says more and more about one and the same
    fault, so everything between the two is possible. age_s: how long the fault has had to show in it.
    """

    check: str
    sensors: tuple[str, ...]
    quantity: str
    unit: str
    share: float
    power: float
    sizes: tuple[float, float] | None = None
    age_s: float = HORIZON_S + DEAD_S

    @property
    def fired(self) -> bool:
        return self.share > 1.0

    @property
    def calm(self) -> bool:
        return self.share <= CALM_SHARE


@lru_cache(maxsize=512)
def posterior(
    evidence: tuple[Evidence, ...], prior_odds: tuple[tuple[str, float], ...]
) -> Mapping[frozenset[str], float]:
    """Probability of each set of at most two faulty sensors, the empty set included.

    prior_odds: of each sensor that may be faulty. Evidence about others is taken as honest.
    """
    odds = dict(prior_odds)
    weights: dict[frozenset[str], float] = {}
    honest = {id(e): math.log(_honest(e)) for e in evidence}
    explained = {s: _explain(tuple(e for e in evidence if s in e.sensors), s) for s in odds}
    names = sorted(odds)
    for faulty in [(), *((s,) for s in names), *combinations(names, 2)]:
        total = sum(math.log(odds[s]) for s in faulty)
        total += sum(honest[id(e)] for e in evidence if not any(s in e.sensors for s in faulty))
        if len(faulty) == 1:
            total += explained[faulty[0]]
        elif len(faulty) == 2:
            shared = [e for e in evidence if faulty[0] in e.sensors and faulty[1] in e.sensors]
            alone = {s: tuple(e for e in evidence if s in e.sensors and e not in shared) for s in faulty}
            total += sum(_explain(alone[s], s) if shared else explained[s] for s in faulty)
            total += sum(math.log(SHARED_FIRED if not e.calm else SHARED_CALM) for e in shared)
        weights[frozenset(faulty)] = total
    most = max(weights.values())
    scaled = {faulty: math.exp(weight - most) for faulty, weight in weights.items()}
    whole = sum(scaled.values())
    return MappingProxyType({faulty: weight / whole for faulty, weight in scaled.items()})


def _honest(e: Evidence) -> float:
    return FALSE_ALARM / e.share**2 if e.fired else 1.0 if e.calm else FALSE_UNEASE


@lru_cache(maxsize=2048)
def _explain(evidence: tuple[Evidence, ...], sensor: str) -> float:
    """Log-likelihood of the evidence when `sensor` is faulty: the best choice of channels and sizes."""
    seen = [(i, e, channels(e.quantity, e.unit, sensor)) for i, e in enumerate(evidence)]
    logs = [math.log(_honest(e)) for e in evidence]
    # Greedy: touch one channel after the other, the loudest first, while that explains more than it costs. A channel
    # that only calm checks see explains nothing. A faulty sensor touches at least one, if by less than anybody sees.
    loud: dict[tuple[str, str], float] = {}
    for _, e, gains in seen:
        for channel in () if e.calm else gains:
            loud[channel] = max(loud.get(channel, 0.0), e.share if gains[channel] == 0.0 else 0.0)
    cost, touched = math.log(CHANNEL_COST), 0
    answered: set[int] = set()
    for channel in sorted(loud, key=lambda c: (-loud[c], c)):
        rows, which = [], []
        for i, e, gains in seen:
            if gains.get(channel) == 0.0:  # its own: a fault there must show
                row = _own_log(e) + (math.log(rarity(e.quantity, sensor)) if e.fired else 0.0)
                # Where another touched channel already answers for it: either fired it, and neither may have.
                rows.append(row if i not in answered else np.maximum(row, logs[i]) if e.fired else row + logs[i])
            elif channel in gains and not e.calm:  # a coupled one may show
                rows.append(np.maximum(_coupled_log(e, gains[channel]), logs[i]))
            else:
                continue
            which.append(i)
        likelihood = np.sum(rows, axis=0)
        at = int(np.argmax(likelihood))
        if likelihood[at] + cost > sum(logs[i] for i in which):
            touched += 1
            for i, row in zip(which, rows, strict=True):
                logs[i] = float(row[at])
            answered.update(which)
    return sum(logs) + cost * max(1, touched)


@lru_cache(maxsize=4096)
def _own_log(e: Evidence) -> NDArray[np.float64]:
    """Log-probability of what a check shows under faults of each size in its own quantity."""
    fire, calm = _response(e, 1.0)
    if not e.fired:
        between = np.maximum(1.0 - fire - calm, FALSE_UNEASE)
        return np.asarray(np.log(calm if e.calm else between))
    return np.asarray(np.log(_sized(e, fire, 1.0, upper=True)))


@lru_cache(maxsize=4096)
def _coupled_log(e: Evidence, gain: float) -> NDArray[np.float64]:
    """The same for faults that reach it with at most `gain`: calm says nothing, an alarm or unease may come from it."""
    fire, _ = _response(e, gain)
    likely = _sized(e, fire, gain) if e.fired else np.minimum(0.0 if e.calm else 0.5, fire)
    return np.asarray(np.log(np.maximum(likely, FALSE_ALARM)))


def _sized(e: Evidence, fire: NDArray[np.float64], gain: float, upper: bool = False) -> NDArray[np.float64]:
    """Probability of an alarm that says what this one says; `upper`: also too large a size does not fit."""
    says, sd = (
        (e.sizes, SIZE_SD_OF.get(e.quantity, SIZE_SD))
        if e.sizes
        else ((FOUND_SHARE * e.power, e.share * e.power), SHARE_SD)
    )
    if not (0 < says[0] <= says[1] < math.inf):
        return fire
    off = np.log(says[0] / (gain * GRID))
    if upper:
        off = np.maximum(off, np.log(gain * GRID / says[1]))
    return np.asarray(fire * np.exp(-0.5 * np.clip(off / sd, 0.0, 4.0) ** 2))


def _response(e: Evidence, gain: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probability that a check has fired, and that it is still calm, under faults of each size."""
    if not math.isfinite(e.power) or e.power <= 0:
        blind = np.full(len(GRID), 0.5)
        return blind, blind
    had = min(1.0, max(0.0, e.age_s - DEAD_S) / HORIZON_S)
    u = gain * GRID / e.power * (POWER_DOUBT if e.fired else had / POWER_DOUBT)
    raised, half = u**STEEPNESS, (u / CALM_SHARE) ** STEEPNESS
    fire, calm = raised / (1.0 + raised), 1.0 / (1.0 + half)
    return (
        FALSE_ALARM + (1.0 - FALSE_ALARM - MODEL_ERROR) * fire,
        MODEL_ERROR + (1.0 - MODEL_ERROR) * calm,
    )


@dataclass(slots=True)
class _Latch:
    """What one cross-check has shown lately."""

    uneasy_ns: int | None = None
    fired_ns: int | None = None
    share: float = 0.0
    sizes: tuple[float, float] | None = None
    power: float = math.inf
    quantity: str = ""
    unit: str = ""


class Attributor:
    """Turns each tick's results into an `Attribution`; keeps what fired lately and since when."""

    def __init__(self) -> None:
        self._latches: dict[tuple[str, tuple[str, ...]], _Latch] = {}
        self._since_ns: dict[str, int] = {}

    def update(
        self, stamp_ns: int, results: Sequence[CheckResult], rejected: frozenset[str] = frozenset()
    ) -> Attribution:
        """Attribute one tick. The order of `results` does not matter.

        rejected: sensors already rejected; they are likely to be what is wrong now, and what they agree with vouches
        for little.
        """
        by_self = {r.sensors[0]: r.check for r in results if r.level is Level.ANOMALY and len(r.sensors) == 1}
        crossing = [r for r in results if len(r.sensors) > 1]
        evidence = [self._weigh(stamp_ns, r) for r in crossing]
        observable = frozenset(s for r in crossing if r.level is not Level.NOT_OBSERVABLE for s in r.sensors)
        odds = dict.fromkeys(rejected, REJECTED_ODDS) | dict.fromkeys(by_self, SELF_NAMED_ODDS)
        named, cases, suspects, marginal = dict(by_self), {}, set[str](), dict[str, float]()
        seen = [e for e in evidence if e is not None]
        accused: set[str] = set()
        for case in _connected([e for e in seen if e.fired]):
            members = frozenset(s for e in case for s in e.sensors)
            accused |= members
            age_s = self._age_s(stamp_ns, case)
            about = sorted(
                (_rounded(e, age_s) for e in seen if members & set(e.sensors)), key=lambda e: (e.check, e.sensors)
            )
            belief, share = _shares(about, members, odds)
            if members & rejected:
                # Integrals (a heading, a displacement) remember a fault that is over: a sensor that is already rejected
                # explains every disagreement it takes part in, and nobody else is judged by those.
                left = [e for e in about if not (e.fired and rejected & set(e.sensors))]
                others = members - rejected
                fresh = _shares(left, others, odds)[1] if any(e.fired for e in left) else dict.fromkeys(others, 0.0)
                share |= {s: fresh[s] for s in others}
            marginal |= share
            several = len(_reachable(members, seen)) >= MIN_SOURCES
            sure = {s for s in members if share[s] > NAME_ABOVE and (several or s in rejected)}
            for s in sure - set(by_self):
                named[s], cases[s] = case[0].check, members
            chance = belief[frozenset()]
            if not sure or sum(p for faulty, p in belief.items() if not faulty <= sure) > 1.0 - NAME_ABOVE + chance:
                suspects |= {s for s in members if share[s] > SUSPECT_ABOVE * max(1.0 - chance, 1e-9)}
        found = Attribution(
            named=named,
            suspects=frozenset(suspects - set(named)),
            exonerated=frozenset({s for r in crossing if _agrees(r) for s in r.sensors} - accused - set(named)),
            observable=observable,
            cases=cases,
            passed=_passed(results),
            cleared=frozenset(accused - suspects - set(named)) if named else frozenset(),
            posterior=marginal,
        )
        return self._confirmed(stamp_ns, found, rejected)

    def _weigh(self, stamp_ns: int, r: CheckResult) -> Evidence | None:
        latch = self._latches.setdefault((r.check, r.sensors), _Latch())
        share = r.statistic / r.threshold if r.threshold > 0 else 2.0 * float(r.level is Level.ANOMALY)
        power, unit = canonical(r.power, r.power_unit)
        if r.level is Level.ANOMALY:
            new = latch.fired_ns is None or stamp_ns - latch.fired_ns > LATCH_S * NS_PER_S
            latch.fired_ns = stamp_ns
            size = None if r.size is None else canonical(r.size, r.power_unit)[0]
            # A statistic ebbs after the fault is gone; what it was about is what it said before.
            if new or size is None or latch.sizes is None:
                latch.sizes = None if size is None else (size, size)
            else:
                latch.sizes = (latch.sizes[0], max(latch.sizes[1], size))
            if new or share >= latch.share:
                latch.share, latch.power = max(share, 1.0 + 1e-9), power
            # What it is about may become clearer while it lasts; once it is over, that stands.
            latch.quantity, latch.unit = r.quantity, unit
        if share > CALM_SHARE or r.level is Level.ANOMALY:
            latch.uneasy_ns = stamp_ns if latch.uneasy_ns is None else latch.uneasy_ns
        elif latch.fired_ns is None or stamp_ns - latch.fired_ns > LATCH_S * NS_PER_S:
            latch.uneasy_ns = None
        if latch.fired_ns is not None and stamp_ns - latch.fired_ns <= LATCH_S * NS_PER_S:
            return Evidence(r.check, r.sensors, latch.quantity, latch.unit, latch.share, latch.power, latch.sizes)
        if r.level is Level.NOT_OBSERVABLE or not math.isfinite(power):
            return None
        return Evidence(r.check, r.sensors, r.quantity, unit, share, power)

    def _age_s(self, stamp_ns: int, case: Sequence[Evidence]) -> float:
        onsets = [self._latches[(e.check, e.sensors)].uneasy_ns for e in case]
        return max((stamp_ns - o) / NS_PER_S for o in onsets if o is not None)

    def _confirmed(self, stamp_ns: int, found: Attribution, rejected: frozenset[str]) -> Attribution:
        """Let a name by cross-evidence through only after `CONFIRM_S`; until then its whole set is suspect."""
        self._since_ns = {s: self._since_ns.get(s, stamp_ns) for s in found.cases}
        young = {
            s for s, since in self._since_ns.items() if stamp_ns - since < CONFIRM_S * NS_PER_S and s not in rejected
        }
        if not young:
            return found
        named = {s: check for s, check in found.named.items() if s not in young}
        spread = frozenset().union(*(found.cases[s] for s in young))
        suspects = (found.suspects | spread) - set(named)
        return Attribution(
            named=named,
            suspects=frozenset(suspects),
            exonerated=found.exonerated - suspects,
            observable=found.observable,
            cases={s: members for s, members in found.cases.items() if s not in young},
            passed=found.passed,
            cleared=found.cleared - suspects,
            posterior=found.posterior,
        )


def _shares(
    about: Sequence[Evidence], members: frozenset[str], odds: Mapping[str, float]
) -> tuple[Mapping[frozenset[str], float], dict[str, float]]:
    """The posterior, and each member's share of it."""
    belief = posterior(tuple(about), tuple((s, odds.get(s, FAULT_ODDS)) for s in sorted(members)))
    return belief, {s: sum(p for faulty, p in belief.items() if s in faulty) for s in members}


def _rounded(e: Evidence, age_s: float) -> Evidence:
    share = _step(e.share) if e.fired else CALM_SHARE if e.calm else 1.0
    sizes = None if e.sizes is None else (_step(e.sizes[0]), _step(e.sizes[1]))
    age_s = round(min(age_s, HORIZON_S + DEAD_S), 1)
    return Evidence(e.check, e.sensors, e.quantity, e.unit, share, _step(e.power), sizes, age_s)


def _step(value: float) -> float:
    if not 0.0 < value < math.inf:
        return value
    return math.exp(math.ceil(math.log(value) / STEP) * STEP)


def _agrees(result: CheckResult) -> bool:
    calm = result.statistic <= CALM_SHARE * result.threshold
    return result.level is Level.OK and math.isfinite(result.power) and calm


def _passed(results: Sequence[CheckResult]) -> dict[str, frozenset[str]]:
    passed: dict[str, frozenset[str]] = {}
    for r in results:
        if len(r.sensors) == 1 and r.level is Level.OK:
            passed[r.sensors[0]] = passed.get(r.sensors[0], frozenset()) | {r.check}
    return passed


def _connected(cases: Sequence[Evidence]) -> list[list[Evidence]]:
    """Group disagreements that share a sensor: one culprit may explain a group."""
    groups: list[tuple[set[str], list[Evidence]]] = []
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


def _reachable(members: frozenset[str], seen: Sequence[Evidence]) -> frozenset[str]:
    """Sensors that checks connect with the accused ones, them included."""
    reached = set(members)
    grown = True
    while grown:
        size = len(reached)
        for e in seen:
            if reached & set(e.sensors):
                reached |= set(e.sensors)
        grown = len(reached) > size
    return frozenset(reached)
