"""Check a log folder from the first byte to the last (docs/formats/audit-log.md).

A log that verifies was not edited between its first record and its last checkpoint. It may still have been cut
short, or rewritten by who holds the key: only a head kept off the device shows that (section 9).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeguard.audit.chain import CHECKPOINT_KIND, DROPPED_KIND, GENESIS, MacKey, Torn, verify_checkpoint
from edgeguard.audit.record import Record
from edgeguard.audit.segment import Entry, list_segments, read_entries, segment_path
from edgeguard.errors import AuditError


@dataclass(frozen=True, slots=True)
class LogSummary:
    """What a verified log holds.

    head: hash of the last record, the value to keep off the device. unsealed_records: how many records at the end no
    checkpoint covers. macs_checked: whether the checkpoints' MACs were checked (a key was given). torn_bytes: length of
    a torn tail that the next start will cut. verdicts: how many `frame` records per verdict.
    """

    records: int
    first_seq: int
    last_seq: int
    head: str
    segments: int
    boots: int
    checkpoints: int
    macs_checked: bool
    unsealed_records: int
    torn_bytes: int
    kinds: Mapping[str, int]
    verdicts: Mapping[str, int]


def read_log(directory: Path | str) -> Iterator[Record]:
    """Yield every record, oldest first, checking bytes and chain as it goes.

    Raises:
        AuditError: at the first record that is bad.
    """
    for entry in _walk(Path(directory)):
        if isinstance(entry, Entry):
            yield entry.record


def verify_log(
    directory: Path | str,
    mac_key: bytes | bytearray | memoryview | None = None,
    *,
    expected_head: str | None = None,
) -> LogSummary:
    """Check bytes, chain, checkpoints and dropped segments of a whole log.

    Args:
        directory: the log's folder.
        mac_key: the 32-byte secret K_0; without it the checkpoints' MACs are not checked.
        expected_head: a head that was kept elsewhere; it must still occur in the log.

    Raises:
        AuditError: names the first record that is bad, or says what is missing.
        ConfigError: `mac_key` has the wrong length.
    """
    key = MacKey(mac_key) if mac_key is not None else None
    try:
        return _verify(Path(directory), key, expected_head)
    finally:
        if key is not None:
            key.wipe()


def _verify(directory: Path, key: MacKey | None, expected_head: str | None) -> LogSummary:
    kinds: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    boots: set[str] = set()
    segments: set[int] = set()
    first: Record | None = None
    last: Entry | None = None
    torn_bytes = unsealed = 0
    start_explained = head_seen = False
    for entry in _walk(directory):
        if isinstance(entry, Torn):
            torn_bytes = entry.size_bytes
            continue
        record = entry.record
        if first is None:
            first = record
            start_explained = record.seq == 0
            head_seen = expected_head == record.prev and record.seq > 0
        _check_segment_end(last, entry)
        kinds[record.kind] += 1
        boots.add(record.boot_id)
        segments.add(entry.segment)
        unsealed += 1
        if record.kind == CHECKPOINT_KIND:
            _check_checkpoint(entry, key)
            unsealed = 0
        elif record.kind == DROPPED_KIND:
            start_explained |= _names_the_record_before(record.body, first)
        elif record.kind == "frame":
            verdicts[str(record.body.get("verdict"))] += 1
        head_seen |= entry.digest == expected_head
        last = entry
    if first is None or last is None:
        raise AuditError("the log holds no record", code="EG-A009", hint="check the folder's name")
    if not start_explained:
        raise AuditError(
            f"the log begins at record {first.seq} and no record says that earlier ones were dropped", code="EG-A009"
        )
    if expected_head is not None and not head_seen:
        raise AuditError("the log does not contain the expected head: it was cut or rewritten", code="EG-A009")
    return LogSummary(
        records=last.record.seq - first.seq + 1,
        first_seq=first.seq,
        last_seq=last.record.seq,
        head=last.digest,
        segments=len(segments),
        boots=len(boots),
        checkpoints=kinds[CHECKPOINT_KIND],
        macs_checked=key is not None,
        unsealed_records=unsealed,
        torn_bytes=torn_bytes,
        kinds=dict(sorted(kinds.items())),
        verdicts=dict(sorted(verdicts.items())),
    )


def _walk(directory: Path) -> Iterator[Entry | Torn]:
    """Yield entries of all segments in order, with sequence and chain checked."""
    indices = list_segments(directory)
    last: Entry | None = None
    for index in indices:
        for entry in read_entries(directory, index, is_current=index == indices[-1]):
            if isinstance(entry, Entry):
                _check_link(last, entry, directory)
                last = entry
            yield entry


def _check_link(last: Entry | None, entry: Entry, directory: Path) -> None:
    record = entry.record
    name = segment_path(directory, entry.segment).name
    if last is None:
        if record.seq == 0 and record.prev != GENESIS:
            raise AuditError(f"{name}, record 0: does not begin a chain", code="EG-A010")
        if (record.seq == 0) != (entry.segment == 0):
            raise AuditError(f"{name}, record {record.seq}: is not where a log begins", code="EG-A010")
        return
    if record.seq != last.record.seq + 1:
        raise AuditError(f"{name}, record {last.record.seq + 1}: found record {record.seq} instead", code="EG-A010")
    if record.prev != last.digest:
        raise AuditError(f"{name}, record {record.seq}: does not follow from the record before", code="EG-A010")


def _check_segment_end(last: Entry | None, entry: Entry) -> None:
    if last is not None and entry.segment != last.segment and last.record.kind != CHECKPOINT_KIND:
        raise AuditError(f"segment {last.segment} is closed but does not end in a checkpoint", code="EG-A010")


def _check_checkpoint(entry: Entry, key: MacKey | None) -> None:
    where = f"segment {entry.segment}, record {entry.record.seq}"
    if entry.record.body.keys() != {"segment", "mac"} or entry.record.body["segment"] != entry.segment:
        raise AuditError(f"{where}: checkpoint belongs to another segment", code="EG-A006")
    if key is None:
        return
    key.evolve_to(entry.segment)
    try:
        verify_checkpoint(key, entry.record)
    except AuditError as error:
        raise AuditError(f"{where}: {error.message}", code=error.code) from None


def _names_the_record_before(body: Mapping[str, Any], first: Record) -> bool:
    return body.get("last_seq") == first.seq - 1 and body.get("head") == first.prev
