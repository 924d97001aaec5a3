"""Attack size against detection: scenarios, sizes and seeds as rows of a CSV file that a cut run goes on with."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeguard.config import Config
from edgeguard.errors import ConfigError, ScenarioError
from edgeguard.sim.attacks.base import AttackBase
from edgeguard.sim.attacks.registry import nearest
from edgeguard.sim.run import run_scenario
from edgeguard.sim.scenario import Scenario
from edgeguard.sim.sweep_workers import run_jobs

if TYPE_CHECKING:
    from edgeguard.report.model import Report

MAX_RUNS = 100_000


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One run.

    key: hash of all that decides it but value and seed, so that rows of another sweep are not taken. peak_attacked,
    peak_clean: largest share of its threshold that any check of the attacked sensor reached from the attack's start on,
    and in a stretch of clean time of the same length right before it: what the ROC curve is made of.
    """

    key: str
    scenario: str
    attack: str
    parameter: str
    value: float
    seed: int
    detected: bool
    delay_s: float | None
    named: bool
    clean_blamed_s: float
    peak_attacked: float
    peak_clean: float


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
    sweeps: Sweep | Sequence[Sweep],
    csv_path: Path,
    *,
    processes: int = 1,
    scheduler: str = "",
    on_row: Callable[[SweepRow], None] | None = None,
) -> tuple[SweepRow, ...]:
    """Run what the CSV file does not hold yet; each row is written as soon as its run is over.

    Returns the rows in the order of sweeps, values and seeds, equal for any number of workers. Lines that a cut left
    torn are taken out and their runs repeated.

    Args:
        sweeps: one or several, whose rows share the file. processes, scheduler: those of `run_jobs`.

    Raises:
        ConfigError: EG-C022 when the file cannot be read or written, EG-C053 when it is not one of ours, EG-C056 while
            another sweep writes to it. What `run_jobs` raises.
    """
    each = (sweeps,) if isinstance(sweeps, Sweep) else tuple(sweeps)
    wanted = [(s, value, seed) for s in each for value in s.values for seed in s.seeds]
    if len(wanted) > MAX_RUNS:
        raise ScenarioError(f"a sweep has 1 to {MAX_RUNS} runs", code="EG-X016")
    try:
        with csv_path.open("a+", encoding="utf-8", newline="") as file:
            _lock(file.fileno(), csv_path)
            rows = {(row.key, row.value, row.seed): row for row in read_rows(csv_path)}
            _cut_torn_line(csv_path)
            writer = csv.writer(file, lineterminator="\n")
            if csv_path.stat().st_size == 0:
                writer.writerow([field.name for field in fields(SweepRow)])
                file.flush()
            jobs = [(s, value, seed) for s, value, seed in wanted if (s.key, value, seed) not in rows]
            for row in run_jobs(run_one, jobs, processes=processes, scheduler=scheduler):
                rows[row.key, row.value, row.seed] = row
                writer.writerow(["" if value is None else value for value in astuple(row)])
                file.flush()
                if on_row is not None:
                    on_row(row)
    except OSError as error:
        raise ConfigError(f"cannot write {csv_path}: {error.strerror}", code="EG-C022") from None
    return tuple(rows[s.key, value, seed] for s, value, seed in wanted)


def read_rows(path: Path) -> tuple[SweepRow, ...]:
    """Return the rows of a sweep's CSV file; none when there is no file. Lines that a cut left torn are left out.

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
    reader = csv.reader(io.StringIO(whole))
    names = [field.name for field in fields(SweepRow)]
    if whole and next(reader, None) != names:
        raise ConfigError(f"{path} was not written by a sweep", code="EG-C053", hint="choose another --csv file")
    rows = []
    for entry in reader:
        with suppress(ValueError):
            rows.append(_row(dict(zip(names, entry, strict=True))))
    return tuple(rows)


def _row(entry: dict[str, str]) -> SweepRow:
    """Return one line's row; ValueError for one that no sweep has written."""
    if {entry["detected"], entry["named"]} - {"True", "False"}:
        raise ValueError("neither True nor False")
    return SweepRow(
        entry["key"], entry["scenario"], entry["attack"], entry["parameter"], float(entry["value"]), int(entry["seed"]),
        entry["detected"] == "True", float(entry["delay_s"]) if entry["delay_s"] else None, entry["named"] == "True",
        float(entry["clean_blamed_s"]), float(entry["peak_attacked"]), float(entry["peak_clean"]),
    )  # fmt: skip


def _lock(descriptor: int, path: Path) -> None:
    """Keep a second sweep out for as long as the file is open: both would do the same runs."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"another sweep is writing to {path}", code="EG-C056", hint="choose another --csv file"
        ) from None


def _cut_torn_line(path: Path) -> None:
    """Take away what stands behind the last line end: a new row must not be glued to half an old one."""
    raw = path.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        with path.open("r+b") as file:
            file.truncate(whole)


def run_one(sweep: Sweep, value: float, seed: int) -> SweepRow:
    """Run a sweep's scenario at one size with one seed."""
    scenario = sweep.at(value)
    index = [a is sweep.attack for a in sweep.scenario.attacks].index(True)
    outcome = run_scenario(scenario, seed, config=sweep.config)
    attack = scenario.attacks[index]
    same = [
        o for o in outcome.report.attacks if (o.attack, o.sensor, o.size) == (attack.name, attack.sensor, attack.size)
    ]
    found = same[0]
    length_s = min(attack.end_s - attack.start_s, attack.start_s)
    peaks = [
        _peak(outcome.report, attack.sensor, start_s, start_s + length_s)
        for start_s in (attack.start_s, attack.start_s - length_s)
    ]
    return SweepRow(
        sweep.key, scenario.name, attack.name, sweep.parameter, value, seed, found.detected, found.delay_s,
        found.detected and found.named_correctly, outcome.report.clean_seconds_blamed, *peaks,
    )  # fmt: skip


def _peak(report: Report, sensor: str, start_s: float, end_s: float) -> float:
    """Return the largest share of its threshold of the sensor's checks in a stretch of time; 0 where all were blind."""
    shares = [
        ratio
        for series in report.checks
        if sensor in series.sensors
        for time_s, ratio in zip(series.time_s, series.ratio, strict=True)
        if ratio is not None and start_s <= time_s < end_s
    ]
    return round(max(shares, default=0.0), 6)
