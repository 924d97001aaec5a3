"""`edgeguard-provision revoke` and `resign`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeguard.cli.options import format_option, print_facts, say
from edgeguard.clock import SystemClock
from edgeguard.errors import BundleFormatError, ProvisioningError

if TYPE_CHECKING:
    from firmware_tools.fleet import Fleet

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("fleet", type=FOLDER)
@click.option("--bundle", "bundles", multiple=True, help="Bundle, as folder or identity; repeat for several.")
@click.option("--signer", "signers", multiple=True, help="Release key: its keyid or public PEM file.")
@click.option(
    "--except",
    "excepted",
    multiple=True,
    help="With --signer: bundle whose signature still counts, folder or identity.",
)
@click.option("--device", "devices", multiple=True, help="Device, by name or kid.")
@click.option(
    "--floor", "floors", multiple=True, metavar="MODEL=[EPOCH:]NUMBER", help="Refuse releases of MODEL below a counter."
)
@click.option("--into", "targets", multiple=True, type=FOLDER, help="Bundle to put the list into, for offline devices.")
@click.option(
    "--issued",
    metavar="YYYY-MM-DDTHH:MM:SSZ",
    help="Signed time of the list; later than now only where a stolen key has pushed the devices' time floor.",
)
@click.option("--valid-days", type=click.IntRange(1, 36500), help="Days the list admits new installs; as the fleet's.")
@format_option
def revoke(
    fleet: Path,
    bundles: tuple[str, ...],
    signers: tuple[str, ...],
    excepted: tuple[str, ...],
    devices: tuple[str, ...],
    floors: tuple[str, ...],
    targets: tuple[Path, ...],
    issued: str | None,
    valid_days: int | None,
    output: str,
) -> None:
    """Take back what FLEET has released; without options, renew the list. Nothing is ever taken off it."""
    from firmware_tools.passphrase import open_fleet
    from firmware_tools.revocation_list import Entries
    from firmware_tools.revoke import identity_of, put_list_into
    from firmware_tools.revoke import revoke as sign_list

    if excepted and not signers:
        raise ProvisioningError("--except goes with --signer", code="EG-P003")
    opened = open_fleet(fleet)
    still_good = frozenset(identity_of(name) for name in excepted)
    entries = Entries(
        bundles=frozenset(identity_of(name) for name in bundles),
        signers={_keyid(name): still_good for name in signers},
        devices=frozenset(_kid(opened, name) for name in devices),
        floors=dict(floor_of(text) for text in floors),
    )
    made = sign_list(opened, entries, wall_ns=_moment(issued), valid_days=valid_days)
    for target in targets:
        put_list_into(opened.trust_folder, target)
    print_facts(
        output,
        {
            "list": f"{made.place[0]}:{made.place[1]}",
            "bundles": len(made.entries.bundles),
            "signers": len(made.entries.signers),
            "devices": len(made.entries.devices),
            "floors": len(made.entries.floors),
        },
    )
    say(f"copy {opened.trust_folder} to each device again" + ("" if targets else "; offline ones: revoke with --into"))


@click.command()
@click.argument("fleet", type=FOLDER)
@click.argument("bundles", nargs=-1, required=True, type=FOLDER)
@format_option
def resign(fleet: Path, bundles: tuple[Path, ...], output: str) -> None:
    """Sign BUNDLES that FLEET packed again, with the release keys in force; what is signed stays the same."""
    from firmware_tools.passphrase import open_fleet
    from firmware_tools.resign import resign as sign_again

    opened = open_fleet(fleet)
    wall_ns = SystemClock().wall_ns()
    print_facts(output, {str(bundle): sign_again(opened, bundle, wall_ns=wall_ns) for bundle in bundles})


def _moment(issued: str | None) -> int:
    from edgeguard.trust.dates import date_to_ns

    now_ns = SystemClock().wall_ns()
    if issued is None:
        return now_ns
    try:
        return max(now_ns, date_to_ns(issued, what="--issued"))
    except BundleFormatError as error:
        reason = error.message
    raise ProvisioningError(reason, code="EG-P003", hint="write it as 2030-12-31T00:00:00Z")


def _keyid(name: str) -> str:
    """Return a key id as it is, or that of a public key in a PEM file."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from edgeguard.trust.role_keys import PublicKey, role_key

    if len(name) == 64 and set(name) <= set("0123456789abcdef"):
        return name
    try:
        key = load_pem_public_key(Path(name).read_bytes()[:16_384])
        if isinstance(key, PublicKey):
            return role_key(key).keyid
    except (OSError, ValueError):
        pass
    raise ProvisioningError(f"{name} is neither a key id nor a public key file", code="EG-P003")


def _kid(fleet: Fleet, name: str) -> str:
    """Return the kid of an enrolled device, or a kid as it is: also one that was never enrolled can be refused."""
    from firmware_tools.enroll import find_device

    if len(name) == 32 and set(name) <= set("0123456789abcdef"):
        return name
    return find_device(fleet, fleet.trust(SystemClock().wall_ns()), name).kid


def floor_of(text: str) -> tuple[str, tuple[int, int]]:
    """Return model id and (epoch, number) of `MODEL=[EPOCH:]NUMBER`."""
    model_id, _, counter = text.partition("=")
    parts = counter.split(":")
    if not model_id or len(parts) > 2 or not all(p.isascii() and p.isdigit() and len(p) < 19 for p in parts):
        raise ProvisioningError("a floor is MODEL=NUMBER or MODEL=EPOCH:NUMBER", code="EG-P003")
    return model_id, (int(parts[0]), int(parts[1])) if len(parts) == 2 else (0, int(parts[0]))
