"""`edgeguard-provision state-token` (host) and `recover-state` (device)."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from edgeguard.cli.options import format_option, open_device_key, print_facts, say, tpm_option
from edgeguard.clock import SystemClock

FOLDER = click.Path(path_type=Path)


@click.command("state-token")
@click.argument("fleet", type=FOLDER)
@click.argument("device")
@click.option("--out", required=True, type=FOLDER, help="Token to bring to the device.")
@click.option("--counter", type=click.IntRange(0), help="Value of the device's TPM counter; makes the token work once.")
@click.option(
    "--floor", "floors", multiple=True, metavar="MODEL=[EPOCH:]NUMBER", help="What the device had installed of MODEL."
)
@click.option("--valid-days", type=click.IntRange(1, 365), default=7, show_default=True)
@format_option
def state_token(
    fleet: Path, device: str, out: Path, counter: int | None, floors: tuple[str, ...], valid_days: int, output: str
) -> None:
    """Permit a DEVICE of FLEET that has lost its state to make it again; only with the device in your hands."""
    from firmware_tools.cli_revocation import floor_of
    from firmware_tools.files import write_atomic
    from firmware_tools.passphrase import open_fleet
    from firmware_tools.state_token import state_token as sign_token

    raw = sign_token(
        open_fleet(fleet), device, wall_ns=SystemClock().wall_ns(), counter=counter,
        floors=dict(floor_of(text) for text in floors), valid_days=valid_days,
    )  # fmt: skip
    write_atomic(out, raw)
    print_facts(output, {"device": device, "token": str(out), "days": valid_days})


@click.command("recover-state")
@click.argument("token", type=FOLDER)
@click.option("--trust", required=True, type=FOLDER, help="The device's trust folder, as new as the token asks.")
@click.option("--key", "key_path", required=True, metavar="KEY", help="The device's private key.")
@click.option("--state", "state_path", required=True, type=FOLDER, help="State folder; what lies there is replaced.")
@tpm_option
@format_option
def recover_state(token: Path, trust: Path, key_path: str, state_path: Path, tpm_counter: str, output: str) -> None:
    """Make this device's state again with a TOKEN of its fleet; run on the device."""
    from edgeguard.keys.tpm_counter import TpmCounter
    from edgeguard.trust.files import read_directory_file
    from edgeguard.trust.state import DeviceState
    from edgeguard.trust.state_token import MAX_TOKEN_BYTES
    from edgeguard.trust.store import TrustStore

    wall_ns = SystemClock().wall_ns()
    store = TrustStore.load(trust, wall_ns)
    key = open_device_key(key_path)
    raw = read_directory_file(token.parent, token.name, MAX_TOKEN_BYTES, hint="edgeguard-provision state-token")
    with TpmCounter(key, tcti=tpm_counter) if tpm_counter else nullcontext() as counter:
        state = DeviceState.recover(state_path, key=key, trust=store, token=raw, clock_ns=wall_ns, counter=counter)
    print_facts(output, {"kid": state.kid, "generation": state.generation})
    if state.undetected:
        say(state.undetected)
