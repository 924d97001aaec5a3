"""Power cuts: at every write point, and at random; with a counter that must keep step."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("kill_driver.py")


@pytest.fixture
def folder(device, tmp_path) -> Path:
    """What the driver works on: key, the trust a device has, and the one it is given."""
    folder = tmp_path / "kills"
    folder.mkdir()
    shutil.copy(device.root / "cam-1.pem", folder / "key.pem")
    shutil.copytree(device.trust_folder, folder / "trust")
    device.revoke(floors={"m": (0, 7)}, bundles=frozenset({"ab" * 32}))
    shutil.copytree(device.fleet.trust_folder, folder / "next")
    return folder


def drive(*arguments: object) -> dict:
    result = subprocess.run(
        [sys.executable, str(DRIVER), *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_kill_at_any_write_point_leaves_the_old_state_or_the_new_one(folder):
    """List file, state file, counter, clean-up; before, half way through and after each step."""
    found = drive("points", folder)["found"]
    deaths = [f for f in found if f["died"] == 9]
    assert len(deaths) >= 3 * 7, "steps: two files of three operations each, the counter, and the old list's removal"
    for after in found:
        old = (after["list"], after["floor"], after["generation"]) == (1, 0, 1)
        new = (after["list"], after["floor"], after["generation"]) == (2, 7, 2)
        assert old or new, after
        assert after["counter"] == after["generation"], after
    assert {after["list"] for after in deaths} == {1, 2}
    assert [f["list"] for f in found if not f["died"]] == [2, 2, 2]


def test_a_writer_killed_at_random_moments_loses_nothing_it_acknowledged(folder):
    """SIGKILL from outside, forty times; generations only grow and match the counter."""
    result = drive("loop", folder, 40)
    assert result["killed"] == 40
    assert result["generations"][-1] > 40


@pytest.mark.slow
def test_a_writer_killed_five_hundred_times_loses_nothing(folder):
    """The same, longer."""
    assert drive("loop", folder, 500)["killed"] == 500
