"""The verdict state machine."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgeguard.config import GuardPolicy
from edgeguard.guard.policy import Guard
from edgeguard.types import (
    CAMERA,
    GNSS,
    IMU,
    LIDAR,
    WHEELS,
    CheckResult,
    FusedState,
    Level,
    SensorTrust,
    StreamHealth,
    SyncedSet,
    Tick,
    TrustState,
    Verdict,
)

RIG = (CAMERA, LIDAR, GNSS, IMU, WHEELS)
ORDER = list(Verdict)
TICK_NS = 100_000_000
POLICY = GuardPolicy(relax_after_clean_ticks=3, stop_after_hold_ticks=5, min_trusted_positioning=1)

T, S, R = TrustState.TRUSTED, TrustState.SUSPECT, TrustState.REJECTED


def fused(states: Mapping[str, TrustState]) -> FusedState:
    return FusedState({name: SensorTrust(name, state, 0.0) for name, state in states.items()}, None, None)


def synced(frame: int = 0, *, ages_ns: Mapping[str, int | None] | None = None, **tick: object) -> SyncedSet:
    ages = {} if ages_ns is None else ages_ns
    health = {n: StreamHealth(n, TICK_NS, 1, ages.get(n, 0), 10.0) for n in RIG}
    return SyncedSet(Tick(frame, frame * TICK_NS, **tick), {}, {}, health)  # type: ignore[arg-type]


class Drive:
    """A guard and its clock."""

    def __init__(self, policy: GuardPolicy = POLICY, **options: bool) -> None:
        self.guard = Guard(policy, **options)
        self.frame = -1

    def __call__(self, *, model: bool = True, results: tuple[CheckResult, ...] = (), **states: TrustState) -> Verdict:
        return self.explain(model=model, results=results, **states)[0]

    def explain(
        self, *, model: bool = True, results: tuple[CheckResult, ...] = (), **states: TrustState
    ) -> tuple[Verdict, str]:
        self.frame += 1
        return self.guard.decide(synced(self.frame), results, fused({**dict.fromkeys(RIG, T), **states}), model)


def anomaly(check: str, *sensors: str, statistic: float = 2.0, quantity: str = "speed") -> CheckResult:
    return CheckResult(check, sensors, Level.ANOMALY, statistic, 1.0, quantity=quantity)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({}, Verdict.PASS),
        ({GNSS: S}, Verdict.DEGRADE),
        ({GNSS: R}, Verdict.DEGRADE),
        ({CAMERA: R}, Verdict.DEGRADE),
        ({LIDAR: S}, Verdict.DEGRADE),
        ({CAMERA: S, LIDAR: S}, Verdict.HOLD),
        ({CAMERA: R, LIDAR: S}, Verdict.HOLD),
        ({GNSS: R, WHEELS: R}, Verdict.DEGRADE),
        ({GNSS: R, WHEELS: R, LIDAR: S}, Verdict.HOLD),
        (dict.fromkeys(RIG, R), Verdict.HOLD),
    ],
)
def test_the_verdict_follows_from_which_functions_are_still_covered(
    states: dict[str, TrustState], expected: Verdict
) -> None:
    """One sensor less is DEGRADE; no eyes, or no ranging and positioning, is HOLD."""
    assert Drive()(**states) is expected


def test_what_a_rig_never_had_is_not_missed() -> None:
    """A car without camera and lidar, and a camera with an IMU, are judged by what they have."""
    car = {GNSS: T, IMU: T, WHEELS: T}
    hand = {CAMERA: T, IMU: T}
    verdicts = [
        Guard(POLICY).decide(synced(), (), fused(states), True)[0]
        for states in (car, car | {GNSS: R}, hand, hand | {IMU: S}, hand | {CAMERA: S}, {})
    ]

    p, d, h = Verdict.PASS, Verdict.DEGRADE, Verdict.HOLD
    assert verdicts == [p, d, p, d, h, h]


def test_strictness_rises_at_once_and_relaxes_after_n_clean_ticks() -> None:
    """Three clean ticks here; a relapse starts the count again."""
    drive = Drive()

    seen = [drive().value, drive(gnss=R).value, *[drive().value for _ in range(2)], drive(gnss=S).value]
    seen += [drive().value for _ in range(4)]

    assert seen == ["PASS", *["DEGRADE"] * 6, "PASS", "PASS"]


def test_relaxing_goes_to_the_strictest_of_the_clean_ticks() -> None:
    """From HOLD with one sensor still suspect: to DEGRADE, not to PASS."""
    drive = Drive()
    drive(camera=R, lidar=R)

    assert [drive(camera=S).value, drive().value, drive().value] == ["HOLD", "HOLD", "DEGRADE"]
    assert [drive().value for _ in range(3)] == ["DEGRADE", "DEGRADE", "PASS"]


def test_a_hold_that_lasts_becomes_a_stop_and_can_be_left() -> None:
    """Five ticks are allowed; then STOP, until enough clean ticks."""
    drive = Drive()

    held = [drive(camera=R, lidar=R).value for _ in range(7)]
    after = [drive().value for _ in range(3)]

    assert held == ["HOLD"] * 5 + ["STOP"] * 2
    assert after == ["STOP", "STOP", "PASS"]


def test_an_integrity_failure_stops_for_good() -> None:
    """By a check about ourselves, or by the part that found it."""
    by_check, by_part = Drive(), Drive()
    verdict, reason = by_check.explain(results=(anomaly("P1.model", quantity="integrity"),))
    by_part.guard.latch_stop("audit log is broken")

    assert (verdict, "P1.model" in reason) == (Verdict.STOP, True)
    assert {by_check() for _ in range(50)} == {Verdict.STOP}
    assert by_part.explain() == (Verdict.STOP, "audit log is broken")


def test_a_missing_model_stops_only_where_a_model_is_required() -> None:
    """Guarding sensors without a model is a use of its own."""
    assert Drive()(model=False) is Verdict.PASS
    assert Drive(require_model=True)(model=False) is Verdict.STOP
    assert Drive(require_model=True)(model=True) is Verdict.PASS


def test_the_reason_names_the_sensors_and_the_strongest_check() -> None:
    """For the person who reads the log at night."""
    results = (anomaly("X1.speed", GNSS, WHEELS, statistic=1.5), anomaly("X2.course", GNSS, statistic=9.0))

    assert Drive().explain(gnss=R, results=results)[1] == "gnss REJECTED (X2.course)"
    assert Drive().explain(camera=S, lidar=S)[1] == "nothing sees the scene: camera SUSPECT, lidar SUSPECT"


def test_evidence_that_flickers_does_not_reset_the_limit_of_a_hold() -> None:
    """Blinding every other tick must not keep the vehicle waiting for ever."""
    drive = Drive()

    issued = [drive(camera=R, lidar=R) if tick % 2 == 0 else drive() for tick in range(8)]

    assert Verdict.STOP in issued


def drive_with_ages(ages: list[int | None], **tick_at_3: object) -> list[str]:
    guard = Guard(POLICY)
    verdicts = []
    for frame, age in enumerate(ages):
        at = tick_at_3 if frame == 3 else {}
        now = synced(frame, ages_ns={GNSS: age}, **at)
        verdicts.append(guard.decide(now, (), fused(dict.fromkeys(RIG, T)), True)[0].value)
    return verdicts


def test_a_sensor_that_falls_silent_degrades_even_if_fusion_still_trusts_it() -> None:
    """Fail closed: more than five periods without a sample, also when there never was one."""
    growing = [TICK_NS * i for i in range(9)]

    assert drive_with_ages(list(growing)) == ["PASS"] * 6 + ["DEGRADE"] * 3
    assert drive_with_ages([None] * 9) == ["PASS"] * 6 + ["DEGRADE"] * 3


def test_a_gap_or_a_jump_in_a_recording_is_no_silence() -> None:
    """Ages that span a hole in the file count from the end of the hole."""
    ages = [0, 0, 0, *[60 * TICK_NS + TICK_NS * i for i in range(6)]]

    assert drive_with_ages(list(ages)) == ["PASS"] * 6 + ["DEGRADE"] * 3
    assert drive_with_ages(list(ages), discontinuity=True) == ["PASS"] * 9
    assert drive_with_ages(list(ages), recording_gap=frozenset({GNSS})) == ["PASS"] * 9


STATES = st.fixed_dictionaries({name: st.sampled_from([T, S, R]) for name in RIG})


@given(STATES, st.sampled_from(RIG))
def test_less_trust_never_gives_a_milder_verdict(states: dict[str, TrustState], sensor: str) -> None:
    """The worst evidence wins: distrusting one sensor more cannot help."""
    before = Drive()(**states)
    after = Drive()(**{**states, sensor: R})

    assert ORDER.index(after) >= ORDER.index(before)


@given(st.lists(STATES, max_size=40))
def test_equal_histories_give_equal_verdicts_and_reasons(history: list[dict[str, TrustState]]) -> None:
    """Deterministic."""
    one, two = Drive(), Drive()

    assert [one.explain(**states) for states in history] == [two.explain(**states) for states in history]


class GuardMachine(RuleBasedStateMachine):
    """Random histories against the rules, restated over the history instead of as a state."""

    def __init__(self) -> None:
        super().__init__()
        self.drive = Drive()
        self.history: list[tuple[Verdict, Verdict]] = []

    def step(self, **states: TrustState) -> None:
        demanded = Drive()(**states)
        self.history.append((demanded, self.drive(**states)))

    @rule(states=STATES)
    def anything(self, states: dict[str, TrustState]) -> None:
        self.step(**states)

    @rule()
    def clean(self) -> None:
        self.step()

    @rule(sensor=st.sampled_from(RIG), state=st.sampled_from([S, R]))
    def one_sensor(self, sensor: str, state: TrustState) -> None:
        self.step(**{sensor: state})

    @rule(ticks=st.integers(1, 8))
    def blind(self, ticks: int) -> None:
        for _ in range(ticks):
            self.step(camera=R, lidar=S)

    @invariant()
    def never_milder_than_the_evidence(self) -> None:
        assert all(ORDER.index(given) >= ORDER.index(demanded) for demanded, given in self.history)

    @invariant()
    def never_relaxes_without_enough_clean_ticks(self) -> None:
        given = [verdict for _, verdict in self.history]
        for now in range(1, len(given)):
            if ORDER.index(given[now]) < ORDER.index(given[now - 1]):
                window = self.history[max(0, now - POLICY.relax_after_clean_ticks + 1) : now + 1]
                assert len(window) == POLICY.relax_after_clean_ticks
                assert all(ORDER.index(demanded) < ORDER.index(given[now - 1]) for demanded, _ in window)
                assert {verdict for _, verdict in window[:-1]} <= {given[now - 1]}

    @invariant()
    def stops_when_a_hold_lasts_and_only_then(self) -> None:
        held = 0
        for demanded, issued in self.history:
            if demanded is Verdict.HOLD and held >= POLICY.stop_after_hold_ticks:
                assert issued is Verdict.STOP
            if issued is Verdict.STOP:
                assert held >= POLICY.stop_after_hold_ticks
            held = held + 1 if issued in (Verdict.HOLD, Verdict.STOP) else 0


TestGuardMachine = GuardMachine.TestCase
