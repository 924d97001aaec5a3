"""What an attacker with the device in his hands tries, on real bundles, files and processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeguard.errors import EnvironmentMissingError
from edgeguard.sim.attacks.system import (
    DiskFull,
    HostClockJump,
    ModelRollback,
    ModelTamper,
    ModelWrongDevice,
    ProcessKill,
)
from edgeguard.sim.scenario import AttackExpect, Scenario, load_scenario
from edgeguard.sim.system import Fleet, no_room_to_write, run_system_attacks

RIG = ("gnss", "wheels")


def test_a_full_disk_stops_the_device_and_the_log_survives(tmp_path: Path) -> None:
    """Nothing may leave that cannot be logged; afterwards the chain verifies."""
    scenario = Scenario("full", "", 3.0, attacks=(DiskFull(1.0, 2.5),), sensors=RIG)
    stop, log = run_system_attacks(scenario, 1, tmp_path)
    assert stop.met, stop
    assert log.found.startswith("verifies")
    with no_room_to_write(), pytest.raises(OSError, match="File too large"), (tmp_path / "x").open("wb") as file:
        file.write(b"x" * 100_000)
    (tmp_path / "x").write_bytes(b"room again")


def test_a_killed_process_leaves_a_log_that_verifies_and_goes_on(tmp_path: Path) -> None:
    """SIGKILL in mid-drive, in a process of its own."""
    scenario = Scenario("kill", "", 3.0, attacks=(ProcessKill(1.5),), sensors=RIG)
    found = run_system_attacks(scenario, 1, tmp_path)
    assert [e.met for e in found] == [True, True, True], found


def test_setting_the_wall_clock_back_changes_no_verdict(tmp_path: Path) -> None:
    """Decisions hang on monotonic time alone."""
    scenario = Scenario("clock", "", 3.0, attacks=(HostClockJump(1.0, 3.0, jump_s=-1e8),), sensors=RIG)
    found = run_system_attacks(scenario, 1, tmp_path)
    assert [e.met for e in found] == [True, True], found


@pytest.mark.slow
def test_models_that_were_tampered_with_rolled_back_or_stolen_do_not_open(tmp_path: Path) -> None:
    """Each refused with its own error; and an expectation of another error fails."""
    attacks = (
        ModelTamper(),
        ModelTamper(part="manifest"),
        ModelTamper(part="wrap"),
        ModelRollback(),
        ModelWrongDevice(),
    )
    expects = tuple(AttackExpect(refused=code) for code in ("EG-S004", "", "EG-D000", "EG-T015", "EG-S004"))
    scenario = Scenario("models", "", 3.0, attacks=attacks, attack_expect=expects, sensors=RIG)
    found = run_system_attacks(scenario, 1, tmp_path)
    assert [e.met for e in found] == [True, True, True, True, False], found
    assert found[-1].found == "refused EG-D000"


def test_without_the_host_tools_the_environment_is_named(tmp_path: Path) -> None:
    """A device has no signing code: the error says what is missing."""

    def missing(arguments: object) -> dict[str, object]:
        raise EnvironmentMissingError("a throw-away fleet could not be made", code="EG-E030")

    with pytest.raises(EnvironmentMissingError):
        run_system_attacks(load_scenario("device"), 1, tmp_path, Fleet(tmp_path / "fleet", missing))
