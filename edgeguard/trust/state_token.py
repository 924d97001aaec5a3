"""A signed permission to make a lost device state again. docs/formats/device-state.md section 2a.

TUF Targets metadata of the role `enrol` with one target, `devices/<kid>.state`, whose custom part is the token. It
says the least that the new state must know, so that losing a state is no way back.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from edgeguard.clock import NS_PER_S
from edgeguard.errors import EdgeGuardError, TrustError
from edgeguard.trust.dates import Date, date_to_ns
from edgeguard.trust.floors import Place
from edgeguard.trust.policy import Count, Counter, Name
from edgeguard.trust.signed_time import effective_ns
from edgeguard.trust.store import ENROL, TrustStore
from edgeguard.trust.strict_json import convert

MAX_TOKEN_BYTES: Final = 256 * 1024  # floors of a thousand models
# The target stands for nothing but its name: length 0, and this digest.
NOTHING_DIGEST: Final = hashlib.sha256(b"").hexdigest()
_HINT: Final = "ask the fleet's owner for a new one: edgeguard-provision state-token FLEET DEVICE"


class StateToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `enrol` permits. counter: the TPM counter's value, which makes a token work once; null without a counter.

    issued: signed time. revocation: the list that must be there at least. floors: per model, what was installed.
    """

    issued: Date
    counter: Count | None
    revocation: Counter
    floors: dict[Name, Counter]

    @property
    def issued_ns(self) -> int:
        return date_to_ns(self.issued, what="issued")

    def places(self) -> list[tuple[str, Place]]:
        """Return the floors as values."""
        return [(name, floor.value) for name, floor in self.floors.items()]


def token_path(kid: str) -> str:
    """Return the name of the target that permits one device."""
    return f"devices/{kid}.state"


def verified_token(trust: TrustStore, raw: bytes, *, kid: str, counter: int | None, clock_ns: int) -> StateToken:
    """Verify a token for this device, now.

    Raises:
        TrustError: EG-T037 not signed by `enrol`, for another device, expired, for another value of the counter, or
            the trust folder holds an older revocation list than it asks for.
    """
    reason = ""
    try:
        if len(raw) > MAX_TOKEN_BYTES:
            raise TrustError("it is too large")
        signed = trust.verify_delegated(ENROL, raw)
        target = signed.targets.get(token_path(kid))
        if target is None or len(signed.targets) != 1 or target.hashes.get("sha256") != NOTHING_DIGEST:
            raise TrustError("it is not for this device")
        token = convert(target.custom, StateToken, what="the token")
        expires_ns = int(signed.expires.timestamp()) * NS_PER_S
        if effective_ns(trust.effective_ns(clock_ns), token.issued_ns) >= expires_ns:
            raise TrustError("it has expired")
        if token.counter != (None if counter is None else str(counter)):
            raise TrustError("the monotonic counter has another value than it says")
        if (trust.revocation.place if trust.revocation else (0, 0)) < token.revocation.value:
            raise TrustError("the trust folder's revocation list is older than it asks for")
        return token
    except EdgeGuardError as error:
        reason = error.message
    raise TrustError(f"the state token is refused: {reason}", code="EG-T037", hint=_HINT)
