"""Serial protocols under mutated frames: a sample by default, a million each in the long run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("fuzz_serial_lines", Path(__file__).with_name("fuzz_serial_lines.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
fuzz = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fuzz)


@pytest.mark.parametrize("protocol", ["ld06", "rplidar", "link"])
def test_twenty_thousand_mutated_frames_raise_nothing_and_some_still_pass(protocol: str) -> None:
    """The part that runs every time."""
    assert fuzz.FUZZERS[protocol](1, 20_000) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["ld06", "rplidar", "link"])
def test_a_million_mutated_frames_raise_nothing(protocol: str) -> None:
    """The long run."""
    assert fuzz.FUZZERS[protocol](2, 1_000_000) > 50_000
