"""Signing keys of a fleet: P-256 in files today, a token behind the same two calls later."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)

from edgeguard.errors import ProvisioningError
from edgeguard.keys.file import read_private_file, write_private_file
from edgeguard.trust.role_keys import RoleKey, role_key


class Signer(Protocol):
    """Somebody who can sign for a role; what is signed was parsed and shown before."""

    def public_key(self) -> RoleKey:
        """Return the public key."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return an ECDSA P-256 signature with SHA-256, DER."""
        ...


class FileSigner:
    """A signing key in a PKCS#8 PEM file of mode 0600."""

    def __init__(self, path: Path) -> None:
        """Read the key.

        Raises:
            KeyUnavailableError: EG-K001, EG-K002. ProvisioningError: EG-P004, not a P-256 key.
        """
        pem = read_private_file(path)
        key: object = None
        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
            raise ProvisioningError(f"{path} holds no P-256 signing key", code="EG-P004")
        self.private_key = key

    @classmethod
    def generate(cls, path: Path) -> FileSigner:
        """Create a new key in a new file; an existing file is never overwritten."""
        key = generate_private_key(SECP256R1())
        form = serialization.PrivateFormat.PKCS8
        write_private_file(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return cls(path)

    def public_key(self) -> RoleKey:
        return role_key(self.private_key.public_key())

    def public_pem(self) -> bytes:
        """Return the public key as PEM, what `model_signing verify key --public_key` takes."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private_key.public_key().public_bytes(serialization.Encoding.PEM, form)

    def sign(self, message: bytes) -> bytes:
        return self.private_key.sign(message, ECDSA(hashes.SHA256()))
