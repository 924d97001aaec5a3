"""Public keys of roles: two families, one scheme per key, one id per key. docs/formats/trust.md section 1."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey
from securesystemslib.signer import Key  # type: ignore[attr-defined] # documented re-export

from edgeguard.errors import SignatureError, TrustError

# python-tuf's names. A key of the second scheme signs envelopes with plain ML-DSA-65 (FIPS 204, empty context) and TUF
# metadata with the prefix and hash that TAP 21 prescribes; what is signed differs in its first byte.
SCHEME_P256 = "ecdsa-sha2-nistp256"
SCHEME_MLDSA65 = "ml-dsa-65/1"
SCHEMES = (SCHEME_P256, SCHEME_MLDSA65)
_TUF_KEY_TYPES = {SCHEME_P256: "ecdsa", SCHEME_MLDSA65: "ml-dsa"}

MAX_KEYS_PER_FAMILY = 16  # people who sign; more is an accident

PublicKey = EllipticCurvePublicKey | MLDSA65PublicKey


@dataclass(frozen=True, slots=True)
class RoleKey:
    """A key of a role. `keyid` is the SHA-256 of its PEM text, as in OMS signatures; `public_der` identifies it."""

    keyid: str
    scheme: str
    public_der: bytes

    def verify(self, signature: bytes, message: bytes) -> None:
        """Check a signature over the message itself: ECDSA P-256 with SHA-256 in DER, or ML-DSA-65.

        Raises:
            SignatureError: EG-S002.
        """
        key = _loaded(self.public_der)
        correct = False
        try:
            if isinstance(key, EllipticCurvePublicKey):
                key.verify(signature, message, ECDSA(hashes.SHA256()))
                correct = True
            elif isinstance(key, MLDSA65PublicKey):
                key.verify(signature, message)
                correct = True
        except InvalidSignature:
            correct = False
        if not correct:
            raise SignatureError("the signature does not verify", code="EG-S002")


@dataclass(frozen=True, slots=True)
class KeyGroup:
    """Keys of one family, of which `threshold` distinct ones must sign."""

    role: str
    scheme: str
    keys: tuple[RoleKey, ...]
    threshold: int

    def is_met_by(self, signed: Iterable[bytes]) -> bool:
        """Return whether the keys with these DER forms are enough."""
        return len({k.public_der for k in self.keys} & set(signed)) >= self.threshold


@lru_cache(maxsize=128)
def _loaded(public_der: bytes) -> object:
    """Return the key object of a DER form that has been parsed before; a role's few keys check many signatures."""
    return serialization.load_der_public_key(public_der)


def role_key(public_key: PublicKey) -> RoleKey:
    """Return the value for a public key; the same key in another encoding gives the same value."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = public_key.public_bytes(serialization.Encoding.PEM, form)
    return RoleKey(
        keyid=hashlib.sha256(pem).hexdigest(),
        scheme=SCHEME_P256 if isinstance(public_key, EllipticCurvePublicKey) else SCHEME_MLDSA65,
        public_der=public_key.public_bytes(serialization.Encoding.DER, form),
    )


def groups_of_role(role: str, keyids: Sequence[str], threshold: int, keys: Mapping[str, Key]) -> tuple[KeyGroup, ...]:
    """Return what must sign for a role of TUF metadata.

    A role whose keys are of one family asks for `threshold` of them. Where they are of both, the threshold is even and
    half of it must sign in *each* family, because TUF's own count would let two keys of one family pass for both.

    Raises:
        TrustError: EG-T005, a key is missing, of another type, named twice, or the threshold can never be met.
    """
    typed = [typed_key(role, keys.get(keyid)) for keyid in keyids]
    families = [s for s in SCHEMES if any(k.scheme == s for k in typed)]
    share, odd = divmod(threshold, len(families)) if families else (0, 1)
    if odd:
        raise TrustError(f"the threshold of {role} cannot be shared between its key families", code="EG-T005")
    groups = tuple(KeyGroup(role, s, tuple(k for k in typed if k.scheme == s), share) for s in families)
    for group in groups:
        distinct = {k.public_der for k in group.keys}
        if len(distinct) != len(group.keys):
            raise TrustError(f"a key of {role} is used twice", code="EG-T005")
        if not 1 <= group.threshold <= len(distinct) <= MAX_KEYS_PER_FAMILY:
            raise TrustError(f"{role} asks for signatures that its keys cannot give", code="EG-T005")
    return groups


def typed_key(role: str, key: Key | None) -> RoleKey:
    """Return a key of TUF metadata as the one value it stands for.

    Raises:
        TrustError: EG-T005, missing, or not of a family that this format knows.
    """
    typed: RoleKey | None = None
    if key is not None and _TUF_KEY_TYPES.get(key.scheme) == key.keytype:
        typed = _parsed(str(key.keyval.get("public", "")))
    if typed is None or key is None or typed.scheme != key.scheme:
        raise TrustError(f"{role} names a key that is neither P-256 nor ML-DSA-65", code="EG-T005")
    return typed


@lru_cache(maxsize=256)
def _parsed(pem: str) -> RoleKey | None:
    """Return the key of a PEM text, None where there is none; loading a folder asks for each key several times."""
    public: object = None
    try:
        public = serialization.load_pem_public_key(pem.encode())
    except Exception:  # hostile PEM: whatever the library raises is one refusal
        public = None
    if isinstance(public, MLDSA65PublicKey):
        return role_key(public)
    if isinstance(public, EllipticCurvePublicKey) and isinstance(public.curve, SECP256R1):
        return role_key(public)
    return None
