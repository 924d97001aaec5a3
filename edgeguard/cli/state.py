"""`edgeguard state`: what this device remembers, and what it would not notice."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeguard.cli.options import format_option, open_device_key, tpm_option

if TYPE_CHECKING:
    from edgeguard.trust.state import DeviceState

FOLDER = click.Path(path_type=Path)


@click.command("state")
@click.argument("folder", type=FOLDER, envvar="EDGEGUARD_STATE")
@click.option(
    "--key", "key_path", required=True, metavar="KEY", envvar="EDGEGUARD_KEY", help="The device's private key."
)
@click.option(
    "--trust", "trust_path", required=True, type=FOLDER, envvar="EDGEGUARD_TRUST", help="The device's trust folder."
)
@tpm_option
@format_option
def command(folder: Path, key_path: str, trust_path: Path, tpm_counter: str, output: str) -> None:
    """Authenticate the state in FOLDER, hold the trust folder against it, and show it; nothing is changed."""
    from edgeguard.clock import SystemClock
    from edgeguard.keys.tpm_counter import TpmCounter
    from edgeguard.trust.state import DeviceState
    from edgeguard.trust.store import TrustStore

    wall_ns = SystemClock().wall_ns()
    trust = TrustStore.load(trust_path, wall_ns)
    key = open_device_key(key_path)
    with TpmCounter(key, tcti=tpm_counter) if tpm_counter else nullcontext() as counter:
        state = DeviceState.open(folder, key=key, fleet_id=trust.fleet_id, counter=counter)
    state.require_not_older(trust)
    facts = _facts(state, wall_ns)
    if output == "json":
        click.echo(json.dumps(facts, indent=2, sort_keys=True))
        return
    listed = facts["revocation"]
    click.echo(f"device      {facts['kid']}  generation {facts['generation']}")
    click.echo(f"time        not before {facts['time_floor']}")
    newest = "list {list} of {issued}".format(**listed) if listed else "no list"
    click.echo(f"revocation  {newest}")
    for model in facts["models"]:
        installed = model["installed"][:16] or "nothing committed"
        click.echo(f"model       {model['model_id']}  floor {model['floor']}  {installed}")
    if facts["undetected"]:
        click.echo(f"undetected  {facts['undetected']}")


def _facts(state: DeviceState, wall_ns: int) -> dict[str, Any]:
    from edgeguard.clock import NS_PER_S
    from edgeguard.trust.dates import ns_to_date

    listed = state.revocation
    return {
        "kid": state.kid,
        "fleet_id": state.fleet_id,
        "generation": state.generation,
        "time_floor": ns_to_date(state.time_floor_ns),
        "revocation": {
            "list": f"{listed.place[0]}:{listed.place[1]}",
            "issued": ns_to_date(listed.issued_ns),
            "age_s": max(state.effective_ns(wall_ns) - listed.issued_ns, 0) // NS_PER_S,
            "bundles": len(listed.bundles),
            "signers": len(listed.signers),
            "devices": len(listed.devices),
        }
        if listed
        else None,
        "models": [
            {
                "model_id": model_id,
                "floor": "{}:{}".format(*state.floor(model_id)),
                "installed": state.installed(model_id)[0],
            }
            for model_id in state.models
        ],
        "undetected": state.undetected,
    }
