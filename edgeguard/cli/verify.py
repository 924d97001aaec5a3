"""`edgeguard verify`: is this bundle what the fleet released, and undamaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeguard.cli.options import format_option
from edgeguard.errors import ConfigError

if TYPE_CHECKING:
    from edgeguard.keys.provider import VerifiedStatement

FOLDER = click.Path(path_type=Path)


@click.command("verify")
@click.argument("bundle", type=FOLDER)
@click.option(
    "--trust",
    "trust_path",
    required=True,
    type=FOLDER,
    envvar="EDGEGUARD_TRUST",
    help="Folder with the pinned trust metadata; there is no default trust.",
)
@click.option("--model-id", envvar="EDGEGUARD_MODEL_ID", help="Refuse any other model.")
@click.option("--board", envvar="EDGEGUARD_BOARD", help="Refuse a model that is not for this board.")
@click.option(
    "--key", "key_path", type=FOLDER, envvar="EDGEGUARD_KEY", help="Device key: decrypt as well, in memory, and wipe."
)
@click.option(
    "--state",
    "state_path",
    type=FOLDER,
    envvar="EDGEGUARD_STATE",
    help="The device's state folder, with --key: also check counters and revocation as this device knows them.",
)
@format_option
def command(
    bundle: Path,
    trust_path: Path,
    model_id: str | None,
    board: str | None,
    key_path: Path | None,
    state_path: Path | None,
    output: str,
) -> None:  # fmt: skip
    """Check signature, policy and every digest of BUNDLE; with --key, that this device can decrypt it."""
    from edgeguard.bundle.model import open_model
    from edgeguard.bundle.verify import verify_bundle
    from edgeguard.clock import SystemClock
    from edgeguard.keys.file import FileKeyProvider
    from edgeguard.trust.state import DeviceState
    from edgeguard.trust.store import TrustStore

    if state_path is not None and key_path is None:
        raise ConfigError("--state needs --key, which authenticates it", code="EG-C021", hint="add --key DEVICE.pem")
    wall_ns = SystemClock().wall_ns()
    trust = TrustStore.load(trust_path, wall_ns)
    key = FileKeyProvider(key_path) if key_path is not None else None
    state = DeviceState.open(state_path, key=key, fleet_id=trust.fleet_id) if key and state_path else None
    verified = verify_bundle(bundle, trust, expect_model=model_id, board=board, wall_ns=wall_ns, state=state)
    if key is not None:
        with open_model(
            bundle,
            trust=trust,
            key=key,
            expect_model=verified.statement.model_id,
            board=board or "",
            wall_ns=wall_ns,
            state=state,
        ):
            pass
    facts = _facts(verified.statement) | {"verified": True, "decrypted": key_path is not None}
    if output == "json":
        click.echo(json.dumps(facts, indent=2, sort_keys=True))
        return
    click.echo(f"{bundle}: verified" + (" and decrypted" if key_path else ""))
    for name, value in facts.items():
        if name not in ("verified", "decrypted"):
            click.echo(f"  {name:12} {', '.join(value) if isinstance(value, list) else value}")


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
