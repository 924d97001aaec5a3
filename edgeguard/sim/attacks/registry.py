"""The attack library by name: what each attack is called, takes, and comes from."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, get_args, get_type_hints

import msgspec

from edgeguard.errors import ScenarioError
from edgeguard.sim.attacks.adversarial import CameraLabels, CameraPgd, CameraSquare
from edgeguard.sim.attacks.base import AttackBase
from edgeguard.sim.attacks.camera import (
    CameraBanding,
    CameraDark,
    CameraDazzle,
    CameraDefocus,
    CameraDirt,
    CameraPatch,
    CameraPhantom,
)
from edgeguard.sim.attacks.faults import CameraBlind, CameraFreeze, Silence, Unplug
from edgeguard.sim.attacks.gnss import GnssDrift, GnssJam, GnssJump, GnssMeacon, GnssTwoStage
from edgeguard.sim.attacks.insertion import LidarInsertion
from edgeguard.sim.attacks.lidar import (
    GhostFrustum,
    GhostPoints,
    LidarBlockage,
    LidarHfr,
    LidarMirror,
    LidarRemoval,
)
from edgeguard.sim.attacks.link import (
    BitFlips,
    ClockDrift,
    LinkDelay,
    LoopReplay,
    Loss,
    Reorder,
    RogueSource,
    StaleData,
    Truncate,
    WireReplay,
)
from edgeguard.sim.attacks.motion import (
    ImuBias,
    ImuResonance,
    ImuSaturation,
    ImuStuck,
    WheelScale,
    WheelSlip,
    WheelStuck,
)
from edgeguard.sim.attacks.rig import ExtrinsicsShift, SourceSwap
from edgeguard.sim.attacks.system import (
    DiskFull,
    HostClockJump,
    ModelRollback,
    ModelTamper,
    ModelWrongDevice,
    ProcessKill,
)

_CLASSES: Final[tuple[type[AttackBase], ...]] = (
    GhostPoints, GhostFrustum, LidarRemoval, LidarHfr, LidarBlockage, LidarMirror, LidarInsertion,
    CameraBlind, CameraDazzle, CameraDark, CameraFreeze, CameraBanding, CameraDefocus, CameraDirt, CameraPatch,
    CameraPhantom, CameraPgd, CameraSquare, CameraLabels,
    GnssDrift, GnssJump, GnssTwoStage, GnssMeacon, GnssJam,
    ImuBias, ImuResonance, ImuSaturation, ImuStuck,
    WheelScale, WheelSlip, WheelStuck,
    LinkDelay, StaleData, LoopReplay, WireReplay, Reorder, Loss, BitFlips, Truncate, RogueSource, ClockDrift, Silence,
    Unplug,
    ExtrinsicsShift, SourceSwap,
    ModelTamper, ModelRollback, ModelWrongDevice, DiskFull, ProcessKill, HostClockJump,
)  # fmt: skip

ATTACKS: Final[Mapping[str, type[AttackBase]]] = MappingProxyType(
    {str(attack.__struct_config__.tag): attack for attack in _CLASSES}
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: name with its unit, type, default (None where one must be given), limits, meaning."""

    name: str
    kind: str
    default: Any
    required: bool
    limits: str
    meaning: str


@dataclass(frozen=True, slots=True)
class AttackInfo:
    """What a list shows of one attack. sensor: its default target, "" where the scenario must name one."""

    name: str
    summary: str
    sensor: str
    knob: str
    atlas: tuple[str, ...]
    source: str
    parameters: tuple[Parameter, ...]


def attack_info(name: str) -> AttackInfo:
    """Return the description of one attack.

    Raises:
        ScenarioError: EG-X014 when there is none of that name; the hint has the nearest.
    """
    attack = attack_class(name)
    hints = get_type_hints(attack, include_extras=True)
    parameters = tuple(_parameter(field, hints[field.name]) for field in msgspec.structs.fields(attack))
    sensor = next((p.default for p in parameters if p.name == "sensor" and not p.required), "")
    summary = (attack.__doc__ or "").split("\n\n")[0].replace("\n    ", " ").strip()
    return AttackInfo(name, summary, sensor, attack.knob, attack.atlas, attack.source, parameters)


def attack_class(name: str) -> type[AttackBase]:
    """Return the class of one attack.

    Raises:
        ScenarioError: EG-X014 when there is none of that name.
    """
    if name not in ATTACKS:
        raise ScenarioError(f"no attack is called {name!r}", code="EG-X014", hint=nearest(name, ATTACKS))
    return ATTACKS[name]


def nearest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """Return a hint: the nearest known name, or all."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else "known: " + ", ".join(sorted(known))


def _parameter(field: msgspec.structs.FieldInfo, hint: Any) -> Parameter:
    arguments = get_args(hint)
    meta = next((a for a in arguments if isinstance(a, msgspec.Meta)), None)
    kind = arguments[0] if meta is not None else hint
    choices = get_args(kind)
    bounds = []
    if meta is not None:
        pairs = ((">=", meta.ge), (">", meta.gt), ("<=", meta.le), ("<", meta.lt))
        bounds = [f"{sign} {value:g}" for sign, value in pairs if value is not None]
    return Parameter(
        name=field.name,
        kind="one of " + ", ".join(map(str, choices)) if choices else getattr(kind, "__name__", str(kind)),
        default=None if field.required else field.default,
        required=bool(field.required),
        limits=" and ".join(bounds),
        meaning=(meta.description or "") if meta is not None else "",
    )
