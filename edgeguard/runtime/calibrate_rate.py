"""The second half of a calibration: with its fits in use, the thresholds that keep the rate of the whole system.

Every recording runs a second time, now through checks that use the fits. What every statistic climbs to by itself, as
it is judged, is what its threshold is derived from; no model of any check is involved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeguard.checks.calibration_file import HeldOut
from edgeguard.checks.calibration_file import Threshold as WrittenThreshold
from edgeguard.checks.quantiles import poisson_upper
from edgeguard.checks.scores import SensorFits
from edgeguard.checks.tails import CLUSTER_S, Tail, fit_tail, peaks_of
from edgeguard.checks.thresholds import Threshold, share_rate
from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.config import Config
from edgeguard.errors import CalibrationError
from edgeguard.runtime.calibrate import (
    AROUND_ANOMALY_NS,
    HELD_OUT_SHARE,
    Observed,
    SensorCalibration,
    calibrate_sensors,
    observe,
)
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.sensors.recorded import Recording
from edgeguard.types import Level

# Between two recordings in the joined time of their scores: longer than any sum remembers.
APART_S = 3600.0


@dataclass(frozen=True, slots=True)
class Climbs:
    """What every statistic reached in every tick of one recording, shares of its shipped threshold.

    peaks: name to (T,). clean: (T,) whether no check alarmed near the tick on shipped thresholds. split: first tick of
    the held-out part. period_s: between ticks.
    """

    peaks: Mapping[str, NDArray[np.float64]]
    clean: NDArray[np.bool_]
    split: int
    period_s: float

    def fitted(self, name: str, *, all_clean: bool) -> NDArray[np.float64]:
        """What to derive from: the first part, zero where something was found; everything where all is known clean."""
        peaks = self.peaks[name]
        return peaks if all_clean else np.where(self.clean, peaks, 0.0)[: self.split]

    def seconds(self, *, all_clean: bool) -> float:
        """Length of that."""
        count = len(self.clean) if all_clean else int(self.clean[: self.split].sum())
        return count * self.period_s

    def alarms(self, thresholds: Mapping[str, Threshold], *, from_tick: int = 0) -> int:
        """Alarms of the whole system from a tick on; those closer together than `CLUSTER_S` are one."""
        raised = np.zeros(len(self.clean) - from_tick, dtype=bool)
        for name, peaks in self.peaks.items():
            raised |= peaks[from_tick:] > thresholds[name].scale
        at_s = np.flatnonzero(raised) * self.period_s
        return int(np.count_nonzero(np.diff(at_s, prepend=-np.inf) > CLUSTER_S))


def calibrate(
    recordings: Sequence[Recording],
    config: Config,
    hours_between_alarms: float,
    *,
    names: str = "",
    from_s: float = 0.0,
    to_s: float = float("inf"),
    allow_anomalies: bool = False,
    known_clean: bool = False,
    sure: bool = False,
    on_tick: Callable[[int, int], None] | None = None,
) -> tuple[SensorCalibration, Observed]:
    """Fit every monitor and derive every threshold from clean recordings of one rig.

    Args:
        hours_between_alarms: of everything that has a statistic, together. names: of the recordings, for the file.
        from_s, to_s: part of each. allow_anomalies: leave out what lies near one instead of refusing. known_clean:
            nothing in them can be an attack (a simulated drive), so that what alarms is counted as clean, and the
            thresholds rest on all of it, the held-out part included.
        sure: thresholds that are passed at most that often in 95 % of such calibrations, instead of on average.

    Raises:
        NotCleanError: EG-L006. CalibrationError: EG-L004 the recordings are of different rigs, EG-L007 too short.
    """
    done = _Progress(on_tick, 2 * len(recordings))
    observed = join(
        [observe(each, config, from_s=from_s, to_s=to_s, on_tick=done.part(i)) for i, each in enumerate(recordings)]
    )
    result = calibrate_sensors(
        observed, hours_between_alarms, recording=names, allow_anomalies=allow_anomalies or known_clean
    )
    fits = result.section.fits()
    climbs = [
        climb(each, config, fits, from_s=from_s, to_s=to_s, on_tick=done.part(len(recordings) + i))
        for i, each in enumerate(recordings)
    ]
    tails = tails_of(climbs, all_clean=known_clean)
    return with_thresholds(result, climbs, tails, sure=sure), observed


def join(parts: Sequence[Observed]) -> Observed:
    """Several recordings of one rig as one.

    Raises:
        CalibrationError: EG-L004.
    """
    first = parts[0]
    if any(part.rig != first.rig for part in parts):
        raise CalibrationError(
            "the recordings are of different rigs", code="EG-L004", hint="calibrate each rig on recordings of its own"
        )
    if len(parts) == 1:
        return first
    scores = tuple(replace(each, t_s=[], score=[], speed_m_s=[]) for each in first.scores)
    fit: tuple[list[int], ...] = tuple([] for _ in scores)
    tail: tuple[list[int], ...] = tuple([] for _ in scores)
    begin_s = 0.0
    for part in parts:
        for all_, one, fit_rows, tail_rows, fit_one, tail_one in zip(
            scores, part.scores, fit, tail, part.fit, part.tail, strict=True
        ):
            fit_rows += [row + len(all_.score) for row in fit_one]
            tail_rows += [row + len(all_.score) for row in tail_one]
            all_.t_s += [begin_s + t_s - (one.t_s[0] if one.t_s else 0.0) for t_s in one.t_s]
            all_.score += one.score
            all_.speed_m_s += one.speed_m_s
        begin_s += part.to_s - part.from_s + APART_S
    checks = {check for part in parts for check in part.anomalies}
    return replace(
        first,
        scores=scores,
        fit=fit,
        tail=tail,
        anomalies={check: sum(part.anomalies.get(check, 0) for part in parts) for check in checks},
        to_s=first.from_s + sum(part.to_s - part.from_s for part in parts),
        fit_s=sum(part.fit_s for part in parts),
        tail_s=sum(part.tail_s for part in parts),
        parameters=_joined([part.parameters for part in parts]),
    )


def _joined(parts: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Means over drives; what differs from drive to drive is in their standard deviation too."""
    found = {}
    for name in sorted({name for part in parts for name in part}):
        means, sds = np.array([part[name] for part in parts if name in part]).T
        found[name] = float(means.mean()), float(np.sqrt(np.mean(sds**2) + means.var()))
    return found


def climb(
    recording: Recording,
    config: Config,
    fits: SensorFits,
    *,
    from_s: float = 0.0,
    to_s: float = float("inf"),
    on_tick: Callable[[int, int], None] | None = None,
) -> Climbs:
    """Run the checks with these fits and write down what every statistic reaches."""
    ticks = list(recording.ticks())
    start_ns = ticks[0].stamp_ns
    ticks = [tick for tick in ticks if tick.stamp_ns - start_ns <= to_s * NS_PER_S]
    clock = ManualClock(start_ns=start_ns - 1)
    rows: list[list[float]] = []
    stamps: list[int] = []
    found: list[int] = []
    sources = recording.sources(clock)
    with Pipeline(config, sources, clock, calibration=recording.calibration, fits=fits) as pipeline:
        statistics = pipeline.statistics
        for done, tick in enumerate(ticks, 1):
            _, results = pipeline.evidence(tick)
            row = [statistic.take_peak() for statistic in statistics]
            if tick.stamp_ns - start_ns >= from_s * NS_PER_S:
                rows.append(row)
                stamps.append(tick.stamp_ns)
                if any(result.level is Level.ANOMALY for result in results):
                    found.append(tick.stamp_ns)
            if on_tick is not None:
                on_tick(done, len(ticks))
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(statistics))
    peaks: dict[str, NDArray[np.float64]] = {}
    for column, statistic in enumerate(statistics):
        # One check may run for several sensors under one name: they share one threshold.
        before = peaks.get(statistic.name, 0.0)
        peaks[statistic.name] = np.maximum(before, table[:, column])
    nearest = [min((abs(stamp - other) for other in found), default=2**62) for stamp in stamps]
    period_s = float(np.median(np.diff(stamps))) / NS_PER_S
    split = round(len(rows) * (1.0 - HELD_OUT_SHARE))
    return Climbs(peaks, np.array(nearest) > AROUND_ANOMALY_NS, split, period_s)


def tails_of(climbs: Sequence[Climbs], *, all_clean: bool) -> dict[str, Tail | None]:
    """The tail of every statistic over the parts to derive from."""
    seconds = sum(each.seconds(all_clean=all_clean) for each in climbs)

    def peaks(name: str) -> NDArray[np.float64]:
        return np.concatenate([peaks_of(each.fitted(name, all_clean=all_clean), each.period_s) for each in climbs])

    return {name: fit_tail(peaks(name), seconds) for name in climbs[0].peaks}


def with_thresholds(
    result: SensorCalibration, climbs: Sequence[Climbs], tails: Mapping[str, Tail | None], *, sure: bool
) -> SensorCalibration:
    """The calibration with thresholds for its stated rate, and what all of it did on the held-out part."""
    section = result.section
    thresholds = share_rate(tails, 1.0 / section.made.hours_between_alarms, sure=sure)
    alarms = sum(each.alarms(thresholds, from_tick=each.split) for each in climbs)
    seconds = section.held_out.seconds
    section = msgspec.structs.replace(
        section,
        made=msgspec.structs.replace(section.made, margin="sure" if sure else "mean"),
        held_out=HeldOut(seconds, alarms, poisson_upper(alarms) * 3600.0 / seconds),
        thresholds={name: WrittenThreshold(t.scale, t.per_hour, t.peaks) for name, t in thresholds.items()},
    )
    return replace(result, section=section, thresholds=thresholds)


@dataclass(frozen=True, slots=True)
class _Progress:
    """Progress over several runs as one."""

    on_tick: Callable[[int, int], None] | None
    runs: int

    def part(self, run: int) -> Callable[[int, int], None] | None:
        on_tick, runs = self.on_tick, self.runs
        if on_tick is None:
            return None
        return lambda done, total: on_tick(run * 1000 + 1000 * done // total, runs * 1000)
