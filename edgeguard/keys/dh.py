"""A device key that never leaves its chip: the chip does one Diffie-Hellman, everything else happens here.

TPM 2.0 and PKCS#11 backends implement `DhKey` and are done.
"""

from __future__ import annotations

from contextlib import suppress
from types import MappingProxyType
from typing import Protocol

from cryptography.exceptions import InvalidTag

from edgeguard.errors import KeyUnavailableError
from edgeguard.harden.memory import SecretBuffer, wipe_bytes
from edgeguard.keys import hpke
from edgeguard.keys.context import ENC_BYTES, SUITE_P256, SUITE_X25519
from edgeguard.keys.hpke_provider import HpkeKeyProvider
from edgeguard.keys.public_key import parse_public_key

_KEMS = MappingProxyType({SUITE_X25519: hpke.X25519, SUITE_P256: hpke.P256})


class DhKey(Protocol):
    """A private key in a chip."""

    @property
    def key_class(self) -> str:
        """`device-bound` or `hardware`."""
        ...

    def public_key(self) -> bytes:
        """Return the public key, X25519 or P-256, as DER SubjectPublicKeyInfo."""
        ...

    def ecdh(self, point: bytes) -> bytes:
        """Return the Diffie-Hellman value (32 bytes; the x coordinate for P-256) with a validated point.

        It is zeroed after use, so it must be an object of its own.

        Raises:
            EdgeGuardError: the chip is not there or refuses. ValueError: it does not take the point.
        """
        ...

    def derive_secret(self, label: str) -> SecretBuffer:
        """Return 32 secret bytes from a key in the chip other than the one that `ecdh` uses."""
        ...


class DhKeyProvider(HpkeKeyProvider):
    """KeyProvider on a chip that computes Diffie-Hellman."""

    def __init__(self, key: DhKey) -> None:
        """Take a chip's key.

        Raises:
            KeyUnavailableError: EG-K001, it is neither X25519 nor P-256; EG-K006.
        """
        public = parse_public_key(key.public_key())
        if public.suite not in _KEMS:
            raise KeyUnavailableError("the key in the chip is neither X25519 nor P-256", code="EG-K001")
        super().__init__(public, key.key_class)
        self._key = key
        self._kem = _KEMS[public.suite]

    def derive_secret(self, label: str) -> SecretBuffer:
        """See `KeyProvider`."""
        return self._key.derive_secret(label)

    def _agree(self, point: bytes) -> bytes:
        with suppress(ValueError):
            hpke.require_point(self._kem, point)
            shared = self._key.ecdh(point)
            hpke.require_shared(shared)
            return shared
        return b""

    def _open(self, sealed: bytes, info: bytes) -> bytes:
        enc = sealed[: ENC_BYTES[self.suite]]
        shared = self._agree(enc)
        if not shared:
            return b""
        try:
            return hpke.open_base(
                self._kem,
                hpke.AES_256_GCM,
                dh=shared,
                enc=enc,
                public_point=self._public.point,
                info=info,
                sealed=sealed[len(enc) :],
            )
        except InvalidTag:
            return b""
        finally:
            wipe_bytes(shared)
