"""`edgeguard-provision revoke`: take back bundles, signing keys, devices, and releases below a counter.

The new list holds everything that the list before held. docs/formats/revocation.md
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeguard.bundle.admission import CARRIED_LIST, CARRIED_METADATA
from edgeguard.bundle.dsse import STATEMENT_TYPE
from edgeguard.bundle.signature import MAX_SIGNATURE_BYTES, SIGNATURE_FILE, parse_signed
from edgeguard.bundle.statement import parse_statement
from edgeguard.bundle.storage import DirectoryStorage
from edgeguard.clock import NS_PER_S
from edgeguard.errors import EdgeGuardError, ProvisioningError
from edgeguard.trust.dates import ns_to_datetime
from edgeguard.trust.files import read_directory_file
from edgeguard.trust.revocation import (
    LIST_FILE,
    MAX_LIST_BYTES,
    MAX_METADATA_BYTES,
    METADATA_FILE,
    RevocationList,
    parse_list,
    verified_list,
)
from edgeguard.trust.store import REVOCATION, TrustStore
from firmware_tools.files import write_atomic
from firmware_tools.fleet import Fleet
from firmware_tools.revocation_list import Entries, list_bytes
from firmware_tools.trust_metadata import revocation_metadata

_S_PER_DAY = 86_400
_HINT = "bring the fleet's revocation keys"


@dataclass(frozen=True, slots=True)
class Revoked:
    """What was written. place: (epoch, version)."""

    place: tuple[int, int]
    digest: str
    entries: Entries


def revoke(fleet: Fleet, entries: Entries, *, wall_ns: int, valid_days: int | None = None) -> Revoked:
    """Sign the next list, with `entries` added, into the fleet's trust folder; no entries renew the list.

    Args:
        wall_ns: now; becomes a signed time below which no device judges.
        valid_days: days for which the list admits new installs; until the fleet's metadata expires when None.

    Raises:
        ProvisioningError: EG-P003 an entry cannot be used, EG-P005 keys missing, EG-P030 cannot write, EG-P050 the
            list would not be accepted by a device.
    """
    trust = fleet.trust(wall_ns)
    known = _known_list(fleet, trust)
    epoch = int(trust.policy.revocation.epoch)
    version = known.place[1] + 1 if known is not None and known.place[0] == epoch else 1
    every = (Entries.of(known) if known is not None else Entries()).plus(entries)
    issued_ns = trust.effective_ns(wall_ns) // NS_PER_S * NS_PER_S
    content = list_bytes(fleet.fleet_id, (epoch, version), issued_ns, every)
    expires_ns = trust.expires_ns if valid_days is None else issued_ns + valid_days * _S_PER_DAY * NS_PER_S
    signers = fleet.signing_set(REVOCATION, trust)
    metadata = revocation_metadata(signers, version, ns_to_datetime(expires_ns), content)
    reason = ""
    try:
        verified_list(trust, metadata, content)
    except EdgeGuardError as error:
        reason = error.message
    if reason:
        raise ProvisioningError(f"no device would accept this list: {reason}", code="EG-P050")
    # The list first: with old metadata and a new list a reader sees no list at all, never a wrong one.
    write_atomic(fleet.trust_folder / LIST_FILE, content)
    write_atomic(fleet.trust_folder / METADATA_FILE, metadata)
    return Revoked((epoch, version), hashlib.sha256(content).hexdigest(), every)


def put_list_into(fleet_trust: Path, bundle: Path) -> None:
    """Copy the list of a trust folder into a bundle, where devices without a network find it.

    Raises:
        TrustError: EG-T001, the trust folder holds no list. ProvisioningError: EG-P030.
    """
    for name, target, limit in (
        (LIST_FILE, CARRIED_LIST, MAX_LIST_BYTES),
        (METADATA_FILE, CARRIED_METADATA, MAX_METADATA_BYTES),
    ):
        content = read_directory_file(fleet_trust, name, limit, hint="sign one with: edgeguard-provision revoke FLEET")
        write_atomic(bundle / target, content)


def identity_of(bundle: Path | str) -> str:
    """Return the identity of a bundle, hex: from its folder, or as it is when it is one already.

    A bundle need not verify to be revoked; only its statement must be readable.
    """
    text = str(bundle)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text
    with DirectoryStorage(Path(bundle)) as storage:
        raw = storage.read_small(SIGNATURE_FILE, MAX_SIGNATURE_BYTES)
    payload = parse_signed(raw, STATEMENT_TYPE, what=SIGNATURE_FILE).payload
    parse_statement(payload)
    return hashlib.sha256(payload).hexdigest()


def _known_list(fleet: Fleet, trust: TrustStore) -> RevocationList | None:
    """Return the list that lies in the fleet's own folder, also when its epoch or its signer is no longer in force."""
    if trust.revocation is not None:
        return trust.revocation
    with suppress(EdgeGuardError):
        content = read_directory_file(fleet.trust_folder, LIST_FILE, MAX_LIST_BYTES, hint=_HINT, optional=True)
        if content is not None:
            return parse_list(content, fleet_id=fleet.fleet_id, expires_ns=0)
    return None
