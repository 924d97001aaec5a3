"""What the providers have in common that hold the private key in this process's memory."""

from __future__ import annotations

from edgeguard.harden.memory import SecretBuffer, wipe_bytes
from edgeguard.keys.context import derive_message, hkdf_sha256
from edgeguard.keys.hpke_provider import HpkeKeyProvider
from edgeguard.keys.private_key import DevicePrivateKey


class SoftwareKeyProvider(HpkeKeyProvider):
    """KeyProvider on a `DevicePrivateKey`. key_class: how well its material is kept."""

    def __init__(self, key: DevicePrivateKey, key_class: str) -> None:
        super().__init__(key.public(), key_class)
        self._private_key = key

    def derive_secret(self, label: str) -> SecretBuffer:
        """See `KeyProvider`. HKDF-SHA-256 over the private key, bound to the label."""
        secret = self._private_key.secret_bytes()
        derived = hkdf_sha256(secret, derive_message(label))
        wipe_bytes(secret)
        try:
            return SecretBuffer.copy_of(derived)
        finally:
            wipe_bytes(derived)

    def _open(self, sealed: bytes, info: bytes) -> bytes:
        return self._private_key.open(sealed, info)

    def _agree(self, point: bytes) -> bytes:
        return self._private_key.agree(point)
