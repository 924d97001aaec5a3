"""The walker sees every import that Python's own unpicklers make, for any program: no parser differential.

The oracle is the real machine with its one dangerous part replaced: `find_class` records the name and hands out an
object that does nothing. Both implementations are asked, the C one and the one in Python.
"""

from __future__ import annotations

import io
import pickle  # noqa: TID251 - the oracle: its find_class imports nothing
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeguard.scan.findings import ScanVerdict
from edgeguard.scan.scanner import scan_bytes


class Inert:
    """Takes any call, attribute and item without doing anything."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **keywords: Any) -> Inert:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, value: Any) -> None:
        pass


def asked(machine: type, program: bytes) -> set[tuple[str, str]]:
    """Return the names a real unpickler asks for before it stops or gives up."""
    names: set[tuple[str, str]] = set()

    class Recorder(machine):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            names.add((module, name))
            return Inert

        def persistent_load(self, pid: Any) -> Any:
            return pid

    with suppress(Exception):  # a broken program ends somewhere; what it asked for until then counts
        Recorder(io.BytesIO(program)).load()
    return names


WORDS = st.sampled_from(["os", "system", "posix", "subprocess", "Popen", "math", "builtins", "eval", "torch", "x", ""])


def text_opcode(word: str, form: int) -> bytes:
    raw = word.encode()
    return (
        b"\x8c" + bytes([len(raw)]) + raw,
        b"X" + len(raw).to_bytes(4, "little") + raw,
        b"\x8d" + len(raw).to_bytes(8, "little") + raw,
        b"V" + raw + b"\n",
        b"V" + b"".join(b"\\u%04x" % byte for byte in raw) + b"\n",
        b"S'" + b"".join(b"\\x%02x" % byte for byte in raw) + b"'\n",
        b"S'" + b"".join(b"\\%03o" % byte for byte in raw) + b"'\n",
        b'S"' + raw + b'"\n',
        b"U" + bytes([len(raw)]) + raw,
        b"T" + len(raw).to_bytes(4, "little") + raw,
    )[form]


PLACES = st.integers(0, 3)
PADS = st.sampled_from([b"", b" ", b"+", b"00"])
# No LONG_BINPUT: behind a frame that cuts it, its index is read from other bytes and the real machine makes a memo of
# gigabytes.
STEPS = st.one_of(
    st.builds(text_opcode, WORDS, st.integers(0, 9)),
    st.builds(text_opcode, WORDS, st.integers(0, 9)),
    st.builds(lambda m, n: b"c" + m.encode() + b"\n" + n.encode() + b"\n", WORDS, WORDS),
    st.builds(lambda m, n: b"i" + m.encode() + b"\n" + n.encode() + b"\n", WORDS, WORDS),
    st.builds(lambda at: b"q" + bytes([at]), PLACES),
    st.builds(lambda at: b"h" + bytes([at]), PLACES),
    st.builds(lambda at, pad: b"p" + pad + str(at).encode() + b"\n", PLACES, PADS),
    st.builds(lambda at, pad: b"g" + pad + str(at).encode() + b"\n", PLACES, PADS),
    st.builds(lambda at: b"j" + at.to_bytes(4, "little"), PLACES),
    st.builds(lambda version: b"\x80" + bytes([version]), st.integers(0, 5)),
    st.builds(lambda length: b"\x95" + length.to_bytes(8, "little"), st.integers(0, 12)),
    st.sampled_from([b"\x93", b"\x93", b"\x94", b"2", b"0", b"(", b"1", b"t", b"l", b"d", b")", b"]", b"}"]),
    st.sampled_from([b"\x85", b"\x86"]),
    st.sampled_from([b"\x87", b"R", b"R", b"b", b"a", b"e", b"s", b"u", b"o", b"\x81", b"\x92", b"N", b"\x88"]),
    st.sampled_from([b"K\x01", b"\x8f", b"\x90", b"\x91", b"Q", b"Pid\n", b"I01\n", b"F1.5\n", b"L5L\n", b"."]),
    st.just(b"C\x02os"),
)  # fmt: skip
MACHINES = (pickle.Unpickler, pickle._Unpickler)  # type: ignore[attr-defined]


@settings(max_examples=700)
@given(st.lists(STEPS, min_size=3, max_size=24), st.sampled_from([b"", b"\x80\x02", b"\x80\x04"]))
def test_no_import_of_a_real_unpickler_is_missed(steps: list[bytes], head: bytes) -> None:
    """What they ask for and is forbidden makes the file malicious, whatever comes before or breaks after."""
    program = head + b"".join(steps) + b"."

    wanted = set().union(*(asked(machine, program) for machine in MACHINES))

    report = scan_bytes(program, "m.pkl")
    messages = " ".join(finding.message for finding in report.findings)
    if "two unpicklers read two programs" in messages:  # so they do, and neither reading makes it harmless
        assert report.verdict is ScanVerdict.MALICIOUS
        return
    for module, name in wanted:
        assert f"{module}.{name}" in messages, (module, name, report)
    if any(module in ("os", "posix", "subprocess") for module, _ in wanted):
        assert report.verdict is ScanVerdict.MALICIOUS


def test_a_frame_that_ends_inside_a_name_is_malicious() -> None:
    """CPython's C unpickler drops what is left of the frame: it asks for `os.system` where the bytes say `math.os`."""
    program = b"\x80\x04\x95" + (6).to_bytes(8, "little") + b"cmath.os\nsystem\n0N."

    assert asked(pickle.Unpickler, program) in ({("os", "system")}, set())  # set() once CPython has changed
    assert scan_bytes(program, "m.pkl").verdict is ScanVerdict.MALICIOUS


def test_a_frame_inside_a_frame_is_malicious() -> None:
    """The same loss of bytes by another way."""
    program = b"\x80\x04\x95" + (12).to_bytes(8, "little") + b"N0\x95" + (3).to_bytes(8, "little") + b"NN0."

    assert scan_bytes(program, "m.pkl").verdict is ScanVerdict.MALICIOUS
