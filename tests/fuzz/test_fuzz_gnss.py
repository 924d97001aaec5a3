"""The GNSS decoder under mutated input."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def fuzzer() -> ModuleType:
    """Return the fuzzer module beside this file; the test folders are no packages."""
    spec = importlib.util.spec_from_file_location("fuzz_gnss", Path(__file__).with_name("fuzz_gnss.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_twenty_thousand_mutated_streams_raise_nothing() -> None:
    """And a fair share still decodes, so that the fields behind the checksums are reached."""
    assert fuzzer().fuzz(1, 20_000) > 500


@pytest.mark.slow
def test_a_million_mutated_streams_raise_nothing() -> None:
    """The long run."""
    assert fuzzer().fuzz(2, 1_000_000) > 25_000
