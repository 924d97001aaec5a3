"""Files from the real writers scan as what they are; cut or changed anywhere they are read or refused, never more."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
from hostile import corpus
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeguard.scan.findings import RULES, FileReport, ScanVerdict
from edgeguard.scan.scanner import scan_bytes, scan_file

SAMPLES = Path(__file__).parent / "samples"
EXPECTED = {
    "array.npy": ("NPY array", "clean", set()),
    "arrays.joblib": ("joblib pickle", "clean", set()),
    "arrays.npz": ("NPZ archive", "clean", set()),
    "arrays_bz2.joblib": ("joblib pickle, bzip2", "clean", set()),
    "arrays_deflated.npz": ("NPZ archive", "clean", set()),
    "arrays_gzip.joblib": ("joblib pickle, gzip", "clean", set()),
    "arrays_lz4.joblib": ("lz4 stream", "not scanned", {"EG-SCAN-007"}),
    "arrays_lzma.joblib": ("joblib pickle, lzma", "clean", set()),
    "arrays_xz.joblib": ("joblib pickle, xz", "clean", set()),
    "arrays_zlib.joblib": ("joblib pickle, zlib", "clean", set()),
    "dense.h5": ("HDF5", "not scanned", {"EG-SCAN-007"}),
    "dense.keras": ("Keras archive", "not scanned", {"EG-SCAN-007"}),
    "lambda.h5": ("HDF5", "malicious", {"EG-SCAN-007", "EG-SCAN-501"}),
    "lambda.keras": ("Keras archive", "malicious", {"EG-SCAN-007", "EG-SCAN-501"}),
    "mixed.pt": ("PyTorch checkpoint", "clean", set()),
    "objects.npy": ("NPY array of objects", "clean", set()),
    "records.npy": ("NPY array", "clean", set()),
    "sklearn.joblib": ("joblib pickle", "suspicious", {"EG-SCAN-102"}),
    "state_dict.pt": ("PyTorch checkpoint", "clean", set()),
    "state_dict_legacy.pth": ("PyTorch checkpoint (legacy)", "clean", set()),
    "torchscript.pt": ("TorchScript archive", "suspicious", {"EG-SCAN-209"}),
    "weights.gguf": ("GGUF", "clean", set()),
    "weights.safetensors": ("safetensors", "clean", set()),
    "whole_module.pt": ("PyTorch checkpoint", "suspicious", {"EG-SCAN-102"}),
}
SMALL = sorted(name for name in EXPECTED if (SAMPLES / name).stat().st_size <= 1300)
CONTENTS = {name: (SAMPLES / name).read_bytes() for name in EXPECTED}
HOSTILE = [sample for sample in corpus() if len(sample.content) < 4000]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_real_files_scan_as_what_they_are(name: str) -> None:
    """Honest checkpoints and arrays are clean; whole objects are suspicious; formats not walked are not scanned."""
    kind, verdict, rules = EXPECTED[name]

    report = scan_file(SAMPLES / name)

    assert (report.kind, report.verdict.value) == (kind, verdict)
    assert {finding.rule.rule_id for finding in report.findings} == rules


def test_every_sample_is_expected() -> None:
    """A file added to the folder is a file tested."""
    assert {path.name for path in SAMPLES.iterdir() if path.suffix != ".py"} == set(EXPECTED)


@pytest.mark.realdata
def test_real_vision_models_are_clean(realdata: Path) -> None:
    """Five detectors and classifiers from public model zoos."""
    models = sorted((realdata / "vision").glob("*.onnx"))

    assert len(models) >= 5
    assert {path.name: scan_file(path).verdict for path in models} == {path.name: ScanVerdict.CLEAN for path in models}


@pytest.mark.parametrize("name", SMALL)
def test_files_cut_at_any_byte_are_never_clean(name: str) -> None:
    """Half a model is not a model. Streams that hold nothing but padding after the cut may lose it."""
    content = CONTENTS[name]
    for cut in range(len(content)):
        report = scan_bytes(content[:cut], name)
        assert report.verdict is not ScanVerdict.CLEAN, cut


@pytest.mark.parametrize("name", [name for name in SMALL if EXPECTED[name][1] == "clean"])
def test_bytes_behind_a_file_are_seen(name: str) -> None:
    """Whatever is appended is either refused or looked at."""
    assert scan_bytes(CONTENTS[name] + b"appended by somebody", name).verdict is not ScanVerdict.CLEAN


changes = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "double", "insert"]), st.integers(0, 1 << 14), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def changed(content: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    for what, place, byte in edits:
        at = place % (len(content) + 1)
        if what == "flip":
            content = content[:at] + bytes([byte]) + content[at + 1 :]
        elif what == "cut":
            content = content[: max(0, at - byte)] + content[at:]
        elif what == "double":
            content = content[:at] + content[max(0, at - byte) : at] + content[at:]
        else:
            content = content[:at] + bytes([byte]) * 3 + content[at:]
    return content


def check_sane(report: FileReport) -> None:
    assert all(finding.rule.rule_id in RULES for finding in report.findings)
    assert all(finding.offset is None or finding.offset >= 0 for finding in report.findings)
    assert (report.verdict is ScanVerdict.CLEAN) == (not report.findings)


@settings(max_examples=700)
@given(st.sampled_from(sorted(EXPECTED)), changes)
def test_changed_files_are_scanned_without_any_other_exception(name: str, edits: list[tuple[str, int, int]]) -> None:
    """Any exception at all fails; so does more time than a small file is worth."""
    started = time.perf_counter()

    check_sane(scan_bytes(changed(CONTENTS[name], edits), name))

    assert time.perf_counter() - started < 5


@settings(max_examples=500)
@given(st.sampled_from(HOSTILE), changes)
def test_changed_hostile_files_are_scanned_without_any_other_exception(
    sample: object, edits: list[tuple[str, int, int]]
) -> None:
    """The same from the other side."""
    check_sane(scan_bytes(changed(sample.content, edits), sample.file_name))  # type: ignore[attr-defined]


@settings(max_examples=300)
@given(st.binary(max_size=300), st.sampled_from(["m.pkl", "m.onnx", "m.npz", "m.tar", "m.h5", "m.tflite", "m"]))
@example(b"\x80", "m.pkl")
@example(b"PK\x05\x06" + bytes(18), "m.zip")
@example(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "m.pt")
@example(b"\x08\0\0\0TFL3" + b"\xff" * 20, "m.tflite")
@example(b"\x93NUMPY\x02\x00\xff\xff", "m.npy")
@example(b"GGUF\x03\0\0\0" + b"\xff" * 16, "m.gguf")
def test_random_bytes_are_scanned_without_any_other_exception(content: bytes, name: str) -> None:
    """Whatever the bytes, the answer is a report."""
    check_sane(scan_bytes(content, name))


OPCODES = st.sampled_from(
    [bytes([code]) for code in b"(.012FIJKLMNPQRSTUVX)]}abcdeghijlopqrstu"] + [bytes([c]) for c in range(0x80, 0x99)]
)


@settings(max_examples=500)
@given(
    st.lists(
        st.one_of(OPCODES, st.just(b"os\nsystem\n"), st.just(b"\x8c\x02os\x8c\x06system\x93"), st.binary(max_size=4)),
        max_size=40,
    )
)
def test_random_programs_are_followed_to_their_end(parts: list[bytes]) -> None:
    """Any order of opcodes, with any stack."""
    check_sane(scan_bytes(b"\x80\x04" + b"".join(parts), "m.pkl"))


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(inner, inner)),
    max_leaves=20,
)


@settings(max_examples=100)
@given(VALUES, st.integers(0, 5))
def test_plain_data_is_clean_in_every_protocol(value: object, protocol: int) -> None:
    """What json could hold, as Python itself writes it."""
    import pickle  # noqa: TID251 - the oracle: writes honest pickles, reads none

    report = scan_bytes(pickle.dumps(value, protocol), "m.pkl")

    assert report.verdict is ScanVerdict.CLEAN, [f.message for f in report.findings]


@pytest.mark.realdata
def test_a_gzip_file_of_an_onnx_model_is_scanned(realdata: Path) -> None:
    """Kinds nest."""
    content = gzip.compress((realdata / "vision" / "version-RFB-320.onnx").read_bytes(), 1)

    report = scan_bytes(content, "model.gz")

    assert (report.kind, report.verdict) == ("ONNX, gzip", ScanVerdict.CLEAN)
