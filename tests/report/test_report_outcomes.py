"""What counts as detected, named and blamed in clean time."""

from __future__ import annotations

from edgeguard.report.outcomes import AttackOutcome, CleanTime, TickTrust, find_blames, judge_attacks, judge_clean_time
from edgeguard.types import TrustState, Truth, Verdict

T, S, R = TrustState.TRUSTED, TrustState.SUSPECT, TrustState.REJECTED
WINDOW = (Truth("walk", "gnss", 0, 0, ""), 10.0, 20.0)


def ticks(**changes: dict[float, TrustState]) -> list[TickTrust]:
    """60 s at 1 Hz; per sensor, from which second on which state holds."""
    made = []
    for second in range(60):
        trust = {}
        for sensor in ("gnss", "imu", "wheels"):
            states = [state for at, state in changes.get(sensor, {}).items() if at <= second]
            trust[sensor] = states[-1] if states else T
        verdict = Verdict.DEGRADE if set(trust.values()) != {T} else Verdict.PASS
        made.append(TickTrust(float(second), verdict, trust))
    return made


def judge(**changes: dict[float, TrustState]) -> AttackOutcome:
    (outcome,) = judge_attacks(ticks(**changes), [WINDOW])
    return outcome


def clean(recovery_s: float = 10.0, **changes: dict[float, TrustState]) -> CleanTime:
    made = ticks(**changes)
    return judge_clean_time(made, [t.time_s + 1 for t in made], judge_attacks(made, [WINDOW]), recovery_s)


def test_an_attack_is_detected_at_the_first_fall_of_trust_in_its_sensor() -> None:
    """SUSPECT is enough for the delay; REJECTED decides who is named."""
    outcome = judge(gnss={13: S, 15: R, 24: T})

    assert (outcome.detected, outcome.delay_s) == (True, 3.0)
    assert (outcome.named, outcome.named_state, outcome.named_correctly) == (("gnss",), "REJECTED", True)
    assert outcome.worst_verdict == "DEGRADE"


def test_evidence_within_the_grace_second_counts_and_later_evidence_does_not() -> None:
    """The window is closed on both sides."""
    assert judge(gnss={21: S}).detected
    assert not judge(gnss={22: S}).detected
    assert not judge(gnss={9: S}).detected
    assert judge().worst_verdict == "PASS"


def test_blaming_only_another_sensor_is_a_miss() -> None:
    """And the report says who was blamed instead."""
    outcome = judge(imu={12: R})

    assert (outcome.detected, outcome.named, outcome.named_correctly) == (False, ("imu",), False)


def test_a_rejected_bystander_spoils_the_naming_and_a_suspect_one_does_not() -> None:
    """Among suspects the attacked one is named too; a rejection must hit it alone."""
    assert judge(gnss={12: R}, imu={12: S}).named_correctly
    assert judge(gnss={12: S}, wheels={12: S}).named_correctly
    assert judge(gnss={12: R}, imu={12: R}).named_correctly is False
    assert judge(gnss={12: S}, imu={12: R}).named_correctly is False


def test_a_sensor_that_was_out_before_is_not_counted_as_detected() -> None:
    """Nothing new was noticed; a further fall is something new."""
    outcome = judge(gnss={5: S})

    assert (outcome.detected, outcome.already_blamed) == (False, True)
    assert judge(gnss={5: S, 12: R}).detected


def test_clean_time_is_what_lies_outside_the_attack() -> None:
    """60 ticks, 11 of them in the window."""
    assert clean() == CleanTime(49.0, 0.0, ())


def test_slow_readmission_is_excused_until_the_allowance_is_used_up() -> None:
    """Blame that began during the attack, for ten seconds after it."""
    assert clean(gnss={12: R, 30: T}).blamed_s == 0.0
    assert clean(gnss={12: R, 35: T}).blamed_s == 4.0
    assert clean(recovery_s=2.0, gnss={12: R, 30: T}).blamed_s == 7.0


def test_new_blame_in_clean_time_always_counts_even_while_another_recovers() -> None:
    """A second sensor blamed at 25 s has no attack to excuse it."""
    outcome = clean(gnss={12: R, 28: T}, imu={25: S, 27: T})

    assert outcome.blamed_s == 2.0
    assert [(b.sensor, b.time_s) for b in outcome.blames] == [("imu", 25.0)]


def test_blame_that_began_before_an_attack_counts_before_and_after_it() -> None:
    """A false alarm is not laundered by an attack that follows."""
    assert clean(imu={5: S, 25: T}).blamed_s == 9.0


def test_readmission_is_counted_from_the_attacks_end() -> None:
    """Probation is by design; how long it lasts is shown, not hidden."""
    made = ticks(gnss={12: R, 26: S, 30: T})
    (outcome,) = judge_attacks(made, [WINDOW])
    assert outcome.readmitted_s == 30.0 - outcome.end_s


def test_every_fall_in_trust_is_a_blame_and_recovery_is_none() -> None:
    """SUSPECT, then REJECTED, then again SUSPECT after being trusted."""
    falls = [(b.time_s, b.state) for b in find_blames(ticks(gnss={3: S, 5: R, 7: S, 9: T, 11: S}))]

    assert falls == [(3.0, "SUSPECT"), (5.0, "REJECTED"), (11.0, "SUSPECT")]
