"""Reading JSON from strangers, and the few things in a model's configuration that load code.

Strict: UTF-8, no duplicate keys, no NaN, bounded depth and length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from edgeguard.scan.content import Content, Context, shown

MAX_JSON: Final = 16 << 20  # ten times the longest header of a published checkpoint; objects take fifty times the text
MAX_DEPTH: Final = 100
# Entries of Hugging Face configurations by which a loader fetches and runs Python from the model's folder.
CODE_KEYS: Final = frozenset({"auto_map", "custom_pipelines", "trust_remote_code"})
_TEMPLATE_KEY: Final = re.compile(r"template", re.IGNORECASE)
_INTERNALS: Final = re.compile(
    r"__\w+__|\battr\s*\(|\|\s*attr\b|\b(?:cycler|joiner|lipsum|namespace)\s*\.\s*__|\.mro\b|_module\b|\bimport\s+os\b"
)


class BadJsonError(Exception):
    """The text is not JSON as read here; the message says why. Internal."""


def read_json(raw: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        BadJsonError: it is none, is too long or too deep, or has a key twice.
    """
    if len(raw) > MAX_JSON:
        raise BadJsonError("is longer than is read")
    if _deep(raw):
        raise BadJsonError("is nested too deep")
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadJsonError("is no JSON" if not isinstance(error, _DoubledError) else "has a key twice") from None


class _DoubledError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise _DoubledError
    return table


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _deep(raw: bytes) -> bool:
    """Tell whether brackets may be nested deeper than is read; brackets inside of texts count too, which is strict."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    in_text = escaped = False
    for byte in raw.translate(None, b"\t\n\r 0123456789"):
        if in_text:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_text = False
        elif byte == 0x22:
            in_text = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, however deep."""
    waiting = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict):
            yield from here.items()
            waiting.extend(here.values())
        elif isinstance(here, list):
            waiting.extend(here)


def check_templates(value: Any, content: Content, context: Context) -> None:
    """Report templates (chat templates are Jinja programs) that reach for the internals of Python objects."""
    for key, held in walk(value):
        if _TEMPLATE_KEY.search(key):
            texts = held if isinstance(held, list) else [held]
            if any(isinstance(text, str) and _INTERNALS.search(text) for text in texts):
                context.report("EG-SCAN-703", content, f"the template {shown(key)}")


def scan_json(content: Content, context: Context) -> str:
    """Scan a configuration file."""
    if len(content.data) > MAX_JSON:
        context.report("EG-SCAN-003", content, f"more than {MAX_JSON} bytes of JSON")
        return "JSON"
    try:
        value = read_json(bytes(content.data))
    except BadJsonError as bad:
        context.report("EG-SCAN-401", content, f"the text {bad}")
        return "JSON"
    for key, held in walk(value):
        if key in CODE_KEYS and held:
            context.report("EG-SCAN-702", content, f"the entry {shown(key)} names code to load")
    check_templates(value, content, context)
    return "JSON"
