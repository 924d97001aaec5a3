"""SARIF 2.1.0: findings in the form that code hosts, editors and dashboards read.

Values in, text out; what found them is not known here. Paths are written as relative URIs where they are relative, and
every text is plain: results come from hostile files.

Source: OASIS SARIF 2.1.0 (2020), sections 3.13 to 3.34 and 3.49.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

SCHEMA_URI: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS: Final = ("none", "note", "warning", "error")


@dataclass(frozen=True, slots=True)
class SarifRule:
    """A rule of the tool. `security_severity` is the number from 0 to 10 by which code hosts sort."""

    rule_id: str
    title: str
    help_uri: str
    level: str
    tags: tuple[str, ...]
    security_severity: float


@dataclass(frozen=True, slots=True)
class SarifResult:
    """One finding. `member` is the part inside the file, "" for the file; `byte_offset` counts within the file."""

    rule_id: str
    level: str
    message: str
    path: str
    member: str = ""
    byte_offset: int | None = None


@dataclass(frozen=True, slots=True)
class SarifTool:
    """Who found it."""

    name: str
    version: str
    information_uri: str


def render_sarif(tool: SarifTool, rules: Sequence[SarifRule], results: Sequence[SarifResult], *, complete: bool) -> str:
    """Return the log of one run; `complete` is false when something was left unlooked at.

    Raises:
        ValueError: a level that SARIF does not have, or a result of a rule that is not listed.
    """
    index = {rule.rule_id: at for at, rule in enumerate(rules)}
    run = {
        "tool": {
            "driver": {
                "name": tool.name,
                "version": tool.version,
                "semanticVersion": tool.version,
                "informationUri": tool.information_uri,
                "rules": [_rule(rule) for rule in rules],
            }
        },
        "invocations": [{"executionSuccessful": complete}],
        "columnKind": "unicodeCodePoints",
        "results": [_result(result, index) for result in results],
    }
    log = {"$schema": SCHEMA_URI, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2, ensure_ascii=True) + "\n"


def _rule(rule: SarifRule) -> dict[str, Any]:
    _check_level(rule.level)
    return {
        "id": rule.rule_id,
        "shortDescription": {"text": rule.title},
        "helpUri": rule.help_uri,
        "defaultConfiguration": {"level": rule.level},
        "properties": {"tags": list(rule.tags), "security-severity": f"{rule.security_severity:.1f}"},
    }


def _result(result: SarifResult, index: dict[str, int]) -> dict[str, Any]:
    _check_level(result.level)
    if result.rule_id not in index:
        raise ValueError(f"no rule {result.rule_id}")
    physical: dict[str, Any] = {"artifactLocation": {"uri": file_uri(result.path)}}
    if result.byte_offset is not None:
        physical["region"] = {"byteOffset": result.byte_offset}
    location: dict[str, Any] = {"physicalLocation": physical}
    if result.member:
        location["logicalLocations"] = [{"fullyQualifiedName": result.member, "kind": "member"}]
    return {
        "ruleId": result.rule_id,
        "ruleIndex": index[result.rule_id],
        "level": result.level,
        "message": {"text": result.message},
        "locations": [location],
    }


def file_uri(path: str) -> str:
    """Return a file path as a URI reference: absolute paths as `file:` URIs, others relative."""
    quoted = quote(path.encode("utf-8", "surrogateescape"), safe="/-._~")
    return f"file://{quoted}" if path.startswith("/") else quoted


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise ValueError(f"no level {level}")
