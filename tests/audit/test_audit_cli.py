"""`edgeguard log`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeguard.audit.log import AuditLog
from edgeguard.cli.log import command
from edgeguard.cli.main import run
from edgeguard.clock import ManualClock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "log"
    with AuditLog(directory, clock=ManualClock(), mac_key=bytes(32), boot_id="b") as log:
        log.append("frame", {"verdict": "HOLD", "trust": {"gnss": "REJECTED"}, "reason": "gnss \x1b[31m"})
        log.append("frame", {"verdict": "PASS", "trust": "odd"})
    (tmp_path / "key").write_text("00" * 32)
    return directory


def test_verify_prints_counts_and_head_as_text_and_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, the head, and the note on truncation."""
    assert run(command, "edgeguard log", ["verify", str(folder)]) == 0
    text = capsys.readouterr().out
    key = ["--mac-key", str(folder.parent / "key")]
    assert run(command, "edgeguard log", ["verify", str(folder), *key, "--format", "json"]) == 0
    summary = json.loads(capsys.readouterr().out)

    assert "4 records" in text
    assert summary["head"] in text
    assert "cut after a checkpoint" in text
    assert summary["macs_checked"] is True


def test_verify_exits_4_and_names_the_record_when_the_log_was_changed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Integrity failures have an exit code of their own."""
    path = folder / "audit-00000000.egl"
    path.write_bytes(path.read_bytes().replace(b"HOLD", b"PASS"))

    assert run(command, "edgeguard log", ["verify", str(folder)]) == 4
    assert "record 1" in capsys.readouterr().err


def test_show_prints_records_and_escapes_terminal_sequences(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hostile reason cannot drive the terminal."""
    assert run(command, "edgeguard log", ["show", str(folder), "--kind", "frame"]) == 0
    text = capsys.readouterr().out
    assert run(command, "edgeguard log", ["show", str(folder), "--format", "json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert "gnss REJECTED" in text
    assert "\x1b" not in text
    assert [r["seq"] for r in records] == [0, 1, 2, 3]


def test_a_bad_key_file_is_a_usage_error(folder: Path) -> None:
    """Exit 2, not a traceback."""
    for path in ("absent", str(folder / "lock"), str(folder / "audit-00000000.egl")):
        assert run(command, "edgeguard log", ["verify", str(folder), "--mac-key", path]) == 2
