"""Entry point of `edgeguard-provision`, the host side. Results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import click

from edgeguard import __version__
from edgeguard.cli.main import run
from edgeguard.cli.options import format_option, say
from edgeguard.clock import SystemClock
from edgeguard.errors import BundleFormatError, ProvisioningError
from firmware_tools.cli_revocation import resign, revoke

FOLDER = click.Path(path_type=Path)


@click.group(
    context_settings={"auto_envvar_prefix": "EDGEGUARD_PROVISION", "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="edgeguard-provision")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Make a fleet, enrol its devices, protect models and grant access to them.

    Start with:  edgeguard-provision init my-fleet --name my-fleet
    """
    del debug  # read by run(), which prints errors


@cli.command()
@click.argument("fleet", type=FOLDER)
@click.option("--name", required=True, help="Name of the fleet.")
@click.option("--keys", default=1, show_default=True, type=click.IntRange(1, 16), help="Root and targets keys, each.")
@click.option("--threshold", default=1, show_default=True, type=click.IntRange(1, 16), help="How many must sign.")
@click.option("--release-keys", default=1, show_default=True, type=click.IntRange(1, 16), help="Keys that sign models.")
@click.option(
    "--release-threshold", default=1, show_default=True, type=click.IntRange(1, 16), help="How many must sign."
)
@click.option(
    "--channel",
    "channels",
    multiple=True,
    default=("production",),
    show_default=True,
    help="Channel that devices accept; repeat for several.",
)
@click.option(
    "--valid-days",
    default=1825,
    show_default=True,
    type=click.IntRange(1, 36500),
    help="Days until root and targets must be renewed.",
)
@click.option("--allow-unlocked-memory", is_flag=True, help="Let devices decrypt into memory that may be swapped out.")
@click.option(
    "--device-state",
    type=click.Choice(["required", "optional"]),
    default="required",
    show_default=True,
    help="Whether devices open models only beside their authenticated state; without one nothing remembers rollback.",
)
@click.option(
    "--list-max-age-days",
    type=click.IntRange(1, 36500),
    help="Age of the revocation list above which devices install nothing new; 365 unless said.",
)
@click.option(
    "--list-max-run-days",
    type=click.IntRange(1, 36500),
    help="Age above which devices run nothing; they keep running unless said.",
)
@format_option
def init(
    fleet: Path,
    name: str,
    keys: int,
    threshold: int,
    release_keys: int,
    release_threshold: int,
    channels: tuple[str, ...],
    valid_days: int,
    allow_unlocked_memory: bool,
    device_state: Literal["required", "optional"],
    list_max_age_days: int | None,
    list_max_run_days: int | None,
    output: str,
) -> None:
    """Make a new FLEET folder with all keys and the pinned trust."""
    from firmware_tools.fleet import DEFAULT_LIST_DAYS, Fleet

    made = Fleet.create(
        fleet,
        name=name,
        wall_ns=_wall_ns(),
        offline_keys=keys,
        offline_threshold=threshold,
        release_keys=release_keys,
        release_threshold=release_threshold,
        channels=channels,
        valid_days=valid_days,
        allow_unlocked_memory=allow_unlocked_memory,
        device_state=device_state,
        list_max_age_days=(list_max_age_days or DEFAULT_LIST_DAYS, list_max_run_days),
    )
    _result(output, {"fleet_id": made.fleet_id, "name": made.name, "trust": str(made.trust_folder)})
    say(f"move root-*.pem and targets-*.pem out of {fleet / 'keys'}: they are needed only to change the fleet")
    say(f"copy {made.trust_folder} to each device, read-only")


@cli.command()
@click.option("--trust", required=True, type=FOLDER, help="Copy of the fleet's trust folder.")
@click.option("--key", "key_path", required=True, type=FOLDER, help="New private key; created with mode 0600.")
@click.option("--request", "request_path", required=True, type=FOLDER, help="Enrolment request to bring to the fleet.")
@click.option("--name", required=True, help="Name of the device.")
@click.option("--board", default="generic", show_default=True, help="Kind of board, for models limited to some.")
@click.option("--state", "state_path", type=FOLDER, help="New folder for the device's state, made with its key.")
@format_option
def keygen(
    trust: Path, key_path: Path, request_path: Path, name: str, board: str, state_path: Path | None, output: str
) -> None:
    """Make a device key, its state and its enrolment request; run where the key will stay."""
    from edgeguard.keys.context import fingerprint_of
    from edgeguard.keys.file import FileKeyProvider
    from edgeguard.trust.state import DeviceState
    from edgeguard.trust.store import TrustStore
    from firmware_tools.enroll import make_request
    from firmware_tools.files import write_atomic

    store = TrustStore.load(trust, _wall_ns())
    key = FileKeyProvider.generate(key_path)
    if state_path is not None:
        say(DeviceState.create(state_path, key=key, trust=store).undetected)
    write_atomic(request_path, make_request(key, store, device_name=name, board=board))
    fingerprint = fingerprint_of(key.public_key())
    _result(output, {"device": name, "kid": key.kid, "fingerprint": fingerprint, "request": str(request_path)})


@cli.command()
@click.argument("fleet", type=FOLDER)
@click.argument("request", type=FOLDER)
@click.option("--fingerprint", default="", help="The fingerprint that keygen printed; asked for when not given.")
@format_option
def enroll(fleet: Path, request: Path, fingerprint: str, output: str) -> None:
    """Check an enrolment REQUEST and sign the device's record."""
    from firmware_tools.enroll import PendingDevice
    from firmware_tools.enroll import enroll as sign_record
    from firmware_tools.fleet import Fleet

    def confirm(pending: PendingDevice) -> bool:
        say(f"device      {pending.device_name} ({pending.board}, {pending.key_class} key)")
        say(f"fingerprint {pending.fingerprint}")
        if fingerprint:
            return fingerprint.replace(" ", "").lower() == pending.fingerprint.replace(" ", "")
        if not sys.stdin.isatty():
            raise ProvisioningError(
                "nobody is here to compare the fingerprint", code="EG-P011", hint="give it with --fingerprint"
            )
        return click.confirm("Is this the fingerprint the device printed?", err=True)

    record = sign_record(Fleet.open(fleet), request, confirm=confirm, wall_ns=_wall_ns())
    _result(output, {"device": record.device_name, "kid": record.kid, "enrolled": record.enrolled})


@cli.command()
@click.argument("fleet", type=FOLDER)
@click.argument("model", type=FOLDER)
@click.option("--model-id", required=True, help="Which model this is; devices name the one they expect.")
@click.option("--release", "version", required=True, help="Version for people, such as 1.4.0.")
@click.option("--out", type=FOLDER, help="Bundle to make; MODEL_ID-RELEASE.bundle when not given.")
@click.option(
    "--counter",
    default="0:1",
    show_default=True,
    metavar="[EPOCH:]NUMBER",
    help="Security counter; raise it when older releases must no longer run.",
)
@click.option("--board", "boards", multiple=True, help="Board that may run it; repeat for several; any without it.")
@click.option("--channel", default="production", show_default=True)
@click.option(
    "--io", "io_path", type=FOLDER, help="TOML: how the model is fed and read; becomes part of what is signed."
)
@click.option(
    "--library",
    "libraries",
    multiple=True,
    type=FOLDER,
    help="Custom-operator library that devices may load with the model; signed by digest, shipped apart.",
)
@click.option(
    "--expires", metavar="YYYY-MM-DDTHH:MM:SSZ", help="When devices stop loading it; with the fleet by default."
)
@click.option(
    "--min-key-class", type=click.Choice(["file", "device-bound", "hardware"]), default="file", show_default=True
)
@format_option
def pack(
    fleet: Path,
    model: Path,
    model_id: str,
    version: str,
    out: Path | None,
    counter: str,
    boards: tuple[str, ...],
    channel: str,
    io_path: Path | None,
    libraries: tuple[Path, ...],
    expires: str | None,
    min_key_class: Literal["file", "device-bound", "hardware"],
    output: str,
) -> None:
    """Turn a plain ONNX MODEL into a signed and encrypted bundle."""
    from firmware_tools.fleet import Fleet
    from firmware_tools.io_toml import read_model_io
    from firmware_tools.pack import Release, pack_model

    release = Release(model_id, version, counter=_counter(counter), boards=boards, channel=channel)
    release = replace(release, min_key_class=min_key_class)
    if expires:
        release = replace(release, expires_ns=_date(expires))
    with ExitStack() as stack:
        packed = pack_model(
            Fleet.open(fleet),
            model,
            out or Path(f"{model_id}-{version}.bundle"),
            release=release,
            wall_ns=_wall_ns(),
            io=read_model_io(io_path) if io_path else None,
            libraries=libraries,
            progress=_progress(stack, "encrypting"),
        )
    for note in packed.notes:
        say(note)
    _result(output, {"bundle": str(packed.path), "identity": packed.identity, "bundle_id": packed.bundle_id})


@cli.command()
@click.argument("fleet", type=FOLDER)
@click.argument("bundle", type=FOLDER)
@click.argument("devices", nargs=-1, required=True)
@format_option
def grant(fleet: Path, bundle: Path, devices: tuple[str, ...], output: str) -> None:
    """Let DEVICES (names or key ids) open a BUNDLE."""
    from firmware_tools.fleet import Fleet
    from firmware_tools.grant import grant as grant_one

    opened = Fleet.open(fleet)
    wraps = {device: str(grant_one(opened, bundle, device, wall_ns=_wall_ns())) for device in devices}
    _result(output, {"granted": wraps} if output == "json" else wraps)


@cli.command()
@click.argument("fleet", type=FOLDER)
@click.argument("bundles", nargs=-1, type=FOLDER)
@format_option
def status(fleet: Path, bundles: tuple[Path, ...], output: str) -> None:
    """Show a FLEET: its trust, its devices, and who can open the given BUNDLES."""
    from firmware_tools.fleet import Fleet
    from firmware_tools.status import fleet_status

    facts = fleet_status(Fleet.open(fleet), bundles, wall_ns=_wall_ns())
    if output == "json":
        _result(output, asdict(facts))
        return
    click.echo(f"fleet    {facts.name}  {facts.fleet_id}")
    click.echo(f"trust    root {facts.root_version}, targets {facts.targets_version}, expires {facts.expires}")
    for device in facts.devices:
        click.echo(
            f"device   {device.name}  {device.board}  {device.key_class} key  {device.kid}  since {device.enrolled}"
        )
    for bundle in facts.bundles:
        who = ", ".join(bundle.granted) or "nobody"
        click.echo(f"bundle   {bundle.model_id} {bundle.release}  counter {bundle.counter}  granted to {who}")


cli.add_command(revoke)
cli.add_command(resign)


def _counter(text: str) -> tuple[int, int]:
    parts = text.split(":")
    if len(parts) > 2 or not all(p.isascii() and p.isdigit() and len(p) < 19 for p in parts):
        raise ProvisioningError("a counter is NUMBER or EPOCH:NUMBER", code="EG-P003")
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 else (0, int(parts[0]))


def _date(text: str) -> int:
    from edgeguard.trust.dates import date_to_ns

    try:
        return date_to_ns(text, what="--expires")
    except BundleFormatError as error:
        raise ProvisioningError(error.message, code="EG-P003", hint="write it as 2030-12-31T00:00:00Z") from None


def _progress(stack: ExitStack, title: str) -> Callable[[int, int], None] | None:
    """Return a progress callback that draws on stderr, or None when that is no terminal."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True)
    bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
    task = bar.add_task(title)
    return lambda done, total: bar.update(task, completed=done, total=total)


def _result(output: str, facts: dict[str, Any]) -> None:
    if output == "json":
        click.echo(json.dumps(facts, indent=2, sort_keys=True))
        return
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        click.echo(f"{name:{width}}  {value}")


def _wall_ns() -> int:
    return SystemClock().wall_ns()


def main() -> None:
    """Console script."""
    sys.exit(run(cli, "edgeguard-provision"))


if __name__ == "__main__":
    main()
