"""TUF metadata of a fleet: root, targets with delegations, and what delegated roles sign. docs/formats/trust.md"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives import serialization
from securesystemslib.signer import CryptoSigner, Key, Signature, SSlibKey  # type: ignore[attr-defined] # documented re-export
from securesystemslib.signer import Signer as TufSigner  # type: ignore[attr-defined] # documented re-export
from tuf.api.metadata import (  # type: ignore[attr-defined] # documented re-exports
    DelegatedRole,
    Delegations,
    Metadata,
    Role,
    Root,
    Signed,
    TargetFile,
    Targets,
)

from edgeguard.errors import ProvisioningError
from edgeguard.trust.metadata import DELEGATED_PATHS, TOP_ROLES
from edgeguard.trust.revocation import LIST_TARGET
from firmware_tools.signer import FileSigner, Signer


def root_metadata(
    signers: Mapping[str, Sequence[Signer]], thresholds: Mapping[str, int], expires: datetime, version: int = 1
) -> bytes:
    """Return root metadata, signed by all its root keys. thresholds: signatures per role, all families together."""
    keys: dict[str, Any] = {}
    roles: dict[str, Role] = {}
    for name in TOP_ROLES:
        tuf_keys = [tuf_key(s) for s in signers[name]]
        keys |= {k.keyid: k for k in tuf_keys}
        roles[name] = Role([k.keyid for k in tuf_keys], thresholds[name])
    return signed_metadata(Root(version=version, expires=expires, keys=keys, roles=roles), signers["root"])


def targets_metadata(
    signers: Mapping[str, Sequence[Signer]],
    thresholds: Mapping[str, int],
    policy: bytes,
    expires: datetime,
    version: int = 1,
) -> bytes:
    """Return top-level targets: lists the policy, delegates every role that has keys, signed by all its keys."""
    keys: dict[str, Any] = {}
    roles: dict[str, DelegatedRole] = {}
    for name, paths in DELEGATED_PATHS.items():
        if name not in signers:
            continue
        tuf_keys = [tuf_key(s) for s in signers[name]]
        keys |= {k.keyid: k for k in tuf_keys}
        roles[name] = DelegatedRole(
            name, [k.keyid for k in tuf_keys], thresholds[name], terminating=True, paths=[paths]
        )
    target = TargetFile(len(policy), {"sha256": hashlib.sha256(policy).hexdigest()}, "policy.json")
    targets = Targets(
        version=version, expires=expires, targets={"policy.json": target}, delegations=Delegations(keys, roles)
    )
    return signed_metadata(targets, signers["targets"])


def revocation_metadata(signers: Sequence[Signer], version: int, expires: datetime, content: bytes) -> bytes:
    """Return the metadata of the role `revocation`, which names one list."""
    target = TargetFile(len(content), {"sha256": hashlib.sha256(content).hexdigest()}, LIST_TARGET)
    return signed_metadata(Targets(version=version, expires=expires, targets={LIST_TARGET: target}), signers)


def signed_metadata(signed: Signed, signers: Sequence[Signer]) -> bytes:
    """Return metadata signed by all `signers`; what `TrustStore.verify_delegated` reads, for delegated roles."""
    metadata: Metadata[Any] = Metadata(signed)
    for signer in signers:
        if isinstance(signer, FileSigner):
            metadata.sign(CryptoSigner(signer.private_key), append=True)
        else:
            metadata.sign(_TokenSigner(signer), append=True)
    return metadata.to_bytes()


def tuf_key(signer: Signer) -> Key:
    """Return a signer's public key as TUF metadata lists it."""
    key = serialization.load_der_public_key(signer.public_key().public_der)
    return SSlibKey.from_crypto(key)


class _TokenSigner(TufSigner):
    """A P-256 key on a token as python-tuf signs with it. ML-DSA keys, whose input TUF prefixes, are in files."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._key = tuf_key(signer)

    @property
    def public_key(self) -> Key:
        return self._key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: Callable[[str], str] | None = None
    ) -> _TokenSigner:
        """Refuse: keys on tokens are opened by this package, never by python-tuf from an address."""
        del priv_key_uri, public_key, secrets_handler  # python-tuf's signature
        raise ProvisioningError("a signing key is not opened through its TUF address", code="EG-P004")

    def sign(self, payload: bytes) -> Signature:
        return Signature(self._key.keyid, self._signer.sign(payload).hex())
