"""docs/threat-model.md promises nothing that no test shows: every test it names exists, every heading names one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED = re.compile(r"(tests/[a-z0-9_/]+\.py)::(\w+)")
ATTACKS = 20  # rows of the design review


@cache
def _tests_in(path: str) -> frozenset[str]:
    """Return the tests of a file that do something: a body beyond a docstring, with something that can fail."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and len(node.body) > 1
    )


def test_every_test_on_the_page_exists() -> None:
    """By file and name; a renamed test changes the page too."""
    named = NAMED.findall(PAGE)
    assert len(named) > 150
    assert [
        f"{path}::{name}" for path, name in named if not (ROOT / path).is_file() or name not in _tests_in(path)
    ] == []


def test_every_attack_and_every_input_names_a_test() -> None:
    """The twenty attacks in order, and no line of hostile inputs without one."""
    attacks, _, inputs = PAGE.partition("\n## 4. ")[2].partition("\n## 5. ")
    sections = re.split(r"\n### ", attacks)[1:]
    assert [section.split(".")[0] for section in sections] == [str(number) for number in range(1, ATTACKS + 1)]
    assert all(NAMED.search(section) for section in sections)
    lines = re.split(r"\n- ", inputs)[1:]
    assert len(lines) > 30
    assert [line for line in lines if not NAMED.search(line)] == []
