"""Who is blamed, how belief moves, and that it moves back only on evidence."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.fusion.decision import Attribution, Attributor
from edgeguard.fusion.trust import TrustLedger
from edgeguard.types import CheckResult, Level, TrustState

S = 1_000_000_000
OK, BAD, BLIND = Level.OK, Level.ANOMALY, Level.NOT_OBSERVABLE


def result(name: str, sensors: str, level: Level, quantity: str, share: float | None = None) -> CheckResult:
    statistic = share if share is not None else {OK: 0.1, BAD: 3.0, BLIND: 0.0}[level]
    power = float("inf") if level is BLIND else 0.5
    size = 4.0 if level is BAD else None
    return CheckResult(name, tuple(sensors.split("+")), level, statistic, 1.0, power, "m/s", quantity, "", size)


def speed(level: Level) -> CheckResult:
    return result("X8.speed", "gnss+wheels", level, "speed")


def lidar_speed(level: Level) -> CheckResult:
    return result("X12.speed", "lidar+wheels", level, "speed")


def course(level: Level) -> CheckResult:
    return result("X9.course", "gnss+imu", level, "yaw_rate")


def wheel_yaw(level: Level) -> CheckResult:
    return result("X11.wheels", "imu+wheels", level, "yaw_rate")


def lidar_yaw(level: Level) -> CheckResult:
    return result("X6.yaw", "lidar+imu", level, "yaw_rate")


def accel(level: Level) -> CheckResult:
    return result("X7.accel", "imu+wheels", level, "acceleration")


def about(found: CheckResult, quantity: str) -> CheckResult:
    """The same accusation, of a course in time that says more."""
    return dataclasses.replace(found, quantity=quantity)


def turning(found: CheckResult) -> CheckResult:
    """The same, in the unit of yaw rates."""
    return dataclasses.replace(found, power_unit="rad/s")


def position(level: Level) -> CheckResult:
    return result("X10.displacement", "gnss+wheels+imu", level, "position")


TABLE = [
    # results, named, suspects
    ("nothing wrong", [speed(OK), course(OK)], set(), set()),
    ("two sources: never a name", [speed(BAD)], set(), {"gnss", "wheels"}),
    ("two sources and a self-check", [speed(BAD), result("T4.freeze", "gnss", BAD, "freshness")], {"gnss"}, set()),
    ("three sources, lidar vouches for the wheels", [speed(BAD), lidar_speed(OK)], {"gnss"}, set()),
    ("lidar blind: a set", [speed(BAD), lidar_speed(BLIND), course(OK)], set(), {"gnss", "wheels"}),
    ("wheels wrong against both", [speed(BAD), lidar_speed(BAD)], {"wheels"}, set()),
    ("course off, wheels vouch for the gyro", [course(BAD), wheel_yaw(OK)], {"gnss"}, set()),
    ("course and wheel yaw off", [course(BAD), wheel_yaw(BAD), speed(OK)], {"imu"}, set()),
    (
        "position off by more than the speed and the yaw rate could hide",
        [
            CheckResult("X10", ("gnss", "wheels", "imu"), BAD, 3.0, 1.0, 1.5, "m", "position", "", 40.0),
            speed(OK),
            CheckResult("X6.yaw", ("lidar", "imu"), OK, 0.1, 1.0, 1.0, "deg/s", "yaw_rate"),
        ],
        {"gnss"},
        set(),
    ),
    (
        "position off by what a small bias of the gyro would do",
        [
            CheckResult("X10", ("gnss", "wheels", "imu"), BAD, 3.0, 1.0, 1.5, "m", "position", "", 4.0),
            speed(OK),
            CheckResult("X6.yaw", ("lidar", "imu"), OK, 0.1, 1.0, 3.0, "deg/s", "yaw_rate"),
        ],
        set(),
        {"gnss", "imu", "wheels"},
    ),
    ("position off, nobody vouches", [position(BAD), speed(BLIND)], set(), {"gnss", "wheels", "imu"}),
    ("accelerometer off", [accel(BAD), speed(OK), lidar_speed(OK)], {"imu"}, set()),
    (
        "speed off by a step that an accelerometer would have felt",
        [about(speed(BAD), "speed_step"), accel(OK)],
        {"gnss"},
        set(),
    ),
    ("speed off, but by no step", [speed(BAD), accel(OK)], set(), {"gnss", "wheels"}),
    (
        "course off and steady, wheels vouch",
        [turning(about(course(BAD), "course_step")), turning(wheel_yaw(OK))],
        {"gnss"},
        set(),
    ),
    (
        "course off and steady, nobody vouches",
        [turning(about(course(BAD), "course_step")), speed(OK)],
        set(),
        {"gnss", "imu"},
    ),
    (
        "course and wheel yaw off, and steady",
        [turning(about(course(BAD), "course_step")), turning(wheel_yaw(BAD))],
        {"imu"},
        set(),
    ),
    ("wheels stand still, car does not", [speed(BAD), accel(BAD), position(BAD)], {"wheels"}, set()),
    (
        "five sources, drift along",
        [speed(BAD), position(BAD), lidar_speed(OK), lidar_yaw(OK), wheel_yaw(OK), course(OK), accel(OK)],
        {"gnss"},
        set(),
    ),
    ("a fitting displacement does not vouch for a speed", [speed(BAD), position(OK)], set(), {"gnss", "wheels"}),
    (
        "agreement near its threshold does not vouch",
        [speed(BAD), result("X12.speed", "lidar+wheels", OK, "speed", 0.9)],
        set(),
        {"gnss", "wheels"},
    ),
]


def settle(results: list[CheckResult], rejected: frozenset[str] = frozenset(), seconds: float = 4.0) -> Attribution:
    """The attribution after the same results for some seconds."""
    attributor = Attributor()
    for i in range(round(seconds * 10)):
        found = attributor.update(i * S // 10, results, rejected)
    return found


@pytest.mark.parametrize(("results", "named", "suspects"), [t[1:] for t in TABLE], ids=[t[0] for t in TABLE])
def test_truth_table(results: list[CheckResult], named: set[str], suspects: set[str]):
    """The signature matrix, independent of order."""
    for order in itertools.islice(itertools.permutations(results), 6):
        found = settle(list(order))
        assert set(found.named) == named
        assert found.suspects == suspects
        assert not found.exonerated & (named | suspects)


@given(st.lists(st.sampled_from([BAD, OK, BLIND]), min_size=3, max_size=3))
def test_two_sources_are_never_told_apart_by_cross_evidence(levels: list[Level]):
    """Whatever their checks say."""
    results = [
        speed(levels[0]),
        result("Y", "gnss+wheels", levels[1], "position"),
        result("Z", "wheels+gnss", levels[2], "yaw_rate"),
    ]
    assert not settle(results).named


@pytest.mark.parametrize(("size", "named"), [(12.0, {"gnss"}), (0.3, set())])
def test_a_witness_that_could_not_have_seen_so_little_does_not_vouch(size: float, named: set[str]):
    """Lidar speed with a power of 1.5 m/s clears the wheels of 12 m/s, not of 0.3 m/s; units are converted."""
    case = CheckResult("X8.speed", ("gnss", "wheels"), BAD, 3.0, 1.0, 0.3, "m/s", "speed", "", size)
    witness = CheckResult("X12.speed", ("lidar", "wheels"), OK, 0.1, 1.0, 1.5, "m/s", "speed")
    assert set(settle([case, witness]).named) == named
    turn = CheckResult("X9.course", ("gnss", "imu"), BAD, 3.0, 1.0, 1.0, "deg/s", "yaw_rate", "", 10 * size)
    yaw = CheckResult("X6.yaw", ("lidar", "imu"), OK, 0.1, 1.0, 0.3, "rad/s", "yaw_rate")
    assert set(settle([turn, yaw]).named) == named


def test_a_witness_vouches_only_after_it_has_had_time_to_disagree():
    """A check that fires a second later than the first is the rule, not the exception."""
    early, late = settle([course(BAD), wheel_yaw(OK)], seconds=0.9), settle([course(BAD), wheel_yaw(OK)], seconds=4.0)
    assert not early.named
    assert early.suspects == {"gnss", "imu"}
    assert set(late.named) == {"gnss"}


def test_what_fired_lately_still_counts():
    """The wheels' own disagreement with the lidar has just ebbed when the one with GNSS comes up."""
    attributor = Attributor()
    for i in range(20):
        attributor.update(i * S // 10, [speed(OK), lidar_speed(BAD)])
    for i in range(20, 35):
        found = attributor.update(i * S // 10, [speed(BAD), lidar_speed(OK)])
    assert set(found.named) == {"wheels"}


def test_a_rejected_sensor_explains_its_disagreements_and_clears_the_others():
    """No second victim."""
    found = settle([speed(BAD), course(OK)], frozenset({"wheels"}))
    assert set(found.named) == {"wheels"}
    assert "gnss" in found.cleared


def test_a_sensor_rejected_in_error_does_not_stay_the_explanation_of_everything():
    """The gyro is off, the wheels were rejected for it: what the wheels have no part in overturns that."""
    found = settle([course(BAD), wheel_yaw(BAD), lidar_yaw(BAD), speed(OK), lidar_speed(OK)], frozenset({"wheels"}))
    assert "imu" in found.named
    assert "wheels" not in found.named


def test_two_faulty_sensors_cost_a_prior_and_are_found_all_the_same():
    """Camera-lidar apart from GNSS-wheels, and both at once on a rig where every pair is compared."""
    pairs = itertools.combinations(["a", "b", "c", "d", "e"], 2)
    results = [result(f"Q.{x}{y}", f"{x}+{y}", BAD if {x, y} & {"a", "b"} else OK, "q") for x, y in pairs]
    assert set(settle(results).named) == {"a", "b"}


def test_a_self_check_names_at_once_and_explains_the_disagreements():
    """No confirmation: the sensor convicts itself."""
    found = Attributor().update(0, [result("T4.freeze", "gnss", BAD, "freshness"), speed(BAD), course(BAD)])
    assert set(found.named) == {"gnss"}
    assert not found.suspects


@dataclass(frozen=True)
class Rig:
    """A random set of sensors and pairwise checks of one quantity, with powers."""

    sensors: tuple[str, ...]
    checks: tuple[tuple[str, str, float, float], ...]  # two sensors, power, delay in s


def random_rig(rng: np.random.Generator, count: int) -> Rig:
    sensors = tuple("abcdef"[:count])
    pairs = list(itertools.combinations(sensors, 2))
    kept = [p for p in pairs if rng.random() < 0.8] or pairs[:1]
    powers = np.exp(rng.normal(0.0, 0.5, len(kept)))
    delays = rng.uniform(0.2, 1.8, len(kept))
    return Rig(sensors, tuple((a, b, float(p), float(d)) for (a, b), p, d in zip(kept, powers, delays, strict=True)))


def shown(rig: Rig, culprit: str, size: float, t: float, rng: np.random.Generator) -> list[CheckResult]:
    """What the checks show `t` seconds after `culprit` went wrong by `size`: slower for small faults, with the honest
    noise of a statistic, and powers that claim up to twice too much."""
    out = []
    for a, b, power, delay in rig.checks:
        share = abs(float(rng.normal(0.0, 0.15)))
        if culprit in (a, b):
            share += min(3.0, (size / power) * min(1.0, t / (2.0 + delay)) * 1.2)
        level, claimed = (BAD if share > 1.0 else OK), power * float(np.exp(rng.uniform(-0.5, 0.1)))
        told = size * float(np.exp(rng.normal(0.0, 0.4))) if level is BAD else None
        out.append(CheckResult(f"Q.{a}{b}", (a, b), level, share, 1.0, claimed, "u", "q", "", told))
    return out


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_monte_carlo_over_random_check_graphs(count: int):
    """Random sensors, checks, powers, delays and faults: at least 99 % of all names are right with three sources or
    more, and with two nobody is ever named. A fault that most checks can see is named in most graphs."""
    rng = np.random.default_rng(count)
    right = wrong = ambiguous = clear = clear_right = 0
    for _ in range(120):
        rig = random_rig(rng, count)
        culprit, size = str(rng.choice(rig.sensors)), float(np.exp(rng.uniform(0.0, 3.0)))
        attributor, names = Attributor(), set[str]()
        for i in range(40):
            names |= set(attributor.update(i * S // 10, shown(rig, culprit, size, i / 10, rng)).named)
        wrong += bool(names - {culprit})
        right += names == {culprit}
        ambiguous += not names
        big = size > 6.0 and sum(culprit in c[:2] for c in rig.checks) >= 2
        clear, clear_right = clear + big, clear_right + (big and names == {culprit})
    if count < 3:
        assert right == wrong == 0
        return
    assert right + wrong > 30
    assert right / (right + wrong) >= 0.99
    assert clear_right / clear > 0.9


def play(
    ledger: TrustLedger, start_s: float, seconds: float, found: Attribution, **more: frozenset[str]
) -> list[TrustState]:
    states = []
    for i in range(round(seconds * 10)):
        stamp = int((start_s + i / 10) * S)
        states.append(ledger.update(stamp, found, **more)["gnss"].state)
    return states


NAMED = Attribution(named={"gnss": "X8.speed"}, cases={"gnss": frozenset({"gnss", "wheels"})})
SET = Attribution(suspects=frozenset({"gnss", "wheels"}))
GOOD = Attribution(exonerated=frozenset({"gnss"}))
SILENT = Attribution()


def test_a_named_sensor_is_rejected_at_once_and_returns_slowly_through_suspect():
    """Rejection in under half a second, then hold, probation, trust."""
    ledger = TrustLedger(["gnss", "wheels"])
    assert play(ledger, 0, 5, GOOD)[-1] is TrustState.TRUSTED
    down = play(ledger, 5, 1, NAMED)
    assert down.index(TrustState.REJECTED) <= 3
    up = play(ledger, 6, 30, GOOD)
    suspect, trusted = up.index(TrustState.SUSPECT), up.index(TrustState.TRUSTED)
    assert suspect >= 49
    assert trusted >= suspect + 20
    assert TrustState.REJECTED not in up[suspect:]


def test_a_set_makes_suspects_and_never_rejects():
    """However long it lasts."""
    ledger = TrustLedger(["gnss", "wheels"])
    states = play(ledger, 0, 600, SET)
    assert states[-1] is TrustState.SUSPECT
    assert TrustState.REJECTED not in states


def test_time_alone_never_restores_trust():
    """No reset after a timeout."""
    ledger = TrustLedger(["gnss", "wheels"])
    play(ledger, 0, 1, NAMED)
    assert set(play(ledger, 1, 3600, SILENT)) == {TrustState.REJECTED}


def test_withheld_agreement_does_not_count():
    """A spoofed position that agrees with itself stays out while it contradicts the ego state."""
    ledger = TrustLedger(["gnss", "wheels"])
    play(ledger, 0, 1, NAMED)
    assert set(play(ledger, 1, 60, GOOD, withheld=frozenset({"gnss"}))) == {TrustState.REJECTED}


def test_silence_does_not_take_trust_away_either():
    """A sensor nobody can check stays as it was; T1 judges silence."""
    ledger = TrustLedger(["gnss", "wheels"])
    assert set(play(ledger, 0, 3600, SILENT)) == {TrustState.TRUSTED}


def test_a_sensor_named_by_a_self_check_returns_when_that_check_passes_not_another():
    """T1 passing says nothing about a freeze."""
    frozen = Attribution(named={"gnss": "T4.freeze"})
    other, same = (Attribution(passed={"gnss": frozenset({name})}) for name in ("T1.rate", "T4.freeze"))
    ledger = TrustLedger(["gnss"])
    play(ledger, 0, 1, frozen)
    assert set(play(ledger, 1, 60, other)) == {TrustState.REJECTED}
    assert play(ledger, 61, 60, same)[-1] is TrustState.TRUSTED


def test_a_member_of_a_set_returns_within_seconds_once_the_culprit_is_known():
    """Otherwise one liar would take an honest sensor out of the ego state with it."""
    ledger = TrustLedger(["gnss", "wheels"])
    play(ledger, 0, 1, SET)
    solved = Attribution(named={"wheels": "X8.speed"}, cleared=frozenset({"gnss"}))
    states = play(ledger, 1, 5, solved)
    assert states[0] is TrustState.SUSPECT
    assert states.index(TrustState.TRUSTED) <= 25
