"""Every hostile file gets the verdict it deserves, and never `clean`."""

from __future__ import annotations

import os
import struct
import time
import zipfile
import zlib
from pathlib import Path

import pytest
from hostile import GADGETS, SYSTEM, Sample, call, corpus, name_of, short, torch_zip, zipped

from edgeguard.scan.findings import MAX_FINDINGS, RULES, FileReport, ScanVerdict
from edgeguard.scan.pickle_names import judge
from edgeguard.scan.scanner import scan_bytes, scan_file

CORPUS = corpus()


def rules(report: FileReport) -> set[str]:
    return {finding.rule.rule_id for finding in report.findings}


@pytest.mark.parametrize("sample", CORPUS, ids=[sample.title for sample in CORPUS])
def test_hostile_files_are_named(sample: Sample) -> None:
    """By content, whatever the trick; and the finding has a message and a rule."""
    report = scan_bytes(sample.content, sample.file_name)

    assert report.verdict.value == sample.verdict, [(f.rule.rule_id, f.message) for f in report.findings]
    assert report.findings
    assert max(f.verdict.rank for f in report.findings) == report.verdict.rank


def test_sample_titles_are_unique() -> None:
    """Else one sample would hide behind another."""
    assert len({sample.title for sample in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("cut", range(len(SYSTEM)))
def test_a_payload_cut_anywhere_is_never_clean(cut: int) -> None:
    """From the byte that completes the import on it is malicious, although no pickle ends there."""
    report = scan_bytes(SYSTEM[:cut], "model.pkl")

    assert report.verdict is not ScanVerdict.CLEAN
    if cut >= SYSTEM.index(b"\x93") + 1:
        assert report.verdict is ScanVerdict.MALICIOUS


@pytest.mark.parametrize("before", range(0, 60, 7))
@pytest.mark.parametrize("gadget", GADGETS[::13])
def test_a_call_is_found_behind_other_objects(before: int, gadget: tuple[str, str]) -> None:
    """However many honest objects stand before it, at whatever depth."""
    padding = b"](" + b"".join(short(f"layer{i}") for i in range(before)) + b"e0"
    content = b"\x80\x04" + padding + name_of(*gadget) + short("x") + b"\x85R."

    assert scan_bytes(content, "m.pkl").verdict is ScanVerdict.MALICIOUS


def test_offsets_lead_to_the_opcode() -> None:
    """In the member and, where it is stored as it is, in the file."""
    archive = torch_zip(SYSTEM)

    report = scan_bytes(archive, "model.pt")

    finding = next(f for f in report.findings if f.rule.rule_id == "EG-SCAN-101")
    assert finding.member == "archive/data.pkl"
    assert finding.offset == SYSTEM.index(b"\x93")
    assert finding.file_offset is not None
    assert archive[finding.file_offset : finding.file_offset + 1] == b"\x93"


def test_offsets_inside_compressed_members_are_not_claimed_for_the_file() -> None:
    """There is no byte of the file to point at."""
    report = scan_bytes(torch_zip(SYSTEM, zipfile.ZIP_DEFLATED), "model.pt")

    finding = next(f for f in report.findings if f.rule.rule_id == "EG-SCAN-101")
    assert finding.offset is not None
    assert finding.file_offset is None


def test_a_flood_of_trifles_hides_nothing() -> None:
    """The list of findings is bounded; the worst stay on it and the verdict stands."""
    flood = b"\x80\x04" + b"".join(name_of("acme.models", f"Net{i}") + b"0" for i in range(2000))
    members = {f"{i}.txt": b"\0binary" for i in range(2 * MAX_FINDINGS)}

    for report in (
        scan_bytes(flood + name_of("os", "system") + b".", "m.pkl"),
        scan_bytes(zipped(members | {"z.pkl": SYSTEM}), "m.zip"),
    ):
        assert report.verdict is ScanVerdict.MALICIOUS
        assert report.findings[0].verdict is ScanVerdict.MALICIOUS
        assert len(report.findings) <= MAX_FINDINGS


def test_steps_are_bounded_and_the_rest_is_not_called_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program longer than the budget is not scanned to its end, and says so."""
    monkeypatch.setattr("edgeguard.scan.content.MAX_STEPS", 10_000)

    report = scan_bytes(b"\x80\x04" + b"N0" * 5_001 + SYSTEM[2:], "m.pkl")

    assert report.verdict is ScanVerdict.NOT_SCANNED
    assert rules(report) == {"EG-SCAN-107"}


def test_a_mountain_of_tuples_is_walked_in_its_length() -> None:
    """A tuple of twice itself, forty times over, is 2**40 values and forty opcodes."""
    content = b"\x80\x04N" + b"2\x86" * 40 + b"."

    assert scan_bytes(content, "m.pkl").verdict is ScanVerdict.CLEAN


def test_joblib_arrays_hide_no_second_program() -> None:
    """Bytes that joblib takes for weights are opcodes to a plain unpickler: both readings are judged."""
    payload = name_of("os", "system") + short("true") + b"\x85R."
    dtype = name_of("numpy", "dtype") + short("u1") + b"\x89\x88\x87R"
    state = b"}(" + short("shape") + b"K" + bytes([len(payload)]) + b"\x85" + short("dtype") + dtype + b"u"
    content = (
        b"\x80\x04" + name_of("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81" + state + b"b" + payload + b"N."
    )

    report = scan_bytes(content, "m.joblib")

    assert report.kind == "joblib pickle"
    assert report.verdict is ScanVerdict.MALICIOUS


def test_unknown_is_never_clean() -> None:
    """Names nobody has thought of are suspicious, not harmless."""
    for module, name in (
        ("acme", "Net"),
        ("torch.nn.modules.linear", "Linear"),
        ("sklearn.svm", "SVC"),
        ("", ""),
        (".os", "x"),
    ):
        assert judge(module, name, 4).verdict is not ScanVerdict.CLEAN


def test_the_whole_standard_library_is_off_limits() -> None:
    """But for types that are listed: a new module of Python is forbidden before anybody knows what it can do."""
    import sys

    for module in sys.stdlib_module_names - {"builtins", "this", "__future__"}:
        assert judge(module, "surely_not_a_known_name", 4).verdict is not ScanVerdict.CLEAN
    for module in (
        "os",
        "subprocess",
        "_interpreters",
        "antigravity",
        "_ctypes",
        "wsgiref.handlers",
        "concurrent.futures",
    ):
        assert judge(module, "anything", 4).verdict is ScanVerdict.MALICIOUS


@pytest.mark.parametrize(
    "path", ["torch.os.system", "numpy.sys.modules", "acme.x.__globals__", "acme.a.__subclasses__"]
)
def test_names_that_reach_through_others_are_forbidden(path: str) -> None:
    """Protocol 4 follows dots in a name from attribute to attribute."""
    module, _, name = path.partition(".")

    assert judge(module, name, 4).verdict is ScanVerdict.MALICIOUS


def test_protocol_cannot_be_used_to_pick_the_reading() -> None:
    """Python 2 names are renamed below protocol 3; a second PROTO opcode does not launder a name."""
    content = b"\x80\x04\x80\x02" + b"c__builtin__\neval\n" + b"U\x011\x85R."

    assert scan_bytes(content, "m.pkl").verdict is ScanVerdict.MALICIOUS


def test_every_rule_about_content_is_proven_by_a_sample() -> None:
    """A rule that nothing triggers is a promise nobody keeps. The others are about files and are tested on files."""
    elsewhere = {"003", "004", "005", "107", "209", "210", "303"}

    fired = {rule for sample in CORPUS for rule in rules(scan_bytes(sample.content, sample.file_name))}

    assert set(RULES) - fired == {f"EG-SCAN-{number}" for number in elsewhere}


def test_operators_that_are_code_are_malicious() -> None:
    """A custom operator is suspicious, one that calls Python is what it looks like."""
    from onnx import helper

    for op, domain, verdict in (("PyOp", "pyopadd", "malicious"), ("Relu", "acme", "suspicious")):
        graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], domain=domain)], "g", [], [])
        report = scan_bytes(helper.make_model(graph, ir_version=8).SerializeToString(), "m.onnx")
        assert report.verdict.value == verdict


def test_files_larger_than_any_model_are_not_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And say so."""
    (tmp_path / "m.npy").write_bytes(bytes(100))
    monkeypatch.setattr("edgeguard.scan.scanner.MAX_FILE_BYTES", 99)

    assert rules(scan_file(tmp_path / "m.npy")) == {"EG-SCAN-003"}


def test_archives_with_too_many_members_are_not_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the members is not looked at."""
    monkeypatch.setattr("edgeguard.scan.zip_reader.MAX_MEMBERS", 3)

    report = scan_bytes(zipped({f"{i}.txt": b"text" for i in range(5)}), "m.zip")

    assert "EG-SCAN-210" in rules(report)


def test_links_and_devices_are_not_opened(tmp_path: Path) -> None:
    """A link is a finding, a pipe does not block, a folder is no file."""
    (tmp_path / "real.pkl").write_bytes(b"N.")
    (tmp_path / "link.pkl").symlink_to(tmp_path / "real.pkl")
    os.mkfifo(tmp_path / "pipe.pkl")

    assert rules(scan_file(tmp_path / "link.pkl")) == {"EG-SCAN-005"}
    assert rules(scan_file(tmp_path / "pipe.pkl")) == {"EG-SCAN-005"}
    assert scan_file(tmp_path / "gone.pkl").verdict is ScanVerdict.NOT_SCANNED
    assert scan_file(tmp_path).verdict is not ScanVerdict.CLEAN


def test_an_empty_file_is_not_clean(tmp_path: Path) -> None:
    """There is nothing in it that could have been looked at."""
    (tmp_path / "empty.onnx").write_bytes(b"")

    assert scan_file(tmp_path / "empty.onnx").verdict is ScanVerdict.NOT_SCANNED


def test_zip64_archives_are_read() -> None:
    """Sizes and offsets beyond 32 bits stand in an extra field; a payload behind it is found."""
    archive = bytearray(zipped({"model.pkl": SYSTEM}))
    central = archive.find(b"PK\x01\x02")
    extra = struct.pack("<HHQ", 1, 8, len(SYSTEM))
    struct.pack_into("<I", archive, central + 24, 0xFFFFFFFF)
    struct.pack_into("<H", archive, central + 30, len(extra))
    end = archive.find(b"PK\x05\x06")
    archive[end:end] = extra
    struct.pack_into("<I", archive, end + len(extra) + 12, end + len(extra) - central)

    report = scan_bytes(bytes(archive), "m.zip")

    assert report.verdict is ScanVerdict.MALICIOUS
    assert rules(report) == {"EG-SCAN-101"}


def test_long_files_are_mapped_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict is the same either way."""
    path = tmp_path / "model.pt"
    path.write_bytes(torch_zip(call("os", "system", "true")))
    monkeypatch.setattr("edgeguard.scan.scanner.READ_BYTES", 10)

    assert scan_file(path).verdict is ScanVerdict.MALICIOUS


def overlapping(count: int, content: bytes) -> bytes:
    """An archive whose directory lists one member `count` times under different names."""
    archive = zipped({"000000.bin": content})
    at = archive.find(b"PK\x01\x02", len(content))
    entry, end = archive[at : archive.find(b"PK\x05\x06", at)], archive[-22:]
    entries = b"".join(entry.replace(b"000000.bin", b"%06d.bin" % index) for index in range(count))
    tail = end[:8] + struct.pack("<HHII", count, count, len(entries), at) + end[-2:]
    return archive[:at] + entries + tail


EXPENSIVE = {
    "members that are one and the same": overlapping(4_000, bytes(1 << 20)),
    "a million pickles of two bytes": b"N." * 300_000,
    "constants that may be pickles": b"\x80\x04" + (b"C\x06c\nx\nN." + b"0") * 50_000 + b"N.",
    "a frame of lists": b"\x80\x04" + b"]" * 300_000 + b".",
    "brackets in JSON": b'{"a":' + b"[]," * 3_000_000,
    "names without end": b"c" + b"a" * 20_000_000,
    "streams in a row": zlib.compress(b"") * 100_000,
}


@pytest.mark.parametrize("title", sorted(EXPENSIVE))
def test_expensive_files_end_soon(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is bounded by budgets, not by what the file asks for; and none of them is clean."""
    monkeypatch.setattr("edgeguard.scan.content.MAX_STEPS", 200_000)  # a fifteenth, to keep the test short
    started = time.process_time()

    report = scan_bytes(EXPENSIVE[title], "model.json" if "JSON" in title else "model.bin")

    assert time.process_time() - started < 5
    assert report.verdict is not ScanVerdict.CLEAN
