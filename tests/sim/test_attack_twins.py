"""Every attack stands in a scenario, and beside an honest drive that it could be mistaken for, or a reason why not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from edgeguard.sim.attacks.registry import ATTACKS
from edgeguard.sim.attacks.system import SYSTEM_PARTS
from edgeguard.sim.scenario import Scenario, builtin_scenarios, load_scenario

DOCS = Path(__file__).parents[2] / "docs" / "simulator.md"
WEAK = "made to look like nothing at all: every clean drive is its twin"
DAMAGE = "a fault, whoever made it: what arrives is damaged, and no sound line does that"
GONE = "a fault, whoever made it: nothing comes any more"
FORGED = "two answers where there is one sensor: no honest rig gives that"
WITHOUT_TWIN: Mapping[str, str] = {
    "camera_pgd": WEAK, "camera_square": WEAK, "camera_labels": WEAK,
    "bit_flips": DAMAGE, "truncate": DAMAGE, "loss": DAMAGE,
    "silence": GONE, "unplug": GONE,
    "rogue_source": FORGED, "source_swap": FORGED,
}  # fmt: skip


@pytest.fixture(scope="module")
def library() -> dict[str, Scenario]:
    """All scenarios that come with the package."""
    return {name: load_scenario(name) for name in builtin_scenarios()}


def scenarios_of(attack: str, library: Mapping[str, Scenario]) -> list[str]:
    """Scenarios in which an attack acts, the demonstration left out."""
    return sorted(n for n, s in library.items() if n != "demo" and any(a.name == attack for a in s.attacks))


def twins_of(attack: str, library: Mapping[str, Scenario]) -> list[str]:
    """Drives that say they are the twin of one of these scenarios."""
    own = set(scenarios_of(attack, library))
    return sorted(name for name, scenario in library.items() if own & set(scenario.twin_of))


def on_the_device(attack: str, library: Mapping[str, Scenario]) -> bool:
    """Whether it acts on the device itself and not on what it senses."""
    return any(a.name == attack and a.sensor in SYSTEM_PARTS for s in library.values() for a in s.attacks)


def test_every_attack_stands_in_a_scenario(library: Mapping[str, Scenario]) -> None:
    """None that nobody runs."""
    assert [attack for attack in ATTACKS if not scenarios_of(attack, library)] == []


def test_every_attack_has_a_benign_twin_or_a_reason_why_not(library: Mapping[str, Scenario]) -> None:
    """And no reason is given for one that has a twin, or that does not exist."""
    sensed = [attack for attack in ATTACKS if not on_the_device(attack, library)]
    alone = [attack for attack in sensed if not twins_of(attack, library)]
    assert sorted(alone) == sorted(WITHOUT_TWIN)


def test_twins_are_clean_drives_with_the_sensor_that_is_attacked(library: Mapping[str, Scenario]) -> None:
    """A twin has no attack of its own, and carries every sensor that the attacks of its scenarios act on."""
    for name, scenario in library.items():
        assert not (scenario.twin_of and scenario.attacks), name
        for other in scenario.twin_of:
            assert {a.sensor for a in library[other].attacks} <= set(scenario.sensors), (name, other)


def test_the_page_lists_every_attack_beside_its_scenarios_and_twins(library: Mapping[str, Scenario]) -> None:
    """One row each, as the library has them now."""
    text = DOCS.read_text(encoding="utf-8")
    for attack in ATTACKS:
        if not on_the_device(attack, library):
            assert row(attack, library) in text, row(attack, library)


def row(attack: str, library: Mapping[str, Scenario]) -> str:
    """The row of one attack in the table of the page."""
    shown = [", ".join(f"`{n}`" for n in of(attack, library)) for of in (scenarios_of, twins_of)]
    return f"| `{attack}` | {shown[0]} | {shown[1] or WITHOUT_TWIN[attack]} |"
