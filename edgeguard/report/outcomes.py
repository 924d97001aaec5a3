"""What became of each attack, and whether clean time was blamed. Pure functions over the trust of every tick.

A sensor is *blamed* while its trust is not TRUSTED. A *blame* begins at the tick at which that becomes so, or at which
SUSPECT becomes REJECTED.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgeguard.types import TrustState, Truth, Verdict

GRACE_S = 1.0  # evidence that builds up until the attack's last moment may still be acted on

_STRICTNESS = {TrustState.TRUSTED: 0, TrustState.SUSPECT: 1, TrustState.REJECTED: 2}
_VERDICTS = list(Verdict)


@dataclass(frozen=True, slots=True)
class TickTrust:
    """Verdict and trust at one tick."""

    time_s: float
    verdict: Verdict
    trust: Mapping[str, TrustState]
    discontinuity: bool = False


@dataclass(frozen=True, slots=True)
class Blame:
    """A sensor lost trust at a moment."""

    time_s: float
    sensor: str
    state: str


@dataclass(frozen=True, slots=True)
class AttackOutcome:
    """One attack and the answer to it.

    detected: trust in the attacked sensor fell during the attack or within `GRACE_S` after it. delay_s: from the
    attack's start to then. blamed: every sensor that lost trust in that time, strictest first. named: the strictest of
    them. readmitted_s: how long after the end the attacked sensor was trusted again, None when the run ended before or
    it was never blamed. already_blamed: the sensor was out before the attack began, so that there was nothing left to
    detect.
    """

    attack: str
    sensor: str
    size: str
    start_s: float
    end_s: float
    detected: bool
    delay_s: float | None
    blamed: tuple[str, ...]
    named: tuple[str, ...]
    named_state: str
    already_blamed: bool
    readmitted_s: float | None
    worst_verdict: str

    @property
    def named_correctly(self) -> bool:
        """The attacked sensor is among the strictest blamed, and is the only one when somebody was rejected."""
        return self.named == (self.sensor,) if self.named_state == "REJECTED" else self.sensor in self.named


@dataclass(frozen=True, slots=True)
class CleanTime:
    """Time outside attacks, how much of it some sensor was blamed, and where those blames began."""

    clean_s: float
    blamed_s: float
    blames: tuple[Blame, ...]


def find_blames(ticks: Sequence[TickTrust]) -> Iterator[Blame]:
    """Yield every fall in trust, in order."""
    before: dict[str, int] = {}
    for tick in ticks:
        for sensor, state in tick.trust.items():
            if _STRICTNESS[state] > before.get(sensor, 0):
                yield Blame(tick.time_s, sensor, state.value)
            before[sensor] = _STRICTNESS[state]


def judge_attacks(
    ticks: Sequence[TickTrust], windows: Sequence[tuple[Truth, float, float]]
) -> tuple[AttackOutcome, ...]:
    """Return one outcome per attack. windows: (truth, start_s, end_s) in the ticks' seconds."""
    blames = list(find_blames(ticks))
    return tuple(_judge(ticks, blames, *window) for window in sorted(windows, key=lambda w: (w[1], w[0].attack)))


def _judge(
    ticks: Sequence[TickTrust], blames: Sequence[Blame], truth: Truth, start_s: float, end_s: float
) -> AttackOutcome:
    within = [b for b in blames if start_s <= b.time_s <= end_s + GRACE_S]
    own = [b for b in within if b.sensor == truth.sensor]
    strictest = {b.sensor: b.state for b in within}  # a sensor's later blame is its stricter one, or a new one
    blamed = sorted(strictest, key=lambda sensor: (strictest[sensor] != "REJECTED", sensor != truth.sensor, sensor))
    state = strictest[blamed[0]] if blamed else ""
    before = [t for t in ticks if t.time_s < start_s]
    during = [t.verdict for t in ticks if start_s <= t.time_s <= end_s + GRACE_S]
    last_state = before[-1].trust.get(truth.sensor, TrustState.TRUSTED) if before else TrustState.TRUSTED
    return AttackOutcome(
        attack=truth.attack,
        sensor=truth.sensor,
        size=truth.size,
        start_s=start_s,
        end_s=end_s,
        detected=bool(own),
        delay_s=round(own[0].time_s - start_s, 6) if own else None,
        blamed=tuple(blamed),
        named=tuple(sensor for sensor in blamed if strictest[sensor] == state),
        named_state=state,
        already_blamed=last_state is not TrustState.TRUSTED,
        readmitted_s=_readmission(ticks, truth.sensor, end_s) if own else None,
        worst_verdict=max(during, key=_VERDICTS.index).value if during else "",
    )


def _readmission(ticks: Sequence[TickTrust], sensor: str, end_s: float) -> float | None:
    trusted = (t.time_s for t in ticks if t.time_s >= end_s and t.trust.get(sensor) is TrustState.TRUSTED)
    first_s = next(trusted, None)
    return None if first_s is None else round(first_s - end_s, 6)


def judge_clean_time(
    ticks: Sequence[TickTrust], ends_s: Sequence[float], attacks: Sequence[AttackOutcome], recovery_s: float
) -> CleanTime:
    """Add up the time outside attacks in which a sensor was blamed without excuse.

    A blame that began during an attack (or within `GRACE_S` after it) is excused until `recovery_s` after that attack;
    a blame that began in clean time is never excused.
    """
    clean_s = blamed_s = 0.0
    began: dict[str, float] = {}
    counted: dict[tuple[str, float], Blame] = {}
    for tick, end_s in zip(ticks, ends_s, strict=True):
        for sensor, state in tick.trust.items():
            if state is TrustState.TRUSTED:
                began.pop(sensor, None)
            else:
                began.setdefault(sensor, tick.time_s)
        if any(a.start_s <= tick.time_s <= a.end_s for a in attacks):
            continue
        clean_s += end_s - tick.time_s
        unexcused = {s: at for s, at in began.items() if not _is_excused(tick.time_s, at, attacks, recovery_s)}
        if unexcused:
            blamed_s += end_s - tick.time_s
            for sensor, at in unexcused.items():
                counted.setdefault((sensor, at), Blame(at, sensor, tick.trust[sensor].value))
    return CleanTime(round(clean_s, 3), round(blamed_s, 3), tuple(counted.values()))


def _is_excused(now_s: float, began_s: float, attacks: Sequence[AttackOutcome], recovery_s: float) -> bool:
    return any(
        a.start_s <= began_s <= a.end_s + GRACE_S and a.start_s <= now_s <= a.end_s + max(recovery_s, GRACE_S)
        for a in attacks
    )
