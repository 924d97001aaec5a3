"""Plans a clean day, drives it over processes, keeps every finished drive, and holds the alarms against the rate."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from edgeguard.checks.calibration_file import SensorSection
from edgeguard.checks.scores import SensorFits
from edgeguard.clock import NS_PER_S, ManualClock, SystemClock
from edgeguard.config import Config, PipelineConfig
from edgeguard.errors import CalibrationError, ConfigError, ScenarioError
from edgeguard.runtime.calibrate_rate import calibrate
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.sim.detection.metrics import rate_per_hour
from edgeguard.sim.soak.lean import PRESETS, Preset, lean_drive
from edgeguard.types import CheckResult, TrustState

DRIVE_S = 600.0  # the longest a street is
# Of each rig, in drives as long as the day's, each with a start of its own: good to 15 % in the mean over nine rigs.
CALIBRATION_S = 2400.0
FIRST_STREET = 5_000  # streets of the day; a rig's calibration drives are on others
CALIBRATION_STREET = 1_000
MAX_CALIBRATION = 500  # streets between the first of one rig and of the next
TOLERANCE = 0.3
FRAME_DRIVE_S = 120.0
# One poll a tick: nothing in memory overflows, and twenty polls of empty queues cost as much as the checks.
SOAK_CONFIG = Config(pipeline=PipelineConfig(tick_ms=100, poll_ms=100))
Row = TypeVar("Row")
_PROGRAM = ("checks", "fusion", "kernels", "runtime", "sim", "sync")  # what decides how a drive comes out


class Drive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One drive of the plan."""

    preset: str
    rig: int
    street: int
    duration_s: float


class Driven(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One finished drive: a line of the file.

    key: hash of the program and the settings; lines of another key belong to another day. alarms: rising edges of
    "something accuses somebody". hard: how many of them were raised by hard limits alone, which no rate moves. checks,
    sensors: rising edges of each. moments_s: of the first alarms.
    """

    key: str
    drive: Drive
    clean_s: float
    alarms: int
    alarmed_s: float
    checks: dict[str, int]
    sensors: dict[str, int]
    moments_s: tuple[float, ...]
    calibrated: bool
    spent_s: float
    hard: int = 0


class Calibrated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rig's calibration: another kind of line. section: None where nothing on it gives a score."""

    key: str
    preset: str
    rig: int
    section: SensorSection | None
    spent_s: float


class CheckRate(msgspec.Struct, frozen=True):
    """False alarms of one check, per hour, with the exact interval."""

    count: int
    per_hour: float
    low: float
    high: float


class SoakResult(msgspec.Struct, frozen=True):
    """The day. alarms: of statistics, whose rate is stated; hard: of hard limits alone. within: whether the rate lies
    within 30 % of the stated one; certain: whether its interval does. expected_per_hour: what the calibrations predict.
    times_real_time: simulated seconds per second of one process."""

    format: str
    stated_per_hour: float
    hours: float
    planned_hours: float
    drives: int
    alarms: int
    per_hour: float
    low: float
    high: float
    within: bool
    certain: bool
    alarmed_share: float
    hard: int
    expected_per_hour: float
    uncalibrated_drives: int
    times_real_time: float
    checks: dict[str, CheckRate]
    presets: dict[str, CheckRate]


FORMAT = "edgeguard-bench-alarms/2"
MAX_MOMENTS = 50


@dataclass(frozen=True, slots=True)
class Soak:
    """What is driven.

    rate: alarms per hour that the calibration aims at; None runs on shipped priors. sure: its margin. calibration_s:
    how much each rig is calibrated on; a fifth of it with frames.
    """

    hours: float
    rate: float | None = 4.0
    seed: int = 1
    presets: tuple[Preset, ...] = PRESETS
    sure: bool = False
    calibration_s: float = CALIBRATION_S
    drives: tuple[Drive, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "drives", tuple(_plan(self)))

    @property
    def key(self) -> str:
        """Hash of the program and of all settings that decide a drive; the number of hours does not."""
        parts = (_program(), *map(repr, (self.rate, self.seed, self.presets, self.sure, self.calibration_s)))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _plan(soak: Soak) -> Iterator[Drive]:
    """Drives of all presets by their shares, a rig's drives together so that its calibration is made once. A longer day
    begins with the drives of a shorter one."""
    for preset in soak.presets:
        left_s = soak.hours * 3600.0 * preset.share / sum(p.share for p in soak.presets)
        longest_s = FRAME_DRIVE_S if preset.name == "frames" else DRIVE_S
        count = max(1, round(left_s / longest_s))
        for number in range(count):
            street = FIRST_STREET + 10_000 * soak.seed + number
            yield Drive(preset.name, number % preset.rigs, street, min(longest_s, max(10.0, left_s / count)))


@lru_cache(maxsize=1)
def _program() -> str:
    """Hash of the source files that decide how a drive comes out."""
    digest = hashlib.sha256()

    def add(folder: Traversable) -> None:
        for entry in sorted(folder.iterdir(), key=lambda e: e.name):
            if entry.is_dir():
                add(entry)
            elif entry.name.endswith((".py", ".toml")):
                digest.update(entry.name.encode() + entry.read_bytes())

    for room in _PROGRAM:
        add(files("edgeguard") / room)
    return digest.hexdigest()


def run_soak(soak: Soak, path: Path, *, jobs: int = 1, on_drive: Callable[[Driven], None] | None = None) -> SoakResult:
    """Drive what the file does not hold yet; each finished drive is on disk before the next is reported.

    Raises:
        ConfigError: EG-C022 when the file cannot be read or written. ScenarioError: EG-X047 when it is not one of ours.
    """
    key = soak.key
    done = {row.drive: row for row in read_rows(path) if row.key == key}
    rigs = {(row.preset, row.rig): row for row in read_calibrations(path) if row.key == key}
    wanted = [drive for drive in soak.drives if drive not in done]
    unfit = sorted({(drive.preset, drive.rig) for drive in wanted} - rigs.keys()) if soak.rate is not None else []
    try:
        with path.open("ab") as file:
            _end_line(path, file)
            with _workers(min(jobs, len(wanted))) as each:
                for made in each(
                    calibrate_rig, [(*rig, soak.rate, soak.sure, soak.calibration_s, key) for rig in unfit]
                ):
                    rigs[made.preset, made.rig] = made
                    _keep(file, made)
                sections = [getattr(rigs.get((d.preset, d.rig)), "section", None) for d in wanted]
                for row in each(drive_once, [(d, s, key) for d, s in zip(wanted, sections, strict=True)]):
                    done[row.drive] = row
                    _keep(file, row)
                    if on_drive is not None:
                        on_drive(row)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", code="EG-C022") from None
    return summarise([done[drive] for drive in soak.drives], soak, list(rigs.values()))


def _keep(file: BinaryIO, row: Driven | Calibrated) -> None:
    file.write(msgspec.json.encode(row) + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _end_line(path: Path, file: BinaryIO) -> None:
    """A line that was cut by a crash is closed, so that the next one is whole."""
    with path.open("rb") as written:
        written.seek(0, os.SEEK_END)
        if written.tell() == 0:
            return
        written.seek(-1, os.SEEK_END)
        if written.read(1) != b"\n":
            file.write(b"\n")


def read_rows(path: Path) -> list[Driven]:
    """Return the finished drives of a file; a line that was cut short is left out.

    Raises:
        ConfigError: EG-C022. ScenarioError: EG-X047.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError:
        raise ConfigError(f"cannot read {path}", code="EG-C022") from None
    rows = _rows(lines, Driven)
    if len(lines) > 1 and not rows and not _rows(lines, Calibrated):
        raise ScenarioError(f"{path} holds no drives", code="EG-X047", hint="choose another --out file")
    return rows


def read_calibrations(path: Path) -> list[Calibrated]:
    """Return the finished calibrations of a file that `read_rows` has read."""
    return _rows(path.read_bytes().splitlines(), Calibrated) if path.exists() else []


def _rows(lines: Sequence[bytes], kind: type[Row]) -> list[Row]:
    rows = []
    for line in filter(None, lines):
        try:
            rows.append(msgspec.json.decode(line, type=kind))
        except (msgspec.DecodeError, RecursionError):
            continue
    return rows


@contextmanager
def _workers(jobs: int) -> Iterator[Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]]:
    """What runs a function over many arguments: here, or in processes; results come as they are ready."""
    if jobs <= 1:
        yield lambda function, calls: (function(*call) for call in calls)
        return
    # A fresh interpreter per worker: forking one that holds threads is not safe.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield lambda function, calls: (
            done.result() for done in as_completed([pool.submit(function, *call) for call in calls])
        )


def calibrate_rig(preset: str, rig: int, rate: float, sure: bool, calibration_s: float, key: str) -> Calibrated:
    """Calibrate a rig on streets that are not part of the day."""
    watch = SystemClock()
    began_ns = watch.now_ns()
    sensors = next(p.sensors for p in PRESETS if p.name == preset)
    longest_s = FRAME_DRIVE_S if preset == "frames" else DRIVE_S
    count = max(1, round(calibration_s / DRIVE_S))
    seconds = min(longest_s, calibration_s / count)
    drives = [lean_drive(sensors, rig, CALIBRATION_STREET + rig * MAX_CALIBRATION + i, seconds) for i in range(count)]
    section = None
    with suppress(CalibrationError):
        section = calibrate(drives, SOAK_CONFIG, 1.0 / rate, known_clean=True, sure=sure)[0].section
    return Calibrated(key, preset, rig, section, round((watch.now_ns() - began_ns) / NS_PER_S, 3))


def drive_once(drive: Drive, section: SensorSection | None, key: str) -> Driven:
    """Run one clean drive through the whole pipeline and count who was accused."""
    fits = None if section is None else section.fits()
    watch = SystemClock()
    began_ns = watch.now_ns()
    sensors = next(p.sensors for p in PRESETS if p.name == drive.preset)
    recording = lean_drive(sensors, drive.rig, drive.street, drive.duration_s)
    ticks = list(recording.ticks())
    clock = ManualClock(ticks[0].stamp_ns - 1)
    with Pipeline(
        SOAK_CONFIG, recording.sources(clock), clock, calibration=recording.calibration, fits=fits or SensorFits()
    ) as pipeline:
        count = AlarmCount(frozenset(statistic.name for statistic in pipeline.statistics))
        for tick in ticks:
            frame = pipeline.step(tick)
            blamed = frozenset(s for s, t in frame.fused.trust.items() if t.state is not TrustState.TRUSTED)
            count.add(frame.anomalies, blamed, (tick.stamp_ns - ticks[0].stamp_ns) / NS_PER_S)
    spent_s = (watch.now_ns() - began_ns) / NS_PER_S
    return Driven(
        key, drive, drive.duration_s, count.alarms, round(count.alarmed_ticks * 0.1, 1), dict(count.checks),
        dict(count.sensors), tuple(count.moments), fits is not None, round(spent_s, 3),
        count.hard,
    )  # fmt: skip


class AlarmCount:
    """Rising edges. An alarm is one of hard limits where no check with a statistic took part in it before it ended."""

    def __init__(self, statistics: frozenset[str]) -> None:
        self._statistics = statistics
        self.alarms = self.alarmed_ticks = self.hard = 0
        self._is_hard = False
        self.checks: Counter[str] = Counter()
        self.sensors: Counter[str] = Counter()
        self.moments: list[float] = []
        self._on = False
        self._raised: frozenset[tuple[str, tuple[str, ...]]] = frozenset()
        self._blamed: frozenset[str] = frozenset()

    def add(self, anomalies: Sequence[CheckResult], blamed: frozenset[str], time_s: float) -> None:
        """Take one tick: what raised, and who is not trusted."""
        raised = frozenset((r.check, r.sensors) for r in anomalies)
        on = bool(raised or blamed)
        if on and not self._on:
            self.alarms += 1
            self._is_hard = True
            self.hard += 1
            if len(self.moments) < MAX_MOMENTS:
                self.moments.append(round(time_s, 1))
        if self._is_hard and any(self._has_statistic(check) for check, _ in raised):
            self._is_hard = False
            self.hard -= 1
        self.alarmed_ticks += on
        self.checks.update(check for check, _ in raised - self._raised)
        self.sensors.update(blamed - self._blamed)
        self._on, self._raised, self._blamed = on, raised, blamed

    def _has_statistic(self, check: str) -> bool:
        return any(name == check or name.startswith(check + ".") for name in self._statistics)


def summarise(rows: Sequence[Driven], soak: Soak, rigs: Sequence[Calibrated] = ()) -> SoakResult:
    """Return the day's rates."""
    seconds = sum(row.clean_s for row in rows)
    alarms = sum(row.alarms - row.hard for row in rows)
    rate, low, high = rate_per_hour(alarms, seconds)
    stated = soak.rate or 0.0
    floor, ceiling = stated * (1 - TOLERANCE), stated * (1 + TOLERANCE)
    checks: Counter[str] = Counter()
    for row in rows:
        checks.update(row.checks)
    by_preset = {
        preset.name: _rate(
            sum(r.alarms - r.hard for r in rows if r.drive.preset == preset.name),
            sum(r.clean_s for r in rows if r.drive.preset == preset.name),
        )
        for preset in soak.presets
    }
    predicted = {(rig.preset, rig.rig): _expected(rig) for rig in rigs}
    expected = sum(predicted.get((r.drive.preset, r.drive.rig), 0.0) * r.clean_s for r in rows)
    spent = sum(row.spent_s for row in rows)
    return SoakResult(
        FORMAT, stated, round(seconds / 3600.0, 4), soak.hours, len(rows), alarms, round(rate, 3), round(low, 3),
        round(high, 3) if seconds else 0.0, floor <= rate <= ceiling, floor <= low and high <= ceiling,
        round(sum(r.alarmed_s for r in rows) / seconds, 5) if seconds else 0.0,
        sum(row.hard for row in rows), round(expected / seconds, 3) if seconds else 0.0,
        sum(not row.calibrated for row in rows), round(seconds / spent, 1) if spent else 0.0,
        {name: _rate(n, seconds) for name, n in checks.most_common()}, by_preset,
    )  # fmt: skip


def _expected(rig: Calibrated) -> float:
    return 0.0 if rig.section is None else sum(each.per_hour for each in rig.section.thresholds.values())


def _rate(count: int, seconds: float) -> CheckRate:
    if seconds <= 0.0:
        return CheckRate(0, 0.0, 0.0, 0.0)
    rate, low, high = rate_per_hour(count, seconds)
    return CheckRate(count, round(rate, 3), round(low, 3), round(high, 3))
