"""The device's private key as the rest of EdgeGuard sees it.

* `open_wrap` takes a *verified* statement and builds HPKE `info` itself, so that a caller cannot turn the key into an
  oracle for a statement nobody signed; anything else is a TypeError.
* `derive_secret` needs the private key. Secrets that authenticate local state never come from something wrapped to a
  public key, because everybody has that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from edgeguard.harden.memory import SecretBuffer

# Only the signature verifier passes this; see VerifiedStatement.
PROVEN: Final = object()


@dataclass(frozen=True, slots=True)
class VerifiedStatement:
    """A statement whose signatures, fleet and policy have been checked. Made by `edgeguard.bundle` alone.

    identity: SHA-256 of the signed payload bytes (32 bytes). counter, min_revocation_version: (epoch, number).
    boards: empty means any.
    valid_from_ns, expires_ns: nanoseconds since 1970 UTC. signers: key ids that signed.
    """

    identity: bytes
    bundle_id: str
    fleet_id: str
    model_id: str
    release: str
    channel: str
    boards: tuple[str, ...]
    counter: tuple[int, int]
    min_revocation_version: tuple[int, int]
    confidentiality: str
    min_key_class: str
    valid_from_ns: int
    expires_ns: int
    signers: tuple[str, ...]
    proof: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.proof is not PROVEN:
            raise TypeError("a VerifiedStatement comes out of the verifier and is not made by hand")


class KeyProvider(Protocol):
    """Where a device's private key lives: a file, a TPM, a token. The key never leaves it."""

    @property
    def kid(self) -> str:
        """Name of the key inside bundles; see `kid_of`."""
        ...

    @property
    def suite(self) -> str:
        """HPKE suite that this key opens."""
        ...

    @property
    def key_class(self) -> str:
        """How well the key is kept: `file`, `device-bound` or `hardware`."""
        ...

    def public_key(self) -> bytes:
        """Return the public key as DER SubjectPublicKeyInfo."""
        ...

    def open_wrap(self, statement: VerifiedStatement, wrap: bytes) -> SecretBuffer:
        """Return the CEK of a bundle.

        Raises:
            DecryptionError: the wrap is not for this key, statement, fleet and model.
            KeyUnavailableError: the statement asks for a stronger suite (EG-K004) or key class (EG-K005).
            TypeError: `statement` did not come out of the verifier.
        """
        ...

    def derive_secret(self, label: str) -> SecretBuffer:
        """Return 32 secret bytes that only this key gives; one label, one purpose."""
        ...


class EnrollingKey(KeyProvider, Protocol):
    """A key that can also show its fleet that somebody holds the private part."""

    def prove_possession(self, fleet_key: bytes, message: bytes) -> bytes:
        """Return a MAC over `message` under a key agreed with `fleet_key`, a point of the same curve (RFC 6955)."""
        ...

    def answer_challenge(self, fleet_id: str, request_digest: bytes, sealed: bytes) -> bytes:
        """Return 32 bytes that show that the whole key, also its post-quantum half, opened what the fleet sealed."""
        ...
