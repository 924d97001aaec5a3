"""Options and console pieces that several verbs share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.progress import Progress

    from edgeguard.config import ModelConfig
    from edgeguard.keys.provider import EnrollingKey

# Label under which the device key gives the secret of the audit log.
LOG_SECRET = "audit-log"  # noqa: S105 - a label, not a secret

F = TypeVar("F", bound=Callable[..., Any])


def format_option(verb: F) -> F:
    """Add `--format text|json`."""
    return click.option(
        "--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True,
        envvar="EDGEGUARD_FORMAT", help="How the result is printed to stdout.",
    )(verb)  # fmt: skip


def config_option(verb: F) -> F:
    """Add `--config FILE`."""
    return click.option(
        "--config", "config_path", type=click.Path(path_type=Path), envvar="EDGEGUARD_CONFIG",
        help="TOML configuration; the defaults without it.",
    )(verb)  # fmt: skip


def model_options(verb: F) -> F:
    """Add the options that open a protected model."""
    # Decorators apply from the inside out: the last one listed here is the first one shown.
    for option in reversed((
        click.option("--bundle", type=click.Path(path_type=Path), envvar="EDGEGUARD_BUNDLE",
                     help="Protected model to run on the camera frames."),
        click.option("--trust", "trust_path", type=click.Path(path_type=Path), envvar="EDGEGUARD_TRUST",
                     help="Folder with the pinned trust metadata; needed with --bundle."),
        click.option("--key", "key_path", metavar="KEY", envvar="EDGEGUARD_KEY",
                     help="The device's private key, a file or an address; needed with --bundle."),
        click.option("--state", "state_path", type=click.Path(path_type=Path), envvar="EDGEGUARD_STATE",
                     help="The device's state folder; most fleets require it with --bundle."),
        click.option("--model-id", envvar="EDGEGUARD_MODEL_ID", default="",
                     help="The model that is expected in the bundle; needed with --bundle."),
        click.option("--board", envvar="EDGEGUARD_BOARD", default="", help="The board this is, for the signed policy."),
    )):  # fmt: skip
        verb = option(verb)
    return verb


def model_settings(
    configured: ModelConfig,
    bundle: Path | None,
    trust: Path | None,
    key: str | None,
    state: Path | None,
    model_id: str,
    board: str,
) -> ModelConfig:
    """Return the model section with what the command line says put over it."""
    import msgspec

    said = {"bundle": str(bundle or ""), "trust": str(trust or ""), "key": key or "", "model_id": model_id}
    given = {name: value for name, value in {**said, "state": str(state or ""), "board": board}.items() if value}
    return msgspec.structs.replace(configured, **given)


def tpm_option(verb: F) -> F:
    """Add `--tpm-counter TCTI`."""
    return click.option(
        "--tpm-counter", metavar="TCTI", default="", envvar="EDGEGUARD_TPM_COUNTER",
        help="TPM whose counter keeps step with the state, such as device:/dev/tpmrm0.",
    )(verb)  # fmt: skip


def ask_secret(what: str) -> bytes:
    """Ask a person at a terminal for a PIN; nothing where nobody is there."""
    if not sys.stdin.isatty():
        return b""
    return str(click.prompt(what, hide_input=True, err=True)).encode()


def open_device_key(where: str) -> EnrollingKey:
    """Open the device's key at a path or address (docs/keys.md); asks for a PIN that nobody has given."""
    from edgeguard.keys.open_key import open_key

    return open_key(where, ask=ask_secret)


def progress_bar(*, threaded: bool = True) -> Progress:
    """Return a progress bar on stderr; it shows nothing unless stderr is a terminal.

    Without a thread of its own it is drawn when its `refresh` is called: for verbs that fork.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False,
        disable=not sys.stderr.isatty(), transient=True, auto_refresh=threaded,
    )  # fmt: skip


def print_result(line: str, bar: Progress) -> None:
    """Print a line to stdout while a bar may be shown: above it where both share a terminal, else as it is."""
    if sys.stdout.isatty() and not bar.disable:
        bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
    else:
        click.echo(line)


def print_facts(output: str, facts: dict[str, Any]) -> None:
    """Print a verb's result to stdout: one JSON object, or a line per fact."""
    if output == "json":
        click.echo(json.dumps(facts, indent=2, sort_keys=True))
        return
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        click.echo(f"{name:{width}}  {', '.join(map(str, value)) if isinstance(value, list) else value}")


def say(line: str) -> None:
    """Print to stderr: news, not results."""
    click.echo(line, err=True)
