"""Attack size against detection: one scenario, one parameter, many values and seeds; resumable, as CSV."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import msgspec

from edgeguard.config import Config
from edgeguard.errors import ConfigError, ScenarioError
from edgeguard.sim.attacks.base import AttackBase
from edgeguard.sim.attacks.registry import nearest
from edgeguard.sim.run import run_scenario
from edgeguard.sim.scenario import Scenario

MAX_PROCESSES = 64
MAX_RUNS = 100_000


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One run. key: hash of all that decides it but value and seed, so that rows of another sweep are not taken."""

    key: str
    attack: str
    parameter: str
    value: float
    seed: int
    detected: bool
    delay_s: float | None
    named: bool
    clean_blamed_s: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """All seeds of one size. median_delay_s: of the detected ones, None when there were none."""

    value: float
    runs: int
    detected: int
    named: int
    median_delay_s: float | None


@dataclass(frozen=True, slots=True)
class Sweep:
    """What to run: the scenario's first attack, one of its numbers, and values and seeds for it.

    Raises:
        ScenarioError: EG-X016 when the scenario has no attack on a sensor, the attack no such number, or a value is
            outside its limits.
    """

    scenario: Scenario
    parameter: str
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    config: Config

    def __post_init__(self) -> None:
        attack = self.attack
        numbers = [f.name for f in msgspec.structs.fields(attack) if isinstance(getattr(attack, f.name), int | float)]
        if self.parameter not in numbers:
            raise ScenarioError(
                f"{attack.name} has no number called {self.parameter!r}",
                code="EG-X016",
                hint=nearest(self.parameter, numbers),
            )
        if not self.values or not self.seeds or len(self.values) * len(self.seeds) > MAX_RUNS:
            raise ScenarioError(f"a sweep has 1 to {MAX_RUNS} runs", code="EG-X016")
        for value in self.values:
            self.at(value)

    @property
    def attack(self) -> AttackBase:
        """The attack whose size is swept."""
        attacks = self.scenario.sensor_attacks
        if not attacks:
            raise ScenarioError(f"scenario {self.scenario.name} attacks no sensor", code="EG-X016")
        return attacks[0]

    @property
    def key(self) -> str:
        """Hash of scenario, parameter and configuration."""
        parts = (repr(self.scenario), self.parameter, msgspec.json.encode(self.config).decode())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def at(self, value: float) -> Scenario:
        """Return the scenario with the attack at one size."""
        plain = msgspec.to_builtins(self.attack)
        plain[self.parameter] = round(value) if isinstance(plain[self.parameter], int) else value
        try:
            sized = msgspec.convert(plain, type(self.attack))
        except msgspec.ValidationError as error:
            raise ScenarioError(f"{self.parameter} = {value:g}: {error}", code="EG-X016") from error
        attacks = tuple(sized if a is self.attack else a for a in self.scenario.attacks)
        return msgspec.structs.replace(self.scenario, attacks=attacks)


def run_sweep(
    sweep: Sweep, csv_path: Path, *, processes: int = 1, on_row: Callable[[SweepRow], None] | None = None
) -> tuple[SweepRow, ...]:
    """Run what the CSV file does not hold yet; each row is written as soon as its run is over.

    Raises:
        ConfigError: EG-C022 when the file cannot be read or written, EG-C053 when it is not one of ours.
    """
    rows = {(row.value, row.seed): row for row in read_rows(csv_path) if row.key == sweep.key}
    wanted = [(v, s) for v in sweep.values for s in sweep.seeds if (v, s) not in rows]
    try:
        fresh = not csv_path.exists() or csv_path.stat().st_size == 0
        with csv_path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if fresh:
                writer.writerow([field.name for field in fields(SweepRow)])
            for row in _rows(sweep, wanted, min(max(processes, 1), MAX_PROCESSES)):
                rows[row.value, row.seed] = row
                writer.writerow(["" if value is None else value for value in astuple(row)])
                file.flush()
                if on_row is not None:
                    on_row(row)
    except OSError as error:
        raise ConfigError(f"cannot write {csv_path}: {error.strerror}", code="EG-C022") from None
    return tuple(rows[v, s] for v in sweep.values for s in sweep.seeds)


def read_rows(path: Path) -> tuple[SweepRow, ...]:
    """Return the rows of a sweep's CSV file; none when there is no file. A last line cut short is left out.

    Raises:
        ConfigError: EG-C022, EG-C053.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, ValueError):
        raise ConfigError(f"cannot read {path}", code="EG-C022") from None
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(whole))
    names = [field.name for field in fields(SweepRow)]
    if whole and reader.fieldnames != names:
        raise ConfigError(f"{path} was not written by a sweep", code="EG-C053", hint="choose another --csv file")
    rows = []
    for entry in reader:
        with suppress(ValueError, TypeError, KeyError):
            rows.append(
                SweepRow(
                    entry["key"], entry["attack"], entry["parameter"], float(entry["value"]), int(entry["seed"]),
                    entry["detected"] == "True", float(entry["delay_s"]) if entry["delay_s"] else None,
                    entry["named"] == "True", float(entry["clean_blamed_s"]),
                )
            )  # fmt: skip
    return tuple(rows)


def curve(rows: Sequence[SweepRow]) -> tuple[CurvePoint, ...]:
    """Return one point per value, in order of value."""
    points = []
    for value in sorted({row.value for row in rows}):
        same = [row for row in rows if row.value == value]
        delays = [row.delay_s for row in same if row.delay_s is not None]
        found, named = sum(r.detected for r in same), sum(r.named for r in same)
        points.append(CurvePoint(value, len(same), found, named, median(delays) if delays else None))
    return tuple(points)


def _rows(sweep: Sweep, wanted: Sequence[tuple[float, int]], processes: int) -> Iterator[SweepRow]:
    if processes == 1 or len(wanted) < 2:
        yield from (_run(sweep, value, seed) for value, seed in wanted)
        return
    # A fresh interpreter per worker: forking one that holds threads and open terminals is not safe.
    with ProcessPoolExecutor(min(processes, len(wanted)), mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_run, sweep, value, seed) for value, seed in wanted]):
            yield done.result()


def _run(sweep: Sweep, value: float, seed: int) -> SweepRow:
    scenario = sweep.at(value)
    index = [a is sweep.attack for a in sweep.scenario.attacks].index(True)
    outcome = run_scenario(scenario, seed, config=sweep.config)
    attack = scenario.attacks[index]
    same = [
        o for o in outcome.report.attacks if (o.attack, o.sensor, o.size) == (attack.name, attack.sensor, attack.size)
    ]
    found = same[0]
    return SweepRow(
        sweep.key, attack.name, sweep.parameter, value, seed, found.detected, found.delay_s,
        found.detected and found.named_correctly, outcome.report.clean_seconds_blamed,
    )  # fmt: skip
