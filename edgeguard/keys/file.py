"""A device key in a file of mode 0600. Class `file`: whoever copies the file is the device."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from edgeguard.errors import KeyUnavailableError
from edgeguard.keys.context import SUITE_X25519
from edgeguard.keys.hpke_provider import DECRYPTION_FAILED
from edgeguard.keys.private_file import read_private_file, write_private_file
from edgeguard.keys.private_key import generate, parse
from edgeguard.keys.software import SoftwareKeyProvider

__all__ = ["DECRYPTION_FAILED", "FileKeyProvider"]


class FileKeyProvider(SoftwareKeyProvider):
    """KeyProvider on a key file: X25519, P-256, or ML-KEM-768 with X25519."""

    def __init__(self, path: Path | str, passphrase: bytes | None = None) -> None:
        """Read the key file.

        Raises:
            KeyUnavailableError: EG-K001 missing, unreadable, no device key or wrong passphrase; EG-K002 open to others.
        """
        pem = read_private_file(Path(path))
        key = parse(pem, passphrase)
        if key is None and passphrase is None and b"ENCRYPTED" in pem:
            raise KeyUnavailableError(
                f"the key {path} is encrypted and no passphrase was given",
                code="EG-K001",
                hint="a device that starts by itself keeps its key in a systemd credential or a chip: docs/keys.md",
            )
        if key is None:
            raise KeyUnavailableError(
                f"{path} holds no device key that can be read",
                code="EG-K001",
                hint="check the passphrase, or make a new key with: edgeguard-provision keygen",
            )
        super().__init__(key, "file")

    @classmethod
    def generate(cls, path: Path | str, passphrase: bytes | None = None, *, suite: str = SUITE_X25519) -> Self:
        """Create a new key in a new file of mode 0600; an existing file is never overwritten.

        Raises:
            KeyUnavailableError: EG-K001, the file exists or cannot be written.
            EnvironmentMissingError: EG-E012, this build of cryptography has no ML-KEM.
        """
        write_private_file(Path(path), generate(suite).to_pem(passphrase))
        return cls(path, passphrase)
