"""`edgeguard replay` tells layouts apart, records, replays its own recording, and says what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeguard.cli.main import cli, run

START = 1403715273262142976


def _euroc(folder: Path) -> Path:
    (folder / "cam0/data").mkdir(parents=True)
    (folder / "imu0").mkdir()
    rng = np.random.default_rng(0)
    for k in range(30):
        picture = cv2.imencode(".png", rng.integers(40, 200, (48, 64, 3), dtype=np.uint8))[1].tobytes()
        (folder / f"cam0/data/{START + k * 50_000_000}.png").write_bytes(picture)
    noise = rng.normal(0, 0.01, (300, 6))
    rows = [
        f"{START + k * 5_000_000}," + ",".join(repr(float(v)) for v in (*n[:3], 9.8 + n[3], *n[4:])) + "\n"
        for k, n in enumerate(noise)
    ]
    (folder / "imu0/data.csv").write_text("".join(rows))
    return folder


def _replay(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    capsys.readouterr()
    code = run(cli, "edgeguard", ["replay", *map(str, arguments), "--format", "json"])
    captured = capsys.readouterr()
    return code, [json.loads(line) for line in captured.out.splitlines()], captured.err


@pytest.mark.parametrize("suffix", [".mcap", ".npz"])
def test_a_sequence_replays_clean_and_so_does_its_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    """EuRoC folder -> recording -> the same verdicts, found by content alone."""
    folder = _euroc(tmp_path / "seq")

    code, lines, _ = _replay(capsys, folder, "--record", tmp_path / f"d{suffix}")
    again, recorded, _ = _replay(capsys, tmp_path / f"d{suffix}")

    assert (code, again) == (0, 0)
    assert [line["verdict"] for line in lines[:-1]] == ["PASS"] * 30
    assert [line["verdict"] for line in recorded[:-1]] == ["PASS"] * 30
    if suffix == ".mcap":
        assert recorded[:-1] == lines[:-1]


def test_a_cut_recording_replays_to_the_cut_and_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The warning is on stderr, in the summary and in the report."""
    _replay(capsys, _euroc(tmp_path / "seq"), "--record", tmp_path / "d.mcap")
    data = (tmp_path / "d.mcap").read_bytes()
    (tmp_path / "cut.mcap").write_bytes(data[: len(data) // 2])

    code, lines, said = _replay(capsys, tmp_path / "cut.mcap", "--report", tmp_path / "r.html")

    assert code == 0
    assert 5 < len(lines) < 30
    assert lines[-1]["summary"]["notes"][0]["kind"] == "truncated"
    assert "truncated" in said
    assert "truncated" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_damaged_picture_is_named_in_the_notes_and_found_by_a_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One picture in the middle does not decode: exit 1, S1 of the camera, and the count."""
    folder = _euroc(tmp_path / "seq")
    (folder / f"cam0/data/{START + 12 * 50_000_000}.png").write_bytes(b"damaged")

    code, lines, said = _replay(capsys, folder)

    assert code == 1
    summary = lines[-1]["summary"]
    assert summary["anomalies"] == {"S1.integrity": 1}
    assert {"kind": "dropped", "sensor": "camera", "reason": "undecodable", "count": 1} in summary["notes"]
    assert "undecodable" in said


@pytest.mark.parametrize("arguments", [[], ["a", "--kitti", "b"], ["--kitti", "a", "--car", "b"]])
def test_one_recording_is_asked_for(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """None or two are a usage error."""
    code, _, said = _replay(capsys, *arguments)
    assert code == 2
    assert "EG-C020" in said


def test_what_is_no_recording_is_told_with_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 3, EG-N073, and what would have been readable."""
    (tmp_path / "x.bag").write_text("#ROSBAG V2.0\n")
    code, _, said = _replay(capsys, tmp_path / "x.bag")
    assert code == 3
    assert "EG-N073" in said
    assert "EuRoC" in said
    assert ".mcap" in said


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["euroc", "kitti_drive", "car_60s/car.npz"])
def test_real_recordings_are_told_apart_and_recording_them_changes_nothing(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Each layout replays from its path alone; its MCAP gives the same verdicts and anomalies at every tick."""
    code, lines, _ = _replay(capsys, realdata / name, "--limit", 8, "--record", tmp_path / "d.mcap")
    again, recorded, _ = _replay(capsys, tmp_path / "d.mcap")

    assert (code, again) == (0, 0)
    assert recorded[:-1] == lines[:-1]
    assert len(recorded) == 9
