"""A device key that needs this Raspberry Pi: the board's OTP secret mixed with a secret in a file.

Class `device-bound`, and no more: without the board (BCM2711 or BCM2712) the file opens nothing, and without the file
the board does not either. But the OTP secret is *readable*: by whoever may open /dev/vcio (group `video`), and, unless
secure boot is on and its memory is locked, by whoever starts the board from their own card. The derived key is in this
process's memory while it is used. docs/formats/device-keys.md section 4.
"""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edgeguard.errors import EnvironmentMissingError, KeyUnavailableError
from edgeguard.keys.context import hkdf_sha256, length_prefixed
from edgeguard.keys.private_file import read_private_file, write_private_file
from edgeguard.keys.private_key import DevicePrivateKey
from edgeguard.keys.software import SoftwareKeyProvider

SCHEMA: Final = "edgeguard/rpi-otp-key/v1"
OTP_BYTES: Final = 32  # BCM2712 has 64; the first 32 are there on both
MAILBOX: Final = Path("/usr/bin/vcmailbox")
# "Get device private key": tag, value buffer and request of 40 bytes, first row 0, 8 rows, room for them.
_REQUEST: Final = ("0x00030081", "40", "40", "0", "8", *["0"] * 8)
_TAG, _SUCCESS, _ROWS = 0x00030081, 0x80000000, 8
_FIRST_KEY_WORD = 7
_TIMEOUT_S = 5.0  # the firmware answers in milliseconds
_MAX_OUTPUT_BYTES = 4096

Hex64 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
ReadOtp = Callable[[], bytes]


class OtpKeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key file. kid: of the key that comes out on the right board."""

    schema: Literal["edgeguard/rpi-otp-key/v1"]
    kid: Hex32
    secret: Hex64


class OtpKeyProvider(SoftwareKeyProvider):
    """KeyProvider on the OTP secret and a key file.

    Args:
        path: key file that `generate` made.
        read_otp: gives the 32 bytes of OTP.

    Raises:
        KeyUnavailableError: EG-K001, EG-K002 the file; EG-K017 it is not for this board; EG-K018 OTP holds no secret.
        EnvironmentMissingError: EG-E017, OTP cannot be read.
    """

    def __init__(self, path: Path | str, *, read_otp: ReadOtp | None = None) -> None:
        raw = read_private_file(Path(path))
        facts: OtpKeyFile | None = None
        with suppress(msgspec.MsgspecError, ValueError, RecursionError):
            facts = msgspec.json.decode(raw, type=OtpKeyFile, strict=True)
        if facts is None or _encode(facts) != raw:
            raise KeyUnavailableError(
                f"{path} is no OTP key file", code="EG-K001", hint="make one with: edgeguard-provision keygen"
            )
        super().__init__(_derive(_checked(read_otp or MailboxReader()), bytes.fromhex(facts.secret)), "device-bound")
        if self.kid != facts.kid:
            raise KeyUnavailableError(
                "the key file belongs to another board, or was changed", code="EG-K017",
                hint="make a key on this board with: edgeguard-provision keygen",
            )  # fmt: skip

    @classmethod
    def generate(cls, path: Path | str, *, read_otp: ReadOtp | None = None) -> Self:
        """Make a new key in a new file; an existing file is never overwritten. Errors as for the class."""
        reader = read_otp or MailboxReader()
        secret = secrets.token_bytes(32)
        key = _derive(_checked(reader), secret)
        write_private_file(Path(path), _encode(OtpKeyFile(SCHEMA, key.public().kid, secret.hex())))
        return cls(path, read_otp=reader)


class MailboxReader:
    """Reads the device private key rows through the firmware's mailbox program.

    Args:
        program: absolute path of `vcmailbox`, writable by nobody but root or this user.
    """

    def __init__(self, program: Path = MAILBOX) -> None:
        self.program = program

    def __call__(self) -> bytes:
        """Return the 32 bytes.

        Raises:
            EnvironmentMissingError: EG-E017, no such program, no right to ask, or an answer of another form.
        """
        reason = self._mistrusted()
        output = b""
        if not reason:
            try:
                done = subprocess.run(  # noqa: S603 - a fixed list of arguments, no shell, no search path
                    [str(self.program), *_REQUEST], stdin=subprocess.DEVNULL, capture_output=True, check=False,
                    timeout=_TIMEOUT_S, env={},
                )  # fmt: skip
                output = done.stdout[:_MAX_OUTPUT_BYTES] if done.returncode == 0 else b""
                reason = "" if output else f"it ended with {done.returncode}"
            except (OSError, ValueError, subprocess.TimeoutExpired) as error:
                reason = (getattr(error, "strerror", None) or "no answer").lower()
        if not reason:
            with suppress(ValueError):
                return parse_mailbox(output)
            reason = "its answer is not one"
        raise EnvironmentMissingError(
            f"the board's OTP secret cannot be read with {self.program}: {reason}", code="EG-E017",
            hint="on a Raspberry Pi 4 or 5, with raspi-utils installed and as a member of group video",
        )  # fmt: skip

    def _mistrusted(self) -> str:
        if not self.program.is_absolute():
            return "not an absolute path"
        try:
            facts = self.program.stat()
        except (OSError, ValueError):
            return "there is no such program"
        mine = facts.st_uid in (0, os.geteuid()) and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return "" if mine and stat.S_ISREG(facts.st_mode) else "other users can write it"


def parse_mailbox(output: bytes) -> bytes:
    """Return the 32 bytes of key rows in what `vcmailbox` prints.

    Words in hex: size, status, tag, buffer size, response size, first row, rows, then the rows.

    Raises:
        ValueError: not a successful answer to our request.
    """
    words = [int(word, 16) for word in output.decode("ascii").split()]
    if len(words) < _FIRST_KEY_WORD + _ROWS or any(not 0 <= word < 1 << 32 for word in words):
        raise ValueError("too short, or no 32-bit words")
    status, tag, first_row, rows = words[1], words[2], words[5], words[6]
    if (status, tag, first_row, rows) != (_SUCCESS, _TAG, 0, _ROWS) or not words[4] & _SUCCESS:
        raise ValueError("not a successful answer")
    return b"".join(word.to_bytes(4, "big") for word in words[_FIRST_KEY_WORD : _FIRST_KEY_WORD + _ROWS])


def _checked(read_otp: ReadOtp) -> bytes:
    otp = read_otp()
    if len(otp) != OTP_BYTES or len(set(otp)) < 2:  # never written, or all fuses burnt: everybody has that
        raise KeyUnavailableError(
            "the board's OTP holds no secret", code="EG-K018",
            hint="write one, which cannot be undone: rpi-otp-private-key -w (see docs/keys.md)",
        )  # fmt: skip
    return otp


def _derive(otp: bytes, secret: bytes) -> DevicePrivateKey:
    """Mix both secrets; whoever lacks either learns nothing about the key (HKDF, RFC 5869)."""
    seed = hkdf_sha256(length_prefixed(otp, secret), length_prefixed("edgeguard/v1/rpi-otp", "x25519"))
    return DevicePrivateKey(X25519PrivateKey.from_private_bytes(seed))


def _encode(facts: OtpKeyFile) -> bytes:
    return msgspec.json.encode(facts, order="sorted") + b"\n"
