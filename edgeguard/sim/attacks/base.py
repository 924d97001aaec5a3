"""What an attack is: a frozen description that maps samples to samples, and the injector that applies a set of them.

Attacks work on values (`edgeguard.types`) and, on a wire, on bytes, so the same objects run on simulated sensors and
on recordings. An attack has three places to act, each optional: `apply` changes what was measured, `forge` adds what
a second transmitter says, `route` decides when which payload arrives, how often, and whole or damaged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Protocol, TypeAlias

import msgspec
import numpy as np

from edgeguard.clock import NS_PER_S
from edgeguard.types import Sample, Truth

MAX_REMEMBERED = 4096  # samples an attack may keep: 40 s of an IMU
_ROUTE, _FORGE = 1, 2  # keep the random streams of the three places apart

Start = Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0, description="when it begins, from the start of the drive")]
End = Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0, description="when it ends, exclusive")]
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]


@dataclass(frozen=True, slots=True)
class Damaged:
    """In place of a payload: something arrived that its checksum or decoder refuses."""


DAMAGED: Final = Damaged()
Payload: TypeAlias = Sample | bytes | Damaged


@dataclass(frozen=True, slots=True)
class Moment:
    """What an attack gets beside the sample.

    elapsed_s: time since the attack's own start. rng: drawn from (seed, attack, stamp), so that a sample's fate does
    not depend on which others were asked for. held: the last genuine sample of the target before the attack began,
    or the first one when there was none. past: genuine samples of the target, oldest first, as far back as the
    attack's `memory_s`. sent: payloads that went out before, likewise. steady: seed of what stays the same for the
    whole attack (where the dirt sits). stamp_ns: of the sample.
    """

    elapsed_s: float
    rng: np.random.Generator
    held: Sample | None
    past: Sequence[Sample] = ()
    sent: Sequence[tuple[int, Payload]] = ()
    steady: tuple[int, ...] = (0,)
    stamp_ns: int = 0

    def steady_rng(self) -> np.random.Generator:
        """Return a generator that begins anew, and alike, for every sample of the attack."""
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(list(self.steady))))


class Attack(Protocol):
    """One attack or fault. `start_s` and `end_s` count from the start of the drive; the end is exclusive."""

    @property
    def name(self) -> str: ...

    @property
    def sensor(self) -> str: ...

    @property
    def start_s(self) -> float: ...

    @property
    def end_s(self) -> float: ...

    @property
    def size(self) -> str:
        """How strong it is, for people: "1 m/s towards 90 deg"."""
        ...

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return what the victim receives instead of `sample`; None when nothing arrives."""
        ...


class AttackBase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all attacks of the library share; a subclass's tag is its name in scenarios.

    atlas: techniques of MITRE ATLAS. source: where its physics or its figures come from. knob: the parameter that is
    its size, for labels and sweeps; "" for one that is all or nothing.
    """

    atlas: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    knob: ClassVar[str] = ""
    memory_to_onset: ClassVar[bool] = False
    unplugs: ClassVar[bool] = False

    if TYPE_CHECKING:  # fields of every subclass, in an order of its own

        @property
        def sensor(self) -> str: ...

        @property
        def start_s(self) -> float: ...

        @property
        def end_s(self) -> float: ...

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)

    @property
    def size(self) -> str:
        """How strong it is, for people."""
        return f"{self.knob} = {getattr(self, self.knob):g}" if self.knob else "all or nothing"

    @property
    def memory_s(self) -> float:
        """How far back `moment.past` and `moment.sent` must reach; 0 for no memory."""
        return 0.0

    def amount(self, elapsed_s: float) -> float:
        """Return how strong it is `elapsed_s` after its start, in the unit of its knob; 1 without a knob."""
        del elapsed_s
        return float(getattr(self, self.knob)) if self.knob else 1.0

    def apply(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return what the victim measures instead; this attack acts elsewhere."""
        del moment
        return sample

    def forge(self, sample: Sample, moment: Moment) -> Sample | None:
        """Return what a second transmitter says beside `sample`, or None."""
        del sample, moment
        return None

    def route(self, item: Payload, at_ns: int, moment: Moment) -> list[tuple[Payload, int]]:
        """Return what arrives when instead of `item` at `at_ns`."""
        del moment
        return [(item, at_ns)]


@dataclass(frozen=True, slots=True)
class SampleTruth:
    """Ground truth of one sample: what was done to it by whom, and how strong that was then.

    effect: changed, lost, forged (added by a second transmitter) or rerouted (late, repeated, damaged). stamp_ns is
    the genuine sample's.
    """

    sensor: str
    stamp_ns: int
    attack: str
    effect: str
    amount: float


@dataclass(slots=True)
class _Memory:
    held: Sample | None = None
    past: deque[Sample] = field(default_factory=lambda: deque(maxlen=MAX_REMEMBERED))
    sent: deque[tuple[int, Payload]] = field(default_factory=lambda: deque(maxlen=MAX_REMEMBERED))


class Injector:
    """Applies attacks to samples by their stamps.

    Args:
        attacks: applied in order. seed: of all their randomness. origin_ns: stamp of the start of the drive.
    """

    def __init__(self, attacks: Sequence[Attack], seed: int, origin_ns: int = 0) -> None:
        self._attacks = tuple(attacks)
        self._seed, self._origin_ns = seed, origin_ns
        self._memory = [_Memory() for _ in self._attacks]
        self._labels: list[SampleTruth] = []

    @property
    def truths(self) -> tuple[Truth, ...]:
        """Ground truth: when which sensor was attacked, by what, how strongly."""
        return tuple(
            Truth(a.name, a.sensor, self._stamp(a.start_s), self._stamp(a.end_s), a.size) for a in self._attacks
        )

    @property
    def labels(self) -> tuple[SampleTruth, ...]:
        """Ground truth of every sample that an attack touched so far."""
        return tuple(self._labels)

    def unplugged(self, sensor: str, now_ns: int) -> bool:
        """Whether an attack has taken the device itself away by `now_ns`."""
        return any(
            getattr(a, "unplugs", False) and a.sensor == sensor and now_ns >= self._stamp(a.start_s)
            for a in self._attacks
        )

    def apply(self, sample: Sample) -> Sample | None:
        """Return the sample as attacked, the very same object when no attack touches it, or None when it is lost.

        Feed the samples of a sensor in order: a freeze repeats the last one from before it began. What attacks do to
        the delivery is `route`'s.
        """
        genuine, current = sample, sample
        for index, attack in enumerate(self._attacks):
            if attack.sensor != genuine.sensor:
                continue
            if not self._remember(index, attack, genuine):
                continue
            changed = attack.apply(current, self._moment(index, attack, genuine.stamp_ns))
            if changed is not current:
                self._label(attack, genuine.stamp_ns, "lost" if changed is None else "changed")
            if changed is None:
                return None
            current = changed
        return current

    def forged(self, sample: Sample) -> tuple[Sample, ...]:
        """Return what second transmitters add beside the genuine `sample`."""
        found: list[Sample] = []
        for index, attack in enumerate(self._attacks):
            if isinstance(attack, AttackBase) and self._acts(attack, sample.sensor, sample.stamp_ns):
                extra = attack.forge(sample, self._moment(index, attack, sample.stamp_ns, _FORGE))
                if extra is not None:
                    self._label(attack, sample.stamp_ns, "forged")
                    found.append(extra)
        return tuple(found)

    def route(self, sensor: str, stamp_ns: int, item: Payload, at_ns: int) -> list[tuple[Payload, int]]:
        """Return what arrives when instead of `item`, the payload of the sample taken at `stamp_ns`, at `at_ns`."""
        arrivals = [(item, at_ns)]
        for index, attack in enumerate(self._attacks):
            if not isinstance(attack, AttackBase) or attack.sensor != sensor:
                continue
            if self._acts(attack, sensor, stamp_ns):
                moment = self._moment(index, attack, stamp_ns, _ROUTE)
                before, arrivals = arrivals, [got for it, at in arrivals for got in attack.route(it, at, moment)]
                if before != arrivals:
                    self._label(attack, stamp_ns, "rerouted")
            if attack.memory_s > 0.0 and stamp_ns < self._stamp(attack.end_s):
                self._memory[index].sent.append((stamp_ns, item))
        return arrivals

    def deliver(self, sample: Sample, at_ns: int, forged_after_ns: int = 0) -> list[tuple[Payload, int]]:
        """Return what a reader of values gets when, for one genuine sample that would arrive at `at_ns`."""
        added = self.forged(sample)
        attacked = self.apply(sample)
        arrivals = [] if attacked is None else self.route(sample.sensor, sample.stamp_ns, attacked, at_ns)
        return [*arrivals, *((extra, at_ns + forged_after_ns) for extra in added)]

    # ---- bookkeeping -----------------------------------------------------------------------------------------

    def _remember(self, index: int, attack: Attack, genuine: Sample) -> bool:
        """Keep what the attack needs of a genuine sample; return whether the attack acts on it."""
        memory = self._memory[index]
        acts = self._acts(attack, genuine.sensor, genuine.stamp_ns)
        if genuine.stamp_ns < self._stamp(attack.start_s) or (acts and memory.held is None):
            memory.held = genuine
        reach_s: float = getattr(attack, "memory_s", 0.0)
        if reach_s > 0.0 and genuine.stamp_ns < self._stamp(attack.end_s):
            past = memory.past
            if not (acts and getattr(attack, "memory_to_onset", False)) or not past:
                past.append(genuine)
                while past and past[0].stamp_ns < genuine.stamp_ns - round(reach_s * NS_PER_S):
                    past.popleft()
        return acts

    def _acts(self, attack: Attack, sensor: str, stamp_ns: int) -> bool:
        return attack.sensor == sensor and self._stamp(attack.start_s) <= stamp_ns < self._stamp(attack.end_s)

    def _moment(self, index: int, attack: Attack, stamp_ns: int, place: int | None = None) -> Moment:
        key: list[Any] = [self._seed, index, max(0, stamp_ns - self._origin_ns)]
        sequence = np.random.SeedSequence(key if place is None else [*key, place])
        memory = self._memory[index]
        return Moment(
            (stamp_ns - self._stamp(attack.start_s)) / NS_PER_S,
            np.random.Generator(np.random.Philox(sequence)),
            memory.held,
            memory.past,
            memory.sent,
            (self._seed, index),
            stamp_ns,
        )

    def _label(self, attack: Attack, stamp_ns: int, effect: str) -> None:
        elapsed_s = (stamp_ns - self._stamp(attack.start_s)) / NS_PER_S
        amount = attack.amount(elapsed_s) if isinstance(attack, AttackBase) else 1.0
        self._labels.append(SampleTruth(attack.sensor, stamp_ns, attack.name, effect, amount))

    def _stamp(self, time_s: float) -> int:
        return self._origin_ns + round(time_s * NS_PER_S)
