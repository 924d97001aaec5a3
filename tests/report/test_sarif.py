"""SARIF logs have the structure that version 2.1.0 prescribes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.report.sarif import LEVELS, SarifResult, SarifRule, SarifTool, file_uri, render_sarif

TOOL = SarifTool("EdgeGuard", "0.1.0", "https://example.org/edgeguard")
RULE = SarifRule("EG-SCAN-101", "a title", "https://example.org/help", "error", ("security",), 9.5)
# RFC 3986 characters; what a URI reference may consist of.
URI = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*")

# The members the schema allows in the objects that are written here (it forbids others), and those it demands.
ALLOWED = {
    "log": {"$schema", "version", "runs"},
    "run": {"tool", "invocations", "columnKind", "results"},
    "driver": {"name", "version", "semanticVersion", "informationUri", "rules"},
    "rule": {"id", "shortDescription", "helpUri", "defaultConfiguration", "properties"},
    "result": {"ruleId", "ruleIndex", "level", "message", "locations"},
    "location": {"physicalLocation", "logicalLocations"},
    "physical": {"artifactLocation", "region"},
    "logical": {"fullyQualifiedName", "kind"},
}


def check_log(text: str) -> dict[str, Any]:
    """Assert the structure and return the run."""
    log = json.loads(text)
    assert set(log) == ALLOWED["log"]
    assert log["version"] == "2.1.0"
    (found,) = log["runs"]
    assert set(found) == ALLOWED["run"]
    driver = found["tool"]["driver"]
    assert set(driver) == ALLOWED["driver"]
    for rule in driver["rules"]:
        assert set(rule) == ALLOWED["rule"]
        assert rule["defaultConfiguration"]["level"] in LEVELS
        assert 0 <= float(rule["properties"]["security-severity"]) <= 10
    assert len({rule["id"] for rule in driver["rules"]}) == len(driver["rules"])
    for result in found["results"]:
        assert set(result) == ALLOWED["result"]
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert isinstance(result["message"]["text"], str)
        for location in result["locations"]:
            assert set(location) <= ALLOWED["location"]
            physical = location["physicalLocation"]
            assert set(physical) <= ALLOWED["physical"]
            assert URI.fullmatch(physical["artifactLocation"]["uri"])
            assert physical.get("region", {"byteOffset": 0})["byteOffset"] >= 0
            for logical in location.get("logicalLocations", []):
                assert set(logical) == ALLOWED["logical"]
    assert isinstance(found["invocations"][0]["executionSuccessful"], bool)
    return dict(found)


@given(st.text(min_size=1), st.text(), st.text(), st.one_of(st.none(), st.integers(0, 1 << 62)), st.booleans())
def test_any_result_makes_a_valid_log(path: str, message: str, member: str, offset: int | None, complete: bool) -> None:
    """Whatever stands in names and messages, which come from hostile files."""
    path = path.encode("utf-8", "replace").decode()
    result = SarifResult("EG-SCAN-101", "error", message, path, member, offset)

    found = check_log(render_sarif(TOOL, [RULE], [result], complete=complete))

    assert found["results"][0]["message"]["text"] == message
    assert found["invocations"][0]["executionSuccessful"] is complete


def test_a_run_without_findings_is_a_log_too() -> None:
    """An empty list of results says that it ran."""
    assert check_log(render_sarif(TOOL, [RULE], [], complete=True))["results"] == []


def test_places_are_written_as_uris() -> None:
    """Relative paths stay relative, absolute ones become file URIs, odd characters are quoted."""
    assert file_uri("models/a b.pt") == "models/a%20b.pt"
    assert file_uri("/srv/m.onnx") == "file:///srv/m.onnx"
    assert file_uri("ü\udcff.pt") == "%C3%BC%FF.pt"


def test_unknown_levels_and_rules_are_refused() -> None:
    """A log that no reader accepts is not written."""
    with pytest.raises(ValueError, match="no level"):
        render_sarif(TOOL, [RULE], [SarifResult("EG-SCAN-101", "fatal", "m", "p")], complete=True)
    with pytest.raises(ValueError, match="no rule"):
        render_sarif(TOOL, [RULE], [SarifResult("EG-SCAN-999", "error", "m", "p")], complete=True)
