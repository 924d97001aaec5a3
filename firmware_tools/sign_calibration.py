"""A fleet's calibration: one device's, for all rigs that are built alike. docs/formats/calibration.md section 1."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from edgeguard.bundle.dsse import from_base64
from edgeguard.checks.calibration_file import Calibration, FleetSignature, attach, parse_unverified, signed_message
from edgeguard.errors import EdgeGuardError, ProvisioningError
from edgeguard.trust.store import RELEASE, TrustStore
from firmware_tools.sign import Missing
from firmware_tools.signer import Signer

_HINT: Final = "begin again from the file that edgeguard calibrate has written on the device"


@dataclass(frozen=True, slots=True)
class SignedCalibration:
    """The new file. missing: empty when devices accept it."""

    content: bytes
    keyid: str
    missing: tuple[Missing, ...]


def sign_calibration(
    raw: bytes, trust: TrustStore, signer: Signer, *, confirm: Callable[[Calibration], bool]
) -> SignedCalibration:
    """Turn a device's calibration into its fleet's, or add a signature to one that already is.

    The MAC of a device's file is no evidence here, because only that device can check it: whoever signs vouches for the
    numbers, and sees them first. A fleet's file must carry correct signatures of this fleet's release keys alone.

    Args:
        confirm: shown what would be signed, says whether this is what the signer means.

    Raises:
        CalibrationError: EG-L001, EG-L003. ProvisioningError: EG-P060 the key is no release key of this fleet, EG-P061
            not confirmed, EG-P064 another fleet's file, or one with a wrong signature.
    """
    key = signer.public_key()
    if trust.key(RELEASE, key.keyid) != key:
        raise ProvisioningError(
            "the key is no release key of this fleet",
            code="EG-P060",
            hint="use a release or release-pq key that targets.json names, and the fleet's newest trust folder",
        )
    found, signatures = parse_unverified(raw)
    if found.fleet and found.fleet != trust.fleet_id:
        raise ProvisioningError("the calibration belongs to another fleet", code="EG-P064", hint=_HINT)
    calibration = msgspec.structs.replace(found, device="", fleet=trust.fleet_id)
    message = signed_message(calibration)
    _require_correct(trust, message, signatures)
    if not confirm(calibration):
        raise ProvisioningError("the calibration was not confirmed and nothing was signed", code="EG-P061")
    own = FleetSignature(key.keyid, base64.b64encode(signer.sign(message)).decode())
    kept = (*(each for each in signatures if each.keyid != key.keyid), own)
    return SignedCalibration(attach(calibration, kept), key.keyid, _missing(trust, kept))


def _require_correct(trust: TrustStore, message: bytes, signatures: tuple[FleetSignature, ...]) -> None:
    for each in signatures:
        key = trust.key(RELEASE, each.keyid)
        correct = False
        try:
            if key is not None:
                key.verify(from_base64(each.signature, what="a signature"), message)
                correct = True
        except EdgeGuardError:
            correct = False
        if not correct:
            raise ProvisioningError("a signature on the calibration does not verify", code="EG-P064", hint=_HINT)


def _missing(trust: TrustStore, signatures: tuple[FleetSignature, ...]) -> tuple[Missing, ...]:
    keyids = {each.keyid for each in signatures}
    return tuple(
        Missing(group.role, group.scheme, group.threshold - signed)
        for group in trust.groups[RELEASE]
        if (signed := sum(key.keyid in keyids for key in group.keys)) < group.threshold
    )
