"""Write the reference part of docs/cli.md from the commands themselves: `python tests/cli/commands_page.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from edgeguard.cli.main import cli as device_cli
from firmware_tools.cli import cli as host_cli

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
BEGIN = "<!-- reference: written by tests/cli/commands_page.py -->"
GROUPS = {"edgeguard": device_cli, "edgeguard-provision": host_cli}


def reference() -> str:
    """Return the reference of both commands as Markdown."""
    lines = [BEGIN, ""]
    for name, group in GROUPS.items():
        lines += [f"## Every verb of `{name}`", ""]
        shared = [p for p in group.params if isinstance(p, click.Option)]
        lines += [*_options(shared), ""]
        context = click.Context(group, info_name=name)
        for verb in group.list_commands(context):
            command = group.get_command(context, verb)
            if command is not None:
                lines += [*_section(name, verb, command), ""]
            if isinstance(command, click.Group):
                for inner, further in sorted(command.commands.items()):
                    lines += [*_section(name, f"{verb} {inner}", further), ""]
    return "\n".join(lines).rstrip() + "\n"


def page() -> str:
    """Return the whole page with the reference as it is now."""
    return PAGE.read_text(encoding="utf-8").partition(BEGIN)[0] + reference()


def _section(name: str, verb: str, command: click.Command) -> Iterator[str]:
    arguments = [_argument(p) for p in command.params if isinstance(p, click.Argument)]
    yield f"### `{' '.join((name, verb, *arguments))}`"
    yield ""
    if isinstance(command, click.Group):
        yield "Verbs: " + ", ".join(f"`{inner}`" for inner in sorted(command.commands)) + "."
        yield ""
    for part in (command.help or "").split("\n\n"):
        if part.startswith("\b"):  # click keeps such lines as they are
            yield from ("", "```", *(line.strip() for line in part.splitlines()[1:]), "```")
        else:
            yield " ".join(part.split())
    yield ""
    yield from _options([p for p in command.params if isinstance(p, click.Option)])


def _argument(argument: click.Argument) -> str:
    shown = argument.metavar or (argument.name or "").upper()
    shown = f"[{shown}]" if not argument.required else shown
    return f"{shown}..." if argument.nargs == -1 else shown


def _options(options: list[click.Option]) -> Iterator[str]:
    for option in options:
        values = ""
        if not option.is_flag and option.type is not None:
            choices = option.type.choices if isinstance(option.type, click.Choice) else ()
            values = f" {'|'.join(map(str, choices)) or option.metavar or option.type.name.upper()}"
        names = ", ".join(option.opts) + ("/" + option.secondary_opts[0] if option.secondary_opts else "")
        needed = " Required." if option.required else ""
        yield f"- `{names}{values}`: {' '.join((option.help or '').split())}{needed}".rstrip(": ")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
