"""`Report`: what a run showed, as one frozen value; and `ReportBuilder`, which collects it tick by tick.

Seconds are counted from the start of the run. The builder keeps numbers and a bounded set of small pictures, never
frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import msgspec
import numpy as np

from edgeguard.report.outcomes import AttackOutcome, Blame, CleanTime, TickTrust, judge_attacks, judge_clean_time
from edgeguard.report.pictures import Album, Picture
from edgeguard.report.track import Track, TrackBuilder
from edgeguard.types import CheckResult, FrameResult, Level, Truth, Verdict

NS_PER_S = 1e9
MAX_RATIO = 1000.0  # a statistic may be infinite; a plot may not
WAITING_STAGE = "sensors"  # its time is spent waiting for the next tick, not computing
# How long a sensor that was rightly blamed may stay on probation after the attack: windows of up to 5 s forget it, the
# rejection holds 5 s, and belief climbs from its floor back to trust in about 7 s (edgeguard/fusion/trust.py).
DEFAULT_RECOVERY_S = 16.0


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time with one state."""

    start_s: float
    end_s: float
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TrustLane:
    """Trust in one sensor over time, without gaps."""

    sensor: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class CheckSeries:
    """One check over time. ratio: statistic / threshold, above 1 is an anomaly; None where it was blind."""

    check: str
    sensors: tuple[str, ...]
    time_s: tuple[float, ...]
    ratio: tuple[float | None, ...]
    anomalies: int
    blind: int
    peak: float


@dataclass(frozen=True, slots=True)
class SensorRate:
    """How much one sensor delivered. dropped: per reason code."""

    sensor: str
    nominal_hz: float
    mean_hz: float
    received: int
    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StageTiming:
    """Wall time of one stage per tick."""

    stage: str
    median_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the renderers show."""

    title: str
    meta: Mapping[str, str]
    notes: tuple[str, ...]
    ticks: int
    duration_s: float
    final_verdict: str
    worst_verdict: str
    verdict_s: Mapping[str, float]
    verdicts: tuple[Span, ...]
    trust: tuple[TrustLane, ...]
    checks: tuple[CheckSeries, ...]
    attacks: tuple[AttackOutcome, ...]
    clean_s: float
    clean_seconds_blamed: float
    clean_blames: tuple[Blame, ...]
    track: Track | None
    rates: tuple[SensorRate, ...]
    timings: tuple[StageTiming, ...]
    tick_timing: StageTiming
    restored: Mapping[str, int]
    detections: int
    model_id: str
    pictures: tuple[Picture, ...]

    @property
    def passed(self) -> bool:
        """All attacks detected with the right sensor named, and no clean time blamed."""
        return all(a.detected and a.named_correctly for a in self.attacks) and self.clean_seconds_blamed == 0.0

    def to_json(self) -> bytes:
        """Return the report without its pictures' bytes, as canonical JSON."""
        pictures = tuple(replace(p, data_uri="") for p in self.pictures)
        plain = msgspec.to_builtins(replace(self, pictures=pictures), enc_hook=dict)  # read-only mappings
        return msgspec.json.encode(plain | {"passed": self.passed}, order="sorted")


class ReportBuilder:
    """Collects `FrameResult`s into a `Report`.

    Args:
        title: headline. meta: shown as given; put dates and versions here, nothing else knows them.
        recovery_s: how long after an attack a sensor may stay blamed without counting against clean time.
        start_ns: the moment seconds are counted from; the first tick without it.
    """

    def __init__(
        self,
        title: str,
        meta: Mapping[str, str] | None = None,
        *,
        recovery_s: float = DEFAULT_RECOVERY_S,
        start_ns: int | None = None,
    ) -> None:
        self._title = title
        self._meta = dict(meta or {})
        self._recovery_s = recovery_s
        self._notes: list[str] = []
        self._truths: tuple[Truth, ...] = ()
        self._start_ns = start_ns
        self._ticks: list[TickTrust] = []
        self._reasons: list[str] = []
        self._checks: dict[tuple[str, ...], _Series] = {}
        self._stages: dict[str, list[float]] = {}
        self._track = TrackBuilder()
        self._album = Album()
        self._restored: dict[str, int] = {}
        self._detections = 0
        self._last: FrameResult | None = None

    def add(self, frame: FrameResult) -> None:
        """Take in one tick; call in order."""
        if self._start_ns is None:
            self._start_ns = frame.synced.stamp_ns
        time_s = self._seconds(frame.synced.stamp_ns)
        trust = {name: belief.state for name, belief in frame.fused.trust.items()}
        self._ticks.append(TickTrust(time_s, frame.verdict, trust, frame.synced.tick.discontinuity))
        self._reasons.append(frame.verdict_reason)
        for result in frame.results:
            # A self-check runs once per sensor under one name; a cross-check is one series whoever could take part.
            key = (result.check, *(result.sensors if len(result.sensors) == 1 else ()))
            self._checks.setdefault(key, _Series(result)).add(time_s, result)
        for stage, spent_ns in frame.stage_ns.items():
            self._stages.setdefault(stage, []).append(spent_ns / 1e6)
        for restoration in frame.restorations:
            if restoration.changed_share > 0:
                self._restored[restoration.restorer] = self._restored.get(restoration.restorer, 0) + 1
        self._detections += len(frame.detections)
        self._track.add(frame, time_s)
        self._album.add(frame, time_s)
        self._last = frame

    def set_truths(self, truths: Sequence[Truth]) -> None:
        """Tell what really happened; before or after the frames."""
        self._truths = tuple(truths)

    def add_note(self, text: str) -> None:
        """Add a paragraph, shown as it is."""
        self._notes.append(text)

    def build(self) -> Report:
        """Return the report of what was added so far; equal frames give an equal report."""
        ends = _tick_ends(self._ticks)
        attacks = judge_attacks(self._ticks, self._attack_windows())
        clean: CleanTime = judge_clean_time(self._ticks, ends, attacks, self._recovery_s)
        verdicts = _spans([t.verdict.value for t in self._ticks], self._reasons, self._ticks, ends)
        verdict_s = {
            v.value: round(sum(s.end_s - s.start_s for s in verdicts if s.state == v.value), 3) for v in Verdict
        }
        sensors = list(dict.fromkeys(name for tick in self._ticks for name in tick.trust))
        order = list(Verdict)
        worst = max((t.verdict for t in self._ticks), key=order.index, default=Verdict.PASS)
        return Report(
            title=self._title,
            meta=MappingProxyType(dict(self._meta)),
            notes=tuple(self._notes),
            ticks=len(self._ticks),
            duration_s=ends[-1] if ends else 0.0,
            final_verdict=self._ticks[-1].verdict.value if self._ticks else "",
            worst_verdict=worst.value if self._ticks else "",
            verdict_s=MappingProxyType(verdict_s),
            verdicts=verdicts,
            trust=tuple(self._lane(sensor, ends) for sensor in sensors),
            checks=tuple(series.build() for series in self._checks.values()),
            attacks=attacks,
            clean_s=clean.clean_s,
            clean_seconds_blamed=clean.blamed_s,
            clean_blames=clean.blames,
            track=self._track.build(),
            rates=self._rates(),
            timings=tuple(_timing(stage, spent) for stage, spent in self._stages.items()),
            tick_timing=_timing("tick", self._tick_ms()),
            restored=MappingProxyType(dict(self._restored)),
            detections=self._detections,
            model_id=self._last.model_id if self._last is not None else "",
            pictures=self._album.choose(attacks),
        )

    def _seconds(self, stamp_ns: int) -> float:
        return round((stamp_ns - (self._start_ns or 0)) / NS_PER_S, 6)

    def _attack_windows(self) -> list[tuple[Truth, float, float]]:
        return [(truth, self._seconds(truth.start_ns), self._seconds(truth.end_ns)) for truth in self._truths]

    def _lane(self, sensor: str, ends: Sequence[float]) -> TrustLane:
        states = [t.trust[sensor].value if sensor in t.trust else "" for t in self._ticks]
        return TrustLane(sensor, _spans(states, [""] * len(states), self._ticks, ends))

    def _rates(self) -> tuple[SensorRate, ...]:
        if self._last is None:
            return ()
        covered_s = max(_tick_ends(self._ticks)[-1], 1e-9)
        return tuple(
            SensorRate(
                sensor=name,
                nominal_hz=NS_PER_S / health.period_ns if health.period_ns > 0 else 0.0,
                mean_hz=health.received / covered_s,
                received=health.received,
                dropped=MappingProxyType(dict(health.dropped)),
            )
            for name, health in self._last.synced.health.items()
        )

    def _tick_ms(self) -> list[float]:
        working = [spent for stage, spent in self._stages.items() if stage != WAITING_STAGE]
        return [sum(stages) for stages in zip(*working, strict=False)]


class _Series:
    """One check's numbers while the run goes on."""

    def __init__(self, first: CheckResult) -> None:
        self._first = first
        self._time_s: list[float] = []
        self._ratio: list[float | None] = []
        self._anomalies = 0
        self._sensors: dict[str, None] = {}

    def add(self, time_s: float, result: CheckResult) -> None:
        self._time_s.append(time_s)
        self._ratio.append(_ratio(result))
        self._anomalies += result.level is Level.ANOMALY
        self._sensors.update(dict.fromkeys(result.sensors))

    def build(self) -> CheckSeries:
        seen = [r for r in self._ratio if r is not None]
        return CheckSeries(
            check=self._first.check,
            sensors=tuple(self._sensors),
            time_s=tuple(self._time_s),
            ratio=tuple(self._ratio),
            anomalies=self._anomalies,
            blind=len(self._ratio) - len(seen),
            peak=max(seen, default=0.0),
        )


def _ratio(result: CheckResult) -> float | None:
    """Statistic over threshold, finite, on the side of 1 that the level says; None where the check was blind."""
    if result.level is Level.NOT_OBSERVABLE:
        return None
    is_anomaly = result.level is Level.ANOMALY
    ratio = result.statistic / result.threshold if result.threshold > 0 else (MAX_RATIO if is_anomaly else 0.0)
    if not np.isfinite(ratio):
        ratio = MAX_RATIO if is_anomaly else 0.0
    return float(np.clip(ratio, 0.0, MAX_RATIO))


def _tick_ends(ticks: Sequence[TickTrust]) -> list[float]:
    """When each tick's state ends: at the next tick, or one usual step later where time jumps or the run is over."""
    if not ticks:
        return []
    times = np.array([t.time_s for t in ticks])
    steps = np.diff(times)
    usual = float(np.median(steps)) if steps.size else 0.0
    ends = [*times[1:].tolist(), float(times[-1]) + usual]
    for index, following in enumerate(ticks[1:]):
        if following.discontinuity:
            ends[index] = float(times[index]) + usual
    return [round(end, 6) for end in ends]


def _spans(
    states: Sequence[str], reasons: Sequence[str], ticks: Sequence[TickTrust], ends: Sequence[float]
) -> tuple[Span, ...]:
    """Join ticks of equal state; the reason is the first one's."""
    spans: list[Span] = []
    for state, reason, tick, end_s in zip(states, reasons, ticks, ends, strict=True):
        last = spans[-1] if spans else None
        if last is not None and last.state == state and last.end_s == tick.time_s:
            spans[-1] = replace(last, end_s=end_s)
        else:
            spans.append(Span(tick.time_s, end_s, state, reason))
    return tuple(spans)


def _timing(stage: str, spent_ms: Sequence[float]) -> StageTiming:
    if not spent_ms:
        return StageTiming(stage, 0.0, 0.0)
    median_ms, p99_ms = np.percentile(spent_ms, [50, 99])
    return StageTiming(stage, round(float(median_ms), 3), round(float(p99_ms), 3))
