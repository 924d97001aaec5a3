"""`edgeguard replay` over recordings: what it prints, when it exits with 1, what it survives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeguard.cli.main import cli, run
from edgeguard.sim.attacks.faults import CameraBlind, CameraFreeze
from edgeguard.sim.attacks.lidar import GhostPoints


def replay(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    code = run(cli, "edgeguard", ["replay", *map(str, arguments), "--format", "json"])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_clean_drive_exits_zero_and_prints_one_object_per_frame(kitti_drive, capsys):
    """The lines have exactly the promised shape; frames are those found, with a gap, from wherever it begins."""
    numbers = [*range(5, 17), *range(30, 38)]
    code, lines = replay(capsys, "--kitti", kitti_drive(numbers))

    assert code == 0
    *frames, last = lines
    assert [frame["frame"] for frame in frames] == numbers
    assert [frame["stamp_ns"] for frame in frames] == [n * 103_150_000 for n in numbers]
    for frame in frames:
        assert set(frame) == {"frame", "stamp_ns", "verdict", "trust", "anomalies"}
        assert frame["verdict"] == "PASS"
        assert frame["trust"] == {"camera": "TRUSTED", "lidar": "TRUSTED"}
        assert frame["anomalies"] == []
    assert last["summary"]["clean"] is True
    assert last["summary"]["frames"] == len(numbers)


@pytest.mark.parametrize(
    ("attack", "sensor"),
    [
        (GhostPoints(start_s=1.0, end_s=9.0, range_m=9.0, azimuth_deg=20.0), "lidar"),
        (CameraBlind(start_s=1.0, end_s=9.0), "camera"),
        (CameraFreeze(start_s=1.0, end_s=9.0), "camera"),
    ],
    ids=["ghost", "blind", "freeze"],
)
def test_an_attacked_drive_exits_one_and_names_the_sensor(kitti_drive, capsys, attack, sensor):
    """Each attack begins at frame 10; before it nothing may be blamed, after it only the attacked sensor.

    What compares it with another accuses both; that alone blames nobody.
    """
    code, lines = replay(capsys, "--kitti", kitti_drive(range(24), attacks=[attack]))

    assert code == 1
    *frames, last = lines
    assert all(frame["anomalies"] == [] for frame in frames[:10])
    found = [anomaly for frame in frames for anomaly in frame["anomalies"]]
    assert all(sensor in anomaly["sensors"] for anomaly in found)
    assert [sensor] in [anomaly["sensors"] for anomaly in found]
    assert all(anomaly["statistic"] > anomaly["threshold"] for anomaly in found)
    assert last["summary"]["sensors_blamed"] == [sensor]


@pytest.mark.parametrize("keep_bytes", [16 * 20_000, 16 * 20_000 + 7, 5, 0])
def test_a_drive_that_ends_in_a_cut_sweep_plays_up_to_the_cut_and_says_so(kitti_drive, capsys, keep_bytes):
    """Cut within a point, at a point's edge, almost or wholly empty: a note, not an anomaly."""
    drive = kitti_drive(range(8))
    cut = drive / "velodyne" / "0000000007.bin"
    cut.write_bytes(cut.read_bytes()[:keep_bytes])

    code, lines = replay(capsys, "--kitti", drive)

    assert code == 0
    assert lines[-1]["summary"]["notes"]
    assert lines[-1]["summary"]["clean"] is True


def test_a_damaged_frame_in_the_middle_is_that_sensors_fault(kitti_drive, capsys):
    """A picture that cannot be decoded and a sweep with half a point are found and named; no exception escapes."""
    drive = kitti_drive(range(10))
    (drive / "image_02" / "0000000005.png").write_bytes(b"not a picture")
    sweep = drive / "velodyne" / "0000000007.bin"
    sweep.write_bytes(sweep.read_bytes()[:-8])

    code, lines = replay(capsys, "--kitti", drive)

    assert code == 1
    *frames, _ = lines
    found = {frame["frame"]: [(a["check"], *a["sensors"]) for a in frame["anomalies"]] for frame in frames}
    assert found == {n: [] for n in range(10)} | {5: [("S1.integrity", "camera")], 7: [("S1.integrity", "lidar")]}


def test_depth_images_report_and_log_are_written_where_asked(kitti_drive, capsys, tmp_path):
    """Depth is 16-bit metres x 256, the report one self-contained file, the log verifies."""
    drive = kitti_drive(range(6))
    code, _ = replay(
        capsys, "--kitti", drive, "--depth", tmp_path / "depth", "--report", tmp_path / "report.html",
        "--audit", tmp_path / "audit",
    )  # fmt: skip

    assert code == 0
    depth = cv2.imread(str(tmp_path / "depth" / "0000000003.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    assert depth.shape == cv2.imread(str(drive / "image_02" / "0000000003.png")).shape[:2]
    assert 2.0 < np.median(depth[depth > 0]) / 256.0 < 60.0
    page = (tmp_path / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert run(cli, "edgeguard", ["log", "verify", str(tmp_path / "audit")]) == 0


def test_wrong_paths_are_errors_with_a_hint(tmp_path: Path, capsys):
    """Not a recording, no such file, both at once, and a bundle without trust."""
    assert run(cli, "edgeguard", ["replay", "--kitti", str(tmp_path)]) == 3
    assert run(cli, "edgeguard", ["replay", "--car", str(tmp_path / "none.npz")]) == 3
    assert run(cli, "edgeguard", ["replay", "--car", "a", "--kitti", "b"]) == 2
    assert capsys.readouterr().err.count("hint:") == 3


def test_a_bundle_without_trust_is_refused_before_anything_runs(kitti_drive, capsys, tmp_path):
    """There is no default trust."""
    code = run(cli, "edgeguard", ["replay", "--kitti", str(kitti_drive(range(2))), "--bundle", str(tmp_path)])
    assert code == 2
    assert "there is no default trust" in capsys.readouterr().err


@pytest.mark.realdata
def test_the_real_street_and_the_real_car_are_clean(realdata: Path, capsys):
    """No alarm on real clean data."""
    for option, name in (("--kitti", "kitti_drive"), ("--car", "car_60s/car.npz")):
        code, lines = replay(capsys, option, realdata / name)
        assert code == 0
        assert lines[-1]["summary"]["anomalies"] == {}
