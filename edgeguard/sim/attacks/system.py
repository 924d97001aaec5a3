"""Attacks on the device itself: on the model it runs, the log it keeps, its process and its clock.

These touch no sample. The runner (`edgeguard.sim.system`) carries them out on real bundles, real files and a real
process; `sensor` names the part that is attacked.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec

from edgeguard.sim.attacks.base import AttackBase, End, Start

MODEL, AUDIT, PROCESS, HOST_CLOCK = "model", "audit_log", "process", "host_clock"
SYSTEM_PARTS = frozenset({MODEL, AUDIT, PROCESS, HOST_CLOCK})
Part = Literal["payload", "manifest", "signature", "wrap"]


class ModelTamper(AttackBase, frozen=True, tag="model_tamper"):
    """One bit of the protected model on disk is flipped before the device opens it."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0018", "AML.T0010")

    start_s: Start = 0.0
    end_s: End = 86_400.0
    part: Part = "payload"
    place: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0, description="where in the file, as a share")] = 0.5
    sensor: str = MODEL

    @property
    def size(self) -> str:
        return f"one bit of the {self.part}"


class ModelRollback(AttackBase, frozen=True, tag="model_rollback"):
    """The device is given an older release, well signed, after it has run a newer one."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0010",)

    start_s: Start = 0.0
    end_s: End = 86_400.0
    sensor: str = MODEL

    @property
    def size(self) -> str:
        return "one release back"


class ModelWrongDevice(AttackBase, frozen=True, tag="model_wrong_device"):
    """The model granted to one device is carried to another, its key wrap renamed to fit."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0035", "AML.T0010")

    start_s: Start = 0.0
    end_s: End = 86_400.0
    sensor: str = MODEL

    @property
    def size(self) -> str:
        return "another device's grant"


class DiskFull(AttackBase, frozen=True, tag="disk_full"):
    """The medium of the audit log takes no further byte for a while."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0029",)

    start_s: Start
    end_s: End
    sensor: str = AUDIT

    @property
    def size(self) -> str:
        return "no byte more"


class ProcessKill(AttackBase, frozen=True, tag="process_kill"):
    """The process is killed in mid-drive, without a chance to close its log, and started again."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0029",)

    start_s: Start
    end_s: End = 86_400.0
    sensor: str = PROCESS

    @property
    def size(self) -> str:
        return "SIGKILL"


class HostClockJump(AttackBase, frozen=True, tag="host_clock_jump"):
    """The host's wall clock is set while the device drives; monotonic time goes on."""

    atlas: ClassVar[tuple[str, ...]] = ("AML.T0041",)
    knob: ClassVar[str] = "jump_s"

    start_s: Start
    end_s: End
    jump_s: Annotated[float, msgspec.Meta(ge=-1e9, le=1e9, description="forward is positive")] = -86_400.0
    sensor: str = HOST_CLOCK

    @property
    def size(self) -> str:
        return f"{self.jump_s:+g} s"
