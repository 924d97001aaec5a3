"""`edgeguard log`: check and read the tamper-evident telemetry log."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeguard.cli.options import LOG_SECRET, format_option, open_device_key
from edgeguard.errors import ConfigError

if TYPE_CHECKING:
    from edgeguard.audit.record import Record

MAX_KEY_FILE_BYTES = 256


@click.group()
def command() -> None:
    """Verify or show a tamper-evident log."""


@command.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--mac-key",
    "mac_key_path",
    type=click.Path(path_type=Path),
    envvar="EDGEGUARD_LOG_MAC_KEY",
    help="File with the device's log secret, 32 bytes or 64 hex digits; checks the checkpoints' MACs.",
)
@click.option(
    "--key",
    "key_path",
    metavar="KEY",
    envvar="EDGEGUARD_KEY",
    help="The device's private key, from which the log secret is derived; instead of --mac-key.",
)
@click.option("--head", default=None, help="A head kept off the device; it must still occur in the log.")
@format_option
def verify(directory: Path, mac_key_path: Path | None, key_path: str | None, head: str | None, output: str) -> int:
    """Check every byte of the log in DIRECTORY; exit code 4 and the first bad record if it was changed."""
    from dataclasses import asdict

    from edgeguard.audit.verify import verify_log

    with ExitStack() as stack:
        key: bytes | memoryview | None = _read_key(mac_key_path) if mac_key_path is not None else None
        if key_path is not None and key is None:
            key = stack.enter_context(open_device_key(key_path).derive_secret(LOG_SECRET)).view
        summary = verify_log(directory, key, expected_head=head)
    if output == "json":
        click.echo(json.dumps(asdict(summary), sort_keys=True))
        return 0
    sealed = "macs checked" if summary.macs_checked else "macs not checked: no --key"
    click.echo(f"intact       {summary.records} records, {summary.first_seq} to {summary.last_seq}")
    click.echo(f"segments     {summary.segments}   boots {summary.boots}")
    click.echo(f"checkpoints  {summary.checkpoints} ({sealed}), {summary.unsealed_records} records after the last")
    if summary.torn_bytes:
        click.echo(f"torn tail    {summary.torn_bytes} bytes, as a power cut leaves it")
    if summary.verdicts:
        click.echo("verdicts     " + "  ".join(f"{name} {count}" for name, count in summary.verdicts.items()))
    click.echo(f"head         {summary.head}")
    if head is None:
        click.echo(
            "note: a log cut after a checkpoint looks like this too; compare with a head kept elsewhere (--head)"
        )
    return 0


@command.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--kind", default=None, help="Only records of this kind.")
@click.option("--from", "first_seq", type=int, default=0, help="Only records from this sequence number on.")
@format_option
def show(directory: Path, kind: str | None, first_seq: int, output: str) -> int:
    """Print the records in DIRECTORY, oldest first, checking bytes and chain on the way."""
    from dataclasses import asdict

    from edgeguard.audit.verify import read_log

    for record in read_log(directory):
        if record.seq < first_seq or (kind is not None and record.kind != kind):
            continue
        click.echo(json.dumps(asdict(record), sort_keys=True) if output == "json" else _line(record))
    return 0


def _line(record: Record) -> str:
    """One line per record; json escapes keep a hostile string from driving the terminal."""
    body = record.body
    stamp = f"{record.seq:>8} {record.mono_ns / 1e9:>12.3f} s  "
    if record.kind != "frame":
        return stamp + f"{record.kind:<18} {json.dumps(body, sort_keys=True)}"
    trust = body.get("trust")
    states = trust.items() if isinstance(trust, dict) else ()
    distrusted = ", ".join(f"{name} {state}" for name, state in states if state != "TRUSTED")
    text = f"{'frame':<18} {body.get('verdict')!s:<8} {distrusted or 'all trusted'}  {body.get('reason', '')}"
    return stamp + json.dumps(text)[1:-1]


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", code="EG-C042") from None
    if len(data) == 32:
        return data
    try:
        return bytes.fromhex(data.decode("ascii").strip())
    except ValueError:
        raise ConfigError("the mac key file is neither 32 bytes nor 64 hex digits", code="EG-C042") from None
