"""A budget of false alarms fails on what chance does not explain, and tells how little a short drive proves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import chi2, poisson

from edgeguard.clock import NS_PER_S
from edgeguard.errors import ScenarioError
from edgeguard.report.model import Report
from edgeguard.sim.budget import Alarm, FalseAlarmBudget, Ledger, poisson_lower
from edgeguard.sim.run import run_scenario
from edgeguard.sim.scenario import parse_scenario
from edgeguard.types import CheckResult, Level, SyncedSet

DRIVE = """
name = "drive"
summary = "nobody attacks"
duration_s = 5.0
sensors = ["gnss", "imu", "wheels"]
"""


class RingsAt:
    """A check that rings for 0.2 s at given times."""

    name = "U9.rings"
    sensors = ("imu",)

    def __init__(self, *times_s: float) -> None:
        self._times_s = times_s

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        now_s = synced.stamp_ns / NS_PER_S
        rings = any(at <= now_s < at + 0.2 for at in self._times_s)
        return CheckResult(self.name, self.sensors, Level.ANOMALY if rings else Level.OK, 2.0 * rings, 1.0)


def report_of(*times_s: float, attack: str = "") -> Report:
    """A short drive on which a check rings at these times."""
    return run_scenario(parse_scenario(DRIVE + attack, "drive"), 1, extra_checks=[RingsAt(*times_s)]).report


def test_the_lower_bound_is_garwoods() -> None:
    """Against scipy's chi-square; none for no event."""
    assert poisson_lower(0) == 0.0
    for count in (1, 2, 7, 40):
        for confidence in (0.9, 0.95, 0.99):
            assert poisson_lower(count, confidence) == pytest.approx(chi2.ppf(1 - confidence, 2 * count) / 2, rel=1e-9)


@pytest.mark.parametrize("per_hour", [0.5, 6.0, 60.0])
def test_a_budget_is_broken_exactly_where_chance_would_reach_that_count_once_in_twenty(per_hour: float) -> None:
    """The probability of at least so many events at the budget's own rate decides."""
    ledger = Ledger()
    ledger.clean_s = 900.0
    for count in range(40):
        held, words = ledger.judge(FalseAlarmBudget(per_hour))
        assert held == (poisson.sf(count - 1, per_hour / 4) >= 0.05)
        assert f"{count} false alarm" in words
        ledger.alarms.append(Alarm("drive", 1.0, "imu SUSPECT"))


def test_too_little_driving_fails_and_nothing_driven_proves_nothing() -> None:
    """A budget asks for its seconds; the upper bound is told."""
    ledger = Ledger()
    assert not ledger.judge(FalseAlarmBudget(6.0, over_s=300.0))[0]
    ledger.clean_s = 360.0
    held, words = ledger.judge(FalseAlarmBudget(6.0, over_s=300.0))
    assert held
    assert "0 to 30 per hour at 95%" in words
    for wrong in ({"per_hour": -1.0}, {"per_hour": 1.0, "over_s": -1.0}, {"per_hour": 1.0, "confidence": 1.0}):
        with pytest.raises(ScenarioError):
            FalseAlarmBudget(**wrong)
    with pytest.raises(ScenarioError):
        FalseAlarmBudget(float("nan"))


def test_onsets_of_one_check_count_and_attacks_with_their_recovery_do_not() -> None:
    """Two onsets are two alarms, however many ticks each lasts; what rings under attack is none."""
    ledger = Ledger(RingsAt.name)
    ledger.add(report_of(1.0, 3.0))
    assert [alarm.time_s for alarm in ledger.alarms] == pytest.approx([1.0, 3.0], abs=0.11)
    assert ledger.clean_s == pytest.approx(5.0, abs=0.15)
    attack = '[[attacks]]\ntype = "gnss_jump"\nstart_s = 2.0\nend_s = 4.0\n'
    ledger.add(report_of(1.0, 3.0, attack=attack), "attacked")
    assert [alarm.drive for alarm in ledger.alarms[2:]] == ["attacked"]
    assert ledger.clean_s == pytest.approx(8.0, abs=0.3)
    blames = Ledger()
    blames.add(report_of(1.0, 3.0))
    assert [alarm.subject for alarm in blames.alarms][:1] == ["imu SUSPECT"]
    blames = Ledger()
    blames.add(report_of())
    assert blames.alarms == []


PLUGIN_TESTS = '''
import pytest
from edgeguard.sim.scenario import parse_scenario
from edgeguard.types import CheckResult, Level

DRIVE = parse_scenario("""
name = "drive"
summary = "nobody attacks"
duration_s = 5.0
sensors = ["gnss", "imu", "wheels"]
""", "drive")

class Nervous:
    name = "U9.nervous"
    sensors = ("imu",)
    def __init__(self): self.ticks = 0
    def evaluate(self, synced):
        self.ticks += 1
        rings = self.ticks % 2 == 0
        return CheckResult(self.name, self.sensors, Level.ANOMALY if rings else Level.OK, 2.0 * rings, 1.0)

@pytest.mark.edgeguard_false_alarms(per_hour=60, over_s=4, check="U9.nervous")
def test_nervous(edgeguard_sim):
    edgeguard_sim(DRIVE, require=False, extra_checks=[Nervous()])

@pytest.mark.edgeguard_false_alarms(per_hour=60, over_s=4)
def test_quiet(edgeguard_sim):
    edgeguard_sim(DRIVE)

@pytest.mark.edgeguard_false_alarms(per_hour=60, over_s=4)
def test_drives_nothing():
    pass

@pytest.mark.edgeguard_false_alarms(per_day=1)
def test_misspelt():
    pass

@pytest.mark.edgeguard_scenario("gnss_jump", seed=2)
def test_parts(scenario, world, rig, attacked_rig):
    assert scenario.name == "gnss_jump" and world.seed == 2
    assert rig.truths == () and len(attacked_rig.truths) == 1
    assert rig.clock is not attacked_rig.clock
    with_attack, without = (take(r) for r in (attacked_rig, rig))
    assert with_attack[:70] == without[:70] and with_attack[85:100] != without[85:100]

def take(rig):
    source, found = rig.sources["gnss"], []
    source.open()
    for tick in rig.ticks():
        rig.clock.wait_until_ns(tick.stamp_ns)
        while (fix := source.read(0.0)) is not None:
            found.append((fix.latitude_deg, fix.longitude_deg))
    return found

def test_nothing_chosen(scenario, world):
    assert scenario.name == "clean_day" and not scenario.attacks

def test_nothing_to_attack(attacked_rig):
    pass
'''


def test_the_plugin_gives_the_parts_of_a_scenario_and_holds_the_budget(tmp_path: Path) -> None:
    """A nervous check, a quiet drive, nothing driven, a misspelt marker, the fixtures, and one used wrongly."""
    (tmp_path / "test_mine.py").write_text(PLUGIN_TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "edgeguard.sim.pytest_plugin", "-p", "no:cacheprovider", "-q",
         "--strict-markers"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        env={"PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    out = done.stdout
    assert "3 failed, 3 passed, 1 error" in out, out + done.stderr
    assert "25 false alarms in 5 s of clean driving" in out
    assert "and 5 more" in out
    assert "over 4 s that were not driven" in out
    assert "write @pytest.mark.edgeguard_false_alarms(per_hour=6, over_s=300)" in out
    assert "scenario clean_day attacks no sensor" in out
    assert "test_quiet: 0 false alarms in 5 s of clean driving: 0 to 2.16e+03 per hour at 95%; budget 60" in out
