"""One payload file: read once, hashed and decrypted from the same private copy. docs/formats/bundle.md section 5.

Hashing, decrypting and the plaintext MAC of consecutive 4 MiB spans overlap on threads; the libraries release the
interpreter lock for such sizes. Nothing leaves before digest, AEAD, commitment and HMAC have all passed.
"""

from __future__ import annotations

import hashlib
import hmac
import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag

from edgeguard.bundle.manifest import CHUNK_BYTES, HEADER_BYTES, SPAN_BYTES, TAG_BYTES, Manifest, Payload
from edgeguard.bundle.storage import BundleStorage, ByteStream
from edgeguard.errors import BundleFormatError, DecryptionError, EnvironmentMissingError, SignatureError
from edgeguard.harden.memory import SecretBuffer, lock, private_mapping, swap_is_on, wipe
from edgeguard.keys.context import hkdf_sha256, length_prefixed
from edgeguard.keys.file import DECRYPTION_FAILED

# The decryptor may hand out one held-back chunk more than it was given, so its output buffer needs this much more.
_SLACK_BYTES = CHUNK_BYTES + TAG_BYTES
_DAMAGE_HINT = "copy the bundle again; to find the damaged place run: edgeguard verify BUNDLE --trust DIR"


def cipher_context(manifest_ids: tuple[str, str, str], name: str, role: str) -> bytes:
    """Return the context of a payload; `manifest_ids` is (fleet_id, model_id, bundle_id)."""
    return length_prefixed("edgeguard/v1", *manifest_ids, name, role)


def plaintext_mac(cek: memoryview, manifest_ids: tuple[str, str, str], name: str, role: str) -> hmac.HMAC:
    """Return the running HMAC that binds a payload's plaintext."""
    info = length_prefixed("edgeguard/v1/plaintext-hmac", *manifest_ids, name, role)
    return hmac.new(hkdf_sha256(cek, info), digestmod="sha256")


def ids_of(manifest: Manifest) -> tuple[str, str, str]:
    """Return (fleet_id, model_id, bundle_id), the ids that every payload is bound to."""
    return manifest.fleet_id, manifest.model_id, manifest.bundle_id


def check_payload_digests(storage: BundleStorage, payload: Payload, signed_digest: str) -> None:
    """Check the signed digest of a payload file and of its spans, without decrypting.

    Raises:
        SignatureError: EG-S004, naming the first damaged span.
        BundleFormatError: EG-B002, missing, unreadable or of another size.
    """
    whole = hashlib.sha256()
    damaged: int | None = None
    with ThreadPoolExecutor(1) as pool, _spans(storage, payload) as spans:
        for index, span in enumerate(spans):
            hashed = pool.submit(whole.update, span)
            if damaged is None and hashlib.sha256(span).hexdigest() != payload.spans[index]:
                damaged = index
            hashed.result()
    if damaged is not None:
        start = damaged * SPAN_BYTES
        raise SignatureError(
            f"payload/{payload.name} is damaged or altered between bytes {start} and {start + SPAN_BYTES}",
            code="EG-S004",
            hint="copy the bundle again",
        )
    _require_digest(whole.hexdigest(), signed_digest, payload)


def decrypt_payload(
    storage: BundleStorage, manifest: Manifest, payload: Payload, signed_digest: str, cek: SecretBuffer, memory: str
) -> mmap.mmap:
    """Return the plaintext of a payload in a private mapping of exactly its size; the caller wipes it.

    Args:
        memory: the fleet policy's `unlocked_memory`.

    Raises:
        SignatureError: EG-S004, header or content is not the signed one.
        DecryptionError: EG-D000, the CEK is not the one of this payload, or the HMAC differs.
        BundleFormatError: EG-B002. EnvironmentMissingError: EG-E010, EG-E011.
    """
    plaintext = private_mapping(payload.plaintext_bytes)
    done = False
    try:
        if not lock(plaintext) and memory != "allow" and swap_is_on():
            raise EnvironmentMissingError(
                "the model's memory cannot be locked, swap is on, and the fleet's policy does not allow that",
                code="EG-E010",
                hint="raise the limit (LimitMEMLOCK=infinity in the systemd unit, or ulimit -l), or turn swap off",
            )
        _Decryption(manifest, payload, cek, plaintext).run(storage, signed_digest)
        done = True
    finally:
        if not done:
            wipe(plaintext)
    return plaintext


class _Decryption:
    """State of one pass over a payload file."""

    def __init__(self, manifest: Manifest, payload: Payload, cek: SecretBuffer, plaintext: mmap.mmap) -> None:
        ids = ids_of(manifest)
        self._payload = payload
        self._decryptor = Cobblestone256Decryptor(cek.view, cipher_context(ids, payload.name, payload.role))
        self._mac = plaintext_mac(cek.view, ids, payload.name, payload.role)
        self._digest = hashlib.sha256()
        self._plaintext = plaintext
        self._filled = 0
        self._rejected = False

    def run(self, storage: BundleStorage, signed_digest: str) -> None:
        """Read, hash and decrypt each span once; then judge all of it."""
        scratch = private_mapping(min(SPAN_BYTES, self._payload.ciphertext_bytes) + _SLACK_BYTES)
        lock(scratch)
        try:
            with memoryview(self._plaintext) as out, memoryview(scratch) as spare:
                self._pass(storage, out, spare)
        finally:
            wipe(scratch)
        _require_digest(self._digest.hexdigest(), signed_digest, self._payload)
        mac_matches = hmac.compare_digest(self._mac.hexdigest(), self._payload.plaintext_hmac)
        if self._rejected or self._filled != self._payload.plaintext_bytes or not mac_matches:
            raise DecryptionError(DECRYPTION_FAILED)

    def _pass(self, storage: BundleStorage, out: memoryview, spare: memoryview) -> None:
        with _Lane() as hashing, _Lane() as authenticating, _spans(storage, self._payload) as spans:
            for index, span in enumerate(spans):
                if index == 0:
                    self._require_signed_header(span)
                hashing.add(self._digest.update, span)
                start = self._filled
                if not self._rejected:
                    self._decrypt(span, out, spare)
                authenticating.add(self._mac.update, out[start : self._filled])
                hashing.wait()  # the copy is overwritten by a later span
            authenticating.wait()
            start = self._filled
            self._finish(out)
            self._mac.update(out[start : self._filled])

    def _require_signed_header(self, span: memoryview) -> None:
        if bytes(span[:HEADER_BYTES]).hex() != self._payload.salt + self._payload.commitment:
            raise SignatureError(
                f"payload/{self._payload.name} does not begin as signed", code="EG-S004", hint=_DAMAGE_HINT
            )

    def _decrypt(self, span: memoryview, out: memoryview, spare: memoryview) -> None:
        room = out[self._filled :]
        direct = len(room) >= len(span) + _SLACK_BYTES
        try:
            written = self._decryptor.update_into(span, room if direct else spare)
        except (InvalidTag, ValueError):
            self._rejected = True
            return
        if not direct:
            self._keep(spare[:written], room)
        self._filled += written

    def _finish(self, out: memoryview) -> None:
        """Take the last, short chunk; the library returns it as an immutable object that we cannot clear."""
        if self._rejected:
            return
        try:
            tail = self._decryptor.finalize()
        except (InvalidTag, ValueError):
            self._rejected = True
            return
        self._keep(memoryview(tail), out[self._filled :])
        self._filled += len(tail)

    def _keep(self, piece: memoryview, room: memoryview) -> None:
        if len(piece) > len(room):
            self._rejected = True
            raise DecryptionError(DECRYPTION_FAILED)
        room[: len(piece)] = piece


class _Lane:
    """One worker that runs calls in order, at most one ahead."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def add(self, call: Callable[[memoryview], None], data: memoryview) -> None:
        self.wait()
        self._pending = self._pool.submit(call, data)

    def wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def __enter__(self) -> _Lane:
        return self

    def __exit__(self, *_: object) -> None:
        self._pending = None
        self._pool.shutdown(wait=True)


@contextmanager
def _spans(storage: BundleStorage, payload: Payload) -> Iterator[Iterator[memoryview]]:
    """Give the file span by span, each read once into private memory that the next span overwrites."""
    copy = private_mapping(min(SPAN_BYTES, payload.ciphertext_bytes))
    try:
        with storage.open_stream(f"payload/{payload.name}") as stream, memoryview(copy) as view:
            yield _read_spans(stream, view, payload)
    finally:
        wipe(copy)


def _read_spans(stream: ByteStream, view: memoryview, payload: Payload) -> Iterator[memoryview]:
    missing = payload.ciphertext_bytes
    while missing:
        wanted = min(missing, SPAN_BYTES)
        if _fill(stream, view[:wanted]) != wanted:
            raise BundleFormatError(f"payload/{payload.name} is cut short", code="EG-B002", hint=_DAMAGE_HINT)
        missing -= wanted
        yield view[:wanted]
    with SecretBuffer(1) as beyond:
        if _fill(stream, beyond.view):
            raise BundleFormatError(f"payload/{payload.name} goes on after its end", code="EG-B002", hint=_DAMAGE_HINT)


def _fill(stream: ByteStream, view: memoryview) -> int:
    filled = 0
    reason = ""
    try:
        while filled < len(view) and (got := stream.readinto(view[filled:])):
            filled += got
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
    if reason:
        raise BundleFormatError(f"cannot read a payload: {reason}", code="EG-B002")
    return filled


def _require_digest(found: str, signed: str, payload: Payload) -> None:
    if found != signed:
        raise SignatureError(f"payload/{payload.name} is not the signed one", code="EG-S004", hint=_DAMAGE_HINT)
