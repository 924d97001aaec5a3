"""C2SP chunked-encryption: ours agrees with the library's Cobblestone byte for byte, and the vectors stay."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeguard.bundle.chunked import (
    AES_256_GCM,
    CHACHA20_POLY1305,
    SEALED_CHUNK_BYTES,
    Aead,
    ChunkDecryptor,
    ChunkEncryptor,
    decryptor_of,
    encryptor_of,
)
from edgeguard.bundle.manifest import CHUNK_BYTES, HEADER_BYTES, ciphertext_size

KEY = bytes(range(32))
CONTEXT = b"edgeguard test vector"
SIZES = [0, 1, 15, 16, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 777]
# SHA-256 of the ciphertext of `text(size)` under KEY, CONTEXT and a salt of 00 01 ... 17 (hex). The AES rows are read
# by the library below, so the construction is checked by somebody else's code; ChaCha20 differs in the AEAD alone.
VECTORS = {
    ("AEAD_AES_256_GCM", 0): "5d776868cf821e152f984d78c61107725aca000aa650495969671ab92cae476b",
    ("AEAD_AES_256_GCM", 1): "d61e43945c459d0f620009f0d253573c7992077fb4af2fa5bf52437ed815b6ae",
    ("AEAD_AES_256_GCM", 16384): "595c4b4d7024658ef88242ed6aac19e92260b42c54848a8753407a5b5b52203c",
    ("AEAD_AES_256_GCM", 49929): "60a6eb6971370fc6fe3b801aeee00df04bfda889b8ce41550b2ea9581b8c1015",
    ("AEAD_CHACHA20_POLY1305", 0): "10dcb524e9d0641b48eaaf2ebf1bd46dd878c2684286c80244066ce908ffa378",
    ("AEAD_CHACHA20_POLY1305", 1): "d6e336b4c75348640ad5cb0c4cb92ffc0ac147c7a6598c8ec56277c19d0829f8",
    ("AEAD_CHACHA20_POLY1305", 16384): "f8799087c6b0a7a72f898c56db310f3c1ba95988f25a2eef685dfceaf7fffd4d",
    ("AEAD_CHACHA20_POLY1305", 49929): "55f101943c070944de7f3ebdd9f4b78de4621894845b7692961363d03919ca12",
}
EMPTY_CHACHA = (
    "000102030405060708090a0b0c0d0e0f1011121314151617"
    "dcf16f7e66915f1e411c05012d24332709f6dfdffa277c2ab6fad7acd7a52843"
    "55eb4c70ce4f0aa565f0adb7760b1f6d"
)


def text(size: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(size))


def encrypt(cipher, plaintext: bytes, steps: list[int] | None = None) -> bytes:
    buffer = memoryview(bytearray(ciphertext_size(len(plaintext)) + SEALED_CHUNK_BYTES))
    out = b""
    for piece in pieces(plaintext, steps):
        out += bytes(buffer[: cipher.update_into(memoryview(piece), buffer)])
    return out + cipher.finalize()


def decrypt(cipher, ciphertext: bytes, steps: list[int] | None = None) -> bytes:
    buffer = memoryview(bytearray(len(ciphertext) + SEALED_CHUNK_BYTES))
    out = b""
    for piece in pieces(ciphertext, steps):
        out += bytes(buffer[: cipher.update_into(memoryview(piece), buffer)])
    if isinstance(cipher, ChunkDecryptor):
        return out + bytes(buffer[: cipher.finalize_into(buffer)])
    return out + cipher.finalize()


def pieces(data: bytes, steps: list[int] | None) -> list[bytes]:
    """Cut data at the given step sizes, in turns."""
    if not steps:
        return [data]
    cut, at, turn = [], 0, 0
    while at < len(data):
        cut.append(data[at : at + steps[turn % len(steps)]])
        at += len(cut[-1])
        turn += 1
    return cut


@pytest.mark.parametrize("size", SIZES)
def test_the_library_reads_what_we_write_and_we_read_what_it_writes(size):
    """With AES-256-GCM our construction is Cobblestone-256."""
    ours = encrypt(ChunkEncryptor(AES_256_GCM, KEY, CONTEXT), text(size))
    assert len(ours) == ciphertext_size(size)
    assert decrypt(Cobblestone256Decryptor(KEY, CONTEXT), ours) == text(size)
    theirs = encrypt(Cobblestone256Encryptor(KEY, CONTEXT), text(size))
    assert decrypt(ChunkDecryptor(AES_256_GCM, KEY, CONTEXT), theirs) == text(size)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 4 * CHUNK_BYTES),
    steps=st.lists(st.integers(1, 3 * CHUNK_BYTES), min_size=1, max_size=4),
    aead=st.sampled_from([AES_256_GCM, CHACHA20_POLY1305]),
)
def test_any_cut_into_pieces_gives_the_same_bytes(size, steps, aead):
    """Header, chunks and tail may arrive in any pieces; a piece of one byte is a piece."""
    steps = [*steps, CHUNK_BYTES]
    whole = encrypt(ChunkEncryptor(aead, KEY, CONTEXT, salt=bytes(24)), text(size))
    assert encrypt(ChunkEncryptor(aead, KEY, CONTEXT, salt=bytes(24)), text(size), steps) == whole
    assert decrypt(ChunkDecryptor(aead, KEY, CONTEXT), whole, steps) == text(size)


@pytest.mark.parametrize(("name", "size"), VECTORS)
def test_the_published_vectors_hold(name, size):
    """Key, context, salt and plaintext are above; the digest is of the whole file."""
    aead = {"AEAD_AES_256_GCM": AES_256_GCM, "AEAD_CHACHA20_POLY1305": CHACHA20_POLY1305}[name]
    sealed = encrypt(ChunkEncryptor(aead, KEY, CONTEXT, salt=bytes(range(24))), text(size))
    assert hashlib.sha256(sealed).hexdigest() == VECTORS[name, size]
    assert decrypt(ChunkDecryptor(aead, KEY, CONTEXT), sealed) == text(size)


def test_the_vector_of_the_empty_message_is_written_out():
    """Salt, commitment, and the tag of nothing: everything a second implementation needs."""
    sealed = encrypt(ChunkEncryptor(CHACHA20_POLY1305, KEY, CONTEXT, salt=bytes(range(24))), b"")
    assert sealed.hex() == EMPTY_CHACHA


def test_the_ciphers_of_the_manifest_interoperate_with_our_construction():
    """What the factory returns for a name is that AEAD and no other."""
    for name, aead in (("aes-256-gcm-c2sp", AES_256_GCM), ("chacha20-poly1305-c2sp", CHACHA20_POLY1305)):
        sealed = encrypt(encryptor_of(name, memoryview(KEY), CONTEXT), text(40_000))
        assert decrypt(ChunkDecryptor(aead, KEY, CONTEXT), sealed) == text(40_000)
        again = encrypt(encryptor_of(name, memoryview(KEY), CONTEXT), text(40_000))
        assert again[:24] != sealed[:24]
        assert decrypt(decryptor_of(name, memoryview(KEY), CONTEXT), again) == text(40_000)


def damaged(sealed: bytes) -> dict[str, bytes]:
    """Every way to damage a message of three full chunks and a short one."""
    head, body = sealed[:HEADER_BYTES], sealed[HEADER_BYTES:]
    chunks = [body[at : at + SEALED_CHUNK_BYTES] for at in range(0, len(body), SEALED_CHUNK_BYTES)]
    return {
        "empty": b"",
        "half a header": sealed[:30],
        "header only": head,
        "cut at each chunk edge 1": head + b"".join(chunks[:1]),
        "cut at each chunk edge 2": head + b"".join(chunks[:2]),
        "cut before the last chunk": head + b"".join(chunks[:3]),
        "cut inside the last tag": sealed[:-1],
        "last chunk shorter than a tag": head + b"".join(chunks[:3]) + chunks[3][:15],
        "first chunk dropped": head + b"".join(chunks[1:]),
        "middle chunk dropped": head + chunks[0] + b"".join(chunks[2:]),
        "chunks swapped": head + chunks[1] + chunks[0] + b"".join(chunks[2:]),
        "chunk twice": head + chunks[0] + chunks[0] + b"".join(chunks[2:]),
        "byte appended": sealed + b"\0",
        "chunk appended": sealed + chunks[0],
        "other salt": bytes([sealed[0] ^ 1]) + sealed[1:],
        "other commitment": sealed[:24] + bytes([sealed[24] ^ 1]) + sealed[25:],
    }


def test_the_library_hands_over_to_us_wherever_its_room_ends():
    """It asks for a chunk more than it writes; an output of exactly the plaintext's size is filled all the same."""
    for size in (CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 1):
        sealed = encrypt(encryptor_of("aes-256-gcm-c2sp", memoryview(KEY), CONTEXT), text(size))
        for steps in (None, [SEALED_CHUNK_BYTES], [HEADER_BYTES, 2 * SEALED_CHUNK_BYTES], [777]):
            decryptor = decryptor_of("aes-256-gcm-c2sp", memoryview(KEY), CONTEXT)
            out, filled = memoryview(bytearray(size)), 0
            for piece in pieces(sealed, steps):
                filled += decryptor.update_into(memoryview(piece), out[filled:])
            filled += decryptor.finalize_into(out[filled:])
            assert filled == size
            assert bytes(out) == text(size)


AEAD_AND_LIBRARY = {
    "ours, AES": lambda: ChunkDecryptor(AES_256_GCM, KEY, CONTEXT),
    "library": lambda: Cobblestone256Decryptor(KEY, CONTEXT),
    "both, AES": lambda: decryptor_of("aes-256-gcm-c2sp", memoryview(KEY), CONTEXT),
    "ours, ChaCha20": lambda: ChunkDecryptor(CHACHA20_POLY1305, KEY, CONTEXT),
}


@pytest.mark.parametrize("which", AEAD_AND_LIBRARY)
@pytest.mark.parametrize("damage", damaged(bytes(HEADER_BYTES + 3 * SEALED_CHUNK_BYTES + 100)))
@pytest.mark.parametrize("steps", [None, [SEALED_CHUNK_BYTES], [1000]])
def test_any_damage_is_refused_alike_by_the_library_and_by_us(which, damage, steps):
    """Truncation, reordering, repetition, extension; whole and in pieces; one kind of failure."""
    aead = CHACHA20_POLY1305 if which.endswith("ChaCha20") else AES_256_GCM
    sealed = encrypt(ChunkEncryptor(aead, KEY, CONTEXT), text(3 * CHUNK_BYTES + 84))
    with pytest.raises(InvalidTag):
        decrypt(AEAD_AND_LIBRARY[which](), damaged(sealed)[damage], steps)


@pytest.mark.parametrize(
    "decryptor",
    [
        ChunkDecryptor(CHACHA20_POLY1305, bytes(32), CONTEXT),
        ChunkDecryptor(CHACHA20_POLY1305, KEY, b"another context"),
        ChunkDecryptor(AES_256_GCM, KEY, CONTEXT),
        ChunkDecryptor(Aead("AEAD_AES_256_GCM", CHACHA20_POLY1305.primitive), KEY, CONTEXT),
    ],
    ids=["key", "context", "aead", "aead name"],
)
def test_another_key_context_or_cipher_fails_at_the_commitment(decryptor):
    """Before any chunk is decrypted: nothing is written to the buffer."""
    sealed = encrypt(ChunkEncryptor(CHACHA20_POLY1305, KEY, CONTEXT), text(40_000))
    buffer = bytearray(60_000)
    with pytest.raises(InvalidTag):
        decryptor.update_into(memoryview(sealed), memoryview(buffer))
    assert not any(buffer)


def test_nothing_is_decrypted_after_a_failure():
    """A caller that goes on regardless gets nothing more, whatever it feeds."""
    sealed = encrypt(ChunkEncryptor(CHACHA20_POLY1305, KEY, CONTEXT), text(40_000))
    decryptor = ChunkDecryptor(CHACHA20_POLY1305, KEY, CONTEXT)
    buffer = memoryview(bytearray(60_000))
    with pytest.raises(InvalidTag):
        decryptor.update_into(memoryview(sealed[:100] + b"\0" + sealed[101:]), buffer)
    with pytest.raises(InvalidTag):
        decryptor.update_into(memoryview(sealed[HEADER_BYTES:]), buffer)
    with pytest.raises(InvalidTag):
        decryptor.finalize_into(buffer)


def test_a_buffer_that_is_too_small_is_an_error_and_not_a_short_write():
    """Nobody loses a chunk."""
    sealed = encrypt(ChunkEncryptor(CHACHA20_POLY1305, KEY, CONTEXT), text(40_000))
    decryptor = ChunkDecryptor(CHACHA20_POLY1305, KEY, CONTEXT)
    with pytest.raises(ValueError, match="too small"):
        decryptor.update_into(memoryview(sealed), memoryview(bytearray(CHUNK_BYTES + 1)))
