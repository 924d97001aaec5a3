"""The bench: every recording calibrated on its own first part, attacked in the rest, and the whole put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from edgeguard.checks.scores import SensorFits
from edgeguard.clock import NS_PER_S
from edgeguard.config import Config
from edgeguard.errors import CalibrationError
from edgeguard.sensors.recorded import Recording
from edgeguard.sim.detection.result import FORMAT, BenchResult, RecordingResult, StealthResult
from edgeguard.sim.detection.rows import Row
from edgeguard.sim.detection.run import FIT_SHARE, Measured, measure
from edgeguard.sim.detection.subject import SIMULATED, open_subject
from edgeguard.sim.detection.summary import summarise_attribution, summarise_clean, summarise_row

SHORT_S = 30.0

OnTick = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How the bench runs. alarms_per_hour: what its own calibration aims at. fits: a calibration instead of its own;
    `fitted_by` names it."""

    seed: int = 0
    fit_share: float = FIT_SHARE
    effort: float = 1.0
    jobs: int = 1
    alarms_per_hour: float = 1.0
    calibrate: bool = True
    fits: SensorFits | None = None
    fitted_by: str = ""
    config: Config | None = None


def run_bench(
    names: Sequence[str],
    rows: Sequence[Row],
    options: Options,
    *,
    stealth: Sequence[StealthResult] = (),
    on_tick: OnTick | None = None,
    on_recording: Callable[[RecordingResult], None] | None = None,
) -> BenchResult:
    """Run the rows over recordings, one after the other.

    Args:
        names: as for `open_subject`. on_tick: gets the recording's name, ticks done and in all. on_recording: gets each
            result as soon as it is there.

    Raises:
        What `open_subject` and `measure` raise.
    """
    measured: list[Measured] = []
    results: list[RecordingResult] = []
    for name in names:
        recording = open_subject(name, options.seed)
        short = name if name.startswith(SIMULATED) else Path(name).resolve().name
        fits, told = _fits(recording, options)
        run = measure(
            recording, rows, fits=fits, config=options.config, seed=options.seed, fit_share=options.fit_share,
            effort=options.effort, jobs=options.jobs,
            on_tick=partial(on_tick, short) if on_tick is not None else None,
        )  # fmt: skip
        measured.append(run)
        results.append(_recording_result(short, type(recording).__name__, run, rows, told, len(fits or ()), options))
        if on_recording is not None:
            on_recording(results[-1])
    pooled = _pooled(measured, results, rows, options) if len(measured) > 1 else None
    return BenchResult(FORMAT, options.seed, options.effort, results, pooled, list(stealth))


def _fits(recording: Recording, options: Options) -> tuple[SensorFits | None, str]:
    """The calibration and how it came about, in words."""
    if options.fits is not None:
        return options.fits, options.fitted_by
    if not options.calibrate:
        return None, "no: shipped priors"
    from edgeguard.runtime.calibrate_rate import calibrate

    ticks = list(recording.ticks())
    length_s = (ticks[-1].stamp_ns - ticks[0].stamp_ns) / NS_PER_S if ticks else 0.0
    try:
        result, observed = calibrate(
            [recording], options.config or Config(), 1.0 / options.alarms_per_hour, to_s=options.fit_share * length_s,
            allow_anomalies=True,
        )  # fmt: skip
    except CalibrationError as error:
        return None, f"no: {error.message}; shipped priors"
    fits = result.section.fits()
    accused = f", {sum(observed.anomalies.values())} anomalies in it" if observed.anomalies else ""
    return fits, f"on the first part, for {options.alarms_per_hour:g} alarms/h{accused}"


def _recording_result(
    name: str, kind: str, run: Measured, rows: Sequence[Row], calibrated: str, fits: int, options: Options
) -> RecordingResult:
    notes = list(run.notes)
    test_s = run.test_s[1] - run.test_s[0]
    if test_s < SHORT_S:
        notes.append(f"short: {test_s:.1f} s are tested; false alarms and rare misses cannot be judged on it")
    return RecordingResult(
        recording=name,
        kind=kind,
        sensors={sensor: round(NS_PER_S / max(1, info.period_ns), 2) for sensor, info in run.infos.items()},
        length_s=round(run.length_s, 3),
        fit_s=(round(run.fit_s[0], 3), round(run.fit_s[1], 3)),
        test_s=(round(run.test_s[0], 3), round(run.test_s[1], 3)),
        calibrated=calibrated,
        fits=fits,
        clean=summarise_clean([run.clean]),
        rows=[summarise_row(row, [run], options.seed) for row in rows],
        attribution=summarise_attribution([run]),
        notes=notes,
        spent_s=round(run.spent_s, 1),
    )


def _pooled(
    runs: Sequence[Measured], results: Sequence[RecordingResult], rows: Sequence[Row], options: Options
) -> RecordingResult:
    return RecordingResult(
        recording=f"all {len(runs)} recordings",
        kind="pooled",
        sensors={},
        length_s=round(sum(run.length_s for run in runs), 3),
        fit_s=(0.0, round(sum(run.fit_s[1] - run.fit_s[0] for run in runs), 3)),
        test_s=(0.0, round(sum(run.test_s[1] - run.test_s[0] for run in runs), 3)),
        calibrated="each recording on its own first part",
        fits=sum(result.fits for result in results),
        clean=summarise_clean([run.clean for run in runs]),
        rows=[summarise_row(row, runs, options.seed) for row in rows],
        attribution=summarise_attribution(runs),
        notes=[],
        spent_s=round(sum(run.spent_s for run in runs), 1),
    )


def read_stealth(text: str) -> list[StealthResult]:
    """Read the lines of `edgeguard sim stealth --format json`; the best of each goal and configuration stays.

    Raises:
        ScenarioError: EG-X045 when a line is none of them.
    """
    from edgeguard.errors import ScenarioError

    best: dict[tuple[str, tuple[str, ...]], StealthResult] = {}
    for line in filter(str.strip, text.splitlines()):
        try:
            one = msgspec.json.decode(line, type=StealthResult)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ScenarioError(
                f"not a line of a stealth run: {error}", code="EG-X045", hint="edgeguard sim stealth --format json"
            ) from None
        key = (one.goal, tuple(one.sensors))
        before = best.get(key)
        if before is None:
            best[key] = one
        else:
            known = [x for x in (before.unseen_m, one.unseen_m) if x is not None]
            best[key] = StealthResult(
                one.goal, one.sensors, before.attempts + one.attempts, before.caught + one.caught,
                max(known) if known else None,
            )  # fmt: skip
    return list(best.values())
