"""Belief in each sensor: log-odds with decay, clamp, minimum hold and probation.

Nothing returns to trust because time has passed. PX4 resets to the measurement after 7 s and ArduPilot at a glitch
radius: there a patient attacker wins. Here only agreement that a check had the power to deny brings a sensor back,
slowly, by way of SUSPECT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeguard.clock import NS_PER_S
from edgeguard.types import SensorTrust, TrustState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeguard.fusion.decision import Attribution

# Natural-log odds. Clamped so that neither a long good past nor a long attack outweighs the next minute.
CLAMP = 5.0
START = 2.0
# States by log-odds, with hysteresis: falling below / rising above.
REJECT_BELOW = -2.0
SUSPECT_BELOW = 0.0
PROBATION_ABOVE = 0.0
TRUST_ABOVE = 2.0
# Evidence per second. The checks are sequential tests with their own delay: one of them naming a sensor is already
# strong, so rejection follows within 0.2 s at 10 Hz and recovery takes seconds.
NAMED_PER_S = -40.0
SUSPECTED_PER_S = -20.0
# A set never pushes a member below this: suspect, not rejected.
SUSPECT_FLOOR = -1.0
AGREED_PER_S = 1.0
# A member of a set whose culprit is found was never the reason: it returns as fast as its hold allows.
CLEARED_PER_S = 3.0
# Without evidence belief fades to "not known", from above only.
FADE_PER_S = 0.02
# A rejected sensor stays so for this long after the last accusation, a suspect for that long.
REJECTED_HOLD_S = 5.0
SUSPECT_HOLD_S = 2.0
# One tick never counts for more than this much time.
MAX_STEP_S = 0.5


@dataclass(slots=True)
class _Belief:
    log_odds: float = START
    state: TrustState = TrustState.TRUSTED
    accused_ns: int | None = None
    # The self-check that accused last, "" for cross-evidence: what speaks for the sensor must be able to deny that.
    accuser: str = ""
    # Was it ever more than a member of a set since it was last trusted?
    singled_out: bool = False


class TrustLedger:
    """Holds the belief in every sensor of a rig."""

    def __init__(self, sensors: Sequence[str]) -> None:
        self._beliefs = {sensor: _Belief() for sensor in sensors}
        self._last_ns: int | None = None

    def update(
        self, stamp_ns: int, attribution: Attribution, withheld: frozenset[str] = frozenset()
    ) -> Mapping[str, SensorTrust]:
        """Take one tick's attribution.

        `withheld`: sensors whose agreement does not count now, because they contradict the ego state.
        """
        dt = 0.1 if self._last_ns is None else (stamp_ns - self._last_ns) / NS_PER_S
        dt = min(max(dt, 0.0), MAX_STEP_S)
        self._last_ns = stamp_ns
        for sensor, belief in self._beliefs.items():
            self._weigh(belief, sensor, attribution, sensor in withheld, dt, stamp_ns)
            self._move(belief, stamp_ns)
        return {s: SensorTrust(s, b.state, b.log_odds) for s, b in self._beliefs.items()}

    def state(self, sensor: str) -> TrustState:
        """The sensor's state after the last update."""
        return self._beliefs[sensor].state

    @staticmethod
    def _weigh(belief: _Belief, sensor: str, found: Attribution, withheld: bool, dt: float, stamp_ns: int) -> None:
        if sensor in found.named:
            belief.log_odds += NAMED_PER_S * dt
            belief.accused_ns = stamp_ns
            belief.accuser = "" if sensor in found.cases else found.named[sensor]
            belief.singled_out = True
        elif sensor in found.suspects:
            # Never lifted by a set, never pushed below the floor by one.
            belief.log_odds = min(belief.log_odds, max(SUSPECT_FLOOR, belief.log_odds + SUSPECTED_PER_S * dt))
            belief.accused_ns = stamp_ns
            belief.accuser = ""
        elif not withheld and sensor in found.cleared and not belief.singled_out:
            belief.log_odds = max(belief.log_odds, min(belief.log_odds + CLEARED_PER_S * dt, TRUST_ABOVE + dt))
        elif not withheld and _spoken_for(belief, sensor, found):
            belief.log_odds += AGREED_PER_S * dt
        elif belief.log_odds > 0:
            # Fades towards "not known", and never out of trust by itself: silence is judged by T1, not here.
            belief.log_odds = max(min(belief.log_odds, TRUST_ABOVE), belief.log_odds - FADE_PER_S * dt)
        belief.log_odds = min(max(belief.log_odds, -CLAMP), CLAMP)

    @staticmethod
    def _move(belief: _Belief, stamp_ns: int) -> None:
        since_s = float("inf") if belief.accused_ns is None else (stamp_ns - belief.accused_ns) / NS_PER_S
        if belief.log_odds < REJECT_BELOW:
            belief.state = TrustState.REJECTED
        elif belief.state is TrustState.REJECTED:
            if belief.log_odds > PROBATION_ABOVE and since_s >= REJECTED_HOLD_S:
                belief.state = TrustState.SUSPECT
        elif belief.log_odds < SUSPECT_BELOW:
            belief.state = TrustState.SUSPECT
        elif belief.state is TrustState.SUSPECT and belief.log_odds > TRUST_ABOVE and since_s >= SUSPECT_HOLD_S:
            belief.state = TrustState.TRUSTED
            belief.singled_out = False


def _spoken_for(belief: _Belief, sensor: str, found: Attribution) -> bool:
    """Is there evidence for the sensor that could have been evidence against it?"""
    return sensor in found.exonerated or belief.accuser in found.passed.get(sensor, ())
