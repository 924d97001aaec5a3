"""Entry point of `edgeguard-provision`, the host side. Results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import click

from edgeguard import __version__
from edgeguard.cli.main import run
from edgeguard.cli.options import ask_secret, format_option, say
from edgeguard.clock import SystemClock
from edgeguard.errors import BundleFormatError, ProvisioningError
from firmware_tools.cli_calibration import sign_calibration
from firmware_tools.cli_devices import answer, challenge, enroll, grant, keygen
from firmware_tools.cli_publish import publish
from firmware_tools.cli_revocation import resign, revoke
from firmware_tools.cli_signing import harden, rotate, sign, token_key
from firmware_tools.cli_state import recover_state, state_token
from firmware_tools.passphrase import PassphraseSource

FOLDER = click.Path(path_type=Path)


@click.group(
    context_settings={"auto_envvar_prefix": "EDGEGUARD_PROVISION", "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="edgeguard-provision")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("--passphrase-file", type=FOLDER, help="File of mode 600 with the passphrase of private keys.")
@click.option("--ask-passphrase", is_flag=True, help="Ask for the passphrase of private keys.")
@click.pass_context
def cli(context: click.Context, debug: bool, passphrase_file: Path | None, ask_passphrase: bool) -> None:
    """Make a fleet, enrol its devices, protect models and grant access to them.

    Start with:  edgeguard-provision init my-fleet --name my-fleet

    With a passphrase (an option above, or EDGEGUARD_PROVISION_PASSPHRASE) new private keys are encrypted.
    """
    del debug  # read by run(), which prints errors
    context.obj = PassphraseSource(passphrase_file, ask_passphrase)


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
    "--role",
    "roles",
    multiple=True,
    metavar="ROLE=K/N",
    help="K of N keys for any role, such as revocation=2/3; repeat for several.",
)
@click.option(
    "--token-key",
    "token_keys",
    multiple=True,
    metavar="ROLE=ADDRESS",
    help="Key of a role on a PKCS#11 token, made with token-key; repeat for several.",
)
@click.option(
    "--signatures",
    type=click.Choice(["classical", "hybrid-required"]),
    default="classical",
    show_default=True,
    help="hybrid-required: every role signs with P-256 and with ML-DSA-65, which resists quantum computers.",
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
    "--require-attestation",
    "required_attestations",
    multiple=True,
    metavar="TYPE",
    help="in-toto predicate type that each model must carry, signed by attest; repeat for several.",
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
    roles: tuple[str, ...],
    token_keys: tuple[str, ...],
    signatures: Literal["classical", "hybrid-required"],
    channels: tuple[str, ...],
    valid_days: int,
    allow_unlocked_memory: bool,
    device_state: Literal["required", "optional"],
    required_attestations: tuple[str, ...],
    list_max_age_days: int | None,
    list_max_run_days: int | None,
    output: str,
) -> None:
    """Make a new FLEET folder with all keys and the pinned trust."""
    from firmware_tools.fleet import DEFAULT_LIST_DAYS, Fleet
    from firmware_tools.passphrase import chosen_passphrase

    made = Fleet.create(
        fleet,
        name=name,
        wall_ns=_wall_ns(),
        offline_keys=keys,
        offline_threshold=threshold,
        release_keys=release_keys,
        release_threshold=release_threshold,
        roles=dict(_role(text) for text in roles),
        token_keys=_token_keys(token_keys),
        ask=ask_secret,
        signatures=signatures,
        passphrase=chosen_passphrase(new=True),
        channels=channels,
        valid_days=valid_days,
        allow_unlocked_memory=allow_unlocked_memory,
        device_state=device_state,
        required_attestations=required_attestations,
        list_max_age_days=(list_max_age_days or DEFAULT_LIST_DAYS, list_max_run_days),
    )
    _result(output, {"fleet_id": made.fleet_id, "name": made.name, "trust": str(made.trust_folder)})
    say(f"move root-*.pem and targets-*.pem out of {fleet / 'keys'}: they are needed only to change the fleet")
    say(f"copy {made.trust_folder} to each device, read-only")


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
    "--chains",
    type=FOLDER,
    help="TOML: what the gate may restore suspicious frames with; becomes part of what is signed.",
)
@click.option(
    "--no-mirror",
    is_flag=True,
    help="Left and right matter to the classes (arrows, letters): the gate never exchanges them.",
)
@click.option(
    "--drift-frames",
    type=FOLDER,
    help="Folder of pictures or a recording: what the inputs of this release look like; a sketch of it is signed.",
)
@click.option(
    "--library",
    "libraries",
    multiple=True,
    type=FOLDER,
    help="Custom-operator library that devices may load with the model; signed by digest, shipped apart.",
)
@click.option(
    "--operator-domain",
    "operator_domains",
    multiple=True,
    metavar="NAME",
    help="Domain of operators that a --library brings; the model may use no other than this and ONNX's own.",
)
@click.option(
    "--expires", metavar="YYYY-MM-DDTHH:MM:SSZ", help="When devices stop loading it; with the fleet by default."
)
@click.option(
    "--min-key-class", type=click.Choice(["file", "device-bound", "hardware"]), default="file", show_default=True
)
@click.option("--pq-required", is_flag=True, help="Only devices with a post-quantum key may be granted this model.")
@click.option(
    "--golden",
    type=FOLDER,
    help="npz with input.NAME and output.NAME: what devices run before they commit the model; encrypted with it.",
)
@click.option(
    "--attest",
    "attested",
    multiple=True,
    metavar="TYPE=FILE",
    help="Predicate type and its JSON file, signed by the attest keys; repeat for several.",
)
@click.option("--partial", is_flag=True, help="Sign with the release keys that are here; others add theirs with sign.")
@click.option(
    "--cipher",
    type=click.Choice(["auto", "aes", "chacha"]),
    default="auto",
    show_default=True,
    help="auto: ChaCha20 when a --board has no AES instructions (Raspberry Pi 4 and older), else AES-256.",
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
    chains: Path | None,
    no_mirror: bool,
    drift_frames: Path | None,
    libraries: tuple[Path, ...],
    operator_domains: tuple[str, ...],
    golden: Path | None,
    attested: tuple[str, ...],
    expires: str | None,
    min_key_class: Literal["file", "device-bound", "hardware"],
    cipher: Literal["auto", "aes", "chacha"],
    pq_required: bool,
    partial: bool,
    output: str,
) -> None:
    """Turn a plain ONNX MODEL into a signed and encrypted bundle."""
    from firmware_tools.attest import read_golden
    from firmware_tools.input_policy import input_policy
    from firmware_tools.io_toml import read_model_io
    from firmware_tools.pack import Release, pack_model
    from firmware_tools.passphrase import open_fleet

    release = Release(model_id, version, counter=_counter(counter), boards=boards, channel=channel)
    release = replace(release, confidentiality="pq-required" if pq_required else "classical")
    release = replace(release, min_key_class=min_key_class, cipher=cipher)
    if expires:
        release = replace(release, expires_ns=_date(expires))
    with ExitStack() as stack:
        packed = pack_model(
            open_fleet(fleet),
            model,
            out or Path(f"{model_id}-{version}.bundle"),
            release=release,
            wall_ns=_wall_ns(),
            io=read_model_io(io_path) if io_path else None,
            inputs=input_policy(chains, drift_frames, mirror=not no_mirror),
            libraries=libraries,
            operator_domains=operator_domains,
            golden=read_golden(golden) if golden else b"",
            predicates=dict(_predicate(text) for text in attested),
            partial=partial,
            progress=_progress(stack, "encrypting"),
        )
    for note in packed.notes:
        say(note)
    for missing in packed.missing:
        say(
            f"devices wait for {missing.count} more {missing.role} signature(s): "
            f"edgeguard-provision sign {packed.path} --trust {fleet / 'trust'} --key FILE"
        )
    _result(output, {"bundle": str(packed.path), "identity": packed.identity, "bundle_id": packed.bundle_id})


@cli.command()
@click.argument("fleet", type=FOLDER)
@click.argument("bundles", nargs=-1, type=FOLDER)
@format_option
def status(fleet: Path, bundles: tuple[Path, ...], output: str) -> None:
    """Show a FLEET: its trust, its devices, and who can open the given BUNDLES."""
    from firmware_tools.passphrase import open_fleet
    from firmware_tools.status import fleet_status

    facts = fleet_status(open_fleet(fleet), bundles, wall_ns=_wall_ns())
    if output == "json":
        _result(output, asdict(facts))
        return
    click.echo(f"fleet    {facts.name}  {facts.fleet_id}")
    expires = ", ".join(f"{name} until {date}" for name, date in facts.expires.items())
    click.echo(f"trust    root {facts.root_version}, targets {facts.targets_version}, {facts.signatures}; {expires}")
    for role in facts.roles:
        click.echo(f"role     {role.role:11} {role.family:10} {role.threshold} of {role.keys}, {role.here} here")
    for device in facts.devices:
        kind = f"{device.key_class} {device.suite.split('/')[1]} key"
        click.echo(f"device   {device.name}  {device.board}  {kind}  {device.kid}  since {device.enrolled}")
    for bundle in facts.bundles:
        who = ", ".join(bundle.granted) or "nobody"
        click.echo(f"bundle   {bundle.model_id} {bundle.release}  counter {bundle.counter}  granted to {who}")


for verb in (
    keygen,
    challenge,
    answer,
    enroll,
    grant,
    sign,
    sign_calibration,
    rotate,
    token_key,
    harden,
    revoke,
    recover_state,
    state_token,
    resign,
    publish,
):
    cli.add_command(verb)


def _role(text: str) -> tuple[str, tuple[int, int]]:
    match = re.fullmatch(r"([a-z-]+)=([0-9]{1,2})/([0-9]{1,2})", text)
    if match is None:
        raise ProvisioningError("a role is ROLE=K/N, such as revocation=2/3", code="EG-P003")
    return match[1], (int(match[3]), int(match[2]))


def _token_keys(given: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in given:
        role, _, address = text.partition("=")
        if not address.startswith("pkcs11:"):
            raise ProvisioningError(
                "a token's key is ROLE=ADDRESS", code="EG-P003", hint="such as release=pkcs11:token=...;object=..."
            )
        found.setdefault(role, []).append(address)
    return found


def _predicate(text: str) -> tuple[str, dict[str, Any]]:
    from firmware_tools.attest import read_predicate

    # Types are URLs and may hold an equals sign; paths hardly do.
    predicate_type, _, path = text.rpartition("=")
    if not predicate_type.startswith("https://"):
        raise ProvisioningError(
            "an attestation is TYPE=FILE, TYPE an https URL", code="EG-P003",
            hint="such as --attest https://cyclonedx.org/bom=bom.json",
        )  # fmt: skip
    return predicate_type, read_predicate(Path(path))


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
