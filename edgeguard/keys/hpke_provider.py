"""What every HPKE key provider has in common: the checks before a private key is touched, and one message after.

A backend gives two operations, `_open` and `_agree`; neither is reachable except through the three uses below, each of
which builds its own `info` or label. docs/formats/bundle.md section 6, fleet.md section 2.
"""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from typing import Final, NoReturn

from edgeguard.errors import DecryptionError, KeyUnavailableError
from edgeguard.harden.memory import SecretBuffer, wipe_bytes
from edgeguard.keys.context import (
    CEK_BYTES,
    KEY_CLASSES,
    POST_QUANTUM_SUITES,
    WRAP_BYTES,
    challenge_info,
    hkdf_sha256,
    length_prefixed,
    wrap_info,
)
from edgeguard.keys.provider import VerifiedStatement
from edgeguard.keys.public_key import DevicePublicKey

# One message for every failure between the wrap and the last byte, so that failing tells nothing.
DECRYPTION_FAILED = "the model cannot be decrypted for this device"

POP_LABEL: Final = "edgeguard/v1/enrol-pop"
ANSWER_LABEL: Final = "edgeguard/v1/enrol-answer"


class HpkeKeyProvider(ABC):
    """KeyProvider and EnrollingKey on top of a backend's `_open` and `_agree`."""

    def __init__(self, public: DevicePublicKey, key_class: str) -> None:
        self._public = public
        self.key_class = key_class
        self.suite = public.suite
        self.kid = public.kid

    @abstractmethod
    def _open(self, sealed: bytes, info: bytes) -> bytes:
        """Return the plaintext of HPKE base mode, or b"" for whatever reason it does not open.

        What is returned here and by `_agree` is zeroed by the caller, so it must be an object of its own.
        """

    @abstractmethod
    def _agree(self, point: bytes) -> bytes:
        """Return the Diffie-Hellman value with a point, or b"" where that is no usable point."""

    @abstractmethod
    def derive_secret(self, label: str) -> SecretBuffer:
        """See `KeyProvider`."""

    def public_key(self) -> bytes:
        """See `KeyProvider`."""
        return self._public.der

    def open_wrap(self, statement: VerifiedStatement, wrap: bytes) -> SecretBuffer:
        """See `KeyProvider`."""
        if not isinstance(statement, VerifiedStatement):
            raise TypeError("open_wrap takes a VerifiedStatement")
        self._require_admitted(statement)
        info = wrap_info(
            identity=statement.identity,
            fleet_id=statement.fleet_id,
            model_id=statement.model_id,
            kid=self.kid,
            suite=self.suite,
        )
        cek = self._open(wrap, info) if len(wrap) == WRAP_BYTES[self.suite] else b""
        try:
            if len(cek) != CEK_BYTES:
                raise DecryptionError(DECRYPTION_FAILED)
            return SecretBuffer.copy_of(cek)
        finally:
            wipe_bytes(cek)

    def prove_possession(self, fleet_key: bytes, message: bytes) -> bytes:
        """See `EnrollingKey`. Raises KeyUnavailableError (EG-K001) for a fleet key that is no usable point."""
        shared = self._agree(fleet_key)
        if not shared:
            raise KeyUnavailableError("the fleet's enrolment key is not usable", code="EG-K001")
        proof_key = hkdf_sha256(shared, length_prefixed(POP_LABEL))
        wipe_bytes(shared)
        proof = hmac.digest(proof_key, message, "sha256")
        wipe_bytes(proof_key)
        return proof

    def answer_challenge(self, fleet_id: str, request_digest: bytes, sealed: bytes) -> bytes:
        """See `EnrollingKey`. Raises DecryptionError for a challenge that is not for this key and request."""
        info = challenge_info(fleet_id=fleet_id, request_digest=request_digest, kid=self.kid, suite=self.suite)
        nonce = self._open(sealed, info) if len(sealed) == WRAP_BYTES[self.suite] else b""
        if len(nonce) != CEK_BYTES:
            raise DecryptionError("the challenge cannot be answered by this device", code="EG-D000")
        answer = challenge_answer(nonce, fleet_id=fleet_id, request_digest=request_digest, kid=self.kid)
        wipe_bytes(nonce)
        return answer

    def _require_admitted(self, statement: VerifiedStatement) -> None:
        """Refuse what the release keys did not mean for a key like this, even where somebody made a wrap for it."""
        if statement.confidentiality != "classical" and self.suite not in POST_QUANTUM_SUITES:
            raise KeyUnavailableError(
                f"the model asks for {statement.confidentiality} wraps and this key has none",
                code="EG-K004",
                hint="use a device with a post-quantum key, or pack the model as classical",
            )
        if KEY_CLASSES.index(self.key_class) < KEY_CLASSES.index(statement.min_key_class):
            raise KeyUnavailableError(
                f"the model asks for a {statement.min_key_class} key and this is a {self.key_class} key",
                code="EG-K005",
                hint="keep the key of this device in a TPM or token, or pack the model for weaker keys",
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kid}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not copied or pickled")


def challenge_answer(nonce: bytes, *, fleet_id: str, request_digest: bytes, kid: str) -> bytes:
    """Return the answer to an enrolment challenge; the fleet computes it too."""
    message = length_prefixed(ANSWER_LABEL, fleet_id, request_digest, kid)
    return hmac.digest(hkdf_sha256(nonce, length_prefixed(ANSWER_LABEL)), message, "sha256")
