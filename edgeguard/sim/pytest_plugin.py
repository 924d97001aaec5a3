"""pytest plugin: attack scenarios as tests.

Files named `*.egsim.toml` are collected, one test per seed (ini option `egsim_seeds`, default "1 2 3"); the fixture
`edgeguard_sim` runs a scenario inside a test of your own. Nothing heavy is imported until a scenario runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgeguard.sim.run import Outcome
    from edgeguard.sim.scenario import Scenario

SUFFIX = ".egsim.toml"
DEFAULT_SEEDS = "1 2 3"
RunScenario = Callable[..., "Outcome"]


class UnexpectedOutcomeError(AssertionError):
    """A scenario did not come out as it says."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the ini option."""
    parser.addini("egsim_seeds", "seeds of each collected *.egsim.toml", default=DEFAULT_SEEDS)


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
def edgeguard_sim(tmp_path: Path) -> RunScenario:
    """Return `run(scenario, seed=1, *, require=True, **options)`.

    scenario: a name, a path or a `Scenario`. require: fail the test unless all expectations hold. options: those of
    `edgeguard.sim.run.run_scenario`, such as `config`, `extra_checks`, `recording`. Returns the `Outcome`.
    """

    def run(scenario: str | Path | Scenario, seed: int = 1, *, require: bool = True, **options: Any) -> Outcome:
        from edgeguard.sim.scenario import load_scenario
        from edgeguard.sim.system import run_completely

        loaded = load_scenario(scenario) if isinstance(scenario, str | Path) else scenario
        outcome = run_completely(loaded, seed, tmp_path / f"{loaded.name}-{seed}", **options)
        if require:
            _require(outcome)
        return outcome

    return run


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
