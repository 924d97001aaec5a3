"""The first half of a calibration: run clean data through the checks on their priors and fit every monitor on one part.

`calibrate_rate` is the other: thresholds for the rate of the whole system, and what all of it does on the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeguard.checks.calibration_file import Bin, HeldOut, Made, Monitor, Rig, SensorSection
from edgeguard.checks.fitting import FittedBin, Scores, fit_scores
from edgeguard.checks.quantiles import poisson_upper
from edgeguard.checks.scores import SensorFits
from edgeguard.checks.thresholds import Threshold
from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.config import Config
from edgeguard.errors import CalibrationError, NotCleanError
from edgeguard.runtime.calibration import rig_of
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.sensors.recorded import Recording
from edgeguard.types import Check, Level

# The last part is never fitted on: what is written is what it was held against.
HELD_OUT_SHARE = 0.3
MIN_TICKS = 20
# Where anomalies are allowed, what lies so near to one is not fitted on: its onset was there before it was found.
AROUND_ANOMALY_NS = 3 * NS_PER_S
PARAMETER = "parameter 1"  # instead of a monitor's definition
SEED = 0  # of the resampling; equal recordings give equal calibrations


@dataclass(frozen=True, slots=True)
class Observed:
    """A recording as the checks saw it.

    scores: per monitor. fit, tail: per monitor, the numbers of its scores in the part to fit on, without those around
    an anomaly, and in the held-out part. anomalies: check to ticks with one. fit_s, tail_s: seconds of both parts;
    from_s, to_s: of the whole, from the recording's start. parameters: what checks had learned of the rig's physics at
    the end of the part to fit on, mean and standard deviation.
    """

    rig: Rig
    scores: tuple[Scores, ...]
    fit: tuple[Sequence[int], ...]
    tail: tuple[Sequence[int], ...]
    anomalies: Mapping[str, int]
    from_s: float
    to_s: float
    fit_s: float
    tail_s: float
    parameters: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fitted:
    """One row of the result: a bin of a monitor beside its prior. detectable: smallest change found within 2 s."""

    monitor: str
    unit: str
    fitted: FittedBin
    prior_sigma: float
    detectable: float


@dataclass(frozen=True, slots=True)
class SensorCalibration:
    """The section to write, its rows for people, and the monitors that gave too little to say anything.

    thresholds: by statistic, of the whole system's rate; empty before `calibrate_rate` has derived them.
    """

    section: SensorSection
    rows: tuple[Fitted, ...]
    unseen: tuple[str, ...]
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)


def observe(
    recording: Recording,
    config: Config,
    *,
    from_s: float = 0.0,
    to_s: float = float("inf"),
    extra_checks: Sequence[Check] = (),
    on_tick: Callable[[int, int], None] | None = None,
) -> Observed:
    """Run the checks, on their shipped priors, over a part of a recording and collect their scores.

    Args:
        from_s, to_s: the part, seconds from the first tick. extra_checks: a user's own, as in `Pipeline`.
        on_tick: told how many of how many ticks are done.

    Raises:
        CalibrationError: EG-L007, the part is too short.
    """
    ticks = list(recording.ticks())
    start_ns = ticks[0].stamp_ns if ticks else 0
    ticks = [tick for tick in ticks if tick.stamp_ns - start_ns <= to_s * NS_PER_S]
    inside = [tick for tick in ticks if tick.stamp_ns - start_ns >= from_s * NS_PER_S]
    if len(inside) < MIN_TICKS:
        raise CalibrationError(
            f"the recording gives {len(inside)} ticks; {MIN_TICKS} are the least",
            code="EG-L007",
            hint="record at least a minute of what the rig normally does: edgeguard replay RECORDING --record FILE",
        )
    clock = ManualClock(start_ns=start_ns - 1)
    log, split = _Log([], []), round(len(inside) * (1.0 - HELD_OUT_SHARE))
    parameters: Mapping[str, tuple[float, float]] = {}
    scores: tuple[Scores, ...] = ()
    anomalies: dict[str, int] = {}
    sources = recording.sources(clock)
    rig = rig_of([source.info for source in sources.values()], recording.calibration)
    with Pipeline(
        config, sources, clock, calibration=recording.calibration, fits=SensorFits(), extra_checks=extra_checks
    ) as pipeline:
        for done, tick in enumerate(ticks, 1):
            if tick is inside[0]:
                # Only now: what ran in before the part is what the checks need to have seen.
                scores = tuple(Scores.of(monitor) for monitor in pipeline.monitors)
            _, results = pipeline.evidence(tick)
            if tick.stamp_ns >= inside[0].stamp_ns:
                found = [result.check for result in results if result.level is Level.ANOMALY]
                anomalies |= {check: anomalies.get(check, 0) + 1 for check in found}
                log.counts.append([len(each.score) for each in scores])
                log.found.append(bool(found))
            if tick is inside[split - 1]:
                parameters = pipeline.parameters
            if on_tick is not None:
                on_tick(done, len(ticks))
    clean = log.clean([tick.stamp_ns for tick in inside])
    first_s, split_s, last_s = ((inside[i].stamp_ns - start_ns) / NS_PER_S for i in (0, split, -1))
    return Observed(
        rig, scores,
        tuple(log.rows(i, [tick for tick in range(split) if clean[tick]]) for i in range(len(scores))),
        tuple(log.rows(i, range(split, len(inside))) for i in range(len(scores))),
        anomalies, first_s, last_s, split_s - first_s, last_s - split_s, parameters,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Log:
    """counts: per tick, how many scores each monitor has given so far. found: per tick, whether a check alarmed."""

    counts: list[list[int]]
    found: list[bool]

    def clean(self, stamps_ns: Sequence[int]) -> list[bool]:
        """Per tick, whether no check alarmed shortly before or after it."""
        alarms = np.array([stamp for stamp, found in zip(stamps_ns, self.found, strict=True) if found], dtype=np.int64)
        nearest = [int(np.abs(alarms - stamp).min(initial=2**62)) for stamp in stamps_ns]
        return [distance > AROUND_ANOMALY_NS for distance in nearest]

    def rows(self, monitor: int, ticks: Sequence[int]) -> list[int]:
        """Numbers of the scores that a monitor gave in these ticks."""
        return [
            row
            for tick in ticks
            for row in range(self.counts[tick - 1][monitor] if tick else 0, self.counts[tick][monitor])
        ]


def calibrate_sensors(
    observed: Observed, hours_between_alarms: float, *, recording: str = "", allow_anomalies: bool = False
) -> SensorCalibration:
    """Fit every monitor on the first part and count its alarms on the held-out one.

    Args:
        hours_between_alarms: of all monitors together; each gets an equal share. recording: its name, for the file.
        allow_anomalies: fit on what lies apart from what a check found; an attack that none found may hide in it.

    Raises:
        NotCleanError: EG-L006, with the check that found something. CalibrationError: EG-L007, no monitor gave a score.
    """
    if observed.anomalies and not allow_anomalies:
        worst = max(observed.anomalies, key=lambda name: observed.anomalies[name])
        raise NotCleanError(
            f"the recording is not clean: {worst} found an anomaly in {observed.anomalies[worst]} ticks",
            hint="find out why with edgeguard replay RECORDING, choose a clean part with --from and --to, "
            "or say --allow-anomalies",
        )
    giving = [each for each in zip(observed.scores, observed.fit, observed.tail, strict=True) if each[0].score]
    if not giving:
        raise CalibrationError(
            "no check of this rig has given a score", code="EG-L007", hint="the rig must move, with all sensors on"
        )
    rng = np.random.default_rng(SEED)
    share_hours = hours_between_alarms * len(giving)
    fitted = {
        scores.name: fit_scores(scores.part(rows), share_hours, rng, trust_tail=not observed.anomalies)
        for scores, rows, _ in giving
    }
    fits = SensorFits({name: tuple(one.bin for one in bins) for name, bins in fitted.items()})
    alarms = sum(scores.part(tail).alarms(fits) for scores, _, tail in giving)
    section = SensorSection(
        rig=observed.rig,
        made=Made(
            recording[:256],
            observed.from_s,
            observed.to_s,
            hours_between_alarms,
            sum(observed.anomalies.values()),
            observed.fit_s,
        ),
        held_out=HeldOut(observed.tail_s, alarms, poisson_upper(alarms) * 3600.0 / observed.tail_s),
        monitors={
            scores.name: Monitor(scores.definition, tuple(_bin(one) for one in fitted[scores.name]))
            for scores, _, _ in giving
            if fitted[scores.name]
        }
        | {name: _parameter(at, sd, observed.fit_s) for name, (at, sd) in observed.parameters.items()},
    )
    rows = tuple(
        Fitted(scores.name, scores.prior.unit, one, scores.prior.sigma, _detectable(scores, one))
        for scores, _, _ in giving
        for one in fitted[scores.name]
    )
    unseen = tuple(scores.name for scores in observed.scores if not fitted.get(scores.name))
    return SensorCalibration(section, rows, unseen)


def _parameter(location: float, sigma: float, clean_s: float) -> Monitor:
    return Monitor(PARAMETER, (Bin(0.0, None, location, sigma, 0, clean_s, 1.0, 1.0, "data"),))


def _bin(one: FittedBin) -> Bin:
    fit = one.bin.fit
    high = None if one.bin.to_m_s == float("inf") else one.bin.to_m_s
    return Bin(
        from_m_s=one.bin.from_m_s, to_m_s=high, location=fit.location, sigma=fit.sigma, samples=fit.samples,
        clean_s=fit.clean_s, cusum_h=fit.cusum_h, decorrelation_samples=fit.decorrelation_samples,
        basis="data" if one.basis == "data" else "prior",
    )  # fmt: skip


def _detectable(scores: Scores, one: FittedBin) -> float:
    """The power of the monitor in this bin, at the rate at which it gave scores."""
    monitor = scores.monitor(SensorFits({scores.name: (one.bin,)}))
    for t_s in (0.0, scores.period_s):
        monitor.push(t_s, one.bin.fit.location, one.bin.from_m_s)
    return monitor.power()
