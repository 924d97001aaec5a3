"""Who is blamed, how belief moves, and that it moves back only on evidence."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.fusion.decision import Attribution, Confirmation, attribute
from edgeguard.fusion.trust import TrustLedger
from edgeguard.types import CheckResult, Level, TrustState

S = 1_000_000_000
OK, BAD, BLIND = Level.OK, Level.ANOMALY, Level.NOT_OBSERVABLE


def result(name: str, sensors: str, level: Level, quantity: str, share: float | None = None) -> CheckResult:
    statistic = share if share is not None else {OK: 0.1, BAD: 3.0, BLIND: 0.0}[level]
    power = float("inf") if level is BLIND else 0.5
    return CheckResult(name, tuple(sensors.split("+")), level, statistic, 1.0, power, "m/s", quantity)


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
    ("position off, speed and yaw agree", [position(BAD), speed(OK), lidar_yaw(OK)], {"gnss"}, set()),
    ("position off, nobody vouches", [position(BAD), speed(BLIND)], set(), {"gnss", "wheels", "imu"}),
    ("accelerometer off", [accel(BAD), speed(OK), lidar_speed(OK)], {"imu"}, set()),
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


@pytest.mark.parametrize(("results", "named", "suspects"), [t[1:] for t in TABLE], ids=[t[0] for t in TABLE])
def test_truth_table(results: list[CheckResult], named: set[str], suspects: set[str]):
    """The signature matrix, independent of order."""
    for order in itertools.islice(itertools.permutations(results), 24):
        found = attribute(order)
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
    assert not attribute(results).named


@pytest.mark.parametrize(("size", "named"), [(2.0, {"gnss"}), (0.3, set())])
def test_a_witness_that_could_not_have_seen_so_little_does_not_vouch(size: float, named: set[str]):
    """Lidar speed with a power of 1.5 m/s clears the wheels of 2 m/s, not of 0.3 m/s; units are converted."""
    case = CheckResult("X8.speed", ("gnss", "wheels"), BAD, 3.0, 1.0, 0.3, "m/s", "speed", "", size)
    witness = CheckResult("X12.speed", ("lidar", "wheels"), OK, 0.1, 1.0, 1.5, "m/s", "speed")
    assert set(attribute([case, witness]).named) == named
    turn = CheckResult("X9.course", ("gnss", "imu"), BAD, 3.0, 1.0, 1.0, "deg/s", "yaw_rate", "", 10 * size)
    yaw = CheckResult("X6.yaw", ("lidar", "imu"), OK, 0.1, 1.0, 0.3, "rad/s", "yaw_rate")
    assert set(attribute([turn, yaw]).named) == named


def test_a_rejected_sensor_explains_its_disagreements_and_clears_the_others():
    """No second victim."""
    found = attribute([speed(BAD), course(OK)], frozenset({"wheels"}))
    assert set(found.named) == {"wheels"}
    assert "gnss" in found.cleared


def test_a_name_by_elimination_waits_and_is_a_set_meanwhile():
    """The check that would spread the blame may be a few samples late."""
    confirm = Confirmation()
    found = attribute([course(BAD), wheel_yaw(OK)])
    first = confirm.confirm(0, found)
    assert not first.named
    assert first.suspects == {"gnss", "imu"}
    assert set(confirm.confirm(6 * S // 10, found).named) == {"gnss"}
    self_check = attribute([result("T4.freeze", "gnss", BAD, "freshness")])
    assert set(Confirmation().confirm(0, self_check).named) == {"gnss"}


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
