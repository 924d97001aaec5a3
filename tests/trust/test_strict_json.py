"""JSON from strangers costs time in proportion to its length, also when nothing in it is what it seems."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.clock import NS_PER_S, SystemClock
from edgeguard.errors import BundleFormatError
from edgeguard.trust.strict_json import MAX_DEPTH, canonical, parse

# Quadratic time would take more than an hour for these; a slow board takes well under a second.
HOSTILE_BYTES = 1024 * 1024
PATIENCE_NS = 20 * NS_PER_S


@pytest.mark.parametrize(
    "raw",
    [
        b'"' + b'\\"' * (HOSTILE_BYTES // 2),
        b'"' + b'\\"' * (HOSTILE_BYTES // 2) + b"\\",
        b'"\\' * (HOSTILE_BYTES // 2),
        b"[" * HOSTILE_BYTES,
        b'["' * (HOSTILE_BYTES // 2),
        b'{"a":' * (HOSTILE_BYTES // 5),
        b'"' + b"[" * HOSTILE_BYTES,
        b"1" * HOSTILE_BYTES,
        b"[" + b"9" * 4299 + b"]" * HOSTILE_BYTES,
        b"\\" * HOSTILE_BYTES,
    ],
    ids=["escaped quotes", "cut in an escape", "quotes and backslashes", "arrays", "arrays in strings", "objects",
         "brackets in an open string", "one number", "closing brackets", "backslashes"],
)  # fmt: skip
def test_a_hostile_megabyte_is_refused_in_time_that_grows_with_its_length(raw: bytes) -> None:
    """The size that is read before any signature is known."""
    clock = SystemClock()
    start_ns = clock.now_ns()

    with pytest.raises(BundleFormatError) as caught:
        parse(raw, what="x")

    assert caught.value.code == "EG-B003"
    assert clock.now_ns() - start_ns < PATIENCE_NS


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@given(
    st.recursive(
        st.text(alphabet='[]{}"\\ab'), lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3)
    ),
    st.integers(0, 2 * MAX_DEPTH),
)
def test_only_brackets_outside_strings_count_as_depth(value: object, wrappers: int) -> None:
    """Strings full of quotes, backslashes and brackets, at any depth: accepted exactly up to the limit."""
    for _ in range(wrappers):
        value = [value]
    try:
        raw = canonical(value)
    except UnicodeEncodeError:
        return

    if _depth(value) <= MAX_DEPTH:
        assert parse(raw, what="x") == json.loads(raw)
    else:
        with pytest.raises(BundleFormatError):
            parse(raw, what="x")
