"""A bounded reader and writer of the protobuf wire format, and nothing above it.

It knows tags, varints and lengths, not messages; `onnx_schema` gives them meaning. Payloads are never copied while
reading: a field is a span of the caller's buffer, so a gigabyte of weights costs one tag and one length.

Stricter than protobuf parsers on purpose, so that no two readers can see different messages in the same bytes:
groups (deprecated since 2008), field number 0, varints longer than their value needs and lengths past the end of
the enclosing message are refused.

Source: the encoding chapter of the Protocol Buffers documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from edgeguard.errors import ModelStructureError

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
FIXED32: Final = 5

MAX_VARINT_BYTES: Final = 10  # 64 bits in groups of seven
MAX_FIELD_NUMBER: Final = (1 << 29) - 1  # what a 32-bit tag can hold beside its 3-bit wire type
_U64_LIMIT: Final = 1 << 64
_FIXED_BYTES: Final = {FIXED64: 8, FIXED32: 4}

_CONTINUED: Final = bytes(range(0x80, 0x100))  # bytes of a varint that another byte follows

Buffer = bytes | memoryview


class Field(NamedTuple):
    """One field: its bytes are `start:end`, its payload `value_start:end`.

    `value` is the number of a VARINT (unsigned, 64 bits) and 0 for every other wire type.
    """

    number: int
    wire_type: int
    start: int
    value_start: int
    end: int
    value: int


def malformed(what: str, offset: int) -> ModelStructureError:
    """Return the error for bytes that are not well-formed protobuf."""
    return ModelStructureError(
        f"the model is not well-formed protobuf: {what} at byte {offset}",
        code="EG-G001",
        hint="the file is damaged or is not an ONNX model; export it again",
    )


def read_varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """Return the varint at `position` and the position after it; it must end before `end`.

    Raises:
        ModelStructureError: it is cut short, longer than 64 bits, or padded with needless zero groups.
    """
    value = 0
    for index in range(MAX_VARINT_BYTES):
        if position >= end:
            raise malformed("a number is cut short", position)
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if (byte == 0 and index > 0) or value >= _U64_LIMIT:
                raise malformed("a number is written in no canonical way", position)
            return value, position
    raise malformed("a number has more than 64 bits", position)


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message that occupies `start:end` of `buffer`.

    Raises:
        ModelStructureError: the span is not a whole number of well-formed fields.
    """
    position = start
    while position < end:
        begin = position
        tag = buffer[position]
        if tag < 0x80:
            position += 1
        else:
            tag, position = read_varint(buffer, position, end)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number <= MAX_FIELD_NUMBER:
            raise malformed("a field number is out of range", begin)
        value, value_start = 0, position
        if wire_type == LENGTH:
            length, value_start = read_varint(buffer, position, end)
            position = value_start + length
        elif wire_type == VARINT:
            value, position = read_varint(buffer, position, end)
        elif wire_type in _FIXED_BYTES:
            position += _FIXED_BYTES[wire_type]
        else:
            raise malformed("a group or an unknown wire type", begin)
        if position > end:
            raise malformed("a field reaches past the end of its message", begin)
        yield Field(number, wire_type, begin, value_start, position, value)


def packed_varints(buffer: Buffer, start: int, end: int) -> Iterator[int]:
    """Yield the unsigned 64-bit numbers of a packed repeated field's payload."""
    position = start
    while position < end:
        value, position = read_varint(buffer, position, end)
        yield value


def varint_count(buffer: Buffer, start: int, end: int) -> int:
    """Return how many varints `start:end` holds, at the speed of a byte search.

    Raises:
        ModelStructureError: the last one is cut short.
    """
    payload = bytes(buffer[start:end])
    if payload and payload[-1] >= 0x80:
        raise malformed("a number is cut short", end)
    return len(payload.translate(None, _CONTINUED))


def signed64(value: int) -> int:
    """Read an unsigned 64-bit varint as the two's complement number protobuf means by int64 and int32."""
    return value - _U64_LIMIT if value >> 63 else value


def varint(value: int) -> bytes:
    """Encode a non-negative number below 2**64."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def length_delimited(number: int, payload: Buffer) -> bytes:
    """Encode one LENGTH field: tag, length, payload."""
    return b"".join((varint(number << 3 | LENGTH), varint(len(payload)), payload))


def varint_field(number: int, value: int) -> bytes:
    """Encode one VARINT field."""
    return varint(number << 3 | VARINT) + varint(value)
