"""Public keys of roles: P-256 today, one scheme per key, one id per key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from securesystemslib.signer import Key  # type: ignore[attr-defined] # documented re-export

from edgeguard.errors import SignatureError, TrustError
from edgeguard.trust.policy import SCHEME_P256

MAX_KEYS_PER_ROLE = 16


@dataclass(frozen=True, slots=True)
class RoleKey:
    """A key of a role. `keyid` is the SHA-256 of its PEM text, as in OMS signatures; `public_der` identifies it."""

    keyid: str
    scheme: str
    public_der: bytes

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check ECDSA P-256 with SHA-256, DER.

        Raises:
            SignatureError: EG-S002.
        """
        key = serialization.load_der_public_key(self.public_der)
        correct = False
        if isinstance(key, EllipticCurvePublicKey):
            try:
                key.verify(signature, message, ECDSA(hashes.SHA256()))
                correct = True
            except InvalidSignature:
                correct = False
        if not correct:
            raise SignatureError("the signature does not verify", code="EG-S002")


def role_key(public_key: EllipticCurvePublicKey) -> RoleKey:
    """Return the value for a P-256 public key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = public_key.public_bytes(serialization.Encoding.PEM, form)
    return RoleKey(
        keyid=hashlib.sha256(pem).hexdigest(),
        scheme=SCHEME_P256,
        public_der=public_key.public_bytes(serialization.Encoding.DER, form),
    )


def keys_of_role(role: str, keyids: Sequence[str], keys: Mapping[str, Key]) -> tuple[RoleKey, ...]:
    """Return the typed keys of a role of TUF metadata.

    Raises:
        TrustError: EG-T005, a key is missing, of another type, or there are too many.
    """
    if len(keyids) > MAX_KEYS_PER_ROLE:
        raise TrustError(f"{role} has more than {MAX_KEYS_PER_ROLE} keys", code="EG-T005")
    return tuple(_typed(role, keys.get(keyid)) for keyid in keyids)


def _typed(role: str, key: Key | None) -> RoleKey:
    public: object = None
    if key is not None and key.keytype == "ecdsa" and key.scheme == SCHEME_P256:
        try:
            public = serialization.load_pem_public_key(str(key.keyval.get("public", "")).encode())
        except Exception:  # hostile PEM: whatever the library raises is one refusal
            public = None
    if not isinstance(public, EllipticCurvePublicKey) or not isinstance(public.curve, SECP256R1):
        raise TrustError(f"{role} names a key that is not a P-256 key", code="EG-T005")
    return role_key(public)
