"""C2SP chunked-encryption v1 (c2sp.org/chunked-encryption), SHA-512, for any AEAD. docs/formats/bundle.md section 5.

Two AEADs are used. With AES-256-GCM this is the library's Cobblestone-256, which takes as many chunks as there are in
one call; that matters where other threads want the interpreter lock. ChaCha20-Poly1305, for boards without AES
instructions, is the construction below, chunk by chunk. The same code with AES-256-GCM reads and writes Cobblestone
byte for byte; the tests hold it to that, so the part that is ours is checked against the part that is not.

The last chunk is ours with either AEAD: the library returns it as an object of its own, and leaves what it decrypted
in freed memory when the tag is wrong. Here every byte of plaintext goes straight to where the caller wants it.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from edgeguard.bundle.manifest import (
    CHUNK_BYTES,
    CIPHER_AES_256_GCM,
    CIPHER_CHACHA20_POLY1305,
    COMMITMENT_BYTES,
    HEADER_BYTES,
    SALT_BYTES,
    TAG_BYTES,
)
from edgeguard.harden.memory import SecretBuffer

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
SEALED_CHUNK_BYTES: Final = CHUNK_BYTES + TAG_BYTES
MAX_CHUNKS: Final = 1 << 38  # the counter must leave the rest of the base nonce alone; 4 PiB
_LABEL: Final = b"c2sp.org/chunked-encryption@v1+"


class Encryptor(Protocol):
    """Streaming encryption in the shape of the library's."""

    def update_into(self, data: memoryview, buf: memoryview, /) -> int:
        """Encrypt `data` and return the bytes written to `buf`; a partial chunk is held back."""
        ...

    def finalize(self) -> bytes:
        """Return the last, short chunk."""
        ...


@dataclass(frozen=True, slots=True)
class Aead:
    """An AEAD by its IANA name and its class in the library: 32-byte key, 12-byte nonce, 16-byte tag."""

    iana_name: str
    primitive: Any


AES_256_GCM: Final = Aead("AEAD_AES_256_GCM", AESGCM)
CHACHA20_POLY1305: Final = Aead("AEAD_CHACHA20_POLY1305", ChaCha20Poly1305)
AEADS: Final[Mapping[str, Aead]] = MappingProxyType(
    {CIPHER_AES_256_GCM: AES_256_GCM, CIPHER_CHACHA20_POLY1305: CHACHA20_POLY1305}
)


def decryptor_of(cipher: str, cek: memoryview, context: bytes) -> ChunkDecryptor:
    """Return the decryptor for a cipher of the manifest; `cek` must stay until the header has been read."""
    library = Cobblestone256Decryptor(cek, context) if cipher == CIPHER_AES_256_GCM else None
    return ChunkDecryptor(AEADS[cipher], cek, context, library=library)


def encryptor_of(cipher: str, cek: memoryview, context: bytes) -> Encryptor:
    """Return the encryptor for a cipher of the manifest; its salt is fresh."""
    if cipher == CIPHER_AES_256_GCM:
        return Cobblestone256Encryptor(cek, context)
    return ChunkEncryptor(AEADS[cipher], cek, context)


class _Keys:
    """What the input key, salt and context give: the AEAD under its key, the base nonce, the commitment."""

    def __init__(self, aead: Aead, cek: bytes | memoryview, salt: bytes, context: bytes) -> None:
        info = _LABEL + aead.iana_name.encode() + b"\x00" + salt + context
        with SecretBuffer(KEY_BYTES + NONCE_BYTES + COMMITMENT_BYTES) as derived:
            HKDFExpand(SHA512(), len(derived), info).derive_into(cek, derived.view)
            self.aead = aead.primitive(derived.view[:KEY_BYTES])
            self._base = int.from_bytes(derived.view[KEY_BYTES : KEY_BYTES + NONCE_BYTES], "big")
            self.commitment = bytes(derived.view[KEY_BYTES + NONCE_BYTES :])

    def nonce(self, chunk: int) -> bytes:
        if chunk >= MAX_CHUNKS:
            raise ValueError("too many chunks")
        return (self._base ^ chunk).to_bytes(NONCE_BYTES, "big")


class ChunkDecryptor:
    """Streaming decryption; every failure is an InvalidTag, and after one nothing more is decrypted."""

    def __init__(
        self,
        aead: Aead,
        cek: bytes | memoryview,
        context: bytes,
        *,
        library: Cobblestone256Decryptor | None = None,
    ) -> None:
        """`cek` is not copied: it must stay until the header has been read, because the salt comes with the data.

        library: takes the whole chunks as long as there is the room it asks for; the rest is decrypted here.
        """
        self._aead = aead
        self._cek = cek
        self._context = context
        self._library = library
        self._keys: _Keys | None = None
        self._held = bytearray()
        self._chunk = 0
        self._failed = False

    def update_into(self, data: memoryview, buf: memoryview, /) -> int:
        """Decrypt the whole chunks that are there into `buf`; return the bytes written.

        Raises:
            InvalidTag: wrong key, salt, context, order or content. ValueError: `buf` is too small.
        """
        if self._failed:
            raise InvalidTag
        self._failed = True  # unless all of it passes
        if self._keys is None:
            data = self._hold(data, HEADER_BYTES)
            if len(self._held) == HEADER_BYTES:
                self._keys = self._open_header()
        written = self._update(self._keys, data, buf) if self._keys is not None else 0
        self._failed = False
        return written

    def finalize_into(self, buf: memoryview, /) -> int:
        """Decrypt the last chunk, which is short; return the bytes written. To be called once.

        Raises:
            InvalidTag: as above, or the message ends without a last chunk. ValueError: `buf` is too small.
        """
        if self._failed or self._keys is None or not TAG_BYTES <= len(self._held) < SEALED_CHUNK_BYTES:
            raise InvalidTag
        self._failed = True
        return self._open_chunk(self._keys, memoryview(bytes(self._held)), buf)

    def _update(self, keys: _Keys, data: memoryview, buf: memoryview) -> int:
        written = 0
        if self._held:
            data = self._hold(data, SEALED_CHUNK_BYTES)
            if len(self._held) == SEALED_CHUNK_BYTES:
                written = self._open_chunks(keys, memoryview(bytes(self._held)), buf)
                self._held.clear()
        whole = len(data) - len(data) % SEALED_CHUNK_BYTES
        written += self._open_chunks(keys, data[:whole], buf[written:])
        self._held += data[whole:]
        return written

    def _hold(self, data: memoryview, wanted: int) -> memoryview:
        """Fill what is held back up to `wanted` bytes; return the rest of `data`."""
        taken = min(len(data), wanted - len(self._held))
        self._held += data[:taken]
        return data[taken:]

    def _open_header(self) -> _Keys:
        salt, commitment = bytes(self._held[:SALT_BYTES]), bytes(self._held[SALT_BYTES:])
        keys = _Keys(self._aead, self._cek, salt, self._context)
        if not hmac.compare_digest(keys.commitment, commitment):
            raise InvalidTag
        if self._library is not None:
            self._library.update_into(self._held, bytearray(HEADER_BYTES + SEALED_CHUNK_BYTES))
        self._held.clear()
        return keys

    def _open_chunks(self, keys: _Keys, sealed: memoryview, buf: memoryview) -> int:
        if self._library is not None and len(buf) >= len(sealed) + SEALED_CHUNK_BYTES:
            self._chunk += len(sealed) // SEALED_CHUNK_BYTES
            return self._library.update_into(sealed, buf)
        if sealed:
            self._library = None  # it counts chunks too, and would be behind from here on
        written = 0
        for at in range(0, len(sealed), SEALED_CHUNK_BYTES):
            written += self._open_chunk(keys, sealed[at : at + SEALED_CHUNK_BYTES], buf[written:])
        return written

    def _open_chunk(self, keys: _Keys, sealed: memoryview, buf: memoryview) -> int:
        room = buf[: len(sealed) - TAG_BYTES]
        if len(room) < len(sealed) - TAG_BYTES:
            raise ValueError("the buffer is too small")
        keys.aead.decrypt_into(keys.nonce(self._chunk), sealed, None, room)
        self._chunk += 1
        return len(room)


class ChunkEncryptor:
    """Streaming encryption under a fresh salt; the first output carries the header."""

    def __init__(self, aead: Aead, cek: bytes | memoryview, context: bytes, *, salt: bytes | None = None) -> None:
        """`salt` (24 bytes) is for test vectors alone: one that repeats under a key gives the plaintext away."""
        chosen = os.urandom(SALT_BYTES) if salt is None else salt
        self._keys = _Keys(aead, cek, chosen, context)
        self._header = chosen + self._keys.commitment
        self._held = bytearray()
        self._chunk = 0

    def update_into(self, data: memoryview, buf: memoryview, /) -> int:
        """Encrypt the whole chunks that are there into `buf`; ValueError when it is too small."""
        self._held += data
        written = self._write_header(buf)
        whole = len(self._held) // CHUNK_BYTES * CHUNK_BYTES
        with memoryview(self._held) as held:
            for at in range(0, whole, CHUNK_BYTES):
                sealed = buf[written : written + SEALED_CHUNK_BYTES]
                self._keys.aead.encrypt_into(self._next_nonce(), held[at : at + CHUNK_BYTES], None, sealed)
                written += SEALED_CHUNK_BYTES
        del self._held[:whole]
        return written

    def finalize(self) -> bytes:
        """Return the header, if nothing carried it yet, and the last chunk."""
        header, self._header = self._header, b""
        last: bytes = self._keys.aead.encrypt(self._next_nonce(), self._held, None)
        self._held.clear()
        return header + last

    def _write_header(self, buf: memoryview) -> int:
        written = len(self._header)
        buf[:written] = self._header
        self._header = b""
        return written

    def _next_nonce(self) -> bytes:
        self._chunk += 1
        return self._keys.nonce(self._chunk - 1)
