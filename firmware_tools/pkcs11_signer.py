"""A signing key of a fleet on a PKCS#11 token: for release keys in daily use, and for offline keys in a safe.

The token gets a digest, never the file, so what is signed must have been parsed and shown before (`Signer`). Every
signature is checked with the public key before it leaves this module: a token that errs, or is made to, gives none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from edgeguard.errors import EdgeGuardError, KeyUnavailableError, SignatureError
from edgeguard.keys.pkcs11 import (
    generate_p256,
    private_objects,
    public_points,
    require_attributes,
    require_free_label,
)
from edgeguard.keys.pkcs11_uri import Pkcs11Uri
from edgeguard.keys.token_link import TokenLink
from edgeguard.trust.role_keys import RoleKey, role_key

# What a signer signs to find its public key. Envelopes start with "DSSEv1 " and metadata with "{": this is neither.
SELF_TEST: Final = b"edgeguard/v1/signer-self-test"
_COORDINATE_BYTES = 32


class Pkcs11Signer:
    """`Signer` on a token.

    Args:
        uri: where the key is.
        pin: gives the PIN; called only where this process has not logged in yet.

    Raises:
        KeyUnavailableError: EG-K001 no such key; EG-K015 it may leave the token, or has no public key there; and as
            `TokenLink`.
        EnvironmentMissingError: as `TokenLink`.
    """

    def __init__(self, uri: Pkcs11Uri, pin: Callable[[], bytes]) -> None:
        self.uri = uri
        self._link = TokenLink(uri, pin)
        try:
            p11 = self._link.pkcs11
            with self._link.use() as session:
                found = private_objects(p11, session, uri.object, p11.ObjectClass.PRIVATE_KEY)
                if len(found) != 1:
                    raise KeyUnavailableError(
                        f"the token holds {len(found) or 'no'} private keys {uri.object!a}", code="EG-K001",
                        hint="make one with: edgeguard-provision token-key ADDRESS",
                    )  # fmt: skip
                # LOCAL is not asked for: a key ceremony may have made the key elsewhere and split its backup.
                require_attributes(p11, found[0], {"SIGN": True, "TOKEN": True})
                self._key = found[0]
                self._public = self._matching(public_points(p11, session, uri.object))
        except EdgeGuardError:
            self._link.close()
            raise

    @classmethod
    def generate(cls, uri: Pkcs11Uri, pin: Callable[[], bytes]) -> Pkcs11Signer:
        """Make a P-256 signing key on the token, under a label that no private key of it has yet."""
        with TokenLink(uri, pin) as link:
            p11 = link.pkcs11
            with link.writing() as session:
                require_free_label(p11, session, uri.object, p11.ObjectClass.PRIVATE_KEY)
                generate_p256(p11, session, uri.object, p11.MechanismFlag.SIGN)
            return cls(uri, pin)

    def public_key(self) -> RoleKey:
        """See `Signer`."""
        return role_key(self._public)

    def public_pem(self) -> bytes:
        """Return the public key as PEM."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._public.public_bytes(serialization.Encoding.PEM, form)

    def sign(self, message: bytes) -> bytes:
        """See `Signer`.

        Raises:
            KeyUnavailableError: as `TokenLink`; EG-K019, the token's signature does not verify.
        """
        with self._link.use():
            signature = self._raw(message)
        with suppress(SignatureError):
            self.public_key().verify(signature, message)
            return signature
        raise KeyUnavailableError(
            "the token made a signature that does not verify, and it is not used", code="EG-K019",
            hint="check the token; a key that signs wrongly may be giving itself away",
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the token."""
        self._link.close()

    def _raw(self, message: bytes) -> bytes:
        # CKM_ECDSA on a digest: SoftHSM 2.6 and older smart cards have no CKM_ECDSA_SHA256.
        raw = self._key.sign(hashlib.sha256(message).digest(), mechanism=self._link.pkcs11.Mechanism.ECDSA)
        halves = raw[:_COORDINATE_BYTES], raw[_COORDINATE_BYTES:]
        return encode_dss_signature(*(int.from_bytes(half, "big") for half in halves))

    def _matching(self, candidates: list[EllipticCurvePublicKey]) -> EllipticCurvePublicKey:
        signature = self._raw(SELF_TEST)
        for key in candidates:
            with suppress(SignatureError):
                role_key(key).verify(signature, SELF_TEST)
                return key
        raise KeyUnavailableError(
            f"the token holds no public key {self.uri.object!a} that fits its private one", code="EG-K015",
            hint="make one with: edgeguard-provision token-key ADDRESS",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Pkcs11Signer {self.uri.object!a}>"
