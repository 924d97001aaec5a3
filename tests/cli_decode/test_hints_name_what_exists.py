"""Every command and option that a hint or a page of the sensors names is one that the program has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

from edgeguard.cli.main import VERBS

ROOT = Path(__file__).parents[2]
FOLDERS = ("protocols", "sensors", "sync", "cli")
PAGES = ("decode", "recording", "sensors-camera", "sensors-gnss", "sensors-lidar", "sensors-scan2d", "sync")
# A command as people write it: the verb, then what follows up to the end of the sentence, line or cell.
_COMMAND = re.compile(r"(?<![\w/.-])edgeguard ([a-z][a-z-]*)([^\n;|`#.]*)")
_OPTION = re.compile(r"(?<!\S)(--[a-z][a-z0-9-]*)")


def texts(tree: ast.AST) -> Iterator[str]:
    """Every string in the code that is no docstring; what a formatted one puts in is left out."""
    quoted = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in quoted:
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)


def commands() -> list[tuple[str, str, str]]:
    """Where, verb, rest of the command."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / "edgeguard" / folder).glob("*.py")):
            for text in texts(ast.parse(path.read_text(encoding="utf-8"))):
                if folder != "cli" or "edgeguard " in text:
                    found += [(path.name, verb, rest) for verb, rest in _COMMAND.findall(text) if verb in VERBS]
                    found += [
                        (path.name, verb, rest)
                        for verb, rest in re.findall(r": edgeguard ([a-z]+)([^\n;.]*)", text)
                        if verb not in VERBS
                    ]
    for page in PAGES:
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        for block in re.findall(r"```\n(.*?)```|`([^`\n]+)`", text, re.DOTALL):
            found += [(page, verb, rest) for part in block for verb, rest in _COMMAND.findall(part)]
    return found


def test_the_search_finds_commands_in_code_and_pages() -> None:
    """A test over nothing proves nothing."""
    places = {where for where, _, _ in commands()}
    assert {"serial.py", "line_diagnosis.py", "recording.py", "decode", "sensors-gnss"} <= places


@pytest.mark.parametrize(("where", "verb", "rest"), sorted(set(commands())))
def test_a_command_that_is_named_exists_with_its_options(where: str, verb: str, rest: str) -> None:
    """Somebody in trouble types it as it stands there."""
    assert verb in VERBS, f"{where} names edgeguard {verb}"
    command = getattr(import_module(f"edgeguard.cli.{verb}"), "command", None)
    assert isinstance(command, click.Command)
    groups = list(command.commands.values()) if isinstance(command, click.Group) else []
    known = {option for one in [command, *groups] for p in one.params for option in p.opts} | {"--help"}
    assert set(_OPTION.findall(rest)) <= known, f"{where} names options that edgeguard {verb} does not have"
