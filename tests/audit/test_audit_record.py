"""The canonical bytes of one record."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.audit.record import MAX_PAYLOAD_BYTES, Record, decode_record, encode_record
from edgeguard.errors import AuditError

HASH = "ab" * 32
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=4), max_leaves=12)
BODIES = st.dictionaries(TEXT, VALUES, max_size=5)


def record(body: object = None, **changes: object) -> Record:
    fields = {"seq": 3, "boot_id": "b", "mono_ns": 5, "wall_ns": 7, "kind": "frame", "body": body or {}, "prev": HASH}
    return Record(**{**fields, **changes})  # type: ignore[arg-type]


@given(BODIES)
def test_every_record_reads_back_as_itself(body: dict[str, object]) -> None:
    """decode(encode(r)) == r, for every body that JSON can hold."""
    original = record(body)

    again = decode_record(encode_record(original))

    assert again == original
    assert encode_record(again) == encode_record(original)


def test_the_bytes_are_those_of_the_format_document() -> None:
    """A vector written by hand: sorted members, no white space, shortest numbers."""
    payload = encode_record(record({"z": 0.1, "a": [1, None, True], "é": "\n\u2028"}))

    assert (
        payload
        == (
            '{"body":{"a":[1,null,true],"z":0.1,"é":"\\n\u2028"},"boot_id":"b","kind":"frame","mono_ns":5,'
            f'"prev":"{HASH}","seq":3,"v":1,"wall_ns":7}}'
        ).encode()
    )


@pytest.mark.parametrize(
    "body",
    [{"x": float("inf")}, {"x": float("nan")}, {"x": 2**63}, {"x": b""}, {"x": {1: 2}}, {"x": "\ud800"}, {"x": {1, 2}}],
    ids=["infinite", "nan", "too large", "bytes", "key no string", "lone surrogate", "set"],
)
def test_a_value_that_json_cannot_carry_is_refused(body: dict[str, object]) -> None:
    """Nothing is silently changed into something else."""
    with pytest.raises(AuditError) as caught:
        encode_record(record(body))
    assert caught.value.code == "EG-A001"


def test_depth_and_size_are_bounded() -> None:
    """A body deeper than the format allows, or larger, is refused."""
    deep: dict[str, object] = {}
    for _ in range(20):
        deep = {"d": deep}

    with pytest.raises(AuditError, match="nested"):
        encode_record(record(deep))
    with pytest.raises(AuditError, match="exceeds"):
        encode_record(record({"x": "y" * MAX_PAYLOAD_BYTES}))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m | {"extra": 1},
        lambda m: {k: v for k, v in m.items() if k != "kind"},
        lambda m: m | {"v": 2},
        lambda m: m | {"v": True},
        lambda m: m | {"seq": -1},
        lambda m: m | {"seq": 1.0},
        lambda m: m | {"seq": True},
        lambda m: m | {"kind": "Frame"},
        lambda m: m | {"kind": 7},
        lambda m: m | {"prev": HASH.upper()},
        lambda m: m | {"boot_id": ""},
        lambda m: m | {"body": []},
    ],
)
def test_a_record_with_other_members_or_types_is_refused(change: object) -> None:
    """Exactly eight members, each of its type."""
    members = change(json.loads(encode_record(record({"a": 1}))))  # type: ignore[operator]
    payload = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()

    with pytest.raises(AuditError) as caught:
        decode_record(payload)
    assert caught.value.code == "EG-A003"


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"seq":3', b'"seq": 3'), (b'"seq":3', b'"seq":3,"seq":3'), (b'"a":1', b'"a":1.0e0'), (b'"b"', b'"\\u0062"')],
    ids=["space", "duplicate", "long number", "needless escape"],
)
def test_a_second_way_to_write_the_same_record_is_refused(old: bytes, new: bytes) -> None:
    """Canonical form is demanded, not produced: else two byte strings would have one meaning."""
    payload = encode_record(record({"a": 1})).replace(old, new)

    with pytest.raises(AuditError, match="canonical"):
        decode_record(payload)


@given(st.binary(max_size=200) | st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b"1" * 5000]))
def test_arbitrary_bytes_raise_nothing_but_audit_errors(payload: bytes) -> None:
    """A parser of hostile bytes has one exception."""
    with pytest.raises(AuditError):
        decode_record(payload)
