"""How many false alarms a test allows itself, and whether what was counted exceeds it by more than chance.

Alarms on clean drives are counted as a Poisson process (Garwood, "Fiducial limits for the Poisson distribution",
Biometrika 28, 1936): a budget is broken when its rate lies below the lower bound of what was measured. Few seconds
prove little, so the upper bound is told beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeguard.checks.quantiles import chi_square_quantile, poisson_upper
from edgeguard.errors import ScenarioError
from edgeguard.report.model import DEFAULT_RECOVERY_S

if TYPE_CHECKING:
    from edgeguard.report.model import Report

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """One false alarm: where, when, and whom or what it concerns."""

    drive: str
    time_s: float
    subject: str


@dataclass(frozen=True, slots=True)
class FalseAlarmBudget:
    """per_hour: alarms that are allowed. over_s: clean seconds that must be driven at least. check: count this check's
    alarms; "" counts sensors that are blamed. confidence: of the bounds.

    Raises:
        ScenarioError: EG-X027 for values that no budget can have.
    """

    per_hour: float
    over_s: float = 0.0
    check: str = ""
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not (self.per_hour >= 0.0 and self.over_s >= 0.0 and 0.5 <= self.confidence < 1.0):
            raise ScenarioError(
                "a budget needs per_hour and over_s of zero or more and a confidence in 0.5..1",
                code="EG-X027",
                hint="@pytest.mark.edgeguard_false_alarms(per_hour=6, over_s=300)",
            )


class Ledger:
    """Clean seconds and false alarms of some drives."""

    def __init__(self, check: str = "") -> None:
        self._check = check
        self.clean_s = 0.0
        self.alarms: list[Alarm] = []

    def add(self, report: Report, drive: str = "") -> None:
        """Count one drive. Attacks and the recovery after them are no clean time."""
        drive = drive or report.title
        self.clean_s += report.clean_s
        if not self._check:
            self.alarms += [Alarm(drive, b.time_s, f"{b.sensor} {b.state}") for b in report.clean_blames]
            return
        for series in report.checks:
            if series.check != self._check:
                continue
            rang = False
            for time_s, ratio in zip(series.time_s, series.ratio, strict=True):
                rings = ratio is not None and ratio > 1.0
                if rings and not rang and _is_clean(report, time_s):
                    self.alarms.append(Alarm(drive, time_s, f"{series.check} on {', '.join(series.sensors)}"))
                rang = rings

    def judge(self, budget: FalseAlarmBudget) -> tuple[bool, str]:
        """Return whether the budget holds, and what was found in one sentence."""
        count, hours = len(self.alarms), self.clean_s / SECONDS_PER_HOUR
        lowest = poisson_lower(count, budget.confidence)
        found = f"{count} false alarm{'' if count == 1 else 's'} in {self.clean_s:.0f} s of clean driving"
        if hours > 0.0:
            most = poisson_upper(count, budget.confidence) / hours
            found += f": {lowest / hours:.3g} to {most:.3g} per hour at {budget.confidence:.0%}"
        found += f"; budget {budget.per_hour:g} per hour"
        if self.clean_s < budget.over_s:
            return False, f"{found}, over {budget.over_s:g} s that were not driven"
        return lowest <= budget.per_hour * hours, found


def poisson_lower(count: int, confidence: float = 0.95) -> float:
    """Lower bound of the mean of a Poisson variable of which `count` events were seen."""
    return 0.5 * chi_square_quantile(1.0 - confidence, 2.0 * count) if count else 0.0


def _is_clean(report: Report, time_s: float) -> bool:
    return not any(a.start_s <= time_s <= a.end_s + DEFAULT_RECOVERY_S for a in report.attacks)
