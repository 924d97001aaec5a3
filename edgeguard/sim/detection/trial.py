"""One trial: from the clean run's present on, with an attack, until it is found or the watch is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, isnan

import msgspec

from edgeguard.clock import NS_PER_S
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.sim.detection.comparing import comparing_sources
from edgeguard.sim.detection.playback import Playback
from edgeguard.sim.detection.rows import Row
from edgeguard.sim.detection.scene import Scene
from edgeguard.types import CheckResult, FrameResult, Level, Tick, TrustState

# After detection a trial goes on so long, to see whom the blame settles on: whoever vouches needs the two seconds that
# its power is about, and a name found by elimination waits 0.5 s.
SETTLE_S = 3.0
# Timing and line checks see the moment of a switch-over; what an AUROC asks is whether the content betrays it.
_STREAM_FAMILIES = ("T", "S")
MAX_SCORE = 1e6


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of one trial.

    status: run; no (the attack was not possible here, `why` says it); void (the sensor was accused already); error.
    delay_s: from the first altered sample's stamp to the tick of detection, None when it was not found in time.
    frames: altered samples up to then, inclusive. damage: until then, or until the end of the watch. attribution:
    right, ambiguous, wrong, nobody. sources: most that compared what was attacked at one tick from detection on
    (`comparing_sources`).
    scores: of the attacked sensor at each tick from the first altered sample on, with the seconds since it.
    found_ns, raised: stamp of the tick of detection, and every check that found it then.
    """

    row: str
    onset_s: float
    status: str
    why: str = ""
    size: str = ""
    delay_s: float | None = None
    frames: int | None = None
    watched_s: float = 0.0
    damage_m: float = 0.0
    damage_deg: float = 0.0
    attribution: str = ""
    sources: int = 0
    check: str = ""
    scores: tuple[tuple[float, float], ...] = ()
    spent_s: float = 0.0
    found_ns: int | None = None
    raised: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Before:
    """The tick before the attack: who was accused already, by what."""

    anomalies: frozenset[tuple[str, tuple[str, ...]]]
    blamed: frozenset[str]

    @staticmethod
    def of(frame: FrameResult) -> Before:
        """Take it from a tick's result."""
        return Before(
            frozenset((r.check, r.sensors) for r in frame.anomalies),
            frozenset(s for s, t in frame.fused.trust.items() if t.state is not TrustState.TRUSTED),
        )


def score_of(results: Sequence[CheckResult], sensor: str) -> float:
    """Return the largest share of its threshold among the content checks that concern a sensor and could see; 0 where
    none could. Timing and line checks are left out."""
    shares = [
        r.statistic / r.threshold
        for r in results
        if sensor in r.sensors and sees_content(r) and r.threshold > 0 and not isnan(r.statistic)
    ]
    return min(max(shares, default=0.0), MAX_SCORE)


def sees_content(result: CheckResult) -> bool:
    """Whether a check of what a sensor says (not of when it says it) could see at this tick."""
    stream = result.check[:1] in _STREAM_FAMILIES and result.check[1:2].isdigit()
    return not stream and result.level is not Level.NOT_OBSERVABLE


def run_trial(
    row: Row,
    scene: Scene,
    before: Before,
    pipeline: Pipeline,
    playback: Playback,
    onset_ns: int,
    ticks: Sequence[Tick],
    origin_ns: int,
    seed: int,
) -> Trial:
    """Arm the attack and go on. The pipeline is used up by it: call this in a branch.

    Args:
        row, scene: what to do. before: the state at the onset. onset_ns: the last clean tick. ticks: those after it,
            already loaded. origin_ns: of the recording. seed: of the attack's randomness.
    """
    onset_s = (onset_ns - origin_ns) / NS_PER_S
    planned = row.plan(scene)
    if isinstance(planned, str):
        return Trial(row.name, onset_s, "no", planned)
    sensor = planned.attack.sensor
    if sensor in before.blamed or any(sensor in sensors for _, sensors in before.anomalies):
        return Trial(row.name, onset_s, "void", "the sensor was accused before", planned.attack.size)
    playback.slot.arm([planned.attack], seed, onset_ns + 1, playback.past(sensor))
    watch = _Watch(sensor, before)
    watched_s = row.watched_s(scene.period_s(sensor))
    for tick in ticks:
        frame = pipeline.step(tick)
        labels = playback.slot.labels
        if not labels:
            continue
        since_s = (tick.stamp_ns - labels[0].stamp_ns) / NS_PER_S
        altered = sum(1 for label in labels if label.stamp_ns <= tick.stamp_ns)
        watch.see(frame, since_s, altered, in_time=since_s <= watched_s + 1e-6)
        if watch.found_s is not None and since_s > watch.found_s + SETTLE_S:
            break
        if watch.found_s is None and since_s > watched_s:
            break
    if not playback.slot.labels:
        return Trial(row.name, onset_s, "no", "no sample was altered", planned.attack.size)
    return watch.judge(row.name, onset_s, planned.attack.size, watched_s, planned.damage)


class _Watch:
    """Follows one attacked sensor."""

    def __init__(self, sensor: str, before: Before) -> None:
        self._sensor, self._before = sensor, before
        self.found_s: float | None = None
        self._found_ns: int | None = None
        self._raised: tuple[str, ...] = ()
        self._frames: int | None = None
        self._check = ""
        self._rejected: set[str] = set()
        self._suspected = False
        self._sources = 0
        self._scores: list[tuple[float, float]] = []

    def see(self, frame: FrameResult, since_s: float, altered: int, *, in_time: bool) -> None:
        self._scores.append((round(since_s, 4), round(score_of(frame.results, self._sensor), 5)))
        if self.found_s is None and in_time:
            self._look(frame, since_s, altered)
        if self.found_s is None:
            return
        self._sources = max(self._sources, comparing_sources(frame.results, self._sensor))
        for name, trust in frame.fused.trust.items():
            if trust.state is TrustState.REJECTED and name not in self._before.blamed:
                self._rejected.add(name)
        self._suspected |= frame.fused.trust[self._sensor].state is TrustState.SUSPECT

    def _look(self, frame: FrameResult, since_s: float, altered: int) -> None:
        new = [r for r in frame.anomalies if self._sensor in r.sensors]
        new = [r for r in new if (r.check, r.sensors) not in self._before.anomalies]
        if not new and frame.fused.trust[self._sensor].state is TrustState.TRUSTED:
            return
        self.found_s, self._frames, self._found_ns = since_s, altered, frame.synced.stamp_ns
        self._raised = tuple(sorted({r.check for r in new}))
        self._check = max(new, key=lambda r: r.statistic / r.threshold if r.threshold > 0 else 0.0).check if new else ""

    def judge(
        self, row: str, onset_s: float, size: str, watched_s: float, damage: Callable[[float], tuple[float, float]]
    ) -> Trial:
        metres, degrees = damage(watched_s if self.found_s is None else max(0.0, self.found_s))
        return Trial(
            row, round(onset_s, 4), "run", "", size,
            None if self.found_s is None else round(max(0.0, self.found_s), 4), self._frames, round(watched_s, 4),
            round(metres, 4) if isfinite(metres) else 0.0, round(degrees, 4),
            self._attribution() if self.found_s is not None else "", self._sources, self._check, tuple(self._scores),
            found_ns=self._found_ns, raised=self._raised,
        )  # fmt: skip

    def _attribution(self) -> str:
        if self._rejected - {self._sensor}:
            return "wrong"
        if self._sensor in self._rejected:
            return "right"
        return "ambiguous" if self._suspected else "nobody"
