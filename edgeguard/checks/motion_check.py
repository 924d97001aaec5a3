"""What every motion check has in common: history, three-valued result, suspicion, gaps of the recording."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from edgeguard.checks.motion_drift import DriftMonitor
from edgeguard.checks.motion_onset import OnsetScan
from edgeguard.checks.motion_statistics import ResidualMonitor
from edgeguard.types import CheckResult, Level

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeguard.checks.motion_history import MotionHistory
    from edgeguard.checks.scores import ScoreMonitor
    from edgeguard.types import SyncedSet

Monitor = ResidualMonitor | DriftMonitor | OnsetScan

# Without a new residual for this long a check has no evidence.
STALE_S = 1.0


class MotionCheck(ABC):
    """A cross-check (or GNSS self-check) that turns residuals into one result per tick.

    Subclasses push residuals in `_observe` and set `self._dead_band` (residual unit), `self._moving` (is there any
    excitation) and `self._to_power` (factor from residual unit to `power_unit`). The statistic is the share of the
    threshold reached, so the threshold is 1.
    """

    name: str
    quantity: ClassVar[str]
    power_unit: ClassVar[str]
    # An OK with less power than this would claim more than the check can see.
    power_limit: ClassVar[float]
    still_reason: ClassVar[str] = "no motion: a dead sensor would read the same"

    def __init__(self, sensors: tuple[str, ...], history: MotionHistory, residuals: Mapping[str, Monitor]) -> None:
        self.sensors = sensors
        self.history = history
        self.residuals = dict(residuals)
        for part, monitor in self.residuals.items():
            monitor.name = f"{self.name}.{part.replace(' ', '_')}"
            monitor.scale = history.scale_of(monitor.name)
        self._dead_bands = dict.fromkeys(self.residuals, math.inf)
        self._to_power = dict.fromkeys(self.residuals, 1.0)
        self._moving = False
        self._last_s = -math.inf

    @property
    def monitors(self) -> tuple[ScoreMonitor, ...]:
        """What a calibration of this rig listens to and fits."""
        drifts = (m for m in self.residuals.values() if isinstance(m, DriftMonitor))
        return tuple(m.record for m in drifts if m.record is not None)

    @property
    def statistics(self) -> tuple[Monitor, ...]:
        """What the alarm rate of the whole system is shared among."""
        return tuple(self.residuals.values())

    @abstractmethod
    def _observe(self) -> None:
        """Push what is new into the monitors."""

    def _push(
        self,
        monitor: str,
        t: float,
        residual: float,
        dead_band: float,
        to_power: float = 1.0,
        *,
        lesson: tuple[float, ...] | None = None,
        speed_m_s: float | None = None,
    ) -> None:
        into = self.residuals[monitor]
        if isinstance(into, DriftMonitor):
            into.push(t, residual, dead_band, lesson, speed_m_s)
        elif isinstance(into, ResidualMonitor):
            into.push(t, residual, dead_band)
        self._dead_bands[monitor] = dead_band
        self._to_power[monitor] = to_power
        self._last_s = self.history.now_s

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        self.history.advance(synced)
        if synced.tick.discontinuity:
            self._restart()
        absent = [s for s in self.sensors if s in synced.tick.recording_gap]
        if absent:
            self._restart()
            return self._result(Level.NOT_OBSERVABLE, 0.0, math.inf, f"the recording has no {absent[0]} here")
        self._observe()
        now_s = self.history.now_s
        # Residual time lags now by the receiver's latency; an alarm is held on the same axis as it was raised.
        worst, statistic = "", -1.0
        for part, monitor in self.residuals.items():
            share = monitor.statistic(now_s)
            # By the share of the shipped threshold: what is learned does not depend on the rate that was asked for.
            shipped = share * monitor.scale
            self.history.suspect(max(shipped, 1.0) if share > 1.0 else shipped, monitor.wariness)
            if share > statistic:
                worst, statistic = part, share
        if statistic > 1.0 and now_s - self._last_s <= STALE_S:
            power = self._power()
            size = self.residuals[worst].size * self._to_size(worst)
            found = self._result(Level.ANOMALY, statistic, power, self._describe(worst), size)
            about = self._about(worst)
            return found if about == self.quantity else replace(found, quantity=about)
        if now_s - self._last_s > STALE_S:
            return self._result(Level.NOT_OBSERVABLE, 0.0, math.inf, "no comparable samples")
        power = self._power()
        if not self._moving:
            return self._result(Level.NOT_OBSERVABLE, statistic, math.inf, self.still_reason)
        if power > self.power_limit:
            return self._result(Level.NOT_OBSERVABLE, statistic, power, "still calibrating, or noise hides too much")
        return self._result(Level.OK, statistic, power, "")

    def _power(self) -> float:
        return min(m.power(self._dead_bands[k]) * self._to_power[k] for k, m in self.residuals.items())

    def _to_size(self, worst: str) -> float:
        """Factor from residual unit to `power_unit` for what an anomaly is about."""
        return self._to_power[worst]

    def _about(self, worst: str) -> str:  # noqa: ARG002
        """The quantity of an anomaly, where its course in time says more than the check's own name for it."""
        return self.quantity

    def _describe(self, worst: str) -> str:
        return f"{' and '.join(self.sensors)} disagree on {self.quantity} ({worst})"

    def _restart(self) -> None:
        for monitor in self.residuals.values():
            monitor.restart()
        self._moving = False
        self._last_s = -math.inf

    def _result(
        self, level: Level, statistic: float, power: float, reason: str, size: float | None = None
    ) -> CheckResult:
        return CheckResult(
            check=self.name,
            sensors=self.sensors,
            level=level,
            statistic=statistic,
            threshold=1.0,
            power=power,
            power_unit=self.power_unit,
            quantity=self.quantity,
            reason=reason,
            size=size,
        )
