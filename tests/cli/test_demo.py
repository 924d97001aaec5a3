"""`edgeguard demo`: the whole product in one command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeguard.cli.main import cli, run


def demo(out: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "edgeguard.cli.main", "demo", "--out", str(out), "--format", "json"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int, str, str]]:
    folders = [tmp_path_factory.mktemp("demo") / "out" for _ in range(2)]
    return [(folder, *demo(folder)) for folder in folders]


def summary(stdout: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(stdout.splitlines()[-1])["summary"]
    return record


def test_the_demo_finds_both_attacks_blames_no_clean_second_and_exits_zero(twice):
    """The promise of the first command a newcomer runs."""
    _, code, stdout, stderr = twice[0]
    assert code == 0, stderr
    report = summary(stdout)["report"]
    assert [(a["sensor"], a["detected"], a["named"]) for a in report["attacks"]] == [
        ("gnss", True, ["gnss"]),
        ("lidar", True, ["lidar"]),
    ]
    assert report["clean_seconds_blamed"] == 0.0


def test_nothing_is_blamed_before_the_first_attack(twice):
    """The first eight seconds are clean and judged so, tick by tick."""
    frames = [json.loads(line) for line in twice[0][2].splitlines()[:-1]]
    assert len(frames) == 300
    assert all(frame["verdict"] == "PASS" and not frame["anomalies"] for frame in frames[:79])


def test_tampering_a_stolen_wrap_and_a_plain_model_are_refused(twice):
    """Each by its own error."""
    assert set(summary(twice[0][2])["refused"].values()) == {"EG-S004", "EG-D000", "EG-U001"}


def test_two_runs_with_one_seed_judge_every_tick_alike(twice):
    """Keys differ, the drive does not: verdicts, trust, statistics and the table are equal to the last digit."""
    (_, _, first, _), (_, _, second, _) = twice
    assert first.splitlines()[:-1] == second.splitlines()[:-1]
    assert summary(first)["report"]["attacks"] == summary(second)["report"]["attacks"]


def test_the_report_is_one_file_without_network_or_script(twice):
    """It can be opened on a machine that trusts nobody."""
    page = (twice[0][0] / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=(?!["']?(?:data:|#))""", page)


def test_the_log_verifies_with_the_devices_key(twice, capsys):
    """The key that opens the model also checks the log; another device's key does not."""
    folder = twice[0][0]
    arguments = ["log", "verify", str(folder / "audit"), "--key"]
    assert run(cli, "edgeguard", [*arguments, str(folder / "demo-robot.pem")]) == 0
    assert "macs checked" in capsys.readouterr().out
    assert run(cli, "edgeguard", [*arguments, str(folder / "another-robot.pem")]) == 4


def test_the_bundle_on_disk_holds_no_plain_weights(twice):
    """Sixteen bytes from the middle of the weights are nowhere in the bundle."""
    folder = twice[0][0]
    plain = (folder / "plain.onnx").read_bytes()
    probe = plain[len(plain) // 2 :][:16]
    assert all(probe not in path.read_bytes() for path in folder.glob("*.bundle/**/*") if path.is_file())


def test_a_folder_that_no_demo_made_is_not_replaced(tmp_path: Path, capsys):
    """A typing error in --out must not delete somebody's work."""
    (tmp_path / "thesis.txt").write_text("years of work")
    assert run(cli, "edgeguard", ["demo", "--out", str(tmp_path)]) == 2
    assert (tmp_path / "thesis.txt").exists()
    assert "was not made by a demo" in capsys.readouterr().err
