"""What a scenario's file says of world and sensors, as tables with limits, and the models they stand for.

Names are those of `edgeguard sim list --presets`; one that is unknown is refused with the nearest that is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypedDict

import msgspec

from edgeguard.errors import ScenarioError
from edgeguard.sim import presets
from edgeguard.sim.attacks.registry import nearest
from edgeguard.sim.camera import CameraModel
from edgeguard.sim.clocks import ClockModel
from edgeguard.sim.lidar import LidarModel
from edgeguard.sim.rig import SCAN2D, SerialModels
from edgeguard.sim.weather import WORLD_PRESETS, Conditions
from edgeguard.types import CAMERA, GNSS, IMU, LIDAR, WHEELS

SENSOR_PRESETS: Mapping[str, Mapping[str, tuple[Any, str]]] = {
    CAMERA: presets.CAMERAS,
    LIDAR: presets.LIDARS,
    GNSS: presets.RECEIVERS,
    IMU: presets.IMUS,
    WHEELS: presets.WHEELS,
    SCAN2D: presets.LIDARS2D,
}
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
UNSET = msgspec.UNSET
Unset = msgspec.UnsetType


class WorldTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Table `[world]`: a preset, and what is different from it. Fields as in `weather.Conditions`."""

    preset: str = "clear"
    grade: Annotated[float, msgspec.Meta(ge=0.0, le=0.2)] | Unset = UNSET
    roughness: Literal["", "A", "B", "C"] | Unset = UNSET
    visibility_m: Annotated[float, msgspec.Meta(ge=20.0, le=100_000.0)] | Unset = UNSET
    rain_mm_h: Annotated[float, msgspec.Meta(ge=0.0, le=200.0)] | Unset = UNSET
    overcast: Share | Unset = UNSET
    night: bool | Unset = UNSET
    low_sun: bool | Unset = UNSET
    tunnel: bool | Unset = UNSET
    bridge: bool | Unset = UNSET
    trucks: bool | Unset = UNSET
    crossings: bool | Unset = UNSET
    queue: bool | Unset = UNSET


class ClockTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Key `clock` of a sensor as a table: a preset, and what is different. Fields as in `clocks.ClockModel`."""

    preset: str = "perfect"
    offset_s: Annotated[float, msgspec.Meta(ge=-3600.0, le=3600.0)] | Unset = UNSET
    drift_ppm: Annotated[float, msgspec.Meta(ge=-10_000.0, le=10_000.0)] | Unset = UNSET
    jitter_s: Annotated[float, msgspec.Meta(ge=0.0, le=10.0)] | Unset = UNSET
    loss: Share | Unset = UNSET
    duplication: Share | Unset = UNSET
    reorder: Share | Unset = UNSET
    reorder_s: Annotated[float, msgspec.Meta(ge=0.0, le=10.0)] | Unset = UNSET
    baud: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] | Unset = UNSET


class SensorTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Table `[sensors.NAME]`: which model it is, "" the board's, and what its clock and line do."""

    preset: str = ""
    clock: str | ClockTable = "perfect"


class Fitted(TypedDict):
    """Keyword arguments of `SimRig`."""

    camera: CameraModel
    lidar: LidarModel
    models: SerialModels
    clocks: dict[str, ClockModel]


def conditions_of(world: str | WorldTable, where: str) -> Conditions:
    """Return the conditions that a scenario's `world` names or spells out.

    Raises:
        ScenarioError: EG-X012 for an unknown preset; `where` begins the message.
    """
    table = WorldTable(world) if isinstance(world, str) else world
    base: Conditions = _preset(WORLD_PRESETS, table.preset, "world", where)
    return replace(base, **_changes(table))


def fitted(board: str, tables: Mapping[str, SensorTable], where: str) -> Fitted:
    """Return the models of a board's sensors, changed by tables of single ones.

    Raises:
        ScenarioError: EG-X012 for an unknown board, sensor or clock; `where` begins the message.
    """
    names = dict(_preset(presets.BOARDS, board, "board", where))
    models: dict[str, Any] = {}
    clocks: dict[str, ClockModel] = {}
    for sensor, known in SENSOR_PRESETS.items():
        table = tables.get(sensor, SensorTable())
        models[sensor] = _preset(known, table.preset or names[sensor], sensor, where)
        clock = ClockTable(table.clock) if isinstance(table.clock, str) else table.clock
        clocks[sensor] = replace(_preset(presets.CLOCKS, clock.preset, "clock", where), **_changes(clock))
    serial = SerialModels(models[IMU], models[GNSS], models[WHEELS], models[SCAN2D])
    return Fitted(camera=models[CAMERA], lidar=models[LIDAR], models=serial, clocks=clocks)


def _preset(known: Mapping[str, tuple[Any, str]], name: str, kind: str, where: str) -> Any:
    if name not in known:
        raise ScenarioError(
            f"{where}: no {kind} preset is called {name!r}", code="EG-X012", hint=nearest(name, list(known))
        )
    return known[name][0]


def _changes(table: msgspec.Struct) -> dict[str, Any]:
    found = ((field.name, getattr(table, field.name)) for field in msgspec.structs.fields(table))
    return {name: value for name, value in found if name != "preset" and value is not UNSET}
