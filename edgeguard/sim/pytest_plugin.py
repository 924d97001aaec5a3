"""pytest plugin: attack scenarios as tests.

Files named `*.egsim.toml` are collected, one test per seed (ini option `egsim_seeds`, default "1 2 3"). Fixtures:
`edgeguard_sim` runs a scenario, `scenario`, `world`, `rig` and `attacked_rig` are the parts of one, which
`@pytest.mark.edgeguard_scenario("gnss_jump", seed=3)` chooses. `@pytest.mark.edgeguard_false_alarms(per_hour=6,
over_s=300)` fails a test whose clean drives rang more often. Nothing heavy is imported until a scenario runs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgeguard.sim.budget import FalseAlarmBudget, Ledger
    from edgeguard.sim.rig import SimRig
    from edgeguard.sim.run import Outcome
    from edgeguard.sim.scenario import Scenario
    from edgeguard.sim.world import World

SUFFIX = ".egsim.toml"
DEFAULT_SEEDS = "1 2 3"
DEFAULT_SCENARIO = "clean_day"
SCENARIO_MARK, BUDGET_MARK = "edgeguard_scenario", "edgeguard_false_alarms"
SHOWN_ALARMS = 20
RunScenario = Callable[..., "Outcome"]
_LEDGER: pytest.StashKey[Ledger] = pytest.StashKey()


class UnexpectedOutcomeError(AssertionError):
    """A scenario did not come out as it says."""


class BudgetExceededError(AssertionError):
    """More false alarms than a test allows itself, or less clean driving than it asks for."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the ini option."""
    parser.addini("egsim_seeds", "seeds of each collected *.egsim.toml", default=DEFAULT_SEEDS)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line(
        "markers", f"{SCENARIO_MARK}(name_or_path, seed=1): what the fixtures scenario, world, rig, attacked_rig are"
    )
    config.addinivalue_line(
        "markers",
        f"{BUDGET_MARK}(per_hour, over_s=0, check='', confidence=0.95): fail when the clean time of this test's drives"
        " holds more false alarms than chance explains, or is shorter than over_s",
    )


def pytest_collect_file(parent: pytest.Collector, file_path: Path) -> pytest.Collector | None:
    """Collect scenario files."""
    if not file_path.name.endswith(SUFFIX):
        return None
    return ScenarioFile.from_parent(parent, path=file_path)


class ScenarioFile(pytest.File):
    """One `*.egsim.toml`."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test per seed."""
        for seed in str(self.config.getini("egsim_seeds")).split():
            yield ScenarioItem.from_parent(self, name=f"seed {seed}", seed=int(seed))


class ScenarioItem(pytest.Item):
    """One run of a scenario."""

    def __init__(self, *, seed: int, **more: Any) -> None:
        super().__init__(**more)
        self._seed = seed

    def runtest(self) -> None:
        """Run it; raises `UnexpectedOutcomeError` when an expectation does not hold."""
        _run_and_require(self.path, self._seed)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show the expectations instead of our own traceback."""
        from edgeguard.errors import EdgeGuardError

        if isinstance(excinfo.value, UnexpectedOutcomeError | EdgeGuardError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Name the file."""
        return self.path, None, f"{self.path.name}: {self.name}"


@pytest.fixture
def edgeguard_sim(tmp_path: Path, request: pytest.FixtureRequest) -> RunScenario:
    """Return `run(scenario, seed=1, *, require=True, **options)`.

    scenario: a name, a path or a `Scenario`. require: fail the test unless all expectations hold. options: those of
    `edgeguard.sim.run.run_scenario`, such as `config`, `extra_checks`, `recording`. Returns the `Outcome`.
    """

    def run(scenario: str | Path | Scenario, seed: int = 1, *, require: bool = True, **options: Any) -> Outcome:
        from edgeguard.sim.scenario import load_scenario
        from edgeguard.sim.system import run_completely

        loaded = load_scenario(scenario) if isinstance(scenario, str | Path) else scenario
        outcome = run_completely(loaded, seed, tmp_path / f"{loaded.name}-{seed}", **options)
        _ledger(request.node).add(outcome.report, f"{loaded.name} seed {seed}")
        if require:
            _require(outcome)
        return outcome

    return run


@pytest.fixture
def edgeguard_false_alarms(request: pytest.FixtureRequest) -> Ledger:
    """The test's count of clean seconds and false alarms; `add(report)` counts drives of your own pipelines."""
    return _ledger(request.node)


@pytest.fixture
def scenario(request: pytest.FixtureRequest) -> Scenario:
    """The scenario that the marker `edgeguard_scenario` names; paths are relative to the test's file. A clean day
    without a marker."""
    from edgeguard.sim.scenario import load_scenario

    name = _chosen(request.node)[0]
    beside = request.node.path.parent / name
    return load_scenario(beside if name.endswith(".toml") else name)


@pytest.fixture
def world(scenario: Scenario, request: pytest.FixtureRequest) -> World:
    """The street and drive of `scenario`: truth at any time, without sensors."""
    return scenario.drive(_chosen(request.node)[1])


@pytest.fixture
def rig(scenario: Scenario, request: pytest.FixtureRequest) -> Iterator[SimRig]:
    """The sensors of `scenario` on their drive, without its attacks; `rig.clock` is its own `ManualClock`."""
    yield from _standing(scenario.unattacked, request.node)


@pytest.fixture
def attacked_rig(scenario: Scenario, request: pytest.FixtureRequest) -> Iterator[SimRig]:
    """The same with the attacks; equal to `rig` in everything that they do not touch."""
    if not scenario.sensor_attacks:
        raise pytest.UsageError(
            f"attacked_rig: scenario {scenario.name} attacks no sensor; choose one: "
            f'@pytest.mark.{SCENARIO_MARK}("gnss_jump")'
        )
    yield from _standing(scenario, request.node)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Hold what a test drove against its budget of false alarms."""
    budget = _budget(item)
    result = yield
    if budget is not None:
        ledger = _ledger(item)
        held, words = ledger.judge(budget)
        item.user_properties.append((BUDGET_MARK, words))
        if not held:
            lines = [f"  {a.drive} at {a.time_s:.1f} s: {a.subject}" for a in ledger.alarms[:SHOWN_ALARMS]]
            more = len(ledger.alarms) - len(lines)
            raise BudgetExceededError("\n".join([words, *lines, *([f"  and {more} more"] if more else [])]))
    return result


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell what each budget was held against: a quiet minute proves less than a quiet hour."""
    found = []
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                found += [f"{report.nodeid}: {words}" for name, words in report.user_properties if name == BUDGET_MARK]
    if found:
        terminalreporter.section("false alarms on clean drives")
        for line in sorted(found):
            terminalreporter.write_line(line)


def _chosen(node: Any) -> tuple[str, int]:
    mark = node.get_closest_marker(SCENARIO_MARK)
    if mark is None:
        return DEFAULT_SCENARIO, 1
    if len(mark.args) != 1 or set(mark.kwargs) - {"seed"}:
        raise pytest.UsageError(f'write @pytest.mark.{SCENARIO_MARK}("gnss_jump", seed=3)')
    return str(mark.args[0]), int(mark.kwargs.get("seed", 1))


def _standing(scenario: Scenario, node: Any) -> Iterator[SimRig]:
    from edgeguard.clock import ManualClock

    with scenario.rig(ManualClock(), _chosen(node)[1]) as rig:
        yield rig


def _budget(item: pytest.Item) -> FalseAlarmBudget | None:
    mark = item.get_closest_marker(BUDGET_MARK)
    if mark is None:
        return None
    from edgeguard.sim.budget import FalseAlarmBudget

    try:
        return FalseAlarmBudget(*mark.args, **mark.kwargs)
    except TypeError as error:
        raise pytest.UsageError(f"write @pytest.mark.{BUDGET_MARK}(per_hour=6, over_s=300): {error}") from error


def _ledger(node: Any) -> Ledger:
    from edgeguard.sim.budget import Ledger

    if _LEDGER not in node.stash:
        budget = _budget(node)
        node.stash[_LEDGER] = Ledger("" if budget is None else budget.check)
    ledger: Ledger = node.stash[_LEDGER]
    return ledger


def _run_and_require(path: Path, seed: int) -> None:
    import tempfile

    from edgeguard.sim.scenario import load_scenario
    from edgeguard.sim.system import run_completely

    with tempfile.TemporaryDirectory() as folder:
        _require(run_completely(load_scenario(path), seed, Path(folder)))


def _require(outcome: Outcome) -> None:
    if outcome.passed:
        return
    lines = [f"scenario {outcome.scenario.name} with seed {outcome.seed} did not come out as it says"]
    lines += [
        f"  {'ok  ' if e.met else 'FAIL'}  {e.subject}: expected {e.expected}, found {e.found}"
        for e in outcome.expectations
    ]
    lines.append(f"repeat: edgeguard sim run {outcome.scenario.name} --seed {outcome.seed} --report report.html")
    raise UnexpectedOutcomeError("\n".join(lines))
