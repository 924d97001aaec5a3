"""Private keys of devices in files: PKCS#8 PEM, encrypted where a passphrase is given. docs/formats/fleet.md section 1.

A hybrid key is two PKCS#8 blocks in one file, ML-KEM-768 (as its seed) and then X25519: each is read by any tool that
knows PKCS#8, each is encrypted in the standard way.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from edgeguard.errors import EnvironmentMissingError
from edgeguard.keys.context import SUITE_HYBRID, SUITE_P256, SUITE_X25519
from edgeguard.keys.private_file import passphrase_for
from edgeguard.keys.public_key import DevicePublicKey, hpke_suite, of_hybrid, of_p256, of_x25519

_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]{1,32})-----.*?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DevicePrivateKey:
    """A device's private key in memory. mlkem: the post-quantum half of a hybrid key, else None."""

    dh: X25519PrivateKey | EllipticCurvePrivateKey = field(repr=False)
    mlkem: MLKEM768PrivateKey | None = field(default=None, repr=False)

    def public(self) -> DevicePublicKey:
        """Return the public key."""
        if isinstance(self.dh, EllipticCurvePrivateKey):
            return of_p256(self.dh.public_key())
        if self.mlkem is None:
            return of_x25519(self.dh.public_key())
        return of_hybrid(self.mlkem.public_key(), self.dh.public_key())

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Return the plaintext of HPKE base mode, or b"" where it does not open."""
        with suppress(InvalidTag, ValueError):
            if isinstance(self.dh, EllipticCurvePrivateKey):
                return hpke_suite(SUITE_P256).decrypt(sealed, self.dh, info=info)
            if self.mlkem is None:
                return hpke_suite(SUITE_X25519).decrypt(sealed, self.dh, info=info)
            return hpke_suite(SUITE_HYBRID).decrypt(sealed, MLKEM768X25519PrivateKey(self.mlkem, self.dh), info=info)
        return b""

    def agree(self, point: bytes) -> bytes:
        """Return the Diffie-Hellman value with a point, or b"" where that is no usable point."""
        with suppress(ValueError):
            if isinstance(self.dh, EllipticCurvePrivateKey):
                if len(point) != 65:  # uncompressed: a point has one spelling
                    return b""
                return self.dh.exchange(ECDH(), EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point))
            return self.dh.exchange(X25519PublicKey.from_public_bytes(point))
        return b""

    def secret_bytes(self) -> bytes:
        """Return what only the holder of the whole key knows, for key derivation."""
        if isinstance(self.dh, EllipticCurvePrivateKey):
            return self.dh.private_numbers().private_value.to_bytes(32, "big")
        seed = b"" if self.mlkem is None else self.mlkem.private_bytes_raw()
        return seed + self.dh.private_bytes_raw()

    def to_pem(self, passphrase: bytes | None) -> bytes:
        """Return the content of the key file."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase)
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        first = b"" if self.mlkem is None else self.mlkem.private_bytes(encoding, form, encryption)
        return first + self.dh.private_bytes(encoding, form, encryption)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not copied or pickled")


def generate(suite: str) -> DevicePrivateKey:
    """Return a new key for a suite.

    Raises:
        EnvironmentMissingError: EG-E012, this build of cryptography has no ML-KEM.
    """
    with suppress(UnsupportedAlgorithm):
        if suite == SUITE_P256:
            return DevicePrivateKey(generate_private_key(SECP256R1()))
        mlkem = MLKEM768PrivateKey.generate() if suite == SUITE_HYBRID else None
        return DevicePrivateKey(X25519PrivateKey.generate(), mlkem)
    raise EnvironmentMissingError(
        "this build of the cryptography package has no ML-KEM",
        code="EG-E012",
        hint="install the package from PyPI, which brings its own OpenSSL",
    )


def parse(pem: bytes, passphrase: bytes | None) -> DevicePrivateKey | None:
    """Return the key of a key file, or None where it holds none that can be read."""
    blocks = [match[0] for match in _PEM_BLOCK.finditer(pem)]
    keys: list[object] = []
    with suppress(Exception):  # OpenSSL raises whatever it likes on hostile PEM; no key is the one outcome
        keys = [serialization.load_pem_private_key(block, passphrase_for(block, passphrase)) for block in blocks[:3]]
    match keys:
        case [X25519PrivateKey() as x25519]:
            return DevicePrivateKey(x25519)
        case [EllipticCurvePrivateKey() as p256] if isinstance(p256.curve, SECP256R1):
            return DevicePrivateKey(p256)
        case [MLKEM768PrivateKey() as mlkem, X25519PrivateKey() as x25519]:
            return DevicePrivateKey(x25519, mlkem)
    return None
