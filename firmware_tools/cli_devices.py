"""`edgeguard-provision` verbs about devices: keygen, challenge, answer, enroll, grant."""

from __future__ import annotations

import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path

import click

from edgeguard.cli.options import ask_secret, format_option, print_facts, progress_bar, say, tpm_option
from edgeguard.clock import SystemClock
from edgeguard.errors import ProvisioningError

FOLDER = click.Path(path_type=Path)
SUITES = ("x25519", "p256", "mlkem768-x25519")


@click.command()
@click.option("--trust", required=True, type=FOLDER, help="Copy of the fleet's trust folder.")
@click.option(
    "--key",
    "key_path",
    required=True,
    metavar="KEY",
    help="New private key: a file of mode 0600, or tpm:, pkcs11:, rpi-otp: as in docs/keys.md.",
)
@click.option("--request", "request_path", required=True, type=FOLDER, help="Enrolment request to bring to the fleet.")
@click.option("--name", required=True, help="Name of the device.")
@click.option("--board", default="generic", show_default=True, help="Kind of board, for models limited to some.")
@click.option(
    "--suite",
    type=click.Choice(SUITES),
    help="Kind of key, x25519 unless said; a chip has its own. mlkem768-x25519 also resists quantum computers and is "
    "what pq-required models ask for.",
)
@click.option("--state", "state_path", type=FOLDER, help="New folder for the device's state, made with its key.")
@tpm_option
@format_option
def keygen(
    trust: Path,
    key_path: str,
    request_path: Path,
    name: str,
    board: str,
    suite: str | None,
    state_path: Path | None,
    tpm_counter: str,
    output: str,
) -> None:
    """Make a device key, its state and its enrolment request; run where the key will stay."""
    from edgeguard.keys.context import POST_QUANTUM_SUITES, fingerprint_of
    from edgeguard.keys.open_key import generate_key, parse_address
    from edgeguard.keys.tpm_counter import TpmCounter
    from edgeguard.trust.state import DeviceState
    from edgeguard.trust.store import TrustStore
    from firmware_tools.enroll import make_request
    from firmware_tools.files import write_atomic
    from firmware_tools.passphrase import chosen_passphrase

    store = TrustStore.load(trust, SystemClock().wall_ns())
    full_name = f"hpke-base/{suite}/hkdf-sha256/aes-256-gcm" if suite else None
    key = generate_key(key_path, suite=full_name, passphrase=chosen_passphrase(new=True), ask=ask_secret)
    try:
        write_atomic(request_path, make_request(key, store, device_name=name, board=board))
        if state_path is not None:
            with TpmCounter.create(key, tcti=tpm_counter) if tpm_counter else nullcontext() as counter:
                state = DeviceState.create(state_path, key=key, trust=store, counter=counter)
            say(state.undetected or "the TPM's counter keeps step with the state: give --tpm-counter to every verb")
    except BaseException:
        # A key that nobody has seen yet: whoever calls again finds the place as it was. Keys in chips stay.
        address = parse_address(key_path)
        if address.provider == "file":
            address.path.unlink(missing_ok=True)
            request_path.unlink(missing_ok=True)
        raise
    fingerprint = fingerprint_of(key.public_key())
    print_facts(output, {"device": name, "kid": key.kid, "fingerprint": fingerprint, "request": str(request_path)})
    if key.suite in POST_QUANTUM_SUITES:
        say(f"next, on the provisioning host: edgeguard-provision challenge FLEET {request_path} --out challenge.json")
    else:
        say(f"next, on the provisioning host: edgeguard-provision enroll FLEET {request_path}")


@click.command()
@click.argument("fleet", type=FOLDER)
@click.argument("request", type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="Challenge to bring to the device.")
@format_option
def challenge(fleet: Path, request: Path, out: Path, output: str) -> None:
    """Make a challenge that only the holder of a REQUEST's whole key can answer; asked of post-quantum keys."""
    from firmware_tools.enroll import make_challenge
    from firmware_tools.files import write_atomic
    from firmware_tools.passphrase import open_fleet

    write_atomic(out, make_challenge(open_fleet(fleet), request))
    print_facts(output, {"challenge": str(out)})
    say(f"next, on the device: edgeguard-provision answer {out} --trust TRUST --key KEY --out answer.json")


@click.command()
@click.argument("challenge_path", metavar="CHALLENGE", type=FOLDER)
@click.option("--trust", required=True, type=FOLDER, help="Copy of the fleet's trust folder.")
@click.option("--key", "key_path", required=True, metavar="KEY", help="The device's private key.")
@click.option("--out", required=True, type=FOLDER, help="Answer to bring back to the fleet.")
@format_option
def answer(challenge_path: Path, trust: Path, key_path: str, out: Path, output: str) -> None:
    """Answer a CHALLENGE with the device's key; run where the key is."""
    from edgeguard.keys.open_key import open_key
    from edgeguard.trust.store import TrustStore
    from firmware_tools.enroll import answer_challenge, read_bounded
    from firmware_tools.files import write_atomic
    from firmware_tools.passphrase import chosen_passphrase

    key = open_key(key_path, passphrase=chosen_passphrase(), ask=ask_secret)
    store = TrustStore.load(trust, SystemClock().wall_ns())
    write_atomic(out, answer_challenge(key, store, read_bounded(challenge_path)))
    print_facts(output, {"answer": str(out)})
    say(f"next, on the provisioning host: edgeguard-provision enroll FLEET REQUEST --answer {out}")


@click.command()
@click.argument("fleet", type=FOLDER)
@click.argument("request", type=FOLDER)
@click.option("--fingerprint", default="", help="The fingerprint that keygen printed; asked for when not given.")
@click.option("--answer", "answer_path", type=FOLDER, help="The device's answer to a challenge.")
@format_option
def enroll(fleet: Path, request: Path, fingerprint: str, answer_path: Path | None, output: str) -> None:
    """Check an enrolment REQUEST and sign the device's record."""
    from firmware_tools.enroll import PendingDevice, read_bounded
    from firmware_tools.enroll import enroll as sign_record
    from firmware_tools.passphrase import open_fleet

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

    given = None if answer_path is None else read_bounded(answer_path)
    wall_ns = SystemClock().wall_ns()
    record = sign_record(open_fleet(fleet), request, confirm=confirm, wall_ns=wall_ns, answer=given)
    print_facts(output, {"device": record.device_name, "kid": record.kid, "enrolled": record.enrolled})


@click.command()
@click.argument("fleet", type=FOLDER)
@click.argument("bundle", type=FOLDER)
@click.argument("devices", nargs=-1)
@click.option("--all", "everybody", is_flag=True, help="Every enrolled device that the model admits.")
@format_option
def grant(fleet: Path, bundle: Path, devices: tuple[str, ...], everybody: bool, output: str) -> None:
    """Let DEVICES (names or key ids), or --all, open a BUNDLE. The content key is opened once for all of them."""
    from firmware_tools.grant import grant_many
    from firmware_tools.passphrase import open_fleet

    if bool(devices) == everybody:
        raise ProvisioningError("name the devices, or say --all", code="EG-P003")
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("granting")
        granted = grant_many(
            open_fleet(fleet),
            bundle,
            None if everybody else devices,
            wall_ns=SystemClock().wall_ns(),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for device, reason in granted.refused:
        say(f"{device} is not granted: {reason}")
    print_facts(output, {"bundle": str(bundle), "granted": granted.count, "refused": len(granted.refused)})
