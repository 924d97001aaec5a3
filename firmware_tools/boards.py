"""What is known about boards when a model is packed for them: whether the processor has AES instructions.

Without them AES-256-GCM in constant time is several times slower than ChaCha20-Poly1305. Every Raspberry Pi before the
5 lacks the ARMv8 cryptography extensions, which are an option of the core that Broadcom left out; the Pi 5 (BCM2712),
Jetsons and x86-64 machines of the last decade have them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from edgeguard.bundle.manifest import CIPHER_AES_256_GCM, CIPHER_CHACHA20_POLY1305, CipherName

CipherChoice = Literal["auto", "aes", "chacha"]

# Board names are free text of the fleet; this meets rpi4, rpi-4b, raspberry-pi-3, raspberrypi-zero2w, rpi-cm4, ...
_SEPARATORS: Final = re.compile(r"[._-]")
_WITHOUT_AES: Final = re.compile(r"(rpi|raspberrypi)(zero[a-z0-9]*|400|cm[134][a-z]*|[0-4][a-z]*)")


def has_aes_instructions(board: str) -> bool:
    """Return whether a board is taken to have AES instructions; one that is not known counts as having them."""
    return _WITHOUT_AES.fullmatch(_SEPARATORS.sub("", board.lower())) is None


def cipher_for(choice: CipherChoice, boards: Sequence[str]) -> CipherName:
    """Return the manifest's cipher name; `auto` takes ChaCha20 when any of `boards` lacks AES instructions."""
    if choice == "chacha" or (choice == "auto" and not all(map(has_aes_instructions, boards))):
        return CIPHER_CHACHA20_POLY1305
    return CIPHER_AES_256_GCM
