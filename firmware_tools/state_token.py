"""`edgeguard-provision state-token`: permit a device that has lost its state to make it again."""

from __future__ import annotations

from collections.abc import Mapping

from tuf.api.metadata import TargetFile, Targets  # type: ignore[attr-defined] # documented re-exports

from edgeguard.clock import NS_PER_S
from edgeguard.errors import EdgeGuardError, ProvisioningError
from edgeguard.trust.dates import ns_to_date, ns_to_datetime
from edgeguard.trust.floors import Place
from edgeguard.trust.state_token import NOTHING_DIGEST, token_path, verified_token
from edgeguard.trust.store import ENROL
from firmware_tools.enroll import find_device
from firmware_tools.fleet import Fleet
from firmware_tools.trust_metadata import signed_metadata

DEFAULT_TOKEN_DAYS = 7  # long enough to carry it to a mast, short enough that a found stick is worthless
_S_PER_DAY = 86_400


def state_token(
    fleet: Fleet,
    device: str,
    *,
    wall_ns: int,
    counter: int | None = None,
    floors: Mapping[str, Place] | None = None,
    valid_days: int = DEFAULT_TOKEN_DAYS,
) -> bytes:
    """Sign a token for an enrolled device that is not revoked.

    Args:
        counter: value of the device's TPM counter, which makes the token work once; None for a device without one.
        floors: (epoch, number) per model, of what the device had installed; below them nothing opens afterwards.

    Raises:
        ProvisioningError: EG-P005 keys missing, EG-P013 unknown device, EG-P052 revoked, or no device would accept it.
    """
    trust = fleet.trust(wall_ns)
    kid = find_device(fleet, trust, device).kid
    if trust.revocation is not None and kid in trust.revocation.devices:
        raise ProvisioningError(f"{device} is revoked and gets no state", code="EG-P052")
    now_ns = trust.effective_ns(wall_ns)
    epoch, number = trust.revocation.place if trust.revocation is not None else (0, 0)
    custom = {
        "issued": ns_to_date(now_ns),
        "counter": None if counter is None else str(counter),
        "revocation": {"epoch": str(epoch), "number": str(number)},
        "floors": {name: {"epoch": str(e), "number": str(n)} for name, (e, n) in (floors or {}).items()},
    }
    path = token_path(kid)
    target = TargetFile(0, {"sha256": NOTHING_DIGEST}, path, {"custom": custom})
    expires = ns_to_datetime(now_ns + valid_days * _S_PER_DAY * NS_PER_S)
    raw = signed_metadata(Targets(version=1, expires=expires, targets={path: target}), fleet.signing_set(ENROL, trust))
    try:
        verified_token(trust, raw, kid=kid, counter=counter, clock_ns=now_ns)
        return raw
    except EdgeGuardError as error:
        reason = error.message
    raise ProvisioningError(f"no device would accept this token: {reason}", code="EG-P052")
