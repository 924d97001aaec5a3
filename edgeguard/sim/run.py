"""Runs a scenario through the real pipeline and holds what came of it against what the scenario expects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.config import Config
from edgeguard.errors import ScenarioError
from edgeguard.report.model import Report, ReportBuilder
from edgeguard.report.outcomes import AttackOutcome
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.record import public_record
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sim.attacked import AttackedRecording
from edgeguard.sim.attacks.base import AttackBase, SampleTruth
from edgeguard.sim.found import FoundCounts, WatchedModel, count_found
from edgeguard.sim.scenario import AttackExpect, Scenario
from edgeguard.types import Check, FrameResult, Tick

if TYPE_CHECKING:
    from edgeguard.infer.adapter import ImageModel
    from edgeguard.sensors.recorded import Recording

NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Expectation:
    """One thing that the scenario says, beside what was found."""

    subject: str
    expected: str
    found: str
    met: bool


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One run.

    labels: ground truth of every sample that an attack touched. found: per attack, objects that the scenario's model
    found in the attacked frames, with the attack and without it; empty where nobody compares. digest: SHA-256 over
    every tick's public record; equal for equal runs.
    """

    scenario: Scenario
    seed: int
    report: Report
    expectations: tuple[Expectation, ...]
    labels: tuple[SampleTruth, ...]
    digest: str
    found: tuple[FoundCounts, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every expectation held."""
        return all(expectation.met for expectation in self.expectations)

    def record(self) -> dict[str, Any]:
        """Return the outcome as plain JSON values; nothing in it depends on the machine or the hour."""
        effects: dict[str, int] = {}
        for label in self.labels:
            key = f"{label.attack}.{label.effect}"
            effects[key] = effects.get(key, 0) + 1
        report = self.report
        return {
            "scenario": self.scenario.name,
            "seed": self.seed,
            "passed": self.passed,
            "expectations": [
                {"subject": e.subject, "expected": e.expected, "found": e.found, "met": e.met}
                for e in self.expectations
            ],
            "attacks": [_outcome_record(a) for a in report.attacks],
            "clean_s": report.clean_s,
            "clean_seconds_blamed": report.clean_seconds_blamed,
            "clean_blames": [{"time_s": b.time_s, "sensor": b.sensor, "state": b.state} for b in report.clean_blames],
            "verdict_s": dict(report.verdict_s),
            "worst_verdict": report.worst_verdict,
            "samples_touched": effects,
            "ticks": report.ticks,
            "digest": self.digest,
            **({"objects_found": [count.record() for count in self.found]} if self.found else {}),
        }


def run_scenario(
    scenario: Scenario,
    seed: int,
    *,
    config: Config | None = None,
    recording: Recording | None = None,
    extra_checks: Sequence[Check] = (),
    on_frame: Callable[[FrameResult], None] | None = None,
    title: str = "",
    model: ImageModel | None = None,
) -> Outcome:
    """Drive the scenario's sensor attacks through the pipeline once.

    Args:
        seed: of street, noise and attacks. config: the pipeline's; the defaults without it.
        recording: attack this recording instead of a simulated drive; the scenario's times count from its first tick.
        extra_checks: a user's own. on_frame: called with every tick's result. model: runs on the camera frames instead
            of the scenario's own.

    Raises:
        ScenarioError: EG-X013 for a seed out of range, EG-X017 for an attack that begins after the recording ends.
    """
    config = config or Config()
    meta = {"scenario": scenario.name, "seed": str(seed), "summary": scenario.summary, **scenario.setting}
    digest = hashlib.sha256()
    watched = WatchedModel.open(scenario.model) if scenario.model and model is None else None
    with ExitStack() as stack:
        if recording is not None:
            attacked = AttackedRecording(recording, scenario.sensor_attacks, seed)
            ticks = list(attacked.ticks())
            _require_within(scenario, ticks)
            clock = ManualClock(start_ns=ticks[0].stamp_ns - 1 if ticks else 0)
            drive: Any = attacked
            sources, start_ns = attacked.sources(clock), ticks[0].stamp_ns if ticks else 0
        else:
            clock = ManualClock()
            drive = stack.enter_context(scenario.rig(clock, seed))
            period_ns = config.pipeline.tick_ms * NS_PER_MS
            ticks = list(periodic_ticks(clock.now_ns(), period_ns, round(scenario.duration_s * NS_PER_S) // period_ns))
            sources, start_ns = drive.sources, clock.now_ns()
        builder = ReportBuilder(title or f"EdgeGuard sim: {scenario.name}", meta, start_ns=start_ns)
        builder.set_truths(drive.truths)
        pipeline = Pipeline(
            config, sources, clock, calibration=drive.calibration, model=model or watched, extra_checks=extra_checks
        )
        stack.enter_context(pipeline)
        for frame in pipeline.run(ticks):
            builder.add(frame)
            digest.update(json.dumps(public_record(frame), sort_keys=True).encode())
            if on_frame is not None:
                on_frame(frame)
        labels = drive.labels
    report = builder.build()
    expectations, counts = judge(scenario, report), tuple[FoundCounts, ...]()
    if watched is not None and any(expect.counts_objects for expect in scenario.attack_expect):
        # The same street, seed and noise with nobody attacking: the only fair thing to compare with.
        calm = WatchedModel.open(scenario.model)
        twin = msgspec.structs.replace(scenario, attacks=(), attack_expect=())
        run_scenario(twin, seed, config=config, recording=recording, extra_checks=extra_checks, model=calm)
        counts = count_found(scenario.sensor_attacks, labels, watched, calm)
        expectations = (*expectations, *_judge_found(scenario, counts))
    return Outcome(scenario, seed, report, expectations, labels, digest.hexdigest(), counts)


def _require_within(scenario: Scenario, ticks: Sequence[Tick]) -> None:
    length_s = (ticks[-1].stamp_ns - ticks[0].stamp_ns) / NS_PER_S if ticks else 0.0
    for attack in scenario.sensor_attacks:
        if attack.start_s >= length_s:
            raise ScenarioError(
                f"{attack.name} begins at {attack.start_s:g} s, but the recording lasts {length_s:.1f} s",
                code="EG-X017",
                hint="let it begin earlier in a scenario of your own: edgeguard sim new NAME",
            )


def judge(scenario: Scenario, report: Report) -> tuple[Expectation, ...]:
    """Return every expectation about the drive and its sensor attacks, held against a report of it."""
    left = list(report.attacks)
    found: list[Expectation] = []
    for attack in scenario.sensor_attacks:
        outcome = _outcome_of(attack, left)
        if outcome is not None:
            left.remove(outcome)
            found += _judge_attack(scenario.expected_of(attack), attack, outcome)
    if scenario.expect.clean != "varies":
        blamed = report.clean_seconds_blamed
        sensors = ", ".join(dict.fromkeys(b.sensor for b in report.clean_blames))
        words = "nobody blamed" if blamed == 0 else f"{blamed:.1f} s blamed on {sensors}"
        wanted = "nobody blamed" if scenario.expect.clean else "somebody blamed"
        found.append(Expectation("clean time", wanted, words, (blamed == 0) == scenario.expect.clean))
    if scenario.expect.verdict is not None:
        worst = report.worst_verdict
        found.append(Expectation("worst verdict", scenario.expect.verdict, worst, worst == scenario.expect.verdict))
    return tuple(found)


def _outcome_of(attack: AttackBase, outcomes: Sequence[AttackOutcome]) -> AttackOutcome | None:
    same = [o for o in outcomes if (o.attack, o.sensor, o.size) == (attack.name, attack.sensor, attack.size)]
    return min(same, key=lambda o: o.start_s, default=None)


def _judge_attack(expect: AttackExpect, attack: AttackBase, outcome: AttackOutcome) -> list[Expectation]:
    subject = f"{attack.name} on {outcome.sensor}"
    delay = "not detected" if outcome.delay_s is None else f"detected after {outcome.delay_s:.1f} s"
    if expect.detected == "varies":
        return [Expectation(f"{subject}: detection", "varies", delay, True)]
    wanted = "detected" if expect.detected else "not detected (known gap)"
    found = [Expectation(f"{subject}: detection", wanted, delay, outcome.detected == expect.detected)]
    if expect.detected is False:
        return found
    if expect.within_s is not None:
        met = outcome.delay_s is not None and outcome.delay_s <= expect.within_s
        found.append(Expectation(f"{subject}: delay", f"within {expect.within_s:g} s", delay, met))
    if expect.named == "varies":
        return found
    wants_name = expect.named is not False
    blamed = f"{outcome.named_state or 'nobody'} {', '.join(outcome.named)}".strip()
    named = outcome.detected and outcome.named_correctly
    wanted = f"{outcome.sensor} named" if wants_name else f"{outcome.sensor} not named (known gap)"
    found.append(Expectation(f"{subject}: name", wanted, blamed, named == wants_name))
    return found


def _judge_found(scenario: Scenario, counts: Sequence[FoundCounts]) -> list[Expectation]:
    """Hold what the model found against what the scenario says of it."""
    found = []
    for count in counts:
        expect = next(scenario.expected_of(a) for a in scenario.sensor_attacks if a.name == count.attack)
        words = f"{count.attacked} of {count.calm} in {count.frames} frames, {count.withheld} frames withheld"
        for bound, limit, sign in ((expect.found_at_most, "at most", 1), (expect.found_at_least, "at least", -1)):
            if bound is not None:
                met = count.share is not None and sign * (count.share - bound) <= 0.0
                found.append(Expectation(f"{count.attack}: objects found", f"{limit} {bound:.0%}", words, met))
    return found


def _outcome_record(outcome: AttackOutcome) -> Mapping[str, Any]:
    return {
        "attack": outcome.attack,
        "sensor": outcome.sensor,
        "size": outcome.size,
        "detected": outcome.detected,
        "delay_s": outcome.delay_s,
        "named": list(outcome.named),
        "named_state": outcome.named_state,
        "named_correctly": outcome.detected and outcome.named_correctly,
        "readmitted_s": outcome.readmitted_s,
        "worst_verdict": outcome.worst_verdict,
    }
