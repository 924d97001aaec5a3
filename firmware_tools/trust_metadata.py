"""First TUF metadata of a fleet: root, targets with delegations, signed policy. docs/formats/trust.md"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined] # documented re-export
from tuf.api.metadata import (  # type: ignore[attr-defined] # documented re-exports
    DelegatedRole,
    Delegations,
    Metadata,
    Role,
    Root,
    TargetFile,
    Targets,
)

from edgeguard.trust.store import DELEGATED_PATHS
from firmware_tools.signer import FileSigner


def root_metadata(
    signers: Mapping[str, Sequence[FileSigner]], thresholds: Mapping[str, int], expires: datetime
) -> bytes:
    """Return root version 1, signed by all its root keys."""
    keys: dict[str, Any] = {}
    roles: dict[str, Role] = {}
    for name in ("root", "targets", "snapshot", "timestamp"):
        tuf_signers = [CryptoSigner(s.private_key) for s in signers[name]]
        keys |= {s.public_key.keyid: s.public_key for s in tuf_signers}
        roles[name] = Role([s.public_key.keyid for s in tuf_signers], thresholds.get(name, 1))
    return _signed(Metadata(Root(version=1, expires=expires, keys=keys, roles=roles)), signers["root"])


def targets_metadata(
    signers: Mapping[str, Sequence[FileSigner]],
    thresholds: Mapping[str, int],
    policy: bytes,
    expires: datetime,
    version: int = 1,
) -> bytes:
    """Return top-level targets: lists the policy, delegates `release` and `enrol`, signed by all its keys."""
    keys: dict[str, Any] = {}
    roles: dict[str, DelegatedRole] = {}
    for name, paths in DELEGATED_PATHS.items():
        tuf_keys = [CryptoSigner(s.private_key).public_key for s in signers[name]]
        keys |= {k.keyid: k for k in tuf_keys}
        roles[name] = DelegatedRole(
            name, [k.keyid for k in tuf_keys], thresholds.get(name, 1), terminating=True, paths=[paths]
        )
    target = TargetFile(len(policy), {"sha256": hashlib.sha256(policy).hexdigest()}, "policy.json")
    targets = Targets(
        version=version, expires=expires, targets={"policy.json": target}, delegations=Delegations(keys, roles)
    )
    return _signed(Metadata(targets), signers["targets"])


def _signed(metadata: Metadata[Any], signers: Sequence[FileSigner]) -> bytes:
    for signer in signers:
        metadata.sign(CryptoSigner(signer.private_key), append=True)
    return metadata.to_bytes()
