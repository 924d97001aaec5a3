"""Signing keys of a fleet: P-256 and ML-DSA-65 in files, P-256 on tokens, behind the same calls."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

from edgeguard.errors import EnvironmentMissingError, ProvisioningError
from edgeguard.keys.open_key import pin_reader
from edgeguard.keys.pkcs11_uri import SCHEME, parse_pkcs11_uri
from edgeguard.keys.private_file import passphrase_for, read_private_file, write_private_file
from edgeguard.keys.secret_source import Ask
from edgeguard.trust.role_keys import SCHEME_P256, RoleKey, role_key
from firmware_tools.pkcs11_signer import Pkcs11Signer

ADDRESS_SUFFIX: Final = ".uri"

SigningKey = EllipticCurvePrivateKey | MLDSA65PrivateKey


class Signer(Protocol):
    """Somebody who can sign for a role; what is signed was parsed and shown before."""

    def public_key(self) -> RoleKey:
        """Return the public key."""
        ...

    def public_pem(self) -> bytes:
        """Return the public key as PEM, what `model_signing verify key --public_key` takes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return ECDSA P-256 with SHA-256 in DER, or plain ML-DSA-65, as the key's scheme says."""
        ...


class FileSigner:
    """A signing key in a PKCS#8 PEM file of mode 0600."""

    def __init__(self, path: Path, passphrase: bytes | None = None) -> None:
        """Read the key.

        Raises:
            KeyUnavailableError: EG-K001, EG-K002. ProvisioningError: EG-P004, not a signing key, or wrong passphrase.
        """
        pem = read_private_file(path)
        key: object = None
        with suppress(Exception):  # OpenSSL raises whatever it likes on hostile PEM; no key is the one outcome
            key = serialization.load_pem_private_key(pem, passphrase_for(pem, passphrase))
        p256 = isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)
        if not isinstance(key, SigningKey) or not (p256 or isinstance(key, MLDSA65PrivateKey)):
            raise ProvisioningError(
                f"{path} holds no P-256 or ML-DSA-65 signing key that can be read",
                code="EG-P004",
                hint="check the passphrase",
            )
        self.private_key: SigningKey = key

    @classmethod
    def generate(cls, path: Path, scheme: str = SCHEME_P256, passphrase: bytes | None = None) -> FileSigner:
        """Create a new key in a new file; an existing file is never overwritten.

        Raises:
            EnvironmentMissingError: EG-E012, this build of cryptography has no ML-DSA.
        """
        key: SigningKey | None = None
        with suppress(UnsupportedAlgorithm):
            key = generate_private_key(SECP256R1()) if scheme == SCHEME_P256 else MLDSA65PrivateKey.generate()
        if key is None:
            raise EnvironmentMissingError(
                "this build of the cryptography package has no ML-DSA",
                code="EG-E012",
                hint="install the package from PyPI, which brings its own OpenSSL",
            )
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase)
        form = serialization.PrivateFormat.PKCS8
        write_private_file(path, key.private_bytes(serialization.Encoding.PEM, form, encryption))
        return cls(path, passphrase)

    def public_key(self) -> RoleKey:
        return role_key(self.private_key.public_key())

    def public_pem(self) -> bytes:
        """See `Signer`."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private_key.public_key().public_bytes(serialization.Encoding.PEM, form)

    def sign(self, message: bytes) -> bytes:
        if isinstance(self.private_key, MLDSA65PrivateKey):
            return self.private_key.sign(message)
        return self.private_key.sign(message, ECDSA(hashes.SHA256()))


def open_signer(where: Path | str, passphrase: bytes | None = None, ask: Ask | None = None) -> Signer:
    """Return the signer behind a key file, a `.uri` file that holds a token's address, or such an address itself.

    Raises:
        ProvisioningError: EG-P004. ConfigError: EG-C060, no token address. KeyUnavailableError,
            EnvironmentMissingError: as the key file or the token says.
    """
    address = where if isinstance(where, str) and where.startswith(SCHEME) else ""
    if Path(where).suffix == ADDRESS_SUFFIX and not address:
        address = read_private_file(Path(where)).decode("utf-8", "replace").strip()
        parse_pkcs11_uri(address)
    return open_token_signer(address, ask) if address else FileSigner(Path(where), passphrase)


def open_token_signer(address: str, ask: Ask | None = None, *, new: bool = False) -> Pkcs11Signer:
    """Return the signer at a token's address. new: make its key first.

    Raises:
        ConfigError: EG-C060. KeyUnavailableError, EnvironmentMissingError: as `Pkcs11Signer`.
    """
    uri = parse_pkcs11_uri(address)
    pin = pin_reader(uri.pin_source, uri.token or uri.serial, ask)
    return Pkcs11Signer.generate(uri, pin) if new else Pkcs11Signer(uri, pin)
