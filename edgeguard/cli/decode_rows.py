"""How `edgeguard decode` prints a record: any frozen record becomes one row, arrays become their extremes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from math import isfinite
from typing import Any

import click
import numpy as np

MAX_LIST = 64  # longer sequences are told by their extremes; --points prints them
MAX_DEPTH = 4


class Printer:
    """Writes rows to stdout, one line each."""

    def __init__(self, as_json: bool, points: bool) -> None:
        self._as_json, self._points = as_json, points

    def record(self, record: Any, stamp_ns: int | None) -> None:
        """Print one record; `stamp_ns` is the capture's stamp, nanoseconds since 1970."""
        row: dict[str, Any] = {"record": type(record).__name__}
        if stamp_ns is not None:
            row["stamp_ns"] = stamp_ns
        row |= _row(record)
        if self._points and self._as_json:
            row |= _points(record)
        self._print(row)
        if self._points and not self._as_json:
            for line in _point_lines(_points(record)):
                click.echo(line)

    def summary(self, totals: Mapping[str, Any]) -> None:
        """Print the last line."""
        if self._as_json:
            click.echo(_json(totals))
            return
        drops = totals["drops"]
        click.echo(
            "summary  "
            + "  ".join(f"{name}={value}" for name, value in totals.items() if name != "drops")
            + "".join(f"  {reason.replace(' ', '_')}={count}" for reason, count in drops.items())
        )

    def _print(self, row: Mapping[str, Any]) -> None:
        if self._as_json:
            click.echo(_json(row))
            return
        shown = "  ".join(f"{name}={_text(value)}" for name, value in row.items() if name != "record" and _told(value))
        click.echo(f"{row['record']:<16} {shown}")


def _row(record: Any) -> dict[str, Any]:
    if hasattr(record, "summary"):
        summary: dict[str, Any] = record.summary()
        return summary
    row = _plain(record, 0)
    return row if isinstance(row, dict) else {"value": row}


def _points(record: Any) -> dict[str, Any]:
    """Return every point as parallel lists."""
    if not hasattr(record, "points"):
        held = {f.name: getattr(record, f.name) for f in _fields(record)}
        return {name: _finite(value) for name, value in held.items() if _is_array(value)}
    xyz, intensity, ring, offset_ns = record.points()
    return {
        "xyz_m": [[_number(v) for v in point] for point in xyz.tolist()],
        "intensity": [_number(v) for v in intensity.tolist()],
        "ring": ring.tolist(),
        "time_offset_ns": offset_ns.tolist(),
    }


def _point_lines(points: Mapping[str, Any]) -> Iterator[str]:
    for values in zip(*points.values(), strict=False):
        yield "  " + "  ".join(_text(v) for v in values)


def _fields(record: Any) -> tuple[Any, ...]:
    return fields(record) if is_dataclass(record) and not isinstance(record, type) else ()


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (isinstance(value, list | tuple) and len(value) > MAX_LIST)


def _finite(value: Any) -> list[Any]:
    values = value.tolist() if isinstance(value, np.ndarray) else value
    return [_number(v) if isinstance(v, float) else v for v in values]


def _plain(value: Any, depth: int) -> Any:
    """Return a value as JSON has it: no NaN, no bytes, nothing deeper than records are."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return _number(value)
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if depth >= MAX_DEPTH:
        return None
    if is_dataclass(value) and not isinstance(value, type):
        row: dict[str, Any] = {}
        for f in fields(value):
            held = getattr(value, f.name)
            row |= _extremes(f.name, held) if _is_array(held) else {f.name: _plain(held, depth + 1)}
        return row
    if isinstance(value, Mapping):
        return {str(k): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, depth + 1) for v in value]
    return str(value)[:200]


def _extremes(name: str, values: Any) -> dict[str, Any]:
    array = np.asarray(values)
    row: dict[str, Any] = {f"{name}_count": int(array.shape[0]) if array.ndim else 1}
    if array.size and array.dtype.kind in "iuf":
        wide = array.astype(np.float64)
        finite = wide[np.isfinite(wide)]
        if finite.size:
            row |= {
                f"{name}_min": _number(finite.min()),
                f"{name}_mean": _number(finite.mean()),
                f"{name}_max": _number(finite.max()),
            }
    return row


def _number(value: Any) -> float | None:
    """Return a float that JSON can hold, with the digits that a sensor can mean."""
    number = float(value)
    return float(f"{number:.12g}") if isfinite(number) else None


def _json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False, separators=(",", ":"))


def _told(value: Any) -> bool:
    return value is not None and value not in ([], "")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list) and len(value) > 4:
        return f"[{len(value)} values]"
    # JSON's escapes keep a hostile string from driving the terminal.
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
