"""JSON from strangers: bounded, no duplicate keys, canonical or refused, then a typed struct.

Two parsers that disagree on one file are an attack; this one accepts a single spelling of each value. Format:
docs/formats/bundle.md section 1.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn, TypeVar

import msgspec

from edgeguard.errors import BundleFormatError

MAX_DEPTH = 32  # our formats need 6, TUF metadata 7; Python's own parser would recurse far deeper

# Possessive, and also taking a string that never ends: each byte is looked at once, whatever a stranger wrote.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")

T = TypeVar("T")


def canonical(value: object) -> bytes:
    """Return the one spelling of `value`: sorted keys, no white space, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def parse(raw: bytes, *, what: str, require_canonical: bool = True) -> Any:
    """Return the value of `raw`.

    Raises:
        BundleFormatError: EG-B003, malformed, duplicate key, too deep, not finite, or not canonical; `what` names it.
    """
    _refuse_deep(raw, what)
    reason = "is not valid JSON"
    value: Any = None
    spelled = b""
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_not_finite, parse_float=_finite
        )
        spelled = canonical(value)
        reason = ""
    except _RefusedValueError as error:
        reason = str(error)
    except (ValueError, RecursionError):
        pass
    if not reason and require_canonical and spelled != raw:
        reason = "is not in canonical form"
    if reason:
        raise BundleFormatError(f"{what} {reason}", code="EG-B003")
    return value


def convert(value: Any, kind: type[T], *, what: str) -> T:
    """Return `value` as the struct `kind`; unknown fields and wrong values are refused.

    Raises:
        BundleFormatError: EG-B004; the message names the field and never its value.
    """
    reason = ""
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        reason = str(error)
    except (ValueError, TypeError, OverflowError, RecursionError):
        reason = "value out of range"
    raise BundleFormatError(f"{what} does not follow its schema: {_shortened(reason)}", code="EG-B004")


class _RefusedValueError(ValueError):
    """Carries the reason out of the parser's hooks."""


def _refuse_deep(raw: bytes, what: str) -> None:
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", raw)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            raise BundleFormatError(f"{what} is nested deeper than {MAX_DEPTH} levels", code="EG-B003")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RefusedValueError("has a duplicate key")
    return members


def _not_finite(_: str) -> NoReturn:
    raise _RefusedValueError("has a number that is not finite")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _RefusedValueError("has a number that is not finite")
    return value


def _shortened(reason: str) -> str:
    """Keep messages printable and short; a hostile field name can be anything."""
    line = "".join(c if c.isascii() and c.isprintable() else "?" for c in reason)
    return (line[:1].lower() + line[1:])[:200]
