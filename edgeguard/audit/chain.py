"""Hash chain, frame layout and checkpoint MACs (docs/formats/audit-log.md, sections 3, 5, 6). Pure: no I/O.

Every hash and MAC begins with a label and a zero byte, so that no value made for one purpose serves another.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgeguard.audit.record import MAX_PAYLOAD_BYTES, MIN_PAYLOAD_BYTES, Record, encode_record
from edgeguard.errors import AuditError, ConfigError

MAGIC = b"EGAUDIT\x01"
HEADER_BYTES = 12
CHECKPOINT_KIND = "audit.checkpoint"
DROPPED_KIND = "audit.dropped"
OPEN_KIND = "audit.open"
LOST_KIND = "audit.lost"
KEY_BYTES = 32

_RECORD_LABEL = b"edgeguard/audit/record/v1\x00"
_CHECKPOINT_LABEL = b"edgeguard/audit/checkpoint/v1\x00"
_EVOLVE_LABEL = b"edgeguard/audit/evolve/v1\x00"
GENESIS = hashlib.sha256(b"edgeguard/audit/genesis/v1\x00").hexdigest()


def record_hash(payload: bytes) -> str:
    """Return the chain hash of a record's payload, 64 hex digits."""
    return hashlib.sha256(_RECORD_LABEL + payload).hexdigest()


def frame_bytes(payload: bytes) -> bytes:
    """Return header and payload as they are stored."""
    head = struct.pack("<II", len(payload), zlib.crc32(payload))
    return head + struct.pack("<I", zlib.crc32(head)) + payload


@dataclass(frozen=True, slots=True)
class Torn:
    """The last frame was not written completely; `size_bytes` from `offset` on are to be cut."""

    offset: int
    size_bytes: int


def iter_frames(data: bytes, offset: int, *, may_be_torn: bool) -> Iterator[tuple[int, bytes] | Torn]:
    """Yield (offset, payload) of each frame from `offset` on; a `Torn` last, where the format allows a torn tail.

    Raises:
        AuditError: the bytes are damaged in a way that a power cut does not explain.
    """
    written = len(data.rstrip(b"\x00"))  # a file system may pad what a power cut interrupted; no payload ends in zero
    while offset < len(data):
        if may_be_torn and written - offset < HEADER_BYTES:
            yield Torn(offset, len(data) - offset)
            return
        if len(data) - offset < HEADER_BYTES:
            raise AuditError(f"frame header at byte {offset} is cut short", code="EG-A004")
        length, payload_crc, header_crc = struct.unpack_from("<III", data, offset)
        if zlib.crc32(data[offset : offset + 8]) != header_crc:
            raise AuditError(f"frame header at byte {offset} fails its checksum", code="EG-A004")
        if not MIN_PAYLOAD_BYTES <= length <= MAX_PAYLOAD_BYTES:
            raise AuditError(f"frame length at byte {offset} is out of range", code="EG-A004")
        end = offset + HEADER_BYTES + length
        payload = data[offset + HEADER_BYTES : end]
        if len(payload) < length or zlib.crc32(payload) != payload_crc:
            if may_be_torn and end >= written:
                yield Torn(offset, len(data) - offset)
                return
            raise AuditError(f"frame at byte {offset} is cut short or fails its checksum", code="EG-A004")
        yield offset, payload
        offset = end


class MacKey:
    """The checkpoint key of the current segment. It only moves forward; what it was before is overwritten.

    CPython's hmac copies the key while it computes; those copies are freed, not wiped.
    """

    def __init__(self, secret: bytes | bytearray | memoryview) -> None:
        self._key = bytearray(secret)
        self.segment = 0
        if len(self._key) != KEY_BYTES:
            raise ConfigError(f"audit mac key must be {KEY_BYTES} bytes", code="EG-C040")

    def evolve_to(self, segment: int) -> None:
        """Move on to the key of `segment`.

        Raises:
            AuditError: `segment` lies behind; that key no longer exists.
        """
        if segment < self.segment:
            raise AuditError(f"the key of segment {segment} is gone", code="EG-A005")
        while self.segment < segment:
            self._key[:] = hmac.digest(self._key, _EVOLVE_LABEL, "sha256")
            self.segment += 1

    def mac(self, message: bytes) -> str:
        return hmac.digest(self._key, _CHECKPOINT_LABEL + message, "sha256").hex()

    def wipe(self) -> None:
        self._key[:] = bytes(len(self._key))


def checkpoint_mac(key: MacKey, record: Record) -> str:
    """Return the MAC that the checkpoint `record` must carry under `key`."""
    return key.mac(encode_record(replace(record, body={**record.body, "mac": ""})))


def verify_checkpoint(key: MacKey, record: Record) -> None:
    """Check the MAC of a checkpoint.

    Raises:
        AuditError: it carries none, or it was made under another key or over another record.
    """
    stated = record.body.get("mac")
    if not isinstance(stated, str) or not hmac.compare_digest(stated.encode(), checkpoint_mac(key, record).encode()):
        raise AuditError("checkpoint fails its mac", code="EG-A006")


def is_urgent(kind: str, body: Mapping[str, Any], verdict_before: str) -> bool:
    """Whether the record must be on the medium before the next thing happens (format section 7).

    A change of verdict is; that it still holds is not: ten flushes a second for minutes would wear a memory card out.
    """
    return kind.startswith(("audit.", "security.")) or body.get("verdict", verdict_before) != verdict_before
