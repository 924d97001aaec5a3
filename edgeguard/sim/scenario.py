"""Scenarios: a drive of some length, the attacks on it, and what must come of them, as a TOML file.

The seed is given when it is run. Format and an example: docs/simulator.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgeguard.clock import ManualClock
from edgeguard.errors import ScenarioError
from edgeguard.sim.attacks.base import AttackBase
from edgeguard.sim.attacks.lidar import GhostPoints
from edgeguard.sim.attacks.registry import ATTACKS, nearest
from edgeguard.sim.attacks.system import SYSTEM_PARTS
from edgeguard.sim.equipment import ClockTable, SensorTable, WorldTable, conditions_of, fitted
from edgeguard.sim.rig import ALL_SENSORS, KNOWN_SENSORS, SimRig
from edgeguard.sim.world import World

MAX_SCENARIO_BYTES = 1 << 18  # thousands of attacks; anything larger is not a scenario
MAX_SEED = 2**32 - 1

Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=86_400.0)]


class AttackExpect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must come of one attack (table `[attacks.expect]` below it).

    detected: whether trust in the attacked sensor falls while it acts; false states a known gap, and a run that does
    detect it fails, so that the statement is corrected; "varies" where it hangs on the street, and is not judged.
    within_s: at most this long after onset. named: whether the attacked sensor is the one that is blamed; where it is
    left out, true for what is detected; "varies" is not judged. refused: error code with which an attack on the model
    is stopped. found_at_most, found_at_least: of the objects that the scenario's model finds in the same frames without
    attacks, this share and no more (or no less) while it acts; above 1 for objects that it makes appear.
    """

    detected: bool | Literal["varies"] = True
    within_s: Seconds | None = None
    named: bool | Literal["varies"] | None = None
    refused: str = ""
    found_at_most: Annotated[float, msgspec.Meta(ge=0.0)] | None = None
    found_at_least: Annotated[float, msgspec.Meta(ge=0.0)] | None = None

    @property
    def counts_objects(self) -> bool:
        """Whether it takes a drive without attacks to compare with."""
        return self.found_at_most is not None or self.found_at_least is not None


class Expect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must come of the whole drive (table `[expect]`).

    clean: nobody is blamed without excuse outside attacks; "varies" is not judged. verdict: the worst of the drive, not
    judged when it is None.
    """

    clean: bool | Literal["varies"] = True
    verdict: Literal["PASS", "DEGRADE", "HOLD", "STOP"] | None = None


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A drive: its name, what it shows, how long it lasts, its attacks and what must come of them.

    sensors: which take part; in a file also tables `[sensors.NAME]`, which become `equipment`. world: a preset's name
    or a table. board: preset that says which models the sensors are. twin_of: attack scenarios that this drive, on
    which nobody attacks, could be mistaken for. attack_expect: one per attack, in their order. model: runs on the
    camera frames; obstacle_detector, or an .onnx file with a .toml beside it; none without it.
    """

    name: str
    summary: str
    duration_s: Annotated[float, msgspec.Meta(ge=1.0, le=600.0)]
    attacks: tuple[AttackBase, ...] = ()
    sensors: tuple[str, ...] = ALL_SENSORS
    expect: Expect = Expect()
    attack_expect: tuple[AttackExpect, ...] = ()
    world: str | WorldTable = "clear"
    board: str = "street"
    equipment: dict[str, SensorTable] = {}
    twin_of: tuple[str, ...] = ()
    model: str = ""

    def rig(self, clock: ManualClock, seed: int) -> SimRig:
        """Return the rig that runs this scenario; `seed` decides street, noise and the attacks' randomness.

        Raises:
            ScenarioError: EG-X012 for a preset that does not exist, EG-X013 when the seed is not in 0..2^32-1.
        """
        models = fitted(self.board, self.equipment, f"scenario {self.name}")
        drive = self.drive(seed)
        return SimRig(drive, clock, seed, self.sensor_attacks, sensors=self.sensors, **models)

    def drive(self, seed: int) -> World:
        """Return the world that this scenario drives through; errors as of `rig`."""
        if not 0 <= seed <= MAX_SEED:
            raise ScenarioError(f"seed {seed} is not in 0..{MAX_SEED}", code="EG-X013")
        return World(seed, self.duration_s, conditions_of(self.world, f"scenario {self.name}"))

    @property
    def setting(self) -> dict[str, str]:
        """World, board and the models of single sensors in words, where they are not the default."""
        world = self.world if isinstance(self.world, str) else _words(self.world)
        found = {"world": world if world != "clear" else "", "board": self.board if self.board != "street" else ""}
        found |= {name: _words(table) for name, table in self.equipment.items()}
        return {name: words for name, words in found.items() if words}

    @property
    def unattacked(self) -> Scenario:
        """The same drive without its attacks and what was expected of them."""
        return msgspec.structs.replace(self, attacks=(), attack_expect=(), expect=Expect())

    @property
    def sensor_attacks(self) -> tuple[AttackBase, ...]:
        """Those that act on samples or lines."""
        return tuple(a for a in self.attacks if a.sensor not in SYSTEM_PARTS)

    @property
    def system_attacks(self) -> tuple[AttackBase, ...]:
        """Those that act on the device itself."""
        return tuple(a for a in self.attacks if a.sensor in SYSTEM_PARTS)

    def expected_of(self, attack: AttackBase) -> AttackExpect:
        """Return what must come of one of this scenario's attacks."""
        index = next(i for i, a in enumerate(self.attacks) if a is attack)
        return self.attack_expect[index] if index < len(self.attack_expect) else AttackExpect()


def _words(table: msgspec.Struct) -> str:
    told = msgspec.to_builtins(table)  # what is default, or not said, is left out
    return ", ".join(
        f"{name} {_words(value)}" if isinstance(value, msgspec.Struct) else name if value is True else f"{name} {value}"
        for name, value in ((name, getattr(table, name)) for name in told)
    )


def load_scenario(name_or_path: str | Path) -> Scenario:
    """Return a scenario that comes with the package (`"demo"`), or that of a TOML file.

    Raises:
        ScenarioError: EG-X010 not found; EG-X011 no TOML; EG-X012 unknown key, wrong type or impossible value, with
            the nearest known name as the hint.
    """
    return parse_scenario(_read(name_or_path), str(name_or_path))


def parse_scenario(text: str, origin: str) -> Scenario:
    """Return the scenario in a TOML text; `origin` names it in errors, which are those of `load_scenario`."""
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ScenarioError(f"scenario {origin} is no TOML: {error}", code="EG-X011") from error
    where = f"scenario {origin}"
    _known(tree, Scenario, where, hidden={"attack_expect", "equipment"})
    raw = tree.pop("attacks", [])
    if not isinstance(raw, list) or not all(isinstance(entry, dict) for entry in raw):
        raise ScenarioError(f"{where}: attacks is no list of tables", code="EG-X012", hint="write [[attacks]]")
    attacks, expects = [], []
    for number, entry in enumerate(raw):
        at = f"{where}: attacks[{number}]"
        expects.append(_made(entry.pop("expect", {}), AttackExpect, f"{at}: expect"))
        attacks.append(_attack(entry, at))
    if isinstance(tree.get("expect"), dict):
        _known(tree["expect"], Expect, f"{where}: expect")
    if isinstance(tree.get("world"), dict):
        tree["world"] = _made(tree["world"], WorldTable, f"{where}: world")
    if isinstance(tree.get("sensors"), dict):
        tree["equipment"] = {name: _sensor(name, table, where) for name, table in tree["sensors"].items()}
        tree["sensors"] = tuple(tree["sensors"])
    bare: Scenario = _made(tree, Scenario, where)
    scenario = msgspec.structs.replace(bare, attacks=tuple(attacks), attack_expect=tuple(expects))
    for sensor in scenario.sensors:
        _require_sensor(sensor, where)
    for twin in scenario.twin_of:
        if twin not in builtin_scenarios():
            raise ScenarioError(
                f"{where}: twin_of names no scenario of the library: {twin!r}",
                code="EG-X012",
                hint=nearest(twin, list(builtin_scenarios())),
            )
    conditions_of(scenario.world, where)
    fitted(scenario.board, scenario.equipment, where)
    if not scenario.model and any(expect.counts_objects for expect in expects):
        raise ScenarioError(f"{where}: found_at_most needs a model", code="EG-X012", hint='model = "obstacle_detector"')
    for number, attack in enumerate(scenario.attacks):
        _require_possible(scenario, number, attack)
    return scenario


def builtin_scenarios() -> tuple[str, ...]:
    """Return the names of the scenarios that come with the package."""
    folder = files("edgeguard.sim") / "scenarios"
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml")))


def _read(name_or_path: str | Path) -> str:
    try:
        if str(name_or_path) in builtin_scenarios():
            return (files("edgeguard.sim") / "scenarios" / f"{name_or_path}.toml").read_text(encoding="utf-8")
        with Path(name_or_path).open("rb") as file:
            raw = file.read(MAX_SCENARIO_BYTES + 1)
        if len(raw) > MAX_SCENARIO_BYTES:
            raise ScenarioError(f"scenario {name_or_path} is larger than 256 KiB", code="EG-X011")
        return raw.decode("utf-8")
    except (OSError, ValueError) as error:
        hint = "give a TOML file or one of the names that `edgeguard sim list` shows; "
        hint += nearest(str(name_or_path), list(builtin_scenarios()))
        raise ScenarioError(f"cannot read scenario {name_or_path}", code="EG-X010", hint=hint) from error


def _sensor(name: str, table: Any, where: str) -> SensorTable:
    _require_sensor(name, where)
    at = f"{where}: sensors.{name}"
    if isinstance(table, dict) and isinstance(table.get("clock"), dict):
        table = {**table, "clock": _made(table["clock"], ClockTable, f"{at}: clock")}
    made: SensorTable = _made(table, SensorTable, at)
    return made


def _require_sensor(name: str, where: str) -> None:
    if name not in KNOWN_SENSORS:
        raise ScenarioError(
            f"{where}: no sensor is called {name!r}", code="EG-X012", hint=nearest(name, list(KNOWN_SENSORS))
        )


def _attack(entry: Mapping[str, Any], where: str) -> AttackBase:
    kind = entry.get("type")
    if not isinstance(kind, str):
        raise ScenarioError(f"{where}: a key `type` must name the attack", code="EG-X012", hint="edgeguard sim list")
    if kind not in ATTACKS:
        raise ScenarioError(f"{where}: no attack is called {kind!r}", code="EG-X012", hint=nearest(kind, ATTACKS))
    _known(entry, ATTACKS[kind], where, more={"type"})
    attack: AttackBase = _made(entry, ATTACKS[kind], f"{where} ({kind})")
    return attack


def _made(tree: Any, kind: type[Any], where: str) -> Any:
    if isinstance(tree, dict):
        more = {"type"} if issubclass(kind, AttackBase) else set()
        _known(tree, kind, where, more=more)
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{where}: {error}", code="EG-X012") from error


def _known(
    tree: Mapping[str, Any],
    kind: type[Any],
    where: str,
    *,
    hidden: set[str] | None = None,
    more: set[str] | None = None,
) -> None:
    names = ({field.name for field in msgspec.structs.fields(kind)} | (more or set())) - (hidden or set())
    for key in tree:
        if key not in names:
            raise ScenarioError(f"{where}: unknown key `{key}`", code="EG-X012", hint=nearest(key, sorted(names)))


def _require_possible(scenario: Scenario, number: int, attack: AttackBase) -> None:
    where = f"scenario {scenario.name}: attacks[{number}] ({attack.name})"
    sensor, start_s, end_s = attack.sensor, attack.start_s, attack.end_s
    known = [*KNOWN_SENSORS, *SYSTEM_PARTS]
    if sensor not in known:
        raise ScenarioError(f"{where}: no sensor is called {sensor!r}", code="EG-X012", hint=nearest(sensor, known))
    if sensor in KNOWN_SENSORS and sensor not in scenario.sensors:
        raise ScenarioError(f"{where}: the rig has no {sensor}", code="EG-X012", hint="add it to `sensors`")
    if not 0.0 <= start_s < end_s or start_s > scenario.duration_s:
        raise ScenarioError(f"{where}: start and end are not in order within the drive", code="EG-X012")
    if not isinstance(attack, GhostPoints):
        return
    if attack.points < 1 or attack.range_m < 1.0 or min(attack.width_m, attack.height_m) <= 0.0:
        raise ScenarioError(f"{where}: a ghost needs points, a size, and a range of 1 m or more", code="EG-X012")
