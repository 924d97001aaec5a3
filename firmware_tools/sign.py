"""Signing what somebody else packed: the same bytes, one more key. docs/formats/bundle.md section 2.

A signer needs the bundle, the fleet's trust folder and a key, and sees the statement, parsed, before anything is
signed: whoever signs a digest blindly has given the key away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from edgeguard.bundle.dsse import STATEMENT_TYPE, pae
from edgeguard.bundle.signature import (
    MAX_SIGNATURE_BYTES,
    SIGNATURE_FILE,
    SIGNATURES_FOLDER,
    encode_signed,
    parse_signed,
)
from edgeguard.bundle.storage import DirectoryStorage
from edgeguard.bundle.verify import verify_bundle
from edgeguard.errors import ProvisioningError, SignatureError
from edgeguard.keys.provider import VerifiedStatement
from edgeguard.trust.role_keys import SCHEME_P256, KeyGroup
from edgeguard.trust.store import RELEASE, KeySignature, TrustStore
from firmware_tools.files import write_atomic
from firmware_tools.signer import Signer


@dataclass(frozen=True, slots=True)
class Missing:
    """Signatures that devices still wait for."""

    role: str
    scheme: str
    count: int


@dataclass(frozen=True, slots=True)
class SignedBundle:
    """What `add_signature` did. missing: empty when devices accept the bundle."""

    identity: str
    keyid: str
    path: Path
    missing: tuple[Missing, ...]


def add_signature(
    bundle: Path | str,
    trust: TrustStore,
    signer: Signer,
    *,
    confirm: Callable[[VerifiedStatement], bool],
    wall_ns: int,
) -> SignedBundle:
    """Add one release signature over the same payload bytes to a bundle.

    Everything but the number of signatures is verified first, as a device would: model.sig by a release key, policy,
    manifest and every digest.

    Args:
        confirm: shown the statement, says whether this is what the signer means to release.

    Raises:
        ModelError: the bundle does not verify. ProvisioningError: EG-P030 cannot write, EG-P060 the key is no release
            key of this fleet, EG-P061 not confirmed.
    """
    folder = Path(bundle)
    key = signer.public_key()
    if trust.key(RELEASE, key.keyid) != key:
        raise ProvisioningError(
            "the key is no release key of this fleet",
            code="EG-P060",
            hint="use a release or release-pq key that targets.json names, and the fleet's newest trust folder",
        )
    statement = verify_bundle(folder, one_signature_enough(trust), wall_ns=wall_ns).statement
    payload = _payload(folder)
    identity = hashlib.sha256(payload).digest()
    if identity != statement.identity:
        raise SignatureError("the bundle changed while it was read", code="EG-S003")
    if not confirm(statement):
        raise ProvisioningError("the release was not confirmed and nothing was signed", code="EG-P061")
    path = folder / SIGNATURES_FOLDER / f"{key.keyid}.sig"
    if key.keyid in statement.signers and key.scheme == SCHEME_P256:
        path = folder / SIGNATURE_FILE
    else:
        message = pae(STATEMENT_TYPE, payload)
        write_atomic(path, encode_signed(payload, STATEMENT_TYPE, key.keyid, signer.sign(message)))
    return SignedBundle(identity.hex(), key.keyid, path, missing_signatures(folder, trust))


def missing_signatures(bundle: Path | str, trust: TrustStore) -> tuple[Missing, ...]:
    """Return which groups of release keys have not yet signed a bundle often enough; a wrong signature does not count.

    Raises:
        BundleFormatError: model.sig cannot be read.
    """
    folder = Path(bundle)
    payload = _payload(folder)
    found = []
    with DirectoryStorage(folder) as storage:
        for group in trust.groups[RELEASE]:
            signed = sum(_has_signed(storage, trust, key.keyid, payload) for key in group.keys)
            if signed < group.threshold:
                found.append(Missing(group.role, group.scheme, group.threshold - signed))
    return tuple(found)


def one_signature_enough(trust: TrustStore) -> TrustStore:
    """Return the same trust for looking at a bundle that is still being signed; never for opening one."""
    classical = [g for g in trust.groups[RELEASE] if g.scheme == SCHEME_P256]
    relaxed = tuple(KeyGroup(g.role, g.scheme, g.keys, 1) for g in classical)
    return replace(trust, groups=MappingProxyType({**trust.groups, RELEASE: relaxed}))


def _payload(folder: Path) -> bytes:
    with DirectoryStorage(folder) as storage:
        raw = storage.read_small(SIGNATURE_FILE, MAX_SIGNATURE_BYTES)
    return parse_signed(raw, STATEMENT_TYPE, what=SIGNATURE_FILE).payload


def _has_signed(storage: DirectoryStorage, trust: TrustStore, keyid: str, payload: bytes) -> bool:
    for name in (SIGNATURE_FILE, f"{SIGNATURES_FOLDER}/{keyid}.sig"):
        raw = storage.read_optional(name, MAX_SIGNATURE_BYTES)
        key = trust.key(RELEASE, keyid)
        if raw is None or key is None:
            continue
        signed = parse_signed(raw, STATEMENT_TYPE, what=name)
        claimed: KeySignature = signed.claimed
        if claimed.keyid != keyid or signed.payload != payload:
            continue
        try:
            key.verify(claimed.signature, signed.message)
        except SignatureError:
            continue
        return True
    return False
