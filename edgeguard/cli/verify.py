"""`edgeguard verify`: is this bundle what the fleet released, and undamaged; or this folder what a key signed."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeguard.cli.options import format_option, open_device_key, tpm_option
from edgeguard.errors import BundleFormatError, ConfigError

if TYPE_CHECKING:
    from edgeguard.keys.provider import VerifiedStatement
    from edgeguard.trust.store import TrustStore

FOLDER = click.Path(path_type=Path)
PLAIN_SCOPE = "one signature by this key and the digests of all files; no policy, expiry, revocation or rollback"


@click.command("verify")
@click.argument("bundle", type=FOLDER)
@click.option(
    "--trust",
    "trust_path",
    type=FOLDER,
    envvar="EDGEGUARD_TRUST",
    help="Folder with the pinned trust metadata; there is no default trust.",
)
@click.option("--model-id", envvar="EDGEGUARD_MODEL_ID", help="Refuse any other model.")
@click.option("--board", envvar="EDGEGUARD_BOARD", help="Refuse a model that is not for this board.")
@click.option(
    "--key",
    "key_path",
    metavar="KEY",
    envvar="EDGEGUARD_KEY",
    help="Device key: decrypt as well, in memory, check the plaintext digests, and wipe.",
)
@click.option(
    "--state",
    "state_path",
    type=FOLDER,
    envvar="EDGEGUARD_STATE",
    help="The device's state folder, with --key: also check counters and revocation as this device knows them.",
)
@click.option(
    "--public-key",
    "public_key",
    type=FOLDER,
    help="Instead of --trust: a plain folder signed by this EC key with `model_signing sign key`.",
)
@click.option("--signature", type=FOLDER, help="With --public-key: the signature; BUNDLE/model.sig when not given.")
@tpm_option
@format_option
@click.pass_context
def command(
    ctx: click.Context,
    bundle: Path,
    trust_path: Path | None,
    model_id: str | None,
    board: str | None,
    key_path: str | None,
    state_path: Path | None,
    public_key: Path | None,
    signature: Path | None,
    tpm_counter: str,
    output: str,
) -> None:
    """Check signature, policy and every digest of BUNDLE; with --key, that this device can decrypt it.

    With --public-key, BUNDLE is any folder with an OpenSSF Model Signing signature, and nothing but that signature and
    the files it covers is checked.
    """
    if public_key is not None:
        _refuse_options_of_bundles(ctx)
        _verify_plain(bundle, public_key, signature, output)
        return
    if signature is not None:
        raise click.UsageError("--signature belongs to --public-key")
    if trust_path is None:
        raise click.UsageError("give --trust DIR for a bundle of a fleet, or --public-key FILE for a plain folder")
    if key_path is None and (state_path is not None or tpm_counter):
        raise ConfigError(
            "--state and --tpm-counter need --key, which authenticates them",
            code="EG-C021",
            hint="add --key DEVICE.pem",
        )
    verified = _verified(bundle, trust_path, model_id, board, key_path, state_path, tpm_counter)
    _print(bundle, _facts(verified) | {"verified": True, "decrypted": key_path is not None}, output)


def _refuse_options_of_bundles(ctx: click.Context) -> None:
    """What the environment sets for bundles is no mistake; what the command line says beside --public-key is."""
    for name in ("trust_path", "model_id", "board", "key_path", "state_path", "tpm_counter"):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                "--public-key checks a signature alone: --trust, --key and the like do not go with it"
            )


def _verify_plain(folder: Path, public_key: Path, signature: Path | None, output: str) -> None:
    from dataclasses import asdict

    from edgeguard.bundle.plain import verify_plain

    verified = verify_plain(folder, public_key, signature=signature)
    if output == "json":
        facts = {"verified": True, "scope": PLAIN_SCOPE, **asdict(verified)}
        click.echo(json.dumps(facts, indent=2, sort_keys=True))
        return
    click.echo(f"{folder}: the signature verifies")
    click.echo(f"  {'signed as':12} {verified.model_name!a}")
    click.echo(f"  {'by key':12} {verified.keyid} ({verified.curve})")
    click.echo(
        f"  {'files':12} {verified.files}, {verified.size_bytes} bytes ({verified.hash_type}, {verified.method})"
    )
    click.echo(f"  {'not covered':12} {', '.join(map(ascii, verified.uncovered)) or 'nothing'}")
    click.echo(f"  {'checked':12} {PLAIN_SCOPE}")


def _verified(
    bundle: Path,
    trust_path: Path,
    model_id: str | None,
    board: str | None,
    key_path: str | None,
    state_path: Path | None,
    tpm_counter: str,
) -> VerifiedStatement:
    from edgeguard.bundle.verify import verify_bundle
    from edgeguard.clock import SystemClock
    from edgeguard.trust.store import TrustStore

    wall_ns = SystemClock().wall_ns()
    trust = TrustStore.load(trust_path, wall_ns)
    if key_path is not None:
        return _verified_with_key(bundle, trust, model_id, board, key_path, state_path, tpm_counter, wall_ns)
    try:
        return verify_bundle(bundle, trust, expect_model=model_id, board=board, wall_ns=wall_ns).statement
    except BundleFormatError as error:
        if (bundle / "manifest.json").exists() or error.hint or not bundle.is_dir():
            raise
        failure = error
    hint = "a folder that another tool has signed is checked with: edgeguard verify FOLDER --public-key FILE"
    raise BundleFormatError(failure.message, code=failure.code, hint=hint)


def _print(bundle: Path, facts: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(facts, indent=2, sort_keys=True))
        return
    click.echo(f"{bundle}: verified" + (" and decrypted" if facts["decrypted"] else ""))
    for name, value in facts.items():
        if name not in ("verified", "decrypted"):
            click.echo(f"  {name:12} {', '.join(value) if isinstance(value, list) else value}")


def _verified_with_key(
    bundle: Path,
    trust: TrustStore,
    model_id: str | None,
    board: str | None,
    key_path: str,
    state_path: Path | None,
    tpm_counter: str,
    wall_ns: int,
) -> VerifiedStatement:
    """Verify first, which names a damaged place, then open the model as this device would, to the last check."""
    from edgeguard.bundle.model import open_model
    from edgeguard.bundle.verify import verify_bundle
    from edgeguard.keys.tpm_counter import TpmCounter
    from edgeguard.trust.state import DeviceState

    key = open_device_key(key_path)
    with TpmCounter(key, tcti=tpm_counter) if tpm_counter else nullcontext() as counter:
        state = None
        if state_path is not None:
            state = DeviceState.open(state_path, key=key, fleet_id=trust.fleet_id, counter=counter)
        verified = verify_bundle(
            bundle, trust, expect_model=model_id, board=board, wall_ns=wall_ns, state=state
        ).statement
        expected = verified.model_id
        open_model(
            bundle,
            trust=trust,
            key=key,
            expect_model=expected,
            board=board or "",
            wall_ns=wall_ns,
            deep=True,
            state=state,
        ).close()
    return verified


def _facts(statement: VerifiedStatement) -> dict[str, Any]:
    from edgeguard.trust.dates import ns_to_date

    return {
        "model_id": statement.model_id,
        "release": statement.release,
        "channel": statement.channel,
        "boards": list(statement.boards) or ["any"],
        "counter": f"{statement.counter[0]}:{statement.counter[1]}",
        "expires": ns_to_date(statement.expires_ns),
        "identity": statement.identity.hex(),
        "signers": list(statement.signers),
    }
