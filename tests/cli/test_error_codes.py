"""Error codes are stable: what the code can raise a page explains, and what a page explains the code can raise."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("bundle", "trust", "keys", "infer", "harden")
CODE = re.compile(r"EG-[A-Z][0-9]{3}")
RANGE = re.compile(r"(EG-[A-Z])([0-9]{3})(?:\s*\.\.\.\s*|\s+to\s+)EG-[A-Z]([0-9]{3})")


def raised() -> dict[str, str]:
    """Return where each code of the protected-model rooms is raised."""
    paths = [path for room in ROOMS for path in (ROOT / "edgeguard" / room).rglob("*.py")]
    paths += (ROOT / "firmware_tools").rglob("*.py")
    found = re.compile(r'code(?:: str)? ?= ?"(EG-[A-Z][0-9]{3})"')
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    return {code: str(path.relative_to(ROOT)) for path, text in texts.items() for code in found.findall(text)}


def explained() -> set[str]:
    """Return every code that a page names, ranges written out."""
    codes: set[str] = set()
    for page in (ROOT / "docs").rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        codes |= set(CODE.findall(text))
        for prefix, first, last in RANGE.findall(text):
            codes |= {f"{prefix}{number:03}" for number in range(int(first), int(last) + 1)}
    return codes


def test_every_code_that_can_be_raised_is_explained() -> None:
    """In a page of docs/, as itself or within a range."""
    known = explained()
    assert {code: path for code, path in sorted(raised().items()) if code not in known} == {}


def test_every_code_of_the_formats_exists() -> None:
    """A page about protected models explains no code that nothing raises any more."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "edgeguard").rglob("*.py"))
    sources += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "firmware_tools").rglob("*.py"))
    pages = ("bundle", "device-state", "fleet", "revocation", "sealed-cache", "trust")
    named = {
        code
        for page in pages
        for code in CODE.findall((ROOT / "docs" / "formats" / f"{page}.md").read_text(encoding="utf-8"))
    }
    assert sorted(code for code in named if f'"{code}"' not in sources) == []
