"""`edgeguard scan`: exit codes, the three outputs, folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hostile import SYSTEM, torch_zip

from edgeguard.cli.main import cli, run
from edgeguard.scan import scanner
from edgeguard.scan.findings import RULES

SAMPLES = Path(__file__).parent / "samples"


def scan(*arguments: object) -> int:
    return run(cli, "edgeguard", ["scan", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file of each verdict."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "clean.npy").write_bytes((SAMPLES / "array.npy").read_bytes())
    (tmp_path / "sub" / "bad.pt").write_bytes(torch_zip(SYSTEM))
    (tmp_path / "sub" / "module.pt").write_bytes((SAMPLES / "whole_module.pt").read_bytes())
    (tmp_path / "what.xyz").write_bytes(b"\x00\x01\x02\x03")
    return tmp_path


def test_only_clean_files_exit_with_zero(folder: Path) -> None:
    """Suspicious, malicious and unscanned are all 1; what is not there is a usage error."""
    assert scan(folder / "clean.npy") == 0
    assert scan(folder / "sub" / "bad.pt") == 1
    assert scan(folder / "sub" / "module.pt") == 1
    assert scan(folder / "what.xyz") == 1
    assert scan(folder / "gone.onnx") == 2
    assert scan() == 2


def test_unscanned_files_can_be_allowed_and_nothing_else_with_them(folder: Path) -> None:
    """The option forgives what was not looked at, never what was found."""
    assert scan(folder / "what.xyz", folder / "clean.npy", "--allow-unscanned") == 0
    assert scan(folder, "--allow-unscanned") == 1


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    """A pipeline that scans the wrong folder must not be green."""
    assert scan(tmp_path) == 2


def test_text_names_verdict_rule_member_and_byte(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line per file, then what was found; not scanned is not to be overlooked."""
    assert scan(folder) == 1

    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert any(line.startswith("malicious") and "bad.pt" in line for line in lines)
    assert any(line.startswith("NOT SCANNED") and "what.xyz" in line for line in lines)
    assert any("EG-SCAN-101" in line and "archive/data.pkl at byte 14" in line for line in lines)
    assert lines[-1] == "4 files: 1 clean, 1 not scanned, 1 suspicious, 1 malicious"
    assert err == ""


def test_json_carries_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The documented fields, for every file."""
    assert scan(folder, "--format", "json") == 1

    value = json.loads(capsys.readouterr().out)

    assert value["format"] == 1
    assert value["counts"] == {"clean": 1, "not scanned": 1, "suspicious": 1, "malicious": 1}
    bad = next(file for file in value["files"] if file["path"].endswith("bad.pt"))
    assert (bad["verdict"], bad["kind"]) == ("malicious", "PyTorch checkpoint")
    finding = bad["findings"][0]
    assert set(finding) == {"rule", "verdict", "title", "message", "member", "offset", "file_offset", "atlas"}
    assert finding["atlas"] == "AML.M0011"
    assert (folder / "sub" / "bad.pt").read_bytes()[finding["file_offset"]] == SYSTEM[finding["offset"]]


def test_output_goes_to_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And to nowhere else; a path that cannot be written is a usage error."""
    assert scan(folder / "clean.npy", "--format", "sarif", "--output", folder / "out.sarif") == 0
    assert capsys.readouterr().out == ""
    assert json.loads((folder / "out.sarif").read_text())["version"] == "2.1.0"
    assert scan(folder / "clean.npy", "--output", folder / "no" / "such" / "folder") == 2


def test_file_names_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences and line breaks in names and members are shown, not sent."""
    path = tmp_path / "a\x1b[2J\nclean b.pkl"
    path.write_bytes(SYSTEM)

    for output in ("text", "json", "sarif"):
        assert scan(path, "--format", output) == 1
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "a\nclean" not in out


def test_names_that_are_no_text_are_survived(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File systems hold any bytes."""
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.pkl"
    Path(os.fsdecode(raw)).write_bytes(SYSTEM)

    for output in ("text", "json", "sarif"):
        assert scan(tmp_path, "--format", output) == 1
        capsys.readouterr().out.encode("utf-8")


def test_folders_are_walked_without_following_links(tmp_path: Path) -> None:
    """A link to a folder is one finding, a loop does not hang, hidden files are files."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / ".hidden.pkl").write_bytes(b"N.")
    (tmp_path / "models" / "loop").symlink_to(tmp_path)

    found = list(scanner.files_below([tmp_path]))

    assert [path.name for path in found] == [".hidden.pkl", "loop"]
    assert scan(tmp_path) == 1


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that would not end says so before it starts."""
    monkeypatch.setattr(scanner, "MAX_FILES", 3)
    for index in range(4):
        (tmp_path / f"{index}.txt").write_text("x")

    assert scan(tmp_path) == 2


def test_external_data_is_looked_at_beside_the_model(tmp_path: Path) -> None:
    """Present and of the right length is clean; links, other names, pipes and absence are not."""
    onnx = pytest.importorskip("onnx")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=1)
    tensor.external_data.add(key="location", value="weights.bin")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g",
        [onnx.helper.make_tensor_value_info("x", 1, [4])], [onnx.helper.make_tensor_value_info("y", 1, [4])], [tensor],
    )  # fmt: skip
    model = tmp_path / "m.onnx"

    def rules(location: str = "weights.bin") -> list[str]:
        tensor.external_data[0].value = location
        graph.initializer[0].CopyFrom(tensor)
        model.write_bytes(onnx.helper.make_model(graph, ir_version=8).SerializeToString())
        return [finding.rule.rule_id for finding in scanner.scan_file(model).findings]

    weights = tmp_path / "weights.bin"
    assert rules() == ["EG-SCAN-305"]
    weights.write_bytes(bytes(16))
    assert rules() == []
    weights.write_bytes(bytes(15))
    assert rules() == ["EG-SCAN-301"]
    weights.unlink()
    os.mkfifo(weights)
    assert rules() == ["EG-SCAN-303"]
    weights.unlink()
    weights.symlink_to("/etc/passwd")
    assert rules() == ["EG-SCAN-303"]
    weights.unlink()
    (tmp_path / "other").write_bytes(bytes(16))
    os.link(tmp_path / "other", weights)
    assert rules() == ["EG-SCAN-303"]
    for escape in ("../weights.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "a\\b"):
        assert rules(escape) == ["EG-SCAN-302"]


def test_the_page_lists_every_rule() -> None:
    """With the title and verdict that the scanner gives."""
    page = (Path(__file__).parents[2] / "docs" / "scan.md").read_text(encoding="utf-8")

    for rule in RULES.values():
        assert f"| {rule.rule_id} | {rule.title} | {rule.verdict.value} | {rule.atlas} |" in page
