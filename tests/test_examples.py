"""Every example runs and prints what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("protect_a_model.py", "refused:"),
        ("your_own_check.py", "U1.brightness-step"),
        ("your_own_sensor.py", "gnss"),
        ("live_rig.py", "gnss waiting to reconnect"),
    ],
)
def test_an_example_runs(name: str, said: str):
    """Examples are documentation; documentation that fails is worse than none."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_the_repository_of_a_user_passes_its_own_tests():
    """Scenarios, fixtures and a budget of false alarms, as a user's CI runs them."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "edgeguard.sim.pytest_plugin", "-p", "no:cacheprovider"],
        cwd=EXAMPLES / "own_repository",
        env={"PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout
    assert "0 false alarms in 48 s of clean driving" in done.stdout
