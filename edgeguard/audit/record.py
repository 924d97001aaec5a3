"""One audit record and its canonical bytes (docs/formats/audit-log.md, section 4). Pure.

A record that is read is decoded, encoded again and refused if the bytes differ: there is exactly one way to write it,
so a hash over the bytes is a hash over the meaning.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeguard.errors import AuditError

FORMAT_VERSION = 1
MAX_PAYLOAD_BYTES = 256 * 1024  # a frame record is about 2 kB; the bound keeps a reader's memory small
MIN_PAYLOAD_BYTES = 2
MAX_DEPTH = 16  # bodies are flat; deeper input is an attack on recursive readers
MAX_BOOT_ID_CHARS = 64
MAX_KIND_CHARS = 64
INT64_MAX = 2**63 - 1

_KIND = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")
_HASH = re.compile(r"[0-9a-f]{64}")
_MEMBERS = frozenset({"body", "boot_id", "kind", "mono_ns", "prev", "seq", "v", "wall_ns"})


@dataclass(frozen=True, slots=True)
class Record:
    """One entry. `prev` is the hash of the entry before, 64 hex digits; stamps are nanoseconds."""

    seq: int
    boot_id: str
    mono_ns: int
    wall_ns: int
    kind: str
    body: Mapping[str, Any]
    prev: str


def encode_record(record: Record) -> bytes:
    """Return the canonical payload bytes.

    Raises:
        AuditError: a value is of a type, size or depth that the format does not have.
    """
    _check_fields(record)
    members = {
        "body": _plain(record.body, 2),
        "boot_id": record.boot_id,
        "kind": record.kind,
        "mono_ns": _plain(record.mono_ns, 2),
        "prev": record.prev,
        "seq": _plain(record.seq, 2),
        "v": FORMAT_VERSION,
        "wall_ns": _plain(record.wall_ns, 2),
    }
    try:
        payload = json.dumps(
            members, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
    except UnicodeEncodeError:
        raise AuditError("a string in the record is not valid unicode", code="EG-A001") from None
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise AuditError(f"record of {len(payload)} bytes exceeds {MAX_PAYLOAD_BYTES}", code="EG-A002")
    return payload


def decode_record(payload: bytes) -> Record:
    """Return the record that `payload` is.

    Raises:
        AuditError: the bytes are not the canonical form of a version 1 record.
    """
    try:
        members = json.loads(payload)
    except (ValueError, RecursionError):
        raise AuditError("record is not json", code="EG-A003") from None
    if not isinstance(members, dict) or members.keys() != _MEMBERS:
        raise AuditError("record does not have the members of the format", code="EG-A003")
    if members["v"] != FORMAT_VERSION or isinstance(members["v"], bool):
        raise AuditError("record is of an unknown format version", code="EG-A003")
    del members["v"]
    record = Record(**members)
    try:
        canonical = encode_record(record)
    except AuditError as error:
        raise AuditError(f"record breaks the format: {error.message}", code="EG-A003") from None
    if canonical != payload:
        raise AuditError("record is not in canonical form", code="EG-A003")
    return record


def _check_fields(record: Record) -> None:
    # What was read from a file has whatever types json gave it, whatever the annotations say.
    body: object = record.body
    kind: object = record.kind
    boot_id: object = record.boot_id
    prev: object = record.prev
    integers: dict[str, object] = {"seq": record.seq, "mono_ns": record.mono_ns, "wall_ns": record.wall_ns}
    if not isinstance(body, Mapping):
        raise AuditError("body is not a mapping", code="EG-A001")
    if not isinstance(kind, str) or len(kind) > MAX_KIND_CHARS or not _KIND.fullmatch(kind):
        raise AuditError("kind is not a dotted lower-case name", code="EG-A001")
    if not isinstance(boot_id, str) or not 1 <= len(boot_id) <= MAX_BOOT_ID_CHARS:
        raise AuditError("boot_id is not a string of 1 to 64 characters", code="EG-A001")
    if not isinstance(prev, str) or not _HASH.fullmatch(prev):
        raise AuditError("prev is not a sha-256 in hex", code="EG-A001")
    for name, value in integers.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise AuditError(f"{name} is not an integer", code="EG-A001")
    if record.seq < 0:
        raise AuditError("seq is negative", code="EG-A001")


def _plain(value: Any, depth: int) -> Any:
    """Copy `value` into dict, list and scalars, refusing what JSON cannot carry without loss."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if abs(value) > INT64_MAX:
            raise AuditError("an integer does not fit 64 bits", code="EG-A001")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise AuditError("a number is infinite or not a number", code="EG-A001", hint="log None instead")
        return float(value)
    if depth > MAX_DEPTH:
        raise AuditError(f"record is nested deeper than {MAX_DEPTH} levels", code="EG-A001")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise AuditError("a member name is not a string", code="EG-A001")
        return {str(key): _plain(member, depth + 1) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member, depth + 1) for member in value]
    raise AuditError(f"a value of type {type(value).__name__} cannot be logged", code="EG-A001")
