"""Scenarios: a drive of some length and the attacks on it, as a TOML file. The seed is given when it is run."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec

from edgeguard.clock import ManualClock
from edgeguard.errors import ScenarioError
from edgeguard.sim.attacks.faults import CameraBlind, CameraFreeze, Silence, Unplug
from edgeguard.sim.attacks.gnss import GnssDrift
from edgeguard.sim.attacks.lidar import GhostPoints
from edgeguard.sim.rig import SimRig
from edgeguard.sim.world import World
from edgeguard.types import CAMERA, GNSS, IMU, LIDAR, WHEELS

MAX_SCENARIO_BYTES = 1 << 18  # thousands of attacks; anything larger is not a scenario
MAX_SEED = 2**32 - 1
_SENSORS = frozenset({CAMERA, LIDAR, GNSS, IMU, WHEELS})

AnyAttack = GnssDrift | GhostPoints | CameraBlind | CameraFreeze | Silence | Unplug


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A drive: its name, what it shows, how long it lasts, and its attacks (TOML tables `[[attacks]]`, key `type`)."""

    name: str
    summary: str
    duration_s: Annotated[float, msgspec.Meta(ge=1.0, le=600.0)]
    attacks: tuple[AnyAttack, ...] = ()

    def rig(self, clock: ManualClock, seed: int) -> SimRig:
        """Return the rig that runs this scenario; `seed` decides street, noise and the attacks' randomness.

        Raises:
            ScenarioError: EG-X013 when the seed is not in 0..2^32-1.
        """
        if not 0 <= seed <= MAX_SEED:
            raise ScenarioError(f"seed {seed} is not in 0..{MAX_SEED}", code="EG-X013")
        return SimRig(World(seed, self.duration_s), clock, seed, self.attacks)


def load_scenario(name_or_path: str | Path) -> Scenario:
    """Return a scenario that comes with the package (`"demo"`), or that of a TOML file.

    Raises:
        ScenarioError: EG-X010 not found; EG-X011 no TOML; EG-X012 unknown key, wrong type or impossible value.
    """
    text = _read(name_or_path)
    try:
        scenario = msgspec.convert(tomllib.loads(text), Scenario)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"scenario {name_or_path} is no TOML: {error}", code="EG-X011") from error
    except msgspec.ValidationError as error:
        raise ScenarioError(f"scenario {name_or_path}: {error}", code="EG-X012") from error
    for number, attack in enumerate(scenario.attacks):
        _require_possible(scenario, number, attack)
    return scenario


def _read(name_or_path: str | Path) -> str:
    hint = "give a TOML file or one of: " + ", ".join(builtin_scenarios())
    try:
        if str(name_or_path) in builtin_scenarios():
            return (files("edgeguard.sim") / "scenarios" / f"{name_or_path}.toml").read_text(encoding="utf-8")
        with Path(name_or_path).open("rb") as file:
            raw = file.read(MAX_SCENARIO_BYTES + 1)
        if len(raw) > MAX_SCENARIO_BYTES:
            raise ScenarioError(f"scenario {name_or_path} is larger than 256 KiB", code="EG-X011")
        return raw.decode("utf-8")
    except (OSError, ValueError) as error:
        raise ScenarioError(f"cannot read scenario {name_or_path}", code="EG-X010", hint=hint) from error


def builtin_scenarios() -> tuple[str, ...]:
    """Return the names of the scenarios that come with the package."""
    folder = files("edgeguard.sim") / "scenarios"
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml")))


def _require_possible(scenario: Scenario, number: int, attack: AnyAttack) -> None:
    where = f"scenario {scenario.name}: attacks[{number}] ({attack.name})"
    if attack.sensor not in _SENSORS:
        raise ScenarioError(f"{where}: no sensor is called {attack.sensor!r}", code="EG-X012")
    if not 0.0 <= attack.start_s < attack.end_s or attack.start_s > scenario.duration_s:
        raise ScenarioError(f"{where}: start and end are not in order within the drive", code="EG-X012")
    if not isinstance(attack, GhostPoints):
        return
    if attack.points < 1 or attack.range_m < 1.0 or min(attack.width_m, attack.height_m) <= 0.0:
        raise ScenarioError(f"{where}: a ghost needs points, a size, and a range of 1 m or more", code="EG-X012")
