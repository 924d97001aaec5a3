"""`edgeguard inspect`: what a bundle says about itself, before anybody believes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgeguard.cli.options import format_option


@click.command("inspect")
@click.argument("bundle", type=click.Path(path_type=Path))
@format_option
def command(bundle: Path, output: str) -> None:
    """Show the claims of BUNDLE. Nothing is verified: use `edgeguard verify` for that."""
    import msgspec

    from edgeguard.bundle.inspect import inspect_bundle

    facts = inspect_bundle(bundle)
    if output == "json":
        policy: dict[str, Any] = msgspec.to_builtins(facts.policy)
        manifest: dict[str, Any] = msgspec.to_builtins(facts.manifest)
        claims = {"identity": facts.identity, "signer": facts.signer, "policy": policy, "manifest": manifest}
        click.echo(json.dumps({"verified": False, "claims": claims}, indent=2, sort_keys=True))
        return
    policy_ = facts.policy
    click.echo(f"{bundle}: NOT VERIFIED; what it says about itself:")
    rows = {
        "model": f"{policy_.model_id} {policy_.release} ({policy_.channel})",
        "fleet": policy_.fleet_id,
        "boards": ", ".join(policy_.boards) or "any",
        "counter": f"{policy_.security_counter.epoch}:{policy_.security_counter.number}",
        "valid": f"{policy_.valid_from} to {policy_.expires}",
        "cipher": facts.manifest.cipher.name,
        "identity": facts.identity,
        "signer": facts.signer,
    }
    for name, value in rows.items():
        click.echo(f"  {name:9} {value}")
    for payload in facts.manifest.payloads:
        what = " ".join(filter(None, (payload.name, payload.role, payload.location)))
        click.echo(f"  payload   {what} {payload.plaintext_bytes} bytes")
