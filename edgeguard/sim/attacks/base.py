"""What an attack is: a frozen description that maps samples to samples, and the injector that applies a set of them.

Attacks work on values (`edgeguard.types`), so the same objects run on simulated sensors and on recordings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgeguard.clock import NS_PER_S
from edgeguard.types import Sample, Truth


@dataclass(frozen=True, slots=True)
class Moment:
    """What an attack gets beside the sample.

    elapsed_s: time since the attack's own start. rng: drawn from (seed, attack, stamp), so that a sample's fate does
    not depend on which others were asked for. held: the last genuine sample of the target before the attack began.
    """

    elapsed_s: float
    rng: np.random.Generator
    held: Sample | None


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


class Injector:
    """Applies attacks to samples by their stamps.

    Args:
        attacks: applied in order. seed: of all their randomness. origin_ns: stamp of the start of the drive.
    """

    def __init__(self, attacks: Sequence[Attack], seed: int, origin_ns: int = 0) -> None:
        self._attacks = tuple(attacks)
        self._seed, self._origin_ns = seed, origin_ns
        self._held: dict[int, Sample] = {}

    @property
    def truths(self) -> tuple[Truth, ...]:
        """Ground truth: when which sensor was attacked, by what, how strongly."""
        return tuple(
            Truth(a.name, a.sensor, self._stamp(a.start_s), self._stamp(a.end_s), a.size) for a in self._attacks
        )

    def apply(self, sample: Sample) -> Sample | None:
        """Return the sample as attacked, the very same object when no attack touches it, or None when it is lost.

        Feed the samples of a sensor in order: a freeze repeats the last one from before it began.
        """
        genuine, current = sample, sample
        for index, attack in enumerate(self._attacks):
            if attack.sensor != genuine.sensor:
                continue
            start_ns = self._stamp(attack.start_s)
            if genuine.stamp_ns < start_ns:
                self._held[index] = genuine
            elif genuine.stamp_ns < self._stamp(attack.end_s):
                key = np.random.SeedSequence([self._seed, index, max(0, genuine.stamp_ns - self._origin_ns)])
                rng = np.random.Generator(np.random.Philox(key))
                moment = Moment((genuine.stamp_ns - start_ns) / NS_PER_S, rng, self._held.get(index))
                changed = attack.apply(current, moment)
                if changed is None:
                    return None
                current = changed
        return current

    def _stamp(self, time_s: float) -> int:
        return self._origin_ns + round(time_s * NS_PER_S)
