"""Reading payload files: every byte once, into private memory, hashed beside whatever else is done with the copy.

A small ring of copies keeps the working set inside a core's cache. The hash runs on a thread of its own; the libraries
release the interpreter lock for such sizes, so reading and decrypting the next steps overlap with it. Whoever changes
a file between two reads finds nobody reading twice.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final, TypeVar

from edgeguard.bundle.manifest import CHUNK_BYTES, HEADER_BYTES, SPAN_BYTES, TAG_BYTES, Payload
from edgeguard.bundle.storage import BundleStorage, ByteStream
from edgeguard.errors import BundleFormatError, SignatureError
from edgeguard.harden.memory import private_mapping, wipe

STEP_BYTES: Final = 64 * (CHUNK_BYTES + TAG_BYTES)  # whole chunks; about 1 MiB stays in a core's cache between uses
FIRST_STEP_BYTES: Final = HEADER_BYTES + STEP_BYTES
_COPIES: Final = 3  # one being read, one being decrypted, one waiting for the hash
DAMAGE_HINT: Final = "copy the bundle again; to find the damaged place run: edgeguard verify BUNDLE --trust DIR"

R = TypeVar("R")


class HashedCopies:
    """One pass over a payload file: iterate to the end, then ask for the digest.

    Each item is a private copy of the next step, valid until the following one is asked for.
    """

    def __init__(self, stream: ByteStream, payload: Payload, ring: memoryview) -> None:
        """`ring` holds one first step when the payload is no longer than that, else `_COPIES` of them."""
        self._stream = stream
        self._payload = payload
        self._digest = hashlib.sha256()
        self._hash_failed = False
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._copied: SimpleQueue[memoryview | None] = SimpleQueue()
        for start in range(0, len(ring), FIRST_STEP_BYTES):
            self._free.put(ring[start : start + FIRST_STEP_BYTES])
        self._hashing: threading.Thread | None = None
        if payload.ciphertext_bytes > FIRST_STEP_BYTES:
            self._hashing = threading.Thread(target=self._hash, name="edgeguard-hash", daemon=True)
            self._hashing.start()

    def __iter__(self) -> Iterator[memoryview]:
        """Yield the steps; the first one is longer by the header.

        Raises:
            BundleFormatError: EG-B002, the file is shorter or longer than the manifest says, or cannot be read.
        """
        missing = self._payload.ciphertext_bytes
        wanted = min(missing, FIRST_STEP_BYTES)
        while missing:
            # Steps only get shorter, so the copy of one is room enough for every later one.
            step = self._free.get()[:wanted]
            if fill(self._stream, step) != wanted:
                raise BundleFormatError(f"payload/{self._payload.name} is cut short", code="EG-B002", hint=DAMAGE_HINT)
            missing -= wanted
            wanted = min(missing, STEP_BYTES)
            if self._hashing is None:
                self._digest.update(step)
            else:
                self._copied.put(step)
            yield step
        if fill(self._stream, memoryview(bytearray(1))):
            raise BundleFormatError(
                f"payload/{self._payload.name} goes on after its end", code="EG-B002", hint=DAMAGE_HINT
            )

    def require_digest(self, signed: str) -> None:
        """Wait for the hash; SignatureError (EG-S004) when it is not the signed one."""
        self.stop()
        if self._hash_failed or self._digest.hexdigest() != signed:
            raise SignatureError(
                f"payload/{self._payload.name} is not the signed one", code="EG-S004", hint=DAMAGE_HINT
            )

    def stop(self) -> None:
        """Let the hash finish what it has and end its thread; calling it again does nothing."""
        if self._hashing is not None:
            self._copied.put(None)
            self._hashing.join()
            self._hashing = None

    def _hash(self) -> None:
        while (step := self._copied.get()) is not None:
            try:
                self._digest.update(step)
            except Exception:  # whatever it was, there is no digest then; the reader must not wait for ever
                self._hash_failed = True
            self._free.put(step)


@contextmanager
def hashed_copies(storage: BundleStorage, payload: Payload) -> Iterator[HashedCopies]:
    """Open a payload for its one pass; raises BundleFormatError (EG-B002) when it is missing or no regular file."""
    slots = 1 if payload.ciphertext_bytes <= FIRST_STEP_BYTES else _COPIES
    ring = private_mapping(slots * FIRST_STEP_BYTES)
    try:
        with storage.open_stream(f"payload/{payload.name}") as stream, memoryview(ring) as view:
            copies = HashedCopies(stream, payload, view)
            try:
                yield copies
            finally:
                copies.stop()
    finally:
        wipe(ring)


def check_payload_digests(storage: BundleStorage, payload: Payload, signed_digest: str) -> None:
    """Check the signed digest of a payload file, without decrypting.

    One hash when all is well; only a file that is refused already is read again, to name its first damaged span.

    Raises:
        SignatureError: EG-S004.
        BundleFormatError: EG-B002, missing, unreadable or of another size.
    """
    with hashed_copies(storage, payload) as copies:
        for _ in copies:
            pass
        try:
            copies.require_digest(signed_digest)
        except SignatureError:
            damaged = _first_damaged_span(storage, payload)
            if damaged is None:
                raise
            start = damaged * SPAN_BYTES
            raise SignatureError(
                f"payload/{payload.name} is damaged or altered between bytes {start} and {start + SPAN_BYTES}",
                code="EG-S004",
                hint="copy the bundle again",
            ) from None


def on_all_cores(payloads: Sequence[Payload], work: Callable[[Payload], R]) -> dict[str, R]:
    """Do `work` for each payload, largest first, on as many threads as this process has cores; results by name.

    Raises:
        The exception of the first payload, in the manifest's order, that has one.
    """
    workers = min(len(payloads), len(os.sched_getaffinity(0)))
    if workers == 1:
        return {payload.name: work(payload) for payload in payloads}
    with ThreadPoolExecutor(workers, "edgeguard-payload") as pool:
        largest_first = sorted(payloads, key=lambda payload: -payload.ciphertext_bytes)
        running = {payload.name: pool.submit(work, payload) for payload in largest_first}
    return {payload.name: running[payload.name].result() for payload in payloads}


def fill(stream: ByteStream, view: memoryview) -> int:
    """Read until `view` is full or the file ends; return how much. Raises BundleFormatError (EG-B002)."""
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


def _first_damaged_span(storage: BundleStorage, payload: Payload) -> int | None:
    buffer = memoryview(bytearray(SPAN_BYTES))
    with storage.open_stream(f"payload/{payload.name}") as stream:
        for index, digest in enumerate(payload.spans):
            span = buffer[: fill(stream, buffer)]
            if hashlib.sha256(span).hexdigest() != digest:
                return index
    return None
