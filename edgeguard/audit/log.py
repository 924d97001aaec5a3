"""`AuditLog`: the one writer of a log folder (docs/formats/audit-log.md).

Every record reaches the file at once; what must not be lost reaches the medium at once; the rest is flushed in
batches, because flushing each record writes twenty times its size to the flash.

Not shown by the log itself: truncation, and a rewrite by who holds the key (section 9). Send `head` off the device.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeguard.audit.chain import (
    CHECKPOINT_KIND,
    DROPPED_KIND,
    GENESIS,
    LOST_KIND,
    MAGIC,
    OPEN_KIND,
    MacKey,
    Torn,
    checkpoint_mac,
    frame_bytes,
    is_urgent,
    record_hash,
    verify_checkpoint,
)
from edgeguard.audit.record import MAX_PAYLOAD_BYTES, Record, encode_record
from edgeguard.audit.segment import MAX_SEGMENT_BYTES, Entry, list_segments, read_entries, segment_path
from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import AuditError, ConfigError, EnvironmentMissingError
from edgeguard.harden.durable import sync_folder

FLUSH_RECORDS = 64  # with 200-byte records one flush per 50 writes 1.4 bytes to flash per byte logged; each alone, 20
FLUSH_NS = NS_PER_S  # the most that a power cut may take
CHECKPOINT_RECORDS = 1024
CHECKPOINT_NS = 60 * NS_PER_S
MIN_SEGMENT_BYTES = 2 * MAX_PAYLOAD_BYTES  # any record and the closing checkpoint fit
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


class AuditLog:
    """Append-only, hash-chained log. One writer per folder, one thread; use as a context manager.

    Args:
        directory: made when absent, for the owner alone.
        clock: stamps records and times the batches.
        mac_key: the device's 32-byte secret for the label "audit-log"; copied, and wiped as segments close. None
            writes checkpoints without a MAC, which show accidents only.
        boot_id: which start of the machine this is; the kernel's when not given.
        segment_bytes: when a segment is closed. max_bytes: cap of the whole folder; the oldest segments go first.

    Raises:
        AuditError: the last segment on disk is damaged (not merely torn), or the folder cannot be written or is
            in use. Only the last segment is read here; `verify_log` reads all.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        clock: Clock,
        mac_key: bytes | bytearray | memoryview | None = None,
        boot_id: str | None = None,
        segment_bytes: int = 4 * 1024 * 1024,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        if not MIN_SEGMENT_BYTES <= segment_bytes <= MAX_SEGMENT_BYTES - MIN_SEGMENT_BYTES:
            raise ConfigError(f"segment_bytes must be at least {MIN_SEGMENT_BYTES}", code="EG-C041")
        if max_bytes < 3 * segment_bytes:
            raise ConfigError("max_bytes must hold three segments", code="EG-C041")
        self._directory = Path(directory)
        self._clock = clock
        self._key = MacKey(mac_key) if mac_key is not None else None
        self._boot_id = boot_id or _kernel_boot_id()
        self._segment_bytes = segment_bytes
        self._max_bytes = max_bytes
        self._seq = 0
        self._head = GENESIS
        self._segment = 0
        self._size = 0
        self._fd = -1
        self._lock_fd = -1
        self._broken = ""
        self._unflushed = 0
        self._verdict = "PASS"  # of the last record that carried one
        self._unflushed_since_ns = 0
        self._since_checkpoint = 0
        self._checkpoint_ns = clock.now_ns()
        self._lost_count = 0
        self._lost_since_ns = 0
        try:
            self._open()
        except OSError as error:
            self._release()
            raise AuditError(f"cannot open the log folder: {error.strerror}", code="EG-A011") from None
        except AuditError:
            self._release()
            raise

    @property
    def head(self) -> str:
        """Hash of the newest record: names the whole log; keep it off the device."""
        return self._head

    @property
    def next_seq(self) -> int:
        """Sequence number that the next record gets."""
        return self._seq

    @property
    def lost_records(self) -> int:
        """Records that could not be stored since the last that could; 0 when all is well."""
        return self._lost_count

    def append(self, kind: str, body: Mapping[str, Any], *, urgent: bool = False) -> int:
        """Add one record and return its sequence number.

        Raises:
            AuditError: the record breaks the format (EG-A001, EG-A002), the medium is full (EG-A012: the chain is
                intact and a later call may succeed), or the log must be opened again (EG-A013).
        """
        if kind.startswith("audit."):
            raise AuditError("kinds that begin with audit. belong to the log", code="EG-A001")
        encode_record(self._make(kind, body))  # refuse a malformed body before anything is written
        try:
            self._write_pending_loss()
            if self._size >= self._segment_bytes:
                self._rotate()
            seq = self._write(kind, body)
        except AuditError:
            self._count_loss()
            raise
        self._flush_if_due(urgent=urgent or is_urgent(kind, body, self._verdict))
        self._verdict = str(body.get("verdict", self._verdict))
        if self._checkpoint_due():
            self.checkpoint()
        return seq

    def checkpoint(self) -> int:
        """Seal everything so far, flush it, and return the checkpoint's sequence number.

        Raises:
            AuditError: as `append`.
        """
        seq = self._write_checkpoint()
        self._flush()
        return seq

    def close(self) -> None:
        """Write a last checkpoint, flush, forget the key. Does nothing the second time.

        Raises:
            AuditError: the checkpoint could not be stored; everything is released all the same.
        """
        if self._fd < 0:
            return
        try:
            if not self._broken and self._since_checkpoint:
                self._write_pending_loss()
                self.checkpoint()
        finally:
            self._release()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _open(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AuditError("another process writes this log", code="EG-A011") from None
        indices = list_segments(self._directory)
        if indices:
            unsealed, torn_bytes = self._resume(indices)
        else:
            unsealed = torn_bytes = 0
            self._fd = self._create_segment(0)
            self._size = len(MAGIC)
        self._write(OPEN_KIND, {"torn_bytes": torn_bytes, "unsealed": unsealed})
        self._flush()

    def _resume(self, indices: list[int]) -> tuple[int, int]:
        """Take up the chain where the last run left it; cut a torn tail. Returns (unsealed, torn bytes)."""
        self._segment = indices[-1]
        unsealed = torn_bytes = 0
        last: Entry | None = None
        if self._key is not None:
            # A current segment without records leans on the one before, whose checkpoint needs the key before.
            self._key.evolve_to(max(self._segment - 1, indices[0]))
        for index in indices[-2:]:
            is_current = index == self._segment
            for entry in read_entries(self._directory, index, is_current=is_current):
                if isinstance(entry, Torn):
                    torn_bytes = entry.size_bytes
                    self._cut(entry.offset)
                    continue
                self._check_resumed(last, entry)
                unsealed = 0 if entry.record.kind == CHECKPOINT_KIND else unsealed + 1
                last = entry
        path = segment_path(self._directory, self._segment)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        if os.fstat(self._fd).st_size == 0:
            os.write(self._fd, MAGIC)
        self._size = os.fstat(self._fd).st_size
        if self._key is not None:
            self._key.evolve_to(self._segment)
        if last is None and self._segment > 0:
            raise AuditError(f"{path.name} holds no record and nothing precedes it", code="EG-A010")
        if last is not None:
            self._seq, self._head = last.record.seq + 1, last.digest
        self._since_checkpoint = unsealed
        return unsealed, torn_bytes

    def _check_resumed(self, last: Entry | None, entry: Entry) -> None:
        record = entry.record
        if last is not None and (record.seq != last.record.seq + 1 or record.prev != last.digest):
            raise AuditError(f"segment {entry.segment}, record {record.seq}: breaks the chain", code="EG-A010")
        if last is None and record.seq == 0 and record.prev != GENESIS:
            raise AuditError(f"segment {entry.segment}, record 0: does not begin a chain", code="EG-A010")
        if record.kind == CHECKPOINT_KIND and self._key is not None:
            self._key.evolve_to(entry.segment)
            try:
                verify_checkpoint(self._key, record)
            except AuditError as error:
                raise AuditError(
                    f"segment {entry.segment}, record {record.seq}: {error.message}", code=error.code
                ) from None

    def _cut(self, offset: int) -> None:
        descriptor = os.open(segment_path(self._directory, self._segment), os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.ftruncate(descriptor, offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _make(self, kind: str, body: Mapping[str, Any]) -> Record:
        return Record(self._seq, self._boot_id, self._clock.now_ns(), self._clock.wall_ns(), kind, body, self._head)

    def _write(self, kind: str, body: Mapping[str, Any]) -> int:
        """Store one record; on failure the file and the chain are as before."""
        if self._broken or self._fd < 0:
            raise AuditError(self._broken or "the log is closed", code="EG-A013", hint="open the log again")
        record = self._make(kind, body)
        if kind == CHECKPOINT_KIND and self._key is not None:
            record = Record(**{**_fields(record), "body": {**body, "mac": checkpoint_mac(self._key, record)}})
        payload = encode_record(record)
        frame = frame_bytes(payload)
        try:
            _write_all(self._fd, frame)
        except OSError as error:
            self._undo(error)
        self._size += len(frame)
        self._head = record_hash(payload)
        self._seq += 1
        self._since_checkpoint += 1
        if self._unflushed == 0:
            self._unflushed_since_ns = record.mono_ns
        self._unflushed += 1
        return record.seq

    def _undo(self, error: OSError) -> None:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._broken = "a record was half written and could not be cut off"
        raise AuditError(f"record cannot be stored: {error.strerror}", code="EG-A012", hint="free space") from None

    def _count_loss(self) -> None:
        if self._lost_count == 0:
            self._lost_since_ns = self._clock.now_ns()
        self._lost_count += 1

    def _write_pending_loss(self) -> None:
        if self._lost_count:
            self._write(LOST_KIND, {"count": self._lost_count, "first_mono_ns": self._lost_since_ns})
            self._lost_count = 0
            self._flush()

    def _write_checkpoint(self) -> int:
        seq = self._write(CHECKPOINT_KIND, {"mac": "", "segment": self._segment})
        self._since_checkpoint = 0
        self._checkpoint_ns = self._clock.now_ns()
        return seq

    def _checkpoint_due(self) -> bool:
        waited_ns = self._clock.now_ns() - self._checkpoint_ns
        return self._since_checkpoint >= CHECKPOINT_RECORDS or waited_ns >= CHECKPOINT_NS

    def _flush_if_due(self, *, urgent: bool) -> None:
        waited_ns = self._clock.now_ns() - self._unflushed_since_ns
        if urgent or self._unflushed >= FLUSH_RECORDS or waited_ns >= FLUSH_NS:
            self._flush()

    def _flush(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            # After a failed flush the kernel may have dropped the pages: only reading the medium again tells.
            self._broken = f"flush failed: {error.strerror}"
            raise AuditError(self._broken, code="EG-A013", hint="open the log again") from None
        self._unflushed = 0

    def _rotate(self) -> None:
        """Seal and close the segment, begin the next one under the next key, keep the ring under its cap."""
        self._write_checkpoint()
        self._flush()
        try:
            descriptor = self._create_segment(self._segment + 1)
        except OSError as error:
            with contextlib.suppress(OSError):
                segment_path(self._directory, self._segment + 1).unlink(missing_ok=True)
            raise AuditError(f"segment cannot be made: {error.strerror}", code="EG-A012", hint="free space") from None
        os.close(self._fd)
        self._fd = descriptor
        self._segment += 1
        self._size = len(MAGIC)
        if self._key is not None:
            self._key.evolve_to(self._segment)
        try:
            self._drop_oldest()
        except OSError as error:
            raise AuditError(f"old segment cannot be dropped: {error.strerror}", code="EG-A012") from None

    def _create_segment(self, index: int) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(segment_path(self._directory, index), flags, 0o600)
        try:
            _write_all(descriptor, MAGIC)
            os.fsync(descriptor)
            self._sync_directory()
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def _drop_oldest(self) -> None:
        closed = list_segments(self._directory)[:-1]
        sizes = {index: segment_path(self._directory, index).stat().st_size for index in closed}
        room = self._max_bytes - self._segment_bytes - MAX_PAYLOAD_BYTES
        while len(sizes) > 1 and sum(sizes.values()) > room:
            oldest = min(sizes)
            del sizes[oldest]
            self._drop(oldest)

    def _drop(self, index: int) -> None:
        """Say on the medium what is about to go, then let it go: a crash in between leaves a valid log."""
        for following in read_entries(self._directory, index + 1, is_current=False):
            if isinstance(following, Entry):
                before = following.record
                self._write(DROPPED_KIND, {"head": before.prev, "last_seq": before.seq - 1, "segment": index})
                self._flush()
                segment_path(self._directory, index).unlink()
                self._sync_directory()
            return

    def _sync_directory(self) -> None:
        sync_folder(self._directory)

    def _release(self) -> None:
        for descriptor in (self._fd, self._lock_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._fd = self._lock_fd = -1
        if self._key is not None:
            self._key.wipe()


def _kernel_boot_id() -> str:
    try:
        return BOOT_ID_FILE.read_text().strip()
    except OSError:
        raise EnvironmentMissingError(
            "the kernel does not tell its boot id", code="EG-E040", hint="pass boot_id"
        ) from None


def _fields(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in Record.__slots__}


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
