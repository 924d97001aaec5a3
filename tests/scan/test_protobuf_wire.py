"""The wire reader reads exactly what protobuf writes, and nothing else."""

from __future__ import annotations

import contextlib

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import ModelStructureError
from edgeguard.scan import protobuf
from edgeguard.scan.protobuf import FIXED32, LENGTH, VARINT, Field


@given(st.integers(0, (1 << 64) - 1))
def test_every_number_survives_writing_and_reading(value: int) -> None:
    """Varints of all 64 bits round-trip."""
    encoded = protobuf.varint(value)

    assert protobuf.read_varint(encoded, 0, len(encoded)) == (value, len(encoded))


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_signed_numbers_are_those_of_the_protobuf_library(value: int) -> None:
    """A negative int64 of a real message reads as itself."""
    message = onnx.OperatorSetIdProto(version=value).SerializeToString()

    (field,) = protobuf.fields(message, 0, len(message))

    assert protobuf.signed64(field.value) == value


@given(st.lists(st.tuples(st.integers(1, (1 << 29) - 1), st.binary(max_size=200))))
def test_fields_tile_the_message(pairs: list[tuple[int, bytes]]) -> None:
    """Spans follow one another without gap and give back every payload."""
    message = b"".join(protobuf.length_delimited(number, payload) for number, payload in pairs)

    found = list(protobuf.fields(message, 0, len(message)))

    assert [(f.number, message[f.value_start : f.end]) for f in found] == pairs
    assert [f.start for f in found] == [0, *(f.end for f in found)][:-1] if found else message == b""


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """Arbitrary input never raises anything but our error, and never reads outside."""
    with contextlib.suppress(ModelStructureError):
        for field in protobuf.fields(content, 0, len(content)):
            assert 0 <= field.start < field.value_start <= field.end <= len(content) or field.wire_type == VARINT


@pytest.mark.parametrize(
    "content",
    [
        b"\x08",  # a tag without its number
        b"\x08\x80",  # a number cut short
        b"\x08\x80\x00",  # zero, padded
        b"\x08" + b"\xff" * 9 + b"\x02",  # 65 bits
        b"\x08" + b"\x80" * 10 + b"\x01",  # eleven bytes
        b"\x0a\x05abcd",  # a length past the end
        b"\x0d\x00\x00\x00",  # fixed32 cut short
        b"\x09" + bytes(7),  # fixed64 cut short
        b"\x0b\x0c",  # a group
        b"\x0e",  # wire type 6
        b"\x00\x00",  # field number 0
        b"\x80\x80\x80\x80\x10\x00",  # field number 2**29
    ],
)
def test_malformed_fields_are_refused(content: bytes) -> None:
    """Each way in which a field can be broken has its error."""
    with pytest.raises(ModelStructureError, match="not well-formed"):
        list(protobuf.fields(content, 0, len(content)))


def test_a_span_is_not_left() -> None:
    """A length that fits the file but not the enclosing message is refused."""
    with pytest.raises(ModelStructureError):
        list(protobuf.fields(b"\x0a\x02abcdef", 0, 3))


def test_floats_and_nested_messages_are_spans() -> None:
    """Fixed-width values and messages come as spans of the buffer."""
    message = onnx.AttributeProto(name="n", f=1.0).SerializeToString()

    found = {f.number: f for f in protobuf.fields(memoryview(message), 0, len(message))}

    assert found[1] == Field(1, LENGTH, 0, 2, 3, 0)
    assert found[2].wire_type == FIXED32
    assert found[2].end - found[2].value_start == 4
