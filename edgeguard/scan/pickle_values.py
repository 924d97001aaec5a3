"""What lies on the stack of a pickle that is followed without being run."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from edgeguard.scan.pickle_names import Judgement
from edgeguard.scan.pickle_ops import Opaque, Span


class Special(Enum):
    """MARK: where a group begins. UNKNOWN: something the walker cannot tell."""

    MARK = "mark"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Import:
    """A name that was imported."""

    module: str
    name: str
    judgement: Judgement


@dataclass(slots=True, eq=False)
class Made:
    """What calling `callee` gave; `state` is what BUILD put into it."""

    callee: Value
    arguments: Value
    state: Value = None


@dataclass(slots=True, eq=False)
class Persistent:
    """An object that the loader supplies by this id."""

    pid: Value


@dataclass(slots=True, eq=False)
class Items:
    """A list or set, being filled."""

    items: list[Value] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Table:
    """A dict, being filled; only entries with text keys are kept."""

    entries: dict[str, Value] = field(default_factory=dict)


Value = (
    str | int | float | bool | None | Opaque | Span | Special | Import | Made | Persistent | Items | Table
    | tuple["Value", ...]
)  # fmt: skip
