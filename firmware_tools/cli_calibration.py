"""`edgeguard-provision sign-calibration`: one device's calibration for all rigs of a fleet that are built alike."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeguard.cli.options import ask_secret, format_option, print_facts, say
from edgeguard.clock import SystemClock
from edgeguard.errors import CalibrationError, ProvisioningError

if TYPE_CHECKING:
    from edgeguard.checks.calibration_file import Calibration

FOLDER = click.Path(path_type=Path)


@click.command("sign-calibration")
@click.argument("calibration", type=FOLDER)
@click.option("--trust", required=True, type=FOLDER, help="Copy of the fleet's trust folder.")
@click.option("--key", "key_path", required=True, metavar="KEY", help="Your private release key: a file, or pkcs11:...")
@click.option("--out", required=True, type=FOLDER, help="File for the fleet's calibration; may be the same.")
@click.option("--yes", is_flag=True, help="Do not ask; for machines that sign what they have measured.")
@format_option
def sign_calibration(calibration: Path, trust: Path, key_path: str, out: Path, yes: bool, output: str) -> None:
    """Sign a CALIBRATION for the whole fleet: one that `edgeguard calibrate` wrote, or one that a colleague signed.

    Every rig with the same sensors and the same geometry then accepts it.
    """
    from edgeguard.checks.calibration_file import MAX_FILE_BYTES
    from edgeguard.keys.regular_file import open_regular, read_up_to
    from edgeguard.trust.store import TrustStore
    from firmware_tools import sign_calibration as signing
    from firmware_tools.files import write_atomic
    from firmware_tools.passphrase import chosen_passphrase
    from firmware_tools.signer import open_signer

    def confirm(shown: Calibration) -> bool:
        _show(shown)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise ProvisioningError("nobody is here to confirm", code="EG-P061", hint="say --yes")
        return click.confirm("Do you vouch for this calibration?", err=True)

    try:
        with open_regular(calibration) as file:
            raw = read_up_to(file, MAX_FILE_BYTES + 1)
    except (OSError, ValueError):
        raise CalibrationError(f"cannot read {calibration}", code="EG-L005", hint="check the path") from None
    store = TrustStore.load(trust, SystemClock().wall_ns())
    signed = signing.sign_calibration(
        raw, store, open_signer(key_path, chosen_passphrase(), ask_secret), confirm=confirm
    )
    write_atomic(out, signed.content)
    missing = [f"{m.count} {m.role} ({m.scheme})" for m in signed.missing]
    print_facts(output, {"file": str(out), "signer": signed.keyid, "missing": missing})
    say(f"devices still wait for {', '.join(missing)}" if missing else "devices accept this calibration")


def _show(calibration: Calibration) -> None:
    """Say what would be signed, so that nobody signs numbers unseen."""
    section = calibration.sensors
    if section is None:
        say("no fits of sensors")
    else:
        made, held = section.made, section.held_out
        say(f"recording    {made.recording!a}, {made.from_s:.0f} to {made.to_s:.0f} s, {made.anomalies} anomalies")
        say(f"held out     {held.alarms} alarms in {held.seconds:.0f} s")
        say(f"asked for    one false alarm in {made.hours_between_alarms:g} h")
        say(f"rig          {', '.join(f'{name!a}' for name in sorted(section.rig.sensors))}")
        for name, monitor in section.monitors.items():
            widest = max(monitor.bins, key=lambda one: one.sigma)
            say(f"monitor      {name!a}  {widest.location:.3g} +- {widest.sigma:.3g}, h {widest.cusum_h:.1f}")
        for name, threshold in section.thresholds.items():
            if threshold.scale != 1.0:
                say(f"threshold    {name!a}  {threshold.scale:.2f} of the shipped one")
    if calibration.inputs is not None:
        say("and a section for inputs, which this version cannot show")
