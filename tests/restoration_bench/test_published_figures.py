"""No figure of an attacker who knows nothing stands in the documentation without that of one who knows everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeguard.sim.restoration.attacked import RECIPES

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NUMBER = re.compile(r"^(0?\.\d+|[01](\.\d+)?)$")


def tables(text: str) -> Iterator[list[dict[str, str]]]:
    """The tables of a page that say who attacks, as rows by the head of their columns."""
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        if len(lines) > 2 and "attacker" in lines[0]:
            yield [dict(zip(lines[0], line, strict=False)) for line in lines[2:]]


def lonely(text: str) -> list[str]:
    """Cases whose attacker is unaware and whose adaptive twin is not in the same table with a figure of its own."""
    found = []
    for table in tables(text):
        adaptive = {row["case"]: row for row in table if row["attacker"] == "adaptive"}
        for row in table:
            if row["attacker"] != "unaware":
                continue
            twin = row.get("adaptive twin", "").split(" ")[0]
            if twin not in adaptive or not NUMBER.match(adaptive[twin]["right"]):
                found.append(row["case"])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_unaware_figure_stands_beside_its_adaptive_one(page: Path) -> None:
    """The build of the documentation fails otherwise: it runs this."""
    assert lonely(page.read_text(encoding="utf-8")) == []


def test_the_rule_finds_what_it_forbids() -> None:
    """A twin that is missing, named but not there, or there without a figure."""
    head = "| case | attacker | right | adaptive twin |\n| --- | --- | --- | --- |\n"
    alone = head + "| pgd-4 | unaware | 0.78 | bpda-4 0.10 |\n"
    assert lonely(alone) == ["pgd-4"]
    assert lonely(alone + "| bpda-4 | adaptive | not run |  |\n") == ["pgd-4"]
    assert lonely(alone + "| bpda-4 | adaptive | 0.10 |  |\n") == []


def test_each_recipe_of_an_unaware_attacker_names_a_twin_that_exists() -> None:
    """And the twin knows the defence."""
    for recipe in RECIPES.values():
        if recipe.knowledge == "unaware":
            assert RECIPES[recipe.twin].knowledge == "adaptive"


def test_restoration_is_never_called_robustness() -> None:
    """The word stands in the documentation of restoration only where it is denied."""
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            if re.search(r"robust(ness)? (to|against|under) (attack|adversar|perturb)", line, re.IGNORECASE):
                assert re.search(r"\b(not|none|never|no)\b", line, re.IGNORECASE), f"{page.name}: {line}"
