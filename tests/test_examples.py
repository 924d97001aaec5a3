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
