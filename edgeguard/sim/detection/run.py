"""Runs the rows over one recording: fit on its first part in time, then one clean run with trials branching off it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, isfinite

import cv2
import msgspec
import numpy as np

from edgeguard.checks.lidar_evidence import LidarEvidence
from edgeguard.checks.scores import SensorFits
from edgeguard.clock import NS_PER_S, ManualClock, SystemClock
from edgeguard.config import Config
from edgeguard.errors import ScenarioError
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.sensors.recorded import FRAME_KINDS, Recording
from edgeguard.sim.detection.branch import Branches
from edgeguard.sim.detection.playback import Playback
from edgeguard.sim.detection.rows import Row
from edgeguard.sim.detection.scene import Scene
from edgeguard.sim.detection.trial import SETTLE_S, Before, Trial, run_trial, score_of, sees_content
from edgeguard.types import (
    Check,
    FrameResult,
    GnssFix,
    PointCloud,
    RigCalibration,
    Sample,
    SourceInfo,
    Tick,
    TrustState,
    WheelOdometry,
)

FIT_SHARE = 0.5
MIN_TICKS = 3
# Budget of a row, in ticks with camera or lidar: 300 ticks of 50 ms are 15 s of one core, all rows together about five
# minutes. A tick without frames costs a twentieth.
BUDGET_TICKS = 300.0
LIGHT_TICK = 0.05
LEAST_TRIALS, MOST_TRIALS = 8, 80
MOST_VARIANTS = 8
ELSEWHERE_FRAMES = 12  # of the recording's beginning, kept for rows that show another place


@dataclass(slots=True, eq=False)
class CleanTick:
    """One tick of the clean run."""

    time_s: float
    speed_m_s: float | None
    scores: Mapping[str, float]
    observable: frozenset[str]
    anomalies: tuple[tuple[str, tuple[str, ...]], ...]
    blamed: frozenset[str]


@dataclass(slots=True, eq=False)
class Measured:
    """Everything that was seen on one recording."""

    infos: Mapping[str, SourceInfo]
    length_s: float
    fit_s: tuple[float, float]
    test_s: tuple[float, float]
    clean: list[CleanTick] = field(default_factory=list)
    trials: dict[str, list[Trial]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    spent_s: float = 0.0


def measure(
    recording: Recording,
    rows: Sequence[Row],
    *,
    fits: SensorFits | None = None,
    config: Config | None = None,
    seed: int = 0,
    fit_share: float = FIT_SHARE,
    effort: float = 1.0,
    jobs: int = 1,
    extra_checks: Sequence[Check] = (),
    on_tick: Callable[[int, int], None] | None = None,
) -> Measured:
    """Drive the recording once and branch off trials in its test part.

    Args:
        fits: a calibration, made on anything but the test part. fit_share: of the recording's length, its first part;
            no attack begins in it. effort: factor on the number of trials. jobs: processes at once. extra_checks: a
            user's own, new ones. on_tick: gets ticks done and ticks in all.

    Raises:
        ScenarioError: EG-X044 when the recording has no ticks to attack.
    """
    ticks = list(recording.ticks())
    if len(ticks) < MIN_TICKS:
        raise ScenarioError(
            f"the recording has {len(ticks)} ticks", code="EG-X044", hint="a few seconds of a drive are needed"
        )
    watch = SystemClock()
    began_ns = watch.now_ns()
    cv2.setNumThreads(1)  # its pool does not survive a fork
    run = _Run(recording, ticks, rows, fits, config or Config(), seed, fit_share, effort, jobs, extra_checks)
    done = run.drive(on_tick)
    done.spent_s = (watch.now_ns() - began_ns) / NS_PER_S
    return done


class _Quota:
    """How many trials of a row are due: its number spread evenly over the ticks at which one is possible."""

    def __init__(self, row: Row, wanted: int, candidates: int) -> None:
        self.row = row
        per_tick = wanted / max(1, candidates)
        self.step = min(per_tick, MOST_VARIANTS) if row.varied else min(per_tick, 1.0)
        self._credit = 0.0
        self.number = 0

    def due(self, possible: bool) -> int:
        """Return how many to start at this tick."""
        # What could not be done while the car stood is made up for, but not all at one moment.
        self._credit = min(self._credit + self.step, float(max(1, ceil(self.step))))
        if not possible or self._credit < 1.0 - 1e-9:
            return 0
        count = int(self._credit + 1e-9)
        self._credit -= count
        self.number += count
        return count


class _Run:
    def __init__(
        self, recording: Recording, ticks: Sequence[Tick], rows: Sequence[Row], fits: SensorFits | None,
        config: Config, seed: int, fit_share: float, effort: float, jobs: int,
        extra_checks: Sequence[Check],
    ) -> None:  # fmt: skip
        self._ticks, self._seed = ticks, seed
        self._origin_ns = ticks[0].stamp_ns
        self._end_ns = ticks[-1].stamp_ns
        cut_ns = self._origin_ns + int(fit_share * (self._end_ns - self._origin_ns))
        self._first_test = next(i for i, t in enumerate(ticks) if t.stamp_ns > cut_ns or i == len(ticks) - 1)
        self._clock = ManualClock(ticks[0].stamp_ns - 1)
        self._playback = Playback(recording, self._clock, ticks[0].stamp_ns - 1)
        self._calibration: RigCalibration | None = recording.calibration
        self._pipeline = Pipeline(
            config,
            self._playback.sources,
            self._clock,
            calibration=recording.calibration,
            fits=fits,
            extra_checks=extra_checks,
        )
        self._infos = {name: source.info for name, source in self._playback.sources.items()}
        self._branches = Branches(jobs)
        self._tags: list[tuple[str, float]] = []
        self._kinds = {row.name: row.kind for row in rows}
        self._elsewhere: dict[str, list[Sample]] = {}
        self._evidence = self._odometer()
        self._speed: float | None = None
        length_s = (self._end_ns - self._origin_ns) / NS_PER_S
        cut_s = (ticks[self._first_test].stamp_ns - self._origin_ns) / NS_PER_S
        self._done = Measured(self._infos, length_s, (0.0, cut_s), (cut_s, length_s))
        self._done.notes.extend(str(dict(note)) for note in recording.notes)
        self._quotas = [q for row in rows if (q := self._quota(row, effort)) is not None]

    # ---- planning --------------------------------------------------------------------------------------------

    def _quota(self, row: Row, effort: float) -> _Quota | None:
        target = next((name for name, info in self._infos.items() if info.kind is row.kind), None)
        if target is None:
            self._done.missing[row.name] = f"the recording has no {row.kind.__name__}"
            return None
        need_s = self._need_s(row)
        candidates = sum(1 for t in self._ticks[self._first_test :] if self._end_ns - t.stamp_ns >= need_s * NS_PER_S)
        if candidates == 0:
            self._done.missing[row.name] = f"no moment of the test part has {need_s:.1f} s after it"
            return None
        step_s = self._tick_s()
        light = not any(issubclass(info.kind, FRAME_KINDS) for info in self._infos.values())
        # Found early, a trial settles and ends; not found, it runs for as long as it is watched.
        cost = (min(need_s, 2.0) + SETTLE_S) / step_s * (LIGHT_TICK if light else 1.0)
        wanted = min(max(effort * row.effort * BUDGET_TICKS / cost, LEAST_TRIALS), MOST_TRIALS * max(1.0, effort))
        return _Quota(row, round(wanted), candidates)

    def _need_s(self, row: Row) -> float:
        """How long a trial must be able to last to be fair: what its goal allows, or its whole watch if that is
        shorter."""
        sensor = next(name for name, info in self._infos.items() if info.kind is row.kind)
        period_s = self._infos[sensor].period_ns / NS_PER_S
        watched_s = row.watched_s(period_s)
        if row.goal is None:
            return min(watched_s, 2.0)
        goal_s = row.goal.seconds if row.goal.seconds is not None else (row.goal.frames or 1) * period_s
        return min(watched_s, goal_s + 2 * period_s)

    def _tick_s(self) -> float:
        steps = [b.stamp_ns - a.stamp_ns for a, b in itertools.pairwise(self._ticks)]
        return max(1e-3, float(np.median(steps)) / NS_PER_S)

    def _odometer(self) -> LidarEvidence | None:
        """Speed from sweeps, where no wheel and no receiver tells it."""
        kinds = {info.kind for info in self._infos.values()}
        if kinds & {WheelOdometry, GnssFix} or PointCloud not in kinds:
            return None
        sensor = next(name for name, info in self._infos.items() if info.kind is PointCloud)
        return LidarEvidence(self._calibration or RigCalibration(np.eye(3), np.eye(4), (1, 1)), sensor)

    # ---- the clean run ---------------------------------------------------------------------------------------

    def drive(self, on_tick: Callable[[int, int], None] | None) -> Measured:
        farthest_s = max((q.row.watched_s(self._period_s(q.row)) for q in self._quotas), default=0.0) + SETTLE_S
        try:
            with self._pipeline:
                for index, tick in enumerate(self._ticks):
                    self._playback.load_until(tick.stamp_ns + int((farthest_s + 0.5) * NS_PER_S))
                    frame = self._pipeline.step(tick)
                    self._keep_elsewhere(frame)
                    self._notice_speed(frame)
                    if index >= self._first_test:
                        self._done.clean.append(self._clean_tick(frame))
                        self._start_trials(index, tick, frame)
                    if on_tick is not None:
                        on_tick(index + 1, len(self._ticks))
                self._take(self._branches.finish())
        finally:
            self._branches.stop()
            self._playback.close()
        for name, trials in self._done.trials.items():
            self._done.trials[name] = [self._unless_accused_anyway(trial) for trial in trials]
        return self._done

    def _unless_accused_anyway(self, trial: Trial) -> Trial:
        """A detection that the clean run made too, at the same tick by the same checks, is nobody's: void."""
        if trial.found_ns is None:
            return trial
        time_s = (trial.found_ns - self._origin_ns) / NS_PER_S
        clean = next((tick for tick in self._done.clean if abs(tick.time_s - time_s) < 1e-6), None)
        if clean is None:
            return trial
        target = next(name for name, info in self._infos.items() if info.kind is self._kinds[trial.row])
        accusing = {check for check, sensors in clean.anomalies if target in sensors}
        by_itself = set(trial.raised) <= accusing if trial.raised else target in clean.blamed
        if not by_itself:
            return trial
        return msgspec.structs.replace(trial, status="void", why="the clean run accused it at the same moment")

    def _period_s(self, row: Row) -> float:
        return next(i.period_ns for i in self._infos.values() if i.kind is row.kind) / NS_PER_S

    def _keep_elsewhere(self, frame: FrameResult) -> None:
        for name, info in self._infos.items():
            kept = self._elsewhere.setdefault(name, [])
            if issubclass(info.kind, FRAME_KINDS) and len(kept) < ELSEWHERE_FRAMES:
                kept.extend(frame.synced.series.get(name, ())[: ELSEWHERE_FRAMES - len(kept)])

    def _notice_speed(self, frame: FrameResult) -> None:
        if self._evidence is not None:
            motion = self._evidence.motion(frame.synced)
            self._speed = motion.speed_m_s if motion is not None else None
            return
        for kind in (WheelOdometry, GnssFix):
            for name, info in self._infos.items():
                series = frame.synced.series.get(name, ())
                if info.kind is kind and series:
                    speed = getattr(series[-1], "speed_m_s", None)
                    if speed is not None and isfinite(speed):
                        self._speed = float(speed)
                        return

    def _clean_tick(self, frame: FrameResult) -> CleanTick:
        seen = frozenset(s for r in frame.results if sees_content(r) for s in r.sensors)
        return CleanTick(
            (frame.synced.stamp_ns - self._origin_ns) / NS_PER_S,
            self._speed,
            {name: score_of(frame.results, name) for name in self._infos},
            seen,
            tuple((r.check, r.sensors) for r in frame.anomalies),
            frozenset(s for s, t in frame.fused.trust.items() if t.state is not TrustState.TRUSTED),
        )

    # ---- trials ----------------------------------------------------------------------------------------------

    def _start_trials(self, index: int, tick: Tick, frame: FrameResult) -> None:
        left_s = (self._end_ns - tick.stamp_ns) / NS_PER_S
        for quota in self._quotas:
            if left_s < self._need_s(quota.row):
                continue
            for variant in range(quota.due(self._possible(quota.row))):
                self._branch(quota.row, index, tick, frame, variant)

    def _possible(self, row: Row) -> bool:
        if row.least_speed_m_s <= 0.0:
            return True
        return self._speed is not None and abs(self._speed) >= row.least_speed_m_s

    def _branch(self, row: Row, index: int, tick: Tick, frame: FrameResult, variant: int) -> None:
        farthest_ns = tick.stamp_ns + int((row.watched_s(self._period_s(row)) + SETTLE_S + 0.4) * NS_PER_S)
        ahead = list(itertools.takewhile(lambda t: t.stamp_ns <= farthest_ns, self._ticks[index + 1 :]))
        numbers = [self._seed, index, variant, *row.name.encode()]
        before = Before.of(frame)

        def work() -> bytes:
            clock = SystemClock()
            began_ns = clock.now_ns()
            scene = Scene(
                self._infos, self._calibration, {name: self._playback.past(name) for name in self._infos},
                self._elsewhere, self._speed, row.horizon_s, np.random.default_rng(numbers),
            )  # fmt: skip
            seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
            trial = run_trial(
                row, scene, before, self._pipeline, self._playback, tick.stamp_ns, ahead, self._origin_ns, seed
            )
            return msgspec.json.encode(msgspec.structs.replace(trial, spent_s=(clock.now_ns() - began_ns) / NS_PER_S))

        tag = len(self._tags)
        self._tags.append((row.name, (tick.stamp_ns - self._origin_ns) / NS_PER_S))
        self._take(self._branches.start(tag, work))

    def _take(self, results: Iterator[tuple[int, bytes | None]]) -> None:
        for tag, said in results:
            name, onset_s = self._tags[tag]
            trial = (
                Trial(name, onset_s, "error", "the trial failed or hung")
                if said is None
                else msgspec.json.decode(said, type=Trial)
            )
            self._done.trials.setdefault(name, []).append(trial)
