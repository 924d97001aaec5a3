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
DOCUMENTS = ("README.md", "SECURITY.md", "docs/cli.md", "docs/inference.md", "docs/scan.md", "docs/threat-model.md")
# Prose in which the project's name is followed by a word that is no verb.
PROSE = frozenset({"checks", "first", "has", "import", "link", "is", "needs", "reads", "runs", "simulated", "will"})


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
    """Give (command, verb with its inner verb, options) of every command that a text names."""
    for name, rest in COMMAND.findall(text):
        words = [word.rstrip(".:)") for word in rest.split()]
        if re.fullmatch(r"[a-z][a-z-]+", words[0]):
            group = GROUPS[name].get_command(click.Context(GROUPS[name]), words[0])
            inner = isinstance(group, click.Group) and len(words) > 1 and words[1] in group.commands
            yield name, " ".join(words[: 2 if inner else 1]), OPTION.findall(rest)


def find(name: str, verb: str) -> click.Command | None:
    """Return a command by its words."""
    command: click.Command | None = GROUPS[name]
    for word in verb.split():
        command = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
    return command


def wrong(text: str) -> Iterator[str]:
    """Give what is wrong with the commands that a text names."""
    for name, verb, options in commands(text):
        found = find(name, verb)
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


def every_verb() -> Iterator[tuple[str, str]]:
    """Give command and words of every verb, inner ones too."""
    for name, group in GROUPS.items():
        for verb in group.list_commands(click.Context(group)):
            yield name, verb
            found = find(name, verb)
            if isinstance(found, click.Group):
                yield from ((name, f"{verb} {inner}") for inner in found.commands)


PAGES = [*sorted((ROOT / "docs" / "formats").glob("*.md")), *(ROOT / name for name in DOCUMENTS)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_on_a_page_exists(page: Path) -> None:
    """What stands in code, in a block or in a line."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", text)
    assert [problem for line in lines for problem in wrong(line.partition("#")[0])] == []


def test_the_page_of_commands_lists_every_verb_and_option() -> None:
    """docs/cli.md names each verb of both commands, and each option in the verb's section."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    missing = []
    for name, verb in every_verb():
        heading = re.search(rf"^### `{name} {verb}[ `].*?(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)
        found = find(name, verb)
        assert found is not None
        options = {p.opts[0] for p in found.params if isinstance(p, click.Option)}
        if heading is None:
            missing.append(f"{name} {verb}")
        else:
            missing += [f"{name} {verb} {option}" for option in sorted(options - set(OPTION.findall(heading[0])))]
    assert missing == [], "run: python tests/cli/commands_page.py"


def test_the_check_sees_what_is_wrong() -> None:
    """A wrong verb, a wrong option, and nothing where all is well."""
    assert list(wrong("see: edgeguard-provision packs FLEET")) == ["edgeguard-provision has no verb packs"]
    assert list(wrong("run edgeguard doctors --all")) == ["edgeguard has no verb doctors"]
    assert list(wrong("edgeguard verify B --trusted DIR")) == ["edgeguard verify has no option --trusted"]
    assert list(wrong("edgeguard verify BUNDLE --trust DIR, then edgeguard-provision grant FLEET B --all")) == []
