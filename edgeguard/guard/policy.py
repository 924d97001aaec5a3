"""`Guard`: evidence of one tick -> PASS, DEGRADE, HOLD or STOP.

- The demand of a tick is the strictest of all its reasons; more evidence never makes it milder.
- Strictness rises at once. It falls only after `relax_after_clean_ticks` ticks in a row that demand less, and then to
  the strictest of what those ticks demanded.
- A frame that the gate in front of the model takes for manipulated demands DEGRADE, or HOLD where no answer leaves.
- HOLD that lasts becomes STOP: who cannot see must not wait forever for somebody else to notice.
- An integrity failure is STOP until a new `Guard` is made: what was tampered with does not heal by itself.
- A sample that a recording lacks (`tick.recording_gap`) is a fact about the file and never a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeguard.config import GuardPolicy
from edgeguard.types import (
    CAMERA,
    GNSS,
    LIDAR,
    WHEELS,
    CheckResult,
    FusedState,
    InputEvidence,
    Level,
    SensorTrust,
    StreamHealth,
    SyncedSet,
    Tick,
    TrustState,
    Verdict,
)

# What a road rig needs: one sensor that sees the scene, and one that fixes range or position. An IMU alone drifts
# by metres within seconds and does not count.
PERCEPTION = (CAMERA, LIDAR)
POSITIONING = (LIDAR, GNSS, WHEELS)

# A sensor is silent when it misses this many periods in a row, but never sooner than half a second: one lost sample
# is jitter, and fast sensors come in bursts over USB.
SILENT_PERIODS = 5
SILENT_MIN_NS = 500_000_000

# CheckResult.quantity of checks that judge our own code, model or log rather than a sensor.
INTEGRITY = "integrity"

MAX_NAMED = 6  # sensors a reason lists before it only counts

_RANK = {verdict: rank for rank, verdict in enumerate(Verdict)}


class Guard:
    """The state machine. Feed every tick, in order, exactly once.

    Args:
        policy: when to relax and when HOLD becomes STOP.
        require_model: STOP while no verified model is loaded; for devices whose product is the model's answer.
    """

    def __init__(self, policy: GuardPolicy, *, require_model: bool = False) -> None:
        self._policy = policy
        self._require_model = require_model
        self._verdict = Verdict.PASS
        self._clean_ticks = 0
        self._relax_to = Verdict.PASS
        self._last_reason = ""
        self._held_ticks = 0
        self._integrity = ""
        self._known_since_ns: dict[str, int] = {}

    @property
    def verdict(self) -> Verdict:
        """The verdict of the last tick."""
        return self._verdict

    def latch_stop(self, reason: str) -> None:
        """Stop for good: a part that is not a sensor (model, log, key) has failed its integrity check."""
        self._integrity = self._integrity or reason

    def decide(
        self,
        synced: SyncedSet,
        results: Sequence[CheckResult],
        fused: FusedState,
        model_loaded: bool,
        inputs: InputEvidence | None = None,
    ) -> tuple[Verdict, str]:
        """Return the verdict that holds at this tick, and why, naming the sensors. inputs: of the gate, where asked."""
        for result in results:
            if result.quantity == INTEGRITY and result.level is Level.ANOMALY:
                self.latch_stop(f"{result.check} failed: {result.reason or 'integrity'}")
        demanded, reason = self._demand(synced, results, fused, model_loaded)
        if inputs is not None and inputs.alarm:
            asked, why = _about_inputs(inputs)
            if _RANK[asked] > _RANK[demanded]:
                demanded, reason = asked, why
        if demanded is Verdict.HOLD and self._held_ticks >= self._policy.stop_after_hold_ticks:
            demanded, reason = Verdict.STOP, f"held for {self._held_ticks} ticks: {reason}"
        verdict, reason = self._move(demanded, reason)
        # Counted by what was issued: evidence that flickers keeps the verdict at HOLD and must not reset the limit.
        self._held_ticks = self._held_ticks + 1 if _RANK[verdict] >= _RANK[Verdict.HOLD] else 0
        return verdict, reason

    def _demand(
        self, synced: SyncedSet, results: Sequence[CheckResult], fused: FusedState, model_loaded: bool
    ) -> tuple[Verdict, str]:
        """What this tick's evidence alone asks for."""
        if self._integrity:
            return Verdict.STOP, self._integrity
        if self._require_model and not model_loaded:
            return Verdict.STOP, "no verified model is loaded"
        if not fused.trust:
            return Verdict.HOLD, "no sensor is known to fusion"
        faults = self._faults(synced, fused.trust)
        usable = [sensor for sensor in fused.trust if sensor not in faults]
        missing = self._missing_function(fused.trust, usable)
        if not faults:
            return Verdict.PASS, "all sensors trusted"
        named = _name(faults, results)
        return (Verdict.HOLD, f"{missing}: {named}") if missing else (Verdict.DEGRADE, named)

    def _faults(self, synced: SyncedSet, trust: Mapping[str, SensorTrust]) -> dict[str, str]:
        """Sensor -> what is wrong with it, for every sensor that must not be relied on now."""
        faults: dict[str, str] = {}
        for sensor, belief in trust.items():
            if belief.state is not TrustState.TRUSTED:
                faults[sensor] = belief.state.value
            elif self._is_silent(sensor, synced.tick, synced.health.get(sensor)):
                faults[sensor] = "SILENT"
        return faults

    def _is_silent(self, sensor: str, tick: Tick, health: StreamHealth | None) -> bool:
        """Whether nothing came for too long, counted from the last moment at which that says anything."""
        if tick.discontinuity or sensor in tick.recording_gap or sensor not in self._known_since_ns:
            self._known_since_ns[sensor] = tick.stamp_ns
        if health is None:
            return False
        waited_ns = tick.stamp_ns - self._known_since_ns[sensor]
        age_ns = waited_ns if health.age_ns is None else min(health.age_ns, waited_ns)
        return age_ns > max(SILENT_PERIODS * health.period_ns, SILENT_MIN_NS)

    def _missing_function(self, trust: Mapping[str, SensorTrust], usable: Sequence[str]) -> str:
        """Which required function nobody is left to fill; empty when all are. What a rig never had is not missed."""
        if not usable:
            return "no sensor left"
        if not _covers(PERCEPTION, trust, usable, 1):
            return "nothing sees the scene"
        if not _covers(POSITIONING, trust, usable, self._policy.min_trusted_positioning):
            return "too few sensors for range and position"
        return ""

    def _move(self, demanded: Verdict, reason: str) -> tuple[Verdict, str]:
        """Rise at once, fall after enough clean ticks."""
        if _RANK[demanded] >= _RANK[self._verdict]:
            self._verdict, self._clean_ticks, self._relax_to = demanded, 0, Verdict.PASS
            self._last_reason = reason
            return demanded, reason
        self._clean_ticks += 1
        self._relax_to = max(self._relax_to, demanded, key=_RANK.__getitem__)
        if self._clean_ticks < self._policy.relax_after_clean_ticks:
            left = self._policy.relax_after_clean_ticks - self._clean_ticks
            return self._verdict, f"relaxing in {left} clean ticks after {self._last_reason}"
        self._verdict, self._clean_ticks, self._relax_to = self._relax_to, 0, Verdict.PASS
        self._last_reason = reason
        return self._verdict, reason


def _about_inputs(inputs: InputEvidence) -> tuple[Verdict, str]:
    """A suspicious frame accuses no sensor: the scene itself may be what was made to deceive."""
    found = f"the frame looks manipulated (p {inputs.p_value:.2g}, level {inputs.level:.2g})"
    if inputs.refused:
        return Verdict.HOLD, f"{found}: no answer released"
    return Verdict.DEGRADE, f"{found}: answer from restored views"


def _covers(needed: Sequence[str], rig: Mapping[str, SensorTrust], usable: Sequence[str], minimum: int) -> bool:
    present = sum(sensor in rig for sensor in needed)
    return sum(sensor in usable for sensor in needed) >= min(minimum, present)


def _name(faults: Mapping[str, str], results: Sequence[CheckResult]) -> str:
    """Say who is at fault, each with the strongest check against it."""
    parts = []
    for sensor, fault in sorted(faults.items())[:MAX_NAMED]:
        against = [r for r in results if r.level is Level.ANOMALY and sensor in r.sensors]
        worst = max(against, key=_excess, default=None)
        parts.append(f"{sensor} {fault}" + (f" ({worst.check})" if worst is not None else ""))
    more = len(faults) - len(parts)
    return ", ".join(parts) + (f" and {more} more" if more else "")


def _excess(result: CheckResult) -> float:
    return result.statistic / result.threshold if result.threshold > 0 else float("inf")
