"""A device key in a file: X25519, PKCS#8 PEM, mode 0600. Class `file`: whoever copies the file is the device."""

from __future__ import annotations

import hmac
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from edgeguard.errors import DecryptionError, KeyUnavailableError
from edgeguard.harden.memory import SecretBuffer
from edgeguard.keys.context import (
    CEK_BYTES,
    SUITE_X25519,
    WRAP_BYTES,
    hkdf_sha256,
    kid_of,
    length_prefixed,
    spki_der,
    wrap_info,
)
from edgeguard.keys.provider import VerifiedStatement
from edgeguard.keys.regular_file import open_regular, read_up_to

# One message for every failure between the wrap and the last byte, so that failing tells nothing.
DECRYPTION_FAILED = "the model cannot be decrypted for this device"

MAX_KEY_FILE_BYTES = 4096  # an encrypted X25519 PKCS#8 file is about 400 bytes
LABEL = re.compile(r"\A[a-z][a-z0-9./-]{0,63}\Z")
POP_LABEL = "edgeguard/v1/enrol-pop"


class FileKeyProvider:
    """KeyProvider on a key file."""

    key_class = "file"
    suite = SUITE_X25519

    def __init__(self, path: Path | str, passphrase: bytes | None = None) -> None:
        """Read the key file.

        Raises:
            KeyUnavailableError: EG-K001 missing, unreadable, not X25519 or wrong passphrase; EG-K002 open to others.
        """
        self._private_key = _parse_private_key(Path(path), passphrase)
        self._public_der = spki_der(self._private_key.public_key())
        self.kid = kid_of(self._public_der)

    @classmethod
    def generate(cls, path: Path | str, passphrase: bytes | None = None) -> Self:
        """Create a new key in a new file of mode 0600; an existing file is never overwritten.

        Raises:
            KeyUnavailableError: EG-K001, the file exists or cannot be written.
        """
        key = X25519PrivateKey.generate()
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            encryption = serialization.BestAvailableEncryption(passphrase)
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        write_private_file(Path(path), pem)
        return cls(path, passphrase)

    def public_key(self) -> bytes:
        return self._public_der

    def open_wrap(self, statement: VerifiedStatement, wrap: bytes) -> SecretBuffer:
        if not isinstance(statement, VerifiedStatement):
            raise TypeError("open_wrap takes a VerifiedStatement")
        if statement.confidentiality != "classical":
            raise KeyUnavailableError(
                f"the model asks for {statement.confidentiality} wraps and this key has none",
                code="EG-K004",
                hint="use a device with a post-quantum key, or pack the model as classical",
            )
        info = wrap_info(
            identity=statement.identity,
            fleet_id=statement.fleet_id,
            model_id=statement.model_id,
            kid=self.kid,
            suite=self.suite,
        )
        cek = b""
        if len(wrap) == WRAP_BYTES:
            try:
                cek = _hpke().decrypt(wrap, self._private_key, info=info)
            except (InvalidTag, ValueError):
                cek = b""
        if len(cek) != CEK_BYTES:
            raise DecryptionError(DECRYPTION_FAILED)
        return SecretBuffer.copy_of(cek)

    def derive_secret(self, label: str) -> SecretBuffer:
        if not LABEL.match(label):
            raise ValueError("a label is lower-case letters, digits, dots, slashes and dashes")
        return SecretBuffer.copy_of(
            hkdf_sha256(self._private_key.private_bytes_raw(), length_prefixed("edgeguard/v1/derive", label))
        )

    def prove_possession(self, fleet_key: bytes, message: bytes) -> bytes:
        """See `EnrollingKey`. Raises KeyUnavailableError (EG-K001) for a fleet key that is no usable point."""
        try:
            shared = self._private_key.exchange(X25519PublicKey.from_public_bytes(fleet_key))
        except ValueError:
            shared = b""
        if not shared:
            raise KeyUnavailableError("the fleet's enrolment key is not usable", code="EG-K001")
        return possession_mac(shared, message)

    def __repr__(self) -> str:
        return f"<FileKeyProvider {self.kid}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not copied or pickled")


def possession_mac(shared: bytes, message: bytes) -> bytes:
    """Return HMAC-SHA-256 under the agreed key; both sides compute it (RFC 6955 section 6)."""
    return hmac.digest(hkdf_sha256(shared, length_prefixed(POP_LABEL)), message, "sha256")


def write_private_file(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600 and flush it to disk.

    Raises:
        KeyUnavailableError: EG-K001, the file exists or cannot be written.
    """
    reason = ""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not a path").lower()
    if reason:
        raise KeyUnavailableError(f"cannot write {path}: {reason}", code="EG-K001")


def _parse_private_key(path: Path, passphrase: bytes | None) -> X25519PrivateKey:
    pem = read_private_file(path)
    key: object = None
    with suppress(Exception):  # OpenSSL raises whatever it likes on hostile PEM; no key is the one outcome
        key = serialization.load_pem_private_key(pem, passphrase)
    if not isinstance(key, X25519PrivateKey):
        raise KeyUnavailableError(
            f"{path} holds no X25519 private key that can be read",
            code="EG-K001",
            hint="check the passphrase, or make a new key with: edgeguard-provision keygen",
        )
    return key


def read_private_file(path: Path) -> bytes:
    """Return the content of a key file that only its owner can read.

    Raises:
        KeyUnavailableError: EG-K001 missing or unreadable, EG-K002 open to others or owned by somebody else.
    """
    reason = ""
    content = b""
    try:
        with open_regular(path) as file:
            _require_private(path, os.fstat(file.fileno()))
            content = read_up_to(file, MAX_KEY_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "not a path").lower()
    if not reason and len(content) > MAX_KEY_FILE_BYTES:
        reason = f"larger than {MAX_KEY_FILE_BYTES} bytes"
    if reason:
        raise KeyUnavailableError(
            f"cannot read the key {path}: {reason}",
            code="EG-K001",
            hint="make a key with: edgeguard-provision keygen",
        )
    return content


def _require_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise KeyUnavailableError(f"the key {path} belongs to another user", code="EG-K002")
    if status.st_mode & 0o077:
        raise KeyUnavailableError(
            f"the key {path} is open to other users", code="EG-K002", hint=f"close it with: chmod 600 {path}"
        )


def _hpke() -> Suite:
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
