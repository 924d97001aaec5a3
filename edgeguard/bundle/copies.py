"""Reading payload files: every byte once, into private memory, hashed where whatever else is done with the copy.

Whoever changes a file between two reads finds nobody reading twice. Steps are small enough to stay in a core's cache
between reading, hashing and decrypting. Each core takes a file of its own; a file that is more than a core's share is
hashed by a thread beside the one that reads and decrypts. The libraries release the interpreter lock for such sizes.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final, TypeVar

from edgeguard.bundle.manifest import CHUNK_BYTES, HEADER_BYTES, SPAN_BYTES, TAG_BYTES, Payload
from edgeguard.bundle.storage import BundleStorage, ByteStream
from edgeguard.errors import BundleFormatError, SignatureError
from edgeguard.harden.memory import private_mapping, wipe

STEP_BYTES: Final = 32 * (CHUNK_BYTES + TAG_BYTES)  # whole chunks; half a MiB fits into the cache of one core
FIRST_STEP_BYTES: Final = HEADER_BYTES + STEP_BYTES
_COPIES: Final = 4  # with a thread beside: one being read or decrypted, the others waiting for the hash
DAMAGE_HINT: Final = "copy the bundle again; to find the damaged place run: edgeguard verify BUNDLE --trust DIR"

R = TypeVar("R")


class HashedCopies:
    """One pass over a payload file: iterate to the end, then ask for the digest.

    Each item is a private copy of the next step, valid until the following one is asked for.
    """

    def __init__(self, stream: ByteStream, payload: Payload, ring: memoryview) -> None:
        """`ring` is room for first steps; more than one of them means that a thread does the hashing."""
        self._stream = stream
        self._payload = payload
        self._digest = hashlib.sha256()
        self._hash_failed = False
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._copied: SimpleQueue[memoryview | None] = SimpleQueue()
        for start in range(0, len(ring), FIRST_STEP_BYTES):
            self._free.put(ring[start : start + FIRST_STEP_BYTES])
        self._hashing: threading.Thread | None = None
        if len(ring) > FIRST_STEP_BYTES:
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
            self._copied.put(step)
            if self._hashing is None:
                self._copied.put(None)
                self._hash()
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
def hashed_copies(storage: BundleStorage, payload: Payload, *, beside: bool) -> Iterator[HashedCopies]:
    """Open a payload for its one pass; raises BundleFormatError (EG-B002) when it is missing or no regular file.

    beside: hash on a thread of its own.
    """
    ring = private_mapping((_COPIES if beside else 1) * FIRST_STEP_BYTES)
    try:
        with storage.open_stream(f"payload/{payload.name}") as stream, memoryview(ring) as view:
            copies = HashedCopies(stream, payload, view)
            try:
                yield copies
            finally:
                copies.stop()
    finally:
        wipe(ring)


def check_payload_digest(storage: BundleStorage, payload: Payload, signed_digest: str, *, beside: bool) -> None:
    """Check the signed digest of a payload file, without decrypting.

    One hash when all is well; only a file that is refused already is read again, to name its first damaged span.

    Raises:
        SignatureError: EG-S004.
        BundleFormatError: EG-B002, missing, unreadable or of another size.
    """
    with hashed_copies(storage, payload, beside=beside) as copies:
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


def on_all_cores(payloads: Sequence[Payload], work: Callable[[Payload, bool], R]) -> dict[str, R]:
    """Do `work(payload, beside)` for each payload on as many threads as this process has cores; results by name.

    The largest come first. `beside` is True for one that is more than a core's share of all bytes.

    Raises:
        The exception of the first payload, in the manifest's order, that has one.
    """
    cores = len(os.sched_getaffinity(0))
    share = sum(payload.ciphertext_bytes for payload in payloads) // cores
    with ThreadPoolExecutor(min(len(payloads), cores), "edgeguard-payload") as pool:
        running = {
            payload.name: pool.submit(work, payload, FIRST_STEP_BYTES < share < payload.ciphertext_bytes)
            for payload in sorted(payloads, key=lambda payload: -payload.ciphertext_bytes)
        }
        # Waiting here, not in the pool's exit: then an interrupt still lets the threads end before the caller wipes.
        wait(running.values())
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
