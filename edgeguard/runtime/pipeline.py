"""`Pipeline`: sensors -> sync -> checks -> fusion -> restore -> infer -> guard -> audit, one tick at a time.

The pipeline owns no algorithm and no thread. Time is injected: on a device `SystemClock` sleeps to the next poll;
under `ManualClock` waiting is what moves a simulation or a replay on, so a run is a function of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edgeguard.checks.scores import ScoreMonitor, SensorFits
from edgeguard.clock import Clock, Stopwatch, SystemClock
from edgeguard.config import Config
from edgeguard.errors import AuditError, ModelError, SensorError
from edgeguard.fusion.fusion import Fusion
from edgeguard.guard.policy import Guard
from edgeguard.restore.chain import RestoreChain, build_restorers
from edgeguard.runtime.calibration import Statistic, load_fits, monitors_of, require_definitions, statistics_of
from edgeguard.runtime.record import frame_record
from edgeguard.runtime.stages import build_checks, build_evidence
from edgeguard.sync.synchronizer import Synchronizer
from edgeguard.types import (
    CAMERA,
    CameraModel,
    Check,
    CheckResult,
    FrameResult,
    Image,
    ModelAnswer,
    Restorer,
    RigCalibration,
    Sample,
    Source,
    SyncedSet,
    Tick,
    TrustState,
    Verdict,
)

if TYPE_CHECKING:
    from edgeguard.audit.log import AuditLog
    from edgeguard.restore.diagnose import Limits

NS_PER_MS = 1_000_000

# Samples taken from one source per poll. A flood on one line must not starve the others: the rest waits for the
# next poll, where the source's own bounded buffer counts what overflows.
MAX_SAMPLES_PER_POLL = 256


class Pipeline:
    """Builds the stages from `config` and runs them.

    Args:
        config: the whole configuration.
        sources: sensor name -> source; opened and closed with the pipeline.
        clock: injected time.
        calibration: geometry of camera and lidar, where the rig has both.
        fits: what clean data of this rig look like; what `config.calibration` names where not given.
        model: the verified model to ask about camera frames, an `ImageModel` or a gate in front of several; None guards
            sensors only.
        audit: log that gets one record a tick, or None.
        recheck: called before each frame that the model would see; when it raises `ModelError` (the model has been
            revoked, has expired) the verdict latches at STOP and the model runs no more. See `ModelWatch`.
        extra_checks, extra_restorers: a user's own, run after the built-in ones.
        limits: of this camera, for the restorer `diagnosed`; see `OpenedModel`.

    Use as a context manager. Raises what the sources raise on open; during a run a failing source becomes evidence
    against its sensor, never an exception.
    """

    def __init__(
        self,
        config: Config,
        sources: Mapping[str, Source],
        clock: Clock,
        *,
        calibration: RigCalibration | None = None,
        fits: SensorFits | None = None,
        model: CameraModel | None = None,
        audit: AuditLog | None = None,
        recheck: Callable[[], None] | None = None,
        extra_checks: Sequence[Check] = (),
        extra_restorers: Sequence[Restorer] = (),
        limits: Limits | None = None,
    ) -> None:
        self.config = config
        self.sources = dict(sources)
        self.clock = clock
        self.model = model
        self.audit = audit
        self._recheck = recheck
        self._model_refused = False
        self._sync = Synchronizer([source.info for source in self.sources.values()])
        if fits is None:
            infos = [source.info for source in self.sources.values()]
            fits = load_fits(config, infos, calibration, wall_ns=SystemClock().wall_ns())
        evidence = build_evidence(self.sources, calibration)
        self._checks = [*build_checks(config.checks, self.sources, calibration, fits, evidence), *extra_checks]
        if fits is not None:
            require_definitions(fits, self._checks)
        self._fusion = Fusion(tuple(self.sources), calibration, evidence, config.checks.disabled)
        restorers = [*build_restorers(config.restore, limits), *extra_restorers]
        self._restore = RestoreChain(restorers, seed=config.pipeline.seed)
        self._guard = Guard(config.guard, require_model=model is not None)
        self._opened = ExitStack()

    @property
    def checks(self) -> tuple[str, ...]:
        """Names of the checks that run, in order; those of fusion last."""
        return (*(check.name for check in self._checks), *self._fusion.checks)

    @property
    def monitors(self) -> tuple[ScoreMonitor, ...]:
        """Statistical monitors of the checks, in order."""
        return monitors_of(self._checks)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """What the alarm rate of the whole system is shared among, in order."""
        return statistics_of(self._checks)

    @property
    def parameters(self) -> dict[str, tuple[float, float]]:
        """What checks have learned of this rig's physics so far: name to mean and standard deviation."""
        return {name: value for check in self._checks for name, value in getattr(check, "parameters", {}).items()}

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            for source in self.sources.values():
                source.open()
                opening.callback(source.close)
            self._opened = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def run(self, ticks: Iterable[Tick]) -> Iterator[FrameResult]:
        """Run one tick after the other, lazily."""
        for tick in ticks:
            yield self.step(tick)

    def step(self, tick: Tick) -> FrameResult:
        """Collect until the tick, then take the whole way from samples to verdict."""
        watch = Stopwatch()
        synced, results = self.evidence(tick, watch)
        fused = self._fusion.update(synced, results)
        watch.lap("fusion")
        restored, restorations = self._restore.restore(synced)
        watch.lap("restore")
        self._recheck_model()
        answer = self._infer(restored.samples, fused.trust[CAMERA].state if CAMERA in fused.trust else None)
        asked = None if answer is None or _refused(answer) else answer.detections
        watch.lap("infer")
        fused = self._fusion.confirm(synced, fused, asked)
        results = (*results, *fused.results)
        watch.lap("confirm")
        inputs = answer.inputs if answer is not None else None
        verdict, reason = self._guard.decide(synced, results, fused, model_loaded=self.model is not None, inputs=inputs)
        free = verdict in (Verdict.PASS, Verdict.DEGRADE)
        watch.lap("guard")
        frame = FrameResult(
            synced=restored,
            results=results,
            fused=fused if free else replace(fused, objects=()),
            restorations=restorations,
            detections=(asked or ()) if free else (),
            verdict=verdict,
            verdict_reason=reason,
            stage_ns=watch.lap_ns,
            model_id=self.model.model_id if self.model is not None else "",
            classes=answer.classes if answer is not None and free else (),
            inputs=inputs,
        )
        self._record(frame)
        watch.lap("audit")
        return frame

    def evidence(self, tick: Tick, watch: Stopwatch | None = None) -> tuple[SyncedSet, tuple[CheckResult, ...]]:
        """Collect until the tick and ask every check; the first half of `step`, in place of it."""
        watch = watch or Stopwatch()
        self._collect(tick.stamp_ns)
        watch.lap("sensors")
        synced = self._sync.tick(
            tick,
            {name: source.line_stats for name, source in self.sources.items()},
            {name: source.drops for name, source in self.sources.items()},
        )
        watch.lap("sync")
        results = tuple(check.evaluate(synced) for check in self._checks)
        watch.lap("checks")
        return synced, results

    def _record(self, frame: FrameResult) -> None:
        """Write the tick to the log. A log that cannot be written stops what leaves, never the loop."""
        if self.audit is None:
            return
        try:
            self.audit.append("frame", frame_record(frame))
        except AuditError as error:
            self._guard.latch_stop(f"audit log: {error}")

    def _collect(self, until_ns: int) -> None:
        """Poll all sources until the clock reaches the tick; what they deliver goes to sync at once."""
        poll_ns = self.config.pipeline.poll_ms * NS_PER_MS
        while True:
            now_ns = self.clock.now_ns()
            # A recording may jump far ahead: polling through the gap would only burn time.
            next_ns = until_ns if until_ns - now_ns > 100 * poll_ns else min(now_ns + poll_ns, until_ns)
            self.clock.wait_until_ns(next_ns)
            for name, source in self.sources.items():
                self._drain(name, source)
            if next_ns >= until_ns:
                return

    def _drain(self, name: str, source: Source) -> None:
        for _ in range(MAX_SAMPLES_PER_POLL):
            try:
                sample = source.read(0.0)
            except SensorError as error:
                self._sync.drop(name, error.code)
                return
            if sample is None:
                return
            self._sync.push(sample)

    def _recheck_model(self) -> None:
        """Ask whether the model may still run; once it may not, it never does again in this process."""
        if self._recheck is None or self.model is None:
            return
        try:
            self._recheck()
        except ModelError as error:
            self._guard.latch_stop(f"model: {error}")
            self._model_refused = True

    def _infer(self, samples: Mapping[str, Sample | None], camera_state: TrustState | None) -> ModelAnswer | None:
        """Ask the model about the restored frame; a camera that is not believed is not shown to it. None: not asked."""
        image = samples.get(CAMERA)
        if (
            self.model is None
            or self._model_refused
            or not isinstance(image, Image)
            or camera_state is TrustState.REJECTED
        ):
            return None
        return self.model.ask(image)


def _refused(answer: ModelAnswer) -> bool:
    return answer.inputs is not None and answer.inputs.refused
