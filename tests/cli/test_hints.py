"""A hint names a command that exists, with options that it has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgeguard.cli.main import cli as device_cli
from firmware_tools.cli import cli as host_cli

ROOT = Path(__file__).parents[2]
GROUPS = {"edgeguard": device_cli, "edgeguard-provision": host_cli}
# A command in running text: the name, a verb, and everything up to what ends a command there.
COMMAND = re.compile(r"(?<![\w./-])(edgeguard(?:-provision)?)((?: +(?!and\b|or\b|in\b|it\b)[^\s`;,]+)+)")
OPTION = re.compile(r"--[a-z][a-z-]*")
PAGE = re.compile(r"(?<!ggml )\bdocs/[a-z0-9/_-]+\.md")
# Prose in which the project's name is followed by a word that is no verb.
PROSE = frozenset({"checks", "first", "has", "is", "needs", "reads", "runs", "simulated", "will"})


def sources() -> list[Path]:
    return sorted(path for folder in ("edgeguard", "firmware_tools") for path in (ROOT / folder).rglob("*.py"))


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Give every string of a module that is no docstring; what is filled in later reads X."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inner.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in ast.walk(node)} - {id(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(
                    part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "X"
                    for part in node.values
                ),
            )


def commands(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Give (command, verb, options) of every command that a text names."""
    for name, rest in COMMAND.findall(text):
        verb = rest.split()[0].rstrip(".:)")
        if re.fullmatch(r"[a-z][a-z-]+", verb):
            yield name, verb, OPTION.findall(rest)


def wrong(text: str) -> Iterator[str]:
    """Give what is wrong with the commands that a text names."""
    for name, verb, options in commands(text):
        group = GROUPS[name]
        found = group.get_command(click.Context(group), verb)
        if found is None:
            if name == "edgeguard-provision" or verb not in PROSE:
                yield f"{name} has no verb {verb}"
            continue
        known = {option for parameter in found.params for option in parameter.opts} | {"--help"}
        yield from (f"{name} {verb} has no option {option}" for option in options if option not in known)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_a_message_exists(path: Path) -> None:
    """Verb and options, in every string of the source that names one of our commands."""
    if path == ROOT / "edgeguard" / "cli" / "demo.py":
        return  # prints the commands it runs, from lists
    problems = [f"{path.name}:{line}: {problem}" for line, text in texts(path) for problem in wrong(text)]
    assert problems == []


def test_every_page_in_a_message_exists() -> None:
    """What a message sends a reader to is there."""
    missing = {
        f"{path.relative_to(ROOT)}: {page}"
        for path in sources()
        for page in PAGE.findall(path.read_text(encoding="utf-8"))
        if not (ROOT / page).is_file()
    }
    assert missing == set()


def test_the_check_sees_what_is_wrong() -> None:
    """A wrong verb, a wrong option, and nothing where all is well."""
    assert list(wrong("see: edgeguard-provision packs FLEET")) == ["edgeguard-provision has no verb packs"]
    assert list(wrong("run edgeguard doctors --all")) == ["edgeguard has no verb doctors"]
    assert list(wrong("edgeguard verify B --trusted DIR")) == ["edgeguard verify has no option --trusted"]
    assert list(wrong("edgeguard verify BUNDLE --trust DIR, then edgeguard-provision grant FLEET B --all")) == []
