"""`edgeguard-provision resign`: sign the same payload bytes again with the release keys in force.

The first step of a compromise drill: identity, wraps and payload stay as they are, so devices keep what they have
installed, and the key that is to be revoked is no longer needed. docs/formats/revocation.md section 2.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgeguard.bundle.dsse import STATEMENT_TYPE
from edgeguard.bundle.signature import MAX_SIGNATURE_BYTES, SIGNATURE_FILE, parse_signed
from edgeguard.bundle.statement import parse_statement
from edgeguard.bundle.storage import DirectoryStorage
from edgeguard.bundle.verify import verify_bundle
from edgeguard.errors import ProvisioningError
from firmware_tools.files import write_atomic
from firmware_tools.fleet import Fleet
from firmware_tools.pack import signature_files
from firmware_tools.revoke import put_list_into


def resign(fleet: Fleet, bundle: Path | str, *, wall_ns: int) -> str:
    """Replace the signatures of a bundle of this fleet; return its identity, hex, which does not change.

    Only a statement that this folder itself packed is signed: its CEK rests here under the statement's identity. A
    bundle whose signer has been rotated or stolen therefore cannot smuggle in a statement of the thief's.

    Raises:
        ProvisioningError: EG-P005 keys missing, EG-P051 not packed here. ModelError: the result does not verify.
    """
    folder = Path(bundle)
    with DirectoryStorage(folder) as storage:
        raw = storage.read_small(SIGNATURE_FILE, MAX_SIGNATURE_BYTES)
    payload = parse_signed(raw, STATEMENT_TYPE, what=SIGNATURE_FILE).payload
    statement = parse_statement(payload)
    identity = hashlib.sha256(payload).digest()
    wrap = fleet.cek_wrap(identity)
    if statement.policy.fleet_id != fleet.fleet_id or not wrap.is_file():
        raise ProvisioningError(
            f"{folder} was not packed by this fleet folder and is not signed",
            code="EG-P051",
            hint="sign in the folder that packed it, or pack the model again",
        )
    trust = fleet.trust(wall_ns)
    for name, content in signature_files(fleet, trust, payload).items():
        write_atomic(folder / name, content)
    if trust.revocation is not None:
        put_list_into(fleet.trust_folder, folder)
    verify_bundle(folder, trust, expect_model=statement.policy.model_id, wall_ns=wall_ns)
    return identity.hex()
