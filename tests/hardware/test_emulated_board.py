"""Two processors are compared strictly, and what runs on an emulated Raspberry Pi gives what it gives here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

EMULATE = Path(__file__).parents[2] / "hardware" / "emulate"


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module that compares; its folder is no package."""
    monkeypatch.syspath_prepend(str(EMULATE))
    import compare as module

    yield module
    del sys.modules["compare"]


def call(script: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the two commands."""
    return subprocess.run(
        [sys.executable, str(EMULATE / script), *map(str, arguments)],
        capture_output=True, text=True, check=False, env=os.environ | environment,
    )  # fmt: skip


def sensors(pixels: np.ndarray[Any, Any], xyz: np.ndarray[Any, Any], imu: float = 0.5) -> dict[str, Any]:
    """A second with one sample of each kind."""
    return {
        "camera/1/pixels": pixels,
        "lidar/1/xyz": xyz.astype(np.float32),
        "lidar/1/intensity": np.full(len(xyz), 0.5, np.float32),
        "lidar/1/ring": np.zeros(len(xyz), np.int16),
        **{f"{name}/1/numbers": np.array([imu, np.nan]) for name in ("imu", "gnss", "wheels")},
    }


def sweep(count: int = 1024, range_m: float = 50.0) -> np.ndarray[Any, Any]:
    angle = np.arange(count) * 2.0 * np.pi / 1024
    return range_m * np.stack([np.cos(angle), np.sin(angle), 0.0 * angle], axis=1)


def unmet(compare: ModuleType, tmp_path: Path, here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """What the comparison of two seconds complains of."""
    for name, arrays in (("here", here), ("there", there)):
        (tmp_path / name).mkdir(exist_ok=True)
        np.savez(tmp_path / name / "sensors.npz", **arrays)
    rows = compare.compare("sensors", tmp_path / "here", tmp_path / "there")
    json.dumps([row.record() for row in rows])
    return [row.what.partition(":")[0] for row in rows if not row.met]


def test_equal_seconds_are_equal_and_rounding_is_allowed(compare: ModuleType, tmp_path: Path) -> None:
    """The last bit of a range, of an angle that lies on a column, and one pixel on an edge."""
    pixels, xyz = np.zeros((200, 300, 3), np.uint8), sweep()
    other = pixels.copy()
    other[3, 4] = 200
    assert unmet(compare, tmp_path, sensors(pixels, xyz), sensors(pixels, xyz)) == []
    assert unmet(compare, tmp_path, sensors(pixels, xyz), sensors(other, xyz * (1 + 1e-7), 0.5 + 1e-9)) == []


def test_another_second_is_found_whatever_differs(compare: ModuleType, tmp_path: Path) -> None:
    """Pixels, ranges, lost returns, numbers of a serial sensor, and samples that are not there."""
    pixels, xyz = np.zeros((200, 300, 3), np.uint8), sweep()
    good, other = sensors(pixels, xyz), pixels.copy()
    other[:3] = 1
    assert unmet(compare, tmp_path, good, sensors(other, xyz)) == ["camera"]
    moved = xyz.copy()
    moved[:2] *= 1.01
    assert unmet(compare, tmp_path, good, sensors(pixels, moved)) == ["lidar"]
    assert unmet(compare, tmp_path, good, sensors(pixels, xyz[:-2])) == ["lidar"]
    assert unmet(compare, tmp_path, good, sensors(pixels, xyz, 0.5001)) == ["imu", "gnss", "wheels"]
    assert unmet(compare, tmp_path, good, sensors(pixels, xyz, np.nan)) == ["imu", "gnss", "wheels"]
    silent = {name: value for name, value in good.items() if not name.startswith("imu")}
    assert unmet(compare, tmp_path, good, silent) == ["samples", "imu"]


def decided(statistic: float = 1.0, level: str = "ANOMALY", verdict: str = "DEGRADE", trust: str = "SUSPECT") -> Any:
    result = ["L2.ghost", ["lidar"], level, statistic, 6.0, 0.1]
    return [{"verdict": verdict, "trust": {"lidar": trust}, "results": [result], "ego": [1.0, 2.0, 0.1, 5.0]}]


@pytest.mark.parametrize(
    ("there", "complaints"),
    [
        (decided(1.0 + 1e-4), []),
        (decided(1.1), ["statistics, share of the threshold"]),
        (decided(float("nan")), ["statistics, share of the threshold"]),
        (decided(verdict="PASS"), ["verdicts"]),
        (decided(trust="TRUSTED"), ["trust"]),
        (decided(level="OK"), ["attack missed", "levels"]),
    ],
)  # fmt: skip
def test_decisions_have_to_be_equal(compare: ModuleType, tmp_path: Path, there: Any, complaints: list[str]) -> None:
    """Verdict, trust and level to the letter; statistics within a share of their threshold; an attack found by both."""
    for name, ticks in (("here", decided()), ("there", there)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "second.json").write_text(json.dumps(ticks))
    rows = compare.compare("second", tmp_path / "here", tmp_path / "there")
    assert [row.what for row in rows if not row.met] == complaints


def test_a_model_has_to_answer_alike_and_refuse_alike(compare: ModuleType, tmp_path: Path) -> None:
    """Another output, another box, another label, and a forgery that opens on either processor."""
    good = {"labels": ["car"], "refused": {"tampered": "EG-S004"}}
    output, boxes = np.ones((2, 3), np.float32), np.array([[0.9, 1.0, 2.0, 3.0, 4.0]])

    def complaints(facts: Any = good, output0: Any = output, found: Any = boxes) -> list[str]:
        for name, said, arrays in (
            ("here", good, {"output0": output, "boxes": boxes}),
            ("there", facts, {"output0": output0, "boxes": found}),
        ):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "model.json").write_text(json.dumps(said))
            np.savez(tmp_path / name / "model.npz", **arrays)
        rows = compare.compare("model", tmp_path / "here", tmp_path / "there")
        return [row.what for row in rows if not row.met]

    assert complaints() == complaints(output0=output + np.float32(1e-6)) == []
    assert complaints(output0=output * 1.01) == ["model output0, share of its largest value"]
    assert complaints(output0=output * np.nan) == ["model output0, share of its largest value"]
    assert complaints(found=boxes + 0.1) == complaints(found=boxes[:0]) == ["boxes and scores of the frame (px, 1)"]
    assert complaints(facts=good | {"labels": ["truck"]}) == ["labels of the frame"]
    opened = good | {"refused": {"tampered": "opened"}}
    assert complaints(facts=opened) == ["forgeries refused alike", "forgeries that opened"]


def test_what_is_missing_is_said_with_the_next_command(tmp_path: Path) -> None:
    """Without qemu, without its folder, without a network: exit 3 and what to type."""
    without_tools = call("run.py", "--cache", tmp_path, PATH=str(tmp_path))
    assert (without_tools.returncode, "apt-get install qemu-user-static" in without_tools.stderr) == (3, True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "qemu-aarch64-static").symlink_to("/bin/true")
    unprepared = call("run.py", "--cache", tmp_path / "none", PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
    assert unprepared.returncode == 3
    assert "run: python hardware/emulate/prepare.py --cache" in unprepared.stderr
    no_apt = call("prepare.py", "--cache", tmp_path / "cache", PATH=str(tmp_path))
    assert (no_apt.returncode, "apt-get install" in no_apt.stderr) == (3, True)


def test_every_wheel_is_named_by_version_and_content() -> None:
    """No line of wheels.txt lets pip choose, and every dependency of the runtime is there."""
    lines = [line for line in (EMULATE / "wheels.txt").read_text().splitlines() if not line.startswith("#")]
    names = {line.partition("==")[0] for line in lines}
    assert all("==" in line and len(line.partition("--hash=sha256:")[2]) == 64 for line in lines)
    assert names >= {
        "onnxruntime", "numpy", "cryptography", "opencv-python-headless", "pyserial", "numba", "msgspec", "click",
        "rich", "tuf", "securesystemslib",
    }  # fmt: skip


@pytest.mark.slow
def test_a_protected_model_opens_and_sees_the_same_on_an_emulated_raspberry_pi() -> None:
    """Needs qemu, and a network or a folder that `prepare.py` made; the parts that simulate are left to `run.py`."""
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("qemu-aarch64-static is not installed: apt-get install qemu-user-static")
    prepared = call("prepare.py")
    if prepared.returncode == 3:
        pytest.skip(prepared.stderr.strip())
    assert "nothing to do" in call("prepare.py").stdout
    found = call("run.py", "--only", "model", "--limit-s", "1200")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Raspberry Pi 4: as on this machine" in found.stdout
