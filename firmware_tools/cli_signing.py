"""`edgeguard-provision` verbs about signatures: sign, rotate, harden."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeguard.cli.options import ask_secret, format_option, print_facts, say
from edgeguard.clock import SystemClock
from edgeguard.errors import ProvisioningError

if TYPE_CHECKING:
    from edgeguard.keys.provider import VerifiedStatement

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--trust", required=True, type=FOLDER, help="Copy of the fleet's trust folder.")
@click.option("--key", "key_path", required=True, metavar="KEY", help="Your private release key: a file, or pkcs11:...")
@click.option("--yes", is_flag=True, help="Do not ask; for machines that sign what they have built.")
@format_option
def sign(bundle: Path, trust: Path, key_path: str, yes: bool, output: str) -> None:
    """Add your release signature to a BUNDLE that somebody else packed, over the same bytes."""
    from edgeguard.trust.store import TrustStore
    from firmware_tools.passphrase import chosen_passphrase
    from firmware_tools.sign import add_signature
    from firmware_tools.signer import open_signer

    def confirm(statement: VerifiedStatement) -> bool:
        _show(statement)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise ProvisioningError("nobody is here to confirm", code="EG-P061", hint="say --yes")
        return click.confirm("Do you release this model?", err=True)

    wall_ns = SystemClock().wall_ns()
    store = TrustStore.load(trust, wall_ns)
    signer = open_signer(key_path, chosen_passphrase(), ask_secret)
    signed = add_signature(bundle, store, signer, confirm=confirm, wall_ns=wall_ns)
    missing = [f"{m.count} {m.role} ({m.scheme})" for m in signed.missing]
    print_facts(output, {"identity": signed.identity, "signature": str(signed.path), "missing": missing})
    say(f"devices still wait for {', '.join(missing)}" if missing else "devices accept this bundle")


@click.command("token-key")
@click.argument("address")
@click.option("--out", type=FOLDER, help="File for the public key in PEM.")
@format_option
def token_key(address: str, out: Path | None, output: str) -> None:
    """Make a signing key on the PKCS#11 token at ADDRESS; then give it to init or rotate with --token-key."""
    from firmware_tools.files import write_atomic
    from firmware_tools.signer import open_token_signer

    signer = open_token_signer(address, ask_secret, new=True)
    if out is not None:
        write_atomic(out, signer.public_pem())
    print_facts(output, {"keyid": signer.public_key().keyid, "address": str(signer.uri)})


@click.command()
@click.argument("fleet", type=FOLDER)
@click.argument("role")
@click.option("--valid-days", type=click.IntRange(1, 36500), help="Days until it must be renewed; as before.")
@click.option("--token-key", "token_keys", multiple=True, metavar="ADDRESS", help="New key on a token; repeatable.")
@format_option
def rotate(fleet: Path, role: str, valid_days: int | None, token_keys: tuple[str, ...], output: str) -> None:
    """Give a ROLE of FLEET new keys; old key files move to keys/retired. Bundles: see resign, then revoke."""
    from firmware_tools.passphrase import open_fleet
    from firmware_tools.rotate import rotate as make_keys

    made = make_keys(
        open_fleet(fleet), role, wall_ns=SystemClock().wall_ns(), valid_days=valid_days, token_keys=token_keys
    )
    print_facts(
        output,
        {
            "root": made.root_version,
            "targets": made.targets_version,
            "keys": [str(path) for path in made.keys],
            "retired": [str(path) for path in made.retired],
        },
    )
    say(f"copy {fleet / 'trust'} to each device again")


@click.command()
@click.argument("fleet", type=FOLDER)
@format_option
def harden(fleet: Path, output: str) -> None:
    """Make a classical FLEET hybrid: ML-DSA-65 keys beside every P-256 key. There is no way back."""
    from firmware_tools.harden import harden as make_hybrid
    from firmware_tools.passphrase import open_fleet

    made = make_hybrid(open_fleet(fleet), wall_ns=SystemClock().wall_ns())
    print_facts(
        output,
        {
            "root": made.root_version,
            "targets": made.targets_version,
            "keys": [str(path) for path in made.keys],
            "devices": made.devices,
        },
    )
    say(f"next: edgeguard-provision resign {fleet} BUNDLE..., then copy {fleet / 'trust'} to each device again")


def _show(statement: VerifiedStatement) -> None:
    from edgeguard.trust.dates import ns_to_date

    say(f"model     {statement.model_id} {statement.release}, channel {statement.channel}")
    say(f"boards    {', '.join(statement.boards) or 'any'}")
    say(f"counter   {statement.counter[0]}:{statement.counter[1]}")
    say(f"valid     {ns_to_date(statement.valid_from_ns)} to {ns_to_date(statement.expires_ns)}")
    say(f"secrecy   {statement.confidentiality}, {statement.min_key_class} keys or better")
    say(f"identity  {statement.identity.hex()}")
